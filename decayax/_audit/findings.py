"""Findings: what is wrong with a decay, what it means, and what to write instead."""

import math
from collections.abc import Sequence

import numpy as np

from decayax._audit.checks import CHECKS, decays
from decayax._audit.declared import DeclaredDecay
from decayax._audit.finding import Evidence, Finding
from decayax._audit.leaf import LeafAudit
from decayax._audit.modes import NONE
from decayax._audit.unseen import find_unseen, UNSEEN_KINDS
from decayax._core.paths import summarize_paths
from decayax._core.symmetry import Symmetries


TOO_SHORT = "half-life too short"
KINDS = {
    *(finding.kind for finding in CHECKS),
    *UNSEEN_KINDS,
    TOO_SHORT,
    "two decays at once",
    "no step",
    "nothing decays",
    "nothing decays so far",
    "nothing to audit",
    "not auditable",
}
MIN_HALF_LIFE = 69.0  # steps, a rate of 1e-2; hardly a run is that short
# A decay that is not multiplied by the learning rate is usually 1e-6 to 1e-4.
MAX_INDEPENDENT_RATE = 1e-3


NOTHING_TO_AUDIT = Finding(
    kind="nothing to audit",
    serious=True,
    text="the parameters hold no floating-point number.",
    hint="Pass the parameters that the optimizer trains.",
)


def find(
    evidence: Sequence[Evidence],
    declared: DeclaredDecay,
    weight_decay: float | None,
    symmetries: Symmetries | None = None,
) -> tuple[Finding, ...]:
    """All findings, serious ones first.

    ``weight_decay`` is the strength that, as the user says, the optimizer was given.
    """
    findings = [
        _about(affected, finding)
        for finding, applies in CHECKS.items()
        if (affected := [e for e in evidence if applies(e)])
    ]
    findings += _too_short_for_any_run([e.leaf for e in evidence], declared)
    findings += _of_all(evidence, declared, weight_decay)
    findings += find_unseen(evidence, symmetries) if symmetries is not None else []
    return tuple(sorted(findings, key=lambda finding: not finding.serious))


def _too_short_for_any_run(
    leaves: Sequence[LeafAudit], declared: DeclaredDecay
) -> list[Finding]:
    """The finding about half-lives that cannot be meant."""

    def is_independent(leaf: LeafAudit) -> bool:
        # A rate that is the given strength is not multiplied by the learning rate.
        rate = _largest_rate(leaf)
        given = [abs(rate / strength - 1.0) < 0.01 for strength in declared.strengths]
        return True in given and rate >= MAX_INDEPENDENT_RATE

    independent = [leaf for leaf in leaves if is_independent(leaf)]
    others = [leaf for leaf in leaves if leaf not in independent]
    return too_short(others, MIN_HALF_LIFE) + too_short(independent, math.inf)


def too_short(leaves: Sequence[LeafAudit], min_half_life: float) -> list[Finding]:
    """The finding about half-lives below ``min_half_life`` steps."""
    half_lives = {
        leaf: math.log(2.0) / -math.log1p(-_largest_rate(leaf))
        for leaf in leaves
        if decays(leaf) and 0.0 < _largest_rate(leaf) < 1.0
    }
    short = [leaf for leaf, steps in half_lives.items() if steps < min_half_life]
    if not short:
        return []
    rate = max(map(_largest_rate, short))
    return [
        Finding(
            kind=TOO_SHORT,
            serious=True,
            text=f"half of a weight of {_paths(short)} is lost after "
            f"{min(half_lives[leaf] for leaf in short):.4g} of the steps, at a rate of "
            f"{rate:.3g} per step.",
            hint="Pass a smaller strength. If the learning rate should multiply it, "
            "place the decay before the learning rate. check(steps=...) compares with "
            "the length of the run.",
            paths=tuple(leaf.path for leaf in short),
        )
    ]


def _largest_rate(leaf: LeafAudit) -> float:
    """The largest rate that was measured at any step."""
    return max([leaf.rate, *(rate for _, rate in leaf.by_step)])


def _of_all(
    evidence: Sequence[Evidence],
    declared: DeclaredDecay,
    weight_decay: float | None,
) -> list[Finding]:
    """The finding about all leaves together, if there is one."""
    leaves = [e.leaf for e in evidence]
    if [leaf for leaf in leaves if leaf.mode != NONE]:
        return _two_decays(leaves, declared) if declared.max_per_parameter > 1 else []
    if leaves and not any(leaf.depends_on_gradient for leaf in leaves):
        return [NO_STEP._replace(paths=tuple(leaf.path for leaf in leaves))]
    if later := [e for e in evidence if e.later_rate]:
        return _later(later)
    strengths = [*declared.strengths, *([weight_decay] if weight_decay else [])]
    return _nothing_decays(leaves, strengths) if leaves and strengths else []


