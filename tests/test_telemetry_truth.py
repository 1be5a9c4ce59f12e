"""Wherever the tracker says a number, it is the decay; elsewhere it is NaN.

The reference is a difference quotient in float64: the update at θ(1 ± h), with the
gradients and the state of that step, during a real training.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

import decayax as dx


LR, WD = 1e-2, 0.1
KEYS = jax.random.split(jax.random.key(0), 6)
X = jax.random.normal(KEYS[0], (64, 3))
Y = jnp.stack([jnp.sin(X[:, 0]), X[:, 1] * X[:, 2]], axis=1)
ROWS = {
    "in": {"kernel": np.array([[1.0], [0.0], [0.5]]), "bias": False},
    "out": {"kernel": np.linspace(0.0, 1.0, 8)[:, None], "bias": True},
}


def rule(leaf):
    """An optimizer from (gradient, weights) -> update, for each leaf."""
    return optax.stateless(lambda updates, params: jax.tree.map(leaf, updates, params))


def by_row(param, even, odd):
    """A factor for each row."""
    rows = np.arange(param.shape[0]).reshape(-1, *[1] * (param.ndim - 1))
    return np.where(rows % 2 == 0, even, odd)


def anchored(init, update=lambda anchor, params: anchor):
    """A decay towards an anchor in the state."""

    def step(updates, anchor, params):
        new = jax.tree.map(
            lambda g, p, a: -LR * g - 0.01 * (p - a), updates, params, anchor
        )
        return new, update(anchor, params)

    return optax.GradientTransformation(init, step)


def average(anchor, params):
    return jax.tree.map(lambda a, p: 0.9 * a + 0.1 * p, anchor, params)


def zeros(params):
    return jax.tree.map(jnp.zeros_like, params)


def delayed(factor):
    """A factor of the weights that depends on the last gradient only."""

    def step(updates, last, params):
        new = jax.tree.map(
            lambda g, p, old: -LR * g - LR * factor(old) * p, updates, params, last
        )
        return new, updates

    ones = lambda params: jax.tree.map(jnp.ones_like, params)  # noqa: E731
    return optax.GradientTransformation(ones, step)


def groups(first, second):
    return optax.partition(
        {"a": first, "b": second},
        {"in": {"kernel": "a", "bias": "b"}, "out": {"kernel": "b", "bias": "a"}},
    )


ADAMW = dx.adamw(LR, weight_decay=WD)
KNOWN = {
    "adamw": optax.adamw(LR, weight_decay=WD),
    "adamw, cosine": optax.adamw(optax.cosine_decay_schedule(LR, 40), weight_decay=WD),
    "nadamw": optax.nadamw(LR, weight_decay=WD),
    "adamaxw": optax.adamaxw(LR, weight_decay=WD),
    "adan": optax.adan(LR, weight_decay=WD),
    "lion": optax.lion(LR, weight_decay=WD),
    "muon": contrib.muon(LR, weight_decay=WD),
    "ademamix": contrib.ademamix(LR, weight_decay=WD),
    "adafactor": optax.adafactor(
        LR, multiply_by_parameter_scale=False, weight_decay_rate=1e-3
    ),
    "sgd": optax.sgd(LR, momentum=0.9),
    "adabelief": optax.adabelief(LR),
    "adagrad": optax.adagrad(LR),
    "rprop": optax.rprop(LR),
    "sm3": optax.sm3(LR),
    "yogi": optax.yogi(LR),
    "sgdw": dx.sgdw(LR, momentum=0.9, weight_decay=WD),
    "rmspropw": dx.rmspropw(LR, weight_decay=WD),
    "dx.adamw": ADAMW,
    "L2 under SGD": dx.sgd_l2(LR, weight_decay=WD),
    "independent": optax.chain(optax.adam(LR), dx.independent_decay(1e-3)),
    "with_decay": dx.with_decay(optax.rmsprop(LR), WD, learning_rate=LR),
    "clip of gradients": optax.chain(optax.clip_by_global_norm(0.1), ADAMW),
    "zero_nans": optax.chain(optax.zero_nans(), ADAMW),
    "growth": optax.chain(optax.sgd(LR), optax.add_decayed_weights(1e-3)),
    "plateau": optax.chain(ADAMW, contrib.reduce_on_plateau()),
    "injected": optax.inject_hyperparams(dx.adamw)(LR, weight_decay=WD),
    "MultiSteps": optax.MultiSteps(ADAMW, 2).gradient_transformation(),
    "masked": optax.masked(ADAMW, {"in": True, "out": False}),
    "if finite": optax.apply_if_finite(ADAMW, 3),
    # D is not parallel to the weights.
    "rows": dx.adamw(LR, weight_decay=WD, mask=ROWS),
    "rows, sgdw": dx.sgdw(LR, momentum=0.9, weight_decay=WD, mask=ROWS),
    "rows, independent": optax.chain(
        optax.adam(LR), dx.independent_decay(1e-3, mask=ROWS)
    ),
    "rows, if finite": optax.apply_if_finite(
        dx.adamw(LR, weight_decay=WD, mask=ROWS), 3
    ),
    "rows, injected": optax.inject_hyperparams(dx.sgdw, static_args="mask")(
        LR, weight_decay=WD, mask=ROWS
    ),
    "rows, MultiSteps": optax.MultiSteps(
        dx.sgdw(LR, weight_decay=WD, mask=ROWS), 2
    ).gradient_transformation(),
    "half of the rows": rule(lambda g, p: -LR * g - by_row(p, 1e-3, 0.0) * p),
    "two signs": rule(lambda g, p: -LR * g - by_row(p, 1e-3, -1e-3) * p),
    "one row": rule(lambda g, p: -LR * g - 1e-2 * jnp.zeros_like(p).at[0].set(1.0) * p),
    "each weight": rule(
        lambda g, p: -LR * g - 1e-3 * np.linspace(0, 1, p.size).reshape(p.shape) * p
    ),
    "towards the mean": rule(lambda g, p: -LR * g - 1e-3 * (p - p.mean())),
    "a matrix": rule(lambda g, p: -LR * g - 1e-3 * jnp.cumsum(p, axis=0)),
    "adafactor, rows": optax.chain(
        optax.adafactor(LR, multiply_by_parameter_scale=False),
        dx.independent_decay(1e-3, mask=ROWS),
    ),
    "two groups": groups(ADAMW, dx.sgdw(LR, weight_decay=WD)),
}
UNKNOWN = {
    "through the moments": dx.adam_l2(LR, weight_decay=WD),
    "through V": dx.rmsprop_l2(LR, weight_decay=WD),
    "through the momentum": dx.sgd_l2(LR, momentum=0.9, weight_decay=WD),
    "novograd": optax.novograd(LR, weight_decay=WD),
    "an average of steps": optax.chain(ADAMW, optax.ema(0.9)),
    "schedule-free": contrib.schedule_free_adamw(LR, weight_decay=WD),
    # In proportion to the weights.
    "lamb": optax.lamb(LR, weight_decay=WD),
    "lars": optax.lars(LR, weight_decay=WD),
    "adafactor, scaled, without decay": optax.adafactor(LR),
    "adafactor, scaled, momentum": optax.adafactor(
        LR, momentum=0.9, weight_decay_rate=1e-3
    ),
    "g|θ|": rule(lambda g, p: -LR * g * jnp.abs(p)),
    "gθ": rule(lambda g, p: -LR * g * p),
    "g‖θ‖": rule(lambda g, p: -LR * g * jnp.sqrt(jnp.sum(p * p))),
    "g Σθ": rule(lambda g, p: -LR * g * jnp.sum(p)),
    "exponentiated": rule(lambda g, p: p * (jnp.exp(-LR * g) - 1)),
    "m|θ|": optax.chain(optax.trace(0.9), rule(lambda m, p: -LR * m * jnp.abs(p))),
    "last gθ": delayed(lambda g: g),
    "last |g|θ": delayed(jnp.abs),
    "last ‖g‖θ": delayed(lambda g: jnp.sqrt(jnp.sum(g * g))),
    "|g|θ": rule(lambda g, p: -LR * jnp.abs(g) * p),
    "‖g‖θ": rule(lambda g, p: -LR * jnp.sqrt(jnp.sum(g * g)) * p),
    "θ/√v": optax.chain(
        optax.scale_by_rms(initial_scale=1.0),
        rule(lambda u, p: -LR * u - 1e-3 * p * u * u),
    ),
    # Clipped, gated, not linear.
    "clip behind": optax.chain(ADAMW, optax.clip_by_global_norm(1e-3)),
    "clip of each weight": optax.chain(ADAMW, optax.clip(1e-3)),
    "gate": rule(lambda g, p: -LR * g - 1e-3 * jnp.where(g * p > 0, p, 0.0)),
    "l1": rule(lambda g, p: -LR * g - 1e-3 * jnp.sign(p)),
    "cubic": rule(lambda g, p: -LR * g - 1e-3 * p**3),
    "Huber": rule(lambda g, p: -LR * g - 1e-3 * jnp.tanh(p)),
    "sphere": rule(
        lambda g, p: (p - LR * g) / jnp.sqrt(jnp.sum((p - LR * g) ** 2)) - p
    ),
    # Towards a value that was taken from the weights.
    "initial weights": anchored(lambda params: params),
    "a part of them": anchored(lambda params: jax.tree.map(lambda p: 0.5 * p, params)),
    "their mean": anchored(
        lambda params: jax.tree.map(lambda p: p * 0 + p.mean(), params)
    ),
    "an average": anchored(lambda params: params, average),
    "an average from 0": anchored(zeros, average),
    "the last weights": anchored(zeros, lambda anchor, params: params),
    "inside MultiSteps": optax.MultiSteps(
        anchored(lambda params: params), 2
    ).gradient_transformation(),
    "inside apply_if_finite": optax.apply_if_finite(anchored(lambda p: p), 3),
    "inside a chain": optax.chain(
        optax.clip_by_global_norm(1.0), anchored(lambda p: p)
    ),
    "in both groups": groups(anchored(lambda p: p), anchored(lambda p: p)),
    "prodigy": contrib.prodigy(LR, weight_decay=WD),
    "dog": contrib.dog(LR),
}
# The step is in proportion to the size of the weights; the rate is that of the decay.
IN_THE_MEAN = {
    "adafactor": (optax.adafactor(LR, weight_decay_rate=1e-3), 1e-3),
    "adafactor, factored": (
        optax.adafactor(LR, min_dim_size_to_factor=2, weight_decay_rate=1e-3),
        1e-3,
    ),
    "adafactor, λ by γ": (
        optax.chain(optax.adafactor(LR), dx.independent_decay(2e-4)),
        2e-4,
    ),
    "‖θ‖g": (
        rule(lambda g, p: -LR * g * jnp.sqrt(jnp.sum(p * p)) - 1e-3 * p),
        1e-3,
    ),
    "gθ": (rule(lambda g, p: -LR * g * p - 1e-3 * p), 1e-3),
    "growth": (rule(lambda g, p: -LR * g * p + 1e-3 * p), -1e-3),
    "fromage": (optax.fromage(LR), 1 - (1 + LR**2) ** -0.5),
}
LEAVES = ("in/kernel", "in/bias", "out/kernel", "out/bias")


def loss(params, x, y):
    hidden = jnp.tanh(x @ params["in"]["kernel"] + params["in"]["bias"])
    output = hidden @ params["out"]["kernel"] + params["out"]["bias"]
    return jnp.mean((output - y) ** 2)


def train(optimizer, steps=6, with_quotient=True):
    """At each step: what is measured, and the difference quotient of each leaf."""
    optimizer = optax.with_extra_args_support(optimizer)
    params = {
        "in": {
            "kernel": jax.random.normal(KEYS[1], (3, 8)),
            "bias": 0.1 * jax.random.normal(KEYS[2], (8,)),
        },
        "out": {
            "kernel": jax.random.normal(KEYS[3], (8, 2)),
            "bias": 0.1 * jax.random.normal(KEYS[4], (2,)),
        },
    }
    x, y, params = jax.tree.map(lambda a: a.astype(jnp.float64), (X, Y, params))

    @jax.jit
    def step(params, state, key):
        batch = jax.random.randint(key, (16,), 0, 64)
        value, grads = jax.value_and_grad(loss)(params, x[batch], y[batch])

        def updates_at(factor):
            scaled = jax.tree.map(lambda p: factor * p, params)
            return optimizer.update(grads, state, scaled, value=value)

        h = 1e-4
        quotient = with_quotient and jax.tree.map(
            lambda a, b, p: -jnp.sum((a - b) / (2 * h) * p) / jnp.sum(p * p),
            updates_at(1 + h)[0],
            updates_at(1 - h)[0],
            params,
        )
        stats = dx.measure_decay(optimizer, params, state, grads, value=value)
        updates, state = updates_at(1.0)
        return optax.apply_updates(params, updates), state, (stats, quotient)

    state, found = optimizer.init(params), []
    for key in jax.random.split(KEYS[5], steps):
        params, state, measured = step(params, state, key)
        found.append(measured)
    return found


@pytest.mark.relaxed("the optimizers of optax")
@pytest.mark.parametrize("name", KNOWN)
def test_a_known_rate_is_the_derivative(x64, name):
    for stats, quotient in train(KNOWN[name]):
        for leaf in LEAVES:
            layer, kind = leaf.split("/")
            expected = float(quotient[layer][kind])
            rate = float(stats[f"{leaf}/decay_rate"])
            assert rate == pytest.approx(expected, rel=1e-3, abs=1e-9)


@pytest.mark.relaxed("the optimizers of optax")
@pytest.mark.parametrize("name", IN_THE_MEAN)
def test_steps_in_proportion_to_the_weights_leave_the_decay(x64, name):
    optimizer, rate = IN_THE_MEAN[name]
    for stats, _ in train(optimizer, with_quotient=False):
        for leaf in LEAVES:
            assert float(stats[f"{leaf}/decay_rate"]) == pytest.approx(rate, rel=1e-3)


@pytest.mark.relaxed("the optimizers of optax")
@pytest.mark.parametrize("name", UNKNOWN)
def test_any_other_decay_is_nan(x64, name):
    for stats, _ in train(UNKNOWN[name], steps=3, with_quotient=False):
        for leaf in LEAVES:
            assert math.isnan(stats[f"{leaf}/decay_rate"])
            assert math.isnan(stats[f"{leaf}/decay_to_update"])
            assert math.isnan(stats[f"{leaf}/equilibrium_norm"])
            assert stats[f"{leaf}/update_norm"] >= 0.0
            assert stats[f"{leaf}/update_to_weight"] >= 0.0


@pytest.mark.parametrize("fill", [1.0, 0.5, -2.0])
@pytest.mark.parametrize("name", ["cubic", "g|θ|", "gθ", "g‖θ‖", "l1", "|g|θ", "‖g‖θ"])
def test_equal_weights_and_gradients_hide_nothing(name, fill):
    """D is then parallel to θ, for each of these rules."""
    params = {"w": jnp.full((3, 4), fill), "one": jnp.full((1,), fill)}
    optimizer = UNKNOWN[name]
    stats = dx.measure_decay(optimizer, params, optimizer.init(params), params)
    assert math.isnan(stats["w/decay_rate"])
    assert math.isnan(stats["one/decay_rate"])


@pytest.mark.relaxed("optax.lamb")
def test_a_trust_ratio_of_equal_weights():
    params = {"w": jnp.ones((3, 4))}
    optimizer = optax.lamb(LR, weight_decay=WD)
    stats = dx.measure_decay(optimizer, params, optimizer.init(params), params)
    assert math.isnan(stats["w/decay_rate"])


def test_uneven_decay_in_numbers():
    """Half of the rows decay: ‖D‖, and the mean rate weighted by θ²."""
    params = {"w": jnp.array([[3.0, 0.0], [0.0, 4.0]])}
    optimizer = dx.sgdw(0.5, weight_decay=0.2, mask={"w": np.array([[1.0], [0.0]])})
    grads = {"w": jnp.array([[0.0, 1.0], [0.0, 0.0]])}
    stats = dx.measure_decay(optimizer, params, optimizer.init(params), grads)
    assert stats["w/decay_rate"] == pytest.approx(0.1 * 9 / 25)
    assert stats["w/decay_to_update"] == pytest.approx(0.3 / math.hypot(0.3, 0.5))
    assert stats["w/decay_realised"] == pytest.approx(0.1 * 9 / 25)
    assert stats["w/cosine"] == pytest.approx(0.0)
