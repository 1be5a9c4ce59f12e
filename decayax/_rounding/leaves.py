"""Which leaves are rounded, and what an optimizer around which they are sees."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from decayax._core.dtypes import dtype_of, is_inexact, to_float32
from decayax._core.paths import is_masked_leaf, leaves_with_path, Path, path_str
from decayax._core.strength import short_repr
from decayax._transforms.kernel import is_optimizer, require_params


SIXTEEN_BITS = (jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float16))


def is_rounded(leaf: Any) -> bool:
    """Whether a leaf has 16 bits; floats of 32 and more need no hint."""
    return dtype_of(leaf) in SIXTEEN_BITS


def require_known(name: str, params: Any) -> None:
    """Raise for parameters that can be neither rounded nor passed."""
    for path, leaf in leaves_with_path(params):
        if not is_masked_leaf(leaf) and is_inexact(leaf):
            _require_known(name, path, leaf)


def _require_known(name: str, path: Path, leaf: Any) -> None:
    dtype = dtype_of(leaf)
    few = jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 16
    if few or jnp.issubdtype(dtype, jnp.complexfloating):
        raise TypeError(
            f"{name}: the parameter {path_str(path)} has dtype {dtype}; it rounds to "
            "bfloat16 and float16 only. Wrap the optimizer of the other parameters, "
            "with optax.partition."
        )


def require_optimizer(name: str, optimizer: Any) -> None:
    """Raise unless it is a finished optimizer."""
    if not is_optimizer(optimizer):
        raise TypeError(
            f"{name}: takes a finished optimizer such as optax.adamw(1e-3), got "
            f"{short_repr(optimizer)}."
        )


def checked(
    name: str, transform: optax.GradientTransformationExtraArgs
) -> optax.GradientTransformationExtraArgs:
    """A transform that looks at the parameters before anything happens to them."""

    def init(params):
        require_known(name, params)
        return transform.init(params)

    def update(updates, state, params=None, **extra_args):
        require_params(name, params)
        require_known(name, params)
        return transform.update(updates, state, params, **extra_args)

    return optax.GradientTransformationExtraArgs(init, update)


def around(
    name: str, optimizer: Any, last: optax.GradientTransformationExtraArgs
) -> optax.GradientTransformationExtraArgs:
    """An optimizer shown float32, and a last stage that rounds its steps."""
    require_optimizer(name, optimizer)
    return checked(name, optax.chain(shown_wide(optimizer), last))


def shown_wide(optimizer: Any) -> optax.GradientTransformationExtraArgs:
    """An optimizer that is shown 16-bit gradients and parameters as float32.

    Its updates leave as it gives them, so that the last stage has all their digits.
    """
    inner = optax.with_extra_args_support(optimizer)

    def wide(tree: Any) -> Any:
        return jax.tree.map(to_float32, tree)

    def init(params):
        return inner.init(wide(params))

    def update(updates, state, params=None, **extra_args):
        return inner.update(wide(updates), state, wide(params), **extra_args)

    return optax.GradientTransformationExtraArgs(init, update)
