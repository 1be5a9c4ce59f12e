r"""Random bits for rounding, drawn where they are used.

Key, step, leaf and the place in the leaf are hashed to 32 bits. Each is a function of
the weight's own place, so that the bits do not depend on how an array is cut over
devices, and XLA computes them inside the loop that rounds, without an array of them.
``jax.random.bits`` has both properties, but its generator takes several times as long
as the whole step of AdamW on a CPU; it makes the key of each step here, the hash the
bits.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from decayax._core.strength import short_repr


IMPL = "threefry2x32"
GOLDEN = 0x9E3779B9  # 2^32 over the golden ratio: leaves far apart
WEIGHTS, STATE = range(2)  # what is rounded: the same seed, other bits


def require_seed(name: str, seed: Any) -> None:
    """Raise unless a seed is a whole number of 64 bits at most, or an array of one."""
    dtype = getattr(seed, "dtype", np.dtype(float))
    is_array = jnp.issubdtype(dtype, jnp.integer) and np.shape(seed) == ()
    if isinstance(seed, bool) or not (is_array or isinstance(seed, int)):
        raise TypeError(
            f"{name}: seed must be a whole number, got {short_repr(seed)}. Write seed=0."
        )
    if isinstance(seed, int) and not 0 <= seed < 2**64:
        raise ValueError(f"{name}: seed must be in [0, 2^64), got {short_repr(seed)}.")


def key_of(seed: Any) -> jax.Array:
    """The key of a seed as plain data, uint32 (2,), a new array each time."""
    if isinstance(seed, int):  # whatever jax_enable_x64 makes of large ones
        return jnp.array([seed >> 32, seed % 2**32], jnp.uint32)
    return jax.random.key_data(jax.random.key(seed, impl=IMPL))


def key_of_step(key: jax.Array, purpose: int, step: jax.Array) -> Any:
    """The key of one step, two words: uint32 ()."""
    folded = jax.random.wrap_key_data(key, impl=IMPL)
    folded = jax.random.fold_in(jax.random.fold_in(folded, purpose), step)
    return tuple(jax.random.key_data(folded))


def random_bits(key: Any, leaf: int, shape: tuple[int, ...]) -> jax.Array:
    """Uniform bits for every weight of a leaf, uint32 in its shape.

    Args:
        key: of the step.
        leaf: number of the leaf in its tree. It enters between two hashes as a
            constant: small programs for the keys of leaves would take long to compile.
        shape: of the leaf.
    """
    first, second = key
    number = jnp.uint32(leaf * GOLDEN % 2**32)
    return _mixed((_mixed(_places(shape) ^ first) + number) ^ second)


def _places(shape: tuple[int, ...]) -> jax.Array:
    """The number of each place in an array, modulo 2^32."""
    places, stride = jnp.zeros(shape, jnp.uint32), 1
    for axis in reversed(range(len(shape))):
        along = lax.broadcasted_iota(jnp.uint32, shape, axis)
        places += along * jnp.uint32(stride % 2**32)
        stride *= shape[axis]
    return places


def _mixed(x: jax.Array) -> jax.Array:
    """A bijection of 32 bits in which each bit depends on all: Wellons' lowbias32.

    https://nullprogram.com/blog/2018/07/31/
    """
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
