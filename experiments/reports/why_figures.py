"""The figures of `why`: error and gap against the spread, and the mechanism."""

from collections.abc import Collection, Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.reports.drawing import COLOURS
from experiments.reports.shrink import draw_shrinks, Shrink
from experiments.statistics import Estimate


ARMS = {
    "adam": COLOURS["none"],
    "adam_l2": COLOURS["L2"],
    "adamw": COLOURS["decoupled"],
}


def dose_response(
    errors: Mapping[tuple[str, str, float], Estimate],
    gaps: Mapping[tuple[str, float], Estimate],
    edges: Collection[tuple[str, str, float]],
) -> Figure:
    """Errors by task, arm and spread, gaps by task and spread; a column a task.

    Hollow: an error whose choice lies on an edge of its grid.
    """
    tasks = list(dict.fromkeys(task for task, _ in gaps))
    figure = Figure(figsize=(11, 6), layout="constrained")
    grid = figure.subplots(2, len(tasks), squeeze=False, sharex="col")
    for column, task in enumerate(tasks):
        for arm, colour in ARMS.items():
            mine = {s: e for (t, a, s), e in errors.items() if (t, a) == (task, arm)}
            _band(grid[0, column], mine, colour, arm)
            hollow = [s for s in mine if (task, arm, s) in edges]
            at = [mine[s].mean for s in hollow]
            grid[0, column].plot(hollow, at, "o", ms=4, mec=colour, mfc="white")
        gap = {s: e for (t, s), e in gaps.items() if t == task}
        _band(grid[1, column], gap, "black", "adamw − adam_l2")
        grid[1, column].axhline(0, color="0.5", lw=0.8)
        grid[0, column].set_title(task)
        grid[1, column].set_xlabel("spread s of the inputs' scales")
    grid[0, 0].set_ylabel("test error (%)")
    grid[1, 0].set_ylabel("gap (points)")
    for axes in grid[:, 0]:
        axes.legend(frameon=False)
    return figure


def _band(
    axes: Axes, values: Mapping[float, Estimate], colour: str, label: str
) -> None:
    means, low, high = (np.array([v[i] for v in values.values()]) for i in range(3))
    axes.plot(list(values), means, "o-", color=colour, ms=4, label=label)
    axes.fill_between(list(values), low, high, color=colour, alpha=0.2, lw=0)
    axes.grid(alpha=0.3)


def mechanism(shrinks: dict[str, Shrink]) -> Figure:
    """Shrink of each weight in one step against the root of its second moment."""
    figure = Figure(figsize=(7, 4.8), layout="constrained")
    axes = figure.add_subplot(xscale="log", yscale="log")
    draw_shrinks(axes, shrinks, {arm: ARMS[arm] for arm in shrinks})
    return figure
