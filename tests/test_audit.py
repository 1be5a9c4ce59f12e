"""The audit: rates, modes and findings of real optimizers and of planted mistakes."""

import functools
import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

import decayax as dx


LR, WD = 1e-3, 0.1
KEY = jax.random.key(0)
PARAMS = {
    "dense": {
        "kernel": jax.random.normal(KEY, (16, 16)),
        "bias": jnp.zeros(16),
    },
    "norm": {"scale": jnp.ones(16)},
}
ONE = {"kernel": jax.random.normal(KEY, (16, 16))}
MASK = dx.masks.no_bias_or_norm
L2_ADAM = optax.chain(optax.add_decayed_weights(WD), optax.adam(LR))


@pytest.fixture(autouse=True)
def no_warning(monkeypatch):
    """A slow machine must not warn of a long audit: warnings are errors."""
    monkeypatch.setattr("decayax._audit.follow.WARN_AFTER_SECONDS", math.inf)


def leaf_of(optimizer, params=ONE, **options):
    return dx.audit(optimizer, params, **options).leaves[0]


def rule(function):
    """An optimizer without state: function(u, p) -> the update of a leaf."""
    return optax.stateless(
        lambda updates, params: jax.tree.map(function, updates, params)
    )


def kinds(audit):
    return [finding.kind for finding in audit.findings]


@functools.cache
def of_a_factory():
    """The audit of a factory; two tests share it."""
    return dx.audit(lambda lr: dx.adamw(lr, weight_decay=WD, mask=MASK), PARAMS)


# --- rates --------------------------------------------------------------------------


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


def test_a_rate_below_the_resolution_of_float32_parameters():
    """1 − 3e-8 is 1 in float32: the derivative is summed over the updates."""
    leaf = leaf_of(optax.adamw(3e-4, weight_decay=1e-4))
    assert (leaf.mode, leaf.rate) == ("uniform", pytest.approx(3e-8, rel=1e-3))


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.7])
def test_strong_decays(rate):
    """After 200 steps, retention − 1 is −1 to the last digit."""
    leaf = leaf_of(optax.chain(optax.adam(LR), dx.independent_decay(rate)))
    assert (leaf.mode, leaf.rate) == ("uniform", pytest.approx(rate, rel=1e-4))
    assert leaf.rate_from_difference == pytest.approx(rate, rel=1e-3)


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


def test_whether_the_rate_follows_the_learning_rate():
    leaves = of_a_factory().leaves
    follows = {leaf.path: leaf.follows_learning_rate for leaf in leaves}
    assert follows == {"dense/bias": None, "dense/kernel": True, "norm/scale": None}
    independent = lambda lr: optax.chain(optax.adam(lr), dx.independent_decay(1e-4))  # noqa: E731
    leaf = leaf_of(independent, learning_rate=0.1)
    assert leaf.follows_learning_rate is False
    assert leaf.rate == pytest.approx(1e-4, rel=1e-4)
    assert of_mistake("scale-dependent").leaves[0].follows_learning_rate is None


# --- in Optax's wrappers ------------------------------------------------------------


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


@pytest.mark.needs_extras
def test_models_of_flax_and_equinox():
    import equinox as eqx
    import flax.linen as nn
    from flax import nnx

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        linen = nn.Dense(4).init(KEY, jnp.ones((1, 3)))["params"]
        state = nnx.state(nnx.Linear(3, 4, rngs=nnx.Rngs(0)), nnx.Param)
        module = eqx.filter(eqx.nn.Linear(3, 4, key=KEY), eqx.is_array)
    for params in (linen, state, nnx.as_pure(state), module):
        optimizer = dx.adamw(LR, weight_decay=WD, mask=MASK)
        audit = dx.audit(optimizer, params, steps=25, gradient_scales=(1.0,))
        modes = {leaf.path: leaf.mode for leaf in audit.leaves}
        assert sorted(modes.values()) == ["none", "uniform"], modes
        assert modes["bias"] == "none"


# --- planted mistakes ---------------------------------------------------------------

