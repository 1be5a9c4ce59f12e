r"""From traces to rates: what one leaf does under one kind of gradients.

rate = 1 − kept_n^{1/n}, where n is T or, if that comes first, the step at which less
than a fifth is left: 1 − kept would lose the digits of what remains.
"""

from typing import NamedTuple

import numpy as np

from decayax._audit.probe import Trace


LEFT = 0.2
FEW = 16  # weights
EPS = float(np.finfo(np.float32).eps)


class Setting(NamedTuple):
    """The kind of gradients and weights that a leaf was followed under."""

    seed: int
    gradient_scale: float
    weight_scale: float  # times the leaf's own size

    @property
    def is_plain(self) -> bool:
        """Whether the weights have their own size."""
        return self.weight_scale == 1.0


class Reading(NamedTuple):
    """The rate of one leaf under one setting."""

    intended: float  # by the derivative; nan where it has none
    realised: float  # by the difference
    noises: tuple[float, float]  # of the two: a rate below it is none
    low: float  # of single weights, 5 % ...
    high: float  # ... and 95 %
    each: np.ndarray  # (n,) the rates of single weights
    over_time: np.ndarray  # (T,)
    moved: bool  # whether the leaf answered to the gradients

    @property
    def jumps(self) -> bool:
        """Whether derivative and difference disagree by more than a third."""
        gap = abs(self.intended - self.realised)
        largest = max(abs(self.intended), abs(self.realised))
        return bool(gap > max(largest / 3, self.noises[1]))

    @property
    def blind(self) -> bool:
        """Whether the derivative cannot be believed, which has more digits."""
        return bool(np.isnan(self.intended)) or self.jumps

    @property
    def rate(self) -> float:
        """The rate to believe."""
        return self.realised if self.blind else self.intended

    @property
    def noise(self) -> float:
        """A rate below this is none."""
        return self.noises[int(self.blind)]

    @property
    def significant(self) -> bool:
        """Whether there is a rate at all."""
        return abs(self.rate) > self.noise


def rates_of(lost: np.ndarray) -> np.ndarray:
    """The rates per step, from kept − 1 after each step: (T, ...) -> (...)."""
    few = ~(lost > LEFT - 1.0)
    n = np.where(few.any(0), few.argmax(0) + 1, len(lost))
    at_end = np.take_along_axis(lost, n[None] - 1, axis=0)[0]
    with np.errstate(all="ignore"):
        exponential = -np.expm1(np.log1p(at_end) / n)
        # Through 0 in one step: a rate of 1 or more. In several: no exponential decay.
        rates = np.where(at_end > -1.0, exponential, -at_end / n)
    return np.where(np.isfinite(at_end), rates, np.nan)


def read(
    derivative: list[Trace] | None, difference: list[Trace], count: int
) -> Reading:
    """The reading of one leaf from its traces under gradients g and under −g.

    Without a derivative, or where it is nan, the difference says all. ``count`` weights
    were followed in all.
    """
    realised = _measured(difference, count)
    intended = realised if derivative is None else _measured(derivative, count)
    known = derivative is not None and not np.isnan(intended.rate)
    best = intended if known else realised
    return Reading(
        intended=intended.rate if known else np.nan,
        realised=realised.rate,
        noises=(intended.noise, realised.noise),
        low=best.low,
        high=best.high,
        each=best.each,
        over_time=best.over_time,
        moved=not np.array_equal(difference[0].weights, difference[1].weights),
    )


class Measured(NamedTuple):
    """What one of the two probes says."""

    rate: float
    noise: float
    low: float
    high: float
    each: np.ndarray
    over_time: np.ndarray


def _measured(traces: list[Trace], count: int) -> Measured:
    lost = _mean([trace.lost for trace in traces])
    each = _mean([trace.each for trace in traces])
    rate, rates = float(rates_of(lost)), rates_of(each)
    finite = rates[np.isfinite(rates)]
    low, high = np.quantile(finite, [0.05, 0.95]) if len(finite) else (np.nan, np.nan)
    size = np.concatenate([trace.size for trace in traces])
    size = size[np.isfinite(size)]
    beside = max(np.mean(np.square(size)) - rate**2, 0.0) if len(size) else 0.0
    coarse = max(
        (np.nanmax(t.coarse, initial=0.0) for t in traces if t.coarse is not None),
        default=0.0,
    )
    return Measured(
        rate=rate,
        noise=noise_of(
            float(high - low), float(beside), float(coarse), count, len(lost)
        ),
        low=float(low),
        high=float(high),
        each=rates,
        over_time=_over_time(lost),
    )


def noise_of(
    spread: float, beside: float, coarse: float, count: int, steps: int
) -> float:
    """What a rate must exceed to be one.

    Three standard errors of the regression, from the spread of single weights (90 % of
    a normal distribution lie within 3.29 standard deviations); and of the rounding of
    float32: of a derivative in what changes with the weights beside the decay, of a
    difference in the weights of the two runs, the more the further they went.

    A leaf of few weights has no spread to speak of. There steps in proportion to the
    weights' size, s times as large, leave some s² behind when those of g and −g are
    averaged, and these add up over the steps.

    Args:
        spread: from 5 % to 95 % of the rates of single weights.
        beside: mean square of the changes per step beside the decay.
        coarse: largest size of the weights over that of the first difference; 0 of a
            derivative.
        count: weights in the leaf.
        steps: followed.
    """
    regression = 3.0 * (spread / 3.29) / np.sqrt(max(count, 1))
    of_two = EPS * coarse / np.sqrt(max(count, 1))
    rounding = 3.0 * (of_two or min(np.sqrt(beside), EPS)) / np.sqrt(steps)
    mirrored = 2.0 * beside * np.sqrt(steps) if count < FEW else 0.0
    return float(1e-10 + np.nan_to_num(regression + rounding + mirrored))


def _over_time(lost: np.ndarray) -> np.ndarray:
    before = np.concatenate([[0.0], lost[:-1]])
    with np.errstate(all="ignore"):
        return (before - lost) / (1.0 + before)


def _mean(arrays: list[np.ndarray]) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.mean(np.stack(arrays), axis=0)
