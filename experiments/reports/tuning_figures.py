"""The ridges of the study `tuning`, and what decoupling gains by learning rate."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.reports.figures import COLOURS, powers_of_two
from experiments.separability import GOOD


SHOWN = 12.0  # points of advantage; at bad learning rates it may be 70
PLACE_COLOURS = {
    "L2": COLOURS["L2"],
    "lr-scaled": COLOURS["decoupled"],
    "independent": COLOURS["independent"],
}


def _by(grids: Sequence[Any], label: str) -> dict[str, list[Any]]:
    """The grids by one of their labels, in order."""
    found: dict[str, list[Any]] = {}
    for grid in grids:
        found.setdefault(grid.entry.labels[label], []).append(grid)
    return found


def ridges(grids: Sequence[Any]) -> Figure:
    """The ridge of each grid that has one: centres and the line through them."""
    tasks, bases = _by(grids, "task"), list(_by(grids, "base"))
    size = 3.8 * len(bases) + 0.6, 3.2 * len(tasks) + 0.6
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(tasks), len(bases), squeeze=False)
    for row, (task, mine) in zip(panels, tasks.items(), strict=True):
        for axes, base in zip(row, bases, strict=True):
            drawn = [g for g in _by(mine, "base")[base] if g.ridge is not None]
            for grid in drawn:
                _ridge(axes, grid)
            axes.set_title(f"{task}, {base}", fontsize=10)
            axes.grid(alpha=0.3)
            powers_of_two(axes.xaxis)
            powers_of_two(axes.yaxis)
            if not drawn:
                axes.set(xticks=[], yticks=[])
                axes.text(0.5, 0.5, "no slope", transform=axes.transAxes, ha="center")
        row[0].set_ylabel("λ")
    for axes in panels[-1]:
        axes.set_xlabel("peak learning rate")
    for place, colour in PLACE_COLOURS.items():
        panels[0, 0].plot([], [], "o-", ms=3, color=colour, label=place)
    handles = panels[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=3, frameon=False)
    return figure


def _ridge(axes: Any, grid: Any) -> None:
    colour = PLACE_COLOURS[grid.entry.labels["place"]]
    rates, decays = np.array(grid.ridge.centres).T
    axes.plot(rates, decays, "o", color=colour, ms=4, alpha=0.6)
    ends = np.array([rates.min(), rates.max()])
    axes.plot(ends, grid.ridge.offset + grid.ridge.slope * ends, color=colour)


def advantage(grids: Sequence[Any]) -> Figure:
    """L2's error minus that of decoupled decay at each learning rate and its best λ."""
    tasks, bases = _by(grids, "task"), list(_by(grids, "base"))
    size = 3.8 * len(bases) + 0.6, 2.8 * len(tasks) + 0.6
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(tasks), len(bases), squeeze=False, sharey="row")
    for row, (task, mine) in zip(panels, tasks.items(), strict=True):
        for axes, base in zip(row, bases, strict=True):
            places = {g.entry.labels["place"]: g for g in _by(mine, "base")[base]}
            l2 = places.pop("L2")
            rates = np.log2(l2.entry.axes[1].values)
            for place, grid in places.items():
                gained = l2.coarse.min(1) - grid.coarse.min(1)
                best = np.minimum(l2.coarse.min(1), grid.coarse.min(1))
                good = best <= best.min() + GOOD
                look = {"color": PLACE_COLOURS[place], "ms": 5}
                style = "-" if place == "lr-scaled" else "--"
                axes.plot(rates, gained, style, label=f"{place} against L2", **look)
                axes.plot(rates[good], gained[good], "o", **look)
            axes.axhline(0, color="0.5", lw=0.8)
            axes.set_title(f"{task}, {base}", fontsize=10)
            axes.grid(alpha=0.3)
            powers_of_two(axes.xaxis)
        row[0].set_ylabel("points of validation error\nbelow L2")
        row[0].set_ylim(-SHOWN, SHOWN)
    for axes in panels[-1]:
        axes.set_xlabel("peak learning rate")
    handles = panels[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=2, frameon=False)
    return figure