NO_STEP = Finding(
    kind="no step",
    serious=True,
    text="no weight moved in any step, so the audit cannot see a decay.",
    hint="Pass at_steps= with later steps, or check the learning rate.",
)


def _two_decays(leaves: Sequence[LeafAudit], declared: DeclaredDecay) -> list[Finding]:
    finding = Finding(
        kind="two decays at once",
        serious=not declared.masked,
        text=f"the optimizer contains {declared.max_per_parameter} weight decays "
        f"({_numbers(declared.strengths)}).",
        hint="Remove one. Note that optax.adamw has weight_decay=1e-4 by default.",
        paths=tuple(leaf.path for leaf in leaves if leaf.mode != NONE),
    )
    return [finding]


def _later(evidence: Sequence[Evidence]) -> list[Finding]:
    step, rate = evidence[0].later_rate or (0, 0.0)
    leaves = [e.leaf for e in evidence]
    finding = Finding(
        kind="nothing decays so far",
        serious=False,
        text="in the measured steps nothing decays, but at step "
        f"{step} the rate of {_paths(leaves)} is {rate:.3g} per step.",
        hint="Pass horizon=, the number of steps of the run, or at_steps=.",
        paths=tuple(leaf.path for leaf in leaves),
    )
    return [finding]


def _nothing_decays(
    leaves: Sequence[LeafAudit], strengths: Sequence[float]
) -> list[Finding]:
    # nan is not small
    rates = [r for leaf in leaves if 0.0 < (r := abs(leaf.rate_from_jvp)) < 1e-9]
    text = f"a weight decay was given ({_numbers(strengths)}), but no parameter decays."
    hint = (
        "Check the mask with dx.masks.describe, and whether a projection such as "
        "dx.fixed_norm restores the norm."
    )
    if rates:
        text = (
            f"a weight decay was given ({_numbers(strengths)}), but the rate is "
            f"{max(rates):.1g} per step at most, which is below the resolution of the "
            "audit."
        )
        hint = "Check the learning rate, which multiplies the decay."
    return [Finding("nothing decays", True, text, hint)]


def _about(evidence: Sequence[Evidence], finding: Finding) -> Finding:
    """The finding with the paths and the numbers of these leaves."""
    leaves = [e.leaf for e in evidence]
    rates = [abs(leaf.rate) for leaf in leaves]
    low, high = min(rates), max(rates)
    by_scale = leaves[0].by_gradient_scale
    # Adding 0.0 makes 0 of −0.
    of_first = ", ".join(f"{r + 0.0:.3g} at |g| = {scale:g}" for scale, r in by_scale)
    # An overflow is nan; if all leaves overflow, 0 % survives.
    fractions = [leaf.surviving_fraction or 0.0 for leaf in leaves]
    smallest = min(filter(np.isfinite, fractions), default=0.0)
    quarters = np.array_split(np.array(leaves[0].over_time), 4)
    first, last = (
        float(np.mean(quarters[i])) if len(quarters[i]) else 0.0 for i in (0, -1)
    )
    names = {
        "paths": _paths(leaves),
        "rates": f"{high:.3g}" if low > 0.99 * high else f"{low:.3g} to {high:.3g}",
        "first": f"{leaves[0].path}: {of_first}",
        "spread": "{:.3g} to {:.3g}".format(*(x + 0.0 for x in evidence[0].extremes)),
        "dtypes": ", ".join(sorted({leaf.dtype for leaf in leaves})),
        "smallest": f"{max(smallest, 0.0):.0%}",
        "when": evidence[0].not_finite,
        "steps": (steps := len(leaves[0].over_time)),
        "more_steps": 5 * steps,
        "clipped_to": f"{min(e.clipped_to for e in evidence):.0%}",
        "ends": f"from {first:.3g} in the first quarter to {last:.3g} in the last one",
        "share": f"{min(e.share_of_steps for e in evidence):.0%}",
    }
    return finding._replace(
        text=finding.text.format(**names),
        hint=finding.hint.format(**names),
        paths=tuple(leaf.path for leaf in leaves),
    )


def _paths(leaves: Sequence[LeafAudit]) -> str:
    return summarize_paths(leaf.path for leaf in leaves)


def _numbers(strengths: Sequence[float]) -> str:
    return ", ".join("a schedule" if np.isnan(s) else f"{s:g}" for s in strengths)
