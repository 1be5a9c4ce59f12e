"""Masks by declarations in the model: the types and metadata of its nodes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import optax

from decayax._core.parameters import is_parameter, state_nodes
from decayax._core.paths import (
    is_masked_leaf,
    leaves_with_path,
    nodes_with_path,
    Path,
    path_str,
    prefixes,
)
from decayax._core.strength import is_known, Strength, times
from decayax.masks._resolve import fit_to_leaf, MaskTree, Multipliers, tree_multipliers


# node -> a multiplier or mask tree for all parameters below it; None: no declaration.
NodeFn: TypeAlias = Callable[[Any], MaskTree | None]


def by_node(function: NodeFn, params: optax.Params) -> MaskTree:
    r"""A mask tree from declarations on the model, such as types and metadata.

    .. math:: m = \prod_n f(n), \quad \text{over all nodes } n \text{ above the leaf}

    `by_node` asks once, now. The result is a tree of plain numbers, with the structure
    of dicts. (A mask function can ask, too, but needs ``init`` in the same process:
    ``nnx.Optimizer`` passes the Variables to ``init``, but plain arrays to ``update``.)

    Args:
        function: is called with each node of the tree, from the root to the arrays:
            containers, modules, wrappers, ``nnx.Variable`` or ``nn.Partitioned`` boxes,
            arrays. It returns a multiplier, or a mask tree, for all parameters below
            the node. None counts as 1.
        params: the parameters in their boxes and modules: ``nnx.state(model,
            nnx.Param)``, the ``params`` of Linen, or an NNX or Equinox model. The
            mask has no entries for what is not a parameter there.

    Returns:
        A mask tree for ``mask=`` of any transform, and for the functions of this
        module. ``masks.all_of`` joins it with another mask.

    Raises:
        ValueError: the function gives 1 to every node: it declares nothing.

    Example:
        >>> import decayax as dx, jax.numpy as jnp
        >>> from typing import Any, NamedTuple
        >>> class NoDecay(NamedTuple):
        ...     array: Any
        >>> params = {"kernel": jnp.ones((2, 2)), "token": NoDecay(jnp.ones(2))}
        >>> dx.masks.by_node(lambda node: not isinstance(node, NoDecay), params)
        {'kernel': 1.0, 'token': {'array': 0.0}}
        >>> # NNX metadata: lambda node: not getattr(node, "no_decay", False)
    """
    name = "masks.by_node"
    nodes = nodes_with_path(params)
    declared = _declarations(name, function, nodes)
    state = state_nodes(params)
    multipliers: Multipliers = {}
    for path, leaf in leaves_with_path(params):
        above = list(prefixes(path))
        is_state = not state.keys().isdisjoint(above)
        if is_masked_leaf(leaf) or not is_parameter(leaf) or is_state:
            continue
        parts = [
            fit_to_leaf(name, "a multiplier of the function", multiplier, path, leaf)
            for node in above
            for multiplier in declared.get(node, ())
        ]
        multipliers[path] = functools.reduce(times, parts, 1.0)
    if all(map(_is_one, multipliers.values())):
        raise ValueError(
            f"{name}: the function declares nothing: it gives 1 or None to every node. "
            "Check the type or the name of the metadata that it asks for."
        )
    return _nested(multipliers)


def _declarations(
    name: str, function: NodeFn, nodes: list[tuple[Path, Any]]
) -> dict[Path, list[Strength]]:
    """What the function says about each node, by the path that it holds for."""
    paths = {path for path, _ in nodes}
    declared: dict[Path, list[Strength]] = {}
    for path, node in nodes:
        try:
            entries = tree_multipliers(name, function(node))
        except Exception as error:
            error.add_note(
                f"{name}: raised at the node {path_str(path)} of type "
                f"{type(node).__name__}. The function is called with every node: "
                "containers, modules, boxes and arrays. Test for the type first, or "
                "use getattr(node, name, default)."
            )
            raise
        for below, multiplier in entries.items():
            if path + below in paths:
                declared.setdefault(path + below, []).append(multiplier)
            elif not _is_one(multiplier):
                raise ValueError(
                    f"{name}: the function has an entry for {path_str(path + below)}, "
                    "where there is no parameter."
                )
    return declared


def _nested(multipliers: Multipliers) -> MaskTree:
    """A tree of dicts; one bare array has one multiplier."""
    tree: dict[str, Any] = {}
    for path, multiplier in multipliers.items():
        if not path:
            return multiplier
        node = tree
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = multiplier
    return tree


def _is_one(multiplier: Strength) -> bool:
    return is_known(multiplier) and bool(np.all(multiplier == 1.0))
