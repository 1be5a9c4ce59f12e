r"""Random bits for stochastic rounding, computed where they are used.

A hash of key, step, leaf number and element index gives 32 bits. They are a function of
the element's own index, so they do not depend on how an array is sharded, and XLA
computes them inside the loop that rounds, without an array in memory.

``jax.random.bits`` has both properties, but on a CPU its generator takes several times
as long as the whole step of AdamW. So it makes only the key of each step.
"""

from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, UInt32

from decayax._core.strength import short_repr


KEY_IMPL = "threefry2x32"
GOLDEN_RATIO = 0x9E3779B9  # 2^32/φ: consecutive leaf numbers land far apart
# What is rounded. Each purpose has its own bits under the same seed.
WEIGHTS, STATE = range(2)

Bits: TypeAlias = UInt32[Array, "*shape"]
Key: TypeAlias = UInt32[Array, "2"]  # the key data of a threefry key
StepKey: TypeAlias = tuple[UInt32[Array, ""], UInt32[Array, ""]]


def require_seed(name: str, seed: Any) -> None:
    """Raise unless the seed is an integer of at most 64 bits, or a 0-d array of one."""
    dtype = getattr(seed, "dtype", np.dtype(float))
    is_array = jnp.issubdtype(dtype, jnp.integer) and np.shape(seed) == ()
    if isinstance(seed, bool) or not (is_array or isinstance(seed, int)):
        raise TypeError(
            f"{name}: seed must be an integer, got {short_repr(seed)}. Write seed=0."
        )
    if isinstance(seed, int) and not 0 <= seed < 2**64:
        raise ValueError(
            f"{name}: seed must be in [0, 2^64), got {short_repr(seed)}. Write seed=0."
        )


def key_from_seed(seed: Any) -> Key:
    """The key of a seed as plain data; a new array in each call."""
    if isinstance(seed, int):
        # jax.random.key would drop the upper 32 bits unless jax_enable_x64 is set.
        return jnp.array([seed >> 32, seed % 2**32], jnp.uint32)
    return jax.random.key_data(jax.random.key(seed, impl=KEY_IMPL))


def step_key(key: Key, purpose: int, step: jax.Array) -> StepKey:
    """The key of one step and purpose, as two words."""
    typed_key = jax.random.wrap_key_data(key, impl=KEY_IMPL)
    folded = jax.random.fold_in(jax.random.fold_in(typed_key, purpose), step)
    first_word, second_word = jax.random.key_data(folded)
    return first_word, second_word


def random_bits(key: StepKey, leaf: int, shape: tuple[int, ...]) -> Bits:
    """Uniform bits for every element of the leaf with this number in its tree."""
    first_word, second_word = key
    # A constant, and not a key per leaf, which would take long to compile.
    leaf_constant = jnp.uint32(leaf * GOLDEN_RATIO % 2**32)
    first_hash = _hash32(_element_index(shape) ^ first_word)
    return _hash32((first_hash + leaf_constant) ^ second_word)


def _element_index(shape: tuple[int, ...]) -> Bits:
    """The row-major index of each element, modulo 2^32."""
    index, stride = jnp.zeros(shape, jnp.uint32), 1
    for axis in reversed(range(len(shape))):
        along_axis = lax.broadcasted_iota(jnp.uint32, shape, axis)
        index += along_axis * jnp.uint32(stride % 2**32)
        stride *= shape[axis]
    return index


def _hash32(x: Bits) -> Bits:
    """A bijection of 32 bits in which each bit depends on all: Wellons' lowbias32."""
    # https://nullprogram.com/blog/2018/07/31/
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
