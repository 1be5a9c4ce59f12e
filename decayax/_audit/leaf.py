"""What decay one parameter gets, as plain data."""

import math
from typing import NamedTuple

from decayax.rates._timescales import half_life_steps_from_rate


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
    survives: float | None  # share of the rate that 16 bits keep; None: not known
    answers: bool  # whether the updates depend on the gradients at all

    @property
    def timescale_steps(self) -> float:
        """1/rate; inf without decay, nan for growth."""
        if self.rate == 0.0:
            return math.inf
        return 1.0 / self.rate if self.rate > 0.0 else math.nan

    @property
    def half_life_steps(self) -> float:
        """The steps after which half is left; inf without decay, nan for growth."""
        if self.rate >= 1.0:
            return 0.0
        # Of nothing but a rate in [0, 1) there is a half-life.
        known = self.rate >= 0.0
        return half_life_steps_from_rate(self.rate) if known else math.nan
