"""Value numbering: values that are calculated alike from equal values are one value.

Two inputs are equal if they have the same label. The numbers are in the order of
calculation: a value has a larger number than the values that it is made of.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from decayax._jaxpr.flat import as_function, Block, Operation, Program


TOP = 0  # the scope outside all branches


class Definition(NamedTuple):
    """How a value is made: the output of an operation at a position.

    The inputs of a cond's output are its index, then that output of each branch.
    """

    operation: Operation
    inputs: tuple[int, ...]
    position: int


class Numbering(NamedTuple):
    """The distinct values of a program."""

    outputs: list[int]
    definitions: dict[int, Definition]  # of all values except inputs and constants
    inputs: dict[Hashable, int]  # label -> number
    constants: dict[int, Any]  # number -> value
    scopes: list[int]  # of each value: the branch that calculates it first
    parents: list[int]  # of each scope: the scope around it
    branch_scopes: dict[int, list[int]]  # of each cond, by its first output slot


class _State(NamedTuple):
    """What grows while a program is numbered."""

    result: Numbering
    numbers: dict[int, int]  # of each slot
    table: dict[Hashable, int]  # (operation, inputs) -> its first output


def number(program: Program, labels: Sequence[Hashable]) -> Numbering:
    """Number the values of a program whose inputs have the given labels."""
    result = Numbering([], {}, {}, {}, [], [TOP], {})
    state = _State(result, {}, {})
    for slot, label in zip(program.inputs, labels, strict=True):
        if label not in result.inputs:
            result.inputs[label] = _new_value(result, TOP)
        state.numbers[slot] = result.inputs[label]
    for slot, value in program.constants.items():
        state.numbers[slot] = _new_value(result, TOP)
        result.constants[state.numbers[slot]] = value
    result.outputs.extend(_number_block(program.body, TOP, state))
    return result


def _new_value(result: Numbering, scope: int) -> int:
    result.scopes.append(scope)
    return len(result.scopes) - 1


def _number_block(block: Block, scope: int, state: _State) -> list[int]:
    """Number the operations of a block; return the numbers of its outputs."""
    numbers = state.numbers
    for op in block.operations:
        inputs = tuple([numbers[slot] for slot in op.inputs])
        if op.branches:
            _number_cond(op, inputs[0], scope, state)
            continue
        definitions = [Definition(op, inputs, i) for i in range(len(op.outputs))]
        first = _look_up((op.key, *inputs), definitions, scope, state)
        for position, slot in enumerate(op.outputs):
            numbers[slot] = first + position
    return [numbers[slot] for slot in block.outputs]


def _number_cond(op: Operation, index: int, scope: int, state: _State) -> None:
    result = state.result
    scopes = range(len(result.parents), len(result.parents) + len(op.branches))
    result.parents.extend([scope] * len(op.branches))
    result.branch_scopes[op.outputs[0]] = list(scopes)
    pairs = zip(op.branches, scopes, strict=True)
    branches = [_number_block(branch, inner, state) for branch, inner in pairs]
    # Equal outputs of all branches at an equal index are one value. They may be outputs
    # of different conds.
    for position, values in enumerate(zip(*branches, strict=True)):
        definition = Definition(op, (index, *values), position)
        key = ("cond", index, *values)
        state.numbers[op.outputs[position]] = _look_up(key, [definition], scope, state)


def _look_up(
    key: Hashable, definitions: list[Definition], scope: int, state: _State
) -> int:
    """The number of the first of some values, which are new if the key is new."""
    first = state.table.get(key)
    if first is None:
        first = state.table[key] = len(state.result.scopes)
        for definition in definitions:
            number = _new_value(state.result, scope)
            state.result.definitions[number] = definition
    return first


def _is_within(inner: int, outer: int, parents: list[int]) -> bool:
    """Whether a scope is another one, or inside it."""
    while inner not in (outer, TOP):
        inner = parents[inner]
    return inner == outer


def evaluate(
    numbering: Numbering, outputs: Sequence[int], inputs: Mapping[Hashable, Any]
) -> list[Any]:
    """The values with the numbers ``outputs``, from the values of the labels.

    It calculates only what these outputs need.
    """
    known = {n: inputs[x] for x, n in numbering.inputs.items() if x in inputs}
    return _evaluate(numbering, outputs, known | numbering.constants, TOP)


def _evaluate(
    numbering: Numbering, outputs: Sequence[int], known: Mapping[int, Any], scope: int
) -> list[Any]:
    values = dict(known)
    needed = _needed(numbering, outputs, values, scope)
    groups: dict[int, list[int]] = {}  # the needed outputs of each cond
    for n in needed:
        op = numbering.definitions[n].operation
        if op.branches:
            groups.setdefault(op.outputs[0], []).append(n)
    for n in needed:
        if n in values:  # another output of an operation that was evaluated
            continue
        op, arguments, position = numbering.definitions[n]
        if op.branches:
            group = groups[op.outputs[0]]
            values |= zip(group, _switch(numbering, group, values), strict=True)
        else:
            results = as_function(op.eqn)(*[values[i] for i in arguments])
            values |= dict(enumerate(results, start=n - position))
    return [values[n] for n in outputs]


def _switch(
    numbering: Numbering, group: list[int], values: Mapping[int, Any]
) -> list[Any]:
    """Several outputs of one cond. Its branches calculate what only they need."""
    definitions = [numbering.definitions[n] for n in group]
    op, (index, *_), _ = definitions[0]

    def branch(choice: int, scope: int) -> list[Any]:
        wanted = [definition.inputs[1 + choice] for definition in definitions]
        return _evaluate(numbering, wanted, values, scope)

    scopes = numbering.branch_scopes[op.outputs[0]]
    branches = [
        lambda choice=choice, scope=scope: branch(choice, scope)
        for choice, scope in enumerate(scopes)
    ]
    return jax.lax.switch(values[index], branches)


def as_arrays(values: Iterable[Any], avals: Iterable[Any]) -> list[Any]:
    """Values as arrays of the given dtypes, without JAX's weak type."""
    return [
        x if is_key(aval) else jnp.asarray(x, aval.dtype)
        for x, aval in zip(values, avals, strict=True)
    ]


def is_key(aval: Any) -> bool:
    """Whether a value is an array of typed random keys."""
    return jnp.issubdtype(aval.dtype, jax.dtypes.prng_key)


def _needed(
    numbering: Numbering, outputs: Iterable[int], known: Mapping[int, Any], scope: int
) -> list[int]:
    """What has to be calculated in a scope, in order, to know the outputs.

    A branch needs values from outside. These are calculated outside of it, before it.
    """
    here: set[int] = set()
    inside: set[int] = set()  # visited, but left to the branches that need them
    stack = [(n, False) for n in outputs]
    while stack:
        n, in_branch = stack.pop()
        if n in known or n in here or (in_branch and n in inside):
            continue
        outer = numbering.scopes[n]
        if in_branch and not _is_within(scope, outer, numbering.parents):
            inside.add(n)
        else:
            here.add(n)
            in_branch = False
        op, arguments, _ = numbering.definitions[n]
        of_branches = 1 if op.branches else len(arguments)
        stack += [(i, in_branch) for i in arguments[:of_branches]]
        stack += [(i, True) for i in arguments[of_branches:]]
    return sorted(here)
