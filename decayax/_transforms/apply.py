r"""Add the updates to the parameters: θ ← θ + Δ, in the dtype of θ.

The sum of a 16-bit parameter is calculated in float32 and then cast. So a float32
update of the rounding transforms lands exactly on the 16-bit number that they chose.
"""

from __future__ import annotations

from typing import Any, TypeVar

import jax.numpy as jnp
import numpy as np
import optax

from decayax._core.dtypes import compute_dtype, dtype_of, is_inexact
from decayax._core.paths import (
    flatten_with_path,
    is_masked_leaf,
    leaves_with_path,
    Path,
    path_str,
    summarize_paths,
)


NAME = "apply_updates"
Params = TypeVar("Params")  # the result is a tree of the same type


def apply_updates(params: Params, updates: optax.Updates) -> Params:
    r"""Add the updates to the parameters and keep the dtype of each parameter.

    .. math:: \theta \leftarrow \llbracket\theta + \Delta\rrbracket

    The sum of a 16-bit parameter is calculated in float32, then cast. The result is
    that of ``optax.apply_updates``, in any tree: parameters without an update stay,
    such as the functions and static fields of an Equinox module.
    (``equinox.apply_updates`` returns float32 parameters after a rounding transform.)

    Args:
        params: the parameters, or a whole module: dicts, NamedTuples, Equinox modules,
            Flax states and variables.
        updates: the finished updates, matched by path, so the containers may differ.
            None, ``MaskedNode`` or float0 instead of an array (None or ``MaskedNode``
            instead of a subtree too): the parameter stays.

    Returns:
        A tree like ``params``. Weak types stay, too.

    Raises:
        TypeError: an update does not fit the dtype of its parameter: complex for a real
            one, floating-point for an integer, or anything for a leaf that is not an
            array.
        ValueError: an update without a parameter; a floating-point parameter without an
            update; different shapes.

    Example:
        >>> import decayax as dx, jax.numpy as jnp, optax
        >>> params = {"kernel": jnp.ones(2, jnp.bfloat16), "activation": jnp.tanh}
        >>> updates = {"kernel": jnp.full(2, -0.01), "activation": None}
        >>> print(dx.apply_updates(params, updates)["kernel"])
        [0.988281 0.988281]
    """
    flat, treedef = flatten_with_path(params)
    update_at = dict(leaves_with_path(updates))
    _require_known_paths(dict(flat), update_at)
    return treedef.unflatten(
        _add(path, param, _update_of(path, param, update_at)) for path, param in flat
    )


def _require_known_paths(known: dict[Path, Any], update_at: dict[Path, Any]) -> None:
    """Raise if an update is for a path that is not a parameter's."""
    unknown = [
        path_str(path)
        for path, update in update_at.items()
        if path not in known and not is_masked_leaf(update)
    ]
    if unknown:
        raise ValueError(
            f"{NAME}: the updates of {summarize_paths(unknown)} have no parameter; the "
            f"parameters are {summarize_paths(path_str(path) for path in known)}. Pass "
            "the updates of these same parameters."
        )


def _update_of(path: Path, param: Any, update_at: dict[Path, Any]) -> Any:
    """The update at the path; None if a None or MaskedNode covers its subtree."""
    if path in update_at:
        return update_at[path]
    if any(path[:length] in update_at for length in range(len(path))):
        return None
    if is_inexact(param):
        raise ValueError(
            f"{NAME}: the parameter {path_str(path)} has no update. Pass the "
            "parameters that the optimizer trains (for a Flax NNX module "
            "nnx.state(module, nnx.Param)), or write None for the update."
        )
    return None


def _add(path: Path, param: Any, update: Any) -> Any:
    """θ + Δ for one leaf, or the leaf itself if it has no update."""
    if not _is_number(update):
        return param
    _require_same_kind(path, param, update)
    dtype = compute_dtype(param, update) if is_inexact(param) else dtype_of(param)
    total = jnp.asarray(param, dtype) + jnp.asarray(update, dtype)
    total = total.astype(dtype_of(param))
    if getattr(param, "weak_type", False):
        return param.at[...].set(total)  # `at` keeps the weak type
    return total


def _is_number(leaf: Any) -> bool:
    return jnp.issubdtype(dtype_of(leaf), jnp.number)


def _require_same_kind(path: Path, param: Any, update: Any) -> None:
    """Raise unless the sum has the shape of the parameter and fits its dtype."""
    old, new = dtype_of(param), dtype_of(update)
    if not _is_number(param) or not np.can_cast(_kind(new), _kind(old)):
        raise TypeError(
            f"{NAME}: the update of {path_str(path)} has dtype {new}, its parameter "
            f"{getattr(old, '__name__', old)}. Write None for the update of a leaf "
            "that is not trained."
        )
    if np.shape(update) != np.shape(param):
        raise ValueError(
            f"{NAME}: the update of {path_str(path)} has shape {np.shape(update)}, its "
            f"parameter {np.shape(param)}. Pass the updates of these same parameters."
        )


def _kind(dtype: Any) -> type:
    """Integer, real or complex."""
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return np.complex128
    return np.float64 if jnp.issubdtype(dtype, jnp.floating) else np.int32
