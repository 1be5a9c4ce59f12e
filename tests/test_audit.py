"""The audit: modes, rates and findings of real optimizers, and of planted mistakes."""

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
def patient(monkeypatch):
    """On a slow machine, too, no warning of how long it takes."""
    monkeypatch.setattr("decayax._audit.measure.LONG", math.inf)


def leaf_of(optimizer, params=ONE, **options):
    return dx.audit(optimizer, params, **options).leaves[0]


def kinds(audit):
    return [finding.kind for finding in audit.findings]


@functools.cache
def of_a_factory():
    """The audit of an optimizer by its learning rate, for all who look at it."""
    return dx.audit(lambda lr: dx.adamw(lr, weight_decay=WD, mask=MASK), PARAMS)


# --- rates --------------------------------------------------------------------------


def test_the_rate_of_a_decoupled_decay_is_exact_at_every_scale():
    leaf = leaf_of(optax.adamw(LR, weight_decay=WD))
    assert leaf.mode == "uniform"
    assert [scale for scale, _ in leaf.by_gradient_scale] == [0.01, 1.0, 100.0]
    assert [scale for scale, _ in leaf.by_weight_scale] == [0.1, 1.0, 10.0]
    for _, rate in (*leaf.by_gradient_scale, *leaf.by_weight_scale):
        assert rate == pytest.approx(1e-4, rel=1e-5)
    assert leaf.intended == pytest.approx(1e-4, rel=1e-5)
    assert leaf.realised == pytest.approx(1e-4, rel=1e-3)
    assert leaf.spread == pytest.approx((1e-4, 1e-4), rel=1e-4)
    assert leaf.half_life_steps == pytest.approx(math.log(2) / 1e-4, rel=1e-3)
    assert leaf.timescale_steps == pytest.approx(1e4, rel=1e-4)
    assert leaf.answers


def test_a_rate_that_float32_parameters_cannot_show():
    """1 − 3e-8 is 1 in float32: the derivative is summed over the updates."""
    leaf = leaf_of(optax.adamw(3e-4, weight_decay=1e-4))
    assert (leaf.mode, leaf.rate) == ("uniform", pytest.approx(3e-8, rel=1e-3))


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.7])
def test_strong_decays(rate):
    """Whose 1 − kept is 1 to the last digit after 200 steps."""
    leaf = leaf_of(optax.chain(optax.adam(LR), dx.independent_decay(rate)))
    assert (leaf.mode, leaf.rate) == ("uniform", pytest.approx(rate, rel=1e-4))
    assert leaf.realised == pytest.approx(rate, rel=1e-3)


def test_l2_through_a_preconditioner():
    """λ/√v: as 1/|g| for large gradients, and cancelled by small ones."""
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
    kept = np.prod(1 - np.array(expected))
    assert (1 - leaf.rate) ** 100 == pytest.approx(kept, rel=1e-4)


def test_sign_methods_have_no_derivative_but_a_rate():
    leaf = leaf_of(optax.chain(optax.add_decayed_weights(WD), optax.sign_sgd(LR)))
    assert leaf.intended == 0.0
    # E sign(g + λθ) = erf(λθ/√2) ≈ λθ √(2/π)
    assert (
        leaf.rate
        == leaf.realised
        == pytest.approx(1e-4 * math.sqrt(2 / math.pi), rel=0.1)
    )
    assert leaf.mode == "gradient-dependent"


@pytest.mark.parametrize("learning_rate", [1e-3, 0.03])
def test_steps_in_proportion_to_the_weights_are_no_decay(learning_rate):
    for optimizer in (optax.lamb(learning_rate), optax.lars(learning_rate)):
        audit = dx.audit(optimizer, PARAMS)
        assert {leaf.mode for leaf in audit.leaves} == {"none"}
        assert {leaf.rate for leaf in audit.leaves} == {0.0}


def test_it_follows_the_learning_rate_or_not():
    leaves = of_a_factory().leaves
    follows = {leaf.path: leaf.follows_learning_rate for leaf in leaves}
    assert follows == {"dense/bias": None, "dense/kernel": True, "norm/scale": None}
    independent = lambda lr: optax.chain(optax.adam(lr), dx.independent_decay(1e-4))  # noqa: E731
    leaf = leaf_of(independent, learning_rate=0.1)
    assert leaf.follows_learning_rate is False
    assert leaf.rate == pytest.approx(1e-4, rel=1e-4)
    assert leaf_of(dx.adamw(LR)).follows_learning_rate is None


