"""One protocol for every comparison: tune, bracket, screen, validate, report.

    tuning       every point of an entry's coarse grid, on a few seeds
    bracketing   rounds that add points around the best ones, so that the grid grows
                 and becomes finer there
    screening    the best points, on the same number of new seeds; most points that
                 were only lucky drop out
    validation   the best of these, on new seeds; only these seeds choose the point
    final        the chosen point, on new seeds; their test scores are reported

The best of a hundred points on three seeds is probably a lucky one. So tuning only
proposes points, and other seeds choose. An entry is one arm on one task. Entries that
are compared get the same number of runs. Scores are counts of right answers, so that
ties are exact.

Reference:
    Dahl et al., *Benchmarking Neural Network Training Algorithms* (AlgoPerf), 2023,
    arXiv:2306.07179: a point that sets a target is run again, because it may be lucky.
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
from experiments.engine.describe import later
from experiments.engine.study import Stage
from experiments.search import Axis, Point


TUNING, SCREENING, VALIDATION, FINAL = "tuning", "screening", "validation", "final"

Extract = Callable[[Any], dict[str, jax.Array]]  # params -> arrays


class Entry(NamedTuple):
    """One arm on one task: what is trained, and which hyper-parameters are tuned."""

    name: str
    labels: Mapping[str, str]  # columns of the table: task, arm, ...
    config: StaticConfig
    axes: tuple[Axis, ...]  # ties: the smaller value wins, axis by axis
    fixed: Mapping[str, float]  # hyper-parameters with one value in all its runs


class Measure(NamedTuple):
    """The column that chooses between points, and the column that is reported."""

    score: str  # column of the validation part
    reported: str  # column of the test part
    scale: float  # from a column's unit to the report's; negative if less is better
    unit: str
    perfect: float  # the best possible score, in the report's unit: 100 %, loss 0
    count: str | None = None  # if scores are fractions: the column with their count


ACCURACY = Measure("val_accuracy", "test_accuracy", 100.0, "points", 100.0, "val_count")
LOSS = Measure("val_loss", "test_loss", -1.0, "nats", 0.0)


class Contrast(NamedTuple):
    """A weighted sum of the entries' test scores, paired by seed."""

    name: str
    terms: tuple[tuple[str, float], ...]  # entry and weight
    positive: str  # the verdict if the sum is clearly positive
    negative: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProtocolPlan:
    """The entries, the contrasts, and the number of runs of each round."""

    entries: tuple[Entry, ...]
    contrasts: tuple[Contrast, ...]
    measure: Measure = ACCURACY
    tuning_seeds: int = 3  # screening has the same number
    rounds: int = 3  # of bracketing
    added: int = 8  # points that a round adds for each entry
    screened: int = 16  # points of screening
    candidates: int = 8  # points of validation
    validation_seeds: int = 10
    final_seeds: int = 20
    chunk: int = 16  # parallel cells
    first_seed: int = later(0)  # greater if a pilot used the seeds before it

    def seeds(self, stage: str) -> range:
        """Return the seeds of a stage. No seed belongs to two stages."""
        sizes = {
            TUNING: self.tuning_seeds,
            SCREENING: self.tuning_seeds,
            VALIDATION: self.validation_seeds,
            FINAL: self.final_seeds,
        }
        ends = list(itertools.accumulate(sizes.values(), initial=self.first_seed))
        index = list(sizes).index(stage)
        return range(ends[index], ends[index + 1])


# Sizes of a plan that runs in seconds.
SMOKE: Mapping[str, int] = {
    "tuning_seeds": 2,
    "rounds": 1,
    "added": 2,
    "screened": 4,
    "candidates": 2,
    "validation_seeds": 2,
    "final_seeds": 4,
}


Points = Callable[[Entry, Table], list[Point]]  # from the rows of earlier stages


def difference(
    first: str, second: str, one: str, other: str, where: str = ""
) -> Contrast:
    """Make the contrast "entry `first` minus entry `second`".

    Args:
        first: name of an entry.
        second: name of another entry.
        one: name of the first entry in tables.
        other: name of the second entry in tables.
        where: the task, if the same pair is compared on several tasks.
    """
    name = f"{one} − {other}"
    return Contrast(
        f"{where}: {name}" if where else name,
        ((first, 1.0), (second, -1.0)),
        f"{one} clearly better",
        f"{other} clearly better",
    )


