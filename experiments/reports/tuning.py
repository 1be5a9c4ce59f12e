"""The report of `tuning`: ridges, what decoupling gains by learning rate, winners."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments import cells, separability
from experiments.protocol import Entry, TUNING, VALIDATION
from experiments.reports import tuning_figures as figures
from experiments.reports.figures import heat_maps, save
from experiments.reports.markdown import bounds, grouped, listed, table
from experiments.reports.results import (
    amount,
    caveats,
    errors,
    numbers,
    read_results,
    Results,
)
from experiments.reports.template import protocol_section, save_report
from experiments.separability import Ridge, SEPARATE
from experiments.statistics import holm, LEVEL, MIN_VALUES


RIDGE = "ridge"  # the stage of the points that a slope needs
PLACES = ("L2", "lr-scaled", "independent")
QUESTION = """\
On a grid of learning rate × λ: where is the best point for L2, for decay times the
learning rate and for independent decay, under SGD, RMSprop and Adam? Does the best λ
move with the learning rate, what does tuning one after the other cost, and how much
worse is a wrong learning rate?"""


class Grid(NamedTuple):
    """One arm on one task; errors in percent."""

    entry: Entry
    coarse: np.ndarray  # mean validation error in tuning, [learning rates, strengths]
    ridge: Ridge | None
    seeds: int  # of the ridge
    verdict: str = "no ridge"  # whether learning rate and λ are separate knobs here


def grids_of(results: Results) -> list[Grid]:
    """All entries, in the order of the plan."""
    return _with_verdicts([_grid(results, entry) for entry in results.plan.entries])


def _with_verdicts(grids: list[Grid]) -> list[Grid]:
    """The grids with verdicts; p-values are corrected for both tests of all ridges."""
    ridges = [grid.ridge for grid in grids if grid.ridge is not None]
    tests = [p for ridge in ridges for p in (ridge.p_separable, ridge.p_coupled)]
    corrected = iter(holm(tests)) if tests else iter(())
    found = []
    for grid in grids:
        verdict = grid.verdict
        if grid.ridge is not None:
            separable, coupled = next(corrected) < LEVEL, next(corrected) < LEVEL
            verdict = "not separable" if coupled else "undetermined"
            verdict = "separable" if separable else verdict
        if grid.ridge is not None and grid.seeds < MIN_VALUES:
            verdict = "undetermined"
        found.append(grid._replace(verdict=verdict))
    return found


def _grid(results: Results, entry: Entry) -> Grid:
    tuned = {p: e.mean() for p, e in errors(results, entry, TUNING).items()}
    decays, rates = (axis.values for axis in entry.axes)
    coarse = np.array([[tuned[decay, rate] for decay in decays] for rate in rates])
    # Both stages are on the seeds of validation.
    valley = errors(results, entry, VALIDATION) | errors(results, entry, RIDGE)
    seeds = results.plan.validation_seeds
    return Grid(entry, coarse, separability.fit_ridge(valley), seeds)


def write_report(folder: Path) -> str:
    """Write the figures, then report.md; returns the verdict."""
    results = read_results(folder)
    grids = grids_of(results)
    tasks = cells.unique(results.table, "task")
    for task in tasks:
        mine = [g.entry for g in grids if g.entry.labels["task"] == task]
        bases = dict.fromkeys(entry.labels["base"] for entry in mine)
        rows = [[e.name for e in mine if e.labels["base"] == base] for base in bases]
        save(heat_maps(results, rows), folder / f"heatmaps-{task}.png")
    save(figures.ridges(grids), folder / "ridges.png")
    save(figures.advantage(grids), folder / "advantage.png")
    title = "What does tuning see: are learning rate and decay two knobs?"
    return save_report(
        folder,
        title,
        QUESTION,
        conclusion(results, grids),
        _ridges(grids),
        ADVANTAGE,
        *(_task(results, task) for task in tasks),
        protocol_section(results),
        LIMITS,
        stored="`cells.csv` (every run)",
    )


def conclusion(results: Results, grids: list[Grid]) -> str:
    """The verdict, derived from the numbers."""
    decoupled = [grid for grid in grids if grid.entry.labels["place"] != "L2"]
    l2 = [grid for grid in grids if grid.entry.labels["place"] == "L2"]
    paragraphs = [
        f"Are learning rate and λ separate? With decoupled decay: {_counts(decoupled)} "
        f"With L2: {_counts(l2)}"
    ]
    for task in cells.unique(results.table, "task"):
        found = [
            (name.removeprefix(f"{task}: "), each)
            for name, each in results.compared.items()
            if name.startswith(f"{task}: ")
        ]
        clear = [
            f"{name} {amount(each)}, {each.verdict}"
            for name, each in found
            if each.sign
        ]
        rest = grouped([(n, c.verdict) for n, c in found if not c.sign], "for")
        texts = [*clear, *([rest] if rest else [])]
        paragraphs.append(f"**{task}**, points of test accuracy: {'; '.join(texts)}.")
    return "\n\n".join([*paragraphs, caveats(results)])


def _counts(grids: list[Grid]) -> str:
    """Such as: 1 of the 18 grids is shown to be separable (`a`), 17 have no ridge."""
    by_verdict: dict[str, list[str]] = {"separable": []}
    for grid in grids:
        by_verdict.setdefault(grid.verdict, []).append(f"`{grid.entry.name}`")
    counts = []
    for name, one, many in (
        ("separable", "is shown to be separable", "are shown to be separable"),
        ("not separable", "is shown not to be", "are shown not to be"),
        ("undetermined", "is undetermined", "are undetermined"),
        ("no ridge", "has no ridge", "have no ridge"),
    ):
        names = by_verdict.get(name)
        if names is None:
            continue
        count = f"{len(names)} of the {len(grids)} grids" if not counts else len(names)
        which = f" ({listed(names)})" if names and "separable" in name else ""
        counts.append(f"{count} {one if len(names) == 1 else many}{which}")
    return f"{', '.join(counts)}."


def _ridges(grids: list[Grid]) -> str:
    lines = [
        [
            f"`{grid.entry.name}`",
            grid.entry.labels["place"],
            _slope(grid),
            grid.verdict,
            str(len(grid.ridge.centres) if grid.ridge else 0),
            f"{separability.gain(grid.coarse):.1f}",
            f"{separability.regret(grid.coarse):.2f}",
            f"{separability.sensitivity(grid.coarse, False):.1f}",
            f"{separability.sensitivity(grid.coarse, True):.1f}",
        ]
        for grid in grids
    ]
    header = (
        "task and arm",
        "place",
        "ridge slope [95 %]",
        "in words",
        "rates",
        "λ gains",
        "regret",
        "sensitivity at one λ",
        "λ tuned again",
    )
    return f"""\
