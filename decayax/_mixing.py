r"""Whether an optimizer mixes weights: read from its jaxpr, without a single number.

Elementwise: weight i of an update depends on weight i of gradients, parameters and
state alone, so that a few weights of each leaf tell about all. A value is

    CONST     no data: constants, counters, schedules, random numbers
    ALIGNED   element i depends on data at element i alone
    MIXED     anything else: sums, norms, products of matrices, decisions on these

and what is not known to be elementwise mixes.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
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


def kinds_of(jaxpr: core.Jaxpr, inputs: Sequence[int]) -> list[int]:
    """The kinds of a jaxpr's outputs for kinds of its inputs."""
    kind: dict[core.Var, int] = dict.fromkeys(jaxpr.constvars, CONST)
    kind |= dict(zip(jaxpr.invars, inputs, strict=True))

    def read(atom: Any) -> int:
        return CONST if isinstance(atom, core.Literal) else kind[atom]

    for eqn in jaxpr.eqns:
        given = [read(atom) for atom in eqn.invars]
        outputs = _kinds_of_equation(eqn, given)
        kind |= dict(zip(eqn.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _kinds_of_equation(eqn: core.JaxprEqn, given: list[int]) -> list[int]:
    name, worst = eqn.primitive.name, max(given, default=CONST)
    if worst in (CONST, MIXED):
        return [worst] * len(eqn.outvars)
    if name in ELEMENTWISE:
        return [worst] * len(eqn.outvars)
    if name == "cond" and given[0] == CONST:
        branches = [kinds_of(b.jaxpr, given[1:]) for b in eqn.params["branches"]]
        return [max(kinds) for kinds in zip(*branches, strict=True)]
    if name == "scan":
        return _of_scan(eqn, given)
    if name == "while":
        return _of_while(eqn, given)
    inner = [j for j in subjaxprs(eqn) if len(j.invars) == len(given)]
    if len(inner) == 1 and name not in ("cond", "reduce", "sort"):  # jit, custom_jvp
        return kinds_of(inner[0], given)
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


def primitives(jaxpr: core.Jaxpr) -> list[str]:
    """The names of all operations in order, with those inside: a program's outline."""
    names = []
    for eqn in jaxpr.eqns:
        names.append(eqn.primitive.name)
        for inner in subjaxprs(eqn):
            names += primitives(inner)
    return names


def mixes(optimizer: Any, params: Any, gradients: Any, extra_args: Any) -> bool:
    """Whether any update depends on other weights than its own.

    Args:
        optimizer: with ``init`` and ``update``.
        params: arrays or shapes; nothing is calculated.
        gradients: shapes like them.
        extra_args: (gradients, params) -> further keywords of ``update``.
    """
    weights = jax.tree.leaves(params)
    init, state = jax.make_jaxpr(optimizer.init, return_shape=True)(params)
    kinds = kinds_of(init.jaxpr, [ALIGNED] * len(weights))

    def update(gradients: Any, state: Any, params: Any) -> Any:
        more = extra_args(gradients, params)
        return optimizer.update(gradients, state, params, **more)

    program = jax.make_jaxpr(update)(gradients, state, params).jaxpr
    of_weights = [ALIGNED] * len(weights)
    while True:  # the state's kinds only ever grow
        out = kinds_of(program, [*of_weights, *kinds, *of_weights])
        updates, new = out[: len(out) - len(kinds)], out[len(out) - len(kinds) :]
        joined = [max(pair) for pair in zip(kinds, new, strict=True)]
        if joined == kinds:
            return MIXED in updates
        kinds = joined


def outline(optimizer: Any, params: Any, gradients: Any, extra_args: Any) -> list[str]:
    """The operations of one update, the same for shapes that it treats alike."""
    state = jax.eval_shape(optimizer.init, params)

    def update(gradients: Any, state: Any, params: Any) -> Any:
        more = extra_args(gradients, params)
        return optimizer.update(gradients, state, params, **more)

    return primitives(jax.make_jaxpr(update)(gradients, state, params).jaxpr)


def dependence(step: Any, params: Any) -> tuple[int, int]:
    """How the updates and the new state of ``step(params)`` depend on the params."""
    updates, _ = jax.eval_shape(step, params)
    program = jax.make_jaxpr(step)(params).jaxpr
    kinds = kinds_of(program, [ALIGNED] * len(jax.tree.leaves(params)))
    own = len(jax.tree.leaves(updates))
    return max(kinds[:own], default=CONST), max(kinds[own:], default=CONST)
