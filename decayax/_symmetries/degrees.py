"""Degrees of homogeneity, carried through the program: a second way, without numbers.

If every unit l is multiplied by exp(a_l), a homogeneous value is multiplied by exp(d),
where d = Σ_l c_l a_l is its degree, a linear form in the exponents:

    matrix product, multiplication     the degrees add up
    addition, maximum, concatenation   the degrees must be equal
    square root, powers                a multiple
    exp, tanh, GELU, a cast to int     the degree must be 0
    the outputs                        the degree must be 0

A normalization is not a special case: x / sqrt(mean(x²)) has the degree d - d. The
exponents that meet all conditions are symmetries, for any dtype and size, where an ε
counts as 0. There may be more of them: softmax does not see a constant that is added,
and an operation that is not known here must have the degree 0.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.extend import core

from decayax._jaxpr.dataflow import closed_subjaxprs, is_inexact_atom, shape_of
from decayax._symmetries.causes import join_scopes, place_of
from decayax._symmetries.constants import called, denominators, FLOORS
from decayax._symmetries.degree_rules import (
    apply_rule,
    common_degree,
    Conditions,
    constant,
    Degree,
    PRODUCTS,
)
from decayax._symmetries.units import Parameter


# A longer scan is not unrolled: its carry must have the degree 0.
MAX_ITERATIONS = 512
# Operations behind which a scale may be gone.
CANCELLING = PRODUCTS | {"div"}


class Reading(NamedTuple):
    """What the program shows."""

    conditions: np.ndarray  # [conditions, units]: forms that must be 0
    causes: dict[int, str]  # unit -> the operation behind which its scale is gone


class _Context(NamedTuple):
    conditions: Conditions
    causes: dict[int, str]


def read_degrees(
    program: core.ClosedJaxpr, parameters: Sequence[Parameter | None]
) -> Reading:
    """The conditions on the exponents; None for the inputs without exponents."""
    units = sum(p.count() for p in parameters if p)
    context = _Context(Conditions({}, units), {})
    inputs = [_of_input(p, context) for p in parameters]
    jaxpr = program.jaxpr
    needed = [is_inexact_atom(atom) for atom in jaxpr.outvars]
    outputs = _read(program, inputs, needed, "", context)
    for output, is_needed in zip(outputs, needed, strict=True):
        if is_needed:
            context.conditions.require_zero(_whole(output, context).form)
    forms = list(context.conditions.forms.values())
    return Reading(np.array(forms).reshape(-1, units), context.causes)


def _of_input(parameter: Parameter | None, context: _Context) -> Degree:
    form = context.conditions.none()
    if parameter is None:
        return Degree(form)
    if parameter.stack is not None:
        return Degree(form, stack=parameter)
    form[parameter.first] = 1.0
    return Degree(form)


def _whole(value: Degree, context: _Context) -> Degree:
    """The degree of a stack that is not taken apart: all slices must have the same."""
    if value.stack is None:
        return value
    units = value.stack.units()
    form = context.conditions.none()
    form[units[0]] = 1.0
    for unit in units[1:]:
        difference = form.copy()
        difference[unit] = -1.0
        context.conditions.require_zero(difference)
    return Degree(form)


def _slice(stack: Parameter, index: int, context: _Context) -> Degree:
    form = context.conditions.none()
    form[stack.first + index] = 1.0
    return Degree(form)


def _read(
    program: core.ClosedJaxpr,
    inputs: Sequence[Degree],
    needed: Sequence[bool],
    scope: str,
    context: _Context,
    under: Sequence[bool] = (),
) -> list[Degree]:
    """The degrees of the outputs; operations that no needed output uses are skipped.

    ``under`` says which outputs end in a denominator.
    """
    jaxpr = program.jaxpr
    known = {
        var: constant(x, context.conditions)
        for var, x in zip(jaxpr.constvars, program.consts, strict=True)
    }
    known |= dict(zip(jaxpr.invars, inputs, strict=True))
    nothing = Degree(context.conditions.none(), is_free=True)

    def read(atom: Any) -> Degree:
        if isinstance(atom, core.Literal):
            return constant(atom.val, context.conditions)
        return known.get(atom, nothing)

    divisors = denominators(jaxpr, under or [False] * len(jaxpr.outvars))
    for eqn, used in _live(jaxpr, needed):
        values = [read(x) for x in eqn.invars]
        flags = [var in divisors for var in eqn.outvars]
        outputs = _read_eqn(eqn, values, used, scope, context, flags)
        known |= dict(zip(eqn.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _live(
    jaxpr: core.Jaxpr, needed: Sequence[bool]
) -> list[tuple[core.JaxprEqn, list[bool]]]:
    """The operations that a needed output depends on, with the outputs in use."""
    pairs = zip(jaxpr.outvars, needed, strict=True)
    alive = {x for x, keep in pairs if keep and not isinstance(x, core.Literal)}
    operations = []
    for eqn in reversed(jaxpr.eqns):
        used = [var in alive for var in eqn.outvars]
        if any(used):
            operations.append((eqn, used))
            alive |= {x for x in eqn.invars if not isinstance(x, core.Literal)}
    return operations[::-1]


def _read_eqn(
    eqn: core.JaxprEqn,
    inputs: list[Degree],
    used: list[bool],
    scope: str,
    context: _Context,
    under: Sequence[bool],
) -> list[Degree]:
    name = eqn.primitive.name
    inner = [j for j in closed_subjaxprs(eqn) if len(j.jaxpr.invars) == len(inputs)]
    body = called(eqn) or (inner[0] if name == "shard_map" and inner else None)
    if body is not None:
        scope = join_scopes(scope, eqn)
        return _read(body, inputs, used, scope, context, under)
    if name == "scan" and eqn.params["length"] <= MAX_ITERATIONS:
        return _read_scan(eqn, inputs, scope, context)
    taken = _taken_slices(eqn, inputs, context)
    if taken:
        return taken
    stack = inputs[0].stack if inputs else None
    if stack and name in ("convert_element_type", "copy", "optimization_barrier"):
        return inputs
    inputs = [_whole(x, context) for x in inputs]
    if name == "cond":
        return _read_cond(eqn, inputs, used, scope, context)
    is_floor = name in FLOORS and under[0]
    outputs = apply_rule(eqn, inputs, context.conditions, is_floor=is_floor)
    if name in CANCELLING:
        before = np.any([x.form for x in inputs], axis=0)
        for unit in np.flatnonzero(before & (outputs[0].form == 0)):
            context.causes.setdefault(int(unit), place_of(eqn, scope))
    return outputs


def _taken_slices(
    eqn: core.JaxprEqn, inputs: list[Degree], context: _Context
) -> list[Degree]:
    """The degrees of single slices of a stack, at known indices."""
    stack = inputs[0].stack if inputs else None
    if stack is None or stack.stack is None:
        return []
    name, axis = eqn.primitive.name, stack.stack
    if name == "split" and axis == eqn.params["axis"]:
        is_single = len(eqn.outvars) == stack.count()
        indices = range(stack.count()) if is_single else ()
        return [_slice(stack, index, context) for index in indices]
    is_one = name in ("slice", "dynamic_slice") and shape_of(eqn.outvars[0])[axis] == 1
    if not is_one:
        return []
    if name == "slice":
        index = eqn.params["start_indices"][axis]
    else:
        index = inputs[1 + axis].uniform
    if index is None:
        return []
    # JAX moves an index that is outside to the end.
    index = min(max(int(index), 0), stack.count() - 1)
    return [_slice(stack, index, context)]


def _read_scan(
    eqn: core.JaxprEqn, inputs: list[Degree], scope: str, context: _Context
) -> list[Degree]:
    params, body = eqn.params, eqn.params["jaxpr"]
    num_consts, num_carry = params["num_consts"], params["num_carry"]
    consts, carry = inputs[:num_consts], inputs[num_consts : num_consts + num_carry]
    carry = [_whole(x, context) for x in carry]
    xs = inputs[num_consts + num_carry :]
    is_own = [x.stack is not None and x.stack.stack == 0 for x in xs]
    xs = [x if own else _whole(x, context) for x, own in zip(xs, is_own, strict=True)]
    needed = [True] * len(body.jaxpr.outvars)
    rows: list[list[Degree]] = []
    order = range(params["length"])
    for i in reversed(order) if params["reverse"] else order:
        slices = [_slice(x.stack, i, context) if x.stack else x for x in xs]
        arguments = [*consts, *carry, *slices]
        outputs = _read(body, arguments, needed, scope, context)
        outputs = [_whole(x, context) for x in outputs]
        carry, ys = outputs[:num_carry], outputs[num_carry:]
        rows.append(ys)
    if not rows:  # outputs without elements
        nothing = Degree(context.conditions.none(), is_free=True)
        return [*carry, *[nothing] * (len(needed) - num_carry)]
    columns = zip(*rows, strict=True)
    return [*carry, *(common_degree(x, context.conditions) for x in columns)]


def _read_cond(
    eqn: core.JaxprEqn,
    inputs: list[Degree],
    used: list[bool],
    scope: str,
    context: _Context,
) -> list[Degree]:
    branches = [
        _read(branch, inputs[1:], used, scope, context)
        for branch in eqn.params["branches"]
    ]
    return [
        common_degree([_whole(x, context) for x in outputs], context.conditions)
        for outputs in zip(*branches, strict=True)
    ]
