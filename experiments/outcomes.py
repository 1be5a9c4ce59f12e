"""From the table of a protocol's runs to choices, contrasts and verdicts.

Every contrast has two intervals. The first is about the seeds of the final runs, given
the chosen points. The second contains the first, and the uncertainty of the choice: the
seeds of validation are resampled and choose again, and the seeds that were not drawn
give the test score of that choice. A contrast is clear only if the second excludes 0
and its p-value stays below 0.05 after Holm's correction over all contrasts.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from experiments import cells, protocol, search, statistics
from experiments.cells import Table
from experiments.protocol import (
    Contrast,
    Entry,
    FINAL,
    ProtocolPlan,
    SCREENING,
    TUNING,
    VALIDATION,
)
from experiments.search import Axis, Point
from experiments.statistics import Estimate


RESAMPLES = 4999
CHOOSING = (TUNING, SCREENING, VALIDATION)
LUCKY = 2.0  # standard errors by which a score may drop on fresh seeds


class Outcome(NamedTuple):
    """The result of one entry. Scores are in the report's unit; larger is better."""

    entry: Entry
    choice: dict[str, float]
    tried: int  # points of tuning
    runs: int  # of tuning, screening and validation
    open: list[str]  # sides on which the choice is not bracketed
    scores: tuple[float, float, float]  # validation part: tuning, validation, final
    lucky: bool  # whether one of the first two is too good for the third
    test: Estimate
    diverged: int  # of all its runs


class Comparison(NamedTuple):
    """A contrast with both of its intervals."""

    contrast: Contrast
    difference: Estimate  # given the choices
    with_choice: tuple[float, float]  # contains the interval of `difference`
    p_holm: float
    lucky: bool  # whether an entry with a lucky choice is in it
    open: bool  # whether an entry is in it whose choice is not bracketed

    @property
    def sign(self) -> int:
        """1 or -1 if the contrast is clear, else 0."""
        low, high = self.with_choice
        if self.p_holm >= statistics.LEVEL or low <= 0 <= high:
            return 0
        return 1 if low > 0 else -1

    @property
    def verdict(self) -> str:
        """In words, derived from the numbers."""
        if self.sign:
            text = self.contrast.positive if self.sign > 0 else self.contrast.negative
        elif self.difference.low <= 0 <= self.difference.high:
            text = "no difference shown"
        elif self.p_holm < statistics.LEVEL:
            text = "not clear with the choice"
        else:
            text = "not clear after correction"
        notes = ["a choice was lucky"] * self.lucky
        notes += ["a choice is not bracketed"] * self.open
        return f"{text} ({', '.join(notes)})" if notes else text


def plan_from_manifest(description: Mapping[str, Any]) -> ProtocolPlan:
    """A plan as a manifest describes it; a `config` stays a description."""
    given = {name: description[name] for name in ProtocolPlan.__dataclass_fields__}
    entries: list[Any] = [Entry(**_fields(each)) for each in given["entries"]]
    contrasts = [Contrast(**_fields(each)) for each in given["contrasts"]]
    return ProtocolPlan(
        **{
            **given,
            "measure": protocol.Measure(**_fields(given["measure"])),
            "contrasts": tuple(
                each._replace(terms=tuple(map(tuple, each.terms))) for each in contrasts
            ),
            "entries": tuple(
                each._replace(axes=tuple(map(_axis, each.axes))) for each in entries
            ),
        }
    )


def _fields(description: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in description.items() if name != "is"}


def _axis(description: Mapping[str, Any]) -> Axis:
    axis = Axis(**_fields(description))
    return axis._replace(values=tuple(axis.values))


def outcomes(plan: ProtocolPlan, table: Table) -> dict[str, Outcome]:
    """Every entry's, by name."""
    return {entry.name: _outcome(plan, entry, table) for entry in plan.entries}


def _outcome(plan: ProtocolPlan, entry: Entry, table: Table) -> Outcome:
    measure = plan.measure
    point = protocol.ranked_by_validation(plan, entry, table)[0]
    tuning = protocol.scores(plan, entry, table, TUNING)
    decided = protocol.scores(plan, entry, table, VALIDATION)
    shown = [
        measure.scale * protocol.values(entry, table, stage, measure.score)[point]
        for stage in (TUNING, VALIDATION, FINAL)
    ]
    mine = cells.where(table, **entry.labels, **entry.fixed)
    names = [axis.name for axis in entry.axes]
    return Outcome(
        entry,
        choice=dict(zip(names, point, strict=True)),
        tried=len(tuning),
        runs=int(np.isin(mine["stage"].astype(str), CHOOSING).sum()),
        open=search.open_sides(point, tuning, entry.axes, decided),
        scores=(float(shown[0].mean()), float(shown[1].mean()), float(shown[2].mean())),
        lucky=any(_dropped(before, shown[2]) for before in shown[:2]),
        test=statistics.estimate(final_scores(plan, entry, table)),
        diverged=int(mine["diverged"].astype(bool).sum()),
    )


