"""The study `strength`: its settings, the rules for λ, and what the runs say of them.

A rule says by which power of each factor λ changes at a fixed learning rate:

    timescale    1/(γλ) in epochs is kept: λ ∝ batch / data, for any number of epochs
    √steps       γλ ∝ 1/√steps: λ ∝ √(batch / (data · epochs))
    same λ       λ is kept
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from experiments import cells, optima, statistics
from experiments.cells import Table
from experiments.optima import Chosen, Grid, Losses
from experiments.protocol import Measure
from experiments.statistics import Estimate


DIGITS = 5  # of binary logarithms
REFERENCE, BATCH, EPOCHS, DATA = "reference", "batch", "epochs", "data"
TIMESCALE, ROOT, SAME = "timescale", "√steps", "same λ"
RULES: dict[str, dict[str, float]] = {  # by rule and axis: the exponent of λ
    TIMESCALE: {BATCH: 1.0, EPOCHS: 0.0, DATA: -1.0},
    ROOT: {BATCH: 0.5, EPOCHS: -0.5, DATA: -0.5},
    SAME: {BATCH: 0.0, EPOCHS: 0.0, DATA: 0.0},
}


class Setting(NamedTuple):
    """One run length, batch and amount of data, and the first λ to try."""

    name: str
    axis: str  # what differs from the reference
    factor: float  # by which it differs
    config: Any  # a StaticConfig; in a report its description
    decay: int  # log2 of the middle of the first values of λ


class TunedTask(NamedTuple):
    """A task with its reference and the settings that are compared with it."""

    name: str
    measure: Measure
    settings: tuple[Setting, ...]  # the reference comes first
    rate: int  # log2 of the learning rate at which λ is carried
    grid: Grid
    width: int  # the first grid has so many values of λ on either side of the middle
    fixed: Mapping[str, float]  # hyper-parameters with one value in all runs
    seed_share: int  # the task uses the seeds of the plan divided by this number

    @property
    def axes(self) -> list[str]:
        """What differs from the reference in some setting."""
        return list(dict.fromkeys(setting.axis for setting in self.settings[1:]))


class Place(NamedTuple):
    """The optimum of a setting. All places are binary logarithms."""

    setting: Setting
    decay: Estimate  # λ at the learning rate of the task
    best_rate: Estimate  # the learning rate, if it is tuned too
    best_decay: Estimate  # λ at this learning rate
    inside: bool  # whether λ at the learning rate of the task is bracketed
    both_inside: bool  # whether learning rate and λ are bracketed, if both are tuned
    points: int  # number of points that were tried
    loss: float  # the lowest mean validation loss that was tried


class Trend(NamedTuple):
    """The exponents of an axis on a task."""

    task: TunedTask
    axis: str
    decay: Estimate  # of λ at one learning rate
    best_rate: Estimate  # of the learning rate, if it is tuned too
    timescale: Estimate  # of γλ, if both are tuned
    p_holm: float  # that the exponent of λ at one learning rate is 0, corrected

    @property
    def verdict(self) -> str:
        """Whether λ at one learning rate grows with the factor."""
        if not np.isfinite(self.decay.mean):
            return "not bracketed"
        if self.p_holm >= statistics.LEVEL:
            return "no trend shown"
        return "grows" if self.decay.mean > 0 else "falls"

    @property
    def excluded(self) -> list[str]:
        """The rules whose exponent is outside the interval of `decay`."""
        powers = {rule: powers[self.axis] for rule, powers in RULES.items()}
        low, high = self.decay.low, self.decay.high
        return [rule for rule, power in powers.items() if not low <= power <= high]


class Regret(NamedTuple):
    """What a rule costs, in the unit of the task's measure."""

    task: TunedTask
    setting: Setting | None  # None: the mean over all settings but the reference
    rule: str
    cost: Estimate  # loss at the carried λ minus loss at the best λ
    # The cost of the same λ minus the cost of the rule: what the rule gains.
    gain: Estimate


# --- Reading ----------------------------------------------------------------------


def task_from_manifest(description: Mapping[str, Any]) -> TunedTask:
    """Make a task from its description in a manifest."""
    fields = _fields(description)
    fields["measure"] = Measure(**_fields(fields["measure"]))
    fields["grid"] = Grid(**_fields(fields["grid"]))
    fields["settings"] = tuple(Setting(**_fields(x)) for x in fields["settings"])
    return TunedTask(**fields)


def _fields(description: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in description.items() if name != "is"}


def losses_of(
    table: Table, task: TunedTask, setting: Setting, test: bool = False
) -> Losses:
    """Return the losses of a setting by point, on the validation or the test part.

    They are in the unit of the measure, ordered by seed.
    """
    measure = task.measure
    rows = cells.where(table, task=task.name, setting=setting.name)
    rows = {n: column[np.argsort(rows["seed"])] for n, column in rows.items()}
    column = rows[measure.reported if test else measure.score].astype(float)
    # Rounded, because the table has the float32 of the numbers in the plan.
    places = (
        np.round(np.log2(rows[name].astype(float)), DIGITS)
        for name in ("learning_rate", "weight_decay")
    )
    found: dict[optima.Point, list[float]] = {}
    for rate, decay, value in zip(*places, column, strict=True):
        loss = measure.perfect - measure.scale * value
        found.setdefault((float(rate), float(decay)), []).append(loss)
    return {point: np.array(by_seed) for point, by_seed in found.items()}