BF16 = jax.tree.map(lambda x: x.astype(jnp.bfloat16), ONE)
MISTAKES = {
    "growth": (
        optax.chain(optax.rmsprop(LR), optax.add_decayed_weights(WD * LR)),
        ONE,
        "the weights of kernel grow by a fraction of 0.0001 per step. The decay has",
    ),
    "rate of 1 or more": (
        optax.chain(optax.adam(LR), dx.independent_decay(1.5)),
        ONE,
        "the rate of kernel is 1.5 per step",
    ),
    "gradient-dependent": (
        L2_ADAM,
        ONE,
        "the decay of kernel depends on the gradients. Rates of kernel: ",
    ),
    "lost in rounding": (
        optax.adamw(LR, weight_decay=WD),
        BF16,
        "rounding to bfloat16 removes more than half of the decay of kernel",
    ),
    "decay without gradient": (
        optax.chain(
            optax.masked(optax.set_to_zero(), {"a": True, "b": False}),
            optax.adamw(LR, weight_decay=WD),
        ),
        {"a": ONE["kernel"], "b": ONE["kernel"]},
        "these parameters get no gradient, but decay: a.",
    ),
    "biases or norms decay": (
        optax.adamw(LR, weight_decay=WD),
        PARAMS,
        "these biases or norm scales decay: dense/bias, norm/scale.",
    ),
    "nothing decays": (
        optax.flatten(
            optax.adamw(
                LR,
                weight_decay=WD,
                mask=lambda p: jax.tree.map(lambda x: x.ndim > 1, p),
            )
        ),
        ONE,
        "a weight decay was given (0.1), but no parameter decays.",
    ),
    "two decays at once": (
        optax.chain(
            optax.add_decayed_weights(0.2), optax.sgd(LR), dx.independent_decay(1e-4)
        ),
        ONE,
        "the optimizer contains 2 weight decays (0.0001, 0.2)",
    ),
    "scale-dependent": (
        optax.lamb(LR, weight_decay=WD),
        ONE,
        "the decay rate of kernel depends on the size of the weights.",
    ),
}
HARMLESS = ("biases or norms decay", "scale-dependent")


@functools.cache
def of_mistake(kind):
    """The audit of a planted mistake; several tests share it."""
    optimizer, params, _ = MISTAKES[kind]
    return dx.audit(optimizer, params)


@pytest.mark.parametrize("kind", MISTAKES)
def test_planted_mistakes_are_found(kind):
    audit, text = of_mistake(kind), MISTAKES[kind][-1]
    assert kinds(audit) == [kind]
    (finding,) = audit.findings
    assert text in finding.text
    assert HINTS[kind] in finding.hint
    assert finding.serious == (kind not in HARMLESS)
    assert str(finding) in str(audit)
    if finding.serious:
        with pytest.raises(ValueError, match=r"write check\(allow=\['" + kind):
            audit.check()
    audit.check(allow=[kind])


def test_no_findings_without_a_mistake():
    audit = of_a_factory()
    assert audit.findings == ()
    audit.check()
    assert "no problems found" in str(audit)
    assert kinds(dx.audit(optax.adam(LR), PARAMS)) == []


def test_serious_findings_come_first():
    optimizer = optax.chain(
        optax.add_decayed_weights(WD), optax.adam(LR), optax.add_decayed_weights(1e-3)
    )
    found = kinds(dx.audit(optimizer, PARAMS))
    assert found == ["growth", "two decays at once", "biases or norms decay"]


def test_two_decays_with_masks_may_never_meet():
    chain = optax.chain(
        optax.add_decayed_weights(0.1, mask={"a": True, "b": False}),
        optax.add_decayed_weights(0.2, mask={"a": False, "b": True}),
        optax.sgd(LR),
    )
    audit = dx.audit(chain, {"a": ONE["kernel"], "b": ONE["kernel"]})
    assert kinds(audit) == ["two decays at once"]
    audit.check()


def test_without_a_step_nothing_is_known():
    for optimizer in (
        optax.MultiSteps(dx.sgdw(LR, weight_decay=WD), 1000),
        dx.sgdw(0.0, weight_decay=WD),
    ):
        audit = dx.audit(optimizer, ONE, steps=50)
        assert kinds(audit) == ["no step"]
        audit.check()


def test_example_gradients_must_fit():
    with pytest.raises(ValueError, match="must be the same tree.* leaf kernal"):
        dx.audit(optax.adam(LR), ONE, gradients={"kernal": jnp.ones((16, 16))})


