"""Figures that several reports share: panels, colours, intervals, heat maps."""

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.axis import Axis as MatplotlibAxis
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PatchCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, MaxNLocator
from PIL import Image

from experiments.files import atomic_write
from experiments.outcomes import Outcome
from experiments.protocol import Entry, Measure, TUNING, VALIDATION, values
from experiments.reports.results import error_unit, errors, Results, test_error
from experiments.search import Axis, coarse_grid, Point
from experiments.statistics import Estimate


# Okabe and Ito's palette, which colour-blind readers can distinguish.
ORANGE, BLUE, GREEN, PINK = "#D55E00", "#0072B2", "#009E73", "#CC79A7"
GREY = "#666666"
HEAT_MAP_AXES = ("weight_decay", "learning_rate")  # horizontal, vertical
DIVERGED = "0.6"  # a grey that the colour map viridis does not contain
RANGE = 15.0  # points above the best that the colours of a heat map span
MARKS: dict[str, dict[str, Any]] = {  # by label of the legend
    "chosen": {"marker": "*", "ms": 12, "color": "white", "mec": "black"},
    "validated": {"marker": "o", "ms": 6, "mfc": "none", "mec": "black"},
    "tried": {"marker": ".", "ms": 3, "color": "0.5", "mew": 0},
    "a run diverged": {"marker": "s", "color": DIVERGED},
}


