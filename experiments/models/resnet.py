"""A small ResNet with BatchNorm for square images with one channel.

    x <- silu(x + norm(conv(silu(norm(conv(x))))))

The convolutions have biases, as Flax makes them. BatchNorm subtracts them again. SiLU
is not homogeneous, so the network depends on the scale of gains and shifts.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.models.model import AnyModel, from_nnx


def convolve(x: jax.Array, kernel: jax.Array, *_: Any, **__: Any) -> jax.Array:
    """A convolution with stride 1 and zero padding, as one matrix product.

    On small images XLA's convolution takes eight times as long on a CPU.
    """
    height, width = kernel.shape[:2]  # odd
    rows, columns = x.shape[1:3]
    x = jnp.pad(x, [(0, 0), (height // 2,) * 2, (width // 2,) * 2, (0, 0)])
    windows = [
        x[:, i : i + rows, j : j + columns] for i in range(height) for j in range(width)
    ]
    return jnp.concatenate(windows, -1) @ kernel.reshape(-1, kernel.shape[-1])


class ConvNorm(nnx.Module):
    """A convolution of 3 x 3 pixels, then BatchNorm."""

    def __init__(self, inputs: int, outputs: int, eps: float, *, rngs: nnx.Rngs):
        self.conv = nnx.Conv(
            inputs, outputs, (3, 3), conv_general_dilated=convolve, rngs=rngs
        )
        self.norm = nnx.BatchNorm(outputs, epsilon=eps, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.norm(self.conv(x))


class ResNet(nnx.Module):
    """A first convolution, residual blocks, the mean over the pixels, a head."""

    def __init__(
        self, width: int, blocks: int, classes: int, eps: float, *, rngs: nnx.Rngs
    ):
        layer = functools.partial(ConvNorm, outputs=width, eps=eps, rngs=rngs)
        self.first = layer(1)
        self.blocks = nnx.List(
            [nnx.List([layer(width), layer(width)]) for _ in range(blocks)]
        )
        self.head = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        side = math.isqrt(x[0].size)
        x = jax.nn.silu(self.first(x.reshape(-1, side, side, 1)))
        for one, two in self.blocks:
            x = jax.nn.silu(x + two(jax.nn.silu(one(x))))
        return self.head(x.mean((1, 2)))


def resnet(width: int, blocks: int, classes: int, eps: float = 1e-5) -> AnyModel:
    """Flattened square images, [B, side²], to logits [B, classes]."""
    return from_nnx(lambda rngs: ResNet(width, blocks, classes, eps, rngs=rngs))
