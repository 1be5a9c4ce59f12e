"""The report of `leaderboard`: differences to AdamW, best cells, cost of wrong numbers.

The runs of a single entry are compared with the stored runs of the board.
"""

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np

from experiments.outcomes import Comparison
from experiments.protocol import Entry
from experiments.reports import markdown
from experiments.reports.figures import save_palette
from experiments.reports.leaderboard_figures import plot_forest, plot_regret
from experiments.reports.leaderboard_numbers import (
    arrivals,
    best_cells,
    BestCell,
    Boards,
    entry_in,
    FACTOR,
    find_board as find_board,
    is_sound,
    ranking,
    read_boards,
    regret,
)
from experiments.reports.replication import replicated_table
from experiments.reports.results import (
    digits_of,
    error_unit,
    few_seeds,
    format_difference,
    result_tables,
    Results,
)
from experiments.reports.template import save_report


AXES = {"weight_decay": "strength", "learning_rate": "learning rate"}
SEEDS = "on the seeds 1000 to 1029"  # of a replication
PLACES = ("best", "second", "third")


def write_report(folder: Path) -> str:
    """Write the figures, then report.md; returns the verdict."""
    boards = read_boards(folder)
    save_palette(plot_forest(boards), folder / "forest.png")
    save_palette(plot_regret(boards), folder / "regret.png")
    verdict = rows_of(boards) if boards.added else conclusion(boards)
    sections = [board_section(name, x) for name, x in boards.results.items()]
    if boards.added and boards.again:
        table = replicated_table(boards.again, "final seeds")
        sections.append(f"## The new entries {SEEDS}\n\n{table}")
    return save_report(
        folder,
        "leaderboard",
        verdict,
        factor=f"{FACTOR:g}",
        boards="\n\n".join(sections),
        plans=plans_table(boards),
        contrasts=sum(len(x.comparisons) for x in boards.results.values()),
    )


# --- The verdict ------------------------------------------------------------------


def conclusion(boards: Boards) -> str:
    """The verdict, derived from the numbers: a paragraph for each board."""
    texts = []
    for board, results in boards.results.items():
        order = ranking(results)
        better = [x for x in order if x.sign > 0]
        worse = [x for x in order if x.sign < 0]
        parts = {
            "Clearly better": [x for x in better if is_sound(x)],
            "Better, but not a win": [x for x in better if not is_sound(x)],
            "Clearly worse": [x for x in worse if is_sound(x)],
            "Worse, with a doubt": [x for x in worse if not is_sound(x)],
        }
        named = [
            f"{title}: {_names(results, found)}."
            for title, found in parts.items()
            if found or title.startswith("Clearly")
        ]
        rest = len(order) - len(better) - len(worse)
        texts.append(
            f"**{board}** ({len(order)} entries against AdamW). {' '.join(named)} No "
            f"clear difference: {rest}. {_doubts(results)}"
        )
    return "\n\n".join([*texts, _replication(boards)])


def _names(results: Results, compared: list[Comparison]) -> str:
    """The entries, each with the reasons to doubt its verdict."""
    names = []
    for each in compared:
        name = f"`{entry_in(results, each).labels['arm']}`"
        names.append(f"{name} ({', '.join(each.notes)})" if each.notes else name)
    return markdown.join(names) if names else "none"


def _doubts(results: Results) -> str:
    """Entries that are not bracketed or lucky; the tables say on which side."""
    found = results.outcomes.values()
    sentences = []
    for title, chosen in (
        ("Not bracketed", [x for x in found if x.open]),
        ("Lucky", [x for x in found if x.lucky]),
    ):
        names = [f"`{x.entry.labels['arm']}`" for x in chosen]
        sentences.append(f"{title}: {markdown.join(names) if names else 'none'}.")
    return " ".join([*sentences, *few_seeds(results.plan)])


def _replication(boards: Boards) -> str:
    """Which of the better entries are clearly better again on new seeds."""
    if not boards.again:
        return f"A win must be clear again {SEEDS}: not yet replicated."
    by_name = {
        compared.contrast.name: (results, compared)
        for results in boards.results.values()
        for compared in results.comparisons.values()
    }
    again, not_again, only_now = [], [], []
    for each in boards.again:
        results, compared = by_name[each.contrast.name]
        labels = entry_in(results, compared).labels
        named = (f"`{labels['arm']}`", labels["task"])
        if compared.sign > 0 and is_sound(compared):
            found = again if each.sign > 0 else not_again
            found.append(named)
        elif compared.sign <= 0 < each.sign:
            only_now.append(named)
    wins = _by_task(again) or "none"
    text = f"Wins, clearly better again {SEEDS}: {wins}."
    if not_again:
        text += f" Clearly better only on the final seeds: {_by_task(not_again)}."
    if only_now:
        text += f" Clearly better only on the new seeds: {_by_task(only_now)}."
    return f"{text} All contrasts on the new seeds: `replication/report.md`."


