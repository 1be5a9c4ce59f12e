"""Two embeddings side by side, one hidden layer of ReLU, and a head; without biases."""

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.models.model import AnyModel, from_nnx


class PairMLP(nnx.Module):
    """The first two tokens of each example to logits. Other tokens are not read."""

    def __init__(
        self, tokens: int, classes: int, width: int, hidden: int, *, rngs: nnx.Rngs
    ):
        self.first = nnx.Embed(tokens, width, rngs=rngs)
        self.second = nnx.Embed(tokens, width, rngs=rngs)
        self.hidden = nnx.Linear(2 * width, hidden, use_bias=False, rngs=rngs)
        self.head = nnx.Linear(hidden, classes, use_bias=False, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        pair = [self.first(tokens[:, 0]), self.second(tokens[:, 1])]
        return self.head(jax.nn.relu(self.hidden(jnp.concatenate(pair, axis=-1))))


def pair_mlp(tokens: int, classes: int, width: int, hidden: int) -> AnyModel:
    """At least two tokens, int [B, T], to logits [B, classes]."""
    return from_nnx(lambda rngs: PairMLP(tokens, classes, width, hidden, rngs=rngs))
