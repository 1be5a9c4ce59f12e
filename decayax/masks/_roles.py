"""The role of each parameter of a tree: where each leaf is, and what is next to it."""

import re
from collections import defaultdict
from typing import Any

import numpy as np
import optax
from jax.tree_util import GetAttrKey, tree_flatten_with_path

from decayax._core.paths import flatten_with_path, is_masked_leaf, Path
from decayax.masks._rules import is_near_norm, Leaf, role_of, siblings_of
from decayax.masks._stacks import Member, stacked_axes, without_axes
from decayax.masks._words import has_two_axes, Role, words_of


def roles(params: optax.Params) -> dict[Path, Role]:
    """The role of every leaf that is not None or MaskedNode, by path."""
    flat, _ = flatten_with_path(params)
    types = _module_types(params, "")
    leaves = []
    for (path, node), module_type in zip(flat, types, strict=True):
        if not is_masked_leaf(node):
            modules, name = _split(path)
            named = ["", "", *(key for key in modules if not key.isdigit())]
            leaf = Leaf(name, tuple(np.shape(node)), named[-1], module_type, named[-2])
            leaves.append((path, modules, leaf))
    stacked = stacked_axes(
        Member(modules, leaf.shape, axes, axes == 1 and is_near_norm(leaf))
        for _, modules, leaf in leaves
        for axes in [_own_axes(leaf)]
    )
    members = defaultdict(list)
    for _, modules, leaf in leaves:
        shape = without_axes(leaf.shape, stacked[modules])
        members[modules].append(leaf._replace(shape=shape))
    found = {}
    siblings = {modules: siblings_of(leaves) for modules, leaves in members.items()}
    for path, modules, leaf in leaves:
        shape = without_axes(leaf.shape, stacked[modules])
        role = role_of(leaf._replace(shape=shape, siblings=siblings[modules]))
        found[path] = role._replace(axes=len(shape))
    return found


def _own_axes(leaf: Leaf) -> int:
    """The number of axes that it has in one layer, at least.

    EasyLM's RMSNorm names its scale "kernel". A block named conv_bn may hold a kernel.

    >>> names = ("embed", "embedding"), ("norm", "kernel"), ("dense", "bias")
    >>> [_own_axes(Leaf(name, (6, 4), module)) for module, name in names]
    [2, 1, 1]
    """
    is_conv = "conv" in leaf.module.lower() and len(leaf.shape) >= 3
    is_norm = is_near_norm(leaf)
    is_scale = is_norm and not is_conv and "kernel" in words_of(leaf.name)
    if has_two_axes(leaf.name) and not is_scale:
        return 2
    return int(is_norm or words_of(leaf.name) == ("bias",))


def _split(path: Path) -> tuple[Path, str]:
    """The names of the modules that hold a leaf, and the leaf's own name.

    A key that is itself a path is split. A leaf in a list has the name of the list.

    >>> _split(("mlp/~/linear_0", "w")), _split(("dense", "weights", "0"))
    ((('mlp', 'linear_0'), 'w'), (('dense', '0'), 'weights'))
    """
    keys = [key for node in path for key in re.findall(r"\w+", node)]
    named = [index for index, key in enumerate(keys) if not key.isdigit()]
    if not named:
        return tuple(keys), ""
    own = named[-1]
    return tuple(keys[:own] + keys[own + 1 :]), keys[own]


def _module_types(node: Any, module_type: str) -> list[str]:
    """For every leaf, in order, the type of the innermost module that holds it.

    Containers (dicts, lists, tuples, Flax states) are not modules: the names in their
    paths are used. The same holds for an nnx.Param, whose type says nothing.
    """
    children, _ = tree_flatten_with_path(node, is_leaf=lambda x: x is not node)
    is_leaf = len(children) == 1 and children[0][1] is node
    if is_leaf or is_masked_leaf(node):
        return [module_type]
    has_fields = all(isinstance(path[0], GetAttrKey) for path, _ in children)
    is_module = has_fields and not isinstance(node, tuple)
    module_type = type(node).__name__ if is_module else ""
    return [t for _, child in children for t in _module_types(child, module_type)]
