"""Choices, contrasts and verdicts, from the table of a protocol's runs.

Every contrast has two intervals. The first covers the seeds of the final runs, given
the chosen points. The second contains the first and also covers the choice: the seeds
of validation are resampled, the choice is made again on the resampled seeds, and the
seeds that were not drawn give the test score of that choice. A contrast is clear only
if the second interval excludes 0 and p is below 0.05 after Holm's correction over all
contrasts.
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
CHOOSING = (TUNING, SCREENING, VALIDATION)  # the stages before the choice
LUCKY = 2.0  # a choice is lucky if it drops by more standard errors on the final seeds


class Outcome(NamedTuple):
    """The result of one entry. Scores are in the report's unit; larger is better."""

    entry: Entry
    choice: dict[str, float]
    tried: int  # number of points of tuning
    runs: int  # number of runs of tuning, screening and validation
    open: list[str]  # sides on which the choice is not bracketed
    # Of the choice, on the validation part: in tuning, validation and final runs.
    scores: tuple[float, float, float]
    lucky: bool  # one of the first two scores is much better than the third
    test: Estimate
    diverged: int  # number of its runs that diverged, in all stages


class Comparison(NamedTuple):
    """A contrast with both intervals."""

    contrast: Contrast
    difference: Estimate  # given the choices
    with_choice: tuple[float, float]  # covers the choice; contains `difference`
    p_holm: float
    lucky: bool  # the choice of one of its entries is lucky
    open: bool  # the choice of one of its entries is not bracketed

    @property
    def sign(self) -> int:
        """The sign of the contrast if it is clear, else 0."""
        low, high = self.with_choice
        if self.p_holm >= statistics.LEVEL or low <= 0 <= high:
            return 0
        return 1 if low > 0 else -1

    @property
    def verdict(self) -> str:
        """The verdict in words."""
        if self.sign:
            text = self.contrast.positive if self.sign > 0 else self.contrast.negative
        elif self.difference.low <= 0 <= self.difference.high:
            text = "no difference shown"
        elif self.p_holm < statistics.LEVEL:
            text = "unclear: depends on the choice"
        else:
            text = "not clear after correction"
        return f"{text} ({', '.join(self.notes)})" if self.notes else text

    @property
    def notes(self) -> list[str]:
        """The reasons to doubt the verdict."""
        notes = []
        if self.lucky:
            notes.append("a chosen point was lucky")
        if self.open:
            notes.append("a choice is not bracketed")
        return notes


def plan_from_manifest(description: Mapping[str, Any]) -> ProtocolPlan:
    """Make a plan from its description in a manifest; `config` stays a description."""
    # A plan of a subclass has more fields, which a report does not need. A later field
    # is missing if it has its default.
    names = ProtocolPlan.__dataclass_fields__.keys() & description.keys()
    fields = {name: description[name] for name in names}
    fields["measure"] = protocol.Measure(**_fields(fields["measure"]))
    fields["contrasts"] = tuple(map(_contrast, fields["contrasts"]))
    fields["entries"] = tuple(map(_entry, fields["entries"]))
    return ProtocolPlan(**fields)


