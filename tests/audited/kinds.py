"""The kinds that the catalogue showed, with members from outside of it.

s is the size of a step relative to the weights; 16 × 16 normal weights, |g| = 1.
"""

import jax
import jax.numpy as jnp
import optax

from audited.row import (
    add,
    clean,
    descent_and,
    half_decays,
    norm_of,
    remembering,
    rows_of,
    rule,
    SERIOUS,
)


# The norm is kept and the weights turn, by s²/2 at most. The derivative in θ₀ turns,
# too, or gains s²/2, because larger weights turn less.


def across(g, p):
    """The part of g across θ, of the norm of θ."""
    sideways = g - p * jnp.sum(g * p) / jnp.sum(p * p)
    return sideways * norm_of(p) / norm_of(sideways)


def to_norm(new, p, axis=None):
    """Δ: `new` with the norm of p."""
    return new * norm_of(p, axis) / norm_of(new, axis) - p


for name, leaf in {
    "a turn by a constant angle": lambda g, p: (
        (jnp.cos(1e-2) - 1) * p - jnp.sin(1e-2) * across(g, p)
    ),
    "sign steps on the sphere of each row": lambda g, p: to_norm(
        p - 1e-3 * jnp.sign(g), p, axis=1
    ),
    "a step without the growth of the norm": lambda g, p: (
        to_norm(p - 1e-3 * g, p) - 1e-3 * p * jnp.sum(g * p) / jnp.sum(p * p)
    ),
}.items():
    clean(name, lambda leaf=leaf: rule(leaf), "none")

# A gate behind a step that mixes the weights: s²/2 = 5e-7 is small to γλ/2 = 5e-5.


def gated_behind_a_sphere(is_open):
    """θ + Δ = (1 − 1e-4 gate)(θ − 1e-3 g on the sphere)."""

    def update(updates, step, params=None):
        def leaf(g, p):
            moved = p + to_norm(p - 1e-3 * g, p)
            gate = is_open(g, p, jax.random.fold_in(jax.random.key(0), step))
            return moved - 1e-4 * jnp.where(gate, moved, 0.0) - p

        return jax.tree.map(leaf, updates, params), step + 1

    return optax.GradientTransformation(lambda _: jnp.zeros([], jnp.int32), update)


for name, is_open in {
    "a cautious gate behind a sphere": lambda g, p, key: g * p >= 0,
    "a gate of large gradients behind a sphere": lambda g, p, key: (
        jnp.abs(g) > 0.6745 * jnp.std(g)  # the median of |N(0, 1)|
    ),
    "a random mask behind a sphere": lambda g, p, key: jax.random.bernoulli(
        key, 0.5, p.shape
    ),
}.items():
    add(
        name,
        lambda is_open=is_open: gated_behind_a_sphere(is_open),
        "gated",
        5e-5,
        0.05,
        findings=("gated",),
        never=SERIOUS,
    )

# A pull to what the state keeps can also be gated, uneven, or follow the gradients.


def to_start(pull):
    """Δ = −1e-3 g − pull(g, θ − θ₀)."""
    return remembering(lambda p: +p, lambda g, p, a: -1e-3 * g - pull(g, p - a))


add(
    "L2-SP through adam",  # as L2: γλ/√v̂
    lambda: optax.chain(
        remembering(lambda p: +p, lambda g, p, a: g + 0.1 * (p - a)), optax.adam(1e-3)
    ),
    "gradient-dependent",
    findings=("gradient-dependent", "anchored"),
    says=("preconditioner",),
)
add(
    "half of the rows to the initial weights",
    lambda: to_start(lambda g, d: 1e-3 * rows_of(d, lambda i: i % 2 == 0) * d),
    "uneven",
    half_decays(1e-3, 0.5),
    0.3,
    findings=("uneven", "anchored"),
    never=SERIOUS,
)
add(
    "decay to twice the initial weights",  # they grow, by a pull of the right sign
    lambda: remembering(lambda p: 2 * p, lambda g, p, a: -1e-3 * g - 1e-3 * (p - a)),
    "anchored",
    1e-3,
    0.02,
    findings=("anchored",),
    never=SERIOUS,
)
add(
    "weights that grow, next to a copy of them",  # the copy pulls nothing
    lambda: remembering(lambda p: +p, lambda g, p, a: -1e-3 * g + 1e-3 * p + 0.0 * a),
    "growth",
    -1e-3,
    0.02,
    findings=("growth",),
    never=("anchored",),
)

# A strength that rises with the gradients.

for name, pull in {
    "decay by the norm of the gradients": lambda g, p: 1e-5 * norm_of(g) * p,
    "decay by the square of the gradients": lambda g, p: 1e-5 * jnp.mean(g * g) * p,
}.items():
    add(
        name,
        lambda pull=pull: descent_and(pull),
        "gradient-dependent",
        findings=("gradient-dependent",),
        says=("follows the size",),
        says_not=("preconditioner", "after this operation"),
    )

# A decay of a part of a matrix: a rate r of this part, other rates of single weights.


def top_two(p):
    left, values, right = jnp.linalg.svd(p, full_matrices=False)
    return (left[:, :2] * values[:2]) @ right[:2]


def top_eigenvalue(p):
    """Of the symmetric part."""
    values, vectors = jnp.linalg.eigh((p + p.T) / 2)
    return values[-1] * jnp.outer(vectors[:, -1], vectors[:, -1])


for name, part in {
    "the two largest singular values": top_two,
    "the largest eigenvalue": top_eigenvalue,
    "the mean of each row": lambda p: jnp.mean(p, 1, keepdims=True) + 0.0 * p,
}.items():
    add(
        f"decay of {name}",
        lambda part=part: descent_and(lambda g, p: 1e-3 * part(p)),
        "uneven",
        findings=("uneven",),
        never=SERIOUS,
    )

# A bound that small weights do not reach: their rate is 0, and not unknown.

for name, pull in {
    "decay of what exceeds 0.5": lambda p: (
        jnp.sign(p) * jnp.maximum(jnp.abs(p) - 0.5, 0.0)
    ),
    "decay above a norm": lambda p: jnp.maximum(1 - 8 / norm_of(p), 0.0) * p,
    "decay above a norm of each row": lambda p: (
        jnp.maximum(1 - 2 / norm_of(p, 1), 0.0) * p
    ),
}.items():
    add(
        name,
        lambda pull=pull: descent_and(lambda g, p: 1e-3 * pull(p)),
        "scale-dependent",
        findings=("scale-dependent",),
        never=SERIOUS,
        says=("bound",),
    )