def test_example_gradients_show_which_leaves_are_frozen():
    gradients = {
        "dense": {"kernel": jnp.eye(16), "bias": None},
        "norm": {"scale": jnp.zeros(16)},
    }
    audit = dx.audit(optax.adamw(LR, weight_decay=WD), PARAMS, gradients=gradients)
    (finding,) = [f for f in audit.findings if f.kind == "decay without gradient"]
    assert finding.paths == ("dense/bias", "norm/scale")


def test_the_user_may_pass_the_strength():
    hidden = optax.stateless(lambda updates, params: updates)
    assert kinds(dx.audit(hidden, ONE)) == []
    assert kinds(dx.audit(hidden, ONE, weight_decay=0.1)) == ["nothing decays"]


@pytest.mark.parametrize("name", ["lbfgs", "sophia"])
def test_optimizers_that_need_an_objective_are_not_auditable(name):
    make = getattr(optax, name, None) or getattr(contrib, name, None)
    if make is None:
        pytest.skip(f"this optax has no {name}")
    audit = dx.audit(make(LR), ONE)
    assert audit.leaves == ()
    assert kinds(audit) == ["not auditable"]
    with pytest.raises(ValueError, match="extra_args"):
        audit.check()
    assert "not auditable" in str(audit)
    assert "not auditable" in audit._repr_html_()


@pytest.mark.parametrize(
    "params",
    [{}, {"steps": jnp.zeros(3, jnp.int32)}, {"none left": jnp.ones((0, 3))}],
    ids=str,
)
def test_no_weights_are_no_clean_audit(params):
    audit = dx.audit(optax.adamw(LR), params)
    assert kinds(audit) == ["nothing to audit"]
    assert "no problems found" not in str(audit)
    with pytest.raises(ValueError, match="Pass the parameters that the optimizer"):
        audit.check()


def test_the_value_is_made_up_or_given():
    optimizer = contrib.momo(LR, weight_decay=WD)
    for options in ({}, {"extra_args": {"value": jnp.float32(2.0)}}):
        leaf = leaf_of(optimizer, **options)
        assert (leaf.mode, leaf.rate) == ("uniform", pytest.approx(1e-4, rel=1e-2))


# --- inputs and repeatability -------------------------------------------------------


def test_the_params_are_not_changed_and_results_repeat():
    params = jax.tree.map(lambda x: np.array(x), PARAMS)
    before = jax.tree.map(np.copy, params)
    first, second = (dx.audit(L2_ADAM, params) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, params, before)
    assert repr(first) == repr(second)
    for a, b in zip(first.leaves, second.leaves, strict=True):
        assert a == b


def test_few_steps_per_call_give_the_same_rates(monkeypatch):
    """A large model gets fewer steps per compiled call: 1 or 3 instead of 25."""

    def rates():
        audit = dx.audit(L2_ADAM, PARAMS, steps=20, seeds=1)
        return [leaf.by_gradient_scale for leaf in audit.leaves]

    expected = rates()
    for numbers in (1, 1000):
        monkeypatch.setattr("decayax._audit.draws.MAX_NUMBERS_PER_CALL", numbers)
        np.testing.assert_allclose(rates(), expected, rtol=1e-5)


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


def test_numbers_are_cut_into_leaves_in_order():
    from decayax._audit.draws import count_numbers, scaled_tree

    kinds = [((2,), jnp.float32), ((3,), jnp.int32), ((2, 2), jnp.bfloat16)]
    leaves = [jax.ShapeDtypeStruct(*kind) for kind in kinds]
    leaves += [None, jax.ShapeDtypeStruct((2,), jnp.complex64)]
    assert count_numbers(leaves) == 2 + 4 + 2 * 2
    scales = {("0",): 2.0, ("2",): 1 / 3, ("4",): 10.0}
    numbers = jnp.arange(10.0)
    first, integers, half, masked, both = scaled_tree(numbers, leaves, scales.get)
    np.testing.assert_array_equal(first, [0, 2])
    np.testing.assert_array_equal(integers, [0, 0, 0])
    # 5/3 would round to another number if 1/3 was rounded to bfloat16 first.
    thirds = jnp.asarray([[2 / 3, 1], [4 / 3, 5 / 3]], jnp.bfloat16)
    np.testing.assert_array_equal(half, thirds)
    assert masked is None
    np.testing.assert_array_equal(both, [60 + 80j, 70 + 90j])
    dtypes = [x.dtype for x in (first, integers, half, both)]
    assert dtypes == [jnp.float32, jnp.int32, jnp.bfloat16, jnp.complex64]


