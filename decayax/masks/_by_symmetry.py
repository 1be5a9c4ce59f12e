"""Masks by what the model sees of each parameter: its scale symmetries."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import optax

from decayax._core.paths import is_masked_leaf, leaves_with_path, Path, summarize_paths
from decayax._core.strength import larger, Strength, times
from decayax._core.symmetry import (
    DEAD,
    INVARIANT,
    JOINT,
    LeafSymmetry,
    match,
    require_symmetries,
    SEEN,
    Slices,
    Symmetries,
)
from decayax.masks._mask import Decision, Decisions, Mask
from decayax.masks._resolve import as_multiplier, fit_to_leaf, Multiplier


RULES = {INVARIANT: "scale-invariant", JOINT: "joint", DEAD: "dead", SEEN: "seen"}


def scale_invariant(symmetries: Symmetries) -> Mask:
    """A mask of the parameters whose scale the model does not see.

    The decay of such a parameter, as of a kernel before a normalization, does not
    change the function, but the effective learning rate. ``invert`` gives the mask of
    all other parameters. A parameter whose slices differ (layers of a stack) gets an
    array of multipliers that broadcasts against it.

    Args:
        symmetries: the result of ``dx.scale_symmetries``, perhaps of a small model: the
            paths and the number of layers must be the same, the widths may differ.

    Example:
        >>> import decayax as dx, jax.numpy as jnp
        >>> from types import SimpleNamespace as Leaf
        >>> kinds = {"conv": "invariant", "head": "seen"}
        >>> leaves = [Leaf(parameter=path, slice=None, kind=kind, shape=(2, 2))
        ...           for path, kind in kinds.items()]
        >>> symmetries = Leaf(leaves=leaves, groups=())  # = dx.scale_symmetries(...)
        >>> mask = dx.masks.scale_invariant(symmetries)
        >>> mask({"conv": jnp.ones((64, 64)), "head": jnp.ones((64, 10))})
        {'conv': 1.0, 'head': 0.0}

    Reference:
        van Laarhoven, https://arxiv.org/abs/1706.05350, for the effective learning
        rate.
    """
    name = "masks.scale_invariant"
    require_symmetries(name, symmetries)
    return Mask(name, _decide_scale_invariant, (symmetries,))


def by_symmetry(
    symmetries: Symmetries,
    *,
    invariant: Multiplier = True,
    joint: Multiplier = True,
    dead: Multiplier = True,
    seen: Multiplier = True,
) -> Mask:
    """A mask by what the model sees of the scale of each parameter.

    ``by_symmetry(symmetries, dead=False)`` excludes the parameters that the model does
    not use. Leaves that are not floating-point arrays get the multiplier 0.

    Args:
        symmetries: as for :func:`scale_invariant`.
        invariant: multiplier of parameters whose own scale the model does not see.
        joint: multiplier of parameters that only have a joint symmetry with others.
        dead: multiplier of parameters on which the function does not depend.
        seen: multiplier of all other parameters.

    Example:
        >>> import decayax as dx, jax.numpy as jnp
        >>> from types import SimpleNamespace as Leaf
        >>> kinds = {"key_bias": "dead", "head": "seen"}
        >>> leaves = [Leaf(parameter=path, slice=None, kind=kind, shape=(2,))
        ...           for path, kind in kinds.items()]
        >>> symmetries = Leaf(leaves=leaves, groups=())  # = dx.scale_symmetries(...)
        >>> mask = dx.masks.by_symmetry(symmetries, dead=False)
        >>> mask({"key_bias": jnp.ones(64), "head": jnp.ones(10)})
        {'head': 1.0, 'key_bias': 0.0}
    """
    name = "masks.by_symmetry"
    require_symmetries(name, symmetries)
    given = {"invariant": invariant, "joint": joint, "dead": dead, "seen": seen}
    for kind, multiplier in given.items():
        as_multiplier(name, kind, multiplier)
    return Mask(name, _decide_by_symmetry, (symmetries,), given)


def _decide_scale_invariant(
    name: str, params: optax.Params, symmetries: Symmetries
) -> Decisions:
    given = {INVARIANT: True, JOINT: False, DEAD: False, SEEN: False}
    return _decide_by_symmetry(name, params, symmetries, **given)


def _decide_by_symmetry(
    name: str, params: optax.Params, symmetries: Symmetries, **given: Multiplier
) -> Decisions:
    flat = leaves_with_path(params)
    matched = match(name, symmetries, flat)
    decided = {}
    for path, leaf in flat:
        if path in matched:
            decided[path] = _decision(name, path, leaf, matched[path], given)
        elif not is_masked_leaf(leaf):
            decided[path] = Decision(0.0, "not floating-point")
    return decided


def _decision(
    name: str, path: Path, leaf: Any, slices: Slices, given: dict[str, Multiplier]
) -> Decision:
    """The multiplier of one parameter; an array if its slices differ."""
    parts: list[Strength] = []
    rules = []
    for kind in dict.fromkeys(each.kind for each in slices):
        multiplier = as_multiplier(name, kind, given[kind])
        fitted = fit_to_leaf(name, kind, multiplier, path, leaf)
        of_kind = [each for each in slices if each.kind == kind]
        if len(of_kind) == len(slices):
            return Decision(fitted, RULES[kind])
        parts.append(times(fitted, _indicator(of_kind, len(slices), np.ndim(leaf))))
        indices = [each.path.removeprefix(each.parameter) for each in of_kind]
        rules.append(f"{RULES[kind]} {summarize_paths(indices)}")
    # In each slice one part is >= 0 and all others are 0: the largest is their sum.
    joined = functools.reduce(larger, parts)
    if isinstance(joined, np.ndarray) and joined.size and np.ptp(joined) == 0.0:
        joined = float(joined.flat[0])
    return Decision(joined, "; ".join(rules))


def _indicator(of_kind: list[LeafSymmetry], slices: int, axes: int) -> np.ndarray:
    """1 in these slices of the stack, else 0; it broadcasts against the parameter."""
    axis = next(each.slice[0] for each in of_kind if each.slice)
    indicator = np.zeros(slices)
    indicator[[each.slice[1] for each in of_kind if each.slice]] = 1.0
    return indicator.reshape([slices if a == axis else 1 for a in range(axes)])
