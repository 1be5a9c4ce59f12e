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


def read_weights(program: Program) -> list[bool]:
    """Whether the update of each leaf of the params reads the weights."""
    gradients, state, params, step = _inputs(program)
    update = jax.make_jaxpr(program.probed.update)(gradients, state, params, step)
    known = [INDEPENDENT] * len(jax.tree.leaves((gradients, state)))
    data = [ELEMENTWISE_INPUT] * len(jax.tree.leaves(params))
    reads = _reads(update.jaxpr, [*known, *data, INDEPENDENT])
    leaves = jax.tree.leaves(params)
    inexact = [r for r, leaf in zip(reads, leaves, strict=False) if is_inexact(leaf)]
    return [inexact[index] for _, index in program.where]


def decay_reads_gradients(program: Program) -> bool:
    """Whether the derivative by the weights reads gradients, or a state of them."""

    def decay(gradients: Any, state: Any, params: Any, step: Any) -> Any:
        theta, static = partition(params)

        def updates(inexact: Any) -> Any:
            moved = combine(params, inexact, static)
            return partition(program.probed.update(gradients, state, moved, step)[0])

        return jax.jvp(lambda x: updates(x).inexact, (theta,), (theta,))[1]

    gradients, state, params, step = _inputs(program)
    try:
        traced = jax.make_jaxpr(decay)(gradients, state, params, step)
    except Exception:  # there is no derivative
        return True
    inputs = [
        *[ELEMENTWISE_INPUT] * len(jax.tree.leaves(gradients)),
        # Scalars are counters and hyper-parameters.
        *(
            ELEMENTWISE_INPUT if is_inexact(leaf) and leaf.ndim else INDEPENDENT
            for leaf in jax.tree.leaves(state)
        ),
        *[INDEPENDENT] * (len(jax.tree.leaves(params)) + 1),
    ]
    return any(_reads(traced.jaxpr, inputs))


def _inputs(program: Program) -> tuple[Any, Any, Any, Any]:
    """The shapes of gradients, state, params and step."""
    state = jax.eval_shape(program.probed.init, program.shapes)
    step = jax.ShapeDtypeStruct((), np.uint32)
    return program.shapes, state, program.shapes, step


def _reads(jaxpr: Any, inputs: list[Dependency]) -> list[bool]:
    return [output.kind != Kind.CONSTANT for output in propagate(jaxpr, inputs)]
