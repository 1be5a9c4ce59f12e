"""Normal numbers for weights and gradients: drawn as one vector, then cut into leaves.

They are drawn in a compiled program of their own, because the generator takes as long
to compile as an optimizer. All optimizers of the same number of weights share it.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from decayax._core.dtypes import compute_dtype, is_inexact


# Steps that are drawn, and then run, in one compiled call.
STEPS_PER_CALL = 25
# Numbers that are drawn in one call at most, 64 MiB of float32. Larger models get fewer
# steps per call.
MAX_NUMBERS_PER_CALL = 2**24


@functools.partial(jax.jit, static_argnames="size")
def normal(key: jax.Array, steps: Any, size: int) -> jax.Array:
    """Normal numbers for each step index (uint32), float32 (steps, size)."""

    def normal_of_step(step: jax.Array) -> jax.Array:
        return jax.random.normal(jax.random.fold_in(key, step), (size,), jnp.float32)

    return jax.vmap(normal_of_step)(steps)


def steps_per_call(size: int) -> int:
    """How many steps to draw and to run in one call, for ``size`` numbers a step."""
    return max(1, min(STEPS_PER_CALL, MAX_NUMBERS_PER_CALL // max(size, 1)))


def count_numbers(tree: Any) -> int:
    """How many real numbers the inexact leaves need."""
    return sum(map(_count_reals, jax.tree.leaves(tree)))


def scaled_tree(numbers: jax.Array, like: Any, scales: Sequence[Any]) -> Any:
    """Cut a vector of `count_numbers` numbers into a tree; multiply leaves by scales.

    There is one scale for each inexact leaf, in order: a number, or an array of the
    leaf's shape. Leaves that are not inexact are 0.
    """
    remaining = iter(scales)
    leaves, treedef = jax.tree.flatten(like)
    ends = itertools.accumulate(map(_count_reals, leaves))

    def scaled(leaf: Any, end: int) -> jax.Array:
        if not is_inexact(leaf):
            return jnp.zeros(leaf.shape, leaf.dtype)
        array = numbers[end - _count_reals(leaf) : end]
        if _is_complex(leaf):
            array = jax.lax.complex(*jnp.split(array, 2))
        array = array.reshape(leaf.shape).astype(compute_dtype(leaf))
        return (next(remaining) * array).astype(leaf.dtype)

    return treedef.unflatten(map(scaled, leaves, ends))


def _count_reals(leaf: Any) -> int:
    per_weight = 2 if _is_complex(leaf) else 1
    return per_weight * math.prod(leaf.shape) if is_inexact(leaf) else 0


def _is_complex(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.complexfloating)
