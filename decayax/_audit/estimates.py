r"""From a trace to rates.

    rate = 1 − retention_n^{1/n}

where retention_n is the fraction of the initial weights that is left after n steps. n
is the number of all steps T, or the first step after which less than a fifth is left.
Later, retention − 1 has lost the digits of the retention.

A pull of constant size, such as L1, has no derivative. It shows in the weights
themselves: the mean of the runs with g and with −g moves towards 0.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from decayax._audit.trace import AnyArray, Trace


MIN_RETENTION = 0.2  # the rate is read at the first step with a smaller retention
FEW_WEIGHTS = 16  # a smaller leaf has too few weights for a spread
EPS = float(np.finfo(np.float32).eps)
# An optimizer that restores a norm may round to the same side in every step.
ONE_SIDED = 4.0
# A mean displacement that makes a larger angle with the weights is not a pull to 0.
MIN_COSINE = 0.5


class Subject(NamedTuple):
    """What is known of a leaf before it is measured."""

    count: int  # of weights
    exact: bool  # the derivative of a weight by another weight is 0
    real: bool  # and not complex
    start: Float[np.ndarray, " n"]  # the sampled weights at (1 + h)θ₀


class Estimate(NamedTuple):
    """The rates of one leaf that one way to measure gives."""

    rate: float
    threshold: float  # a smaller rate counts as zero
    spread: tuple[float, float]  # 5 % and 95 % quantile of the rates of single weights
    per_weight: np.ndarray  # (n,) rates of single weights
    per_weight_error: np.ndarray  # (n,) their error, from their variation over time
    over_time: np.ndarray  # (T,) rate of every step
    dispersion: float  # standard deviation of the rates of all weights

    @property
    def significant(self) -> bool:
        """Whether the rate differs from zero."""
        return abs(self.rate) > self.threshold


def is_finite(trace: Trace) -> bool:
    """Whether the weights are finite after every step, under g and −g."""
    # The relative size of a leaf without weights is 0/0.
    return not trace.weights.size or bool(np.isfinite(trace.size).all())


def steps_with_rate(trace: Trace) -> int:
    """In how many steps, from the first on, enough is left to read a rate."""
    left = np.mean(trace.change, 0) > MIN_RETENTION - 1.0
    return len(left) if left.all() else int(np.argmin(left))


def rates_of(change: Float[AnyArray, "signs steps *n"]) -> Float[np.ndarray, "*n"]:
    """The rates per step, from retention − 1 after each step under g and −g."""
    mean = np.mean(change, axis=0)
    small = mean <= MIN_RETENTION - 1.0
    n = np.where(small.any(0), small.argmax(0) + 1, len(mean))
    at_n = np.take_along_axis(mean, n[None] - 1, axis=0)[0]
    exponential = -np.expm1(np.log1p(at_n) / n)
    # A retention of 0 or less has no n-th root that is a rate below 1. Take the
    # mean loss per step; in one step it is the rate itself.
    rates = np.where(at_n > -1.0, exponential, -at_n / n)
    return np.where(np.isfinite(at_n), rates, np.nan)


def steps_of(change: Float[AnyArray, "*signs steps n"]) -> Float[np.ndarray, "..."]:
    """The rate of every step; NaN where too little is left to read it."""
    before = np.concatenate(
        [np.zeros_like(change[..., :1, :]), change[..., :-1, :]], -2
    )
    rates = (before - change) / (1.0 + before)
    return np.where(np.abs(1.0 + before) > MIN_RETENTION / 2, rates, np.nan)


def estimate_of(trace: Trace, subject: Subject) -> Estimate:
    """The rates that a derivative or a difference gives."""
    rate = float(rates_of(trace.change))
    per_weight = rates_of(trace.per_weight)
    finite = per_weight[np.isfinite(per_weight)]
    low, high = np.quantile(finite, [0.05, 0.95]) if len(finite) else (np.nan, np.nan)
    change = np.mean(trace.change, axis=0)
    before = np.concatenate([[0.0], change[:-1]])
    over_time = (before - change) / (1.0 + before)
    # The variance of the weights' changes, weighted by their squares.
    last = np.argmax(change <= MIN_RETENTION - 1.0) - 1
    variance = np.mean(trace.change_norm, 0)[last] ** 2 - change[last] ** 2
    relative = np.sqrt(np.maximum(variance, 0.0)) / np.abs(change[last])
    errors = _errors_over_time(trace)
    return Estimate(
        rate=rate,
        threshold=_threshold(trace, rate, high - low, errors, subject),
        spread=(float(low), float(high)),
        per_weight=per_weight,
        per_weight_error=errors,
        over_time=over_time,
        dispersion=float(relative * abs(rate)),
    )


def _errors_over_time(trace: Trace) -> Float[np.ndarray, " n"]:
    """The standard error of each weight's rate, from what changes it by chance.

    What all weights have in common, such as a schedule, is not chance. Momentum makes
    about ten steps alike, so that ten steps count as one.
    """
    # Where too little is left to read a rate, there is no error either.
    steps = np.nan_to_num(steps_of(trace.per_weight))
    count = steps.shape[-1]
    if count >= FEW_WEIGHTS:
        chance = steps.mean(0) - np.median(steps, axis=(0, 2))[:, None]
    else:
        chance = (steps[0] - steps[1]) / 2.0
    return chance.std(0) * np.sqrt(10.0 / len(chance))


def _threshold(
    trace: Trace, rate: float, spread: float, errors: np.ndarray, subject: Subject
) -> float:
    """The rate below which a rate counts as zero: the sum of four errors.

    - Regression: three standard errors of the mean over the weights. An exact
      derivative only varies over time. In a difference, single weights vary by chance;
      90 % of a normal distribution lie within 3.29 standard deviations.
    - Rounding to float32: three standard errors. A derivative rounds whatever changes
      in addition to the decay. A difference rounds the weights of the two runs, and
      more so the further they have moved.
    - A step in proportion to the weights, s times their size with a random sign, leaves
      about s²/2 after averaging over g and −g. So s shows in their difference.
    - If all weights have the same s, leaves of few weights have no reliable mean.
    """
    steps = trace.relative_step[np.isfinite(trace.relative_step)]
    # The mean square of the steps minus that of the decay: what else changes.
    noise_term = max(np.mean(np.square(steps)) - rate**2, 0.0) if len(steps) else 0.0
    count = max(subject.count, 1)
    root_count, root_steps = np.sqrt(count), np.sqrt(trace.change.shape[-1])
    is_difference = trace.size is not None
    if subject.exact:
        regression = 3.0 * _mean(errors) / root_count
        odd = (trace.per_weight[0, -1] - trace.per_weight[1, -1]) / 2.0
    else:
        # What a derivative does across the weights may be along them by chance.
        squares = np.square(subject.start) / max(_mean(subject.start**2), 1e-300)
        across = squares * np.square(rates_of(trace.per_weight) - rate)
        regression = 3.0 * np.sqrt(_mean(np.nan_to_num(across))) / root_count
        if is_difference:
            regression = 3.0 * (spread / 3.29) / root_count
        odd = (trace.change[0, -1] - trace.change[1, -1]) / 2.0
    proportional = 2.0 * _mean(odd**2) / root_steps**2
    if not subject.exact and count < FEW_WEIGHTS:
        by_step = np.diff(trace.change, prepend=0.0, axis=1)
        odd_steps = np.mean(np.square(by_step[0] - by_step[1])) / 4.0
        proportional += 2.0 * odd_steps * root_steps
    rounding_per_step = min(np.sqrt(noise_term), EPS)
    if is_difference:  # relative to 2h of the weights
        magnitude = np.nanmax(trace.size, initial=0.0) * 5.5
        rounding_per_step = EPS * magnitude / root_count
    rounding = 3.0 * rounding_per_step / root_steps
    return float(1e-10 + np.nan_to_num(regression + rounding + proportional))


def value_of(trace: Trace, subject: Subject) -> Estimate | None:
    """The pull to 0 that the mean displacement of the weights shows."""
    start, steps = subject.start, trace.weights.shape[1]
    displacement = np.mean(trace.weights, 0) - start
    norms = np.linalg.norm(displacement[-1]) * np.linalg.norm(start)
    along = displacement @ start / max(start @ start, 1e-300)
    cosine = displacement[-1] @ start / norms if norms > 0.0 else 0.0
    rate = float(rates_of(along[None]))
    # The mean of the runs is exact to the rounding of the weights.
    magnitude = max(1.0, float(np.nanmax(trace.size, initial=0.0)))
    rounding = 30.0 * EPS * magnitude / np.sqrt(steps * max(len(start), 1))
    rounding += ONE_SIDED * EPS
    visible = abs(cosine) > MIN_COSINE and abs(rate) > rounding
    if not (subject.real and visible):
        return None
    per_weight = -displacement[-1] / start / steps
    before = np.concatenate([[0.0], along[:-1]])
    low, high = np.nanquantile(per_weight, [0.05, 0.95])
    return Estimate(
        rate=rate,
        threshold=rounding,
        spread=(float(low), float(high)),
        per_weight=per_weight,
        per_weight_error=np.zeros_like(per_weight),
        over_time=(before - along) / (1.0 + before),
        dispersion=float(np.nanstd(per_weight)),
    )


def _mean(x: AnyArray) -> float:
    return float(np.mean(x)) if np.size(x) else 0.0
