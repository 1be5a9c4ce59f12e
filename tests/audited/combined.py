"""The same rules inside wrappers, on one leaf of two."""

import jax.numpy as jnp
import optax

from audited.row import (
    adamw,
    add,
    descent_and,
    gate_behind,
    half_decays,
    l2_adam,
    multi_steps,
    norm_of,
    normal,
    projected,
    rows_of,
    SERIOUS,
    to_memory,
)


def on_kernel(optimizer):
    """The optimizer for `kernel`; optax.adamw with rate 2e-4 for `other`."""
    labels = {"kernel": "audited", "other": "adamw"}
    usual = adamw(weight_decay=0.2)
    return optax.partition({"audited": optimizer, "adamw": usual}, labels)


def two_leaves():
    return {"kernel": normal(16, 16), "other": normal(8, 8, seed=1)}


def cautious(direction):
    return gate_behind(direction, lambda u, p: u * p > 0)


for name, make, mode, rate, tolerance, found in (
    (
        "adam with L2",
        l2_adam,
        "gradient-dependent",
        9.65e-5,
        0.04,
        "gradient-dependent",
    ),
    (
        "cautious decay",
        lambda: cautious(optax.scale_by_adam()),
        "gated",
        5e-5,
        0.1,
        "gated",
    ),
    (
        "decay to the initial weights",
        lambda: to_memory(1e-3),
        "anchored",
        1e-3,
        0.02,
        "anchored",
    ),
    (
        "a sphere",
        lambda: projected(lambda p: 3 * p / norm_of(p)),
        "constrained",
        None,
        0.0,
        "constrained",
    ),
    (
        "L1",
        lambda: descent_and(lambda g, p: 1e-4 * jnp.sign(p)),
        "scale-dependent",
        None,
        0.0,
        "scale-dependent",
    ),
    ("NaN", lambda: optax.scale(jnp.nan), "not finite", None, 0.0, "not finite"),
    (
        "rows with two signs",
        lambda: descent_and(
            lambda g, p: 1e-3 * (2 * rows_of(p, lambda i: i < 8) - 1) * p
        ),
        "growth",
        None,
        0.0,
        "growth",
    ),
    (
        "half of the rows",
        lambda: descent_and(lambda g, p: 1e-4 * rows_of(p, lambda i: i < 8) * p),
        "uneven",
        half_decays(1e-4, 0.5),
        0.3,
        "uneven",
    ),
):
    rates = {"other": 2e-4} if rate is None else {"kernel": rate, "other": 2e-4}
    add(
        f"{name} in a partition",
        lambda make=make: on_kernel(make()),
        {"kernel": mode, "other": "uniform"},
        rates,
        tolerance or 0.01,
        params=two_leaves,
        findings=(found,),
        never=tuple(kind for kind in SERIOUS if kind != found),
        says=("kernel",),
        cured=lambda: on_kernel(adamw()),
    )  # each leaf has the rate of its own rule
add(
    "adam with L2 in MultiSteps",
    lambda: multi_steps(l2_adam(), 4),
    "gradient-dependent",
    findings=("gradient-dependent",),
    says=("preconditioner",),
    cured=lambda: multi_steps(adamw(), 4),
)
add(
    "cautious decay in MultiSteps",
    lambda: multi_steps(cautious(optax.scale_by_adam()), 2),
    "gated",
    2.5e-5,
    0.1,
    findings=("gated",),
    never=SERIOUS,
)  # γλ/2 in half of the calls
add(
    "cautious decay in apply_if_finite",
    lambda: optax.apply_if_finite(cautious(optax.scale_by_adam()), 5),
    "gated",
    5e-5,
    0.1,
    findings=("gated",),
    never=SERIOUS,
)  # γλ/2
add(
    "cautious decay behind a gradient clip",
    lambda: optax.chain(
        optax.clip_by_global_norm(1.0), cautious(optax.scale_by_adam())
    ),
    "gated",
    5e-5,
    0.1,
    findings=("gated",),
    never=SERIOUS,
)  # γλ/2
add(
    "decay to the initial weights in MultiSteps",
    lambda: multi_steps(to_memory(1e-3), 2),
    "anchored",
    5e-4,
    0.02,
    findings=("anchored",),
    never=SERIOUS,
)  # the pull acts in half of the calls
add(
    "a negative λ in inject_hyperparams",
    lambda: optax.inject_hyperparams(optax.adamw)(1e-3, weight_decay=-0.1),
    "growth",
    -1e-4,
    findings=("growth",),
    cured=adamw,
)  # γλ
add(
    "a negative λ in MultiSteps",
    lambda: multi_steps(adamw(weight_decay=-0.1), 4),
    "growth",
    -0.25e-4,
    findings=("growth",),
    cured=lambda: multi_steps(adamw(), 4),
)  # γλ in every 4th call
