"""Run the part of an optimizer's state that needs no gradients for many steps.

A state leaf is autonomous if its next value depends on autonomous leaves only: a count,
the learning rate of a schedule, a random key, a sum of weights. Their part of `update`
is cheap, so a state after a million steps is known in a second. The other leaves, such
as moments, remain as they are.

Many optimizers count only the steps with finite gradients. So all gradients, weights
and results count as finite.
"""

import itertools
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from decayax._core.dtypes import dtype_of
from decayax._jaxpr.flat import flatten, Unsupported
from decayax._jaxpr.numbering import as_arrays, Definition, evaluate, number, Numbering
from decayax._jaxpr.trace import OptimizerProgram


# Autonomous arrays with more elements are left out: they would make the steps slow.
MAX_SIZE = 4096
# Operations whose result is known if all elements of each input are one known answer.
LOGIC = frozenset(
    """
    and broadcast_in_dim convert_element_type copy not or reduce_and reduce_or reshape
    squeeze
    """.split()  # noqa: SIM905
)


class FastForward(NamedTuple):
    """How to advance a state."""

    # (state leaves, number of steps, first step) -> state leaves
    run: Callable[..., list[Any]]
    autonomous: list[bool]  # the leaves that it advances


def fast_forward(program: OptimizerProgram) -> FastForward:
    """The function that advances the autonomous leaves of a state by n steps."""
    state = jax.tree.leaves(program.state)
    found = _autonomous(program, state) if program.is_closed() else None
    if found is None:
        return FastForward(lambda state, n, first=0: list(state), [False] * len(state))
    numbering, autonomous = found
    # A leaf that never changes is autonomous, but needs no steps.
    new_state = numbering.outputs[program.num_leaves() :]
    moving = [
        i
        for i, is_autonomous in enumerate(autonomous)
        if is_autonomous and new_state[i] != numbering.inputs["state", i]
    ]

    @jax.jit
    def run(state: Sequence[Any], n: Any, first: Any = 0) -> list[Any]:
        fixed: dict[Hashable, Any] = {
            ("state", i): x for i, x in enumerate(state) if autonomous[i]
        }

        def body(i: Any, values: list[Any]) -> list[Any]:
            inputs = fixed | {
                ("state", k): x for k, x in zip(moving, values, strict=True)
            }
            inputs["step", 0] = jnp.asarray(first, jnp.uint32) + i.astype(jnp.uint32)
            new = evaluate(numbering, [new_state[k] for k in moving], inputs)
            return as_arrays(new, values)

        start = [state[k] for k in moving]
        end = jax.lax.fori_loop(0, n, body, as_arrays(start, start))
        by_leaf = dict(zip(moving, end, strict=True))
        return [by_leaf.get(k, x) for k, x in enumerate(state)]

    return FastForward(run, autonomous)


def _autonomous(
    program: OptimizerProgram, state: Sequence[Any]
) -> tuple[Numbering, list[bool]] | None:
    """The largest set of state leaves that depends only on itself and on the step."""
    num_leaves = program.num_leaves()
    own = [("state", i) for i in range(len(state))]
    data = [("data", i) for i in range(2 * num_leaves)]
    labels = [*data[:num_leaves], *own, *data[num_leaves:], ("step", 0)]
    try:
        numbering = number(flatten(program.update), labels)
    except Unsupported:
        return None
    numbering = _assume_finite(numbering)
    sources = _sources(numbering)
    bits = [1 << numbering.inputs[label] for label in own]
    allowed = 1 << numbering.inputs["step", 0]
    autonomous = [math.prod(x.shape) <= MAX_SIZE for x in state]
    new_state = numbering.outputs[num_leaves:]
    while True:
        known = allowed | sum(bit for bit, x in zip(bits, autonomous, strict=True) if x)
        pairs = zip(autonomous, new_state, strict=True)
        fewer = [x and not sources[n] & ~known for x, n in pairs]
        if fewer == autonomous:
            return numbering, autonomous
        autonomous = fewer


def _sources(numbering: Numbering) -> dict[int, int]:
    """The inputs that each value depends on, as an integer with one bit for each."""
    sources = {n: 1 << n for n in numbering.inputs.values()}
    sources |= dict.fromkeys(numbering.constants, 0)
    for n, definition in numbering.definitions.items():
        if n not in sources:
            sources[n] = 0
            for i in definition.inputs:
                sources[n] |= sources[i]
    return sources


def _assume_finite(numbering: Numbering) -> Numbering:
    """Replace the answers to "is it finite?" and "is it NaN?" by constants."""
    answers: dict[int, bool] = {}
    constants = dict(numbering.constants)
    for n, definition in numbering.definitions.items():
        answer = _answer(definition, answers)
        if answer is not None:
            answers[n] = answer
            aval: Any = definition.operation.eqn.outvars[definition.position].aval
            # A view of one element: most of these arrays are never used.
            constants[n] = np.broadcast_to(np.asarray(answer, aval.dtype), aval.shape)
    return numbering._replace(constants=constants)


def _answer(definition: Definition, answers: dict[int, bool]) -> bool | None:
    """The value of all elements if all numbers are finite; None if it is not known."""
    name, inputs = definition.operation.eqn.primitive.name, definition.inputs
    if name == "is_finite":
        return True
    if name == "ne" and inputs[0] == inputs[1]:  # only NaN differs from itself
        return False
    if name not in LOGIC or not all(i in answers for i in inputs):
        return None
    values = [answers[i] for i in inputs]
    if name == "not":
        return not values[0]
    return any(values) if name == "or" else all(values)


def counters(states: Sequence[Sequence[Any]]) -> list[bool]:
    """Which leaves of consecutive states are scalars that grow by 1 at each step.

    It finds the counters that depend on data, such as a count of small gradients.
    ``states`` are the concrete leaves of at least two states.
    """
    return [
        np.ndim(leaf[0]) == 0
        and _is_number(leaf[0])
        and all(b - a == 1 for a, b in itertools.pairwise(leaf))
        for leaf in zip(*states, strict=True)
    ]


def _is_number(leaf: Any) -> bool:
    return bool(jnp.issubdtype(dtype_of(leaf), jnp.number))


def advance(state: Sequence[Any], which: Sequence[bool], n: Any) -> list[Any]:
    """Add n to some leaves of a state."""
    pairs = zip(state, which, strict=True)
    return [
        x + jnp.asarray(n, dtype_of(x)) if is_counter else x for x, is_counter in pairs
    ]
