r"""What a run shows of each leaf, after each step.

The change of the initial weights is found by regression on them:

    retention_t − 1 = ⟨dθ₀, dθ_t − dθ₀⟩/‖dθ₀‖²
"""

from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact


TRACED_PER_LEAF = 256  # weights of each leaf whose rates are measured one by one
AnyArray: TypeAlias = jax.Array | np.ndarray
Leaves: TypeAlias = list[jax.Array]


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
    *, initial: Leaves, change: Leaves, step: Leaves, before: Leaves
) -> Trace:
    """The trace of all leaves from dθ₀, dθ_t − dθ₀, dΔ_t and dθ_t before the step."""
    first, last = first_weights(initial), first_weights(change)
    return Trace(
        change=_dots(initial, change) / _dots(initial, initial),
        relative_step=norm_ratio(step, before),
        per_weight=_real_product(first, last) / _real_product(first, first),
    )


def norm_ratio(above: Leaves, below: Leaves) -> Float[Array, " leaves"]:
    """The ratio of the norms of each leaf."""
    return jnp.sqrt(_dots(above, above) / _dots(below, below))


def first_weights(leaves: Leaves) -> Inexact[Array, " n"]:
    """The first weights of every leaf, concatenated."""
    first = [leaf.reshape(-1)[:TRACED_PER_LEAF] for leaf in leaves]
    return jnp.concatenate(first) if first else jnp.zeros(0)


def _dots(a: Leaves, b: Leaves) -> Float[Array, " leaves"]:
    """The real part of ⟨a, b⟩ for each leaf."""
    dots = [jnp.sum(_real_product(x, y)) for x, y in zip(a, b, strict=True)]
    return jnp.stack(dots) if dots else jnp.zeros(0)


def _real_product(a: jax.Array, b: jax.Array) -> jax.Array:
    return (a.conj() * b).real
