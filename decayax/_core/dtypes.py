"""In what precision: float32 inside, the caller's dtypes outside."""

import numbers
from typing import Any

import jax
import jax.numpy as jnp


def compute_dtype(*leaves: Any) -> Any:
    """The dtype to calculate in: float32, or wider (or complex) where a leaf is."""
    dtypes = [dtype_of(leaf) for leaf in leaves]
    wide = [d for d in dtypes if not jnp.issubdtype(d, jnp.floating) or _is_wide(d)]
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(jnp.float32, *wide)


def _is_wide(dtype: Any) -> bool:
    return jnp.finfo(dtype).bits > 32


def dtype_of(leaf: Any) -> Any:
    """The dtype JAX gives to an array or a Python number; the type of anything else."""
    if isinstance(leaf, numbers.Number):
        return jnp.result_type(leaf)
    dtype = getattr(leaf, "dtype", type(leaf))
    numeric = jnp.issubdtype(dtype, jnp.number)
    return jax.dtypes.canonicalize_dtype(dtype) if numeric else dtype


def is_inexact(leaf: Any) -> bool:
    """Whether the leaf holds real or complex floating-point numbers."""
    return jnp.issubdtype(dtype_of(leaf), jnp.inexact)


def cast_like(new: Any, old: Any) -> Any:
    """``new`` in the dtype of ``old``; ``new`` itself where it already is."""
    dtype = dtype_of(old)
    return new if dtype_of(new) == dtype else jnp.asarray(new).astype(dtype)


def widened(leaf: Any) -> Any:
    """A 16-bit (or narrower) float as float32; any other leaf as it is."""
    if not is_inexact(leaf):
        return leaf
    if isinstance(leaf, jax.ShapeDtypeStruct):
        dtype = compute_dtype(leaf)
        return jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=leaf.sharding)
    return jnp.asarray(leaf, compute_dtype(leaf))


def strong(leaf: Any) -> Any:
    """An array of a firm dtype, as it will be after the first update."""
    return jnp.asarray(leaf, leaf.dtype) if isinstance(leaf, jax.Array) else leaf
