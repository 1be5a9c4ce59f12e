"""What decays: a mask read as one multiplier per parameter, decided by structure alone.

A mask says for every parameter how much of the strength it gets: True or False, or a
number ≥ 0. It is matched to the parameters by path, so an entry stands for everything
below it, and the two trees need not be made of the same containers.
"""

import difflib
import functools
import numbers
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
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
from decayax._core.strength import (
    as_strength,
    is_concrete,
    is_zero,
    short_repr,
    Strength,
)


MaskTree = Any  # a pytree (or prefix) of bools or numbers
MaskOrFn = MaskTree | Callable[[Any], MaskTree] | None
ONE_NUMBER = "Write True, False or one number >= 0."
SEEN = (
    "A mask function is called with the parameter tree, each leaf a "
    "jax.ShapeDtypeStruct and no jax.Array: it decides by path, shape and dtype, never "
    "by value. (If it makes masks, call it first: mask=masks.by_role().)"
)


def multipliers(name: str, mask: MaskOrFn, params: Any) -> dict[Path, Strength]:
    """The multiplier of every parameter, by path.

    Args:
        name: public name of the transform, for errors.
        mask: None (1 for all), a tree or prefix tree of bools or numbers, or a
            function of the parameters giving one. The function sees shapes and
            dtypes, never values: so it decides the same at init and at each update.
        params: the parameters, or anything of their structure.

    Returns:
        ``{path: multiplier}`` for the leaves of ``params`` that are not holes.

    Raises:
        TypeError: an entry is neither a bool nor a number.
        ValueError: an entry is negative or not finite, fits no parameter, or all
            are 0; a parameter has no entry; a function is handed a bare array.
    """
    found = read_mask(name, mask, params)
    masked_out = any(
        isinstance(x, optax.MaskedNode) for _, x in leaves_with_path(params)
    )
    if found and not masked_out and all(map(is_zero, found.values())):
        seen = f"{SEEN} " if is_function(mask) else ""
        raise ValueError(
            f"{name}: the mask matches no parameter: {summarize_paths(map(path_str, found))} all get "
            "the multiplier 0. Correct the mask; for no decay write weight_decay=0.0. "
            f"{seen}(Inside optax.inject_hyperparams a mask function needs "
            "static_args='mask', or it is called with the step.)"
        )
    return found


def read_mask(name: str, mask: MaskOrFn, params: Any) -> dict[Path, Strength]:
    """`multipliers` of a mask that may spare every parameter, as a part of another."""
    flat, _ = flatten_with_path(params)
    paths = [path for path, leaf in flat if not is_masked_leaf(leaf)]
    if mask is None or not paths:
        return dict.fromkeys(paths, 1.0)
    if is_function(mask):
        mask = _ask(name, mask, params)
    entries = {
        path: as_multiplier(name, path, value)
        for path, value in leaves_with_path(mask)
        if not is_masked_leaf(value)
    }
    _check_fit(
        name, entries, paths, holes={p for p, leaf in flat if is_masked_leaf(leaf)}
    )
    return {
        path: next(entries[p] for p in _prefixes(path) if p in entries)
        for path in paths
    }


def is_function(mask: Any) -> bool:
    """Whether the mask is a function; a callable module full of bools is a tree."""
    if isinstance(mask, functools.partial):
        return True
    return callable(mask) and all(callable(leaf) for leaf in jax.tree.leaves(mask))


def require_tree(name: str, params: Any) -> None:
    """Refuse one bare array in place of the tree that a mask function decides by."""
    if jax.tree_util.all_leaves([params]):
        raise ValueError(
            f"{name}: got one bare array without leaf paths. Inside "
            "optax.inject_hyperparams write static_args='mask'; inside optax.flatten "
            "a mask cannot work, move the decay out of it; for a single array give "
            "the mask as a number."
        )


def require_parameters(name: str, params: Any) -> None:
    """Refuse leaves that are no arrays, shapes or numbers, such as activations.

    Args:
        name: public name of the function whose second argument they are, for the error.
        params: what it was given as the tree of parameters.
    """
    for path, leaf in leaves_with_path(params):
        number = isinstance(leaf, int | float | complex)
        if not (number or hasattr(leaf, "shape") or is_masked_leaf(leaf)):
            raise TypeError(
                f"{name}: {path_str(path)} is no parameter, but {short_repr(leaf)}. The second "
                "argument is the tree of parameters; of an Equinox model write "
                "eqx.filter(model, eqx.is_array)."
            )


def _ask(name: str, mask: Callable[[Any], MaskTree], params: Any) -> MaskTree:
    require_tree(name, params)
    try:
        return mask(jax.tree.map(_shape_only, params))
    except Exception as error:
        error.add_note(f"{name}: raised by the mask function. {SEEN}")
        raise


def _shape_only(leaf: Any) -> Any:
    if isinstance(leaf, numbers.Number):
        leaf = np.asarray(leaf)
    if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
        return leaf
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def as_multiplier(name: str, where: Path | str, value: Any) -> Strength:
    """Check one multiplier: a bool, or a number >= 0.

    Args:
        name: public name of the function that takes it, for errors.
        where: the path that it stands at in a mask, or the name of the argument.
        value: what the user gave.
    """
    if isinstance(value, bool):
        value = float(value)
    elif getattr(value, "dtype", None) == np.bool_ and np.shape(value) == ():
        value = float(value) if is_concrete(value) else value.astype(jnp.float32)
    elif getattr(value, "dtype", None) == np.bool_:
        value = np.zeros(np.shape(value))  # refused below for its shape
    if not isinstance(where, str):
        where = f"the mask's multiplier at {path_str(where)}"
    return as_strength(name, where, value, ONE_NUMBER)


def _prefixes(path: Path) -> Iterator[Path]:
    """The path itself first, then each shorter one, down to the root ()."""
    return (path[:length] for length in range(len(path), -1, -1))


def _check_fit(
    name: str, entries: dict[Path, Strength], paths: list[Path], holes: set[Path]
) -> None:
    known = {prefix for path in [*paths, *holes] for prefix in _prefixes(path)}
    strays = [
        entry
        for entry in entries
        if entry not in known and not any(p in holes for p in _prefixes(entry))
    ]
    if strays:
        near = difflib.get_close_matches(
            path_str(strays[0]), map(path_str, paths), cutoff=0
        )
        raise ValueError(
            f"{name}: the mask has an entry for {summarize_paths(map(path_str, strays))}, where there "
            f"is no parameter. The nearest parameters are {', '.join(near)}."
        )
    missing = [p for p in paths if not any(above in entries for above in _prefixes(p))]
    if missing:
        raise ValueError(
            f"{name}: the mask says nothing about {summarize_paths(map(path_str, missing))}. Give "
            "each parameter True, False or a number >= 0."
        )
