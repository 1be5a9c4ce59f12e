"""Conversions between conventions, and schedules, against NumPy and real chains."""

import functools
import inspect
import math
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import assume, given, settings, strategies as st

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


def realised(optimizer, steps=STEPS, params=None):
    """Rate per step and θ_T/θ_0 of weights without gradient, by running the chain."""
    params = jnp.array([2.0, -3.0]) if params is None else params

    def step(carry, _):
        theta, state = carry
        zeros = jax.tree.map(jnp.zeros_like, theta)
        updates, state = optimizer.update(zeros, state, theta)
        rate = jax.tree.map(lambda u, x: -u / x, updates, theta)
        return (optax.apply_updates(theta, updates), state), rate

    carry = params, optimizer.init(params)
    (last, _), rate = jax.jit(lambda c: jax.lax.scan(step, c, length=steps))(carry)
    return jax.tree.map(np.asarray, (rate, jax.tree.map(jnp.divide, last, params)))


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


INVERSES = {
    **{f"{kind}, there": trip for kind, trip in ROUND_TRIPS.items()},
    **{
        f"{kind}, back": (back, there, arguments)
        for kind, (there, back, arguments) in ROUND_TRIPS.items()
    },
}


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.sampled_from(sorted(INVERSES)),
    st.floats(-18.0, -0.05),
    st.tuples(*[st.floats(-6.0, 6.0)] * 3),
)
def test_every_conversion_round_trips(kind, exponent, others):
    """Both ways, over all magnitudes: 10**exponent is a rate, or a strength."""
    there, back, arguments = INVERSES[kind]
    value = 10.0**exponent
    if kind in ("timescale, back", "epochs, back", "half-life, back"):
        value = 1.0 / value  # a time
    options = {key: 10.0**x for key, x in zip(arguments, others, strict=False)}
    if "peak_learning_rate" in options and "learning_rate" in options:
        options["peak_learning_rate"] += options["learning_rate"]
    if kind == "coupled, back":
        assume(value * options["learning_rate"] < 1.0)
    if kind == "epochs, back":
        assume(value * options["steps_per_epoch"] > 1.0)
    result = there(value, **options)
    assert type(result) is float
    if "rate_per_step" in inspect.signature(back).parameters and result > 0.5:
        return  # near 1 a rate has few digits left: see kept_share below
    assert back(result, **options) == pytest.approx(value, rel=1e-12)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.floats(-12.0, -1e-9), st.integers(0, 6), st.booleans())
def test_kept_share_round_trips(exponent, magnitude, from_rate):
    """To 1e-12, or to the 1e-16 in which the value between is known, magnified."""
    steps, value = 10**magnitude, 10.0**exponent
    if from_rate:
        kept = rates.kept_share(value, steps=steps)
        if kept == 0.0:
            return
        again = rates.rate_from_kept_share(kept, steps=steps)
        magnified = (1 - value) / (steps * value)
    else:
        rate = rates.rate_from_kept_share(value, steps=steps)
        again = rates.kept_share(rate, steps=steps)
        magnified = steps * rate / (1 - rate)
    assert again == pytest.approx(value, rel=max(1e-12, 4e-16 * magnified))


def is_root(decay, kept, gamma):
    """Whether ln Π(1 − γλ) crosses ln kept within a relative 1e-12 of this λ."""

    def log_share(decay):
        rate = gamma * decay
        return math.fsum(np.log1p(-rate)) if rate.max() < 1.0 else -math.inf

    below, above = (log_share(decay * (1 + e)) for e in (-1e-12, 1e-12))
    return below >= math.log(kept) >= above


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
    assert is_root(decay, kept, gamma)


@pytest.mark.parametrize("kept", [1e-300, 1e-100, 1e-20, 1e-6])
@pytest.mark.parametrize(
    "gamma", [[1.0], [0.1] * 10, [1.0, 0.999, 0.5, 0.0], list(GAMMA), [1e-9, 1e9]]
)
def test_coupled_from_kept_share_near_the_pole(x64, kept, gamma):
    """Almost all is lost in one step: λ is next to 1/max γ, and never beyond."""
    gamma = np.array(gamma)
    f = lambda kept: rates.coupled_from_kept_share(  # noqa: E731
        kept, learning_rate=gamma, steps=len(gamma)
    )
    known = f(kept)
    assert known * gamma.max() < 1.0
    assert is_root(known, kept, gamma)
    traced = jax.jit(f)(kept)
    assert traced * gamma.max() < 1.0
    assert traced == pytest.approx(known, rel=1e-12)


