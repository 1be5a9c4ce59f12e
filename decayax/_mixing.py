r"""Whether an optimizer mixes weights: read from its jaxpr, without a single number.

Elementwise: weight i of an update depends on weight i of gradients, parameters and
state alone, so that a few weights of each leaf tell about all. A value is

    CONST     no data: constants, counters, schedules, random numbers
    ALIGNED   element i depends on data at element i alone
    MIXED     anything else: sums, norms, products of matrices, decisions on these

and what is not known to be elementwise mixes.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
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


JUMPS = frozenset(
    ["sign", "gt", "lt", "ge", "le", "eq", "ne", "floor", "ceil", "round", "max", "min"]
    + ["clamp", "stop_gradient", "custom_jvp_call", "custom_vjp_call"]
    + ["custom_vjp_call_jaxpr"]
)
CALLS = frozenset(
    ["jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint"]
    + ["custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"]
)


def _axes(atom: Any) -> int:
    return len(getattr(atom.aval, "shape", ()))


def kinds_of(
    jaxpr: core.Jaxpr, inputs: Sequence[int], jumped: set[str] | None = None
) -> list[int]:
    """The kinds of a jaxpr's outputs for kinds of its inputs.

    Args:
        jaxpr: the program.
        inputs: the kinds of what goes in.
        jumped: collects the operations on data that jump, or whose derivative is
            made to be something else.
    """
    kind: dict[core.Var, int] = dict.fromkeys(jaxpr.constvars, CONST)
    kind |= dict(zip(jaxpr.invars, inputs, strict=True))

    def read(atom: Any) -> int:
        return CONST if isinstance(atom, core.Literal) else kind[atom]

    for eqn in jaxpr.eqns:
        given = [read(atom) for atom in eqn.invars]
        if jumped is not None and max(given, default=CONST) != CONST:
            jumped.update({eqn.primitive.name} & JUMPS)
        outputs = _kinds_of_equation(eqn, given, jumped)
        kind |= dict(zip(eqn.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _kinds_of_equation(
    eqn: core.JaxprEqn, given: list[int], jumped: set[str] | None
) -> list[int]:
    name, worst = eqn.primitive.name, max(given, default=CONST)
    if worst in (CONST, MIXED):
        return [worst] * len(eqn.outvars)
    if name in ELEMENTWISE:
        spread = any(
            kind != CONST and _axes(x) < _axes(eqn.outvars[0])
            for kind, x in zip(given, eqn.invars, strict=True)
        )
        return [MIXED if spread else worst] * len(eqn.outvars)
    if name == "cond" and given[0] == CONST:
        branches = [kinds_of(b.jaxpr, given[1:]) for b in eqn.params["branches"]]
        return [max(kinds) for kinds in zip(*branches, strict=True)]
    if name == "scan":
        return _of_scan(eqn, given)
    if name == "while":
        return _of_while(eqn, given)
    inner = [j for j in subjaxprs(eqn) if len(j.invars) == len(given)]
    if name in CALLS and len(inner) == 1:
        return kinds_of(inner[0], given, jumped)
    return [MIXED] * len(eqn.outvars)


def _of_scan(eqn: core.JaxprEqn, given: list[int]) -> list[int]:
    consts, carries = eqn.params["num_consts"], eqn.params["num_carry"]
    fixed, carry = given[:consts], given[consts : consts + carries]
    # A slice of a scanned array stands at other indices than the array.
    xs = [kind and MIXED for kind in given[consts + carries :]]
    while True:
        out = kinds_of(eqn.params["jaxpr"].jaxpr, [*fixed, *carry, *xs])
        joined = [max(pair) for pair in zip(carry, out[:carries], strict=True)]
        if joined == carry:
            return [*carry, *(kind and MIXED for kind in out[carries:])]
        carry = joined


def _of_while(eqn: core.JaxprEqn, given: list[int]) -> list[int]:
    cond_n, body_n = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    of_cond, of_body = given[:cond_n], given[cond_n : cond_n + body_n]
    carry = given[cond_n + body_n :]
    while True:
        (test,) = kinds_of(eqn.params["cond_jaxpr"].jaxpr, [*of_cond, *carry])
        if test != CONST:
            return [MIXED] * len(carry)
        out = kinds_of(eqn.params["body_jaxpr"].jaxpr, [*of_body, *carry])
        joined = [max(pair) for pair in zip(carry, out, strict=True)]
        if joined == carry:
            return carry
        carry = joined


def subjaxprs(eqn: core.JaxprEqn) -> Iterator[core.Jaxpr]:
    """The jaxprs in an equation's parameters."""
    for value in eqn.params.values():
        for part in value if isinstance(value, tuple | list) else [value]:
            if isinstance(part, core.ClosedJaxpr):
                yield part.jaxpr
            elif isinstance(part, core.Jaxpr):
                yield part


