"""The budget of a run, against NumPy and against weights that were trained."""

import math
import re
from typing import Any

import budget_reference as ref
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings, strategies as st

import decayax as dx
from decayax import rates


def table(values):
    """A schedule that looks its values up, in float64."""
    values = np.asarray(values, np.float64)
    return lambda t: values[t]


def linear(t, *, peak, steps):
    """A linear fall from the peak to 0 at T, in JAX's default precision."""
    return peak * (1.0 - jnp.asarray(t, jnp.result_type(float)) / steps)


# --- the identity -----------------------------------------------------------------

rate_lists = st.lists(
    st.one_of(st.just(0.0), st.just(1.0), st.floats(0, 1), st.floats(0, 1e-3)),
    min_size=1,
    max_size=60,
)


@settings(deadline=None, max_examples=100)
@given(rate_lists, st.data())
def test_shares_are_the_coefficients_of_the_recursion(values, data):
    steps = len(values)
    cut = data.draw(st.integers(1, steps))
    phases = {"a": (0, cut), "b": (cut, steps)} if cut < steps else {"a": (0, steps)}
    found = dx.budget(rate=table(values), steps=steps, phases=phases)
    init, shares = ref.coefficients(values)
    np.testing.assert_array_equal(found.rates, values)
    np.testing.assert_allclose(found.left, ref.left(values), rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(found.shares, shares, rtol=0, atol=1e-14)
    assert found.init == pytest.approx(init, rel=1e-12, abs=1e-300)
    assert found.init + math.fsum(found.shares) == pytest.approx(1, abs=1e-12)
    np.testing.assert_array_equal(found.updates_left, found.left[1:])
    # Phases are differences of left, which telescope.
    assert sum(phase.share for phase in found.phases) + found.init == pytest.approx(
        1, abs=1e-15
    )
    for phase in found.phases:
        expected = ref.share(values, phase.first, phase.stop)
        assert phase.share == pytest.approx(expected, abs=1e-14)
        assert phase.updates_left >= 0


@pytest.mark.parametrize("decay", [0.1, 1.0, 10.0, 300.0])
@pytest.mark.parametrize("shape", ["constant", "cosine", "trapezoid"])
def test_schedules_of_3000_steps(shape, decay):
    gamma = {
        "constant": np.full(3000, 3e-3),
        "cosine": ref.cosine(3000, peak=3e-3, end=0.1),
        "trapezoid": ref.trapezoid(3000, 100, 600, peak=3e-3),
    }[shape]
    found = dx.budget(learning_rate=table(gamma), weight_decay=decay, steps=3000)
    d = gamma * decay
    init, shares = ref.coefficients(d)
    assert abs(found.init + found.shares.sum() - 1) <= 1e-12
    np.testing.assert_allclose(found.shares, shares, atol=2e-16, rtol=1e-10)
    # Float64, and no underflow: λ = 300 keeps less than e^-500.
    assert found.init == pytest.approx(init, rel=1e-10, abs=0)
    assert found.e_folds == pytest.approx(ref.e_folds(d), rel=1e-12)
    assert found.timescale_steps == pytest.approx(1 / d.max(), rel=1e-15)
    assert found.half_age == ref.half_age(d)
    kept = rates.retained_fraction(d, steps=3000)
    assert found.init == pytest.approx(kept, rel=1e-10, abs=0)


def test_a_long_run_is_summed_without_loss():
    found = dx.budget(rate=6e-5, steps=600_000)
    assert found.init == pytest.approx(math.exp(600_000 * math.log1p(-6e-5)), rel=1e-10)
    assert abs(found.init + math.fsum(found.shares) - 1) <= 1e-12
    (phase,) = found.phases
    assert phase.share + found.init == 1
    # The last k steps give half: 1 - (1 - d)^k >= 1/2, as init is 2e-16.
    assert found.half_age == math.ceil(math.log(0.5) / math.log1p(-6e-5))


def test_schedules_are_sampled_at_int32_steps():
    seen = []

    def schedule(t):
        seen.append(jnp.asarray(t).dtype)
        return linear(t, peak=0.1, steps=7)

    found = dx.budget(learning_rate=schedule, weight_decay=0.1, steps=7)
    assert set(seen) == {np.dtype(np.int32)}
    at_steps = [float(linear(np.int32(t), peak=0.1, steps=7)) for t in range(7)]
    np.testing.assert_allclose(found.rates, 0.1 * np.array(at_steps), rtol=1e-6)


def test_schedules_that_cannot_be_traced():
    found = dx.budget(rate=lambda t: 0.1 if t < 5 else 0.01, steps=10)
    np.testing.assert_array_equal(found.rates, [0.1] * 5 + [0.01] * 5)


# --- a trained weight is the average that the budget says --------------------------

T, N = 150, 3
GAMMA = 0.05 / 2


def fall(t):
    return linear(t, peak=GAMMA, steps=T)


def trained(optimizer, theta, grads):
    """The last weights, and the update of every step, for given gradients."""

    def step(carry, grad):
        theta, state = carry
        updates, state = optimizer.update(grad, state, theta)
        return (optax.apply_updates(theta, updates), state), updates

    carry = theta, optimizer.init(theta)
    (last, _), updates = jax.jit(lambda c, g: jax.lax.scan(step, c, g))(carry, grads)
    return np.asarray(last), np.asarray(updates)


# name -> (with decay, the same without decay, the budget's arguments)
LR_SCALED = {"learning_rate": fall, "weight_decay": 0.7}
RUNS = {
    "adamw": lambda: (dx.adamw(fall, weight_decay=0.7), optax.adam(fall), LR_SCALED),
    "sgdw": lambda: (
        dx.sgdw(fall, 0.9, weight_decay=0.7),
        optax.sgd(fall, 0.9),
        LR_SCALED,
    ),
    "rmspropw": lambda: (
        dx.rmspropw(fall, weight_decay=0.7),
        optax.rmsprop(fall, eps_in_sqrt=False),
        LR_SCALED,
    ),
    "lion": lambda: (
        optax.lion(fall, weight_decay=0.7),
        optax.lion(fall, weight_decay=0.0),
        LR_SCALED,
    ),
    "independent": lambda: (
        optax.chain(optax.adam(fall), dx.independent_decay(0.02)),
        optax.adam(fall),
        {"rate": 0.02},
    ),
    "scheduled": lambda: (
        dx.adamw(0.02, weight_decay=lambda t: 50.0 * fall(t)),
        optax.adam(0.02),
        {"learning_rate": 0.02, "weight_decay": lambda t: 50.0 * fall(t)},
    ),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.relaxed("optimizers")
@pytest.mark.parametrize("name", RUNS)
def test_the_weights_of_a_run_are_rebuilt(name):
    """θ_T = C_0 θ_0 + Σ C_t q_t with q_t = -γ_t u_t/d_t, to 1e-12."""
    decayed, bare, arguments = RUNS[name]()
    draw = np.random.default_rng(0).normal
    theta, grads = draw(size=N), draw(size=(T, N))
    last, _ = trained(decayed, theta, grads)
    _, steps = trained(bare, theta, grads)  # -γ_t u_t: these gradients are given
    found = dx.budget(**arguments, steps=T)
    targets = steps / found.rates[:, None]
    rebuilt = found.init * theta + found.shares @ targets
    np.testing.assert_allclose(rebuilt, last, rtol=1e-12)
    # The updates that are left are the same sum.
    np.testing.assert_allclose(
        found.init * theta + found.updates_left @ steps, last, rtol=1e-12
    )
    assert found.init < 0.9  # there is something to rebuild


# --- phases -----------------------------------------------------------------------


def phases_of(found):
    return [(phase.name, phase.first, phase.stop) for phase in found.phases]


WARM_UP_AT_ONCE = np.append(1e-9, np.full(99, 0.01))
SHAPES = {
    "trapezoid": ref.trapezoid(200, 21, 47, peak=0.03),
    "cosine": ref.cosine(101, peak=0.03),
    "constant": np.full(20, 0.03),
    "warm-up only": np.linspace(1e-9, 0.03, 101),
    "1e-6 of the peak": np.append(1e-8, np.full(30, 0.01)),
    "cyclic": 0.01 * (2 + np.sin(np.arange(90) / 7)),
    "one peak": np.array([0.1, 0.2, 0.8, 0.3, 0.1]),
    "one step": np.array([0.5]),
}


@pytest.mark.parametrize("name", SHAPES)
def test_automatic_phases(name):
    gamma = SHAPES[name]
    found = dx.budget(learning_rate=table(gamma), weight_decay=0.9, steps=len(gamma))
    expected = ref.auto_phases(gamma)
    assert phases_of(found) == expected
    for phase in found.phases:
        part = (0.9 * gamma, phase.first, phase.stop)
        assert phase.share == pytest.approx(ref.share(*part), abs=1e-15)
        left = ref.updates_left(0.9 * gamma, gamma, phase.first, phase.stop)
        assert phase.updates_left == pytest.approx(left, rel=1e-12)


def test_a_run_without_a_plateau_has_its_top_in_the_middle():
    """A cosine: the plateau is the part above 90 % of the peak, 20 % of the run."""
    found = dx.budget(
        learning_rate=table(ref.cosine(1000)), weight_decay=0.01, steps=1000
    )
    assert phases_of(found) == [("plateau", 0, 205), ("cool-down", 205, 1000)]


def test_phases_come_from_the_learning_rate_and_not_from_the_rate():
    gamma = ref.trapezoid(100, 21, 31)
    found = dx.budget(learning_rate=table(gamma), rate=0.01, steps=100)
    assert phases_of(found) == ref.auto_phases(gamma)
    for phase in found.phases:
        left = ref.updates_left(np.full(100, 0.01), gamma, phase.first, phase.stop)
        assert phase.updates_left == pytest.approx(left, rel=1e-12)


def test_without_a_learning_rate_phases_come_from_the_rate():
    d = ref.trapezoid(100, 21, 31, peak=0.05)
    found = dx.budget(rate=table(d), steps=100)
    assert phases_of(found) == ref.auto_phases(d)
    for phase in found.phases:  # all updates count the same
        left = ref.left(d)[1:][phase.first : phase.stop].mean()
        assert phase.updates_left == pytest.approx(left, rel=1e-12)


def test_named_phases():
    gamma, phases = ref.cosine(50, peak=0.1), {"early": (0, 5), "late": (5, 50)}
    found = dx.budget(
        learning_rate=table(gamma), weight_decay=1.0, steps=50, phases=phases
    )
    assert phases_of(found) == [("early", 0, 5), ("late", 5, 50)]
    for phase in found.phases:
        expected = ref.updates_left(gamma, gamma, phase.first, phase.stop)
        assert phase.updates_left == pytest.approx(expected, rel=1e-12)
        expected = ref.share(gamma, phase.first, phase.stop)
        assert phase.share == pytest.approx(expected, rel=1e-12)


def test_the_numbers_of_a_long_plateau():
    """A trapezoid, λ 1: most weights are from the cool-down, as it comes last."""
    t = np.arange(3000)
    gamma = 3e-3 * np.minimum(1, np.minimum(t / 100, (3000 - t) / 600))
    found = dx.budget(
        learning_rate=table(gamma), weight_decay=1.0, steps=3000, steps_per_epoch=500
    )
    phases = {"warm-up": (0, 99), "plateau": (99, 2401), "cool-down": (2401, 3000)}
    named = dx.budget(
        learning_rate=table(gamma), weight_decay=1.0, steps=3000, phases=phases
    )
    # The numbers of an independent program.
    assert [f"{phase.share:.2%}" for phase in named.phases] == [
        "0.01%",
        "40.64%",
        "59.32%",
    ]
    assert f"{named.init:.2%}" == "0.03%"
    left = [f"{phase.updates_left:.2%}" for phase in named.phases]
    assert left[1:] == ["5.88%", "66.02%"]
    assert f"{found.e_folds:.2f}" == "7.96"
    assert "timescale at the peak 333 steps = 0.111 of the run = 0.667 epochs" in str(
        found
    )


# --- traps ------------------------------------------------------------------------

NO_DECAY = "no decay: the initial weights and all updates are kept whole"
NOT_PROPORTIONAL = (
    "the rate is not proportional to the learning rate: compare the updates left, "
    "not the shares"
)


@pytest.mark.parametrize(
    "arguments",
    [
        {"learning_rate": 0.1, "weight_decay": 0.0},
        {"learning_rate": 0.0, "weight_decay": 0.1},
        {"learning_rate": table(ref.cosine(9)), "weight_decay": 0},
        {"rate": 0.0},
        {"learning_rate": 0.1, "rate": table(np.zeros(9))},
    ],
)
def test_no_decay(arguments):
    found = dx.budget(**arguments, steps=9)
    assert str(found) == NO_DECAY
    assert (found.init, found.e_folds, found.timescale_steps) == (1, 0, math.inf)
    assert math.isnan(found.half_age)
    np.testing.assert_array_equal(found.shares, 0)
    np.testing.assert_array_equal(found.updates_left, 1)


def test_steps_with_a_learning_rate_of_0_count_as_steps():
    """An independent decay goes on without updates: the mean is over the steps."""
    gamma = np.repeat([0.1, 0.0], 10)
    phases = {"on": (0, 10), "off": (10, 20)}
    found = dx.budget(learning_rate=table(gamma), rate=0.1, steps=20, phases=phases)
    kept = 0.9 ** np.arange(19, -1, -1)
    left = [phase.updates_left for phase in found.phases]
    assert left == pytest.approx([kept[:10].mean(), kept[10:].mean()], rel=1e-12)


def test_a_decay_that_falls_to_0_is_not_in_proportion():
    """Its last fifth gives nearly no weight, though its updates are nearly whole."""
    fraction = np.arange(1000) / 1000
    decay = 5 * (1 + np.cos(np.pi * fraction))
    phases = {"before": (0, 800), "last": (800, 1000)}
    found = dx.budget(
        learning_rate=1e-3, weight_decay=table(decay), steps=1000, phases=phases
    )
    assert not found.in_proportion
    assert str(found).endswith(NOT_PROPORTIONAL)
    last = found.phases[1]
    assert last.share < 0.07
    assert last.updates_left > 0.98
    expected = ref.share(1e-3 * decay, 800, 1000)
    assert last.share == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"learning_rate": table(ref.cosine(30)), "weight_decay": 0.1}, True),
        ({"learning_rate": table(ref.cosine(30)), "rate": 0.1}, False),
        ({"learning_rate": 0.2, "rate": 0.1}, True),
        (
            {"learning_rate": table(ref.cosine(30)), "rate": table(ref.cosine(30) / 9)},
            True,
        ),
        ({"learning_rate": 0.2, "weight_decay": table(ref.cosine(30))}, False),
        ({"rate": table(ref.cosine(30))}, None),
    ],
)
def test_in_proportion(arguments, expected):
    found = dx.budget(**arguments, steps=30)
    assert found.in_proportion is expected
    assert (NOT_PROPORTIONAL in str(found)) is not expected


