"""The methods of the catalogue: the mode of each, from its update rule.

γ = 1e-3 and 16 × 16 normal weights and gradients of variance 1, unless a row says
otherwise: ‖θ‖ = ‖g‖ = 16. s is the size of a step relative to the weights.
"""

import jax.numpy as jnp
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
for name, make in {
    "decay_to_init": lambda: before(dx.decay_to_init(1.0)),
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
add(
    "merged_lora_decay",  # a ← a − γλ a b bᵀ: it rises with the size of b
    lambda: before(dx.merged_lora_decay(0.01, lambda p: p["a"] @ p["b"])),
    {"a": "scale-dependent", "b": "scale-dependent"},
    params=lambda: {"a": normal(16, 4), "b": normal(4, 16)},
    findings=("scale-dependent",),
    never=SERIOUS,
    says_not=("preconditioner", "trust ratio"),
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
