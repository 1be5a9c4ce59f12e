"""Conversions between conventions, and schedules, against NumPy and real chains."""

import functools
import inspect
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings, strategies as st

import decayax as dx
from decayax import rates


NAMES = [name for name, f in vars(rates).items() if inspect.isfunction(f)]
SCHEDULES = [name for name in NAMES if name.endswith("_schedule")]
PEAK, STEPS = 0.1, 40


def cosine(t):
    """In JAX, in the precision of the day; PEAK at 0, almost 0 at STEPS - 1."""
    t = jnp.asarray(t, jnp.result_type(float))
    return 0.5 * PEAK * (1.0 + jnp.cos(jnp.pi * t / STEPS))


GAMMA = 0.5 * PEAK * (1 + np.cos(np.pi * np.arange(STEPS) / STEPS))
ETA = GAMMA / PEAK


def realised(optimizer, steps=STEPS):
    """Rate per step and θ_T/θ_0 of a weight without gradient, by running the chain."""

    def step(carry, _):
        theta, state = carry
        updates, state = optimizer.update(jnp.zeros_like(theta), state, theta)
        return (theta + updates, state), -updates / theta

    theta = jnp.array([2.0, -3.0])
    carry = theta, optimizer.init(theta)
    (last, _), rate = jax.jit(lambda c: jax.lax.scan(step, c, length=steps))(carry)
    return np.asarray(rate), np.asarray(last / theta)


# --- values that must come out ----------------------------------------------------


def test_the_numbers_of_the_default_recipe():
    rate = rates.rate_from_coupled(0.01, learning_rate=1e-3)
    assert rate == pytest.approx(1e-5, rel=1e-15)
    assert rates.timescale_steps_from_rate(rate) == pytest.approx(100_000, rel=1e-14)
    assert round(rates.half_life_steps_from_rate(rate), 1) == 69_314.4
    assert round(rates.kept_share(rate, steps=10_000), 6) == 0.904837
    assert rates.timescale_epochs_from_rate(rate, steps_per_epoch=500) == (
        pytest.approx(200, rel=1e-14)
    )


def test_the_numbers_of_the_adamw_paper():
    run = {"batch_size": 128, "samples": 50_000}
    decay = rates.weight_decay_from_normalised(0.025, epochs=100, **run)
    assert f"{decay:.5e}" == "1.26491e-04"
    decay = rates.weight_decay_from_normalised(0.025, epochs=1500, **run)
    assert f"{decay:.2e}" == "3.27e-05"
    coupled = rates.coupled_from_independent(decay, peak_learning_rate=1e-3)
    assert round(coupled, 3) == 0.033


def test_the_prior_width_is_that_of_the_map_estimate():
    """Linear model, unit noise: the posterior mean under N(0, σ²) minimises the loss
    of the mean squared residual with l2_penalty of 1/(Nσ²)."""
    rng = np.random.default_rng(0)
    X, sigma = rng.standard_normal((30, 3)), 0.7
    y = X @ [1.0, -2.0, 0.5] + rng.standard_normal(30)
    mean = np.linalg.solve(X.T @ X + np.eye(3) / sigma**2, X.T @ y)
    decay = rates.weight_decay_from_prior_width(sigma, samples=30)
    slope = X.T @ (X @ mean - y) / 30 + decay * mean
    np.testing.assert_allclose(slope, 0.0, atol=1e-14)


def test_half_life_is_that_of_steps():
    rate = rates.rate_from_half_life_steps(7)
    assert (1 - rate) ** 7 == pytest.approx(0.5, rel=1e-14)
    assert rates.half_life_steps_from_rate(0.5) == 1.0


def test_nothing_decays_at_rate_0():
    assert rates.timescale_steps_from_rate(0.0) == math.inf
    assert rates.half_life_steps_from_rate(0) == math.inf
    assert rates.prior_width_from_weight_decay(0.0, samples=9) == math.inf
    for back in (rates.rate_from_timescale_steps, rates.rate_from_half_life_steps):
        assert str(back(math.inf)) == "0.0"
    assert rates.weight_decay_from_prior_width(math.inf, samples=9) == 0.0
    assert rates.kept_share(0.0, steps=10) == 1.0
    assert str(rates.rate_from_kept_share(1.0, steps=10)) == "0.0"
    zero = rates.coupled_from_kept_share(1.0, learning_rate=0.1, steps=10)
    assert str(zero) == "0.0"


# --- every conversion and its inverse ---------------------------------------------

