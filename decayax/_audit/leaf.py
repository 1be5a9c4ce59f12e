"""What decay one parameter gets, as plain data."""

import math
from collections.abc import Callable
from typing import NamedTuple


class LeafAudit(NamedTuple):
    """What decay one parameter gets."""

    path: str
    shape: tuple[int, ...]
    dtype: str
    role: str
    mode: str  # "none", "uniform", "scale-dependent", "gradient-dependent", "growth"
    rate: float  # per step, at the middle gradient scale
    spread: tuple[float, float]  # of single weights, 5 % and 95 %
    intended: float  # by the derivative; nan where it has none
    realised: float  # by the difference of two runs
    by_gradient_scale: tuple[tuple[float, float], ...]  # (scale, rate)
    by_weight_scale: tuple[tuple[float, float], ...]  # (times the weights' size, rate)
    over_time: tuple[float, ...]  # the rate of every step
    follows_learning_rate: bool | None  # None: not known, or no decay
    survives: float | None  # share of the rate that the dtype keeps; None if 32 bits
    answers: bool  # whether the updates depend on the gradients at all

    @property
    def timescale_steps(self) -> float:
        """1/rate; inf without decay, nan for growth."""
        return _positive(self.rate, lambda rate: 1.0 / rate)

    @property
    def half_life_steps(self) -> float:
        """The steps after which half is left; inf without decay, nan for growth."""
        return _positive(
            self.rate,
            lambda rate: math.log(2.0) / -math.log1p(-rate) if rate < 1.0 else 0.0,
        )


def _positive(rate: float, formula: Callable[[float], float]) -> float:
    if rate == 0.0:
        return math.inf
    return formula(rate) if rate > 0.0 else math.nan
