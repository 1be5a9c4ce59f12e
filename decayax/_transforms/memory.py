"""The memory of a decay: for each parameter an anchor, an average, a norm or a dual.

A memory is a dict of trees like the params. Where the mask excludes a parameter, the
tree holds ``optax.MaskedNode``, so that an excluded parameter costs nothing. A copy
of a parameter has its dtype; everything else is float32 or wider.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax

from decayax._core.dtypes import cast_like, is_inexact, strip_weak_type, to_float32
from decayax._core.paths import (
    flatten_with_path,
    is_masked_leaf,
    leaves_with_path,
    Path,
)


# name -> (path, parameter at init in float32 or wider) -> what the state keeps of it.
# Copies of weights, which have the dtype of their parameter.
ANCHOR, INITIAL = "anchor", "initial"
AVERAGE = "average"
Remember: TypeAlias = Mapping[str, Callable[[Path, jax.Array], jax.Array]]


def remembered(
    remember: Remember, selected: set[Path], params: optax.Params
) -> dict[str, Any]:
    """The memory of the selected parameters at init: name -> tree."""
    flat, treedef = flatten_with_path(params)

    def first(key: str, path: Path, leaf: Any) -> Any:
        if is_masked_leaf(leaf):
            return leaf
        if path not in selected or not is_inexact(leaf):
            return optax.MaskedNode()
        value = strip_weak_type(remember[key](path, to_float32(_array(leaf))))
        return cast_like(value, leaf) if key in (ANCHOR, INITIAL) else value

    return {
        key: treedef.unflatten(first(key, path, leaf) for path, leaf in flat)
        for key in remember
    }


def _array(leaf: Any) -> jax.Array:
    """The parameter. NaN replaces the values of a shape: a checkpoint has them."""
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jnp.full_like(leaf, jnp.nan)
    return jnp.asarray(leaf)


def memory_by_path(memory: Mapping[str, Any]) -> dict[Path, dict[str, jax.Array]]:
    """What the state keeps of each parameter, by path."""
    found: dict[Path, dict[str, jax.Array]] = {}
    for key, tree in memory.items():
        for path, value in leaves_with_path(tree):
            if not is_masked_leaf(value):
                found.setdefault(path, {})[key] = value
    return found


def memory_trees(
    by_path: Mapping[Path, Mapping[str, jax.Array]], like: Mapping[str, Any]
) -> dict[str, Any]:
    """The inverse of `memory_by_path`, in trees like those of the state."""

    def rebuilt(key: str, tree: Any) -> Any:
        flat, treedef = flatten_with_path(tree)
        return treedef.unflatten(
            by_path[path][key] if path in by_path else leaf for path, leaf in flat
        )

    return {key: rebuilt(key, tree) for key, tree in like.items()}
