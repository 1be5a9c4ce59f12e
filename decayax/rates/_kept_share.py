r"""The share of a weight that a whole run keeps, and the weight decay that keeps it.

kept share = Π_t (1 − rate_t) = exp Σ_t log1p(−rate_t)
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from decayax._core.strength import is_concrete, ScalarOrSchedule
from decayax.rates._checks import (
    checked,
    compute,
    convert,
    Converted,
    per_step,
    RATE,
    RATE_OF_TIME,
    SHARE,
    STEPS,
    STRENGTH,
)


def kept_share(
    rate_per_step: ScalarOrSchedule, *, steps: jax.typing.ArrayLike
) -> Converted:
    r"""The share of a weight without gradient that is left after a run.

    .. math:: \frac{\theta_T}{\theta_0} = \prod_{t=0}^{T-1} (1 - \mathrm{rate}_t)

    Args:
        rate_per_step: the share of a weight lost per step, in [0, 1): one number, an
            array with one per step, or a schedule, such as those that
            :func:`rate_from_coupled` gives.
        steps: :math:`T > 0`, a whole number; with one constant rate it may be traced.

    Returns:
        The share kept, in [0, 1]: one number, also for a schedule; a float, calculated
        in float64, where all rates are known (also as JAX arrays), else a JAX scalar.

    Raises:
        TypeError, ValueError: a value out of its range or no real number; an array of
            another length than ``steps``; traced ``steps`` with a rate per step.

    Example:
        >>> from decayax import rates
        >>> print(f"{rates.kept_share(1e-5, steps=10_000):.6f}")
        0.904837

    Reference:
        Repeated application of Loshchilov and Hutter,
        https://arxiv.org/abs/1711.05101, equation 1.
    """
    name = "kept_share"
    steps = checked(name, "steps", steps, STEPS)
    if not callable(rate_per_step):
        constant = checked(name, "rate_per_step", rate_per_step, RATE)
        if np.shape(constant) == () == np.shape(steps):
            return compute(
                lambda xp, rate, steps: xp.exp(steps * xp.log1p(-rate)),
                rate=known64(constant),
                steps=known64(steps),
            )
    count = whole(name, steps)
    rate = per_step(name, "rate_per_step", rate_per_step, RATE, count)
    return compute(lambda xp, rate: xp.exp(xp.sum(xp.log1p(-rate))), rate=rate)


def rate_from_kept_share(
    kept: jax.typing.ArrayLike, *, steps: jax.typing.ArrayLike
) -> Converted:
    r"""The constant rate that leaves a share of each weight after a run.

    .. math:: \mathrm{rate} = 1 - \mathrm{kept}^{1/T}

    A rate near 1 and a kept share near 1 have few digits left in the other: there and
    back, a rounding of 1e-16 grows by :math:`T\,\mathrm{rate}/(1-\mathrm{rate})` or its
    inverse.

    Args:
        kept: the share left at the end, in (0, 1].
        steps: :math:`T > 0`, a whole number.

    Returns:
        The share of a weight lost per step, in [0, 1).

    Raises:
        TypeError, ValueError: a value out of its range or no real number.

    Example:
        >>> from decayax import rates
        >>> print(f"{rates.rate_from_kept_share(0.904837, steps=10_000):.4g}")
        1e-05

    Reference:
        The inverse of :func:`kept_share` for a constant rate.
    """
    return convert(
        "rate_from_kept_share",
        lambda xp, kept, steps: 0.0 - xp.expm1(xp.log(kept) / steps),
        RATE_OF_TIME,
        kept=(kept, SHARE),
        steps=(steps, STEPS),
    )


def coupled_from_kept_share(
    kept: jax.typing.ArrayLike,
    *,
    learning_rate: ScalarOrSchedule,
    steps: jax.typing.ArrayLike,
) -> Converted:
    r"""The weight decay for ``dx.adamw`` that leaves a share of each weight.

    .. math:: \text{solve}\quad \prod_{t=0}^{T-1} (1 - \gamma_t\lambda) = \mathrm{kept}

    Args:
        kept: the share left at the end, one number in (0, 1].
        learning_rate: :math:`\gamma_t \ge 0`, not 0 throughout: one number, an array
            with one per step, or a schedule.
        steps: :math:`T > 0`, a whole number, not traced.

    Returns:
        The one :math:`\lambda \ge 0` with all :math:`\gamma_t\lambda < 1`, also for a
        schedule: a float, to 1e-12, where all is known, else a JAX scalar with first
        and second derivatives.

    Raises:
        TypeError, ValueError: a value out of its range or no real number; an array of
            another length than ``steps``; traced ``steps``.

    Example:
        >>> import optax
        >>> from decayax import rates
        >>> cosine = optax.cosine_decay_schedule(1e-3, 10_000)
        >>> decay = rates.coupled_from_kept_share(
        ...     0.5, learning_rate=cosine, steps=10_000
        ... )
        >>> print(f"{decay:.4f}")
        0.1386

    Reference:
        The inverse of :func:`kept_share` of :func:`rate_from_coupled`.
    """
    name = "coupled_from_kept_share"
    kept = checked(name, "kept", kept, SHARE)
    if np.shape(kept):
        raise ValueError(
            f"rates.{name}: kept must be one number, got shape {np.shape(kept)}. For "
            "several write jax.vmap over it."
        )
    count = whole(name, checked(name, "steps", steps, STEPS))
    constant = not callable(learning_rate) and np.shape(learning_rate) == ()
    # At a constant learning rate all steps are alike, so that one stands for them.
    alike = 1 if constant else count
    rates = per_step(name, "learning_rate", learning_rate, STRENGTH, alike)
    if is_concrete(rates) and not rates.any():
        raise ValueError(
            f"rates.{name}: learning_rate must be > 0 at some step, got 0 at all "
            f"{count}. Without a learning rate a coupled weight decay does nothing."
        )
    times = count / alike
    return compute(
        lambda xp, kept, rates: solve(xp, xp.log(kept) / times, rates),
        kept=known64(kept),
        rates=rates,
    )


def solve(xp: Any, log_kept: Any, learning_rate: Any) -> Any:
    r"""The root λ of F(λ) = Σ log1p(−γ_t λ) − ln kept, by Newton from the right.

    F is concave and falls, so that Newton's steps from a point right of the root stay
    right of it; log1p(−x) ≤ −x gives such a point, −ln kept/Σγ. Two more steps, which
    change nothing, are taken for their derivatives: each doubles the order to which
    they are right.
    """

    def newton(x, target, learning_rate):
        left = xp.sum(xp.log1p(-learning_rate * x)) - target
        slope = xp.sum(learning_rate / (1.0 - learning_rate * x))
        return x + left / slope

    given = log_kept, learning_rate
    target, gamma = jax.lax.stop_gradient(given) if xp is jnp else given
    limit = (1.0 - 2.0 * xp.finfo(gamma.dtype).eps) / xp.max(gamma)  # below the pole
    x = xp.minimum(-target / xp.sum(gamma), limit)

    def refine(_, x):
        return xp.clip(newton(x, target, gamma), 0.0, limit)

    # Near the pole a step multiplies the distance to it by 1 + ln(kept ratio): 50 steps
    # cross the 1e16 of float64 and then converge quadratically, in 5.
    if xp is jnp:
        x = jax.lax.stop_gradient(jax.lax.fori_loop(0, 50, refine, x))
        for _ in range(2):
            change = newton(x, *given) - x
            x = x + (change - jax.lax.stop_gradient(change))
        return x
    for _ in range(50):
        x, before = refine(0, x), x
        if abs(x - before) <= 2e-16 * x:
            break
    return x


def known64(value: Any) -> Any:
    """Float64 NumPy where the value is known, be it a JAX array."""
    return np.asarray(value, np.float64) if is_concrete(value) else value


def whole(name: str, steps: Any) -> int:
    """A checked number of steps as an int: the length of an array cannot be traced."""
    if np.shape(steps) != ():
        raise ValueError(
            f"rates.{name}: steps must be one number, got shape {np.shape(steps)}. "
            "Call it once for each."
        )
    if not is_concrete(steps):
        raise ValueError(
            f"rates.{name}: steps must be one known whole number for a value "
            f"per step, got {steps}. Close over it instead of tracing it."
        )
    return int(steps)
