"""One protocol for every comparison: tune, bracket, validate again, report.

    tuning       every point of an entry's coarse grid, on a few seeds
    bracketing   rounds that add points around the best ones: there the grid grows
                 and becomes finer
    screening    the best points on as many seeds more: most of the lucky ones drop out
    validation   the best of these on seeds of their own, which alone decide
    final        the point chosen, on fresh seeds: their test scores are reported

The best of a hundred points on three seeds is a lucky one. So tuning only proposes
points, and another set of seeds decides. An entry is one arm on one task; entries that
are compared get the same number of runs. Scores are counts of right answers: equal
scores are equal.

Reference:
    Dahl et al., *Benchmarking Neural Network Training Algorithms* (AlgoPerf), 2023,
    arXiv:2306.07179: a point that sets a target is run again, as it may be lucky.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import cells, search
from experiments.cells import Table
from experiments.engine.config import HParams, StaticConfig, SweepGroup
from experiments.engine.study import Stage
from experiments.search import Axis, Point


TUNING, SCREENING, VALIDATION, FINAL = "tuning", "screening", "validation", "final"

Extract = Callable[[Any], dict[str, jax.Array]]  # params -> arrays


class Entry(NamedTuple):
    """One arm on one task: what is trained, and what of it is tuned."""

    name: str
    labels: Mapping[str, str]  # its columns of the table: task, arm, ...
    config: StaticConfig
    axes: tuple[Axis, ...]  # between equal scores the smaller value wins, first to last
    fixed: Mapping[str, float]  # numbers that all its runs share


class Measure(NamedTuple):
    """Which column decides between points, and which is reported of the one chosen."""

    score: str  # of the validation part
    reported: str  # of the test part
    scale: float  # from a column's unit to the report's; negative where less is better
    unit: str
    perfect: float  # the best possible score, in the report's unit: 100 %, loss 0
    count: str | None = None  # examples of the validation part, if scores are shares


ACCURACY = Measure("val_accuracy", "test_accuracy", 100.0, "points", 100.0, "val_count")
LOSS = Measure("val_loss", "test_loss", -1.0, "nats", 0.0)


class Contrast(NamedTuple):
    """A comparison: a weighted sum of entries' test scores, paired by seed."""

    name: str
    terms: tuple[tuple[str, float], ...]  # entry and weight
    positive: str  # the verdict if the sum is clearly positive
    negative: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProtocolPlan:
    """The entries, what is compared, and how many runs each round has."""

    entries: tuple[Entry, ...]
    contrasts: tuple[Contrast, ...]
    measure: Measure = ACCURACY
    tuning_seeds: int = 3  # and as many for screening
    rounds: int = 3  # of bracketing
    added: int = 8  # points for each entry in a round
    screened: int = 16  # points
    candidates: int = 8  # points that are validated
    validation_seeds: int = 10
    final_seeds: int = 20
    chunk: int = 16  # parallel cells

    def seeds(self, stage: str) -> range:
        """The seeds of a stage. No seed belongs to two stages."""
        sizes = {
            TUNING: self.tuning_seeds,
            SCREENING: self.tuning_seeds,
            VALIDATION: self.validation_seeds,
            FINAL: self.final_seeds,
        }
        ends = list(itertools.accumulate(sizes.values(), initial=0))
        place = list(sizes).index(stage)
        return range(ends[place], ends[place + 1])


# Sizes of a plan whose runs take seconds.
SMOKE: Mapping[str, int] = {
    "tuning_seeds": 2,
    "rounds": 1,
    "added": 2,
    "screened": 4,
    "candidates": 2,
    "validation_seeds": 2,
    "final_seeds": 4,
}


Points = Callable[[Entry, Table], list[Point]]


def difference(
    first: str, second: str, one: str, other: str, where: str = ""
) -> Contrast:
    """Entry `first` minus entry `second`; `one` and `other` are their names in tables.

    `where` distinguishes the same pair on several tasks.
    """
    name = f"{one} − {other}"
    return Contrast(
        f"{where}: {name}" if where else name,
        ((first, 1.0), (second, -1.0)),
        f"{one} clearly better",
        f"{other} clearly better",
    )


