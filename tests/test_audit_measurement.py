"""How the audit measures: probes, draws, estimates, and rounding to 16 bits."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from audit_cases import (
    bench_of,
    BF16,
    L2_ADAM,
    leaf_of,
    LR,
    no_warning as no_warning,
    ONE,
    PARAMS,
    plan_of,
    rule,
    WD,
)

import decayax as dx
from decayax._audit.follow import follow
from decayax._audit.readings import Setting


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


@pytest.mark.slow
def test_few_steps_per_call_give_the_same_rates(monkeypatch):
    """A large model gets fewer steps per compiled call: 1 or 3 instead of 25."""

    def rates():
        audit = dx.audit(L2_ADAM, PARAMS, steps=20, seeds=1)
        return [leaf.by_gradient_scale for leaf in audit.leaves]

    expected = rates()
    for numbers in (1, 1000):
        monkeypatch.setattr("decayax._audit.draws.MAX_NUMBERS_PER_CALL", numbers)
        np.testing.assert_allclose(rates(), expected, rtol=1e-5)


def test_numbers_are_cut_into_leaves_in_order():
    from decayax._audit.draws import count_numbers, scaled_tree

    kinds = [((2,), jnp.float32), ((3,), jnp.int32), ((2, 2), jnp.bfloat16)]
    leaves = [jax.ShapeDtypeStruct(*kind) for kind in kinds]
    leaves += [None, jax.ShapeDtypeStruct((2,), jnp.complex64)]
    assert count_numbers(leaves) == 2 + 4 + 2 * 2
    scales = [2.0, 1 / 3, 10.0]  # of the inexact leaves
    numbers = jnp.arange(10.0)
    first, integers, half, masked, both = scaled_tree(numbers, leaves, scales)
    np.testing.assert_array_equal(first, [0, 2])
    np.testing.assert_array_equal(integers, [0, 0, 0])
    # 5/3 would round to another number if 1/3 was rounded to bfloat16 first.
    thirds = jnp.asarray([[2 / 3, 1], [4 / 3, 5 / 3]], jnp.bfloat16)
    np.testing.assert_array_equal(half, thirds)
    assert masked is None
    np.testing.assert_array_equal(both, [60 + 80j, 70 + 90j])
    dtypes = [x.dtype for x in (first, integers, half, both)]
    assert dtypes == [jnp.float32, jnp.int32, jnp.bfloat16, jnp.complex64]


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


@pytest.mark.parametrize(
    ("dtype", "rate", "kept", "error"),
    # Two runs, with the decay and without it, keep so much.
    [("bfloat16", 1e-4, 0.01, 0.1), ("float16", 1e-5, 0.47, 0.3)],
)
def test_how_much_decay_survives_16_bits(dtype, rate, kept, error):
    params = {"kernel": jax.ShapeDtypeStruct((64, 32), dtype)}
    plain = optax.adamw(1e-3, eps=1e-3, weight_decay=rate / 1e-3)
    options = {"gradient_scales": (1.0,), "seeds": 1}
    lost = leaf_of(plain, params, **options)
    assert lost.surviving_fraction == pytest.approx(kept, abs=0.05)
    for wrapper in (dx.with_stochastic_rounding, dx.with_compensation):
        audit = dx.audit(wrapper(plain), params, **options)
        (leaf,) = audit.leaves
        assert leaf.surviving_fraction == pytest.approx(1.0, abs=error)
        assert leaf.rate == pytest.approx(rate, rel=1e-2)
        assert not audit.findings


def kept_in_two_runs(make, size, seeds=2):
    """The part of the decay that bfloat16 keeps: 200 steps with 0.1 and with 0."""
    kept = []
    for seed, sign in ((s, sign) for s in range(seeds) for sign in (1.0, -1.0)):
        start, *grads = jax.random.normal(jax.random.key(seed), (201, 64, 64))
        start = (size * start).astype(jnp.bfloat16)
        grads = (sign * jnp.stack(grads)).astype(jnp.bfloat16)

        def left(weight_decay, start=start, grads=grads):
            optimizer = make(weight_decay)

            def step(carry, gradient):
                params, state = carry
                updates, state = optimizer.update(gradient, state, params)
                params = optax.apply_updates(params, updates)
                # As in a loop of jitted steps, the weights are stored in 16 bits.
                return (jax.lax.optimization_barrier(params), state), None

            return jax.lax.scan(step, (start, optimizer.init(start)), grads)[0][0]

        runs = (jax.jit(left, static_argnums=0)(x) for x in (0.0, 0.1))
        without, decayed = (x.astype(jnp.float32) for x in runs)
        wide = start.astype(jnp.float32)
        kept.append(jnp.sum((without - decayed) * wide) / jnp.sum(wide**2))
    return float(np.mean(kept))


def adamw(weight_decay):
    return optax.adamw(1e-3, weight_decay=weight_decay)


def l2_adam(weight_decay):
    """The decay passes through Adam's moments."""
    return optax.chain(dx.add_l2_to_grad(weight_decay), optax.adam(1e-3))