decays = st.floats(1e-8, 0.9)
positive = st.floats(1e-6, 1e6)
ROUND_TRIPS = {
    "coupled": (rates.coupled_from_rate, rates.rate_from_coupled, ["learning_rate"]),
    "independent": (
        rates.independent_from_rate,
        rates.rate_from_independent,
        ["learning_rate", "peak_learning_rate"],
    ),
    "conventions": (
        rates.independent_from_coupled,
        rates.coupled_from_independent,
        ["peak_learning_rate"],
    ),
    "timescale": (rates.timescale_steps_from_rate, rates.rate_from_timescale_steps, []),
    "epochs": (
        rates.timescale_epochs_from_rate,
        rates.rate_from_timescale_epochs,
        ["steps_per_epoch"],
    ),
    "half-life": (rates.half_life_steps_from_rate, rates.rate_from_half_life_steps, []),
    "normalised": (
        rates.weight_decay_from_normalised,
        rates.normalised_from_weight_decay,
        ["batch_size", "samples", "epochs"],
    ),
    "prior": (
        rates.weight_decay_from_prior_width,
        rates.prior_width_from_weight_decay,
        ["samples"],
    ),
}


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(ROUND_TRIPS)), decays, st.tuples(*[positive] * 3))
def test_every_conversion_round_trips(kind, value, others):
    there, back, arguments = ROUND_TRIPS[kind]
    options = dict(zip(arguments, others, strict=False))
    result = there(value, **options)
    assert type(result) is float
    assert back(result, **options) == pytest.approx(value, rel=1e-12)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.floats(1e-6, 1 - 1e-3), st.integers(1, 100_000))
def test_kept_share_round_trips(kept, steps):
    rate = rates.rate_from_kept_share(kept, steps=steps)
    assert rates.kept_share(rate, steps=steps) == pytest.approx(kept, rel=1e-12)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.floats(1e-12, 1 - 1e-3),
    st.integers(0, 2**31),
    st.integers(1, 300),
    st.floats(0.0, 6.0),
)
def test_coupled_from_kept_share_is_the_root(kept, seed, steps, spread):
    rng = np.random.default_rng(seed)
    gamma = 10.0 ** -(spread * rng.uniform(size=steps))
    gamma[0] = 1e-3
    decay = rates.coupled_from_kept_share(kept, learning_rate=gamma, steps=steps)
    rate = rates.rate_from_coupled(decay, learning_rate=gamma)
    assert rates.kept_share(rate, steps=steps) == pytest.approx(kept, rel=1e-11)
    again = rates.coupled_from_kept_share(
        rates.kept_share(rate, steps=steps), learning_rate=gamma, steps=steps
    )
    assert again == pytest.approx(decay, rel=1e-12)


def test_coupled_from_kept_share_at_a_constant_rate_is_the_closed_form():
    for kept in (1e-9, 0.1, 0.999):
        decay = rates.coupled_from_kept_share(kept, learning_rate=0.1, steps=7)
        expected = rates.rate_from_kept_share(kept, steps=7) / 0.1
        assert decay == pytest.approx(expected, rel=1e-12)


# --- numbers, arrays, schedules, tracers ------------------------------------------


def test_numpy_stays_numpy_in_float64():
    decay = np.array([0.0, 0.1, 0.3], np.float32)
    rate = rates.rate_from_coupled(decay, learning_rate=np.float64(0.1))
    assert isinstance(rate, np.ndarray)
    assert rate.dtype == np.float64
    np.testing.assert_array_equal(rate, decay.astype(np.float64) * 0.1)
    assert type(rates.rate_from_coupled(np.float32(0.5), learning_rate=1)) is float


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int32])
def test_jax_stays_jax_in_float32(dtype):
    decay = jnp.ones(3, dtype)
    rate = rates.rate_from_coupled(decay, learning_rate=np.full(3, 0.1))
    assert isinstance(rate, jax.Array)
    assert rate.dtype == jnp.float32
    np.testing.assert_allclose(rate, 0.1, rtol=1e-7)


@pytest.mark.parametrize("kind", sorted(ROUND_TRIPS))
def test_conversions_under_jit_vmap_and_grad(kind):
    there, back, arguments = ROUND_TRIPS[kind]
    options = dict(zip(arguments, (0.5, 2.0, 3.0), strict=False))
    values = np.array([0.01, 0.2, 0.7])
    expected = there(values, **options)
    batch = jnp.asarray(values, jnp.float32)
    mapped = jax.jit(jax.vmap(functools.partial(there, **options)))(batch)
    np.testing.assert_allclose(mapped, expected, rtol=1e-5)
    loop = lambda x: back(there(x, **options), **options)  # noqa: E731
    np.testing.assert_allclose(jax.vmap(jax.grad(loop))(batch), 1.0, rtol=1e-4)
    for argument in arguments:  # every argument may be a tracer
        f = lambda x: there(0.2, **{**options, argument: x})  # noqa: B023, E731
        np.testing.assert_allclose(
            jax.jit(f)(options[argument]), there(0.2, **options), rtol=1e-5
        )


