"""The methods of the catalogue: the mode of each, from its update rule.

γ = 1e-3 and 16 × 16 normal weights and gradients of variance 1, unless a row says
otherwise: ‖θ‖ = ‖g‖ = 16. s is the size of a step relative to the weights.
"""

import jax.numpy as jnp
import numpy as np
import optax

import decayax as dx
from audited.row import (
    add,
    clean,
    half_decays,
    later,
    mean_rate,
    normal,
    SERIOUS,
    STEPS,
)


LR = 1e-3
ADAM = optax.scale_by_adam


def before(decay, *others):
    """SGD with the decay before the learning rate."""
    return optax.chain(decay, *others, optax.scale_by_learning_rate(LR))


def behind(decay, optimizer=None):
    """A finished optimizer, and the decay behind it."""
    return optax.chain(optimizer or optax.sgd(LR), decay)


def small_kernel():
    return {"kernel": 0.02 * normal(16, 16)}


def some_rows():
    """Gradients of one half of the rows."""
    rows = jnp.repeat(jnp.array([1.0, 0.0]), 8)[:, None]
    return {"gradients": {"kernel": rows * jnp.ones((16, 16))}}


def to_average(rate, average_rate):
    """θ ← θ − rate(θ − a), a ← βa + (1 − β)θ, from θ = 1 and a = 0."""
    weight, average = 1.0, 0.0
    for _ in range(STEPS):
        average = average_rate * average + (1 - average_rate) * weight
        weight -= rate * (weight - average)
    return 1 - weight ** (1 / STEPS)


# Cautious: of u and −u one opens the gate of each weight, so that the mean is γλ/2.

for name, make in {
    "cautious_decay": lambda: before(dx.cautious_decay(0.1)),
    "cautious_decay, strict": lambda: before(dx.cautious_decay(0.1, strict=True)),
    "cautious_decay behind adam": lambda: behind(
        dx.cautious_decay(0.1, learning_rate=LR), optax.adam(LR)
    ),
    # The projection changes the norm by s²/2 = 5e-7 of it.
    "cautious_decay with a projection": lambda: behind(
        dx.cautious_decay(0.1, learning_rate=LR, projection=dx.pin_radius())
    ),
}.items():
    add(name, make, "gated", 5e-5, 0.03, findings=("gated",), never=SERIOUS)
add(
    # The gate is shut where u = 0. The other half of the weights has γλ/2.
    "cautious_decay, strict, rows without gradients",
    lambda: before(dx.cautious_decay(0.1, strict=True)),
    "gated",
    half_decays(5e-5, 0.5),
    0.3,
    options=some_rows,
    findings=("gated",),
    never=SERIOUS,
)

# The learning rate twice: γ_t²λ/γ_peak.

clean(
    "corrected_decay",
    lambda: before(
        dx.corrected_decay(0.1, learning_rate=LR, peak_learning_rate=2 * LR)
    ),
    "uniform",
    5e-5,
)


def corrected(schedule):
    decay = dx.corrected_decay(0.1, learning_rate=schedule, peak_learning_rate=LR)
    return optax.chain(decay, optax.scale_by_learning_rate(schedule))


add(
    "corrected_decay with a schedule",
    lambda: corrected(optax.linear_schedule(LR, 0.0, 1000)),
    "uniform",
    options=lambda: {"at_steps": (0, 500)},
    by_step=later(lambda t: 1e-4 * (1 - t / 1000) ** 2, 0, 500),
    never=SERIOUS,
)

# Anchors. A given tree is a constant, and not taken from the weights: γλ.

