"""The report of `tuning`: ridges, what decoupling gains by learning rate, winners."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from experiments import separability
from experiments.protocol import Entry, TUNING, VALIDATION
from experiments.reports import figures, markdown
from experiments.reports.figures import BLUE, GREEN, ORANGE, save
from experiments.reports.results import (
    caveats,
    errors,
    format_difference,
    read_results,
    result_tables,
    Results,
)
from experiments.reports.template import protocol_section, save_report
from experiments.separability import GOOD, Ridge
from experiments.statistics import holm, LEVEL, MIN_VALUES


RIDGE = "ridge"  # the stage of the points that a slope needs
COLOURS = {"L2": ORANGE, "lr-scaled": BLUE, "independent": GREEN}  # by place
SEPARABLE, NOT_SEPARABLE = "separable", "not separable"
UNDETERMINED, NO_RIDGE = "undetermined", "without ridge"
SHOWN = 12.0  # points of advantage; at bad learning rates it can be 70


class Grid(NamedTuple):
    """One arm on one task; errors in percent."""

    entry: Entry
    coarse: np.ndarray  # mean validation error in tuning, [learning rates, strengths]
    ridge: Ridge | None
    seeds: int  # of the ridge
    verdict: str = NO_RIDGE  # whether learning rate and λ are separable


def read_grids(results: Results) -> list[Grid]:
    """All entries, in the order of the plan."""
    grids = []
    for entry in results.plan.entries:
        tuned = {p: e.mean() for p, e in errors(results, entry, TUNING).items()}
        decays, rates = (axis.values for axis in entry.axes)
        coarse = np.array([[tuned[decay, rate] for decay in decays] for rate in rates])
        # Both stages use the seeds of validation.
        validated, added = (errors(results, entry, x) for x in (VALIDATION, RIDGE))
        ridge = separability.fit_ridge(validated | added)
        grids.append(Grid(entry, coarse, ridge, results.plan.validation_seeds))
    return add_verdicts(grids)


def add_verdicts(grids: list[Grid]) -> list[Grid]:
    """The grids with verdicts; p-values are corrected for both tests of all ridges."""
    ridges = [grid.ridge for grid in grids if grid.ridge is not None]
    tests = [p for ridge in ridges for p in (ridge.p_separable, ridge.p_not_separable)]
    corrected = iter(holm(tests))
    found = []
    for grid in grids:
        verdict = NO_RIDGE
        if grid.ridge is not None:
            # In the order of `tests`.
            p_separable, p_not_separable = next(corrected), next(corrected)
            verdict = UNDETERMINED
            if grid.seeds >= MIN_VALUES and p_separable < LEVEL:
                verdict = SEPARABLE
            elif grid.seeds >= MIN_VALUES and p_not_separable < LEVEL:
                verdict = NOT_SEPARABLE
        found.append(grid._replace(verdict=verdict))
    return found


def group(grids: Sequence[Grid], label: str) -> dict[str, list[Grid]]:
    """The grids by one of their labels, in order."""
    found: dict[str, list[Grid]] = {}
    for grid in grids:
        found.setdefault(grid.entry.labels[label], []).append(grid)
    return found


def write_report(folder: Path) -> str:
    """Write the figures, then report.md; returns the verdict."""
    results = read_results(folder)
    grids = read_grids(results)
    tasks = []
    for task, mine in group(grids, "task").items():
        rows = [[grid.entry.name for grid in g] for g in group(mine, "base").values()]
        save(figures.plot_heat_maps(results, rows), folder / f"heatmaps-{task}.png")
        names = [grid.entry.name for grid in mine]
        pairs = contrasts_of(results, task)
        numbers = result_tables(results, "task and arm", names, pairs)
        tasks.append(markdown.fill("tuning_task", task=task, numbers=numbers))
    save(plot_ridges(grids), folder / "ridges.png")
    save(plot_advantage(grids), folder / "advantage.png")
    return save_report(
        folder,
        "tuning",
        conclusion(results, grids),
        terms=separability,
        ridges=_ridges_table(grids),
        shown=SHOWN,
        tasks="\n\n".join(tasks),
        protocol=protocol_section(results),
    )


def conclusion(results: Results, grids: list[Grid]) -> str:
    """The verdict, derived from the numbers."""
    decoupled = [grid for grid in grids if grid.entry.labels["place"] != "L2"]
    l2 = [grid for grid in grids if grid.entry.labels["place"] == "L2"]
    paragraphs = [
        "Are learning rate and λ separable? "
        f"{count_verdicts(decoupled, 'decoupled decay')} {count_verdicts(l2, 'L2')}"
    ]
    for task in group(grids, "task"):
        texts, unclear = [], []
        for name in contrasts_of(results, task):
            pair, each = name.removeprefix(f"{task}: "), results.comparisons[name]
            if each.sign != 0:
                texts.append(f"{pair}: {format_difference(each)}, {each.verdict}")
            else:
                unclear.append((pair, each.verdict))
        if unclear:
            texts.append(markdown.group(unclear, "for"))
        paragraphs.append(f"**{task}**, points of test accuracy: {'; '.join(texts)}.")
    return "\n\n".join([*paragraphs, caveats(results)])


def contrasts_of(results: Results, task: str) -> list[str]:
    """The names of the contrasts of a task."""
    return [name for name in results.comparisons if name.startswith(f"{task}: ")]


def count_verdicts(grids: list[Grid], decay: str) -> str:
    """Such as: With L2: 1 of the 9 grids separable (`a`), 8 without ridge."""
    counts = []
    for verdict in (SEPARABLE, NOT_SEPARABLE, UNDETERMINED, NO_RIDGE):
        names = [f"`{grid.entry.name}`" for grid in grids if grid.verdict == verdict]
        of = f" of the {len(grids)} grids" if verdict == SEPARABLE else ""
        count = f"{len(names)}{of} {verdict}"
        if names and verdict in (SEPARABLE, NOT_SEPARABLE):
            count += f" ({markdown.join(names)})"
        counts.append(count)
    return f"With {decay}: {', '.join(counts)}."


def _ridges_table(grids: list[Grid]) -> str:
    def sensitivity(grid: Grid, retuned: bool) -> str:
        return f"{separability.sensitivity(grid.coarse, retuned):.1f}"

    columns: dict[str, Callable[[Grid], str]] = {
        "task and arm": lambda grid: f"`{grid.entry.name}`",
        "place": lambda grid: grid.entry.labels["place"],
        "ridge slope [95 %]": _slope,
        "verdict": lambda grid: grid.verdict,
        "rates": lambda grid: str(len(grid.ridge.centres) if grid.ridge else 0),
        "λ gains": lambda grid: f"{separability.gain(grid.coarse):.1f}",
        "regret": lambda grid: f"{separability.regret(grid.coarse):.2f}",
        "sensitivity at one λ": lambda grid: sensitivity(grid, retuned=False),
        "λ tuned again": lambda grid: sensitivity(grid, retuned=True),
    }
    return markdown.table(grids, columns, left=2)


def _slope(grid: Grid) -> str:
    if grid.ridge is None:
        return "–"
    slope = f"{grid.ridge.slope:+z.2f}"
    if grid.seeds < MIN_VALUES:
        return slope
    return f"{slope} {markdown.bounds(grid.ridge.low, grid.ridge.high, sign=True)}"


# --- Figures ----------------------------------------------------------------------


def _plot_by_task_and_base(
    grids: Sequence[Grid],
    height: float,
    ylabel: str,
    plot: Callable[[Any, list[Grid]], None],
) -> tuple[Figure, Any]:
    """A row for each task, a column for each base; the figure and its first panel."""
    tasks, bases = group(grids, "task"), list(group(grids, "base"))
    size = 3.8 * len(bases) + 0.6, height * len(tasks) + 0.6
    figure, panels = figures.new_panels(len(tasks), len(bases), size)
    for row, (task, mine) in zip(panels, tasks.items(), strict=True):
        for axes, base in zip(row, bases, strict=True):
            axes.set_title(f"{task}, {base}", fontsize=10)
            figures.label_powers_of_two(axes.xaxis)
            plot(axes, group(mine, "base")[base])
    figures.label_edges(panels, "peak learning rate", ylabel)
    return figure, panels[0, 0]


def plot_ridges(grids: Sequence[Grid]) -> Figure:
    """The ridge of each grid that has one: centres and the line through them."""

    def plot(axes: Any, mine: list[Grid]) -> None:
        figures.label_powers_of_two(axes.yaxis)
        ridges = {g.entry.labels["place"]: g.ridge for g in mine if g.ridge is not None}
        for place, ridge in ridges.items():
            rates, decays = np.array(ridge.centres).T
            axes.plot(rates, decays, "o", color=COLOURS[place], ms=4, alpha=0.6)
            ends = np.array([rates.min(), rates.max()])
            axes.plot(ends, ridge.offset + ridge.slope * ends, color=COLOURS[place])
        if len(ridges) == 0:
            axes.set(xticks=[], yticks=[])
            axes.text(0.5, 0.5, "no slope", transform=axes.transAxes, ha="center")

    figure, first = _plot_by_task_and_base(grids, 3.2, "λ", plot)
    for place, colour in COLOURS.items():
        first.plot([], [], "o-", ms=3, color=colour, label=place)
    figures.add_legend(figure, first)
    return figure


def plot_advantage(grids: Sequence[Grid]) -> Figure:
    """L2's error minus that of decoupled decay at each learning rate and its best λ."""

    def plot(axes: Any, mine: list[Grid]) -> None:
        places = {grid.entry.labels["place"]: grid for grid in mine}
        l2 = places.pop("L2")
        rates, l2_best = np.log2(l2.entry.axes[1].values), l2.coarse.min(1)
        for place, style in (("lr-scaled", "-"), ("independent", "--")):
            best = places[place].coarse.min(1)
            better = np.minimum(l2_best, best)
            good = better <= better.min() + GOOD
            gain, colour = l2_best - best, COLOURS[place]
            axes.plot(rates, gain, style, color=colour, label=f"{place} against L2")
            axes.plot(rates[good], gain[good], "o", color=colour, ms=5)
        axes.axhline(0, color="0.5", lw=0.8)
        axes.set_ylim(-SHOWN, SHOWN)

    ylabel = "points of validation error\nbelow L2"
    figure, first = _plot_by_task_and_base(grids, 2.8, ylabel, plot)
    figures.add_legend(figure, first)
    return figure