def momentum_l2(weight_decay):
    l2 = dx.add_l2_to_grad(0.02 * weight_decay)
    return optax.chain(l2, optax.sgd(1e-3, momentum=0.9))


@pytest.mark.relaxed("scale_by_adam")
@pytest.mark.parametrize(
    ("make", "size", "expected"),
    [
        (adamw, 0.1, 0.54),
        pytest.param(adamw, 0.02, 0.98, marks=pytest.mark.slow),
        pytest.param(adamw, 0.3, 0.13, marks=pytest.mark.slow),
        pytest.param(momentum_l2, 0.02, None, marks=pytest.mark.slow),
        pytest.param(l2_adam, 0.1, None, marks=pytest.mark.slow),
    ],
)
def test_the_part_that_16_bits_keep_is_that_of_two_runs(make, size, expected):
    """It is not 0 %: steps of a gradient carry a part of the decay over half an ulp."""
    params = {"kernel": size * jax.random.normal(jax.random.key(9), (64, 64))}
    options = {"gradient_scales": (1.0,), "seeds": 1}
    narrow = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    leaf = leaf_of(make(0.1), narrow, **options)
    left = 1 - leaf_of(make(0.1), params, **options).rate
    truth = kept_in_two_runs(make, size) / (1 - left**200)
    assert leaf.surviving_fraction == pytest.approx(truth, abs=0.05)
    if expected is not None:
        assert truth == pytest.approx(expected, abs=0.05)


@pytest.mark.relaxed("scale_by_adam")
def test_who_rounds_by_itself():
    """A wrapper leads to 16-bit numbers exactly; a float32 update alone does not."""
    from decayax._audit.paired import rounds_by_itself

    def rounds(optimizer):
        params = {"kernel": jnp.ones((8, 8), jnp.bfloat16)}
        program = plan_of(optimizer, params).program(own_dtypes=True)
        return rounds_by_itself(program, Setting(0, 1.0, 1.0))

    def wide(u, p):
        return -LR * u.astype(jnp.float32) - 1e-4 * p.astype(jnp.float32)

    assert rounds(dx.with_compensation(adamw(0.1))) == [True]
    assert rounds(dx.with_stochastic_rounding(adamw(0.1))) == [True]
    assert rounds(adamw(0.1)) == [False]
    assert rounds(rule(wide)) == [False]
    # Steps of 0 are no evidence.
    for zeros in (1, 9):
        late = optax.join_schedules([lambda _: 0.0, lambda _: 1e-3], [zeros])
        optimizer = optax.chain(rule(wide), optax.scale_by_schedule(late))
        assert rounds(optimizer) == [False]


