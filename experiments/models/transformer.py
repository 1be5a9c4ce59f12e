"""A small decoder-only transformer: logits of the next token at each position.

Without norms it is the network of Nanda et al. (2023) for modular addition, which first
memorises the answers and, with weight decay, later finds the rule.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.models.attention import TransformerBlock
from experiments.models.model import AnyModel, from_nnx


class Transformer(nnx.Module):
    """Token plus position embeddings, causal blocks, a linear head without bias."""

    def __init__(
        self,
        vocabulary: int,
        length: int,
        width: int,
        heads: int,
        layers: int,
        norm: bool,
        tied: bool,
        *,
        rngs: nnx.Rngs,
    ):
        self.token = nnx.Embed(vocabulary, width, rngs=rngs)
        self.position = nnx.Embed(length, width, rngs=rngs)
        self.blocks = nnx.List(
            [TransformerBlock(width, heads, norm, rngs=rngs) for _ in range(layers)]
        )
        self.norm = nnx.LayerNorm(width, rngs=rngs) if norm else nnx.identity
        self.tied = tied
        if not tied:
            self.head = nnx.Linear(width, vocabulary, use_bias=False, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        table, positions = self.token.embedding[...], self.position.embedding[...]
        if tokens.shape[-1] > len(positions):
            raise ValueError(
                f"the input has {tokens.shape[-1]} tokens, but the model has "
                f"{len(positions)} positions. Pass a larger length= to the model."
            )
        # Not self.token(tokens): nnx.Embed casts to the dtype of its first table.
        x = jnp.take(table, tokens, axis=0) + positions[: tokens.shape[-1]]
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return x @ table.T if self.tied else self.head(x)


def transformer(
    vocabulary: int,
    length: int,
    width: int,
    heads: int,
    layers: int,
    norm: bool = True,
    tied: bool = False,
) -> AnyModel:
    """At most `length` tokens, int [B, T], to logits [B, T, vocabulary].

    If `tied`, the head is the table of the token embeddings.
    """
    return from_nnx(
        lambda rngs: Transformer(
            vocabulary, length, width, heads, layers, norm, tied, rngs=rngs
        )
    )
