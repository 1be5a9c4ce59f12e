"""The mode of each leaf: how its decay rate depends on gradients and weights."""

import itertools
from collections.abc import Iterable, Sequence

import numpy as np

from decayax._audit.readings import Reading, Setting


NONE, UNIFORM, SCALE_DEPENDENT = "none", "uniform", "scale-dependent"
GRADIENT_DEPENDENT, GROWTH = "gradient-dependent", "growth"
RATE_RTOL = 0.1  # rates that differ by a smaller fraction count as equal
MAX_DIFFERING = 0.1  # fraction of a leaf's weights whose rates may differ


def mode_of(main: Setting, readings: dict[Setting, Reading], elementwise: bool) -> str:
    """The most serious mode that holds: growth, by gradients, by size, uniform, none.

    Args:
        main: the setting whose rate is reported.
        readings: of one leaf.
        elementwise: whether each weight's update depends on this weight only. If so,
            the rates of single weights are a property of the optimizer.
    """
    if not any(reading.significant for reading in readings.values()):
        return NONE
    if readings[main].significant and _all_grow(readings.values()):
        return GROWTH
    # An optimizer that mixes weights sees the gradients through norms. Those of another
    # seed are the same up to chance, and chance is large in a leaf of four weights.
    own_size = [
        reading
        for setting, reading in readings.items()
        if setting.has_own_size and (elementwise or setting.seed == main.seed)
    ]
    all_sizes = [
        reading
        for setting, reading in readings.items()
        if setting._replace(weight_scale=main.weight_scale) == main
    ]
    if not same_rates(own_size):
        return GRADIENT_DEPENDENT
    if elementwise and not _same_rates_per_weight(own_size):
        return GRADIENT_DEPENDENT
    return UNIFORM if same_rates(all_sizes) else SCALE_DEPENDENT


def same_rates(readings: Sequence[Reading]) -> bool:
    """Whether any two rates are equal within `RATE_RTOL` or their thresholds."""
    return all(
        abs(a.rate - b.rate)
        <= max(RATE_RTOL * max(abs(a.rate), abs(b.rate)), a.threshold + b.threshold)
        for a, b in itertools.combinations(readings, 2)
    )


def _all_grow(readings: Iterable[Reading]) -> bool:
    """Whether all significant rates are negative."""
    return max(reading.rate for reading in readings if reading.significant) < 0.0


def _same_rates_per_weight(readings: Sequence[Reading]) -> bool:
    """Whether single weights keep their rates from one gradient sequence to another.

    They may differ from each other: then the weights decide, not the gradients.
    """
    for a, b in itertools.combinations(readings, 2):
        if a.disagrees or b.disagrees:  # the derivative, which they stem from, is wrong
            continue
        gap = np.abs(a.per_weight - b.per_weight)
        size = np.maximum(np.abs(a.per_weight), np.abs(b.per_weight))
        differs = gap > RATE_RTOL * size + a.threshold + b.threshold
        if np.nanmean(differs) > MAX_DIFFERING:
            return False
    return True
