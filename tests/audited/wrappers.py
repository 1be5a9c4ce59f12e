"""Wrappers and neighbours in the chain."""

import optax

import decayax as dx
from audited.row import (
    adamw,
    add,
    clean,
    independent,
    mean_rate,
    multi_steps,
    normal,
    SERIOUS,
    through_momentum,
)


for every in (3, 4, 7):
    clean(
        f"MultiSteps({every})",
        lambda every=every: multi_steps(adamw(), every),
        "uniform",
        mean_rate([1e-4] * (200 // every) + [0] * (200 - 200 // every)),
    )
    # γλ in every k-th of 200 calls
clean(
    "decay outside MultiSteps",
    lambda: independent(multi_steps(optax.adam(1e-3), 4), 1e-4),
    "uniform",
    1e-4,
)  # λ in every call
clean(
    "apply_every(4)",
    lambda: optax.chain(adamw(), optax.apply_every(4)),
    "uniform",
    1e-4,
)  # every 4th call applies the sum of four
# optax.masked passes the raw gradient of the other leaves through: no decay there.
add(
    "masked",
    lambda: optax.masked(adamw(), {"kernel": True, "other": False}),
    {"kernel": "uniform", "other": "none"},
    {"kernel": 1e-4, "other": 0.0},  # γλ
    params=lambda: {"kernel": normal(16, 16), "other": normal(8, 8)},
    never=SERIOUS,
)
clean(
    "partition with two strengths",
    lambda: optax.partition(
        {"a": adamw(weight_decay=0.1), "b": adamw(weight_decay=0.3)},
        {"one": "a", "two": "b"},
    ),
    {"one": "uniform", "two": "uniform"},
    {"one": 1e-4, "two": 3e-4},  # γλ each
    params=lambda: {"one": normal(16, 16), "two": normal(8, 8)},
)
clean(
    "partition with a frozen leaf",
    lambda: optax.partition(
        {"train": adamw(), "freeze": optax.set_to_zero()},
        {"kernel": "train", "fixed": "freeze"},
    ),
    {"kernel": "uniform", "fixed": "none"},
    {"kernel": 1e-4, "fixed": 0.0},
    params=lambda: {"kernel": normal(16, 16), "fixed": normal(8, 8)},
)
clean(
    "apply_if_finite", lambda: optax.apply_if_finite(adamw(), 5), "uniform", 1e-4
)  # all steps are finite
clean(
    "inject_hyperparams",
    lambda: optax.inject_hyperparams(optax.adamw)(
        learning_rate=optax.constant_schedule(1e-3), weight_decay=0.1
    ),
    "uniform",
    1e-4,
)  # γλ
clean(
    "gradient clip before adamw",
    lambda: optax.chain(optax.clip_by_global_norm(1.0), adamw()),
    "uniform",
    1e-4,
)
clean(
    "centralize before adamw",
    lambda: optax.chain(optax.centralize(), adamw()),
    "uniform",
    1e-4,
)
clean(
    "adaptive gradient clip before sgd with decay",  # the clip sees the gradient only
    lambda: optax.chain(
        optax.adaptive_grad_clip(0.01), optax.add_decayed_weights(0.1), optax.sgd(1e-3)
    ),
    "uniform",
    1e-4,
)
clean(
    "zero_nans before adamw",
    lambda: optax.chain(optax.zero_nans(), adamw()),
    "uniform",
    1e-4,
)
clean(
    "noise behind adamw",
    lambda: optax.chain(adamw(), optax.add_noise(1e-8, 0.55, 0)),
    "uniform",
    1e-4,
    0.05,
)  # noise of 1e-4 moves the weights; it does not decay them
clean(
    "a wide clip behind adamw",
    lambda: optax.chain(adamw(), optax.clip(1.0)),
    "uniform",
    1e-4,
)  # no step reaches 1
clean(
    "reduce_on_plateau behind adamw",
    lambda: optax.chain(adamw(), optax.contrib.reduce_on_plateau(patience=10**6)),
    "uniform",
    1e-4,
    options=lambda: {"extra_args": {"value": 1.0}},
)
clean(
    "an average of the steps behind the decay",
    lambda: optax.chain(
        optax.adam(1e-3), optax.add_decayed_weights(-1e-4), optax.ema(0.9, debias=False)
    ),
    "uniform",
    through_momentum(1e-5, 0.9),
)  # 0.1 r, through a trace of 0.9
clean(
    "a debiased average of the steps",
    lambda: optax.chain(
        optax.adam(1e-3), optax.add_decayed_weights(-1e-4), optax.ema(0.9)
    ),
    "uniform",
    1e-4,
)  # a weighted mean of rθ, from the first step on
clean(
    "every second step is skipped",
    lambda: optax.transforms.conditionally_mask(adamw(), lambda step: step % 2 == 0),
    "uniform",
    mean_rate([1e-4, 0]),
)  # γλ in half of the calls; nothing moves between
# At |g| = 1 all entries of Adam's first steps are near 1e-3, so ‖Δ‖ ≈ 16e-3 and then
# about 16 · 1e-3 · √(0.053 + 0.01) = 4e-3; the clip multiplies by 1e-3/‖Δ‖ ≈ 0.2.
add(
    "step clip by norm behind adamw",
    lambda: optax.chain(adamw(), optax.clip_by_global_norm(1e-3)),
    "scale-dependent",
    2.2e-5,
    0.15,
    findings=("clipped",),
    raises=True,
    says=("clip",),
    says_not=("trust ratio",),
    cured=lambda: optax.chain(optax.clip_by_global_norm(1e-3), adamw()),
)
add(
    "step clip by norm behind sgd with decay",  # 1e-3 · γλ/‖γg‖: ∝ 1/|g|
    lambda: optax.chain(
        optax.sgd(1e-2), dx.independent_decay(1e-4), optax.clip_by_global_norm(0.04)
    ),
    "gradient-dependent",
    0.25e-4,
    0.05,  # 0.04/(16 · 1e-2) = 1/4 of 1e-4
    findings=("gradient-dependent",),
    says=("clip",),
    says_not=("preconditioner",),
)
# |u + 0.1θ| > 0.1 for two thirds of the entries: these are clipped and do not decay.
add(
    "step clip by value behind adamw",
    lambda: optax.chain(adamw(), optax.clip(1e-4)),
    ("gated", "scale-dependent"),
    findings=("clipped",),
    raises=True,
    says=("clip",),
    says_not=("trust ratio",),
    cured=lambda: optax.chain(
        optax.scale_by_adam(),
        optax.clip(0.1),
        optax.add_decayed_weights(0.1),
        optax.scale(-1e-3),
    ),
)
add(
    "two decoupled decays",  # 1e-4 + 1e-4
    lambda: independent(dx.adamw(1e-3, weight_decay=0.1), 1e-4),
    "uniform",
    1 - (1 - 1e-4) ** 2,
    findings=("two decays at once",),
    never=SERIOUS,
    raises=True,
    cured=adamw,
)
add(
    "L2 and decoupled",
    lambda: optax.chain(optax.add_decayed_weights(0.1), adamw()),
    "gradient-dependent",
    1.965e-4,
    0.03,  # adam with L2 (9.65e-5) + γλ
    findings=("gradient-dependent", "two decays at once"),
    cured=adamw,
)
