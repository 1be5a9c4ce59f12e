"""Primitives with inner programs, in float64: loops, branches, reductions, solvers."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from decayax._jaxpr.dataflow import closed_subjaxprs
from decayax._symmetries.values import Context, Value, wide


def _scan(eqn: core.JaxprEqn, inputs: list[Value], context: Context) -> list[Any]:
    params, body = eqn.params, eqn.params["jaxpr"]
    num_consts, num_carry = params["num_consts"], params["num_carry"]
    consts = inputs[:num_consts]
    carry = [x.array for x in inputs[num_consts : num_consts + num_carry]]
    xs = [x.array for x in inputs[num_consts + num_carry :]]

    def step(carry: list[Any], slices: list[Any]) -> tuple[list[Any], list[Any]]:
        arrays = _run(body, consts, [*carry, *slices], context)
        return arrays[:num_carry], arrays[num_carry:]

    carry, ys = jax.lax.scan(
        step, carry, xs, length=params["length"], reverse=params["reverse"]
    )
    return [*carry, *ys]


def _while(eqn: core.JaxprEqn, inputs: list[Value], context: Context) -> list[Any]:
    """Without a derivative, because the loop has none in reverse mode."""
    test, body = eqn.params["cond_jaxpr"], eqn.params["body_jaxpr"]
    split = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    inputs = [x._replace(array=jax.lax.stop_gradient(x.array)) for x in inputs]
    test_consts, body_consts = inputs[: split[0]], inputs[split[0] : sum(split)]
    return jax.lax.while_loop(
        lambda carry: _run(test, test_consts, carry, context)[0],
        lambda carry: _run(body, body_consts, carry, context),
        [x.array for x in inputs[sum(split) :]],
    )


def _cond(eqn: core.JaxprEqn, inputs: list[Value], context: Context) -> list[Any]:
    index, *operands = inputs
    avals: list[Any] = [var.aval for var in eqn.outvars]

    def branch(program: core.ClosedJaxpr) -> Callable[[list[Any]], list[Any]]:
        def run(arrays: list[Any]) -> list[Any]:
            outputs = _run(program, (), arrays, context)
            pairs = zip(outputs, avals, strict=True)
            # One dtype and no weak types, as all branches must have the same.
            return [jnp.asarray(y, wide(aval.dtype)) for y, aval in pairs]

        return run

    branches = [branch(program) for program in eqn.params["branches"]]
    return jax.lax.switch(index.array, branches, [x.array for x in operands])


def _reduce(eqn: core.JaxprEqn, inputs: list[Value], context: Context) -> list[Any]:
    """`lax.reduce` with a function of the user."""
    (program,) = closed_subjaxprs(eqn)
    arrays = [x.array for x in inputs]
    half = len(arrays) // 2

    def computation(left: Sequence[Any], right: Sequence[Any]) -> list[Any]:
        return _run(program, (), [*left, *right], context)

    dimensions = eqn.params["dimensions"]
    return jax.lax.reduce(arrays[:half], arrays[half:], computation, dimensions)


def _solve(eqn: core.JaxprEqn, inputs: list[Value], context: Context) -> list[Any]:
    """`lax.custom_linear_solve`, of which jnp.linalg.solve and inv are made."""
    counts, jaxprs = eqn.params["const_lengths"], eqn.params["jaxprs"]
    consts, start = {}, 0
    for name in counts._fields:
        length = getattr(counts, name)
        consts[name] = inputs[start : start + length]
        start += length

    def operator(name: str) -> Callable[[Any, Any], list[Any]]:
        program = getattr(jaxprs, name)
        return lambda _, b: _run(program, consts[name], b, context)

    has_transpose = jaxprs.transpose_solve is not None
    matvec = operator("matvec")
    return jax.lax.custom_linear_solve(
        lambda x: matvec(None, x),
        [x.array for x in inputs[start:]],
        operator("solve"),
        operator("transpose_solve") if has_transpose else None,
    )


def _shard_map(eqn: core.JaxprEqn, inputs: list[Value], context: Context) -> list[Any]:
    (program,) = closed_subjaxprs(eqn)
    mapped = jax.shard_map(
        lambda *arrays: tuple(_run(program, (), arrays, context)),
        mesh=eqn.params["mesh"],
        in_specs=eqn.params["in_specs"],
        out_specs=eqn.params["out_specs"],
        check_vma=eqn.params["check_vma"],
    )
    return list(mapped(*[x.array for x in inputs]))


def _run(
    program: core.ClosedJaxpr,
    consts: Sequence[Value],
    arrays: Sequence[Any],
    context: Context,
) -> list[Any]:
    values = [*consts, *map(Value, arrays)]
    return [y.array for y in context.evaluate(program, values, context)]


NESTED = {
    "cond": _cond,
    "custom_linear_solve": _solve,
    "reduce": _reduce,
    "scan": _scan,
    "while": _while,
}
if hasattr(jax, "shard_map"):  # JAX before 0.7: in the dtypes of the program
    NESTED["shard_map"] = _shard_map