def test_a_rate_of_1_forgets_all_that_was_before():
    d = np.full(10, 0.1)
    d[4] = 1.0
    found = dx.budget(rate=table(d), steps=10)
    assert found.init == 0
    np.testing.assert_array_equal(found.shares[:4], 0)
    assert found.shares[4] == pytest.approx(0.9**5, rel=1e-14)
    assert math.fsum(found.shares) == pytest.approx(1, abs=1e-14)
    assert (found.e_folds, found.timescale_steps) == (math.inf, 1)
    assert not np.isnan(found.left).any()


@pytest.mark.parametrize("steps", [1, np.int64(1), np.int32(1)])
def test_one_step(steps):
    found = dx.budget(learning_rate=0.5, weight_decay=0.5, steps=steps)
    assert (found.init, *found.shares) == (0.75, 0.25)
    assert phases_of(found) == [("plateau", 0, 1)]
    assert (found.phases[0].updates_left, found.half_age) == (1, 1)


def test_numbers_of_several_types():
    expected = dx.budget(learning_rate=0.5, weight_decay=1, steps=3).shares
    for half in (np.float32(0.5), np.float64(0.5), jnp.float32(0.5), np.array(0.5)):
        found = dx.budget(learning_rate=half, weight_decay=1, steps=3)
        np.testing.assert_array_equal(found.shares, expected)
        assert found.shares.dtype == np.float64


