"""Dtypes around an inner transform: float32 inside, the caller's dtypes outside.

Optax calculates in the dtypes that it gets. In float16 Adam's ε = 1e-8 is 0, and in
bfloat16 β₂ = 0.999 is 1.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

from decayax._core.dtypes import cast_like, is_float0, strip_weak_type, to_float32
from decayax._transforms.trees import STATE_HINT


def cast_around(
    name: str,
    inner: optax.GradientTransformation,
    *,
    widen_params: bool = False,
    widen_init: bool = False,
    restore_updates: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """Run ``inner`` on float32 copies of 16-bit leaves, then restore their dtypes.

    Its ``update`` sees gradients and state in float32, with ``widen_params`` the
    parameters too. (A mask in ``inner`` may decide by the dtype of a parameter, so they
    stay as they are if ``inner`` calculates in float32 by itself.) With ``widen_init``
    its ``init`` sees float32 parameters, so that the state is float32.

    Updates keep their dtypes if ``restore_updates`` is set, the state always does. A
    float0 update, that of an integer, is 0 for ``inner`` and keeps its dtype. Errors
    about the state start with ``name``.
    """
    inner = optax.with_extra_args_support(inner)

    def init(params: optax.Params) -> optax.OptState:
        with _standard_promotion():
            state = inner.init(_to_float32(params) if widen_init else params)
        return jax.tree.map(strip_weak_type, state)

    def update(updates, state, params=None, **extra_args):
        with _standard_promotion(), own_state(name, init, state, params):
            new_updates, new_state = inner.update(
                _to_float32(jax.tree.map(_zero_for_float0, updates)),
                _to_float32(state),
                _to_float32(params) if widen_params else params,
                **extra_args,
            )
        restore = cast_like if restore_updates else _keep_float0
        new_updates = jax.tree.map(restore, new_updates, updates)
        return new_updates, jax.tree.map(cast_like, new_state, state)

    return optax.GradientTransformationExtraArgs(init, update)


def _to_float32(tree: Any) -> Any:
    return jax.tree.map(to_float32, tree)


def _zero_for_float0(update: Any) -> Any:
    return jnp.zeros(update.shape, jnp.float32) if is_float0(update) else update


def _keep_float0(new: Any, update: Any) -> Any:
    return update if is_float0(update) else new


@contextlib.contextmanager
def own_state(
    name: str, init: optax.TransformInitFn, state: Any, params: optax.Params | None
) -> Iterator[None]:
    """Explain an error inside if the state is that of another optimizer."""
    try:
        yield
    except Exception as error:
        explained = str(error).startswith(f"{name}:")
        if not explained and params is not None and _is_foreign(init, state, params):
            raise ValueError(
                f"{name}: the state does not belong to this optimizer and these "
                f"parameters. {STATE_HINT}"
            ) from error
        raise


def _is_foreign(init: optax.TransformInitFn, state: Any, params: optax.Params) -> bool:
    try:
        own = jax.eval_shape(init, params)
    except Exception:  # the parameters are wrong
        return False
    return jax.tree.structure(own) != jax.tree.structure(state)


@contextlib.contextmanager
def _standard_promotion() -> Iterator[None]:
    # Optax is not clean under strict promotion: scale_by_adam computes float ** int32.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