def test_coupled_from_kept_share_at_a_constant_rate_is_the_closed_form():
    for kept in (1e-9, 0.1, 0.999):
        expected = (1 - kept ** (1 / 7)) / 0.1
        for gamma in (0.1, np.full(7, 0.1), lambda t: 0.1):
            decay = rates.coupled_from_kept_share(kept, learning_rate=gamma, steps=7)
            assert decay == pytest.approx(expected, rel=1e-12)
    # One number stands for all steps, however many.
    decay = rates.coupled_from_kept_share(0.5, learning_rate=1e-3, steps=10**12)
    assert decay == pytest.approx(math.log(2) / 1e9, rel=1e-12)


def test_coupled_from_kept_share_of_a_known_jax_array_is_known():
    decay = rates.coupled_from_kept_share(
        jnp.float32(0.5), learning_rate=jnp.full(7, 0.125), steps=7
    )
    assert type(decay) is float
    assert decay == pytest.approx((1 - 0.5 ** (1 / 7)) / 0.125, rel=1e-12)


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
    # F(λ, ln kept) = Σ log1p(−γλ) − ln kept = 0 twice: λ'' = −F_λλ λ'²/F_λ in ln kept
    of_log = lambda x: f(jnp.exp(x))  # noqa: E731
    first = -1 / np.sum(GAMMA / (1 - expected[1] * GAMMA))
    second = -np.sum((GAMMA / (1 - expected[1] * GAMMA)) ** 2) * -first * first**2
    hessian = jax.jit(jax.grad(jax.grad(of_log)))(math.log(kept[1]))
    np.testing.assert_allclose(hessian, second, rtol=1e-9)
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


def test_there_and_back_with_schedules():
    for kind, (there, back, arguments) in INVERSES.items():
        options = dict(zip(arguments, (0.5, 2.0, 3.0), strict=False))
        times = ("timescale, back", "epochs, back", "half-life, back")
        value = 8.0 if kind in times else 0.5
        schedule = there(lambda t: 0.5 * t * value, **options)  # noqa: B023
        assert back(schedule, **options)(2) == pytest.approx(value, rel=1e-14)


def test_where_the_learning_rate_is_0_so_is_the_weight_decay():
    """A warm-up from 0: 0/0 would be NaN, silently, in the first jitted step."""
    decay = rates.coupled_from_rate(1e-3, learning_rate=hundredth)
    options = {"learning_rate": hundredth, "peak_learning_rate": 1.0}
    independent = rates.independent_from_rate(1e-3, **options)
    for found in (decay, independent):
        assert found(0) == 0.0
        assert jax.jit(found)(0) == 0.0
        assert found(2) == pytest.approx(0.05, rel=1e-14)
    rate, _ = realised(dx.sgdw(hundredth, weight_decay=decay), steps=4)
    np.testing.assert_allclose(rate[:, 0], [0.0, 1e-3, 1e-3, 1e-3], rtol=1e-5)


def test_many_steps_are_asked_at_once():
    """A schedule that takes an array of steps is called thrice, not a million times."""
    calls = []

    def schedule(step):
        calls.append(step)
        return 1e-6 * (1.0 + 0.0 * step)

    share = rates.kept_share(schedule, steps=1_000_000)
    assert share == pytest.approx((1 - 1e-6) ** 1e6, rel=1e-10)
    assert len(calls) <= 3


def test_schedules_in_jax_are_mapped_over_the_steps():
    calls = []

    def schedule(step):
        calls.append(step)
        return jax.lax.cond(step < 3, lambda: 0.5, lambda: 0.25)

    share = rates.kept_share(schedule, steps=5)
    assert share == pytest.approx(0.5**3 * 0.75**2, rel=1e-15)
    assert len(calls) <= 3


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
    says: str  # the rate in the table
    spares: tuple[str, ...] = ()  # what the framework does not decay
    l2: bool = False
    same: Callable[[Any], Any] | None = None  # the framework's own, if it is optax

    def build(self, schedule, peak):
        names = {"dx": dx, "optax": optax, "schedule": schedule, "peak": peak}
        return eval(self.write, names)


