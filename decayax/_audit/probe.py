r"""Whole trajectories: how the result of T steps depends on the initial weights.

With the gradients g_1 ... g_T held fixed, the share of the initial weights that is
left after t steps is

    kept_t = 1 + Σ_{s ≤ t} dΔ_s/dθ₀          rate = 1 − kept_T^{1/T}

where dΔ_s is the change of the s-th update when θ₀ becomes (1 + h)θ₀: its derivative
at h = 0, or the difference of two runs with ±h. The derivative is summed over updates,
not read from the parameters, in which 1 − 1e-8 would be 1. The difference also sees
what a derivative does not: signs, gates, rounding.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from decayax._audit.noise import count, normal, shaped, steps_at_once
from decayax._core.dtypes import cast_like, compute_dtype, is_inexact
from decayax._core.paths import flatten_with_path, is_masked_leaf, Path
from decayax._jaxpr.partition import combine, partition


SHOWN = 256  # weights of each leaf that are followed one by one
NUDGE = 0.1  # h of the difference: curvature enters as h², rounding as 1/h


class Run(NamedTuple):
    """What to follow: an optimizer, its other arguments, leaves without gradient."""

    optimizer: Any  # with init and update
    extra_args: Callable[[Any], dict[str, Any]]  # step -> keywords
    still: frozenset[Path] = frozenset()


class Trace(NamedTuple):
    """What became of one leaf, after each step.

    While it is followed that of all leaves is one, (L,) or their weights in a row, as
    many small results take long to compile and to fetch.
    """

    lost: Any  # (T,) kept − 1, by regression on the initial weights
    size: Any  # (T,) ‖dΔ_t‖/‖dθ_t‖
    each: Any  # (T, n) kept − 1 of n single weights
    coarse: Any = None  # (T,) ‖θ_t‖/‖dθ_0‖; of the difference only
    weights: Any = None  # (T, n) the n weights themselves; of the difference only


def gradients(run: Run, params: Any, numbers: Any, scale: Any) -> Any:
    """The gradients that normal numbers make; 0 for still leaves and integers."""
    flat, treedef = flatten_with_path(params)
    noise = shaped(numbers, [leaf for _, leaf in flat])

    def scaled(path: Path, param: Any, noise: Any) -> Any:
        if is_masked_leaf(param):
            return param
        if path in run.still or not is_inexact(param):
            return jnp.zeros_like(param)
        return (jnp.asarray(scale, noise.real.dtype) * noise).astype(param.dtype)

    return treedef.unflatten(
        scaled(*leaf, x) for leaf, x in zip(flat, noise, strict=True)
    )


def follow(
    probe: "Probe", params: Any, key: jax.Array, scale: float, steps: int
) -> list[Trace]:
    """The traces of all inexact leaves, in order, over a number of steps."""
    carry = probe.start(params)
    parts = []
    size = count(jax.tree.leaves(params))
    chunk = steps_at_once(size)
    for first in range(0, steps, chunk):
        times = np.arange(first, first + chunk, dtype=np.int32)
        noise = normal(key, times, size)
        carry, part = probe.advance(carry, params, noise, np.float32(scale), times)
        parts.append(jax.device_get(part))
    whole = jax.tree.map(lambda *x: np.concatenate(x)[:steps].astype(float), *parts)
    counts = [min(leaf.size, SHOWN) for leaf in partition(params).inexact]
    ends = list(itertools.accumulate(counts, initial=0))
    return [
        Trace(
            whole.lost[:, i],
            whole.size[:, i],
            whole.each[:, a:b],
            None if whole.coarse is None else whole.coarse[:, i],
            None if whole.weights is None else whole.weights[:, a:b],
        )
        for i, (a, b) in enumerate(itertools.pairwise(ends))
    ]


class Probe(NamedTuple):
    """A way to follow the weights: jitted once, used for all keys and scales."""

    start: Callable[[Any], Any]
    advance: Callable[..., tuple[Any, Trace]]


def _compiled(start: Callable[..., Any], step: Callable[..., Any]) -> Probe:
    def advance(carry: Any, initial: Any, noise: jax.Array, scale: Any, times: Any):
        follow = functools.partial(step, partition(initial).inexact, scale)
        return jax.lax.scan(follow, carry, (noise, times))

    return Probe(jax.jit(start), jax.jit(advance))


def derivative(run: Run) -> Probe:
    """The probe that differentiates every step."""

    def start(params: Any) -> Any:
        whole = partition(params)

        def init(live: list[Any]) -> list[Any]:
            return partition(
                run.optimizer.init(combine(params, live, whole.static))
            ).inexact

        _, moved = jax.jvp(init, (whole.inexact,), (whole.inexact,))
        nothing = [jnp.zeros_like(x) for x in whole.inexact]
        return params, run.optimizer.init(params), whole.inexact, moved, nothing

    def step(initial, scale, carry, drawn):
        params, state, moving, moving_state, lost = carry
        numbers, time = drawn
        grads = gradients(run, params, numbers, scale)
        whole, held = partition(params), partition(state)

        def update(live, live_state):
            now = combine(params, live, whole.static)
            updates, new = _update(
                run, now, combine(state, live_state, held.static), grads, time
            )
            new = partition(new)
            return (_inexact(updates, params), new.inexact), (updates, new.static)

        (_, new_live), (change, moving_state), (updates, new_rest) = jax.jvp(
            update, (whole.inexact, held.inexact), (moving, moving_state), has_aux=True
        )
        lost = [x + d for x, d in zip(lost, change, strict=True)]
        trace = _traced(initial, lost, change, moving)
        moving = [m + d for m, d in zip(moving, change, strict=True)]
        params = optax.apply_updates(params, updates)
        state = combine(state, new_live, new_rest)
        return (params, state, moving, moving_state, lost), trace

    return _compiled(start, step)


def difference(run: Run) -> Probe:
    """The probe that compares two runs, from (1 + h)θ₀ and (1 − h)θ₀."""

    def start(params: Any) -> Any:
        whole = partition(params)
        sides = []
        for h in (NUDGE, -NUDGE):
            live = [(x + h * x).astype(x.dtype) for x in whole.inexact]
            moved = _stored(combine(params, live, whole.static))
            sides.append((moved, run.optimizer.init(moved)))
        return tuple(sides), _apart(*sides)

    def step(initial, scale, carry, drawn):
        sides, at_first = carry
        numbers, time = drawn
        grads = gradients(run, sides[0][0], numbers, scale)
        before = _apart(*sides)
        moved = []
        for params, state in sides:
            updates, state = _update(run, params, state, grads, time)
            moved.append((_stored(optax.apply_updates(params, updates)), state))
        after = _apart(*moved)
        lost = [now - first for now, first in zip(after, at_first, strict=True)]
        change = [now - was for now, was in zip(after, before, strict=True)]
        live = partition(moved[0][0]).inexact
        weights = _row([x.real for x in live])
        trace = _traced(at_first, lost, change, before)
        coarse = _ratio([jnp.asarray(x, compute_dtype(x)) for x in live], at_first)
        return (tuple(moved), at_first), trace._replace(coarse=coarse, weights=weights)

    return _compiled(start, step)


def _stored(params: Any) -> Any:
    """Parameters as they are stored.

    Else XLA may measure them before it rounds: a cast to 16 bits and back is none.
    """
    return jax.lax.optimization_barrier(params)


def _update(
    run: Run, params: Any, state: Any, grads: Any, time: Any
) -> tuple[Any, Any]:
    """The updates, and the new state in the dtypes of the old."""
    updates, new = run.optimizer.update(grads, state, params, **run.extra_args(time))
    return updates, jax.tree.map(cast_like, new, state)


def _inexact(updates: Any, params: Any) -> list[Any]:
    """The updates of the inexact parameters, in order."""
    pairs = zip(jax.tree.leaves(updates), jax.tree.leaves(params), strict=True)
    return [u for u, p in pairs if is_inexact(p)]


def _apart(up: Any, down: Any) -> list[jax.Array]:
    """The difference of two runs' parameters, in float32 or wider."""
    wide = [
        [jnp.asarray(x, compute_dtype(x)) for x in partition(side[0]).inexact]
        for side in (up, down)
    ]
    return [a - b for a, b in zip(*wide, strict=True)]


