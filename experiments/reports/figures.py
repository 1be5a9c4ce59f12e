"""Shared by the figures of several studies: colours, bands, heat maps, saving."""

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
from matplotlib.ticker import FixedLocator, MaxNLocator

from experiments.files import atomic_write
from experiments.outcomes import Outcome
from experiments.protocol import Entry, TUNING, values
from experiments.reports.results import error_unit, errors, Results
from experiments.search import Axis, coarse_grid, Point
from experiments.statistics import Estimate


# Okabe and Ito's palette, which colour-blind readers can tell apart.
COLOURS = {
    "none": "#666666",
    "L2": "#D55E00",
    "decoupled": "#0072B2",
    "independent": "#009E73",
}
BY_TASK = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
AXES = ("weight_decay", "learning_rate")  # of a heat map: across, up
DIVERGED = "0.6"  # a grey that viridis does not hold
RANGE = 15.0  # points above the best that the colours of a heat map span


def save(figure: Figure, path: Path) -> None:
    """Save a figure atomically."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=100)


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
        task = results.outcomes[name].entry.labels.get("task", "")
        best[task] = min(best.get(task, np.inf), np.nanmin(list(means.values())))
    measure = results.plan.measure
    points = measure.unit == "points"
    digits = 1 if points else 2
    top = RANGE if points else _quartile(shown.values())
    colours = ScalarMappable(
        Normalize(0, top), colormaps["viridis_r"].with_extremes(bad=DIVERGED)
    )
    size = 3.6 * len(rows[0]) + 1, 3.2 * len(rows) + 0.6
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(rows), len(rows[0]), squeeze=False)
    for axes, name in zip(grid.flat, (n for row in rows for n in row), strict=True):
        outcome = results.outcomes[name]
        above = best[outcome.entry.labels.get("task", "")]
        _heat_map(
            axes, {p: m - above for p, m in shown[name].items()}, outcome, colours
        )
        validated = values(outcome.entry, results.table, "validation", "seed")
        _points(axes, shown[name], validated, outcome)
        error = f"{measure.perfect - outcome.scores[0]:.{digits}f}"
        axes.set_title(f"{name}: {error} {error_unit(measure)}", fontsize=10)
    for axes in grid[-1]:
        axes.set_xlabel("strength λ")
    for axes in grid[:, 0]:
        axes.set_ylabel("peak learning rate")
    label = f"validation error above the best of the task ({measure.unit})"
    figure.colorbar(colours, ax=grid, extend="max", label=label, fraction=0.03)
    figure.legend(handles=_marks(), loc="outside upper center", ncols=4, frameon=False)
    return figure


def _quartile(shown: Iterable[Mapping[Point, float]]) -> float:
    """How far the worse quarter of the points is above the best of its entry."""
    above = [x - np.nanmin(list(m.values())) for m in shown for x in m.values()]
    return float(np.nanquantile(above, 0.75)) or 1.0


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
    steps = [_step(axis) for axis in _axes(outcome.entry)]
    first = set(coarse_grid(outcome.entry.axes))
    for sizes, points in ((steps, [p for p in means if p in first]), ((1, 1), means)):
        squares = [
            Rectangle((x - sizes[0] / 2, y - sizes[1] / 2), *sizes)
            for x, y in _exponents(outcome.entry, points)
        ]
        shown = colours.to_rgba(np.array([means[point] for point in points]))
        axes.add_collection(PatchCollection(squares, facecolor=shown, linewidth=0))
    axes.margins(0.02)
    axes.autoscale_view()
    tried = np.array(list(means))
    drawn = _exponents(outcome.entry, means)
    for i, (ticks, axis) in enumerate(zip((axes.xaxis, axes.yaxis), AXES, strict=True)):
        zero = tried[:, _column(outcome.entry, axis)] == 0
        powers_of_two(ticks, drawn[zero, i].max() if zero.any() else None)


def _column(entry: Entry, name: str) -> int:
    return [axis.name for axis in entry.axes].index(name)


def _axes(entry: Entry) -> list[Axis]:
    """Those of λ and of the learning rate, in this order."""
    return [entry.axes[_column(entry, name)] for name in AXES]


def _exponents(entry: Entry, points: Iterable[Point]) -> np.ndarray:
    """log2 of λ and of the learning rate, float[points, 2]; 0 is below the others."""
    found = np.array(list(points), float).reshape(-1, len(AXES))
    found = found[:, [_column(entry, name) for name in AXES]]
    for column, axis in zip(found.T, _axes(entry), strict=True):
        lowest = axis.low or min((x for x in axis.values if x > 0), default=2.0)
        column[column == 0] = lowest / 2 ** _step(axis)
    return np.log2(found)


def _step(axis: Axis) -> float:
    """Between neighbours of the coarse grid, in factors of two."""
    values = [value for value in axis.values if value > 0]
    return float(np.diff(np.log2(values)).min()) if len(values) > 1 else 1.0


def powers_of_two(ticks: Ticks, zero: float | None = None) -> None:
    """An axis of exponents, labelled with the powers; `zero` is where 0 is drawn."""
    locator = MaxNLocator(nbins=7, integer=True)
    ticks.set_major_locator(locator)
    ticks.set_major_formatter(lambda x, _: f"$2^{{{x:.0f}}}$")
    if zero is not None:
        above = locator.tick_values(zero, ticks.get_view_interval()[1])
        at = [zero, *(x for x in above if x > zero)]
        ticks.set_major_locator(FixedLocator(at))
        ticks.set_major_formatter(lambda x, _: "0" if x == zero else f"$2^{{{x:.0f}}}$")


def _points(
    axes: Axes, tried: Iterable[Point], validated: Iterable[Point], outcome: Outcome
) -> None:
    star = tuple(outcome.choice.values())
    for points, look in (
        (tried, {"marker": ".", "ms": 3, "color": "0.5", "mew": 0}),
        (validated, {"marker": "o", "ms": 6, "mfc": "none", "mec": "black"}),
        ([star], {"marker": "*", "ms": 12, "color": "white", "mec": "black"}),
    ):
        axes.plot(*_exponents(outcome.entry, points).T, ls="", **look)


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
