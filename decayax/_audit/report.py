"""The result of an audit: plain data, a table, and a check."""

import dataclasses
import html
import math
from collections.abc import Collection
from typing import Any

from decayax._audit.checks import rounding_is_unknown
from decayax._audit.finding import Finding
from decayax._audit.findings import KINDS, TOO_SHORT, too_short
from decayax._audit.leaf import LeafAudit
from decayax._audit.modes import GRADIENT_DEPENDENT, NONE
from decayax._core.strength import short_repr
from decayax._core.table import aligned, html_table


@dataclasses.dataclass(frozen=True, repr=False)
class Audit:
    """What decay an optimizer really applies: the result of ``audit``.

    ``print`` it for a table with the findings; notebooks show it as HTML.

    Attributes:
        leaves: the decay of each inexact parameter, in the order of the params. Empty
            if there is nothing to audit, or the optimizer is not auditable.
        findings: problems, serious ones first. Empty if there are none.
        steps: the number of steps that were measured.
        elementwise: whether each weight's update depends on this weight only. False if
            the optimizer is not auditable.
        sampled: whether only a sample of each leaf was measured, and not all weights.
    """

    leaves: tuple[LeafAudit, ...]
    findings: tuple[Finding, ...]
    steps: int
    elementwise: bool
    sampled: bool

    def check(
        self,
        allow: Collection[str] = (),
        *,
        steps: int | None = None,
        min_half_life: float | None = None,
    ) -> None:
        """Raise a ValueError for serious findings. Call it before training.

        Args:
            allow: kinds of findings that are intended, such as "gradient-dependent"
                for an L2 term.
            steps: the number of steps of the run. A half-life is too short if it is
                shorter than 1 % of the run, and not, as without this argument, if it is
                shorter than 69 steps.
            min_half_life: the shortest half-life that is allowed, in steps.
        """
        serious = self.failures(allow, steps=steps, min_half_life=min_half_life)
        if serious:
            # dict.fromkeys removes duplicates and keeps the order.
            kinds = ", ".join(map(repr, dict.fromkeys(f.kind for f in serious)))
            problems = "\n".join(map(str, serious))
            raise ValueError(
                f"audit: the decay has serious problems.\n{problems}\n"
                f"If this is intended, write check(allow=[{kinds}])."
            )

    def failures(
        self,
        allow: Collection[str] = (),
        *,
        steps: int | None = None,
        min_half_life: float | None = None,
    ) -> list[Finding]:
        """The findings because of which ``check`` raises, for the same arguments."""
        _require_check_arguments(allow, steps, min_half_life)
        if min_half_life is None and steps is not None:
            min_half_life = steps / 100
        findings = list(self.findings)
        if min_half_life is not None:
            findings = [f for f in findings if f.kind != TOO_SHORT]
            findings += too_short(self.leaves, min_half_life)
        return [f for f in findings if f.serious and f.kind not in allow]

    def __str__(self) -> str:
        return "\n".join([*aligned(self._table()), *self._notes()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        method, *findings = map(html.escape, self._notes())
        items = "".join(f"<li>{finding}</li>" for finding in findings)
        return f"{html_table(self._table())}<p>{method}</p><ul>{items}</ul>"

    def _table(self) -> list[tuple[str, ...]]:
        """The header and a row for every leaf; optional columns only if needed."""
        leaves = self.leaves
        columns = [
            ["parameter", *(leaf.path for leaf in leaves)],
            ["dtype", *(leaf.dtype for leaf in leaves)],
            ["mode", *(leaf.mode for leaf in leaves)],
            ["rate/step", *(_number(leaf.rate) for leaf in leaves)],
            ["half-life", *map(_half_life, leaves)],
        ]
        if leaves and leaves[0].by_step:
            for i, (step, _) in enumerate(leaves[0].by_step):
                rates = [_number(leaf.by_step[i][1]) for leaf in leaves]
                columns.append([f"at step {step}", *rates])
        if any(leaf.kept is not None for leaf in leaves):
            columns.append(["kept", *map(_kept, leaves)])
        if any(leaf.mode == GRADIENT_DEPENDENT for leaf in leaves):
            for i, (scale, _) in enumerate(leaves[0].by_gradient_scale):
                rates = [_rate_at_scale(leaf, i) for leaf in leaves]
                columns.append([f"at |g|={scale:g}", *rates])
        if any(leaf.follows_learning_rate is not None for leaf in leaves):
            yes_no = {True: "yes", False: "no", None: ""}
            follows = [yes_no[leaf.follows_learning_rate] for leaf in leaves]
            columns.append(["follows lr", *follows])
        if any(map(_surviving, leaves)):
            columns.append(["survives", *map(_surviving, leaves)])
        return list(zip(*columns, strict=True))

    def _notes(self) -> list[str]:
        """How it was measured, and a line for each finding."""
        weights = "a sample of each leaf" if self.sampled else "every weight"
        method = f"measured over {self.steps} steps on {weights}"
        if self.leaves and self.leaves[0].by_step:
            method += ", from the step on where the decay is fastest"
        findings = [f"{'!' if f.serious else '-'} {f}" for f in self.findings]
        return [method, *(findings or ["no problems found"])]


def _require_check_arguments(
    allow: Collection[str], steps: int | None, min_half_life: float | None
) -> None:
    if isinstance(allow, str):
        raise TypeError(f"audit: allow must be a list of kinds. Pass [{allow!r}].")
    for name, value in {"steps": steps, "min_half_life": min_half_life}.items():
        if value is not None and not (_is_number(value) and value > 0):
            raise ValueError(
                f"check: {name} must be a number of steps > 0, got "
                f"{short_repr(value)}. Pass 10_000, for example."
            )
    unknown = [kind for kind in allow if kind not in KINDS]
    if unknown:
        raise ValueError(
            f"check: allow must be kinds of findings, got {unknown[0]!r}. Pass "
            f"some of {', '.join(sorted(KINDS))}."
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _half_life(leaf: LeafAudit) -> str:
    if leaf.mode == NONE:
        return "never"
    if math.isnan(leaf.rate):
        return ""
    if leaf.rate < 0:
        return f"doubles in {math.log(2.0) / math.log1p(-leaf.rate):.3g}"
    return f"{leaf.half_life_steps:.4g} steps"


def _number(rate: float) -> str:
    # Adding 0.0 makes 0 of −0.
    return "" if math.isnan(rate) else f"{rate + 0.0:.3g}"


def _kept(leaf: LeafAudit) -> str:
    if leaf.kept is None or math.isnan(leaf.kept):
        return ""
    return f"{leaf.kept:.1%}"


def _rate_at_scale(leaf: LeafAudit, index: int) -> str:
    return "" if leaf.mode == NONE else f"{leaf.by_gradient_scale[index][1]:.3g}"


def _surviving(leaf: LeafAudit) -> str:
    if leaf.surviving_fraction is None:
        return "?" if rounding_is_unknown(leaf) else ""
    if math.isfinite(leaf.surviving_fraction):
        return f"{max(leaf.surviving_fraction, 0.0):.0%}"
    return "overflows"