# --- an optimizer and its parameters ------------------------------------------------

PARAMS = {"w": jnp.linspace(1.0, 2.0, 6).reshape(2, 3), "b": jnp.full(2, 3.0)}
STEPS = 16


def fall16(t):
    return jnp.maximum(linear(t, peak=0.1, steps=STEPS), 0.0)


FALL = 0.1 * (1 - np.arange(STEPS) / STEPS)
ONLY_W = {"w": True, "b": False}
slow = pytest.mark.slow

# name -> (optimizer, rates of w, rates of b)
BOXES: dict[str, Any] = {
    "dx.adamw": (lambda: dx.adamw(fall16, weight_decay=0.5), 0.5 * FALL, 0.5 * FALL),
    "optax.adamw, mask": (
        lambda: optax.adamw(fall16, weight_decay=0.5, mask=ONLY_W),
        0.5 * FALL,
        0 * FALL,
    ),
    "with_decay(lion)": (
        lambda: dx.with_decay(
            optax.lion(fall16, weight_decay=0.0), 0.5, learning_rate=fall16
        ),
        0.5 * FALL,
        0.5 * FALL,
    ),
    "independent": (
        lambda: optax.chain(optax.adam(fall16), dx.independent_decay(0.02)),
        0 * FALL + 0.02,
        0 * FALL + 0.02,
    ),
    "sgd_l2 without momentum": (
        lambda: dx.sgd_l2(fall16, weight_decay=0.5),
        0.5 * FALL,
        0.5 * FALL,
    ),
    "sgdw": (lambda: dx.sgdw(fall16, 0.9, weight_decay=0.5), 0.5 * FALL, 0.5 * FALL),
    "rmspropw": (
        lambda: dx.rmspropw(fall16, weight_decay=0.5),
        0.5 * FALL,
        0.5 * FALL,
    ),
    "optax.lion": (
        lambda: optax.lion(fall16, weight_decay=0.5),
        0.5 * FALL,
        0.5 * FALL,
    ),
    "later": (
        lambda: dx.adamw(0.1, weight_decay=lambda t: jnp.where(t < 6, 0.0, 0.5)),
        np.repeat([0, 0.05], (6, STEPS - 6)),
        np.repeat([0, 0.05], (6, STEPS - 6)),
    ),
    "groups": (
        lambda: optax.partition(
            {"w": dx.adamw(0.1, weight_decay=0.1), "b": dx.sgdw(0.1, weight_decay=0.4)},
            {"w": "w", "b": "b"},
        ),
        0 * FALL + 0.01,
        0 * FALL + 0.04,
    ),
    "MultiSteps": (
        lambda: optax.MultiSteps(dx.adamw(0.1, weight_decay=0.5), 4),
        np.tile([0, 0, 0, 0.05], 4),
        np.tile([0, 0, 0, 0.05], 4),
    ),
    "apply_if_finite": (
        lambda: optax.apply_if_finite(dx.adamw(fall16, weight_decay=0.5), 3),
        0.5 * FALL,
        0.5 * FALL,
    ),
    "inject_hyperparams": (
        lambda: optax.inject_hyperparams(optax.adamw)(fall16, weight_decay=0.5),
        0.5 * FALL,
        0.5 * FALL,
    ),
    "masked": (
        lambda: optax.chain(
            optax.scale_by_adam(),
            optax.masked(optax.add_decayed_weights(0.5), ONLY_W),
            optax.scale_by_learning_rate(fall16),
        ),
        0.5 * FALL,
        0 * FALL,
    ),
    "no decay": (lambda: optax.adam(0.1), 0 * FALL, 0 * FALL),
}
FAST = ("optax.adamw, mask", "later")
boxes = [pytest.param(name, marks=() if name in FAST else slow) for name in BOXES]


