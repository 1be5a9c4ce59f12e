"""The result of an audit: plain data, a table, and a check."""

import dataclasses
import html
import math
from collections.abc import Collection

from decayax._audit.findings import Finding
from decayax._audit.leaf import LeafAudit
from decayax._audit.modes import GRADIENT_DEPENDENT, NONE
from decayax._core.table import aligned


@dataclasses.dataclass(frozen=True, repr=False)
class Audit:
    """What decay an optimizer really applies: the result of ``audit``.

    ``print`` it for a table with the findings; notebooks show it as HTML.

    Attributes:
        leaves: the decay of each inexact parameter, in the order of the params. Empty
            if the optimizer is not auditable.
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

    def check(self, allow: Collection[str] = ()) -> None:
        """Raise a ValueError for serious findings. Call it before training.

        Args:
            allow: kinds of findings that are intended, such as "gradient-dependent"
                for an L2 term.
        """
        serious = [f for f in self.findings if f.serious and f.kind not in allow]
        if serious:
            # dict.fromkeys removes duplicates and keeps the order.
            kinds = ", ".join(map(repr, dict.fromkeys(f.kind for f in serious)))
            lines = [
                "audit: the decay has serious problems.",
                *map(str, serious),
                f"If this is intended, write check(allow=[{kinds}]).",
            ]
            raise ValueError("\n".join(lines))

    def __str__(self) -> str:
        lines = [*aligned(self._table()), self._method(), *self._finding_lines()]
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        header, *rows = self._table()

        def line(cells: tuple[str, ...], tag: str) -> str:
            inner = "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells)
            return f"<tr>{inner}</tr>"

        body = "".join(line(row, "td") for row in rows)
        findings = "".join(
            f"<li>{html.escape(text)}</li>" for text in self._finding_lines()
        )
        return (
            f"<table><thead>{line(header, 'th')}</thead><tbody>{body}</tbody></table>"
            f"<p>{html.escape(self._method())}</p><ul>{findings}</ul>"
        )

    def _table(self) -> list[tuple[str, ...]]:
        """The header and a row for every leaf; optional columns only if needed."""
        scales = [s for s, _ in self.leaves[0].by_gradient_scale] if self.leaves else []
        varied = any(leaf.mode == GRADIENT_DEPENDENT for leaf in self.leaves)
        factory = any(leaf.follows_learning_rate is not None for leaf in self.leaves)
        rounded = any(leaf.surviving_fraction is not None for leaf in self.leaves)
        header = ["parameter", "dtype", "mode", "rate/step", "half-life"]
        header += [f"at |g|={scale:g}" for scale in scales] if varied else []
        header += ["follows lr"] if factory else []
        header += ["survives"] if rounded else []
        table = [tuple(header)]
        for leaf in self.leaves:
            none = leaf.mode == NONE
            row = [leaf.path, leaf.dtype, leaf.mode]
            row += ["0", "never"] if none else [_rate(leaf.rate), _half_life(leaf)]
            if varied:
                row += ["" if none else _rate(r) for _, r in leaf.by_gradient_scale]
            if factory:
                yes_no = {True: "yes", False: "no", None: ""}
                row += [yes_no[leaf.follows_learning_rate]]
            if rounded:
                row += [_percent(leaf.surviving_fraction)]
            table.append(tuple(row))
        return table

    def _method(self) -> str:
        weights = "a sample of each leaf" if self.sampled else "every weight"
        return f"measured over {self.steps} steps on {weights}"

    def _finding_lines(self) -> list[str]:
        if not self.findings:
            return ["no problems found"]
        return [f"{'!' if f.serious else '-'} {f}" for f in self.findings]


def _percent(fraction: float | None) -> str:
    if fraction is None:
        return ""
    return f"{max(fraction, 0.0):.0%}" if math.isfinite(fraction) else "overflows"


def _rate(rate: float) -> str:
    return f"{rate:.3g}"


def _half_life(leaf: LeafAudit) -> str:
    if leaf.rate < 0:
        doubling = math.log(2.0) / math.log1p(-leaf.rate)
        return f"doubles in {doubling:.3g}"
    return f"{leaf.half_life_steps:.4g} steps"