def test_tracers_are_never_branched_on():
    bad = jax.jit(lambda x: rates.rate_from_coupled(x, learning_rate=1.0))(-3.0)
    assert bad == -3.0


def test_kept_share_of_numbers_arrays_schedules_and_tracers(x64):
    rate = 0.3 * GAMMA
    expected = np.prod(1 - rate)
    schedule = rates.rate_from_coupled(0.3, learning_rate=cosine)
    for given_rate in (rate, jnp.asarray(rate), schedule):
        share = rates.kept_share(given_rate, steps=STEPS)
        assert type(share) is float
        assert share == pytest.approx(expected, rel=1e-12)
    traced = jax.jit(functools.partial(rates.kept_share, steps=STEPS))(rate)
    np.testing.assert_allclose(traced, expected, rtol=1e-12)

    def of_decay(decay):
        schedule = rates.rate_from_coupled(decay, learning_rate=cosine)
        return rates.kept_share(schedule, steps=STEPS)

    slope = -expected * np.sum(GAMMA / (1 - rate))
    np.testing.assert_allclose(jax.jit(jax.grad(of_decay))(0.3), slope, rtol=1e-12)
    traced_steps = jax.jit(lambda n: rates.kept_share(0.01, steps=n))(10)
    np.testing.assert_allclose(traced_steps, 0.99**10, rtol=1e-12)


def test_kept_share_is_stable_where_the_product_is_not():
    assert rates.kept_share(1e-18, steps=10**18) == pytest.approx(math.exp(-1))
    assert (1 - 1e-18) ** (10**18) == 1.0


def test_coupled_from_kept_share_under_transformations(x64):
    f = lambda kept: rates.coupled_from_kept_share(  # noqa: E731
        kept, learning_rate=cosine, steps=STEPS
    )
    kept = np.array([0.01, 0.3, 0.9, 1.0])
    expected = np.array([f(float(k)) for k in kept])
    np.testing.assert_allclose(jax.jit(jax.vmap(f))(kept), expected, rtol=1e-12)
    # d kept/dλ = −kept·Σγ/(1 − γλ)
    slope = -1 / (kept * np.sum(GAMMA / (1 - np.outer(expected, GAMMA)), axis=1))
    np.testing.assert_allclose(jax.vmap(jax.grad(f))(kept), slope, rtol=1e-9)
    # λ scales as 1/γ
    g = lambda a: rates.coupled_from_kept_share(  # noqa: E731
        0.3, learning_rate=lambda t: a * cosine(t), steps=STEPS
    )
    np.testing.assert_allclose(jax.grad(g)(1.0), -f(0.3), rtol=1e-9)


def test_a_conversion_of_a_schedule_is_a_schedule():
    decay = rates.coupled_from_rate(1e-3, learning_rate=cosine)
    np.testing.assert_allclose(decay(10), 1e-3 / GAMMA[10], rtol=1e-6)
    np.testing.assert_allclose(jax.jit(decay)(10), 1e-3 / GAMMA[10], rtol=1e-6)
    both = rates.rate_from_coupled(lambda t: 0.1 * t, learning_rate=lambda t: 0.01 * t)
    assert both(3) == pytest.approx(0.009, rel=1e-14)
    assert rates.timescale_steps_from_rate(both)(3) == pytest.approx(1 / 0.009)


def test_python_schedules_may_branch_and_keep_their_float64():
    step_down = lambda t: 0.1 if t < 3 else 0.01  # noqa: E731
    share = rates.kept_share(step_down, steps=5)
    assert share == pytest.approx(0.9**3 * 0.99**2, rel=1e-15)
    branching = lambda t: jnp.float32(0.5) if t < 1 else jnp.float32(0.25)  # noqa: E731
    assert rates.kept_share(branching, steps=2) == pytest.approx(0.375, rel=1e-7)


@pytest.mark.parametrize(
    "schedule",
    [
        optax.cosine_decay_schedule(0.1, 50),
        optax.warmup_cosine_decay_schedule(0.0, 0.1, 10, 50),
        optax.linear_onecycle_schedule(50, 0.1),
        optax.piecewise_constant_schedule(0.1, {10: 0.5}),
        optax.constant_schedule(0.1),
    ],
)
@pytest.mark.relaxed("optax's schedules")
def test_optax_schedules_are_asked_as_optax_asks_them(schedule):
    share = rates.kept_share(schedule, steps=50)
    values = np.array([float(schedule(jnp.int32(t))) for t in range(50)])
    assert share == pytest.approx(np.prod(1 - values), rel=1e-6)


# --- the rates are those of real chains -------------------------------------------


