"""Residual networks for small images: He et al. (2015), section 4.2, with GroupNorm.

Three stages of `blocks` residual blocks of two convolutions each, hence of depth
6 · blocks + 2; each stage after the first halves the image and doubles the channels:

    x <- relu(x + norm(conv(relu(norm(conv(x))))))

Where the shape changes, x goes through a 1 x 1 convolution and a norm. GroupNorm in
place of BatchNorm leaves no state beside the parameters.
"""

import jax
from flax import nnx

from experiments.models.conv import Conv
from experiments.models.model import AnyModel, from_nnx


STAGES = 3
GROUPS = 4  # of channels in every GroupNorm


class ResidualBlock(nnx.Module):
    """Two convolutions around which the input goes."""

    def __init__(self, inputs: int, width: int, strides: int, *, rngs: nnx.Rngs):
        self.conv1 = conv(inputs, width, 3, strides, rngs)
        self.norm1 = nnx.GroupNorm(width, GROUPS, rngs=rngs)
        self.conv2 = conv(width, width, 3, 1, rngs)
        self.norm2 = nnx.GroupNorm(width, GROUPS, rngs=rngs)
        self.projects = inputs != width
        if self.projects:
            self.conv3 = conv(inputs, width, 1, strides, rngs)
            self.norm3 = nnx.GroupNorm(width, GROUPS, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = jax.nn.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return jax.nn.relu(y + (self.norm3(self.conv3(x)) if self.projects else x))


class ResNet(nnx.Module):
    """A convolution, the stages, the mean over the image, a linear head."""

    def __init__(
        self, classes: int, channels: int, width: int, blocks: int, *, rngs: nnx.Rngs
    ):
        self.conv = conv(channels, width, 3, 1, rngs)
        self.norm = nnx.GroupNorm(width, GROUPS, rngs=rngs)
        widths = [width * 2**stage for stage in range(STAGES) for _ in range(blocks)]
        pairs = zip([width, *widths], widths, strict=False)
        self.blocks = nnx.List(
            [ResidualBlock(a, b, b // a, rngs=rngs) for a, b in pairs]
        )
        self.head = nnx.Linear(widths[-1], classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x[..., None] if x.ndim == 3 else x
        x = jax.nn.relu(self.norm(self.conv(x)))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((1, 2)))


def conv(inputs: int, outputs: int, size: int, strides: int, rngs: nnx.Rngs) -> Conv:
    """A convolution without bias, since a norm with one follows."""
    return Conv(inputs, outputs, (size, size), strides, use_bias=False, rngs=rngs)


def resnet(
    classes: int, channels: int = 1, width: int = 8, blocks: int = 1
) -> AnyModel:
    """ResNet-(6 · blocks + 2): images [B, H, W] or [B, H, W, channels] to classes.

    `width` counts the channels of the first stage, a multiple of 4.
    """
    return from_nnx(lambda rngs: ResNet(classes, channels, width, blocks, rngs=rngs))
