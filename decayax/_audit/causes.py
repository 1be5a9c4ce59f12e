"""Why a decay depends on gradients or on the size of the weights."""

import numpy as np

from decayax._audit.modes import (
    by_zero_gradient,
    GATED,
    GRADIENT_DEPENDENT,
    rates_by_gradient,
    rates_by_scale,
    SCALE_DEPENDENT,
)
from decayax._audit.patterns import gate_reads_gradients, is_gated
from decayax._audit.readings import Readings, Setting, varied


PRECONDITIONER, NORM, GATE = "preconditioner", "norm", "gate"
CONSTANT_PULL, STRONG_PULL = "constant pull", "strong pull"
TRUST_RATIO, OTHER = "trust ratio", "other"
RISING = "rising"
ZERO_GRADIENT, ONLY_ZERO_GRADIENT = "zero gradient", "only zero gradient"


def cause_of(
    mode: str,
    main: Setting,
    readings: Readings,
    *,
    clipped: bool,
    live: np.ndarray | None,
) -> str:
    """What makes the decay depend on the gradients or the weights."""
    reading = readings[main]
    if mode == GRADIENT_DEPENDENT:
        return _of_gradient_dependence(main, readings, live)
    if mode == GATED:
        if live is not None and by_zero_gradient(reading, live):
            with_gradient, without = rates_by_gradient(reading, live)
            return ZERO_GRADIENT if with_gradient > without else ONLY_ZERO_GRADIENT
        return GATE if gate_reads_gradients(reading) else OTHER
    if mode == SCALE_DEPENDENT:
        return NORM if clipped else _of_scale_dependence(main, readings)
    return OTHER


def _of_gradient_dependence(
    main: Setting, readings: Readings, live: np.ndarray | None
) -> str:
    by_gradient = rates_by_scale(main, readings, live)
    if len(by_gradient) > 1 and _rises_with_gradient(*by_gradient[-2:]):
        return RISING
    if is_gated(readings[main]):
        return GATE
    if len(by_gradient) > 1 and _falls_as_gradient(*by_gradient[-2:]):
        return PRECONDITIONER if readings[main].subject.exact else NORM
    return OTHER


def _falls_as_gradient(small: tuple[float, float], large: tuple[float, float]) -> bool:
    """Whether the rate follows 1/|g|, from two pairs (|g|, rate).

    A normalization makes λθ/|g| of an L2 term λθ next to a large gradient.
    """
    expected = small[0] / large[0]
    return small[1] != 0.0 and expected / 3 < large[1] / small[1] < expected * 3


def _rises_with_gradient(
    small: tuple[float, float], large: tuple[float, float]
) -> bool:
    """Whether the rate rises about as fast as |g|; a gate that opens changes less."""
    return 0.0 < abs(small[1]) * (large[0] / small[0]) ** 0.5 < abs(large[1])


def _of_scale_dependence(main: Setting, readings: Readings) -> str:
    by_size = [reading for _, reading in varied(readings, main, "weight_scale")]
    rates = [abs(reading.best.rate) for reading in by_size]
    # A trust ratio makes steps in proportion to the weights.
    steps = [np.mean(r.difference_trace.step_size) for r in by_size]
    if max(steps) < 1.5 * min(steps):
        return TRUST_RATIO
    if rates[-1] < rates[-2] / 1.5:
        return CONSTANT_PULL
    return STRONG_PULL if rates[-1] > 1.5 * rates[-2] else OTHER
