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


def rows_of(p, marked) -> jax.Array:
    """1 in the marked rows of p, 0 in the others, shape (rows, 1)."""
    return jnp.where(marked(jnp.arange(p.shape[0])), 1.0, 0.0)[:, None]


def norm_of(p, axis=None):
    return jnp.sqrt(jnp.sum(p * p, axis=axis, keepdims=axis is not None))


def to_memory(rate, following=lambda memory, params: memory):
    return remembering(
        lambda p: +p, lambda g, p, a: -1e-3 * g - rate * (p - a), following
    )
