r"""Dataflow analysis of jaxprs: how each value depends on the data of the program.

The data are the inputs that the caller marks, such as gradients, parameters and state.
The analysis propagates one of five kinds from the inputs to the outputs:

    CONSTANT  independent of the data: constants, counters, schedules, random numbers
    ALIGNED   element i depends on element i of the data only
    COUPLED   element i depends on element i of the data, and on scalars that were
              calculated from any data: norms, means, whether all elements are finite
    REORDERED element i depends on single elements at other places
    MIXED     everything else: matrix products, sums over one axis

The analysis is conservative: a primitive that is not known to be elementwise is MIXED.

It also marks values as nondifferentiable. The derivative of such a value does not show
everything that the data does to it, because the value is discontinuous in the data or
has a custom derivative.
"""

import enum
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.extend import core


# The names of JAX's elementwise primitives (jax/_src/lax/lax.py, jax 0.5 to 0.10) and
# of primitives that change no element. A primitive that is missing here counts as
# MIXED: the audit then measures all weights instead of a sample.
ELEMENTWISE = frozenset(
    """
    abs acos acosh add add_any and asin asinh atan atan2 atanh cbrt ceil clamp complex
    conj convert_element_type copy copy_p cos cosh digamma div eq erf erf_inv erfc exp
    exp2 expm1 floor ge gt imag integer_pow is_finite le lgamma log log1p logistic lt
    max min mul ne neg nextafter not optimization_barrier or pow pvary random_clone real
    reduce_precision rem round rsqrt select_n shift_left shift_right_arithmetic
    shift_right_logical sign sin sinh sqrt square stop_gradient sub tan tanh xor
    """.split()  # noqa: SIM905
)
# Primitives that move elements. A norm is often calculated of a raveled array.
REORDERING = frozenset("reshape rev squeeze transpose".split())  # noqa: SIM905
# Primitives whose derivative is 0, one-sided or custom. Casts of floats to integers
# are found by their dtypes in `_is_nondifferentiable`.
NONDIFFERENTIABLE = frozenset(
    """
    ceil clamp cummax cummin custom_jvp_call custom_vjp_call custom_vjp_call_jaxpr floor
    max min nextafter reduce_max reduce_min rem round sign sort stop_gradient top_k
    """.split()  # noqa: SIM905
)
# Primitives that call one inner jaxpr with their own inputs.
CALLS = frozenset(
    """
    checkpoint closed_call core_call custom_jvp_call custom_vjp_call
    custom_vjp_call_jaxpr jit pjit remat remat2
    """.split()  # noqa: SIM905
)


class Kind(enum.IntEnum):
    """How a value depends on the data. The join of two kinds is the larger one."""

    CONSTANT = 0
    ALIGNED = 1
    COUPLED = 2
    REORDERED = 3
    MIXED = 4


class Dependency(NamedTuple):
    """How one value of a program depends on the data."""

    kind: Kind
    nondifferentiable: bool = False


INDEPENDENT = Dependency(Kind.CONSTANT)
ELEMENTWISE_INPUT = Dependency(Kind.ALIGNED)


def join(dependencies: Sequence[Dependency]) -> Dependency:
    """The dependency of a value that may be any of several values."""
    return Dependency(
        max((dep.kind for dep in dependencies), default=Kind.CONSTANT),
        any(dep.nondifferentiable for dep in dependencies),
    )


