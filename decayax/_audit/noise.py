"""Normal numbers for weights and gradients: drawn in a row, then cut into leaves."""

import functools
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp

from decayax._dtypes import compute_dtype, is_inexact
from decayax._tree import is_hole


@functools.partial(jax.jit, static_argnames="count")
def normal(key: jax.Array, steps: Any, count: int) -> jax.Array:
    """Normal numbers of each step, (steps, count).

    A program of its own: to compile the generator takes as long as an optimizer, and
    all optimizers of the same weights have it in common.
    """

    def of_one(step: Any) -> jax.Array:
        return jax.random.normal(jax.random.fold_in(key, step), (count,), jnp.float32)

    return jax.vmap(of_one)(steps)


def count(leaves: list[Any]) -> int:
    """How many normal numbers the leaves need."""
    return sum(_parts(leaf) * math.prod(leaf.shape) for leaf in leaves if _drawn(leaf))


def shaped(numbers: jax.Array, leaves: list[Any]) -> list[Any]:
    """Normal numbers like each inexact leaf, None for others, in float32 or wider."""
    sizes = [count([leaf]) for leaf in leaves]
    ends = itertools.accumulate(sizes)

    def cut(leaf: Any, size: int, end: int) -> Any:
        if not _drawn(leaf):
            return None
        part = numbers[end - size : end].reshape(_parts(leaf), *leaf.shape)
        whole = part[0] if _parts(leaf) == 1 else jax.lax.complex(part[0], part[1])
        return whole.astype(compute_dtype(leaf))

    return [cut(*each) for each in zip(leaves, sizes, ends, strict=True)]


def _drawn(leaf: Any) -> bool:
    return not is_hole(leaf) and is_inexact(leaf)


def _parts(leaf: Any) -> int:
    """Real numbers in one weight."""
    return 2 if jnp.issubdtype(leaf.dtype, jnp.complexfloating) else 1