def by_leaf(found):
    """The budget of each leaf."""
    everything = (found, *found.others)
    assert all(not one.others for one in found.others)
    pairs = [(path, one) for one in everything for path in one.paths]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


@pytest.mark.relaxed("optimizers")
@pytest.mark.parametrize("name", boxes)
def test_an_optimizer_has_the_budget_of_its_schedules(name):
    make, *expected = BOXES[name]
    found = dx.budget(make(), PARAMS, steps=STEPS)
    leaves = by_leaf(found)
    assert sorted(leaves) == ["b", "w"]
    for path, own in zip("wb", expected, strict=True):
        # Rates are measured in float32.
        np.testing.assert_allclose(leaves[path].rates, own, rtol=1e-5, atol=2e-7)
        same = dx.budget(rate=table(own), steps=STEPS)
        np.testing.assert_allclose(leaves[path].shares, same.shares, atol=1e-6)
        assert (NO_DECAY in str(leaves[path]).split("\n\n")[0]) is (not own.any())
        assert leaves[path].note == ""
    first = [one.rates.max() for one in (found, *found.others)]
    assert first == sorted(first, reverse=True)


@pytest.mark.relaxed("optimizers")
def test_leaves_are_grouped_by_their_rates():
    gamma = {"learning_rate": fall16}
    mask = {"w": True, "v": True, "b": False}
    params = PARAMS | {"v": jnp.ones(3)}
    optimizer = optax.adamw(fall16, weight_decay=0.5, mask=mask)
    found = dx.budget(optimizer, params, **gamma, steps=STEPS)
    assert found.paths == ("v", "w")
    assert [one.paths for one in found.others] == [("b",)]
    assert str(found.others[0]).splitlines() == ["b", NO_DECAY]
    assert str(found).splitlines()[0] == "v and 1 more"
    assert str(found).endswith(f"\n\nb\n{NO_DECAY}")
    assert phases_of(found) == ref.auto_phases(FALL)
    # The learning rate weighs the updates, as for schedules.
    same = dx.budget(**gamma, weight_decay=0.5, steps=STEPS)
    for phase, expected in zip(found.phases, same.phases, strict=True):
        assert phase.updates_left == pytest.approx(expected.updates_left, abs=1e-6)