def stages(plan: ProtocolPlan, extract: Extract | None = None) -> tuple[Stage, ...]:
    """Tuning, the rounds of bracketing, screening, validation and the final runs.

    `extract` returns the arrays that are stored of each final run.

    Raises:
        ValueError: two entries cannot be distinguished in the table of runs, or two
            contrasts in a report.
    """
    _require_distinct(plan)
    count = len(plan.entries)
    grids = sum(len(search.coarse_grid(entry.axes)) for entry in plan.entries)

    def stage(name: str, label: str, runs: int, points: Points) -> Stage:
        stored = extract if label == FINAL else None

        def make(table: Table) -> list[SweepGroup]:
            found = [(entry, points(entry, table)) for entry in plan.entries]
            seeds = plan.seeds(label)
            return [
                sweep_group(entry, label, p, seeds, stored) for entry, p in found if p
            ]

        return Stage(name, runs * len(plan.seeds(label)), make)

    def coarse(entry: Entry, _: Table) -> list[Point]:
        return search.coarse_grid(entry.axes)

    def added(entry: Entry, table: Table) -> list[Point]:
        found = scores(plan, entry, table, TUNING)
        return search.points_to_add(found, entry.axes, plan.added)

    def best(entry: Entry, table: Table) -> list[Point]:
        return ranked_by_tuning(plan, entry, table)[: plan.screened]

    def screened(entry: Entry, table: Table) -> list[Point]:
        return ranked_by_screening(plan, entry, table)[: plan.candidates]

    def chosen(entry: Entry, table: Table) -> list[Point]:
        return ranked_by_validation(plan, entry, table)[:1]

    return (
        stage(TUNING, TUNING, grids, coarse),
        *(
            stage(f"bracketing {number}", TUNING, count * plan.added, added)
            for number in range(1, plan.rounds + 1)
        ),
        stage(SCREENING, SCREENING, count * plan.screened, best),
        stage(VALIDATION, VALIDATION, count * plan.candidates, screened),
        stage(FINAL, FINAL, count, chosen),
    )


def _require_distinct(plan: ProtocolPlan) -> None:
    names = [each.name for each in (*plan.entries, *plan.contrasts)]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(
            f"the plan has the name {twice[0]!r} twice: give one of them another name."
        )
    known = [{**entry.labels, **entry.fixed} for entry in plan.entries]
    for (one, mine), (other, theirs) in itertools.combinations(
        zip(plan.entries, known, strict=True), 2
    ):
        if all(theirs[key] == mine[key] for key in mine.keys() & theirs.keys()) and (
            mine.keys() <= theirs.keys() or theirs.keys() <= mine.keys()
        ):
            raise ValueError(
                f"the runs of {one.name!r} and {other.name!r} have the same labels and "
                "numbers: give each entry a label of its own, such as arm."
            )


def sweep_group(
    entry: Entry,
    stage: str,
    points: Iterable[Point],
    seeds: range,
    extract: Extract | None = None,
) -> SweepGroup:
    """Some points of an entry on some seeds."""
    names = [axis.name for axis in entry.axes]
    runs: tuple[HParams, ...] = tuple(
        {**entry.fixed, **dict(zip(names, point, strict=True)), "seed": seed}
        for point in points
        for seed in seeds
    )
    return SweepGroup({"stage": stage, **entry.labels}, entry.config, runs, extract)


def scores(plan: ProtocolPlan, entry: Entry, table: Table, stage: str) -> search.Scores:
    """The scores that decide, by point: an array over the seeds, larger is better.

    Shares become counts: two points with 841 right answers of 900 are equal, but their
    mean shares in float32 can differ in the last digits.
    """
    found = values(entry, table, stage, plan.measure.score)
    if plan.measure.count is None:
        sign = np.sign(plan.measure.scale)
        return {point: sign * array for point, array in found.items()}
    counts = values(entry, table, stage, plan.measure.count)
    return {point: np.round(array * counts[point]) for point, array in found.items()}


def values(
    entry: Entry, table: Table, stage: str, column: str
) -> dict[Point, np.ndarray]:
    """A column of an entry's runs in a stage by point, each ordered by seed."""
    rows = cells.where(table, stage=stage, **entry.labels, **entry.fixed)
    order = np.argsort(rows["seed"], kind="stable")
    axes = [rows[axis.name][order].astype(float).tolist() for axis in entry.axes]
    found: dict[Point, list[float]] = {}
    for point, value in zip(
        zip(*axes, strict=True), rows[column][order].astype(float).tolist(), strict=True
    ):
        found.setdefault(point, []).append(value)
    return {point: np.array(each) for point, each in found.items()}


def ranked_by_tuning(plan: ProtocolPlan, entry: Entry, table: Table) -> list[Point]:
    """All points of tuning, the best first."""
    return search.rank(scores(plan, entry, table, TUNING))


def ranked_by_screening(plan: ProtocolPlan, entry: Entry, table: Table) -> list[Point]:
    """The points of screening, the best on the seeds of both stages first."""
    before = scores(plan, entry, table, TUNING)
    again = scores(plan, entry, table, SCREENING)
    both = {p: np.concatenate([before[p], again[p]]) for p in again}
    return search.rank(both)


def ranked_by_validation(plan: ProtocolPlan, entry: Entry, table: Table) -> list[Point]:
    """The points of validation, the best first: the first one is the choice."""
    return search.rank(scores(plan, entry, table, VALIDATION))