def test_decoupled_chains_keep_the_share_foretold(x64):
    rate, kept = realised(
        optax.chain(dx.decoupled_decay(0.7), optax.scale_by_learning_rate(cosine))
    )
    np.testing.assert_allclose(rate, np.outer(0.7 * GAMMA, [1, 1]), rtol=1e-12)
    schedule = rates.rate_from_coupled(0.7, learning_rate=cosine)
    expected = rates.kept_share(schedule, steps=STEPS)
    np.testing.assert_allclose(kept, expected, rtol=1e-12)


def test_independent_chains_keep_the_share_foretold(x64):
    options = {"learning_rate": cosine, "peak_learning_rate": PEAK}
    decay = rates.proportional_schedule(0.02, **options)
    chain = optax.chain(optax.sgd(cosine), dx.independent_decay(decay))
    rate, kept = realised(chain)
    np.testing.assert_allclose(rate, np.outer(0.02 * ETA, [1, 1]), rtol=1e-12)
    schedule = rates.rate_from_independent(0.02, **options)
    expected = rates.kept_share(schedule, steps=STEPS)
    np.testing.assert_allclose(kept, expected, rtol=1e-12)


def test_a_chain_keeps_the_share_asked_for(x64):
    decay = rates.coupled_from_kept_share(0.5, learning_rate=cosine, steps=STEPS)
    _, kept = realised(dx.sgdw(cosine, weight_decay=decay))
    np.testing.assert_allclose(kept, 0.5, rtol=1e-12)


def test_a_rate_asked_for_is_the_rate_under_any_learning_rate(x64):
    decay = rates.coupled_from_rate(0.003, learning_rate=cosine)
    rate, _ = realised(dx.sgdw(cosine, weight_decay=decay))
    np.testing.assert_allclose(rate, 0.003, rtol=1e-12)


# --- porting: the recipe says X in framework Y; write this ------------------------


class Port(NamedTuple):
    framework: str
    recipe: str
    write: str  # in decayax, with the names `schedule` and `peak`
    rate: Callable[[Any, Any], Any]  # (γ_t, η_t) -> rate_t, or λ of the gradient term
    l2: bool = False

    def build(self, schedule, peak):
        names = {"dx": dx, "optax": optax, "schedule": schedule, "peak": peak}
        return eval(self.write, names)


PORTS = [
    Port(
        "torch",
        "SGD(weight_decay=0.3)",
        "dx.sgd_l2(schedule, weight_decay=0.3)",
        lambda gamma, eta: 0.3,
        l2=True,
    ),
    Port(
        "torch",
        "RMSprop(weight_decay=0.3)",
        "dx.rmsprop_l2(schedule, decay=0.99, weight_decay=0.3)",
        lambda gamma, eta: 0.3,
        l2=True,
    ),
    Port(
        "torch",
        "Adam(weight_decay=0.3)",
        "dx.adam_l2(schedule, weight_decay=0.3)",
        lambda gamma, eta: 0.3,
        l2=True,
    ),
    Port(
        "torch",
        "AdamW(weight_decay=0.3)",
        "dx.adamw(schedule, weight_decay=0.3)",
        lambda gamma, eta: gamma * 0.3,
    ),
    Port(
        "optax",
        "adamw(schedule, weight_decay=0.3)",
        "dx.adamw(schedule, weight_decay=0.3)",
        lambda gamma, eta: gamma * 0.3,
    ),
    Port(
        "Keras",
        "SGD(weight_decay=0.3)",
        "dx.sgdw(schedule, weight_decay=0.3)",
        lambda gamma, eta: gamma * 0.3,
    ),
    Port(
        "Keras",
        "RMSprop(weight_decay=0.3)",
        "dx.rmspropw(schedule, weight_decay=0.3)",
        lambda gamma, eta: gamma * 0.3,
    ),
    Port(
        "Keras",
        "Adam(weight_decay=0.3)",
        "dx.adamw(schedule, weight_decay=0.3)",
        lambda gamma, eta: gamma * 0.3,
    ),
    Port(
        "Hugging Face Trainer",
        "TrainingArguments(weight_decay=0.3)",
        "dx.adamw(schedule, weight_decay=0.3)",
        lambda gamma, eta: gamma * 0.3,
    ),
    Port(
        "big_vision",
        "config.wd = 0.03",
        "optax.chain(optax.adam(schedule), dx.independent_decay("
        "dx.rates.proportional_schedule(0.03, learning_rate=schedule, "
        "peak_learning_rate=peak)))",
        lambda gamma, eta: eta * 0.03,
    ),
    Port(
        "TensorFlow Addons",
        "AdamW(weight_decay=0.03)",
        "optax.chain(optax.adam(schedule), dx.independent_decay(0.03))",
        lambda gamma, eta: 0.03 * np.ones_like(gamma),
    ),
    Port(
        "optax",
        "adafactor(schedule, weight_decay_rate=0.03)",
        "optax.chain(optax.adafactor(schedule), dx.independent_decay(0.03))",
        lambda gamma, eta: 0.03 * np.ones_like(gamma),
    ),
    Port(
        "t5x",
        "Adafactor(weight_decay_rate=0.3, weight_decay_rate_lr_exponent=2.0)",
        "optax.chain(optax.adafactor(schedule), "
        "dx.independent_decay(lambda step: 0.3 * schedule(step) ** 2.0))",
        lambda gamma, eta: 0.3 * gamma**2.0,
    ),
    Port(
        "AdamW paper",
        "Algorithm 2, weight decay 0.03, schedule multiplier eta_t",
        "optax.chain(optax.adam(schedule), dx.independent_decay("
        "dx.rates.proportional_schedule(0.03, learning_rate=schedule, "
        "peak_learning_rate=peak)))",
        lambda gamma, eta: eta * 0.03,
    ),
    Port(
        "nanodo",
        "independent_weight_decay=True, weight_decay=0.03",
        "dx.adamw(schedule, weight_decay="
        "dx.rates.coupled_from_independent(0.03, peak_learning_rate=peak))",
        lambda gamma, eta: eta * 0.03,
    ),
]


