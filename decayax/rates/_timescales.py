r"""How long a weight is remembered: timescale, half-life, what a run retains of it.

A weight without gradient is multiplied by 1 − rate in each step, so that

    timescale = 1/rate,   half-life = ln 2/−ln(1 − rate),   retained = Π_t (1 − rate_t)
"""

from __future__ import annotations

import math
from typing import Any, overload, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from decayax._core.strength import is_concrete, Scalar, ScalarOrSchedule, Schedule
from decayax.rates._checks import (
    A,
    compute,
    convert,
    Domain,
    DURATION,
    RATE,
    Real,
    require,
    Value,
    WHOLE,
)


# As `Value`, without schedules.
Number = TypeVar("Number", float, np.ndarray, jax.Array, Scalar)
LONGER_THAN_ONE_STEP = Domain(
    lambda x: x > 1, "> 1", "At 1 the rate is 1. Pass a longer time.", schedule=True
)
FRACTION = Domain(
    lambda x: (x > 0) & (x <= 1), "in (0, 1]", "Pass the fraction that is left."
)


def timescale_steps_from_rate(rate_per_step: Value) -> Value:
    r"""The time constant of the decay, in steps: about 1/e of a weight is left then.

    .. math:: \tau = 1/\mathrm{rate}

    Args:
        rate_per_step: the rate, in [0, 1).

    Returns:
        :math:`\tau > 1` in steps, inf where the rate is 0. The timescale in epochs is
        this number divided by the steps per epoch.

    Example:
        >>> from decayax import rates
        >>> print(f"{rates.timescale_steps_from_rate(1e-5):.6g}")
        100000

    Reference:
        Wang and Aitchison, https://arxiv.org/abs/2405.13698, section 2: weights under
        AdamW are an exponential average of updates over :math:`\tau` steps. Keep the
        timescale in epochs as data and model grow.
    """
    return convert(
        "rates.timescale_steps_from_rate",
        lambda xp, rate_per_step: 1.0 / rate_per_step,
        rate_per_step=(rate_per_step, RATE),
    )


def rate_from_timescale_steps(timescale_steps: Value) -> Value:
    r"""The rate with a given timescale.

    .. math:: \mathrm{rate} = 1/\tau

    Args:
        timescale_steps: :math:`\tau > 1` in steps; inf for no decay.

    Returns:
        The fraction of a weight that one step removes, in [0, 1).

    Example:
        >>> from decayax import rates
        >>> rates.rate_from_timescale_steps(200 * 500)  # 200 epochs of 500 steps
        1e-05
    """
    return convert(
        "rates.rate_from_timescale_steps",
        lambda xp, timescale_steps: 1.0 / timescale_steps,
        timescale_steps=(timescale_steps, LONGER_THAN_ONE_STEP),
    )


def half_life_steps_from_rate(rate_per_step: Value) -> Value:
    r"""The steps after which half of a weight without gradient is left.

    .. math:: h = \frac{\ln 2}{-\ln(1-\mathrm{rate})}

    Args:
        rate_per_step: the rate, in [0, 1).

    Returns:
        :math:`h > 0` in steps, not rounded; inf where the rate is 0.

    Example:
        >>> from decayax import rates
        >>> print(f"{rates.half_life_steps_from_rate(1e-5):.1f}")
        69314.4
    """
    return convert(
        "rates.half_life_steps_from_rate",
        lambda xp, rate_per_step: math.log(2.0) / -xp.log1p(-rate_per_step),
        rate_per_step=(rate_per_step, RATE),
    )


def rate_from_half_life_steps(half_life_steps: Value) -> Value:
    r"""The rate with a given half-life.

    .. math:: \mathrm{rate} = 1 - 2^{-1/h}

    Args:
        half_life_steps: :math:`h > 0` in steps; inf for no decay.

    Returns:
        The fraction of a weight that one step removes, in [0, 1).

    Example:
        >>> from decayax import rates
        >>> rates.rate_from_half_life_steps(1)
        0.5
    """
    return convert(
        "rates.rate_from_half_life_steps",
        lambda xp, half_life_steps: -xp.expm1(-math.log(2.0) / half_life_steps),
        result=RATE._replace(hint="Pass a longer half-life."),
        half_life_steps=(half_life_steps, DURATION),
    )


