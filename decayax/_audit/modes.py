"""The mode of each leaf: how its decay rate depends on gradients and weights."""

import itertools
from collections.abc import Sequence

import numpy as np

from decayax._audit.patterns import is_constrained, is_gated, is_second_order
from decayax._audit.readings import MAX_DRIFT, Reading, Readings, Setting, varied


NONE, UNIFORM, SCALE_DEPENDENT = "none", "uniform", "scale-dependent"
UNEVEN, ANCHORED, GATED = "uneven", "anchored", "gated"
GRADIENT_DEPENDENT, CONSTRAINED = "gradient-dependent", "constrained"
GROWTH, NOT_FINITE = "growth", "not finite"
WITHOUT_DECAY = (NONE, CONSTRAINED, NOT_FINITE, ANCHORED)
RATE_RTOL = 0.1  # rates that differ by a smaller fraction count as equal
MAX_DIFFERING = 0.1  # fraction of a leaf's weights whose rates may differ
MIN_GROWING = 0.05  # fraction of a leaf's weights that makes it growth
MIN_DISPERSION = 0.01  # standard deviation of the rates of unlike weights, relative


def mode_of(
    main: Setting,
    readings: Readings,
    *,
    elementwise: bool,
    gradient_free: bool,
    live: np.ndarray | None = None,
    state_held: bool = False,
) -> str:
    """The most serious mode that holds.

    Args:
        main: the setting whose rate is reported.
        readings: of all settings.
        elementwise: whether each update depends on its own weight and gradient only.
        gradient_free: whether the derivative by the weights reads no gradient. Then
            unlike rates are a property of the optimizer, and not chance.
        live: which sampled weights get gradients, if not all or none do.
        state_held: whether the state counts as independent of the weights. A norm in
            it is then not that of the weights, and restoring it is not a turn.
    """
    reading, exact = readings[main], readings[main].subject.exact
    if not reading.difference_trace.weights.size:
        return NONE
    if not all(r.finite for r in readings.values()):
        return NOT_FINITE
    if is_constrained(reading):
        return CONSTRAINED
    readings = {s: r for s, r in readings.items() if _is_of_interest(r)}
    may_turn = not (exact or state_held)
    if not _rates(readings) or (may_turn and is_second_order(readings)):
        return NONE
    if not reading.is_turned:
        readings = {s: r for s, r in readings.items() if not r.is_turned}
    if not (rates := _rates(readings)):
        return NONE
    grows = reading.best.significant and max(rates) < 0.0
    by_seed = _by(readings, main, "seed")
    if grows or (exact and all(map(_part_grows, by_seed))):
        return GROWTH
    same = _same_for_sizes_of_gradients(main, readings, live)
    if same and is_gated(reading):
        return GATED
    if not same or (elementwise and not _same_for_seeds(main, readings)):
        return GRADIENT_DEPENDENT
    by_size = _by(readings, main, "weight_scale")
    # A pull to a norm is weaker along θ₀ once small weights have moved far from it.
    if not (_same_rates(by_size) or (state_held and _same_early_rates(by_size))):
        return SCALE_DEPENDENT
    if live is not None and by_zero_gradient(reading, live):
        return GATED
    known = by_seed if exact or gradient_free else []
    return UNEVEN if any(map(_is_uneven, known)) else UNIFORM


def _is_of_interest(reading: Reading) -> bool:
    """Not a bound that only larger weights reach, and not a pull that cannot be seen.

    Large gradients may move the weights too far to see their pull.
    """
    return not (is_constrained(reading) or reading.is_lost)


def _rates(readings: Readings) -> list[float]:
    """The rates that are larger than their errors."""
    return [r.best.rate for r in readings.values() if r.best.significant]


def _by(readings: Readings, main: Setting, name: str) -> list[Reading]:
    return [reading for _, reading in varied(readings, main, name)]


def _same_for_sizes_of_gradients(
    main: Setting, readings: Readings, live: np.ndarray | None
) -> bool:
    by_gradient = _by(readings, main, "gradient_scale")
    if not (_same_rates(by_gradient) or _same_early_rates(by_gradient)):
        return False
    if live is None or not readings[main].subject.exact:
        return True
    rates = [rate for _, rate in rates_by_scale(main, readings, live)]
    return bool(np.ptp(rates) <= RATE_RTOL * np.max(np.abs(rates)) + 1e-9)


def _same_for_seeds(main: Setting, readings: Readings) -> bool:
    """Whether leaf and single weights have the same rates under other gradients.

    Other seeds have another global norm by chance. So this shows something only if the
    optimizer is elementwise.
    """
    by_seed = _by(readings, main, "seed")
    # A difference has too few digits, if the leaf has few weights.
    from_jvp = [r for r in by_seed if r.best is r.jvp]
    by_gradient = _by(readings, main, "gradient_scale")
    return _same_rates(from_jvp) and not _differ_per_weight(by_seed + by_gradient)


