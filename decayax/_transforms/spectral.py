r"""Decay of the largest singular values: u + λσ₁u₁v₁ᵀ, or what exceeds a cap.

A matrix is the last two axes of a parameter; other axes stack matrices.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from decayax._core.paths import Path
from decayax._core.strength import (
    as_strength,
    NUMBER_HINT,
    Scalar,
    ScalarOrSchedule,
    short_repr,
)
from decayax._transforms.geometry import ArrayLeaf, norm, ratio, times_real
from decayax._transforms.kernel import Leaf, pull
from decayax.masks._resolve import MaskOrFn


AT_INIT = 100  # power iterations before the first update


def as_matrix(x: ArrayLeaf) -> ArrayLeaf:
    """A vector or a number as a matrix of one column: σ₁ is its norm."""
    return x if x.ndim > 1 else x.reshape(-1, 1)


def spectral_norm(x: ArrayLeaf) -> jax.Array:
    """The largest singular value of each matrix; the axes of the parameter are kept."""
    values = jnp.linalg.svd(as_matrix(x), compute_uv=False)
    return values[..., :1, None] if x.ndim > 1 else values.reshape((1,) * x.ndim)


def matrix_norm_shape(path: Path, x: ArrayLeaf) -> tuple[int, ...]:
    """The shape of `spectral_norm`."""
    return (*x.shape[:-2], *(1,) * min(x.ndim, 2))


def start_vector(path: Path, x: ArrayLeaf) -> jax.Array:
    """The singular vector of each matrix at init."""
    shape = as_matrix(x).shape
    # Not orthogonal to a singular vector, except by chance; not symmetric, like ones.
    column = jnp.cos(jnp.arange(shape[-1], dtype=jnp.finfo(x.dtype).dtype))[:, None]
    vector = jnp.broadcast_to(column, (*shape[:-2], *column.shape)).astype(x.dtype)
    return power_iteration(as_matrix(x), vector, AT_INIT)


def power_iteration(x: ArrayLeaf, vector: jax.Array, iterations: int) -> jax.Array:
    """v ← xᴴxv/‖xᴴxv‖, which converges to the first right singular vector."""

    def improved(_: int, vector: jax.Array) -> jax.Array:
        # Each factor is normalized: a product of both would leave the range of float32.
        new = of_length_one(adjoint(x) @ of_length_one(x @ vector))
        # A matrix of zeros, such as LoRA's B at init, must not erase the vector.
        return jnp.where(norm(new, (-2,)) == 0, vector, new)

    return jax.lax.fori_loop(0, iterations, improved, vector)


def of_length_one(vector: jax.Array) -> jax.Array:
    """v/‖v‖, or 0."""
    size = norm(vector, (-2,))
    return times_real(ratio(jnp.ones_like(size), size), vector)


def norm_along(x: ArrayLeaf, vector: jax.Array) -> jax.Array:
    """‖xv‖: the largest singular value, for its singular vector."""
    size = norm(as_matrix(x) @ vector.astype(x.dtype), (-2,))
    return size if x.ndim > 1 else size.reshape((1,) * x.ndim)


def adjoint(x: ArrayLeaf) -> ArrayLeaf:
    """xᴴ."""
    return jnp.conj(jnp.swapaxes(x, -1, -2))


def without_large_values(x: ArrayLeaf, cap: jax.Array | None) -> ArrayLeaf:
    """U·max(σ − c, 0)·Vᵀ: what exceeds the cap; without one, σ₁u₁v₁ᵀ."""
    left, values, right = jnp.linalg.svd(x, full_matrices=False)
    if cap is None:
        excess = jnp.where(jnp.arange(values.shape[-1]) == 0, values, 0)
    else:
        excess = jnp.maximum(values - cap, 0)
    return (left * excess[..., None, :].astype(x.dtype)) @ right


def spectral_decay(
    weight_decay: ScalarOrSchedule,
    *,
    cap: Scalar | None = None,
    iterations: int | None = None,
    mask: MaskOrFn = None,
    learning_rate: ScalarOrSchedule | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Decay of the largest singular value of each matrix, or of what exceeds a cap.

    .. math:: u_t \leftarrow u_t + \lambda_t\, m\, \sigma_1 u_1 v_1^\top
        \qquad\text{or}\qquad u_t \leftarrow u_t + \lambda_t\, m\,
        U \max(\Sigma - c, 0) V^\top

    Put it **after the preconditioner and before the learning rate**. It bounds how much
    a layer can amplify its input, and leaves the other directions to the gradient.

    Args:
        weight_decay: :math:`\lambda`, as for :func:`decoupled_decay`.
        cap: :math:`c`: only what exceeds it decays, for all singular values. None: the
            largest singular value decays to 0.
        iterations: find :math:`v_1` with so many steps of the power iteration, which go
            on from that of the last update; 100 at init. 1 or 2 are enough while the
            weights change slowly. None: a singular value decomposition in each update,
            which is exact, and slow for large matrices. Not together with ``cap``.
        mask: :math:`m`, as for :func:`decoupled_decay`. The last two axes are a matrix,
            other axes stack matrices. A vector is a matrix of one column, so its whole
            norm decays: exclude biases and norms.
        learning_rate: as for :func:`cautious_decay`: with it, the decay stands behind a
            finished optimizer.

    Returns:
        A transform, as for :func:`decoupled_decay`. With ``iterations`` its state holds
        a vector for each matrix.

    Example:
        >>> import optax, decayax as dx, jax.numpy as jnp
        >>> opt = optax.chain(dx.spectral_decay(0.1), optax.scale(-1.0))
        >>> params = jnp.diag(jnp.array([3.0, 1.0]))
        >>> updates, _ = opt.update(jnp.zeros((2, 2)), opt.init(params), params)
        >>> print(params + updates)
        [[2.7 0. ]
         [0.  1. ]]

    Reference:
        Newhouse et al., https://arxiv.org/abs/2507.13338 (spectral weight decay);
        NVIDIA Emerging Optimizers, pull request 38 (spectrally clipped decay).
    """
    name = "spectral_decay"
    if cap is not None:
        cap = as_strength(name, "cap", cap, NUMBER_HINT)
        if iterations is not None:
            raise ValueError(
                f"{name}: a power iteration finds one singular value, but cap= acts on "
                "all of them. Leave out iterations=."
            )

    def direction(leaf: Leaf) -> ArrayLeaf:
        x = as_matrix(leaf.param)
        if iterations is not None:
            v = leaf.memory["vector"].astype(x.dtype)
            pulled = (x @ v) @ adjoint(v)
        else:
            limit = None if cap is None else jnp.asarray(cap, leaf.rate.dtype)
            pulled = without_large_values(x, limit)
        return pulled.reshape(leaf.param.shape)

    return pull(
        name,
        weight_decay,
        mask,
        learning_rate=learning_rate,
        direction=direction,
        **vector_memory(name, iterations, lambda leaf: leaf.param),
    )


def vector_memory(
    name: str, iterations: int | None, matrix: Callable[[Leaf], ArrayLeaf]
) -> dict[str, Any]:
    """The options of a method that keeps the vector of a power iteration."""
    if iterations is None:
        return {}
    is_count = isinstance(iterations, int) and not isinstance(iterations, bool)
    if not is_count or iterations < 1:
        raise ValueError(
            f"{name}: iterations must be an integer >= 1, got "
            f"{short_repr(iterations)}. Pass None for a singular value decomposition."
        )

    def follow(leaf: Leaf) -> dict[str, jax.Array]:
        x = as_matrix(matrix(leaf))
        vector = leaf.memory["vector"].astype(x.dtype)
        return {"vector": power_iteration(x, vector, iterations)}

    return {"remember": {"vector": start_vector}, "refresh": follow}
