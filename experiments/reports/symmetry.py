"""The report of `symmetry`: equilibria, equal functions and equal training."""

from pathlib import Path

from experiments.engine.store import read_manifest
from experiments.reports import (
    markdown,
    symmetry_figures as figures,
    symmetry_tables as tables,
)
from experiments.reports.figures import save_palette
from experiments.reports.symmetry_numbers import read_numbers
from experiments.reports.symmetry_rows import (
    BOUNDS,
    Equilibrium,
    EXACT_LIMIT,
    INVARIANT,
    LEAST_WEIGHTS,
    LOGITS_LIMIT,
    MEASURES,
    OTHER,
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
    save_palette(figures.plot_angles(folder, plan), folder / "angles.png")
    save_palette(figures.plot_norms(folder, plan), folder / "norms.png")
    save_palette(figures.plot_scaling(folder, plan), folder / "scaling.png")
    save_palette(figures.plot_training(found.training), folder / "training.png")
    few = "" if plan["seeds"] >= MIN_VALUES else " Too few seeds for a finding."
    return save_report(
        folder,
        "symmetry",
        f"{conclusion(found)}{few}",
        kinds=tables.kinds_table(found),
        equilibria=tables.equilibria_table(found.equilibria),
        ratios=tables.ratios_table(found.ratios),
        farthest=tables.farthest_table(found),
        visible=markdown.join(
            [
                f"at c = {markdown.number(c)} ({network})"
                if c
                else f"nowhere ({network})"
                for network, c in found.visible
            ]
        ),
        points=tables.points(plan),
        scaled=tables.scaled_table(found.scaled),
        training=tables.training_table(found.training),
        exact=tables.exact_table(found),
        compared=_compared(found),
        least=LEAST_WEIGHTS,
        share=100 * SHARE,
        bounds={name: 100 * bound for name, bound in BOUNDS.items()},
        logits=100 * LOGITS_LIMIT,
        sgd=tables.rate_and_decay(plan["rates"]["SGD"]),
        adam=tables.rate_and_decay(plan["rates"]["Adam"]),
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
        sentences.append(
            f"{WORDS[measure]} by {_span([row.invariant for row in rows])} % (other "
            f"leaves: {_span([row.other for row in rows])} %)."
        )
        chosen = {
            f"Above the bound of {100 * BOUNDS[measure]:.0f} %": [
                row for row in rows if not row.holds
            ],
            "Not clearly closer than other leaves": [
                row for row in rows if not (row.is_clear or row.is_reversed)
            ],
            "Clearly farther than other leaves": [r for r in rows if r.is_reversed],
        }
        sentences += [f"{text}: {_names(x, rows)}." for text, x in chosen.items() if x]
    return f"(a) {' '.join(sentences)}"


def _names(chosen: list[Equilibrium], rows: list[Equilibrium]) -> str:
    if len(chosen) == len(rows):
        return "all settings"
    return markdown.join([row.setting for row in chosen])


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
        f"(b) A factor of 1/2 on an invariant leaf changes the logits by at most "
        f"{100 * max(row.logits_max for row in alone):.2g} %, on a seen or joint leaf "
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
        return f"{verdicts[0][1]} (all settings)"
    return markdown.group(verdicts, "for")


def _compared(found: SymmetryNumbers) -> str:
    """The numbers of leaves that (a) compares."""
    counts = [
        f"{name} {invariant} and {other}" for name, invariant, other in found.compared
    ]
    return markdown.join(counts)


def claims(folder: Path) -> dict[str, str]:
    """Claims in words, to compare with other seeds."""
    found = read_numbers(folder, read_manifest(folder)["plan"])
    words = {}
    for row in found.equilibria:
        name = f"(a) {row.setting}: {row.measure}"
        words[f"{name} of invariant leaves"] = "within" if row.holds else "beyond"
        words[f"{name}, other leaves"] = (
            "farther" if row.is_clear else "closer" if row.is_reversed else "unclear"
        )
    for row in found.scaled:
        equal = row.logits_max < LOGITS_LIMIT
        name = f"(b) {row.network}: logits at c = 1/2, {row.what}"
        words[name] = "equal" if equal else "changed"
        if row.what == INVARIANT:
            name = f"(b) {row.network}: steps of invariant leaves"
            words[name] = "as predicted" if row.follows else "not as predicted"
    for row in found.training:
        if row.matched:
            name = f"(c) {row.setting}, {row.leaves} leaves, {row.arm}"
            words[name] = row.verdict
    for network, base, gap in found.exact:
        equal = gap < EXACT_LIMIT
        words[f"(c) {network}, {base}, float64"] = "equal" if equal else "different"
    return words
