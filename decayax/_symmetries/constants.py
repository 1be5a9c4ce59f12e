"""Constants of a program: which of them may be the ε of a norm or of a division."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from decayax._core.strength import is_concrete


# The largest ε in use is 1e-3, that of BatchNorm in Keras. In float32 it is a bit more.
MAX_EPSILON = 1.001e-3
# Operations that keep the value of a constant whose elements are equal.
LAYOUT = frozenset(
    """
    broadcast_in_dim convert_element_type copy expand_dims reshape squeeze transpose
    """.split()  # noqa: SIM905
)


def uniform_value(x: Any) -> float | None:
    """The value of all elements of a real constant; None if they differ."""
    dtype = getattr(x, "dtype", np.dtype(float))
    kinds = (jnp.floating, jnp.integer, jnp.bool_)
    is_real = any(jnp.issubdtype(dtype, kind) for kind in kinds)
    if not is_real or not is_concrete(x) or np.size(x) == 0:
        return None
    array = np.asarray(x)
    first = array.flat[0]
    return float(first) if np.all(array == first) else None


def is_small(x: Any) -> bool:
    """Whether a constant may be an ε: all elements are one small positive number."""
    return is_epsilon(uniform_value(x))


def is_epsilon(value: float | None) -> bool:
    return value is not None and 0 < value <= MAX_EPSILON
