"""Normal numbers for weights and gradients: drawn as one vector, then cut into leaves.

They are drawn in a compiled program of their own, because the generator takes as long
to compile as an optimizer. All optimizers of the same number of weights share it.
"""

import functools
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from decayax._core.dtypes import compute_dtype, is_inexact
from decayax._core.paths import is_masked_leaf


# Steps that are drawn, and then run, in one compiled call.
STEPS_PER_CALL = 25
# Numbers that are drawn in one call at most, 64 MiB of float32. Larger models get fewer
# steps per call.
MAX_NUMBERS_PER_CALL = 2**24


def normal(key: jax.Array, steps: np.ndarray, size: int) -> jax.Array:
    """Normal numbers for each step index, float32 (steps, size)."""
    return _normal(key, steps.astype(np.uint32), size)


@functools.partial(jax.jit, static_argnames="size")
def _normal(key: jax.Array, steps: Any, size: int) -> jax.Array:
    def normal_of_step(step: jax.Array) -> jax.Array:
        return jax.random.normal(jax.random.fold_in(key, step), (size,), jnp.float32)

    return jax.vmap(normal_of_step)(steps)


def steps_per_call(size: int) -> int:
    """How many steps to draw and to run in one call, for ``size`` numbers a step."""
    return max(1, min(STEPS_PER_CALL, MAX_NUMBERS_PER_CALL // max(size, 1)))


def count_numbers(leaves: list[Any]) -> int:
    """How many real numbers the inexact leaves need."""
    return sum(
        _reals_per_weight(leaf) * math.prod(leaf.shape)
        for leaf in leaves
        if _is_drawn(leaf)
    )


def cut_into_leaves(numbers: jax.Array, leaves: list[Any]) -> list[Any]:
    """Cut a vector of `count_numbers(leaves)` numbers into arrays like the leaves.

    Args:
        numbers: (n,) in float32.
        leaves: arrays, shapes or masked leaves.

    Returns:
        For each inexact leaf an array of its shape, in float32 or wider; None for any
        other leaf.
    """
    sizes = [count_numbers([leaf]) for leaf in leaves]
    ends = itertools.accumulate(sizes)

    def cut(leaf: Any, size: int, end: int) -> jax.Array | None:
        if not _is_drawn(leaf):
            return None
        parts = numbers[end - size : end].reshape(_reals_per_weight(leaf), *leaf.shape)
        array = parts[0] if len(parts) == 1 else jax.lax.complex(parts[0], parts[1])
        return array.astype(compute_dtype(leaf))

    return [cut(*args) for args in zip(leaves, sizes, ends, strict=True)]


def _is_drawn(leaf: Any) -> bool:
    return not is_masked_leaf(leaf) and is_inexact(leaf)


def _reals_per_weight(leaf: Any) -> int:
    return 2 if jnp.issubdtype(leaf.dtype, jnp.complexfloating) else 1
