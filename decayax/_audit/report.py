"""The result of an audit: plain data, a table, and a check."""

import dataclasses
import html
import math
from collections.abc import Collection

from decayax._audit.findings import Finding, GRADIENT, NONE
from decayax._audit.leaf import LeafAudit
from decayax._core.table import aligned


@dataclasses.dataclass(frozen=True, repr=False)
class Audit:
    """What decay an optimizer really applies; prints as a table with findings."""

    leaves: tuple[LeafAudit, ...]
    findings: tuple[Finding, ...]  # most serious first
    steps: int
    elementwise: bool  # each weight's update is its own
    sampled: bool  # followed on some weights of each leaf

    def check(self, allow: Collection[str] = ()) -> None:
        """Raise a ValueError for serious findings, at the head of a training script.

        Args:
            allow: kinds of findings that are meant, such as "gradient-dependent" for
                an L2 term on purpose.
        """
        serious = [f for f in self.findings if f.serious and f.kind not in allow]
        if serious:
            kinds = ", ".join(
                repr(kind) for kind in dict.fromkeys(f.kind for f in serious)
            )
            raise ValueError(
                "\n".join(["audit:", *map(str, serious)])
                + f"\nIf this is meant, write check(allow=[{kinds}])."
            )

    def __str__(self) -> str:
        return "\n".join([*aligned(self._cells()), self._how(), *self._said()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        header, *rows = self._cells()

        def line(cells: tuple[str, ...], tag: str) -> str:
            inner = "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells)
            return f"<tr>{inner}</tr>"

        body = "".join(line(row, "td") for row in rows)
        said = "".join(f"<li>{html.escape(text)}</li>" for text in self._said())
        return (
            f"<table><thead>{line(header, 'th')}</thead><tbody>{body}</tbody></table>"
            f"<p>{html.escape(self._how())}</p><ul>{said}</ul>"
        )

    def _cells(self) -> list[tuple[str, ...]]:
        """The header and a row for every leaf, without columns that say nothing."""
        scales = (
            [scale for scale, _ in self.leaves[0].by_gradient_scale]
            if self.leaves
            else []
        )
        varied = any(leaf.mode == GRADIENT for leaf in self.leaves)
        known = any(leaf.follows_learning_rate is not None for leaf in self.leaves)
        narrow = any(leaf.survives is not None for leaf in self.leaves)
        header = ["parameter", "dtype", "mode", "rate/step", "half-life"]
        header += [f"at |g|={scale:g}" for scale in scales] if varied else []
        header += ["follows lr"] if known else []
        header += ["survives"] if narrow else []
        table = [tuple(header)]
        for leaf in self.leaves:
            none = leaf.mode == NONE
            row = [leaf.path, leaf.dtype, leaf.mode]
            row += ["0", "never"] if none else [_rate(leaf.rate), _steps(leaf)]
            if varied:
                row += ["" if none else _rate(r) for _, r in leaf.by_gradient_scale]
            if known:
                row += [
                    {True: "yes", False: "no", None: ""}[leaf.follows_learning_rate]
                ]
            if narrow:
                row += [_share(leaf.survives)]
            table.append(tuple(row))
        return table

    def _how(self) -> str:
        whole = "a sample of each leaf" if self.sampled else "every weight"
        return f"followed over {self.steps} steps on {whole}"

    def _said(self) -> list[str]:
        if not self.findings:
            return ["nothing to find fault with"]
        return [f"{'!' if f.serious else '-'} {f}" for f in self.findings]


def _share(share: float | None) -> str:
    if share is None:
        return ""
    return f"{max(share, 0.0):.0%}" if math.isfinite(share) else "overflows"


def _rate(rate: float) -> str:
    return f"{rate:.3g}"


def _steps(leaf: LeafAudit) -> str:
    if leaf.rate < 0:
        doubled = math.log(2.0) / math.log1p(-leaf.rate)
        return f"doubles in {doubled:.3g}"
    return f"{leaf.half_life_steps:.4g} steps"
