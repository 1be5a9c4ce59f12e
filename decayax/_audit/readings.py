r"""From traces to rates: what one leaf does under one kind of gradients and weights.

    rate = 1 − retention_n^{1/n}

where retention_n is the fraction of the initial weights that is left after n steps. n
is the number of all steps T, or the first step after which less than a fifth is left.
Later, retention − 1 has lost the digits of the retention.
"""

from typing import NamedTuple, TypeAlias

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


class Estimate(NamedTuple):
    """The rates of one leaf that one of the two probes gives."""

    rate: float
    threshold: float  # a smaller rate counts as zero
    spread: tuple[float, float]  # 5 % and 95 % quantile of the rates of single weights
    per_weight: np.ndarray  # (n,) rates of single weights
    over_time: np.ndarray  # (T,) rate of every step

    @property
    def significant(self) -> bool:
        """Whether the rate differs from zero."""
        return abs(self.rate) > self.threshold


class Reading(NamedTuple):
    """The rate of one leaf under one setting, estimated in two ways."""

    jvp: Estimate | None  # None if there is no derivative, or if it is NaN
    difference: Estimate
    depends_on_gradient: bool

    @property
    def disagrees(self) -> bool:
        """Whether the two estimates differ by more than a third."""
        if self.jvp is None:
            return False
        a, b = self.jvp.rate, self.difference.rate
        return abs(a - b) > max(abs(a) / 3, abs(b) / 3, self.difference.threshold)

    @property
    def best(self) -> Estimate:
        """The more reliable estimate."""
        # The derivative has more digits, unless it misses something.
        return self.difference if self.jvp is None or self.disagrees else self.jvp


Readings: TypeAlias = dict[Setting, Reading]  # of one leaf


def rates_of(change: Float[AnyArray, "signs steps *n"]) -> Float[np.ndarray, "*n"]:
    """The rates per step, from retention − 1 after each step under g and −g."""
    with np.errstate(all="ignore"):
        mean = np.mean(change, axis=0)
        small = mean <= MIN_RETENTION - 1.0
        n = np.where(small.any(0), small.argmax(0) + 1, len(mean))
        at_n = np.take_along_axis(mean, n[None] - 1, axis=0)[0]
        exponential = -np.expm1(np.log1p(at_n) / n)
        # A retention of 0 or less has no n-th root that is a rate below 1. Take the
        # mean loss per step; in one step it is the rate itself.
        rates = np.where(at_n > -1.0, exponential, -at_n / n)
    return np.where(np.isfinite(at_n), rates, np.nan)


def reading_of(jvp: Trace | None, difference: Trace, count: int) -> Reading:
    """The reading of a leaf of ``count`` weights, from its traces under g and −g.

    ``jvp`` is None if the optimizer has no derivative.
    """
    estimate = None if jvp is None else _estimate(jvp, count)
    with_g, with_minus_g = difference.weights
    return Reading(
        jvp=None if estimate is None or np.isnan(estimate.rate) else estimate,
        difference=_estimate(difference, count),
        depends_on_gradient=not np.array_equal(with_g, with_minus_g),
    )


def _estimate(trace: Trace, count: int) -> Estimate:
    rate = float(rates_of(trace.change))
    per_weight = rates_of(trace.per_weight)
    finite = per_weight[np.isfinite(per_weight)]
    low, high = np.quantile(finite, [0.05, 0.95]) if len(finite) else (np.nan, np.nan)
    with np.errstate(all="ignore"):
        change = np.mean(trace.change, axis=0)
        before = np.concatenate([[0.0], change[:-1]])
        over_time = (before - change) / (1.0 + before)
    return Estimate(
        rate=rate,
        threshold=_threshold(trace, rate, high - low, count),
        spread=(float(low), float(high)),
        per_weight=per_weight,
        over_time=over_time,
    )


def _threshold(trace: Trace, rate: float, spread: float, count: int) -> float:
    """The rate below which a rate counts as zero: the sum of three errors.

    - Regression: three standard errors, from the spread of single weights. 90 % of a
      normal distribution lie within 3.29 standard deviations.
    - Rounding to float32: three standard errors. A derivative rounds whatever changes
      in addition to the decay. A difference rounds the weights of the two runs, and
      more so the further they have moved.
    - Leaves of few weights, which have no reliable spread: a step in proportion to the
      weights, s times their size, leaves about s² after averaging over g and −g. These
      errors add up over the steps.
    """
    steps = trace.relative_step[np.isfinite(trace.relative_step)]
    # The mean square of the steps minus that of the decay: what else changes.
    noise_term = max(np.mean(np.square(steps)) - rate**2, 0.0) if len(steps) else 0.0
    root_count, root_steps = np.sqrt(max(count, 1)), np.sqrt(trace.change.shape[-1])
    regression = 3.0 * (spread / 3.29) / root_count
    rounding_per_step = min(np.sqrt(noise_term), EPS)
    if trace.magnitude is not None:  # a difference
        rounding_per_step = EPS * np.nanmax(trace.magnitude, initial=0.0) / root_count
    rounding = 3.0 * rounding_per_step / root_steps
    few_weights = 2.0 * noise_term * root_steps if count < FEW_WEIGHTS else 0.0
    return float(1e-10 + np.nan_to_num(regression + rounding + few_weights))
