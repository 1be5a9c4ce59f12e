"""The report of `symmetry`: equilibria, equal functions and equal training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.engine.store import read_manifest
from experiments.reports import markdown, symmetry_figures as figures
from experiments.reports.figures import save
from experiments.reports.symmetry_numbers import read_numbers, shown
from experiments.reports.symmetry_rows import (
    BOUNDS,
    Equilibrium,
    EXACT_LIMIT,
    INVARIANT,
    LEAST_WEIGHTS,
    LOGITS_LIMIT,
    MEASURES,
    OTHER,
    Ratio,
    Scaled,
    SHARE,
    SymmetryNumbers,
    Training,
)
from experiments.reports.template import save_report
from experiments.statistics import MIN_VALUES


def write_report(folder: Path) -> str:
    """Write the figures, then report.md; returns the verdict."""
    plan = read_manifest(folder)["plan"]
    found = read_numbers(folder, plan)
    save(figures.plot_angles(folder, plan), folder / "angles.png")
    save(figures.plot_norms(folder, plan), folder / "norms.png")
    save(figures.plot_scaling(folder, plan), folder / "scaling.png")
    save(figures.plot_training(found.training), folder / "training.png")
    few = "" if plan["seeds"] >= MIN_VALUES else " Too few seeds for a finding."
    return save_report(
        folder,
        "symmetry",
        f"{conclusion(found)}{few}",
        kinds=_kinds_table(found),
        equilibria=_equilibria_table(found.equilibria),
        ratios=_ratios_table(found.ratios),
        visible=markdown.join(
            [
                f"at c = {markdown.number(c)} ({network})"
                if c
                else f"nowhere ({network})"
                for network, c in found.visible
            ]
        ),
        points=_points(plan),
        scaled=_scaled_table(found.scaled),
        training=_training_table(found.training),
        exact=_exact_table(found),
        least=LEAST_WEIGHTS,
        share=100 * SHARE,
        bounds={name: 100 * bound for name, bound in BOUNDS.items()},
        logits=100 * LOGITS_LIMIT,
        sgd=_numbers(plan["rates"]["SGD"]),
        adam=_numbers(plan["rates"]["Adam"]),
    )


def conclusion(found: SymmetryNumbers) -> str:
    """The verdict, derived from the numbers."""
    return " ".join([_on_equilibria(found), _on_scaling(found), _on_training(found)])


WORDS = {
    "angle": "The angle of invariant leaves deviates from its prediction",
    "norm": "Their norm deviates from its prediction",
    "starts": "The norms from two starts differ",
}


def _on_equilibria(found: SymmetryNumbers) -> str:
    sentences = []
    for measure in MEASURES:
        rows = [row for row in found.equilibria if row.measure == measure]
        outside = [row.setting for row in rows if not row.holds]
        unclear = [row.setting for row in rows if not row.is_clear]
        text = (
            f"{WORDS[measure]} by {_span([row.invariant for row in rows])} % (other "
            f"leaves: {_span([row.other for row in rows])} %)"
        )
        if outside:
            text += (
                f", which is beyond {100 * BOUNDS[measure]:.0f} % for "
                f"{markdown.join(outside)}"
            )
        if unclear:
            text += (
                ". Invariant leaves are not clearly closer than other leaves for "
                f"{markdown.join(unclear)}"
            )
        sentences.append(f"{text}.")
    return f"(a) {' '.join(sentences)}"


def _span(values: list[float]) -> str:
    low, high = (
        f"{100 * x:.2g}" if x < 1 else f"{100 * x:.0f}"
        for x in (min(values), max(values))
    )
    return low if low == high else f"{low} to {high}"


def _on_scaling(found: SymmetryNumbers) -> str:
    alone = [row for row in found.scaled if row.what == "invariant"]
    seen = [row for row in found.scaled if row.what in ("seen", "joint")]
    return (
        f"(b) Half the weights of an invariant leaf change the logits by at most "
        f"{100 * max(row.logits_max for row in alone):.2g} %, of a seen or joint leaf "
        f"by {_span([row.logits for row in seen])} %. The relative step of an "
        f"invariant leaf is multiplied by {_range(alone, 0)} (SGD, predicted 4) and by "
        f"{_range(alone, 1)} (Adam, predicted 2)."
    )


def _range(rows: list[Scaled], number: int) -> str:
    low = min(row.steps[number][1] for row in rows)
    high = max(row.steps[number][2] for row in rows)
    return f"{low:.3f} to {high:.3f}"


def _on_training(found: SymmetryNumbers) -> str:
    rows = [row for row in found.training if row.matched]
    exact = [x for x in rows if x.is_exact and x.leaves == INVARIANT]
    rate = [x for x in rows if not x.is_exact and x.leaves == INVARIANT]
    other = [x for x in rows if x.is_exact and x.leaves == OTHER]
    worst = max(gap for _, _, gap in found.exact)
    return (
        "(c) In float64 without ε, the losses of decay and of its exact compensation "
        f"differ by at most {worst:.0e} of their size. In float32, the runs are "
        f"{_verdicts(exact)}. If only the rate is matched, they are {_verdicts(rate)}. "
        "The same compensation of all other leaves gives runs that are "
        f"{_verdicts(other)}."
    )


def _verdicts(rows: list[Training]) -> str:
    """The verdicts, each with its settings; without them if all are the same."""
    verdicts = [(row.setting, row.verdict) for row in rows]
    if len({verdict for _, verdict in verdicts}) == 1:
        return f"{verdicts[0][1]} in all settings"
    return markdown.group(verdicts, "for")


def claims(folder: Path) -> dict[str, str]:
    """Claims in words, to compare with other seeds."""
    found = read_numbers(folder, read_manifest(folder)["plan"])
    words = {}
    for row in found.equilibria:
        name = f"(a) {row.setting}: {row.measure}"
        words[f"{name} of invariant leaves"] = "within" if row.holds else "beyond"
        words[f"{name}, other leaves"] = (
            "deviate clearly more" if row.is_clear else "no difference shown"
        )
    for row in found.scaled:
        equal = row.logits_max < LOGITS_LIMIT
        name = f"(b) {row.network}: logits at c = 1/2, {row.what}"
        words[name] = "equal" if equal else "changed"
    for row in found.training:
        if row.matched:
            name = f"(c) {row.setting}, {row.leaves} leaves, {row.arm}"
            words[name] = row.verdict
    for network, base, gap in found.exact:
        equal = gap < EXACT_LIMIT
        words[f"(c) {network}, {base}, float64"] = "equal" if equal else "different"
    return words


# --- Tables -----------------------------------------------------------------------


def _kinds_table(found: SymmetryNumbers) -> str:
    columns: dict[str, Callable[[Any], str]] = {
        "network": lambda row: row[0],
        "kind": lambda row: row[1],
        "leaves": lambda row: row[2],
        "weights": lambda row: row[3],
        "which": lambda row: row[4],
    }
    return markdown.table(found.kinds, columns, left=5)


def _equilibria_table(rows: list[Equilibrium]) -> str:
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


def _ratios_table(rows: list[Ratio]) -> str:
    columns: dict[str, Callable[[Ratio], str]] = {
        "setting": lambda row: row.setting,
        "kind": lambda row: row.kind,
        "angle": lambda row: _three(row.angle),
        "norm": lambda row: _three(row.norm),
        "norm / √(nγ/2λ)": lambda row: _three(row.free) if row.free else "–",
    }
    return markdown.table(rows, columns, left=2)


def _three(numbers: tuple[float, float, float]) -> str:
    return "{:.3g} [{:.2g}, {:.2g}]".format(*numbers)


def _in_percent(estimate: Any) -> Any:
    mean, low, high, p = estimate
    return type(estimate)(100 * mean, 100 * low, 100 * high, p)


def _points(plan: dict[str, Any]) -> str:
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


def _numbers(pair: list[float]) -> str:
    return f"γ = {pair[0]:g}, λ = {pair[1]:g}"


def _scaled_table(rows: list[Scaled]) -> str:
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


def _training_table(rows: list[Training]) -> str:
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


def _exact_table(found: SymmetryNumbers) -> str:
    columns: dict[str, Callable[[Any], str]] = {
        "network": lambda row: row[0],
        "base": lambda row: row[1],
        "largest relative difference of the losses": lambda row: f"{row[2]:.1e}",
    }
    return markdown.table(found.exact, columns, left=2)