def _fields(description: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a described tuple; "is" is the name of its class."""
    return {name: value for name, value in description.items() if name != "is"}


def _contrast(description: Mapping[str, Any]) -> Contrast:
    contrast = Contrast(**_fields(description))
    return contrast._replace(terms=tuple(map(tuple, contrast.terms)))


def _entry(description: Mapping[str, Any]) -> Entry:
    fields = _fields(description)
    return Entry(**{**fields, "axes": tuple(map(_axis, fields["axes"]))})


def _axis(description: Mapping[str, Any]) -> Axis:
    axis = Axis(**_fields(description))
    return axis._replace(values=tuple(axis.values))


def outcomes(plan: ProtocolPlan, table: Table) -> dict[str, Outcome]:
    """Return the outcome of every entry, by name."""
    return {entry.name: _outcome(plan, entry, table) for entry in plan.entries}


def _outcome(plan: ProtocolPlan, entry: Entry, table: Table) -> Outcome:
    measure = plan.measure
    point = protocol.ranked_by_validation(plan, entry, table)[0]
    tuning = protocol.scores(plan, entry, table, TUNING)
    decided = protocol.scores(plan, entry, table, VALIDATION)
    in_tuning, in_validation, in_final = (
        measure.scale * protocol.values(entry, table, stage, measure.score)[point]
        for stage in (TUNING, VALIDATION, FINAL)
    )
    rows = cells.where(table, **entry.labels, **entry.fixed)
    names = [axis.name for axis in entry.axes]
    return Outcome(
        entry,
        choice=dict(zip(names, point, strict=True)),
        tried=len(tuning),
        runs=int(np.isin(rows["stage"].astype(str), CHOOSING).sum()),
        open=search.open_sides(point, tuning, entry.axes, decided),
        scores=(
            float(in_tuning.mean()),
            float(in_validation.mean()),
            float(in_final.mean()),
        ),
        lucky=_is_lucky(in_tuning, in_final) or _is_lucky(in_validation, in_final),
        test=statistics.estimate(final_scores(plan, entry, table)),
        diverged=int(rows["diverged"].astype(bool).sum()),
    )


def _is_lucky(before: np.ndarray, final: np.ndarray) -> bool:
    """Whether the final seeds score lower than the earlier ones by more than noise."""
    if len(final) < 2:
        return False
    error = np.std(final, ddof=1) * np.sqrt(1 / len(before) + 1 / len(final))
    return bool(before.mean() - final.mean() > LUCKY * error)


def final_scores(plan: ProtocolPlan, entry: Entry, table: Table) -> np.ndarray:
    """Return the test scores of the final runs, by seed. Larger is better."""
    (found,) = protocol.values(entry, table, FINAL, plan.measure.reported).values()
    return plan.measure.scale * found


def compare_contrasts(
    plan: ProtocolPlan, table: Table, found: Mapping[str, Outcome] | None = None
) -> list[Comparison]:
    """Compare all contrasts of the plan, with one correction for all of them.

    `found` are the outcomes of the entries, if they are known already.
    """
    if found is None:
        found = outcomes(plan, table)
    tests = {entry.name: final_scores(plan, entry, table) for entry in plan.entries}
    differences = [
        statistics.estimate(weighted(contrast, tests)) for contrast in plan.contrasts
    ]
    corrected = statistics.holm([difference.p for difference in differences])
    comparisons = []
    for contrast, difference, p in zip(
        plan.contrasts, differences, corrected, strict=True
    ):
        entries = [found[name] for name, _ in contrast.terms]
        comparison = Comparison(
            contrast,
            difference,
            with_choice(plan, table, contrast, difference),
            p,
            lucky=any(entry.lucky for entry in entries),
            open=any(len(entry.open) > 0 for entry in entries),
        )
        comparisons.append(comparison)
    return comparisons


def weighted(contrast: Contrast, scores: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the weighted sum of a contrast, for each seed."""
    return np.sum([weight * scores[name] for name, weight in contrast.terms], axis=0)


def with_choice(
    plan: ProtocolPlan, table: Table, contrast: Contrast, given: Estimate
) -> tuple[float, float]:
    """Return a 95 % interval of a contrast that covers the choice of the points.

    `given` is the estimate for the chosen points. The result contains its interval.
    """
    choosing, scoring, final = _draws(
        RESAMPLES, plan.validation_seeds, plan.final_seeds
    )
    by_name = {entry.name: entry for entry in plan.entries}
    total = np.zeros(RESAMPLES)
    for name, weight in contrast.terms:
        total += weight * _resampled(
            plan, by_name[name], table, choosing, scoring, final
        )
    low, high = np.quantile(total, [statistics.LEVEL / 2, 1 - statistics.LEVEL / 2])
    return min(float(low), given.low), max(float(high), given.high)


@functools.cache  # every contrast uses the same draws, and drawing takes long
def _draws(
    resamples: int, validation: int, final: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw seeds that choose, seeds that score, final seeds: [resamples, seeds] each.

    The seeds that score are not among those that choose, because the seeds with which a
    point won would give it a score that is too good.
    """
    rng = np.random.default_rng(0)
    choosing = rng.integers(0, validation, (resamples, validation))
    scoring = np.empty_like(choosing)
    for row, drawn in enumerate(choosing):
        others = np.setdiff1d(np.arange(validation), drawn)
        scoring[row] = rng.choice(others if len(others) > 0 else drawn, validation)
    return choosing, scoring, rng.integers(0, final, (resamples, final))


def _resampled(
    plan: ProtocolPlan,
    entry: Entry,
    table: Table,
    choosing: np.ndarray,
    scoring: np.ndarray,
    final: np.ndarray,
) -> np.ndarray:
    """Return the test scores of the points that resampled seeds choose, [resamples].

    Only the chosen point was run on the final seeds. The score of another candidate is
    that of the chosen point, plus the difference between the two on the seeds of
    validation, on which both were run.
    """
    scores = protocol.scores(plan, entry, table, VALIDATION)
    tests = protocol.values(entry, table, VALIDATION, plan.measure.reported)
    chosen = search.rank(scores)[0]
    # argmax takes the first of equal sums, which is the smaller point.
    points: list[Point] = sorted(scores)
    score = np.stack([scores[point] for point in points])
    test = plan.measure.scale * np.stack([tests[point] for point in points])
    choice = score[:, choosing].sum(-1).argmax(0)
    gain = test[choice[:, None], scoring] - test[points.index(chosen)][scoring]
    return final_scores(plan, entry, table)[final].mean(-1) + gain.mean(-1)
