"""Flax NNX models as two pure functions: parameters from a key, logits from both."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx


class Model(NamedTuple):
    """A model without hidden state: what `jit`, `vmap` and `scan` can take."""

    init: Callable[[jax.Array], Any]  # key -> params
    logits: Callable[[Any, jax.Array], jax.Array]  # params, x[B, D] -> [B, classes]


class MLP(nnx.Module):
    """One hidden layer of rectified units."""

    def __init__(self, inputs: int, hidden: int, classes: int, *, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(inputs, hidden, rngs=rngs)
        self.output = nnx.Linear(hidden, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.output(jax.nn.relu(self.hidden(x)))


def mlp(inputs: int, hidden: int, classes: int) -> Model:
    """An MLP, split once into its static graph and its parameters."""

    def init(key: jax.Array) -> nnx.State:
        return nnx.state(MLP(inputs, hidden, classes, rngs=nnx.Rngs(key)), nnx.Param)

    graph = nnx.graphdef(
        nnx.eval_shape(lambda: MLP(inputs, hidden, classes, rngs=nnx.Rngs(0)))
    )
    return Model(init, lambda params, x: nnx.merge(graph, params)(x))


def is_kernel(params: Any) -> Any:
    """The mask of every arm: kernels decay, biases do not; decided by path alone."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "kernel" in jax.tree_util.keystr(path), params
    )


def kernel_vector(params: Any) -> jax.Array:
    """All decayed parameters as one vector, in the order of the tree."""
    leaves, decays = jax.tree.leaves(params), jax.tree.leaves(is_kernel(params))
    return jnp.concatenate(
        [leaf.ravel() for leaf, yes in zip(leaves, decays, strict=True) if yes]
    )
