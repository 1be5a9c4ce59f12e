"""What `dx.audit` must say: optimizers with the truth, derived from their update rules.

Nothing here was measured by the audit. The rate of a leaf is 1 − R^(1/T). R is the part
of the initial weights that is left after T = 200 updates: gradients with standard
deviation 1, normal weights, the mean over the gradients g and −g. The comment of a row
derives its rate. A row without a rate has a certain mode and no certain number.

The symbols: γ learning rate, λ weight decay, r the rate of a pull −rθ, μ momentum.
"""

from collections.abc import Callable
from math import cos, pi, prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import decayax as dx


STEPS = 200  # updates of an audit
LATER = 25  # updates of an audit from a later step on

SERIOUS = (
    "not finite",
    "growth",
    "rate of 1 or more",
    "half-life too short",
    "gradient-dependent",
    "lost in rounding",
    "decay without gradient",
    "nothing decays",
    "no step",
    "not auditable",
    "nothing to audit",
)
OTHER = (
    "two decays at once",
    "clipped",  # serious if the clip removes more than half of the decay
    "gated",
    "anchored",
    "uneven",
    "constrained",
    "scale-dependent",
    "biases or norms decay",
    "rate still changes",
    "nothing decays so far",
    "not in every step",
)
KINDS = SERIOUS + OTHER


def normal(*shape: int, seed: int = 0) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def kernel() -> dict[str, jax.Array]:
    return {"kernel": normal(16, 16)}


class Row(NamedTuple):
    name: str
    make: Callable[[], Any]  # () -> the optimizer, or the factory rate -> optimizer
    modes: dict[str, Any]  # path -> the mode, or a tuple of modes that are both right
    rates: dict[str, float]  # path -> the rate per call; no entry: not certain
    tolerance: float = 0.01  # relative, of rates
    params: Callable[[], Any] = kernel
    options: Callable[[], dict[str, Any]] = dict  # keyword arguments of the audit
    by_step: tuple[tuple[int, float], ...] = ()  # (step, rate of the 25 steps from it)
    findings: tuple[str, ...] = ()  # kinds that must be there
    never: tuple[str, ...] = ()  # kinds that must not be there
    raises: bool = False  # whether check() raises
    says: tuple[str, ...] = ()  # parts of the report's text
    says_not: tuple[str, ...] = ()
    cured: Callable[[], Any] | None = None  # an optimizer without these findings


ROWS: list[Row] = []


def add(name, make, mode, rate=None, tolerance=0.01, **fields) -> None:
    """Append a row; a mode or rate without a path belongs to the leaf `kernel`."""
    modes = mode if isinstance(mode, dict) else {"kernel": mode}
    if not isinstance(rate, dict):
        rate = {} if rate is None else {"kernel": rate}
    serious = bool(set(fields.get("findings", ())) & set(SERIOUS))
    fields.setdefault("raises", serious)
    ROWS.append(Row(name, make, modes, rate, tolerance, **fields))


def clean(name, make, mode, rate=None, tolerance=0.01, **fields) -> None:
    """Append a row whose audit finds no problem at all."""
    add(name, make, mode, rate, tolerance, never=KINDS, **fields)


# The arithmetic of the rates.


def mean_rate(rates) -> float:
    """1 − Π(1 − r_t)^(1/n)."""
    rates = list(rates)
    return 1 - prod(1 - rate for rate in rates) ** (1 / len(rates))


def through_momentum(rate: float, momentum: float, first: float = 0.0) -> float:
    """θ ← θ − m with m ← μm + rate·θ, from m = 0, for 200 steps.

    Nesterov's form emits rate·θ + μm after the update of m: first = 1.
    """
    weight, trace = 1.0, 0.0
    for _ in range(STEPS):
        pull = rate * weight
        trace = momentum * trace + pull
        weight -= pull + momentum * trace if first else trace
    return 1 - weight ** (1 / STEPS)


def through_schedule_free(rate: float, b1: float = 0.9) -> float:
    """z ← z − rate·y, x ← mean of all z, y ← b1·x + (1 − b1)z, from x = y = z = 1."""
    x = y = z = 1.0
    for count in range(1, STEPS + 1):
        z -= rate * y
        x += (z - x) / count
        y = b1 * x + (1 - b1) * z
    return 1 - y ** (1 / STEPS)


def half_decays(rate: float, part: float) -> float:
    """A part of the weights decays at the rate, the others do not at all."""
    return 1 - (1 - part + part * (1 - rate) ** STEPS) ** (1 / STEPS)


