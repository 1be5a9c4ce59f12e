"""Rescale parameters along joint symmetries until their norms are balanced."""

from __future__ import annotations

import difflib
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from decayax._core.dtypes import (
    as_dtype,
    cast_like,
    compute_dtype,
    dtype_of,
    is_inexact,
)
from decayax._core.paths import (
    flatten_with_path,
    is_masked_leaf,
    path_str,
    summarize_paths,
)
from decayax._core.strength import is_concrete, require_real, short_repr
from decayax._core.symmetry import Symmetries


NAME = "balance"
HINT = 'Pass {"a/kernel": 1, "b/kernel": -1}, or the groups of dx.scale_symmetries.'
Group: TypeAlias = Mapping[str, float]
# Exponents (*grid, groups) of a parameter. An axis of the grid has the size of the
# parameter's axis if a group names a slice along it, else size 1.
Grid: TypeAlias = Float[np.ndarray, "*grid groups"]
Rows: TypeAlias = Float[np.ndarray, "rows groups"]
# "blocks/kernel[2]" is blocks/kernel[2, ...]; "qkv[:,1]" is qkv[:, 1, ...].
SLICE = re.compile(r"(?P<parameter>.+)\[(?P<skipped>(?::,)*)(?P<index>\d+)\]").fullmatch
MAX_STEPS = 500  # of Newton's method; it takes a few dozen at most
STEP_TOLERANCE = 1e-14  # of the logarithms of the squares
# Without a minimum, a square falls by a factor e in each step. With one, and with equal
# squares at the start, none falls to exp(-30): the exponents are small integers.
VANISHED = -30.0


class Entry(NamedTuple):
    """A parameter or a slice of it, as a group names it."""

    parameter: str
    axis: int | None = None  # of the slice; None: the whole parameter
    index: int = 0


def balance(params: optax.Params, group: Group | Sequence[Group]) -> Any:
    r"""Rescale parameters along joint symmetries to the smallest sum of squares.

    .. math::
        \theta_l \leftarrow e^{t a_l} \theta_l \quad \text{with } t \text{ such that}
        \quad \sum_l a_l \|\theta_l\|^2 = 0

    If the model has the symmetry with the exponents a, its function does not change.
    Of all rescaled parameters, these have the smallest :math:`\sum_l \|\theta_l\|^2`.
    For two parameters with the exponents 1 and -1, both norms are equal then. Weight
    decay drives the parameters to this point: in a gradient flow with the decay rate r,
    :math:`\sum_l a_l \|\theta_l\|^2` shrinks at the rate 2r.

    Args:
        params: the parameters, in any tree. Call it outside of ``jit``: the norms must
            be known.
        group: path -> exponent. A path may name a slice of a stack:
            ``"blocks/kernel[2]"`` is ``kernel[2, ...]``, ``"qkv[:,1]"`` is
            ``qkv[:, 1, ...]``. A sequence of groups is balanced jointly. The result of
            ``scale_symmetries`` means its groups that have exponents of both signs;
            without such a group, the parameters stay as they are.

    Returns:
        The rescaled parameters: the same tree, dtypes and shardings.

    Raises:
        ValueError: no balance exists, as a group, or a combination of groups, has
            exponents of one sign only: the sum of squares then falls towards 0.

    Example:
        >>> import decayax as dx, jax.numpy as jnp
        >>> params = {"a": jnp.full(4, 8.0), "b": jnp.full(4, 2.0)}
        >>> dx.balance(params, {"a": 1, "b": -1})
        {'a': Array([4., 4., 4., 4.], dtype=float32),
         'b': Array([4., 4., 4., 4.], dtype=float32)}

    Reference:
        Du, Hu and Lee, https://arxiv.org/abs/1806.00900: gradient flow conserves the
        differences of the squared norms.
    """
    groups = _groups(group)
    flat, treedef = flatten_with_path(params)
    leaves = {path_str(path): leaf for path, leaf in flat if not is_masked_leaf(leaf)}
    exponents = _exponents(groups, leaves)
    rows, names, log_squares = [], [], []
    for name, grid in exponents.items():
        rows += list(grid.reshape(-1, len(groups)))
        names += [
            _name(name, grid.shape, index) for index in np.ndindex(grid.shape[:-1])
        ]
        log_squares += list(_log_squares(leaves[name], grid).flat)
    # A norm of 0 stays 0: a zero bias does not matter.
    moved = [i for i, row in enumerate(rows) if row.any() and log_squares[i] != -np.inf]
    if not moved:
        return params
    t = _balanced(
        np.array([rows[i] for i in moved]),
        np.array([log_squares[i] for i in moved]),
        [names[i] for i in moved],
    )
    scaled = {
        name: _scaled(leaves[name], np.exp(grid @ t))
        for name, grid in exponents.items()
    }
    return treedef.unflatten(scaled.get(path_str(path), leaf) for path, leaf in flat)


