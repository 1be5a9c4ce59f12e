"""The report of `which_parameters`: losses of each selection of parameters."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from experiments.reports import figures
from experiments.reports.figures import BLUE, GREY, save_palette
from experiments.reports.results import (
    caveats,
    digits_of,
    format_difference,
    read_results,
    result_tables,
    Results,
    test_error,
)
from experiments.reports.template import protocol_section, save_report


NONE = "none"  # the arm without decay


def write_report(folder: Path) -> str:
    """Write the figures, then report.md; returns the verdict."""
    results = read_results(folder)
    save_palette(plot_losses(results), folder / "losses.png")
    return save_report(
        folder,
        "which_parameters",
        conclusion(results),
        numbers=result_tables(
            results, "task and decayed leaves", list(results.outcomes)
        ),
        protocol=protocol_section(results),
    )


def tasks_of(results: Results) -> list[str]:
    """The names of the tasks."""
    return list(dict.fromkeys(x.labels["task"] for x in results.plan.entries))


def conclusion(results: Results) -> str:
    """The verdict, derived from the numbers: a paragraph for each task."""
    digits, unit = digits_of(results.plan.measure), results.plan.measure.unit
    texts = []
    for task in tasks_of(results):
        parts = [
            f"{name.removeprefix(f'{task}: ')} {format_difference(each, digits)}, "
            f"{each.verdict}"
            for name, each in results.comparisons.items()
            if name.startswith(f"{task}: ")
        ]
        texts.append(f"**{task}**, {unit} of test loss: {'; '.join(parts)}.")
    return "\n\n".join([*texts, caveats(results)])


def plot_losses(results: Results) -> Figure:
    """The test loss of each selection, a panel for each task."""
    tasks, measure = tasks_of(results), results.plan.measure
    figure, panels = figures.new_panels(1, len(tasks), (4.6 * len(tasks) + 1, 3.8))
    for axes, task in zip(panels[0], tasks, strict=True):
        axes.set_title(task)
        mine = [x for x in results.outcomes.values() if x.entry.labels["task"] == task]
        for x, outcome in enumerate(mine):
            found = test_error(outcome, measure)
            low, high = found.low, found.high
            if not np.isfinite(low):
                low = high = found.mean
            colour = GREY if outcome.entry.labels["arm"] == NONE else BLUE
            axes.vlines(x, low, high, color=colour)
            fill = "white" if outcome.open else colour
            axes.plot(x, found.mean, "o", mec=colour, mfc=fill)
        names = [outcome.entry.labels["arm"] for outcome in mine]
        axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    panels[0, 0].set_ylabel(f"test loss ({measure.unit})")
    return figure