def test_shapes_are_enough_and_large_models_are_sampled():
    shapes = {
        "wte": jax.ShapeDtypeStruct((1_000_000, 1000), jnp.float32),
        "bias": jax.ShapeDtypeStruct((8,), jnp.float32),
    }
    audit = dx.audit(dx.adamw(LR, weight_decay=WD, mask=MASK), shapes)
    assert audit.sampled
    assert audit.elementwise
    bias, wte = audit.leaves
    assert (wte.shape, wte.mode, bias.mode) == ((1_000_000, 1000), "uniform", "none")
    assert wte.rate == pytest.approx(1e-4, rel=1e-5)
    assert "a sample of each leaf" in str(audit)


@pytest.mark.parametrize(
    ("leaves", "shape", "expected"), [(1, (1000, 1000), 3844), (600, (16, 16), 64)]
)
def test_the_sample_of_each_leaf(leaves, shape, expected):
    """At most 4096 weights of each leaf and 2**15 of all, but at least 64 of each."""
    from decayax._audit.plan import make_plan

    params = {str(i): jax.ShapeDtypeStruct(shape, jnp.float32) for i in range(leaves)}
    plan = make_plan(optax.sgd(LR), params, None, None, sample=True, steps=1)
    assert set(plan.weight_counts()) == {expected}


def by_number(updates, params):
    """A rate of 0.1/fan-in: the shape is a number in the program."""
    return jax.tree.map(lambda u, p: -LR * u - 0.1 / p.shape[0] * p, updates, params)


def by_row(updates, params):
    """The rows from 300 on grow."""

    def leaf(u, p):
        grows = jnp.arange(p.shape[0])[:, None] >= 300
        return -LR * u + jnp.where(grows, 1e-3, -1e-3) * p

    return jax.tree.map(leaf, updates, params)


@pytest.mark.parametrize("rule", [by_number, by_row])
def test_a_rule_that_depends_on_the_shape_is_not_sampled(rule):
    big = {"kernel": jnp.ones((512, 64))}
    audit = dx.audit(optax.stateless(rule), big, steps=25, seeds=1)
    assert not audit.sampled
    if rule is by_number:
        assert audit.leaves[0].rate == pytest.approx(0.1 / 512, rel=1e-4)


def test_rates_that_differ_by_weight_are_not_gradient_dependent():
    rates = 1e-3 * np.linspace(0.5, 1.5, 16, dtype=np.float32)[:, None]
    part = optax.stateless(
        lambda updates, params: jax.tree.map(
            lambda u, p: -LR * u - rates * p, updates, params
        )
    )
    leaf = leaf_of(part)
    assert leaf.mode == "uniform"
    assert leaf.spread == pytest.approx((0.55e-3, 1.45e-3), rel=0.1)


def test_leaves_of_few_weights_or_none():
    params = {"one": jnp.ones(()), "two": jnp.ones(2), "none": jnp.zeros((0, 3)), **ONE}
    audit = dx.audit(optax.lamb(1e-2), params)
    assert {leaf.mode for leaf in audit.leaves} == {"none"}
    audit = dx.audit(dx.adamw(LR, weight_decay=WD), params)
    modes = {leaf.path: leaf.mode for leaf in audit.leaves}
    assert modes == {
        "kernel": "uniform",
        "none": "none",
        "one": "uniform",
        "two": "uniform",
    }


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


def test_an_optimizer_that_decides_by_shape_sees_the_whole_shape():
    """On a sample, a mask by size decides differently: all weights are measured."""
    big = {"kernel": jnp.ones((128, 64)), "small": jnp.ones((8, 8))}
    mask = lambda p: jax.tree.map(lambda x: x.size > 5000, p)  # noqa: E731
    audit = dx.audit(dx.sgdw(LR, weight_decay=WD, mask=mask), big, steps=25, seeds=1)
    assert not audit.sampled
    assert [leaf.mode for leaf in audit.leaves] == ["uniform", "none"]


def test_the_weights_have_the_size_of_the_parameters():
    """The rate of lamb is proportional to it."""
    small, large = (
        leaf_of(optax.lamb(LR, weight_decay=0.01), {"kernel": s * ONE["kernel"]}).rate
        for s in (0.03, 0.3)
    )
    assert large == pytest.approx(10 * small, rel=0.2)


