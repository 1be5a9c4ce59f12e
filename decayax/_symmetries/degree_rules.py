"""Degrees of homogeneity of the outputs of one primitive."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.extend import core

from decayax._jaxpr.dataflow import is_inexact_atom, shape_of
from decayax._symmetries.constants import (
    exponent,
    folded,
    is_epsilon,
    LAYOUT,
    uniform_value,
)
from decayax._symmetries.float64 import IDENTITIES
from decayax._symmetries.units import Parameter
from decayax._symmetries.values import widen


# The degree of the first operand is kept. Indices have no degree.
KEEPING = (
    LAYOUT
    | IDENTITIES
    | frozenset(
        """
        abs all_gather all_to_all conj cummax cummin cumsum dynamic_slice fft imag neg
        pmax pmin ppermute psum psum_invariant real reduce_max reduce_min reduce_scatter
        reduce_sum reduce_window_max reduce_window_min reduce_window_sum rev slice split
        """.split()  # noqa: SIM905
    )
)
# All operands that have a degree must have the same one.
EQUAL = frozenset(
    """
    add add_any clamp complex concatenate dynamic_update_slice max min pad rem scatter
    scatter-add scatter-max scatter-min select_n sub
    """.split()  # noqa: SIM905
)
# The same, but a common factor does not change the output.
COMPARING = frozenset(["atan2", "eq", "ge", "gt", "le", "lt", "ne"])
# Positive factors do not change the output.
SCALE_FREE = frozenset(["argmax", "argmin", "is_finite", "sign"])
PRODUCTS = frozenset(["conv_general_dilated", "dot_general", "mul"])
EMPTY = frozenset(["integer_pow", "pow", "reduce_prod"])
POWERS = {"cbrt": 1 / 3, "cholesky": 0.5, "rsqrt": -0.5, "sqrt": 0.5, "square": 2.0}


class Degree(NamedTuple):
    """The degree of a value."""

    form: np.ndarray  # coefficients of the exponents
    is_free: bool = False  # only 0, ±inf and NaN, which have every degree
    uniform: float | None = None  # the value of a constant with equal elements
    stack: Parameter | None = None  # a whole parameter, each slice with its own degree


class Conditions(NamedTuple):
    """The linear forms that must be 0, by their rounded coefficients."""

    forms: dict[tuple[float, ...], np.ndarray]
    units: int

    def require_zero(self, form: np.ndarray) -> None:
        if np.any(form):
            self.forms[tuple(np.round(form, 9))] = form

    def none(self) -> np.ndarray:
        return np.zeros(self.units)


def constant(value: Any, conditions: Conditions) -> Degree:
    """The degree of a constant array."""
    uniform = uniform_value(value)
    dtype = getattr(value, "dtype", np.dtype(float))
    is_number = jnp.issubdtype(dtype, jnp.number) or jnp.issubdtype(dtype, jnp.bool_)
    is_free = False
    if is_number:
        wide = widen(value)  # NumPy does not know whether a bfloat16 is finite
        is_free = bool(np.all((wide == 0) | ~np.isfinite(wide)))
    return Degree(conditions.none(), is_free, uniform)


def apply_rule(
    eqn: core.JaxprEqn,
    inputs: Sequence[Degree],
    conditions: Conditions,
    *,
    is_floor: bool,
) -> list[Degree]:
    """The degrees of the outputs of one operation; it adds its conditions.

    In a floor, small constants are an ε.
    """
    name = eqn.primitive.name
    value = folded(eqn, [x.uniform for x in inputs])
    if value is not None:
        return [constant(np.asarray(value), conditions)]
    has_degree = [is_inexact_atom(atom) for atom in eqn.invars]
    floats = [x for x, keep in zip(inputs, has_degree, strict=True) if keep]
    if name == "sort":
        return [Degree(x.form, x.is_free) for x in inputs]
    if name in SCALE_FREE:
        return [Degree(conditions.none())]
    if _keeps_degree(eqn, floats):
        first = inputs[0] if inputs else Degree(conditions.none())
        kept = Degree(first.form, first.is_free)
        return [
            kept if is_inexact_atom(var) else Degree(conditions.none())
            for var in eqn.outvars
        ]
    if name in COMPARING or name in EQUAL:
        sign = -1.0 if name == "sub" else 1.0
        kept = [
            x
            for x in floats
            if not (is_floor and x.uniform and is_epsilon(sign * x.uniform))
        ]
        common = common_degree(kept, conditions)
        return [Degree(conditions.none()) if name in COMPARING else common]
    product = _product(eqn, name, floats, conditions)
    if product is not None:
        return [product]
    for x in floats:
        conditions.require_zero(x.form)
    return [Degree(conditions.none()) for _ in eqn.outvars]


def _keeps_degree(eqn: core.JaxprEqn, floats: Sequence[Degree]) -> bool:
    """Whether the float outputs have the degree of the first operand."""
    name = eqn.primitive.name
    if name == "convert_element_type":  # a cast to an integer rounds
        return is_inexact_atom(eqn.outvars[0]) or not floats
    if name == "gather":  # other numbers may fill what is outside
        fill = eqn.params["fill_value"]
        return fill is None or fill == 0 or fill != fill
    return name in KEEPING or name == "top_k"


def common_degree(values: Sequence[Degree], conditions: Conditions) -> Degree:
    """The degree that values must share to be added, compared or joined."""
    fixed = [x.form for x in values if not x.is_free]
    if not fixed:
        return Degree(conditions.none(), is_free=bool(values))
    for form in fixed[1:]:
        conditions.require_zero(form - fixed[0])
    return Degree(fixed[0])


def _product(
    eqn: core.JaxprEqn, name: str, floats: Sequence[Degree], conditions: Conditions
) -> Degree | None:
    """The degree of a product, quotient or power; None for other operations."""
    form = None
    if name in PRODUCTS:
        # An operand that is an integer was excluded; it has the degree 0.
        form = sum((x.form for x in floats), conditions.none())
    elif name in ("div", "triangular_solve") and len(floats) == 2:
        over, under = floats if name == "div" else floats[::-1]
        if eqn.params.get("unit_diagonal"):
            conditions.require_zero(under.form)
        form = over.form - under.form
    elif name == "integer_pow":
        form = eqn.params["y"] * floats[0].form
    elif name in POWERS:
        form = POWERS[name] * floats[0].form
    elif name == "pow" and len(floats) > 1 and floats[1].uniform is not None:
        aval: Any = eqn.invars[1].aval
        form = exponent(floats[1].uniform, aval.dtype) * floats[0].form
    elif name == "pow" and len(floats) == 1:  # the exponent is an integer
        conditions.require_zero(floats[0].form)
        form = conditions.none()
    elif name == "reduce_prod":
        axes = eqn.params["axes"]
        count = math.prod(shape_of(eqn.invars[0])[axis] for axis in axes)
        form = count * floats[0].form
    if form is None:
        return None
    is_free = any(x.is_free for x in floats)
    # A power of 0 and a product of no numbers are 1, also of zeros.
    return Degree(form, is_free and (name not in EMPTY or bool(np.any(form))))