@pytest.mark.relaxed("optimizers")
def test_shapes_are_enough():
    shapes = {"w": jax.ShapeDtypeStruct((2, 3), jnp.float32)}
    found = dx.budget(dx.sgdw(0.1, weight_decay=0.3), shapes, steps=5)
    np.testing.assert_allclose(found.rates, 0.03, rtol=1e-5)


@pytest.mark.relaxed("optimizers")
@pytest.mark.parametrize("schedule", [lambda t: 0.1, pytest.param(fall16, marks=slow)])
def test_l2_with_momentum_is_nearly_a_rate(schedule):
    """Heavy ball: v ← μ v + λ θ, θ ← θ − γ_t v. The rate grows to γλ/(1 − μ)."""
    steps, decay = 60, 1e-3

    def gamma(t):
        return schedule(t / 4) if schedule is fall16 else 0.1

    optimizer = dx.sgd_l2(gamma, 0.9, weight_decay=decay)
    found = dx.budget(optimizer, PARAMS, steps=steps)
    theta, velocity = 1.0, 0.0
    for t in range(steps):
        velocity = 0.9 * velocity + decay * theta
        theta -= float(gamma(t)) * velocity
    assert found.e_folds == pytest.approx(-math.log(theta), rel=0.02)
    if schedule is not fall16:
        assert found.rates[-1] == pytest.approx(0.1 * decay / (1 - 0.9), rel=0.02)
        assert found.rates[0] == pytest.approx(0.1 * decay, rel=1e-3)


@pytest.mark.relaxed("optimizers")
def test_a_schedule_is_not_read_beyond_the_run():
    """This one is negative there."""
    optimizer = dx.sgdw(lambda t: linear(t, peak=0.1, steps=9), weight_decay=0.5)
    found = dx.budget(optimizer, {"w": PARAMS["w"]}, steps=9)
    expected = 0.05 * (1 - np.arange(9) / 9)
    np.testing.assert_allclose(found.rates, expected, rtol=1e-5, atol=2e-7)


@pytest.mark.relaxed("optimizers")
def test_bf16_rounds_small_rates_away():
    """Adam's steps of 0.001 with the decay are below half an ulp of 1 to 2."""
    params = {"w": jnp.linspace(1.0, 1.9, 64, dtype=jnp.bfloat16)}
    found = dx.budget(dx.adamw(0.001, weight_decay=0.1), params, steps=9)
    assert (found.rates < 0.1 * 1e-4).all()  # a few small weights decay
    note = r"rounding to bfloat16 leaves about \d% of the decay"
    assert re.fullmatch(note, found.note)
    assert str(found).splitlines()[:2] == ["w", found.note]


@slow
@pytest.mark.relaxed("optimizers")
def test_bf16_keeps_large_rates():
    params = {"w": jnp.linspace(1.0, 2.0, 640, dtype=jnp.bfloat16)}
    found = dx.budget(dx.sgdw(0.1, weight_decay=1.0), params, steps=9)
    np.testing.assert_allclose(found.rates, 0.1, rtol=0.02)


