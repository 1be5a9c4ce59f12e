"""The figures of the report of `strength`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import optima, strengths
from experiments.reports import figures, markdown
from experiments.reports.figures import BLUE, GREEN, ORANGE, PINK
from experiments.reports.strength_numbers import name_of, Numbers
from experiments.statistics import Estimate
from experiments.strengths import Place, ROOT, RULES, SAME, TIMESCALE, TunedTask


COLOURS = {TIMESCALE: BLUE, ROOT: GREEN, SAME: ORANGE}
MARKERS = {TIMESCALE: "s", ROOT: "D", SAME: "|"}
AXIS_COLOURS = {
    strengths.BATCH: BLUE,
    strengths.EPOCHS: ORANGE,
    strengths.DATA: GREEN,
    strengths.REFERENCE: "black",
}
WIDEST = 2.5  # of the axis of exponents


def plot_exponents(found: Numbers) -> Figure:
    """The exponents of λ* and of γλ*, with the exponents of the rules."""
    labels = [f"{trend.task.name}: {trend.axis}" for trend in found.trends]
    figure, panels = figures.new_panels(1, 1, (9, 0.34 * len(labels) + 1.6))
    axes, rows = panels[0, 0], np.arange(len(labels))
    for rule, powers in RULES.items():
        x = [powers[trend.axis] for trend in found.trends]
        look = {"ls": "", "ms": 10, "mew": 1.5, "mfc": "none", "color": COLOURS[rule]}
        axes.plot(x, rows, MARKERS[rule], label=rule, **look)
    one = [trend.decay for trend in found.trends]
    both = [trend.timescale for trend in found.trends]
    _plot_intervals(axes, one, rows - 0.1, "black", "λ*, one learning rate")
    _plot_intervals(axes, both, rows + 0.15, PINK, "γλ*, both tuned")
    axes.set(xlim=(-WIDEST, WIDEST), xlabel="exponent", ylim=(len(labels) - 0.4, -0.6))
    axes.set_yticks(rows, labels)
    figures.add_legend(figure, axes)
    return figure


def _plot_intervals(
    axes: Axes, estimates: Sequence[Estimate], rows: np.ndarray, colour: str, label: str
) -> None:
    """A dot for each mean, and a line for each interval that is not infinite."""
    axes.plot([x.mean for x in estimates], rows, "o", color=colour, ms=4, label=label)
    for estimate, row in zip(estimates, rows, strict=True):
        if np.isfinite(estimate.low):
            axes.plot([estimate.low, estimate.high], [row, row], color=colour, lw=1.5)


def plot_curves(found: Numbers) -> Figure:
    """The validation loss against λ at the learning rate of each task."""
    columns = min(2, len(found.tasks))
    count = -(-len(found.tasks) // columns)
    size = 4.6 * columns, 3.0 * count + 0.3
    figure, panels = figures.new_panels(count, columns, size)
    for axes in panels.flat[len(found.tasks) :]:
        axes.set_visible(False)
    for axes, task in zip(panels.flat, found.tasks, strict=False):
        axes.set_title(
            f"{task.name}, γ = {markdown.number(2.0**task.rate)}", fontsize=9
        )
        for place in found.places[task.name]:
            _plot_curve(axes, found, task, place)
        figures.label_powers_of_two(axes.xaxis)
        unit = "% error" if task.measure.unit == "points" else task.measure.unit
        axes.set(xlabel="λ", ylabel=f"validation, {unit}")
        axes.legend(frameon=False, fontsize=7)
    return figure


def _plot_curve(axes: Axes, found: Numbers, task: TunedTask, place: Place) -> None:
    """The mean over seeds at one learning rate; dashed if the factor is below 1."""
    setting, rate = place.setting, float(task.rate)
    losses = strengths.losses_of(found.table, task, setting)
    curve = sorted((y, e.mean()) for (x, y), e in losses.items() if x == rate)
    look: dict[str, Any] = {
        "color": AXIS_COLOURS[setting.axis],
        "ls": "--" if setting.factor < 1 else "-",
    }
    axes.plot(*np.array(curve).T, "o", ms=3, label=setting.name, **look)
    every = np.ones(found.seeds[task.name], bool)
    optimum = optima.along_decay(task.grid.regular(losses), rate, every)
    look |= {"ls": "", "ms": 11, "mec": "white"}
    if optimum.inside:
        # On the line: next to a cliff the minimum of a parabola is far below it.
        height = optima.loss_at(losses, rate, optimum.place, every)
        axes.plot(optimum.place, height, "*", **look)


def plot_regrets(found: Numbers) -> Figure:
    """The regret of each rule for each setting, a panel for each task."""
    count = len(found.tasks)
    columns = min(3, count)
    rows = -(-count // columns)
    figure, panels = figures.new_panels(
        rows, columns, (3.9 * columns, 2.9 * rows + 0.5)
    )
    for axes in panels.flat[count:]:
        axes.set_visible(False)
    for axes, task in zip(panels.flat, found.tasks, strict=False):
        mine = [r for r in found.regrets if r.task.name == task.name]
        names = list(dict.fromkeys(map(name_of, mine)))
        for offset, rule in zip((-0.2, 0.0, 0.2), RULES, strict=True):
            costs = [regret.cost for regret in mine if regret.rule == rule]
            places = np.arange(len(names)) + offset
            _plot_intervals(axes, costs, places, COLOURS[rule], rule)
        axes.axvline(0, color="0.5", lw=0.8)
        axes.set_yticks(range(len(names)), names, fontsize=8)
        axes.invert_yaxis()
        axes.set_title(task.name, fontsize=9)
        axes.set_xlabel(f"regret, {task.measure.unit}")
    figures.add_legend(figure, panels[0, 0])
    return figure
