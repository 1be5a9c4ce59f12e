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
    """The reading of one leaf of ``count`` weights.

    The traces are those under gradients g and −g. ``jvp_traces`` is None if the
    optimizer has no derivative.
    """
    jvp = None if jvp_traces is None else _estimate(jvp_traces, count)
    with_g, with_minus_g = difference_traces
    return Reading(
        jvp=None if jvp is None or np.isnan(jvp.rate) else jvp,
        difference=_estimate(difference_traces, count),
        depends_on_gradient=not np.array_equal(with_g.weights, with_minus_g.weights),
    )


def _estimate(traces: list[Trace], count: int) -> Estimate:
    change = mean([trace.change for trace in traces])
    rate = float(rates_of(change))
    per_weight = rates_of(mean([trace.per_weight for trace in traces]))
    finite = per_weight[np.isfinite(per_weight)]
    low, high = np.quantile(finite, [0.05, 0.95]) if len(finite) else (np.nan, np.nan)
    before = np.concatenate([[0.0], change[:-1]])
    with np.errstate(all="ignore"):
        over_time = (before - change) / (1.0 + before)
    return Estimate(
        rate=rate,
        threshold=_threshold(traces, rate, high - low, count),
        spread=(float(low), float(high)),
        per_weight=per_weight,
        over_time=over_time,
    )


def _threshold(traces: list[Trace], rate: float, spread: float, count: int) -> float:
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
    steps = np.concatenate([trace.relative_step for trace in traces])
    steps = steps[np.isfinite(steps)]
    # The mean square of the steps minus that of the decay: what else changes.
    noise_term = max(np.mean(np.square(steps)) - rate**2, 0.0) if len(steps) else 0.0
    magnitudes = [t.magnitude for t in traces if t.magnitude is not None]
    magnitude = max((np.nanmax(m, initial=0.0) for m in magnitudes), default=0.0)
    root_count, root_steps = np.sqrt(max(count, 1)), np.sqrt(len(traces[0].change))
    regression = 3.0 * (spread / 3.29) / root_count
    rounding_per_step = min(np.sqrt(noise_term), EPS)
    if magnitude > 0.0:  # a difference
        rounding_per_step = EPS * magnitude / root_count
    rounding = 3.0 * rounding_per_step / root_steps
    few_weights = 2.0 * noise_term * root_steps if count < FEW_WEIGHTS else 0.0
    return float(1e-10 + np.nan_to_num(regression + rounding + few_weights))


def mean(arrays: list[AnyArray]) -> np.ndarray:
    """The elementwise mean of several arrays."""
    with np.errstate(all="ignore"):
        return np.mean(np.stack(arrays), axis=0)
