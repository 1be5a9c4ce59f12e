"""The places of a decay: decoupled, independent, L2."""

from math import pi

import jax.numpy as jnp
import optax

import decayax as dx
from audited.row import (
    adamw,
    add,
    clean,
    descent_and,
    independent,
    l2_adam,
    through_momentum,
)


clean("optax.adamw", adamw, "uniform", 1e-4)  # γλ = 1e-3 · 0.1
clean("dx.adamw", lambda: dx.adamw(1e-3, weight_decay=0.1), "uniform", 1e-4)  # γλ
clean("adam", lambda: optax.adam(1e-3), "none", 0.0)  # no λ
clean("sgd", lambda: optax.sgd(0.1), "none", 0.0)  # no λ
clean(
    "independent behind adam",
    lambda: independent(optax.adam(1e-3), 1e-4),
    "uniform",
    1e-4,
)  # λ itself, without γ
clean("dx.rmspropw", lambda: dx.rmspropw(1e-3, weight_decay=0.1), "uniform", 1e-4)  # γλ
clean(
    "sgd with L2", lambda: dx.sgd_l2(1e-2, weight_decay=1e-2), "uniform", 1e-4
)  # γλ: g + λθ without a preconditioner
clean(
    "sgd with L2 through momentum",
    lambda: dx.sgd_l2(1e-2, momentum=0.9, weight_decay=1e-3),
    "uniform",
    through_momentum(1e-5, 0.9),
)  # γλ/(1 − μ), less the start from m = 0
clean(
    "sgd with L2 through Nesterov momentum",
    lambda: dx.sgd_l2(1e-2, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "uniform",
    through_momentum(1e-5, 0.9, first=1.0),
)  # the same, one step earlier
clean(
    "dx.sgdw", lambda: dx.sgdw(1e-2, momentum=0.9, weight_decay=1e-2), "uniform", 1e-4
)  # γλ: the decay is behind the momentum
clean(
    "decoupled decay before momentum",
    lambda: optax.chain(
        optax.scale_by_rms(),
        optax.add_decayed_weights(0.1),
        optax.trace(0.9),
        optax.scale(-1e-4),
    ),
    "uniform",
    through_momentum(1e-5, 0.9),
)  # momentum amplifies γλ
# E[1/√v̂] ≈ 1 except in the first steps, where g dominates its own v̂ and λ cancels.
# The rule in NumPy float64: 9.50e-5 by the derivative in θ₀, 9.80e-5 by differences.
add(
    "adam with L2",
    l2_adam,
    "gradient-dependent",
    9.65e-5,
    0.04,
    findings=("gradient-dependent",),
    never=("growth", "two decays at once"),
    says=("preconditioner",),
    cured=adamw,
)
add(
    "dx.adam_l2",
    lambda: dx.adam_l2(1e-3, weight_decay=0.01),
    "gradient-dependent",
    findings=("gradient-dependent",),
    says=("preconditioner",),
    cured=lambda: dx.adamw(1e-3, weight_decay=0.01),
)
add(
    "dx.rmsprop_l2",
    lambda: dx.rmsprop_l2(1e-3, weight_decay=0.1),
    "gradient-dependent",
    findings=("gradient-dependent",),
    says=("preconditioner",),
    cured=lambda: dx.rmspropw(1e-3, weight_decay=0.1),
)
add(
    "yogi with L2",
    lambda: optax.chain(optax.add_decayed_weights(0.1), optax.yogi(1e-3)),
    "gradient-dependent",
    findings=("gradient-dependent",),
    says=("preconditioner",),
    cured=lambda: dx.with_decay(optax.yogi(1e-3), 0.1, learning_rate=1e-3),
)
add(
    "adadelta's weight_decay",  # add_decayed_weights is first in its chain
    lambda: optax.adadelta(1.0, weight_decay=0.1),
    "gradient-dependent",
    findings=("gradient-dependent",),
)
add(
    "madgrad's weight_decay",
    lambda: optax.contrib.madgrad(1e-2, weight_decay=0.1),
    "gradient-dependent",
    findings=("gradient-dependent",),
)  # s/∛Σγg² contains λθ
add(
    "lars",
    lambda: optax.lars(1.0, weight_decay=1e-2),
    "gradient-dependent",
    findings=("gradient-dependent",),
)  # 1e-3 λ‖θ‖/‖g + λθ‖: ∝ 1/|g|
add(
    "L2 before lion",
    lambda: optax.chain(
        optax.add_decayed_weights(0.01), optax.lion(1e-4, weight_decay=0.0)
    ),
    "gradient-dependent",
    findings=("gradient-dependent",),
    cured=lambda: optax.lion(1e-4, weight_decay=0.01),
)  # sign(m + g + λθ)
add(
    "sign behind the decay",
    lambda: optax.chain(
        optax.add_decayed_weights(0.1), optax.scale_by_sign(), optax.scale(-1e-4)
    ),
    "gradient-dependent",
    findings=("gradient-dependent",),
)  # E sign(g + λθ) ∝ λθ/|g|
add(
    "L2 before the update norm",
    lambda: optax.chain(
        optax.add_decayed_weights(0.1),
        optax.normalize_by_update_norm(),
        optax.scale(-1e-2),
    ),
    "gradient-dependent",
    1e-2 * 0.1 / (16 * 1.01**0.5),
    0.05,  # γλ/‖g + λθ‖
    findings=("gradient-dependent",),
    says_not=("trust ratio",),
)
add(
    "dog's weight_decay",  # max distance / √Σ|g|² · λ: ∝ 1/|g|
    lambda: optax.contrib.dog(1.0, ("distance", 1.0), weight_decay=0.1),
    "gradient-dependent",
    findings=("gradient-dependent",),
)
add(
    "L2 before a gradient clip and sgd",  # 1/‖g + λθ‖ · γλ at |g| = 1, γλ at |g| = 0.01
    lambda: optax.chain(
        dx.add_l2_to_grad(1e-2), optax.clip_by_global_norm(1.0), optax.sgd(1e-2)
    ),
    "gradient-dependent",
    1e-4 / 16,
    0.05,
    findings=("gradient-dependent",),
    says=("clip",),
    says_not=("preconditioner",),
    cured=lambda: optax.chain(
        optax.clip_by_global_norm(1.0), dx.add_l2_to_grad(1e-2), optax.sgd(1e-2)
    ),
)
add(
    "decay times |g|",
    lambda: descent_and(lambda g, p: 1e-4 * jnp.abs(g) * p),
    "gradient-dependent",
    1e-4 * (2 / pi) ** 0.5,
    0.02,  # E|g| = √(2/π)
    findings=("gradient-dependent",),
    says_not=("preconditioner",),
)
add(
    "decay times the rms of g",
    lambda: descent_and(lambda g, p: 1e-4 * jnp.sqrt(jnp.mean(g**2)) * p),
    "gradient-dependent",
    1e-4,
    0.02,  # the rms is 1
    findings=("gradient-dependent",),
)
add(
    "decay over the rms of g",
    lambda: descent_and(lambda g, p: 1e-4 / jnp.sqrt(jnp.mean(g**2) + 1e-12) * p),
    "gradient-dependent",
    1e-4,
    0.02,
    findings=("gradient-dependent",),
)  # the rms is 1
add(
    "decay where |g| > 1",
    lambda: descent_and(lambda g, p: jnp.where(jnp.abs(g) > 1, 1e-4 * p, 0.0)),
    "gradient-dependent",
    0.3173e-4,
    0.05,  # P(|g| > 1) = 0.3173; 0 at |g| = 0.01
    findings=("gradient-dependent",),
    says_not=("preconditioner",),
)
