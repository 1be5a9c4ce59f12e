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

import itertools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from decayax._audit.draws import count_numbers, normal, scaled_tree, steps_per_call
from decayax._audit.trace import (
    first_weights,
    Leaves,
    norm_ratio,
    Trace,
    trace_of_step,
    TRACED_PER_LEAF,
)
from decayax._core.dtypes import cast_like, compute_dtype, is_inexact
from decayax._core.paths import Path
from decayax._jaxpr.dependence import ExtraArgs
from decayax._jaxpr.partition import combine, partition


# h of the difference. The curvature of the update adds an error of order h², rounding
# one of order 1/h.
PERTURBATION = 0.1


class ProbedOptimizer(NamedTuple):
    """An optimizer and everything that its updates need except params and gradients."""

    optimizer: Any  # with init and update
    extra_args: ExtraArgs
    zero_gradient: frozenset[Path] = frozenset()  # leaves whose gradients are 0

    def update(self, grads: Any, state: Any, params: Any, time: Any) -> tuple[Any, Any]:
        """The updates, and the new state in the dtypes of the old one."""
        extra_args = self.extra_args(time)
        updates, new_state = self.optimizer.update(grads, state, params, **extra_args)
        return updates, jax.tree.map(cast_like, new_state, state)


class Probe(NamedTuple):
    """One way to measure: compiled once, used for all seeds and gradient scales."""

    start: Callable[..., Any]  # params -> carry
    # (carry, initial params, numbers, gradient scale, step indices) -> carry, trace
    advance: Callable[..., tuple[Any, Trace]]


def follow(
    probe: Probe, params: optax.Params, key: jax.Array, scale: float, steps: int
) -> list[Trace]:
    """Run a probe; return the traces of all inexact leaves, in order.

    The key and the scale are those of the gradients; a negative scale flips them.
    """
    carry = probe.start(params)
    parts = []
    size = count_numbers(params)
    chunk = steps_per_call(size)
    for first in range(0, steps, chunk):
        times = np.arange(first, first + chunk, dtype=np.uint32)
        numbers = normal(key, times, size)
        carry, part = probe.advance(carry, params, numbers, np.float32(scale), times)
        parts.append(jax.device_get(part))
    # The last chunk may run too far: cut the result to the number of steps.
    whole = jax.tree.map(lambda *x: np.concatenate(x)[:steps].astype(float), *parts)
    counts = [min(leaf.size, TRACED_PER_LEAF) for leaf in partition(params).inexact]
    bounds = itertools.pairwise(itertools.accumulate(counts, initial=0))
    return [
        Trace(
            change=whole.change[:, i],
            relative_step=whole.relative_step[:, i],
            per_weight=whole.per_weight[:, start:end],
            magnitude=None if whole.magnitude is None else whole.magnitude[:, i],
            weights=None if whole.weights is None else whole.weights[:, start:end],
        )
        for i, (start, end) in enumerate(bounds)
    ]


def jvp_probe(probed: ProbedOptimizer) -> Probe:
    """The probe that differentiates every step in the direction of θ₀."""

    def start(params):
        theta, static = partition(params)

        def init(inexact):
            state = probed.optimizer.init(combine(params, inexact, static))
            return partition(state).inexact

        _, state_tangents = jax.jvp(init, (theta,), (theta,))
        change = jax.tree.map(jnp.zeros_like, theta)
        return params, probed.optimizer.init(params), theta, state_tangents, change

    def step(initial, carry, grads, time):
        params, state, tangents, state_tangents, change = carry
        split, split_state = partition(params), partition(state)

        def update(inexact, state_inexact):
            params_now = combine(params, inexact, split.static)
            state_now = combine(state, state_inexact, split_state.static)
            updates, new_state = probed.update(grads, state_now, params_now, time)
            new = partition(new_state)
            return (_inexact(updates, params), new.inexact), (updates, new.static)

        primals = split.inexact, split_state.inexact
        (_, new_inexact), (update_tangents, state_tangents), (updates, new_static) = (
            jax.jvp(update, primals, (tangents, state_tangents), has_aux=True)
        )
        change = jax.tree.map(operator.add, change, update_tangents)
        trace = trace_of_step(
            initial=initial, change=change, step=update_tangents, before=tangents
        )
        tangents = jax.tree.map(operator.add, tangents, update_tangents)
        params = optax.apply_updates(params, updates)
        state = combine(state, new_inexact, new_static)
        return (params, state, tangents, state_tangents, change), trace

    return _compile(probed, start, step)


def difference_probe(probed: ProbedOptimizer) -> Probe:
    """The probe that takes the difference of two runs, from (1 ± h)θ₀."""

    def start(params):
        theta, static = partition(params)
        runs = []
        for h in (PERTURBATION, -PERTURBATION):
            inexact = [(x + h * x).astype(x.dtype) for x in theta]
            moved = _as_stored(combine(params, inexact, static))
            runs.append((moved, probed.optimizer.init(moved)))
        return tuple(runs), _difference(*runs)

    def step(initial, carry, grads, time):
        del initial  # the first difference takes its place
        runs, first = carry
        before = _difference(*runs)
        new_runs = []
        for params, state in runs:
            updates, state = probed.update(grads, state, params, time)
            new_runs.append((_as_stored(optax.apply_updates(params, updates)), state))
        after = _difference(*new_runs)
        trace = trace_of_step(
            initial=first,
            change=jax.tree.map(operator.sub, after, first),
            step=jax.tree.map(operator.sub, after, before),
            before=before,
        )
        weights = _wide(new_runs[0][0])
        trace = trace._replace(
            magnitude=norm_ratio(weights, first),
            weights=first_weights([x.real for x in weights]),
        )
        return (tuple(new_runs), first), trace

    return _compile(probed, start, step)


def _compile(
    probed: ProbedOptimizer, start: Callable[..., Any], step: Callable[..., Any]
) -> Probe:
    """The probe with ``step(initial weights, carry, gradients, time)``, in a scan."""

    def advance(carry, params, numbers, scale, times):
        zero = probed.zero_gradient

        def body(carry, drawn):
            numbers, time = drawn
            grads = scaled_tree(numbers, params, lambda p: 0.0 if p in zero else scale)
            return step(partition(params).inexact, carry, grads, time)

        return jax.lax.scan(body, carry, (numbers, times))

    return Probe(jax.jit(start), jax.jit(advance))


def _as_stored(params: optax.Params) -> optax.Params:
    """Parameters rounded to their own dtypes, as in memory.

    Without the barrier, XLA may remove a cast to 16 bits and back, and the probe would
    see parameters that are not rounded.
    """
    return jax.lax.optimization_barrier(params)


def _inexact(updates: optax.Updates, params: optax.Params) -> Leaves:
    """The updates of the inexact parameters, in order."""
    pairs = zip(jax.tree.leaves(updates), jax.tree.leaves(params), strict=True)
    return [update for update, param in pairs if is_inexact(param)]


def _difference(plus: Any, minus: Any) -> Leaves:
    """The difference of the parameters of two runs (parameters, state)."""
    return jax.tree.map(operator.sub, _wide(plus[0]), _wide(minus[0]))


def _wide(params: optax.Params) -> Leaves:
    """The inexact parameters, in float32 or wider."""
    return [jnp.asarray(x, compute_dtype(x)) for x in partition(params).inexact]