def later(rate_at: Callable[[int], float], *steps: int):
    """The mean rate of the 25 steps from each of `steps` on."""
    return tuple((s, mean_rate(rate_at(s + i) for i in range(LATER))) for s in steps)


def warmup_cosine(step: int) -> float:
    """0 to 1e-3 in 2000 steps, then half a cosine to 0 at step 100_000."""
    if step < 2000:
        return 1e-3 * step / 2000
    return 1e-3 * (1 + cos(pi * (step - 2000) / 98_000)) / 2


# Optimizers from one line of mathematics.


def rule(leaf: Callable[[Any, Any], Any]) -> optax.GradientTransformation:
    """Δ = leaf(g, θ), leaf by leaf."""
    return optax.stateless(lambda u, p: jax.tree.map(leaf, u, p))


def descent_and(pull: Callable[[Any, Any], Any]) -> optax.GradientTransformation:
    """Δ = −1e-3 g − pull(g, θ)."""
    return rule(lambda g, p: -1e-3 * g - pull(g, p))


def counted(pull: Callable[[Any, Any], Any]) -> optax.GradientTransformation:
    """Δ = −1e-3 g − pull(θ, step), with a counter of its own."""

    def update(updates, step, params=None):
        delta = jax.tree.map(lambda g, p: -1e-3 * g - pull(p, step), updates, params)
        return delta, step + 1

    return optax.GradientTransformation(lambda _: jnp.zeros([], jnp.int32), update)


def remembering(start, leaf, following=lambda memory, params: memory):
    """Δ = leaf(g, θ, memory); the state keeps memory = start(θ₀) for each leaf."""

    def update(updates, memory, params=None):
        delta = jax.tree.map(leaf, updates, params, memory)
        return delta, jax.tree.map(following, memory, params)

    return optax.GradientTransformation(lambda p: jax.tree.map(start, p), update)


def randomly(pull: Callable[[Any, Any], Any]) -> optax.GradientTransformation:
    """Δ = −1e-3 g − pull(θ, key), with a new key in each step."""

    def update(updates, key, params=None):
        key, used = jax.random.split(key)
        delta = jax.tree.map(lambda g, p: -1e-3 * g - pull(p, used), updates, params)
        return delta, key

    return optax.GradientTransformation(lambda _: jax.random.PRNGKey(0), update)


def gate_behind(direction, open_where) -> optax.GradientTransformation:
    """Δ = −1e-3 (u + 0.1 θ where the gate is open)."""
    gate = rule(lambda u, p: u + 0.1 * jnp.where(open_where(u, p), p, 0.0))
    return optax.chain(direction, gate, optax.scale(-1e-3))


def projected(onto: Callable[[Any], Any]) -> optax.GradientTransformation:
    """θ + Δ = onto(θ − 1e-3 g)."""
    return rule(lambda g, p: onto(p - 1e-3 * g) - p)


def with_keyword(name: str) -> optax.GradientTransformationExtraArgs:
    """optax.adamw, whose update needs one more argument."""
    inner = optax.adamw(1e-3, weight_decay=0.1)

    def update(updates, state, params=None, **extra_args):
        scale = jnp.where(extra_args[name] > 1e30, 0.0, 1.0)
        updates, state = inner.update(updates, state, params)
        return jax.tree.map(lambda u: scale * u, updates), state

    return optax.GradientTransformationExtraArgs(inner.init, update)


def independent(optimizer, rate) -> optax.GradientTransformation:
    return optax.chain(optimizer, dx.independent_decay(rate))


def multi_steps(optimizer, every: int) -> optax.GradientTransformation:
    return optax.MultiSteps(optimizer, every).gradient_transformation()


def adamw(learning_rate=1e-3, weight_decay=0.1, **options):
    return optax.adamw(learning_rate, weight_decay=weight_decay, **options)


def l2_adam(weight_decay=0.1):
    return optax.chain(dx.add_l2_to_grad(weight_decay), optax.adam(1e-3))


# 1. The places of a decay: decoupled, independent, L2.

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

# 2. Optax's optimizers and their own arguments.

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

# 3. Wrappers and neighbours in the chain.

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

# 4. Schedules. Without at_steps, the audit sees the first 200 steps.


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

# 5. Differences within a leaf that the gradients do not decide.


