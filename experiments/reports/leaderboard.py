"""The report of `leaderboard`: differences to AdamW, and the cost of wrong numbers.

The runs of a single entry are compared with the stored runs of the board.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import cells, outcomes, statistics
from experiments.engine.manifest import is_finished
from experiments.engine.store import read_manifest
from experiments.errors import UserError
from experiments.outcomes import Comparison
from experiments.protocol import Entry, TUNING
from experiments.reports import figures, markdown
from experiments.reports.figures import BLUE, GREY, ORANGE, save
from experiments.reports.results import (
    caveats,
    error_unit,
    errors,
    format_difference,
    read_table,
    result_tables,
    Results,
)
from experiments.reports.template import save_report


PUBLISHED = Path(__file__).parents[1] / "results" / "leaderboard"
FACTOR = 4.0  # by which a number is wrong
AXES = {"weight_decay": "strength", "learning_rate": "learning rate"}


class Boards(NamedTuple):
    """The results of each board. The p-values are corrected over all of them."""

    results: dict[str, Results]
    added: tuple[str, ...]  # names of entries that are compared with a stored board


# --- Reading ----------------------------------------------------------------------


def find_board(folder: Path, against: str) -> Path:
    """Return the results directory of the board that an entry is compared with.

    Args:
        folder: the results directory of the entry.
        against: the hash of the board's plan.

    Raises:
        UserError: there is no finished run of the board.
    """
    own = folder.parent / against
    for found in (own, PUBLISHED):
        if is_finished(found) and read_manifest(found)["hash"] == against:
            return found
    raise UserError(
        f"there is no finished board {own}, and no published one of this plan. Run "
        "python -m experiments leaderboard with the same options first, without "
        "--entry."
    )


def read_boards(folder: Path) -> Boards:
    """Read the files of a run, and for a single entry those of the board."""
    manifest = read_manifest(folder)
    table, plan = read_table(folder, manifest), manifest["plan"]
    plans = {
        name: outcomes.plan_from_manifest(each) for name, each in plan["boards"].items()
    }
    added: list[str] = []
    if plan["against"]:
        board = find_board(folder, plan["against"])
        stored = read_manifest(board)
        table = cells.concatenate([read_table(board, stored), table])
        for name, mine in plans.items():
            other = outcomes.plan_from_manifest(stored["plan"]["boards"][name])
            added += [entry.name for entry in mine.entries]
            plans[name] = dataclasses.replace(
                other,
                entries=(*other.entries, *mine.entries),
                contrasts=(*other.contrasts, *mine.contrasts),
            )
    found = {}
    for name, each in plans.items():
        best = outcomes.outcomes(each, table)
        compared = outcomes.compare_contrasts(each, table, best)
        comparisons = {x.contrast.name: x for x in compared}
        found[name] = Results(folder, manifest, each, table, best, comparisons)
    return Boards(corrected(found), tuple(added))


def corrected(found: Mapping[str, Results]) -> dict[str, Results]:
    """Correct the p-values over the contrasts of all boards together."""
    keys = [(board, name) for board, x in found.items() for name in x.comparisons]
    raw = [found[board].comparisons[name].difference.p for board, name in keys]
    p_values = dict(zip(keys, statistics.holm(raw), strict=True))
    return {
        board: results._replace(
            comparisons={
                name: each._replace(p_holm=p_values[board, name])
                for name, each in results.comparisons.items()
            }
        )
        for board, results in found.items()
    }


def ranking(results: Results) -> list[Comparison]:
    """The contrasts of a board, the best entry first."""
    order = sorted(results.comparisons.values(), key=lambda x: -x.difference.mean)
    return list(order)


def entry_in(results: Results, compared: Comparison) -> Entry:
    """The entry that a contrast compares with the baseline."""
    (name, _), _ = compared.contrast.terms
    return results.outcomes[name].entry


def regret(results: Results, entry: Entry, axis: str) -> float:
    """The mean rise of the validation error if a number is wrong by `FACTOR`.

    The error is that of tuning. The number is too small or too large; the other one is
    that of the chosen point. NaN if neither neighbour was tried.
    """
    names = [each.name for each in entry.axes]
    if axis not in names:
        return np.nan
    index, tried = names.index(axis), errors(results, entry, TUNING)
    point = tuple(results.outcomes[entry.name].choice[name] for name in names)
    factors = (1 / FACTOR, FACTOR)
    wrong = [
        (*point[:index], point[index] * factor, *point[index + 1 :])
        for factor in factors
    ]
    rises = [tried[x].mean() - tried[point].mean() for x in wrong if x in tried]
    return float(np.mean(rises)) if rises else np.nan


# --- Report -----------------------------------------------------------------------


def write_report(folder: Path) -> str:
    """Write the figures, then report.md; returns the verdict."""
    boards = read_boards(folder)
    save(plot_forest(boards), folder / "forest.png")
    save(plot_regret(boards), folder / "regret.png")
    verdict = rows_of(boards) if boards.added else conclusion(boards)
    return save_report(
        folder,
        "leaderboard",
        verdict,
        factor=f"{FACTOR:g}",
        boards="\n\n".join(
            board_section(name, x) for name, x in boards.results.items()
        ),
        plans=plans_table(boards),
        contrasts=sum(len(x.comparisons) for x in boards.results.values()),
    )


def conclusion(boards: Boards) -> str:
    """The verdict, derived from the numbers: a paragraph for each board."""
    texts = []
    for board, results in boards.results.items():
        order = ranking(results)
        names = {
            sign: [
                f"`{entry_in(results, x).labels['arm']}`"
                for x in order
                if x.sign == sign
            ]
            for sign in (1, -1)
        }
        better = markdown.join(names[1]) if names[1] else "none"
        worse = markdown.join(names[-1]) if names[-1] else "none"
        rest = len(order) - len(names[1]) - len(names[-1])
        texts.append(
            f"**{board}** ({len(order)} entries against AdamW). Clearly better: "
            f"{better}. Clearly worse: {worse}. No clear difference: {rest}. "
            f"{caveats(results)}"
        )
    return "\n\n".join(texts)


def rows_of(boards: Boards) -> str:
    """The rows of the added entries: difference, p-value, verdict and place."""
    texts = []
    for board, results in boards.results.items():
        order, unit = ranking(results), results.plan.measure.unit
        for place, compared in enumerate(order, 1):
            entry = entry_in(results, compared)
            if entry.name in boards.added:
                texts.append(
                    f"`{entry.labels['arm']}` on {board}: "
                    f"{format_difference(compared)} {unit} against AdamW, p (Holm) "
                    f"{compared.p_holm:.2g}: {compared.verdict}; place {place} of "
                    f"{len(order)} without AdamW."
                )
    return " ".join(texts)


def board_section(name: str, results: Results) -> str:
    """The tables of a board."""
    unit = error_unit(results.plan.measure)
    columns: dict[str, Callable[[Comparison], str]] = {
        "entry": lambda x: f"`{entry_in(results, x).labels['arm']}`",
        **{
            f"wrong {label}, {unit}": functools.partial(_regret_text, results, axis)
            for axis, label in AXES.items()
        },
    }
    order = ranking(results)
    tables = result_tables(
        results, "entry", list(results.outcomes), [x.contrast.name for x in order]
    )
    return f"## Board {name}\n\n{tables}\n\n{markdown.table(order, columns)}"


def _regret_text(results: Results, axis: str, compared: Comparison) -> str:
    value = regret(results, entry_in(results, compared), axis)
    return f"{value:+.2f}" if np.isfinite(value) else "–"


def plans_table(boards: Boards) -> str:
    """The numbers of seeds and points of each board."""
    columns: dict[str, Callable[[str], str]] = {"board": str}
    fields = ("tuning_seeds", "rounds", "added", "screened", "candidates")
    for field in (*fields, "validation_seeds", "final_seeds"):
        columns[field.replace("_", " ")] = functools.partial(_number, boards, field)
    return markdown.table(boards.results, columns)


def _number(boards: Boards, field: str, board: str) -> str:
    return str(getattr(boards.results[board].plan, field))


# --- Figures ----------------------------------------------------------------------


def _panels(boards: Boards) -> tuple[Figure, np.ndarray]:
    rows = max(len(x.comparisons) for x in boards.results.values())
    size = (4.5 * len(boards.results), 1.5 + 0.25 * rows)
    return figures.new_panels(1, len(boards.results), size)


def _label_entries(axes: Axes, boards: Boards, board: str) -> None:
    """Name the entries on the vertical axis, the best one at the top."""
    results = boards.results[board]
    entries = [entry_in(results, x) for x in ranking(results)]
    axes.set_yticks(range(len(entries)), [x.labels["arm"] for x in entries])
    for label, entry in zip(axes.get_yticklabels(), entries, strict=True):
        label.set_fontweight("bold" if entry.name in boards.added else "normal")
    axes.invert_yaxis()
    axes.set_title(board)


def plot_forest(boards: Boards) -> Figure:
    """The paired differences to AdamW with both intervals, a panel for each board."""
    figure, panels = _panels(boards)
    for axes, (board, results) in zip(panels[0], boards.results.items(), strict=True):
        for row, compared in enumerate(ranking(results)):
            colour = {1: BLUE, 0: GREY, -1: ORANGE}[compared.sign]
            mean, low, high, _ = compared.difference
            axes.plot(mean, row, "o", color=colour, ms=5)
            if np.isfinite(low):
                axes.hlines(row, low, high, color=colour, lw=3)
                axes.hlines(row, *compared.with_choice, color=colour, lw=1)
        axes.axvline(0, color="0.5", lw=0.8)
        axes.set_xlabel(f"ahead of AdamW ({results.plan.measure.unit})")
        _label_entries(axes, boards, board)
    return figure


def plot_regret(boards: Boards) -> Figure:
    """What a wrong strength or learning rate costs, a panel for each board."""
    figure, panels = _panels(boards)
    marks: dict[str, Any] = {"weight_decay": "o", "learning_rate": "s"}
    for axes, (board, results) in zip(panels[0], boards.results.items(), strict=True):
        order = [entry_in(results, x) for x in ranking(results)]
        for (axis, label), colour in zip(AXES.items(), (BLUE, ORANGE), strict=True):
            costs = [regret(results, entry, axis) for entry in order]
            rows = range(len(order))
            axes.plot(costs, rows, marks[axis], color=colour, label=f"wrong {label}")
        axes.axvline(0, color="0.5", lw=0.8)
        axes.set_xlabel(f"rise of the error ({error_unit(results.plan.measure)})")
        _label_entries(axes, boards, board)
    figures.add_legend(figure, panels[0, 0])
    return figure
