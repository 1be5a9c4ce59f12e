"""Findings: what is wrong with a decay, what it means, and what to write instead."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from decayax._audit import causes
from decayax._audit.declared import DeclaredDecay
from decayax._audit.leaf import LeafAudit
from decayax._audit.modes import (
    ANCHORED,
    CONSTRAINED,
    GATED,
    GRADIENT_DEPENDENT,
    GROWTH,
    NONE,
    NOT_FINITE,
    SCALE_DEPENDENT,
    UNEVEN,
)
from decayax._core.paths import summarize_paths


TOO_SHORT = "half-life too short"
MIN_HALF_LIFE = 69.0  # steps, a rate of 1e-2; hardly a run is that short
# A decay that is not multiplied by the learning rate is usually 1e-6 to 1e-4.
MAX_INDEPENDENT_RATE = 1e-3


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
    paths: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind}: {self.text} {self.hint}"


class Evidence(NamedTuple):
    """A leaf, and what the measurement shows in addition."""

    leaf: LeafAudit
    cause: str  # of a dependence on gradients or weights
    not_finite: str  # at which gradients, or in which dtype; empty if finite
    clipped_to: float  # the fraction of the decay that a clip leaves
    share_of_steps: float  # in which the weights decay, of those in which they move
    still_changes: bool
    proportional: bool  # steps in proportion to the weights, without decay
    may_decay_later: bool  # the update depends on the weights, but not in these steps


# Each problem, and whether a leaf has it. `_about` fills in the {names}.
CHECKS: dict[Finding, Callable[[Evidence], bool]] = {
    Finding(
        kind=NOT_FINITE,
        serious=True,
        text="the weights of {paths} become infinite or NaN {when}.",
        hint="Check the learning rate, and divisions by 0.",
    ): lambda e: bool(e.not_finite) and "float" not in e.not_finite,
    Finding(
        kind=NOT_FINITE,
        serious=True,
        text="the weights of {paths} become infinite or NaN {when}.",
        hint="An eps of 1e-8 is 0 in float16. Pass a larger eps, or wrap the optimizer "
        "in dx.with_compensation, which computes in float32.",
    ): lambda e: "float16" in e.not_finite,
    Finding(
        kind=NOT_FINITE,
        serious=True,
        text="the weights of {paths} become infinite or NaN {when}.",
        hint="Train weights in float32 or bfloat16, and cast them for the forward "
        "pass.",
    ): lambda e: "float8" in e.not_finite or "float4" in e.not_finite,
    Finding(
        kind=GROWTH,
        serious=True,
        text="the weights of {paths} grow by a fraction of {rates} per step. The decay "
        "has the wrong sign.",
        hint="After the learning rate, updates are negative. Use dx.independent_decay "
        "there, or place the decay before the learning rate.",
    ): lambda e: e.leaf.mode == GROWTH and e.leaf.rate < 0.0,
    Finding(
        kind=GROWTH,
        serious=True,
        text="some weights of {paths} grow, and others decay. The rates of single "
        "weights are {spread}.",
        hint="Multipliers of a weight decay must be >= 0: check where the decay gets "
        "its sign.",
    ): lambda e: e.leaf.mode == GROWTH and not e.leaf.rate < 0.0,
    Finding(
        kind="rate of 1 or more",
        serious=True,
        text="the rate of {paths} is {rates} per step. A rate of 1 sets the weights to "
        "0 in every step; a larger rate flips their sign.",
        hint="Pass a smaller weight_decay. If it should be multiplied by the learning "
        "rate, place the decay before the learning rate.",
    ): lambda e: e.leaf.rate >= 1.0,
    Finding(
        kind=GRADIENT_DEPENDENT,
        serious=True,
        text="the decay of {paths} depends on the gradients. Rates of {first}.",
        hint="An L2 term passes through the preconditioner. For the same rate in all "
        "weights, place dx.decoupled_decay after the preconditioner, as dx.adamw and "
        "dx.rmspropw do.",
    ): lambda e: e.leaf.mode == GRADIENT_DEPENDENT and e.cause == causes.PRECONDITIONER,
    Finding(
        kind=GRADIENT_DEPENDENT,
        serious=True,
        text="the decay of {paths} depends on the gradients. Rates of {first}.",
        hint="A clip or a normalization divides the decay by a norm of the "
        "gradients. Place dx.decoupled_decay after it.",
    ): lambda e: e.leaf.mode == GRADIENT_DEPENDENT and e.cause == causes.NORM,
    Finding(
        kind=GRADIENT_DEPENDENT,
        serious=True,
        text="the decay of {paths} depends on the gradients. Rates of {first}.",
        hint="A clip of single elements, or another gate, stops the decay of some "
        "weights. Place dx.decoupled_decay after it.",
    ): lambda e: e.leaf.mode == GRADIENT_DEPENDENT and e.cause == causes.GATE,
    Finding(
        kind=GRADIENT_DEPENDENT,
        serious=True,
        text="the decay of {paths} depends on the gradients. Rates of {first}.",
        hint="The decay passes through an operation that depends on the gradients. "
        "Place dx.decoupled_decay after this operation.",
    ): lambda e: e.leaf.mode == GRADIENT_DEPENDENT and e.cause == causes.OTHER,
    Finding(
        kind="clipped",
        serious=True,
        text="a clip or a normalization of the finished step leaves {clipped_to} of "
        "the decay of {paths}.",
        hint="Clip the gradients, or the step before dx.decoupled_decay.",
    ): lambda e: e.clipped_to < 0.5,
    Finding(
        kind="clipped",
        serious=False,
        text="a clip or a normalization of the finished step leaves {clipped_to} of "
        "the decay of {paths}.",
        hint="Clip the gradients, or the step before dx.decoupled_decay.",
    ): lambda e: 0.5 <= e.clipped_to < 0.9,
    Finding(
        kind="lost in rounding",
        serious=True,
        text="rounding to {dtypes} removes more than half of the decay of {paths}. The "
        "smallest fraction that survives is {smallest}.",
        hint="A weight times 1 - rate rounds back to the same weight. Wrap the "
        "optimizer in dx.with_compensation or dx.with_stochastic_rounding.",
    ): lambda e: _lost(e.leaf) and "float16" in e.leaf.dtype,
    Finding(
        kind="lost in rounding",
        serious=True,
        text="rounding to {dtypes} removes more than half of the decay of {paths}. The "
        "smallest fraction that survives is {smallest}.",
        hint="A weight times 1 - rate rounds back to the same weight. Train weights in "
        "float32 or bfloat16, and cast them to {dtypes} for the forward pass.",
    ): lambda e: _lost(e.leaf) and "float16" not in e.leaf.dtype,
    Finding(
        kind="decay without gradient",
        serious=True,
        text="these parameters get no gradient, but decay: {paths}.",
        hint="If they are frozen, exclude them with False in mask=, or place the "
        "freeze after the decay.",
    ): lambda e: not e.leaf.depends_on_gradient and _decays(e.leaf),
    Finding(
        kind=GATED,
        serious=False,
        text="in one step, some weights of {paths} decay and others do not. The mean "
        "rate is {rates}.",
        hint="Cautious weight decay works like this.",
    ): lambda e: e.leaf.mode == GATED and e.cause != causes.ZERO_GRADIENT,
    Finding(
        kind=GATED,
        serious=False,
        text="in {paths}, weights with a gradient and weights without a gradient have "
        "different rates: {spread}.",
        hint="A lazy update skips weights without a gradient. If all weights should "
        "decay, apply the decay to the whole parameter.",
    ): lambda e: e.leaf.mode == GATED and e.cause == causes.ZERO_GRADIENT,
    Finding(
        kind=ANCHORED,
        serious=False,
        text="{paths} are pulled at a rate of {rates} to weights that the state keeps, "
        "such as the initial weights or their average.",
        hint="This pull does not shrink the weights.",
    ): lambda e: e.leaf.mode == ANCHORED,
    Finding(
        kind=UNEVEN,
        serious=False,
        text="single weights of {paths} have different rates, from {spread}.",
        hint="A mask of arrays works like this. dx.masks.describe shows it.",
    ): lambda e: e.leaf.mode == UNEVEN,
    Finding(
        kind=CONSTRAINED,
        serious=False,
        text="the first step moves {paths} to a set, such as a sphere, a box or the "
        "numbers >= 0. Their initial size is lost at once.",
        hint="This is a constraint. It has no decay rate.",
    ): lambda e: e.leaf.mode == CONSTRAINED,
    Finding(
        kind="biases or norms decay",
        serious=False,
        text="these biases or norm scales decay: {paths}.",
        hint="Pass mask=dx.masks.no_bias_or_norm, unless this is intended.",
    ): lambda e: e.leaf.role in ("bias", "norm_scale") and _decays(e.leaf),
    Finding(
        kind=SCALE_DEPENDENT,
        serious=False,
        text="the decay rate of {paths} depends on the size of the weights.",
        hint="A trust ratio rescales the decay together with the update.",
    ): lambda e: e.leaf.mode == SCALE_DEPENDENT and e.cause == causes.TRUST_RATIO,
    Finding(
        kind=SCALE_DEPENDENT,
        serious=False,
        text="the decay rate of {paths} falls with the size of the weights.",
        hint="The pull does not grow with the weights, as in L1 or Huber decay.",
    ): lambda e: e.leaf.mode == SCALE_DEPENDENT and e.cause == causes.CONSTANT_PULL,
    Finding(
        kind=SCALE_DEPENDENT,
        serious=False,
        text="the decay rate of {paths} rises with the size of the weights.",
        hint="The pull grows faster than the weights, such as their third power.",
    ): lambda e: e.leaf.mode == SCALE_DEPENDENT and e.cause == causes.STRONG_PULL,
    Finding(
        kind=SCALE_DEPENDENT,
        serious=False,
        text="the decay rate of {paths} depends on the size of the weights.",
        hint="The decay passes through an operation that depends on this size.",
    ): lambda e: (
        e.leaf.mode == SCALE_DEPENDENT
        and e.cause == causes.OTHER
        and e.clipped_to >= 0.9
    ),
    Finding(
        kind="rate still changes",
        serious=False,
        text="at the end of the measured steps, the rate of {paths} still changes: "
        "{ends}.",
        hint="Pass horizon=, the number of steps of the run, or at_steps=.",
    ): lambda e: e.still_changes,
    Finding(
        kind="not in every step",
        serious=False,
        text="{paths} decay in {share} of the steps only. The mean rate is {rates}.",
        hint="If this is not intended, check what skips the decay.",
    ): lambda e: _decays(e.leaf) and e.share_of_steps < 1.0,
    Finding(
        kind="proportional steps",
        serious=False,
        text="the steps of {paths} are in proportion to the weights, as in "
        "exponentiated gradient descent.",
        hint="They change the size of the weights in both directions. This is not a "
        "decay.",
    ): lambda e: e.proportional,
}


def _decays(leaf: LeafAudit) -> bool:
    return leaf.mode not in (NONE, CONSTRAINED, NOT_FINITE, ANCHORED)


def _lost(leaf: LeafAudit) -> bool:
    # `not >= 0.5` and not `< 0.5`: nan is a loss too.
    return leaf.surviving_fraction is not None and not leaf.surviving_fraction >= 0.5


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
) -> tuple[Finding, ...]:
    """All findings, serious ones first.

    ``weight_decay`` is the strength that, as the user says, the optimizer was given.
    """
    findings = [
        _about(affected, finding)
        for finding, applies in CHECKS.items()
        if (affected := [e for e in evidence if applies(e)])
    ]
    findings += _surely_too_short(evidence, declared)
    findings += _of_all(evidence, declared, weight_decay)
    return tuple(sorted(findings, key=lambda finding: not finding.serious))


def _surely_too_short(
    evidence: Sequence[Evidence], declared: DeclaredDecay
) -> list[Finding]:
    """The finding about half-lives that cannot be meant in any run."""

    def shortest(leaf: LeafAudit) -> float:
        rate = _largest_rate(leaf)
        given = [abs(rate / strength - 1.0) < 0.01 for strength in declared.strengths]
        independent = True in given and rate >= MAX_INDEPENDENT_RATE
        return math.inf if independent else MIN_HALF_LIFE

    return too_short([e.leaf for e in evidence], shortest)


def too_short(
    leaves: Sequence[LeafAudit], shortest: Callable[[LeafAudit], float]
) -> list[Finding]:
    """The finding about half-lives below the ``shortest`` that is allowed, in steps."""
    half_lives = {
        leaf: math.log(2.0) / -math.log1p(-_largest_rate(leaf))
        for leaf in leaves
        if _decays(leaf) and 0.0 < _largest_rate(leaf) < 1.0
    }
    short = [leaf for leaf, steps in half_lives.items() if steps < shortest(leaf)]
    if not short:
        return []
    rate = max(map(_largest_rate, short))
    return [
        Finding(
            kind=TOO_SHORT,
            serious=True,
            text=f"the half-life of {_paths(short)} is only "
            f"{min(half_lives[leaf] for leaf in short):.3g} steps, at a rate of "
            f"{rate:.3g} per step.",
            hint="If the strength should be multiplied by the learning rate, place "
            "the decay before it. If the run is that short, call check(steps=...).",
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
    decaying = [leaf for leaf in leaves if leaf.mode != NONE]
    strengths = [*declared.strengths, *([weight_decay] if weight_decay else [])]
    later = [e.leaf for e in evidence if e.may_decay_later]
    weak = [e.leaf for e in evidence if e.leaf.mode == NONE and e.leaf.rate_from_jvp]
    if decaying and declared.max_per_parameter > 1:
        finding = Finding(
            kind="two decays at once",
            serious=not declared.masked,
            text=f"the optimizer contains {declared.max_per_parameter} weight decays "
            f"({_numbers(declared.strengths)}).",
            hint="Remove one. Note that optax.adamw has weight_decay=1e-4 by default.",
            paths=tuple(leaf.path for leaf in decaying),
        )
    elif leaves and not decaying and not any(x.depends_on_gradient for x in leaves):
        finding = Finding(
            kind="no step",
            serious=True,
            text="no weight moved in any step, so the audit cannot see a decay.",
            hint="Pass at_steps= with later steps, or check the learning rate.",
            paths=tuple(leaf.path for leaf in leaves),
        )
    elif later and not decaying:
        finding = Finding(
            kind="nothing decays so far",
            serious=False,
            text=f"the updates of {_paths(later)} depend on the weights, but not in "
            "the measured steps.",
            hint="If the decay begins later or pauses, pass at_steps= or a larger "
            "steps=.",
            paths=tuple(leaf.path for leaf in later),
        )
    elif leaves and not decaying and strengths and weak:
        rate = max(abs(leaf.rate_from_jvp) for leaf in weak)
        finding = Finding(
            kind="nothing decays",
            serious=True,
            text=f"a weight decay was given ({_numbers(strengths)}), but the rate is "
            f"{rate:.1g} per step at most, which is below the resolution of the audit.",
            hint="Check the learning rate, which multiplies the decay.",
        )
    elif leaves and not decaying and strengths:
        finding = Finding(
            kind="nothing decays",
            serious=True,
            text=f"a weight decay was given ({_numbers(strengths)}), but no parameter "
            "decays.",
            hint="Check the mask with dx.masks.describe.",
        )
    else:
        return []
    return [finding]


def _about(evidence: Sequence[Evidence], finding: Finding) -> Finding:
    """The finding with the paths and the numbers of these leaves."""
    leaves = [e.leaf for e in evidence]
    rates = [abs(leaf.rate) for leaf in leaves]
    low, high = min(rates), max(rates)
    by_scale = leaves[0].by_gradient_scale
    of_first = ", ".join(f"{rate:.3g} at |g| = {scale:g}" for scale, rate in by_scale)
    # An overflow is nan; if all leaves overflow, 0 % survives.
    fractions = [leaf.surviving_fraction or 0.0 for leaf in leaves]
    smallest = min(filter(np.isfinite, fractions), default=0.0)
    first, last = leaves[0].over_time[0], leaves[0].over_time[-1]
    names = {
        "paths": _paths(leaves),
        "rates": f"{high:.3g}" if low > 0.99 * high else f"{low:.3g} to {high:.3g}",
        "first": f"{leaves[0].path}: {of_first}",
        "spread": "{:.3g} to {:.3g}".format(*leaves[0].spread),
        "dtypes": ", ".join(sorted({leaf.dtype for leaf in leaves})),
        "smallest": f"{max(smallest, 0.0):.0%}",
        "when": evidence[0].not_finite,
        "clipped_to": f"{min(e.clipped_to for e in evidence):.0%}",
        "ends": f"from {first:.3g} in the first step to {last:.3g} in the last",
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
