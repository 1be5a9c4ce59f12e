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
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from decayax._dtypes import is_inexact
from decayax._tree import flatten, is_hole, Path


SHOWN = 256  # weights of each leaf that are followed one by one
NUDGE = 0.1  # h of the difference: curvature enters as h², rounding as 1/h
CHUNK = 25  # steps in one compiled call


class Run(NamedTuple):
    """What to follow: an optimizer, its other arguments, leaves without gradient."""

    optimizer: Any  # with init and update
    extra_args: Callable[[Any], dict[str, Any]]  # step -> keywords
    still: frozenset[Path] = frozenset()


class Trace(NamedTuple):
    """What became of one leaf, after each step."""

    lost: Any  # (T,) kept − 1, by regression on the initial weights
    each: Any  # (T, n) kept − 1 of n single weights
    size: Any  # (T,) ‖dΔ_t‖/‖dθ_t‖
    last: Any  # (T, n) the n weights themselves


class Half(NamedTuple):
    """A tree in two: leaves to differentiate, and the rest."""

    live: list[Any]
    rest: list[Any]


def gradients(run: Run, params: Any, key: jax.Array, scale: Any, step: Any) -> Any:
    """Normal gradients of one step; 0 for still leaves and integers."""
    flat, treedef = flatten(params)
    noise = normal(jax.random.fold_in(key, step), [leaf for _, leaf in flat])

    def scaled(path: Path, param: Any, noise: Any) -> Any:
        if is_hole(param):
            return param
        if path in run.still or not is_inexact(param):
            return jnp.zeros_like(param)
        return (jnp.asarray(scale, noise.real.dtype) * noise).astype(param.dtype)

    return treedef.unflatten(
        scaled(*leaf, x) for leaf, x in zip(flat, noise, strict=True)
    )


def normal(key: jax.Array, leaves: list[Any]) -> list[Any]:
    """Normal numbers like each inexact leaf, None for others, in float32 or wider.

    Cut from one long vector: to compile many small generators takes long.
    """
    chosen = [not is_hole(leaf) and is_inexact(leaf) for leaf in leaves]
    sizes = [
        (2 if jnp.issubdtype(leaf.dtype, jnp.complexfloating) else 1)
        * math.prod(leaf.shape)
        for leaf, live in zip(leaves, chosen, strict=True)
        if live
    ]
    ends = list(itertools.accumulate(sizes, initial=0))
    pool = jax.random.normal(key, (ends[-1],), jnp.float32)
    parts = iter(pool[a:b] for a, b in itertools.pairwise(ends))

    def cut(leaf: Any) -> jax.Array:
        twice = jnp.issubdtype(leaf.dtype, jnp.complexfloating)
        part = next(parts).reshape(2 if twice else 1, *leaf.shape)
        return jax.lax.complex(part[0], part[1]) if twice else part[0]

    return [
        cut(leaf).astype(jnp.promote_types(leaf.dtype, jnp.float32)) if live else None
        for leaf, live in zip(leaves, chosen, strict=True)
    ]


def follow(
    probe: "Probe", params: Any, key: jax.Array, scale: float, steps: int
) -> list[Trace]:
    """The traces of all inexact leaves, in order, over a number of steps."""
    carry = probe.start(params)
    parts = []
    for first in range(0, steps, CHUNK):
        times = np.arange(first, first + CHUNK, dtype=np.int32)
        carry, part = probe.advance(carry, params, key, np.float32(scale), times)
        parts.append(jax.device_get(part))
    return jax.tree.map(lambda *x: np.concatenate(x)[:steps].astype(float), *parts)


class Probe(NamedTuple):
    """A way to follow the weights: jitted once, used for all keys and scales."""

    start: Callable[[Any], Any]
    advance: Callable[..., tuple[Any, list[Trace]]]


