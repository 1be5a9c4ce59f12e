"""Modules of Equinox. Layers take one example, so `batched` maps over the others."""

from functools import partial
from types import SimpleNamespace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from symmetric.in_nnx import filled, wide
from symmetric.model import epsilon


class Net(eqx.Module):
    layers: dict[str, Any]
    forward: Any = eqx.field(static=True)

    def __call__(self, *inputs):
        """The inputs are followed by the state of BatchNorm."""
        *inputs, state = inputs
        calls = {name: batched(layer, state) for name, layer in self.layers.items()}
        calls |= {
            f"{name}_attend": lambda x, w=layer.weight: x @ w.T
            for name, layer in self.layers.items()
            if isinstance(layer, eqx.nn.Embedding)
        }
        return self.forward(SimpleNamespace(**calls), *inputs)


def batched(layer, state):
    if isinstance(layer, jax.Array) or layer is None:
        return layer
    if isinstance(layer, eqx.nn.BatchNorm):
        copy = jax.tree.map(lambda x: x, state)  # Equinox refuses a state that was used
        call = jax.vmap(lambda x: layer(x, copy)[0], axis_name="batch")
        return over_images(call, lambda f: f)
    if isinstance(layer, eqx.nn.Conv2d | eqx.nn.GroupNorm):
        return over_images(layer, jax.vmap)
    if isinstance(layer, eqx.nn.MultiheadAttention):
        return jax.vmap(lambda x: layer(x, x, x))
    if isinstance(layer, eqx.nn.LSTMCell):
        return lambda carry, x: (out := jax.vmap(layer)(x, carry), out[0])
    if isinstance(layer, eqx.nn.GRUCell):
        return lambda carry, x: (out := jax.vmap(layer)(x, carry), out)
    if isinstance(layer, eqx.nn.Dropout | eqx.nn.PReLU):
        return layer
    dimensions = 0 if isinstance(layer, eqx.nn.Embedding) else 1

    def call(x):
        one = layer
        for _ in range(x.ndim - dimensions):
            one = jax.vmap(one)
        return one(x)

    return call


def over_images(call, lift):
    """NHWC in and out; the layer takes CHW."""
    return lambda x: jnp.moveaxis(lift(call)(jnp.moveaxis(x, -1, 1)), 1, -1)


def layer(key, kind, *sizes):
    eps = epsilon(1e-5)
    conv = partial(eqx.nn.Conv2d, kernel_size=3, padding=1, key=key)
    attention = {
        f"use_{name}_bias": True for name in ("query", "key", "value", "output")
    }
    makers = {
        "param": lambda: jnp.zeros(sizes),
        "linear": lambda: eqx.nn.Linear(*sizes, key=key),
        "linear_no_bias": lambda: eqx.nn.Linear(*sizes, use_bias=False, key=key),
        "conv": lambda: conv(*sizes),
        "conv_no_bias": lambda: conv(*sizes, use_bias=False),
        "layer_norm": lambda: eqx.nn.LayerNorm(*sizes, eps=eps),
        "rms_norm": lambda: eqx.nn.RMSNorm(*sizes, eps=eps, use_bias=False),
        "batch_norm": lambda: eqx.nn.BatchNorm(*sizes, "batch", eps=eps, mode="batch"),
        "group_norm": lambda: eqx.nn.GroupNorm(sizes[1], sizes[0], eps=eps),
        "embed": lambda: eqx.nn.Embedding(*sizes, key=key),
        "prelu": lambda: eqx.nn.PReLU(),
        "dropout": lambda: eqx.nn.Dropout(*sizes),
        "attention": lambda: eqx.nn.MultiheadAttention(
            sizes[1], sizes[0], dropout_p=0.1, key=key, **attention
        ),
        "attention_no_bias": lambda: eqx.nn.MultiheadAttention(
            sizes[1], sizes[0], key=key
        ),
        "lstm": lambda: eqx.nn.LSTMCell(*sizes, key=key),
        "gru": lambda: eqx.nn.GRUCell(*sizes, key=key),
    }
    return makers[kind]()


def make(architecture):
    def build():
        layers = {
            name: layer(jax.random.key(i), *spec)
            for i, (name, spec) in enumerate(architecture.layers.items())
        }
        return Net(layers, architecture.forward)

    module, state = built(eqx.nn.make_with_state(build))
    return module, None, (*architecture.inputs, state)


def built(build, *arguments):
    """The module with the values of `filled`: no initializer is compiled."""
    shapes, static = eqx.partition(
        eqx.filter_eval_shape(build, *arguments),
        lambda x: isinstance(x, jax.ShapeDtypeStruct),
    )
    return eqx.combine(filled(shapes), static)


def function_of(module, _, inputs):
    def off(node):
        is_dropout = isinstance(node, eqx.nn.Dropout)
        return eqx.tree_at(lambda d: d.inference, node, True) if is_dropout else node

    module = jax.tree.map(
        off, module, is_leaf=lambda node: isinstance(node, eqx.nn.Dropout)
    )
    params, static = eqx.partition(module, eqx.is_inexact_array)
    inputs = jax.tree.map(wide, inputs)
    return (lambda params: eqx.combine(params, static)(*inputs)), params


NAMES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}
NAMES |= {"query": "query_proj", "key": "key_proj", "value": "value_proj"}
NAMES |= {"out": "output_proj"}


def rename(path, layers):
    first, *others = path.split("/")
    return "/".join(["layers", first, *(NAMES.get(name, name) for name in others)])


def output_axes(kind, sizes):
    return (len(sizes) - 1,) if kind == "param" else (0,)
