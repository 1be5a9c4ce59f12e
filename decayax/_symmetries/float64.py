"""A traced function in float64, with the derivative of what it computes.

The program is evaluated equation by equation. Compared with the function of the user:

    dtypes      every float is float64 and every complex number complex128, also where
                the function casts to bfloat16
    derivative  `stop_gradient`, casts and custom derivatives (straight-through
                estimators) are replaced by the values that they have, so that the
                derivative is that of the outputs
    ε           small constants that are added to something, or bound it from below, are
                multiplied by a factor: with 0, norms have no ε
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from decayax._jaxpr.dataflow import CALLS, closed_subjaxprs
from decayax._symmetries.constants import is_small, LAYOUT


# Operations that change nothing but dtypes, derivatives or the place of an array.
IDENTITIES = frozenset(
    """
    copy copy_p device_put mesh_cast name optimization_barrier pvary reduce_precision
    reshard sharding_constraint stop_gradient
    """.split()  # noqa: SIM905
)
# The factor that stands for 0: with 0 itself, a norm of 0 would be 0 / 0. Derivatives
# of norms have the power -1.5 of ε, and their squares must be finite.
NO_EPSILON = 1e-60
EPSILON = frozenset(["add", "add_any", "clamp", "max"])
# These have the computation of one element as a jaxpr of the recorded dtype.
SCATTERS = {
    "scatter": jax.lax.scatter,
    "scatter-add": jax.lax.scatter_add,
    "scatter_add": jax.lax.scatter_add,
    "scatter-mul": jax.lax.scatter_mul,
    "scatter_mul": jax.lax.scatter_mul,
    "scatter_min": jax.lax.scatter_min,
    "scatter_max": jax.lax.scatter_max,
}
# Operations on the bits of a number: they need its recorded dtype.
ON_BITS = frozenset(["bitcast_convert_type", "nextafter"])


class _Value(NamedTuple):
    """An array, and whether it is a constant so small that it may be an ε."""

    array: Any
    is_small: bool = False


class _Context(NamedTuple):
    epsilon: Any  # the factor of every ε
    narrow: set[str]  # primitives that could not run in float64


def in_float64(
    program: core.ClosedJaxpr,
) -> tuple[Callable[[Sequence[Any], Any], list[Any]], set[str]]:
    """The function (inputs, factor of ε) -> inexact outputs; call it with x64 enabled.

    The set is filled when the function is traced: the names of the primitives that had
    to be evaluated in the dtype that the program has for them.
    """
    narrow: set[str] = set()

    def function(inputs: Sequence[Any], epsilon: Any) -> list[Any]:
        values = [_Value(widen(x)) for x in inputs]
        outputs = _evaluate(
            program.jaxpr, program.consts, values, _Context(epsilon, narrow)
        )
        return [y.array for y in outputs if _is_inexact(y.array.dtype)]

    return function, narrow


def widen(x: Any) -> Any:
    """The array with the widest dtype of its kind; integers and keys stay."""
    if isinstance(x, jax.core.Tracer):
        return x.astype(_wide(x.dtype)) if _is_inexact(x.dtype) else x
    if jnp.issubdtype(getattr(x, "dtype", np.bool_), jax.dtypes.prng_key):
        return x
    x = np.asarray(x)  # the array may be on an accelerator, or on several devices
    return x.astype(_wide(x.dtype)) if _is_inexact(x.dtype) else x


def _is_inexact(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jnp.inexact)


def _wide(dtype: Any) -> Any:
    is_complex = jnp.issubdtype(dtype, jnp.complexfloating)
    return np.dtype(np.complex128 if is_complex else np.float64)


def _evaluate(
    jaxpr: core.Jaxpr, consts: Sequence[Any], inputs: list[_Value], context: _Context
) -> list[_Value]:
    known = {
        var: _Value(widen(x), is_small(x))
        for var, x in zip(jaxpr.constvars, consts, strict=True)
    }
    known |= dict(zip(jaxpr.invars, inputs, strict=True))

    def read(atom: Any) -> _Value:
        if not isinstance(atom, core.Literal):
            return known[atom]
        value = np.asarray(atom.val, getattr(atom.aval, "dtype", None))
        return _Value(widen(value), is_small(value))

    for eqn in jaxpr.eqns:
        outputs = _evaluate_eqn(eqn, [read(atom) for atom in eqn.invars], context)
        known |= dict(zip(eqn.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _evaluate_eqn(
    eqn: core.JaxprEqn, inputs: list[_Value], context: _Context
) -> list[_Value]:
    name = eqn.primitive.name
    if name in IDENTITIES and len(inputs) == len(eqn.outvars):
        return inputs
    inner = [j for j in closed_subjaxprs(eqn) if len(j.jaxpr.invars) == len(inputs)]
    if name in CALLS and len(inner) == 1:
        return _evaluate(inner[0].jaxpr, inner[0].consts, inputs, context)
    arrays = [x.array for x in inputs]
    if name in LOOPS:
        return [_Value(x) for x in LOOPS[name](eqn, inputs, context)]
    if "callback" in name and not eqn.outvars:  # jax.debug.print
        return []
    if name in EPSILON:
        arrays = [x.array * context.epsilon if x.is_small else x.array for x in inputs]
    outputs = _bind(eqn, arrays, context)
    is_kept = name in LAYOUT and inputs[0].is_small
    return [_Value(x, is_kept) for x in outputs]


def _bind(eqn: core.JaxprEqn, arrays: list[Any], context: _Context) -> list[Any]:
    """The outputs of one primitive, in float64 if it can."""
    name = eqn.primitive.name
    if name in SCATTERS:
        names = ["indices_are_sorted", "unique_indices", "mode"]
        options = {key: eqn.params[key] for key in names}
        dimensions = eqn.params["dimension_numbers"]
        return [SCATTERS[name](*arrays, dimension_numbers=dimensions, **options)]
    if name not in ON_BITS:
        try:
            return _as_list(eqn, eqn.primitive.bind(*arrays, **_wide_params(eqn)))
        except Exception:  # each primitive refuses float64 in its own way
            context.narrow.add(name)
    recorded = [
        x.astype(getattr(atom.aval, "dtype", x.dtype))
        for x, atom in zip(arrays, eqn.invars, strict=True)
    ]
    outputs = eqn.primitive.bind(*recorded, **eqn.params)
    return [widen(x) for x in _as_list(eqn, outputs)]


def _as_list(eqn: core.JaxprEqn, outputs: Any) -> list[Any]:
    return list(outputs) if eqn.primitive.multiple_results else [outputs]


def _wide_params(eqn: core.JaxprEqn) -> dict[str, Any]:
    params = dict(eqn.params)
    for key, value in params.items():
        is_dtype = isinstance(value, np.dtype | type)
        if is_dtype and _is_inexact(value):
            params[key] = _wide(value)
    if "precision" in params:  # some algorithms are for bfloat16 only
        params["precision"] = None
    return params


def _scan(eqn: core.JaxprEqn, inputs: list[_Value], context: _Context) -> list[Any]:
    params, body = eqn.params, eqn.params["jaxpr"]
    num_consts, num_carry = params["num_consts"], params["num_carry"]
    consts = inputs[:num_consts]
    carry = [x.array for x in inputs[num_consts : num_consts + num_carry]]
    xs = [x.array for x in inputs[num_consts + num_carry :]]

    def step(carry: list[Any], slices: list[Any]) -> tuple[list[Any], list[Any]]:
        values = [*consts, *map(_Value, carry), *map(_Value, slices)]
        outputs = _evaluate(body.jaxpr, body.consts, values, context)
        arrays = [y.array for y in outputs]
        return arrays[:num_carry], arrays[num_carry:]

    carry, ys = jax.lax.scan(
        step, carry, xs, length=params["length"], reverse=params["reverse"]
    )
    return [*carry, *ys]


def _while(eqn: core.JaxprEqn, inputs: list[_Value], context: _Context) -> list[Any]:
    test, body = eqn.params["cond_jaxpr"], eqn.params["body_jaxpr"]
    split = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    test_consts, body_consts = inputs[: split[0]], inputs[split[0] : sum(split)]
    carry = [x.array for x in inputs[sum(split) :]]

    def run(program: core.ClosedJaxpr, consts: list[_Value], carry: Any) -> list[Any]:
        values = [*consts, *map(_Value, carry)]
        outputs = _evaluate(program.jaxpr, program.consts, values, context)
        return [y.array for y in outputs]

    return jax.lax.while_loop(
        lambda carry: run(test, test_consts, carry)[0],
        lambda carry: run(body, body_consts, carry),
        carry,
    )


def _cond(eqn: core.JaxprEqn, inputs: list[_Value], context: _Context) -> list[Any]:
    index, *operands = inputs

    def branch(program: core.ClosedJaxpr) -> Callable[[list[Any]], list[Any]]:
        def run(arrays: list[Any]) -> list[Any]:
            pairs = zip(operands, arrays, strict=True)
            values = [x._replace(array=array) for x, array in pairs]
            outputs = _evaluate(program.jaxpr, program.consts, values, context)
            return [y.array for y in outputs]

        return run

    branches = [branch(program) for program in eqn.params["branches"]]
    return jax.lax.switch(index.array, branches, [x.array for x in operands])


LOOPS = {"scan": _scan, "while": _while, "cond": _cond}
