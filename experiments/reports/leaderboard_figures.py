"""The figures of `leaderboard`: differences to AdamW, and the cost of wrong numbers."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.reports import figures
from experiments.reports.figures import BLUE, GREY, ORANGE
from experiments.reports.leaderboard_numbers import (
    Boards,
    entry_in,
    is_sound,
    ranking,
    regret,
)
from experiments.reports.results import error_unit


COLUMNS = 2  # of panels
MARKS = {  # by axis: label, marker, colour
    "weight_decay": ("wrong strength", "o", BLUE),
    "learning_rate": ("wrong learning rate", "s", ORANGE),
}


def _panels(boards: Boards) -> tuple[Figure, dict[str, Axes]]:
    """A figure with a panel for each board, by name."""
    count = len(boards.results)
    columns = min(COLUMNS, count)
    rows = -(-count // columns)
    lines = max(len(x.comparisons) for x in boards.results.values())
    size = (5.0 * columns, rows * (1.2 + 0.2 * lines))
    figure, panels = figures.new_panels(rows, columns, size)
    for spare in panels.flat[count:]:
        spare.set_visible(False)
    return figure, dict(zip(boards.results, panels.flat[:count], strict=True))


def _label_entries(axes: Axes, boards: Boards, board: str) -> None:
    """Name the entries on the vertical axis, the best one at the top."""
    results = boards.results[board]
    entries = [entry_in(results, x) for x in ranking(results)]
    axes.set_yticks(range(len(entries)), [x.labels["arm"] for x in entries])
    for label, entry in zip(axes.get_yticklabels(), entries, strict=True):
        label.set_fontweight("bold" if entry.name in boards.added else "normal")
    axes.invert_yaxis()
    axes.axvline(0, color="0.5", lw=0.8)
    axes.set_title(board)


def plot_forest(boards: Boards) -> Figure:
    """The paired differences to AdamW with both intervals, a panel for each board."""
    figure, panels = _panels(boards)
    for board, axes in panels.items():
        results = boards.results[board]
        for row, compared in enumerate(ranking(results)):
            colour = {1: BLUE, 0: GREY, -1: ORANGE}[compared.sign]
            mean, low, high, _ = compared.difference
            # A hollow mark: a point is not bracketed, or it was lucky.
            inside = colour if is_sound(compared) else "white"
            axes.plot(mean, row, "o", color=colour, mfc=inside, ms=5, zorder=3)
            if np.isfinite(low):
                axes.hlines(row, low, high, color=colour, lw=3)
                axes.hlines(row, *compared.with_choice, color=colour, lw=1)
        axes.set_xlabel(f"ahead of AdamW ({results.plan.measure.unit})")
        _label_entries(axes, boards, board)
    return figure


def plot_regret(boards: Boards) -> Figure:
    """What a wrong strength or learning rate costs, a panel for each board."""
    figure, panels = _panels(boards)
    for board, axes in panels.items():
        results = boards.results[board]
        order = [entry_in(results, x) for x in ranking(results)]
        for axis, (label, mark, colour) in MARKS.items():
            costs = [regret(results, entry, axis) for entry in order]
            axes.plot(costs, range(len(order)), mark, color=colour, label=label)
        axes.set_xlabel(f"rise of the error ({error_unit(results.plan.measure)})")
        _label_entries(axes, boards, board)
    figures.add_legend(figure, next(iter(panels.values())))
    return figure