def derivative(run: Run) -> Probe:
    """The probe that differentiates every step."""

    def start(params: Any) -> Any:
        whole = split(params)

        def init(live: list[Any]) -> list[Any]:
            return split(run.optimizer.init(joined(params, live, whole.rest))).live

        _, moved = jax.jvp(init, (whole.live,), (whole.live,))
        nothing = [jnp.zeros_like(x) for x in whole.live]
        return params, run.optimizer.init(params), whole.live, moved, nothing

    def advance(carry: Any, initial: Any, key: jax.Array, scale: Any, times: Any):
        return jax.lax.scan(
            functools.partial(step, split(initial).live, key, scale), carry, times
        )

    def step(initial, key, scale, carry, time):
        params, state, moving, moving_state, lost = carry
        grads = gradients(run, params, key, scale, time)
        whole, held = split(params), split(state)

        def update(live, live_state):
            now = joined(params, live, whole.rest)
            updates, new = _update(
                run, now, joined(state, live_state, held.rest), grads, time
            )
            new = split(new)
            return (_inexact(updates, params), new.live), (updates, new.rest)

        (_, new_live), (change, moving_state), (updates, new_rest) = jax.jvp(
            update, (whole.live, held.live), (moving, moving_state), has_aux=True
        )
        size = [_norm(d) / _norm(m) for d, m in zip(change, moving, strict=True)]
        lost = [x + d for x, d in zip(lost, change, strict=True)]
        moving = [m + d for m, d in zip(moving, change, strict=True)]
        params = optax.apply_updates(params, updates)
        traces = [
            Trace(_slope(x, start), _each(x, start), s, _few(p).real)
            for x, start, s, p in zip(
                lost, initial, size, split(params).live, strict=True
            )
        ]
        state = joined(state, new_live, new_rest)
        return (params, state, moving, moving_state, lost), traces

    return Probe(jax.jit(start), jax.jit(advance))


def difference(run: Run) -> Probe:
    """The probe that compares two runs, from (1 + h)θ₀ and (1 − h)θ₀."""

    def start(params: Any) -> Any:
        whole = split(params)
        sides = []
        for h in (NUDGE, -NUDGE):
            live = [(x + h * x).astype(x.dtype) for x in whole.live]
            moved = joined(params, live, whole.rest)
            sides.append((moved, run.optimizer.init(moved)))
        return tuple(sides), _apart(*sides)

    def advance(carry: Any, initial: Any, key: jax.Array, scale: Any, times: Any):
        return jax.lax.scan(
            functools.partial(step, split(initial).live, key, scale), carry, times
        )

    def step(initial, key, scale, carry, time):
        sides, at_first = carry
        grads = gradients(run, sides[0][0], key, scale, time)
        before = _apart(*sides)
        moved = []
        for params, state in sides:
            updates, state = _update(run, params, state, grads, time)
            moved.append((optax.apply_updates(params, updates), state))
        after = _apart(*moved)
        traces = []
        for now, was, first, p in zip(
            after, before, at_first, split(moved[0][0]).live, strict=True
        ):
            lost = now - first
            size = _norm(now - was) / _norm(was)
            traces.append(
                Trace(_slope(lost, first), _each(lost, first), size, _few(p).real)
            )
        return (tuple(moved), at_first), traces

    return Probe(jax.jit(start), jax.jit(advance))


def _update(
    run: Run, params: Any, state: Any, grads: Any, time: Any
) -> tuple[Any, Any]:
    """The updates, and the new state in the dtypes of the old."""
    updates, new = run.optimizer.update(grads, state, params, **run.extra_args(time))
    return updates, jax.tree.map(_like, new, state)


def _like(new: Any, old: Any) -> jax.Array:
    new, old = jnp.asarray(new), jnp.asarray(old)
    return new if new.dtype == old.dtype else new.astype(old.dtype)


def split(tree: Any) -> Half:
    """The inexact leaves of a tree, and the others, in order."""
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    return Half(
        [leaf for leaf in leaves if is_inexact(leaf)],
        [leaf for leaf in leaves if not is_inexact(leaf)],
    )


def joined(like: Any, live: list[Any], rest: list[Any]) -> Any:
    """The tree that `split` took apart."""
    leaves, treedef = jax.tree.flatten(like)
    of_live, of_rest = iter(live), iter(rest)
    return treedef.unflatten(
        next(of_live if is_inexact(jnp.asarray(leaf)) else of_rest) for leaf in leaves
    )


def _inexact(updates: Any, params: Any) -> list[Any]:
    """The updates of the inexact parameters, in float32 or wider."""
    pairs = zip(jax.tree.leaves(updates), jax.tree.leaves(params), strict=True)
    return [u for u, p in pairs if is_inexact(p)]


def _apart(up: Any, down: Any) -> list[jax.Array]:
    """The difference of two runs' parameters, in float32 or wider."""
    wide = [
        [x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in split(side[0]).live]
        for side in (up, down)
    ]
    return [a - b for a, b in zip(*wide, strict=True)]


def _slope(change: jax.Array, initial: jax.Array) -> jax.Array:
    """The regression of a change on the initial weights."""
    return jnp.sum((initial.conj() * change).real) / jnp.sum(jnp.abs(initial) ** 2)


def _each(change: jax.Array, initial: jax.Array) -> jax.Array:
    """The same of single weights."""
    change, initial = _few(change), _few(initial)
    return (initial.conj() * change).real / jnp.abs(initial) ** 2


def _norm(x: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.sum(jnp.abs(x) ** 2))


def _few(x: jax.Array) -> jax.Array:
    return x.reshape(-1)[:SHOWN]
