"""Leaf paths: the name of each pytree leaf, as a person would write it.

Dict keys, attributes and positions all become plain strings. So ``{'dense':
{'kernel': …}}`` has the path ``('dense', 'kernel')`` as a dict, a FrozenDict, a
NamedTuple, an Equinox module or a Flax NNX state, with or without ``.value``.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import optax
from jax.tree_util import DictKey, GetAttrKey, tree_flatten_with_path


Path = tuple[str, ...]
KeyPath = tuple[Any, ...]  # of JAX: DictKey, SequenceKey, GetAttrKey, ...

VALUE = GetAttrKey("value")


def is_masked_leaf(node: Any) -> bool:
    """Whether the node marks a place without a parameter: None or MaskedNode."""
    return node is None or isinstance(node, optax.MaskedNode)


def flatten_with_path(
    tree: Any, is_leaf: Callable[[Any], bool] = is_masked_leaf
) -> tuple[list[tuple[Path, Any]], Any]:
    """The leaves with their paths, and the treedef. None and MaskedNode are leaves."""
    flat, treedef = tree_flatten_with_path(tree, is_leaf=is_leaf)
    boxes = _boxes([path for path, _ in flat])
    return [(readable(_open(path, boxes)), leaf) for path, leaf in flat], treedef


def leaves_with_path(tree: Any) -> list[tuple[Path, Any]]:
    """The same as `flatten_with_path`, without the treedef."""
    return flatten_with_path(tree)[0]


def nodes_with_path(tree: Any) -> list[tuple[Path, Any]]:
    """All nodes, not only leaves, with their paths; a node comes before its children.

    None and MaskedNode have no children. A box and its value have the same path.
    """
    nodes = list(_walk(tree, ()))
    boxes = _boxes([path for path, _ in nodes])
    return [(readable(_open(path, boxes)), node) for path, node in nodes]


def _walk(node: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    yield path, node
    if is_masked_leaf(node):
        return
    for key, child in tree_flatten_with_path(node, is_leaf=lambda x: x is not node)[0]:
        if child is not node:
            yield from _walk(child, path + key)


def path_str(path: Path) -> str:
    """The path as one word, for an error message or a table."""
    return "/".join(path) if path else "(root)"


def prefixes(path: Path) -> Iterator[Path]:
    """The path itself first, then each shorter one, down to the root ()."""
    return (path[:length] for length in range(len(path), -1, -1))


def summarize_paths(paths: Iterable[str], most: int = 3) -> str:
    """The first few of several paths as text: "a, b, c and 4 more"."""
    paths = list(paths)
    more = f" and {len(paths) - most} more" if len(paths) > most else ""
    return ", ".join(paths[:most]) + more


def _boxes(paths: list[KeyPath]) -> set[KeyPath]:
    """The nodes whose only child is the attribute `value`: an NNX or Linen box.

    The pure state that the update sees has the same parameter without `value`.
    """
    above = {path[:-1] for path in paths if path and path[-1] == VALUE}
    if not above:  # most trees: the count below takes longer than the flattening
        return above
    nodes = {path[:length] for path in paths for length in range(1, len(path) + 1)}
    children = Counter(node[:-1] for node in nodes)
    return {node for node in above if children[node] == 1}


def _open(path: KeyPath, boxes: set[KeyPath]) -> KeyPath:
    """The path of a leaf in a box: that of the box."""
    return path[:-1] if boxes and path[:-1] in boxes else path


def readable(path: KeyPath) -> Path:
    """A key path of JAX as plain strings."""
    return tuple(map(_key_name, path))


def _key_name(key: Any) -> str:
    # The usual key first: keystr takes seven times as long.
    is_dict_key = isinstance(key, DictKey)
    return str(key.key) if is_dict_key else jax.tree_util.keystr((key,), simple=True)
