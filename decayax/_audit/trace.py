r"""What a run shows of each leaf, after each step.

The change of the initial weights is found by regression on them:

    retention_t − 1 = ⟨dθ₀, dθ_t − dθ₀⟩/‖dθ₀‖²
"""

import math
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
    The last three are of the difference only.
    """

    change: AnyArray  # (T,) retention − 1, by regression on the initial weights
    change_norm: AnyArray  # (T,) ‖dθ_t − dθ_0‖/‖dθ_0‖
    relative_step: AnyArray  # (T,) ‖dΔ_t‖/‖dθ_t‖
    per_weight: AnyArray  # (T, n) retention − 1 of n single weights
    value: Any = None  # (T,) ⟨θ_0, θ_t⟩/‖θ_0‖²
    size: Any = None  # (T,) ‖θ_t‖/‖θ_0‖
    step_size: Any = None  # (T,) ‖Δ_t‖/‖θ_0‖
    weights: Any = None  # (T, n) the n weights themselves


def trace_of_step(
    *, initial: Leaves, change: Leaves, step: Leaves, before: Leaves
) -> Trace:
    """The trace of all leaves from dθ₀, dθ_t − dθ₀, dΔ_t and dθ_t before the step."""
    first, last = sample(initial), sample(change)
    return Trace(
        change=dots(initial, change) / dots(initial, initial),
        change_norm=norm_ratio(change, initial),
        relative_step=norm_ratio(step, before),
        per_weight=_real_product(first, last) / _real_product(first, first),
    )


def norm_ratio(above: Leaves, below: Leaves) -> Float[Array, " leaves"]:
    """The ratio of the norms of each leaf."""
    return jnp.sqrt(dots(above, above) / dots(below, below))


def dots(a: Leaves, b: Leaves) -> Float[Array, " leaves"]:
    """The real part of ⟨a, b⟩ for each leaf."""
    products = [jnp.sum(_real_product(x, y)) for x, y in zip(a, b, strict=True)]
    return jnp.stack(products) if products else jnp.zeros(0)


def sample(leaves: Leaves) -> Inexact[Array, " n"]:
    """A few weights of every leaf, concatenated."""
    few = [leaf.reshape(-1)[:: sample_stride(leaf.shape)] for leaf in leaves]
    return jnp.concatenate(few) if few else jnp.zeros(0)


def sample_size(shape: tuple[int, ...]) -> int:
    """How many weights of a leaf are in the `sample`."""
    return -(-math.prod(shape) // sample_stride(shape))


def sample_stride(shape: tuple[int, ...]) -> int:
    """The distance of the sampled weights, without a common divisor with any axis.

    So the sample has weights of many rows and of many columns.
    """
    stride = max(1, -(-math.prod(shape) // TRACED_PER_LEAF))
    while any(math.gcd(stride, axis) > 1 for axis in shape):
        stride += 1
    return stride


def _real_product(a: jax.Array, b: jax.Array) -> jax.Array:
    return (a.conj() * b).real