def test_a_long_audit_warns_how_long_it_takes(monkeypatch):
    from decayax._audit import measure

    monkeypatch.setattr(measure, "WARN_AFTER_SECONDS", 0.0)
    with pytest.warns(
        UserWarning, match=r"audit: about \d+ s to go, .*mixes weights.*sample=True"
    ):
        dx.audit(optax.lamb(LR), ONE, steps=25)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dx.audit(optax.adamw(LR), {"kernel": jnp.ones((512, 512))}, steps=25)


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


@pytest.mark.parametrize(
    ("dtype", "rate", "error"), [("bfloat16", 1e-4, 0.1), ("float16", 1e-5, 0.3)]
)
def test_how_much_decay_survives_16_bits(dtype, rate, error):
    params = {"kernel": jax.ShapeDtypeStruct((64, 32), dtype)}
    plain = optax.adamw(1e-3, eps=1e-3, weight_decay=rate / 1e-3)
    options = {"gradient_scales": (1.0,), "seeds": 1}
    lost = leaf_of(plain, params, **options)
    assert abs(lost.surviving_fraction) < 0.2
    for wrapper in (dx.with_stochastic_rounding, dx.with_compensation):
        audit = dx.audit(wrapper(plain), params, **options)
        (leaf,) = audit.leaves
        assert leaf.surviving_fraction == pytest.approx(1.0, abs=error)
        assert leaf.rate == pytest.approx(rate, rel=1e-2)
        assert not audit.findings


def test_a_surviving_fraction_below_the_noise_is_unknown():
    params = {"kernel": jax.ShapeDtypeStruct((64, 64), "bfloat16")}
    optimizer = dx.with_stochastic_rounding(optax.adamw(3e-4, weight_decay=1e-4))
    audit = dx.audit(optimizer, params)
    assert audit.leaves[0].rate == pytest.approx(3e-8, rel=1e-2)
    assert audit.leaves[0].surviving_fraction is None
    assert not audit.findings


def test_the_trace_of_a_probe():
    """The weights shrink as 0.7^t: a step relative to dθ_0 would not stay the same."""
    from decayax._audit.probe import (
        difference_probe,
        follow,
        jvp_probe,
        ProbedOptimizer,
    )

    optimizer = rule(lambda u, p: -0.3 * p - 0.1 * jnp.sign(u) * p)
    probed = ProbedOptimizer(optimizer, lambda step: {})
    steps = np.arange(1, 11)
    for probe in (jvp_probe(probed), difference_probe(probed)):
        (trace,) = follow(probe, ONE, KEY, 0.0, 10)
        np.testing.assert_allclose(trace.relative_step, 0.3, rtol=1e-3)
        np.testing.assert_allclose(trace.change, 0.7**steps - 1, rtol=1e-4)
        for weight in trace.per_weight.T:
            np.testing.assert_allclose(weight, 0.7**steps - 1, rtol=1e-3)
        # With gradients, half of the weights lose 0.4 and the others 0.2.
        (noisy,) = follow(probe, ONE, KEY, 1.0, 10)
        np.testing.assert_allclose(noisy.relative_step, 0.1**0.5, rtol=0.15)


# --- the strength that the optimizer was given --------------------------------------


def masked_out(params):
    return jax.tree.map(lambda _: False, params)


GROUPS = {"a": optax.adamw(LR, weight_decay=0.1), "b": optax.adamw(LR)}


def schedule_of_a_user():
    """A closure that holds a module, and a `weight_decay` that is not one of Optax."""
    weight_decay, module = WD, np
    return lambda step: module.float32(LR) * (1.0 + 0.0 * weight_decay)


