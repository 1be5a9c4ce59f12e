"""Conventions of weight decay: rate_t = γ_t λ (lr-scaled) or (γ_t/α) λ (independent).

γ_t is the learning rate and α its peak, so λ_independent = α λ_lr-scaled.
"""

# pyright: reportOverlappingOverload=false
# Two numbers fit two overloads; the first of them, which gives float, is used.

from __future__ import annotations

from typing import Any, overload, TypeVar

import jax
import numpy as np

from decayax._core.strength import Scalar, ScalarOrSchedule, Schedule
from decayax.rates._checks import (
    A,
    as_schedule,
    convert,
    NONNEGATIVE,
    POSITIVE,
    RATE,
    Real,
    Value,
)


# The type of both arguments, or of one of them if the other one is a number.
Same = TypeVar("Same", np.ndarray, jax.Array, Schedule)


@overload
def rate_from_lr_scaled(weight_decay: Real, *, learning_rate: Real) -> float: ...
@overload
def rate_from_lr_scaled(
    weight_decay: Same | Real, *, learning_rate: Same | Real
) -> Same: ...
@overload
def rate_from_lr_scaled(
    weight_decay: ScalarOrSchedule, *, learning_rate: Schedule
) -> Schedule: ...
@overload
def rate_from_lr_scaled(
    weight_decay: ScalarOrSchedule, *, learning_rate: ScalarOrSchedule
) -> ScalarOrSchedule: ...
def rate_from_lr_scaled(weight_decay: Any, *, learning_rate: Any) -> Any:
    r"""The rate of a decay that is multiplied by the learning rate.

    .. math:: \mathrm{rate}_t = \gamma_t\lambda

    Args:
        weight_decay: :math:`\lambda \ge 0` of ``optax.adamw``, ``dx.decoupled_decay``.
        learning_rate: :math:`\gamma_t \ge 0`.

    Returns:
        The fraction of a weight that one step removes, in [0, 1).

    Example:
        >>> from decayax import rates
        >>> rates.rate_from_lr_scaled(0.01, learning_rate=1e-3)
        1e-05

    Reference:
        Loshchilov and Hutter, https://arxiv.org/abs/1711.05101, Algorithm 2, line 12,
        with :math:`\gamma_t` in place of :math:`\eta_t`, as torch and optax do.
    """
    return convert(
        "rates.rate_from_lr_scaled",
        lambda xp, weight_decay, learning_rate: weight_decay * learning_rate,
        result=RATE._replace(
            hint="Pass a smaller weight decay, or check its convention."
        ),
        weight_decay=(weight_decay, NONNEGATIVE),
        learning_rate=(learning_rate, NONNEGATIVE),
    )


@overload
def lr_scaled_from_rate(rate_per_step: Real, *, learning_rate: Real) -> float: ...
@overload
def lr_scaled_from_rate(
    rate_per_step: Same | Real, *, learning_rate: Same | Real
) -> Same: ...
@overload
def lr_scaled_from_rate(
    rate_per_step: ScalarOrSchedule, *, learning_rate: Schedule
) -> Schedule: ...
@overload
def lr_scaled_from_rate(
    rate_per_step: ScalarOrSchedule, *, learning_rate: ScalarOrSchedule
) -> ScalarOrSchedule: ...
def lr_scaled_from_rate(rate_per_step: Any, *, learning_rate: Any) -> Any:
    r"""The weight decay for torch's AdamW, optax and Keras that gives a rate.

    .. math:: \lambda_t = \mathrm{rate}_t/\gamma_t

    Args:
        rate_per_step: the rate, in [0, 1).
        learning_rate: :math:`\gamma_t > 0`. At steps where a schedule is 0, no weight
            decay gives the rate, and the result is 0. ``dx.independent_decay`` applies
            the rate at every step.

    Returns:
        :math:`\lambda` for ``dx.decoupled_decay``.

    Example:
        >>> from decayax import rates
        >>> print(f"{rates.lr_scaled_from_rate(1e-5, learning_rate=1e-3):.6g}")
        0.01
    """

    def quotient(xp, rate_per_step, learning_rate):
        positive = learning_rate > 0
        # The inner where keeps 0/0 out of the derivative too.
        divisor = xp.where(positive, learning_rate, 1.0)
        return xp.where(positive, rate_per_step / divisor, 0.0)

    domain = NONNEGATIVE if callable(learning_rate) else POSITIVE
    return convert(
        "rates.lr_scaled_from_rate",
        quotient,
        rate_per_step=(rate_per_step, RATE),
        learning_rate=(learning_rate, domain._replace(schedule=True)),
    )


