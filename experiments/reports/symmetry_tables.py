"""The tables of `symmetry`."""

from collections.abc import Callable
from typing import Any

from experiments.reports import markdown
from experiments.reports.symmetry_numbers import shown
from experiments.reports.symmetry_rows import (
    Equilibrium,
    Ratio,
    Scaled,
    SymmetryNumbers,
    Training,
)


def kinds_table(found: SymmetryNumbers) -> str:
    columns: dict[str, Callable[[Any], str]] = {
        "network": lambda row: row[0],
        "kind": lambda row: row[1],
        "leaves": lambda row: row[2],
        "weights": lambda row: row[3],
        "which": lambda row: row[4],
    }
    return markdown.table(found.kinds, columns, left=5)


def equilibria_table(rows: list[Equilibrium]) -> str:
    columns: dict[str, Callable[[Equilibrium], str]] = {
        "setting": lambda row: row.setting,
        "measure": lambda row: row.measure,
        "invariant %": lambda row: f"{100 * row.invariant:.1f}",
        "range of the ratio": lambda row: "{:.2f} to {:.2f}".format(*row.span),
        "other %": lambda row: f"{100 * row.other:.1f}",
        "range of their ratio": lambda row: "{:.2f} to {:.2f}".format(*row.other_span),
        "other − invariant [95 %]": lambda row: markdown.estimate(
            _in_percent(row.difference), 1, sign=True
        ),
        "p (Holm)": lambda row: f"{row.p_holm:.2g}",
    }
    return markdown.table(rows, columns, left=2)


def ratios_table(rows: list[Ratio]) -> str:
    columns: dict[str, Callable[[Ratio], str]] = {
        "setting": lambda row: row.setting,
        "kind": lambda row: row.kind,
        "angle": lambda row: _three(row.angle),
        "norm": lambda row: _three(row.norm),
        "norm / √(nγ/2λ)": lambda row: _three(row.free) if row.free else "–",
    }
    return markdown.table(rows, columns, left=2)


def farthest_table(found: SymmetryNumbers) -> str:
    columns: dict[str, Callable[[Any], str]] = {
        "setting": lambda row: row[0],
        "invariant leaf that is farthest from its angle": lambda row: f"`{row[1]}`",
        "angle": lambda row: f"{row[2]:.2f}",
        "norm": lambda row: f"{row[3]:.2f}",
    }
    return markdown.table(found.farthest, columns, left=2)


def _three(numbers: tuple[float, float, float]) -> str:
    return "{:.3g} [{:.2g}, {:.2g}]".format(*numbers)


def _in_percent(estimate: Any) -> Any:
    mean, low, high, p = estimate
    return type(estimate)(100 * mean, 100 * low, 100 * high, p)


def points(plan: dict[str, Any]) -> str:
    """Each point, and the length of its runs."""
    lines = []
    for optimizer, points in plan["points"].items():
        texts = [
            f"γ = {rate:g}, λ = {decay:g} ({plan['timescales'] / (rate * decay):.0f} "
            "steps)"
            for rate, decay in points
        ]
        name = f"{shown(optimizer)}, β = {plan['betas'][optimizer]:g}"
        lines.append(f"- **{name}.** {'; '.join(texts)}.")
    return "\n".join(lines)


def rate_and_decay(pair: list[float]) -> str:
    return f"γ = {pair[0]:g}, λ = {pair[1]:g}"


def scaled_table(rows: list[Scaled]) -> str:
    def step(number: int) -> Callable[[Scaled], str]:
        return lambda row: (
            "{:.3f} [{:.3f}, {:.3f}]".format(*row.steps[number]) if row.steps else "–"
        )

    columns: dict[str, Callable[[Scaled], str]] = {
        "network": lambda row: row.network,
        "what is multiplied by 1/2": lambda row: row.what,
        "logits, median": lambda row: f"{row.logits:.1e}",
        "largest": lambda row: f"{row.logits_max:.1e}",
        "without ε, largest": lambda row: f"{row.limit_max:.1e}",
        "loss, median": lambda row: f"{row.loss:+.1e}",
        "SGD step": step(0),
        "Adam step": step(1),
    }
    return markdown.table(rows, columns, left=2)


def training_table(rows: list[Training]) -> str:
    columns: dict[str, Callable[[Training], str]] = {
        "setting": lambda row: row.setting,
        "leaves": lambda row: row.leaves if row.matched else "–",
        "arm": lambda row: row.arm,
        "final loss − decay [95 %]": lambda row: markdown.estimate(
            row.difference, 4, sign=True
        ),
        "p (Holm)": lambda row: f"{row.p_holm:.2g}",
        "gap, % of the effect [95 %]": lambda row: (
            "{:.3g} [{:.3g}, {:.3g}]".format(*(100 * x for x in row.share))
            if row.matched
            else "100"
        ),
        "verdict": lambda row: row.verdict if row.matched else "–",
    }
    return markdown.table(rows, columns, left=3)


def exact_table(found: SymmetryNumbers) -> str:
    columns: dict[str, Callable[[Any], str]] = {
        "network": lambda row: row[0],
        "base": lambda row: row[1],
        "largest relative difference of the losses": lambda row: f"{row[2]:.1e}",
    }
    return markdown.table(found.exact, columns, left=2)
