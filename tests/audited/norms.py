"""The methods of the catalogue that control a norm, or the radial part of a step.

s is the size of a step relative to the weights.
"""

import numpy as np
import optax

import decayax as dx
from audited.catalogue import ADAM, before, behind, LR, small_kernel
from audited.row import add, clean, SERIOUS


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
    "rotational": lambda: dx.rotational(1e-3, learning_rate=LR),
    # The step is across the weights, or in proportion to them: s²/2 at most.
    "project_radial_gradient": lambda: optax.chain(
        dx.project_radial_gradient(), optax.sgd(LR)
    ),
    "update_to_weight_floor": lambda: before(dx.update_to_weight_floor(3.0)),
}.items():
    clean(name, make, "none")
add(
    "fixed_norm of a given radius of rows",
    lambda: behind(dx.fixed_norm(radius=1.0, axis=-1)),
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

# Small weights behind adam turn far within 200 steps.

for name, make in {
    "fixed_norm of small weights behind adam": lambda: behind(
        dx.fixed_norm(), optax.adam(LR)
    ),
    "pin_radius of small weights behind adam": lambda: behind(
        dx.pin_radius(), optax.adam(LR)
    ),
}.items():
    clean(name, make, "none", params=small_kernel)
add(
    "norm_control of small weights behind adam",
    lambda: before(ADAM(), dx.norm_control(1.0, target_ratio=1.2)),
    "anchored",
    1e-3,
    0.1,
    params=lambda: {"kernel": 5 * small_kernel()["kernel"]},
    findings=("anchored",),
    never=SERIOUS,
)
