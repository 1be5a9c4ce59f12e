"""The stages of a chain that are not decay, as optax has them."""

from typing import Any

import jax
import optax

from decayax._strength import as_strength, ScalarOrSchedule


def heavy_ball(
    momentum: jax.typing.ArrayLike | None, nesterov: bool, accumulator_dtype: Any = None
) -> optax.GradientTransformation:
    """M ← d + μm, or nothing at all where μ is None."""
    if momentum is None:
        return optax.identity()
    return optax.trace(momentum, nesterov, accumulator_dtype)


def learning_rate_stage(
    name: str, learning_rate: ScalarOrSchedule
) -> optax.GradientTransformation:
    """Δ = −γ_t·u. A constant γ keeps the counter too, so both have one state tree."""
    if callable(learning_rate):
        return optax.scale_by_learning_rate(learning_rate)
    constant = as_strength(name, "learning_rate", learning_rate)
    return optax.scale_by_learning_rate(lambda step: constant)
