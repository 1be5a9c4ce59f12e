"""Schedules of weight decay that published recipes use: step -> λ_t or rate_t.

A transform evaluates its schedule at the number of updates so far, 0 in the first one,
as Optax evaluates the learning rate.
"""

from __future__ import annotations

import math

from decayax._core.strength import Scalar, ScalarOrSchedule, Schedule
from decayax.rates._checks import (
    as_schedule,
    convert,
    NONNEGATIVE,
    POSITIVE,
    RATE,
    WHOLE,
)


def lr_squared_schedule(
    weight_decay: ScalarOrSchedule, *, learning_rate: ScalarOrSchedule
) -> Schedule:
    r"""A rate per step that follows the square of the learning rate.

    .. math:: \mathrm{rate}_t = \lambda\,\gamma_t^2

    The norm of a scale-invariant weight then does not follow the learning rate. It is
    AdamC without a peak: :math:`\gamma_t^2\lambda'/\alpha` with
    :math:`\lambda' = \alpha\lambda`.

    Args:
        weight_decay: :math:`\lambda \ge 0`, about :math:`1/\gamma_t` times that of
            AdamW. modded-nanogpt uses 1.2 with NorMuon.
        learning_rate: :math:`\gamma_t \ge 0` of the optimizer.

    Returns:
        A schedule, step -> rate in [0, 1), for ``dx.independent_decay``. For
        ``dx.decoupled_decay``, which multiplies by :math:`\gamma_t` itself, pass
        :math:`\lambda\gamma_t`: ``rate_from_lr_scaled(weight_decay, ...)``.

    Example:
        >>> import optax, decayax as dx
        >>> from decayax import rates
        >>> cosine = optax.cosine_decay_schedule(0.02, 100)
        >>> rate = rates.lr_squared_schedule(1.2, learning_rate=cosine)
        >>> optimizer = optax.chain(optax.adam(cosine), dx.independent_decay(rate))
        >>> print(f"{rate(0):.6f} {rate(50):.6f} {rate(100):.6f}")
        0.000480 0.000120 0.000000

    Reference:
        https://github.com/KellerJordan/modded-nanogpt, ``train_gpt.py``: the decay is
        multiplied by the learning rate twice. t5x's Adafactor with
        ``weight_decay_rate_lr_exponent=2.0`` and "palm" in NVIDIA's
        emerging-optimizers have the same rate.
    """
    result = convert(
        "rates.lr_squared_schedule",
        lambda xp, weight_decay, learning_rate: weight_decay * learning_rate**2,
        result=RATE._replace(
            hint="Pass a smaller weight decay, or check its convention."
        ),
        weight_decay=(weight_decay, NONNEGATIVE),
        learning_rate=(learning_rate, NONNEGATIVE),
    )
    return as_schedule(result)


def log_time_schedule(
    weight_decay: ScalarOrSchedule, *, timescale_steps: Scalar
) -> Schedule:
    r"""A weight decay that falls like one over the time: decay in logarithmic time.

    .. math:: \lambda_t = \frac{\lambda}{1 + t/t_0}

    If :math:`\lambda_t` is the rate, :math:`T` steps retain a fraction of about
    :math:`(1 + T/t_0)^{-\lambda t_0}` of a weight without gradient: a power law instead
    of an exponential.

    Args:
        weight_decay: :math:`\lambda \ge 0`, the value at step 0. ADANA multiplies it by
            :math:`\eta_t`: pass :func:`proportional_schedule`.
        timescale_steps: :math:`t_0 > 0` in steps; at :math:`t_0` half of
            :math:`\lambda` is left. ADANA uses about a tenth of the run.

    Returns:
        A schedule, step -> :math:`\lambda_t`. It is the rate in
        ``dx.independent_decay``.

    Example:
        >>> from decayax import rates
        >>> rate = rates.log_time_schedule(0.01, timescale_steps=100)
        >>> [round(rate(step), 6) for step in (0, 100, 900)]
        [0.01, 0.005, 0.001]
        >>> retained = rates.retained_fraction(rate, steps=900)
        >>> print(f"{retained:.4f}, power law {(1 + 900 / 100) ** -(0.01 * 100):.4f}")
        0.0991, power law 0.1000

    Reference:
        Ferbach et al., *Logarithmic-time schedules for scaling language models with
        momentum* (ADANA), https://arxiv.org/abs/2602.05298.
    """
    return convert(
        "rates.log_time_schedule",
        lambda xp, step, weight_decay, timescale_steps: (
            weight_decay / (1.0 + step / timescale_steps)
        ),
        of_step=True,
        weight_decay=(weight_decay, NONNEGATIVE),
        timescale_steps=(timescale_steps, POSITIVE),
    )


