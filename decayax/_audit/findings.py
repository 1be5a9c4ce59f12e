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
    paths: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind}: {self.text} {self.hint}"


# Each problem, and whether a decaying leaf has it. `_about` fills in the {names}.
CHECKS: dict[Finding, Callable[[LeafAudit], bool]] = {
    Finding(
        kind="growth",
        serious=True,
        text="the weights of {paths} grow by a fraction of {rates} per step. The decay "
        "has the wrong sign.",
        hint="After the learning rate, updates are negative. Use dx.independent_decay "
        "there, or place the decay before the learning rate.",
    ): lambda leaf: leaf.mode == GROWTH,
    Finding(
        kind="rate of 1 or more",
        serious=True,
        text="the rate of {paths} is {rates} per step. A rate of 1 sets the weights to "
        "0 in every step; a larger rate flips their sign.",
        hint="Pass a smaller weight_decay. If it should be multiplied by the learning "
        "rate, place the decay before the learning rate.",
    ): lambda leaf: leaf.rate >= 1.0,
    Finding(
        kind="gradient-dependent",
        serious=True,
        text="the decay of {paths} depends on the gradients. Rates of {first}.",
        hint="An L2 term passes through the preconditioner. For the same rate in all "
        "weights, place dx.decoupled_decay after the preconditioner, as dx.adamw and "
        "dx.rmspropw do.",
    ): lambda leaf: leaf.mode == GRADIENT_DEPENDENT,
    Finding(
        kind="lost in rounding",
        serious=True,
        text="rounding to {dtypes} removes more than half of the decay of {paths}. The "
        "smallest fraction that survives is {smallest}.",
        hint="A weight times 1 - rate rounds back to the same weight. Wrap the "
        "optimizer in dx.with_compensation or dx.with_stochastic_rounding.",
        # `not >= 0.5` and not `< 0.5`: nan, an overflow, is a loss too.
    ): lambda leaf: (
        leaf.surviving_fraction is not None and not leaf.surviving_fraction >= 0.5
    ),
    Finding(
        kind="decay without gradient",
        serious=True,
        text="these parameters get no gradient, but decay: {paths}.",
        hint="If they are frozen, exclude them with False in mask=, or place the "
        "freeze after the decay.",
    ): lambda leaf: not leaf.depends_on_gradient,
    Finding(
        kind="biases or norms decay",
        serious=False,
        text="these biases or norm scales decay: {paths}.",
        hint="Pass mask=dx.masks.no_bias_or_norm, unless this is intended.",
    ): lambda leaf: leaf.role in ("bias", "norm_scale"),
    Finding(
        kind="scale-dependent",
        serious=False,
        text="the decay rate of {paths} depends on the size of the weights.",
        hint="A trust ratio rescales the decay together with the update.",
    ): lambda leaf: leaf.mode == SCALE_DEPENDENT,
}


def not_auditable(reason: str) -> Finding:
    """The finding for an optimizer that cannot be run."""
    return Finding(
        kind="not auditable",
        serious=True,
        text=f"the audit cannot make up an argument of the optimizer ({reason}).",
        hint="Pass it in extra_args=.",
    )


NOTHING_TO_AUDIT = Finding(
    kind="nothing to audit",
    serious=True,
    text="the parameters hold no floating-point number.",
    hint="Pass the parameters that the optimizer trains.",
)


def find(
    leaves: Sequence[LeafAudit], declared: DeclaredDecay, weight_decay: float | None
) -> tuple[Finding, ...]:
    """All findings, serious ones first.

    ``weight_decay`` is the strength that, as the user says, the optimizer was given.
    """
    decaying = [leaf for leaf in leaves if leaf.mode != NONE]
    findings = [
        _about(affected, finding)
        for finding, applies in CHECKS.items()
        if (affected := [leaf for leaf in decaying if applies(leaf)])
    ]
    strengths = [*declared.strengths, *([weight_decay] if weight_decay else [])]
    of_all: Finding | None = None
    if decaying and declared.max_per_parameter > 1:
        of_all = Finding(
            kind="two decays at once",
            serious=not declared.masked,
            text=f"the optimizer contains {declared.max_per_parameter} weight decays "
            f"({_numbers(declared.strengths)}).",
            hint="Remove one. Note that optax.adamw has weight_decay=1e-4 by default.",
            paths=tuple(leaf.path for leaf in decaying),
        )
    elif leaves and not decaying and not any(x.depends_on_gradient for x in leaves):
        of_all = Finding(
            kind="no step",
            serious=False,
            text="no weight moved in any step, so the audit cannot see a decay.",
            hint="Pass a larger steps=, or check the learning rate.",
            paths=tuple(leaf.path for leaf in leaves),
        )
    elif leaves and not decaying and strengths:
        of_all = Finding(
            kind="nothing decays",
            serious=True,
            text=f"a weight decay was given ({_numbers(strengths)}), but no parameter "
            "decays.",
            hint="Check the mask with dx.masks.describe.",
        )
    findings += [of_all] if of_all else []
    return tuple(sorted(findings, key=lambda finding: not finding.serious))


def _about(leaves: Sequence[LeafAudit], finding: Finding) -> Finding:
    """The finding with the paths and the numbers of these leaves."""
    paths = tuple(leaf.path for leaf in leaves)
    rates = [abs(leaf.rate) for leaf in leaves]
    low, high = min(rates), max(rates)
    by_scale = leaves[0].by_gradient_scale
    of_first = ", ".join(f"{rate:.3g} at |g| = {scale:g}" for scale, rate in by_scale)
    # An overflow is nan; if all leaves overflow, 0 % survives.
    fractions = [leaf.surviving_fraction or 0.0 for leaf in leaves]
    smallest = min(filter(np.isfinite, fractions), default=0.0)
    text = finding.text.format(
        paths=summarize_paths(paths),
        rates=f"{high:.3g}" if low > 0.99 * high else f"{low:.3g} to {high:.3g}",
        first=f"{paths[0]}: {of_first}",
        dtypes=", ".join(sorted({leaf.dtype for leaf in leaves})),
        smallest=f"{max(smallest, 0.0):.0%}",
    )
    return finding._replace(text=text, paths=paths)


def _numbers(strengths: Sequence[float]) -> str:
    return ", ".join("a schedule" if np.isnan(s) else f"{s:g}" for s in strengths)
