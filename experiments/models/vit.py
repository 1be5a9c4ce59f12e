"""A small Vision Transformer: an image is a sequence of square patches.

Dosovitskiy et al. (2020), with the mean over the patches in place of a class token, as
in Beyer, Zhai and Kolesnikov (2022).
"""

import jax
from flax import nnx

from experiments.models.attention import Block
from experiments.models.model import from_nnx, Model


class ViT(nnx.Module):
    """Embedded patches plus learned positions, blocks, the mean, a linear head."""

    def __init__(
        self,
        classes: int,
        size: int,
        channels: int,
        patch: int,
        width: int,
        heads: int,
        layers: int,
        *,
        rngs: nnx.Rngs,
    ):
        if size % patch:
            raise ValueError(f"image size {size} is no multiple of patch size {patch}")
        self.patch = nnx.Linear(patch * patch * channels, width, rngs=rngs)
        self.position = nnx.Embed((size // patch) ** 2, width, rngs=rngs)
        self.blocks = nnx.List(
            [Block(width, heads, False, True, rngs=rngs) for _ in range(layers)]
        )
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, classes, rngs=rngs)
        self.patch_size = patch

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x[..., None] if x.ndim == 3 else x
        x = self.patch(cut(x, self.patch_size)) + self.position.embedding[...]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


def cut(x: jax.Array, patch: int) -> jax.Array:
    """Images [B, H, W, C] to patches [B, T, patch * patch * C], row by row."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // patch, patch, width // patch, patch, channels)
    return x.swapaxes(2, 3).reshape(batch, -1, patch * patch * channels)


def vit(
    classes: int,
    size: int,
    channels: int = 1,
    patch: int = 4,
    width: int = 64,
    heads: int = 4,
    layers: int = 2,
) -> Model:
    """Images [B, size, size] or [B, size, size, channels] to classes."""
    return from_nnx(
        lambda rngs: ViT(
            classes, size, channels, patch, width, heads, layers, rngs=rngs
        )
    )