clean("decay_to a tree", lambda: before(dx.decay_to(1.0, 1.5)), "uniform", 1e-3)
add(
    "decay_to, cautious",
    lambda: before(dx.decay_to(1.0, 1.5, cautious=True)),
    "gated",
    5e-4,
    0.03,
    findings=("gated",),
    never=SERIOUS,
)
for name, make in {
    "decay_to_init": lambda: before(dx.decay_to_init(1.0)),
    "decay_to_init behind adam": lambda: behind(
        dx.decay_to_init(1.0, learning_rate=LR), optax.adam(LR)
    ),
    # θ₀ is in the norm that the state keeps: the pull to 0.5‖θ₀‖ and to 1.5‖θ₀‖.
    "norm_control": lambda: before(dx.norm_control(1.0, target_ratio=0.5)),
    "norm_control of growing weights": lambda: before(
        dx.norm_control(1.0, target_ratio=1.5)
    ),
}.items():
    add(name, make, "anchored", 1e-3, 0.03, findings=("anchored",), never=SERIOUS)
add(
    "decay_to_average",
    lambda: before(dx.decay_to_average(1.0)),
    "anchored",
    to_average(1e-3, 0.999),
    0.02,
    findings=("anchored",),
    never=SERIOUS,
)
add(
    "SODA",  # the rate 1/(t + 2) of the step t: no certain mean
    lambda: behind(dx.decay_to_init(lambda t: 1 / (t + 2), learning_rate=1.0)),
    "anchored",
    findings=("anchored",),
    never=SERIOUS,
)
add(
    "decay_to_init, cautious",  # of u and −u one opens the gate
    lambda: before(dx.decay_to_init(1.0, cautious=True)),
    "gated",
    5e-4,
    0.03,
    findings=("gated", "anchored"),
    never=SERIOUS,
)
clean(
    "norm_control with the target 0",
    lambda: before(dx.norm_control(1.0, target_ratio=0.0)),
    "uniform",
    1e-3,
)
clean(
    # It undoes a part of the step. With the strength 1, the distance to θ₀ stays.
    "selective_projection",
    lambda: dx.selective_projection(optax.sgd(LR, momentum=0.9)),
    "none",
    0.0,
)

# Control of a norm.

add(
    "target_norm_decay",  # γd = γ²‖u‖²/2c² follows |g|²
    lambda: before(dx.target_norm_decay(16.0, learning_rate=LR)),
    "gradient-dependent",
    LR**2 / 2,
    0.05,
    findings=("gradient-dependent",),
    says=("target_norm_decay",),
    says_not=("after this operation", "preconditioner"),
)
add(
    # c is a number in the state, and the weights shrink as with this number. The audit
    # draws the weights, so that c² has a standard error of √(2/256).
    "target_norm_decay of the initial norm",
    lambda: before(dx.target_norm_decay("initial", learning_rate=LR)),
    "gradient-dependent",
    LR**2 / 2,
    0.2,
    findings=("gradient-dependent",),
    says=("target_norm_decay",),
    says_not=("after this operation", "preconditioner"),
)
add(
    "target_norm_decay behind adam",  # ‖u‖ does not follow |g|
    lambda: before(ADAM(), dx.target_norm_decay(16.0, learning_rate=LR)),
    "uniform",
    never=SERIOUS,
)
clean("constrain_norm, far bound", lambda: behind(dx.constrain_norm(1e6)), "none", 0.0)
for name, make in {
    # ‖θ₀‖² = 0.1. The dual follows ‖θ‖² − κ in units of the weights.
    "constrain_norm": lambda: behind(dx.constrain_norm(0.05), optax.sgd(1e-6)),
    "constrain_norm of a part of the initial norm": lambda: behind(
        dx.constrain_norm(initial_factor=0.5), optax.sgd(1e-6)
    ),
}.items():
    add(
        name,
        make,
        "scale-dependent",
        params=small_kernel,
        findings=("scale-dependent",),
        never=("growth", "not finite", "gradient-dependent", "nothing decays"),
    )
