"""Perceptrons whose hidden matrices are scale invariant.

    h <- relu(LayerNorm(hW)),    logits = hV + c

Hidden layers have no bias, and LayerNorm has neither gain nor shift. So the logits do
not depend on the size of a hidden matrix W. They depend on that of the head V.
"""

import functools
from collections.abc import Sequence

import jax
from flax import nnx

from experiments.models.model import AnyModel, from_nnx


class NormedMLP(nnx.Module):
    """Linear layers without bias, each followed by LayerNorm and ReLU, and a head."""

    def __init__(self, sizes: Sequence[int], eps: float, *, rngs: nnx.Rngs):
        pairs = zip(sizes[:-2], sizes[1:-1], strict=True)
        self.hidden = nnx.List(
            [nnx.Linear(a, b, use_bias=False, rngs=rngs) for a, b in pairs]
        )
        norm = functools.partial(nnx.LayerNorm, epsilon=eps, rngs=rngs)
        self.norms = nnx.List(
            [norm(size, use_bias=False, use_scale=False) for size in sizes[1:-1]]
        )
        self.head = nnx.Linear(sizes[-2], sizes[-1], rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.reshape(len(x), -1)
        for layer, norm in zip(self.hidden, self.norms, strict=True):
            x = jax.nn.relu(norm(layer(x)))
        return self.head(x)


def normed_mlp(sizes: Sequence[int], eps: float = 1e-6) -> AnyModel:
    """A perceptron from `sizes[0]` flattened inputs to `sizes[-1]` classes."""
    return from_nnx(lambda rngs: NormedMLP(sizes, eps, rngs=rngs))
