"""Replicate a study: does each verdict hold on unused seeds?

The points that the study chose, and the two runners-up of its validation, run on new
seeds. No choice is made again. A difference is clear on the new seeds if its interval
excludes 0, p is below 0.05 after Holm's correction, and its sign is the same for every
choice among the three points of each entry.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments import joint, outcomes, protocol, statistics
from experiments.cells import Table
from experiments.engine.config import SweepGroup
from experiments.engine.study import Stage, Study
from experiments.errors import UserError
from experiments.joint import Plan, protocols
from experiments.outcomes import Comparison
from experiments.protocol import Contrast, Entry, Measure
from experiments.search import Point
from experiments.statistics import Estimate


STAGE = "replication"
RUNNERS_UP = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplicationPlan:
    """The points of every entry that run again."""

    of: str  # hash of the study's plan
    seeds: tuple[int, int]  # the first seed, and the one after the last
    points: dict[str, tuple[Point, ...]]  # by entry; the choice comes first
    chunk: int


class ReplicatedContrast(NamedTuple):
    """A contrast on the old and on the new seeds."""

    contrast: Contrast
    measure: Measure
    before: Comparison
    now: Estimate
    p_holm: float  # corrected over all contrasts of the study
    # The smallest and largest mean over all choices among the points of its entries.
    reach: tuple[float, float]

    @property
    def sign(self) -> int:
        """The sign of the contrast if it is clear on the new seeds, else 0."""
        low, high = min(self.now.low, self.reach[0]), max(self.now.high, self.reach[1])
        if self.p_holm >= statistics.LEVEL or low <= 0 <= high:
            return 0
        return 1 if low > 0 else -1

    @property
    def holds(self) -> bool:
        """Whether the new seeds give the same verdict."""
        return self.sign == self.before.sign

    @property
    def outcome(self) -> str:
        """Whether the verdict holds; if not, what the new seeds show."""
        if self.holds:
            return "holds"
        if self.sign == 0:
            return "does not hold: no difference shown"
        found = self.contrast.positive if self.sign > 0 else self.contrast.negative
        kind = "does not hold" if self.before.sign else "shown only now"
        return f"{kind}: {found}"


def plan_of(
    plan: Plan, table: Table, of: str, seeds: tuple[int, int]
) -> ReplicationPlan:
    """Plan the choices and runners-up of a finished study, on new seeds.

    Raises:
        UserError: there are so few seeds that no contrast can be clear.
    """
    count = seeds[1] - seeds[0]
    contrasts = sum(len(each.contrasts) for each in protocols(plan))
    minimum = statistics.min_seeds(contrasts)
    if count < minimum:
        raise UserError(
            f"--seeds {seeds[0]}:{seeds[1]}: with {count} seeds none of the "
            f"{contrasts} contrasts can be clear. Use {minimum} or more."
        )
    points = best_points(plan, table)
    return ReplicationPlan(of=of, seeds=seeds, points=points, chunk=plan.chunk)


def best_points(plan: Plan, table: Table) -> dict[str, tuple[Point, ...]]:
    """Return the choice of every entry and its runners-up, the choice first."""
    points = {}
    for each in protocols(plan):
        for entry in each.entries:
            ranked = protocol.ranked_by_validation(each, entry, table)
            points[entry.name] = tuple(ranked[: 1 + RUNNERS_UP])
    return points


def groups(
    plan: Plan, points: Mapping[str, tuple[Point, ...]], seeds: range
) -> list[SweepGroup]:
    """Make the runs of the points of each entry on some seeds."""
    by_name = {entry.name: entry for each in protocols(plan) for entry in each.entries}
    return [
        protocol.sweep_group(by_name[entry], STAGE, chosen, seeds)
        for entry, chosen in points.items()
    ]


def stage(plan: Plan, seeds: range) -> Stage:
    """Make a stage of the study itself that replicates all its choices."""
    entries = sum(len(each.entries) for each in protocols(plan))

    def make(table: Table) -> list[SweepGroup]:
        return groups(plan, best_points(plan, table), seeds)

    return Stage(STAGE, entries * (1 + RUNNERS_UP) * len(seeds), make)


def study(
    name: str,
    replicated: ReplicationPlan,
    plan: Plan,
    report: Callable[[Path], str],
) -> Study:
    """Make the study that runs the points of a replication, in one stage."""
    seeds = range(*replicated.seeds)

    def make(_: Table) -> list[SweepGroup]:
        return groups(plan, replicated.points, seeds)

    runs = len(seeds) * sum(map(len, replicated.points.values()))
    return Study(name, replicated, (Stage(STAGE, runs, make),), report)


def compare(
    plan: Plan,
    table: Table,
    points: Mapping[str, tuple[Point, ...]],
    new: Table,
) -> list[ReplicatedContrast]:
    """Compare every contrast of the study on the old and on the new seeds.

    Args:
        plan: the plan of the study.
        table: the runs of the study.
        points: the points of each entry that ran again, the choice first.
        new: the runs of the replication.
    """
    rows = []
    for each in protocols(plan):
        tests = {
            entry.name: _test_scores(each, entry, new, points[entry.name])
            for entry in each.entries
        }
        chosen = {name: scores[0] for name, scores in tests.items()}
        rows += [
            (
                contrast,
                each.measure,
                statistics.estimate(outcomes.weighted(contrast, chosen)),
                _reach(contrast, tests),
            )
            for contrast in each.contrasts
        ]
    before = joint.compare_contrasts(plan, table)
    corrected = statistics.holm([now.p for _, _, now, _ in rows])
    return [
        ReplicatedContrast(contrast, measure, old, now, p, reach)
        for (contrast, measure, now, reach), old, p in zip(
            rows, before, corrected, strict=True
        )
    ]


def _test_scores(
    plan: protocol.ProtocolPlan, entry: Entry, new: Table, points: tuple[Point, ...]
) -> np.ndarray:
    """Return the test scores on the new seeds, [points, seeds]. Larger is better."""
    found = protocol.values(entry, new, STAGE, plan.measure.reported)
    return plan.measure.scale * np.stack([found[tuple(point)] for point in points])


def _reach(contrast: Contrast, tests: Mapping[str, np.ndarray]) -> tuple[float, float]:
    """Return the smallest and largest mean over all choices among the points."""
    # By point. The entries are independent, so the extremes of the sum are the sums of
    # the extremes.
    means = [weight * tests[name].mean(-1) for name, weight in contrast.terms]
    return float(sum(m.min() for m in means)), float(sum(m.max() for m in means))
