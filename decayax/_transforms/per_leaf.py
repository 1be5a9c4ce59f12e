"""Arguments with one value for each parameter: the axes of a norm, an anchor, a radius.

As in a mask, an entry of the tree holds for every parameter at or below its path, and
the containers may differ from those of the parameters.
"""

import difflib
import numbers
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from decayax._core.dtypes import dtype_of
from decayax._core.paths import (
    flatten_with_path,
    is_masked_leaf,
    leaves_with_path,
    Path,
    path_str,
    prefixes,
)
from decayax._core.strength import as_strengths, is_concrete, is_known, short_repr
from decayax._core.symmetry import (
    by_parameter,
    INVARIANT,
    require_paths,
    Slices,
    Symmetries,
)
from decayax._transforms.geometry import Axes


AxisTree: TypeAlias = Any  # None, an int, a tuple of ints, a tree of them, symmetries
ValueTree: TypeAlias = Any  # a number, an array, a tree of them
Shape: TypeAlias = tuple[int, ...]
ShapeOf: TypeAlias = Callable[[Path, Any], Shape]  # (path, parameter) -> shape of norms

AXIS_HINT = (
    "Pass None (the whole parameter), an int or a tuple of ints, or a tree of them. "
    "Negative axes, such as (-2, -1), also fit stacks of layers. Inside "
    "optax.inject_hyperparams, write static_args=('axis',)."
)


def entry(name: str, argument: str, entries: dict[Path, Any], path: Path) -> Any:
    """The entry of a parameter: its own, or that of the nearest node above it."""
    for prefix in prefixes(path):
        if prefix in entries:
            return entries[prefix]
    near = difflib.get_close_matches(
        path_str(path), map(path_str, entries), n=3, cutoff=0
    )
    raise ValueError(
        f"{name}: {argument} has no entry for {path_str(path)}; the nearest are "
        f"{', '.join(near)}. Add an entry, or exclude the parameter with mask=."
    )


# --- axes -------------------------------------------------------------------------


def axes_of(name: str, axis: AxisTree) -> Callable[[Path, Any], Axes]:
    """The function (path, parameter) -> the axes of its norm; None: all."""
    if isinstance(axis, Symmetries):
        known = by_parameter(axis)
        return lambda path, x: _invariant_axes(name, known, path, np.ndim(x))
    flat, _ = flatten_with_path(axis, is_leaf=_is_axis)
    entries = dict(flat)
    for path, value in flat:
        if not _is_axis(value):
            raise TypeError(
                f"{name}: axis must be None, an int or a tuple of ints, got "
                f"{short_repr(value)} at {path_str(path)}. {AXIS_HINT}"
            )

    def at(path: Path, x: Any) -> Axes:
        return _nonnegative(name, entry(name, "axis", entries, path), path, np.ndim(x))

    return at


def _is_axis(value: Any) -> bool:
    # A list is a tree with one entry for each layer.
    if isinstance(value, tuple) and value:
        return all(map(_is_int, value))
    return value is None or _is_int(value)