def rows_of(p, marked) -> jax.Array:
    """1 in the marked rows of p, 0 in the others, shape (rows, 1)."""
    return jnp.where(marked(jnp.arange(p.shape[0])), 1.0, 0.0)[:, None]


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
    0.35,  # 640 weights, and T of the audit
    params=lambda: {"embedding": normal(4096, 64)},
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

# 6. Gates: the gradients decide which weights decay, their scale does not.

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

# 7. Anchors: the rate is that of the pull.


def to_memory(rate, following=lambda memory, params: memory):
    return remembering(
        lambda p: +p, lambda g, p, a: -1e-3 * g - rate * (p - a), following
    )


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

# 8. Projections and bounds: the initial size is forgotten, without a decay to 0.

NO_DECAY = (
    "growth",
    "gradient-dependent",
    "half-life too short",
    "rate of 1 or more",
    "nothing decays",
)


def norm_of(p, axis=None):
    return jnp.sqrt(jnp.sum(p * p, axis=axis, keepdims=axis is not None))


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

# 9. Rates that vary with the size of the weights.

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

# 10. Numbers: NaN, 16 bits, 8 bits, rates out of range.

add(
    "scale by NaN",
    lambda: optax.scale(jnp.nan),
    "not finite",
    findings=("not finite",),
    never=("growth", "no step"),
)
add(
    "NaN for large gradients only",
    lambda: rule(lambda g, p: -1e-4 * jnp.sqrt(50 - g) * g),
    "not finite",
    findings=("not finite",),
)  # |g| > 50 occurs at |g| = 100 only
add(
    "float16 with eps 1e-8",  # eps and small g² are 0 in float16: m̂/0
    lambda: adamw(),
    "not finite",
    params=lambda: {"kernel": normal(16, 16).astype("float16")},
    findings=("not finite",),
    never=("lost in rounding",),
    cured=lambda: dx.with_compensation(adamw()),
)
add(
    "bfloat16 adamw",  # half an ulp is 1/512 to 1/256 of θ; γλθ is 1/10_000 of it
    adamw,
    "uniform",
    params=lambda: {"kernel": normal(16, 16).astype("bfloat16")},
    findings=("lost in rounding",),
    never=("not finite", "growth"),
    says=("with_compensation",),
    cured=lambda: dx.with_compensation(adamw()),
)
add(
    "bfloat16 and float32",
    adamw,
    {"kernel": "uniform", "wide": "uniform"},
    {"wide": 1e-4},  # γλ in float32
    params=lambda: {"kernel": normal(16, 16).astype("bfloat16"), "wide": normal(8, 8)},
    findings=("lost in rounding",),
    cured=lambda: dx.with_stochastic_rounding(adamw()),
)
add(
    "bfloat16 with stochastic rounding",
    lambda: dx.with_stochastic_rounding(adamw()),
    "uniform",
    1e-4,
    0.25,  # γλ on average; the rounding is a random walk
    params=lambda: {"kernel": normal(16, 16).astype("bfloat16")},
    never=SERIOUS,
)


def in_float32(g, p):
    g, p = g.astype(jnp.float32), p.astype(jnp.float32)
    return (-1e-3 * g - 1e-4 * p).astype(jnp.float8_e5m2)


add(
    "float8",  # an ulp of float8_e5m2 is 1/4 to 1/8 of θ
    lambda: rule(in_float32),
    ("uniform", "none"),
    params=lambda: {"kernel": normal(16, 16).astype(jnp.float8_e5m2)},
    findings=("lost in rounding",),
    says_not=("with_compensation", "with_stochastic_rounding"),
)
add(
    "rate 0.5",
    lambda: independent(optax.adam(1e-3), 0.5),
    "uniform",
    0.5,
    findings=("half-life too short",),
    never=("rate of 1 or more", "growth"),
)  # λ
add(
    "rate 0.1: λ is not times γ",
    lambda: independent(optax.adam(1e-3), 0.1),
    "uniform",
    0.1,
    findings=("half-life too short",),
    cured=adamw,
)  # λ
add(
    "rate 0.05: γ and λ too large",
    lambda: dx.sgdw(0.1, weight_decay=0.5),
    "uniform",
    0.05,
    findings=("half-life too short",),
)  # γλ
add(
    "adafactor with λ of adamw",
    lambda: optax.adafactor(1e-3, weight_decay_rate=5e-3),
    "uniform",
    5e-3,
    findings=("half-life too short",),  # λ without γ
    cured=lambda: optax.adafactor(1e-3, weight_decay_rate=5e-6),
)
add(
    "rate 1.5",
    lambda: independent(optax.adam(1e-3), 1.5),
    "uniform",
    1.5,
    findings=("rate of 1 or more",),
    cured=adamw,
)  # θ ← −θ/2
add(
    "rate 1",
    lambda: optax.chain(optax.add_decayed_weights(1.0), optax.sgd(1.0)),
    "uniform",
    1.0,
    findings=("rate of 1 or more",),
)  # θ ← −g
add(
    "rate 1e-9",
    lambda: adamw(1e-6, weight_decay=1e-3),
    "uniform",
    1e-9,
    0.1,
    never=("nothing decays", "growth"),
)  # γλ
add("set_to_zero", optax.set_to_zero, "none", 0.0, findings=("no step",))
add(
    "learning rate 0",
    lambda: adamw(0.0),
    "none",
    0.0,
    findings=("no step",),
    cured=adamw,
)

