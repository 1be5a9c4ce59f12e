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
