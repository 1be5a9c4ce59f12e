"""The chain of an optimizer, and the stages of it that are not a decay.

These stages are Optax's own, with checked arguments.
"""

from __future__ import annotations

from typing import Any

import optax

from decayax._core.strength import (
    as_average_rate,
    as_strength,
    NUMBER_HINT,
    Scalar,
    ScalarOrSchedule,
)
from decayax._transforms.precision import cast_around
from decayax._transforms.rms import scale_by_rms


LEARNING_RATE_HINT = (
    "Pass one number >= 0 or a schedule. To maximize, put optax.scale(-1.0) before the "
    "optimizer."
)


def chain_in_float32(
    *stages: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Chain the stages; they see 16-bit updates and state as float32."""
    return cast_around(optax.chain(*stages), widen_updates=True, widen_state=True)


def momentum_stage(
    name: str,
    momentum: Scalar | None,
    nesterov: bool,
    accumulator_dtype: Any = None,
) -> optax.GradientTransformation:
    """Heavy-ball momentum m ← d + μm; the identity if μ is None."""
    if momentum is None:
        return optax.identity()
    as_average_rate(name, "momentum", momentum)
    return optax.trace(momentum, nesterov, accumulator_dtype)


def adam_stage(
    name: str,
    *,
    b1: Scalar,
    b2: Scalar,
    eps: Scalar,
    eps_root: Scalar,
    mu_dtype: Any,
    nesterov: bool,
) -> optax.GradientTransformation:
    """Adam's direction u = m̂/(√v̂ + ε)."""
    as_average_rate(name, "b1", b1)
    as_average_rate(name, "b2", b2)
    as_strength(name, "eps", eps, NUMBER_HINT)
    as_strength(name, "eps_root", eps_root, NUMBER_HINT)
    return optax.scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov)


def rmsprop_stage(
    name: str,
    *,
    decay: Scalar,
    eps: Scalar,
    initial_scale: Scalar,
    eps_in_sqrt: bool,
    centered: bool,
    bias_correction: bool,
) -> optax.GradientTransformation:
    """RMSprop's direction u = g/(√V + ε); if centered, √V is the standard deviation."""
    as_average_rate(name, "decay", decay)
    as_strength(name, "eps", eps, NUMBER_HINT)
    scale = optax.scale_by_stddev if centered else scale_by_rms
    return scale(
        decay,
        eps,
        initial_scale=initial_scale,
        eps_in_sqrt=eps_in_sqrt,
        bias_correction=bias_correction,
    )


def learning_rate_stage(
    name: str, learning_rate: ScalarOrSchedule
) -> optax.GradientTransformation:
    """Δ = −γ_t·u. A constant γ has a counter too: the state tree stays the same."""
    if callable(learning_rate):
        return optax.scale_by_learning_rate(learning_rate)
    constant = as_strength(name, "learning_rate", learning_rate, LEARNING_RATE_HINT)
    return optax.scale_by_learning_rate(lambda step: constant)
