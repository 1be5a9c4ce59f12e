"""Resolve a mask: what the user passes → one multiplier for each parameter.

The entries of a mask are matched to the parameters by path: an entry holds for every
parameter at or below its path, and the two trees may consist of different containers.
An entry that is an array broadcasts against each of these parameters.
"""

import difflib
import functools
import numbers
import weakref
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import jax
import numpy as np
import optax

from decayax._core.parameters import has_boxes, unbox
from decayax._core.paths import (
    flatten_with_path,
    is_masked_leaf,
    leaves_with_path,
    Path,
    path_str,
    prefixes,
    summarize_paths,
)
from decayax._core.strength import (
    as_strengths,
    equal_values,
    is_concrete,
    is_known,
    Strength,
)


# One multiplier as a user writes it: True is 1, False is 0. An array broadcasts
# against the parameter: one multiplier per row, layer or head.
Multiplier: TypeAlias = bool | float | np.ndarray | jax.Array
Shape: TypeAlias = tuple[int, ...]
Structure: TypeAlias = tuple[tuple[Path, Shape], ...]  # of a tree of parameters
Multipliers: TypeAlias = dict[Path, Strength]  # checked, by path
# A pytree of multipliers: the parameter tree, or a prefix of it such as one number.
MaskTree: TypeAlias = Any
# It is called with the parameter tree, where each leaf is a jax.ShapeDtypeStruct.
MaskFn: TypeAlias = Callable[[Any], MaskTree]
# What every `mask=` takes; None gives every parameter the multiplier 1.
MaskOrFn: TypeAlias = MaskTree | MaskFn | None

MULTIPLIER_HINT = (
    "Write True, False or one number >= 0, or an array of them that broadcasts against "
    "the parameter."
)
MASK_FN_HINT = (
    "A mask function is called with the parameter tree, in which each leaf is a "
    "jax.ShapeDtypeStruct, not a jax.Array. It can decide by path, shape and dtype, "
    "but not by value. If the function makes masks, call it first: "
    "mask=masks.by_role()."
)
NODE_HINT = (
    "Decide once, from the model: "
    'mask=masks.by_node(lambda node: not getattr(node, "no_decay", False), params).'
)
# Decisions of mask functions that ask for types or metadata. They live as long as the
# function, which the transform holds.
_KEPT: weakref.WeakKeyDictionary[MaskFn, dict[Structure, Multipliers]]
_KEPT = weakref.WeakKeyDictionary()


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
        return _resolve_function(name, mask, params)
    entries = tree_multipliers(name, mask)
    _require_fit(name, entries, paths, masked)
    fitted = {}
    for path, leaf in flat:
        if path in masked:
            continue
        above = next(prefix for prefix in prefixes(path) if prefix in entries)
        where = f"the mask's multiplier at {path_str(above)}"
        fitted[path] = fit_to_leaf(name, where, entries[above], path, leaf)
    return fitted


def _resolve_function(name: str, mask: MaskFn, params: optax.Params) -> Multipliers:
    """Call a mask function with the shapes of the parameters.

    nnx.Optimizer passes Variables to init, but plain arrays to update. A function that
    asks for types or metadata is called with the Variables, and the decision is kept.
    """
    require_tree(name, params)
    if not has_boxes(params):
        kept = _KEPT.get(mask) if _is_hashable(mask) else None
        decided = kept.get(_structure(params)) if kept else None
        return _call(name, mask, params) if decided is None else decided
    boxed, plain = (_decisions(name, mask, tree) for tree in (params, unbox(params)))
    if isinstance(boxed, Exception):  # the function is only made for plain arrays
        if isinstance(plain, Exception):
            raise plain
        return plain
    if not isinstance(plain, Exception) and not _differing(boxed, plain):
        return plain
    _keep(name, mask, _structure(params), boxed)
    return boxed


def _call(name: str, mask: MaskFn, params: optax.Params) -> Multipliers:
    try:
        tree = mask(_shapes(params))
    except Exception as error:
        error.add_note(f"{name}: raised by the mask function. {MASK_FN_HINT}")
        raise
    return resolve_mask(name, tree, params)


def _decisions(
    name: str, mask: MaskFn, params: optax.Params
) -> Multipliers | Exception:
    try:
        return _call(name, mask, params)
    except Exception as error:
        return error


def _differing(a: Multipliers, b: Multipliers) -> list[Path]:
    """Where two decisions differ. Two tracers cannot be compared."""
    return [
        path
        for path, multiplier in a.items()
        if (is_known(multiplier) or is_known(b[path]))
        and not equal_values(multiplier, b[path])
    ]


