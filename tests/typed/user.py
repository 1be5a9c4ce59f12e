"""What a user writes. Pyright and mypy find no error here, and infer these types."""

from collections.abc import Callable
from typing import Any, assert_type, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import decayax as dx


class Weights(NamedTuple):
    kernel: jax.Array
    bias: jax.Array


def optimizers(weights: Weights, traced: jax.Array) -> None:
    optimizer = dx.adamw(1e-3, weight_decay=0.1, mask=dx.masks.no_bias_or_norm)
    assert_type(optimizer, optax.GradientTransformationExtraArgs)
    schedule = optax.cosine_decay_schedule(1e-3, 1000)
    dx.adamw(schedule, weight_decay=schedule)
    dx.rmspropw(traced, weight_decay=np.float32(0.1), momentum=0.9)
    dx.sgdw(1e-3, mask={"kernel": True, "bias": False})
    dx.adam_l2(1e-3, mask=lambda params: jax.tree.map(lambda x: x.ndim > 1, params))
    dx.with_decay(optax.lion(1e-3), 0.1, learning_rate=schedule)
    dx.with_compensation(dx.track_decay(optimizer))
    optax.chain(dx.scale_by_rms(), dx.decoupled_decay(0.1), optax.sgd(schedule))

    state = optimizer.init(weights)
    updates, state = optimizer.update(weights, state, weights)


def parameters(weights: Weights, tree: dict[str, jax.Array], updates: Any) -> None:
    assert_type(dx.apply_updates(weights, updates), Weights)
    assert_type(dx.apply_updates(tree, updates), dict[str, jax.Array])
    assert_type(dx.apply_updates(jnp.ones(2), updates), jax.Array)


def masks(weights: Weights) -> None:
    mask = dx.masks.by_path([("kernel", 0.5)], default=0.0)
    assert_type(mask, dx.masks.Mask)
    assert_type(dx.masks.by_role(kernel=2.0, norm_scale=True), dx.masks.Mask)
    assert_type(dx.masks.any_of(mask, dx.masks.no_bias_or_norm), dx.masks.Mask)
    description = dx.masks.describe(mask, weights)
    assert_type(description, dx.masks.Description)
    assert_type(description.rows[0].path, str)
    assert_type(description.decayed, int)


def rates(traced: jax.Array) -> None:
    assert_type(dx.rates.rate_from_lr_scaled(0.1, learning_rate=1e-3), float)
    assert_type(dx.rates.retained_fraction(1e-5, steps=10), float)
    assert_type(dx.rates.half_life_steps_from_rate(traced), jax.Array)
    schedule = dx.rates.log_time_schedule(0.1, timescale_steps=100)
    dx.adamw(schedule, weight_decay=schedule)


def audits(weights: Weights, factory: Callable[[float], Any]) -> dx.Audit:
    result = dx.audit(dx.adamw(1e-3), weights, horizon=1000, at_steps=(0, 10))
    assert_type(result, dx.Audit)
    assert_type(result.leaves[0], dx.LeafAudit)
    assert_type(result.leaves[0].rate, float)
    assert_type(result.leaves[0].surviving_fraction, float | None)
    assert_type(result.findings[0], dx.Finding)
    assert_type(result.findings[0].paths, tuple[str, ...])
    assert_type(result.check(steps=1000), None)
    assert_type(result.failures(["growth"]), list[dx.Finding])
    return dx.audit(factory, weights)


def plans() -> None:
    advice = dx.advise(learning_rate=1e-3, steps=1000)
    assert_type(advice, dx.Advice)
    assert_type(advice.low, float)
    budget = dx.budget(learning_rate=1e-3, weight_decay=0.1, steps=1000)
    assert_type(budget, dx.Budget)
