r"""How long a weight is remembered: its timescale and its half-life.

A weight without gradient is multiplied by 1 − rate in each step, so that

    timescale = 1/rate,    half-life = ln 2/−ln(1 − rate)
"""

import math

import jax

from decayax._core.strength import ScalarOrSchedule
from decayax.rates._checks import (
    AMOUNT,
    convert,
    Converted,
    DURATION,
    RATE,
    RATE_OF_TIME,
    RESULT,
    TIMESCALE,
)


def timescale_steps_from_rate(rate_per_step: ScalarOrSchedule) -> Converted:
    r"""The steps over which a weight forgets: the time constant of its average.

    .. math:: \tau = 1/\mathrm{rate}

    Args:
        rate_per_step: the share of a weight lost per step, in [0, 1). A number, an
            array or a schedule.

    Returns:
        :math:`\tau > 1` in steps; inf where the rate is 0.

    Raises:
        TypeError, ValueError: a rate out of its range or no real number.

    Example:
        >>> from decayax import rates
        >>> print(f"{rates.timescale_steps_from_rate(1e-5):.6g}")
        100000

    Reference:
        Wang and Aitchison, https://arxiv.org/abs/2405.13698, section 2: weights under
        AdamW are an exponential average of updates over :math:`\tau` steps.
    """
    return convert(
        "timescale_steps_from_rate",
        lambda xp, rate_per_step: 1.0 / rate_per_step,
        RESULT,
        rate_per_step=(rate_per_step, RATE),
    )


def rate_from_timescale_steps(timescale_steps: ScalarOrSchedule) -> Converted:
    r"""The rate with a given timescale.

    .. math:: \mathrm{rate} = 1/\tau

    Args:
        timescale_steps: :math:`\tau > 1` in steps; inf for no decay. A number, an
            array or a schedule.

    Returns:
        The share of a weight lost per step, in [0, 1).

    Raises:
        TypeError, ValueError: a timescale out of its range or no real number.

    Example:
        >>> from decayax import rates
        >>> rates.rate_from_timescale_steps(100_000)
        1e-05

    Reference:
        Wang and Aitchison, https://arxiv.org/abs/2405.13698, section 2.
    """
    return convert(
        "rate_from_timescale_steps",
        lambda xp, timescale_steps: 1.0 / timescale_steps,
        RATE_OF_TIME,
        timescale_steps=(timescale_steps, TIMESCALE),
    )


def timescale_epochs_from_rate(
    rate_per_step: ScalarOrSchedule, *, steps_per_epoch: jax.typing.ArrayLike
) -> Converted:
    r"""The epochs over which a weight forgets, which carries over between batch sizes.

    .. math:: \tau_{\text{epochs}} = \frac{1}{\mathrm{rate}\cdot\text{steps per epoch}}

    Args:
        rate_per_step: the share of a weight lost per step, in [0, 1). A number, an
            array or a schedule.
        steps_per_epoch: > 0, samples over batch size.

    Returns:
        The timescale in epochs; inf where the rate is 0.

    Raises:
        TypeError, ValueError: a value out of its range or no real number.

    Example:
        >>> from decayax import rates
        >>> print(f"{rates.timescale_epochs_from_rate(1e-5, steps_per_epoch=500):.6g}")
        200

    Reference:
        Wang and Aitchison, https://arxiv.org/abs/2405.13698: the timescale in epochs is
        what to keep as data and model grow.
    """
    return convert(
        "timescale_epochs_from_rate",
        lambda xp, rate_per_step, steps_per_epoch: (
            1.0 / rate_per_step / steps_per_epoch
        ),
        RESULT,
        rate_per_step=(rate_per_step, RATE),
        steps_per_epoch=(steps_per_epoch, AMOUNT),
    )


def rate_from_timescale_epochs(
    timescale_epochs: ScalarOrSchedule, *, steps_per_epoch: jax.typing.ArrayLike
) -> Converted:
    r"""The rate with a given timescale in epochs.

    .. math:: \mathrm{rate} = \frac{1}{\tau_{\text{epochs}}\cdot\text{steps per epoch}}

    Args:
        timescale_epochs: > 0, and longer than one step; inf for no decay. A number, an
            array or a schedule.
        steps_per_epoch: > 0, samples over batch size.

    Returns:
        The share of a weight lost per step, in [0, 1).

    Raises:
        TypeError, ValueError: a value out of its range or no real number; a rate >= 1.

    Example:
        >>> from decayax import rates
        >>> rates.rate_from_timescale_epochs(200, steps_per_epoch=500)
        1e-05

    Reference:
        Wang and Aitchison, https://arxiv.org/abs/2405.13698.
    """
    return convert(
        "rate_from_timescale_epochs",
        lambda xp, timescale_epochs, steps_per_epoch: (
            1.0 / timescale_epochs / steps_per_epoch
        ),
        RATE_OF_TIME,
        timescale_epochs=(timescale_epochs, DURATION),
        steps_per_epoch=(steps_per_epoch, AMOUNT),
    )


def half_life_steps_from_rate(rate_per_step: ScalarOrSchedule) -> Converted:
    r"""The steps after which half of a weight without gradient is left.

    .. math:: h = \frac{\ln 2}{-\ln(1-\mathrm{rate})}

    Args:
        rate_per_step: the share of a weight lost per step, in [0, 1). A number, an
            array or a schedule.

    Returns:
        :math:`h > 0` in steps, not rounded; inf where the rate is 0.

    Raises:
        TypeError, ValueError: a rate out of its range or no real number.

    Example:
        >>> from decayax import rates
        >>> print(f"{rates.half_life_steps_from_rate(1e-5):.1f}")
        69314.4

    Reference:
        Exact for steps: :math:`(1-\mathrm{rate})^h = \tfrac12`.
    """
    return convert(
        "half_life_steps_from_rate",
        lambda xp, rate_per_step: math.log(2.0) / -xp.log1p(-rate_per_step),
        RESULT,
        rate_per_step=(rate_per_step, RATE),
    )


def rate_from_half_life_steps(half_life_steps: ScalarOrSchedule) -> Converted:
    r"""The rate with a given half-life.

    .. math:: \mathrm{rate} = 1 - 2^{-1/h}

    Args:
        half_life_steps: :math:`h > 0` in steps; inf for no decay. A number, an array or
            a schedule.

    Returns:
        The share of a weight lost per step, in [0, 1).

    Raises:
        TypeError, ValueError: a half-life out of its range or no real number.

    Example:
        >>> from decayax import rates
        >>> rates.rate_from_half_life_steps(1)
        0.5

    Reference:
        The inverse of :func:`half_life_steps_from_rate`.
    """
    return convert(
        "rate_from_half_life_steps",
        lambda xp, half_life_steps: -xp.expm1(-math.log(2.0) / half_life_steps),
        RATE_OF_TIME,
        half_life_steps=(half_life_steps, DURATION),
    )
