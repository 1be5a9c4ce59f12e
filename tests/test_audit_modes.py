"""The mode of each leaf, and the cause of a dependence."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from audit_cases import (
    L2_ADAM,
    leaf_of,
    LR,
    no_warning as no_warning,
    ONE,
    PARAMS,
    rule,
    WD,
)

import decayax as dx


def test_sign_methods_have_a_rate_but_no_derivative():
    leaf = leaf_of(optax.chain(optax.add_decayed_weights(WD), optax.sign_sgd(LR)))
    assert leaf.rate_from_jvp == 0.0
    # E sign(g + λθ) = erf(λθ/√2) ≈ λθ √(2/π)
    assert (
        leaf.rate
        == leaf.rate_from_difference
        == pytest.approx(1e-4 * math.sqrt(2 / math.pi), rel=0.1)
    )
    assert leaf.mode == "gradient-dependent"


@pytest.mark.parametrize("make", [optax.lamb, optax.lars])
def test_steps_in_proportion_to_the_weights_are_not_decay(make):
    audit = dx.audit(make(0.03), PARAMS)
    assert {leaf.mode for leaf in audit.leaves} == {"none"}
    assert {leaf.rate for leaf in audit.leaves} == {0.0}


def test_rates_that_differ_by_weight_are_not_gradient_dependent():
    rates = 1e-3 * np.linspace(0.5, 1.5, 16, dtype=np.float32)[:, None]
    part = optax.stateless(
        lambda updates, params: jax.tree.map(
            lambda u, p: -LR * u - rates * p, updates, params
        )
    )
    leaf = leaf_of(part)
    assert leaf.mode == "uneven"
    assert leaf.spread == pytest.approx((0.55e-3, 1.45e-3), rel=0.1)


def test_a_second_seed_shows_a_dependence_on_the_gradients():
    """With one scale, the rates of single weights differ from seed to seed."""
    one = leaf_of(L2_ADAM, gradient_scales=(1.0,), seeds=1)
    two = leaf_of(L2_ADAM, gradient_scales=(1.0,), seeds=2)
    assert (one.mode, two.mode) == ("scale-dependent", "gradient-dependent")


def test_complex_weights():
    """Only the real part decays, so about half of each weight."""
    params = {"kernel": ONE["kernel"].astype(jnp.complex64)}
    leaf = leaf_of(rule(lambda u, p: -LR * u - 1e-3 * p.real), params)
    assert (leaf.mode, leaf.dtype) == ("uneven", "complex64")
    assert leaf.rate == pytest.approx(0.5e-3, rel=0.15)
    assert leaf.spread == pytest.approx((0.0, 1e-3), abs=1e-4)


def test_a_decay_of_half_of_the_weights_is_uneven():
    """Each weight is compared with itself under other gradients."""
    leaf = leaf_of(rule(lambda u, p: -1e-5 * u - 1e-3 * jnp.maximum(p, 0)))
    assert leaf.mode == "uneven"


@pytest.mark.parametrize("rate", [1e-3, 0.1, 1.0])
@pytest.mark.parametrize("make", [optax.sgd, optax.adam, optax.rmsprop])
def test_small_leaves_without_decay(make, rate):
    """The weights move far, so the difference of two runs is rounded."""
    params = {f"s{n}": jnp.ones(n) for n in (1, 2, 4, 16)}
    params |= {f"z{n}": 0.01 * jnp.ones(n) for n in (1, 2, 16)}
    audit = dx.audit(make(rate), params)
    assert {leaf.mode for leaf in audit.leaves} == {"none"}
    assert not audit.findings


def test_growth_and_decay_by_gradient_is_gradient_dependent():
    both = rule(
        lambda u, p: -LR * u + jnp.where(jnp.abs(u).max() > 10, 1e-3, -1e-3) * p
    )
    assert leaf_of(both).mode == "gradient-dependent"


def test_a_norm_that_differs_by_chance_is_uniform():
    """Largest over mean gradient: the same at every scale, except for chance."""

    def leaf(u, p):
        largest = jnp.abs(u).max() / jnp.sqrt(jnp.mean(u * u))
        return -LR * u - 1e-3 * largest * p

    four = {"kernel": jnp.ones((2, 2))}
    audit = dx.audit(rule(leaf), four, steps=1, seeds=4)
    assert not audit.elementwise
    assert audit.leaves[0].mode == "uniform"


def test_a_wrong_derivative_is_not_used_for_single_weights():
    """By the derivative, weights above 0 decay; in fact all weights decay."""

    def leaf(u, p):
        stop = jax.lax.stop_gradient
        above = jnp.maximum(p, 0.0)
        return -LR * u - 1e-3 * (stop(p) + above - stop(above))

    found = leaf_of(rule(leaf))
    assert (found.mode, found.rate) == ("uniform", pytest.approx(1e-3, rel=1e-3))


# --- several modes at once ----------------------------------------------------------


def pulled(pull):
    """Δ = −γg − pull(g, θ)."""
    return rule(lambda u, p: -LR * u - pull(u, p))


def saturating(p):
    return p / (1 + p**2)


def rising_rows(p):
    """A factor of each row, from 0.5 to 1.5."""
    return jnp.linspace(0.5, 1.5, p.shape[0])[:, None]


def half_of_rows(p):
    return (jnp.arange(p.shape[0]) % 2 * 1.0)[:, None]


PAIRS = {
    "not finite, growth": (lambda g, p: -p, "not finite"),
    "not finite, constrained": (
        lambda g, p: jnp.where(jnp.abs(g).max() > 100, jnp.nan, p - jnp.clip(p, -1, 1)),
        "not finite",
    ),
    "not finite, gradient-dependent": (
        lambda g, p: 1e-3 * jnp.abs(g) * p / jnp.where(jnp.abs(g) > 250, 0.0, 1.0),
        "not finite",
    ),
    "constrained, uniform": (
        lambda g, p: p - jnp.clip(0.999 * p, -0.1, 0.1),
        "constrained",
    ),
    "constrained, gradient-dependent": (
        lambda g, p: p - jnp.clip(p - 1e-4 * jnp.abs(g) * p, -0.1, 0.1),
        "constrained",
    ),
    "a bound that only 10 times larger weights reach": (
        lambda g, p: p - jnp.clip(p, -10, 10),
        "none",
    ),
    "uniform, and a bound for larger weights": (
        lambda g, p: p - jnp.clip(0.999 * p, -10, 10),
        "uniform",
    ),
    "growth, gradient-dependent": (lambda g, p: -1e-4 * jnp.abs(g) * p, "growth"),
    "growth, scale-dependent": (lambda g, p: -1e-3 * saturating(p), "growth"),
    "growth, uneven": (lambda g, p: -1e-3 * rising_rows(p) * p, "growth"),
    "growth, gated": (lambda g, p: -1e-3 * jnp.where(g > 0, p, 0.0), "growth"),
    "growth of some rows, gradient-dependent": (
        lambda g, p: 1e-4 * jnp.abs(g) * (rising_rows(p) - 0.8) * p,
        "growth",
    ),
    "growth of some rows, scale-dependent": (
        lambda g, p: 1e-3 * (rising_rows(p) - 0.8) * saturating(p),
        "growth",
    ),
    "gated, uneven": (
        lambda g, p: 1e-3 * rising_rows(p) * jnp.where(g > 0, p, 0.0),
        "gated",
    ),
    "gated, scale-dependent": (
        lambda g, p: 1e-3 * jnp.where(g > 0, saturating(p), 0.0),
        "gated",
    ),
    "gradient-dependent, gated": (
        lambda g, p: 1e-3 * jnp.where(jnp.abs(g) > 1, p, 0.0),
        "gradient-dependent",
    ),
    "gradient-dependent, scale-dependent": (
        lambda g, p: 1e-4 * jnp.abs(g) * saturating(p),
        "gradient-dependent",
    ),
    "gradient-dependent, uneven": (
        lambda g, p: 1e-4 * jnp.abs(g) * rising_rows(p) * p,
        "gradient-dependent",
    ),
    "scale-dependent, uneven": (
        lambda g, p: 1e-3 * rising_rows(p) * saturating(p),
        "scale-dependent",
    ),
    "uneven, uniform": (lambda g, p: 1e-3 * half_of_rows(p) * p, "uneven"),
    "uniform": (lambda g, p: 1e-3 * p, "uniform"),
    "none": (lambda g, p: 0.0 * p, "none"),
}


@pytest.mark.parametrize("name", PAIRS)
def test_the_most_serious_mode_is_reported(name):
    pull, mode = PAIRS[name]
    assert leaf_of(pulled(pull)).mode == mode


@pytest.mark.parametrize("rate", [1e-4, 1e-3])
@pytest.mark.parametrize("bound", [0.2, 1.0])
def test_weights_that_cross_a_bound_are_not_gated(rate, bound):
    """The gradients do not decide which weights have a derivative."""
    huber = pulled(lambda g, p: rate * jnp.clip(p, -bound, bound))
    assert leaf_of(huber).mode == "scale-dependent"


# --- the causes of a dependence -----------------------------------------------------


def lazy(u, p):
    return jnp.where(jnp.any(u != 0, axis=-1, keepdims=True), 1e-3 * p, 0.0)


SPARSE = {"gradients": {"kernel": (np.arange(16) % 2.0)[:, None] * np.ones((16, 16))}}
CAUSES = {
    "an L2 term before adam": (
        lambda: L2_ADAM,
        "gradient-dependent",
        "An L2 term passes through the preconditioner.",
    ),
    "an L2 term before rmsprop": (
        lambda: dx.rmsprop_l2(LR, weight_decay=WD),
        "gradient-dependent",
        "An L2 term passes through the preconditioner.",
    ),
    "an L2 term before a clip by norm": (
        lambda: optax.chain(
            dx.add_l2_to_grad(1e-2), optax.clip_by_global_norm(1.0), optax.sgd(1e-2)
        ),
        "gradient-dependent",
        "A clip or a normalization divides the decay by a norm",
    ),
    "a gate by the size of the gradient": (
        lambda: pulled(lambda g, p: jnp.where(jnp.abs(g) > 1, 1e-3 * p, 0.0)),
        "gradient-dependent",
        "A clip of single elements, or another gate, stops the decay of some weights.",
    ),
    "an L2 term before a clip of elements": (
        lambda: optax.chain(dx.add_l2_to_grad(0.1), optax.clip(1.0), optax.sgd(1e-2)),
        "gradient-dependent",
        "A clip of single elements, or another gate, stops the decay of some weights.",
    ),
    "a factor |g|": (
        lambda: pulled(lambda g, p: 1e-4 * jnp.abs(g) * p),
        "gradient-dependent",
        "The strength follows the size of the gradients or of the step",
    ),
    "a factor that saturates with |g|": (
        lambda: pulled(lambda g, p: 1e-4 * jnp.abs(g) / (1 + jnp.abs(g)) * p),
        "gradient-dependent",
        "The decay passes through an operation that depends on the gradients.",
    ),
    "a gate by the sign of the gradient": (
        lambda: pulled(lambda g, p: jnp.where(g > 0, 1e-3 * p, 0.0)),
        "gated",
        "Cautious weight decay works like this.",
    ),
    "rows without a gradient": (
        lambda: pulled(lazy),
        "gated",
        "A lazy update skips weights without a gradient.",
    ),
    "a trust ratio": (
        lambda: optax.lamb(LR, weight_decay=WD),
        "scale-dependent",
        "A trust ratio rescales the decay together with the update.",
    ),
    "L1": (
        lambda: pulled(lambda g, p: 1e-4 * jnp.sign(p)),
        "scale-dependent",
        "The pull does not grow with the weights, as in L1 or Huber decay.",
    ),
    "Huber": (
        lambda: pulled(lambda g, p: 1e-4 * jnp.clip(p, -0.5, 0.5)),
        "scale-dependent",
        "The pull does not grow with the weights, as in L1 or Huber decay.",
    ),
    "a square root": (
        lambda: pulled(lambda g, p: 1e-4 * jnp.sign(p) * jnp.sqrt(jnp.abs(p))),
        "scale-dependent",
        "The pull does not grow with the weights, as in L1 or Huber decay.",
    ),
    "third power": (
        lambda: pulled(lambda g, p: 1e-5 * p**3),
        "scale-dependent",
        "The pull grows faster than the weights, such as their third power.",
    ),
    "another rate for small weights": (
        lambda: pulled(lambda g, p: jnp.where(jnp.mean(p**2) < 0.3, 2e-3, 1e-3) * p),
        "scale-dependent",
        "The decay passes through an operation that depends on this size.",
    ),
}


@pytest.mark.parametrize("name", CAUSES)
def test_the_hint_names_the_cause(name):
    make, kind, hint = CAUSES[name]
    options = SPARSE if "rows" in name else {}
    audit = dx.audit(make(), ONE, **options)
    (finding,) = [finding for finding in audit.findings if finding.kind == kind]
    assert finding.hint.startswith(hint)
    others = {text for _, _, text in CAUSES.values()} - {hint}
    assert not [text for text in others if text in str(audit)]


@pytest.mark.parametrize(
    ("clip", "share", "serious"),
    [
        (optax.clip_by_global_norm(1e-3), 0.2, True),
        (optax.clip_by_global_norm(3e-3), 0.7, False),
        (optax.clip(1e-4), 0.25, True),
        (optax.clip_by_global_norm(1.0), 1.0, None),
        (optax.clip(1.0), 1.0, None),
    ],
)
def test_a_clip_of_the_finished_step_removes_decay(clip, share, serious):
    optimizer = optax.chain(optax.adamw(LR, weight_decay=WD), clip)
    audit = dx.audit(optimizer, ONE)
    found = [f for f in audit.findings if f.kind == "clipped"]
    assert [f.serious for f in found] == ([] if serious is None else [serious])
    assert audit.leaves[0].rate == pytest.approx(share * 1e-4, rel=0.3)
    for finding in found:
        stated = float(finding.text.partition("leaves ")[2].partition("%")[0]) / 100
        assert stated == pytest.approx(audit.leaves[0].rate / 1e-4, abs=0.02)
        assert "L1" not in str(audit)
