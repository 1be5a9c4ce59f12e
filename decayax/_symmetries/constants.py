"""Constants of a program whose elements are all equal, and which of them are an ε."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend import core

from decayax._core.strength import is_concrete
from decayax._jaxpr.dataflow import CALLS, closed_subjaxprs


# The largest ε in use is 1e-3, that of BatchNorm in Keras. In float32 it is a bit more.
MAX_EPSILON = 1.001e-3
MAX_DENOMINATOR = 24  # of an exponent, in a power or in a symmetry
# Operations that keep the value of a constant whose elements are equal.
LAYOUT = frozenset(
    """
    broadcast_in_dim convert_element_type copy expand_dims pvary reshape squeeze
    transpose
    """.split()  # noqa: SIM905
)
# Arithmetic of constants, such as 2 * 1e-5 or the index of a loop.
ARITHMETIC: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "div": np.divide,
    "exp": np.exp,
    "ge": np.greater_equal,
    "lt": np.less,
    "max": np.maximum,
    "min": np.minimum,
    "mul": np.multiply,
    "neg": np.negative,
    "pow": np.power,
    "select_n": lambda which, *cases: cases[int(which)],
    "sqrt": np.sqrt,
    "square": np.square,
    "sub": np.subtract,
}
# An operation adds an ε, or bounds a value by it, if its result is a denominator.
FLOORS = frozenset(["add", "add_any", "clamp", "max", "select_n", "sub"])
ROOTS = frozenset(["pow", "rsqrt", "sqrt"])
PASSING = LAYOUT | frozenset(
    ["copy_p", "optimization_barrier", "reduce_sum", "stop_gradient"]
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


def folded(eqn: core.JaxprEqn, values: Sequence[float | None]) -> float | None:
    """The value of all elements of the output, if it is known."""
    name = eqn.primitive.name
    known = [value for value in values if value is not None]
    if not values or len(known) < len(values):
        return None
    if name in LAYOUT:
        return known[0]
    with np.errstate(all="ignore"):
        if name == "integer_pow":
            return float(np.power(np.float64(known[0]), np.float64(eqn.params["y"])))
        return float(ARITHMETIC[name](*known)) if name in ARITHMETIC else None


def is_epsilon(value: float | None) -> bool:
    return value is not None and 0 < value <= MAX_EPSILON


def exponent(value: float, dtype: Any) -> float:
    """The exponent of a power: a small fraction that its dtype has rounded.

    >>> exponent(float(np.float32(-1 / 3)), np.float32) == -1 / 3
    True
    """
    if not np.isfinite(value):
        return value
    fraction = float(Fraction(value).limit_denominator(MAX_DENOMINATOR))
    return fraction if np.asarray(fraction, dtype) == value else value


def denominators(jaxpr: core.Jaxpr, under: Sequence[bool]) -> set[core.Var]:
    """The values that end in a denominator or under a root.

    ``under`` says it of the outputs, for the body of an inner function.
    """
    pairs = zip(jaxpr.outvars, under, strict=True)
    found = {var for var, is_under in pairs if is_under}
    found = {var for var in found if not isinstance(var, core.Literal)}
    for eqn in reversed(jaxpr.eqns):
        inner = called(eqn)
        if inner is not None:
            deeper = denominators(inner.jaxpr, [var in found for var in eqn.outvars])
            flags = [var in deeper for var in inner.jaxpr.invars]
        else:
            is_under = any(var in found for var in eqn.outvars)
            flags = [_is_under(eqn, i, is_under) for i in range(len(eqn.invars))]
        found |= {
            atom
            for atom, flag in zip(eqn.invars, flags, strict=True)
            if flag and not isinstance(atom, core.Literal)
        }
    return found


def called(eqn: core.JaxprEqn) -> core.ClosedJaxpr | None:
    """The body of an inner function, such as one under jit."""
    inner = list(closed_subjaxprs(eqn))
    inner = [j for j in inner if len(j.jaxpr.invars) == len(eqn.invars)]
    return inner[0] if eqn.primitive.name in CALLS and len(inner) == 1 else None


def _is_under(eqn: core.JaxprEqn, i: int, is_under: bool) -> bool:
    """Whether an input ends in a denominator, if the outputs do or do not."""
    name = eqn.primitive.name
    if name == "div" and i == 1:
        return True
    if name == "integer_pow" and eqn.params["y"] < 0:
        return True
    if name in ROOTS and i == 0:
        return True
    return is_under and (name in PASSING or name in FLOORS or name in ("div", "mul"))