def rows(l2):
    for row in PORTS:
        part = re.search("adafactor|adam", row.write)
        marks = [pytest.mark.relaxed(f"optax.{part[0]}")] if part else []
        if row.l2 is l2:
            yield pytest.param(row, marks=marks, id=f"{row.framework}: {row.recipe}")


@pytest.mark.parametrize("row", list(rows(l2=False)))
def test_porting_gives_the_rate_of_the_framework(x64, row):
    rate, kept = realised(row.build(cosine, PEAK))
    expected = row.rate(GAMMA, ETA)
    np.testing.assert_allclose(rate, np.outer(expected, [1, 1]), rtol=1e-10)
    np.testing.assert_allclose(kept, np.prod(1 - expected), rtol=1e-10)


@pytest.mark.parametrize("row", list(rows(l2=True)))
def test_porting_gives_the_gradient_term_of_the_framework(x64, row):
    """With decay on gradients g, the steps are those without it on g + λθ."""
    with_l2 = row.build(cosine, PEAK)
    without = row._replace(write=row.write.replace("=0.3", "=0.0")).build(cosine, PEAK)
    rng = np.random.default_rng(0)
    theta = jnp.asarray(rng.standard_normal(4))
    states = with_l2.init(theta), without.init(theta)
    for _ in range(5):
        grad = jnp.asarray(rng.standard_normal(4))
        ours, first = with_l2.update(grad, states[0], theta)
        term = row.rate(GAMMA, ETA) * theta
        theirs, second = without.update(grad + term, states[1], theta)
        np.testing.assert_allclose(ours, theirs, rtol=1e-10)
        theta, states = theta + ours, (first, second)


def test_the_table_names_what_it_writes():
    assert len({(row.framework, row.recipe) for row in PORTS}) == len(PORTS)
    for row in PORTS:
        assert ("_l2(" in row.write) == row.l2


# --- schedules --------------------------------------------------------------------


def restarts(steps, first, factor):
    """AdamWR's η_t by a plain loop over periods."""
    values, start, length = [], 0.0, float(first)
    for t in range(steps):
        while t >= start + length:
            start, length = start + length, length * factor
        values.append(0.5 + 0.5 * math.cos(math.pi * (t - start) / length))
    return np.array(values)


def hundredth(step):
    """A learning rate of 0.01·t, in JAX for a JAX step."""
    return 0.01 * (step.astype(float) if isinstance(step, jax.Array) else float(step))


T = np.arange(50)
AGAINST_LOOPS = {
    "constant": (rates.constant_schedule(0.3), 0.3 + 0 * T),
    "warmup": (
        rates.warmup_schedule(0.3, warmup_steps=20),
        [0.3 * min(t / 20, 1) for t in T],
    ),
    "linear": (
        rates.linear_to_zero_schedule(0.3, steps=30),
        [0.3 * max(1 - t / 30, 0) for t in T],
    ),
    "cosine": (
        rates.cosine_to_zero_schedule(0.3, steps=30),
        [0.3 * (0.5 + 0.5 * math.cos(math.pi * min(t / 30, 1))) for t in T],
    ),
    "restarts": (
        rates.cosine_restarts_schedule(0.3, first_period_steps=5),
        0.3 * restarts(50, 5, 2.0),
    ),
    "proportional": (
        rates.proportional_schedule(
            0.3, learning_rate=hundredth, peak_learning_rate=0.49
        ),
        0.3 * T / 49,
    ),
}


