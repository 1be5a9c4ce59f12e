"""Modules of Flax NNX."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from symmetric.model import epsilon


class Net(nnx.Module):
    def __init__(self, layers, forward):
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.names = tuple(layers)
        self.forward = forward

    def __call__(self, *inputs):
        calls = {name: getattr(self, name) for name in self.names}
        calls |= {
            f"{name}_attend": layer.attend
            for name, layer in calls.items()
            if isinstance(layer, nnx.Embed)
        }
        calls |= {
            name: leaf[...]
            for name, leaf in calls.items()
            if isinstance(leaf, nnx.Param)
        }
        return self.forward(SimpleNamespace(**calls), *inputs)


def layer(rngs, kind, *sizes):
    eps = epsilon(1e-5)
    if kind == "param":
        return nnx.Param(jnp.zeros(sizes))
    if kind == "dropout":
        return nnx.Dropout(*sizes, rngs=rngs)
    if kind == "prelu":
        return nnx.PReLU()
    if kind.startswith("attention"):
        width, heads = sizes
        bias = kind == "attention"
        return nnx.MultiHeadAttention(
            heads, width, decode=False, use_bias=bias, dropout_rate=0.1, rngs=rngs
        )
    if kind == "group_norm":
        return nnx.GroupNorm(sizes[0], sizes[1], epsilon=eps, rngs=rngs)
    makers = {
        "linear": nnx.Linear,
        "linear_no_bias": partial(nnx.Linear, use_bias=False),
        "conv": partial(nnx.Conv, kernel_size=(3, 3)),
        "conv_no_bias": partial(nnx.Conv, kernel_size=(3, 3), use_bias=False),
        "layer_norm": partial(nnx.LayerNorm, epsilon=eps),
        "rms_norm": partial(nnx.RMSNorm, epsilon=eps),
        "batch_norm": partial(nnx.BatchNorm, epsilon=eps),
        "embed": partial(nnx.Embed, dtype=jax.dtypes.canonicalize_dtype(float)),
        "lstm": nnx.LSTMCell,
        "gru": nnx.GRUCell,
    }
    return makers[kind](*sizes, rngs=rngs)


def make(architecture):
    def build():
        rngs = nnx.Rngs(0)
        specs = architecture.layers.items()
        return Net({n: layer(rngs, *spec) for n, spec in specs}, architecture.forward)

    return built(build), None, architecture.inputs


def built(build):
    """The module with the values of `filled`: no initializer is compiled."""
    module = nnx.eval_shape(build)
    nnx.update(module, filled(nnx.state(module)))
    return module


def filled(shapes):
    """Random leaves: no bias is 0, no gain is 1, and integers are 0."""
    generator = np.random.default_rng(5)

    def leaf(path, x):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.key(0)
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return jnp.zeros(x.shape, x.dtype)
        is_gain = x.ndim < 2 and "bias" not in jax.tree_util.keystr(path)
        values = 1.0 * is_gain + 0.3 * generator.normal(size=x.shape)
        return jnp.asarray(values, x.dtype)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def function_of(module, _, inputs):
    inputs = jax.tree.map(wide, inputs)
    graph, params, others = nnx.split(module, nnx.Param, ...)

    def function(params):
        # A copy of the statistics: the module writes to them while JAX traces.
        copy = nnx.merge(graph, params, jax.tree.map(wide, others))
        copy.set_attributes(deterministic=True, raise_if_not_found=False)
        return copy(*inputs)

    return function, params


def wide(x):
    """Float64 if x64 is enabled: the statistics of float64 data."""
    return jnp.asarray(x, float) if jnp.issubdtype(x.dtype, jnp.floating) else x


def rename(path, layers):
    return path


def output_axes(kind, sizes):
    return (3,) if kind.startswith("conv") else (len(sizes) - 1,)
