r"""One decay under the conventions of different libraries: all are one rate per step.

    coupled:     rate_t = γ_t λ        torch AdamW, optax, Keras
    independent: rate_t = (γ_t/α) λ    AdamW paper, big_vision
    per step:    rate_t = λ            TF-Addons

with γ_t the learning rate and α its peak: λ_independent = α λ_coupled.
"""

import jax

from decayax._core.strength import ScalarOrSchedule
from decayax.rates._checks import (
    AMOUNT,
    convert,
    Converted,
    DIVISOR,
    RATE,
    RESULT,
    schedule_multiplier,
    STRENGTH,
    where_positive,
)


def rate_from_coupled(
    weight_decay: ScalarOrSchedule, *, learning_rate: ScalarOrSchedule
) -> Converted:
    r"""The rate of a decay that is multiplied by the learning rate.

    .. math:: \mathrm{rate}_t = \gamma_t\lambda

    Args:
        weight_decay: :math:`\lambda \ge 0` as of torch's AdamW, ``optax.adamw``, Keras
            or ``dx.decoupled_decay``. A number, an array or a schedule.
        learning_rate: :math:`\gamma_t \ge 0`, a number, an array or a schedule.

    Returns:
        The share of a weight lost per step, in [0, 1); a schedule if one is given.

    Raises:
        TypeError, ValueError: a value out of its range or no real number; a rate >= 1.

    Example:
        >>> from decayax import rates
        >>> rates.rate_from_coupled(0.01, learning_rate=1e-3)
        1e-05

    Reference:
        Loshchilov and Hutter, https://arxiv.org/abs/1711.05101, Algorithm 2, line 12,
        with :math:`\gamma_t` in place of :math:`\eta_t`, as torch and optax write it.
    """
    return convert(
        "rate_from_coupled",
        lambda xp, weight_decay, learning_rate: weight_decay * learning_rate,
        RATE,
        weight_decay=(weight_decay, STRENGTH),
        learning_rate=(learning_rate, STRENGTH),
    )


def coupled_from_rate(
    rate_per_step: ScalarOrSchedule, *, learning_rate: ScalarOrSchedule
) -> Converted:
    r"""The weight decay for torch's AdamW, optax and Keras that gives a rate.

    .. math:: \lambda_t = \mathrm{rate}_t/\gamma_t

    Args:
        rate_per_step: the share of a weight lost per step, in [0, 1). A number, an
            array or a schedule.
        learning_rate: :math:`\gamma_t > 0`, a number, an array or a schedule. Where a
            schedule is 0 no weight decay gives the rate, and it is 0 there too; for the
            rate at every step use ``dx.independent_decay``.

    Returns:
        :math:`\lambda` for ``dx.decoupled_decay``; a schedule if one is given.

    Raises:
        TypeError, ValueError: a value out of its range or no real number.

    Example:
        >>> from decayax import rates
        >>> print(f"{rates.coupled_from_rate(1e-5, learning_rate=1e-3):.6g}")
        0.01

    Reference:
        The inverse of :func:`rate_from_coupled`.
    """
    return convert(
        "coupled_from_rate",
        lambda xp, rate_per_step, learning_rate: where_positive(
            xp, rate_per_step, learning_rate
        ),
        RESULT,
        rate_per_step=(rate_per_step, RATE),
        learning_rate=(learning_rate, STRENGTH if callable(learning_rate) else DIVISOR),
    )


def rate_from_independent(
    weight_decay: ScalarOrSchedule,
    *,
    learning_rate: ScalarOrSchedule,
    peak_learning_rate: jax.typing.ArrayLike,
) -> Converted:
    r"""The rate of a decay that is multiplied by the schedule, not by its peak.

    .. math:: \mathrm{rate}_t = \eta_t\lambda, \qquad \eta_t = \gamma_t/\alpha

    Args:
        weight_decay: :math:`\lambda \ge 0` as in the AdamW paper and big_vision. A
            number, an array or a schedule.
        learning_rate: :math:`\gamma_t \ge 0`, a number, an array or a schedule.
        peak_learning_rate: :math:`\alpha > 0`, the largest learning rate.

    Returns:
        The share of a weight lost per step, in [0, 1), as ``dx.independent_decay``
        takes it; a schedule if one is given.

    Raises:
        TypeError, ValueError: a value out of its range or no real number; a rate >= 1;
            a learning rate above its peak.

    Example:
        >>> from decayax import rates
        >>> rates.rate_from_independent(
        ...     1e-4, learning_rate=5e-4, peak_learning_rate=1e-3
        ... )
        5e-05

    Reference:
        Loshchilov and Hutter, https://arxiv.org/abs/1711.05101, Algorithm 2, line 12.
    """
    name = "rate_from_independent"
    return convert(
        name,
        lambda xp, weight_decay, learning_rate, peak_learning_rate: (
            weight_decay
            * schedule_multiplier(name, xp, learning_rate, peak_learning_rate)
        ),
        RATE,
        weight_decay=(weight_decay, STRENGTH),
        learning_rate=(learning_rate, STRENGTH),
        peak_learning_rate=(peak_learning_rate, AMOUNT),
    )