def _traced(
    initial: list[jax.Array],
    lost: list[jax.Array],
    change: list[jax.Array],
    moving: list[jax.Array],
) -> Trace:
    """The trace of all leaves in one step.

    Args:
        initial: dθ₀.
        lost: dθ_t − dθ₀.
        change: dΔ_t.
        moving: dθ_t, to which it is added.
    """
    first, last = _row(initial), _row(lost)
    return Trace(
        lost=_over_leaves(_dot, initial, lost) / _over_leaves(_dot, initial, initial),
        size=_ratio(change, moving),
        each=_product(first, last) / _product(first, first),
    )


def _ratio(above: list[jax.Array], below: list[jax.Array]) -> jax.Array:
    """Of the norms of each leaf, in a row."""
    return jnp.sqrt(_over_leaves(_dot, above, above) / _over_leaves(_dot, below, below))


def _over_leaves(f: Callable[..., jax.Array], *leaves: list[jax.Array]) -> jax.Array:
    """A number of each leaf, in a row."""
    numbers = [f(*x) for x in zip(*leaves, strict=True)]
    return jnp.stack(numbers) if numbers else jnp.zeros(0)


def _row(leaves: list[jax.Array]) -> jax.Array:
    """The first weights of every leaf, in a row."""
    few = [leaf.reshape(-1)[:SHOWN] for leaf in leaves]
    return jnp.concatenate(few) if few else jnp.zeros(0)


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return (a.conj() * b).real


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.sum(_product(a, b))
