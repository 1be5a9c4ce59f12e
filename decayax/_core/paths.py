"""Leaf paths: the name of each pytree leaf, as a person would write it.

Dict keys, attributes and positions all become plain strings. So ``{'dense':
{'kernel': …}}`` has the path ``('dense', 'kernel')`` as a dict, a FrozenDict, a
NamedTuple, an Equinox module or a Flax NNX state, with or without ``.value``.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import jax
import optax


Path = tuple[str, ...]


def is_masked_leaf(node: Any) -> bool:
    """Whether the node marks a place without a parameter: None or MaskedNode."""
    return node is None or isinstance(node, optax.MaskedNode)


def flatten_with_path(tree: Any) -> tuple[list[tuple[Path, Any]], Any]:
    """The leaves with their paths, and the treedef. None and MaskedNode are leaves."""
    flat, treedef = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_masked_leaf)
    nodes = {path[:length] for path, _ in flat for length in range(1, len(path) + 1)}
    children = Counter(node[:-1] for node in nodes)
    return [(_readable(path, children), leaf) for path, leaf in flat], treedef


def leaves_with_path(tree: Any) -> list[tuple[Path, Any]]:
    """The same as `flatten_with_path`, without the treedef."""
    return flatten_with_path(tree)[0]


def path_str(path: Path) -> str:
    """The path as one word, for an error message or a table."""
    return "/".join(path) if path else "(root)"


def summarize_paths(paths: Iterable[str], most: int = 3) -> str:
    """The first few of several paths as text: "a, b, c and 4 more"."""
    paths = list(paths)
    more = f" and {len(paths) - most} more" if len(paths) > most else ""
    return ", ".join(paths[:most]) + more


def _readable(path: tuple[Any, ...], children: Counter) -> Path:
    # A Flax NNX variable is a node whose only child is its attribute `value`. The
    # pure state that the update sees has the same parameter without `value`.
    boxed = path and path[-1] == jax.tree_util.GetAttrKey("value")
    if boxed and children[path[:-1]] == 1:
        path = path[:-1]
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)
