r"""Random bits for rounding, drawn where they are used.

Key, step, leaf and the place in the leaf are hashed to 32 bits. Each is a function of
the weight's own place, so that the bits do not depend on how an array is cut over
devices, and XLA computes them inside the loop that rounds, without an array of them.
``jax.random.bits`` has both properties, but its generator takes several times as long
as the whole step of AdamW on a CPU; it makes the keys here, the hash the bits.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from decayax._strength import brief


IMPL = "threefry2x32"


def key_data(name: str, seed: Any) -> jax.Array:
    """The key of a seed as plain data, uint32[2]."""
    whole = isinstance(seed, int | np.integer) and not isinstance(seed, bool)
    if not whole and not _is_whole_array(seed):
        raise TypeError(
            f"{name}: seed must be a whole number, got {brief(seed)}. Write seed=0."
        )
    return jax.random.key_data(jax.random.key(seed, impl=IMPL))


def _is_whole_array(seed: Any) -> bool:
    dtype = getattr(seed, "dtype", np.dtype(float))
    return jnp.issubdtype(dtype, jnp.integer) and np.shape(seed) == ()


def random_bits(key: jax.Array, step: jax.Array, leaf: int, like: Any) -> jax.Array:
    """Uniform bits for every weight of a leaf, uint32 in its shape.

    Args:
        key: uint32[2].
        step: int32 ().
        leaf: number of the leaf in its tree.
        like: the leaf.
    """
    folded = jax.random.wrap_key_data(key, impl=IMPL)
    folded = jax.random.fold_in(jax.random.fold_in(folded, step), leaf)
    return hashed(like.shape, *jax.random.key_data(folded))


def hashed(shape: tuple[int, ...], first: jax.Array, second: jax.Array) -> jax.Array:
    """The bits of every place in an array, under a key of two words."""
    return _mixed(_mixed(_places(shape) ^ first) ^ second)


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
