"""In what precision an optimizer of Optax works: float32 inside, dtypes out = in."""

import jax
import optax

from decayax._core.dtypes import cast_like, strip_weak_type, to_float32


def keep_dtypes(
    inner: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """``inner``, giving updates and state back in the dtypes in which they came."""
    inner = optax.with_extra_args_support(inner)

    def init(params):
        return jax.tree.map(strip_weak_type, inner.init(params))

    def update(updates, state, params=None, **extra_args):
        new_updates, new_state = inner.update(updates, state, params, **extra_args)
        return (
            jax.tree.map(cast_like, new_updates, updates),
            jax.tree.map(cast_like, new_state, state),
        )

    return optax.GradientTransformationExtraArgs(init, update)


def in_float32(
    inner: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """``inner`` on float32 copies of 16-bit gradients and state; dtypes out = in.

    Optax's own parts calculate in the dtype they are given, where Adam's ε = 1e-8 is
    0 in float16 and β₂ = 0.999 is 1 in bfloat16.
    """
    inner = optax.with_extra_args_support(inner)

    def update(updates, state, params=None, **extra_args):
        updates, state = jax.tree.map(to_float32, (updates, state))
        return inner.update(updates, state, params, **extra_args)

    return keep_dtypes(optax.GradientTransformationExtraArgs(inner.init, update))
