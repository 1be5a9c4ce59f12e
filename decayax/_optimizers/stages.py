"""The stages of an optimizer. Errors start with the name of the optimizer."""

import jax.numpy as jnp
import optax
from jax.typing import DTypeLike

from decayax._core.strength import (
    as_average_rate,
    as_strength,
    NUMBER_HINT,
    Scalar,
    ScalarOrSchedule,
    short_repr,
)
from decayax._transforms.kernel import pull
from decayax._transforms.places import plus_decay
from decayax._transforms.precision import cast_around
from decayax._transforms.rms import scale_by_rms
from decayax.masks._resolve import MaskOrFn


def chain_in_float32(
    *stages: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Chain the stages; they see 16-bit updates and state as float32."""
    return cast_around(optax.chain(*stages), widen_updates=True, widen_state=True)


def decay_stage(
    name: str, weight_decay: ScalarOrSchedule, mask: MaskOrFn
) -> optax.GradientTransformationExtraArgs:
    """Add λθ: it is `add_l2_to_grad` as first stage, else `decoupled_decay`."""
    return pull(name, plus_decay, weight_decay, mask)


def momentum_stage(
    name: str, momentum: Scalar | None, nesterov: bool, dtype: DTypeLike | None = None
) -> optax.GradientTransformation:
    """Heavy-ball momentum m ← d + μm; the identity if μ is None."""
    require_dtype(name, "accumulator_dtype", dtype)
    if momentum is None:
        return optax.identity()
    as_average_rate(name, "momentum", momentum)
    return optax.trace(momentum, nesterov, dtype)


def adam_stage(
    name: str,
    b1: Scalar,
    b2: Scalar,
    eps: Scalar,
    eps_root: Scalar,
    mu_dtype: DTypeLike | None,
    nesterov: bool,
) -> optax.GradientTransformation:
    """Adam's direction u = m̂/(√v̂ + ε)."""
    # Checked only: Optax gets the user's own values, as in optax.adam.
    as_average_rate(name, "b1", b1)
    as_average_rate(name, "b2", b2)
    as_strength(name, "eps", eps, NUMBER_HINT)
    as_strength(name, "eps_root", eps_root, NUMBER_HINT)
    require_dtype(name, "mu_dtype", mu_dtype)
    return optax.scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov)


def rms_stage(
    name: str,
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
    options = {"eps_in_sqrt": eps_in_sqrt, "bias_correction": bias_correction}
    return scale(decay, eps, initial_scale=initial_scale, **options)


def lr_stage(
    name: str, learning_rate: ScalarOrSchedule
) -> optax.GradientTransformation:
    """Δ = −γ_t·u."""
    if callable(learning_rate):
        return optax.scale_by_learning_rate(learning_rate)
    hint = (
        "Pass one number >= 0 or a schedule. To maximize, put optax.scale(-1.0) before "
        "the optimizer."
    )
    constant = as_strength(name, "learning_rate", learning_rate, hint)
    # A schedule for a constant too: its counter keeps the state tree the same.
    return optax.scale_by_learning_rate(lambda step: constant)


def require_dtype(name: str, argument: str, dtype: DTypeLike | None) -> None:
    """Raise unless it is the dtype of a moment, or None."""
    try:
        is_moment = dtype is None or jnp.issubdtype(jnp.dtype(dtype), jnp.inexact)
    except TypeError:
        is_moment = False
    if not is_moment:
        raise TypeError(
            f"{name}: {argument} must be a floating-point dtype, got "
            f"{short_repr(dtype)}. Pass jnp.float32, jnp.bfloat16 or None."
        )