def outline_of(jaxpr: core.Jaxpr, consts: Sequence[Any]) -> list[Any]:
    """A program's operations in order, with those inside, and its numbers.

    An array that is remembered, or counts its own rows, makes it unlike any other.
    """
    lines: list[Any] = [_number(const) for const in consts]
    for eqn in jaxpr.eqns:
        literals = [_number(x.val) for x in eqn.invars if isinstance(x, core.Literal)]
        lines.append((eqn.primitive.name, *literals))
        if eqn.primitive.name == "iota":
            lines.append(eqn.params["shape"])
        for inner in subjaxprs(eqn):
            lines += outline_of(inner, ())
    return lines


def _number(value: Any) -> Any:
    """A number as text; of an array something that equals nothing else."""
    return str(value) if np.shape(value) == () else object()


def mixes(optimizer: Any, params: Any, gradients: Any, extra_args: Any) -> bool:
    """Whether any update depends on other weights than its own.

    Args:
        optimizer: with ``init`` and ``update``.
        params: arrays or shapes; nothing is calculated.
        gradients: shapes like them.
        extra_args: step -> further keywords of ``update``.
    """
    weights = jax.tree.leaves(params)
    init = jax.make_jaxpr(optimizer.init)(params)
    kinds = kinds_of(init.jaxpr, [ALIGNED] * len(weights))
    program = _program(optimizer, params, gradients, extra_args).jaxpr
    of_weights = [ALIGNED] * len(weights)
    while True:  # the state's kinds only ever grow
        out = kinds_of(program, [*of_weights, *kinds, *of_weights])
        updates, new = out[: len(out) - len(kinds)], out[len(out) - len(kinds) :]
        joined = [max(pair) for pair in zip(kinds, new, strict=True)]
        if joined == kinds:
            return MIXED in updates
        kinds = joined


def outline(optimizer: Any, params: Any, gradients: Any, extra_args: Any) -> list[Any]:
    """The operations of one update, the same for shapes that it treats alike."""
    program = _program(optimizer, params, gradients, extra_args)
    return outline_of(program.jaxpr, program.consts)


def _program(
    optimizer: Any, params: Any, gradients: Any, extra_args: Any
) -> core.ClosedJaxpr:
    """One update, traced."""

    def update(gradients: Any, state: Any, params: Any) -> Any:
        return optimizer.update(gradients, state, params, **extra_args(0))

    state = jax.eval_shape(optimizer.init, params)
    return jax.make_jaxpr(update)(gradients, state, params)


class Dependence(NamedTuple):
    """How ``step(params) -> updates, state`` depends on the params."""

    updates: list[int]  # the kind of each leaf
    state: int  # the worst kind
    jumps: bool  # a derivative does not show all of it


def dependence(step: Any, params: Any) -> Dependence:
    """How the updates and the new state of a step depend on the params."""
    updates, _ = jax.eval_shape(step, params)
    program = jax.make_jaxpr(step)(params).jaxpr
    jumped: set[str] = set()
    kinds = kinds_of(program, [ALIGNED] * len(jax.tree.leaves(params)), jumped)
    own = len(jax.tree.leaves(updates))
    return Dependence(kinds[:own], max(kinds[own:], default=CONST), bool(jumped))
