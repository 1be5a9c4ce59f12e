"""Patterns in the rates of single weights and steps: gates, bounds, periods."""

import numpy as np

from decayax._audit.estimates import EPS, MIN_RETENTION, steps_of, steps_with_rate
from decayax._audit.readings import Reading, Readings


CLOSED = 0.05  # a rate below this fraction of the largest one of its step is 0
MIN_FRACTION = 0.05  # of the weights or steps that makes a pattern
MIN_PAUSES = 0.2  # of the steps; one step without decay is not a pattern
MIN_LATER_JUMP = 0.3
MIN_JUMP = 0.05  # of the weights that a projection removes in the first step


def is_gated(reading: Reading) -> bool:
    """Whether a step decays some weights and others not, in changing choices.

    The weights of a leaf are compared with each other and under g and −g. If other
    weights matter too much for this, only the whole leaf under g and −g is compared.
    """
    return _gate(reading) is not None


def gate_reads_gradients(reading: Reading) -> bool:
    """Whether other weights decay under g than under −g."""
    rates = _gate(reading)
    return rates is not None and bool(np.mean(abs(rates[0] - rates[1]) > 0.5) > 0.01)


def _gate(reading: Reading) -> np.ndarray | None:
    """The `_gate_rates` that show a gate; None without a gate."""
    trace = reading.jvp_trace
    differs = reading.best is not reading.jvp and not reading.use_value
    if trace is None or differs:
        return None
    single = _gate_rates(reading, steps_of(trace.per_weight))
    exact = reading.subject.exact
    found = [] if single is None or (_are_mixed(single) and not exact) else [single]
    if not exact:
        whole = _gate_rates(reading, steps_of(trace.change[..., None]))
        found += [] if whole is None else [whole]
    return next((x for x in found if _opens_and_closes(reading, x)), None)


def _opens_and_closes(reading: Reading, rates: np.ndarray) -> bool:
    if reading.use_value and np.mean(abs(rates[0] - rates[1]) > 0.5) < 0.2:
        return False  # the weights decide, as they cross the bound of a Huber pull
    closed, partly = rates < CLOSED, (rates > 2.0 * CLOSED) & (rates < 0.5)
    changes = closed.any((0, 1)).mean()
    part = MIN_FRACTION < closed.mean() < 1.0 - MIN_FRACTION
    # A gate is open or closed. Noise has all values.
    return bool(part and changes > MIN_FRACTION and partly.mean() < closed.mean() / 2)


def _are_mixed(rates: np.ndarray) -> bool:
    """Whether other weights decide the rates of single weights: some are negative."""
    return bool((rates < -CLOSED).mean() > 0.01)


def _gate_rates(reading: Reading, rates: np.ndarray) -> np.ndarray | None:
    """Rates (signs, steps, n) as a fraction of each weight's own largest rate.

    Each step counts relative to its largest rate, so that schedules cancel, and steps
    in which nothing decays are left out. Weights that never decay are 1.
    """
    if reading.use_value:  # the derivative of a pull that is not linear has any sign
        rates = np.abs(rates)
    # Where too little is left of a weight, its rate is not known.
    rates = rates[:, ~np.isnan(rates).any((0, 2))]
    top = np.abs(rates).max(axis=(0, 2), initial=0.0)
    active = top > CLOSED * top.max(initial=0.0)
    if not active.any() or (rates < -CLOSED * top.max(initial=0.0)).mean() > 0.01:
        return None
    relative = rates[:, active] / top[active][None, :, None]
    own = relative.max(axis=(0, 1), initial=0.0)
    return np.where(own > CLOSED, relative / np.maximum(own, CLOSED), 1.0)


def is_constrained(reading: Reading) -> bool:
    """Whether a step projects the weights onto a set.

    More of their values is left than of their derivative: a sphere keeps the direction
    of the weights, and their size is forgotten. Or many weights have the same value.
    """
    trace = reading.difference_trace
    kept = np.concatenate([[1.0], 1.0 + np.mean(trace.change, 0)])
    value = np.concatenate([[1.0], np.mean(trace.value, 0)])
    # What the part of a step that is not along the weights adds to the value by chance.
    across = np.mean(trace.step_size**2, 0) - (value[1:] - value[:-1]) ** 2
    chance = 3.0 * np.sqrt(np.maximum(across, 0.0) / max(reading.subject.count, 1))
    loss, of_value = 1.0 - kept[1:] / kept[:-1], 1.0 - value[1:] / value[:-1]
    known = (kept[:-1] > MIN_RETENTION) & (value[:-1] > MIN_RETENTION)
    # The first step is that of the initial weights; later ones may be large by chance.
    least = np.where(np.arange(len(loss)) == 0, MIN_JUMP, MIN_LATER_JUMP)
    jumps = (loss > least) & (loss - of_value > least + chance)
    if (known & jumps).any():
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
    if reading.best is not reading.jvp:  # a difference has too few digits for a step
        return 1.0
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
    large weights less, or they are in proportion to the weights; a decay does not
    depend on the size of the weights. If no step at all changes the norm, the rates do
    not matter.
    """
    significant = [r for r in readings.values() if r.best.significant]
    if all(map(_keeps_norm, significant)):
        return True
    turns = [r.turn for r in significant]
    rates = [max(abs(r.best.rate) - 1e-8, 0.0) for r in significant]
    # A restored norm may round to the same side in every step, by half an ulp.
    pairs = zip(rates, turns, strict=True)
    explained = all(rate <= 2.0 * turn + EPS / 2 for rate, turn in pairs)
    varied = max(rates) > 20.0 * min(rates) or max(rates) == 0.0
    steps = [np.mean(r.difference_trace.step_size) for r in readings.values()]
    in_proportion = max(steps) < 1.5 * min(steps)
    # In the first step, steps of g and of −g cancel.
    first = [abs(r.best.over_time[0]) < abs(r.best.rate) / 20 for r in significant]
    return explained and (varied or (in_proportion and all(first)))


def _keeps_norm(reading: Reading) -> bool:
    """Whether the norm stays, under g and under −g, although a rate says that it falls.

    The part of a gradient along the weights would change it by more.
    """
    size = reading.difference_trace.size
    lost = min(abs(reading.best.rate) * size.shape[-1], 1.0)
    return bool(np.max(np.abs(size - 1.0)) < 0.05 * lost)