@pytest.mark.parametrize("wide", [True, False])
def test_16_bits_with_the_weights_in_the_state(wide):
    """An update at weights of 0 is not one without the decay: it is z − 0."""

    def init(params):
        return jax.tree.map(lambda p: p.astype(jnp.float32) if wide else p, params)

    def leaf(u, z):
        new = z.astype(jnp.float32) * (1 - 1e-4) - LR * u.astype(jnp.float32)
        return new.astype(z.dtype)

    def update(updates, z, params):
        z = jax.tree.map(leaf, updates, z)
        delta = [
            new.astype(jnp.float32) - p.astype(jnp.float32)
            for new, p in zip(jax.tree.leaves(z), jax.tree.leaves(params), strict=True)
        ]
        return jax.tree.unflatten(jax.tree.structure(params), delta), z

    optimizer = optax.GradientTransformation(init, update)
    audit = dx.audit(optimizer, BF16, seeds=1, steps=100)
    assert audit.leaves[0].rate == pytest.approx(1e-4, rel=1e-2)
    assert audit.leaves[0].surviving_fraction is None
    (finding,) = audit.findings
    assert finding.kind == "rounding not measured"
    assert "or the weights are in the state" in finding.text
    assert "steps=500." in finding.hint


@pytest.mark.slow
@pytest.mark.relaxed("scale_by_adam")
def test_what_16_bits_keep_at_a_later_step():
    """Without its moments, Adam's steps are too large, and more of the decay survives.

    Two runs of 200 steps from step 500 on, with all moments, give 0.11.
    """
    schedule = optax.warmup_cosine_decay_schedule(0.0, 1e-3, 500, 10_000)
    kernel = 0.2 * jax.random.normal(jax.random.key(9), (64, 64))
    params = {"kernel": kernel.astype(jnp.bfloat16)}
    options = {"gradient_scales": (1.0,), "seeds": 1, "at_steps": (0, 500)}
    leaf = leaf_of(optax.adamw(schedule, weight_decay=0.1), params, **options)
    assert leaf.surviving_fraction == pytest.approx(0.11, abs=0.05)


def test_two_leaves_that_decay_at_different_steps_are_not_measured_at_one():
    def linear(*ends):
        return optax.adamw(optax.linear_schedule(*ends, 2000), weight_decay=0.1)

    transforms = {"a": linear(1e-3, 0.0), "b": linear(0.0, 1e-3)}
    optimizer = optax.partition(transforms, {"a": "a", "b": "b"})
    params = {name: BF16["kernel"] for name in "ab"}
    options = {"gradient_scales": (1.0,), "seeds": 1, "at_steps": (0, 1990)}
    audit = dx.audit(optimizer, params, **options)
    assert [leaf.surviving_fraction for leaf in audit.leaves].count(None) == 1


def test_the_trace_of_a_probe():
    """The weights shrink as 0.7^t: a step relative to dθ_0 would not stay the same."""
    bench = bench_of(rule(lambda u, p: -0.3 * p - 0.1 * jnp.sign(u) * p))
    steps = np.arange(1, 11)
    still, moving = (Setting(0, scale, 1.0) for scale in (0.0, 1.0))
    for runner in (bench.jvp, bench.difference):
        (trace,) = follow(runner, ONE, still, 10).traces
        np.testing.assert_allclose(trace.relative_step, 0.3, rtol=1e-3)
        for change in trace.change:
            np.testing.assert_allclose(change, 0.7**steps - 1, rtol=1e-4)
        for weight in np.concatenate(trace.per_weight, 1).T:
            np.testing.assert_allclose(weight, 0.7**steps - 1, rtol=1e-3)
        # With gradients, half of the weights lose 0.4 and the others 0.2.
        (noisy,) = follow(runner, ONE, moving, 10).traces
        np.testing.assert_allclose(noisy.relative_step, 0.1**0.5, rtol=0.15)


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


def in_float32(pull):
    """Δ = −γg − pull(θ), calculated in float32 and rounded to the weight's dtype."""

    def leaf(u, p):
        wide, gradient = p.astype(jnp.float32), u.astype(jnp.float32)
        return (-LR * gradient - pull(wide)).astype(p.dtype)

    return rule(leaf)


