r"""How long a weight is remembered: its timescale and its half-life.

A weight without gradient is multiplied by 1 − rate in each step, so that

    timescale = 1/rate,    half-life = ln 2/−ln(1 − rate)
"""

import math

from decayax.rates._checks import convert, Domain, DURATION, RATE, Value


LONGER_THAN_ONE_STEP = Domain(
    lambda x: x > 1, "> 1", "At 1 the rate is 1. Pass a longer time.", schedule=True
)


def timescale_steps_from_rate(rate_per_step: Value) -> Value:
    r"""The time constant of the decay, in steps: about 1/e of a weight is left then.

    .. math:: \tau = 1/\mathrm{rate}

    The timescale in epochs is this number divided by the steps per epoch.

    Args:
        rate_per_step: the rate, in [0, 1). A number, an array or a schedule.

    Returns:
        :math:`\tau > 1` in steps; inf where the rate is 0.

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
        timescale_steps: :math:`\tau > 1` in steps; inf for no decay. A number, an array
            or a schedule. Multiply a timescale in epochs by the steps per epoch.

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
        rate_per_step: the rate, in [0, 1). A number, an array or a schedule.

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
        half_life_steps: :math:`h > 0` in steps; inf for no decay. A number, an array or
            a schedule.

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
