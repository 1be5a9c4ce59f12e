"""What decay one parameter gets, as plain data."""

import math
from typing import NamedTuple

from decayax.rates._timescales import half_life_steps_from_rate


class LeafAudit(NamedTuple):
    """The decay of one parameter (one leaf of the params), measured by ``audit``.

    All rates are per call of ``update``: a rate r multiplies the weights by 1 − r.
    Negative rates are growth.

    Attributes:
        path: the keys from the root to the leaf, joined by "/".
        shape: of the parameter; a sample of it may have been measured.
        dtype: of the parameter, such as "bfloat16".
        role: "kernel", "embedding", "bias", "norm_scale" or "other", as in
            ``masks.by_role``.
        mode: see ``audit``.
        rate: the rate at the middle gradient scale, from the most reliable measurement.
            If ``audit`` got ``at_steps`` or ``horizon``, it is the rate at the step
            where the parameter decays fastest. 0 if the mode is "none"; nan if it is
            "constrained" or "not finite".
        spread: the 5 % and the 95 % quantile of the rates of single weights; nan if
            the leaf has no weights.
        rate_from_jvp: the rate by differentiating every step. nan if the optimizer has
            no derivative, or if the derivative is NaN.
        rate_from_difference: the rate from the difference of two runs. nan if the runs
            overflow.
        by_gradient_scale: pairs (standard deviation of the gradients, rate).
        by_weight_scale: pairs (factor on the size of the weights, rate).
        by_step: pairs (step, mean rate over the 25 steps from this step on), for the
            steps of ``at_steps`` or ``horizon``; empty without them.
        over_time: the rate of every measured step.
        kept: the fraction of the initial weights that is left at the end of a run of
            ``horizon`` steps, without what the gradients add. The rates between the
            steps of ``by_step`` are interpolated. None without a ``horizon``.
        follows_learning_rate: True if half the learning rate gives half the rate, False
            if it gives the same rate. None for anything else: no decay, another ratio,
            or ``audit`` got an optimizer and not a factory.
        surviving_fraction: the fraction of the rate that remains after rounding to the
            dtype, in the measured steps; 1 is all of it. nan if the weights overflow.
            None if the dtype has 32 bits or more, if nothing decays, or if it is not
            known (the finding "rounding not measured").
        depends_on_gradient: whether the updates depend on the gradients at all. False
            for a frozen leaf.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    role: str
    mode: str
    rate: float
    spread: tuple[float, float]
    rate_from_jvp: float
    rate_from_difference: float
    by_gradient_scale: tuple[tuple[float, float], ...]
    by_weight_scale: tuple[tuple[float, float], ...]
    by_step: tuple[tuple[int, float], ...]
    over_time: tuple[float, ...]
    kept: float | None
    follows_learning_rate: bool | None
    surviving_fraction: float | None
    depends_on_gradient: bool

    @property
    def timescale_steps(self) -> float:
        """The timescale 1/rate in steps; inf without decay, nan for growth."""
        if self.rate == 0.0:
            return math.inf
        return 1.0 / self.rate if self.rate > 0.0 else math.nan

    @property
    def half_life_steps(self) -> float:
        """The half-life in steps; inf without decay, 0 from rate 1 on, nan for growth.

        After one half-life, half of a weight is left if its gradients are 0.
        """
        if self.rate >= 1.0:
            return 0.0
        # The conversion refuses growth and nan.
        return half_life_steps_from_rate(self.rate) if self.rate >= 0.0 else math.nan