def count_seeds(losses: Losses) -> int:
    """The number of seeds of each point."""
    return len(next(iter(losses.values())))


def shifts_of(setting: Setting) -> list[float]:
    """What each rule adds to log2 λ, from the reference to a setting."""
    octaves = float(np.log2(setting.factor))
    return [powers.get(setting.axis, 0.0) * octaves for powers in RULES.values()]


def carried(table: Table, task: TunedTask, setting: Setting) -> tuple[float, ...]:
    """The values of log2 λ that the rules carry from the reference to a setting."""
    losses = task.grid.regular(losses_of(table, task, task.settings[0]))
    subsets = optima.subsets(count_seeds(losses))
    found = {optima.lowest(losses, float(task.rate), seeds) for seeds in subsets}
    return tuple(y + shift for y in sorted(found) for shift in shifts_of(setting))


# --- Optima and exponents ---------------------------------------------------------


def places(table: Table, task: TunedTask) -> list[Place]:
    """The optimum of every setting of a task."""
    found = []
    for setting in task.settings:
        losses = task.grid.regular(losses_of(table, task, setting))
        count = count_seeds(losses)
        decay, best_rate, best_decay = optima.jackknife(
            lambda seeds, losses=losses: _optimum(losses, task, seeds), count
        )
        every = np.ones(count, bool)
        best, _ = optima.along_both(losses, every)
        near = min(optima.rates_of(losses), key=lambda x: abs(x - best.place))
        inside = optima.along_decay(losses, float(task.rate), every).inside
        both = best.inside and optima.along_decay(losses, near, every).inside
        least = min(float(by_seed.mean()) for by_seed in losses.values())
        numbers = (inside, both, len(losses), least)
        found.append(Place(setting, decay, best_rate, best_decay, *numbers))
    return found


def _optimum(losses: Losses, task: TunedTask, seeds: Chosen) -> np.ndarray:
    """log2 of: λ at the learning rate of the task, the best rate, the best λ there."""
    best, decay = optima.along_both(losses, seeds)
    at_rate = optima.along_decay(losses, float(task.rate), seeds)
    return np.array([at_rate.place, best.place, decay])


def trends(table: Table, tasks: list[TunedTask]) -> list[Trend]:
    """The exponents of every axis of every task."""
    found = [_trend(table, task, axis) for task in tasks for axis in task.axes]
    corrected = statistics.holm([trend.decay.p for trend in found])
    return [t._replace(p_holm=p) for t, p in zip(found, corrected, strict=True)]


def _trend(table: Table, task: TunedTask, axis: str) -> Trend:
    """The exponents of one axis. A setting without a bracketed optimum is left out."""
    used = [
        place
        for place in places(table, task)
        if place.setting.axis in (REFERENCE, axis)
    ]
    losses = {
        p.setting.name: task.grid.regular(losses_of(table, task, p.setting))
        for p in used
    }
    factors = {p.setting.name: float(np.log2(p.setting.factor)) for p in used}
    inside = [p.setting.name for p in used if p.inside]
    both = [p.setting.name for p in used if p.both_inside]

    def statistic(seeds: Chosen) -> np.ndarray:
        at = {name: _optimum(each, task, seeds) for name, each in losses.items()}
        return np.array(
            [
                optima.slope(factors, {name: at[name][0] for name in inside}),
                optima.slope(factors, {name: at[name][1] for name in both}),
                optima.slope(factors, {name: sum(at[name][1:]) for name in both}),
            ]
        )

    count = count_seeds(losses[REFERENCE])
    decay, rate, timescale = optima.jackknife(statistic, count)
    return Trend(task, axis, decay, rate, timescale, p_holm=1.0)


# --- Regret -----------------------------------------------------------------------


def regrets(table: Table, task: TunedTask) -> list[Regret]:
    """The cost of each rule for each setting, and the mean over the settings."""
    regular = task.grid.regular
    reference = regular(losses_of(table, task, task.settings[0]))
    targets = [
        (regular(losses_of(table, task, s)), losses_of(table, task, s, test=True))
        for s in task.settings[1:]
    ]
    shifts, rate = list(map(shifts_of, task.settings[1:])), float(task.rate)

    def statistic(seeds: Chosen) -> np.ndarray:
        costs = np.array(
            [
                optima.regrets(reference, target, rate, shift, seeds)
                for target, shift in zip(targets, shifts, strict=True)
            ]
        )
        costs = np.concatenate([costs, costs.mean(0, keepdims=True)])
        same = costs[:, list(RULES).index(SAME), None]
        return np.stack([costs, same - costs], axis=-1).ravel()

    estimates = iter(optima.jackknife(statistic, count_seeds(reference)))
    # In the order of `statistic`: settings and the mean, rules, cost and gain.
    return [
        Regret(task, setting, rule, next(estimates), next(estimates))
        for setting in (*task.settings[1:], None)
        for rule in RULES
    ]
