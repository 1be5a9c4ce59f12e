"""Masks by ordered rules on the paths of the parameters."""

import difflib
import functools
import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

import optax

from decayax._core.paths import (
    flatten_with_path,
    is_masked_leaf,
    Path,
    path_str,
    summarize_paths,
)
from decayax._core.strength import short_repr, Strength
from decayax.masks._mask import as_mask, Decision, Mask, Multiplier
from decayax.masks._resolve import as_multiplier, MaskOrFn


NAME = "masks.by_path"
PLAIN = re.compile(r"[\w/~ -]")  # stands for itself in a regular expression


class Rule(NamedTuple):
    """A pattern and what it gives, checked."""

    pattern: re.Pattern[str]
    multiplier: Any  # a Strength, or a function of the match


def by_path(
    rules: Sequence[tuple[str, Multiplier | Callable[[re.Match[str]], Multiplier]]],
    *,
    default: MaskOrFn | None = None,
) -> Mask:
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
            rule matches. (Where ``optax.masked`` or ``partition`` left a
            ``MaskedNode``, a rule may match what was below it.)

    Example:
        >>> import decayax as dx, jax.numpy as jnp
        >>> params = {f"block_{n}": {"kernel": jnp.ones((2, 2))} for n in range(3)}
        >>> deeper = dx.masks.by_path([(r"block_(\d)/kernel", lambda m: 1 + int(m[1]))])
        >>> deeper(params)["block_2"]
        {'kernel': 3.0}

    Reference:
        Ordered rules as in big_vision's ``optax.py`` (Beyer et al.).
    """
    if not isinstance(rules, Sequence) or isinstance(rules, str):
        raise TypeError(
            f"{NAME}: rules must be a list of pairs (pattern, multiplier), got "
            f"{short_repr(rules)}."
        )
    checked = [_checked(rule) for rule in rules]
    rest = None if default is None else as_mask(NAME, default)

    return Mask(NAME, functools.partial(_decide, checked, rest))


def _decide(
    rules: list[Rule], default: Mask | None, params: Any
) -> dict[Path, Decision]:
    """The decision for every parameter, by path."""
    flat, treedef = flatten_with_path(params)
    paths = [path for path, leaf in flat if not is_masked_leaf(leaf)]
    hidden = [path for path, leaf in flat if isinstance(leaf, optax.MaskedNode)]
    decided: dict[Path, Decision] = {}
    for rule in rules if paths else []:
        found = {
            path: match
            for path in paths
            if (match := rule.pattern.fullmatch("/".join(path)))
        }
        first = {path: match for path, match in found.items() if path not in decided}
        if not first and not any(_may_match_below(rule, path) for path in hidden):
            _refuse(rule, paths, shadowed=bool(found))
        for path, match in first.items():
            value = _multiplier(rule, path, match)
            decided[path] = Decision(value, f"path {rule.pattern.pattern}")
    left = [path for path in paths if path not in decided]
    if default is not None:
        untaken = treedef.unflatten(
            optax.MaskedNode() if path in decided else leaf for path, leaf in flat
        )
        for path, (multiplier, why) in default.decide(untaken).items():
            decided[path] = Decision(multiplier, f"default, {why}")
    elif left:
        raise ValueError(
            f"{NAME}: no rule matches {summarize_paths(map(path_str, left), most=1)}. Add a rule, or "
            "say default=False or default=masks.no_bias_or_norm."
        )
    return decided


def _checked(rule: Any) -> Rule:
    if not (isinstance(rule, tuple | list) and len(rule) == 2):
        raise TypeError(
            f"{NAME}: a rule is a pair (pattern, multiplier), got {rule!r}."
        )
    pattern, multiplier = rule
    if not isinstance(pattern, str | re.Pattern):
        raise TypeError(f"{NAME}: a pattern is a string, got {short_repr(pattern)}.")
    if not callable(multiplier):
        where = f"the multiplier of the rule {pattern!r}"
        multiplier = as_multiplier(NAME, where, multiplier)
    try:
        return Rule(re.compile(pattern), multiplier)
    except re.error as error:
        raise ValueError(
            f"{NAME}: {pattern!r} is no regular expression: {error}. For any text "
            "write '.*', not '*'."
        ) from None


def _multiplier(rule: Rule, path: Path, match: re.Match[str]) -> Strength:
    """What a rule gives to the path that it matches."""
    if not callable(rule.multiplier):
        return rule.multiplier
    where = (
        f"the multiplier that the rule {rule.pattern.pattern!r} gives {path_str(path)}"
    )
    try:
        value = rule.multiplier(match)
    except Exception as error:
        error.add_note(f"{NAME}: raised by {where}. It is called with the re.Match.")
        raise
    return as_multiplier(NAME, where, value)


def _may_match_below(rule: Rule, hidden: Path) -> bool:
    """Whether a rule may match at or below a path whose parameters are masked out.

    Judged by the pattern's literal beginning; an unclear one may match anything.
    """
    pattern, above = rule.pattern.pattern, "/".join(hidden)
    literal = "".join(itertools.takewhile(PLAIN.match, pattern))
    if literal == pattern:
        return literal == above or literal.startswith(f"{above}/")
    if "|" in pattern:
        return True
    if pattern[len(literal)] in "?*{":  # the letter before is optional
        literal = literal[:-1]
    return literal.startswith(f"{above}/") or f"{above}/".startswith(literal)


def _refuse(rule: Rule, paths: list[Path], shadowed: bool) -> NoReturn:
    pattern = rule.pattern.pattern
    if shadowed:
        raise ValueError(
            f"{NAME}: the rule {pattern!r} never acts: earlier rules match all of its "
            "parameters. Move it up, or remove it."
        )
    shown = [path_str(path) for path in paths]
    anywhere = f".*({pattern.removeprefix('^').removesuffix('$')}).*"
    parts = [path for path in shown if re.fullmatch(anywhere, path)]
    near = difflib.get_close_matches(pattern, shown, cutoff=0)
    hint = (
        f"A pattern stands for the whole path: write {anywhere!r} to match {parts[0]}."
        if parts
        else f"The nearest paths are {', '.join(near)}."
    )
    raise ValueError(f"{NAME}: the rule {pattern!r} matches no parameter. {hint}")