# 11. Growth.

add(
    "a positive sign in the last place",
    lambda: optax.chain(optax.adam(1e-3), optax.add_decayed_weights(1e-4)),
    "growth",
    -1e-4,
    findings=("growth",),
    cured=lambda: independent(optax.adam(1e-3), 1e-4),
)
add(
    "a negative λ before the learning rate",
    lambda: adamw(weight_decay=-0.1),
    "growth",
    -1e-4,
    findings=("growth",),
    cured=adamw,
)  # γλ
add(
    "sgd with a negative L2",
    lambda: optax.chain(optax.add_decayed_weights(-1e-2), optax.sgd(1e-2)),
    "growth",
    -1e-4,
    findings=("growth",),
    cured=lambda: dx.sgd_l2(1e-2, weight_decay=1e-2),
)
add(
    "one leaf of a partition grows",
    lambda: optax.partition(
        {"a": adamw(), "b": adamw(weight_decay=-0.1)}, {"one": "a", "two": "b"}
    ),
    {"one": "uniform", "two": "growth"},
    {"one": 1e-4, "two": -1e-4},
    params=lambda: {"one": normal(16, 16), "two": normal(8, 8)},
    findings=("growth",),
    says=("two",),
    cured=lambda: adamw(),
)

# 12. Trees and dtypes of parameters.


def network():
    return {
        "dense": {"kernel": normal(8, 8), "bias": normal(8, seed=1)},
        "norm": {"scale": jnp.ones(8)},
        "embed": {"embedding": normal(32, 8, seed=2)},
    }


PATHS = ("dense/kernel", "dense/bias", "norm/scale", "embed/embedding")
add(
    "biases and norms decay",
    adamw,
    dict.fromkeys(PATHS, "uniform"),
    dict.fromkeys(PATHS, 1e-4),
    params=network,
    findings=("biases or norms decay",),
    never=SERIOUS,  # γλ
    cured=lambda: dx.adamw(1e-3, weight_decay=0.1, mask=dx.masks.no_bias_or_norm),
)
clean(
    "no_bias_or_norm",
    lambda: dx.adamw(1e-3, weight_decay=0.1, mask=dx.masks.no_bias_or_norm),
    dict(zip(PATHS, ("uniform", "none", "none", "uniform"), strict=True)),
    dict(zip(PATHS, (1e-4, 0.0, 0.0, 1e-4), strict=True)),
    params=network,
)  # γλ
add(
    "the mask excludes all",
    lambda: adamw(mask={"kernel": False}),
    "none",
    0.0,
    findings=("nothing decays",),
    cured=lambda: adamw(mask={"kernel": True}),
)
add(
    "the strength that the user gave",
    lambda: optax.adam(1e-3),
    "none",
    0.0,
    options=lambda: {"weight_decay": 0.1},
    findings=("nothing decays",),
    cured=adamw,
)
clean(
    "a matrix and a scalar",
    adamw,
    {"kernel": "uniform", "temperature": "uniform"},
    {"kernel": 1e-4, "temperature": 1e-4},  # γλ
    params=lambda: {"kernel": normal(16, 16), "temperature": jnp.asarray(2.0)},
)
clean(
    "complex weights",
    adamw,
    "uniform",
    1e-4,  # γλ
    params=lambda: {"kernel": normal(16, 16) + 1j * normal(16, 16, seed=1)},
)
clean(
    "complex weights in two parts",
    lambda: optax.contrib.split_real_and_imaginary(adamw()),
    "uniform",
    1e-4,  # γλ
    params=lambda: {"kernel": normal(16, 16) + 1j * normal(16, 16, seed=1)},
)
clean(
    "shapes only",
    adamw,
    {"embedding": "uniform", "kernel": "uniform"},
    {"embedding": 1e-4, "kernel": 1e-4},  # γλ
    params=lambda: {
        "embedding": jax.ShapeDtypeStruct((4096, 256), jnp.float32),
        "kernel": jax.ShapeDtypeStruct((256, 256), jnp.float32),
    },
)
clean(
    "a leaf that is 0",
    adamw,
    {"kernel": "uniform", "lora_b": "uniform"},
    {"kernel": 1e-4, "lora_b": 1e-4},  # γλ, of any weights
    params=lambda: {"kernel": normal(16, 16), "lora_b": jnp.zeros((4, 16))},
)
clean(
    "a small and a large leaf",
    adamw,
    {"small": "uniform", "large": "uniform"},
    {"small": 1e-4, "large": 1e-4},  # γλ, without regard to the size
    params=lambda: {"small": 1e-3 * normal(16, 16), "large": 1e3 * normal(8, 8)},
)
add("an empty tree", adamw, {}, params=dict, findings=("nothing to audit",))


