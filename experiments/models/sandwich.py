"""A small transformer with sandwich norm: RMSNorm before and after each branch.

    A(x) = concat_h softmax(q̂_h k̂_hᵀ √d) v_h · W_out,    q̂ = g_q q/rms(q), k̂ likewise
    x <- x + g₁ · norm(A(norm(x)))
    x <- x + g₂ · norm(W_down relu(W_up norm(x)))

The layers have no biases, and ReLU is homogeneous. So no matrix inside a branch changes
the logits if it is multiplied by a positive number. Only the norms after the branches,
and those of queries and keys, have gains.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.models.model import AnyModel, from_nnx


class NormedAttention(nnx.Module):
    """Causal self-attention whose queries and keys are normed in each head."""

    def __init__(self, width: int, heads: int, eps: float, *, rngs: nnx.Rngs):
        linear = functools.partial(nnx.Linear, width, width, use_bias=False, rngs=rngs)
        self.query, self.key, self.value, self.out = (linear() for _ in range(4))
        norm = functools.partial(nnx.RMSNorm, width // heads, epsilon=eps, rngs=rngs)
        self.query_norm, self.key_norm = norm(), norm()
        self.heads = heads

    def __call__(self, x: jax.Array) -> jax.Array:
        q, k, v = (
            layer(x).reshape(*x.shape[:-1], self.heads, -1)
            for layer in (self.query, self.key, self.value)
        )
        q, k = self.query_norm(q), self.key_norm(k)
        return self.out(
            jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(x.shape)
        )


class SandwichBlock(nnx.Module):
    """Attention, then an MLP, each between two norms."""

    def __init__(self, width: int, heads: int, eps: float, *, rngs: nnx.Rngs):
        norm = functools.partial(nnx.RMSNorm, width, epsilon=eps, rngs=rngs)
        linear = functools.partial(nnx.Linear, use_bias=False, rngs=rngs)
        self.before1, self.before2 = norm(use_scale=False), norm(use_scale=False)
        self.after1, self.after2 = norm(), norm()
        self.attention = NormedAttention(width, heads, eps, rngs=rngs)
        self.up, self.down = linear(width, 4 * width), linear(4 * width, width)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.after1(self.attention(self.before1(x)))
        return x + self.after2(self.down(jax.nn.relu(self.up(self.before2(x)))))


class Sandwich(nnx.Module):
    """Token plus position embeddings, blocks, a norm without gain, a linear head."""

    def __init__(
        self,
        vocabulary: int,
        length: int,
        width: int,
        heads: int,
        layers: int,
        eps: float,
        *,
        rngs: nnx.Rngs,
    ):
        self.token = nnx.Embed(vocabulary, width, rngs=rngs)
        self.position = nnx.Embed(length, width, rngs=rngs)
        self.blocks = nnx.List(
            [SandwichBlock(width, heads, eps, rngs=rngs) for _ in range(layers)]
        )
        self.norm = nnx.RMSNorm(width, epsilon=eps, use_scale=False, rngs=rngs)
        self.head = nnx.Linear(width, vocabulary, use_bias=False, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        table, positions = self.token.embedding[...], self.position.embedding[...]
        # Not self.token(tokens): nnx.Embed casts to the dtype of its first table.
        x = jnp.take(table, tokens, axis=0) + positions[: tokens.shape[-1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def sandwich(
    vocabulary: int,
    length: int,
    width: int,
    heads: int,
    layers: int,
    eps: float = 1e-6,
) -> AnyModel:
    """At most `length` tokens, int [B, T], to logits [B, T, vocabulary]."""
    return from_nnx(
        lambda rngs: Sandwich(vocabulary, length, width, heads, layers, eps, rngs=rngs)
    )
