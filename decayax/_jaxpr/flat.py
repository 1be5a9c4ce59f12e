"""A program as one flat list of operations on numbered slots, without calls.

The bodies of `jit` and of similar calls become part of the list. A branch of `cond` is
a list of its own over the same slots. All other operations are atomic: loops, custom
derivatives, and primitives that are not known.
"""

import functools
import itertools
from collections.abc import Hashable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from decayax._core.strength import is_concrete
from decayax._jaxpr.dataflow import closed_subjaxprs


# Calls that are replaced by their bodies. A custom derivative is not: its rule would be
# lost.
INLINED = frozenset(
    "call checkpoint closed_call core_call jit pjit remat remat2".split()  # noqa: SIM905
)
# Effects that only print. An operation with any other effect is not supported.
PRINTING = frozenset(["DebugEffect", "OrderedDebugEffect"])
# A primitive whose outputs differ from call to call without an effect.
IMPURE = frozenset(["rng_uniform"])


class Unsupported(Exception):
    """The program has an effect, so its operations cannot be moved."""


class Operation(NamedTuple):
    """One equation. Equal keys mean the same primitive with the same parameters."""

    eqn: core.JaxprEqn
    key: Hashable
    inputs: list[int]  # slots
    outputs: list[int]
    branches: "list[Block]"  # of a cond, whose inputs are then (index, *operands)


class Block(NamedTuple):
    """A list of operations, and the slots of its results."""

    operations: list[Operation]
    outputs: list[int]


class Program(NamedTuple):
    """A flat program. Each constant has its slot."""

    inputs: list[int]
    body: Block
    constants: dict[int, Any]
    keys: dict[int, Hashable]  # of the constants: equal for equal values


class _Context(NamedTuple):
    """What the parts of one program share."""

    counter: Iterator[int]  # the next free slot
    constants: dict[int, Any]
    slots: dict[Hashable, int]  # constant key -> slot
    eqn_keys: dict[int, tuple[core.JaxprEqn, Hashable]]  # by id of the equation
    interned: dict[Hashable, int]  # operation key -> number
    alive: list[Any]  # traced rules: the ids of their parts are in keys
    in_rule: bool = False  # whether it is the rule of a custom derivative


def flatten(program: core.ClosedJaxpr) -> Program:
    """Replace all calls of a program by their bodies.

    Raises:
        Unsupported: the program has effects other than printing.
    """
    context = _Context(itertools.count(), {}, {}, {}, {}, [])
    return _flatten(program.jaxpr, program.consts, context)


def _flatten(jaxpr: core.Jaxpr, consts: Sequence[Any], context: _Context) -> Program:
    inputs = [next(context.counter) for _ in jaxpr.invars]
    body = _inline(jaxpr, consts, inputs, context)
    keys = {slot: key for key, slot in context.slots.items()}
    return Program(inputs, body, context.constants, keys)


def _inline(
    jaxpr: core.Jaxpr, consts: Sequence[Any], inputs: list[int], context: _Context
) -> Block:
    """The operations of a jaxpr whose inputs are in the given slots."""
    slots = dict(zip(jaxpr.invars, inputs, strict=True))
    for var, value in zip(jaxpr.constvars, consts, strict=True):
        slots[var] = _constant_slot(value, var.aval, context)
    operations = []

    def read(atom: Any) -> int:
        if isinstance(atom, core.Literal):
            return _constant_slot(atom.val, atom.aval, context)
        return slots[atom]

    for eqn in jaxpr.eqns:
        arguments = [read(atom) for atom in eqn.invars]
        if eqn.primitive.name in INLINED:
            (inner,) = closed_subjaxprs(eqn)
            called = _inline(inner.jaxpr, inner.consts, arguments, context)
            operations += called.operations
            slots |= zip(eqn.outvars, called.outputs, strict=True)
            continue
        outputs = [next(context.counter) for _ in eqn.outvars]
        slots |= zip(eqn.outvars, outputs, strict=True)
        branches = _branches(eqn, arguments, context)
        key = None if branches else _eqn_key(eqn, context)
        operations.append(Operation(eqn, key, arguments, outputs, branches))
    return Block(operations, [read(atom) for atom in jaxpr.outvars])


def _branches(
    eqn: core.JaxprEqn, arguments: list[int], context: _Context
) -> list[Block]:
    if eqn.primitive.name != "cond":
        return []
    return [
        _inline(branch.jaxpr, branch.consts, arguments[1:], context)
        for branch in eqn.params["branches"]
    ]


def _constant_slot(value: Any, aval: Any, context: _Context) -> int:
    key = (getattr(aval, "weak_type", False), value_key(value))
    slot = context.slots.get(key)
    if slot is None:
        slot = context.slots[key] = next(context.counter)
        context.constants[slot] = value
    return slot


def value_key(value: Any) -> Hashable:
    """Equal for arrays with the same dtype, shape and bits."""
    dtype = getattr(value, "dtype", np.bool_)
    if not is_concrete(value):
        return ("object", id(value))
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return (str(dtype), value_key(jax.random.key_data(value)))
    array = np.asarray(value)
    return (str(array.dtype), array.shape, array.tobytes())


