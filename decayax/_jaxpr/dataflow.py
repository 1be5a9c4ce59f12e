r"""Whether an optimizer mixes weights: read from its jaxpr, without a single number.

Elementwise: weight i of an update depends on weight i of gradients, parameters and
state alone, so that a few weights of each leaf tell about all. A value is

    CONST     no data: constants, counters, schedules, random numbers
    ALIGNED   element i depends on data at element i alone
    MIXED     anything else: sums, norms, products of matrices, decisions on these

and what is not known to be elementwise mixes. A value is hidden if a derivative at
this step does not show all that the parameters do to it: where it jumps, and where it
comes from a state that knew earlier parameters.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.extend import core


CONST, ALIGNED, MIXED = range(3)
ELEMENTWISE = frozenset(
    [
        "abs",
        "acos",
        "acosh",
        "add",
        "add_any",
        "and",
        "asin",
        "asinh",
        "atan",
        "atan2",
        "atanh",
        "cbrt",
        "ceil",
        "clamp",
        "convert_element_type",
        "copy",
        "copy_p",
        "cos",
        "cosh",
        "digamma",
        "div",
        "eq",
        "erf",
        "erf_inv",
        "erfc",
        "exp",
        "exp2",
        "expm1",
        "floor",
        "ge",
        "gt",
        "imag",
        "integer_pow",
        "is_finite",
        "le",
        "lgamma",
        "log",
        "log1p",
        "logistic",
        "lt",
        "max",
        "min",
        "mul",
        "ne",
        "neg",
        "nextafter",
        "not",
        "optimization_barrier",
        "or",
        "pow",
        "pvary",
        "random_clone",
        "real",
        "complex",
        "conj",
        "reduce_precision",
        "rem",
        "round",
        "rsqrt",
        "select_n",
        "shift_left",
        "shift_right_arithmetic",
        "shift_right_logical",
        "sign",
        "sin",
        "sinh",
        "sqrt",
        "square",
        "stop_gradient",
        "sub",
        "tan",
        "tanh",
        "xor",
    ]
)


JUMPS = frozenset(  # beside those that make integers of floats
    ["sign", "floor", "ceil", "round", "rem", "max", "min", "clamp", "sort", "top_k"]
    + ["reduce_max", "reduce_min", "cummax", "cummin", "nextafter", "stop_gradient"]
    + ["custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"]
)
CALLS = frozenset(
    ["jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint"]
    + ["custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"]
)


class Flow(NamedTuple):
    """What is known of a value."""

    kind: int
    hidden: bool = False


STILL = Flow(CONST)


def joined(flows: Sequence[Flow]) -> Flow:
    """What is known of a value that may be any of these."""
    return Flow(
        max((flow.kind for flow in flows), default=CONST),
        any(flow.hidden for flow in flows),
    )


def flows_of(jaxpr: core.Jaxpr, inputs: Sequence[Flow]) -> list[Flow]:
    """What is known of a program's outputs, from what is known of its inputs."""
    known: dict[core.Var, Flow] = dict.fromkeys(jaxpr.constvars, STILL)
    known |= dict(zip(jaxpr.invars, inputs, strict=True))

    def read(atom: Any) -> Flow:
        return STILL if isinstance(atom, core.Literal) else known[atom]

    for eqn in jaxpr.eqns:
        outputs = _of_equation(eqn, [read(atom) for atom in eqn.invars])
        known |= dict(zip(eqn.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _of_equation(eqn: core.JaxprEqn, given: list[Flow]) -> list[Flow]:
    name, all_given = eqn.primitive.name, joined(given)
    if name == "cond":
        return _of_cond(eqn, given)
    if name == "scan":
        return _of_scan(eqn, given)
    if name == "while":
        return _of_while(eqn, given)
    jumps = all_given.kind != CONST and _jumps(eqn, given)
    inner = [j for j in subjaxprs(eqn) if len(j.invars) == len(given)]
    if name in CALLS and len(inner) == 1:
        return [_hide(flow, jumps) for flow in flows_of(inner[0], given)]
    kind = all_given.kind
    if kind == ALIGNED and (name not in ELEMENTWISE or _spreads(eqn, given)):
        kind = MIXED
    return [Flow(kind, all_given.hidden or jumps)] * len(eqn.outvars)


def _hide(flow: Flow, hidden: bool) -> Flow:
    return Flow(flow.kind, flow.hidden or hidden)


def _jumps(eqn: core.JaxprEqn, given: list[Flow]) -> bool:
    """Whether the derivative of an operation on data is 0 or not its own."""
    name = eqn.primitive.name
    if name in JUMPS or (name not in CALLS and any(subjaxprs(eqn))):
        return True
    fractions = any(
        flow.kind != CONST and _is_inexact(x)
        for flow, x in zip(given, eqn.invars, strict=True)
    )
    whole = not all(map(_is_inexact, eqn.outvars))
    return fractions and whole and name != "is_finite" and name not in CALLS


def _is_inexact(atom: Any) -> bool:
    return jnp.issubdtype(getattr(atom.aval, "dtype", np.bool_), jnp.inexact)


def _spreads(eqn: core.JaxprEqn, given: list[Flow]) -> bool:
    """Whether data of fewer axes, such as one number, meet arrays of more."""
    return any(
        flow.kind != CONST and _axes(x) < _axes(eqn.outvars[0])
        for flow, x in zip(given, eqn.invars, strict=True)
    )


def _axes(atom: Any) -> int:
    return len(getattr(atom.aval, "shape", ()))


def _of_cond(eqn: core.JaxprEqn, given: list[Flow]) -> list[Flow]:
    which, *operands = given
    branches = [flows_of(b.jaxpr, operands) for b in eqn.params["branches"]]
    chosen = Flow(which.kind and MIXED, which.hidden)
    return [joined([chosen, *flows]) for flows in zip(*branches, strict=True)]


def _of_scan(eqn: core.JaxprEqn, given: list[Flow]) -> list[Flow]:
    consts, carries = eqn.params["num_consts"], eqn.params["num_carry"]
    fixed, carry = given[:consts], given[consts : consts + carries]
    # A slice of a scanned array stands at other indices than the array.
    xs = [_moved(flow) for flow in given[consts + carries :]]

    def body(carry: list[Flow]) -> list[Flow]:
        return flows_of(eqn.params["jaxpr"].jaxpr, [*fixed, *carry, *xs])

    carry = settled(lambda carry: body(carry)[:carries], carry)
    return [*carry, *map(_moved, body(carry)[carries:])]


def _moved(flow: Flow) -> Flow:
    return Flow(flow.kind and MIXED, flow.hidden)


def _of_while(eqn: core.JaxprEqn, given: list[Flow]) -> list[Flow]:
    cond_n, body_n = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    of_cond, of_body = given[:cond_n], given[cond_n : cond_n + body_n]

    def body(carry: list[Flow]) -> list[Flow]:
        (test,) = flows_of(eqn.params["cond_jaxpr"].jaxpr, [*of_cond, *carry])
        out = flows_of(eqn.params["body_jaxpr"].jaxpr, [*of_body, *carry])
        return [joined([_moved(test), flow]) for flow in out]

    return settled(body, given[cond_n + body_n :])


def settled(body: Callable[[list[Flow]], list[Flow]], carry: list[Flow]) -> list[Flow]:
    """What is known of values that come back to where they were, however often."""
    while True:
        new = [joined(pair) for pair in zip(carry, body(carry), strict=True)]
        if new == carry:
            return carry
        carry = new


def subjaxprs(eqn: core.JaxprEqn) -> Iterator[core.Jaxpr]:
    """The jaxprs in an equation's parameters."""
    for value in eqn.params.values():
        for part in value if isinstance(value, tuple | list) else [value]:
            if isinstance(part, core.ClosedJaxpr):
                yield part.jaxpr
            elif isinstance(part, core.Jaxpr):
                yield part
