"""Layers of the plain models. A norm divides by a scale, so its output has degree 0."""

import jax
import jax.numpy as jnp
from jax import lax

from symmetric.model import epsilon


def rms_norm(x, gain=None, eps=1e-6):
    y = x * lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + epsilon(eps))
    return y if gain is None else y * gain


def layer_norm(x, gain=None, shift=None, eps=1e-5):
    centered = x - jnp.mean(x, -1, keepdims=True)
    y = centered / jnp.sqrt(jnp.var(x, -1, keepdims=True) + epsilon(eps))
    y = y if gain is None else y * gain
    return y if shift is None else y + shift


def unit(x, axis=-1, eps=1e-12):
    norm = jnp.sqrt(jnp.sum(x**2, axis, keepdims=True))
    return x / jnp.maximum(norm, epsilon(eps))


def standardize(x, axes, eps=1e-5):
    """Batch norm: axes (0, 1, 2) of NHWC. Instance norm: (1, 2). Weights: (0, 1, 2)."""
    centered = x - jnp.mean(x, axes, keepdims=True)
    return centered * lax.rsqrt(jnp.var(x, axes, keepdims=True) + epsilon(eps))


def group_norm(x, groups, eps=1e-5):
    grouped = x.reshape(*x.shape[:-1], groups, -1)
    return standardize(grouped, (1, 2, 4), eps).reshape(x.shape)


def conv(x, kernel, bias=None, padding="SAME", groups=1):
    y = lax.conv_general_dilated(
        x.astype(kernel.dtype),
        kernel,
        window_strides=(1, 1),
        padding=padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )
    return y if bias is None else y + bias


def attend(query, key, value):
    """(batch, length, heads, depth) each; the scale 1/sqrt(depth) is a constant."""
    scores = jnp.einsum("bqhk,bthk->bhqt", query, key) / jnp.sqrt(1.0 * key.shape[-1])
    return jnp.einsum("bhqt,bthk->bqhk", jax.nn.softmax(scores), value)


def heads(x, kernel, bias=None):
    y = jnp.einsum("btd,dhk->bthk", x, kernel)
    return y if bias is None else y + bias


def merge(x, kernel, bias=None):
    y = jnp.einsum("bthk,hkd->btd", x, kernel)
    return y if bias is None else y + bias