def _groups(group: Any) -> list[Group]:
    """The checked groups, without exponents of 0."""
    if isinstance(group, Symmetries):
        both = [g for g in group.groups if min(g.values()) < 0 < max(g.values())]
        if not both:
            return []
        group = both
    groups = [group] if isinstance(group, Mapping) else group
    if isinstance(groups, str) or not isinstance(groups, Sequence):
        raise TypeError(
            f"{NAME}: group must be a dict path -> exponent or a sequence of them, got "
            f"{short_repr(group)}. {HINT}"
        )
    for each in groups:
        if not isinstance(each, Mapping) or not each:
            raise TypeError(
                f"{NAME}: a group must be a dict path -> exponent with an entry, got "
                f"{short_repr(each)}. {HINT}"
            )
        for path, exponent in each.items():
            must = f"{NAME}: the exponent of {path} must be"
            require_real(must, exponent, "Pass 1 or -1, for example.")
            if np.shape(exponent) != () or not np.isfinite(exponent):
                raise ValueError(
                    f"{must} one finite number, got {exponent}. Pass 1 or -1, for "
                    "example."
                )
    return [{path: float(a) for path, a in g.items() if a != 0} for g in groups]


def _entry(path: Any, leaves: Mapping[str, Any]) -> Entry:
    """The parameter or the slice that a path names."""
    found = SLICE(path) if isinstance(path, str) else None
    if path in leaves:
        entry = Entry(path)
    elif found and found["parameter"] in leaves:
        axis = found["skipped"].count(":")
        entry = Entry(found["parameter"], axis, int(found["index"]))
    else:
        near = difflib.get_close_matches(str(path), leaves, cutoff=0)
        raise ValueError(
            f"{NAME}: the group names {path}, which is not a parameter. The nearest "
            f"paths are {', '.join(near)}."
        )
    leaf = leaves[entry.parameter]
    if not is_inexact(leaf):
        raise TypeError(
            f"{NAME}: {path} must be a floating-point array, got {short_repr(leaf)}. "
            "Remove it from the group."
        )
    if isinstance(leaf, jax.ShapeDtypeStruct) or not is_concrete(leaf):
        raise TypeError(
            f"{NAME}: the values of {path} must be known, got {short_repr(leaf)}. Call "
            "it outside of jit, with arrays that this process can read."
        )
    shape = np.shape(leaf)
    if entry.axis is not None:
        size = shape[entry.axis] if entry.axis < len(shape) else 0
        if entry.index >= size:
            raise ValueError(
                f"{NAME}: the group names {path}, but {entry.parameter} has the shape "
                f"{shape}. Take the groups of a model of the same depth."
            )
    return entry


def _exponents(groups: list[Group], leaves: Mapping[str, Any]) -> dict[str, Grid]:
    """The exponents of each named parameter, or of each of its slices."""
    entries = {path: _entry(path, leaves) for group in groups for path in group}
    axes = defaultdict(set)
    for entry in entries.values():
        axes[entry.parameter].add(entry.axis)
    exponents = {}
    for name, named in axes.items():
        sizes = enumerate(np.shape(leaves[name]))
        grid = [size if axis in named else 1 for axis, size in sizes]
        exponents[name] = np.zeros((*grid, len(groups)))
    for k, group in enumerate(groups):
        for path, exponent in group.items():
            name, axis, index = entries[path]
            where: list[Any] = [slice(None)] * np.ndim(leaves[name])
            if axis is not None:
                where[axis] = index
            # A group may name a parameter and a slice of it: the exponents add up.
            exponents[name][(*where, k)] += exponent
    return exponents