@slow
@pytest.mark.relaxed("optimizers")
def test_cautious_decay_has_its_mean_rate_under_random_gradients():
    """Half of the weights decay in a step."""
    draw = np.random.default_rng(1).normal
    params = {"w": jnp.asarray(draw(size=4000), jnp.float32)}
    optimizer = optax.chain(
        optax.scale_by_adam(), dx.cautious_decay(0.5), optax.scale(-0.1)
    )
    found = dx.budget(optimizer, params, steps=STEPS)
    note = "gated: at most this; not all weights decay in a step"
    assert found.note == note
    assert str(found).splitlines()[:2] == ["w", note]
    assert found.rates.mean() == pytest.approx(0.05, rel=0.02)


def refusal(path, mode):
    return re.escape(
        f"budget: the decay of '{path}' is not a rate from 0 to 1 that depends on "
        f"the step only (mode: {mode}). "
        "See print(dx.audit(optimizer, params)). A decoupled decay has such a rate: "
        "dx.adamw, or dx.with_decay(optimizer, ...)."
    )


def chained(decay):
    return optax.chain(optax.scale_by_adam(), decay, optax.scale(-0.1))


@pytest.mark.relaxed("optimizers")
@pytest.mark.parametrize(
    ("make", "mode"),
    [
        (lambda: dx.adam_l2(0.1, weight_decay=0.1), "gradient-dependent"),
        pytest.param(
            lambda: optax.chain(optax.add_decayed_weights(0.1), optax.adam(0.1)),
            "gradient-dependent",
            marks=slow,
        ),
        pytest.param(lambda: chained(dx.decay_to_init(0.1)), "anchored", marks=slow),
        pytest.param(
            lambda: optax.chain(optax.sgd(0.1), dx.constrain_norm(1.0)),
            "constrained",
            marks=slow,
        ),
        pytest.param(
            lambda: chained(optax.add_decayed_weights(-0.1)), "growth", marks=slow
        ),
    ],
)
def test_a_decay_that_is_not_a_rate_is_refused(make, mode):
    with pytest.raises(ValueError, match=f"^{refusal('w', mode)}$"):
        dx.budget(make(), {"w": PARAMS["w"]}, steps=STEPS)


# --- errors -----------------------------------------------------------------------

GOOD = {"learning_rate": 0.1, "weight_decay": 0.1, "steps": 10}
HOW = (
    "budget: pass learning_rate and weight_decay, or rate, or an optimizer and params. "
    "For example budget(learning_rate=1e-3, weight_decay=0.1, steps=10_000)."
)
MEASURED = (
    "budget: an optimizer needs params, and no weight_decay or rate: they are "
    "measured. Pass budget(optimizer, params, steps=...)."
)


def refused(error, message, call, *args, **kwargs):
    """Exactly this message."""
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        call(*args, **kwargs)


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, HOW),
        ((), {"learning_rate": 0.1}, HOW),
        ((), {"weight_decay": 0.1}, HOW),
        ((), {"learning_rate": 0.1, "weight_decay": 0.1, "rate": 0.1}, HOW),
        ((), {"weight_decay": 0.1, "rate": 0.1}, HOW),
        ((), {"params": PARAMS}, HOW),
        ((optax.identity(),), {}, MEASURED),
        ((optax.identity(), PARAMS), {"weight_decay": 0.1}, MEASURED),
        ((optax.identity(), PARAMS), {"rate": 0.1}, MEASURED),
    ],
)
def test_what_must_be_given(args, kwargs, message):
    refused(TypeError, message, dx.budget, *args, **kwargs, steps=10)


KIND = "Pass a number, an array or a schedule."
SIGN = "Pass a finite number without a minus sign."
ONE = "concrete, and one number or one per step"


@pytest.mark.parametrize("name", ["learning_rate", "weight_decay", "rate"])
@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ("x", TypeError, f"a number, got 'x' of type str. {KIND}"),
        (True, TypeError, f"a number, got the boolean True. {KIND}"),
        (1j, TypeError, f"a number, got 1j of type complex. {KIND}"),
        (math.nan, ValueError, f"finite and >= 0, got nan. {SIGN}"),
        (math.inf, ValueError, f"finite and >= 0, got inf. {SIGN}"),
        (-0.5, ValueError, f"finite and >= 0, got -0.5. {SIGN}"),
        (
            np.ones(3),
            ValueError,
            f"{ONE}, got array([1., 1., 1.]) of type ndarray. "
            "Pass a number or a schedule.",
        ),
    ],
)
def test_a_strength_that_is_not_a_number(name, value, error, message):
    good = {"learning_rate": 0.1, "rate": 0.1} if name == "rate" else GOOD
    arguments = {**good, name: value, "steps": 10}
    refused(error, f"budget: {name} must be {message}", dx.budget, **arguments)


@pytest.mark.parametrize("name", ["learning_rate", "weight_decay", "steps"])
def test_a_traced_strength_is_refused(name):
    must, hint = ONE, "Pass a number or a schedule."
    if name == "steps":
        must, hint = "a whole number >= 1", ""
    message = f"budget: {name} must be {must}, got TRACER. {hint}".rstrip()

    def call(value):
        dx.budget(**{**GOOD, name: value})
        return value

    pattern = re.escape(message).replace("TRACER", ".*Tracer.*")
    with pytest.raises(ValueError, match=f"^{pattern}"):
        jax.jit(call)(1)


