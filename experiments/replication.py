"""A study's verdicts on unused seeds: does each of them hold?

The points that a study chose, and the two that came next in its validation, run on new
seeds. Nothing is chosen again. A difference is clear on the new seeds if its interval
excludes 0, its p-value stays below 0.05 after Holm's correction, and no other choice
among the three points of each entry turns its sign.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments import outcomes, protocol, statistics
from experiments.cells import Table
from experiments.engine.config import SweepGroup
from experiments.engine.study import Stage, Study
from experiments.errors import UserError
from experiments.outcomes import Comparison
from experiments.protocol import Contrast, Entry
from experiments.search import Point
from experiments.statistics import Estimate


STAGE = "replication"
RUNNERS_UP = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplicationPlan:
    """What runs again: the points of every entry, the choice first."""

    of: str  # the hash of the study's plan
    seeds: tuple[int, int]  # the first, and the one after the last
    points: dict[str, tuple[Point, ...]]  # by entry
    chunk: int


class ReplicatedContrast(NamedTuple):
    """A contrast then and now."""

    contrast: Contrast
    before: Comparison
    now: Estimate
    p_holm: float  # over all contrasts of the study
    reach: tuple[float, float]  # of its mean over the choices and the runners-up

    @property
    def sign(self) -> int:
        """1 or -1 if the contrast is clear now, else 0."""
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
        """Whether the verdict holds, and what the new seeds say if not."""
        if self.holds:
            return "holds"
        if self.sign == 0:
            return "does not hold: no difference shown"
        found = self.contrast.positive if self.sign > 0 else self.contrast.negative
        kind = "does not hold" if self.before.sign else "shown only now"
        return f"{kind}: {found}"


def plan_of(
    plan: protocol.ProtocolPlan, table: Table, of: str, seeds: tuple[int, int]
) -> ReplicationPlan:
    """The choices and runners-up of a finished study, on new seeds.

    Raises:
        UserError: with so few seeds no contrast can be clear.
    """
    count, least = seeds[1] - seeds[0], statistics.min_seeds(len(plan.contrasts))
    if count < least:
        raise UserError(
            f"--seeds {seeds[0]}:{seeds[1]}: on {count} seeds none of "
            f"{len(plan.contrasts)} contrasts can be clear: take {least} or more."
        )
    found = {
        entry.name: protocol.ranked_by_validation(plan, entry, table)[: 1 + RUNNERS_UP]
        for entry in plan.entries
    }
    points = {name: tuple(each) for name, each in found.items()}
    return ReplicationPlan(of=of, seeds=seeds, points=points, chunk=plan.chunk)


def study(
    name: str,
    replicated: ReplicationPlan,
    plan: protocol.ProtocolPlan,
    report: Callable[[Path], str],
) -> Study:
    """One stage: everything is known before it begins."""
    by_name = {entry.name: entry for entry in plan.entries}

    def make(_: Table) -> list[SweepGroup]:
        return [
            protocol.sweep_group(by_name[each], STAGE, points, range(*replicated.seeds))
            for each, points in replicated.points.items()
        ]

    first, last = replicated.seeds
    runs = (last - first) * sum(map(len, replicated.points.values()))
    return Study(name, replicated, (Stage(STAGE, runs, make),), report)


def compare(
    plan: protocol.ProtocolPlan,
    table: Table,
    points: Mapping[str, tuple[Point, ...]],
    new: Table,
) -> list[ReplicatedContrast]:
    """Every contrast of the study, then and now."""
    before = outcomes.compare_contrasts(plan, table)
    tests = {
        entry.name: _tests(plan, entry, new, points[entry.name])
        for entry in plan.entries
    }
    chosen = {name: scores[0] for name, scores in tests.items()}
    now = [
        statistics.estimate(outcomes.weighted(each, chosen)) for each in plan.contrasts
    ]
    corrected = statistics.holm([each.p for each in now])
    return [
        ReplicatedContrast(contrast, old, found, p, _reach(contrast, tests))
        for contrast, old, found, p in zip(
            plan.contrasts, before, now, corrected, strict=True
        )
    ]


def _tests(
    plan: protocol.ProtocolPlan, entry: Entry, new: Table, points: tuple[Point, ...]
) -> np.ndarray:
    """Test scores by point and seed; larger is better."""
    found = protocol.values(entry, new, STAGE, plan.measure.reported)
    return plan.measure.scale * np.stack([found[tuple(point)] for point in points])


def _reach(contrast: Contrast, tests: Mapping[str, np.ndarray]) -> tuple[float, float]:
    """The smallest and largest mean over all choices among the points."""
    means = [weight * tests[name].mean(-1) for name, weight in contrast.terms]
    return float(sum(m.min() for m in means)), float(sum(m.max() for m in means))
