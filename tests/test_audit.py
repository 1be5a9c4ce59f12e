"""The audit: rates of real optimizers, wrappers, inputs, and the table."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from audit_cases import (
    KEY,
    L2_ADAM,
    leaf_of,
    LR,
    MASK,
    no_warning as no_warning,
    of_a_factory,
    of_mistake,
    ONE,
    PARAMS,
    rule,
    WD,
)
from optax import contrib

import decayax as dx


def test_the_rate_of_a_decoupled_decay_is_exact_at_every_scale():
    leaf = leaf_of(optax.adamw(LR, weight_decay=WD))
    assert leaf.mode == "uniform"
    assert [scale for scale, _ in leaf.by_gradient_scale] == [0.01, 1.0, 100.0]
    assert [scale for scale, _ in leaf.by_weight_scale] == [0.1, 1.0, 10.0]
    for _, rate in (*leaf.by_gradient_scale, *leaf.by_weight_scale):
        assert rate == pytest.approx(1e-4, rel=1e-5)
    assert leaf.rate_from_jvp == pytest.approx(1e-4, rel=1e-5)
    assert leaf.rate_from_difference == pytest.approx(1e-4, rel=1e-3)
    assert leaf.spread == pytest.approx((1e-4, 1e-4), rel=1e-4)
    assert leaf.half_life_steps == pytest.approx(math.log(2) / 1e-4, rel=1e-3)
    assert leaf.timescale_steps == pytest.approx(1e4, rel=1e-4)
    assert leaf.depends_on_gradient


def test_l2_through_a_preconditioner():
    """The rate is λ/√v: ∝ 1/|g| for large gradients; small ones cancel the decay."""
    (leaf,) = of_mistake("gradient-dependent").leaves
    small, middle, large = (rate for _, rate in leaf.by_gradient_scale)
    assert leaf.mode == "gradient-dependent"
    assert middle == pytest.approx(1e-4, rel=0.1)
    assert large == pytest.approx(1e-6, rel=0.1)
    assert small < 0.9 * middle
    assert leaf.spread[0] < 0.95e-4
    assert leaf.spread[1] > 1.02e-4


def test_momentum_amplifies_l2_and_stays_uniform():
    leaf = leaf_of(dx.sgd_l2(LR, momentum=0.9, weight_decay=WD))
    # (1/T) Σ (1 − 0.9^t)/(1 − 0.9) over 200 steps, of a rate of 1e-4.
    expected = 1e-4 * np.mean((1 - 0.9 ** np.arange(1, 201)) / 0.1)
    assert (leaf.mode, leaf.rate) == ("uniform", pytest.approx(expected, rel=0.02))
    assert leaf.over_time[0] == pytest.approx(1e-4, rel=1e-3)
    assert leaf.over_time[-1] == pytest.approx(1e-3, rel=0.02)


def test_the_rate_over_time_follows_the_schedule():
    cosine = optax.cosine_decay_schedule(LR, 100)
    leaf = leaf_of(optax.adamw(cosine, weight_decay=WD), steps=100)
    expected = [WD * float(cosine(t)) for t in range(100)]
    np.testing.assert_allclose(leaf.over_time, expected, rtol=1e-3, atol=1e-8)
    retention = np.prod(1 - np.array(expected))
    assert (1 - leaf.rate) ** 100 == pytest.approx(retention, rel=1e-4)


def test_whether_the_rate_follows_the_learning_rate():
    leaves = of_a_factory().leaves
    follows = {leaf.path: leaf.follows_learning_rate for leaf in leaves}
    assert follows == {"dense/bias": None, "dense/kernel": True, "norm/scale": None}
    independent = lambda lr: optax.chain(optax.adam(lr), dx.independent_decay(1e-4))  # noqa: E731
    leaf = leaf_of(independent, learning_rate=0.1)
    assert leaf.follows_learning_rate is False
    assert leaf.rate == pytest.approx(1e-4, rel=1e-4)
    assert of_mistake("scale-dependent").leaves[0].follows_learning_rate is None


def test_rates_are_per_call_of_update():
    leaf = leaf_of(optax.MultiSteps(dx.adamw(LR, weight_decay=WD), 4))
    assert (leaf.mode, leaf.rate) == ("uniform", pytest.approx(1e-4 / 4, rel=1e-4))


WRAPPED = {
    "masked": optax.masked(
        optax.adamw(LR, weight_decay=WD), {"dense": True, "norm": False}
    ),
    "partition": optax.partition(
        {"a": optax.adamw(LR, weight_decay=WD), "b": optax.sgd(LR)},
        {"dense": "a", "norm": "b"},
    ),
    "inject_hyperparams": optax.inject_hyperparams(dx.adamw, static_args="mask")(
        LR, weight_decay=WD, mask={"dense": True, "norm": False}
    ),
    "apply_if_finite": optax.apply_if_finite(
        dx.adamw(LR, weight_decay=WD, mask={"dense": True, "norm": False}), 3
    ),
    "clipped": optax.chain(
        optax.clip_by_global_norm(1.0),
        dx.adamw(LR, weight_decay=WD, mask={"dense": True, "norm": False}),
    ),
    "with_decay": dx.with_decay(
        optax.radam(LR), WD, learning_rate=LR, mask={"dense": True, "norm": False}
    ),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_wrappers(name):
    audit = dx.audit(WRAPPED[name], PARAMS)
    assert {leaf.path: leaf.mode for leaf in audit.leaves} == {
        "dense/bias": "uniform",
        "dense/kernel": "uniform",
        "norm/scale": "none",
    }
    assert audit.leaves[1].rate == pytest.approx(1e-4, rel=1e-4)
    assert audit.elementwise == (name not in ("apply_if_finite", "clipped"))


@pytest.mark.needs_flax
def test_models_of_flax_and_equinox():
    import equinox as eqx
    import flax.linen as nn
    from flax import nnx
    from pure_nnx import as_pure

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        linen = nn.Dense(4).init(KEY, jnp.ones((1, 3)))["params"]
        state = nnx.state(nnx.Linear(3, 4, rngs=nnx.Rngs(0)), nnx.Param)
        module = eqx.filter(eqx.nn.Linear(3, 4, key=KEY), eqx.is_array)
    for params in (linen, state, as_pure(state), module):
        optimizer = dx.adamw(LR, weight_decay=WD, mask=MASK)
        audit = dx.audit(optimizer, params, steps=25, gradient_scales=(1.0,))
        modes = {leaf.path: leaf.mode for leaf in audit.leaves}
        assert sorted(modes.values()) == ["none", "uniform"], modes
        assert modes["bias"] == "none"


def test_example_gradients_must_fit():
    with pytest.raises(ValueError, match="must be the same tree.* leaf kernal"):
        dx.audit(optax.adam(LR), ONE, gradients={"kernal": jnp.ones((16, 16))})


def test_the_value_is_made_up_or_given():
    optimizer = contrib.momo(LR, weight_decay=WD)
    for options in ({}, {"extra_args": {"value": jnp.float32(2.0)}}):
        leaf = leaf_of(optimizer, **options)
        assert (leaf.mode, leaf.rate) == ("uniform", pytest.approx(1e-4, rel=1e-2))


def test_the_params_are_not_changed_and_results_repeat():
    params = jax.tree.map(lambda x: np.array(x), PARAMS)
    before = jax.tree.map(np.copy, params)
    first, second = (dx.audit(L2_ADAM, params) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, params, before)
    assert repr(first) == repr(second)
    for a, b in zip(first.leaves, second.leaves, strict=True):
        assert a == b


def test_leaves_with_an_array_method():
    class Duck:
        shape, dtype = (4, 4), np.dtype(np.float32)

        def __array__(self, dtype=None, copy=None):
            return np.full(self.shape, 3.0, dtype or self.dtype)

    lamb = optax.lamb(LR, weight_decay=WD)
    array = jnp.full((4, 4), 3.0)
    (of_duck,), (of_array,) = (
        dx.audit(lamb, {"kernel": x}, steps=20, seeds=1).leaves for x in (Duck(), array)
    )
    assert of_duck == of_array


def test_the_made_up_value_falls():
    """On a plateau, the learning rate and the decay would go to 0."""
    chain = optax.chain(
        optax.adamw(LR, weight_decay=WD), contrib.reduce_on_plateau(patience=5)
    )
    assert leaf_of(chain).rate == pytest.approx(1e-4, rel=1e-2)


@pytest.mark.parametrize(("power", "follows"), [(1, True), (0, False), (2, None)])
def test_a_rate_follows_if_half_the_learning_rate_gives_half(power, follows):
    make = lambda lr: optax.chain(  # noqa: E731
        optax.sgd(LR), optax.add_decayed_weights(-(lr**power) * 1e-3)
    )
    leaf = leaf_of(make, learning_rate=0.5)
    assert leaf.follows_learning_rate is follows


BAD = {
    "audit: optimizer must be an optax.GradientTransformation or a function "
    "learning_rate -> optimizer, got 3 of type int": (3, {}),
    "audit: optimizer must be an optax.GradientTransformation or a function": (
        lambda lr: lr,
        {},
    ),
    "audit: steps must be an integer >= 1, got 0": (optax.adam(LR), {"steps": 0}),
    "audit: steps must be an integer >= 1, got 2.5": (
        optax.adam(LR),
        {"steps": 2.5},
    ),
    "audit: seeds must be an integer >= 1, got 0": (optax.adam(LR), {"seeds": 0}),
    "audit: learning_rate must be >= 0, got -1": (optax.adam, {"learning_rate": -1}),
    "audit: learning_rate must be > 0, got 0": (optax.adam, {"learning_rate": 0}),
    "audit: gradient_scales must be a sequence of numbers > 0, got ()": (
        optax.adam(LR),
        {"gradient_scales": ()},
    ),
    "audit: gradient_scales must be a sequence of numbers > 0, got 1.0": (
        optax.adam(LR),
        {"gradient_scales": 1.0},
    ),
    "audit: each of gradient_scales must be > 0, got 0.0": (
        optax.adam(LR),
        {"gradient_scales": (0.0,)},
    ),
    "audit: weight_decay must be a number, got 'x'": (
        optax.adam(LR),
        {"weight_decay": "x"},
    ),
    "audit: extra_args must be a dict of keyword arguments for optimizer.update": (
        optax.adam(LR),
        {"extra_args": 3},
    ),
}


@pytest.mark.parametrize("text", BAD)
def test_errors(text):
    import re

    optimizer, options = BAD[text]
    with pytest.raises((TypeError, ValueError), match=re.escape(text)):
        dx.audit(optimizer, ONE, **options)


def test_an_error_of_the_optimizer_gets_a_note():
    def branches(updates, state, params=None):
        return (updates if jnp.sum(updates["w"]) > 0 else params), state

    optimizer = optax.GradientTransformation(lambda params: (), branches)
    with pytest.raises(jax.errors.TracerBoolConversionError) as caught:
        dx.audit(optimizer, {"w": jnp.ones(2)})
    notes = caught.value.__notes__
    assert "audit: the optimizer raised this error inside a jitted step." in notes


def test_a_leaf_that_is_not_a_parameter():
    with pytest.raises(TypeError, match=r"audit: act is not a parameter.*eqx.filter"):
        dx.audit(optax.adam(LR), {"act": jax.nn.relu, "w": jnp.ones(2)})
    with pytest.raises(ValueError, match="no parameter. The nearest parameters are"):
        dx.audit(dx.adamw(LR, mask={"wrong": True}), ONE)


def test_the_table_as_text_and_as_html():
    audit = of_a_factory()
    assert str(audit).splitlines() == [
        "parameter     dtype    mode     rate/step  half-life   follows lr",
        "dense/bias    float32  none     0          never",
        "dense/kernel  float32  uniform  0.0001     6931 steps  yes",
        "norm/scale    float32  none     0          never",
        "measured over 200 steps on every weight",
        "no problems found",
    ]
    html = audit._repr_html_()
    assert html.count("<tr>") == 4
    assert "<td>dense/kernel</td><td>float32</td><td>uniform</td>" in html
    escaped = dx.audit(optax.adam(LR), {"<b>": jnp.ones((2, 2))}, steps=25)
    assert "<td>&lt;b&gt;</td>" in escaped._repr_html_()


def test_the_gradient_scales_may_be_in_any_order():
    scales = (100.0, 0.01, 1.0)
    leaf = leaf_of(L2_ADAM, gradient_scales=scales)
    assert leaf.rate == of_mistake("gradient-dependent").leaves[0].rate
    assert [scale for scale, _ in leaf.by_gradient_scale] == sorted(scales)


def test_without_a_decay_at_the_middle_scale_the_rate_follows_nothing():
    make = lambda lr: rule(  # noqa: E731
        lambda u, p: -lr * u - jnp.where(jnp.abs(u).max() > 10, lr, 0.0) * p
    )
    leaf = leaf_of(make)
    assert (leaf.mode, leaf.follows_learning_rate) == ("gradient-dependent", None)


def test_integers_and_masked_leaves_are_skipped():
    params = {"a": jnp.int32(3), "kernel": ONE["kernel"], "none": None}
    mask = {"a": False, "kernel": True, "none": False}
    (leaf,) = dx.audit(dx.sgdw(LR, weight_decay=WD, mask=mask), params).leaves
    assert (leaf.path, leaf.mode) == ("kernel", "uniform")
    assert leaf.rate == pytest.approx(1e-4, rel=1e-4)


def test_a_column_is_shown_if_one_leaf_needs_it():
    optimizer = optax.chain(optax.add_decayed_weights(WD, mask=MASK), optax.adam(LR))
    header = str(dx.audit(optimizer, PARAMS, steps=25)).splitlines()[0]
    assert "at |g|=0.01" in header
    make = lambda lr: optax.chain(optax.sgd(lr), dx.independent_decay(1e-4))  # noqa: E731
    assert str(dx.audit(make, ONE, steps=25)).splitlines()[1].endswith("  no")
