"""The report of any study with the protocol: a verdict, two tables and heat maps."""

from pathlib import Path

from experiments.reports.figures import heat_maps, save
from experiments.reports.results import (
    amount,
    caveats,
    numbers,
    read_results,
    Results,
)
from experiments.reports.template import protocol_section, save_report


def write_report(folder: Path) -> str:
    """Write the figures, then report.md; returns the verdict."""
    results = read_results(folder)
    both = {"weight_decay", "learning_rate"}
    entries = results.plan.entries
    tuned = [[e.name for e in entries if {axis.name for axis in e.axes} == both]]
    parts = [
        numbers(results, "entry", list(results.outcomes)),
        protocol_section(results),
    ]
    if tuned[0]:
        save(heat_maps(results, tuned), folder / "heatmaps.png")
        parts.insert(1, "![Validation error over learning rate and λ](heatmaps.png)")
    name = results.manifest["study"]
    question = "Which entries are better on test, each tuned equally well?"
    verdict, stored = conclusion(results), "`cells.csv` (every run)"
    return save_report(folder, name, question, verdict, *parts, stored=stored)


def conclusion(results: Results) -> str:
    """Every contrast in words."""
    unit = results.plan.measure.unit
    sentences = [
        f"{name}: {each.verdict}, {amount(each)} {unit}."
        for name, each in results.compared.items()
    ]
    return " ".join([*sentences, caveats(results)])
