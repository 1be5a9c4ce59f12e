"""A tree in two: the leaves that can be differentiated, and the rest."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from decayax._core.dtypes import is_inexact


class Halves(NamedTuple):
    """The inexact leaves of a tree, and the others, in order."""

    live: list[Any]
    rest: list[Any]


def split(tree: Any) -> Halves:
    """Take a tree of arrays apart."""
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    return Halves(
        [leaf for leaf in leaves if is_inexact(leaf)],
        [leaf for leaf in leaves if not is_inexact(leaf)],
    )


def joined(like: Any, live: list[Any], rest: list[Any]) -> Any:
    """The tree that `split` took apart."""
    leaves, treedef = jax.tree.flatten(like)
    of_live, of_rest = iter(live), iter(rest)
    return treedef.unflatten(
        next(of_live if is_inexact(leaf) else of_rest) for leaf in leaves
    )
