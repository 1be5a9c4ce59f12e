"""The four figures, made only from what is stored."""

from typing import Any

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from experiments.cells import Table
from experiments.reports.demo_analysis import (
    Analysis,
    DECOUPLED,
    FINAL,
    L2,
    MATCHED,
    NONE,
    of_stage,
    SHRINK_ARMS,
    TUNING,
)
from experiments.reports.drawing import COLOURS, heatmap
from experiments.reports.shrink import draw_shrinks


Arrays = dict[str, np.ndarray]
LABELS = {NONE: "no decay", L2: "L2", DECOUPLED: "decoupled"}
INTERVAL: dict[str, Any] = {"fmt": "D", "color": "black", "capsize": 5, "ms": 4}
HEATMAP_RANGE = 15.0  # points below the best that the colours span


def accuracy(table: Table, analysis: Analysis) -> Figure:
    """Test accuracy by arm: mean with its interval, seeds as dots."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot()
    rng = np.random.default_rng(0)
    for index, arm in enumerate(analysis.arms):
        place = index + 0.6 * (index // 3)
        seeds = of_stage(table, FINAL, arm.arm)["test_accuracy"]
        spread = place + rng.uniform(-0.2, 0.2, len(seeds))
        colour = COLOURS[arm.place]
        axes.plot(spread, 100 * seeds, ".", color=colour, alpha=0.45, ms=5)
        margin = [[arm.test.mean - arm.test.low], [arm.test.high - arm.test.mean]]
        axes.errorbar(place, arm.test.mean, margin, **INTERVAL)
    places = [i + 0.6 * (i // 3) for i in range(len(analysis.arms))]
    axes.set_xticks(places, [arm.arm for arm in analysis.arms], fontsize=8)
    axes.set_ylabel("test accuracy (%)")
    axes.grid(axis="y", alpha=0.3)
    for place in (NONE, L2, DECOUPLED):
        axes.plot([], [], "o", color=COLOURS[place], label=LABELS[place])
    axes.errorbar([], [], [], label="mean, 95 % CI", **INTERVAL)
    figure.legend(loc="outside upper center", ncols=4, frameon=False)
    return figure


def mechanism(arrays: Arrays) -> Figure:
    """Shrink of each weight in one step against the root of its second moment."""
    measured = {arm: shrink_of(arrays, arm) for arm in SHRINK_ARMS}
    colours = {
        arm: COLOURS[p] for arm, p in zip(measured, (L2, DECOUPLED), strict=True)
    }
    figure = Figure(figsize=(7, 4.8), layout="constrained")
    draw_shrinks(figure.add_subplot(xscale="log", yscale="log"), measured, colours)
    return figure


def shrink_of(arrays: Arrays, arm: str) -> Arrays:
    """What was measured of an arm."""
    start = f"{arm}/"
    return {n.removeprefix(start): x for n, x in arrays.items() if n.startswith(start)}


def heatmaps(table: Table, analysis: Analysis) -> Figure:
    """Validation accuracy over learning rate and strength, one colour scale."""
    decayed = [arm for arm in analysis.arms if arm.place != NONE]
    best = 100 * max(arm.choice.score for arm in decayed)
    colours = Normalize(best - HEATMAP_RANGE, best)
    figure = Figure(figsize=(11, 5.6), layout="constrained")
    grid = figure.subplots(2, len(decayed) // 2, squeeze=False)
    for index, arm in enumerate(decayed):
        axes = grid[index % 2, index // 2]
        image = heatmap(axes, of_stage(table, TUNING, arm.arm), arm.choice, colours)
        axes.set_title(f"{arm.arm}: best {100 * arm.choice.score:.1f} %")
        axes.set_xlabel("strength λ" if index % 2 else "")
        axes.set_ylabel("peak learning rate" if index < 2 else "")
        if index == 0:  # one bar for all: they share its scale
            label = "mean validation accuracy (%)"
            figure.colorbar(image, ax=grid, extend="min", label=label, fraction=0.03)
    return figure


def weights(arrays: Arrays, analysis: Analysis) -> Figure:
    """Cumulative distribution of |w| over the kernels of all final runs."""
    bases = list(dict.fromkeys(arm.base for arm in analysis.arms))
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    grid = figure.subplots(1, len(bases), sharex=True, sharey=True, squeeze=False)
    x = np.logspace(-6, 0.5, 400)
    for arm in analysis.arms:
        axes = grid[0, bases.index(arm.base)]
        label = f"{arm.arm} (largest {arm.max_abs_w:.2f})"
        share = _shares(arrays[f"{arm.arm}/{FINAL} weights"], x)
        axes.plot(x, 100 * share, color=COLOURS[arm.place], label=label, lw=1.6)
    for axes, same in zip(grid[0], analysis.matched, strict=True):
        label = (
            f"{same.arm} at lr {same.learning_rate:g} (largest {same.max_abs_w:.2f})"
        )
        share = _shares(arrays[f"{same.arm}/{MATCHED} weights"], x)
        axes.plot(x, 100 * share, "--", color=COLOURS[NONE], label=label, lw=1.3)
    for base, axes in zip(bases, grid[0], strict=True):
        axes.set(xscale="log", title=base, xlabel="|w|")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8, loc="upper left")
    grid[0, 0].set_ylabel("weights smaller than |w| (%)")
    return figure


def _shares(values: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The share of the values whose size is below each x."""
    return np.searchsorted(np.sort(np.abs(values).ravel()), x) / values.size