def _name(parameter: str, grid: tuple[int, ...], index: tuple[int, ...]) -> str:
    """The name of a slice in an error: "kernel[:,1]"."""
    keys = [str(i) if size > 1 else ":" for size, i in zip(grid, index, strict=False)]
    while keys and keys[-1] == ":":
        keys.pop()
    return f"{parameter}[{','.join(keys)}]" if keys else parameter


def _log_squares(leaf: Any, grid: Grid) -> Float[np.ndarray, "*grid"]:
    """The logarithm of the squared norm of each slice; -inf for 0."""
    is_complex = jnp.issubdtype(dtype_of(leaf), jnp.complexfloating)
    sizes = np.abs(np.asarray(leaf, np.complex128 if is_complex else np.float64))
    summed = tuple(axis for axis in range(sizes.ndim) if grid.shape[axis] == 1)
    # Divided by the largest value, a square neither overflows nor underflows.
    largest = np.max(sizes, axis=summed, keepdims=True, initial=0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = sizes / np.where(largest == 0, 1.0, largest)
        squares = np.sum(shares**2, axis=summed, keepdims=True)
        return 2.0 * np.log(largest) + np.log(squares)


def _balanced(rows: Rows, log_squares: np.ndarray, names: list[str]) -> np.ndarray:
    """The t of each group that balances the norms. Raise if no balance exists."""
    if wrong := [names[i] for i in np.flatnonzero(~np.isfinite(log_squares))]:
        raise ValueError(
            f"{NAME}: the norm of {summarize_paths(wrong)} must be finite."
        )
    # Whether there is a minimum does not depend on the norms: take equal ones.
    of_equal = 2.0 * rows @ _minimum(rows, np.zeros(len(rows)))
    if vanished := [names[i] for i in np.flatnonzero(of_equal < VANISHED)]:
        raise ValueError(
            f"{NAME}: no balance exists. {summarize_paths(vanished)} can shrink to 0 "
            "without growth of another norm: a group, or a combination of groups, has "
            "exponents of one sign only, or norms of 0 on one side. Leave out this "
            "group, or one of these groups."
        )
    return _minimum(rows, log_squares)


def _minimum(rows: Rows, log_squares: np.ndarray) -> np.ndarray:
    """The t with the smallest sum of exp(log_squares + 2 rows t), by Newton's method.

    >>> _minimum(np.array([[1.0], [-1.0]]), np.log([1.0, 16.0])) / np.log(2)
    array([1.])
    """
    # The start makes the squares as equal as possible: it is exact for two parameters.
    equations = np.column_stack([2.0 * rows, -np.ones(len(rows))])
    t = np.linalg.lstsq(equations, -log_squares, rcond=None)[0][:-1]
    for _ in range(MAX_STEPS):
        logs = log_squares + 2.0 * rows @ t
        logs -= logs.max()
        # The step solves R'R d = -R'r/2 with r = sqrt(squares) and R = r rows. Least
        # squares with R lose fewer digits than R'R.
        roots = np.exp(logs / 2.0)
        weighted = roots[:, None] * rows
        # Groups may differ in the size of their norms, or depend on each other.
        scale = np.linalg.norm(weighted, axis=0)
        scale[scale == 0.0] = 1.0
        solution = np.linalg.lstsq(weighted / scale, -roots / 2.0, rcond=None)[0]
        t = t + solution / scale
        if np.max(np.abs(2.0 * rows @ (solution / scale))) < STEP_TOLERANCE:
            break
    return t


def _scaled(leaf: Any, factor: Float[np.ndarray, "*grid"]) -> Any:
    if isinstance(leaf, jax.Array):
        dtype = compute_dtype(leaf)
        return cast_like(as_dtype(leaf, dtype) * jnp.asarray(factor, dtype), leaf)
    scaled = np.asarray(np.asarray(leaf) * factor)
    if isinstance(leaf, np.ndarray):
        return scaled.astype(leaf.dtype)
    return type(leaf)(scaled)  # a float or a NumPy scalar