@pytest.mark.parametrize("kind", list(AGAINST_LOOPS))
def test_schedules_equal_plain_loops(kind):
    schedule, expected = AGAINST_LOOPS[kind]
    values = [schedule(int(t)) for t in T]
    assert {type(value) for value in values} == {float}
    np.testing.assert_allclose(values, expected, rtol=1e-12, atol=1e-16)
    traced = jax.vmap(schedule)(jnp.arange(50))
    assert traced.dtype == jnp.float32
    np.testing.assert_allclose(traced, expected, rtol=1e-5, atol=1e-7)
    jitted = jax.jit(schedule)
    np.testing.assert_allclose([jitted(t) for t in T], traced, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("first", "factor"), [(1, 2.0), (10, 2.0), (7, 1.0), (3, 1.5), (10, 1.1), (2, 3.0)]
)
def test_restarts_are_exact_for_ten_thousand_steps(first, factor):
    schedule = rates.cosine_restarts_schedule(
        1.0, first_period_steps=first, period_factor=factor
    )
    expected = restarts(10_001, first, factor)
    steps = jnp.arange(10_001)
    traced = np.asarray(jax.jit(jax.vmap(schedule))(steps))
    np.testing.assert_allclose(traced, expected, atol=2e-6)
    known = np.array([schedule(int(t)) for t in range(10_001)])
    np.testing.assert_allclose(known, expected, atol=1e-10)
    if factor in (1.0, 2.0, 3.0):  # restarts fall on whole steps: the full strength
        assert (traced[expected == 1.0] == 1.0).all()
        assert (known[expected == 1.0] == 1.0).all()


def test_restarts_hold_to_the_last_step_a_counter_reaches():
    schedule = rates.cosine_restarts_schedule(1.0, first_period_steps=1)
    for power in range(1, 31):
        start = 2**power - 1
        assert jax.jit(schedule)(start) == 1.0
        assert schedule(start) == 1.0
        if power > 2:
            assert jax.jit(schedule)(start - 1) < 0.2
    assert jax.jit(schedule)(2**31 - 2) < 1e-6
    assert jax.jit(schedule)(2**31 - 1) == 1.0


def test_to_zero_is_zero_at_the_end_and_never_below():
    for make in (rates.linear_to_zero_schedule, rates.cosine_to_zero_schedule):
        schedule = make(0.3, steps=1000)
        values = np.asarray(jax.vmap(schedule)(jnp.arange(1100)))
        assert values[0] == np.float32(0.3)
        assert (values[:1000] > 0).all()
        assert (values[1000:] == 0).all()
        assert schedule(1000) == 0.0


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_strength_of_a_schedule_may_be_traced(name):
    options = {
        "warmup_schedule": {"warmup_steps": 5},
        "linear_to_zero_schedule": {"steps": 5},
        "cosine_to_zero_schedule": {"steps": 5},
        "cosine_restarts_schedule": {"first_period_steps": 5},
        "proportional_schedule": {"learning_rate": 0.1, "peak_learning_rate": 0.2},
    }.get(name, {})
    make = functools.partial(getattr(rates, name), **options)
    expected = make(1.0)(3)
    f = lambda decay, step: make(decay)(step)  # noqa: E731
    np.testing.assert_allclose(jax.jit(f)(0.3, 3), 0.3 * expected, rtol=1e-6)
    np.testing.assert_allclose(jax.grad(f)(0.0, 3), expected, rtol=1e-6)

    def update(decay):
        optimizer = dx.independent_decay(make(decay))
        return optimizer.update(jnp.zeros(2), optimizer.init(jnp.ones(2)), jnp.ones(2))

    np.testing.assert_allclose(
        jax.jit(jax.vmap(update))(jnp.array([0.1, 0.2]))[0][1],
        -0.2 * make(1.0)(0),
        rtol=1e-6,
    )


# --- errors -----------------------------------------------------------------------

