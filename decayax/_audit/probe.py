r"""Runs over T steps: how the weights depend on the initial weights.

The gradients g_1 ... g_T are held fixed. The fraction of the initial weights that is
left after t steps is

    retention_t = 1 + Σ_{s ≤ t} dΔ_s/dθ₀        rate = 1 − retention_T^{1/T}

where dΔ_s is the change of the s-th update when θ₀ becomes (1 + h)θ₀. There are two
probes: one differentiates at h = 0 (JVPs), the other takes the difference of two runs
with ±h. The JVPs are summed over the updates and not read from the parameters, where
1 − 1e-8 would round to 1. The difference also sees what a derivative misses: signs,
gates and rounding.
"""

import functools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from decayax._audit.draws import scaled_tree
from decayax._audit.trace import dots, Leaves, norm_ratio, sample, Trace, trace_of_step
from decayax._core.dtypes import cast_like, compute_dtype, is_inexact
from decayax._jaxpr.partition import combine, partition


# h of the difference. The curvature of the update adds an error of order h², rounding
# one of order 1/h.
PERTURBATION = 0.1


class ProbedOptimizer(NamedTuple):
    """An optimizer and everything that its updates need except params and gradients."""

    init: Callable[[Any], Any]
    update_at: Callable[..., Any]  # gradients, state, params, step -> updates, state
    gradient_masks: tuple[Any, ...]  # of each inexact leaf: what multiplies gradients

    def update(self, grads: Any, state: Any, params: Any, time: Any) -> tuple[Any, Any]:
        """The updates, and the new state in the dtypes of the old one."""
        updates, new_state = self.update_at(grads, state, params, time)
        return updates, jax.tree.map(cast_like, new_state, state)


class Probe(NamedTuple):
    """One way to measure: compiled once, used for all seeds and gradient scales."""

    # params -> carry, sample of the initial weights
    start: Callable[..., Any]
    # (carry, initial params, numbers, gradient scale, step indices) -> carry, trace
    advance: Callable[..., tuple[Any, Trace]]
    # (carry, params) -> carry: these params again, with the state of the carry
    restart: Callable[..., Any]
    # the same, but the state counts as independent of the params
    hold: Callable[..., Any]
    states: Callable[[Any], tuple[Any, ...]]  # carry -> the optimizer's states in it
    with_states: Callable[..., Any]  # (carry, states) -> carry


def jvp_probe(probed: ProbedOptimizer, lanes: int = 1) -> Probe:
    """The probe that differentiates every step in the direction of θ₀."""

    def start(params):
        theta, static = partition(params)

        def init(inexact):
            return partition(probed.init(combine(params, inexact, static))).inexact

        _, state_tangents = jax.jvp(init, (theta,), (theta,))
        carry = (params, probed.init(params), theta, state_tangents, _zeros(theta))
        return carry, sample([x.real for x in theta])

    def restart(carry, params):
        theta, (_, state, _, state_tangents, _) = partition(params).inexact, carry
        return params, state, theta, state_tangents, _zeros(theta)

    def hold(carry, params):
        params, state, theta, state_tangents, change = restart(carry, params)
        return params, state, theta, _zeros(state_tangents), change

    def step(initial, carry, grads, time):
        params, state, tangents, state_tangents, change = carry
        update = functools.partial(probed.update, grads, time=time)
        (updates, state), (update_tangents, state_tangents) = with_tangents(
            update, (state, params), (state_tangents, tangents)
        )
        change = jax.tree.map(operator.add, change, update_tangents)
        trace = trace_of_step(
            initial=initial, change=change, step=update_tangents, before=tangents
        )
        tangents = jax.tree.map(operator.add, tangents, update_tangents)
        params = applied(params, updates)
        return (params, state, tangents, state_tangents, change), trace

    return compiled(
        Probe(
            start,
            in_scan(probed, step),
            restart,
            hold,
            states=lambda carry: (carry[1],),
            with_states=lambda carry, states: (carry[0], *states, *carry[2:]),
        ),
        lanes,
    )


def with_tangents(
    update: Callable[..., Any],
    primals: tuple[Any, Any],
    tangents: tuple[Leaves, Leaves],
) -> tuple[tuple[Any, Any], tuple[Leaves, Leaves]]:
    """The results (updates, state) of ``update(state, params)``, and their tangents.

    The tangents are those of the inexact leaves.
    """
    state, params = primals
    split_state, split = partition(state), partition(params)

    def function(moments, inexact):
        state_now = combine(state, moments, split_state.static)
        params_now = combine(params, inexact, split.static)
        updates, new_state = update(state_now, params_now)
        new = partition(new_state)
        return (_inexact(updates, params), new.inexact), (updates, new.static)

    (_, moments), out_tangents, (updates, static) = jax.jvp(
        function, (split_state.inexact, split.inexact), tangents, has_aux=True
    )
    return (updates, combine(state, moments, static)), out_tangents


