"""The stages of an optimizer. Errors start with the name of the optimizer."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike

from decayax._core.dtypes import is_inexact
from decayax._core.paths import Path
from decayax._core.strength import (
    as_average_rate,
    as_strength,
    NUMBER_HINT,
    Scalar,
    ScalarOrSchedule,
    short_repr,
    strength_at,
)
from decayax._transforms.adam import scale_by_adam
from decayax._transforms.kernel import pull
from decayax._transforms.places import l2
from decayax._transforms.precision import cast_around
from decayax._transforms.rms import GRADIENT_HINT, scale_by_rms
from decayax._transforms.stddev import scale_by_stddev
from decayax._transforms.trees import (
    increment,
    map_leaves,
    require_inexact,
    require_params,
)
from decayax.masks._resolve import MaskOrFn


def chain_in_float32(
    name: str, *stages: optax.GradientTransformation
) -> optax.GradientTransformationExtraArgs:
    """Chain the stages; they see 16-bit trees as float32."""
    chain = cast_around(name, optax.chain(*stages))

    # Not every stage checks the gradients: optax's moments would broadcast them.
    def update(updates, state, params=None, **extra_args):
        params = require_params(name, params)
        map_leaves(name, require_gradient, updates, params)
        return chain.update(updates, state, params, **extra_args)

    def require_gradient(path: Path, update: Any, param: Any) -> Any:
        if is_inexact(param):
            require_inexact(name, "gradient", path, update, GRADIENT_HINT)
        return update

    return optax.GradientTransformationExtraArgs(chain.init, update)


def l2_stage(
    name: str, weight_decay: ScalarOrSchedule, mask: MaskOrFn
) -> optax.GradientTransformationExtraArgs:
    """`add_l2_to_grad`."""
    return l2(name, weight_decay, mask)


def decay_stage(
    name: str, weight_decay: ScalarOrSchedule, mask: MaskOrFn
) -> optax.GradientTransformationExtraArgs:
    """`decoupled_decay`."""
    return pull(name, weight_decay, mask)


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
    eps_root = as_strength(name, "eps_root", eps_root, NUMBER_HINT)
    require_dtype(name, "mu_dtype", mu_dtype)
    return scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov)


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
    scale = scale_by_stddev if centered else scale_by_rms
    options = {"eps_in_sqrt": eps_in_sqrt, "bias_correction": bias_correction}
    return scale(decay, eps, initial_scale=initial_scale, **options)


class LearningRateState(NamedTuple):
    """State of the last stage of the six optimizers.

    Optax's has a field ``count``; a second one would break
    ``optax.tree.get(state, "count")``, which works for ``optax.adamw``.
    """

    step: jax.Array  # int32[]: updates so far


def lr_stage(
    name: str, learning_rate: ScalarOrSchedule
) -> optax.GradientTransformation:
    """Multiply by −γ_t. The state counts the steps for a constant too."""
    hint = (
        "Pass one number >= 0 or a schedule. To maximize, put optax.scale(-1.0) before "
        "the optimizer."
    )
    rate = learning_rate
    if not callable(rate):
        rate = as_strength(name, "learning_rate", rate, hint)

    def init(params: optax.Params) -> LearningRateState:
        return LearningRateState(step=jnp.zeros([], jnp.int32))

    def update(updates, state, params=None):
        factor = -1 * strength_at(name, "learning_rate", rate, state.step, hint)
        in_dtype = functools.cache(lambda dtype: jnp.asarray(factor, dtype))
        updates = jax.tree.map(lambda u: in_dtype(u.dtype) * u, updates)
        return updates, LearningRateState(step=increment(state.step))

    return optax.GradientTransformation(init, update)


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