def frozen_tree():
    return {"kernel": normal(16, 16), "frozen": normal(8, 8, seed=1)}


def frozen_gradients():
    return {
        "gradients": {"kernel": normal(16, 16, seed=2), "frozen": jnp.zeros((8, 8))}
    }


add(
    "a frozen leaf decays",
    adamw,
    {"kernel": "uniform", "frozen": "uniform"},
    {"kernel": 1e-4, "frozen": 1e-4},  # γλ, with and without gradient
    params=frozen_tree,
    options=frozen_gradients,
    findings=("decay without gradient",),
    says=("frozen",),
    cured=lambda: dx.adamw(
        1e-3, weight_decay=0.1, mask={"kernel": True, "frozen": False}
    ),
)
add(
    "a frozen leaf decays outside its partition",
    lambda: independent(
        optax.partition(
            {"train": optax.adam(1e-3), "freeze": optax.set_to_zero()},
            {"kernel": "train", "frozen": "freeze"},
        ),
        1e-4,
    ),
    {"kernel": "uniform", "frozen": "uniform"},
    {"kernel": 1e-4, "frozen": 1e-4},  # λ
    params=frozen_tree,
    options=frozen_gradients,
    findings=("decay without gradient",),
    cured=lambda: optax.partition(
        {"train": adamw(), "freeze": optax.set_to_zero()},
        {"kernel": "train", "frozen": "freeze"},
    ),
)
# Without gradient, Adam divides λθ by |λθ|: the frozen leaf loses γ sign(θ).
add(
    "L2 and adam on a frozen leaf",
    l2_adam,
    {
        "kernel": "gradient-dependent",
        "frozen": ("scale-dependent", "gradient-dependent"),
    },
    params=frozen_tree,
    options=frozen_gradients,
    findings=("gradient-dependent", "decay without gradient"),
    cured=lambda: dx.adamw(
        1e-3, weight_decay=0.1, mask={"kernel": True, "frozen": False}
    ),
)

# 13. Factories and arguments of update.

clean(
    "factory with decoupled decay",
    lambda: lambda learning_rate: adamw(learning_rate),
    "uniform",
)
clean(
    "factory with independent decay",
    lambda: lambda learning_rate: independent(optax.adam(learning_rate), 1e-4),
    "uniform",
    1e-4,
)  # λ for each learning rate
clean(
    "a keyword loss",
    lambda: with_keyword("loss"),
    "uniform",
    1e-4,  # γλ
    options=lambda: {"extra_args": {"loss": 1.0}},
)
add(
    "opaque SAM needs grad_fn",
    lambda: optax.contrib.sam(adamw(), optax.sgd(0.05), opaque_mode=True),
    {},
    findings=("not auditable",),
    says=("grad_fn",),
)
add(
    "sophia needs obj_fn",
    lambda: optax.contrib.sophia(1e-3),
    {},
    findings=("not auditable",),
    says=("obj_fn",),
)


def averaged_over_batch():
    mean = optax.stateless(
        lambda u, p: jax.tree.map(lambda g: jax.lax.pmean(g, "batch"), u)
    )
    return optax.chain(mean, adamw())


clean(
    "pmean over an axis",
    averaged_over_batch,
    "uniform",
    1e-4,  # γλ
    options=lambda: {"axis_names": ("batch",)},
)

# 14. The same rules inside wrappers, on one leaf of two.


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
