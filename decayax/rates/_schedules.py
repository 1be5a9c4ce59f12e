"""Decay schedules: step -> value, for ``weight_decay=`` wherever decayax takes one.

Any Optax schedule does as well. These start from their λ, which may be traced, and are
exact where a period ends. At a known step they give a Python float in float64.
"""

import math
from collections.abc import Callable
from typing import Any

import jax

from decayax._core.strength import as_strength, ScalarOrSchedule
from decayax.rates._checks import (
    checked,
    compute,
    convert,
    ONE_AMOUNT,
    RESULT,
    Schedule,
    schedule_multiplier,
    STRENGTH,
)


def constant_schedule(weight_decay: jax.typing.ArrayLike) -> Schedule:
    r"""The same weight decay at every step.

    .. math:: \lambda_t = \lambda

    Args:
        weight_decay: :math:`\lambda \ge 0`, one number or tracer.

    Returns:
        A schedule, step -> :math:`\lambda_t`.

    Raises:
        TypeError, ValueError: a weight decay out of its range or no real number.

    Example:
        >>> from decayax import rates
        >>> rates.constant_schedule(0.1)(1000)
        0.1

    Reference:
        ``optax.constant_schedule``, checked.
    """
    strength = as_strength("rates.constant_schedule", "weight_decay", weight_decay)
    return lambda step: strength


def proportional_schedule(
    weight_decay: ScalarOrSchedule,
    *,
    learning_rate: ScalarOrSchedule,
    peak_learning_rate: jax.typing.ArrayLike,
) -> Schedule:
    r"""A weight decay that follows the learning rate: the schedule of the AdamW paper.

    .. math:: \lambda_t = \lambda\,\eta_t, \qquad \eta_t = \gamma_t/\alpha

    With ``dx.independent_decay`` it is the paper's Algorithm 2. With
    ``dx.decoupled_decay`` the rate is :math:`\gamma_t^2\lambda/\alpha`, AdamC's.

    Args:
        weight_decay: :math:`\lambda \ge 0`, a number, tracer or schedule.
        learning_rate: :math:`\gamma_t \ge 0`, the optimizer's; a number or schedule.
        peak_learning_rate: :math:`\alpha > 0`, the largest learning rate.

    Returns:
        A schedule, step -> :math:`\lambda_t`.

    Raises:
        TypeError, ValueError: a value out of its range or no real number; a learning
            rate above its peak.

    Example:
        >>> import optax, decayax as dx
        >>> from decayax import rates
        >>> cosine = optax.cosine_decay_schedule(1e-3, 100)
        >>> decay = rates.proportional_schedule(
        ...     1e-4, learning_rate=cosine, peak_learning_rate=1e-3
        ... )
        >>> paper = optax.chain(optax.adam(cosine), dx.independent_decay(decay))
        >>> print(f"{decay(0):.6f} {decay(50):.6f} {decay(100):.6f}")
        0.000100 0.000050 0.000000

    Reference:
        Loshchilov and Hutter, https://arxiv.org/abs/1711.05101, Algorithm 2, line 12.
    """
    name = "proportional_schedule"
    followed = convert(
        name,
        lambda xp, weight_decay, learning_rate, peak_learning_rate: (
            weight_decay
            * schedule_multiplier(name, xp, learning_rate, peak_learning_rate)
        ),
        RESULT,
        weight_decay=(weight_decay, STRENGTH),
        learning_rate=(learning_rate, STRENGTH),
        peak_learning_rate=(peak_learning_rate, ONE_AMOUNT),
    )
    return followed if callable(followed) else lambda step: followed


