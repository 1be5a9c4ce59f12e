"""Where the leaves are: each leaf of a pytree under the path a person would write.

Dict keys, attributes and positions all become plain strings, so ``{'dense':
{'kernel': …}}`` has the path ``('dense', 'kernel')`` as a dict, a FrozenDict, a
NamedTuple, an Equinox module or a Flax NNX state, with or without ``.value``.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import jax
import optax


Path = tuple[str, ...]


def is_hole(node: Any) -> bool:
    """Whether ``node`` marks a place without a parameter: None or MaskedNode."""
    return node is None or isinstance(node, optax.MaskedNode)


def flatten(tree: Any) -> tuple[list[tuple[Path, Any]], Any]:
    """Leaves and holes of ``tree`` in order, each with its path, and the treedef."""
    flat, treedef = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_hole)
    nodes = {path[:length] for path, _ in flat for length in range(1, len(path) + 1)}
    children = Counter(node[:-1] for node in nodes)
    return [(_readable(path, children), leaf) for path, leaf in flat], treedef


def show(path: Path) -> str:
    """The path as one word for an error message or a table."""
    return "/".join(path) if path else "(root)"


def some(shown: Iterable[str], most: int = 3) -> str:
    """The first few of several paths, each as `show` gives it: "a, b, c and 4 more"."""
    shown = list(shown)
    more = f" and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + more


def _readable(path: tuple[Any, ...], children: Counter) -> Path:
    # A Flax NNX variable is a node whose only child is its attribute `value`; the
    # same parameter appears without it in the pure state that the update sees.
    boxed = path and path[-1] == jax.tree_util.GetAttrKey("value")
    if boxed and children[path[:-1]] == 1:
        path = path[:-1]
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)
