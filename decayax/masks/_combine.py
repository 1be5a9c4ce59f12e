"""Masks of masks: and, or, not, and scaled."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from decayax._core.dtypes import compute_dtype
from decayax._core.paths import Path, path_str
from decayax._core.strength import Strength, times
from decayax.masks._mask import as_mask, Decision, Mask
from decayax.masks._resolve import as_multiplier, MaskOrFn


def all_of(*masks: MaskOrFn) -> Mask:
    r"""Masks joined by "and": the product of their multipliers.

    .. math:: m = m^{(1)} m^{(2)} \cdots

    Args:
        masks: one or more masks: of this module, trees, prefixes, functions, None.

    Returns:
        A mask for ``mask=``.

    Raises:
        ValueError: no mask at all.

    Example:
        >>> import decayax as dx, jax.numpy as jnp
        >>> layer = {"kernel": jnp.ones((2, 2))}
        >>> mask = dx.masks.all_of(dx.masks.no_bias_or_norm, {"a": True, "b": 0.5})
        >>> mask({"a": layer, "b": layer})
        {'a': {'kernel': 1.0}, 'b': {'kernel': 0.5}}

    Reference:
        Multipliers as fuzzy membership: product, maximum and complement (Zadeh, *Fuzzy
        sets*, Information and Control 8, 1965; the product is the probabilistic "and").
    """
    return _combined("masks.all_of", masks, times)


def any_of(*masks: MaskOrFn) -> Mask:
    r"""Masks joined by "or": the largest of their multipliers.

    .. math:: m = \max(m^{(1)}, m^{(2)}, \ldots)

    Args:
        masks: one or more masks: of this module, trees, prefixes, functions, None.

    Returns:
        A mask for ``mask=``.

    Raises:
        ValueError: no mask at all.

    Example:
        >>> import decayax as dx, jax.numpy as jnp
        >>> params = {"dense": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}}
        >>> biases = dx.masks.by_path([(".*/bias", 0.1)], default=False)
        >>> dx.masks.any_of(dx.masks.no_bias_or_norm, biases)(params)
        {'dense': {'bias': 0.1, 'kernel': 1.0}}

    Reference:
        Multipliers as fuzzy membership: product, maximum and complement (Zadeh, *Fuzzy
        sets*, Information and Control 8, 1965; the product is the probabilistic "and").
    """
    return _combined("masks.any_of", masks, _larger)


def invert(mask: MaskOrFn) -> Mask:
    r"""A mask the other way round, for multipliers between 0 and 1.

    .. math:: m' = \max(1 - m, 0)

    Args:
        mask: a mask: of this module, a tree, a prefix, a function, None.

    Returns:
        A mask for ``mask=``.

    Raises:
        ValueError: when used, a known multiplier above 1.

    Example:
        >>> import decayax as dx, jax.numpy as jnp
        >>> params = {"dense": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}}
        >>> dx.masks.invert(dx.masks.no_bias_or_norm)(params)
        {'dense': {'bias': 1.0, 'kernel': 0.0}}

    Reference:
        Multipliers as fuzzy membership: product, maximum and complement (Zadeh, *Fuzzy
        sets*, Information and Control 8, 1965; the product is the probabilistic "and").
    """
    inner = as_mask("masks.invert", mask)

    def decide(params: Any) -> dict[Path, Decision]:
        decided = inner.decide(params)
        for path, (multiplier, _) in decided.items():
            if isinstance(multiplier, float) and multiplier > 1.0:
                raise ValueError(
                    f"masks.invert: the multiplier of {path_str(path)} is {multiplier}, "
                    "which has no opposite. Invert a mask of True and False."
                )
        return {
            path: Decision(_opposite(multiplier), f"not ({rule})")
            for path, (multiplier, rule) in decided.items()
        }

    return Mask("masks.invert", decide)


def scale(mask: MaskOrFn, factor: jax.typing.ArrayLike) -> Mask:
    r"""A mask with every multiplier times a factor.

    .. math:: m' = c\, m

    Args:
        mask: a mask: of this module, a tree, a prefix, a function, None.
        factor: :math:`c \ge 0`: a number, a 0-d array or a tracer.

    Returns:
        A mask for ``mask=``.

    Raises:
        TypeError, ValueError: a factor that is no number >= 0.

    Example:
        >>> import decayax as dx, jax.numpy as jnp
        >>> params = {"dense": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}}
        >>> dx.masks.scale(dx.masks.no_bias_or_norm, 0.5)(params)
        {'dense': {'bias': 0.0, 'kernel': 0.5}}

    Reference:
        Per-group strengths as in big_vision's ``wd_mults`` (Beyer et al.).
    """
    inner = as_mask("masks.scale", mask)
    by = as_multiplier("masks.scale", "factor", factor)

    def decide(params: Any) -> dict[Path, Decision]:
        return {
            path: Decision(times(by, multiplier), f"{rule}, scaled")
            for path, (multiplier, rule) in inner.decide(params).items()
        }

    return Mask("masks.scale", decide)


def _combined(name: str, masks: Sequence[MaskOrFn], join: Callable[..., Any]) -> Mask:
    if not masks:
        raise ValueError(f"{name}: needs at least one mask.")
    if any(isinstance(part, Mask) for mask in masks for part in _listed(mask)):
        raise TypeError(f"{name}: got a list of masks. Write {name}(a, b), not [a, b].")
    parts = [as_mask(name, mask) for mask in masks]

    short = name.removeprefix("masks.")

    def decide(params: Any) -> dict[Path, Decision]:
        decided = [part.decide(params) for part in parts]
        return {
            path: Decision(
                functools.reduce(join, [each[path].multiplier for each in decided]),
                f"{short} ({'; '.join(each[path].rule for each in decided)})",
            )
            for path in decided[0]
        }

    return Mask(name, decide)


def _listed(mask: MaskOrFn) -> Sequence[Any]:
    return mask if isinstance(mask, list | tuple) else ()


def _larger(a: Strength, b: Strength) -> Strength:
    if isinstance(a, float) and isinstance(b, float):
        return max(a, b)
    dtype = compute_dtype(*(x for x in (a, b) if not isinstance(x, float)))
    return jnp.maximum(jnp.asarray(a, dtype), jnp.asarray(b, dtype))


def _opposite(m: Strength) -> Strength:
    """1 - m; a traced m cannot be refused, so that above 1 the decay stays at 0."""
    if isinstance(m, float):
        return 1.0 - m
    return jnp.maximum(1.0 - jnp.asarray(m, compute_dtype(m)), 0.0)
