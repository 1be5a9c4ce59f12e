"""States of NNX without Variables: old versions of flax have no `nnx.as_pure`."""

from typing import Any

import jax
from flax import nnx


def as_pure(tree: Any) -> Any:
    """The tree with the array of each Variable."""

    def array(node: Any) -> Any:
        if not isinstance(node, nnx.Variable):
            return node
        is_old = not hasattr(node, "get_raw_value")  # before version 0.12.1
        return node.raw_value if is_old else node.get_raw_value()

    return jax.tree.map(array, tree, is_leaf=lambda x: isinstance(x, nnx.Variable))