DECLARED = {
    "optax": (optax.adamw(LR, weight_decay=WD), (WD,), 1, False),
    "decayax": (dx.sgdw(LR, weight_decay=WD), (WD,), 1, False),
    "a mask": (optax.adamw(LR, weight_decay=WD, mask=masked_out), (WD,), 1, True),
    "a NumPy array": (optax.adamw(LR, weight_decay=np.float32(0.5)), (0.5,), 1, False),
    "a JAX array": (optax.adamw(LR, weight_decay=jnp.array(0.5)), (0.5,), 1, False),
    "a schedule": (dx.adamw(LR, weight_decay=lambda t: 0.0 * t), (math.nan,), 1, False),
    "a strength of 0": (optax.adamw(LR, weight_decay=0.0), (), 0, False),
    "inject_hyperparams": (
        optax.inject_hyperparams(optax.adamw)(LR, weight_decay=WD),
        (WD,),
        1,
        False,
    ),
    "weight_decay_rate": (
        optax.inject_hyperparams(
            lambda weight_decay_rate: optax.adafactor(
                LR, weight_decay_rate=weight_decay_rate
            )
        )(weight_decay_rate=WD),
        (WD,),
        1,
        False,
    ),
    "adam_weight_decay": (
        optax.inject_hyperparams(
            lambda adam_weight_decay: optax.adamw(LR, weight_decay=adam_weight_decay)
        )(adam_weight_decay=WD),
        (WD,),
        1,
        False,
    ),
    "MultiSteps": (optax.MultiSteps(optax.adamw(LR, weight_decay=WD), 2), (WD,), 1, 0),
    "methods": (
        optax.MultiSteps(optax.adamw(LR, weight_decay=WD), 2).gradient_transformation(),
        (WD,),
        1,
        False,
    ),
    "two of one strength": (
        optax.chain(
            optax.add_decayed_weights(WD), optax.sgd(LR), dx.independent_decay(WD)
        ),
        (WD, WD),
        2,
        False,
    ),
    "one in each group": (
        optax.partition(GROUPS, {"kernel": "a"}),
        (1e-4, 0.1),
        1,
        False,
    ),
    "one in each group and one for all": (
        optax.chain(
            optax.partition(GROUPS, {"kernel": "a"}), dx.independent_decay(0.2)
        ),
        (1e-4, 0.1, 0.2),
        2,
        False,
    ),
    "a function of the user": (optax.adam(schedule_of_a_user()), (), 0, False),
}


@pytest.mark.parametrize("name", DECLARED)
def test_the_strength_is_read_from_closures(name):
    """Optax's closures are private. If they change, this test says so."""
    from decayax._audit.declared import declared_decay

    optimizer, strengths, max_per_parameter, masked = DECLARED[name]
    declared = declared_decay(optimizer)
    assert declared.strengths == pytest.approx(strengths, nan_ok=True), (
        "The closures of Optax have changed: see decayax/_audit/declared.py. The audit "
        "misses the findings 'nothing decays' and 'two decays at once' until it reads "
        "the new ones."
    )
    assert declared.max_per_parameter == max_per_parameter
    assert declared.masked == masked


@pytest.mark.parametrize(
    ("max_per_parameter", "masked", "serious"),
    [(1, False, []), (2, False, [True]), (2, True, [False])],
)
def test_two_decays_are_a_finding_if_they_can_meet(max_per_parameter, masked, serious):
    from decayax._audit.declared import DeclaredDecay
    from decayax._audit.findings import find

    declared = DeclaredDecay((1e-4, 1e-4), max_per_parameter, masked)
    findings = find(of_a_factory().leaves, declared, weight_decay=None)
    assert [finding.serious for finding in findings] == serious
    for finding in findings:
        assert "contains 2 weight decays (0.0001, 0.0001)" in finding.text


def test_the_strength_that_a_factory_gives_is_found():
    factory = lambda lr: optax.adamw(lr, weight_decay=WD, mask=masked_out)  # noqa: E731
    audit = dx.audit(factory, ONE, steps=25)
    assert kinds(audit) == ["nothing decays"]


def test_a_strength_may_be_a_schedule():
    audit = dx.audit(dx.adamw(LR, weight_decay=lambda t: 0.0 * t), ONE, steps=25)
    assert kinds(audit) == ["nothing decays"]
    assert "a weight decay was given (a schedule)" in audit.findings[0].text


# --- details, each found by a mutation ----------------------------------------------


def test_the_gradient_scales_may_be_in_any_order():
    scales = (100.0, 0.01, 1.0)
    leaf = leaf_of(L2_ADAM, gradient_scales=scales)
    assert leaf.rate == of_mistake("gradient-dependent").leaves[0].rate
    assert [scale for scale, _ in leaf.by_gradient_scale] == sorted(scales)


