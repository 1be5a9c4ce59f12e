"""Numbers: NaN, 16 bits, 8 bits, rates out of range, growth."""

import jax.numpy as jnp
import optax

import decayax as dx
from audited.row import adamw, add, independent, normal, rule, SERIOUS


# Numbers: NaN, 16 bits, 8 bits, rates out of range.

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
    adamw,
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

# Growth.

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
    cured=adamw,
)