def save(figure: Figure, path: Path) -> None:
    """Save a figure atomically."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=100)


def save_palette(figure: Figure, path: Path, colours: int = 64) -> None:
    """Save a PNG with few colours atomically. It has a third of the bytes."""
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=100)
    reduced = Image.open(image).convert("RGB").quantize(colours)
    with atomic_write(path) as temporary:
        reduced.save(temporary, format="png", optimize=True)


def new_panels(
    rows: int, columns: int, size: tuple[float, float], **shared: Any
) -> tuple[Figure, np.ndarray]:
    """A figure in inches, and its panels; `shared` as for `Figure.subplots`."""
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, **shared)
    for axes in panels.flat:
        axes.grid(alpha=0.3)
    return figure, panels


def label_edges(panels: np.ndarray, x: str, y: str) -> None:
    """Label the horizontal axes of the last row and the vertical ones of the first."""
    for axes in panels[-1]:
        axes.set_xlabel(x)
    for axes in panels[:, 0]:
        axes.set_ylabel(y)


def add_legend(figure: Figure, axes: Axes) -> None:
    """The legend of one panel, above all panels."""
    handles, labels = axes.get_legend_handles_labels()
    place = {"loc": "outside upper center", "ncols": len(labels)}
    figure.legend(handles, labels, frameon=False, **place)


def plot_estimates(
    axes: Axes, estimates: Mapping[float, Estimate], colour: str, label: str
) -> None:
    """A line through the means, and a band if all means have an interval."""
    x = list(estimates)
    means = [each.mean for each in estimates.values()]
    low = [each.low for each in estimates.values()]
    high = [each.high for each in estimates.values()]
    axes.plot(x, means, "o-", color=colour, ms=4, label=label)
    if np.isfinite(low).all():
        axes.fill_between(x, low, high, color=colour, alpha=0.2, lw=0)


def plot_test_errors(
    axes: Axes,
    outcomes: Mapping[str, Outcome],
    measure: Measure,
    colours: Sequence[str],
) -> None:
    """Test errors by label, with intervals; hollow if a choice is not bracketed."""
    pairs = zip(outcomes.values(), colours, strict=True)
    for x, (outcome, colour) in enumerate(pairs):
        found = test_error(outcome, measure)
        if np.isfinite(found.low):
            axes.vlines(x, found.low, found.high, color=colour)
        fill = "white" if outcome.open else colour
        axes.plot(x, found.mean, "o", mec=colour, mfc=fill)
    axes.set_xticks(range(len(outcomes)), list(outcomes), rotation=30, ha="right")


def label_powers_of_two(axis: MatplotlibAxis, zero: float | None = None) -> None:
    """Label exponents as powers of two; `zero` is the position of the value 0."""
    locator = MaxNLocator(nbins=7, integer=True)
    axis.set_major_locator(locator)
    axis.set_major_formatter(lambda x, _: f"$2^{{{x:.0f}}}$")
    if zero is not None:
        # No exponent is labelled below the position of 0.
        ticks = locator.tick_values(zero, axis.get_view_interval()[1])
        axis.set_major_locator(FixedLocator([zero, *(x for x in ticks if x > zero)]))
        axis.set_major_formatter(lambda x, _: "0" if x == zero else f"$2^{{{x:.0f}}}$")


# --- Heat maps --------------------------------------------------------------------


def plot_heat_maps(results: Results, rows: Sequence[Sequence[str]]) -> Figure:
    """A panel for each entry: validation error in tuning, above the best of its task.

    All panels have the same colours. Points that were not tried are white.
    """
    names = [name for row in rows for name in row]
    above = _errors_above_best(results, names)
    measure = results.plan.measure
    largest, digits = RANGE, 1
    # The size of a loss depends on the task, so the colours follow the errors.
    if measure.unit != "points":
        quartile = np.nanquantile([x for e in above.values() for x in e.values()], 0.75)
        largest, digits = (quartile if quartile > 0 else 1.0), 2
    shades = colormaps["viridis_r"].with_extremes(bad=DIVERGED)
    colours = ScalarMappable(Normalize(0, largest), shades)
    width = max(map(len, rows))
    size = 3.6 * width + 1, 3.2 * len(rows) + 0.6
    figure, panels = new_panels(len(rows), width, size)
    for row, line in zip(rows, panels, strict=True):
        for unused in line[len(row) :]:
            unused.set_visible(False)
    used = [axes for axes in panels.flat if axes.get_visible()]
    for axes, name in zip(used, names, strict=True):
        outcome = results.outcomes[name]
        draw_squares(axes, above[name], outcome.entry, colours)
        validated = values(outcome.entry, results.table, VALIDATION, "seed")
        chosen = tuple(outcome.choice.values())
        points = {"tried": above[name], "validated": validated, "chosen": [chosen]}
        for label, each in points.items():
            x, y = _exponents(outcome.entry, each).T
            axes.plot(x, y, ls="", **MARKS[label])
        error = f"{measure.perfect - outcome.scores[0]:.{digits}f}"
        axes.set_title(f"{name}: {error} {error_unit(measure)}", fontsize=10)
    label_edges(panels, "strength λ", "peak learning rate")
    label = f"validation error above the best of the task ({measure.unit})"
    figure.colorbar(colours, ax=panels, extend="max", label=label, fraction=0.03)
    marks = [Line2D([], [], ls="", label=name, **MARKS[name]) for name in MARKS]
    figure.legend(handles=marks, loc="outside upper center", ncols=4, frameon=False)
    return figure


def _errors_above_best(
    results: Results, names: Sequence[str]
) -> dict[str, dict[Point, float]]:
    """By entry and point; NaN if a run diverged."""
    means: dict[str, dict[Point, float]] = {}
    for name in names:
        entry = results.outcomes[name].entry
        diverged = values(entry, results.table, TUNING, "diverged")
        means[name] = {
            point: np.nan if diverged[point].any() else float(error.mean())
            for point, error in errors(results, entry, TUNING).items()
        }
    tasks = {name: results.outcomes[name].entry.labels.get("task") for name in names}
    above = {}
    for name in names:
        rivals = [means[other] for other in names if tasks[other] == tasks[name]]
        best = np.nanmin([error for each in rivals for error in each.values()])
        above[name] = {point: error - best for point, error in means[name].items()}
    return above


def draw_squares(
    axes: Axes, above: Mapping[Point, float], entry: Entry, colours: ScalarMappable
) -> None:
    """A square for each point: large for the coarse grid, small for added points."""
    horizontal, vertical = (entry.axes[_column(entry, name)] for name in HEAT_MAP_AXES)
    coarse = set(coarse_grid(entry.axes))
    # Added points are drawn later, so that large squares do not cover them.
    points = sorted(above, key=lambda point: point not in coarse)
    squares = []
    for point, (x, y) in zip(points, _exponents(entry, points), strict=True):
        large = point in coarse
        width, height = (_step(horizontal), _step(vertical)) if large else (1, 1)
        squares.append(Rectangle((x - width / 2, y - height / 2), width, height))
    shades = colours.to_rgba(np.array([above[point] for point in points]))
    axes.add_collection(PatchCollection(squares, facecolor=shades, linewidth=0))
    axes.grid(visible=False)
    axes.margins(0.02)
    axes.autoscale_view()
    drawn = _exponents(entry, points)
    for i, (axis, name) in enumerate(
        zip((axes.xaxis, axes.yaxis), HEAT_MAP_AXES, strict=True)
    ):
        is_zero = np.array(points)[:, _column(entry, name)] == 0
        label_powers_of_two(axis, drawn[is_zero, i].max() if is_zero.any() else None)


def _column(entry: Entry, name: str) -> int:
    """The position of an axis in the entry's points."""
    return [axis.name for axis in entry.axes].index(name)


def _exponents(entry: Entry, points: Iterable[Point]) -> np.ndarray:
    """log2 of λ and of the learning rate, float[points, 2].

    The value 0 is drawn one step below the smallest value.
    """
    found = np.array(list(points), float).reshape(-1, len(HEAT_MAP_AXES))
    found = found[:, [_column(entry, name) for name in HEAT_MAP_AXES]]
    for column, name in zip(found.T, HEAT_MAP_AXES, strict=True):
        axis = entry.axes[_column(entry, name)]
        positive = [x for x in (axis.low, *axis.values) if x > 0]
        column[column == 0] = min(positive, default=2.0) / 2 ** _step(axis)
    return np.log2(found)


def _step(axis: Axis) -> float:
    """The distance of neighbours in the coarse grid, in factors of two."""
    exponents = np.log2([value for value in axis.values if value > 0])
    return float(np.diff(exponents).min()) if len(exponents) > 1 else 1.0