def test_a_second_seed_shows_a_dependence_on_the_gradients():
    """With one scale, the rates of single weights differ from seed to seed."""
    one = leaf_of(L2_ADAM, gradient_scales=(1.0,), seeds=1)
    two = leaf_of(L2_ADAM, gradient_scales=(1.0,), seeds=2)
    assert (one.mode, two.mode) == ("scale-dependent", "gradient-dependent")


def test_without_a_decay_at_the_middle_scale_the_rate_follows_nothing():
    make = lambda lr: rule(  # noqa: E731
        lambda u, p: -lr * u - jnp.where(jnp.abs(u).max() > 10, lr, 0.0) * p
    )
    leaf = leaf_of(make)
    assert (leaf.mode, leaf.follows_learning_rate) == ("gradient-dependent", None)


def test_only_a_decay_can_be_lost_in_rounding():
    params = {"kernel": BF16["kernel"], "bias": jnp.zeros(16, jnp.bfloat16)}
    bias, kernel = dx.audit(optax.adamw(LR, weight_decay=WD, mask=MASK), params).leaves
    assert bias.surviving_fraction is None
    assert kernel.surviving_fraction < 0.5


def test_complex_weights():
    """Only the real part decays, so about half of each weight."""
    params = {"kernel": ONE["kernel"].astype(jnp.complex64)}
    leaf = leaf_of(rule(lambda u, p: -LR * u - 1e-3 * p.real), params)
    assert (leaf.mode, leaf.dtype) == ("uniform", "complex64")
    assert leaf.rate == pytest.approx(0.5e-3, rel=0.15)
    assert leaf.spread == pytest.approx((0.0, 1e-3), abs=1e-4)


def test_integers_and_masked_leaves_are_skipped():
    params = {"a": jnp.int32(3), "kernel": ONE["kernel"], "none": None}
    mask = {"a": False, "kernel": True, "none": False}
    (leaf,) = dx.audit(dx.sgdw(LR, weight_decay=WD, mask=mask), params).leaves
    assert (leaf.path, leaf.mode) == ("kernel", "uniform")
    assert leaf.rate == pytest.approx(1e-4, rel=1e-4)


def test_the_finding_names_all_missing_arguments():
    def update(updates, state, params=None, *, value, loss):
        return updates, state

    init = lambda params: optax.EmptyState()  # noqa: E731
    (finding,) = dx.audit(
        optax.GradientTransformationExtraArgs(init, update), ONE
    ).findings
    assert "'value' and 'loss'" in finding.text


@pytest.mark.parametrize("steps", [1, 30])
def test_any_number_of_steps(steps):
    leaf = leaf_of(dx.sgdw(LR, weight_decay=WD), steps=steps)
    assert len(leaf.over_time) == steps
    assert leaf.over_time == pytest.approx([1e-4] * steps, rel=1e-3)
    assert leaf.depends_on_gradient


@jax.custom_vjp
def only_backwards(x):
    return x


only_backwards.defvjp(lambda x: (x, None), lambda _, g: (g,))


@pytest.mark.parametrize(
    "itself", [only_backwards, lambda x: x + jnp.sqrt(0.0 * x)], ids=["none", "nan"]
)
def test_without_a_derivative_the_difference_gives_the_rate(itself):
    leaf = leaf_of(rule(lambda u, p: -LR * u - 1e-3 * itself(p)))
    assert math.isnan(leaf.rate_from_jvp)
    assert leaf.rate == leaf.rate_from_difference == pytest.approx(1e-3, rel=1e-3)
    assert leaf.spread == pytest.approx((1e-3, 1e-3), rel=1e-2)
    assert leaf.mode == "uniform"


def test_a_decay_of_half_of_the_weights_is_uniform():
    """Each weight is compared with itself under other gradients."""
    leaf = leaf_of(rule(lambda u, p: -1e-5 * u - 1e-3 * jnp.maximum(p, 0)))
    assert leaf.mode == "uniform"


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


def test_growth_has_a_doubling_time():
    audit = of_mistake("growth")
    (leaf,) = audit.leaves
    assert math.isnan(leaf.timescale_steps)
    assert math.isnan(leaf.half_life_steps)
    assert "doubles in 6.93e+03" in str(audit)


