"""The mode of each leaf: how its decay rate depends on gradients and weights."""

import itertools
from collections.abc import Sequence

import numpy as np

from decayax._audit.readings import Reading, Readings, Setting


NONE, UNIFORM, SCALE_DEPENDENT = "none", "uniform", "scale-dependent"
GRADIENT_DEPENDENT, GROWTH = "gradient-dependent", "growth"
RATE_RTOL = 0.1  # rates that differ by a smaller fraction count as equal
MAX_DIFFERING = 0.1  # fraction of a leaf's weights whose rates may differ


def mode_of(main: Setting, readings: Readings, elementwise: bool) -> str:
    """The most serious mode that holds: growth, by gradients, by size, uniform, none.

    If the optimizer is elementwise, the rates of single weights are a property of it.
    """
    rates = [r.best.rate for r in readings.values() if r.best.significant]
    if not rates:
        return NONE
    if readings[main].best.significant and max(rates) < 0.0:
        return GROWTH
    # An optimizer that mixes weights sees the gradients through norms. Those of another
    # seed are the same up to chance, and chance is large in a leaf of four weights.
    own_size = [
        r
        for s, r in readings.items()
        if s.weight_scale == main.weight_scale and (elementwise or s.seed == main.seed)
    ]
    if not _same_rates(own_size):
        return GRADIENT_DEPENDENT
    if elementwise and not _same_rates_per_weight(own_size):
        return GRADIENT_DEPENDENT
    sizes = [r for s, r in readings.items() if s._replace(weight_scale=1.0) == main]
    return UNIFORM if _same_rates(sizes) else SCALE_DEPENDENT


def _same_rates(readings: Sequence[Reading]) -> bool:
    """Whether any two rates are equal within `RATE_RTOL` or their thresholds."""
    return all(
        abs(a.rate - b.rate)
        <= max(RATE_RTOL * max(abs(a.rate), abs(b.rate)), a.threshold + b.threshold)
        for a, b in itertools.combinations([r.best for r in readings], 2)
    )


def _same_rates_per_weight(readings: Sequence[Reading]) -> bool:
    """Whether single weights keep their rates from one gradient sequence to another.

    They may differ from each other: then the weights decide, not the gradients.
    """
    # If the two estimates disagree, the derivative of single weights is wrong.
    reliable = [reading.best for reading in readings if not reading.disagrees]
    for a, b in itertools.combinations(reliable, 2):
        gap = np.abs(a.per_weight - b.per_weight)
        size = np.maximum(np.abs(a.per_weight), np.abs(b.per_weight))
        differs = gap > RATE_RTOL * size + a.threshold + b.threshold
        if np.nanmean(differs) > MAX_DIFFERING:
            return False
    return True