PORTS = [
    Port(
        "torch",
        "SGD(weight_decay=0.3)",
        "dx.sgd_l2(schedule, weight_decay=0.3)",
        lambda gamma, eta: 0.3,
        "λ in the gradient",
        l2=True,
    ),
    Port(
        "torch",
        "RMSprop(weight_decay=0.3)",
        "dx.rmsprop_l2(schedule, decay=0.99, weight_decay=0.3)",
        lambda gamma, eta: 0.3,
        "λ in the gradient",
        l2=True,
    ),
    Port(
        "torch",
        "Adam(weight_decay=0.3)",
        "dx.adam_l2(schedule, weight_decay=0.3)",
        lambda gamma, eta: 0.3,
        "λ in the gradient",
        l2=True,
    ),
    Port(
        "torch",
        "AdamW(weight_decay=0.3)",
        "dx.adamw(schedule, weight_decay=0.3)",
        lambda gamma, eta: gamma * 0.3,
        "γ_t λ",
    ),
    Port(
        "optax",
        "adamw(schedule, weight_decay=0.3)",
        "dx.adamw(schedule, weight_decay=0.3)",
        lambda gamma, eta: gamma * 0.3,
        "γ_t λ",
        same=lambda schedule: optax.adamw(schedule, weight_decay=0.3),
    ),
    Port(
        "Keras",
        "SGD(weight_decay=0.3)",
        "dx.sgdw(schedule, weight_decay=0.3)",
        lambda gamma, eta: gamma * 0.3,
        "γ_t λ",
    ),
    Port(
        "Keras",
        "RMSprop(weight_decay=0.3)",
        "dx.rmspropw(schedule, eps=1e-7, eps_in_sqrt=True, weight_decay=0.3)",
        lambda gamma, eta: gamma * 0.3,
        "γ_t λ",
    ),
    Port(
        "Keras",
        "Adam(weight_decay=0.3)",
        "dx.adamw(schedule, eps=1e-7, weight_decay=0.3)",
        lambda gamma, eta: gamma * 0.3,
        "γ_t λ",
    ),
    Port(
        "Hugging Face Trainer",
        "TrainingArguments(weight_decay=0.3)",
        "dx.adamw(schedule, weight_decay=0.3, mask=dx.masks.no_bias_or_norm)",
        lambda gamma, eta: gamma * 0.3,
        "γ_t λ",
        spares=("bias", "scale"),
    ),
    Port(
        "big_vision",
        "config.wd = 0.03",
        "optax.chain(optax.adam(schedule), dx.independent_decay("
        "dx.rates.proportional_schedule(0.03, learning_rate=schedule, "
        "peak_learning_rate=peak), "
        "mask=dx.masks.by_path([('.*/kernel', True)], default=False)))",
        lambda gamma, eta: eta * 0.03,
        "η_t λ",
        spares=("bias", "scale"),
    ),
    Port(
        "TensorFlow Addons",
        "AdamW(weight_decay=0.03)",
        "optax.chain(optax.adam(schedule), dx.independent_decay(0.03))",
        lambda gamma, eta: 0.03 * np.ones_like(gamma),
        "λ",
    ),
    Port(
        "optax",
        "adafactor(schedule, weight_decay_rate=0.03)",
        "optax.chain(optax.adafactor(schedule), dx.independent_decay(0.03))",
        lambda gamma, eta: 0.03 * np.ones_like(gamma),
        "λ",
        same=lambda schedule: optax.adafactor(schedule, weight_decay_rate=0.03),
    ),
    Port(
        "t5x",
        "Adafactor(weight_decay_rate=0.03)",
        "optax.chain(optax.adafactor(schedule), dx.independent_decay(0.03))",
        lambda gamma, eta: 0.03 * np.ones_like(gamma),
        "λ",
    ),
    Port(
        "t5x",
        "Adafactor(weight_decay_rate=0.3, weight_decay_rate_lr_exponent=2.0)",
        "optax.chain(optax.adafactor(schedule), "
        "dx.independent_decay(lambda step: 0.3 * schedule(step) ** 2.0))",
        lambda gamma, eta: 0.3 * gamma**2.0,
        "γ_t² λ",
    ),
    Port(
        "AdamW paper",
        "Algorithm 2, weight decay 0.03, schedule multiplier eta_t",
        "optax.chain(optax.adam(schedule), dx.independent_decay("
        "dx.rates.proportional_schedule(0.03, learning_rate=schedule, "
        "peak_learning_rate=peak)))",
        lambda gamma, eta: eta * 0.03,
        "η_t λ",
    ),
    Port(
        "nanodo",
        "independent_weight_decay=True, weight_decay=0.03",
        "dx.adamw(schedule, weight_decay="
        "dx.rates.coupled_from_independent(0.03, peak_learning_rate=peak))",
        lambda gamma, eta: eta * 0.03,
        "η_t λ",
    ),
]
MODEL = {
    "dense": {"kernel": np.ones((3, 2)), "bias": np.full(2, -0.5)},
    "norm": {"scale": np.ones(2)},
}