def proportional_schedule(
    weight_decay: ScalarOrSchedule,
    *,
    learning_rate: ScalarOrSchedule,
    peak_learning_rate: Scalar,
) -> Schedule:
    r"""A weight decay that follows the learning rate: the schedule of the AdamW paper.

    .. math:: \lambda_t = \lambda\,\eta_t, \qquad \eta_t = \gamma_t/\alpha

    With ``dx.independent_decay`` it is the paper's Algorithm 2, and :math:`\lambda_t`
    is the rate. With ``dx.decoupled_decay`` the rate is
    :math:`\gamma_t^2\lambda/\alpha`, as in AdamC.

    Args:
        weight_decay: :math:`\lambda \ge 0`.
        learning_rate: :math:`\gamma_t \ge 0` of the optimizer.
        peak_learning_rate: :math:`\alpha > 0`, the largest learning rate.

    Returns:
        A schedule, step -> :math:`\lambda_t`, also if both arguments are numbers.

    Example:
        >>> import optax, decayax as dx
        >>> from decayax import rates
        >>> cosine = optax.cosine_decay_schedule(1e-3, 100)
        >>> gamma = {"learning_rate": cosine, "peak_learning_rate": 1e-3}
        >>> decay = rates.proportional_schedule(1e-4, **gamma)
        >>> paper = optax.chain(optax.adam(cosine), dx.independent_decay(decay))
        >>> print(f"{decay(0):.6f} {decay(50):.6f} {decay(100):.6f}")
        0.000100 0.000050 0.000000

    Reference:
        Loshchilov and Hutter, https://arxiv.org/abs/1711.05101, Algorithm 2, line 12.
    """
    return proportional(
        "rates.proportional_schedule", weight_decay, learning_rate, peak_learning_rate
    )


def proportional(
    name: str,
    weight_decay: ScalarOrSchedule,
    learning_rate: ScalarOrSchedule,
    peak_learning_rate: Scalar,
) -> Schedule:
    """`proportional_schedule`; errors start with the name of the caller."""

    def formula(xp, weight_decay, learning_rate, peak_learning_rate):
        multiplier = learning_rate / peak_learning_rate
        # In NumPy all values are concrete. A float32 schedule may round its peak up.
        if xp is np and (multiplier > 1.0 + 1e-6).any():
            raise ValueError(
                f"{name}: peak_learning_rate must be the largest learning rate, got "
                f"{np.min(peak_learning_rate)} and a learning rate of "
                f"{np.max(learning_rate)}. Pass the schedule's peak."
            )
        return weight_decay * multiplier

    result = convert(
        name,
        formula,
        weight_decay=(weight_decay, NONNEGATIVE),
        learning_rate=(learning_rate, NONNEGATIVE),
        peak_learning_rate=(peak_learning_rate, POSITIVE),
    )
    return as_schedule(result)


def independent_from_lr_scaled(
    weight_decay: Value, *, peak_learning_rate: Real | A
) -> Value | A:
    r"""From torch's, optax's and Keras's weight decay to that of the AdamW paper.

    .. math:: \lambda_{\text{independent}} = \alpha\,\lambda_{\text{lr-scaled}}

    Args:
        weight_decay: :math:`\lambda \ge 0`, to be multiplied by :math:`\gamma_t`.
        peak_learning_rate: :math:`\alpha > 0`, the largest learning rate.

    Returns:
        :math:`\lambda` to be multiplied by :math:`\eta_t = \gamma_t/\alpha`.

    Example:
        >>> from decayax import rates
        >>> rates.independent_from_lr_scaled(0.1, peak_learning_rate=1e-3)
        0.0001
    """
    return convert(
        "rates.independent_from_lr_scaled",
        lambda xp, weight_decay, peak_learning_rate: weight_decay * peak_learning_rate,
        weight_decay=(weight_decay, NONNEGATIVE),
        peak_learning_rate=(peak_learning_rate, POSITIVE),
    )


def lr_scaled_from_independent(
    weight_decay: Value, *, peak_learning_rate: Real | A
) -> Value | A:
    r"""From the AdamW paper's weight decay to that of torch, optax and Keras.

    .. math:: \lambda_{\text{lr-scaled}} = \lambda_{\text{independent}}/\alpha

    Args:
        weight_decay: :math:`\lambda \ge 0` of the AdamW paper, big_vision, nanodo.
        peak_learning_rate: :math:`\alpha > 0`, the largest learning rate.

    Returns:
        :math:`\lambda` for ``optax.adamw``, ``dx.adamw``, ``dx.decoupled_decay``.

    Example:
        >>> from decayax import rates
        >>> rates.lr_scaled_from_independent(1e-4, peak_learning_rate=1e-3)
        0.1

    Reference:
        Wortsman et al., https://arxiv.org/abs/2309.14322, section 3.2.2.
    """
    return convert(
        "rates.lr_scaled_from_independent",
        lambda xp, weight_decay, peak_learning_rate: weight_decay / peak_learning_rate,
        weight_decay=(weight_decay, NONNEGATIVE),
        peak_learning_rate=(peak_learning_rate, POSITIVE),
    )