def _is_int(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _nonnegative(name: str, axis: Any, path: Path, ndim: int) -> Axes:
    """The axes counted from the first one; raise if the parameter lacks one."""
    if axis is None:
        return None
    given = axis if isinstance(axis, tuple) else (axis,)
    if not all(-ndim <= a < ndim for a in given):
        raise ValueError(
            f"{name}: axis is {axis}, but the number of axes of {path_str(path)} is "
            f"{ndim}. Exclude it with mask=, or pass a tree of axes."
        )
    axes = tuple(sorted({int(a) % ndim for a in given}))
    if len(axes) < len(given):
        raise ValueError(
            f"{name}: axis {axis} names an axis of {path_str(path)} twice."
        )
    return axes


def _invariant_axes(name: str, known: dict[str, Slices], path: Path, ndim: int) -> Axes:
    """The axes of the norms whose size the model does not see.

    Each layer of a stack has its own norm, and so has each slice that is invariant on
    its own: each filter before a BatchNorm.
    """
    require_paths(name, known, [path_str(path)])
    slices = known[path_str(path)]
    own = set.intersection(
        *(set(x.axes) if x.kind == INVARIANT else set() for x in slices)
    )
    own |= {x.slice[0] for x in slices if x.slice}
    return tuple(a for a in range(ndim) if a not in own)


# --- values -----------------------------------------------------------------------


def values_of(
    name: str, argument: str, tree: ValueTree
) -> Callable[[Path, Any], jax.Array]:
    """The function (path, parameter) -> its value, which broadcasts against it.

    None and MaskedNode count as 0. The result has the dtype of the parameter.
    """
    entries = dict(leaves_with_path(tree))
    for path, value in entries.items():
        if not is_masked_leaf(value):
            require_numbers(f"{name}: {argument} must be", path, value)

    def at(path: Path, x: Any) -> jax.Array:
        value = entry(name, argument, entries, path)
        value = 0.0 if is_masked_leaf(value) else value
        if jnp.iscomplexobj(value) and not jnp.iscomplexobj(x):
            raise TypeError(
                f"{name}: {argument} of {path_str(path)} is complex, its parameter is "
                "real. Pass real numbers."
            )
        _require_broadcast(name, argument, value, path, np.shape(x))
        padded = (1,) * (np.ndim(x) - np.ndim(value)) + np.shape(value)
        return jnp.asarray(value, dtype_of(x)).reshape(padded)

    return at


def sizes_of(
    name: str, argument: str, tree: ValueTree, shape_of: ShapeOf, least: str = ">="
) -> Callable[[Path, Any], jax.Array]:
    """`values_of` norms: one number for each norm, >= 0 or > 0, of real dtype.

    ``shape_of(path, parameter)`` is the shape of its norms.
    """
    for path, value in leaves_with_path(tree):
        where = argument + (f" at {path_str(path)}" if path else "")
        hint = "Pass a number > 0, or a tree of numbers or arrays."
        known = as_strengths(name, where, value, hint)
        if least == ">" and is_known(known) and not np.all(known):
            raise ValueError(f"{name}: {where} must be > 0, got 0. {hint}")
    at = values_of(name, argument, tree)

    def size(path: Path, x: Any) -> jax.Array:
        value = jnp.real(at(path, x))
        shape = shape_of(path, x)
        if np.broadcast_shapes(value.shape, shape) != shape:
            raise ValueError(
                f"{name}: {argument} of {path_str(path)} has shape {value.shape}, but "
                f"its norms have shape {shape}. Pass one number for each norm, or the "
                "axes of the norms with axis=."
            )
        return value

    return size


def sizes_or_word(
    name: str,
    argument: str,
    value: ValueTree | str,
    words: tuple[str, ...],
    shape_of: ShapeOf,
) -> Callable[[Path, Any], jax.Array] | None:
    """`sizes_of` the value, > 0; None if it is one of the words."""
    if not isinstance(value, str):
        return sizes_of(name, argument, value, shape_of, least=">")
    if value not in words:
        allowed = " or ".join(f'"{word}"' for word in words)
        raise ValueError(
            f"{name}: {argument} must be {allowed}, a number or a tree of them, got "
            f'"{value}".'
        )
    return None


def norm_shape(axes: Callable[[Path, Any], Axes], path: Path, x: Any) -> Shape:
    """The shape of the norms of a parameter over its axes, which are kept."""
    over = axes(path, x)
    reduced = range(np.ndim(x)) if over is None else over
    return tuple(1 if n in reduced else size for n, size in enumerate(np.shape(x)))


def require_flag(name: str, argument: str, value: Any) -> None:
    """Raise unless the value is True or False: a word would count as True."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(
            f"{name}: {argument} must be True or False, got {short_repr(value)}."
        )


def require_numbers(must: str, path: Path, value: Any) -> None:
    """Raise unless the value is a number or an array of numbers, and finite."""
    is_array = isinstance(value, np.ndarray | jax.Array)
    if not (is_array or isinstance(value, numbers.Number)) or isinstance(value, bool):
        raise TypeError(
            f"{must} a number or an array, got {short_repr(value)} at "
            f"{path_str(path)}. Pass a tree of arrays like the parameters."
        )
    if is_concrete(value) and not np.isfinite(np.asarray(value)).all():
        raise ValueError(
            f"{must} finite, got NaN or infinity at {path_str(path)}. Check where the "
            "array comes from."
        )


def _require_broadcast(
    name: str, argument: str, value: Any, path: Path, shape: tuple[int, ...]
) -> None:
    try:
        fits = np.broadcast_shapes(np.shape(value), shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"{name}: {argument} of {path_str(path)} has shape {np.shape(value)}, its "
            f"parameter {shape}. Pass an array of the same shape, or a number."
        )