def independent_from_rate(
    rate_per_step: ScalarOrSchedule,
    *,
    learning_rate: ScalarOrSchedule,
    peak_learning_rate: jax.typing.ArrayLike,
) -> Converted:
    r"""The weight decay of the AdamW paper that gives a rate.

    .. math:: \lambda_t = \mathrm{rate}_t\,\alpha/\gamma_t

    Args:
        rate_per_step: the share of a weight lost per step, in [0, 1). A number, an
            array or a schedule.
        learning_rate: :math:`\gamma_t > 0`, a number, an array or a schedule; where a
            schedule is 0 so is :math:`\lambda_t`.
        peak_learning_rate: :math:`\alpha > 0`, the largest learning rate.

    Returns:
        :math:`\lambda` as in the AdamW paper; a schedule if one is given.

    Raises:
        TypeError, ValueError: a value out of its range or no real number; a
            learning rate above its peak.

    Example:
        >>> from decayax import rates
        >>> rates.independent_from_rate(
        ...     5e-5, learning_rate=5e-4, peak_learning_rate=1e-3
        ... )
        0.0001

    Reference:
        The inverse of :func:`rate_from_independent`.
    """
    name = "independent_from_rate"
    return convert(
        name,
        lambda xp, rate_per_step, learning_rate, peak_learning_rate: where_positive(
            xp,
            rate_per_step,
            schedule_multiplier(name, xp, learning_rate, peak_learning_rate),
        ),
        RESULT,
        rate_per_step=(rate_per_step, RATE),
        learning_rate=(learning_rate, STRENGTH if callable(learning_rate) else DIVISOR),
        peak_learning_rate=(peak_learning_rate, AMOUNT),
    )


def independent_from_coupled(
    weight_decay: ScalarOrSchedule, *, peak_learning_rate: jax.typing.ArrayLike
) -> Converted:
    r"""From torch's, optax's and Keras's weight decay to that of the AdamW paper.

    .. math:: \lambda_{\text{independent}} = \alpha\,\lambda_{\text{coupled}}

    Args:
        weight_decay: :math:`\lambda \ge 0` that the library multiplies by the learning
            rate. A number, an array or a schedule.
        peak_learning_rate: :math:`\alpha > 0`, the largest learning rate.

    Returns:
        :math:`\lambda` to be multiplied by :math:`\eta_t = \gamma_t/\alpha`.

    Raises:
        TypeError, ValueError: a value out of its range or no real number.

    Example:
        >>> from decayax import rates
        >>> rates.independent_from_coupled(0.1, peak_learning_rate=1e-3)
        0.0001

    Reference:
        Loshchilov and Hutter, https://arxiv.org/abs/1711.05101, Algorithm 2, line 12.
    """
    return convert(
        "independent_from_coupled",
        lambda xp, weight_decay, peak_learning_rate: weight_decay * peak_learning_rate,
        RESULT,
        weight_decay=(weight_decay, STRENGTH),
        peak_learning_rate=(peak_learning_rate, AMOUNT),
    )


def coupled_from_independent(
    weight_decay: ScalarOrSchedule, *, peak_learning_rate: jax.typing.ArrayLike
) -> Converted:
    r"""From the AdamW paper's weight decay to torch's, optax's and Keras's.

    .. math:: \lambda_{\text{coupled}} = \lambda_{\text{independent}}/\alpha

    Args:
        weight_decay: :math:`\lambda \ge 0` of the AdamW paper, big_vision, nanodo. A
            number, an array or a schedule.
        peak_learning_rate: :math:`\alpha > 0`, the largest learning rate.

    Returns:
        :math:`\lambda` for ``optax.adamw``, ``dx.adamw``, ``dx.decoupled_decay``.

    Raises:
        TypeError, ValueError: a value out of its range or no real number.

    Example:
        >>> from decayax import rates
        >>> rates.coupled_from_independent(1e-4, peak_learning_rate=1e-3)
        0.1

    Reference:
        Wortsman et al., https://arxiv.org/abs/2309.14322, section 3.2.2.
    """
    return convert(
        "coupled_from_independent",
        lambda xp, weight_decay, peak_learning_rate: weight_decay / peak_learning_rate,
        RESULT,
        weight_decay=(weight_decay, STRENGTH),
        peak_learning_rate=(peak_learning_rate, AMOUNT),
    )
