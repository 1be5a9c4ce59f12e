"""A traced function in float64, with the derivative of what it computes.

The program is evaluated equation by equation. Compared with the function of the user:

    dtypes      every float is float64 and every complex number complex128, also where
                the function casts to bfloat16
    derivative  `stop_gradient`, casts and custom derivatives (straight-through
                estimators) are replaced by the values that they have, so that the
                derivative is that of the outputs
    ε           small constants in a denominator or under a root are multiplied by a
                factor: with 0, norms have no ε
    infinities  in the outputs, as of masked logits, are 0
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from decayax._jaxpr.dataflow import subjaxprs
from decayax._jaxpr.flat import as_function
from decayax._symmetries.constants import (
    called,
    denominators,
    exponent,
    FLOORS,
    folded,
    is_epsilon,
    uniform_value,
)
from decayax._symmetries.nested import NESTED
from decayax._symmetries.values import Context, has_fraction, Value, wide, widen


# Operations that change nothing but dtypes, derivatives or the place of an array.
IDENTITIES = frozenset(
    """
    copy copy_p device_put mesh_cast name optimization_barrier reduce_precision
    reshard sharding_constraint stop_gradient
    """.split()  # noqa: SIM905
)
# Used instead of 0: with 0 itself, a norm of 0 would be 0 / 0. Derivatives
# of norms have the power -1.5 of ε, and their squares must be finite.
NO_EPSILON = 1e-60
# These have the computation of one element as a jaxpr of the recorded dtype.
SCATTERS = {
    "scatter": jax.lax.scatter,
    "scatter-add": jax.lax.scatter_add,
    "scatter-max": jax.lax.scatter_max,
    "scatter-min": jax.lax.scatter_min,
    "scatter-mul": jax.lax.scatter_mul,
}
# Operations on the bits of a number: they need its recorded dtype.
ON_BITS = frozenset(["bitcast_convert_type", "nextafter"])


def in_float64(
    program: core.ClosedJaxpr,
) -> tuple[Callable[[Sequence[Any], Any], list[Any]], set[str]]:
    """The function (inputs, factor of ε) -> inexact outputs; call it with x64 enabled.

    The set is filled when the function is traced: the names of the primitives that had
    to be evaluated in the dtype that the program has for them.
    """
    narrow: set[str] = set()

    def function(inputs: Sequence[Any], epsilon: Any) -> list[Any]:
        values = [Value(widen(x)) for x in inputs]
        outputs = _evaluate(program, values, Context(epsilon, narrow, _evaluate))
        arrays = [y.array for y in outputs if has_fraction(y.array.dtype)]
        return [jnp.where(jnp.isinf(y), 0.0, y) for y in arrays]

    return function, narrow


def _evaluate(
    program: core.ClosedJaxpr,
    inputs: Sequence[Value],
    context: Context,
    under: Sequence[bool] = (),
) -> list[Value]:
    """The outputs; ``under`` says which of them end in a denominator."""
    jaxpr = program.jaxpr
    known = {
        var: Value(widen(x), uniform_value(x))
        for var, x in zip(jaxpr.constvars, program.consts, strict=True)
    }
    known |= dict(zip(jaxpr.invars, inputs, strict=True))
    divisors = denominators(jaxpr, under or [False] * len(jaxpr.outvars))

    def read(atom: Any) -> Value:
        if not isinstance(atom, core.Literal):
            return known[atom]
        value = np.asarray(atom.val, getattr(atom.aval, "dtype", None))
        return Value(widen(value), uniform_value(value))

    for eqn in jaxpr.eqns:
        values = [read(atom) for atom in eqn.invars]
        under = [var in divisors for var in eqn.outvars]
        if eqn.primitive.name in FLOORS and under[0]:
            values = _without_epsilon(eqn, values, context)
        outputs = _evaluate_eqn(eqn, values, context, under)
        known |= dict(zip(eqn.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _without_epsilon(
    eqn: core.JaxprEqn, values: list[Value], context: Context
) -> list[Value]:
    sign = -1.0 if eqn.primitive.name == "sub" else 1.0
    return [
        Value(x.array * context.epsilon)
        if x.uniform is not None and is_epsilon(sign * x.uniform)
        else x
        for x in values
    ]


def _evaluate_eqn(
    eqn: core.JaxprEqn, inputs: list[Value], context: Context, under: Sequence[bool]
) -> list[Value]:
    name = eqn.primitive.name
    if name in IDENTITIES and len(inputs) == len(eqn.outvars):
        return inputs
    # A loop has no derivative, so the custom one of a function with a loop is kept.
    is_solver = name.startswith("custom_") and any(map(has_while, subjaxprs(eqn)))
    inner = called(eqn)
    if inner is not None and not is_solver:
        return _evaluate(inner, inputs, context, under)
    if name in NESTED:
        return [Value(x) for x in NESTED[name](eqn, inputs, context)]
    if not eqn.outvars:  # jax.debug.print
        return []
    outputs = _bind(eqn, inputs, context)
    uniform = folded(eqn, [x.uniform for x in inputs])
    return [Value(x, uniform) for x in outputs]


def has_while(jaxpr: core.Jaxpr) -> bool:
    """Whether there is a loop that has no derivative in reverse mode."""
    return any(
        eqn.primitive.name == "while" or any(map(has_while, subjaxprs(eqn)))
        for eqn in jaxpr.eqns
    )


def _bind(eqn: core.JaxprEqn, inputs: list[Value], context: Context) -> list[Any]:
    """The outputs of one primitive, in float64 if it can."""
    name, arrays = eqn.primitive.name, [x.array for x in inputs]
    if name == "pow" and inputs[1].uniform is not None:
        aval: Any = eqn.invars[1].aval
        power = exponent(inputs[1].uniform, aval.dtype)
        arrays[1] = np.full(np.shape(arrays[1]), power, arrays[1].dtype)
    # `x.at[i].apply(f)` is a scatter with a function: JAX has no derivative for it.
    is_apply = name == "scatter" and eqn.params["update_jaxpr"] is not None
    if name in SCATTERS and not is_apply:
        names = ("indices_are_sorted", "unique_indices", "mode")
        options = {key: eqn.params[key] for key in names}
        dimensions = eqn.params["dimension_numbers"]
        return [SCATTERS[name](*arrays, dimension_numbers=dimensions, **options)]
    if name not in ON_BITS and not any(subjaxprs(eqn)):
        try:
            outputs = eqn.primitive.bind(*arrays, **_wide_params(eqn))
            is_list = eqn.primitive.multiple_results
            return [widen(x) for x in (outputs if is_list else [outputs])]
        except Exception:  # each primitive refuses float64 in its own way
            pass
    if any(has_fraction(x.dtype) for x in arrays) and name not in ON_BITS:
        context.narrow.add(name)
    recorded = [
        x.astype(getattr(atom.aval, "dtype", x.dtype))
        for x, atom in zip(arrays, eqn.invars, strict=True)
    ]
    return [widen(x) for x in as_function(eqn)(*recorded)]


def _wide_params(eqn: core.JaxprEqn) -> dict[str, Any]:
    params = dict(eqn.params)
    for key, value in params.items():
        if isinstance(value, np.dtype | type):
            params[key] = wide(value)
    if "precision" in params:  # some algorithms are for bfloat16 only
        params["precision"] = None
    return params
