"""Multi-layer perceptrons with ReLU, with or without LayerNorm before each ReLU."""

from collections.abc import Sequence

import jax
from flax import nnx

from experiments.models.model import AnyModel, from_nnx


class MLP(nnx.Module):
    """Linear layers with ReLU, and LayerNorm if `norm`, between them."""

    def __init__(self, sizes: Sequence[int], norm: bool, *, rngs: nnx.Rngs):
        pairs = zip(sizes[:-2], sizes[1:-1], strict=True)
        self.hidden = nnx.List([nnx.Linear(a, b, rngs=rngs) for a, b in pairs])
        self.norms = nnx.List(
            [nnx.LayerNorm(b, rngs=rngs) for b in sizes[1:-1] if norm]
        )
        self.output = nnx.Linear(sizes[-2], sizes[-1], rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.reshape(len(x), -1)
        for index, layer in enumerate(self.hidden):
            x = layer(x)
            x = jax.nn.relu(self.norms[index](x) if self.norms else x)
        return self.output(x)


def mlp(sizes: Sequence[int], norm: bool = False) -> AnyModel:
    """A perceptron from `sizes[0]` flattened inputs to `sizes[-1]` classes."""
    return from_nnx(lambda rngs: MLP(sizes, norm, rngs=rngs))