@pytest.mark.parametrize("dtype", ["float8_e5m2", "float8_e4m3fn"])
def test_float8(dtype):
    params = {"kernel": ONE["kernel"].astype(dtype)}
    options = {"steps": 25, "seeds": 1}
    audit = dx.audit(in_float32(lambda p: 1e-4 * p), params, **options)
    (leaf,) = audit.leaves
    assert (leaf.dtype, leaf.mode) == (dtype, "uniform")
    assert leaf.rate == pytest.approx(1e-4, rel=1e-3)  # in float32
    assert abs(leaf.surviving_fraction) < 0.2
    (finding,) = audit.findings
    assert (finding.kind, finding.serious) == ("lost in rounding", True)
    assert f"rounding to {dtype} removes" in finding.text
    # The wrappers of decayax are for 16 bits.
    assert "with_" not in finding.hint
    assert f"cast them to {dtype} for the forward pass" in finding.hint
    strong = leaf_of(in_float32(lambda p: 0.9 * p), params, **options)
    assert strong.surviving_fraction > 0.5
    assert dx.audit(in_float32(lambda p: 0.0 * p), params, **options).findings == ()
    adamw = dx.audit(optax.adamw(LR, weight_decay=WD), params, **options)
    (finding,) = adamw.findings
    assert finding.kind == "not finite"
    assert f"become infinite or NaN in {dtype}" in finding.text
    assert "Train weights in float32 or bfloat16" in finding.hint


THREE = {name: ONE["kernel"] for name in "abc"}
TO_B = {"a": lambda p: p["b"], "b": lambda p: p["b"], "c": lambda p: p["c"]}
EXACT = {
    "adamw": (optax.adamw(LR, weight_decay=WD), [True] * 3),
    "an L2 term": (L2_ADAM, [True] * 3),
    "a clip of the gradients": (
        optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(LR, weight_decay=WD)),
        [True] * 3,
    ),
    "a clip of the step": (
        optax.chain(optax.adamw(LR, weight_decay=WD), optax.clip_by_global_norm(1.0)),
        [False] * 3,
    ),
    "a trust ratio": (optax.lamb(LR, weight_decay=WD), [False] * 3),
    "a trust ratio of one leaf": (
        optax.partition(
            {"lamb": optax.lamb(LR), "sgd": dx.sgdw(LR, weight_decay=WD)},
            {"a": "lamb", "b": "sgd", "c": "sgd"},
        ),
        [False, True, True],
    ),
    "a leaf that another one reads": (
        optax.stateless(
            lambda updates, params: {
                name: -LR * updates[name] - 1e-3 * of(params)
                for name, of in TO_B.items()
            }
        ),
        [False, False, True],
    ),
    "a mean of the weights": (
        rule(lambda u, p: -LR * u - 1e-3 * (p - jnp.mean(p))),
        [False] * 3,
    ),
    "the largest weight": (
        rule(lambda u, p: -LR * u - 1e-3 * p * jnp.max(jnp.abs(p))),
        [False] * 3,
    ),
    "the norm of the gradient": (
        rule(lambda u, p: -LR * u - 1e-3 * p * jnp.sqrt(jnp.sum(u**2))),
        [True] * 3,
    ),
    "momentum": (dx.sgd_l2(LR, momentum=0.9, weight_decay=WD), [True] * 3),
    "muon": (optax.contrib.muon(LR, weight_decay=WD), [True] * 3),
}


@pytest.mark.parametrize("name", EXACT)
def test_which_derivatives_are_exact(name):
    """The derivative of a weight by another weight is 0, in its own leaf and others."""
    optimizer, exact = EXACT[name]
    bench = bench_of(optimizer, THREE)
    assert bench.jvp.program.for_each_leaf(bench.exact) == exact
