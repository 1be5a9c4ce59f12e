"""The rates of an optimizer at every step, measured.

The audit finds how each parameter decays. If its decay is a rate that depends on the
step only, it is measured over the whole run: the derivative of the weights by the
initial weights, in their direction, shrinks by the rate in each step. The weights that
the optimizer sees stay as they are.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from decayax._audit.audit import audit
from decayax._audit.checks import rounding_is_unknown
from decayax._audit.draws import count_numbers, scaled_tree
from decayax._audit.leaf import LeafAudit
from decayax._audit.modes import GATED, NONE, UNIFORM
from decayax._audit.plan import make_plan, Program
from decayax._audit.probe import with_tangents
from decayax._audit.trace import dots
from decayax._jaxpr.partition import combine, partition


SAME_RATES = 1e-5  # relative error of rates in float32, with a margin
SAME_GATED = 0.02  # of a small leaf, all weights may be gated in some steps
TOLERANCE = 1e-4  # of a rate in float32
AUDITED = 200  # steps that an audit runs by default
WHOLE = 0.98  # a larger surviving fraction is whole
Optimizer = optax.GradientTransformation


def measured_rates(
    optimizer: Optimizer, params: optax.Params, steps: int
) -> list[tuple[tuple[str, ...], np.ndarray, str]]:
    """Parameters with equal rates: their paths, the rate of each step, and a note."""
    # Not beyond the end: a schedule may be negative there.
    horizon = steps if steps > AUDITED else None
    audited = audit(optimizer, params, steps=min(steps, AUDITED), horizon=horizon)
    if not audited.leaves:
        found = "; ".join(map(str, audited.findings))
        raise ValueError(f"budget: the optimizer cannot be measured. {found}")
    groups: list[tuple[list[str], np.ndarray, str]] = []
    rates = _rates(optimizer, params, steps)
    for leaf, (mean, largest) in zip(audited.leaves, rates, strict=True):
        own, note = mean, ""
        if leaf.mode == GATED:
            own, note = largest, "gated: at most this; not all weights decay in a step"
        elif leaf.mode == NONE:
            own = np.zeros(steps)
        elif (fraction := _surviving(leaf)) < WHOLE:
            own = fraction * mean
            note = f"rounding to {leaf.dtype} leaves about {fraction:.0%} of the decay"
        elif rounding_is_unknown(leaf):
            note = f"how much rounding to {leaf.dtype} leaves is not known"
        if leaf.mode not in (NONE, UNIFORM, GATED) or not _is_rate(own):
            raise ValueError(
                f"budget: the decay of {leaf.path!r} is not a rate from 0 to 1 that "
                f"depends on the step only (mode: {leaf.mode}). See print(dx.audit("
                "optimizer, params)). A decoupled decay has such a rate: dx.adamw, or "
                "dx.with_decay(optimizer, ...)."
            )
        for paths, known, text in groups:
            same = SAME_GATED if leaf.mode == GATED else SAME_RATES
            if text == note and np.abs(own - known).sum() <= same * known.sum():
                paths.append(leaf.path)
                break
        else:
            groups.append(([leaf.path], own, note))
    return [(tuple(paths), own.clip(0.0), note) for paths, own, note in groups]


def _surviving(leaf: LeafAudit) -> float:
    """The fraction of the rate that rounding leaves; 1 if it was not measured."""
    fraction = leaf.surviving_fraction
    return 1.0 if fraction is None or math.isnan(fraction) else max(fraction, 0.0)


def _is_rate(rates: np.ndarray) -> bool:
    """Whether all rates are from 0 to 1; False if one is NaN."""
    return bool(((rates >= -TOLERANCE) & (rates <= 1.0)).all())


def _rates(optimizer: Optimizer, params: optax.Params, steps: int) -> list[np.ndarray]:
    """The mean and the largest rate of the weights of each leaf, at each step."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        plan = make_plan(
            optimizer,
            params,
            gradients=None,
            extra_args=None,
            axis_names=(),
            sample=None,
            steps=steps,
        )
        program = plan.program()
        rates = np.asarray(_run(program, steps), np.float64)
    return program.for_each_leaf([rates[..., i] for _, i in program.units])


def _run(program: Program, steps: int) -> jax.Array:
    """The rates: float32[2, steps, leaves of the program]."""
    size, probed = count_numbers(program.shapes), program.probed
    key = jax.random.key(0)
    numbers = jax.random.normal(key, (size,), jnp.float32)
    params = scaled_tree(numbers, program.shapes, program.sizes[0].tolist())

    @jax.jit
    def run() -> jax.Array:
        theta, static = partition(params)

        def init(inexact: Any) -> Any:
            return partition(probed.init(combine(params, inexact, static))).inexact

        def step(carry: Any, time: jax.Array) -> tuple[Any, jax.Array]:
            state, tangents, change = carry
            numbers = jax.random.normal(jax.random.fold_in(key, time), (size,))
            grads = scaled_tree(numbers, params, probed.gradient_masks)
            update = functools.partial(probed.update, grads, time=time)
            (_, state), (moved, tangents) = with_tangents(
                update, (state, params), (tangents, change)
            )
            mean = -dots(theta, moved) / dots(theta, change)
            pairs = zip(moved, change, strict=True)
            largest = [jnp.max(-(u / x).real, initial=0.0) for u, x in pairs]
            change = jax.tree.map(jnp.add, change, moved)
            # Begin again before the change underflows: 1e-15 of it is left.
            small = dots(change, change) < 1e-30 * dots(theta, theta)
            pairs = zip(small, theta, change, strict=True)
            change = [jnp.where(again, x, c) for again, x, c in pairs]
            return (state, tangents, change), jnp.stack([mean, jnp.stack(largest)])

        # A state may begin as a copy of the weights.
        _, moved = jax.jvp(init, (theta,), (theta,))
        times = jnp.arange(steps, dtype=jnp.uint32)
        carry = (probed.init(params), moved, theta)
        return jax.lax.scan(step, carry, times)[1].swapaxes(0, 1)

    return run()