@overload
def retained_fraction(rate_per_step: Real | np.ndarray, *, steps: Real) -> float: ...
@overload
def retained_fraction(
    rate_per_step: ScalarOrSchedule, *, steps: Scalar
) -> float | jax.Array: ...
def retained_fraction(rate_per_step: ScalarOrSchedule, *, steps: Scalar) -> Any:
    r"""The fraction of a weight without gradient that is left after a run.

    .. math:: \frac{\theta_T}{\theta_0} = \prod_{t=0}^{T-1} (1 - \mathrm{rate}_t)

    To choose an lr-scaled weight decay that retains a fraction :math:`r`, take
    :math:`\lambda \approx -\ln r/\sum_t\gamma_t`. It is too large by the factor
    :math:`1 - \tfrac12\ln r\,\sum_t\gamma_t^2/(\sum_t\gamma_t)^2` to first order: by
    0.005 % for :math:`r = 0.5` and a cosine of 10 000 steps.

    Args:
        rate_per_step: the rate, in [0, 1): one number, an array with one number per
            step, or a schedule.
        steps: :math:`T > 0`, whole. It may be traced if the rate is one number.

    Returns:
        The fraction in [0, 1], one number also for a schedule. It is a float,
        calculated in float64, if all rates are concrete, else a JAX scalar.

    Example:
        >>> from decayax import rates
        >>> print(f"{rates.retained_fraction(1e-5, steps=10_000):.6f}")
        0.904837
    """
    name, argument, rate = "rates.retained_fraction", "rate_per_step", rate_per_step
    steps = _to_float64(require(name, "steps", steps, WHOLE))
    if np.shape(steps) != ():
        raise ValueError(
            f"{name}: steps must be one number, got shape {np.shape(steps)}. Call the "
            "function once for each number."
        )
    if callable(rate):
        argument = f"the value of the {argument} schedule"
        rate = all_steps(rate, _count(name, steps))
    rate = _to_float64(require(name, argument, rate, RATE))
    is_constant = np.shape(rate) == ()
    if not is_constant and np.shape(rate) != (_count(name, steps),):
        raise ValueError(
            f"{name}: {argument} must be one number or one per step, got shape "
            f"{np.shape(rate)} for {steps:.0f} steps. For several runs, use jax.vmap."
        )
    return compute(
        lambda xp, rate, repeats: xp.exp(repeats * xp.sum(xp.log1p(-rate))),
        rate=rate,
        repeats=steps if is_constant else 1.0,
    )


def rate_from_retained_fraction(
    retained_fraction: Number, *, steps: Real | A
) -> Number | A:
    r"""The constant rate that retains a fraction of each weight after a run.

    .. math:: \mathrm{rate} = 1 - \mathrm{retained}^{1/T}

    A round trip magnifies the rounding error of 1e-16 by the factor
    :math:`T\,\mathrm{rate}/(1-\mathrm{rate})` or its inverse. The factor is large if
    the rate or the fraction is near 1.

    Args:
        retained_fraction: the fraction left at the end, in (0, 1].
        steps: :math:`T > 0`, a whole number.

    Returns:
        The fraction of a weight that one step removes, in [0, 1).

    Example:
        >>> from decayax import rates
        >>> print(f"{rates.rate_from_retained_fraction(0.904837, steps=10_000):.4g}")
        1e-05
    """
    return convert(
        "rates.rate_from_retained_fraction",
        # 0 - x instead of -x, because -x is -0.0 for a fraction of 1.
        lambda xp, retained_fraction, steps: (
            0.0 - xp.expm1(xp.log(retained_fraction) / steps)
        ),
        result=RATE._replace(hint="Pass a larger fraction."),
        retained_fraction=(retained_fraction, FRACTION),
        steps=(steps, WHOLE),
    )


def _to_float64(value: Any) -> Any:
    """A concrete value as float64 NumPy, also if it is a JAX array."""
    return np.asarray(value, np.float64) if is_concrete(value) else value


def _count(name: str, steps: Any) -> int:
    """The number of steps as an int: the length of an array cannot be traced."""
    if is_concrete(steps):
        return int(steps)
    raise ValueError(
        f"{name}: steps must be concrete if there is a rate per step, got {steps}. "
        "Close over it instead of tracing it."
    )


def all_steps(schedule: Schedule, steps: int) -> Any:
    """A schedule's values at 0 ... steps - 1, in one call if the schedule allows that.

    A schedule that branches on the step is called for each step. One that calculates in
    Python keeps its float64.
    """
    first = schedule(np.int32(0))
    try:
        if isinstance(first, jax.Array):
            return jax.vmap(schedule)(jnp.arange(steps, dtype=jnp.int32))
        at_once = schedule(np.arange(steps, dtype=np.int32))
        if np.shape(at_once) == (steps,):
            return at_once
    except (TypeError, ValueError):
        pass
    values = [schedule(np.int32(step)) for step in range(steps)]
    xp = jnp if any(isinstance(value, jax.Array) for value in values) else np
    return xp.stack([xp.asarray(value) for value in values])
