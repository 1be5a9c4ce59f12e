"""What an optimizer does to weights, read from its jaxpr: nothing is calculated.

Whether it mixes them (`mixes`), whether it does the same to smaller shapes
(`outline`), and whether a derivative shows all that they do to its updates
(`dependence`). `_dataflow` follows the values.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core

from decayax._jaxpr.dataflow import (
    ALIGNED,
    CONST,
    Flow,
    flows_of,
    MIXED,
    settled,
    STILL,
    subjaxprs,
)


def program_of(optimizer: Any, params: Any, extra_args: Any) -> core.ClosedJaxpr:
    """One update, (gradients, state, params) -> (updates, state), traced.

    Args:
        optimizer: with ``init`` and ``update``.
        params: arrays or shapes; nothing is calculated.
        extra_args: step -> further keywords of ``update``.
    """

    def update(gradients: Any, state: Any, params: Any) -> Any:
        return optimizer.update(gradients, state, params, **extra_args(0))

    state = jax.eval_shape(optimizer.init, params)
    return jax.make_jaxpr(update)(params, state, params)


def mixes(optimizer: Any, params: Any, program: core.ClosedJaxpr) -> bool:
    """Whether any update depends on other weights than its own."""
    own = [Flow(ALIGNED)] * len(jax.tree.leaves(params))
    state = flows_of(jax.make_jaxpr(optimizer.init)(params).jaxpr, own)

    def updated(state: list[Flow]) -> list[Flow]:
        return flows_of(program.jaxpr, [*own, *state, *own])

    def next_state(state: list[Flow]) -> list[Flow]:
        out = updated(state)
        return out[len(out) - len(state) :]

    out = updated(settled(next_state, state))
    return any(flow.kind == MIXED for flow in out[: len(out) - len(state)])


def outline(program: core.ClosedJaxpr) -> list[Any]:
    """The operations of a program, the same for shapes that it treats alike."""
    return _outline(program.jaxpr, program.consts)


def _outline(jaxpr: core.Jaxpr, consts: Sequence[Any]) -> list[Any]:
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
            lines += _outline(inner, ())
    return lines


def _number(value: Any) -> Any:
    """A number as text; of an array something that equals nothing else."""
    return str(value) if np.shape(value) == () else object()


class Dependence(NamedTuple):
    """How the updates of a step depend on the params."""

    updates: list[Flow]
    forward: bool  # whether it has a forward derivative


def dependence(step: Callable[[Any, Any], Any], state: Any, params: Any) -> Dependence:
    """How each update of ``step(state, params) -> updates, state`` depends on params.

    Those are hidden, too, which a state tells that has seen the params.
    """
    program, (updates, _) = jax.make_jaxpr(step, return_shape=True)(state, params)
    now = [Flow(ALIGNED)] * len(jax.tree.leaves(params))
    own = len(jax.tree.leaves(updates))

    def next_state(state: list[Flow]) -> list[Flow]:
        new = flows_of(program.jaxpr, [*state, *now])[own:]
        return [Flow(CONST, flow.hidden or flow.kind != CONST) for flow in new]

    before = settled(next_state, [STILL] * len(jax.tree.leaves(state)))
    flows = flows_of(program.jaxpr, [*before, *now])[:own]
    return Dependence(flows, _is_forward(program.jaxpr))


def _is_forward(jaxpr: core.Jaxpr) -> bool:
    """Whether nothing in a program has a derivative by ``jax.custom_vjp`` only."""
    return all(
        not eqn.primitive.name.startswith("custom_vjp_call")
        and all(map(_is_forward, subjaxprs(eqn)))
        for eqn in jaxpr.eqns
    )
