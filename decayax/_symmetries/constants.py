"""Constants of a program whose elements are all equal, and which of them are an ε."""

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend import core

from decayax._core.strength import is_concrete
from decayax._jaxpr.dataflow import CALLS, closed_subjaxprs


# The largest ε in use is 1e-3, that of BatchNorm in Keras. In float32 it is a bit more.
MAX_EPSILON = 1.001e-3
MAX_DENOMINATOR = 24  # of an exponent
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
PASSING = LAYOUT | frozenset(["copy_p", "optimization_barrier", "stop_gradient"])


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
    if name == "integer_pow":
        return known[0] ** eqn.params["y"]
    if name not in ARITHMETIC:
        return None
    with np.errstate(all="ignore"):
        return float(ARITHMETIC[name](*known))


def is_epsilon(value: float | None) -> bool:
    return value is not None and 0 < value <= MAX_EPSILON


def exponent(value: float, dtype: Any) -> float:
    """The exponent of a power: a small fraction that its dtype has rounded.

    >>> exponent(float(np.float32(-1 / 3)), np.float32) == -1 / 3
    True
    """
    fraction = float(Fraction(value).limit_denominator(MAX_DENOMINATOR))
    return fraction if np.asarray(fraction, dtype) == value else value


def floors(jaxpr: core.Jaxpr) -> set[int]:
    """The ids of the operations whose result is a denominator or under a root."""
    users = _users(jaxpr)
    return {
        id(eqn)
        for eqn in jaxpr.eqns
        if eqn.primitive.name in FLOORS and _divides(eqn.outvars[0], users, jaxpr)
    }


Users = dict[core.Var, list[tuple[core.JaxprEqn, int]]]


def _users(jaxpr: core.Jaxpr) -> Users:
    users: Users = {}
    for eqn in jaxpr.eqns:
        for i, atom in enumerate(eqn.invars):
            if not isinstance(atom, core.Literal):
                users.setdefault(atom, []).append((eqn, i))
    return users


def _divides(var: core.Var, users: Users, jaxpr: core.Jaxpr) -> bool:
    return any(_is_denominator(eqn, i) for eqn, i in _ends(var, users)) or (
        # The result of an inner function, such as a helper under jit.
        var in jaxpr.outvars and var not in users
    )


def _ends(var: core.Var, users: Users) -> Iterator[tuple[core.JaxprEqn, int]]:
    """The operations that use a value, behind those that only change its layout."""
    for eqn, i in users.get(var, ()):
        if eqn.primitive.name in PASSING:
            yield from _ends(eqn.outvars[0], users)
        else:
            yield eqn, i


def _is_denominator(eqn: core.JaxprEqn, i: int) -> bool:
    name = eqn.primitive.name
    if name == "div":
        return i == 1
    if name == "integer_pow":
        return eqn.params["y"] < 0
    inner = [j.jaxpr for j in closed_subjaxprs(eqn)]
    if name in CALLS and len(inner) == 1 and len(inner[0].invars) == len(eqn.invars):
        users = _users(inner[0])
        return any(_is_denominator(*end) for end in _ends(inner[0].invars[i], users))
    return name in ROOTS and i == 0