def difference_probe(probed: ProbedOptimizer, lanes: int = 1) -> Probe:
    """The probe that takes the difference of two runs, from (1 ± h)θ₀."""

    def moved(params):
        theta, static = partition(params)
        for h in (PERTURBATION, -PERTURBATION):
            inexact = [(x + h * x).astype(x.dtype) for x in theta]
            yield as_stored(combine(params, inexact, static))

    def start(params):
        runs = tuple((params, probed.init(params)) for params in moved(params))
        return (runs, _difference(*runs)), _real_sample(runs[0][0])

    def restart(carry, params):
        states = [state for _, state in carry[0]]
        runs = tuple(zip(moved(params), states, strict=True))
        return runs, _difference(*runs)

    def hold(carry, params):
        (_, state), _ = carry[0]
        runs = tuple((shifted, state) for shifted in moved(params))
        return runs, _difference(*runs)

    def step(initial, carry, grads, time):
        del initial  # the first difference takes its place
        runs, first = carry
        new_runs = []
        for params, state in runs:
            updates, state = probed.update(grads, state, params, time)
            new_runs.append((as_stored(applied(params, updates)), state))
        return (tuple(new_runs), first), _trace_of_runs(first, runs, new_runs)

    def with_states(carry, states):
        pairs = zip(carry[0], states, strict=True)
        return tuple((params, state) for (params, _), state in pairs), carry[1]

    return compiled(
        Probe(
            start,
            in_scan(probed, step),
            restart,
            hold,
            states=lambda carry: tuple(state for _, state in carry[0]),
            with_states=with_states,
        ),
        lanes,
    )


def _trace_of_runs(first: Leaves, runs: Any, new_runs: Any) -> Trace:
    """The trace of a step of two runs, whose first difference is ``first``."""
    before, after = _difference(*runs), _difference(*new_runs)
    trace = trace_of_step(
        initial=first,
        change=jax.tree.map(operator.sub, after, first),
        step=jax.tree.map(operator.sub, after, before),
        before=before,
    )
    # The first run began at (1 + h)θ₀, which is the difference times this number.
    start = [(1 + PERTURBATION) / (2 * PERTURBATION) * x for x in first]
    old, new = wide(runs[0][0]), wide(new_runs[0][0])
    return trace._replace(
        value=dots(start, new) / dots(start, start),
        size=norm_ratio(new, start),
        step_size=norm_ratio(jax.tree.map(operator.sub, new, old), start),
        weights=sample([x.real for x in new]),
    )


def in_scan(probed: ProbedOptimizer, step: Callable[..., Any]) -> Callable[..., Any]:
    """Many steps of ``step(initial weights, carry, gradients, time)``."""

    def advance(carry, params, numbers, scale, times):
        def body(carry, drawn):
            numbers, time = drawn
            scales = [scale * mask for mask in probed.gradient_masks]
            grads = scaled_tree(numbers, params, scales)
            return step(partition(params).inexact, carry, grads, time)

        return jax.lax.scan(body, carry, (numbers, times))

    return advance


def compiled(probe: Probe, lanes: int) -> Probe:
    """The probe with jitted functions, for params with a first axis of several lanes.

    The lanes have weights of different sizes and the same gradients.
    """
    functions = probe.start, probe.restart, probe.hold
    advance = probe.advance
    if lanes > 1:
        functions = [jax.vmap(function) for function in functions]
        advance = jax.vmap(advance, in_axes=(0, 0, None, None, None))
    start, restart, hold = map(jax.jit, functions)
    return probe._replace(
        start=start, restart=restart, hold=hold, advance=jax.jit(advance)
    )


def as_stored(params: optax.Params) -> optax.Params:
    """Parameters rounded to their own dtypes, as in memory.

    Without the barrier, XLA may remove a cast to 16 bits and back, and the probe would
    see parameters that are not rounded.
    """
    return jax.lax.optimization_barrier(params)


def applied(params: optax.Params, updates: optax.Updates) -> optax.Params:
    """Add the updates; the parameters keep their dtypes, and integers their values."""
    theta, static = partition(params)
    pairs = zip(theta, _inexact(updates, params), strict=True)
    moved = []
    for x, u in pairs:
        dtype = compute_dtype(x, u)
        moved.append((x.astype(dtype) + u.astype(dtype)).astype(x.dtype))
    return combine(params, moved, static)


def _real_sample(params: optax.Params) -> jax.Array:
    return sample([x.real for x in wide(params)])


def _inexact(updates: optax.Updates, params: optax.Params) -> Leaves:
    """The updates of the inexact parameters, in order."""
    pairs = zip(jax.tree.leaves(updates), jax.tree.leaves(params), strict=True)
    return [update for update, param in pairs if is_inexact(param)]


def _zeros(leaves: Leaves) -> Leaves:
    return [jnp.zeros_like(leaf) for leaf in leaves]


def _difference(plus: Any, minus: Any) -> Leaves:
    """The difference of the parameters of two runs (parameters, state)."""
    return jax.tree.map(operator.sub, wide(plus[0]), wide(minus[0]))


def wide(params: optax.Params) -> Leaves:
    """The inexact parameters, in float32 or wider."""
    return [jnp.asarray(x, compute_dtype(x)) for x in partition(params).inexact]
