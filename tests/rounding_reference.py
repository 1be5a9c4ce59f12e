"""Rounding to 16-bit floats, from the definitions alone: NumPy float64 and integers.

A format is (p stored digits, e exponent bits; IEEE: implicit one, gradual underflow).
A magnitude has an ordinal n, its bit pattern without the sign: 0 for 0, one more from
each representable number to the next, n_inf for infinity. All is built on n.

With E = max(floor(log2 |x|), emin) the pattern at or below |x| is
    n = (E - emin) * 2^p + floor(|x| * 2^(p - E)),
and what floor drops is exact in float64.
"""

from typing import NamedTuple

import numpy as np


class Format(NamedTuple):
    p: int  # stored digits
    exponent_bits: int

    @property
    def bias(self):
        return (1 << (self.exponent_bits - 1)) - 1

    @property
    def emin(self):
        return 1 - self.bias

    @property
    def n_inf(self):
        return ((1 << self.exponent_bits) - 1) << self.p

    @property
    def sign_bit(self):
        return 1 << (self.p + self.exponent_bits)

    @property
    def max(self):
        return float(np.ldexp(2.0 - 2.0**-self.p, self.bias))


FORMATS = {
    "bfloat16": Format(7, 8),
    "float16": Format(10, 5),
    "float32": Format(23, 8),
}


def decode(bits, dtype):
    """Bit patterns (unsigned integers) -> float64 values."""
    f = FORMATS[dtype]
    b = np.asarray(bits).astype(np.int64)
    n = b & (f.sign_bit - 1)
    exponent, fraction = n >> f.p, n & ((1 << f.p) - 1)
    normal = exponent > 0
    digits = np.where(normal, fraction + (1 << f.p), fraction).astype(np.float64)
    with np.errstate(over="ignore"):
        shift = (np.where(normal, exponent, 1) - f.bias - f.p).astype(np.int32)
        value = np.ldexp(digits, shift)
    value = np.where(n == f.n_inf, np.inf, np.where(n > f.n_inf, np.nan, value))
    return np.where(b & f.sign_bit, -value, value)


def split(x, f):
    """The sign, |x|, n at or below it, and the fraction of an ulp that floor drops."""
    x = np.asarray(x).astype(np.float64)
    magnitude = np.abs(x)
    finite = np.where(np.isfinite(magnitude), magnitude, 0.0)
    _, e = np.frexp(finite)
    e = np.where(finite == 0, f.emin, np.maximum(e - 1, f.emin)).astype(np.int32)
    ulps = np.ldexp(finite, f.p - e)
    whole = np.floor(ulps)
    n = ((e.astype(np.int64) - f.emin) << f.p) + whole.astype(np.int64)
    return np.signbit(x), magnitude, n, ulps - whole


def signed(negative, n, f):
    return np.where(negative, f.sign_bit, 0) | n


def neighbours(x, dtype):
    """(toward zero, away from zero), equal where finite x is representable."""
    f = FORMATS[dtype]
    negative, _, n, cut = split(x, f)
    low = np.minimum(n, f.n_inf - 1)
    high = np.where((cut > 0) | (n >= f.n_inf), low + 1, low)
    return tuple(decode(signed(negative, n, f), dtype) for n in (low, high))


def probability_away(x, dtype):
    """Probability of the neighbour away from zero if the mean is to be x.

    Beyond the largest finite value as if the next number of the grid existed.
    """
    f = FORMATS[dtype]
    _, _, n, cut = split(x, f)
    return np.where(n >= f.n_inf, 1.0, cut)


def nearest_even(x, dtype):
    """Round to nearest, ties to even; NaN and infinity stay."""
    f = FORMATS[dtype]
    x = np.asarray(x).astype(np.float64)
    negative, _, n, cut = split(x, f)
    n = np.minimum(n + ((cut > 0.5) | ((cut == 0.5) & (n % 2 == 1))), f.n_inf)
    return np.where(np.isfinite(x), decode(signed(negative, n, f), dtype), x)


def ulp(x, dtype):
    """The ulp in the binade of |x|."""
    f = FORMATS[dtype]
    magnitude = np.abs(np.asarray(x).astype(np.float64))
    _, e = np.frexp(magnitude)
    e = np.where(magnitude == 0, f.emin, np.clip(e - 1, f.emin, f.bias))
    return np.ldexp(1.0, e - f.p)


def compensated(theta, residual, update, dtype):
    """One step of compensated summation, the residual in 2^-16 ulp.

    s = residual + update; theta' = nearest(theta + s); residual' = (theta - theta') + s
    """
    s = residual + update
    target = nearest_even(theta + s, dtype)
    unit = ulp(target, dtype) * 2.0**-16
    parts = np.rint(((theta - target) + s) / unit)
    return target, np.clip(parts, -32767, 32767) * unit
