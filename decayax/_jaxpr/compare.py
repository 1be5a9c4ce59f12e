"""Whether two jaxprs are one program for leaves of two sizes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.extend import core

from decayax._core.dtypes import is_inexact
from decayax._jaxpr.dataflow import closed_subjaxprs, shape_of
from decayax._jaxpr.flat import value_key


# What may be between a sum and its division: a cast, or axes of size 1.
KEEPING_ELEMENTS = ("broadcast_in_dim", "convert_element_type", "reshape")
# Parameters of operations that are the same for leaves of all sizes: numbers of axes,
# an exponent, a dtype.
PARAMS_WITHOUT_SIZES = (
    "axes",
    "axis",
    "broadcast_dimensions",
    "dimension",
    "dimension_numbers",
    "dimensions",
    "new_dtype",
    "permutation",
    "y",
)


def is_same_program(
    first: core.ClosedJaxpr, second: core.ClosedJaxpr, rtol: float
) -> bool:
    """Whether two jaxprs run the same operations on the same values.

    The constants are equal, up to a relative difference of ``rtol`` between floats.
    """
    one, two = first.jaxpr, second.jaxpr
    eqns = list(zip(one.eqns, two.eqns, strict=False))
    consts = list(zip(first.consts, second.consts, strict=False))
    counts = [
        [len(x) for x in (j.constvars, j.invars, j.outvars, j.eqns)] for j in (one, two)
    ]
    if counts[0] != counts[1]:
        return False
    if not all(_is_same_value(a, b, rtol) for a, b in consts):
        return False
    # The variable of the first program for each variable of the second one.
    partners = dict(zip(two.constvars, one.constvars, strict=True))
    partners |= dict(zip(two.invars, one.invars, strict=True))

    def is_same_atom(a: Any, b: Any) -> bool:
        if isinstance(a, core.Literal) and isinstance(b, core.Literal):
            return _is_same_value(a.val, b.val, rtol)
        return not isinstance(b, core.Literal) and partners[b] is a

    makers, other_makers = _makers(one.eqns), _makers(two.eqns)
    for a, b in eqns:
        atoms = list(zip(a.invars, b.invars, strict=False))
        if _is_mean(a, makers) and _is_mean(b, other_makers):
            atoms = atoms[:1]  # not the numbers of terms
        is_same = _is_same_operation(a, b, rtol) and all(
            is_same_atom(x, y) for x, y in atoms
        )
        if not is_same:
            return False
        partners |= zip(b.outvars, a.outvars, strict=True)
    return all(map(is_same_atom, one.outvars, two.outvars))


def _is_same_operation(
    first: core.JaxprEqn, second: core.JaxprEqn, rtol: float
) -> bool:
    if first.primitive.name != second.primitive.name:
        return False
    if any(first.params.get(x) != second.params.get(x) for x in PARAMS_WITHOUT_SIZES):
        return False
    if len(first.invars) != len(second.invars):
        return False
    inner, other_inner = list(closed_subjaxprs(first)), list(closed_subjaxprs(second))
    return len(inner) == len(other_inner) and all(
        is_same_program(a, b, rtol) for a, b in zip(inner, other_inner, strict=True)
    )


def _is_same_value(first: Any, second: Any, rtol: float) -> bool:
    """Whether two constants are equal, up to ``rtol`` if they are single floats."""
    if value_key(first) == value_key(second):
        return True
    are_floats = all(np.ndim(x) == 0 and is_inexact(x) for x in (first, second))
    return are_floats and abs(first - second) <= rtol * max(abs(first), abs(second))


def _makers(eqns: Sequence[core.JaxprEqn]) -> dict[Any, core.JaxprEqn]:
    """The equation that calculates each variable."""
    return {var: eqn for eqn in eqns for var in eqn.outvars}


def _is_mean(eqn: core.JaxprEqn, makers: dict[Any, core.JaxprEqn]) -> bool:
    """Whether an equation divides a sum by the number of its terms."""
    if eqn.primitive.name != "div" or not isinstance(eqn.invars[1], core.Literal):
        return False
    total, divisor = eqn.invars[0], eqn.invars[1].val
    while not isinstance(total, core.Literal) and total in makers:
        name, operands = makers[total].primitive.name, makers[total].invars
        sums = np.prod(shape_of(total))
        terms = np.prod(shape_of(operands[0])) if operands else 0
        if name == "reduce_sum":
            return np.size(divisor) == 1 and bool(divisor * sums == terms)
        if name not in KEEPING_ELEMENTS or terms != sums:
            return False
        total = operands[0]
    return False
