"""AdamWR's schedule of the decay: cosines that restart, exact at every restart."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from decayax._core.strength import as_strength, is_concrete
from decayax.rates._checks import (
    checked,
    compute,
    FINITE,
    Quantity,
    Rule,
    Schedule,
    STEPS,
)


LAST_STEP = 2**31 - 1  # where Optax's counters stop
REACHED = Rule(lambda x: x <= LAST_STEP, f"<= {LAST_STEP}", "No counter goes further.")
PERIOD = Quantity((*STEPS.rules, REACHED))
# The table of restarts up to LAST_STEP has ln(1 + 2³¹(f − 1))/ln f entries at most:
# 31 for f = 2, 15 thousand for 1.001.
FACTOR = Rule(
    lambda x: (x == 1) | ((x >= 1.001) & (x <= 1000)),
    "1 or from 1.001 to 1000",
    "Write 2.0 to double each period, 1.0 for periods of equal length.",
)


def cosine_restarts_schedule(
    weight_decay: jax.typing.ArrayLike,
    *,
    first_period_steps: int,
    period_factor: float = 2.0,
) -> Schedule:
    r"""Cosines to 0 that restart, each period longer than the last: AdamWR's schedule.

    .. math::
        \lambda_t = \lambda\left(\tfrac12 + \tfrac12\cos(\pi T_{cur}/T_i)\right), \qquad
        T_{i+1} = f\,T_i

    where :math:`T_{cur}` is the number of steps since the last restart.

    Args:
        weight_decay: :math:`\lambda \ge 0`, one number or tracer.
        first_period_steps: :math:`T_0 > 0`, a whole number, known; the paper has 1 % to
            10 % of the run.
        period_factor: :math:`f`, 1 or from 1.001 to 1000, known; the paper has 2.

    Returns:
        A schedule, whole step -> :math:`\lambda_t`; :math:`\lambda` itself at restarts.

    Raises:
        TypeError, ValueError: a value out of its range or no real number.

    Example:
        >>> from decayax import rates
        >>> decay = rates.cosine_restarts_schedule(0.1, first_period_steps=10)
        >>> [round(decay(step), 4) for step in (0, 5, 9, 10, 20, 29, 30)]
        [0.1, 0.05, 0.0024, 0.1, 0.05, 0.0006, 0.1]

    Reference:
        Loshchilov and Hutter, https://arxiv.org/abs/1711.05101, Appendix B.2.
    """
    name = "cosine_restarts_schedule"
    strength = as_strength(f"rates.{name}", "weight_decay", weight_decay)
    first = known(name, "first_period_steps", first_period_steps, PERIOD)
    factor = known(name, "period_factor", period_factor, Quantity((FINITE, FACTOR)))
    starts, lengths = periods(first, factor)
    # The first whole step of each period: starts that are whole come out rounded, by
    # one unit in the last place per period at most.
    rounding = np.finfo(float).eps * starts * np.arange(1, len(starts) + 1)
    opening = np.ceil(starts - rounding).astype(np.int32)
    early = opening - starts  # how far into the period it lies

    def half_cosine(xp, strength, since, early, length):
        # ½ + ½cos πx = cos²(πx/2)
        return strength * xp.cos(0.5 * math.pi * ((since + early) / length)) ** 2

    def at(step: Any) -> Any:
        # Whole steps are compared and subtracted as integers, which do not round.
        xp = jnp if isinstance(step, jax.Array) else np
        step = xp.clip(xp.asarray(step).astype(int), 0, LAST_STEP).astype(np.int32)
        if factor == 1.0:
            period, since = xp.zeros_like(step), step % int(first)
        else:
            table = xp.asarray(opening)
            period = xp.searchsorted(table, step, side="right").astype(np.int32) - 1
            since = step - table[period]
        return compute(
            half_cosine,
            strength=strength,
            since=since,
            early=xp.asarray(early)[period],
            length=xp.asarray(lengths)[period],
        )

    return at


def periods(first: float, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """Starts and lengths of all periods that begin up to the last step, in float64."""
    if factor == 1.0:
        return np.zeros(1), np.array([first])
    count = math.log1p(LAST_STEP * (factor - 1.0) / first) / math.log(factor)
    lengths = first * factor ** np.arange(math.ceil(count) + 1.0)
    starts = np.concatenate([[0.0], np.cumsum(lengths)[:-1]])
    kept = starts <= LAST_STEP
    return starts[kept], lengths[kept]


def known(name: str, argument: str, value: Any, quantity: Quantity) -> float:
    """One number that must be known: a table is made from it."""
    if not is_concrete(value) or np.shape(value) != ():
        raise TypeError(
            f"rates.{name}: {argument} must be one known number, got {value}. Close "
            "over it instead of tracing it."
        )
    return float(checked(name, argument, value, quantity))
