"""The stages of a chain that are not decay, as optax has them."""

from typing import Any

import jax
import optax

from decayax._core.strength import (
    as_average_rate,
    as_strength,
    NUMBER_HINT,
    ScalarOrSchedule,
)


def heavy_ball(
    name: str,
    momentum: jax.typing.ArrayLike | None,
    nesterov: bool,
    accumulator_dtype: Any = None,
) -> optax.GradientTransformation:
    """Momentum m ← d + μm, or nothing at all where μ is None."""
    if momentum is None:
        return optax.identity()
    as_average_rate(name, "momentum", momentum)
    return optax.trace(momentum, nesterov, accumulator_dtype)


def adam_moments(
    name: str,
    b1: jax.typing.ArrayLike,
    b2: jax.typing.ArrayLike,
    eps: jax.typing.ArrayLike,
    eps_root: jax.typing.ArrayLike,
    mu_dtype: Any,
    nesterov: bool,
) -> optax.GradientTransformation:
    """Adam's direction u = m̂/(√v̂ + ε)."""
    as_average_rate(name, "b1", b1)
    as_average_rate(name, "b2", b2)
    as_strength(name, "eps", eps, NUMBER_HINT)
    as_strength(name, "eps_root", eps_root, NUMBER_HINT)
    return optax.scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov)


def learning_rate_stage(
    name: str, learning_rate: ScalarOrSchedule
) -> optax.GradientTransformation:
    """Δ = −γ_t·u. A constant γ keeps the counter too, so both have one state tree."""
    if callable(learning_rate):
        return optax.scale_by_learning_rate(learning_rate)
    constant = as_strength(name, "learning_rate", learning_rate, NUMBER_HINT)
    return optax.scale_by_learning_rate(lambda step: constant)
