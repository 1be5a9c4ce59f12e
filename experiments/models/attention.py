"""The pre-LN transformer block: attention, then an MLP, each added to its input.

    A(x) = concat_h softmax(q_h k_hᵀ / √d) v_h · W_out,    d = width / heads
    x <- x + A(norm(x))
    x <- x + W_down gelu(W_up norm(x) + b_up) + b_down

Attention has no biases. The bias of the keys would have gradient 0, because the softmax
does not depend on it, and Adam would turn the rounding error of that 0 into full steps.
"""

import jax
from flax import nnx


class Attention(nnx.Module):
    """Causal multi-head self-attention."""

    def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs):
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of {heads} heads")
        self.query = nnx.Linear(width, width, use_bias=False, rngs=rngs)
        self.key = nnx.Linear(width, width, use_bias=False, rngs=rngs)
        self.value = nnx.Linear(width, width, use_bias=False, rngs=rngs)
        self.out = nnx.Linear(width, width, use_bias=False, rngs=rngs)
        self.heads = heads

    def __call__(self, x: jax.Array) -> jax.Array:
        q, k, v = (
            layer(x).reshape(*x.shape[:-1], self.heads, -1)
            for layer in (self.query, self.key, self.value)
        )
        y = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.reshape(x.shape))


class TransformerBlock(nnx.Module):
    """Attention, then an MLP, with or without LayerNorm: [B, T, width] to the same."""

    def __init__(self, width: int, heads: int, norm: bool, *, rngs: nnx.Rngs):
        self.norm1 = nnx.LayerNorm(width, rngs=rngs) if norm else nnx.identity
        self.attention = Attention(width, heads, rngs=rngs)
        self.norm2 = nnx.LayerNorm(width, rngs=rngs) if norm else nnx.identity
        self.up = nnx.Linear(width, 4 * width, rngs=rngs)
        self.down = nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.attention(self.norm1(x))
        return x + self.down(jax.nn.gelu(self.up(self.norm2(x))))
