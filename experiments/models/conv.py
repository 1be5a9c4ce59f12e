"""A convolution as one matrix product over shifted slices of the image.

    y[h, w, o] = Σ_{i,j,c} x[s·h + i - p, s·w + j - p, c] · kernel[i, j, c, o]

The same parameters and numbers as `nnx.Conv`. XLA's own convolution loses its fast
code inside `scan` on a CPU (jax#12868), and `vmap` over kernels makes it a grouped
convolution (jax#13800); a matrix product stays one in both.
"""

import jax
import jax.numpy as jnp
from flax import nnx


class Conv(nnx.Module):
    """`nnx.Conv` in two dimensions with SAME padding: [B, H, W, in] -> [..., out]."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: tuple[int, int],
        strides: int = 1,
        *,
        use_bias: bool = True,
        rngs: nnx.Rngs,
    ):
        shape = (*kernel_size, in_features, out_features)
        init = nnx.initializers.lecun_normal()
        self.kernel = nnx.Param(init(rngs.params(), shape))
        if use_bias:
            self.bias = nnx.Param(jnp.zeros(out_features))
        self.strides = strides
        self.use_bias = use_bias

    def __call__(self, x: jax.Array) -> jax.Array:
        rows, columns, _, out_features = self.kernel.shape
        seen = patches(x, (rows, columns), self.strides)
        y = seen @ self.kernel.reshape(-1, out_features)
        return y + self.bias[...] if self.use_bias else y


def patches(x: jax.Array, size: tuple[int, int], stride: int) -> jax.Array:
    """What each output sees: [B, ceil(H / stride), ceil(W / stride), kh * kw * C]."""
    height, width = x.shape[1:3]
    rows, columns = -(-height // stride), -(-width // stride)
    above_below = same_padding(height, size[0], stride)
    left_right = same_padding(width, size[1], stride)
    x = jnp.pad(x, ((0, 0), above_below, left_right, (0, 0)))
    shifted = [
        x[:, i : i + stride * rows : stride, j : j + stride * columns : stride]
        for i in range(size[0])
        for j in range(size[1])
    ]
    return jnp.concatenate(shifted, axis=-1)


def same_padding(length: int, size: int, stride: int) -> tuple[int, int]:
    """Zeros before and after: ceil(length / stride) come out, an odd zero goes last."""
    total = max((-(-length // stride) - 1) * stride + size - length, 0)
    return total // 2, total - total // 2
