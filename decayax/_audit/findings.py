"""Findings: what is wrong with a decay, what it means, and what to write instead."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from decayax._audit.declared import DeclaredDecay
from decayax._audit.leaf import LeafAudit
from decayax._audit.modes import GRADIENT_DEPENDENT, GROWTH, NONE, SCALE_DEPENDENT
from decayax._core.paths import summarize_paths


class Finding(NamedTuple):
    """A problem of an optimizer's decay, or something to know about it.

    Attributes:
        kind: such as "growth"; what ``Audit.check(allow=...)`` takes.
        serious: whether ``Audit.check()`` raises because of it.
        text: what was found, as one or two sentences.
        hint: what to change.
        paths: of the parameters it is about; empty if it is about all of them.
    """

    kind: str
    serious: bool
    text: str
    hint: str
    paths: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.kind}: {self.text} {self.hint}"


def not_auditable(reason: str) -> Finding:
    """The finding for an optimizer that cannot be run."""
    return Finding(
        kind="not auditable",
        serious=True,
        text=f"the audit cannot make up an argument of the optimizer ({reason}).",
        hint="Pass it in extra_args=.",
        paths=(),
    )


class Check(NamedTuple):
    """A problem that a decaying leaf may have."""

    kind: str
    serious: bool
    applies: Callable[[LeafAudit], bool]
    text: Callable[[str, list[LeafAudit]], str]  # (paths as text, leaves) -> text
    hint: str


CHECKS = (
    Check(
        kind="growth",
        serious=True,
        applies=lambda leaf: leaf.mode == GROWTH,
        text=lambda paths, leaves: (
            f"the weights of {paths} grow by a fraction of {_range(leaves)} per step. "
            "The decay has the wrong sign."
        ),
        hint=(
            "After the learning rate, updates are negative. Use dx.independent_decay "
            "there, or place the decay before the learning rate."
        ),
    ),
    Check(
        kind="rate of 1 or more",
        serious=True,
        applies=lambda leaf: leaf.rate >= 1.0,
        text=lambda paths, leaves: (
            f"the rate of {paths} is {_range(leaves)} per step. A rate of 1 sets the "
            "weights to 0 in every step; a larger rate flips their sign."
        ),
        hint=(
            "Pass a smaller weight_decay. If it should be multiplied by the learning "
            "rate, place the decay before the learning rate."
        ),
    ),
    Check(
        kind="gradient-dependent",
        serious=True,
        applies=lambda leaf: leaf.mode == GRADIENT_DEPENDENT,
        text=lambda paths, leaves: (
            f"the decay of {paths} depends on the gradients. {_by_gradient(leaves[0])}."
        ),
        hint=(
            "An L2 term passes through the preconditioner. For the same rate in all "
            "weights, place dx.decoupled_decay after the preconditioner, as dx.adamw "
            "and dx.rmspropw do."
        ),
    ),
    Check(
        kind="lost in rounding",
        serious=True,
        # `not >= 0.5` and not `< 0.5`: nan, an overflow, is a loss too.
        applies=lambda leaf: (
            leaf.surviving_fraction is not None and not leaf.surviving_fraction >= 0.5
        ),
        text=lambda paths, leaves: (
            f"rounding to {_dtypes(leaves)} removes more than half of the decay of "
            f"{paths}. The smallest fraction that survives is {_smallest(leaves)}."
        ),
        hint=(
            "A weight times 1 - rate rounds back to the same weight. Wrap the "
            "optimizer in dx.with_compensation or dx.with_stochastic_rounding."
        ),
    ),
    Check(
        kind="decay without gradient",
        serious=True,
        applies=lambda leaf: not leaf.depends_on_gradient,
        text=lambda paths, leaves: (
            f"these parameters get no gradient, but decay: {paths}."
        ),
        hint=(
            "If they are frozen, exclude them with False in mask=, or place the freeze "
            "after the decay."
        ),
    ),
    Check(
        kind="biases or norms decay",
        serious=False,
        applies=lambda leaf: leaf.role in ("bias", "norm_scale"),
        text=lambda paths, leaves: f"these biases or norm scales decay: {paths}.",
        hint="Pass mask=dx.masks.no_bias_or_norm, unless this is intended.",
    ),
    Check(
        kind="scale-dependent",
        serious=False,
        applies=lambda leaf: leaf.mode == SCALE_DEPENDENT,
        text=lambda paths, leaves: (
            f"the decay rate of {paths} depends on the size of the weights."
        ),
        hint="A trust ratio rescales the decay together with the update.",
    ),
)


def find(
    leaves: Sequence[LeafAudit], declared: DeclaredDecay, weight_decay: float | None
) -> tuple[Finding, ...]:
    """All findings, serious ones first.

    Args:
        leaves: of the audit.
        declared: the decays that the optimizer was given.
        weight_decay: the strength that the user says it was given.
    """
    decaying = [leaf for leaf in leaves if leaf.mode != NONE]
    findings = []
    for check in CHECKS:
        if affected := [leaf for leaf in decaying if check.applies(leaf)]:
            paths = _paths(affected)
            text = check.text(summarize_paths(paths), affected)
            findings.append(Finding(check.kind, check.serious, text, check.hint, paths))
    strengths = [*declared.strengths, *([weight_decay] if weight_decay else [])]
    if not decaying:
        findings += _without_decay(leaves, strengths)
    elif declared.max_per_parameter > 1:
        findings.append(_two_decays(decaying, declared))
    return tuple(sorted(findings, key=lambda finding: not finding.serious))


def _without_decay(
    leaves: Sequence[LeafAudit], strengths: Sequence[float]
) -> list[Finding]:
    """The findings if no parameter decays."""
    if leaves and not any(leaf.depends_on_gradient for leaf in leaves):
        finding = Finding(
            kind="no step",
            serious=False,
            text="no weight moved in any step, so the audit cannot see a decay.",
            hint="Pass a larger steps=, or check the learning rate.",
            paths=_paths(leaves),
        )
        return [finding]
    if leaves and strengths:
        finding = Finding(
            kind="nothing decays",
            serious=True,
            text=(
                f"a weight decay was given ({_numbers(strengths)}), but no parameter "
                "decays."
            ),
            hint="Check the mask with dx.masks.describe.",
            paths=(),
        )
        return [finding]
    return []


def _two_decays(decaying: Sequence[LeafAudit], declared: DeclaredDecay) -> Finding:
    return Finding(
        kind="two decays at once",
        serious=not declared.masked,
        text=(
            f"the optimizer contains {declared.max_per_parameter} weight decays "
            f"({_numbers(declared.strengths)})."
        ),
        hint="Remove one. Note that optax.adamw has weight_decay=1e-4 by default.",
        paths=_paths(decaying),
    )


def _paths(leaves: Sequence[LeafAudit]) -> tuple[str, ...]:
    return tuple(leaf.path for leaf in leaves)


def _range(leaves: list[LeafAudit]) -> str:
    """The absolute rates: one number if they are within 1 %, else a range."""
    rates = [abs(leaf.rate) for leaf in leaves]
    low, high = min(rates), max(rates)
    return f"{high:.3g}" if low > 0.99 * high else f"{low:.3g} to {high:.3g}"


def _by_gradient(leaf: LeafAudit) -> str:
    rates = ", ".join(
        f"{rate:.3g} at |g| = {scale:g}" for scale, rate in leaf.by_gradient_scale
    )
    return f"Rates of {leaf.path}: {rates}"


def _dtypes(leaves: list[LeafAudit]) -> str:
    return ", ".join(sorted({leaf.dtype for leaf in leaves}))


def _smallest(leaves: list[LeafAudit]) -> str:
    """The smallest surviving fraction in percent; 0 % if all leaves overflow."""
    fractions = [leaf.surviving_fraction or 0.0 for leaf in leaves]
    finite = [fraction for fraction in fractions if np.isfinite(fraction)]
    return f"{max(min(finite, default=0.0), 0.0):.0%}"


def _numbers(strengths: Sequence[float]) -> str:
    return ", ".join("a schedule" if np.isnan(s) else f"{s:g}" for s in strengths)
