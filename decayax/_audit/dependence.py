"""What a program reads, from its jaxpr: weights, gradients, copies of the weights."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from decayax._audit.plan import Program
from decayax._audit.probe import with_tangents
from decayax._core.dtypes import is_inexact
from decayax._jaxpr.dataflow import (
    Dependency,
    ELEMENTWISE_INPUT,
    fixed_point,
    INDEPENDENT,
    Kind,
    propagate,
)
from decayax._jaxpr.partition import combine, partition


# More leaves are not paired with each other: the time grows with their square.
MAX_PAIRED = 32


class DecayReads(NamedTuple):
    """What the derivative of each inexact leaf by the weights reads."""

    gradients: list[bool]  # or a state of them
    counters: list[bool]

    @property
    def any_gradient(self) -> bool:
        """Whether the decay of any leaf reads gradients."""
        return any(self.gradients)

    def only_counters(self) -> list[bool]:
        """Whether the decay of each leaf may begin later, at a step that it counts."""
        pairs = zip(self.counters, self.gradients, strict=True)
        return [counters and not gradients for counters, gradients in pairs]


def keeps_weights(program: Program) -> bool:
    """Whether the initial state depends on the initial weights."""
    init = jax.make_jaxpr(program.probed.init)(program.shapes)
    return any(_reads(init.jaxpr, [ELEMENTWISE_INPUT] * len(init.jaxpr.invars)))


def exact_leaves(program: Program, otherwise: Callable[[], bool]) -> list[bool]:
    """For each inexact leaf: whether the derivative connects no two of its weights.

    It connects no weights of other leaves either. ``otherwise`` gives the answer if
    there is no derivative.
    """
    count = len(program.inexact_shapes())
    try:
        init, update = _trace_tangents(program)
    except Exception:  # the optimizer has no derivative
        return [otherwise()] * count

    def reached(marks: list[Dependency]) -> list[Dependency]:
        def run(jaxpr: Any, tangents: list[Dependency]) -> list[Dependency]:
            known = [INDEPENDENT] * (len(jaxpr.invars) - len(tangents))
            return propagate(jaxpr, [*known, *tangents])

        def next_state(state: list[Dependency]) -> list[Dependency]:
            return run(update, [*marks, *state])[count:]

        state = fixed_point(next_state, run(init, marks))
        return run(update, [*marks, *state])[:count]

    exact = [dep.kind <= Kind.ALIGNED for dep in reached([ELEMENTWISE_INPUT] * count)]
    for leaf in range(count if count <= MAX_PAIRED else 0):
        marks = [ELEMENTWISE_INPUT if i == leaf else INDEPENDENT for i in range(count)]
        for other, dep in enumerate(reached(marks)):
            if other != leaf and dep.kind != Kind.CONSTANT:
                exact[leaf] = exact[other] = False
    return exact


def _trace_tangents(program: Program) -> tuple[Any, Any]:
    """The derivatives of init and update, as jaxprs; tangents are the last inputs."""
    probed = program.probed
    grads, state, params, step = _inputs(program)
    theta = program.inexact_shapes()
    moments = [leaf for leaf in jax.tree.leaves(state) if is_inexact(leaf)]

    def init(params: Any, tangents: Any) -> Any:
        inexact, static = partition(params)
        states = lambda x: partition(probed.init(combine(params, x, static))).inexact  # noqa: E731
        return jax.jvp(states, (inexact,), (tangents,))[1]

    def update(grads, state, params, step, tangents, state_tangents):
        at_step = functools.partial(probed.update, grads, time=step)
        return with_tangents(at_step, (state, params), (state_tangents, tangents))[1]

    return (
        jax.make_jaxpr(init)(params, theta).jaxpr,
        jax.make_jaxpr(update)(grads, state, params, step, theta, moments).jaxpr,
    )


def decay_reads(program: Program) -> DecayReads:
    """What the derivative by the weights reads. Without a derivative: everything."""

    def decay(grads: Any, state: Any, params: Any, step: Any) -> Any:
        theta, static = partition(params)

        def updates(inexact: Any) -> Any:
            moved = combine(params, inexact, static)
            return partition(program.probed.update(grads, state, moved, step)[0])

        return jax.jvp(lambda x: updates(x).inexact, (theta,), (theta,))[1]

    grads, state, params, step = _inputs(program)
    try:
        traced = jax.make_jaxpr(decay)(grads, state, params, step)
    except Exception:  # the optimizer has no derivative
        everything = [True] * len(program.inexact_shapes())
        return DecayReads(gradients=everything, counters=everything)

    def reads(*, gradients: bool, counters: bool) -> list[bool]:
        # Scalars of the state are counters and hyper-parameters.
        is_data = [
            *(gradients for _ in jax.tree.leaves(grads)),
            *(
                gradients if is_inexact(leaf) and leaf.ndim else counters
                for leaf in jax.tree.leaves(state)
            ),
            *(False for _ in jax.tree.leaves(params)),
            counters,  # the step
        ]
        inputs = [ELEMENTWISE_INPUT if data else INDEPENDENT for data in is_data]
        return _reads(traced.jaxpr, inputs)

    return DecayReads(
        gradients=reads(gradients=True, counters=False),
        counters=reads(gradients=False, counters=True),
    )


def _inputs(program: Program) -> tuple[Any, Any, Any, Any]:
    """The shapes of gradients, state, params and step."""
    state = jax.eval_shape(program.probed.init, program.shapes)
    step = jax.ShapeDtypeStruct((), np.uint32)
    return program.shapes, state, program.shapes, step


def _reads(jaxpr: Any, inputs: list[Dependency]) -> list[bool]:
    return [output.kind != Kind.CONSTANT for output in propagate(jaxpr, inputs)]
