"""Resolve a mask: what the user passes → one multiplier for each parameter.

The entries of a mask are matched to the parameters by path: an entry holds for every
parameter at or below its path, and the two trees may consist of different containers.
"""

import difflib
import functools
import numbers
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

import jax
import numpy as np
import optax

from decayax._core.paths import (
    flatten_with_path,
    is_masked_leaf,
    leaves_with_path,
    Path,
    path_str,
    summarize_paths,
)
from decayax._core.strength import as_strength, is_zero, short_repr, Strength


# One multiplier as a user writes it: True is 1, False is 0.
Multiplier: TypeAlias = bool | float | jax.Array
Multipliers: TypeAlias = dict[Path, Strength]  # checked, by path
# A pytree of multipliers: the parameter tree, or a prefix of it such as one number.
MaskTree: TypeAlias = Any
# It is called with the parameter tree, where each leaf is a jax.ShapeDtypeStruct.
MaskFn: TypeAlias = Callable[[Any], MaskTree]
# What every `mask=` takes; None gives every parameter the multiplier 1.
MaskOrFn: TypeAlias = MaskTree | MaskFn | None

MULTIPLIER_HINT = "Write True, False or one number >= 0."
MASK_FN_HINT = (
    "A mask function is called with the parameter tree, in which each leaf is a "
    "jax.ShapeDtypeStruct, not a jax.Array. It can decide by path, shape and dtype, "
    "but not by value. If the function makes masks, call it first: "
    "mask=masks.by_role()."
)


def resolve_nonzero_mask(
    name: str, mask: MaskOrFn, params: optax.Params
) -> Multipliers:
    """`resolve_mask`, but raise a ValueError if the mask excludes every parameter."""
    multipliers = resolve_mask(name, mask, params)
    # A group of optax.partition may hold no parameter that decays.
    is_group = any(isinstance(x, optax.MaskedNode) for _, x in leaves_with_path(params))
    if multipliers and not is_group and all(map(is_zero, multipliers.values())):
        hint = f"{MASK_FN_HINT} " if is_mask_fn(mask) else ""
        raise ValueError(
            f"{name}: the mask matches no parameter: {_listed(multipliers)} all get "
            "the multiplier 0. Correct the mask. For no decay, pass weight_decay=0.0. "
            f"{hint}(Inside optax.inject_hyperparams, a mask function needs "
            "static_args='mask'; without it, the function is called with the step.)"
        )
    return multipliers


def resolve_mask(name: str, mask: MaskOrFn, params: optax.Params) -> Multipliers:
    """The multiplier of every parameter, by path. None and MaskedNode are skipped.

    A mask function sees shapes and dtypes, but no values, so that it decides the same
    at init and at each update. ``name`` is the public name of the caller, for errors.
    """
    flat, _ = flatten_with_path(params)
    masked = {path for path, leaf in flat if is_masked_leaf(leaf)}
    paths = [path for path, _ in flat if path not in masked]
    if mask is None or not paths:
        return dict.fromkeys(paths, 1.0)
    if is_mask_fn(mask):
        require_tree(name, params)
        try:
            mask = mask(jax.tree.map(_shape_only, params))
        except Exception as error:
            error.add_note(f"{name}: raised by the mask function. {MASK_FN_HINT}")
            raise
    entries = tree_multipliers(name, mask)
    _require_fit(name, entries, paths, masked)
    return {
        path: next(entries[above] for above in _prefixes(path) if above in entries)
        for path in paths
    }


def tree_multipliers(name: str, mask: MaskTree) -> Multipliers:
    """The checked multipliers of a mask tree, by the path of the entry."""
    return {
        path: as_multiplier(name, f"the mask's multiplier at {path_str(path)}", value)
        for path, value in leaves_with_path(mask)
        if not is_masked_leaf(value)
    }


def as_multiplier(name: str, argument: str, value: Any) -> Strength:
    """Check one multiplier: a bool, or a number >= 0."""
    if isinstance(value, bool):
        value = float(value)
    elif isinstance(value, np.bool_ | np.ndarray | jax.Array) and value.dtype == bool:
        value = value.astype(np.float32)
    return as_strength(name, argument, value, MULTIPLIER_HINT)


def is_mask_fn(mask: Any) -> bool:
    """Whether the mask is a function, not a tree. An Equinox module can be callable."""
    # jax.tree_util.Partial is a pytree: its leaves are its arguments.
    if isinstance(mask, functools.partial):
        return True
    return callable(mask) and all(callable(leaf) for leaf in jax.tree.leaves(mask))


def require_tree(name: str, params: optax.Params) -> None:
    """Raise for one bare array: a mask function needs the paths of a tree."""
    if jax.tree_util.all_leaves([params]):
        raise ValueError(
            f"{name}: got one bare array without leaf paths. Inside "
            "optax.inject_hyperparams, pass static_args='mask'. Inside optax.flatten "
            "a mask cannot work; move the decay out of it. For a single array, pass "
            "the mask as a number."
        )


def require_parameters(name: str, params: optax.Params) -> None:
    """Raise for leaves that are not arrays, shapes or numbers, such as activations."""
    for path, leaf in leaves_with_path(params):
        is_number = isinstance(leaf, int | float | complex)
        if not (is_number or hasattr(leaf, "shape") or is_masked_leaf(leaf)):
            raise TypeError(
                f"{name}: {path_str(path)} is not a parameter, but {short_repr(leaf)}. "
                "The second argument is the tree of parameters. For an Equinox model, "
                "pass eqx.filter(model, eqx.is_array)."
            )


def _shape_only(leaf: Any) -> Any:
    if isinstance(leaf, numbers.Number):
        leaf = np.asarray(leaf)
    is_array = hasattr(leaf, "shape") and hasattr(leaf, "dtype")
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if is_array else leaf


def _prefixes(path: Path) -> Iterator[Path]:
    """The path itself first, then each shorter one, down to the root ()."""
    return (path[:length] for length in range(len(path), -1, -1))


def _listed(paths: Iterable[Path]) -> str:
    return summarize_paths(map(path_str, paths))


def _require_fit(
    name: str, entries: Multipliers, paths: list[Path], masked: set[Path]
) -> None:
    """Raise for an entry without a parameter and for a parameter without an entry."""
    known = {prefix for path in [*paths, *masked] for prefix in _prefixes(path)}
    strays = [e for e in entries if e not in known and masked.isdisjoint(_prefixes(e))]
    if strays:
        names = map(path_str, paths)
        near = difflib.get_close_matches(path_str(strays[0]), names, cutoff=0)
        raise ValueError(
            f"{name}: the mask has an entry for {_listed(strays)}, where there is no "
            f"parameter. The nearest parameters are {', '.join(near)}."
        )
    missing = [p for p in paths if entries.keys().isdisjoint(_prefixes(p))]
    if missing:
        raise ValueError(
            f"{name}: the mask says nothing about {_listed(missing)}. Give each "
            "parameter True, False or a number >= 0."
        )