def warmup_schedule(
    weight_decay: jax.typing.ArrayLike, *, warmup_steps: jax.typing.ArrayLike
) -> Schedule:
    r"""From 0 in a straight line to the full weight decay, then constant.

    .. math:: \lambda_t = \lambda\min(t/W, 1)

    Args:
        weight_decay: :math:`\lambda \ge 0`, one number or tracer.
        warmup_steps: :math:`W > 0`; the full strength is reached at step W.

    Returns:
        A schedule, step -> :math:`\lambda_t`; step 0 does not decay.

    Raises:
        TypeError, ValueError: a value out of its range or no real number.

    Example:
        >>> from decayax import rates
        >>> decay = rates.warmup_schedule(0.1, warmup_steps=10)
        >>> decay(0), decay(5), decay(10), decay(1000)
        (0.0, 0.05, 0.1, 0.1)

    Reference:
        The usual linear warm-up of the learning rate (Goyal et al.,
        https://arxiv.org/abs/1706.02677, section 2.2), for the decay.
    """

    def line(xp, step, length):
        return step / length

    return _until("warmup_schedule", weight_decay, line, warmup_steps=warmup_steps)


def linear_to_zero_schedule(
    weight_decay: jax.typing.ArrayLike, *, steps: jax.typing.ArrayLike
) -> Schedule:
    r"""From the full weight decay in a straight line to 0.

    .. math:: \lambda_t = \lambda\,\max(1 - t/T,\; 0)

    Args:
        weight_decay: :math:`\lambda \ge 0`, one number or tracer.
        steps: :math:`T > 0`; at step T and after it the decay is 0.

    Returns:
        A schedule, step -> :math:`\lambda_t`.

    Raises:
        TypeError, ValueError: a value out of its range or no real number.

    Example:
        >>> from decayax import rates
        >>> decay = rates.linear_to_zero_schedule(0.1, steps=10)
        >>> decay(0), decay(5), decay(10)
        (0.1, 0.05, 0.0)

    Reference:
        ``optax.linear_schedule(weight_decay, 0.0, steps)``, exact at its end.
    """

    def line(xp, step, length):
        return (length - step) / length

    return _until("linear_to_zero_schedule", weight_decay, line, steps=steps)


def cosine_to_zero_schedule(
    weight_decay: jax.typing.ArrayLike, *, steps: jax.typing.ArrayLike
) -> Schedule:
    r"""From the full weight decay along half a cosine to 0.

    .. math:: \lambda_t = \lambda\left(\tfrac12 + \tfrac12\cos(\pi\min(t/T, 1))\right)

    Args:
        weight_decay: :math:`\lambda \ge 0`, one number or tracer.
        steps: :math:`T > 0`; at step T and after it the decay is 0.

    Returns:
        A schedule, step -> :math:`\lambda_t`.

    Raises:
        TypeError, ValueError: a value out of its range or no real number.

    Example:
        >>> from decayax import rates
        >>> decay = rates.cosine_to_zero_schedule(0.1, steps=100)
        >>> print(f"{decay(0):.3f} {decay(25):.3f} {decay(50):.3f} {decay(100):.3f}")
        0.100 0.085 0.050 0.000

    Reference:
        Loshchilov and Hutter, https://arxiv.org/abs/1711.05101, Appendix B.2, with one
        period.
    """

    def half_cosine(xp, step, length):
        # ½ + ½cos πx = sin²(π(1 − x)/2), which is 0 at the end and nowhere below it.
        return xp.sin(0.5 * math.pi * ((length - step) / length)) ** 2

    return _until("cosine_to_zero_schedule", weight_decay, half_cosine, steps=steps)


def _until(
    name: str, weight_decay: Any, shape: Callable[..., Any], **last: Any
) -> Schedule:
    """The schedule λ · ``shape(xp, t, T)``, which from step T on stays as it is there.

    ``last`` is T under the name of its argument; this and λ are checked here.
    """
    strength = as_strength(f"rates.{name}", "weight_decay", weight_decay)
    [(argument, steps)] = last.items()
    length = checked(name, argument, steps, ONE_AMOUNT)

    def formula(xp, strength, length, step):
        return strength * shape(xp, xp.minimum(step, length), length)

    return lambda step: compute(formula, strength=strength, length=length, step=step)
