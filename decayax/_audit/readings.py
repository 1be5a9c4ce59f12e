r"""From traces to rates: what one leaf does under one kind of gradients and weights.

    rate = 1 − retention_n^{1/n}

where retention_n is the fraction of the initial weights that is left after n steps. n
is the number of all steps T, or the first step after which less than a fifth is left.
Later, retention − 1 has lost the digits of the retention.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from decayax._audit.trace import AnyArray, Trace


MIN_RETENTION = 0.2  # the rate is read at the first step with a smaller retention
FEW_WEIGHTS = 16  # a smaller leaf has too few weights for a spread
EPS = float(np.finfo(np.float32).eps)


class Setting(NamedTuple):
    """The kind of gradients and weights in a run."""

    seed: int
    gradient_scale: float  # standard deviation of the gradients
    weight_scale: float  # times the leaf's own size

    @property
    def has_own_size(self) -> bool:
        """Whether the weights have the size of the parameters."""
        return self.weight_scale == 1.0


class Reading(NamedTuple):
    """The rate of one leaf under one setting, estimated in two ways."""

    rate_from_jvp: float  # nan if there is no derivative
    rate_from_difference: float
    # Detection thresholds of the two estimates; a smaller rate counts as zero.
    thresholds: tuple[float, float]
    low: float  # 5 % quantile of the rates of single weights
    high: float  # 95 % quantile
    per_weight: np.ndarray  # (n,) rates of single weights
    over_time: np.ndarray  # (T,) rate of every step
    depends_on_gradient: bool

    @property
    def disagrees(self) -> bool:
        """Whether the two estimates differ by more than a third."""
        gap = abs(self.rate_from_jvp - self.rate_from_difference)
        largest = max(abs(self.rate_from_jvp), abs(self.rate_from_difference))
        return bool(gap > max(largest / 3, self.thresholds[1]))

    @property
    def derivative_unreliable(self) -> bool:
        """Whether the derivative misses something; else it has more digits."""
        return bool(np.isnan(self.rate_from_jvp)) or self.disagrees

    @property
    def rate(self) -> float:
        """The more reliable of the two rates."""
        if self.derivative_unreliable:
            return self.rate_from_difference
        return self.rate_from_jvp

    @property
    def threshold(self) -> float:
        """The detection threshold of `rate`."""
        of_jvp, of_difference = self.thresholds
        return of_difference if self.derivative_unreliable else of_jvp

    @property
    def significant(self) -> bool:
        """Whether the rate differs from zero."""
        return abs(self.rate) > self.threshold


def rates_of(
    change: Float[np.ndarray, " steps *weights"],
) -> Float[np.ndarray, "*weights"]:
    """The rates per step, from retention − 1 after each step."""
    small = change <= MIN_RETENTION - 1.0
    n = np.where(small.any(0), small.argmax(0) + 1, len(change))
    at_n = np.take_along_axis(change, n[None] - 1, axis=0)[0]
    with np.errstate(all="ignore"):
        exponential = -np.expm1(np.log1p(at_n) / n)
        # A retention of 0 or less has no n-th root that is a rate below 1. Take the
        # mean loss per step; in one step it is the rate itself.
        rates = np.where(at_n > -1.0, exponential, -at_n / n)
    return np.where(np.isfinite(at_n), rates, np.nan)


def reading_of(
    jvp_traces: list[Trace] | None, difference_traces: list[Trace], count: int
) -> Reading:
    """The reading of one leaf from its traces under gradients g and −g.

    Args:
        jvp_traces: of the derivative; None if the optimizer has none. If their rate is
            nan they are ignored.
        difference_traces: of the two runs.
        count: number of weights in the leaf that were measured.
    """
    difference = _estimate(difference_traces, count)
    jvp = difference if jvp_traces is None else _estimate(jvp_traces, count)
    has_jvp = jvp_traces is not None and not np.isnan(jvp.rate)
    best = jvp if has_jvp else difference
    with_g, with_minus_g = difference_traces
    return Reading(
        rate_from_jvp=jvp.rate if has_jvp else np.nan,
        rate_from_difference=difference.rate,
        thresholds=(jvp.threshold, difference.threshold),
        low=best.low,
        high=best.high,
        per_weight=best.per_weight,
        over_time=best.over_time,
        depends_on_gradient=not np.array_equal(with_g.weights, with_minus_g.weights),
    )


class Estimate(NamedTuple):
    """The rates that one of the two probes gives."""

    rate: float
    threshold: float
    low: float
    high: float
    per_weight: np.ndarray
    over_time: np.ndarray


def _estimate(traces: list[Trace], count: int) -> Estimate:
    change = _mean([trace.change for trace in traces])
    rate = float(rates_of(change))
    per_weight = rates_of(_mean([trace.per_weight for trace in traces]))
    finite = per_weight[np.isfinite(per_weight)]
    low, high = np.quantile(finite, [0.05, 0.95]) if len(finite) else (np.nan, np.nan)
    steps = np.concatenate([trace.relative_step for trace in traces])
    steps = steps[np.isfinite(steps)]
    # The mean square of the steps minus that of the decay: what else changes.
    noise_term = max(np.mean(np.square(steps)) - rate**2, 0.0) if len(steps) else 0.0
    magnitudes = [t.magnitude for t in traces if t.magnitude is not None]
    magnitude = max((np.nanmax(m, initial=0.0) for m in magnitudes), default=0.0)
    threshold = detection_threshold(
        spread=float(high - low),
        noise_term=float(noise_term),
        magnitude=float(magnitude),
        count=count,
        steps=len(change),
    )
    over_time = _rate_of_each_step(change)
    return Estimate(rate, threshold, float(low), float(high), per_weight, over_time)


def detection_threshold(
    *, spread: float, noise_term: float, magnitude: float, count: int, steps: int
) -> float:
    """The rate below which a rate counts as zero: the sum of three errors.

    - Regression: three standard errors, from the spread of single weights. 90 % of a
      normal distribution lie within 3.29 standard deviations.
    - Rounding to float32: three standard errors. A derivative rounds whatever changes
      in addition to the decay. A difference rounds the weights of the two runs, and
      more so the further they have moved.
    - Leaves of few weights, which have no reliable spread: a step in proportion to the
      weights, s times their size, leaves about s² after averaging over g and −g. These
      errors add up over the steps.

    Args:
        spread: from the 5 % to the 95 % quantile of the rates of single weights.
        noise_term: mean square of the relative changes per step that are not decay.
        magnitude: largest norm of the weights over the norm of the first difference; 0
            for a derivative.
        count: number of weights in the leaf.
        steps: number of steps.
    """
    regression = 3.0 * (spread / 3.29) / np.sqrt(max(count, 1))
    if magnitude:
        rounding_per_step = EPS * magnitude / np.sqrt(max(count, 1))
    else:
        rounding_per_step = min(np.sqrt(noise_term), EPS)
    rounding = 3.0 * rounding_per_step / np.sqrt(steps)
    few_weights = 2.0 * noise_term * np.sqrt(steps) if count < FEW_WEIGHTS else 0.0
    return float(1e-10 + np.nan_to_num(regression + rounding + few_weights))


def _rate_of_each_step(
    change: Float[np.ndarray, " steps"],
) -> Float[np.ndarray, " steps"]:
    before = np.concatenate([[0.0], change[:-1]])
    with np.errstate(all="ignore"):
        return (before - change) / (1.0 + before)


def _mean(arrays: list[AnyArray]) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.mean(np.stack(arrays), axis=0)
