"""Scale symmetries as data: what masks, statistics and audits read of them.

They do not import the analysis. Any object with these attributes will do.
"""

import difflib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from decayax._core.dtypes import is_inexact
from decayax._core.paths import (
    is_masked_leaf,
    Path,
    path_str,
    summarize_paths,
)
from decayax._core.strength import short_repr


INVARIANT, JOINT, DEAD, SEEN = "invariant", "joint", "dead", "seen"
Slices = tuple["LeafSymmetry", ...]  # of one parameter, or the parameter itself
HINT = (
    "Run dx.scale_symmetries on the same architecture: the paths and the depth must be "
    "the same; the widths may be smaller."
)


class LeafSymmetry(Protocol):
    """What the model sees of the scale of a parameter, or of a slice of a stack."""

    @property
    def path(self) -> str:
        """Of the parameter; the index of a slice follows: "blocks/kernel[2]"."""
        ...

    @property
    def parameter(self) -> str:
        """The path without the index."""
        ...

    @property
    def slice(self) -> tuple[int, int] | None:
        """Axis and index in the parameter; None: the whole parameter."""
        ...

    @property
    def kind(self) -> str:
        """Either "invariant", "joint", "dead" or "seen"."""
        ...

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes of the parameter along which each slice is invariant on its own."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the slice or the parameter."""
        ...


@runtime_checkable
class Symmetries(Protocol):
    """The result of ``dx.scale_symmetries``."""

    @property
    def leaves(self) -> Sequence[LeafSymmetry]:
        """One for each parameter, or for each slice of it."""
        ...

    @property
    def groups(self) -> Sequence[Mapping[str, float]]:
        """The joint symmetries: path -> exponent."""
        ...


def require_symmetries(name: str, value: Any) -> None:
    """Raise a TypeError unless it is a result of ``dx.scale_symmetries``."""
    if not isinstance(value, Symmetries):
        raise TypeError(
            f"{name}: symmetries must be a result of dx.scale_symmetries, got "
            f"{short_repr(value)}. Pass dx.scale_symmetries(function, params)."
        )


def by_parameter(symmetries: Symmetries) -> dict[str, Slices]:
    """The symmetries of each parameter, or of its slices, by its path."""
    found = defaultdict(list)
    for leaf in symmetries.leaves:
        found[leaf.parameter].append(leaf)
    return {path: tuple(slices) for path, slices in found.items()}


def match(
    name: str, symmetries: Symmetries, params: Iterable[tuple[Path, Any]]
) -> dict[Path, Slices]:
    """The symmetries of each floating-point leaf; raise if they are of another model.

    Parameters may have other sizes, but stacks must have the same number of layers. The
    symmetries may be those of more parameters: an optimizer may train a part of them.
    """
    known = by_parameter(symmetries)
    leaves = {path: leaf for path, leaf in params if _is_float(leaf)}
    require_paths(name, known, map(path_str, leaves))
    found = {path: known[path_str(path)] for path in leaves}
    for path, slices in found.items():
        _require_same_depth(name, path, slices, np.shape(leaves[path]))
    return found


def require_paths(name: str, known: Mapping[str, Slices], paths: Iterable[str]) -> None:
    """Raise for parameters without an entry in the symmetries."""
    if missing := [path for path in paths if path not in known]:
        near = difflib.get_close_matches(missing[0], known, cutoff=0)
        raise ValueError(
            f"{name}: the symmetries say nothing about {summarize_paths(missing)}. "
            f"Their nearest paths are {', '.join(near)}. {HINT}"
        )


def _is_float(leaf: Any) -> bool:
    return not is_masked_leaf(leaf) and is_inexact(leaf)


def _require_same_depth(
    name: str, path: Path, slices: Slices, shape: tuple[int, ...]
) -> None:
    """Raise unless the parameter has as many axes and layers as in the symmetries."""
    where = slices[0].slice
    axes = len(slices[0].shape) + (where is not None)
    if len(shape) != axes:
        raise ValueError(
            f"{name}: {path_str(path)} has the shape {shape}, but in the symmetries "
            f"its number of axes is {axes}. {HINT}"
        )
    if where is not None and shape[where[0]] != len(slices):
        raise ValueError(
            f"{name}: {path_str(path)} is a stack of {shape[where[0]]} on axis "
            f"{where[0]}, but of {len(slices)} in the symmetries. {HINT}"
        )
