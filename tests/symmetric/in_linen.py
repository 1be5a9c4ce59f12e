"""Modules of Flax Linen."""

from functools import partial
from types import SimpleNamespace
from typing import Any

import jax
from flax import linen as nn

from symmetric.in_nnx import filled, output_axes as output_axes, rename as rename, wide
from symmetric.model import epsilon


class Net(nn.Module):
    layers: Any
    forward: Any

    def setup(self):
        for name, (kind, *sizes) in self.layers.items():
            if kind == "param":
                made = self.param(name, nn.initializers.zeros, tuple(sizes))
            else:
                made = layer(kind, *sizes)
            setattr(self, name, made)

    def __call__(self, *inputs, deterministic=False):
        calls = {}
        for name, (kind, *_) in self.layers.items():
            call = getattr(self, name)
            if kind == "dropout" or kind.startswith("attention"):
                call = partial(call, deterministic=deterministic)
            if kind == "embed":
                calls[f"{name}_attend"] = call.attend
            calls[name] = call
        return self.forward(SimpleNamespace(**calls), *inputs)


def layer(kind, *sizes):
    eps, width = epsilon(1e-5), sizes[-1] if sizes else 0
    makers = {
        "linear": lambda: nn.Dense(width),
        "linear_no_bias": lambda: nn.Dense(width, use_bias=False),
        "conv": lambda: nn.Conv(width, (3, 3)),
        "conv_no_bias": lambda: nn.Conv(width, (3, 3), use_bias=False),
        "layer_norm": lambda: nn.LayerNorm(epsilon=eps),
        "rms_norm": lambda: nn.RMSNorm(epsilon=eps),
        "batch_norm": lambda: nn.BatchNorm(use_running_average=False, epsilon=eps),
        "group_norm": lambda: nn.GroupNorm(width, epsilon=eps),
        "embed": lambda: nn.Embed(*sizes),
        "prelu": nn.PReLU,
        "dropout": lambda: nn.Dropout(width),
        "attention": lambda: nn.MultiHeadDotProductAttention(width, dropout_rate=0.1),
        "attention_no_bias": lambda: nn.MultiHeadDotProductAttention(
            width, use_bias=False
        ),
        "lstm": lambda: nn.LSTMCell(width),
        "gru": lambda: nn.GRUCell(width),
    }
    return makers[kind]()


def make(architecture):
    return built(Net(architecture.layers, architecture.forward), *architecture.inputs)


def built(module, *inputs):
    key = jax.random.key(0)
    shapes = jax.eval_shape(module.init, {"params": key, "dropout": key}, *inputs)
    return module, filled(shapes), inputs


def function_of(module, variables, inputs):
    inputs = jax.tree.map(wide, inputs)

    def function(params):
        return module.apply(
            variables | {"params": params},
            *inputs,
            deterministic=True,
            mutable=["batch_stats"],
        )[0]

    return function, variables["params"]
