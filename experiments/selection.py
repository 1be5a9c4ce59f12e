"""The best cell of a grid, by validation and by nothing else."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments import cells


TUNING, FINAL = "tuning", "final"  # the two stages of the protocol
AXES = {"weight_decay": "λ", "learning_rate": "learning rate"}


class Choice(NamedTuple):
    """What tuning picked."""

    learning_rate: float
    weight_decay: float
    score: float  # mean over the tuning seeds
    edges: tuple[str, ...]  # axes of the grid on whose edge it lies: extend them


def choose(table: cells.Table) -> Choice:
    """The cell with the best mean accuracy over the seeds of the table's grid.

    Between equals the smaller strength wins, then the smaller learning rate.
    """
    strengths, rates = (np.unique(table[axis]) for axis in AXES)
    means = cells.pivot(table, "val_accuracy", *AXES, "seed").mean(-1).round(9)
    row, column = np.unravel_index(np.nanargmax(means), means.shape)
    best = float(strengths[row]), float(rates[column])
    edges = tuple(
        name
        for name, value, axis in zip(
            AXES.values(), best, (strengths, rates), strict=True
        )
        if at_edge(value, axis.tolist())
    )
    return Choice(best[1], best[0], float(means[row, column]), edges)


def at_edge(value: float, axis: Sequence[float]) -> bool:
    """Whether a better value may lie beyond the axis; below 0 there is none."""
    if len(axis) < 2:
        return False
    return value == max(axis) or (value == min(axis) and value != 0)