def _by_task(found: list[tuple[str, str]]) -> str:
    """From (entry, task): "a and b on one task; c on another"."""
    tasks: dict[str, list[str]] = {}
    for entry, task in found:
        tasks.setdefault(task, []).append(entry)
    return "; ".join(f"{markdown.join(x)} on {task}" for task, x in tasks.items())


def rows_of(boards: Boards) -> str:
    """The rows of the added entries: difference, p-value, verdict and place."""
    texts, wins, few = [], False, []
    for board, results in boards.results.items():
        order, measure = ranking(results), results.plan.measure
        for place, compared in enumerate(order, 1):
            entry = entry_in(results, compared)
            if entry.name in boards.added:
                wins |= compared.sign > 0 and is_sound(compared)
                texts.append(
                    f"`{entry.labels['arm']}` on {board}: "
                    f"{format_difference(compared, digits_of(measure))} "
                    f"{measure.unit} against AdamW, p (Holm) {compared.p_holm:.2g}: "
                    f"{compared.verdict}; place {place} of {len(order)} (AdamW is not "
                    "counted)."
                )
                few = few_seeds(results.plan)
    texts += few
    if boards.again:
        outcomes = [(x.contrast.name, x.outcome) for x in boards.again]
        texts.append(f"Again {SEEDS}: {markdown.group(outcomes, 'for')}.")
    elif wins:
        texts.append(f"A win must be clear again {SEEDS}: the board was not run there.")
    if boards.differences:
        texts.append(
            "The entry was run with other "
            f"{' and other '.join(boards.differences)} than the board. Equal seeds "
            "then do not give equal bits, so even a copy of AdamW can differ from "
            "AdamW."
        )
    return " ".join(texts)


# --- Tables -----------------------------------------------------------------------


def board_section(name: str, results: Results) -> str:
    """The tables of a board."""
    order = ranking(results)
    tables = result_tables(
        results, "entry", list(results.outcomes), [x.contrast.name for x in order]
    )
    return "\n\n".join(
        [
            f"## Board {name}",
            tables,
            f"### Best cells on {name}",
            cells_table(results),
            f"### Cost of a wrong number on {name}",
            costs_table(results),
        ]
    )


def cells_table(results: Results) -> str:
    """A line for each entry with its best three points on the seeds of validation."""
    best = {
        name: best_cells(results, outcome.entry)
        for name, outcome in results.outcomes.items()
    }
    measure = results.plan.measure
    digits = digits_of(measure)

    def text(place: int, name: str) -> str:
        if place >= len(best[name]):
            return "–"
        return cell_text(results.outcomes[name].entry, best[name][place], digits)

    def reach(name: str) -> str:
        tests = [cell.test for cell in best[name]]
        return f"{max(tests) - min(tests):.{digits}f}"

    def arrived(name: str) -> str:
        count, runs = arrivals(results, results.outcomes[name].entry)
        return f"{count} of {runs}"

    columns: dict[str, Callable[[str], str]] = {
        "entry": lambda name: f"`{results.outcomes[name].entry.labels['arm']}`",
        **{each: functools.partial(text, place) for place, each in enumerate(PLACES)},
        f"range of test, {error_unit(measure)}": reach,
    }
    if measure.unit == "steps":
        columns["final runs that arrived"] = arrived
    return markdown.table(best, columns)


def cell_text(entry: Entry, cell: BestCell, digits: int) -> str:
    """Such as "2⁴, 2⁻¹²: 6.71 ± 0.95; 7.02"."""
    point = ", ".join(markdown.number(value) for value in cell.point)
    validation = f"{cell.validation:.{digits}f} ± {cell.deviation:.{digits}f}"
    return f"{point}: {validation}; {cell.test:.{digits}f}"


def costs_table(results: Results) -> str:
    """A line for each entry: what a wrong strength or learning rate costs."""
    unit = error_unit(results.plan.measure)
    columns: dict[str, Callable[[Comparison], str]] = {
        "entry": lambda x: f"`{entry_in(results, x).labels['arm']}`",
        **{
            f"wrong {label}, {unit}": functools.partial(_regret_text, results, axis)
            for axis, label in AXES.items()
        },
    }
    return markdown.table(ranking(results), columns)


def _regret_text(results: Results, axis: str, compared: Comparison) -> str:
    value = regret(results, entry_in(results, compared), axis)
    digits = digits_of(results.plan.measure)
    return f"{value:+.{digits}f}" if np.isfinite(value) else "–"


def plans_table(boards: Boards) -> str:
    """The numbers of seeds and points of each board."""
    columns: dict[str, Callable[[str], str]] = {"board": str}
    fields = ("tuning_seeds", "rounds", "added", "screened", "candidates")
    for field in (*fields, "validation_seeds", "final_seeds"):
        columns[field.replace("_", " ")] = functools.partial(_number, boards, field)
    return markdown.table(boards.results, columns)


def _number(boards: Boards, field: str, board: str) -> str:
    return str(getattr(boards.results[board].plan, field))
