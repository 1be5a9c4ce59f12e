r"""Rounding to a 16-bit format, calculated in float32.

With p stored digits (7 in bfloat16, 10 in float16) and e = max(⌊log₂|x|⌋, e_min), the
representable numbers around x are one ulp apart:

    ulp = 2^{e−p}        n = x/ulp, rounded to an integer        d = x/ulp − n

Round-to-nearest returns n·ulp. Stochastic rounding returns the neighbour on the side of
d with probability |d|, so that the mean is x. The sum x = s + r of a weight and its
update is known beyond float32: s is its float32 value and r the rounding error of s. So
|d| is right for updates of any size; s alone loses updates below 2^{-24} of the weight.

There is no cast to 16 bits and back: inside one compiled program XLA may remove both.
"""

from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32

from decayax._rounding.random_bits import Bits


Floats: TypeAlias = Float[Array, "*shape"]
Floats32: TypeAlias = Float32[Array, "*shape"]

EXPONENT_MASK = 0x7F800000  # the exponent bits of a float32
RANDOM_BITS = 31  # non-negative in an int32, the widest type that CPUs compare fast


class Sum(NamedTuple):
    """A sum as two float32 numbers."""

    rounded: jax.Array  # the float32 number
    error: jax.Array  # exact sum − rounded


def two_sum(a: Floats32, b: Floats32) -> Sum:
    """Add two float32 numbers; the rounding error is exact (Knuth, TAOCP 2, 4.2.2)."""
    total = a + b
    b_part = total - a
    a_part = total - b_part
    return Sum(rounded=total, error=(a - a_part) + (b - b_part))


def in_ulps(x: Sum, dtype: DTypeLike) -> tuple[Floats32, Floats32, Floats32]:
    """The integer n, d in [-1/2, 1/2], and 2^e; the ulp itself may underflow."""
    binade = binade_of(x.rounded, dtype)
    scaled = to_ulps(x.rounded, binade, dtype)
    n = lax.round(scaled, lax.RoundingMethod.TO_NEAREST_EVEN)
    offset = (scaled - n) + to_ulps(x.error, binade, dtype)
    return n, offset, binade


def binade_of(x: Floats32, dtype: DTypeLike) -> Floats32:
    """2^e, where e is at least the smallest exponent of the format."""
    smallest = (int(jnp.finfo(dtype).minexp) + 127) << 23
    bits = lax.bitcast_convert_type(x, jnp.int32) & jnp.int32(EXPONENT_MASK)
    bits = jnp.maximum(bits, jnp.int32(smallest))
    return lax.bitcast_convert_type(bits, jnp.float32)


def to_ulps(x: Floats32, binade: Floats32, dtype: DTypeLike) -> Floats32:
    """x/ulp. It multiplies by 2^{1−e}·2^{p−1}, because 2^{−e} may underflow."""
    bits = lax.bitcast_convert_type(binade, jnp.int32)
    # Subtracting from the exponent bits of infinity, 2^128, gives the bits of 2^{1−e}.
    inverse = lax.bitcast_convert_type(jnp.int32(EXPONENT_MASK) - bits, jnp.float32)
    return x * inverse * 2.0 ** (jnp.finfo(dtype).nmant - 1)


def from_ulps(n: Floats32, binade: Floats32, dtype: DTypeLike) -> Floats32:
    """n·ulp in float32."""
    return n * 2.0 ** -jnp.finfo(dtype).nmant * binade


def round_to_nearest(x: Sum, dtype: DTypeLike) -> Floats32:
    """The nearest number of a format, ties to even, in float32."""
    n, _, binade = in_ulps(x, dtype)
    return jnp.where(jnp.isfinite(x.rounded), from_ulps(n, binade, dtype), x.rounded)


def stochastic_round(x: Sum, bits: Bits, dtype: DTypeLike) -> Floats32:
    """One of the two neighbours in a format, with mean x, in float32.

    NaN and infinity pass. Above the largest finite number the upper neighbour is the
    next multiple of the ulp, which is infinity in the format.
    """
    n, offset, binade = in_ulps(x, dtype)
    info = jnp.finfo(dtype)
    # Below a power of two the ulp is half as large: the bfloat16 neighbours of 1 - 1e-9
    # are 1 and 1 - 2^-8, not 1 - 2^-7. The float32 sum is 1; only its error is below.
    is_power_of_two = jnp.abs(n) == 2.0**info.nmant
    is_normal = binade > float(info.tiny)
    is_below = offset * n < 0.0
    spacing = jnp.where(is_power_of_two & is_normal & is_below, 0.5, 1.0)
    probability = jnp.abs(offset) / spacing
    drawn = (bits >> (32 - RANDOM_BITS)).astype(jnp.int32)
    moves = drawn < (probability * 2.0**RANDOM_BITS).astype(jnp.int32)
    n += jnp.where(moves, jnp.sign(offset) * spacing, 0.0)
    return jnp.where(jnp.isfinite(x.rounded), from_ulps(n, binade, dtype), x.rounded)


@jax.custom_jvp
def rounded_update(target: Floats32, param: Floats32, update: Floats32) -> Floats32:
    """The update that moves a parameter exactly to its rounded target.

    If parameter or target is NaN or infinite, it is the given update. -0 stays -0. The
    derivative is that of the given update, as if nothing were rounded.
    """
    # 0 · update keeps the sign of a zero update: -0 + (-0) is -0, but -0 + 0 is +0.
    exact = jnp.where(target == param, 0.0 * update, target - param)
    return jnp.where(jnp.isfinite(param + update), exact, update)


@rounded_update.defjvp
def _straight_through(primals, tangents):
    target, param, update = primals
    _, _, update_tangent = tangents
    return rounded_update(target, param, update), update_tangent