# --- in Optax's wrappers ------------------------------------------------------------


def test_per_call_of_update():
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
    "told": dx.with_decay(
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
        audit = dx.audit(dx.adamw(LR, weight_decay=WD, mask=MASK), params)
        modes = {leaf.path: leaf.mode for leaf in audit.leaves}
        assert sorted(modes.values()) == ["none", "uniform"], modes
        assert modes["bias"] == "none"


# --- planted mistakes ---------------------------------------------------------------

BF16 = jax.tree.map(lambda x: x.astype(jnp.bfloat16), ONE)
MISTAKES = {
    "growth": (
        optax.chain(optax.rmsprop(LR), optax.add_decayed_weights(WD * LR)),
        ONE,
        "kernel grow by 0.0001: the decay has the wrong sign",
    ),
    "rate of 1 or more": (
        optax.chain(optax.adam(LR), dx.independent_decay(1.5)),
        ONE,
        "kernel lose 1.5 of themselves",
    ),
    "gradient-dependent": (L2_ADAM, ONE, "depends on the gradients: of kernel"),
    "lost in rounding": (
        optax.adamw(LR, weight_decay=WD),
        BF16,
        "survives in bfloat16",
    ),
    "decay without gradient": (
        optax.chain(
            optax.masked(optax.set_to_zero(), {"a": True, "b": False}),
            optax.adamw(LR, weight_decay=WD),
        ),
        {"a": ONE["kernel"], "b": ONE["kernel"]},
        "a get no gradient and decay all the same",
    ),
    "biases or norms decay": (
        optax.adamw(LR, weight_decay=WD),
        PARAMS,
        "dense/bias, norm/scale decay, which are biases or norm scales",
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
        "a weight decay was given (0.1), and no parameter decays",
    ),
    "two decays at once": (
        optax.chain(
            optax.add_decayed_weights(0.2), optax.sgd(LR), dx.independent_decay(1e-4)
        ),
        ONE,
        "the optimizer holds 2 decays (0.0001, 0.2)",
    ),
    "scale-dependent": (
        optax.lamb(LR, weight_decay=WD),
        ONE,
        "depends on the size of the weights",
    ),
}
HARMLESS = ("biases or norms decay", "scale-dependent")


@functools.cache
def of_mistake(kind):
    """The audit of a planted mistake, made once for all who look at it."""
    optimizer, params, _ = MISTAKES[kind]
    return dx.audit(optimizer, params)


@pytest.mark.parametrize("kind", MISTAKES)
def test_planted_mistakes_are_found(kind):
    audit, text = of_mistake(kind), MISTAKES[kind][-1]
    assert kinds(audit) == [kind]
    (finding,) = audit.findings
    assert text in finding.text
    assert CURES[kind] in finding.cure
    assert finding.serious == (kind not in HARMLESS)
    assert str(finding) in str(audit)
    if finding.serious:
        with pytest.raises(ValueError, match=r"write check\(allow=\['" + kind):
            audit.check()
    audit.check(allow=[kind])


def test_no_mistake_no_finding():
    audit = dx.audit(dx.adamw(LR, weight_decay=WD, mask=MASK), PARAMS)
    assert audit.findings == ()
    audit.check()
    assert "nothing to find fault with" in str(audit)
    assert kinds(dx.audit(optax.adam(LR), PARAMS)) == []


def test_findings_stand_most_serious_first():
    optimizer = optax.chain(
        optax.add_decayed_weights(WD), optax.adam(LR), optax.add_decayed_weights(1e-3)
    )
    found = kinds(dx.audit(optimizer, PARAMS))
    assert found == ["growth", "two decays at once", "biases or norms decay"]


def test_what_the_users_own_functions_hold_is_no_clue():
    import numpy as module  # a schedule may remember a module, or a configuration

    config = {"learning_rate": LR, "weight_decay": WD}
    schedule = lambda step: module.float32(1.0) * config["learning_rate"]  # noqa: E731
    assert kinds(dx.audit(optax.adam(schedule), ONE)) == []
    decaying = optax.adamw(schedule, weight_decay=config["weight_decay"])
    assert kinds(dx.audit(decaying, ONE)) == []


def test_two_decays_with_masks_may_never_meet():
    chain = optax.chain(
        optax.add_decayed_weights(0.1, mask={"a": True, "b": False}),
        optax.add_decayed_weights(0.2, mask={"a": False, "b": True}),
        optax.sgd(LR),
    )
    audit = dx.audit(chain, {"a": ONE["kernel"], "b": ONE["kernel"]})
    assert kinds(audit) == ["two decays at once"]
    audit.check()


def test_no_step_is_no_statement():
    for optimizer in (
        optax.MultiSteps(dx.sgdw(LR, weight_decay=WD), 1000),
        dx.sgdw(0.0, weight_decay=WD),
    ):
        audit = dx.audit(optimizer, ONE, steps=50)
        assert kinds(audit) == ["no step"]
        audit.check()


def test_example_gradients_must_fit():
    with pytest.raises(ValueError, match="gradients and params are different trees"):
        dx.audit(optax.adam(LR), ONE, gradients={"kernal": jnp.ones((16, 16))})


def test_example_gradients_show_what_is_frozen():
    gradients = {
        "dense": {"kernel": jnp.ones((16, 16)), "bias": None},
        "norm": {"scale": jnp.zeros(16)},
    }
    audit = dx.audit(optax.adamw(LR, weight_decay=WD), PARAMS, gradients=gradients)
    (finding,) = [f for f in audit.findings if f.kind == "decay without gradient"]
    assert finding.paths == ("dense/bias", "norm/scale")


def test_a_strength_that_cannot_be_seen_may_be_told():
    hidden = optax.stateless(lambda updates, params: updates)
    assert kinds(dx.audit(hidden, ONE)) == []
    assert kinds(dx.audit(hidden, ONE, weight_decay=0.1)) == ["nothing decays"]


@pytest.mark.parametrize("name", ["lbfgs", "sophia"])
def test_what_needs_an_objective_is_not_auditable(name):
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


def test_a_value_is_made_up_or_given():
    optimizer = contrib.momo(LR, weight_decay=WD)
    for options in ({}, {"extra_args": {"value": jnp.float32(2.0)}}):
        leaf = leaf_of(optimizer, **options)
        assert (leaf.mode, leaf.rate) == ("uniform", pytest.approx(1e-4, rel=1e-2))


# --- what it does to the caller -----------------------------------------------------


def test_nothing_of_the_callers_is_changed_and_results_repeat():
    params = jax.tree.map(lambda x: np.array(x), PARAMS)
    before = jax.tree.map(np.copy, params)
    first, second = (dx.audit(L2_ADAM, params) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, params, before)
    assert repr(first) == repr(second)
    for a, b in zip(first.leaves, second.leaves, strict=True):
        assert a == b


@pytest.mark.parametrize("at_once", [1, 1000])
def test_steps_in_one_call_are_as_few_as_memory_asks_for(at_once, monkeypatch):
    def rates():
        audit = dx.audit(L2_ADAM, PARAMS, steps=60, seeds=1)
        return [leaf.by_gradient_scale for leaf in audit.leaves]

    expected = rates()
    monkeypatch.setattr("decayax._audit.noise.AT_ONCE", at_once)
    np.testing.assert_allclose(rates(), expected, rtol=1e-5)


def test_leaves_that_only_become_arrays():
    class Duck:
        shape, dtype = (4, 4), np.dtype(np.float32)

        def __array__(self, dtype=None, copy=None):
            return np.full(self.shape, 3.0, dtype or self.dtype)

    lamb = optax.lamb(LR, weight_decay=WD)
    (duck,) = dx.audit(lamb, {"kernel": Duck()}, steps=20, seeds=1).leaves
    (array,) = dx.audit(
        lamb, {"kernel": jnp.full((4, 4), 3.0)}, steps=20, seeds=1
    ).leaves
    assert duck == array


def test_numbers_are_cut_into_leaves_in_order():
    from decayax._audit.noise import count, shaped

    kinds = [((2,), jnp.float32), ((3,), jnp.int32), ((2, 2), jnp.bfloat16)]
    leaves = [jax.ShapeDtypeStruct(*kind) for kind in kinds]
    leaves += [None, jax.ShapeDtypeStruct((2,), jnp.complex64)]
    assert count(leaves) == 2 + 4 + 2 * 2
    first, integers, narrow, hole, both = shaped(jnp.arange(10.0), leaves)
    assert integers is None
    assert hole is None
    np.testing.assert_array_equal(first, [0, 1])
    np.testing.assert_array_equal(narrow, [[2, 3], [4, 5]])
    assert narrow.dtype == jnp.float32
    np.testing.assert_array_equal(both, [6 + 8j, 7 + 9j])


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
def test_what_depends_on_the_shape_is_not_sampled(rule):
    big = {"kernel": jnp.ones((512, 64))}
    audit = dx.audit(optax.stateless(rule), big, steps=25, seeds=1)
    assert not audit.sampled
    if rule is by_number:
        assert audit.leaves[0].rate == pytest.approx(0.1 / 512, rel=1e-4)


def test_rates_that_differ_by_weight_are_not_by_gradient():
    rates = 1e-3 * np.linspace(0.5, 1.5, 16, dtype=np.float32)[:, None]
    part = optax.stateless(
        lambda updates, params: jax.tree.map(
            lambda u, p: -LR * u - rates * p, updates, params
        )
    )
    leaf = leaf_of(part)
    assert leaf.mode == "uniform"
    assert leaf.spread == pytest.approx((0.55e-3, 1.45e-3), rel=0.1)


def test_leaves_of_a_weight_or_none():
    params = {"one": jnp.ones(()), "two": jnp.ones(2), "none": jnp.zeros((0, 3)), **ONE}
    for optimizer in (optax.lamb(LR), optax.lamb(1e-2), optax.adam(LR)):
        audit = dx.audit(optimizer, params)
        assert {leaf.mode for leaf in audit.leaves} == {"none"}
    audit = dx.audit(dx.adamw(LR, weight_decay=WD), params)
    modes = {leaf.path: leaf.mode for leaf in audit.leaves}
    assert modes == {
        "kernel": "uniform",
        "none": "none",
        "one": "uniform",
        "two": "uniform",
    }


def test_a_made_up_value_falls():
    """On a plateau the learning rate, and with it the decay, would go to 0."""
    chain = optax.chain(
        optax.adamw(LR, weight_decay=WD), contrib.reduce_on_plateau(patience=5)
    )
    assert leaf_of(chain).rate == pytest.approx(1e-4, rel=1e-2)


@pytest.mark.parametrize(("power", "follows"), [(1, True), (0, False), (2, None)])
def test_it_follows_if_half_gives_half(power, follows):
    make = lambda lr: optax.chain(  # noqa: E731
        optax.sgd(LR), optax.add_decayed_weights(-(lr**power) * 1e-3)
    )
    leaf = leaf_of(make, learning_rate=0.5)
    assert leaf.follows_learning_rate is follows


def test_an_optimizer_that_decides_by_shape_sees_the_shapes():
    """A mask by size is another one on a sample: all weights are followed."""
    big = {"kernel": jnp.ones((512, 512)), "small": jnp.ones((8, 8))}
    mask = lambda p: jax.tree.map(lambda x: x.size > 100_000, p)  # noqa: E731
    audit = dx.audit(dx.sgdw(LR, weight_decay=WD, mask=mask), big, steps=25, seeds=1)
    assert not audit.sampled
    assert [leaf.mode for leaf in audit.leaves] == ["uniform", "none"]


def test_the_size_of_the_weights_is_that_of_the_parameters():
    """lamb's rate is in proportion to it."""
    small, large = (
        leaf_of(optax.lamb(LR, weight_decay=0.01), {"kernel": s * ONE["kernel"]}).rate
        for s in (0.03, 0.3)
    )
    assert large == pytest.approx(10 * small, rel=0.2)


def test_it_says_how_long_it_will_take(monkeypatch):
    from decayax._audit import measure

    monkeypatch.setattr(measure, "LONG", 0.0)
    with pytest.warns(UserWarning, match=r"audit: about \d+ s to go.*sample=True"):
        dx.audit(optax.lamb(LR), ONE, steps=25)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dx.audit(optax.adamw(LR), {"kernel": jnp.ones((512, 512))}, steps=25)


BAD = {
    "audit: optimizer must be an optax.GradientTransformation or a function from a "
    "learning rate to one, got 3 of type int": (3, {}),
    "audit: optimizer must be an optax.GradientTransformation or a function": (
        lambda lr: lr,
        {},
    ),
    "audit: steps must be a whole number >= 1, got 0": (optax.adam(LR), {"steps": 0}),
    "audit: steps must be a whole number >= 1, got 2.5": (
        optax.adam(LR),
        {"steps": 2.5},
    ),
    "audit: seeds must be a whole number >= 1, got 0": (optax.adam(LR), {"seeds": 0}),
    "audit: learning_rate must be >= 0, got -1": (optax.adam, {"learning_rate": -1}),
    "audit: learning_rate must be > 0, got 0": (optax.adam, {"learning_rate": 0}),
    "audit: gradient_scales must be some numbers > 0, got ()": (
        optax.adam(LR),
        {"gradient_scales": ()},
    ),
    "audit: gradient_scales must be some numbers > 0, got 1.0": (
        optax.adam(LR),
        {"gradient_scales": 1.0},
    ),
    "audit: a gradient scale must be > 0, got 0.0": (
        optax.adam(LR),
        {"gradient_scales": (0.0,)},
    ),
    "audit: weight_decay must be a number, got 'x'": (
        optax.adam(LR),
        {"weight_decay": "x"},
    ),
    "audit: extra_args must be the keywords of optimizer.update as a dict, got 3": (
        optax.adam(LR),
        {"extra_args": 3},
    ),
}


@pytest.mark.parametrize("text", BAD)
def test_errors_say_what_and_what_to_write(text):
    import re

    optimizer, options = BAD[text]
    with pytest.raises((TypeError, ValueError), match=re.escape(text)):
        dx.audit(optimizer, ONE, **options)


def test_what_the_optimizer_itself_raises_is_said_to_be_its_own():
    def branches(updates, state, params=None):
        return (updates if jnp.sum(updates["w"]) > 0 else params), state

    optimizer = optax.GradientTransformation(lambda params: (), branches)
    with pytest.raises(jax.errors.TracerBoolConversionError) as caught:
        dx.audit(optimizer, {"w": jnp.ones(2)})
    notes = caught.value.__notes__
    assert "audit: raised by the optimizer in a jitted step." in notes


def test_a_leaf_that_is_no_parameter():
    with pytest.raises(TypeError, match=r"audit: act is no parameter.*eqx.filter"):
        dx.audit(optax.adam(LR), {"act": jax.nn.relu, "w": jnp.ones(2)})
    with pytest.raises(ValueError, match="no parameter. The nearest parameters are"):
        dx.audit(dx.adamw(LR, mask={"wrong": True}), ONE)


def test_it_is_a_table_for_people_and_for_notebooks():
    audit = of_a_factory()
    assert str(audit).splitlines() == [
        "parameter     dtype    mode     rate/step  half-life   follows lr",
        "dense/bias    float32  none     0          never",
        "dense/kernel  float32  uniform  0.0001     6931 steps  yes",
        "norm/scale    float32  none     0          never",
        "followed over 200 steps on every weight",
        "nothing to find fault with",
    ]
    html = audit._repr_html_()
    assert html.count("<tr>") == 4
    assert "<td>dense/kernel</td><td>float32</td><td>uniform</td>" in html
    escaped = dx.audit(optax.adam(LR), {"<b>": jnp.ones((2, 2))}, steps=25)
    assert "<td>&lt;b&gt;</td>" in escaped._repr_html_()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(("rate", "error"), [(1e-4, 0.1), (1e-5, 0.3)])
def test_what_survives_sixteen_bits_with_and_without_a_cure(dtype, rate, error):
    params = {"kernel": jax.ShapeDtypeStruct((256, 64), dtype)}
    plain = optax.adamw(1e-3, eps=1e-3, weight_decay=rate / 1e-3)
    (lost,) = dx.audit(plain, params).leaves
    assert abs(lost.survives) < 0.2
    for cure in (dx.with_stochastic_rounding, dx.with_compensation):
        audit = dx.audit(cure(plain), params)
        (leaf,) = audit.leaves
        assert leaf.survives == pytest.approx(1.0, abs=error)
        assert leaf.rate == pytest.approx(rate, rel=1e-2)
        assert not audit.findings


def test_a_share_that_rounding_hides_is_not_told():
    params = {"kernel": jax.ShapeDtypeStruct((64, 64), "bfloat16")}
    optimizer = dx.with_stochastic_rounding(optax.adamw(3e-4, weight_decay=1e-4))
    audit = dx.audit(optimizer, params)
    assert audit.leaves[0].rate == pytest.approx(3e-8, rel=1e-2)
    assert audit.leaves[0].survives is None
    assert not audit.findings


# --- found by mutation --------------------------------------------------------------


def masked_out(params):
    return jax.tree.map(lambda _: False, params)


def rule(function):
    """An optimizer without state: function(u, p) -> the update of a leaf."""
    return optax.stateless(
        lambda updates, params: jax.tree.map(function, updates, params)
    )


def test_the_scales_may_stand_in_any_order():
    scales = (100.0, 0.01, 1.0)
    leaf = leaf_of(L2_ADAM, gradient_scales=scales)
    assert leaf.rate == of_mistake("gradient-dependent").leaves[0].rate
    assert [scale for scale, _ in leaf.by_gradient_scale] == sorted(scales)


def test_another_seed_shows_the_gradients_too():
    """At one scale the rates of single weights tell, from one seed to the next."""
    one = leaf_of(L2_ADAM, gradient_scales=(1.0,), seeds=1)
    two = leaf_of(L2_ADAM, gradient_scales=(1.0,), seeds=2)
    assert (one.mode, two.mode) == ("scale-dependent", "gradient-dependent")


def test_no_decay_at_the_middle_scale_follows_nothing():
    make = lambda lr: rule(  # noqa: E731
        lambda u, p: -lr * u - jnp.where(jnp.abs(u).max() > 10, lr, 0.0) * p
    )
    leaf = leaf_of(make)
    assert (leaf.mode, leaf.follows_learning_rate) == ("gradient-dependent", None)


def test_only_what_decays_can_be_lost_in_rounding():
    params = {"kernel": BF16["kernel"], "bias": jnp.zeros(16, jnp.bfloat16)}
    bias, kernel = dx.audit(optax.adamw(LR, weight_decay=WD, mask=MASK), params).leaves
    assert bias.survives is None
    assert kernel.survives < 0.5


def test_complex_weights():
    """Of which only the real part decays, so about half of each."""
    params = {"kernel": ONE["kernel"].astype(jnp.complex64)}
    leaf = leaf_of(rule(lambda u, p: -LR * u - 1e-3 * p.real), params)
    assert (leaf.mode, leaf.dtype) == ("uniform", "complex64")
    assert leaf.rate == pytest.approx(0.5e-3, rel=0.15)
    assert leaf.spread == pytest.approx((0.0, 1e-3), abs=1e-4)


def test_integers_and_holes_are_passed_by():
    params = {"a": jnp.int32(3), "kernel": ONE["kernel"], "none": None}
    mask = {"a": False, "kernel": True, "none": False}
    (leaf,) = dx.audit(dx.sgdw(LR, weight_decay=WD, mask=mask), params).leaves
    assert (leaf.path, leaf.mode) == ("kernel", "uniform")
    assert leaf.rate == pytest.approx(1e-4, rel=1e-4)


def test_the_finding_names_all_that_is_missing():
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
    assert leaf.answers


@jax.custom_vjp
def only_backwards(x):
    return x


only_backwards.defvjp(lambda x: (x, None), lambda _, g: (g,))


@pytest.mark.parametrize(
    "itself", [only_backwards, lambda x: x + jnp.sqrt(0.0 * x)], ids=["none", "nan"]
)
def test_where_the_derivative_fails_the_difference_tells(itself):
    leaf = leaf_of(rule(lambda u, p: -LR * u - 1e-3 * itself(p)))
    assert math.isnan(leaf.intended)
    assert leaf.rate == leaf.realised == pytest.approx(1e-3, rel=1e-3)
    assert leaf.spread == pytest.approx((1e-3, 1e-3), rel=1e-2)
    assert leaf.mode == "uniform"


def test_a_decay_of_half_the_weights_is_one():
    """Single weights are compared from one gradient sequence to the next."""
    leaf = leaf_of(rule(lambda u, p: -1e-5 * u - 1e-3 * jnp.maximum(p, 0)))
    assert leaf.mode == "uniform"


@pytest.mark.parametrize("rate", [1e-3, 0.1, 1.0])
@pytest.mark.parametrize("make", [optax.sgd, optax.adam, optax.rmsprop])
def test_small_leaves_without_decay_have_none(make, rate):
    """Few weights far from where they were: the difference of two runs is rounded."""
    params = {f"s{n}": jnp.ones(n) for n in (1, 2, 4, 16)}
    params |= {f"z{n}": 0.01 * jnp.ones(n) for n in (1, 2, 16)}
    audit = dx.audit(make(rate), params)
    assert {leaf.mode for leaf in audit.leaves} == {"none"}
    assert not audit.findings


def test_two_decays_meet_in_a_group():
    params = {"a": ONE["kernel"], "b": ONE["kernel"]}
    groups = {"a": optax.adamw(LR, weight_decay=0.1), "b": optax.adam(LR)}
    chain = optax.chain(
        optax.partition(groups, {"a": "a", "b": "b"}), dx.independent_decay(1e-4)
    )
    (finding,) = dx.audit(chain, params, steps=25).findings
    assert finding.kind == "two decays at once"


def test_growth_here_and_decay_there_is_by_gradient():
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


def test_a_rate_of_1_or_more_leaves_nothing():
    (leaf,) = of_mistake("rate of 1 or more").leaves
    assert leaf.half_life_steps == 0.0
    assert kinds(dx.audit(dx.independent_decay(1.0), ONE)) == ["rate of 1 or more"]


def test_what_overflows_does_not_survive():
    half = jax.tree.map(lambda x: x.astype(jnp.float16), ONE)
    audit = dx.audit(dx.sgdw(1e5, weight_decay=1e-9), half)
    assert kinds(audit) == ["lost in rounding"]
    assert math.isnan(audit.leaves[0].survives)
    assert "overflows" in str(audit)


def test_groups_may_have_decays_of_their_own():
    optimizer = optax.partition(
        {
            "a": optax.adamw(LR, weight_decay=0.1),
            "b": optax.adamw(LR, weight_decay=0.2),
        },
        {"a": "a", "b": "b"},
    )
    assert kinds(dx.audit(optimizer, {"a": ONE["kernel"], "b": ONE["kernel"]})) == []


CURES = {
    "growth": "After the learning rate updates are negative",
    "rate of 1 or more": "Write a smaller weight_decay",
    "gradient-dependent": "dx.decoupled_decay",
    "lost in rounding": "rounds to itself",
    "decay without gradient": "freeze behind the decay",
    "biases or norms decay": "no_bias_or_norm",
    "nothing decays": "dx.masks.describe",
    "two decays at once": "Remove one",
    "scale-dependent": "trust ratio",
}


def test_a_frozen_leaf_is_a_step_of_the_others():
    params = {"a": ONE["kernel"], "b": ONE["kernel"]}
    audit = dx.audit(
        rule(lambda u, p: -LR * u),
        params,
        gradients={"a": params["a"], "b": None},
        weight_decay=0.1,
    )
    assert kinds(audit) == ["nothing decays"]


NOTHING = {
    "a factory": lambda lr: optax.adamw(lr, weight_decay=WD, mask=masked_out),
    "inject_hyperparams": optax.inject_hyperparams(optax.adamw, static_args=("mask",))(
        LR, weight_decay=WD, mask=masked_out
    ),
    "an array": optax.adamw(LR, weight_decay=np.float32(WD), mask=masked_out),
    "an array of jax": optax.adamw(LR, weight_decay=jnp.array(WD), mask=masked_out),
    "a schedule": dx.adamw(LR, weight_decay=lambda step: 0.0 * step),
    "weight_decay_rate": optax.inject_hyperparams(
        lambda weight_decay_rate: optax.adafactor(
            LR, weight_decay_rate=weight_decay_rate, weight_decay_mask=masked_out
        )
    )(weight_decay_rate=WD),
    "methods": optax.MultiSteps(
        optax.adamw(LR, weight_decay=WD, mask=masked_out), 2
    ).gradient_transformation(),
}


@pytest.mark.parametrize("name", NOTHING)
def test_a_strength_is_seen_where_nothing_decays(name):
    audit = dx.audit(NOTHING[name], ONE, steps=25)
    assert kinds(audit) == ["nothing decays"]
    given = "a schedule" if name == "a schedule" else "0.1"
    assert f"a weight decay was given ({given})" in audit.findings[0].text


def test_two_decays_of_one_strength_are_two():
    chain = optax.chain(
        optax.add_decayed_weights(1e-4), optax.sgd(LR), dx.independent_decay(1e-4)
    )
    (finding,) = dx.audit(chain, ONE, steps=25).findings
    assert "the optimizer holds 2 decays (0.0001, 0.0001)" in finding.text


def test_columns_are_there_if_one_leaf_needs_them():
    optimizer = optax.chain(optax.add_decayed_weights(WD, mask=MASK), optax.adam(LR))
    header = str(dx.audit(optimizer, PARAMS, steps=25)).splitlines()[0]
    assert "at |g|=0.01" in header
    make = lambda lr: optax.chain(optax.sgd(lr), dx.independent_decay(1e-4))  # noqa: E731
    assert str(dx.audit(make, ONE, steps=25)).splitlines()[1].endswith("  no")


def test_findings_are_escaped_for_notebooks():
    audit = dx.audit(L2_ADAM, {"<b>": ONE["kernel"]}, steps=25)
    assert "<b>" not in audit._repr_html_()


def test_the_difference_is_central():
    """Of θ³ it is 3 + h² times θ³, not 3 + 3h + h²."""
    leaf = leaf_of(rule(lambda u, p: -LR * u - 1e-4 * p**3), steps=25)
    assert leaf.realised == pytest.approx(leaf.intended, rel=0.02)


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


def test_through_0_in_several_steps():
    """0.5, then 1.5 of what is left: 1.25 in two steps."""
    leaf = leaf_of(dx.independent_decay(lambda step: 0.5 + step), steps=2)
    assert leaf.rate == pytest.approx(1.25 / 2, rel=1e-4)


def test_a_norm_of_other_gradients_is_chance():
    """The largest over the mean is the same at every scale, but for chance."""

    def leaf(u, p):
        largest = jnp.abs(u).max() / jnp.sqrt(jnp.mean(u * u))
        return -LR * u - 1e-3 * largest * p

    four = {"kernel": jnp.ones((2, 2))}
    audit = dx.audit(rule(leaf), four, steps=1, seeds=4)
    assert not audit.elementwise
    assert audit.leaves[0].mode == "uniform"


def test_single_weights_are_not_compared_by_a_derivative_that_is_wrong():
    """It says that the half above 0 decays; all do."""

    def leaf(u, p):
        stop = jax.lax.stop_gradient
        above = jnp.maximum(p, 0.0)
        return -LR * u - 1e-3 * (stop(p) + above - stop(above))

    found = leaf_of(rule(leaf))
    assert (found.mode, found.rate) == ("uniform", pytest.approx(1e-3, rel=1e-3))


def test_the_smallest_share_is_told():
    params = {"a": 0.1 * BF16["kernel"], "b": 0.3 * BF16["kernel"], **BF16}
    audit = dx.audit(dx.sgdw(LR, weight_decay=WD), params)
    whole, part, none = (leaf.survives for leaf in audit.leaves)
    assert none < 0.1 < part < 0.5 < 0.9 < whole
    (finding,) = audit.findings
    assert "of the decay of b, kernel about 0% survives" in finding.text
    assert "overflows" not in str(audit)
