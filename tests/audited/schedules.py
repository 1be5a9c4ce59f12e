"""Schedules. Without at_steps, the audit sees the first 200 steps."""

from math import cos, pi

import jax
import jax.numpy as jnp
import optax

import decayax as dx
from audited.row import (
    adamw,
    add,
    counted,
    later,
    mean_rate,
    randomly,
    SERIOUS,
    STEPS,
    warmup_cosine,
)


def cosine():
    return optax.warmup_cosine_decay_schedule(0.0, 1e-3, 2000, 100_000)


def at_steps(*steps: int):
    return lambda: {"at_steps": steps}


add(
    "warm-up, first 200 steps",
    lambda: adamw(cosine()),
    "uniform",
    mean_rate(0.1 * warmup_cosine(step) for step in range(STEPS)),  # 0.1 · 5e-7 t
    findings=("rate still changes",),
    never=SERIOUS,
)
add(
    "warm-up and cosine",
    lambda: adamw(cosine()),
    "uniform",
    options=at_steps(0, 2000, 50_000),
    never=SERIOUS,
    by_step=later(lambda s: 0.1 * warmup_cosine(s), 0, 2000, 50_000),
)  # γ_t λ
add(
    "warm-up and cosine with a horizon",
    lambda: adamw(cosine()),
    "uniform",
    options=lambda: {"horizon": 100_000},
    never=(*SERIOUS, "rate still changes"),
)
add(
    "warm-up through inject_hyperparams",
    lambda: optax.inject_hyperparams(optax.adamw)(cosine(), weight_decay=0.1),
    "uniform",
    options=at_steps(0, 2000),
    never=SERIOUS,
    by_step=later(lambda s: 0.1 * warmup_cosine(s), 0, 2000),
)  # γ_t λ
add(
    "AdamC: γ² through inject_hyperparams",
    lambda: optax.inject_hyperparams(optax.adamw)(
        learning_rate=cosine(), weight_decay=lambda s: 100 * cosine()(s)
    ),
    "uniform",
    options=at_steps(0, 2000, 50_000),
    never=SERIOUS,
    by_step=later(lambda s: 100 * warmup_cosine(s) ** 2, 0, 2000, 50_000),
)  # λ_t = 0.1 γ_t/1e-3, times γ_t
add(
    "linear to 0",
    lambda: dx.adamw(optax.linear_schedule(1e-3, 0.0, 1000), weight_decay=0.1),
    "uniform",
    options=at_steps(0, 500, 900),
    never=SERIOUS,
    by_step=later(lambda s: 1e-4 * (1 - s / 1000), 0, 500, 900),
)
add(
    "warm restarts",  # cosines of 1000 steps
    lambda: adamw(
        optax.join_schedules(
            [optax.cosine_decay_schedule(1e-3, 1000)] * 3, [1000, 2000]
        )
    ),
    "uniform",
    options=at_steps(0, 500, 975, 1000),
    never=SERIOUS,
    by_step=later(
        lambda s: 0.5e-4 * (1 + cos(pi * (s % 1000) / 1000)), 0, 500, 975, 1000
    ),
)
add(
    "a tenth from step 30_000",
    lambda: adamw(optax.piecewise_constant_schedule(1e-3, {30_000: 0.1})),
    "uniform",
    options=at_steps(0, 2000, 50_000),
    never=SERIOUS,
    by_step=((0, 1e-4), (2000, 1e-4), (50_000, 1e-5)),
)
add(
    "λ falls exponentially",  # λ = 0.1 · 2^(−t/10⁴)
    lambda: optax.chain(
        optax.scale_by_adam(),
        optax.add_decayed_weights(optax.exponential_decay(0.1, 10_000, 0.5)),
        optax.scale(-1e-3),
    ),
    "uniform",
    options=at_steps(0, 10_000, 20_000),
    never=SERIOUS,
    by_step=((0, 1e-4), (10_000, 0.5e-4), (20_000, 0.25e-4)),
)
add(
    "λ from step 1000 on, first 200 steps",
    lambda: adamw(weight_decay=lambda s: jnp.where(s >= 1000, 0.1, 0.0)),
    "none",
    0.0,
    findings=("nothing decays so far",),
    never=SERIOUS,
)
add(
    "λ from step 1000 on",
    lambda: adamw(weight_decay=lambda s: jnp.where(s >= 1000, 0.1, 0.0)),
    "uniform",
    options=at_steps(0, 1000, 5000),
    never=SERIOUS,
    by_step=((0, 0.0), (1000, 1e-4), (5000, 1e-4)),
)
add(
    "a counter of its own from step 1000 on",
    lambda: counted(lambda p, step: jnp.where(step >= 1000, 1e-4, 0.0) * p),
    "uniform",
    options=at_steps(0, 2000),
    never=SERIOUS,
    by_step=((0, 0.0), (2000, 1e-4)),
)
add(
    "λ = 0 from step 100 on",
    lambda: counted(lambda p, s: jnp.where(s < 100, 1e-3, 0.0) * p),
    "uniform",
    mean_rate([1e-3, 0]),
    0.01,  # half of the 200 steps
    findings=("rate still changes",),
    never=SERIOUS,
)
add(
    "learning rate 0 for 500 steps, first 200 steps",
    lambda: adamw(lambda s: jnp.where(s < 500, 0.0, 1e-3)),
    "none",
    0.0,
    findings=("no step",),
)
add(
    "learning rate 0 for 500 steps",
    lambda: adamw(lambda s: jnp.where(s < 500, 0.0, 1e-3)),
    "uniform",
    options=at_steps(0, 1000),
    never=SERIOUS,
    by_step=((0, 0.0), (1000, 1e-4)),
)
add(
    "every 300th step",
    lambda: counted(lambda p, s: jnp.where(s % 300 == 299, 1e-2, 0.0) * p),
    "uniform",
    options=at_steps(0, 290),  # 1 of the 25 steps from 290 on
    by_step=((0, 0.0), (290, mean_rate([1e-2] + [0] * 24))),
    never=SERIOUS,
)
add(
    "every 10th step",
    lambda: counted(lambda p, s: jnp.where(s % 10 == 9, 1e-3, 0.0) * p),
    "uniform",
    mean_rate([1e-3] + [0] * 9),
    findings=("not in every step",),
    never=SERIOUS,
)
add(
    "shrink by a tenth every 50th step",
    lambda: counted(lambda p, s: jnp.where(s % 50 == 49, 0.1, 0.0) * p),
    "uniform",
    mean_rate([0.1] + [0] * 49),
    findings=("not in every step",),
    never=("growth", "gradient-dependent", "nothing decays"),
)
add(
    "the sign turns at step 1000",
    lambda: counted(lambda p, step: jnp.where(step < 1000, 1e-4, -1e-4) * p),
    "growth",
    options=at_steps(0, 2000),
    by_step=((0, 1e-4), (2000, -1e-4)),
    findings=("growth",),
)
add(
    "a random half of the steps",
    lambda: randomly(
        lambda p, key: jnp.where(jax.random.bernoulli(key), 2e-4, 0.0) * p
    ),
    "uniform",
    1e-4,
    0.25,  # 100 ± 7 of 200 steps, 3 standard deviations
    findings=("not in every step",),
    never=SERIOUS,
)
add(
    "a random half of the weights in each step",
    lambda: randomly(lambda p, key: 2e-4 * jax.random.bernoulli(key, 0.5, p.shape) * p),
    "gated",
    1e-4,
    0.03,
    never=SERIOUS,
)  # the mean of 256 coins in each step
