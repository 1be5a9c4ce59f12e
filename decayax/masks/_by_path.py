"""Masks by ordered rules on the paths of the parameters."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn, TypeAlias

import optax

from decayax._core.paths import (
    flatten_with_path,
    is_masked_leaf,
    Path,
    path_str,
    summarize_paths,
)
from decayax._core.strength import short_repr, Strength
from decayax.masks._mask import check_mask, decide, Decision, Mask
from decayax.masks._resolve import as_multiplier, MaskOrFn, Multiplier


# A multiplier that depends on the match, such as one that grows with the depth.
MultiplierFn: TypeAlias = Callable[[re.Match[str]], Multiplier]
LITERAL = re.compile(r"[\w/~ -]")  # a character that a pattern matches as it is


class PathRule(NamedTuple):
    """A pattern and the multiplier of the paths that it matches, as the user wrote."""

    pattern: str | re.Pattern[str]
    multiplier: Multiplier | MultiplierFn

    @property
    def text(self) -> str:
        """The pattern without its flags."""
        return self.pattern if isinstance(self.pattern, str) else self.pattern.pattern

    def __repr__(self) -> str:
        """The pair, so that the repr of a mask is an expression."""
        return repr(tuple(self))


def by_path(
    rules: Sequence[tuple[str | re.Pattern[str], Multiplier | MultiplierFn]],
    *,
    default: MaskOrFn | None = None,
) -> Mask:
    r"""A mask by ordered rules on the paths of the parameters; the first match wins.

    .. math:: m_i = m_{\min\{k \,:\, \text{pattern}_k \text{ matches path}_i\}}

    Args:
        rules: pairs (pattern, multiplier). A pattern is a regular expression for the
            **whole** '/'-joined path, as in big_vision: ``".*/kernel"``, not
            ``"kernel"``. A multiplier is True, False, a number >= 0, or a function of
            the ``re.Match``, for strengths that grow with the depth.
        default: for the parameters that no rule matches: a multiplier, or another mask
            such as ``no_bias_or_norm``. None: a rule must match every parameter.

    Returns:
        A mask for ``mask=``: a function from parameters to a tree of multipliers.

    Raises:
        TypeError, ValueError: a pattern is not a valid regular expression; a multiplier
            is neither a bool nor a number >= 0. When the mask is used: a rule matches
            no parameter, or only parameters that earlier rules match; no rule matches
            a parameter. (If ``optax.masked`` or ``partition`` left a ``MaskedNode``, a
            rule may match a parameter below it.)

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
    if not isinstance(rules, Sequence) or isinstance(rules, str):
        raise TypeError(
            f"{name}: rules must be a list of pairs (pattern, multiplier), got "
            f"{short_repr(rules)}."
        )
    checked = [_as_path_rule(name, rule) for rule in rules]
    check_mask(name, default)
    return Mask(name, _decide_by_path, (checked,), {"default": default})


def _as_path_rule(name: str, rule: Any) -> PathRule:
    """Check one rule."""
    if not (isinstance(rule, tuple | list) and len(rule) == 2):
        raise TypeError(
            f"{name}: a rule must be a pair (pattern, multiplier), got {rule!r}."
        )
    pattern, multiplier = rule
    checked = PathRule(pattern, multiplier)
    if not isinstance(pattern, str | re.Pattern):
        raise TypeError(
            f"{name}: a pattern must be a string, got {short_repr(pattern)}."
        )
    if not callable(multiplier):
        as_multiplier(name, f"the multiplier of the rule {pattern!r}", multiplier)
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"{name}: {pattern!r} is not a valid regular expression: {error}. Use '.*' "
            "(not '*') to match any text."
        ) from None
    return checked


def _decide_by_path(
    name: str, params: optax.Params, rules: list[PathRule], *, default: MaskOrFn | None
) -> dict[Path, Decision]:
    flat, treedef = flatten_with_path(params)
    paths = [path for path, leaf in flat if not is_masked_leaf(leaf)]
    masked = [path for path, leaf in flat if isinstance(leaf, optax.MaskedNode)]
    if not paths:
        return {}
    decided: dict[Path, Decision] = {}
    for rule in rules:
        matches = _matches(rule, paths)
        new = [path for path in matches if path not in decided]
        if not new and not any(_may_match_below(rule.text, path) for path in masked):
            _raise_without_effect(name, rule, paths, shadowed=len(matches) > 0)
        for path in new:
            multiplier = _multiplier(name, rule, path, matches[path])
            decided[path] = Decision(multiplier, f"path {rule.text}")
    undecided = [path for path in paths if path not in decided]
    if not undecided:
        return decided
    if default is None:
        raise ValueError(
            f"{name}: no rule matches {summarize_paths(map(path_str, undecided), 1)}. "
            "Add a rule, or pass default=False or default=masks.no_bias_or_norm."
        )
    # The default must not see the decided parameters: its own rules could not match.
    remaining = treedef.unflatten(
        optax.MaskedNode() if path in decided else leaf for path, leaf in flat
    )
    for path, (multiplier, why) in decide(name, default, remaining).items():
        decided[path] = Decision(multiplier, f"default, {why}")
    return decided


def _matches(rule: PathRule, paths: list[Path]) -> dict[Path, re.Match[str]]:
    matches = {}
    for path in paths:
        if match := re.fullmatch(rule.pattern, "/".join(path)):
            matches[path] = match
    return matches


def _multiplier(
    name: str, rule: PathRule, path: Path, match: re.Match[str]
) -> Strength:
    """The multiplier that a rule gives to a path that it matches."""
    where = f"the multiplier that the rule {rule.text!r} gives {path_str(path)}"
    if not callable(rule.multiplier):
        return as_multiplier(name, where, rule.multiplier)
    try:
        value = rule.multiplier(match)
    except Exception as error:
        error.add_note(f"{name}: raised by {where}. It is called with the re.Match.")
        raise
    return as_multiplier(name, where, value)


def _may_match_below(pattern: str, masked: Path) -> bool:
    """Whether a pattern may match a path at or below a MaskedNode.

    The parameters below it are unknown, so that only the literal beginning of the
    pattern is compared. The answer is True if it is not clear.
    """
    above = "/".join(masked)
    literal = "".join(itertools.takewhile(LITERAL.match, pattern))
    if literal == pattern:
        return literal == above or literal.startswith(f"{above}/")
    if "|" in pattern:
        return True
    if pattern[len(literal)] in "?*{":  # the character before it is optional
        literal = literal[:-1]
    return literal.startswith(f"{above}/") or f"{above}/".startswith(literal)


def _raise_without_effect(
    name: str, rule: PathRule, paths: list[Path], shadowed: bool
) -> NoReturn:
    if shadowed:
        raise ValueError(
            f"{name}: the rule {rule.text!r} has no effect: earlier rules match all of "
            "its parameters. Move it up, or remove it."
        )
    names = [path_str(path) for path in paths]
    anywhere = f".*({rule.text.removeprefix('^').removesuffix('$')}).*"
    partly = [path for path in names if re.fullmatch(anywhere, path)]
    if partly:
        hint = (
            "A pattern must match the whole path: write "
            f"{anywhere!r} to match {partly[0]}."
        )
    else:
        near = difflib.get_close_matches(rule.text, names, cutoff=0)
        hint = f"The nearest paths are {', '.join(near)}."
    raise ValueError(f"{name}: the rule {rule.text!r} matches no parameter. {hint}")
