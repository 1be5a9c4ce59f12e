"""Equinox modules as users write them."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from symmetric.in_equinox import built
from symmetric.model import epsilon


class Batched(eqx.Module):
    inner: Any

    def __call__(self, x):
        return jax.vmap(self.inner)(x)


def mlp(key):
    return Batched(eqx.nn.MLP(6, 4, width_size=7, depth=2, key=key))


def convolutions(key):
    """Instance norm is a GroupNorm with one channel in each group."""
    one, two, three = jax.random.split(key, 3)

    def norm(channels):
        return eqx.nn.GroupNorm(
            channels, channels, channelwise_affine=False, eps=epsilon(1e-5)
        )

    layers = [
        eqx.nn.Conv2d(3, 5, 3, key=one),
        norm(5),
        eqx.nn.Lambda(jax.nn.relu),
        eqx.nn.Dropout(0.3),
        eqx.nn.Conv2d(5, 6, 2, use_bias=False, key=two),
        norm(6),
        eqx.nn.Lambda(jax.nn.leaky_relu),
        eqx.nn.Lambda(lambda x: x.mean((1, 2))),
        eqx.nn.Linear(6, 4, key=three),
    ]
    return Batched(eqx.nn.Sequential(layers))


class WeightNormed(eqx.Module):
    one: eqx.nn.WeightNorm
    two: eqx.nn.WeightNorm

    def __init__(self, key):
        self.one = eqx.nn.WeightNorm(eqx.nn.Linear(6, 9, key=key))
        self.two = eqx.nn.WeightNorm(eqx.nn.Linear(9, 4, use_bias=False, key=key))

    def __call__(self, x):
        return jax.vmap(lambda y: self.two(jax.nn.relu(self.one(y))))(x)


class Tied(eqx.Module):
    """The embedding and the head share one array: `eqx.nn.Shared`."""

    shared: eqx.nn.Shared
    norm: eqx.nn.RMSNorm
    mlp: eqx.nn.MLP
    final: eqx.nn.RMSNorm

    def __init__(self, key):
        pair = eqx.nn.Embedding(11, 8, key=key), eqx.nn.Linear(8, 11, key=key)
        self.shared = eqx.nn.Shared(pair, lambda p: p[1].weight, lambda p: p[0].weight)
        self.norm, self.final = (
            eqx.nn.RMSNorm(8, eps=epsilon(1e-6), use_bias=False) for _ in range(2)
        )
        self.mlp = eqx.nn.MLP(8, 8, 10, 1, jax.nn.gelu, key=key)

    def __call__(self, ids):
        embedding, head = self.shared()

        def logits(token):
            x = embedding(token)
            return head(self.final(x + self.mlp(self.norm(x))))

        return jax.vmap(jax.vmap(logits))(ids)


class Block(eqx.Module):
    """x + down(relu(up(LN(x)))), with attention before it."""

    norm1: eqx.nn.LayerNorm
    attention: eqx.nn.MultiheadAttention
    norm2: eqx.nn.LayerNorm
    up: eqx.nn.Linear
    down: eqx.nn.Linear

    def __init__(self, key):
        one, two, three = jax.random.split(key, 3)
        eps = epsilon(1e-5)
        self.norm1, self.norm2 = (eqx.nn.LayerNorm(8, eps=eps) for _ in range(2))
        self.attention = eqx.nn.MultiheadAttention(
            2, 8, use_query_bias=True, use_key_bias=True, dropout_p=0.1, key=one
        )
        self.up = eqx.nn.Linear(8, 10, key=two)
        self.down = eqx.nn.Linear(10, 8, key=three)

    def __call__(self, x):
        h = jax.vmap(self.norm1)(x)
        x = x + self.attention(h, h, h)
        h = jax.vmap(lambda y: jax.nn.relu(self.up(self.norm2(y))))(x)
        return x + jax.vmap(self.down)(h)


class Scanned(eqx.Module):
    embedding: eqx.nn.Linear
    blocks: Block
    norm: eqx.nn.LayerNorm
    head: eqx.nn.Linear

    def __init__(self, key):
        one, two, three = jax.random.split(key, 3)
        self.embedding = eqx.nn.Linear(6, 8, key=one)
        self.blocks = eqx.filter_vmap(Block)(jax.random.split(two, 3))
        self.norm = eqx.nn.LayerNorm(8, eps=epsilon(1e-5))
        self.head = eqx.nn.Linear(8, 4, key=three)

    def __call__(self, x):
        dynamic, static = eqx.partition(self.blocks, eqx.is_array)

        def body(h, block):
            return eqx.combine(block, static)(h), None

        def one(x):
            h = jax.lax.scan(body, jax.vmap(self.embedding)(x), dynamic)[0]
            return jax.vmap(lambda y: self.head(self.norm(y)))(h)

        return jax.vmap(one)(x)


class Ensemble(eqx.Module):
    members: eqx.nn.MLP

    def __init__(self, key):
        @eqx.filter_vmap
        def make(key):
            return eqx.nn.MLP(6, 4, 7, 1, use_final_bias=False, key=key)

        self.members = make(jax.random.split(key, 3))

    def __call__(self, x):
        @eqx.filter_vmap(in_axes=(eqx.if_array(0), None))
        def each(member, x):
            return jax.vmap(member)(x)

        return jnp.mean(each(self.members, x), 0)


def from_equinox(build, *inputs):
    return lambda: (built(build, jax.random.key(0)), None, inputs)
