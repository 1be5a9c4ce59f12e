r"""The numbers of a 16-bit format near a sum, found in float32 arithmetic.

With p stored digits (7 in bfloat16, 10 in float16) and e = max(⌊log₂|x|⌋, e_min) the
neighbours of x are one gap apart:

    gap = 2^{e−p}        n = x/gap to the nearest integer        d = x/gap − n

The nearest is n·gap. Rounding at random takes the one on the side of d with probability
|d|, so that the mean is x. The sum x = s + r of a weight and its step is known beyond
float32: s is its float32 value and r what that cut off, so that |d| is right for steps
of any size, where s alone loses those below 2^{-24} of the weight.

Nothing is cast: in one compiled program XLA may take a cast to 16 bits and back for
none at all.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


EXPONENT = 0x7F800000  # its bits in a float32
RANDOM_BITS = 31  # an int32, the widest that CPUs compare fast


class Sum(NamedTuple):
    """A sum as two float32 numbers."""

    rounded: jax.Array
    rest: jax.Array


class Place(NamedTuple):
    """Where a sum lies among the numbers of a format."""

    n: jax.Array  # the nearest, in gaps
    offset: jax.Array  # d, in gaps
    binade: jax.Array  # 2^e; the gap itself may be too small for float32


def two_sum(a: jax.Array, b: jax.Array) -> Sum:
    """A + b, and exactly what float32 cuts off of it (Knuth, TAOCP 2, 4.2.2)."""
    total = a + b
    b_seen = total - a
    return Sum(total, (a - (total - b_seen)) + (b - b_seen))


def place_of(x: Sum, dtype: jax.typing.DTypeLike) -> Place:
    """The nearest number of a format, and how far off the sum is."""
    binade = binade_of(x.rounded, dtype)
    scaled = in_gaps(x.rounded, binade, dtype)
    n = lax.round(scaled, lax.RoundingMethod.TO_NEAREST_EVEN)
    return Place(n, (scaled - n) + in_gaps(x.rest, binade, dtype), binade)


def binade_of(x: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    """2^e, where e is at least the format's smallest exponent."""
    smallest = (int(jnp.finfo(dtype).minexp) + 127) << 23
    bits = lax.bitcast_convert_type(x, jnp.int32) & jnp.int32(EXPONENT)
    bits = jnp.maximum(bits, jnp.int32(smallest))
    return lax.bitcast_convert_type(bits, jnp.float32)


def in_gaps(x: jax.Array, binade: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    """X over the gap of a binade, x·2^{1−e}·2^{p−1}: 2^−e may be too small."""
    bits = lax.bitcast_convert_type(binade, jnp.int32)
    inverse = lax.bitcast_convert_type(jnp.int32(EXPONENT) - bits, jnp.float32)
    return x * inverse * 2.0 ** (jnp.finfo(dtype).nmant - 1)


def in_numbers(
    n: jax.Array, binade: jax.Array, dtype: jax.typing.DTypeLike
) -> jax.Array:
    """N gaps of a binade, in float32."""
    return n * 2.0 ** -jnp.finfo(dtype).nmant * binade


def nearest(x: Sum, dtype: jax.typing.DTypeLike) -> jax.Array:
    """The nearest number of a format, ties to even, in float32."""
    place = place_of(x, dtype)
    return _or_itself(in_numbers(place.n, place.binade, dtype), x)


def at_random(x: Sum, bits: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    """One of the two neighbours in a format, with the mean x, in float32.

    Args:
        x: the sum. NaN and infinity stay; beyond the largest finite number the
            neighbour is the next of the grid, which is infinity in the format.
        bits: uint32, uniform.
        dtype: bfloat16 or float16.
    """
    place = place_of(x, dtype)
    info = jnp.finfo(dtype)
    # Below a power of two the gap is half as wide: in bfloat16 1 - 1e-9 stands between
    # 1 and 1 - 2^-8, not 1 - 2^-7. There the rounded sum is 1, only its rest is below.
    at_border = (jnp.abs(place.n) == 2.0**info.nmant) & (
        place.binade > float(info.tiny)
    )
    inward = at_border & (place.offset * place.n < 0.0)
    step = jnp.where(inward, 0.5, 1.0)
    chance = jnp.abs(place.offset) / step
    drawn = (bits >> (32 - RANDOM_BITS)).astype(jnp.int32)
    moves = drawn < (chance * 2.0**RANDOM_BITS).astype(jnp.int32)
    n = place.n + jnp.where(moves, jnp.sign(place.offset) * step, 0.0)
    return _or_itself(in_numbers(n, place.binade, dtype), x)


def _or_itself(y: jax.Array, x: Sum) -> jax.Array:
    return jnp.where(jnp.isfinite(x.rounded), y, x.rounded)


@jax.custom_jvp
def landing(target: jax.Array, param: jax.Array, step: jax.Array) -> jax.Array:
    """The update that takes a parameter to its target, in float32.

    NaN and infinity have no way back: there it is the step itself; -0 stays what it is.
    Its derivative is that of the step, as if nothing were rounded.
    """
    there = jnp.where(target == param, 0.0 * step, target - param)
    return jnp.where(jnp.isfinite(param + step), there, step)


@landing.defjvp
def _as_the_step(primals, tangents):
    return landing(*primals), tangents[2]
