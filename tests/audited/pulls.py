"""Pulls to anchors, projections, and rates that vary with the size of the weights."""

import jax.numpy as jnp
import optax

from audited.row import (
    adamw,
    add,
    clean,
    descent_and,
    norm_of,
    normal,
    projected,
    remembering,
    rule,
    SERIOUS,
    to_memory,
)


# Anchors: the rate is that of the pull.


add(
    "decay to the initial weights",
    lambda: to_memory(1e-3),
    "anchored",
    1e-3,
    0.02,
    findings=("anchored",),
    never=SERIOUS,
)
add(
    "decay to an average of the weights",  # the average follows by up to 1 − 0.999^200
    lambda: to_memory(1e-3, lambda a, p: 0.999 * a + 0.001 * p),
    "anchored",
    1e-3,
    0.15,
    findings=("anchored",),
    never=SERIOUS,
)
add(
    "L2-SP behind sgd",  # γλ = 1e-2 · 1e-2
    lambda: optax.chain(
        remembering(lambda p: +p, lambda g, p, a: g + 1e-2 * (p - a)), optax.sgd(1e-2)
    ),
    "anchored",
    1e-4,
    0.02,
    findings=("anchored",),
    never=SERIOUS,
)
add(
    "decay to half of the initial weights",
    lambda: remembering(lambda p: p / 2, lambda g, p, a: -1e-3 * g - 1e-3 * (p - a)),
    "anchored",
    1e-3,
    0.02,
    findings=("anchored",),
    never=SERIOUS,
)  # the pull is θ − θ₀/2
clean(
    "decay of the previous weights",  # θ₊₁ = θ − rθ₋₁: a lag of one step, no anchor
    lambda: remembering(
        lambda p: +p, lambda g, p, a: -1e-3 * g - 1e-3 * a, lambda a, p: p
    ),
    "uniform",
    1e-3,
    0.02,
)
clean(
    "decay to a given tree",  # a constant is not a copy of the weights
    lambda: descent_and(lambda g, p: 1e-3 * (p - normal(16, 16, seed=9))),
    "uniform",
    1e-3,
    0.1,
)
clean(
    "an average of the weights that nothing reads",
    lambda: optax.chain(
        adamw(),
        remembering(lambda p: +p, lambda u, p, a: u, lambda a, p: 0.99 * a + 0.01 * p),
    ),
    "uniform",
    1e-4,
)  # γλ

# Projections and bounds: the initial size is forgotten, without a decay to 0.

NO_DECAY = (
    "growth",
    "gradient-dependent",
    "half-life too short",
    "rate of 1 or more",
    "nothing decays",
)


def cut_singular_values(p):
    left, values, right = jnp.linalg.svd(p, full_matrices=False)
    return (left * jnp.minimum(values, 1.0)) @ right


for name, onto in (
    ("sphere of radius 3", lambda p: 3 * p / norm_of(p)),
    ("rows of norm 1", lambda p: p / norm_of(p, axis=1)),
    ("box |θ| ≤ 0.1", lambda p: jnp.clip(p, -0.1, 0.1)),
    ("nonnegative weights", lambda p: jnp.maximum(p, 0.0)),
    ("singular values up to 1", cut_singular_values),
):
    add(
        name,
        lambda onto=onto: projected(onto),
        "constrained",
        findings=("constrained",),
        never=NO_DECAY,
    )
add(
    "keep_params_nonnegative",
    lambda: optax.chain(optax.sgd(1e-3), optax.keep_params_nonnegative()),
    "constrained",
    findings=("constrained",),
    never=NO_DECAY,
)
clean(
    "sphere of the initial norm",
    lambda: remembering(
        norm_of, lambda g, p, n: n * (p - 1e-3 * g) / norm_of(p - 1e-3 * g) - p
    ),
    "none",
)
clean(
    "a box that no weight reaches",
    lambda: projected(lambda p: jnp.clip(p, -1e6, 1e6)),
    "none",
    0.0,
)
clean(
    "no radial step",
    lambda: rule(lambda g, p: -1e-3 * (g - p * jnp.sum(g * p) / jnp.sum(p * p))),
    "none",
)

# Rates that vary with the size of the weights.

for name, pull, said, not_said in (
    ("L1", jnp.sign, ("L1",), ("preconditioner", "trust ratio")),
    ("Huber", lambda p: jnp.clip(p, -1, 1), (), ("preconditioner", "trust ratio")),
    ("cubic", lambda p: p**3, (), ("preconditioner", "trust ratio")),
    ("Cauchy: log(1 + θ²)", lambda p: p / (1 + p * p), (), ("preconditioner",)),
    (
        "logarithmic",
        lambda p: jnp.sign(p) * jnp.log1p(jnp.abs(p)),
        (),
        ("preconditioner",),
    ),
):
    add(
        f"{name} pull",
        lambda pull=pull: descent_and(lambda g, p: 1e-4 * pull(p)),
        "scale-dependent",
        findings=("scale-dependent",),
        never=SERIOUS,
        says=said,
        says_not=not_said,
    )
add(
    "soft threshold",  # the proximal step of L1
    lambda: projected(lambda p: jnp.sign(p) * jnp.maximum(jnp.abs(p) - 1e-4, 0.0)),
    "scale-dependent",
    findings=("scale-dependent",),
    never=(*SERIOUS, "constrained"),
    says=("L1",),
    says_not=("preconditioner",),
)
add(
    "decay times the norm of θ",
    lambda: descent_and(lambda g, p: 1e-5 * norm_of(p) * p),
    "scale-dependent",
    findings=("scale-dependent",),
    never=SERIOUS,
    says_not=("preconditioner",),
)
clean(
    "multiplicative steps",
    lambda: rule(lambda g, p: p * (jnp.exp(-1e-3 * g) - 1)),
    "none",
)  # steps in proportion to θ; cosh(1e-3 g) − 1 is not a decay
