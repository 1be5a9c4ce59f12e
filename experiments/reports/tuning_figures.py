"""The heatmaps of the study `tuning`, and the ridges in them."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from experiments import cells, separability
from experiments.reports.drawing import COLOURS, heatmap
from experiments.selection import Choice


RANGE = 15.0  # points below the best that the colours span
CIRCLED = 10
LOOKS = {"SGD": ("o", "-"), "RMSprop": ("s", "--"), "Adam": ("^", ":")}
PLACE_COLOURS = {
    "L2": COLOURS["L2"],
    "lr-coupled": COLOURS["decoupled"],
    "independent": COLOURS["independent"],
}


def heatmaps(grids: dict[str, cells.Table], choices: dict[str, Choice]) -> Figure:
    """A row for each base, a column for each place."""
    best = 100 * max(choice.score for choice in choices.values())
    colours = Normalize(best - RANGE, best)
    figure = Figure(figsize=(11, 10), layout="constrained")
    panels = figure.subplots(len(grids) // 3, 3, squeeze=False)
    images = []
    for axes, (arm, grid) in zip(panels.flat, grids.items(), strict=True):
        choice = choices[arm]
        images.append(heatmap(axes, grid, choice, colours, CIRCLED))
        _level(axes, grid, choice)
        edge = f", edge: {' and '.join(choice.edges)}" if choice.edges else ""
        axes.set_title(f"{arm}: {100 * choice.score:.1f} %{edge}", fontsize=10)
    for axes in panels[-1]:
        axes.set_xlabel("strength λ")
    for axes in panels[:, 0]:
        axes.set_ylabel("peak learning rate")
    label = "mean validation accuracy (%)"
    figure.colorbar(images[0], ax=panels, extend="min", label=label, fraction=0.03)
    return figure


def _level(axes: Axes, grid: cells.Table, choice: Choice) -> None:
    """A line around the cells within one standard deviation over seeds of the best."""
    names = ("learning_rate", "weight_decay")
    values = 100 * cells.pivot(grid, "val_accuracy", *names, "seed")
    if values.shape[-1] < 2 or min(values.shape[:2]) < 2:
        return
    means, noise = values.mean(-1), values.std(-1, ddof=1)
    best = means == means.max()
    level = means.max() - float(noise[best].max())
    if means.min() < level < means.max():
        axes.contour(means, levels=[level], colors="white", linewidths=1)


def ridges(runs: cells.Table, tasks: list[str]) -> Figure:
    """The best λ of each good learning rate, with the line through them."""
    figure = Figure(figsize=(12, 4), layout="constrained")
    panels = figure.subplots(1, len(tasks), squeeze=False)[0]
    tuning = cells.where(runs, stage="tuning")
    for axes, task in zip(panels, tasks, strict=True):
        for arm in cells.unique(cells.where(tuning, task=task), "arm"):
            grid = cells.where(tuning, task=task, arm=arm)
            marker, style = LOOKS[grid["base"][0]]
            colour = PLACE_COLOURS[grid["place"][0]]
            rates, decays = separability.ridge(*errors_of(grid))
            if len(rates) == 0:
                continue
            axes.plot(2**rates, 2**decays, marker, color=colour, ms=5, alpha=0.7)
            if len(rates) > 2:
                fitted = np.polyval(np.polyfit(rates, decays, 1), rates)
                axes.plot(2**rates, 2**fitted, style, color=colour, lw=1.3)
        if axes.lines:  # else there is no ridge, and nothing to take a logarithm of
            axes.set(xscale="log", yscale="log")
        axes.set(title=task, xlabel="learning rate")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("best λ")
    for place, colour in PLACE_COLOURS.items():
        panels[0].plot([], [], color=colour, label=place)
    for base, (marker, style) in LOOKS.items():
        panels[0].plot([], [], marker + style, color="black", ms=5, label=base)
    figure.legend(loc="outside upper center", ncols=6, frameon=False)
    return figure


def errors_of(grid: cells.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean validation errors in percent, and the logarithms of the grid's axes."""
    names = ("learning_rate", "weight_decay")
    errors = 100 - 100 * cells.pivot(grid, "val_accuracy", *names, "seed").mean(-1)
    rates, decays = (np.log2(np.unique(grid[name])) for name in names)
    return errors, rates, decays
