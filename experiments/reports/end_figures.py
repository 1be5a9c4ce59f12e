"""The figures of `end_of_training`: ratios over the run, test errors."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from experiments.end_optimizers import GRADIENT, WEIGHTED
from experiments.reports import figures
from experiments.reports.end_numbers import CORRECTED, LR_SCALED, Setting
from experiments.reports.figures import BLUE, GREEN, GREY, ORANGE
from experiments.reports.results import Results


COLOURS = {"none": GREY, LR_SCALED: ORANGE, CORRECTED: BLUE}
HEAD = GREEN
EXACT = {  # the ratio that the theory determines, by base
    "SGD": "‖g‖/‖θ‖",
    "momentum": "‖u‖/‖θ‖",
    "Adam": "‖u‖/‖θ‖ in the metric D",
}


def _over_seeds(values: np.ndarray) -> np.ndarray:
    """Root mean squares over the seeds."""
    return np.sqrt(np.mean(values**2, 0))


def _middles(setting: Setting) -> np.ndarray:
    """The middle of each segment, as a part of the run."""
    return (np.arange(setting.segments) + 0.5) / setting.segments


def _use_log_scale(axes: Any) -> None:
    """A logarithmic vertical axis with the labels 1, 2, 5, 10, ..."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}")


def plot_ratios(settings: Sequence[Setting]) -> Figure:
    """A row for each base, a column for each schedule."""
    bases = list(dict.fromkeys(each.base for each in settings))
    schedules = list(dict.fromkeys(each.schedule for each in settings))
    size = 3.6 * len(schedules) + 0.6, 2.6 * len(bases) + 0.8
    figure, panels = figures.new_panels(
        len(bases), len(schedules), size, sharex=True, sharey="row"
    )
    for axes in panels.flat:
        _use_log_scale(axes)
    for setting in settings:
        row, column = bases.index(setting.base), schedules.index(setting.schedule)
        _plot_setting(panels[row, column], setting)
    for base, row in zip(bases, panels, strict=True):
        row[0].set_ylabel(f"{base}: {EXACT[base]}")
        mine = [x.ratios[WEIGHTED] for x in settings if x.base == base]
        # The steady ratio diverges at the end.
        row[0].set_ylim(top=2 * max(np.max(_over_seeds(each)) for each in mine))
    for axes, schedule in zip(panels[0], schedules, strict=True):
        axes.set_title(schedule)
    for axes in panels[-1]:
        axes.set_xlabel("part of the run")
    first = panels[0, 0]
    first.plot([], [], "--", color="black", lw=1, label="steady ratio")
    first.plot([], [], ":", color="black", lw=2, label="predicted with lag")
    figures.add_legend(figure, first)
    return figure


def _plot_setting(axes: Any, setting: Setting) -> None:
    x, colour = _middles(setting), COLOURS[setting.arm]
    measured = _over_seeds(setting.ratios[WEIGHTED])
    lines = axes.plot(x, measured[:, setting.invariant], color=colour)
    lines[0].set_label(setting.arm)
    axes.plot(x, setting.steady(), "--", color=colour, lw=1)
    lagging = setting.course().ratio("direction", setting.segments)
    axes.plot(x, lagging, ":", color=colour, lw=2)
    if setting.arm == LR_SCALED:
        head = axes.plot(x, measured[:, ~setting.invariant], color=HEAD, lw=1)
        head[0].set_label("head, lr-scaled")


def plot_chosen(chosen: Sequence[Setting]) -> Figure:
    """‖g‖/‖θ‖ of the invariant matrices at the tuned points, a panel by schedule."""
    schedules = list(dict.fromkeys(each.schedule for each in chosen))
    figure, panels = figures.new_panels(
        1, len(schedules), (3.6 * len(schedules) + 0.6, 3.2), sharey=True
    )
    for setting in chosen:
        axes = panels[0, schedules.index(setting.schedule)]
        measured = _over_seeds(setting.ratios[GRADIENT])[:, setting.invariant]
        lines = axes.plot(_middles(setting), measured, color=COLOURS[setting.arm])
        lines[0].set_label(setting.arm)
        axes.set(title=setting.schedule, xlabel="part of the run")
    for axes in panels.flat:
        axes.set_yscale("log")
    panels[0, 0].set_ylabel("‖g‖/‖θ‖")
    figures.add_legend(figure, panels[0, 0])
    return figure


def plot_errors(results: Results) -> Figure:
    """The test error of each schedule and decay."""
    measure = results.plan.measure
    figure, panels = figures.new_panels(1, 1, (7, 3.4))
    (axes,) = panels.flat
    colours = [COLOURS[x.entry.labels["arm"]] for x in results.outcomes.values()]
    figures.plot_test_errors(axes, results.outcomes, measure, colours)
    axes.set_ylabel("test error (%)")
    return figure
