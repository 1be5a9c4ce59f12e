"""The report of any study with the protocol: a verdict, two tables and heat maps."""

from pathlib import Path

from experiments.reports.figures import HEAT_MAP_AXES, plot_heat_maps, save
from experiments.reports.results import (
    caveats,
    format_difference,
    read_results,
    result_tables,
    Results,
)
from experiments.reports.template import protocol_section, save_report


def write_report(folder: Path) -> str:
    """Write the figures, then report.md; returns the verdict."""
    results = read_results(folder)
    numbers = result_tables(results, "entry", list(results.outcomes))
    drawn = [
        entry.name
        for entry in results.plan.entries
        if {axis.name for axis in entry.axes} == set(HEAT_MAP_AXES)
    ]
    if drawn:
        save(plot_heat_maps(results, [drawn]), folder / "heatmaps.png")
        numbers += "\n\n![Validation error over learning rate and λ](heatmaps.png)"
    return save_report(
        folder,
        "generic",
        conclusion(results),
        study=results.manifest["study"],
        numbers=numbers,
        protocol=protocol_section(results),
    )


def conclusion(results: Results) -> str:
    """Every contrast in words."""
    unit = results.plan.measure.unit
    sentences = [
        f"{name}: {each.verdict}, {format_difference(each)} {unit}."
        for name, each in results.comparisons.items()
    ]
    return " ".join([*sentences, caveats(results)])
