"""The audit of later steps, of a whole run, and the check against its length."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from audit_cases import kinds, leaf_of, LR, no_warning as no_warning, ONE, WD

import decayax as dx


RUN = 10_000
RISE = 500
COSINE = optax.warmup_cosine_decay_schedule(0.0, LR, RISE, RUN)


def mean_rate(rates):
    return 1 - np.prod(1 - np.asarray(rates, float)) ** (1 / len(rates))


def of_schedule(schedule, step, every=1):
    """The mean rate of 25 calls from `step` on, if every k-th call is a step."""
    calls = range(step, step + 25)
    return mean_rate(
        [
            WD * float(schedule(call // every)) if call % every == every - 1 else 0.0
            for call in calls
        ]
    )


@functools.cache
def of_a_run():
    """The audit of a whole run; two tests share it."""
    optimizer = optax.adamw(COSINE, weight_decay=WD, mask={"a": True, "b": False})
    return dx.audit(optimizer, {"a": ONE["kernel"], "b": jnp.ones(8)}, horizon=RUN)


# --- the rates at later steps -------------------------------------------------------

SCHEDULED = {
    "adamw": (lambda: optax.adamw(COSINE, weight_decay=WD), 1),
    "inject_hyperparams": (
        lambda: optax.inject_hyperparams(optax.adamw)(COSINE, weight_decay=WD),
        1,
    ),
    "MultiSteps": (
        lambda: optax.MultiSteps(optax.adamw(COSINE, weight_decay=WD), 4),
        4,
    ),
    "apply_if_finite": (
        lambda: optax.apply_if_finite(optax.adamw(COSINE, weight_decay=WD), 5),
        1,
    ),
    "a step that is clipped": (
        lambda: optax.chain(
            optax.clip_by_global_norm(1.0), dx.sgdw(COSINE, weight_decay=WD)
        ),
        1,
    ),
    "masked": (
        lambda: optax.masked(optax.adamw(COSINE, weight_decay=WD), {"kernel": True}),
        1,
    ),
    "a factory": (lambda: lambda lr: dx.adamw(COSINE, weight_decay=WD), 1),
}


@pytest.mark.parametrize("name", SCHEDULED)
def test_the_rates_at_later_steps_follow_the_schedule(name):
    make, every = SCHEDULED[name]
    steps = (0, RISE * every, 5000)
    leaf = leaf_of(make(), at_steps=steps, seeds=1, gradient_scales=(1.0,))
    assert leaf.mode == "uniform"
    assert [step for step, _ in leaf.by_step] == sorted(steps)
    for step, rate in leaf.by_step:
        assert rate == pytest.approx(of_schedule(COSINE, step, every), rel=0.01), step
    # The rate is that of the step where the leaf decays fastest.
    expected = np.mean(
        [of_schedule(COSINE, RISE * every + i, every) for i in range(0, 200, 25)]
    )
    assert leaf.rate == pytest.approx(expected, rel=0.01)


def test_each_leaf_is_judged_at_its_own_fastest_step():
    early = dx.independent_decay(lambda step: jnp.where(step < 1000, 1e-4, 1e-5))
    late = dx.independent_decay(lambda step: jnp.where(step < 1000, 1e-6, 1e-3))
    parts = optax.partition({"early": early, "late": late}, {"a": "early", "b": "late"})
    params = {"a": ONE["kernel"], "b": ONE["kernel"]}
    a, b = dx.audit(
        optax.chain(optax.adam(LR), parts), params, at_steps=(0, 2000)
    ).leaves
    assert a.by_step == pytest.approx(np.array([(0, 1e-4), (2000, 1e-5)]), rel=1e-3)
    assert b.by_step == pytest.approx(np.array([(0, 1e-6), (2000, 1e-3)]), rel=1e-3)
    assert (a.rate, b.rate) == (
        pytest.approx(1e-4, rel=1e-3),
        pytest.approx(1e-3, rel=1e-3),
    )


def test_at_a_later_step_momentum_is_full():
    leaf = leaf_of(dx.sgd_l2(LR, momentum=0.9, weight_decay=WD), at_steps=(0, 1000))
    first, later = (rate for _, rate in leaf.by_step)
    expected = 1e-4 * np.mean((1 - 0.9 ** np.arange(1, 26)) / 0.1)
    assert first == pytest.approx(expected, rel=0.02)
    # The trace follows weights that were larger when it began.
    assert later == pytest.approx(1e-3, rel=0.02)


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (dx.adam_l2(LR, weight_decay=WD), 1e-4),
        (dx.rmsprop_l2(LR, weight_decay=WD), 1e-4),
        # After 2000 steps, nothing is left of the weights that are not set again.
        (dx.adam_l2(3e-2, weight_decay=0.1), 3e-3),
    ],
)
def test_at_a_later_step_the_preconditioner_has_its_usual_size(optimizer, expected):
    """From v = 0 on, the first steps of a run are too large by 1/√(1 − b2^t)."""
    leaf = leaf_of(optimizer, at_steps=(10_000,))
    ((step, rate),) = leaf.by_step
    assert (step, leaf.mode) == (10_000, "gradient-dependent")
    assert rate == pytest.approx(expected, rel=0.15)
    assert leaf.rate == pytest.approx(expected, rel=0.15)


def test_growth_at_a_later_step_only():
    sign = dx.independent_decay(lambda step: jnp.where(step < 1000, 1e-3, 0.0))
    later = dx.decoupled_decay(lambda step: jnp.where(step < 1000, 0.0, 1e-5))
    optimizer = optax.chain(optax.adam(LR), sign, later)
    assert leaf_of(optimizer).mode == "uniform"
    audit = dx.audit(optimizer, ONE, at_steps=(0, 2000))
    (leaf,) = audit.leaves
    # Growth counts before a decay that is a hundred times as strong.
    assert (leaf.mode, leaf.rate) == ("growth", pytest.approx(-1e-5, rel=1e-2))
    assert leaf.by_step[1][1] == pytest.approx(-1e-5, rel=1e-2)
    assert "growth" in kinds(audit)


def test_a_counter_of_data_is_advanced():
    """It counts the small gradients: a condition that depends on data."""

    def update(updates, count, params):
        rate = jnp.where(count < 1000, 0.0, 1e-4)
        count = count + (jnp.abs(updates["kernel"]).max() < 1e6)
        return jax.tree.map(lambda u, p: -LR * u - rate * p, updates, params), count

    counting = optax.GradientTransformation(lambda _: jnp.zeros([], jnp.int32), update)
    leaf = leaf_of(counting, at_steps=(0, 2000))
    assert [rate for _, rate in leaf.by_step] == [0.0, pytest.approx(1e-4, rel=1e-3)]


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.5, 1.5])
def test_strong_decays_at_a_later_step(rate):
    optimizer = optax.chain(optax.adam(LR), dx.independent_decay(rate))
    leaf = leaf_of(optimizer, at_steps=(0, 1000))
    for _, measured in leaf.by_step:
        assert measured == pytest.approx(rate, rel=0.01)


def test_the_steps_are_sorted_and_each_is_measured_once():
    leaf = leaf_of(dx.sgdw(LR, weight_decay=WD), at_steps=[50, 0, 50], steps=25)
    assert [step for step, _ in leaf.by_step] == [0, 50]
    leaf = leaf_of(dx.sgdw(LR, weight_decay=WD), at_steps=range(0, 60, 30), steps=25)
    assert [step for step, _ in leaf.by_step] == [0, 30]
    assert leaf_of(dx.sgdw(LR, weight_decay=WD), steps=25).by_step == ()


def test_an_optimizer_without_decay_has_rate_0_at_all_steps():
    leaf = leaf_of(optax.adam(LR), at_steps=(0, 1000))
    assert (leaf.mode, leaf.by_step) == ("none", ((0, 0.0), (1000, 0.0)))


# --- a whole run --------------------------------------------------------------------


def test_the_kept_share_is_that_of_the_product():
    a, b = of_a_run().leaves
    exact = np.prod(1 - WD * np.array([float(COSINE(step)) for step in range(RUN)]))
    assert a.kept == pytest.approx(exact, rel=0.02)
    assert b.kept == 1.0
    steps = [step for step, _ in a.by_step]
    assert steps == [0, 100, 500, 1000, 2500, 5000, 7500, 9975]


KEPT = {
    "constant": (dx.sgdw(LR, weight_decay=1.0), RUN, (1 - 1e-3) ** RUN),
    "one step": (dx.sgdw(LR, weight_decay=1.0), 1, 1 - 1e-3),
    "as short as a window": (dx.sgdw(LR, weight_decay=1.0), 25, (1 - 1e-3) ** 25),
    "one more step": (dx.sgdw(LR, weight_decay=1.0), 26, (1 - 1e-3) ** 26),
    "growth": (
        optax.chain(optax.adam(LR), optax.add_decayed_weights(1e-4)),
        5000,
        (1 + 1e-4) ** 5000,
    ),
    "linear": (
        dx.sgdw(optax.linear_schedule(LR, 0.0, 3000), weight_decay=0.5),
        3000,
        np.prod(1 - 0.5 * LR * np.linspace(1, 0, 3001)[:3000]),
    ),
    "all at once": (dx.independent_decay(1.0), 100, 0.0),
}


@pytest.mark.parametrize("name", KEPT)
def test_the_kept_share_of_a_run(name):
    optimizer, horizon, expected = KEPT[name]
    leaf = leaf_of(optimizer, horizon=horizon, steps=25, seeds=1)
    assert leaf.kept == pytest.approx(expected, rel=0.02)


def test_the_steps_of_the_user_replace_those_of_the_horizon():
    leaf = leaf_of(dx.sgdw(LR, weight_decay=WD), at_steps=(0, 100), horizon=RUN)
    assert [step for step, _ in leaf.by_step] == [0, 100]
    assert leaf.kept == pytest.approx((1 - 1e-4) ** RUN, rel=0.02)


def test_without_a_horizon_no_share_is_known():
    leaf = leaf_of(dx.sgdw(LR, weight_decay=WD), at_steps=(0, 100), steps=25)
    assert leaf.kept is None


def test_the_table_has_a_column_for_each_step_and_the_kept_share():
    header, a, b, *_ = str(of_a_run()).splitlines()
    assert re.split(r"  +", header)[5:] == [
        *(f"at step {step}" for step in (0, 100, 500, 1000, 2500, 5000, 7500, 9975)),
        "kept",
    ]
    kept = f"{of_a_run().leaves[0].kept:.1%}"
    assert a.endswith(f"  {kept}")
    assert b.endswith("  100.0%")
    assert f"<td>{kept}</td>" in of_a_run()._repr_html_()
    plain = str(dx.audit(optax.sgd(LR), ONE, steps=25))
    assert "kept" not in plain
    assert "at step" not in plain


def test_a_run_that_is_measured_no_longer_changes():
    first = dx.audit(optax.adamw(COSINE, weight_decay=WD), ONE)
    assert kinds(first) == ["rate still changes"]
    assert "horizon=" in first.findings[0].hint
    assert of_a_run().findings == ()
    short = dx.sgdw(optax.linear_schedule(LR, 0.0, 400), weight_decay=WD)
    assert kinds(dx.audit(short, ONE)) == ["rate still changes"]
    assert kinds(dx.audit(short, ONE, horizon=400)) == []


RANGE = "at_steps must be integers from 0 to 2**31 - 1, got"
BAD_STEPS = {
    f"{RANGE} () of type tuple": {"at_steps": ()},
    f"{RANGE} (-1,) of type tuple": {"at_steps": (-1,)},
    f"{RANGE} (0, 1.5) of type tuple": {"at_steps": (0, 1.5)},
    f"{RANGE} (True,) of type tuple": {"at_steps": (True,)},
    f"{RANGE} (2147483648,) of type tuple": {"at_steps": (2**31,)},
    f"{RANGE} 1000 of type int": {"at_steps": 1000},
    f"{RANGE} '100' of type str": {"at_steps": "100"},
    "horizon must be an integer >= 1, got 0": {"horizon": 0},
    "horizon must be an integer >= 1, got -5": {"horizon": -5},
    "horizon must be an integer >= 1, got 1e4": {"horizon": 1e4},
    "horizon must be an integer >= 1, got True": {"horizon": True},
}


@pytest.mark.parametrize("text", BAD_STEPS)
def test_errors_of_steps(text):
    # 1e4 is shown as 10000.0.
    text, options = text.replace("1e4", "10000.0"), BAD_STEPS[text]
    with pytest.raises(ValueError, match=re.escape(f"audit: {text}")):
        dx.audit(optax.adam(LR), ONE, **options)


@pytest.mark.parametrize(
    "at_steps",
    [(np.int64(0), np.int32(1000)), np.array([0, 1000]), range(0, 1001, 1000)],
    ids=["NumPy integers", "an array", "a range"],
)
def test_steps_may_be_any_integers(at_steps):
    leaf = leaf_of(dx.sgdw(LR, weight_decay=WD), at_steps=at_steps, steps=25)
    assert [step for step, _ in leaf.by_step] == [0, 1000]
    assert [rate for _, rate in leaf.by_step] == pytest.approx([1e-4] * 2, rel=1e-3)


# --- the check against the length of a run ------------------------------------------

SHORT = "half-life too short"


@functools.cache
def of_half_life_34():
    return dx.audit(dx.sgdw(0.1, weight_decay=0.2), ONE, steps=25)


@pytest.mark.parametrize(
    ("options", "short"),
    [
        ({}, True),  # shorter than 69 steps
        ({"steps": 3400}, False),  # 1 % of the run is 34 steps; the half-life is 34.3
        ({"steps": 3440}, True),
        ({"steps": 10**6}, True),
        ({"min_half_life": 34}, False),
        ({"min_half_life": 34.5}, True),
        ({"min_half_life": 1, "steps": 10**6}, False),  # the half-life counts
        ({"min_half_life": 10**6, "steps": 1}, True),
    ],
    ids=str,
)
def test_a_half_life_is_compared_with_the_run(options, short):
    audit = of_half_life_34()
    assert audit.leaves[0].half_life_steps == pytest.approx(34.3, rel=1e-3)
    if short:
        text = "half of a weight of kernel is lost after 34.31 of the steps, at a rate"
        with pytest.raises(ValueError, match=text):
            audit.check(**options)
    else:
        audit.check(**options)
    audit.check(allow=[SHORT], **options)


def test_a_run_of_known_length_may_be_too_long_for_a_usual_rate():
    audit = dx.audit(dx.sgdw(LR, weight_decay=WD), ONE, steps=25)
    audit.check()
    audit.check(steps=690_000)
    with pytest.raises(ValueError, match=SHORT):
        audit.check(steps=700_000)


def test_a_rate_of_a_later_step_counts_too():
    late = dx.independent_decay(lambda step: jnp.where(step < 900, 1e-4, 0.02))
    audit = dx.audit(
        optax.chain(optax.sgd(LR), late), ONE, at_steps=(0, 1000), steps=25
    )
    assert SHORT in kinds(audit)
    audit.check(steps=3400)


@pytest.mark.parametrize(
    ("rate", "short"), [(9.9e-4, False), (1.1e-3, True), (5e-3, True)]
)
def test_a_strength_that_is_not_multiplied_by_the_learning_rate(rate, short):
    """A usual rate is 1e-6 to 1e-4; λ of AdamW in this place is 1e-2."""
    optimizer = optax.chain(optax.adam(LR), dx.independent_decay(rate))
    assert (SHORT in kinds(dx.audit(optimizer, ONE, steps=25))) == short
    # γλ may be that large.
    by_rate = dx.sgdw(0.1, weight_decay=10 * rate)
    assert SHORT not in kinds(dx.audit(by_rate, ONE, steps=25))


@pytest.mark.parametrize("name", ["steps", "min_half_life"])
@pytest.mark.parametrize("value", [0, 0.0, -1, "10", float("nan")], ids=repr)
def test_errors_of_the_check(name, value):
    with pytest.raises((TypeError, ValueError), match=f"check: {name} must be"):
        of_half_life_34().check(**{name: value})