def propagate(jaxpr: core.Jaxpr, inputs: Sequence[Dependency]) -> list[Dependency]:
    """The dependencies of a jaxpr's outputs, from those of its inputs."""
    known: dict[core.Var, Dependency] = dict.fromkeys(jaxpr.constvars, INDEPENDENT)
    known |= dict(zip(jaxpr.invars, inputs, strict=True))

    def read(atom: Any) -> Dependency:
        return INDEPENDENT if isinstance(atom, core.Literal) else known[atom]

    for eqn in jaxpr.eqns:
        outputs = _propagate_eqn(eqn, [read(atom) for atom in eqn.invars])
        known |= dict(zip(eqn.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _propagate_eqn(eqn: core.JaxprEqn, inputs: list[Dependency]) -> list[Dependency]:
    name, joined = eqn.primitive.name, join(inputs)
    if name == "cond":
        return _propagate_cond(eqn, inputs)
    if name == "scan":
        return _propagate_scan(eqn, inputs)
    if name == "while":
        return _propagate_while(eqn, inputs)
    pairs = zip(eqn.invars, inputs, strict=True)
    data = [atom for atom, dep in pairs if dep.kind != Kind.CONSTANT]
    jumps = bool(data) and _is_nondifferentiable(eqn, data)
    inner = [j for j in subjaxprs(eqn) if len(j.invars) == len(inputs)]
    if name in CALLS and len(inner) == 1:
        outputs = propagate(inner[0], inputs)
        return [Dependency(d.kind, d.nondifferentiable or jumps) for d in outputs]
    jumps = jumps or joined.nondifferentiable
    kinds = [_kind_of_output(eqn, data, joined.kind, out) for out in eqn.outvars]
    return [Dependency(kind, jumps) for kind in kinds]


def _kind_of_output(eqn: core.JaxprEqn, data: list[Any], kind: Kind, out: Any) -> Kind:
    """The kind of an output, from the data and the largest kind of the inputs."""
    if kind in (Kind.CONSTANT, Kind.MIXED):
        return kind
    if eqn.primitive.name in ELEMENTWISE:
        # A smaller operand reaches several elements, by its rank or by an axis of 1.
        smaller = [atom for atom in data if shape_of(atom) != shape_of(out)]
        if not all(map(is_scalar, smaller)):
            return Kind.MIXED
        return max(kind, Kind.COUPLED) if smaller else kind
    # A scalar may depend on all elements, and any function of scalars may be COUPLED.
    if is_scalar(out) or all(map(is_scalar, data)):
        return Kind.COUPLED
    return Kind.REORDERED if eqn.primitive.name in REORDERING else Kind.MIXED


def _is_nondifferentiable(eqn: core.JaxprEqn, data: list[Any]) -> bool:
    """Whether the derivative of an operation on data misses some of its effect."""
    name = eqn.primitive.name
    # A primitive with an inner program, such as reduce_window, may do anything with it.
    if name in NONDIFFERENTIABLE or (name not in CALLS and any(subjaxprs(eqn))):
        return True
    from_floats = any(map(is_inexact_atom, data))
    # Comparisons, argmax and casts make integers or booleans of floats. `is_finite` is
    # the exception: while all values stay finite, it is constant.
    to_integers = not all(map(is_inexact_atom, eqn.outvars))
    return from_floats and to_integers and name != "is_finite" and name not in CALLS


def is_inexact_atom(atom: Any) -> bool:
    """Whether a value of a program holds floats or complex numbers."""
    return jnp.issubdtype(getattr(atom.aval, "dtype", np.bool_), jnp.inexact)


def shape_of(atom: Any) -> tuple[int, ...]:
    return getattr(atom.aval, "shape", ())


def is_scalar(atom: Any) -> bool:
    """Whether a value has one element: all its axes, if any, have the size 1."""
    return all(size == 1 for size in shape_of(atom))


def _at_least(kind: Kind, dep: Dependency) -> Dependency:
    """The same data in another way, which is of the given kind; CONSTANT remains."""
    if dep.kind == Kind.CONSTANT:
        return dep
    return Dependency(max(kind, dep.kind), dep.nondifferentiable)


def _propagate_cond(eqn: core.JaxprEqn, inputs: list[Dependency]) -> list[Dependency]:
    index, *operands = inputs
    branches = [propagate(b.jaxpr, operands) for b in eqn.params["branches"]]
    choice = _at_least(Kind.COUPLED, index)
    return [join([choice, *outputs]) for outputs in zip(*branches, strict=True)]


def _propagate_scan(eqn: core.JaxprEqn, inputs: list[Dependency]) -> list[Dependency]:
    num_consts, num_carry = eqn.params["num_consts"], eqn.params["num_carry"]
    consts = inputs[:num_consts]
    init = inputs[num_consts : num_consts + num_carry]
    # The slices of a scanned array lose its first axis, so indices no longer match.
    xs = [_at_least(Kind.MIXED, dep) for dep in inputs[num_consts + num_carry :]]

    def body(carry: list[Dependency]) -> list[Dependency]:
        return propagate(eqn.params["jaxpr"].jaxpr, [*consts, *carry, *xs])

    carry = fixed_point(lambda carry: body(carry)[:num_carry], init)
    slices = eqn.params["jaxpr"].jaxpr.outvars[num_carry:]
    kinds = [Kind.COUPLED if is_scalar(x) else Kind.MIXED for x in slices]
    return [*carry, *map(_at_least, kinds, body(carry)[num_carry:])]


def _propagate_while(eqn: core.JaxprEqn, inputs: list[Dependency]) -> list[Dependency]:
    cond_n, body_n = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    cond_consts, body_consts = inputs[:cond_n], inputs[cond_n : cond_n + body_n]

    def body(carry: list[Dependency]) -> list[Dependency]:
        (test,) = propagate(eqn.params["cond_jaxpr"].jaxpr, [*cond_consts, *carry])
        outputs = propagate(eqn.params["body_jaxpr"].jaxpr, [*body_consts, *carry])
        decision = _at_least(Kind.COUPLED, test)
        return [join([decision, dep]) for dep in outputs]

    return fixed_point(body, inputs[cond_n + body_n :])


def fixed_point(
    body: Callable[[list[Dependency]], list[Dependency]], carry: list[Dependency]
) -> list[Dependency]:
    """The dependencies of a loop's carry after any number of iterations.

    It terminates because each iteration can only move a value up in a finite lattice.
    """
    while True:
        new = [join(pair) for pair in zip(carry, body(carry), strict=True)]
        if new == carry:
            return carry
        carry = new


def subjaxprs(eqn: core.JaxprEqn) -> Iterator[core.Jaxpr]:
    """The jaxprs in an equation's parameters."""
    return (closed.jaxpr for closed in closed_subjaxprs(eqn))


def closed_subjaxprs(eqn: core.JaxprEqn) -> Iterator[core.ClosedJaxpr]:
    """The jaxprs in an equation's parameters, with their constants."""
    for value in eqn.params.values():
        for part in value if isinstance(value, tuple | list) else [value]:
            if isinstance(part, core.ClosedJaxpr):
                yield part
            elif isinstance(part, core.Jaxpr):
                yield core.ClosedJaxpr(part, [])
