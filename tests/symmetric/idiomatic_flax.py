"""NNX and Linen modules as users write them: nested, compact, scanned, mapped."""

import jax
import jax.numpy as jnp
from flax import linen as nn, nnx

from symmetric import in_linen, in_nnx
from symmetric.model import epsilon


# NNX ---------------------------------------------------------------------------------


List = getattr(nnx, "List", list)  # older versions of Flax need no List


class Block(nnx.Module):
    """Query and key norm per head; SwiGLU; RMSNorm before both branches."""

    def __init__(self, rngs):
        eps = epsilon(1e-6)
        self.norm1 = nnx.RMSNorm(8, epsilon=eps, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(
            num_heads=2,
            in_features=8,
            use_bias=False,
            normalize_qk=True,
            decode=False,
            dropout_rate=0.1,
            rngs=rngs,
        )
        for norm in (self.attention.query_ln, self.attention.key_ln):
            norm.epsilon = eps
        self.norm2 = nnx.RMSNorm(8, epsilon=eps, rngs=rngs)
        self.gate = nnx.Linear(8, 10, use_bias=False, rngs=rngs)
        self.up = nnx.Linear(8, 10, use_bias=False, rngs=rngs)
        self.down = nnx.Linear(10, 8, use_bias=False, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)

    def __call__(self, x):
        x = x + self.dropout(self.attention(self.norm1(x)))
        h = self.norm2(x)
        return x + self.dropout(self.down(jax.nn.silu(self.gate(h)) * self.up(h)))


class Transformer(nnx.Module):
    def __init__(self, rngs):
        self.embedding = nnx.Embed(
            11, 8, dtype=jax.dtypes.canonicalize_dtype(float), rngs=rngs
        )
        self.blocks = List([Block(rngs), Block(rngs)])
        self.norm = nnx.RMSNorm(8, epsilon=epsilon(1e-6), rngs=rngs)
        self.head = nnx.Linear(8, 7, rngs=rngs)

    def __call__(self, ids):
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class Stack(nnx.Module):
    """Three layers h = RMS(relu(h w + b)) under scan, made by vmap."""

    def __init__(self, rngs):
        @nnx.split_rngs(splits=3)
        @nnx.vmap
        def make(rngs):
            return nnx.Linear(6, 6, rngs=rngs)

        self.layers = make(rngs)
        self.head = nnx.Linear(6, 4, rngs=rngs)

    def __call__(self, x):
        @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        def body(layer, h):
            h = jax.nn.relu(layer(h))
            size = jnp.mean(h**2, -1, keepdims=True)
            return h * jax.lax.rsqrt(size + epsilon(1e-6))

        x = x.astype(self.head.kernel[...].dtype)
        return self.head(body(self.layers, x))


class Adapted(nnx.Module):
    def __init__(self, rngs):
        self.inner = nnx.LoRALinear(6, 9, lora_rank=3, rngs=rngs)
        self.head = nnx.Linear(9, 4, rngs=rngs)

    def __call__(self, x):
        return self.head(jax.nn.leaky_relu(self.inner(x)))


def sequential(rngs):
    return nnx.Sequential(
        nnx.Linear(6, 9, rngs=rngs),
        nnx.BatchNorm(9, epsilon=epsilon(1e-5), rngs=rngs),
        jax.nn.relu,
        nnx.Dropout(0.5, rngs=rngs),
        nnx.Linear(9, 7, rngs=rngs),
        nnx.LayerNorm(7, epsilon=epsilon(1e-6), rngs=rngs),
        jnp.tanh,
        nnx.Linear(7, 4, rngs=rngs),
    )


# Linen -------------------------------------------------------------------------------


class FusedAttention(nn.Module):
    """One DenseGeneral for query, key and value: kernel (d, 3, heads, depth)."""

    @nn.compact
    def __call__(self, ids, deterministic=False):
        x = nn.Embed(11, 8, name="embed")(ids)
        h = nn.LayerNorm(epsilon=epsilon(1e-6))(x)
        qkv = nn.DenseGeneral((3, 2, 4), name="qkv")(h)
        query, key, value = jnp.moveaxis(qkv, -3, 0)
        h = nn.dot_product_attention(query, key, value)
        h = nn.DenseGeneral(8, axis=(-2, -1), name="out")(h)
        x = x + nn.Dropout(0.1)(h, deterministic=deterministic)
        return nn.Dense(7)(nn.LayerNorm(epsilon=epsilon(1e-6))(x))


class Compact(nn.Module):
    """Automatic names: Dense_0, BatchNorm_0, Dense_1, Dense_2."""

    @nn.compact
    def __call__(self, x, deterministic=False):
        x = nn.Dense(9)(x)
        x = nn.BatchNorm(use_running_average=False, epsilon=epsilon(1e-5))(x)
        x = nn.Dropout(0.3)(nn.relu(x), deterministic=deterministic)
        x = nn.leaky_relu(nn.Dense(7)(x))
        return nn.Dense(4)(x)


class Layer(nn.Module):
    @nn.compact
    def __call__(self, h):
        h = nn.Dense(6)(h)
        return nn.relu(nn.RMSNorm(epsilon=epsilon(1e-6))(h)), None


class Scanned(nn.Module):
    @nn.compact
    def __call__(self, x, deterministic=False):
        scan = nn.scan(
            Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=3
        )
        return nn.Dense(4, name="head")(scan(name="layers")(x)[0])


class Member(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4, name="out")(nn.relu(nn.Dense(7, name="hidden")(x)))


class Ensemble(nn.Module):
    @nn.compact
    def __call__(self, x, deterministic=False):
        members = nn.vmap(
            Member,
            in_axes=None,
            axis_size=3,
            variable_axes={"params": 0},
            split_rngs={"params": True},
        )
        return members(name="members")(x)


class WeightNormed(nn.Module):
    """The scale's name is "Dense_0/kernel/scale", with slashes."""

    @nn.compact
    def __call__(self, x, deterministic=False):
        eps = epsilon(1e-12)
        x = nn.relu(nn.WeightNorm(nn.Dense(9), epsilon=eps)(x))
        return nn.WeightNorm(nn.Dense(4, use_bias=False), epsilon=eps)(x)


def from_nnx(build, *inputs):
    return lambda: (in_nnx.built(lambda: build(nnx.Rngs(0))), None, inputs)


def from_linen(module, *inputs):
    return lambda: in_linen.built(module, *inputs)
