"""Walk the trees of a transform, and check what the user passes to it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from decayax._core.dtypes import dtype_of, is_inexact
from decayax._core.paths import flatten_with_path, is_masked_leaf, Path, path_str
from decayax._core.strength import short_repr


STATE_HINT = (
    "Pass the state from the init or update of this optimizer. To move the state of "
    "another optimizer, write dx.adopt_state(optimizer, params, state)."
)
EXCLUDE_HINT = "Exclude it with False in mask=, or replace it with None."


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


FINISHED = "a finished optimizer, such as optax.adam(1e-3)"
UNFINISHED = "a transform without a learning rate, such as optax.scale_by_adam()"


def require_optimizer(
    name: str, value: Any, argument: str = "optimizer", such_as: str = FINISHED
) -> None:
    """Raise unless the value is an optimizer, and not a function that makes one."""
    if not is_optimizer(value):
        raise TypeError(
            f"{name}: {argument} must be an optax.GradientTransformation, got "
            f"{short_repr(value)}. Pass {such_as}."
        )


def require_finished(
    name: str, optimizer: Any, argument: str = "optimizer", such_as: str = FINISHED
) -> None:
    """Raise unless a decay may stand behind the steps of the optimizer."""
    # MultiSteps(...).gradient_transformation() is a tuple of its bound methods.
    owner = getattr(getattr(optimizer, "update", None), "__self__", optimizer)
    if isinstance(owner, optax.MultiSteps):
        raise TypeError(
            f"{name}: got a MultiSteps object; outside of it, every mini-step would "
            f"decay. Put the decay inside: MultiSteps({name}(optimizer, ...), k)."
        )
    require_optimizer(name, optimizer, argument, such_as)


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