def stages(plan: ProtocolPlan, extract: Extract | None = None) -> tuple[Stage, ...]:
    """Make the stages: tuning, bracketing, screening, validation, final runs.

    Args:
        plan: the plan.
        extract: returns the arrays that are stored for each final run.

    Raises:
        ValueError: two names are equal, or two entries have equal columns in the table.
    """
    _require_distinct(plan)
    count = len(plan.entries)
    grids = sum(len(search.coarse_grid(entry.axes)) for entry in plan.entries)

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

    # A round of bracketing adds rows to the stage "tuning" of the table.
    bracketing = [
        _stage(plan, f"bracketing {number}", TUNING, count * plan.added, added)
        for number in range(1, plan.rounds + 1)
    ]
    return (
        _stage(plan, TUNING, TUNING, grids, coarse),
        *bracketing,
        _stage(plan, SCREENING, SCREENING, count * plan.screened, best),
        _stage(plan, VALIDATION, VALIDATION, count * plan.candidates, screened),
        _stage(plan, FINAL, FINAL, count, chosen, extract),
    )


def _stage(
    plan: ProtocolPlan,
    name: str,
    label: str,
    max_points: int,
    choose: Points,
    extract: Extract | None = None,
) -> Stage:
    """Make a stage that trains the chosen points of every entry.

    Args:
        plan: the plan.
        name: the name of the stage, for messages.
        label: the stage in the table, which decides the seeds.
        max_points: the number of points of all entries together, at most.
        choose: returns the points of an entry.
        extract: returns the arrays that are stored for each run.
    """
    seeds = plan.seeds(label)

    def make(table: Table) -> list[SweepGroup]:
        chosen = [(entry, choose(entry, table)) for entry in plan.entries]
        # An entry has no new points if its axes cannot grow further.
        return [
            sweep_group(entry, label, points, seeds, extract)
            for entry, points in chosen
            if points
        ]

    return Stage(name, max_points * len(seeds), make)


def _require_distinct(plan: ProtocolPlan) -> None:
    names = [each.name for each in (*plan.entries, *plan.contrasts)]
    duplicates = [name for name in names if names.count(name) > 1]
    if duplicates:
        raise ValueError(
            f"the plan has the name {duplicates[0]!r} twice. Rename one of them."
        )
    for first, second in itertools.combinations(plan.entries, 2):
        one = {**first.labels, **first.fixed}
        other = {**second.labels, **second.fixed}
        equal = all(one[key] == other[key] for key in one.keys() & other.keys())
        # A selection by the smaller set of columns finds the rows of both entries.
        nested = one.keys() <= other.keys() or other.keys() <= one.keys()
        if equal and nested:
            raise ValueError(
                f"the runs of {first.name!r} and {second.name!r} have the same labels "
                "and numbers. Give each entry its own label, such as arm."
            )


def sweep_group(
    entry: Entry,
    stage: str,
    points: Iterable[Point],
    seeds: range,
    extract: Extract | None = None,
) -> SweepGroup:
    """Make a group of runs: some points of an entry on some seeds."""
    names = [axis.name for axis in entry.axes]
    runs: tuple[HParams, ...] = tuple(
        {**entry.fixed, **dict(zip(names, point, strict=True)), "seed": seed}
        for point in points
        for seed in seeds
    )
    return SweepGroup({"stage": stage, **entry.labels}, entry.config, runs, extract)


def scores(plan: ProtocolPlan, entry: Entry, table: Table, stage: str) -> search.Scores:
    """Return the scores that choose, by point: an array over the seeds.

    Larger is better. Fractions become counts, so that ties are exact: two points with
    841 right answers of 900 are equal, but their mean fractions in float32 can differ
    in the last digits.
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
    """Return a column of an entry's runs in a stage, by point, ordered by seed."""
    rows = cells.where(table, stage=stage, **entry.labels, **entry.fixed)
    order = np.argsort(rows["seed"], kind="stable")
    axes = [rows[axis.name][order].astype(float).tolist() for axis in entry.axes]
    points = zip(*axes, strict=True)
    measured = rows[column][order].astype(float).tolist()
    found: dict[Point, list[float]] = {}
    for point, value in zip(points, measured, strict=True):
        found.setdefault(point, []).append(value)
    return {point: np.array(by_seed) for point, by_seed in found.items()}


def ranked_by_tuning(plan: ProtocolPlan, entry: Entry, table: Table) -> list[Point]:
    """Sort the points of tuning, the best first."""
    return search.rank(scores(plan, entry, table, TUNING))


def ranked_by_screening(plan: ProtocolPlan, entry: Entry, table: Table) -> list[Point]:
    """Sort the points of screening by their scores on the seeds of both stages."""
    tuning = scores(plan, entry, table, TUNING)
    screening = scores(plan, entry, table, SCREENING)
    both = {
        point: np.concatenate([tuning[point], screening[point]]) for point in screening
    }
    return search.rank(both)


def ranked_by_validation(plan: ProtocolPlan, entry: Entry, table: Table) -> list[Point]:
    """Sort the points of validation, the best first. The first one is the choice."""
    return search.rank(scores(plan, entry, table, VALIDATION))
