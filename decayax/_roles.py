"""What a parameter is for: its role, read from where it stands in the tree.

Shapes mislead: attention biases are matrices, and stacking layers gives norm scales
another axis. So a role is read from the leaf's own name, then from the module around
it: by its type where the tree has modules (Equinox), else by its name.
"""

import re
from typing import Any

import jax
import numpy as np

from decayax._tree import flatten, is_hole, Path


KERNEL, EMBEDDING, BIAS, NORM_SCALE, OTHER = ROLES = (
    "kernel",
    "embedding",
    "bias",
    "norm_scale",
    "other",
)
BIAS_NAME = re.compile(r"(b|bias|beta|offset|shift)|bias_.*|.*_bias")
NORM_NAME = re.compile(r"scale|gamma|g")
WEIGHT_NAME = re.compile(
    r"weights|(w|kernel|weight)(_.*)?|.*_(kernel|weight)|linear|.*einsum"
)
TABLE_NAME = re.compile(r"wte|wpe|pos|shared|.*attention_bias|.*emb|.*emb_.*|.*embed.*")
TOKEN_NAME = re.compile(r"(cls|class)(_.*)?")  # one learned vector, not a table
NORM_WORDS = {"ln", "bn", "gn"}
LAYER_KIND = re.compile(r".*(linear|dense|conv|attention|embed|cell|lstm|gru).*")


def roles(tree: Any) -> dict[Path, str]:
    """The role of every leaf that is not a hole, by path."""
    flat, _ = flatten(tree)
    owners = _owners(tree, ())
    return {
        path: role_of(path, owner, len(np.shape(leaf)))
        for (path, leaf), owner in zip(flat, owners, strict=True)
        if not is_hole(leaf)
    }


def role_of(path: Path, owner: str | None, axes: int) -> str:
    """The role of the leaf at ``path`` inside a module of type ``owner``, if in one."""
    name, around = _word(path[-1:]), _word(path[-2:-1])
    kind = (owner or "").lower()
    if BIAS_NAME.fullmatch(name):
        return BIAS
    if NORM_NAME.fullmatch(name):
        return NORM_SCALE
    if WEIGHT_NAME.fullmatch(name):
        if LAYER_KIND.fullmatch(kind):
            return EMBEDDING if "embed" in kind else KERNEL
        if _is_norm(kind) or _is_norm(around):
            return NORM_SCALE
        if name != "kernel" and TABLE_NAME.fullmatch(around):
            return EMBEDDING
        # No layer has a vector for its kernel: it is a norm's, in a list of layers.
        return KERNEL if axes >= 2 else NORM_SCALE
    table = TABLE_NAME.fullmatch(name) and not TOKEN_NAME.fullmatch(name)
    return EMBEDDING if table else OTHER


def _word(step: Path) -> str:
    """One step of a path in lower case; of a Haiku name the part after the last /."""
    return step[0].rsplit("/", 1)[-1].lower() if step else ""


def _is_norm(name: str) -> bool:
    words = re.findall(r"[a-z]+", name)
    return any(word in NORM_WORDS or word.endswith("norm") for word in words)


def _owners(node: Any, kinds: tuple[str, ...]) -> list[str | None]:
    """For every leaf, in order, the type of the innermost module that holds it.

    Containers (dicts, lists, tuples, Flax states and variables) are no modules: what
    is in them is known by name.
    """
    children, _ = jax.tree_util.tree_flatten(node, is_leaf=lambda x: x is not node)
    if is_hole(node) or (len(children) == 1 and children[0] is node):
        return [kinds[-1] if kinds else None]
    if _is_module(node):
        kinds = (*kinds, type(node).__name__)
    elif not _is_box(node):
        kinds = ()
    return [owner for child in children for owner in _owners(child, kinds)]


def _is_module(node: Any) -> bool:
    """A class of its own with named fields, such as an Equinox module."""
    keyed, _ = jax.tree_util.tree_flatten_with_path(
        node, is_leaf=lambda x: x is not node
    )
    named = all(isinstance(path[0], jax.tree_util.GetAttrKey) for path, _ in keyed)
    return named and not isinstance(node, tuple) and not _is_box(node)


def _is_box(node: Any) -> bool:
    """A variable around one array, such as an nnx.Param."""
    keyed, _ = jax.tree_util.tree_flatten_with_path(
        node, is_leaf=lambda x: x is not node
    )
    return len(keyed) == 1 and keyed[0][0] == (jax.tree_util.GetAttrKey("value"),)