def test_a_rate_of_1_or_more_has_half_life_0():
    (leaf,) = of_mistake("rate of 1 or more").leaves
    assert leaf.half_life_steps == 0.0
    assert kinds(dx.audit(dx.independent_decay(1.0), ONE)) == ["rate of 1 or more"]


def test_an_overflow_does_not_survive():
    half = jax.tree.map(lambda x: x.astype(jnp.float16), ONE)
    audit = dx.audit(dx.sgdw(1e5, weight_decay=1e-9), half)
    assert kinds(audit) == ["lost in rounding"]
    assert math.isnan(audit.leaves[0].surviving_fraction)
    assert "overflows" in str(audit)


HINTS = {
    "growth": "After the learning rate, updates are negative.",
    "rate of 1 or more": "Pass a smaller weight_decay.",
    "gradient-dependent": "dx.decoupled_decay",
    "lost in rounding": "rounds back to the same weight",
    "decay without gradient": "place the freeze after the decay",
    "biases or norms decay": "no_bias_or_norm",
    "nothing decays": "dx.masks.describe",
    "two decays at once": "Remove one",
    "scale-dependent": "trust ratio",
}


def test_one_frozen_leaf_is_not_an_audit_without_steps():
    params = {"a": ONE["kernel"], "b": ONE["kernel"]}
    audit = dx.audit(
        rule(lambda u, p: -LR * u),
        params,
        gradients={"a": params["a"], "b": None},
        weight_decay=0.1,
    )
    assert kinds(audit) == ["nothing decays"]


def test_a_column_is_shown_if_one_leaf_needs_it():
    optimizer = optax.chain(optax.add_decayed_weights(WD, mask=MASK), optax.adam(LR))
    header = str(dx.audit(optimizer, PARAMS, steps=25)).splitlines()[0]
    assert "at |g|=0.01" in header
    make = lambda lr: optax.chain(optax.sgd(lr), dx.independent_decay(1e-4))  # noqa: E731
    assert str(dx.audit(make, ONE, steps=25)).splitlines()[1].endswith("  no")


def test_findings_are_escaped_for_notebooks():
    audit = dx.audit(L2_ADAM, {"<b>": ONE["kernel"]}, steps=25)
    assert "<b>" not in audit._repr_html_()


def test_the_difference_is_central():
    """The difference of θ³ is (3 + h²)θ³ and not (3 + 3h + h²)θ³."""
    leaf = leaf_of(rule(lambda u, p: -LR * u - 1e-4 * p**3), steps=25)
    assert leaf.rate_from_difference == pytest.approx(leaf.rate_from_jvp, rel=0.02)


def test_a_state_may_change_its_dtype():
    def update(updates, state, params):
        new = jax.tree.map(lambda s, u: s.astype(jnp.float32) + u, state, updates)
        decayed = jax.tree.map(lambda u, p: -LR * (u + WD * p), updates, params)
        return decayed, new

    init = lambda p: jax.tree.map(lambda x: x.astype(jnp.bfloat16), p)  # noqa: E731
    leaf = leaf_of(optax.GradientTransformation(init, update))
    assert (leaf.mode, leaf.rate) == ("uniform", pytest.approx(1e-4, rel=1e-4))


def test_a_strong_decay_of_one_weight():
    leaf = leaf_of(dx.independent_decay(0.1), {"one": jnp.ones(())})
    assert (leaf.mode, leaf.rate) == ("uniform", pytest.approx(0.1, rel=1e-4))


def test_weights_that_cross_0_in_several_steps():
    """Rates of 0.5 and 1.5 leave −0.25: the loss is 1.25 in two steps."""
    leaf = leaf_of(dx.independent_decay(lambda step: 0.5 + step), steps=2)
    assert leaf.rate == pytest.approx(1.25 / 2, rel=1e-4)


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


def test_the_finding_states_the_smallest_fraction():
    params = {"a": 0.1 * BF16["kernel"], "b": 0.3 * BF16["kernel"], **BF16}
    audit = dx.audit(dx.sgdw(LR, weight_decay=WD), params)
    a, b, kernel = (leaf.surviving_fraction for leaf in audit.leaves)
    assert kernel < 0.1 < b < 0.5 < 0.9 < a
    (finding,) = audit.findings
    assert "of the decay of b, kernel. The smallest" in finding.text
    assert "fraction that survives is 0%." in finding.text
    assert "overflows" not in str(audit)
