"""Masks of masks: and, or, not, and a constant factor."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from decayax._core.dtypes import compute_dtype
from decayax._core.paths import leaves_with_path, path_str
from decayax._core.strength import is_known, larger, Strength, times
from decayax.masks._mask import check_mask, decide, Decision, Decisions, Mask
from decayax.masks._resolve import (
    as_multiplier,
    fit_to_leaf,
    MaskOrFn,
    Multiplier,
)


def all_of(*masks: MaskOrFn) -> Mask:
    r"""Masks joined by "and": the product of their multipliers.

    .. math:: m = m^{(1)} m^{(2)} \cdots

    Args:
        masks: one or more: masks of this module, trees, prefixes, functions, None.

    Example:
        >>> import decayax as dx, jax.numpy as jnp
        >>> layer = {"kernel": jnp.ones((2, 2))}
        >>> mask = dx.masks.all_of(dx.masks.no_bias_or_norm, {"a": True, "b": 0.5})
        >>> mask({"a": layer, "b": layer})
        {'a': {'kernel': 1.0}, 'b': {'kernel': 0.5}}

    Reference:
        Zadeh, *Fuzzy sets*, Information and Control 8, 1965, for the maximum as "or"
        and 1 - m as "not". (Its "and" is the minimum; this is the probabilistic one.)
    """
    _check_masks("masks.all_of", masks)
    return Mask("masks.all_of", _decide_all_of, masks)


def any_of(*masks: MaskOrFn) -> Mask:
    r"""Masks joined by "or": the largest of their multipliers.

    .. math:: m = \max(m^{(1)}, m^{(2)}, \ldots)

    Args:
        masks: as for :func:`all_of`.

    Example:
        >>> import decayax as dx, jax.numpy as jnp
        >>> params = {"dense": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}}
        >>> biases = dx.masks.by_path([(".*/bias", 0.1)], default=False)
        >>> dx.masks.any_of(dx.masks.no_bias_or_norm, biases)(params)
        {'dense': {'bias': 0.1, 'kernel': 1.0}}
    """
    _check_masks("masks.any_of", masks)
    return Mask("masks.any_of", _decide_any_of, masks)


def invert(mask: MaskOrFn) -> Mask:
    r"""The complement of a mask with multipliers between 0 and 1.

    .. math:: m' = \max(1 - m, 0)

    Args:
        mask: any mask, as for :func:`all_of`. A concrete multiplier above 1 is an
            error when the mask is used.

    Example:
        >>> import decayax as dx, jax.numpy as jnp
        >>> params = {"dense": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}}
        >>> dx.masks.invert(dx.masks.no_bias_or_norm)(params)
        {'dense': {'bias': 1.0, 'kernel': 0.0}}
    """
    check_mask("masks.invert", mask)
    return Mask("masks.invert", _decide_invert, (mask,))


def scale(mask: MaskOrFn, factor: Multiplier) -> Mask:
    r"""A mask with every multiplier times a factor.

    .. math:: m' = c\, m

    Args:
        mask: any mask, as for :func:`all_of`.
        factor: :math:`c \ge 0`: a number, or an array that broadcasts against each
            parameter.

    Example:
        >>> import decayax as dx, jax.numpy as jnp
        >>> params = {"dense": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}}
        >>> dx.masks.scale(dx.masks.no_bias_or_norm, 0.5)(params)
        {'dense': {'bias': 0.0, 'kernel': 0.5}}
    """
    check_mask("masks.scale", mask)
    checked = as_multiplier("masks.scale", "factor", factor)
    return Mask("masks.scale", _decide_scale, (mask, checked))


def _check_masks(name: str, masks: tuple[MaskOrFn, ...]) -> None:
    if not masks:
        raise ValueError(f"{name}: pass at least one mask.")
    for mask in masks:
        # A list of masks would be read as a tree with functions as entries.
        if isinstance(mask, list | tuple) and any(isinstance(m, Mask) for m in mask):
            raise TypeError(
                f"{name}: got a list of masks. Write {name}(a, b), not [a, b]."
            )
        check_mask(name, mask)


def _decide_all_of(name: str, params: optax.Params, *masks: MaskOrFn) -> Decisions:
    return _join([decide(name, mask, params) for mask in masks], times, "all of")


def _decide_any_of(name: str, params: optax.Params, *masks: MaskOrFn) -> Decisions:
    return _join([decide(name, mask, params) for mask in masks], larger, "any of")


def _join(
    decided: list[Decisions], join: Callable[[Any, Any], Strength], words: str
) -> Decisions:
    joined = {}
    for path in decided[0]:
        parts = [decisions[path] for decisions in decided]
        multiplier = functools.reduce(join, [part.multiplier for part in parts])
        rules = "; ".join(part.rule for part in parts)
        joined[path] = Decision(multiplier, f"{words} ({rules})")
    return joined


def _decide_invert(name: str, params: optax.Params, mask: MaskOrFn) -> Decisions:
    inverted = {}
    for path, (multiplier, rule) in decide(name, mask, params).items():
        if not is_known(multiplier):
            traced = jnp.asarray(multiplier, compute_dtype(multiplier))
            complement = jnp.maximum(1.0 - traced, 0.0)  # a tracer cannot raise
        elif np.all(multiplier <= 1.0):
            complement = 1.0 - multiplier
        else:
            raise ValueError(
                f"{name}: the multiplier of {path_str(path)} must be <= 1, got "
                f"{np.max(multiplier)}. Pass a mask of True, False and numbers from 0 "
                "to 1."
            )
        inverted[path] = Decision(complement, f"not ({rule})")
    return inverted


def _decide_scale(
    name: str, params: optax.Params, mask: MaskOrFn, factor: Strength
) -> Decisions:
    leaves = dict(leaves_with_path(params))
    scaled = {}
    for path, (multiplier, rule) in decide(name, mask, params).items():
        fitted = fit_to_leaf(name, "factor", factor, path, leaves[path])
        scaled[path] = Decision(times(fitted, multiplier), f"{rule}, scaled")
    return scaled
