"""The kernel: the one place that checks, casts, masks and builds a transform.

A pull is ``update ← leaf(update, θ, λ_t·multiplier)`` over every leaf, with a counter
for the schedule of λ. Which leaf function, and where the transform stands in the
chain, is all that a family of decays has to say.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from decayax._core.dtypes import (
    cast_like,
    compute_dtype,
    dtype_of,
    is_inexact,
)
from decayax._core.paths import (
    flatten_with_path,
    is_masked_leaf,
    leaves_with_path,
    Path,
    path_str,
)
from decayax._core.strength import (
    as_strength,
    is_zero,
    ScalarOrSchedule,
    Strength,
    strength_at,
    times,
)
from decayax.masks._resolve import MaskOrFn, multipliers


LeafPull = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


class DecayState(NamedTuple):
    """State of every decay, whatever the type of its strength or mask."""

    count: jax.Array  # int32[]: updates so far; a schedule reads it, then it advances


def pull(
    name: str, leaf: LeafPull, weight_decay: ScalarOrSchedule, mask: MaskOrFn
) -> optax.GradientTransformationExtraArgs:
    """Build the transform ``update ← leaf(update, θ, λ_t·multiplier)``.

    Args:
        name: its public name, for errors.
        leaf: (update, parameter, rate) -> update, on arrays of one dtype.
        weight_decay: λ, a strength or a schedule of it.
        mask: which parameters, and how much of λ each.
    """
    if not callable(weight_decay):
        weight_decay = as_strength(name, "weight_decay", weight_decay)

    def init(params: optax.Params) -> DecayState:
        # What is wrong with the mask or the parameters is said before training.
        known = 1.0 if callable(weight_decay) else weight_decay
        rate_by_path(name, known, mask, params)
        return DecayState(count=jnp.zeros([], jnp.int32))

    def update(updates, state, params=None, **extra_args):
        del extra_args
        require_params(name, params)
        strength = strength_at(name, "weight_decay", weight_decay, state.count)
        rates = rate_by_path(name, strength, mask, params)

        def pulled(path: Path, update: Any, param: Any) -> Any:
            if path not in rates:  # rate 0 is the identity, bit for bit
                return update
            require_inexact(name, "update", path, update)
            if jnp.iscomplexobj(param) and not jnp.iscomplexobj(update):
                raise TypeError(
                    f"{name}: the update {path_str(path)} is real, its parameter complex. "
                    "Pass the gradients of these same parameters."
                )
            dtype = compute_dtype(update, param)
            arrays = (jnp.asarray(x, dtype) for x in (update, param, rates[path]))
            return cast_like(leaf(*arrays), update)

        updates = map_leaves(name, pulled, updates, params)
        return updates, DecayState(count=increment(state.count))

    return optax.GradientTransformationExtraArgs(init, update)


def rate_by_path(
    name: str, strength: Strength, mask: MaskOrFn, params: Any
) -> dict[Path, Strength]:
    """λ·multiplier by path, for the parameters that a decay touches.

    A rate known to be 0 is left out; every other parameter must be able to shrink.
    """
    rates = {
        path: times(strength, multiplier)
        for path, multiplier in multipliers(name, mask, params).items()
    }
    rates = {path: rate for path, rate in rates.items() if not is_zero(rate)}
    for path, param in leaves_with_path(params):
        if path in rates:
            require_inexact(name, "parameter", path, param)
    return rates


def map_leaves(
    name: str, f: Callable[[Path, Any, Any], Any], updates: Any, params: Any
) -> Any:
    """``f(path, update, parameter)`` over all leaves; holes in the updates pass."""
    flat, treedef = flatten_with_path(updates)
    try:
        others = treedef.flatten_up_to(params)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{name}: updates and parameters are different trees: "
            f"{str(error)[:300]}. Pass the gradients of these same parameters."
        ) from None
    mapped = []
    for (path, update), param in zip(flat, others, strict=True):
        if is_masked_leaf(update):
            mapped.append(update)
            continue
        missing = is_masked_leaf(param) or not jax.tree_util.all_leaves([param])
        if missing or np.shape(update) != np.shape(param):
            raise ValueError(
                f"{name}: the update of {path_str(path)} has shape {np.shape(update)}, its "
                f"parameter {'is missing' if missing else np.shape(param)}. Pass the "
                "gradients of these same parameters."
            )
        mapped.append(f(path, update, param))
    return treedef.unflatten(mapped)


def is_optimizer(value: Any) -> bool:
    """Whether it can be used as one, or only called to make one."""
    made = hasattr(value, "init") and hasattr(value, "update")
    return made and not isinstance(value, type)


def require_params(name: str, params: Any) -> None:
    """Raise unless the parameters came along."""
    if params is None:
        raise ValueError(
            f"{name}: needs the parameters, got params=None. "
            "Write optimizer.update(grads, state, params)."
        )


SPARE = "Spare it with False in mask=, or put None in its place."


def require_inexact(
    name: str, kind: str, path: Path, leaf: Any, hint: str = SPARE
) -> None:
    """Raise unless the leaf holds floating-point numbers."""
    if not is_inexact(leaf):
        raise TypeError(
            f"{name}: the {kind} {path_str(path)} has dtype {dtype_of(leaf)}, which cannot "
            f"change gradually. {hint}"
        )


def increment(count: jax.Array) -> jax.Array:
    """The counter after one more update; it stays at the largest int32."""
    return jnp.asarray(optax.safe_increment(count))