ERRORS = {
    "rates.rate_from_coupled: weight_decay must be >= 0, got -0.1. Write it without": (
        lambda: rates.rate_from_coupled(-0.1, learning_rate=1.0)
    ),
    "rates.rate_from_coupled: learning_rate must be finite, got nan. Write a": (
        lambda: rates.rate_from_coupled(0.1, learning_rate=math.nan)
    ),
    "rates.rate_from_coupled: weight_decay must be a number, got the boolean True.": (
        lambda: rates.rate_from_coupled(True, learning_rate=1.0)
    ),
    "weight_decay must be a number, got '0.1' of type str. Write a number, an array": (
        lambda: rates.rate_from_coupled("0.1", learning_rate=1.0)
    ),
    "learning_rate must be a number, got None of type NoneType. Write a number,": (
        lambda: rates.rate_from_coupled(0.1, learning_rate=None)
    ),
    "weight_decay must be a number, got [0.1] of type list.": (
        lambda: rates.rate_from_coupled([0.1], learning_rate=1.0)
    ),
    "weight_decay must be real, got an array of dtype complex64.": (
        lambda: rates.rate_from_coupled(jnp.ones(2, jnp.complex64), learning_rate=1.0)
    ),
    "weight_decay must be real, got an array of dtype bool.": (
        lambda: rates.rate_from_coupled(np.ones(2, bool), learning_rate=1.0)
    ),
    "weight_decay must be >= 0, got -2.0 at index 1, 0.": (
        lambda: rates.rate_from_coupled(
            jnp.array([[1.0], [-2.0]]), learning_rate=jnp.ones((2, 1))
        )
    ),
    "rates.rate_from_coupled: the resulting rate must be < 1, got 2.0. It is the share "
    "of a weight lost in one step: 1 erases the weight, more flips its sign. Write a "
    "smaller weight decay": lambda: rates.rate_from_coupled(20.0, learning_rate=0.1),
    "rates.rate_from_independent: the resulting rate must be < 1, got 1.0.": (
        lambda: rates.rate_from_independent(
            1.0, learning_rate=0.1, peak_learning_rate=0.1
        )
    ),
    "rates.rate_from_independent: peak_learning_rate must be > 0, got 0.0. It is "
    "divided by: write a number above 0.": lambda: rates.rate_from_independent(
        0.1, learning_rate=0.1, peak_learning_rate=0
    ),
    "rates.coupled_from_independent: peak_learning_rate must be a number, got <func": (
        lambda: rates.coupled_from_independent(0.1, peak_learning_rate=cosine)
    ),
    "rates.coupled_from_rate: learning_rate must be > 0, got 0.0. It is divided by": (
        lambda: rates.coupled_from_rate(0.1, learning_rate=0.0)
    ),
    "rates.coupled_from_rate: the value of the learning_rate schedule at step 5 must "
    "be > 0, got 0.0.": lambda: rates.coupled_from_rate(
        0.1, learning_rate=lambda t: 5 - t
    )(5),
    "rates.independent_from_rate: rate_per_step must be < 1, got 1.5. It is the": (
        lambda: rates.independent_from_rate(
            1.5, learning_rate=0.1, peak_learning_rate=1.0
        )
    ),
    "rates.independent_from_coupled: peak_learning_rate must be > 0": (
        lambda: rates.independent_from_coupled(0.1, peak_learning_rate=0.0)
    ),
    "rates.timescale_steps_from_rate: rate_per_step must be < 1, got 1.0.": (
        lambda: rates.timescale_steps_from_rate(1)
    ),
    "rates.rate_from_timescale_steps: timescale_steps must be > 1, got 1.0. After one "
    "step or less": lambda: rates.rate_from_timescale_steps(1.0),
    "rates.timescale_epochs_from_rate: steps_per_epoch must be > 0, got 0.0.": (
        lambda: rates.timescale_epochs_from_rate(0.1, steps_per_epoch=0)
    ),
    "rates.rate_from_timescale_epochs: the resulting rate must be < 1, got 2.0.": (
        lambda: rates.rate_from_timescale_epochs(0.5, steps_per_epoch=1)
    ),
    "rates.half_life_steps_from_rate: rate_per_step must be finite, got inf.": (
        lambda: rates.half_life_steps_from_rate(math.inf)
    ),
    "rates.rate_from_half_life_steps: half_life_steps must be > 0, got 0.0.": (
        lambda: rates.rate_from_half_life_steps(0)
    ),
    "rates.rate_from_half_life_steps: half_life_steps must be a number, got nan. Write "
    "a number > 0, inf for never.": lambda: rates.rate_from_half_life_steps(math.nan),
    "rates.kept_share: steps must be > 0, got 0.0.": (
        lambda: rates.kept_share(0.1, steps=0)
    ),
    "rates.kept_share: steps must be whole, got 2.5. Write a whole number of steps.": (
        lambda: rates.kept_share(0.1, steps=2.5)
    ),
    "rates.kept_share: rate_per_step must be one number or one per step, got shape "
    "(3,) for 4 steps. Write": lambda: rates.kept_share(np.full(3, 0.1), steps=4),
    "rates.kept_share: the value of the rate_per_step schedule must be < 1, got 1.0 at "
    "index 10.": lambda: rates.kept_share(lambda t: 0.1 * t, steps=20),
    "rates.kept_share: steps must be one known whole number": (
        lambda: jax.jit(lambda n: rates.kept_share(cosine, steps=n))(5)
    ),
    "rates.rate_from_kept_share: kept must be > 0, got 0.0. Write the share that is": (
        lambda: rates.rate_from_kept_share(0.0, steps=5)
    ),
    "rates.rate_from_kept_share: kept must be <= 1, got 1.5. Write the share that is": (
        lambda: rates.rate_from_kept_share(1.5, steps=5)
    ),
    "rates.coupled_from_kept_share: kept must be > 0, got -0.5.": (
        lambda: rates.coupled_from_kept_share(-0.5, learning_rate=0.1, steps=5)
    ),
    "rates.coupled_from_kept_share: kept must be one number, got shape (2,). For": (
        lambda: rates.coupled_from_kept_share(
            np.array([0.1, 0.2]), learning_rate=0.1, steps=5
        )
    ),
    "rates.coupled_from_kept_share: learning_rate must be > 0 at some step, got 0 at "
    "all 5.": lambda: rates.coupled_from_kept_share(0.5, learning_rate=0.0, steps=5),
    "rates.weight_decay_from_normalised: batch_size must be > 0, got 0.0.": (
        lambda: rates.weight_decay_from_normalised(
            0.1, batch_size=0, samples=1, epochs=1
        )
    ),
    "rates.normalised_from_weight_decay: samples must be > 0, got 0.0.": (
        lambda: rates.normalised_from_weight_decay(
            0.1, batch_size=1, samples=0, epochs=1
        )
    ),
    "rates.weight_decay_from_prior_width: prior_width must be > 0, got 0.0.": (
        lambda: rates.weight_decay_from_prior_width(0.0, samples=1)
    ),
    "rates.prior_width_from_weight_decay: samples must be > 0, got -1.0.": (
        lambda: rates.prior_width_from_weight_decay(0.1, samples=-1)
    ),
    "rates.constant_schedule: weight_decay must be >= 0, got -0.1. Write 0.1": (
        lambda: rates.constant_schedule(-0.1)
    ),
    "rates.warmup_schedule: warmup_steps must be > 0, got 0.0.": (
        lambda: rates.warmup_schedule(0.1, warmup_steps=0)
    ),
    "rates.linear_to_zero_schedule: steps must be > 0, got 0.0.": (
        lambda: rates.linear_to_zero_schedule(0.1, steps=0)
    ),
    "rates.cosine_to_zero_schedule: weight_decay must be a number, got the boolean": (
        lambda: rates.cosine_to_zero_schedule(True, steps=10)
    ),
    "rates.cosine_restarts_schedule: first_period_steps must be whole, got 2.5.": (
        lambda: rates.cosine_restarts_schedule(0.1, first_period_steps=2.5)
    ),
    "rates.cosine_restarts_schedule: period_factor must be 1 or at least 1.001, got "
    "0.5. Write 2.0 to double": lambda: rates.cosine_restarts_schedule(
        0.1, first_period_steps=2, period_factor=0.5
    ),
    "rates.cosine_restarts_schedule: first_period_steps must be one known number": (
        lambda: jax.jit(
            lambda n: rates.cosine_restarts_schedule(0.1, first_period_steps=n)(3)
        )(5)
    ),
    "rates.coupled_from_independent: peak_learning_rate must be > 0, got 0.0.": (
        lambda: rates.coupled_from_independent(0.1, peak_learning_rate=0.0)
    ),
    "rates.proportional_schedule: peak_learning_rate must be > 0, got 0.0.": (
        lambda: rates.proportional_schedule(
            0.1, learning_rate=cosine, peak_learning_rate=0.0
        )
    ),
}


@pytest.mark.parametrize("text", list(ERRORS))
def test_errors_say_what_and_what_to_write(text):
    with pytest.raises((TypeError, ValueError), match=re.escape(text)):
        ERRORS[text]()


@pytest.mark.parametrize("name", NAMES)
def test_every_function_has_an_error_by_its_name(name):
    assert any(f"rates.{name}: " in text for text in ERRORS)


# --- documentation ----------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_docstrings_are_complete(name):
    doc = inspect.getdoc(getattr(rates, name)) or ""
    for section in ("Args:", "Returns:", "Raises:", "Example:", "Reference:"):
        assert f"\n{section}\n" in doc, f"{name} lacks {section}"
    assert ".. math::" in doc
    parameters = inspect.signature(getattr(rates, name)).parameters.values()
    for parameter in parameters:
        assert re.search(rf"^    {parameter.name}: ", doc, re.MULTILINE)
    kinds = [parameter.kind for parameter in parameters]
    assert all(kind is inspect.Parameter.KEYWORD_ONLY for kind in kinds[1:])