@pytest.mark.parametrize(
    ("value", "got"),
    [
        ("x", "'x' of type str"),
        (None, "None of type NoneType"),
        (math.nan, "nan of type float"),
        (-1, "-1 of type int"),
        (0, "0 of type int"),
        (10.5, "10.5 of type float"),
        (True, "True of type bool"),
    ],
)
def test_steps_that_are_not_a_count(value, got):
    message = f"budget: steps must be a whole number >= 1, got {got}."
    refused(ValueError, message, dx.budget, **{**GOOD, "steps": value})


@pytest.mark.parametrize(("value", "got"), ref.NOT_POSITIVE)
def test_steps_per_epoch_that_are_not_a_number(value, got):
    message = f"budget: steps_per_epoch must be a finite number > 0, got {got}."
    refused(ValueError, message, dx.budget, **GOOD, steps_per_epoch=value)


@pytest.mark.parametrize(
    "value",
    [
        "x",
        None,
        {},
        {"a": (0, 3), "b": (4, 10)},  # a gap
        {"a": (0, 5), "b": (4, 10)},
        {"a": (0, 3), "b": (3, 9)},  # too short
        {"a": (0, 3), "b": (3, 11)},
        {"a": (1, 10)},
        {"a": (0, 0), "b": (0, 10)},
        {"b": (5, 10), "a": (0, 5)},
        {"a": (0, 5, 10)},
        {"a": 10},
        {"a": (0.0, 10.0)},
        {3: (0, 10)},
        [("a", 0, 10)],
        np.ones(3),
    ],
)
def test_phases_that_do_not_cover_the_run(value):
    message = (
        "budget: phases must be 'auto' or a dict that covers the steps 0 to 10 in "
        "order and without gaps, got "
    )
    hint = "Pass for example {'all': (0, 10)}."
    pattern = f"^{re.escape(message)}.* of type .*{re.escape(hint)}$"
    with pytest.raises(ValueError, match=pattern):
        dx.budget(**GOOD, phases=value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"learning_rate": 1.0, "weight_decay": 2.0},
            "budget: learning_rate * weight_decay must be <= 1, got 2 at step 0. Such "
            "a decay changes the sign of the weights.",
        ),
        (
            {"rate": table([0, 0.5, 1.5])},
            "budget: rate must be <= 1, got 1.5 at step 2. Such a decay changes the "
            "sign of the weights.",
        ),
        (
            {"learning_rate": table([0.1, -0.25, 0.1]), "weight_decay": 0.1},
            "budget: the value of the learning_rate schedule must be finite and >= 0, "
            "got -0.25 at index 1. Pass a finite number without a minus sign.",
        ),
        (
            {"learning_rate": 0.1, "weight_decay": table([0.1, 0.1, math.nan])},
            "budget: the value of the weight_decay schedule must be finite and >= 0, "
            "got nan at index 2. Pass a finite number without a minus sign.",
        ),
    ],
)
def test_rates_out_of_range(arguments, message):
    refused(ValueError, message, dx.budget, **arguments, steps=3)


# --- text and picture --------------------------------------------------------------


def test_the_table():
    gamma = ref.trapezoid(1000, 103, 307, peak=2e-3)
    found = dx.budget(
        learning_rate=table(gamma), weight_decay=0.8, steps=1000, steps_per_epoch=250
    )
    d = 0.8 * gamma
    (warm, flat, cool), kept = ref.auto_phases(gamma), ref.left(d)
    assert (warm[1:], flat[1:], cool[1:]) == ((0, 92), (92, 724), (724, 1000))
    share = [f"{100 * ref.share(d, *part[1:]):.2f}%" for part in (warm, flat, cool)]
    left = [
        f"{100 * ref.updates_left(d, gamma, *part[1:]):.2f}%"
        for part in (warm, flat, cool)
    ]
    assert str(found) == found.table() == repr(found)
    assert found.table().splitlines() == [
        "from         steps  of the weights  updates left",
        f"init             -  {kept[0]:>14.2%}",
        f"warm-up       0-91  {share[0]:>14}  {left[0]:>12}",
        f"plateau     92-723  {share[1]:>14}  {left[1]:>12}",
        f"cool-down  724-999  {share[2]:>14}  {left[2]:>12}",
        "timescale at the peak 625 steps = 0.625 of the run = 2.5 epochs; "
        f"{ref.e_folds(d):.3g} e-folds of decay",
        f"half of what is not init is from the last {ref.half_age(d)} steps",
    ]


@pytest.mark.needs_extras
def test_the_picture_has_what_is_left_and_the_shares():
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    found = dx.budget(learning_rate=table(ref.cosine(40)), weight_decay=0.2, steps=40)
    assert found.plot(axes) is None
    left, shares = axes.get_lines()
    np.testing.assert_allclose(left.get_ydata(), found.updates_left)
    np.testing.assert_allclose(shares.get_ydata(), found.shares / found.shares.max())
    assert "left" in left.get_label()


