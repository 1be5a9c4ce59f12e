"""Normal numbers for weights and gradients: drawn in a row, then cut into leaves."""

import functools
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from decayax._core.dtypes import compute_dtype, is_inexact
from decayax._core.paths import is_masked_leaf


STEPS = 25  # drawn at once, and followed in one compiled call
AT_ONCE = 2**24  # numbers drawn at most: of many weights fewer steps


def normal(key: jax.Array, steps: np.ndarray, size: int) -> jax.Array:
    """Normal numbers of each step, (steps, size)."""
    return _drawn_by(key, steps.astype(np.uint32), size)


@functools.partial(jax.jit, static_argnames="size")
def _drawn_by(key: jax.Array, steps: Any, size: int) -> jax.Array:
    """A program of its own: the generator takes as long to compile as an optimizer.

    All optimizers of as many weights have it in common.
    """

    def of_one(step: Any) -> jax.Array:
        return jax.random.normal(jax.random.fold_in(key, step), (size,), jnp.float32)

    return jax.vmap(of_one)(steps)


def steps_at_once(size: int) -> int:
    """How many steps to draw and to follow in one call."""
    return max(1, min(STEPS, AT_ONCE // max(size, 1)))


def count(leaves: list[Any]) -> int:
    """How many normal numbers the leaves need."""
    return sum(_parts(leaf) * math.prod(leaf.shape) for leaf in leaves if _live(leaf))


def shaped(numbers: jax.Array, leaves: list[Any]) -> list[Any]:
    """Normal numbers like each inexact leaf, None for others, in float32 or wider."""
    sizes = [count([leaf]) for leaf in leaves]
    ends = itertools.accumulate(sizes)

    def cut(leaf: Any, size: int, end: int) -> Any:
        if not _live(leaf):
            return None
        part = numbers[end - size : end].reshape(_parts(leaf), *leaf.shape)
        whole = part[0] if _parts(leaf) == 1 else jax.lax.complex(part[0], part[1])
        return whole.astype(compute_dtype(leaf))

    return [cut(*each) for each in zip(leaves, sizes, ends, strict=True)]


def _live(leaf: Any) -> bool:
    return not is_masked_leaf(leaf) and is_inexact(leaf)


def _parts(leaf: Any) -> int:
    """Real numbers in one weight."""
    return 2 if jnp.issubdtype(leaf.dtype, jnp.complexfloating) else 1
