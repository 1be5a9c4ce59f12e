"""Norms and inner products of leaves: over all axes or some, real or complex.

Reductions keep their axes, so that the result broadcasts against the leaf. They are
real, and 0 has a finite derivative.
"""

from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact

from decayax._core.strength import Strength


ArrayLeaf: TypeAlias = Inexact[Array, "*shape"]
Axes: TypeAlias = tuple[int, ...] | None  # of a reduction; None: all


def times_real(factor: jax.Array, x: ArrayLeaf) -> ArrayLeaf:
    """A real factor times an array that may be complex, under strict promotion too."""
    return factor.astype(x.dtype) * x


def inner(x: jax.Array, y: jax.Array, axes: Axes = None) -> jax.Array:
    """⟨x, y⟩ = Σ Re(x̄ y) over the axes, which are kept."""
    return jnp.sum(real_product(x, y), axes, keepdims=True)


def real_product(x: jax.Array, y: jax.Array) -> jax.Array:
    """Re(x̄ y), element by element: its sign says whether both point the same way."""
    if jnp.iscomplexobj(x):
        return jnp.real(x) * jnp.real(y) + jnp.imag(x) * jnp.imag(y)
    return x * y


def norm(x: jax.Array, axes: Axes = None) -> jax.Array:
    """‖x‖ over the axes, which are kept."""
    return safe_sqrt(inner(x, x, axes))


def magnitude(x: ArrayLeaf) -> jax.Array:
    """|x|, element by element."""
    return safe_sqrt(real_product(x, x)) if jnp.iscomplexobj(x) else jnp.abs(x)


def safe_sqrt(x: jax.Array) -> jax.Array:
    """√x with the derivative 0 at 0."""
    is_zero = x == 0  # NaN is not: it must show
    return jnp.where(is_zero, 0, jnp.sqrt(jnp.where(is_zero, 1, x)))


def ratio(x: jax.Array, y: jax.Array, otherwise: float = 0.0) -> jax.Array:
    """x/y for y ≥ 0; where y is 0, another value."""
    is_zero = y == 0
    quotient = x / jnp.where(is_zero, 1, y)
    return jnp.where(is_zero, jnp.asarray(otherwise, y.dtype), quotient)


def averaged(beta: Strength, old: ArrayLeaf, new: ArrayLeaf) -> ArrayLeaf:
    """βa + (1 − β)x, an exponential moving average."""
    kept = jnp.asarray(beta, jnp.finfo(old.dtype).dtype)
    return times_real(kept, old) + times_real(1 - kept, new.astype(old.dtype))
