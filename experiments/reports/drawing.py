"""What the figures of several studies share: colours, heatmaps, whole files."""

from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from experiments import cells
from experiments.files import whole
from experiments.selection import Choice


# Okabe and Ito's palette, which colour-blind readers can tell apart.
COLOURS = {
    "none": "#666666",
    "L2": "#D55E00",
    "decoupled": "#0072B2",
    "independent": "#009E73",
}
DIVERGED = "0.7"  # a grey that viridis does not hold


def save(figure: Figure, path: Path) -> None:
    """As a file that is whole or not there."""
    with whole(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=130)


def heatmap(
    axes: Axes,
    grid: cells.Table,
    choice: Choice,
    colours: Normalize,
    circled: int = 0,
) -> AxesImage:
    """Mean validation accuracy (%) over strength and learning rate.

    A star marks the choice, circles the best cells, a red frame a choice on an edge of
    the grid; grey cells have a run that diverged.
    """
    names = ("learning_rate", "weight_decay")
    rates, strengths = (np.unique(grid[name]) for name in names)
    means = 100 * cells.pivot(grid, "val_accuracy", *names, "seed").mean(-1)
    diverged = cells.pivot(grid, "diverged", *names, "seed").any(-1)
    viridis = colormaps["viridis"].with_extremes(bad=DIVERGED)
    shown = np.where(diverged, np.nan, means)
    image = axes.imshow(shown, viridis, colours, origin="lower", aspect="auto")
    for axis, values, size in ((axes.xaxis, strengths, 7), (axes.yaxis, rates, 8)):
        axis.set_ticks(range(len(values)), [label(x) for x in values], fontsize=size)
    order = np.argsort(-means, axis=None, kind="stable")[:circled]
    rows, columns = np.unravel_index(order, means.shape)
    axes.plot(columns, rows, "o", ms=9, mfc="none", mec="white", mew=1.2)
    row = int(np.flatnonzero(rates == choice.learning_rate)[0])
    column = int(np.flatnonzero(strengths == choice.weight_decay)[0])
    axes.plot(column, row, "*", ms=13, color="white", mec="black")
    if choice.edges:
        axes.spines[:].set(color="red", linewidth=2)
    return image


def label(value: float) -> str:
    """A number of an axis; powers of two as such."""
    exponent = np.log2(value) if value > 0 else 0.5
    return f"$2^{{{exponent:.0f}}}$" if exponent == round(exponent) else f"{value:g}"