def rows(chosen):
    for row in PORTS:
        part = re.search("adafactor|adam", row.write)
        marks = [pytest.mark.relaxed(f"optax.{part[0]}")] if part else []
        if chosen(row):
            yield pytest.param(row, marks=marks, id=f"{row.framework}: {row.recipe}")


@pytest.mark.parametrize("row", list(rows(lambda row: not row.l2)))
def test_porting_gives_the_rate_of_the_framework(x64, row):
    params = jax.tree.map(jnp.asarray, MODEL)
    rate, kept = realised(row.build(cosine, PEAK), params=params)
    expected = row.rate(GAMMA, ETA)
    for path, leaf in jax.tree_util.tree_leaves_with_path(rate):
        spared = path[-1].key in row.spares
        by_step = leaf.reshape(STEPS, -1).T
        wanted = np.broadcast_to(0.0 if spared else expected, by_step.shape)
        np.testing.assert_allclose(by_step, wanted, rtol=1e-10)
    kernel = np.unique(kept["dense"]["kernel"])
    np.testing.assert_allclose(kernel, np.prod(1 - expected), rtol=1e-10)


@pytest.mark.parametrize("row", list(rows(lambda row: row.same is not None)))
def test_porting_from_optax_gives_the_same_steps(x64, row):
    ours, theirs = row.build(cosine, PEAK), row.same(cosine)
    params = jax.tree.map(jnp.asarray, MODEL)
    states = ours.init(params), theirs.init(params)
    rng = np.random.default_rng(0)
    for _ in range(5):
        grads = jax.tree.map(lambda p: jnp.asarray(rng.standard_normal(p.shape)), MODEL)
        got, first = ours.update(grads, states[0], params)
        expected, second = theirs.update(grads, states[1], params)
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-10), got, expected
        )
        params, states = optax.apply_updates(params, got), (first, second)


@pytest.mark.parametrize("row", list(rows(lambda row: row.l2)))
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
        assert ("_l2(" in row.write) == row.l2 == (row.says == "λ in the gradient")
        assert ("mask=" in row.write) == bool(row.spares)


# --- schedules --------------------------------------------------------------------


def restarts(steps, first, factor):
    """AdamWR's η_t by a plain loop over periods, in fractions: 1.6 is 8/5."""
    factor = Fraction(repr(factor))
    values, start, length = [], Fraction(0), Fraction(first)
    for t in steps:
        while t >= start + length:
            start, length = start + length, length * factor
        values.append(0.5 + 0.5 * math.cos(math.pi * float((t - start) / length)))
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
        0.3 * restarts(T, 5, 2.0),
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
    expected = restarts(range(10_001), first, factor)
    steps = jnp.arange(10_001)
    traced = np.asarray(jax.jit(jax.vmap(schedule))(steps))
    np.testing.assert_allclose(traced, expected, atol=2e-6)
    known = np.array([schedule(int(t)) for t in range(10_001)])
    np.testing.assert_allclose(known, expected, atol=1e-10)
    if factor in (1.0, 2.0, 3.0):  # restarts fall on whole steps: the full strength
        assert (traced[expected == 1.0] == 1.0).all()
        assert (known[expected == 1.0] == 1.0).all()


@pytest.mark.parametrize(
    ("first", "factor", "steps"),
    [
        (1000, 2.2, [1000, 3200, 8040]),
        (125, 2.2, [125, 400, 1005]),
        (50_000, 1.6, [50_000, 130_000, 258_000, 462_800]),
        (5000, 2.2, [16_000, 40_200]),
        (1000, 1.001, [1000]),
    ],
)
def test_restarts_on_whole_steps_have_the_full_strength(first, factor, steps):
    """Where the float sum of periods is 8040.000000000001."""
    schedule = rates.cosine_restarts_schedule(
        1.0, first_period_steps=first, period_factor=factor
    )
    around = [step + d for step in steps for d in (-1, 0, 1)]
    expected = restarts(around, first, factor)
    assert expected.tolist().count(1.0) == len(steps)
    known = np.array([schedule(step) for step in around])
    traced = np.array([jax.jit(schedule)(step) for step in around])
    np.testing.assert_allclose(known, expected, atol=1e-9)
    np.testing.assert_allclose(traced, expected, atol=1e-6)
    assert (known[1::3] == 1.0).all()
    assert (traced[1::3] == 1.0).all()


def test_restarts_beyond_what_counters_reach():
    for factor in (1.0, 2.0):
        schedule = rates.cosine_restarts_schedule(
            1.0, first_period_steps=2**31 - 1, period_factor=factor
        )
        assert schedule(0) == schedule(-1) == 1.0
        assert schedule(2**31 - 1) == schedule(2**40) == 1.0
        assert schedule(2**30) == pytest.approx(0.5)


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


