"""Dtypes: arithmetic happens in float32 or wider; results keep the caller's dtypes."""

import functools
import numbers
from typing import Any

import jax
import jax.numpy as jnp


def compute_dtype(*leaves: Any) -> Any:
    """The dtype for arithmetic: float32, or the wider or complex dtype of a leaf."""
    return _compute_dtype(frozenset(map(dtype_of, leaves)))


@functools.cache  # a program has few dtypes and many leaves
def _compute_dtype(dtypes: frozenset[Any]) -> Any:
    wide = [
        dtype
        for dtype in dtypes
        if not jnp.issubdtype(dtype, jnp.floating) or jnp.finfo(dtype).bits > 32
    ]
    # Strict promotion would refuse to combine, for example, float32 and float64.
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(jnp.float32, *wide)


def dtype_of(leaf: Any) -> Any:
    """The dtype that JAX gives to a leaf; for a non-numeric leaf its Python type."""
    if isinstance(leaf, jax.Array):  # most leaves; its dtype is canonical
        return leaf.dtype
    if isinstance(leaf, numbers.Number):
        return jnp.result_type(leaf)
    is_array = hasattr(leaf, "shape")  # jnp.float32 has a dtype, too
    dtype = getattr(leaf, "dtype", type(leaf)) if is_array else type(leaf)
    numeric = jnp.issubdtype(dtype, jnp.number)
    return jax.dtypes.canonicalize_dtype(dtype) if numeric else dtype


def is_inexact(leaf: Any) -> bool:
    """Whether the leaf holds real or complex floating-point numbers."""
    return jnp.issubdtype(dtype_of(leaf), jnp.inexact)


def is_float0(leaf: Any) -> bool:
    """Whether the leaf is the gradient of an integer: JAX gives it the dtype float0."""
    return getattr(leaf, "dtype", None) == jax.dtypes.float0


def as_dtype(x: Any, dtype: Any) -> jax.Array:
    """``jnp.asarray(x, dtype)``, but immediate for an array of that dtype."""
    is_array = isinstance(x, jax.Array) and x.dtype == dtype
    is_weak = getattr(x, "weak_type", False)  # a PRNG key has no such attribute
    return x if is_array and not is_weak else jnp.asarray(x, dtype)


def cast_like(new: Any, old: Any) -> Any:
    """Cast ``new`` to the dtype of ``old``; without a copy if it has that dtype."""
    dtype = dtype_of(old)
    return new if dtype_of(new) == dtype else jnp.asarray(new).astype(dtype)


def to_float32(leaf: Any) -> Any:
    """Cast a float of 16 bits or fewer to float32; leave any other leaf unchanged."""
    if not is_inexact(leaf):
        return leaf
    if isinstance(leaf, jax.ShapeDtypeStruct):
        dtype = compute_dtype(leaf)
        return jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=leaf.sharding)
    return as_dtype(leaf, compute_dtype(leaf))


def strip_weak_type(leaf: Any) -> Any:
    """Drop JAX's weak type, so that the dtype is the same after the first update."""
    return as_dtype(leaf, leaf.dtype) if isinstance(leaf, jax.Array) else leaf