def _keep(name: str, mask: MaskFn, structure: Structure, decided: Multipliers) -> None:
    """Keep a decision for the updates; raise if that is not possible."""
    reason = ""
    if not _is_hashable(mask):
        reason = "it has no hash or no weak references"
    elif not all(map(is_known, decided.values())):
        reason = "its multipliers are traced"
    else:
        kept = _KEPT.setdefault(mask, {}).setdefault(structure, decided)
        if differing := _differing(kept, decided):
            reason = f"it decided otherwise for {_listed(differing)} of another model"
    if reason:
        raise ValueError(
            f"{name}: the mask function asks for types or metadata, which "
            "nnx.Optimizer passes to init, but not to update. Its decision cannot be "
            f"kept, because {reason}. {NODE_HINT}"
        )


def _structure(params: optax.Params) -> Structure:
    return tuple((path, np.shape(leaf)) for path, leaf in leaves_with_path(params))


def _is_hashable(mask: MaskFn) -> bool:
    try:
        return hash(weakref.ref(mask)) is not None
    except TypeError:
        return False


def tree_multipliers(name: str, mask: MaskTree) -> Multipliers:
    """The checked multipliers of a mask tree, by the path of the entry."""
    return {
        path: as_multiplier(name, f"the mask's multiplier at {path_str(path)}", value)
        for path, value in leaves_with_path(mask)
        if not is_masked_leaf(value)
    }


def as_multiplier(name: str, argument: str, value: Any) -> Strength:
    """Check one multiplier: a bool, a number >= 0, or an array of them."""
    if isinstance(value, bool):
        return float(value)
    if isinstance(value, np.bool_ | np.ndarray | jax.Array) and value.dtype == bool:
        # In a traced program, astype would make a tracer of a concrete array.
        value = np.asarray(value) if is_concrete(value) else value
        value = value.astype(np.float32)
    return as_strengths(name, argument, value, MULTIPLIER_HINT)


def fit_to_leaf(
    name: str, argument: str, multiplier: Strength, path: Path, leaf: Any
) -> Strength:
    """A checked multiplier with as many axes as its parameter; one number as it is.

    Equal numbers of axes make products of multipliers and parameters correct under
    ``jax_numpy_rank_promotion="raise"``. The size does not change.
    """
    if not isinstance(multiplier, np.ndarray | jax.Array) or multiplier.shape == ():
        return multiplier
    shape, leaf_shape = multiplier.shape, np.shape(leaf)
    padded = (1,) * (len(leaf_shape) - len(shape)) + shape
    if not _broadcasts(padded, leaf_shape):
        raise ValueError(
            f"{name}: {argument} has shape {shape}, which does not broadcast to the "
            f"shape {leaf_shape} of {path_str(path)}. {_shape_hint(shape, leaf_shape)}"
        )
    return multiplier.reshape(padded)


def _broadcasts(shape: Shape, leaf_shape: Shape) -> bool:
    """Whether an array of as many axes broadcasts without enlarging the parameter."""
    return len(shape) == len(leaf_shape) and all(
        size in (1, leaf_size)
        for size, leaf_size in zip(shape, leaf_shape, strict=True)
    )


def _shape_hint(shape: Shape, leaf_shape: Shape) -> str:
    # Multipliers of rows or layers: NumPy aligns the last axes, they mean the first.
    appended = shape + (1,) * (len(leaf_shape) - len(shape))
    if _broadcasts(appended, leaf_shape):
        return f"For its first axes, write multiplier.reshape({appended})."
    return (
        "From the last axis on, each axis must have size 1 or that of the parameter. "
        "Reshape the multiplier, or give this parameter one of its own."
    )


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


def _shapes(params: optax.Params) -> Any:
    return jax.tree.map(_shape_only, params)


def _shape_only(leaf: Any) -> Any:
    if isinstance(leaf, numbers.Number):
        leaf = np.asarray(leaf)
    is_array = hasattr(leaf, "shape") and hasattr(leaf, "dtype")
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if is_array else leaf


def _listed(paths: Iterable[Path]) -> str:
    return summarize_paths(map(path_str, paths))


def _require_fit(
    name: str, entries: Multipliers, paths: list[Path], masked: set[Path]
) -> None:
    """Raise for an entry without a parameter and for a parameter without an entry."""
    known = {prefix for path in [*paths, *masked] for prefix in prefixes(path)}
    strays = [e for e in entries if e not in known and masked.isdisjoint(prefixes(e))]
    if strays:
        names = map(path_str, paths)
        near = difflib.get_close_matches(path_str(strays[0]), names, cutoff=0)
        hint = f"The nearest parameters are {', '.join(near)}."
        if strays[0][:-1] in paths:
            hint += " Write the multipliers of one parameter as an array, not a list."
        raise ValueError(
            f"{name}: the mask has an entry for {_listed(strays)}, where there is no "
            f"parameter. {hint}"
        )
    missing = [p for p in paths if entries.keys().isdisjoint(prefixes(p))]
    if missing:
        raise ValueError(
            f"{name}: the mask says nothing about {_listed(missing)}. Give each "
            "parameter True, False or a number >= 0."
        )