def test_the_last_steps_of_a_cosine_keep_their_digits():
    """½ + ½ cos is 0 in float32 where sin² is 2.5e-10."""
    schedule = rates.cosine_to_zero_schedule(1.0, steps=100_000)
    found = [float(jax.jit(schedule)(100_000 - k)) for k in (1, 2, 10)]
    expected = [(0.5 * math.pi * k / 100_000) ** 2 for k in (1, 2, 10)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


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
    "weight_decay must be a real number, got an array of dtype complex64.": (
        lambda: rates.rate_from_coupled(jnp.ones(2, jnp.complex64), learning_rate=1.0)
    ),
    "weight_decay must be a real number, got an array of dtype bool.": (
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
    "rates.rate_from_independent: peak_learning_rate must be > 0, got 0.0. Write "
    "a number above 0.": lambda: rates.rate_from_independent(
        0.1, learning_rate=0.1, peak_learning_rate=0
    ),
    "rates.coupled_from_independent: peak_learning_rate must be a number, got <func": (
        lambda: rates.coupled_from_independent(0.1, peak_learning_rate=cosine)
    ),
    "rates.coupled_from_rate: learning_rate must be > 0, got 0.0. Write a number": (
        lambda: rates.coupled_from_rate(0.1, learning_rate=0.0)
    ),
    "rates.coupled_from_rate: the value of the learning_rate schedule at step 6 must "
    "be >= 0, got -1.0.": lambda: rates.coupled_from_rate(
        0.1, learning_rate=lambda t: 5 - t
    )(6),
    "rates.coupled_from_rate: rate_per_step must be >= 0, got -0.5.": (
        lambda: rates.coupled_from_rate(-0.5, learning_rate=0.1)
    ),
    "rates.independent_from_coupled: peak_learning_rate must be finite, got inf.": (
        lambda: rates.independent_from_coupled(0.1, peak_learning_rate=math.inf)
    ),
    "rates.normalised_from_weight_decay: the result must be a number, got nan. The "
    "arguments are beyond the range": lambda: rates.normalised_from_weight_decay(
        0.0, batch_size=1e-300, samples=1e150, epochs=1
    ),
    "rates.rate_from_independent: peak_learning_rate must be the largest learning "
    "rate, got 0.1 and a learning rate of 1.0. Write the": (
        lambda: rates.rate_from_independent(
            0.01, learning_rate=1.0, peak_learning_rate=0.1
        )
    ),
    "rates.proportional_schedule: peak_learning_rate must be the largest": (
        lambda: rates.proportional_schedule(
            0.01, learning_rate=lambda t: 0.1 * t, peak_learning_rate=0.1
        )(2)
    ),
    "rates.rate_from_half_life_steps: the resulting rate must be < 1, got 1.0. It is "
    "the share of a weight lost in one step, and 1 erases the weight. Write a longer": (
        lambda: rates.rate_from_half_life_steps(1e-3)
    ),
    "rates.rate_from_kept_share: the resulting rate must be < 1, got 1.0.": (
        lambda: rates.rate_from_kept_share(1e-300, steps=1)
    ),
    "rates.rate_from_kept_share: kept must be > 0, got nan.": (
        lambda: rates.rate_from_kept_share(math.nan, steps=1)
    ),
    "rates.kept_share: steps must be one number, got shape (2,). Call it once for": (
        lambda: rates.kept_share(0.1, steps=np.array([1, 2]))
    ),
    "rates.warmup_schedule: warmup_steps must be one number, got shape (2,).": (
        lambda: rates.warmup_schedule(0.1, warmup_steps=np.array([1, 2]))
    ),
    "rates.cosine_restarts_schedule: first_period_steps must be one known number, got "
    "[1 2].": lambda: rates.cosine_restarts_schedule(
        0.1, first_period_steps=np.array([1, 2])
    ),
    "rates.cosine_restarts_schedule: first_period_steps must be <= 2147483647, got": (
        lambda: rates.cosine_restarts_schedule(0.1, first_period_steps=2**31)
    ),
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
    "(3,) for 4 steps. For several runs": lambda: rates.kept_share(
        np.full(3, 0.1), steps=4
    ),
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
    "rates.cosine_restarts_schedule: period_factor must be 1 or from 1.001 to 1000, "
    "got 0.5. Write 2.0 to double": lambda: rates.cosine_restarts_schedule(
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
