"""The rates at later steps of a run: schedules, warm-up, a decay that starts later."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from decayax._audit.follow import Begin
from decayax._audit.measure import Bench, measure_once
from decayax._audit.readings import Reading, Setting


WINDOW = 25  # the rate at a step is the mean over so many steps
# Steps before the window that follow the weights already, so that momentum has seen
# them: 0.9^100 = 3e-5.
LEAD = 100
# Steps before that in which moments take their usual size. With b2 = 0.999,
# 1 − e⁻² = 86 % of v is there after 2000 steps.
BURN_IN = 2000
NEAR = 0.95  # a rate that is nearly the largest
# Where a run of a given length is measured, as fractions of it.
FRACTIONS = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0)


def steps_of_horizon(horizon: int) -> tuple[int, ...]:
    """The steps at which a run of ``horizon`` steps is measured."""
    last = max(horizon - WINDOW, 0)
    steps = (min(round(fraction * horizon), last) for fraction in FRACTIONS)
    return tuple(dict.fromkeys(steps))


def readings_at(
    bench: Bench, setting: Setting, step: int, burn_in: int
) -> list[Reading]:
    """The reading of each leaf over `WINDOW` steps from ``step`` on."""
    begin = Begin(at_step=step, burn_in=max(burn_in, LEAD))
    return measure_once(bench, setting, WINDOW, begin)


def burn_in_steps(bench: Bench) -> int:
    """How many steps to run before a later step.

    0 if no gradient changes the decay, now or later. An optimizer that mixes weights is
    slow, and gets fewer.
    """
    if not bench.reads().any_gradient:
        return 0
    return BURN_IN if bench.plan.sampled or bench.plan.elementwise else LEAD


def fastest_steps(rates: Sequence[tuple[tuple[int, float], ...]]) -> list[int]:
    """For each unit a step where its rate is largest, or nearly so; growth first.

    ``rates`` are pairs (step, rate) of each unit. As few steps as possible are chosen,
    because all units are measured again at each of them.
    """
    near = [_near_the_largest(own) for own in rates]
    chosen = [0] * len(rates)
    open_units = set(range(len(rates)))
    while open_units:
        counts = Counter(step for unit in open_units for step in near[unit])
        (step, _), *_ = counts.most_common(1)
        covered = {unit for unit in open_units if step in near[unit]}
        for unit in covered:
            chosen[unit] = step
        open_units -= covered
    return chosen


def _near_the_largest(pairs: tuple[tuple[int, float], ...]) -> list[int]:
    """The steps whose rate is near the largest one, the best first; [0] if none is."""
    growing = [pair for pair in pairs if pair[1] < 0.0]
    candidates = sorted(growing or pairs, key=lambda pair: -abs(pair[1]))
    if not candidates:
        return [0]
    largest = abs(candidates[0][1])
    return [step for step, rate in candidates if abs(rate) >= NEAR * largest]


def kept_share(by_step: tuple[tuple[int, float], ...], horizon: int) -> float:
    """The fraction of the initial weights that a whole run keeps.

    The rates between the measured steps are interpolated.
    """
    steps, rates = zip(*by_step, strict=True)
    every = np.interp(np.arange(horizon), steps, rates)
    if np.isnan(every).any():
        return math.nan
    if (every >= 1.0).any():
        return 0.0
    return float(np.exp(np.sum(np.log1p(-every))))