## The ridges

![Best λ of each learning rate, by task](ridges.png)

*Dots: the centre of the valley along λ at each learning rate that is within
{separability.GOOD:g} points of the best. Lines: least squares through the centres,
whose slopes the table has. A grid without a slope is not drawn.*

{table(header, 2, lines)}

{TERMS}"""


TERMS = f"""\
**Ridge slope**: d log λ* / d log γ, where λ* is the centre of the valley along λ: a
mean of log λ in which a point counts 1/e as much for each {separability.WIDTH:g} point
of error above the best of its learning rate. 0: separate; −1: only γλ matters; +1: only
λ/γ matters. It is measured on the seeds of validation, over the learning **rates**
whose best error is within {separability.GOOD:g} points of the best of all, and where
the error rises by {separability.RISE:g} points on both sides. "No ridge": fewer than
{separability.MIN_RATES} of these. "Separable": shown to lie within ±{SEPARATE:g} by two
one-sided t-tests. "Not separable": shown to lie outside. "Undetermined": neither.
Interval and tests are of the jackknife over seeds; the tests have Holm's correction
over both questions of all ridges, the intervals have none.
**λ gains**, **regret** and
**sensitivity** are points of validation error on the coarse grid of tuning: the best λ
against the smallest one; tuning one axis after the other; the mean over the learning
rates above the best, with λ at its best and with λ tuned again for each."""


def _slope(grid: Grid) -> str:
    if grid.ridge is None:
        return "–"
    low, high = grid.ridge.low, grid.ridge.high
    if grid.seeds < MIN_VALUES:
        low, high = -np.inf, np.inf
    return f"{grid.ridge.slope:+z.2f} {bounds(low, high, sign=True)}".rstrip()


ADVANTAGE = """\
## What decoupling gains at each learning rate

![Decoupled decay against L2 at each learning rate](advantage.png)

*Validation error of L2 minus that of decoupled decay, each with its best λ of the
coarse grid at this learning rate, on the tuning seeds. Above 0: decoupled decay is
better. A dot: the better of the two is within 3 points of the best at any learning
rate. Cut off at ±12 points. Both minima are chosen on these seeds, so small differences
say nothing.*"""


def _task(results: Results, task: str) -> str:
    mine = [e.name for e in results.plan.entries if e.labels["task"] == task]
    pairs = [name for name in results.compared if name.startswith(f"{task}: ")]
    return f"""\
## Task: {task}

![Validation error over learning rate and λ](heatmaps-{task}.png)

*Mean validation error of the tuning seeds, in points above the best of the task. Above
each panel: the error at the point chosen. White was not tried.*

{numbers(results, "task and arm", mine, pairs)}"""


LIMITS = """\
## Limits

- Small networks and data, one schedule; the slopes are statements about these tasks.
- lr-scaled: γ_t λ a step; independent: η_t λ a step, with η_t from 1 to 0. SGD has
  momentum 0.9. Kernels decay, biases and norms do not.
- All seeds share the test part: the intervals are about splits, labels, initial weights
  and batch order.
- Regret and sensitivity choose and score on the same three seeds and have no interval;
  near 0 they may only say that λ does nothing: read them beside "λ gains"."""
