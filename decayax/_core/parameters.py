"""What is a parameter: other things that sit in the same tree raise an error.

Flax marks parameters and other state by the type of a *box* around each array: an
``nnx.Variable``, or Linen's ``nn.Partitioned``. Equinox has special nodes for state.
Neither is imported: types are recognised by their names and methods.
"""

import re
from collections.abc import Mapping
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import tree_flatten_with_path

from decayax._core.paths import (
    is_masked_leaf,
    leaves_with_path,
    Path,
    path_str,
    readable,
    VALUE,
)
from decayax._core.strength import short_repr


# The Variables of NNX that no optimizer trains. A Variable of another type is state if
# the tree has an nnx.Param too; without one it may be what the user trains.
STATE_VARIABLES = frozenset(
    ("BatchStat", "Cache", "Intermediate", "MetricState", "OptState", "RngState")
)
# The collections next to `params` in the variables of a Linen model.
STATE_COLLECTION = re.compile(
    r".*_stats|cache|intermediates|losses|metrics|perturbations"
).fullmatch

NNX_HINT = "For an NNX model, pass nnx.state(model, nnx.Param)."
EQUINOX_HINT = "For an Equinox model, pass eqx.filter(model, eqx.is_inexact_array)."
EQUINOX_STATE_HINT = "Build the model with eqx.nn.make_with_state."


def is_box(node: Any) -> bool:
    """Whether the node is a box of Flax around one array, such as an nnx.Param."""
    return hasattr(type(node), "add_axis")


def has_boxes(tree: Any) -> bool:
    """Whether there is a box in the tree."""
    return any(map(is_box, jax.tree.leaves(tree, is_leaf=is_box)))


def unbox(tree: Any) -> Any:
    """The tree with the array of each box, as nnx.Optimizer.update gets it.

    A box of another form stays: its leaf would get another path.
    """

    def array(node: Any) -> Any:
        if not is_box(node):
            return node
        flat, _ = tree_flatten_with_path(node, is_leaf=is_masked_leaf)
        is_plain = [path for path, _ in flat] == [(VALUE,)]
        return flat[0][1] if is_plain else node

    return jax.tree.map(array, tree, is_leaf=is_box)


def require_parameters(name: str, params: optax.Params) -> None:
    """Raise for a leaf that is not a parameter: state, a PRNG key, an activation."""
    require_no_state(name, params)
    for path, leaf in leaves_with_path(params):
        if not (is_masked_leaf(leaf) or is_parameter(leaf)):
            what = "a PRNG key" if _is_key(leaf) else short_repr(leaf)
            _raise_not_a_parameter(name, path, what, f"{EQUINOX_HINT} {NNX_HINT}")


def is_parameter(leaf: Any) -> bool:
    """Whether a leaf is an array, a shape or a number, and not a PRNG key."""
    is_number = isinstance(leaf, int | float | complex)
    return is_number or (hasattr(leaf, "shape") and not _is_key(leaf))


def _is_key(leaf: Any) -> bool:
    is_array = hasattr(leaf, "shape") and hasattr(leaf, "dtype")
    return is_array and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def require_no_state(name: str, params: optax.Params) -> None:
    """Raise for a tree that holds the state of a model or optimizer, too."""
    if hasattr(params, "params") and hasattr(params, "opt_state"):
        raise TypeError(
            f"{name}: got {type(params).__name__}, which holds the optimizer's state, "
            "too. Pass its attribute params."
        )
    if isinstance(params, Mapping) and "params" in params:
        for key, collection in params.items():
            if STATE_COLLECTION(str(key)) and jax.tree.leaves(collection):
                hint = "For a Linen model, pass variables['params']."
                _raise_not_a_parameter(name, (str(key),), "a collection of state", hint)
    for path, kind in state_nodes(params).items():
        is_equinox = kind.__module__.startswith("equinox")
        hint = EQUINOX_STATE_HINT if is_equinox else NNX_HINT
        _raise_not_a_parameter(name, path, f"state of type {kind.__name__}", hint)


def state_nodes(params: optax.Params) -> dict[Path, type]:
    """The nodes of NNX and Equinox that are state, not parameters, with their types."""
    nodes = jax.tree.leaves(params, is_leaf=_has_known_type)
    if not any(map(_has_known_type, nodes)):  # the usual case needs no paths
        return {}
    flat, _ = tree_flatten_with_path(params, is_leaf=_has_known_type)
    kinds = {
        readable(path): _type_of(node)
        for path, node in flat
        if _has_known_type(node) and jax.tree.leaves(node)
    }
    has_param = any(_is_named(kind, {"Param"}) for kind in kinds.values())
    return {path: kind for path, kind in kinds.items() if _is_state(kind, has_param)}


def _has_known_type(node: Any) -> bool:
    return is_box(node) or _is_equinox_state(type(node))


def _type_of(node: Any) -> type:
    # Before version 0.12 a state of NNX holds a VariableState, which names the type. In
    # a Variable of 0.12, `type` is a property that warns because it is deprecated.
    if not is_box(node) or isinstance(getattr(type(node), "type", None), property):
        return type(node)
    kind = getattr(node, "type", None)
    return kind if isinstance(kind, type) else type(node)


def _is_state(kind: type, has_param: bool) -> bool:
    if _is_named(kind, {"Param"}):
        return False
    if _is_equinox_state(kind) or _is_named(kind, STATE_VARIABLES):
        return True
    return has_param and _is_named(kind, {"Variable"})


def _is_equinox_state(kind: type) -> bool:
    is_named = kind.__name__ in ("State", "StateIndex")
    return is_named and kind.__module__.startswith("equinox.")


def _is_named(kind: type, names: set[str] | frozenset[str]) -> bool:
    """Whether the type or a class that it derives from has one of the names."""
    return any(base.__name__ in names for base in kind.__mro__)


def _raise_not_a_parameter(name: str, path: Path, what: str, hint: str) -> NoReturn:
    raise TypeError(f"{name}: {path_str(path)} is not a parameter, but {what}. {hint}")