def test_budgets_can_be_compared_and_put_in_a_set():
    one, two = (dx.budget(**GOOD) for _ in range(2))
    other = dx.budget(**GOOD | {"steps": 11})
    assert one != other
    assert len({one, other}) == 2
    assert isinstance(one == two, bool)


# --- optimizers whose state remembers the weights ---------------------------------

LONG = 300
WEIGHTS = {"w": jnp.linspace(0.5, 2.0, 6)}


def left_of_a_run(optimizer, steps):
    """d θ_T/d θ₀ in the direction of θ₀, with the same gradients, in a real run."""
    gradients = jax.random.normal(jax.random.key(7), (steps, 6))

    def step(carry, gradient):
        params, state = carry
        updates, state = optimizer.update({"w": gradient}, state, params)
        return (optax.apply_updates(params, updates), state), None

    def end(params):
        carry, _ = jax.lax.scan(step, (params, optimizer.init(params)), gradients)
        return carry[0]["w"]

    with jax.numpy_dtype_promotion("standard"):
        _, moved = jax.jvp(end, (WEIGHTS,), (WEIGHTS,))
    return float(moved @ WEIGHTS["w"] / (WEIGHTS["w"] @ WEIGHTS["w"]))


REMEMBERING = {
    "L2 + momentum": lambda: dx.sgd_l2(1e-2, weight_decay=0.1, momentum=0.9),
    "L2 + Nesterov": lambda: dx.sgd_l2(
        1e-2, weight_decay=0.1, momentum=0.9, nesterov=True
    ),
    "schedule-free": lambda: optax.contrib.schedule_free_adamw(1e-2, weight_decay=0.5),
    "AdamW": lambda: optax.adamw(1e-2, weight_decay=0.5),
}


@pytest.mark.parametrize("name", REMEMBERING)
def test_what_is_left_is_that_of_a_real_run(name):
    optimizer = REMEMBERING[name]()
    found = dx.budget(optimizer, WEIGHTS, steps=LONG)
    assert found.init == pytest.approx(left_of_a_run(optimizer, LONG), rel=2e-4)


def test_rates_outside_0_and_1_are_refused():
    """The weights oscillate: momentum 0.9 and a rate of 0.01 · 3 / 0.1."""
    swinging = dx.sgd_l2(1e-2, weight_decay=3.0, momentum=0.9)
    with pytest.raises(ValueError, match="not a rate from 0 to 1"):
        dx.budget(swinging, WEIGHTS, steps=LONG)
    with pytest.raises(ValueError, match="not a rate from 0 to 1"):
        dx.budget(optax.adamw(1.0, weight_decay=1.5), WEIGHTS, steps=LONG)


def test_a_decay_of_many_e_folds_does_not_underflow():
    params = {"w": jnp.ones(4), "b": jnp.ones(2)}
    mask = {"w": True, "b": False}
    found = dx.budget(optax.adamw(0.5, weight_decay=0.5, mask=mask), params, steps=800)
    assert found.e_folds == pytest.approx(-800 * math.log(0.75), rel=1e-4)
    assert found.others[0].init == 1.0


def test_an_empty_parameter():
    params = {"w": jnp.ones(3), "empty": jnp.ones((0,))}
    found = dx.budget(optax.adamw(1e-2, weight_decay=0.5), params, steps=20)
    assert found.rates == pytest.approx(np.full(20, 5e-3), rel=1e-4)


@pytest.mark.parametrize("k", [2, 4])
def test_accumulated_steps_are_one_decay_in_k_calls(k):
    inner = dx.adamw(1e-2, weight_decay=1.0)
    optimizer = optax.MultiSteps(inner, k).gradient_transformation()
    found = dx.budget(optimizer, WEIGHTS, steps=40 * k)
    assert np.count_nonzero(found.rates) == 40
    assert found.timescale_steps == pytest.approx(100 * k, rel=1e-4)
    assert [phase.name for phase in found.phases] == ["plateau"]
    found = dx.budget(optimizer, WEIGHTS, steps=40 * k, learning_rate=1e-2)
    assert found.in_proportion is True


def test_two_gated_leaves_are_one_group():
    params = {"w": jnp.ones((8, 8)), "b": jnp.ones(8)}
    cautious = optax.chain(
        optax.scale_by_adam(), dx.cautious_decay(0.1), optax.scale(-0.1)
    )
    found = dx.budget(cautious, params, steps=300)
    assert not found.others
    assert found.timescale_steps == pytest.approx(100, rel=1e-4)


def test_nothing_may_be_left_by_rounding():
    """A surviving fraction of exactly 0 is not "not measured"."""
    from decayax._budget import measured

    leaf = dx.audit(optax.adamw(1e-2, weight_decay=0.5), WEIGHTS).leaves[0]
    fractions = {0.0: 0.0, -0.02: 0.0, 0.3: 0.3, None: 1.0, math.nan: 1.0}
    for fraction, expected in fractions.items():
        assert (
            measured._surviving(leaf._replace(surviving_fraction=fraction)) == expected
        )