# κ is about ‖θ₀‖². One of g and −g makes the weights longer, and the dual follows.
for name, options in {
    "constrain_norm of the initial norm": {"initial_factor": 1.0},
    "constrain_norm after some steps": {"after_steps": 50},
    "constrain_norm at an inflection": {"inflection_every": 10},
}.items():
    add(
        name,
        lambda options=options: behind(dx.constrain_norm(**options), optax.sgd(1e-5)),
        "gradient-dependent",
        params=small_kernel,
        findings=("gradient-dependent",),
        never=("growth", "not finite", "nothing decays"),
        says=("constrain_norm",),
        says_not=("after this operation", "preconditioner"),
    )

# Spheres: the initial norm is kept, or forgotten at once.

for name, make in {
    "fixed_norm": lambda: behind(dx.fixed_norm()),
    "fixed_norm of the initial radius": lambda: behind(dx.fixed_norm(radius="initial")),
    "fixed_norm, spectral": lambda: behind(dx.fixed_norm(spectral=True)),
    "pin_radius": lambda: behind(dx.pin_radius()),
    "pin_radius of rows": lambda: behind(dx.pin_radius(axis=-1)),
    "rotational": lambda: dx.rotational(1e-3, learning_rate=LR),
    "rotational by 0.03": lambda: dx.rotational(0.03, learning_rate=LR, center=False),
    # The step is across the weights, or in proportion to them: s²/2 at most.
    "project_radial_gradient": lambda: optax.chain(
        dx.project_radial_gradient(), optax.sgd(LR)
    ),
    "update_to_weight_floor": lambda: before(dx.update_to_weight_floor(3.0)),
}.items():
    clean(name, make, "none")
for name, make in {
    "fixed_norm of a given radius": lambda: behind(dx.fixed_norm(radius=3.0)),
    "fixed_norm of a given radius of rows": lambda: behind(
        dx.fixed_norm(radius=1.0, axis=-1)
    ),
}.items():
    add(
        name,
        make,
        "constrained",
        findings=("constrained",),
        never=SERIOUS,
    )
add(
    "fixed_norm behind adamw",  # the sphere undoes the decay
    lambda: behind(dx.fixed_norm(), optax.adamw(LR, weight_decay=0.1)),
    "none",
    findings=("nothing decays",),
)

# Matrices.

add(
    # The rate of a weight is γλ σ₁uᵢvⱼ/θᵢⱼ, of either sign; of the leaf γλσ₁²/‖θ‖².
    "spectral_decay",
    lambda: before(dx.spectral_decay(1.0)),
    "uneven",
    findings=("uneven",),
    never=SERIOUS,
)
add(
    "spectral_decay with a cap",  # no singular value of small weights exceeds it
    lambda: before(dx.spectral_decay(1.0, cap=4.0)),
    "scale-dependent",
    findings=("scale-dependent",),
    never=SERIOUS,
    says_not=("preconditioner", "trust ratio"),
)

# Proximal steps and penalties.

clean(
    "proximal_decay",
    lambda: behind(dx.proximal_decay(0.1, learning_rate=LR)),
    "uniform",
    1 - 1 / (1 + 1e-4),
)
for name, make, said in (
    (
        "soft_threshold",
        lambda: behind(dx.soft_threshold(0.1, learning_rate=LR)),
        ("L1",),
    ),
    (
        "decoupled_penalty of Huber",
        lambda: before(
            dx.decoupled_penalty(0.1, lambda x: optax.losses.huber_loss(x).sum())
        ),
        ("Huber",),
    ),
):
    add(
        name,
        make,
        "scale-dependent",
        findings=("scale-dependent",),
        never=SERIOUS,
        says=said,
        says_not=("preconditioner", "trust ratio"),
    )