def _eqn_key(eqn: core.JaxprEqn, context: _Context) -> Hashable:
    """The same number for equations that do the same; a new object if that is unknown.

    The body of a function that is called often is inlined often: its keys are cached.
    """
    if {type(effect).__name__ for effect in eqn.effects} - PRINTING:
        raise Unsupported(f"{eqn.primitive.name} has effects")
    if eqn.effects or eqn.primitive.name in IMPURE:
        return object()
    if id(eqn) not in context.eqn_keys:
        name = eqn.primitive.name
        if name.startswith(("custom_jvp_call", "custom_vjp_call")):
            key = (name, _derivative_key(eqn, context))
        else:
            key = (name, _param_key(eqn.params, context))
        # The entry keeps the equation alive, so that its id stays its own.
        number = context.interned.setdefault(key, len(context.interned))
        context.eqn_keys[id(eqn)] = (eqn, number)
    return context.eqn_keys[id(eqn)][1]


def _param_key(value: Any, context: _Context) -> Hashable:
    """Equal for parameters with the same meaning; by identity where that is unknown."""
    if isinstance(value, core.ClosedJaxpr):
        return _jaxpr_key(value.jaxpr, value.consts, context)
    if isinstance(value, core.Jaxpr):
        return _jaxpr_key(value, (), context)
    if isinstance(value, dict):
        items = sorted(value.items(), key=lambda item: str(item[0]))
        return tuple((name, _param_key(x, context)) for name, x in items)
    if isinstance(value, tuple | list):
        return (type(value), *(_param_key(x, context) for x in value))
    if isinstance(value, np.ndarray | jax.Array):
        return value_key(value)
    is_function = callable(value) and not isinstance(value, type)
    if is_function or type(value).__hash__ is None:
        return ("object", id(value))
    return (type(value), value)  # with the type, because 1 == 1.0 == True


def _jaxpr_key(jaxpr: core.Jaxpr, consts: Sequence[Any], context: _Context) -> Hashable:
    """Equal for jaxprs that run the same operations on inputs of the same types."""
    shared = context._replace(counter=itertools.count(), constants={}, slots={})
    flat = _flatten(jaxpr, consts, shared)
    types = tuple(str(var.aval) for var in jaxpr.invars)
    constants = tuple(flat.keys.items())  # by slot
    return (types, constants, _block_key(flat.body))


def _block_key(block: Block) -> Hashable:
    operations = tuple(
        (op.key, tuple(op.inputs), tuple(op.outputs), *map(_block_key, op.branches))
        for op in block.operations
    )
    return (operations, tuple(block.outputs))


def _derivative_key(eqn: core.JaxprEqn, context: _Context) -> Hashable:
    """The key of a custom derivative: that of the function and its traced rule.

    The equation has the rule as a Python function, another one for each call.
    """
    function = as_function(eqn)
    avals: list[Any] = [x.aval for x in eqn.invars]
    inputs = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in avals]
    is_inexact = [jnp.issubdtype(x.dtype, jnp.inexact) for x in inputs]
    is_jvp = eqn.primitive.name.startswith("custom_jvp_call")

    def derivative(arguments: list[Any]) -> Any:
        inexact = [x for x, keep in zip(arguments, is_inexact, strict=True) if keep]

        def inexact_outputs(inexact: list[Any]) -> list[Any]:
            new = iter(inexact)
            pairs = zip(arguments, is_inexact, strict=True)
            outputs = function(*[next(new) if keep else x for x, keep in pairs])
            return [y for y in outputs if jnp.issubdtype(y.dtype, jnp.inexact)]

        if is_jvp:
            return jax.jvp(inexact_outputs, (inexact,), (inexact,))
        outputs, pull = jax.vjp(inexact_outputs, inexact)
        return outputs, pull(outputs)

    called = [_param_key(x, context) for x in closed_subjaxprs(eqn)]
    if context.in_rule:  # a rule may call its own function
        return tuple(called)
    try:
        rule = jax.make_jaxpr(derivative)(inputs)
    except Exception:  # the rule of a user may fail: then the call is its own class
        return ("object", id(eqn))
    context.alive.append(rule)
    return (*called, _param_key(rule, context._replace(eqn_keys={}, in_rule=True)))


def as_function(eqn: core.JaxprEqn) -> Any:
    """The function (values of ``eqn.invars``) -> list of the outputs.

    JAX evaluates it, with its rule for custom derivatives and with its context.
    """
    variables = [x for x in eqn.invars if not isinstance(x, core.Literal)]
    variables = list(dict.fromkeys(variables))
    jaxpr = _empty_jaxpr().replace(
        invars=variables, outvars=eqn.outvars, eqns=[eqn], effects=eqn.effects
    )
    run = core.jaxpr_as_fun(core.ClosedJaxpr(jaxpr, []))

    def function(*values: Any) -> list[Any]:
        pairs = zip(eqn.invars, values, strict=True)
        known = {x: v for x, v in pairs if not isinstance(x, core.Literal)}
        return run(*[known[x] for x in variables])

    return function


@functools.cache
def _empty_jaxpr() -> core.Jaxpr:
    """A jaxpr to replace the parts of: its constructor differs between JAX versions."""
    return jax.make_jaxpr(lambda: ())().jaxpr
