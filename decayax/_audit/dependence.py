"""What a program reads, from its jaxpr: weights, gradients, copies of the weights."""

from typing import Any

import jax
import numpy as np

from decayax._audit.plan import Program
from decayax._core.dtypes import is_inexact
from decayax._jaxpr.dataflow import (
    Dependency,
    ELEMENTWISE_INPUT,
    INDEPENDENT,
    Kind,
    propagate,
)
from decayax._jaxpr.partition import combine, partition


def keeps_weights(program: Program) -> bool:
    """Whether the initial state depends on the initial weights."""
    init = jax.make_jaxpr(program.probed.init)(program.shapes)
    return any(_reads(init.jaxpr, [ELEMENTWISE_INPUT] * len(init.jaxpr.invars)))


def decay_reads_gradients(program: Program) -> bool:
    """Whether the derivative by the weights reads gradients, or a state of them."""
    return any(_decay_reads(program, gradients=True, counters=False))


def may_decay_later(program: Program) -> list[bool]:
    """Whether the derivative of each leaf of the params reads counters only."""
    of_counters = _decay_reads(program, gradients=False, counters=True)
    of_gradients = _decay_reads(program, gradients=True, counters=False)
    later = [a and not b for a, b in zip(of_counters, of_gradients, strict=True)]
    return program.for_each_leaf([later[index] for _, index in program.units])


def _decay_reads(program: Program, *, gradients: bool, counters: bool) -> list[bool]:
    """Whether the derivative of each leaf by the weights reads gradients or counters.

    It reads gradients, too, if it reads a state of them. True if it does not exist.
    """

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
        return [True] * len(program.inexact_shapes())

    def data(leaf: Any, is_data: bool) -> Dependency:
        return ELEMENTWISE_INPUT if is_data else INDEPENDENT

    inputs = [
        *(data(leaf, gradients) for leaf in jax.tree.leaves(grads)),
        # Scalars are counters and hyper-parameters.
        *(
            data(leaf, gradients if is_inexact(leaf) and leaf.ndim else counters)
            for leaf in jax.tree.leaves(state)
        ),
        *(INDEPENDENT for _ in jax.tree.leaves(params)),
        INDEPENDENT,
    ]
    return _reads(traced.jaxpr, inputs)


def _inputs(program: Program) -> tuple[Any, Any, Any, Any]:
    """The shapes of gradients, state, params and step."""
    state = jax.eval_shape(program.probed.init, program.shapes)
    step = jax.ShapeDtypeStruct((), np.uint32)
    return program.shapes, state, program.shapes, step


def _reads(jaxpr: Any, inputs: list[Dependency]) -> list[bool]:
    return [output.kind != Kind.CONSTANT for output in propagate(jaxpr, inputs)]
