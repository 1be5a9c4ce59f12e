r"""How much of a decay the weights' own dtype keeps: a run with it and one without it.

Both runs have the same gradients and round alike. The second one passes weights of 0 to
the optimizer, so that a term in proportion to the weights is 0:

    θ_t = θ_{t−1} + Δ(g_t, θ_{t−1})        ϑ_t = ϑ_{t−1} + Δ(g_t, 0)

The decay has removed ϑ_t − θ_t from the weights. Rounding also moves weights without
any decay; this happens in both runs and cancels, if the steps do not depend on the
weights.
"""

import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from decayax._audit.plan import initial_weights, Program
from decayax._audit.probe import (
    applied,
    as_stored,
    compiled,
    in_scan,
    Probe,
    ProbedOptimizer,
    wide,
)
from decayax._audit.readings import Setting
from decayax._audit.trace import norm_ratio, sample, trace_of_step
from decayax._core.dtypes import is_inexact
from decayax._jaxpr.partition import combine, partition


def paired_probe(probed: ProbedOptimizer, lanes: int = 1) -> Probe:
    """The probe that runs with the decay and without it."""

    def start(params):
        run = params, probed.init(params)
        return (run, run), sample([x.real for x in wide(params)])

    def restart(carry, params):
        return tuple((params, state) for _, state in carry)

    def hold(carry, params):
        (_, state), _ = carry
        return (params, state), (params, state)

    def step(initial, carry, grads, time):
        update = functools.partial(probed.update, grads, time=time)
        (params, state), (other, other_state) = carry
        updates, state = update(state, params)
        moved = as_stored(applied(params, updates))
        updates, other_state = update(other_state, _at_zero(other))
        other = as_stored(applied(other, updates))
        new = (moved, state), (other, other_state)
        return new, _trace_of_pair(initial, params, carry, new)

    return compiled(
        Probe(
            start,
            in_scan(probed, step),
            restart,
            hold,
            states=lambda carry: tuple(state for _, state in carry),
            with_states=lambda carry, states: tuple(
                (params, state)
                for (params, _), state in zip(carry, states, strict=True)
            ),
        ),
        lanes,
    )


def _at_zero(params: Any) -> Any:
    zeros = [jnp.zeros_like(x) for x in partition(params).inexact]
    return combine(params, zeros, partition(params).static)


def _trace_of_pair(initial: Any, before: Any, runs: Any, new_runs: Any) -> Any:
    """The trace of a step: what the decay has removed is the change."""
    start = [
        jnp.asarray(x, y.dtype) for x, y in zip(initial, wide(before), strict=True)
    ]
    old, new = (
        jax.tree.map(operator.sub, wide(pair[0][0]), wide(pair[1][0]))
        for pair in (runs, new_runs)
    )
    trace = trace_of_step(
        initial=start,
        change=new,
        step=jax.tree.map(operator.sub, new, old),
        before=wide(before),
    )
    moved = wide(new_runs[0][0])
    return trace._replace(
        size=norm_ratio(moved, start), weights=sample([x.real for x in moved])
    )


def rounds_by_itself(program: Program, setting: Setting) -> list[bool]:
    """Whether the updates of each leaf lead exactly to numbers of its narrow dtype.

    So do the float32 updates of Kahan summation and of stochastic rounding. Then a run
    without the decay would round twice.
    """
    params = initial_weights(program, setting)
    if program.lanes > 1:
        params = jax.tree.map(lambda leaf: leaf[0], params)
    update = jax.jit(program.probed.update)
    state = program.probed.init(params)
    exact = np.full(len(program.inexact_shapes()), True)
    moved = ~exact  # a step of 0 is no evidence
    for step in range(3):
        updates, state = update(params, state, params, np.uint32(step))
        pairs = zip(jax.tree.leaves(params), jax.tree.leaves(updates), strict=True)
        found = [(_is_exact(x, u), bool(jnp.any(u))) for x, u in pairs if is_inexact(x)]
        exact &= [known for known, _ in found]
        moved |= [moves for _, moves in found]
    return (exact & moved).tolist()


def _is_exact(x: jax.Array, update: jax.Array) -> bool:
    if update.dtype == x.dtype:
        return False
    moved = wide([x])[0] + update
    return bool(jnp.all(moved == wide([moved.astype(x.dtype)])[0]))
