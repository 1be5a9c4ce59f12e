"""Masks by ordered rules on the paths of the parameters."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TypeAlias

import optax

from decayax._core.paths import (
    flatten_with_path,
    is_masked_leaf,
    Path,
    path_str,
    summarize_paths,
)
from decayax._core.strength import short_repr
from decayax.masks._mask import check_mask, decide, Decision, Decisions, Mask
from decayax.masks._resolve import (
    as_multiplier,
    fit_to_leaf,
    MaskOrFn,
    Multiplier,
)


# A multiplier that depends on the match, such as one that grows with the depth.
MultiplierFn: TypeAlias = Callable[[re.Match[str]], Multiplier]
Rule: TypeAlias = tuple[str | re.Pattern[str], Multiplier | MultiplierFn]
EXAMPLE_RULES = "[('.*/kernel', True), ('.*/bias', False)]"
LITERAL = re.compile(r"[\w/~ -]")  # a character that a pattern matches as it is


def by_path(rules: Sequence[Rule], *, default: MaskOrFn | None = None) -> Mask:
    r"""A mask by ordered rules on the paths of the parameters; the first match wins.

    Args:
        rules: pairs (pattern, multiplier). A pattern is a regular expression for the
            **whole** '/'-joined path: ``".*/kernel"``, not ``"kernel"``. A multiplier
            is True, False, a number >= 0, an array that broadcasts against each
            parameter that the pattern matches, or a function of the ``re.Match``, for
            strengths that grow with the depth. Each rule must match a parameter that
            no earlier rule matches. (If ``optax.masked`` or ``partition`` left a
            ``MaskedNode``, this may be a parameter below it.)
        default: for the parameters that no rule matches: a multiplier, or another mask
            such as ``no_bias_or_norm``. None: a rule must match every parameter.

    Example:
        >>> import decayax as dx, jax.numpy as jnp
        >>> params = {f"block_{n}": {"kernel": jnp.ones((2, 2))} for n in range(3)}
        >>> deeper = dx.masks.by_path([(r"block_(\d)/kernel", lambda m: 1 + int(m[1]))])
        >>> deeper(params)["block_2"]
        {'kernel': 3.0}

    Reference:
        Ordered rules and strengths as in big_vision's ``wd_mults`` (Beyer et al.).
    """
    name = "masks.by_path"
    if not isinstance(rules, Sequence) or isinstance(rules, str):
        hint = "list(rules.items())" if isinstance(rules, Mapping) else EXAMPLE_RULES
        raise TypeError(
            f"{name}: rules must be a list of pairs (pattern, multiplier), got "
            f"{short_repr(rules)}. Pass {hint}."
        )
    for rule in rules:
        _check_rule(name, rule)
    check_mask(name, default)
    pairs = [tuple(rule) for rule in rules]
    return Mask(name, _decide_by_path, (pairs,), {"default": default})


def _check_rule(name: str, rule: Any) -> None:
    if not (isinstance(rule, tuple | list) and len(rule) == 2):
        raise TypeError(
            f"{name}: a rule must be a pair (pattern, multiplier), got "
            f"{short_repr(rule)}. Pass rules such as {EXAMPLE_RULES}."
        )
    pattern, multiplier = rule
    if not isinstance(pattern, str | re.Pattern):
        raise TypeError(
            f"{name}: a pattern must be a string, got {short_repr(pattern)}. Pass "
            f"rules such as {EXAMPLE_RULES}."
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


def _decide_by_path(
    name: str, params: optax.Params, rules: list[Rule], *, default: MaskOrFn | None
) -> Decisions:
    flat, treedef = flatten_with_path(params)
    leaves = {path: leaf for path, leaf in flat if not is_masked_leaf(leaf)}
    paths = list(leaves)
    names = [(path, "/".join(path)) for path in paths]
    masked = [path for path, leaf in flat if isinstance(leaf, optax.MaskedNode)]
    if not paths:
        return {}
    decided: Decisions = {}
    for pattern, multiplier in rules:
        regex = re.compile(pattern)
        text = regex.pattern
        matches = {path: m for path, word in names if (m := regex.fullmatch(word))}
        new = [path for path in matches if path not in decided]
        if not new and not any(_may_match_below(text, path) for path in masked):
            _raise_without_effect(name, text, paths, shadowed=len(matches) > 0)
        for path in new:
            where = f"the multiplier that the rule {text!r} gives {path_str(path)}"
            value = multiplier
            if callable(multiplier):
                value = _call(name, where, multiplier, matches[path])
            checked = as_multiplier(name, where, value)
            fitted = fit_to_leaf(name, where, checked, path, leaves[path])
            decided[path] = Decision(fitted, f"path {text}")
    undecided = [path for path in paths if path not in decided]
    if undecided and default is None:
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


def _call(name: str, where: str, function: MultiplierFn, match: re.Match[str]) -> Any:
    try:
        return function(match)
    except Exception as error:
        error.add_note(f"{name}: raised by {where}. It is called with the re.Match.")
        raise


def _may_match_below(pattern: str, masked: Path) -> bool:
    """Whether a pattern may match a path at or below a MaskedNode; True if unclear.

    The parameters below it are unknown: only the pattern's literal beginning counts.
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
    name: str, pattern: str, paths: list[Path], shadowed: bool
) -> NoReturn:
    if shadowed:
        raise ValueError(
            f"{name}: the rule {pattern!r} has no effect: earlier rules match all of "
            "its parameters. Move it up, or remove it."
        )
    names = [path_str(path) for path in paths]
    anywhere = f".*({pattern.removeprefix('^').removesuffix('$')}).*"
    partly = [path for path in names if re.fullmatch(anywhere, path)]
    if partly:
        hint = (
            "A pattern must match the whole path: write "
            f"{anywhere!r} to match {partly[0]}."
        )
    else:
        near = difflib.get_close_matches(pattern, names, cutoff=0)
        hint = f"The nearest paths are {', '.join(near)}."
    raise ValueError(f"{name}: the rule {pattern!r} matches no parameter. {hint}")