def by_zero_gradient(reading: Reading, live: np.ndarray) -> bool:
    """Whether weights with a gradient and those without one have unlike rates."""
    if live.all() or not live.any():
        return False
    with_gradient, without = rates_by_gradient(reading, live)
    larger = max(abs(with_gradient), abs(without))
    gap = abs(with_gradient - without)
    return bool(gap > larger / 2 and larger > reading.best.threshold)


def rates_by_gradient(reading: Reading, live: np.ndarray) -> tuple[float, float]:
    """The mean rates of the weights with a gradient and of those without one."""
    rates = reading.best.per_weight
    return float(np.nanmean(rates[live])), float(np.nanmean(rates[~live]))


def rates_by_scale(
    main: Setting, readings: Readings, live: np.ndarray | None
) -> list[tuple[float, float]]:
    """Pairs (|g|, rate) in order; the rate of the weights with a gradient only."""

    def rate(reading: Reading) -> float:
        if live is None or reading.jvp is None:
            return reading.best.rate
        return float(np.nanmean(reading.jvp.per_weight[live]))

    return [(g, rate(r)) for g, r in varied(readings, main, "gradient_scale")]


def _is_uneven(reading: Reading) -> bool:
    """Whether single weights have unlike rates, as far as the derivative says."""
    best = reading.best
    if best is not reading.jvp:
        return False
    # The derivative of a matrix function is huge where two singular values are equal.
    return best.dispersion > MIN_DISPERSION * abs(best.rate) + 2.0 * best.threshold


def _same_rates(readings: Sequence[Reading]) -> bool:
    """Whether any two rates are equal within `RATE_RTOL` or their thresholds."""
    return all(
        abs(a.rate - b.rate)
        <= max(RATE_RTOL * max(abs(a.rate), abs(b.rate)), a.threshold + b.threshold)
        for a, b in itertools.combinations([r.best for r in readings], 2)
    )


def _same_early_rates(readings: Sequence[Reading]) -> bool:
    """Whether the rates are equal until the weights have moved.

    Large gradients move the weights, and a rate that depends on the size of the weights
    then changes, too. It depends on the gradients only through this size.
    """
    early = _early_steps(readings)
    rates = [float(np.mean(r.best.over_time[:early])) for r in readings]
    return _are_visible(readings, rates) and np.ptp(rates) <= RATE_RTOL * max(
        map(abs, rates)
    )


def _early_steps(readings: Sequence[Reading]) -> int:
    """In how many steps the weights still have their initial size, under all readings.

    The rate of the step that moves them is that of the initial weights, too.
    """
    moved = [np.append(reading.drift > MAX_DRIFT, True) for reading in readings]
    steps = min(int(np.argmax(far)) for far in moved) + 1
    return min(steps, *(len(reading.drift) for reading in readings))


def _are_visible(readings: Sequence[Reading], early_rates: Sequence[float]) -> bool:
    """Whether the decay shows in the early steps: a preconditioner may hide it."""
    whole = max(abs(reading.best.rate) for reading in readings)
    return max(map(abs, early_rates)) > RATE_RTOL * whole


def _differ_per_weight(readings: Sequence[Reading]) -> bool:
    """Whether single weights change their rates from one reading to another.

    They may differ from each other: then the weights decide, not the gradients.
    """
    # A difference has too few digits for single weights.
    reliable = [r for r in readings if r.best is r.jvp]
    if len(reliable) < 2:
        return False
    if not _any_differ([r.best.per_weight for r in reliable], reliable):
        return False
    early = _early_steps(reliable)
    rates = [float(np.mean(r.best.over_time[:early])) for r in reliable]
    if not _are_visible(reliable, rates):
        return True
    early_rates = [r.early_per_weight(early) for r in reliable]
    return _any_differ(early_rates, reliable)


def _any_differ(per_weight: Sequence[np.ndarray], readings: Sequence[Reading]) -> bool:
    """Whether the rates of more than a few weights differ between any two readings."""
    pairs = zip(per_weight, [r.best.threshold for r in readings], strict=True)
    for (a, error_a), (b, error_b) in itertools.combinations(pairs, 2):
        size = np.maximum(np.abs(a), np.abs(b))
        differs = np.abs(a - b) > RATE_RTOL * size + error_a + error_b
        if np.nanmean(differs) > MAX_DIFFERING:
            return True
    return False


def _part_grows(reading: Reading) -> bool:
    """Whether at least `MIN_GROWING` of the weights grow, beyond their errors."""
    best = reading.best
    if best is not reading.jvp:
        return False
    grows = best.per_weight < -(5.0 * best.per_weight_error + best.threshold)
    return bool(np.mean(grows) >= MIN_GROWING)
