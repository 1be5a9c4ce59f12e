"""The report of `which_parameters`: errors of each selection of parameters."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from experiments.reports import figures
from experiments.reports.figures import BLUE, GREY, save_palette
from experiments.reports.results import (
    caveats,
    digits_of,
    error_unit,
    format_difference,
    read_joint_results,
    result_tables,
    Results,
)
from experiments.reports.template import protocol_section, save_report


NONE = "none"  # the arm without decay


def write_report(folder: Path) -> str:
    """Write the figures, then report.md; returns the verdict."""
    tasks = read_joint_results(folder)
    save_palette(plot_errors(tasks), folder / "errors.png")
    return save_report(
        folder,
        "which_parameters",
        conclusion(tasks),
        tasks="\n\n".join(map(_section, tasks, tasks.values())),
        protocol=_protocols(tasks),
    )


def _section(task: str, results: Results) -> str:
    tables = result_tables(results, "decayed leaves", list(results.outcomes))
    return f"### {task}\n\n{tables}"


def _protocols(tasks: Mapping[str, Results]) -> str:
    """The protocol of each task, with the task in the heading."""
    contrasts = sum(len(results.comparisons) for results in tasks.values())
    parts = []
    for task, results in tasks.items():
        title, text = protocol_section(results, contrasts).split("\n", 1)
        parts.append(f"{title}: {task}\n{text}")
    return "\n\n".join(parts)


def conclusion(tasks: Mapping[str, Results]) -> str:
    """The verdict, derived from the numbers: a paragraph for each task."""
    texts = []
    for task, results in tasks.items():
        digits, unit = digits_of(results.plan.measure), results.plan.measure.unit
        parts = [
            f"{name.removeprefix(f'{task}: ')} {format_difference(each, digits)}, "
            f"{each.verdict}"
            for name, each in results.comparisons.items()
        ]
        texts.append(f"**{task}**, {unit}: {'; '.join(parts)}. {caveats(results)}")
    return "\n\n".join(texts)


def plot_errors(tasks: Mapping[str, Results]) -> Figure:
    """The test error of each selection, a panel for each task."""
    figure, panels = figures.new_panels(1, len(tasks), (4.6 * len(tasks) + 1, 3.8))
    for axes, (task, results) in zip(panels[0], tasks.items(), strict=True):
        measure = results.plan.measure
        mine = {x.entry.labels["arm"]: x for x in results.outcomes.values()}
        colours = [GREY if arm == NONE else BLUE for arm in mine]
        figures.plot_test_errors(axes, mine, measure, colours)
        axes.set(title=task, ylabel=f"test error ({error_unit(measure)})")
    return figure
