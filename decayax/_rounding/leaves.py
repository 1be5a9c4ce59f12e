"""Which leaves are rounded, and how a rounding stage is put around an optimizer."""

from collections.abc import Collection
from typing import Any

import jax.numpy as jnp
import optax

from decayax._core.dtypes import dtype_of, is_inexact
from decayax._core.parameters import require_parameters
from decayax._core.paths import is_masked_leaf, leaves_with_path, Path, path_str
from decayax._transforms.precision import cast_around, own_state
from decayax._transforms.trees import require_optimizer, require_params


SIXTEEN_BITS = (jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float16))


def is_rounded(leaf: Any) -> bool:
    """Whether a leaf has 16 bits; wider leaves are not rounded."""
    return dtype_of(leaf) in SIXTEEN_BITS


def _require_supported_dtypes(name: str, params: optax.Params) -> None:
    """Raise if a leaf is a float of fewer than 16 bits, or a function."""
    for path, leaf in leaves_with_path(params):
        if callable(leaf):
            require_parameters(name, params)
        if is_masked_leaf(leaf) or not is_inexact(leaf):
            continue
        dtype = dtype_of(leaf)
        # Of a complex dtype, finfo counts the bits of one part.
        if jnp.finfo(dtype).bits < 16:
            raise TypeError(
                f"{name}: the parameter {path_str(path)} has dtype {dtype}; it rounds "
                "to bfloat16 and float16 only. Use optax.partition to wrap the "
                "optimizer of the other parameters."
            )


def require_same_width(
    name: str, rounded_at_init: Collection[Path], params: optax.Params
) -> None:
    """Raise if a parameter that had 16 bits at ``init`` now has more."""
    for path, leaf in leaves_with_path(params):
        if path in rounded_at_init and is_inexact(leaf) and not is_rounded(leaf):
            raise TypeError(
                f"{name}: the parameter {path_str(path)} had 16 bits at init and now "
                f"has dtype {dtype_of(leaf)}. If the float32 updates were added "
                "without a cast back, as equinox.apply_updates and p + u do, write "
                "params = dx.apply_updates(params, updates). If a wrapper around it "
                "shows float32 parameters, as with_decay does, put it outside of that "
                "wrapper. If the wider parameters are intended, call init on them, or "
                "dx.adopt_state."
            )


def check_params(
    name: str, transform: optax.GradientTransformationExtraArgs
) -> optax.GradientTransformationExtraArgs:
    """Check the dtypes of the parameters before each call of the transform."""

    def init(params: optax.Params) -> optax.OptState:
        _require_supported_dtypes(name, params)
        return transform.init(params)

    def update(updates, state, params=None, **extra_args):
        _require_supported_dtypes(name, require_params(name, params))
        with own_state(name, init, state, params):
            return transform.update(updates, state, params, **extra_args)

    return optax.GradientTransformationExtraArgs(init, update)


def with_rounding(
    name: str,
    optimizer: optax.GradientTransformation,
    rounding: optax.GradientTransformationExtraArgs,
) -> optax.GradientTransformationExtraArgs:
    """Run an optimizer in float32 and round its updates in a last stage."""
    require_optimizer(name, optimizer)
    # The rounding stage needs the float32 updates, so they are not cast back.
    in_float32 = cast_around(
        name, optimizer, widen_params=True, widen_init=True, restore_updates=False
    )
    return check_params(name, optax.chain(in_float32, rounding))
