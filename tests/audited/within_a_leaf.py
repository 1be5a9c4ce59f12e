"""Differences within a leaf: masks of arrays, and gates that the gradients open."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import decayax as dx
from audited.row import (
    adamw,
    add,
    clean,
    descent_and,
    gate_behind,
    half_decays,
    normal,
    rows_of,
    SERIOUS,
)


# Differences within a leaf that the gradients do not decide.


# A part with n normal weights holds its share of Σθ² within 3√(2/n), relative.
add(
    "half of the rows by a mask",
    lambda: dx.adamw(
        1e-3, weight_decay=0.1, mask={"kernel": (np.arange(16) % 2.0)[:, None]}
    ),
    "uneven",
    half_decays(1e-4, 0.5),
    0.3,
    findings=("uneven",),
    never=SERIOUS,
)
add(
    "a multiplier for each layer of a stack",
    lambda: dx.adamw(
        1e-3, weight_decay=0.1, mask={"kernel": np.arange(4.0).reshape(4, 1, 1)}
    ),
    "uneven",
    1.5e-4,
    0.3,
    params=lambda: {"kernel": normal(4, 8, 8)},  # the mean of 0..3
    findings=("uneven",),
    never=SERIOUS,
)
add(
    "one row loses 1 % per step",
    lambda: descent_and(lambda g, p: 1e-2 * rows_of(p, lambda i: i == 0) * p),
    "uneven",
    findings=("uneven",),
    never=("growth", "gradient-dependent", "nothing decays"),
)
add(
    "rows with two signs",
    lambda: descent_and(
        lambda g, p: 1e-3 * (2 * rows_of(p, lambda i: i % 2 == 0) - 1) * p
    ),
    "growth",
    findings=("growth",),
    cured=lambda: descent_and(lambda g, p: 1e-3 * p),
)
add(
    "a quarter of the rows grows",
    lambda: descent_and(
        lambda g, p: 1e-3 * (1 - 2 * rows_of(p, lambda i: i % 4 == 0)) * p
    ),
    "growth",
    findings=("growth",),
)
add(
    "padding rows of an embedding do not decay",
    lambda: descent_and(
        lambda g, p: 1e-4 * jnp.ones(p.shape[0]).at[:4].set(0.0)[:, None] * p
    ),
    {"embedding": "uneven"},
    {"embedding": half_decays(1e-4, 508 / 512)},
    0.01,
    params=lambda: {"embedding": normal(512, 16)},
    findings=("uneven",),
    never=SERIOUS,
)


def last_ten(g, p):
    mask = jnp.concatenate([jnp.zeros(p.shape[0] - 10), jnp.ones(10)])[:, None]
    return 1e-3 * mask * p


add(
    "the last 10 rows of 4096",  # a constant that is built from the shape
    lambda: descent_and(last_ten),
    {"embedding": "uneven"},
    {"embedding": half_decays(1e-3, 10 / 4096)},
    0.5,  # 80 weights: 3√(2/80)
    params=lambda: {"embedding": normal(4096, 8)},
    findings=("uneven",),
    never=SERIOUS,
)
add(
    "a fixed random half of the weights",
    lambda: descent_and(
        lambda g, p: 1e-3 * jax.random.bernoulli(jax.random.key(7), 0.5, p.shape) * p
    ),
    "uneven",
    half_decays(1e-3, 0.5),
    0.45,  # 128 ± 8 weights, 3√(2/128) of Σθ²
    findings=("uneven",),
    never=SERIOUS,
)
add(
    "the diagonal only",
    lambda: descent_and(lambda g, p: 1e-3 * jnp.eye(16) * p),
    "uneven",
    findings=("uneven",),
    never=SERIOUS,
)

add(
    "one row of 16 grows",  # 6 % of the weights
    lambda: descent_and(lambda g, p: 1e-3 * (1 - 2 * rows_of(p, lambda i: i == 3)) * p),
    "growth",
    findings=("growth",),
)
add(
    "one row of 64 grows",  # 1.6 % of the weights
    lambda: descent_and(lambda g, p: 1e-4 * (1 - 2 * rows_of(p, lambda i: i == 3)) * p),
    "uneven",
    params=lambda: {"kernel": normal(64, 16)},
    findings=("uneven",),
    never=("gradient-dependent", "gated"),
)

# Gates: the gradients decide which weights decay, their scale does not.

add(
    "cautious decay behind adam",
    lambda: gate_behind(optax.scale_by_adam(), lambda u, p: u * p > 0),
    "gated",
    5e-5,
    0.1,  # γλ for one of g and −g
    findings=("gated",),
    never=SERIOUS,
)
add(
    "cautious decay behind lion",
    lambda: gate_behind(optax.scale_by_lion(), lambda u, p: u * p > 0),
    "gated",
    5e-5,
    0.1,
    findings=("gated",),
    never=SERIOUS,
)  # γλ/2
add(
    "cautious decay behind sgd",
    lambda: gate_behind(optax.identity(), lambda u, p: u * p > 0),
    "gated",
    5e-5,
    0.1,
    findings=("gated",),
    never=SERIOUS,
)  # γλ/2
add(
    "decay where g > 0",
    lambda: gate_behind(optax.identity(), lambda u, p: u > 0),
    "gated",
    5e-5,
    0.02,
    findings=("gated",),
    never=SERIOUS,
)  # γλ/2
add(
    "decay if the sum of g is positive",
    lambda: gate_behind(optax.identity(), lambda u, p: jnp.sum(u) > 0),
    "gated",
    5e-5,
    0.02,
    findings=("gated",),
    never=SERIOUS,
)  # γλ for one of g and −g
add(
    "decay if g points to 0",
    lambda: gate_behind(optax.identity(), lambda u, p: jnp.sum(u * p) > 0),
    "gated",
    5e-5,
    0.05,
    findings=("gated",),
    never=SERIOUS,
)  # γλ for one of g and −g
add(
    "the largest tenth of |g| decays",
    lambda: gate_behind(
        optax.identity(), lambda u, p: jnp.abs(u) > jnp.quantile(jnp.abs(u), 0.9)
    ),
    "gated",
    1e-5,
    0.1,  # γλ/10: 26 of 256 weights
    findings=("gated",),
    never=SERIOUS,
)


def half_of_rows_sparse():
    """Example gradients that are 0 in half of the rows."""
    keep = (np.arange(64) % 2.0)[:, None]
    return {"gradients": {"embedding": keep * normal(64, 16, seed=1)}}


def row_has_gradient(g):
    return jnp.any(g != 0, axis=-1, keepdims=True)


for name, pull in (
    (
        "lazy decay: rows with gradient",
        lambda g, p: jnp.where(row_has_gradient(g), 1e-4 * p, 0.0),
    ),
    (
        "decay of rows without gradient",
        lambda g, p: jnp.where(row_has_gradient(g), 0.0, 1e-4 * p),
    ),
):
    add(
        name,
        lambda pull=pull: descent_and(pull),
        {"embedding": "gated"},
        {"embedding": half_decays(1e-4, 0.5)},
        0.25,  # half of the rows
        params=lambda: {"embedding": normal(64, 16)},
        options=half_of_rows_sparse,
        findings=("gated",),
        never=SERIOUS,
    )
clean(
    "adamw on sparse rows",
    adamw,
    {"embedding": "uniform"},
    {"embedding": 1e-4},
    params=lambda: {"embedding": normal(64, 16)},
    options=half_of_rows_sparse,
)  # γλ
