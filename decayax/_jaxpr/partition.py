"""Partition a pytree into inexact leaves, which have derivatives, and static ones."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from decayax._core.dtypes import is_inexact


class Partition(NamedTuple):
    """The leaves of a pytree in two lists, each in the order of the tree."""

    inexact: list[jax.Array]  # real and complex floats: JAX can differentiate them
    static: list[jax.Array]  # integers, booleans, random keys


def partition(tree: Any) -> Partition:
    """Split the leaves of a pytree of arrays into inexact and static ones."""
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    return Partition(
        inexact=[leaf for leaf in leaves if is_inexact(leaf)],
        static=[leaf for leaf in leaves if not is_inexact(leaf)],
    )


def combine(like: Any, inexact: list[Any], static: list[Any]) -> Any:
    """Undo `partition`: put the leaves back into the structure of `like`."""
    leaves, treedef = jax.tree.flatten(like)
    next_inexact, next_static = iter(inexact), iter(static)
    return treedef.unflatten(
        next(next_inexact if is_inexact(leaf) else next_static) for leaf in leaves
    )
