"""A Flax NNX module as two pure functions: parameters from a key, logits from both."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import nnx


class Model(NamedTuple):
    """A model without hidden state: what `jit`, `vmap` and `scan` can take."""

    init: Callable[[jax.Array], Any]  # key -> params
    logits: Callable[[Any, jax.Array], jax.Array]  # params, x[B, ...] -> [B, ..., K]


def from_nnx(make: Callable[[nnx.Rngs], nnx.Module]) -> Model:
    """Split a module once into its static graph and its parameters."""

    def init(key: jax.Array) -> nnx.State:
        return nnx.state(make(nnx.Rngs(key)), nnx.Param)

    graph = nnx.graphdef(nnx.eval_shape(lambda: make(nnx.Rngs(0))))
    return Model(init, lambda params, x: nnx.merge(graph, params)(x))
