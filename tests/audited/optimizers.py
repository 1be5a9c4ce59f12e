"""Optax's optimizers and their own arguments."""

import optax

import decayax as dx
from audited.row import (
    adamw,
    add,
    clean,
    normal,
    SERIOUS,
    through_momentum,
    through_schedule_free,
)


clean("nadamw", lambda: optax.nadamw(1e-3, weight_decay=0.1), "uniform", 1e-4)  # γλ
clean("adamaxw", lambda: optax.adamaxw(1e-3, weight_decay=0.1), "uniform", 1e-4)  # γλ
clean("adan", lambda: optax.adan(1e-3, weight_decay=0.1), "uniform", 1e-4)  # γλ
clean("lion", lambda: optax.lion(1e-4, weight_decay=1.0), "uniform", 1e-4)  # γλ
clean(
    "adafactor's weight_decay_rate",
    lambda: optax.adafactor(1e-3, weight_decay_rate=1e-4),
    "uniform",
    1e-4,
)  # the last stage but the sign: λ without γ
clean("adafactor without decay", lambda: optax.adafactor(0.03), "none")
clean(
    "novograd",
    lambda: optax.novograd(1e-3, weight_decay=1e-2),
    "uniform",
    through_momentum(1e-5, 0.9),
)  # m ← 0.9m + (g/√ν + λθ)
clean(
    "optimistic gradient descent with L2",
    lambda: optax.chain(
        optax.add_decayed_weights(1e-2), optax.optimistic_gradient_descent(1e-2)
    ),
    "uniform",
    1e-4,
)  # γλ(θ + (θ − θ₋₁)) = γλ(1 − γλ)θ
clean(
    "radam in with_decay",
    lambda: dx.with_decay(optax.radam(1e-3), 0.1, learning_rate=1e-3),
    "uniform",
    1e-4,
)  # γλ
clean(
    "sm3 in with_decay",
    lambda: dx.with_decay(optax.sm3(1e-3), 0.1, learning_rate=1e-3),
    "uniform",
    1e-4,
)  # γλ
clean(
    "adopt in with_decay",
    lambda: dx.with_decay(optax.contrib.adopt(1e-3), 0.1, learning_rate=1e-3),
    "uniform",
    1e-4,
)  # γλ
clean(
    "rmsprop with momentum in with_decay",
    lambda: dx.with_decay(optax.rmsprop(1e-3, momentum=0.9), 0.1, learning_rate=1e-3),
    "uniform",
    1e-4,
)  # γλ: the decay is behind the momentum
clean(
    "ademamix", lambda: optax.contrib.ademamix(1e-3, weight_decay=0.1), "uniform", 1e-4
)  # γλ
clean(
    "simplified ademamix",
    lambda: optax.contrib.simplified_ademamix(1e-4, weight_decay=1.0),
    "uniform",
    1e-4,
)  # γλ
clean(
    "acprop", lambda: optax.contrib.acprop(1e-3, weight_decay=0.1), "uniform", 1e-4
)  # γλ
add(
    "muon",
    lambda: optax.contrib.muon(1e-3, weight_decay=0.1),
    {"kernel": "uniform", "bias": "none"},
    {"kernel": 1e-4, "bias": 0.0},  # γλ for matrices; the others have adam_weight_decay
    params=lambda: {"kernel": normal(8, 8), "bias": normal(8)},
    never=SERIOUS,
)
clean(
    "galore",
    lambda: optax.contrib.galore(1e-3, rank=4, update_proj_gap=100, weight_decay=0.1),
    "uniform",
    1e-4,
)  # γλ behind the low-rank gradient
clean(
    "a clipped Newton step with decoupled decay",  # Sophia's clip without its Hessian
    lambda: optax.chain(
        optax.ema(0.965),
        optax.clip(1.0),
        optax.add_decayed_weights(0.1),
        optax.scale(-1e-3),
    ),
    "uniform",
    1e-4,
)  # γλ: the clip is before the decay
clean(
    "schedule-free without decay",
    lambda: optax.contrib.schedule_free_adamw(1e-3),
    "none",
)
clean(
    "schedule-free",
    lambda: optax.contrib.schedule_free_adamw(1e-3, weight_decay=0.1),
    "uniform",
    through_schedule_free(1e-4),
    0.02,
)  # z loses γλy; x averages all z
clean(
    "schedule-free sgd",
    lambda: optax.contrib.schedule_free_sgd(1e-2, weight_decay=1e-2),
    "uniform",
    through_schedule_free(1e-4),
    0.02,
)  # the same rule for y
# madgrad and cocob write their weights as x0 + f(gradients), with x0 in the state: no
# decay to 0; a pull to x0 is a right reading too.
add(
    "madgrad without decay",
    lambda: optax.contrib.madgrad(1e-3),
    ("none", "anchored"),
    never=SERIOUS,
)
add("cocob without decay", optax.contrib.cocob, ("none", "anchored"), never=SERIOUS)
clean("prodigy without decay", lambda: optax.contrib.prodigy(0.1), "none")
clean(
    "fromage", lambda: optax.fromage(0.05), "uniform", 1 - (1 + 0.05**2) ** -0.5, 0.03
)  # θ/√(1 + γ²) in each step
clean(
    "polyak_sgd",
    lambda: optax.polyak_sgd(1e-3),
    "none",
    options=lambda: {"extra_args": {"value": 1.0}},
)
clean("sign_sgd", lambda: optax.sign_sgd(1e-3), "none", 0.0)
add(
    "lamb",
    lambda: optax.lamb(1e-3, weight_decay=0.1),
    "scale-dependent",
    findings=("scale-dependent",),
    never=SERIOUS,
    says=("trust ratio",),
)
clean("lamb without decay", lambda: optax.lamb(1e-3), "none")
add(
    "two steps of transparent SAM",  # one of two calls is adamw's step: γλ/2
    lambda: optax.contrib.sam(adamw(), optax.sgd(0.05)),
    "uniform",
    5e-5,
    0.02,
    never=SERIOUS,
)
