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
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from decayax._audit.draws import (
    count_numbers,
    cut_into_leaves,
    normal,
    steps_per_call,
)
from decayax._audit.trace import (
    first_weights,
    norm_ratio,
    Trace,
    trace_of_step,
    TRACED_PER_LEAF,
)
from decayax._core.dtypes import cast_like, compute_dtype, is_inexact
from decayax._core.paths import flatten_with_path, is_masked_leaf, Path
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


class Probe(NamedTuple):
    """One way to measure: compiled once, used for all seeds and gradient scales."""

    start: Callable[[optax.Params], Any]  # params -> carry
    # (carry, initial params, numbers, gradient scale, step indices) -> carry, trace
    advance: Callable[..., tuple[Any, Trace]]


def follow(
    probe: Probe, params: optax.Params, key: jax.Array, scale: float, steps: int
) -> list[Trace]:
    """Run a probe; return the traces of all inexact leaves, in order.

    Args:
        probe: one of the two below.
        params: the initial weights.
        key: of the gradients.
        scale: standard deviation of the gradients; its sign flips them.
        steps: T >= 1.
    """
    carry = probe.start(params)
    parts = []
    size = count_numbers(jax.tree.leaves(params))
    chunk = steps_per_call(size)
    for first in range(0, steps, chunk):
        times = np.arange(first, first + chunk, dtype=np.int32)
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
        split = partition(params)

        def init(inexact):
            state = probed.optimizer.init(combine(params, inexact, split.static))
            return partition(state).inexact

        _, state_tangents = jax.jvp(init, (split.inexact,), (split.inexact,))
        change = [jnp.zeros_like(x) for x in split.inexact]
        state = probed.optimizer.init(params)
        return params, state, split.inexact, state_tangents, change

    def step(initial, scale, carry, drawn):
        params, state, tangents, state_tangents, change = carry
        numbers, time = drawn
        grads = gradients(probed, params, numbers, scale)
        split, split_state = partition(params), partition(state)

        def update(inexact, state_inexact):
            params_now = combine(params, inexact, split.static)
            state_now = combine(state, state_inexact, split_state.static)
            updates, new_state = _update(probed, params_now, state_now, grads, time)
            new = partition(new_state)
            return (_inexact(updates, params), new.inexact), (updates, new.static)

        primals = split.inexact, split_state.inexact
        (_, new_inexact), (update_tangents, state_tangents), (updates, new_static) = (
            jax.jvp(update, primals, (tangents, state_tangents), has_aux=True)
        )
        change = [c + d for c, d in zip(change, update_tangents, strict=True)]
        trace = trace_of_step(
            initial=initial, change=change, step=update_tangents, before=tangents
        )
        tangents = [t + d for t, d in zip(tangents, update_tangents, strict=True)]
        params = optax.apply_updates(params, updates)
        state = combine(state, new_inexact, new_static)
        return (params, state, tangents, state_tangents, change), trace

    return _compile(start, step)


def difference_probe(probed: ProbedOptimizer) -> Probe:
    """The probe that takes the difference of two runs, from (1 ± h)θ₀."""

    def start(params):
        split = partition(params)
        runs = []
        for h in (PERTURBATION, -PERTURBATION):
            inexact = [(x + h * x).astype(x.dtype) for x in split.inexact]
            moved = _as_stored(combine(params, inexact, split.static))
            runs.append((moved, probed.optimizer.init(moved)))
        return tuple(runs), _difference(*runs)

    def step(initial, scale, carry, drawn):
        del initial  # the first difference takes its place
        runs, first = carry
        numbers, time = drawn
        grads = gradients(probed, runs[0][0], numbers, scale)
        before = _difference(*runs)
        new_runs = []
        for params, state in runs:
            updates, state = _update(probed, params, state, grads, time)
            params = _as_stored(optax.apply_updates(params, updates))
            new_runs.append((params, state))
        after = _difference(*new_runs)
        trace = trace_of_step(
            initial=first,
            change=[now - then for now, then in zip(after, first, strict=True)],
            step=[now - then for now, then in zip(after, before, strict=True)],
            before=before,
        )
        weights = partition(new_runs[0][0]).inexact
        wide = [jnp.asarray(x, compute_dtype(x)) for x in weights]
        trace = trace._replace(
            magnitude=norm_ratio(wide, first),
            weights=first_weights([x.real for x in weights]),
        )
        return (tuple(new_runs), first), trace

    return _compile(start, step)


def _compile(start: Callable[..., Any], step: Callable[..., Any]) -> Probe:
    def advance(carry, initial, numbers, scale, times):
        body = functools.partial(step, partition(initial).inexact, scale)
        return jax.lax.scan(body, carry, (numbers, times))

    return Probe(jax.jit(start), jax.jit(advance))


def gradients(
    probed: ProbedOptimizer,
    params: optax.Params,
    numbers: Float[Array, " n"],
    scale: jax.typing.ArrayLike,
) -> Any:
    """Normal numbers as gradients: 0 for integers and for leaves without gradient."""
    flat, treedef = flatten_with_path(params)
    noise = cut_into_leaves(numbers, [leaf for _, leaf in flat])

    def gradient(path: Path, param: Any, noise: Any) -> Any:
        if is_masked_leaf(param):
            return param
        if path in probed.zero_gradient or not is_inexact(param):
            return jnp.zeros_like(param)
        return (jnp.asarray(scale, noise.real.dtype) * noise).astype(param.dtype)

    return treedef.unflatten(
        gradient(path, param, x) for (path, param), x in zip(flat, noise, strict=True)
    )


def _as_stored(params: optax.Params) -> optax.Params:
    """Parameters rounded to their own dtypes, as in memory.

    Without the barrier, XLA may remove a cast to 16 bits and back, and the probe would
    see parameters that are not rounded.
    """
    return jax.lax.optimization_barrier(params)


def _update(
    probed: ProbedOptimizer, params: Any, state: Any, grads: Any, time: Any
) -> tuple[Any, Any]:
    """The updates, and the new state in the dtypes of the old one."""
    extra_args = probed.extra_args(time)
    updates, new_state = probed.optimizer.update(grads, state, params, **extra_args)
    return updates, jax.tree.map(cast_like, new_state, state)


def _inexact(updates: optax.Updates, params: optax.Params) -> list[Any]:
    """The updates of the inexact parameters, in order."""
    pairs = zip(jax.tree.leaves(updates), jax.tree.leaves(params), strict=True)
    return [update for update, param in pairs if is_inexact(param)]


def _difference(plus: Any, minus: Any) -> list[jax.Array]:
    """The difference of the parameters of two runs, in float32 or wider."""
    plus_wide, minus_wide = (
        [jnp.asarray(x, compute_dtype(x)) for x in partition(params).inexact]
        for params, _ in (plus, minus)
    )
    return [a - b for a, b in zip(plus_wide, minus_wide, strict=True)]
