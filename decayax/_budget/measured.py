"""The rates of an optimizer at every step, measured.

The audit finds how each parameter decays. If its decay is a rate that depends on the
step only, the rate of each step is the derivative of the update by the weights, in the
direction of the weights. The weights stay as they are, and the state goes on.
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
from decayax._audit.draws import count_numbers, scaled_tree
from decayax._audit.leaf import LeafAudit
from decayax._audit.modes import GATED, NONE, UNIFORM
from decayax._audit.plan import make_plan, Program
from decayax._audit.probe import with_tangents
from decayax._audit.trace import dots
from decayax._jaxpr.partition import partition


SAME_RATES = 1e-5  # relative error of rates in float32, with a margin
TINY = np.finfo(np.float64).tiny
AUDITED = 200  # steps that an audit runs by default
WHOLE = 0.98  # a larger surviving fraction is whole: the audit's error is 2 %
Optimizer = optax.GradientTransformation


def measured_rates(
    optimizer: Optimizer, params: optax.Params, steps: int
) -> list[tuple[tuple[str, ...], np.ndarray, str]]:
    """Parameters with equal rates: their paths, the rate of each step, and a note."""
    leaves = _audited(optimizer, params, steps)
    groups: list[tuple[list[str], np.ndarray, str]] = []
    for leaf, rates in zip(leaves, _rates(optimizer, params, steps), strict=True):
        fraction, note = _surviving(leaf), _note(leaf)
        own = fraction * rates if leaf.mode != NONE else np.zeros(steps)
        for paths, known, text in groups:
            if text == note and np.allclose(own, known, rtol=SAME_RATES, atol=0.0):
                paths.append(leaf.path)
                break
        else:
            groups.append(([leaf.path], own, note))
    return [(tuple(paths), own, note) for paths, own, note in groups]


def _audited(optimizer: Optimizer, params: optax.Params, steps: int) -> Any:
    """What the audit says of each leaf; raise if a decay is not a rate."""
    # Not beyond the end: a schedule may be negative there.
    horizon = steps if steps > AUDITED else None
    audited = audit(optimizer, params, steps=min(steps, AUDITED), horizon=horizon)
    if not audited.leaves:
        found = "; ".join(map(str, audited.findings))
        raise ValueError(f"budget: the optimizer cannot be measured. {found}")
    for leaf in audited.leaves:
        if leaf.mode not in (NONE, UNIFORM, GATED):
            raise ValueError(
                f"budget: the decay of {leaf.path!r} is {leaf.mode}, and not a rate of "
                "the step only. See print(dx.audit(optimizer, params)). A decoupled "
                "decay has such a rate: dx.adamw, or dx.with_decay(optimizer, ...)."
            )
    return audited.leaves


def _rates(optimizer: Optimizer, params: optax.Params, steps: int) -> list[np.ndarray]:
    """The rate of each step of each inexact leaf."""
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
        mean, largest = np.asarray(_run(program, steps), np.float64)
    # A gate decides which weights decay in a step, and how many only by chance.
    decaying = mean.sum(axis=0) / np.maximum(largest.sum(axis=0), TINY)
    rates = decaying * largest
    return program.for_each_leaf([rates[:, index] for _, index in program.units])


def _run(program: Program, steps: int) -> jax.Array:
    """The mean and the largest rate of the weights of each leaf at each step.

    float32[2, steps, leaves of the program]
    """
    size, probed = count_numbers(program.shapes), program.probed
    key = jax.random.key(0)
    numbers = jax.random.normal(key, (size,), jnp.float32)
    params = scaled_tree(numbers, program.shapes, program.sizes[0].tolist())

    @jax.jit
    def run() -> jax.Array:
        theta = partition(params).inexact

        def step(carry: Any, time: jax.Array) -> tuple[Any, jax.Array]:
            state, tangents = carry
            numbers = jax.random.normal(jax.random.fold_in(key, time), (size,))
            grads = scaled_tree(numbers, params, probed.gradient_masks)
            update = functools.partial(probed.update, grads, time=time)
            (_, state), (moved, tangents) = with_tangents(
                update, (state, params), (tangents, theta)
            )
            mean = -dots(theta, moved) / dots(theta, theta)
            pairs = zip(moved, theta, strict=True)
            largest = jnp.stack([jnp.max(-(u / x).real) for u, x in pairs])
            return (state, tangents), jnp.stack([mean, largest])

        state = probed.init(params)
        fixed = [jnp.zeros_like(x) for x in partition(state).inexact]
        times = jnp.arange(steps, dtype=jnp.uint32)
        _, rates = jax.lax.scan(step, (state, fixed), times)
        return jnp.maximum(rates.swapaxes(0, 1), 0.0)

    return run()


def _surviving(leaf: LeafAudit) -> float:
    """The fraction of the rate that is left after rounding to the leaf's dtype."""
    fraction = leaf.surviving_fraction
    if fraction is None or fraction > WHOLE or math.isnan(fraction):
        return 1.0
    return max(fraction, 0.0)


def _note(leaf: LeafAudit) -> str:
    fraction = _surviving(leaf)
    if fraction < 1.0:
        return f"rounding to {leaf.dtype} leaves about {fraction:.0%} of the decay"
    if leaf.mode == GATED:
        return "gated: some weights decay in a step; mean rate under random gradients"
    return ""
