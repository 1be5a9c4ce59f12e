"""Architectures that NNX, Linen and Equinox share: layers, a forward pass, the truth.

The forward pass calls the layers of `m` on batches; images are NHWC. The paths have the
names of NNX and Linen. A leaf is invariant as a "whole" or per "output" of its layer.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from symmetric.layers import unit
from symmetric.model import data, Exponents, group, tokens


Layer = tuple[Any, ...]  # the kind and its sizes
GELU, RELU = jax.nn.gelu, jax.nn.relu


@dataclasses.dataclass(frozen=True)
class Architecture:
    name: str
    layers: dict[str, Layer]
    forward: Callable[..., Any]
    inputs: tuple[jax.Array, ...]
    groups: tuple[Exponents, ...] = ()
    invariant: dict[str, str] = dataclasses.field(default_factory=dict)
    dead: str = ""


def leaves_of(names: str, *kinds: str) -> str:
    """All "kernel" and "bias" (or other) leaves of the layers, as one text."""
    return " ".join(f"{n}/{k}" for n in names.split() for k in kinds)


def whole(name: str) -> str:
    return leaves_of(name, "kernel", "bias")


def norm(name: str) -> str:
    return leaves_of(name, "scale", "bias")


IMAGES, FEATURES = data(8, 6, 4, 3), data(8, 5)
CNN = dict(conv1=("conv", 3, 6), conv2=("conv", 6, 8))
CNN |= dict(fc=("linear", 8, 4), drop=("dropout", 0.3))
IDS = tokens(8, 5, 11)
DENSE = dict(fc1=("linear", 5, 7), fc2=("linear", 7, 9), fc3=("linear", 9, 4))
DENSE_NO_BIAS = {n: ("linear_no_bias", *sizes) for n, (_, *sizes) in DENSE.items()}


def relu_mlp(m, x):
    return m.fc3(RELU(m.fc2(RELU(m.fc1(x)))))


def gelu_mlp(m, x):
    return m.fc3(GELU(m.fc2(GELU(m.fc1(x)))))


def prelu_mlp(m, x):
    return m.fc2(m.act(m.fc1(x)))


def normed_mlp(m, x):
    h = m.drop(RELU(m.norm1(m.fc1(x))))
    return m.fc3(RELU(m.norm2(m.fc2(h))))


def pooling_cnn(m, x):
    h = RELU(m.conv1(x))
    h = lax.reduce_window(h, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return m.fc(m.drop(RELU(m.conv2(h)).mean((1, 2))))


def normed_cnn(m, x):
    h = RELU(m.norm1(m.conv1(x)))
    h = RELU(m.norm2(m.conv2(h)))
    return m.fc(m.drop(h.mean((1, 2))))


def residual_batch_norm(m, x):
    h = RELU(m.norm0(m.stem(x)))
    h = RELU(h + m.norm2(m.conv2(RELU(m.norm1(m.conv1(h))))))
    return m.fc(h.mean((1, 2)))


def squeeze_excite(m, x):
    h = RELU(m.conv(x))
    gate = jax.nn.sigmoid(m.fc2(RELU(m.fc1(h.mean((1, 2))))))
    return m.head((h * gate[:, None, None]).mean((1, 2)))


def lora(m, x):
    return m.head(RELU(m.fc(x) + x @ m.a @ m.b))


def weight_norm(m, x):
    h = RELU(x @ (m.gain1 * unit(m.v1, 0)))
    return h @ (m.gain2 * unit(m.v2, 0))


def reglu(m, x):
    return m.down(RELU(m.gate(x)) * m.up(x))


def cosine_loss(m, x):
    """A scalar: the mean distance of the features to a class vector, by angle."""
    features = unit(m.fc2(RELU(m.fc1(x))))
    return jnp.mean(jnp.square(m.sharpness * features @ unit(m.classes, 0) - 1.0))


ARCHITECTURES = [
    # b1 = w1, b2 = w1 + w2, w1 + w2 + w3 = 0 = b3.
    Architecture(
        "relu_mlp",
        DENSE,
        relu_mlp,
        (FEATURES,),
        (
            group("fc1/kernel fc1/bias fc2/bias", "fc3/kernel"),
            group("fc2/kernel fc2/bias", "fc3/kernel"),
        ),
    ),
    # GELU needs degree 0.
    Architecture("gelu_mlp", DENSE, gelu_mlp, (FEATURES,)),
    # The slope has degree 0.
    Architecture(
        "prelu_mlp",
        dict(fc1=("linear", 5, 7), act=("prelu",), fc2=("linear", 7, 4)),
        prelu_mlp,
        (FEATURES,),
        (group(whole("fc1"), "fc2/kernel"),),
    ),
    # b1 = w1, then a norm; s1 = g1, b2 = g1 + w2, then a norm; s2 = g2 = -w3, b3 = 0.
    Architecture(
        "layer_norm_mlp",
        DENSE
        | dict(norm1=("layer_norm", 7), norm2=("layer_norm", 9), drop=("dropout", 0.5)),
        normed_mlp,
        (FEATURES,),
        (
            group(whole("fc1")),
            group(norm("norm1") + " fc2/bias"),
            group(whole("fc2")),
            group(norm("norm2"), "fc3/kernel"),
        ),
    ),
    # A norm follows w1, g1 (through ReLU and w2) and w2; w3 = -g2.
    Architecture(
        "rms_norm_mlp",
        DENSE_NO_BIAS
        | dict(norm1=("rms_norm", 7), norm2=("rms_norm", 9), drop=("dropout", 0.2)),
        normed_mlp,
        (FEATURES,),
        (group("norm2/scale", "fc3/kernel"),),
        {"fc1/kernel": "whole", "norm1/scale": "whole", "fc2/kernel": "whole"},
    ),
    # As with LayerNorm, without shifts.
    Architecture(
        "rms_norm_mlp_bias",
        DENSE
        | dict(norm1=("rms_norm", 7), norm2=("rms_norm", 9), drop=("dropout", 0.2)),
        normed_mlp,
        (FEATURES,),
        (
            group(whole("fc1")),
            group("norm1/scale fc2/bias"),
            group(whole("fc2")),
            group("norm2/scale", "fc3/kernel"),
        ),
    ),
    # Pooling is homogeneous.
    Architecture(
        "pooling_cnn",
        CNN,
        pooling_cnn,
        (IMAGES,),
        (
            group(whole("conv1") + " conv2/bias", "fc/kernel"),
            group(whole("conv2"), "fc/kernel"),
        ),
    ),
    # The norm of a channel removes the filter's scale and the bias.
    Architecture(
        "batch_norm_cnn",
        CNN | dict(norm1=("batch_norm", 6), norm2=("batch_norm", 8)),
        normed_cnn,
        (IMAGES,),
        (group(norm("norm1")), group(norm("norm2"), "fc/kernel")),
        {"conv1/kernel": "output", "conv2/kernel": "output"},
        "conv1/bias conv2/bias",
    ),
    # A norm of several channels: equations of LayerNorm.
    Architecture(
        "group_norm_cnn",
        CNN | dict(norm1=("group_norm", 6, 2), norm2=("group_norm", 8, 4)),
        normed_cnn,
        (IMAGES,),
        (
            group(whole("conv1")),
            group(norm("norm1") + " conv2/bias"),
            group(whole("conv2")),
            group(norm("norm2"), "fc/kernel"),
        ),
    ),
    # The stream has the degree of norm0 and norm2; the head reads it.
    Architecture(
        "residual_batch_norm",
        dict(
            stem=("conv_no_bias", 3, 6),
            norm0=("batch_norm", 6),
            conv1=("conv_no_bias", 6, 8),
            norm1=("batch_norm", 8),
            conv2=("conv_no_bias", 8, 6),
            norm2=("batch_norm", 6),
            fc=("linear", 6, 4),
        ),
        residual_batch_norm,
        (IMAGES,),
        (group(f"{norm('norm0')} {norm('norm2')}", "fc/kernel"), group(norm("norm1"))),
        dict.fromkeys(("stem/kernel", "conv1/kernel", "conv2/kernel"), "output"),
    ),
    # fc1: c1 = k + v1 = -v2. c2 = 0. head = -k.
    Architecture(
        "squeeze_excite",
        dict(
            conv=("conv", 3, 6),
            fc1=("linear", 6, 5),
            fc2=("linear", 5, 6),
            head=("linear", 6, 4),
        ),
        squeeze_excite,
        (IMAGES,),
        (
            group(whole("conv"), "fc1/kernel head/kernel"),
            group(whole("fc1"), "fc2/kernel"),
        ),
    ),
    # w = bias = a + b = -head.
    Architecture(
        "lora",
        dict(
            fc=("linear", 5, 7),
            a=("param", 5, 3),
            b=("param", 3, 7),
            head=("linear", 7, 4),
        ),
        lora,
        (FEATURES,),
        (group("a", "b"), group(whole("fc") + " b", "head/kernel")),
    ),
    # v is invariant per output; the gains replace the kernels.
    Architecture(
        "weight_norm",
        dict(
            v1=("param", 5, 7),
            gain1=("param", 7),
            v2=("param", 7, 4),
            gain2=("param", 4),
        ),
        weight_norm,
        (FEATURES,),
        (group("gain1", "gain2"),),
        {"v1": "output", "v2": "output"},
    ),
    # The ReLU gate is homogeneous: gate + up + down = 0.
    Architecture(
        "reglu",
        dict(gate=("linear", 5, 7), up=("linear", 5, 7), down=("linear", 7, 4)),
        reglu,
        (FEATURES,),
        (
            group(whole("gate"), "down/kernel"),
            group(whole("up"), "down/kernel"),
        ),
    ),
    # Only the angle of the features counts: b1 = w1, b2 = w1 + w2.
    Architecture(
        "cosine_loss",
        dict(
            fc1=("linear", 5, 7),
            fc2=("linear", 7, 9),
            classes=("param", 9, 4),
            sharpness=("param",),
        ),
        cosine_loss,
        (FEATURES,),
        (group(whole("fc1") + " fc2/bias"), group(whole("fc2"))),
        {"classes": "output"},
    ),
]