def cosine_ramp_schedule(
    start: ScalarOrSchedule, end: ScalarOrSchedule, *, steps: Scalar
) -> Schedule:
    r"""A weight decay that moves from one value to another along half a cosine.

    .. math::
        \lambda_t = \lambda_{\text{start}} + (\lambda_{\text{end}} -
        \lambda_{\text{start}})\,\frac{1 - \cos(\pi\min(t/T, 1))}{2}

    DINO and Megatron raise the weight decay while the learning rate falls. For a
    straight line use ``optax.linear_schedule``.

    Args:
        start: :math:`\lambda_{\text{start}} \ge 0`, the value at step 0; DINO: 0.04.
        end: :math:`\lambda_{\text{end}} \ge 0`, the value from step :math:`T` on;
            DINO: 0.4. It may be smaller than ``start``.
        steps: :math:`T > 0`, a whole number.

    Returns:
        A schedule, step -> :math:`\lambda_t`.

    Example:
        >>> from decayax import rates
        >>> dino = rates.cosine_ramp_schedule(0.04, 0.4, steps=100)
        >>> [round(dino(step), 4) for step in (0, 25, 50, 100, 200)]
        [0.04, 0.0927, 0.22, 0.4, 0.4]

    Reference:
        Caron et al., https://arxiv.org/abs/2104.14294, section 3.2: "a cosine schedule
        from 0.04 to 0.4". Megatron-LM: ``--weight-decay-incr-style cosine``.
    """

    def ramp(xp, step, start, end, steps):
        done = xp.minimum(step / steps, 1.0)
        # sin²(x/2) is (1 - cos x)/2 without the cancellation at small x.
        share = xp.sin(0.5 * math.pi * done) ** 2
        return (1.0 - share) * start + share * end  # exact at both ends

    return convert(
        "rates.cosine_ramp_schedule",
        ramp,
        of_step=True,
        start=(start, NONNEGATIVE),
        end=(end, NONNEGATIVE),
        steps=(steps, WHOLE),
    )


def inverse_step_schedule(
    weight_decay: ScalarOrSchedule = 1.0, *, offset: Scalar = 2
) -> Schedule:
    r"""A weight decay that is inversely proportional to the number of the step.

    .. math:: \lambda_t = \frac{\lambda}{t + t_{\text{offset}}}

    SODA pulls the weights towards their initial values with the rate
    :math:`1/(t + 2)`, and has no strength to tune.

    Args:
        weight_decay: :math:`\lambda \ge 0`; SODA: 1.
        offset: :math:`t_{\text{offset}} > 0`; SODA: 2, so that step 0 has half of
            :math:`\lambda`.

    Returns:
        A schedule, step -> :math:`\lambda_t`. It is the rate in
        ``dx.decay_to_init(..., learning_rate=1.0)`` and ``dx.independent_decay``.

    Example:
        >>> from decayax import rates
        >>> soda = rates.inverse_step_schedule()
        >>> [round(soda(step), 4) for step in (0, 1, 2, 98)]
        [0.5, 0.3333, 0.25, 0.01]

    Reference:
        Pethick et al., *Optimistic dual averaging unifies modern optimizers* (SODA),
        https://arxiv.org/abs/2605.11172, Algorithm 1.
    """
    return convert(
        "rates.inverse_step_schedule",
        lambda xp, step, weight_decay, offset: weight_decay / (step + offset),
        of_step=True,
        weight_decay=(weight_decay, NONNEGATIVE),
        offset=(offset, POSITIVE),
    )
