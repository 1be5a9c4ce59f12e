"""The kernel: the one place that checks, casts, masks and builds a transform.

A pull is ``update ← leaf(update, θ, λ_t·multiplier)`` over every leaf, with a counter
for the schedule of λ. A family of decays supplies the leaf function only; the place in
the chain is the user's choice.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Inexact

from decayax._core.dtypes import (
    as_dtype,
    cast_like,
    compute_dtype,
    dtype_of,
    is_inexact,
)
from decayax._core.parameters import require_no_state
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
    short_repr,
    Strength,
    strength_at,
    times,
)
from decayax.masks._mask import Mask, resolve_nonzero_mask
from decayax.masks._resolve import MaskOrFn


Leaf: TypeAlias = Inexact[Array, "*shape"]
Rate: TypeAlias = Inexact[Array, "*#shape"]  # 0-d, or it broadcasts against the leaf
# (update, parameter, rate) -> update, on arrays of one dtype.
LeafPull: TypeAlias = Callable[[Leaf, Leaf, Rate], Leaf]

STATE_HINT = (
    "Pass the state from the init or update of this optimizer. To move the state of "
    "another optimizer, write dx.adopt_state(optimizer, params, state)."
)
EXCLUDE_HINT = "Exclude it with False in mask=, or replace it with None."


class DecayState(NamedTuple):
    """State of every decay; it does not depend on the type of strength or mask."""

    step: jax.Array  # int32[]: updates so far; a schedule reads it, then it advances


def pull(
    name: str, leaf: LeafPull, weight_decay: ScalarOrSchedule, mask: MaskOrFn
) -> optax.GradientTransformationExtraArgs:
    """Build the transform of a leaf function; errors start with its public name."""
    if isinstance(weight_decay, Mask):
        raise TypeError(
            f"{name}: weight_decay must be a number or a schedule, got the mask "
            f"{weight_decay!r}. Pass it as mask=."
        )
    if not callable(weight_decay):
        weight_decay = as_strength(name, "weight_decay", weight_decay)

    def init(params: optax.Params) -> DecayState:
        # A wrong mask or parameter raises here, before training. A schedule has no
        # value yet: 1 replaces it, because 0 would accept every parameter.
        strength = 1.0 if callable(weight_decay) else weight_decay
        require_no_state(name, params)
        rate_by_path(name, strength, mask, params)
        return DecayState(step=jnp.zeros([], jnp.int32))

    # In this library `update` has the types of optax's TransformUpdateExtraArgsFn.
    def update(updates, state, params=None, **extra_args):
        params = require_params(name, params)
        require_state(name, state, DecayState)
        strength = strength_at(name, "weight_decay", weight_decay, state.step)
        rates = rate_by_path(name, strength, mask, params)
        arrays: dict[Any, Rate] = {}  # most leaves share one: convert it once

        def apply_rate(path: Path, update: Any, param: Any) -> Any:
            if path not in rates:  # rate 0 is the identity, bit for bit
                return update
            _require_pair(name, path, update, param)
            dtype = compute_dtype(update, param)
            key = id(rates[path]), dtype
            if key not in arrays:
                arrays[key] = jnp.asarray(rates[path], dtype)
            wide_update, wide_param = as_dtype(update, dtype), as_dtype(param, dtype)
            return cast_like(leaf(wide_update, wide_param, arrays[key]), update)

        updates = map_leaves(name, apply_rate, updates, params)
        return updates, DecayState(step=increment(state.step))

    return optax.GradientTransformationExtraArgs(init, update)


def _require_pair(name: str, path: Path, update: Any, param: Any) -> None:
    """Raise unless the update can hold the decay of its parameter."""
    require_inexact(name, "update", path, update)
    if jnp.iscomplexobj(param) and not jnp.iscomplexobj(update):
        raise TypeError(
            f"{name}: the update {path_str(path)} is real, but its parameter is "
            "complex. Pass the gradients of these same parameters."
        )


def rate_by_path(
    name: str, strength: Strength, mask: MaskOrFn, params: optax.Params
) -> dict[Path, Strength]:
    """λ·multiplier by path, for the parameters that decay: a concrete 0 is left out."""
    multipliers = resolve_nonzero_mask(name, mask, params)
    # Most parameters share a multiplier: one product, not one operation for each.
    products: dict[Any, Strength] = {}
    rates: dict[Path, Strength] = {}
    for path, factor in multipliers.items():
        key = factor if isinstance(factor, float) else (id(factor),)
        if key not in products:
            products[key] = times(strength, factor)
        if not is_zero(products[key]):
            rates[path] = products[key]
    for path, param in leaves_with_path(params):
        if path in rates:
            require_inexact(name, "parameter", path, param)
    return rates


def map_leaves(
    name: str, f: Callable[[Path, Any, Any], Any], updates: optax.Updates, params: Any
) -> optax.Updates:
    """Map ``f(path, update, parameter) -> update``; None and MaskedNode pass."""

    def with_param(path, update, param):
        return f(path, update, param), param

    return map_leaf_tuples(name, with_param, updates, params)[0]


def map_leaf_tuples(
    name: str, f: Callable[..., tuple], updates: optax.Updates, *others: Any
) -> tuple[Any, ...]:
    """Map ``f(path, update, *others) -> (update, *others)`` over trees.

    The others are parameters or moments. Where the updates hold None or MaskedNode,
    all leaves pass unchanged.
    """
    flat, treedef = flatten_with_path(updates)
    try:
        flat_others = zip(*map(treedef.flatten_up_to, others), strict=True)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{name}: updates and parameters are different trees: "
            f"{str(error)[:300]}. Pass the gradients of these same parameters."
        ) from None
    rows = []
    for (path, update), leaves in zip(flat, flat_others, strict=True):
        if is_masked_leaf(update):
            rows.append((update, *leaves))
            continue
        for leaf in leaves:
            _require_same_shape(name, path, update, leaf)
        rows.append(f(path, update, *leaves))
    columns = zip(*rows, strict=True) if rows else [()] * (1 + len(others))
    return tuple(map(treedef.unflatten, columns))


def _require_same_shape(name: str, path: Path, update: Any, param: Any) -> None:
    missing = is_masked_leaf(param) or not jax.tree_util.all_leaves([param])
    if missing or np.shape(update) != np.shape(param):
        raise ValueError(
            f"{name}: the update of {path_str(path)} has shape {np.shape(update)}, its "
            f"parameter {'is missing' if missing else np.shape(param)}. Pass the "
            "gradients of these same parameters."
        )


def is_optimizer(value: Any) -> bool:
    """Whether the value is an optimizer, and not a function that makes one."""
    has_methods = hasattr(value, "init") and hasattr(value, "update")
    return has_methods and not isinstance(value, type)


def require_optimizer(name: str, value: Any) -> None:
    """Raise unless the value is an optimizer, and not a function that makes one."""
    if not is_optimizer(value):
        raise TypeError(
            f"{name}: optimizer must be an optax.GradientTransformation, got "
            f"{short_repr(value)}. Pass a finished optimizer, such as optax.adam(1e-3)."
        )


def require_state(name: str, state: Any, kind: type) -> None:
    """Raise unless the state is of the transform's own class."""
    if not isinstance(state, kind):
        raise ValueError(
            f"{name}: the state must be a {kind.__name__}, got "
            f"{type(state).__name__}. {STATE_HINT}"
        )


def require_params(name: str, params: optax.Params | None) -> optax.Params:
    """The parameters; raise if the update was called without them."""
    if params is None:
        raise ValueError(
            f"{name}: needs the parameters, got params=None. "
            "Write optimizer.update(grads, state, params)."
        )
    return params


def require_inexact(
    name: str, kind: str, path: Path, leaf: Any, hint: str = EXCLUDE_HINT
) -> None:
    """Raise unless the leaf holds floating-point numbers."""
    if not is_inexact(leaf):
        raise TypeError(
            f"{name}: the {kind} {path_str(path)} has dtype {dtype_of(leaf)}, which is "
            f"not a floating-point dtype. {hint}"
        )


def increment(count: jax.Array) -> jax.Array:
    """Add 1 to the counter, which saturates at the largest int32."""
    return jnp.asarray(optax.safe_increment(count))
