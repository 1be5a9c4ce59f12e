"""The values of an evaluation in float64, and what its parts share."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.extend import core


class Value(NamedTuple):
    """An array, and the value of a constant whose elements are equal."""

    array: Any
    uniform: float | None = None


class Context(NamedTuple):
    """What the parts of one evaluation share."""

    epsilon: Any  # the factor of every ε
    narrow: set[str]  # primitives that could not run in float64
    # (closed jaxpr, inputs, context) -> outputs; for the primitives with inner programs
    evaluate: Callable[[core.ClosedJaxpr, Sequence[Value], "Context"], list[Value]]


def widen(x: Any) -> Any:
    """The array with the widest dtype of its kind; integers and keys stay."""
    if isinstance(x, jax.core.Tracer):
        return x.astype(wide(x.dtype)) if has_fraction(x.dtype) else x
    if jnp.issubdtype(getattr(x, "dtype", np.bool_), jax.dtypes.prng_key):
        return x
    x = np.asarray(x)  # the array may be on an accelerator, or on several devices
    return x.astype(wide(x.dtype)) if has_fraction(x.dtype) else x


def has_fraction(dtype: Any) -> bool:
    """Whether values of the dtype are floats or complex numbers."""
    return jnp.issubdtype(dtype, jnp.inexact)


def wide(dtype: Any) -> Any:
    """The dtype itself, but float64 for a float and complex128 for a complex one."""
    if not has_fraction(dtype):
        return dtype
    is_complex = jnp.issubdtype(dtype, jnp.complexfloating)
    return np.dtype(np.complex128 if is_complex else np.float64)
