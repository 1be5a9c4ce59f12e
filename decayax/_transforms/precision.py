"""Dtypes around an inner transform: float32 inside, the caller's dtypes outside.

Optax calculates in the dtypes that it gets. In float16 Adam's ε = 1e-8 is 0, and in
bfloat16 β₂ = 0.999 is 1.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import optax

from decayax._core.dtypes import cast_like, strip_weak_type, to_float32


def cast_around(
    inner: optax.GradientTransformation,
    *,
    widen_updates: bool = False,
    widen_state: bool = False,
    widen_params: bool = False,
    restore_updates: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """Run ``inner`` on float32 copies of 16-bit trees, then restore their dtypes.

    ``inner`` sees float32 copies of the trees that are widened. With ``widen_params``
    it sees them in ``init`` too, so a state with the parameters' dtypes is float32.
    Updates keep their dtypes if ``restore_updates`` is set, the state always does.
    """
    inner = optax.with_extra_args_support(inner)

    def init(params: optax.Params) -> optax.OptState:
        with _standard_promotion():
            state = inner.init(_to_float32_if(widen_params, params))
        return jax.tree.map(strip_weak_type, state)

    def update(updates, state, params=None, **extra_args):
        with _standard_promotion():
            new_updates, new_state = inner.update(
                _to_float32_if(widen_updates, updates),
                _to_float32_if(widen_state, state),
                _to_float32_if(widen_params, params),
                **extra_args,
            )
        if restore_updates:
            new_updates = jax.tree.map(cast_like, new_updates, updates)
        return new_updates, jax.tree.map(cast_like, new_state, state)

    return optax.GradientTransformationExtraArgs(init, update)


def _to_float32_if(widen: bool, tree: Any) -> Any:
    return jax.tree.map(to_float32, tree) if widen else tree


@contextlib.contextmanager
def _standard_promotion() -> Iterator[None]:
    # Optax is not clean under strict promotion: scale_by_adam computes float ** int32.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
