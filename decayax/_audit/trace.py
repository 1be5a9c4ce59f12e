r"""What a run shows of each leaf, after each step.

The change of the initial weights is found by regression on them:

    retention_t − 1 = ⟨dθ₀, dθ_t − dθ₀⟩/‖dθ₀‖²
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact


TRACED_PER_LEAF = 256  # weights of each leaf whose rates are measured one by one
AnyArray: TypeAlias = jax.Array | np.ndarray


class Trace(NamedTuple):
    """What happened to one leaf, after each of T steps.

    The compiled program has one Trace of all leaves: (L,) numbers, or the weights of
    all leaves in a row. Many small results would take long to compile and to fetch.
    """

    change: AnyArray  # (T,) retention − 1, by regression on the initial weights
    relative_step: AnyArray  # (T,) ‖dΔ_t‖/‖dθ_t‖
    per_weight: AnyArray  # (T, n) retention − 1 of n single weights
    magnitude: Any = None  # (T,) ‖θ_t‖/‖dθ_0‖; of the difference only
    weights: Any = None  # (T, n) the n weights themselves; of the difference only


def trace_of_step(
    *,
    initial: list[jax.Array],
    change: list[jax.Array],
    step: list[jax.Array],
    before: list[jax.Array],
) -> Trace:
    """The trace of all leaves in one step.

    Args:
        initial: dθ₀ of each leaf.
        change: dθ_t − dθ₀ after the step.
        step: dΔ_t.
        before: dθ_t before the step.
    """
    first, last = first_weights(initial), first_weights(change)
    along = _per_leaf(_real_dot, initial, change)
    return Trace(
        change=along / _per_leaf(_real_dot, initial, initial),
        relative_step=norm_ratio(step, before),
        per_weight=_real_product(first, last) / _real_product(first, first),
    )


def norm_ratio(
    above: list[jax.Array], below: list[jax.Array]
) -> Float[Array, " leaves"]:
    """The ratio of the norms of each leaf."""
    above_sq = _per_leaf(_real_dot, above, above)
    return jnp.sqrt(above_sq / _per_leaf(_real_dot, below, below))


def _per_leaf(
    f: Callable[..., jax.Array], *lists: list[jax.Array]
) -> Float[Array, " leaves"]:
    """One number for each leaf."""
    numbers = [f(*leaves) for leaves in zip(*lists, strict=True)]
    return jnp.stack(numbers) if numbers else jnp.zeros(0)


def first_weights(leaves: list[jax.Array]) -> Inexact[Array, " n"]:
    """The first weights of every leaf, concatenated."""
    first = [leaf.reshape(-1)[:TRACED_PER_LEAF] for leaf in leaves]
    return jnp.concatenate(first) if first else jnp.zeros(0)


def _real_product(
    a: Inexact[Array, "*shape"], b: Inexact[Array, "*shape"]
) -> Float[Array, "*shape"]:
    return (a.conj() * b).real


def _real_dot(
    a: Inexact[Array, "*shape"], b: Inexact[Array, "*shape"]
) -> Float[Array, ""]:
    return jnp.sum(_real_product(a, b))