clean(
    "decoupled_penalty of half the square",
    lambda: before(dx.decoupled_penalty(0.1, lambda x: 0.5 * (x**2).sum())),
    "uniform",
    1e-4,
)
add(
    "merged_lora_decay",  # a ← a − γλ a b bᵀ: it rises with the size of b
    lambda: before(dx.merged_lora_decay(0.01, lambda p: p["a"] @ p["b"])),
    {"a": "scale-dependent", "b": "scale-dependent"},
    params=lambda: {"a": normal(16, 4), "b": normal(4, 16)},
    findings=("scale-dependent",),
    never=SERIOUS,
    says_not=("preconditioner", "trust ratio"),
)
clean(
    "merged_lora_decay of the parameters themselves",
    lambda: before(dx.merged_lora_decay(0.1, lambda p: p)),
    "uniform",
    1e-4,
)

# Rows with gradients.

clean("touched_decay", lambda: before(dx.touched_decay(ADAM(), 0.1)), "uniform", 1e-4)
add(
    "touched_decay with a frequency",  # fₜ = 1 − β^(t + 1)
    lambda: behind(
        dx.touched_decay(optax.adam(LR), 0.1, average_rate=0.99, learning_rate=LR),
        optax.identity(),
    ),
    "uniform",
    mean_rate(1e-4 * (1 - 0.99 ** (t + 1)) for t in range(STEPS)),
    findings=("rate still changes",),
    never=SERIOUS,
)
add(
    "touched_decay, rows without gradients",
    lambda: before(dx.touched_decay(ADAM(), 0.1)),
    "gated",
    half_decays(1e-4, 0.5),
    0.3,
    options=some_rows,
    findings=("gated",),
    never=SERIOUS,
    says=("lazy",),
)

# The radial part of a step.

add(
    # c ~ N(0, 1/16²)|g|, and half of it is added in one of u and −u: γ/2 · E|c|/2.
    "radial_brake",
    lambda: before(dx.radial_brake()),
    "gradient-dependent",
    LR / 4 * np.sqrt(2 / np.pi) / 16,
    0.2,  # 200 steps: 3 · 0.76/√200
    findings=("gradient-dependent",),
    says=("radial_brake",),
    says_not=("after this operation", "preconditioner"),
)
clean(
    "project_radial_update, never",
    lambda: before(dx.project_radial_update(ADAM(), 0.1, threshold=0.0)),
    "uniform",
    1e-4,
)
add(
    # |cos(g, θ)| < 0.1/16 for the layer in 8 % of the steps. There λ/10 is left.
    "project_radial_update",
    lambda: before(dx.project_radial_update(ADAM(), 0.1)),
    "uniform",
    1e-4 * (1 - 0.9 * 0.08),
    0.06,
    never=SERIOUS,
)
clean(
    # λ/10 is left. The 16 weights of a unit turn by s²/2 = 0.3e-6 per step, for
    # Adam's directions of mean square 0.05 on 15 of 16 axes, with a mean of both signs.
    "project_radial_update, always",
    lambda: before(dx.project_radial_update(ADAM(), 0.1, threshold=100.0)),
    "uniform",
    1e-5,
    0.06,
)


def record(direction):
    """The chain of the modded-nanogpt records."""
    return optax.chain(
        direction,
        dx.update_to_weight_floor(0.3),
        dx.radial_brake(),
        optax.scale(-LR),
        dx.cautious_decay(
            0.1, learning_rate=LR, strict=True, projection=dx.pin_radius()
        ),
    )


add(
    "the record chain behind sgd",  # γλ/2 and the brake, which follows |g|
    lambda: record(optax.identity()),
    "gradient-dependent",
    5e-5 + LR / 4 * np.sqrt(2 / np.pi) / 16,
    0.1,
    findings=("gradient-dependent",),
)
add(
    # ‖u‖ = 0.4 is below the floor for all sizes: s = 0.3γ, and the brake has 0.3 of
    # the above. Steps in proportion to the weights hide the gate.
    "the record chain at the floor",
    lambda: record(optax.normalize_by_update_norm(0.4)),
    ("gated", "uniform"),
    5e-5 + 0.3 * LR / 4 * np.sqrt(2 / np.pi) / 16,
    0.1,
    never=SERIOUS,
)
