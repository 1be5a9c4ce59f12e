"""Masks by ordered rules on the paths of the parameters."""

import difflib
import re
from collections.abc import Callable, Sequence
from typing import Any

import optax

from decayax._mask import as_multiplier, MaskOrFn
from decayax._reasoned import as_mask, Decision, Mask, Multiplier
from decayax._strength import brief
from decayax._tree import flatten, is_hole, Path, show


Rule = tuple[str, Multiplier | Callable[[re.Match[str]], Multiplier]]


def by_path(rules: Sequence[Rule], *, default: MaskOrFn | None = None) -> Mask:
    r"""A mask by ordered rules on the paths of the parameters; the first match wins.

    .. math:: m_i = m_{\min\{k \,:\, \text{pattern}_k \text{ matches path}_i\}}

    Args:
        rules: pairs (pattern, multiplier). A pattern is a regular expression for the
            **whole** '/'-joined path, as in big_vision: ``".*/kernel"``, not
            ``"kernel"``. A multiplier is True, False, a number >= 0, or a function of
            the match, for strengths that grow with depth.
        default: what the rules leave: a multiplier, or another mask such as
            ``no_bias_or_norm``. None: every parameter must be matched.

    Returns:
        A mask for ``mask=``: a function from parameters to a tree of multipliers.

    Raises:
        TypeError, ValueError: a pattern that is no regular expression; a multiplier
            that is no bool and no number >= 0; when used, a rule that matches no
            parameter or only parameters that earlier rules took, a parameter that no
            rule matches. (Inside ``optax.masked`` and ``partition`` a rule may match
            below a ``MaskedNode``.)

    Example:
        >>> import decayax as dx, jax.numpy as jnp
        >>> params = {f"block_{n}": {"kernel": jnp.ones((2, 2))} for n in range(3)}
        >>> deeper = dx.masks.by_path([(r"block_(\d)/kernel", lambda m: 1 + int(m[1]))])
        >>> deeper(params)["block_2"]
        {'kernel': 3.0}

    Reference:
        Ordered rules as in big_vision's ``optax.py`` (Beyer et al.).
    """
    name = "masks.by_path"
    compiled = [_compile(name, rule) for rule in rules]
    fallback = None if default is None else as_mask(default)

    def decide(params: Any) -> dict[Path, Decision]:
        flat, _ = flatten(params)
        paths = [path for path, leaf in flat if not is_hole(leaf)]
        matches = [
            {path: match for path in paths if (match := p.fullmatch("/".join(path)))}
            for p, _ in compiled
        ]
        decided: dict[Path, Decision] = {}
        acts = []
        for (pattern, multiplier), matched in zip(compiled, matches, strict=True):
            first = {
                path: match for path, match in matched.items() if path not in decided
            }
            acts.append(bool(first))
            for path, match in first.items():
                value = multiplier(match) if callable(multiplier) else multiplier
                value = as_multiplier(name, path, value)
                decided[path] = Decision(value, f"path {pattern.pattern}")
        if not any(isinstance(leaf, optax.MaskedNode) for _, leaf in flat):
            for (pattern, _), matched, acted in zip(
                compiled, matches, acts, strict=True
            ):
                if not acted:
                    _refuse(name, pattern, paths, shadowed=bool(matched))
        return decided | _rest(name, fallback, params, set(paths) - set(decided))

    return Mask("by_path", decide)


def _rest(
    name: str, fallback: Mask | None, params: Any, paths: set[Path]
) -> dict[Path, Decision]:
    """What the default says of the paths that no rule matched."""
    if not paths:
        return {}
    if fallback is None:
        first = min(paths)
        raise ValueError(
            f"{name}: no rule matches {show(first)} (and {len(paths) - 1} more). Add a "
            "rule, or say default=False or default=masks.no_bias_or_norm."
        )
    decided = fallback.decide(params)
    return {
        path: Decision(decided[path].multiplier, f"default, {decided[path].rule}")
        for path in paths
    }


def _compile(name: str, rule: Rule) -> tuple[re.Pattern[str], Any]:
    if not (isinstance(rule, tuple | list) and len(rule) == 2):
        raise TypeError(
            f"{name}: a rule is a pair (pattern, multiplier), got {rule!r}."
        )
    pattern, multiplier = rule
    if not isinstance(pattern, str):
        raise TypeError(f"{name}: a pattern is a string, got {brief(pattern)}.")
    if not callable(multiplier):
        multiplier = as_multiplier(name, (pattern,), multiplier)
    try:
        return re.compile(pattern), multiplier
    except re.error as error:
        raise ValueError(
            f"{name}: {pattern!r} is no regular expression: {error}."
        ) from None


def _refuse(
    name: str, pattern: re.Pattern[str], paths: list[Path], shadowed: bool
) -> None:
    if shadowed:
        raise ValueError(
            f"{name}: the rule {pattern.pattern!r} never acts: earlier rules match all "
            "of its parameters. Move it up, or remove it."
        )
    shown = [show(path) for path in paths]
    parts = [path for path in shown if pattern.search(path)]
    near = difflib.get_close_matches(pattern.pattern, shown, cutoff=0)
    hint = (
        f"A pattern stands for the whole path: write '.*{pattern.pattern}.*' to match "
        f"{parts[0]}."
        if parts
        else f"The nearest paths are {', '.join(near)}."
    )
    raise ValueError(
        f"{name}: the rule {pattern.pattern!r} matches no parameter. {hint}"
    )