def _dropped(before: np.ndarray, fresh: np.ndarray) -> bool:
    """Whether fresh seeds score worse by more than chance explains."""
    if len(fresh) < 2:
        return False
    error = np.std(fresh, ddof=1) * np.sqrt(1 / len(before) + 1 / len(fresh))
    return bool(before.mean() - fresh.mean() > LUCKY * error)


def final_scores(plan: ProtocolPlan, entry: Entry, table: Table) -> np.ndarray:
    """Test scores of the final runs, by seed; larger is better."""
    (found,) = protocol.values(entry, table, FINAL, plan.measure.reported).values()
    return plan.measure.scale * found


def compare_contrasts(
    plan: ProtocolPlan, table: Table, found: Mapping[str, Outcome] | None = None
) -> list[Comparison]:
    """All contrasts of the plan, corrected together."""
    found = found or outcomes(plan, table)
    tests = {entry.name: final_scores(plan, entry, table) for entry in plan.entries}
    sums = [statistics.estimate(weighted(each, tests)) for each in plan.contrasts]
    intervals = [
        with_choice(plan, table, contrast, given)
        for contrast, given in zip(plan.contrasts, sums, strict=True)
    ]
    corrected = statistics.holm([each.p for each in sums])
    return [
        Comparison(
            contrast,
            difference,
            interval,
            p,
            any(found[name].lucky for name, _ in contrast.terms),
            any(found[name].open for name, _ in contrast.terms),
        )
        for contrast, difference, interval, p in zip(
            plan.contrasts, sums, intervals, corrected, strict=True
        )
    ]


def weighted(contrast: Contrast, scores: Mapping[str, np.ndarray]) -> np.ndarray:
    """The contrast for each seed."""
    return np.sum([weight * scores[name] for name, weight in contrast.terms], axis=0)


def with_choice(
    plan: ProtocolPlan, table: Table, contrast: Contrast, given: Estimate
) -> tuple[float, float]:
    """A 95 % interval of a contrast that contains the choice of the points.

    `given` is the estimate for the points chosen, whose interval is part of it.
    """
    drawn = _draws(RESAMPLES, plan.validation_seeds, plan.final_seeds)
    by_name = {entry.name: entry for entry in plan.entries}
    total = np.zeros(RESAMPLES)
    for name, weight in contrast.terms:
        total += weight * _resampled(plan, by_name[name], table, *drawn)
    low, high = np.quantile(total, [statistics.LEVEL / 2, 1 - statistics.LEVEL / 2])
    return min(float(low), given.low), max(float(high), given.high)


@functools.cache
def _draws(
    resamples: int, validation: int, final: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Seeds that choose, seeds that score, final seeds: [resamples, seeds] each.

    Seeds that made a point win would give it too good a score.
    """
    rng = np.random.default_rng(0)
    choosing = rng.integers(0, validation, (resamples, validation))
    scoring = np.empty_like(choosing)
    for place, drawn in enumerate(choosing):
        rest = np.setdiff1d(np.arange(validation), drawn)
        scoring[place] = rng.choice(rest if len(rest) else drawn, validation)
    return choosing, scoring, rng.integers(0, final, (resamples, final))


def _resampled(
    plan: ProtocolPlan,
    entry: Entry,
    table: Table,
    choosing: np.ndarray,
    scoring: np.ndarray,
    final: np.ndarray,
) -> np.ndarray:
    """Test scores of the points that resampled seeds choose, [resamples].

    The point chosen was run on the final seeds, the other candidates were not. Their
    score is that of the point chosen, plus the difference of the two on the seeds of
    validation, where both were run.
    """
    scores = protocol.scores(plan, entry, table, VALIDATION)
    tests = protocol.values(entry, table, VALIDATION, plan.measure.reported)
    chosen = search.rank(scores)[0]
    points: list[Point] = sorted(scores)  # of equal ones, the first: the smaller
    score = np.stack([scores[point] for point in points])
    test = plan.measure.scale * np.stack([tests[point] for point in points])
    choice = score[:, choosing].sum(-1).argmax(0)
    gain = test[choice[:, None], scoring] - test[points.index(chosen)][scoring]
    return final_scores(plan, entry, table)[final].mean(-1) + gain.mean(-1)
