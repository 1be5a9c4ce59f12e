"""What the figures of several studies share: colours, bands, heat maps, whole files."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.axis import Axis as Ticks
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PatchCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from experiments.files import whole
from experiments.outcomes import Outcome
from experiments.protocol import TUNING, values
from experiments.reports.results import errors, Results
from experiments.search import Axis, coarse, Point
from experiments.statistics import Estimate


# Okabe and Ito's palette, which colour-blind readers can tell apart.
COLOURS = {
    "none": "#666666",
    "L2": "#D55E00",
    "decoupled": "#0072B2",
    "independent": "#009E73",
}
BY_TASK = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
DIVERGED = "0.6"  # a grey that viridis does not hold
RANGE = 15.0  # points above the best that the colours of a heat map span


def save(figure: Figure, path: Path) -> None:
    """As a file that is whole or not there."""
    with whole(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=130)


def band(axes: Axes, points: Mapping[float, Estimate], colour: str, label: str) -> None:
    """A line through means, and their intervals as a band where there are any."""
    means, low, high = (np.array([e[i] for e in points.values()]) for i in range(3))
    axes.plot(list(points), means, "o-", color=colour, ms=4, label=label)
    if np.isfinite(low).all():
        axes.fill_between(list(points), low, high, color=colour, alpha=0.2, lw=0)
    axes.grid(alpha=0.3)


# --- Heat maps --------------------------------------------------------------------


def heat_maps(results: Results, rows: Sequence[Sequence[str]]) -> Figure:
    """A panel for each entry: validation error in tuning, above the best of its task.

    One colour scale for all panels. White was not tried.
    """
    shown = {name: _means(results, name) for row in rows for name in row}
    best: dict[str, float] = {}
    for name, means in shown.items():
        task = results.outcomes[name].entry.labels["task"]
        best[task] = min(best.get(task, np.inf), np.nanmin(list(means.values())))
    colours = ScalarMappable(
        Normalize(0, RANGE), colormaps["viridis_r"].with_extremes(bad=DIVERGED)
    )
    size = 3.6 * len(rows[0]) + 1, 3.2 * len(rows) + 0.6
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(rows), len(rows[0]), squeeze=False)
    for axes, name in zip(grid.flat, (n for row in rows for n in row), strict=True):
        outcome = results.outcomes[name]
        above = best[outcome.entry.labels["task"]]
        _heat_map(
            axes, {p: m - above for p, m in shown[name].items()}, outcome, colours
        )
        validated = values(outcome.entry, results.table, "validation", "seed")
        _points(axes, shown[name], validated, outcome)
        axes.set_title(f"{name}: {100 - outcome.scores[0]:.1f} %", fontsize=10)
    for axes in grid[-1]:
        axes.set_xlabel("strength λ")
    for axes in grid[:, 0]:
        axes.set_ylabel("peak learning rate")
    label = "validation error above the best of the task (points)"
    figure.colorbar(colours, ax=grid, extend="max", label=label, fraction=0.03)
    figure.legend(handles=_marks(), loc="outside upper center", ncols=4, frameon=False)
    return figure


def _means(results: Results, name: str) -> dict[Point, float]:
    """Mean validation error in tuning by point; nan where a run diverged."""
    entry = results.outcomes[name].entry
    diverged = values(entry, results.table, TUNING, "diverged")
    return {
        point: np.nan if diverged[point].any() else float(error.mean())
        for point, error in errors(results, entry, TUNING).items()
    }


def _heat_map(
    axes: Axes, means: Mapping[Point, float], outcome: Outcome, colours: ScalarMappable
) -> None:
    """Large squares for the coarse grid, small ones upon them for what was added."""
    steps = [_step(axis) for axis in outcome.entry.axes]
    first = set(coarse(outcome.entry.axes))
    for sizes, points in ((steps, [p for p in means if p in first]), ((1, 1), means)):
        squares = [
            Rectangle((x - sizes[0] / 2, y - sizes[1] / 2), *sizes)
            for x, y in np.log2(np.array(list(points))).reshape(-1, 2)
        ]
        shown = colours.to_rgba(np.array([means[point] for point in points]))
        axes.add_collection(PatchCollection(squares, facecolor=shown, linewidth=0))
    axes.margins(0.02)
    axes.autoscale_view()
    powers_of_two(axes.xaxis)
    powers_of_two(axes.yaxis)


def _step(axis: Axis) -> float:
    """Between neighbours of the coarse grid, in factors of two."""
    return float(np.diff(np.log2(axis.values)).min()) if len(axis.values) > 1 else 1.0


def powers_of_two(ticks: Ticks) -> None:
    """An axis of exponents, labelled with the powers."""
    ticks.set_major_locator(MaxNLocator(nbins=7, integer=True))
    ticks.set_major_formatter(lambda x, _: f"$2^{{{x:.0f}}}$")


def _points(
    axes: Axes, tried: Iterable[Point], validated: Iterable[Point], outcome: Outcome
) -> None:
    star = tuple(outcome.choice.values())
    for points, look in (
        (tried, {"marker": ".", "ms": 3, "color": "0.5", "mew": 0}),
        (validated, {"marker": "o", "ms": 6, "mfc": "none", "mec": "black"}),
        ([star], {"marker": "*", "ms": 12, "color": "white", "mec": "black"}),
    ):
        axes.plot(*np.log2(np.array(list(points))).T, ls="", **look)


def _marks() -> list[Line2D]:
    """What the marks mean, for a legend."""
    return [
        Line2D([], [], ls="", label=label, **look)
        for label, look in {
            "chosen": {"marker": "*", "ms": 12, "color": "white", "mec": "black"},
            "validated again": {"marker": "o", "mfc": "none", "mec": "black"},
            "tried": {"marker": ".", "ms": 4, "color": "0.5"},
            "a run diverged": {"marker": "s", "color": DIVERGED},
        }.items()
    ]
