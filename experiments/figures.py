"""The four figures, made only from what is stored."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from experiments.analysis import (
    Analysis,
    Choice,
    DECOUPLED,
    FINAL,
    L2,
    MATCHED,
    NONE,
    Run,
    TUNING,
)
from experiments.files import whole


Arrays = dict[str, np.ndarray]
# Okabe and Ito's palette, which colour-blind readers can tell apart.
COLOURS = {NONE: "#666666", L2: "#D55E00", DECOUPLED: "#0072B2"}
LABELS = {NONE: "no decay", L2: "L2", DECOUPLED: "decoupled"}
INTERVAL: dict[str, Any] = {"fmt": "D", "color": "black", "capsize": 5, "ms": 4}
HEATMAP_RANGE = 15.0  # points below the best that the colours span
SHRINK_ARMS = ("rmsprop_l2", "rmspropw")
NO_GRADIENT = 1e-6  # 100 times the optimizers' ε, which must not matter to V
TINY = 1e-3  # of the root mean square of all weights: too small to measure a shrink


class Line(NamedTuple):
    """log shrink = slope · log √V + constant, by least squares."""

    slope: float
    used: np.ndarray  # which weights entered


def save(figure: Figure, path: Path) -> None:
    with whole(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=130)


def accuracy(runs: Sequence[Run], analysis: Analysis) -> Figure:
    """Test accuracy by arm: mean with its interval, seeds as dots."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot()
    rng = np.random.default_rng(0)
    for index, arm in enumerate(analysis.arms):
        place = index + 0.6 * (index // 3)
        seeds = [r.test_accuracy for r in runs if (r.arm, r.stage) == (arm.arm, FINAL)]
        spread = place + rng.uniform(-0.2, 0.2, len(seeds))
        colour = COLOURS[arm.place]
        axes.plot(spread, 100 * np.array(seeds), ".", color=colour, alpha=0.45, ms=5)
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
    figure = Figure(figsize=(7, 4.8), layout="constrained")
    axes = figure.add_subplot(xscale="log", yscale="log")
    for arm, place in zip(SHRINK_ARMS, (L2, DECOUPLED), strict=True):
        root_v, shrink = arrays[f"{arm}/root_v"], arrays[f"{arm}/shrink"]
        line = shrink_line(arrays, arm)
        dots = {"color": COLOURS[place], "alpha": 0.25, "ms": 3, "mew": 0}
        axes.plot(root_v[line.used], shrink[line.used], ".", **dots)
        label = f"{arm}: fitted slope {line.slope:+z.2f}"
        axes.plot([], [], "o", color=COLOURS[place], label=label)
    x = np.array(axes.get_xlim())
    rates = [float(arrays[f"{arm}/rate"]) for arm in SHRINK_ARMS]
    axes.plot(x, rates[0] / x, "k--", lw=1, label=r"$\gamma\lambda/\sqrt{V}$")
    axes.plot(x, np.full(2, rates[1]), "k:", lw=1.3, label=r"$\gamma\lambda$")
    axes.set_xlabel(r"$\sqrt{V}$: root of the weight's second moment")
    axes.set_ylabel("shrink: part of the weight removed in one step")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure


def shrink_line(arrays: Arrays, arm: str) -> Line:
    """Fit log shrink to log √V, over the weights whose shrink can be measured."""
    root_v, shrink = arrays[f"{arm}/root_v"], arrays[f"{arm}/shrink"]
    rms_w = arrays[f"{arm}/rms_w"]
    large = rms_w > TINY * np.sqrt(np.mean(rms_w**2))
    used = large & (arrays[f"{arm}/rms_g"] > NO_GRADIENT) & (shrink > 0)
    slope, _ = np.polyfit(np.log10(root_v[used]), np.log10(shrink[used]), 1)
    return Line(float(slope), used)


def heatmaps(runs: Sequence[Run], analysis: Analysis) -> Figure:
    """Validation accuracy over learning rate and strength, one colour scale."""
    decayed = [arm for arm in analysis.arms if arm.place != NONE]
    best = 100 * max(arm.choice.val_accuracy for arm in decayed)
    colours = Normalize(best - HEATMAP_RANGE, best)
    figure = Figure(figsize=(11, 5.6), layout="constrained")
    grid = figure.subplots(2, len(decayed) // 2, squeeze=False)
    for index, arm in enumerate(decayed):
        axes = grid[index % 2, index // 2]
        tuning = [run for run in runs if (run.arm, run.stage) == (arm.arm, TUNING)]
        image = _heatmap(axes, tuning, arm.choice, colours)
        axes.set_title(f"{arm.arm}: best {100 * arm.choice.val_accuracy:.1f} %")
        axes.set_xlabel("strength λ" if index % 2 else "")
        axes.set_ylabel("peak learning rate" if index < 2 else "")
        if index == 0:  # one bar for all: they share its scale
            label = "mean validation accuracy (%)"
            figure.colorbar(image, ax=grid, extend="min", label=label, fraction=0.03)
    return figure


def _heatmap(
    axes: Axes, tuning: Sequence[Run], choice: Choice, colours: Normalize
) -> AxesImage:
    rates = sorted({run.learning_rate for run in tuning})
    strengths = sorted({run.weight_decay for run in tuning})
    values: list[list[list[float]]] = [[[] for _ in strengths] for _ in rates]
    for run in tuning:
        row, column = rates.index(run.learning_rate), strengths.index(run.weight_decay)
        value = np.nan if run.diverged else 100 * run.val_accuracy
        values[row][column].append(value)
    means = np.mean(values, axis=-1)
    viridis = colormaps["viridis"].with_extremes(bad="0.7")
    image = axes.imshow(means, viridis, colours, origin="lower", aspect="auto")
    axes.set_xticks(range(len(strengths)), [f"{x:g}" for x in strengths], fontsize=7)
    axes.set_yticks(range(len(rates)), [f"{x:g}" for x in rates], fontsize=8)
    star = strengths.index(choice.weight_decay), rates.index(choice.learning_rate)
    axes.plot(*star, "*", ms=13, color="white", mec="black")
    return image


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
