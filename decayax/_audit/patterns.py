"""Patterns in the rates of single weights and steps: gates, bounds, periods."""

import numpy as np

from decayax._audit.readings import Reading, Readings, steps_of, steps_with_rate


CLOSED = 0.05  # a rate below this fraction of the largest one of its step is 0
MIN_FRACTION = 0.05  # of the weights or steps that makes a pattern
MIN_PAUSES = 0.2  # of the steps; one step without decay is not a pattern
MIN_JUMP = 0.05  # of the weights that a projection removes in the first step


def is_gated(reading: Reading, exact: bool) -> bool:
    """Whether a step decays some weights and others not, in changing choices.

    The weights of a leaf are compared with each other and under g and −g. If other
    weights matter (not ``exact``), only the whole leaf under g and −g is compared.
    """
    if reading.jvp is None or reading.disagrees or reading.jvp_trace is None:
        return False
    trace = reading.jvp_trace
    change = trace.per_weight if exact else trace.change[..., None]
    rates = np.abs(steps_of(change))  # (signs, steps, n)
    top = np.nanmax(rates, axis=(0, 2), initial=0.0)
    active = top > CLOSED * top.max(initial=0.0)  # a period pauses in whole steps
    relative = rates[:, active] / top[active][None, :, None]
    # Each weight is compared with itself, because weights may have unlike rates.
    own = np.nanmax(relative, axis=(0, 1), initial=0.0)
    relative, own = relative[..., own > CLOSED], own[own > CLOSED]
    closed = relative < (CLOSED if exact else 1e-3) * own
    if not closed.size:
        return False
    changes = closed.any((0, 1)).sum() / change.shape[-1]
    part = MIN_FRACTION < closed.mean() < 1.0 - MIN_FRACTION
    return bool(part and changes > MIN_FRACTION)


def is_constrained(reading: Reading) -> bool:
    """Whether the first step projects the weights onto a set.

    More of their values is left than of their derivative: a sphere keeps the direction
    of the weights, and their size is forgotten. Or many weights have the same value.
    """
    trace = reading.difference_trace
    kept = 1.0 + np.mean(trace.change[:, 0])
    value = np.mean(trace.value[:, 0])
    if value - kept > MIN_JUMP:
        return True
    forgotten = np.abs(1.0 + trace.per_weight[0, 0]) < CLOSED
    _, inverse, counts = np.unique(
        trace.weights[0, 0], return_inverse=True, return_counts=True
    )
    at_bound = forgotten & (counts[inverse] > 1)
    return bool(at_bound.mean() >= MIN_FRACTION and not at_bound.all())


def share_of_steps(reading: Reading) -> float:
    """In which fraction of the steps the weights decay.

    It is 1 unless the decay pauses and begins again. Regular pauses in which nothing
    moves count as 1, too: an accumulation of gradients works like this.
    """
    trace = reading.difference_trace
    count = steps_with_rate(trace)
    rates = np.abs(reading.best.over_time[:count])
    decays = rates > 0.01 * np.nanmax(rates, initial=0.0)
    moves = trace.step_size.max(0)[:count] > 0.0
    gaps = np.diff(np.flatnonzero(decays))
    if decays.sum() < 2 or gaps.max() == 1 or decays.mean() > 1.0 - MIN_PAUSES:
        return 1.0
    regular = np.ptp(gaps) == 0 and not (moves & ~decays).any()
    return 1.0 if regular else float(decays.mean())


def still_changes(reading: Reading) -> bool:
    """Whether the rate rises or falls steadily and its end differs from its mean."""
    rates = reading.best.over_time
    whole = steps_with_rate(reading.difference_trace) == len(rates)
    if len(rates) < 40 or not whole or not np.isfinite(rates).all():
        return False
    blocks = [float(block.mean()) for block in np.array_split(rates, 4)]
    size = max(map(abs, blocks))
    steps = np.diff(blocks)
    steady = all(steps > -0.01 * size) or all(steps < 0.01 * size)
    return bool(steady and abs(blocks[-1] - np.mean(blocks)) > 0.1 * size)


def is_second_order(readings: Readings) -> bool:
    """Whether all rates are those of turning, about s²/2 for steps of relative size s.

    A step without a component along the weights lengthens them by s²/2. If their norm
    is then restored, the initial direction is lost at this rate. The same steps turn
    large weights less; a decay does not depend on the size of the weights.
    """
    significant = [r for r in readings.values() if r.best.significant]
    rates = [abs(reading.best.rate) for reading in significant]
    turns = [float(np.mean(r.difference_trace.step_size**2)) for r in significant]
    explained = all(
        rate <= 2.0 * turn + 1e-8 for rate, turn in zip(rates, turns, strict=True)
    )
    return explained and max(rates, default=0.0) > 20.0 * min(rates, default=0.0)
