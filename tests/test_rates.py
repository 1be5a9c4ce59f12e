"""Conversions between conventions, against NumPy and real chains."""

import functools
import inspect
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import assume, given, settings, strategies as st

import decayax as dx
from decayax import rates


NAMES = rates.__all__
PEAK, STEPS = 0.1, 40


def cosine(t):
    """In JAX's default precision; PEAK at 0, almost 0 at STEPS - 1."""
    t = jnp.asarray(t, jnp.result_type(float))
    return 0.5 * PEAK * (1.0 + jnp.cos(jnp.pi * t / STEPS))


GAMMA = 0.5 * PEAK * (1 + np.cos(np.pi * np.arange(STEPS) / STEPS))
ETA = GAMMA / PEAK


def measured(optimizer, steps=STEPS, params=None):
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


# --- known values -----------------------------------------------------------------


def test_the_numbers_of_the_default_recipe():
    rate = rates.rate_from_lr_scaled(0.01, learning_rate=1e-3)
    assert rate == pytest.approx(1e-5, rel=1e-15)
    assert rates.timescale_steps_from_rate(rate) == pytest.approx(100_000, rel=1e-14)
    assert round(rates.half_life_steps_from_rate(rate), 1) == 69_314.4
    assert round(rates.retained_fraction(rate, steps=10_000), 6) == 0.904837


def test_the_numbers_of_the_adamw_paper():
    run = {"batch_size": 128, "samples": 50_000}
    decay = rates.weight_decay_from_normalised(0.025, epochs=100, **run)
    assert f"{decay:.5e}" == "1.26491e-04"
    decay = rates.weight_decay_from_normalised(0.025, epochs=1500, **run)
    assert f"{decay:.2e}" == "3.27e-05"
    lr_scaled = rates.lr_scaled_from_independent(decay, peak_learning_rate=1e-3)
    assert round(lr_scaled, 3) == 0.033


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
    assert rates.retained_fraction(0.0, steps=10) == 1.0
    assert str(rates.rate_from_retained_fraction(1.0, steps=10)) == "0.0"


# --- every conversion and its inverse ---------------------------------------------

decays = st.floats(1e-8, 0.9)
positive = st.floats(1e-6, 1e6)
ROUND_TRIPS = {
    "lr-scaled": (
        rates.lr_scaled_from_rate,
        rates.rate_from_lr_scaled,
        ["learning_rate"],
    ),
    "conventions": (
        rates.independent_from_lr_scaled,
        rates.lr_scaled_from_independent,
        ["peak_learning_rate"],
    ),
    "timescale": (rates.timescale_steps_from_rate, rates.rate_from_timescale_steps, []),
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
    if kind in ("timescale, back", "half-life, back"):
        value = 1.0 / value  # a time
    options = {key: 10.0**x for key, x in zip(arguments, others, strict=False)}
    if kind == "lr-scaled, back":
        assume(value * options["learning_rate"] < 1.0)
    result = there(value, **options)
    assert type(result) is float
    if "rate_per_step" in inspect.signature(back).parameters and result > 0.5:
        return  # near 1 a rate has few digits left: see retained_fraction
    assert back(result, **options) == pytest.approx(value, rel=1e-12)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.floats(-12.0, -1e-9), st.integers(0, 6), st.booleans())
def test_retained_fraction_round_trips(exponent, magnitude, from_rate):
    """To 1e-12, or to the magnified rounding error of 1e-16 of the value in between."""
    steps, value = 10**magnitude, 10.0**exponent
    if from_rate:
        retained = rates.retained_fraction(value, steps=steps)
        if retained == 0.0:
            return
        again = rates.rate_from_retained_fraction(retained, steps=steps)
        magnified = (1 - value) / (steps * value)
    else:
        rate = rates.rate_from_retained_fraction(value, steps=steps)
        again = rates.retained_fraction(rate, steps=steps)
        magnified = steps * rate / (1 - rate)
    assert again == pytest.approx(value, rel=max(1e-12, 4e-16 * magnified))


# --- numbers, arrays, schedules, tracers ------------------------------------------


def test_numpy_stays_numpy_in_float64():
    decay = np.array([0.0, 0.1, 0.3], np.float32)
    rate = rates.rate_from_lr_scaled(decay, learning_rate=np.float64(0.1))
    assert isinstance(rate, np.ndarray)
    assert rate.dtype == np.float64
    np.testing.assert_array_equal(rate, decay.astype(np.float64) * 0.1)
    assert type(rates.rate_from_lr_scaled(np.float32(0.5), learning_rate=1)) is float


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int32])
def test_jax_stays_jax_in_float32(dtype):
    decay = jnp.ones(3, dtype)
    rate = rates.rate_from_lr_scaled(decay, learning_rate=np.full(3, 0.1))
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
    bad = jax.jit(lambda x: rates.rate_from_lr_scaled(x, learning_rate=1.0))(-3.0)
    assert bad == -3.0


def test_retained_fraction_of_numbers_arrays_schedules_and_tracers(x64):
    rate = 0.3 * GAMMA
    expected = np.prod(1 - rate)
    schedule = rates.rate_from_lr_scaled(0.3, learning_rate=cosine)
    for given_rate in (rate, jnp.asarray(rate), schedule):
        retained = rates.retained_fraction(given_rate, steps=STEPS)
        assert type(retained) is float
        assert retained == pytest.approx(expected, rel=1e-12)
    traced = jax.jit(functools.partial(rates.retained_fraction, steps=STEPS))(rate)
    np.testing.assert_allclose(traced, expected, rtol=1e-12)

    def of_decay(decay):
        schedule = rates.rate_from_lr_scaled(decay, learning_rate=cosine)
        return rates.retained_fraction(schedule, steps=STEPS)

    slope = -expected * np.sum(GAMMA / (1 - rate))
    np.testing.assert_allclose(jax.jit(jax.grad(of_decay))(0.3), slope, rtol=1e-12)
    traced_steps = jax.jit(lambda n: rates.retained_fraction(0.01, steps=n))(10)
    np.testing.assert_allclose(traced_steps, 0.99**10, rtol=1e-12)


def test_retained_fraction_is_stable_where_the_product_is_not():
    assert rates.retained_fraction(1e-18, steps=10**18) == pytest.approx(math.exp(-1))
    assert (1 - 1e-18) ** (10**18) == 1.0


def test_a_conversion_of_a_schedule_is_a_schedule():
    decay = rates.lr_scaled_from_rate(1e-3, learning_rate=cosine)
    np.testing.assert_allclose(decay(10), 1e-3 / GAMMA[10], rtol=1e-6)
    np.testing.assert_allclose(jax.jit(decay)(10), 1e-3 / GAMMA[10], rtol=1e-6)
    both = rates.rate_from_lr_scaled(
        lambda t: 0.1 * t, learning_rate=lambda t: 0.01 * t
    )
    assert both(3) == pytest.approx(0.009, rel=1e-14)
    assert rates.timescale_steps_from_rate(both)(3) == pytest.approx(1 / 0.009)


def test_there_and_back_with_schedules():
    for kind, (there, back, arguments) in INVERSES.items():
        options = dict(zip(arguments, (0.5, 2.0, 3.0), strict=False))
        times = ("timescale, back", "half-life, back")
        value = 8.0 if kind in times else 0.5
        schedule = there(lambda t: 0.5 * t * value, **options)  # noqa: B023
        assert back(schedule, **options)(2) == pytest.approx(value, rel=1e-14)


def test_where_the_learning_rate_is_0_the_weight_decay_is_0():
    """A warm-up from 0: 0/0 would be NaN, silently, in the first jitted step."""
    decay = rates.lr_scaled_from_rate(1e-3, learning_rate=hundredth)
    assert decay(0) == 0.0
    assert jax.jit(decay)(0) == 0.0
    assert decay(2) == pytest.approx(0.05, rel=1e-14)
    at_0 = lambda slope: rates.lr_scaled_from_rate(  # noqa: E731
        1e-3, learning_rate=lambda step: slope * step
    )(0)
    assert jax.grad(at_0)(0.01) == 0.0
    rate, _ = measured(dx.sgdw(hundredth, weight_decay=decay), steps=4)
    np.testing.assert_allclose(rate[:, 0], [0.0, 1e-3, 1e-3, 1e-3], rtol=1e-5)


def test_many_steps_are_evaluated_at_once():
    """At most three calls, not a million, of a schedule that takes arrays of steps."""
    calls = []

    def schedule(step):
        calls.append(step)
        return 1e-6 * (1.0 + 0.0 * step)

    retained = rates.retained_fraction(schedule, steps=1_000_000)
    assert retained == pytest.approx((1 - 1e-6) ** 1e6, rel=1e-10)
    assert len(calls) <= 3


def test_schedules_in_jax_are_mapped_over_the_steps():
    calls = []

    def schedule(step):
        calls.append(step)
        return jax.lax.cond(step < 3, lambda: 0.5, lambda: 0.25)

    retained = rates.retained_fraction(schedule, steps=5)
    assert retained == pytest.approx(0.5**3 * 0.75**2, rel=1e-15)
    assert len(calls) <= 3


def test_python_schedules_may_branch_and_keep_their_float64():
    step_down = lambda t: 0.1 if t < 3 else 0.01  # noqa: E731
    retained = rates.retained_fraction(step_down, steps=5)
    assert retained == pytest.approx(0.9**3 * 0.99**2, rel=1e-15)
    branching = lambda t: jnp.float32(0.5) if t < 1 else jnp.float32(0.25)  # noqa: E731
    assert rates.retained_fraction(branching, steps=2) == pytest.approx(0.375, rel=1e-7)


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
def test_optax_schedules_are_evaluated_at_int32_steps(schedule):
    retained = rates.retained_fraction(schedule, steps=50)
    values = np.array([float(schedule(jnp.int32(t))) for t in range(50)])
    assert retained == pytest.approx(np.prod(1 - values), rel=1e-6)


# --- the rates are those of real chains -------------------------------------------


def test_decoupled_chains_retain_the_predicted_fraction(x64):
    rate, retained = measured(
        optax.chain(dx.decoupled_decay(0.7), optax.scale_by_learning_rate(cosine))
    )
    np.testing.assert_allclose(rate, np.outer(0.7 * GAMMA, [1, 1]), rtol=1e-12)
    schedule = rates.rate_from_lr_scaled(0.7, learning_rate=cosine)
    expected = rates.retained_fraction(schedule, steps=STEPS)
    np.testing.assert_allclose(retained, expected, rtol=1e-12)


def test_independent_chains_retain_the_predicted_fraction(x64):
    decay = rates.proportional_schedule(
        0.02, learning_rate=cosine, peak_learning_rate=PEAK
    )
    chain = optax.chain(optax.sgd(cosine), dx.independent_decay(decay))
    rate, retained = measured(chain)
    np.testing.assert_allclose(rate, np.outer(0.02 * ETA, [1, 1]), rtol=1e-12)
    expected = rates.retained_fraction(decay, steps=STEPS)
    np.testing.assert_allclose(retained, expected, rtol=1e-12)


def test_a_chain_retains_the_requested_fraction(x64):
    rate = rates.rate_from_retained_fraction(0.5, steps=STEPS)
    _, retained = measured(dx.independent_decay(rate))
    np.testing.assert_allclose(retained, 0.5, rtol=1e-12)


def test_the_decay_for_a_fraction_has_the_documented_error():
    """The docstring of retained_fraction: the closed form, and how much too large."""
    gamma = 0.5e-3 * (1 + np.cos(np.pi * np.arange(10_000) / 10_000))
    for wanted, percent in ((0.5, 0.0052), (0.01, 0.0345)):
        closed = -math.log(wanted) / gamma.sum()
        exact, above = 0.9 * closed, closed
        for _ in range(60):  # bisection
            middle = 0.5 * (exact + above)
            too_small = rates.retained_fraction(middle * gamma, steps=10_000) > wanted
            exact, above = (middle, above) if too_small else (exact, middle)
        formula = -0.5 * math.log(wanted) * np.sum(gamma**2) / gamma.sum() ** 2
        assert closed / exact - 1 == pytest.approx(formula, rel=1e-3)
        assert 100 * formula == pytest.approx(percent, rel=1e-2)


def test_a_requested_rate_is_the_rate_under_any_learning_rate(x64):
    decay = rates.lr_scaled_from_rate(0.003, learning_rate=cosine)
    rate, _ = measured(dx.sgdw(cosine, weight_decay=decay))
    np.testing.assert_allclose(rate, 0.003, rtol=1e-12)


# --- porting: the recipe says X in framework Y; write this ------------------------


class Port(NamedTuple):
    framework: str
    recipe: str
    write: str  # in decayax, with the names `schedule` and `peak`
    rate: Callable[[Any, Any], Any]  # (γ_t, η_t) -> rate_t, or λ of the gradient term
    says: str  # the rate in the table
    excluded: tuple[str, ...] = ()  # what the framework does not decay
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
        "timm",
        "RMSpropTF(momentum=0.9, eps=1e-3, weight_decay=0.3, decoupled_decay=True)",
        "dx.with_decay(optax.rmsprop(schedule, eps=1e-3, initial_scale=1.0, "
        "momentum=0.9), 0.3, learning_rate=schedule)",
        lambda gamma, eta: gamma * 0.3,
        "γ_t λ",
    ),
    Port(
        "TensorFlow 1",
        "RMSPropOptimizer(momentum=0.9, epsilon=1e-3), L2 of 0.3 in the loss",
        "optax.chain(dx.add_l2_to_grad(0.3), optax.rmsprop(schedule, eps=1e-3, "
        "initial_scale=1.0, momentum=0.9))",
        lambda gamma, eta: 0.3,
        "λ in the gradient",
        l2=True,
    ),
    Port(
        "Hugging Face Trainer",
        "TrainingArguments(weight_decay=0.3)",
        "dx.adamw(schedule, weight_decay=0.3, mask=dx.masks.no_bias_or_norm)",
        lambda gamma, eta: gamma * 0.3,
        "γ_t λ",
        excluded=("bias", "scale"),
    ),
    Port(
        "DINO",
        "weight_decay=0.03, weight_decay_end=0.3",
        "dx.adamw(schedule, weight_decay="
        "dx.rates.cosine_ramp_schedule(0.03, 0.3, steps=40), "
        "mask=dx.masks.no_bias_or_norm)",
        lambda gamma, eta: gamma * (0.03 + 0.27 * (1 - eta)),  # both are half cosines
        "γ_t λ_t",
        excluded=("bias", "scale"),
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
        excluded=("bias", "scale"),
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
        "optax.chain(optax.adafactor(schedule), dx.independent_decay("
        "dx.rates.lr_squared_schedule(0.3, learning_rate=schedule)))",
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
        "dx.rates.lr_scaled_from_independent(0.03, peak_learning_rate=peak))",
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
        part = re.search("adafactor|adam|optax.rmsprop", row.write)
        marks = [pytest.mark.relaxed(f"optax's part: {part[0]}")] if part else []
        if chosen(row):
            yield pytest.param(row, marks=marks, id=f"{row.framework}: {row.recipe}")


@pytest.mark.parametrize("row", list(rows(lambda row: not row.l2)))
def test_porting_gives_the_rate_of_the_framework(x64, row):
    params = jax.tree.map(jnp.asarray, MODEL)
    rate, retained = measured(row.build(cosine, PEAK), params=params)
    expected = row.rate(GAMMA, ETA)
    for path, leaf in jax.tree_util.tree_leaves_with_path(rate):
        excluded = path[-1].key in row.excluded
        by_step = leaf.reshape(STEPS, -1).T
        wanted = np.broadcast_to(0.0 if excluded else expected, by_step.shape)
        np.testing.assert_allclose(by_step, wanted, rtol=1e-10)
    kernel = np.unique(retained["dense"]["kernel"])
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
    write = re.sub(r"(weight_decay=|l2_to_grad\()0.3", r"\g<1>0.0", row.write)
    without = row._replace(write=write).build(cosine, PEAK)
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


def test_porting_gives_the_steps_of_tensorflows_rmsprop(x64):
    """ε in the root, V₀ = 1, and the learning rate inside the momentum."""
    row = next(row for row in PORTS if row.framework == "timm")
    ours = row.build(cosine, PEAK)
    rng = np.random.default_rng(0)
    theta = jnp.asarray(rng.standard_normal(4))
    expected, mean_square, momentum = np.array(theta), np.ones(4), np.zeros(4)
    state = ours.init(theta)
    for step in range(5):
        grad, gamma = rng.standard_normal(4), float(cosine(step))
        updates, state = ours.update(jnp.asarray(grad), state, theta)
        theta = theta + updates
        mean_square = 0.9 * mean_square + 0.1 * grad**2
        momentum = 0.9 * momentum + gamma * grad / np.sqrt(mean_square + 1e-3)
        expected = (1 - gamma * 0.3) * expected - momentum
        np.testing.assert_allclose(theta, expected, rtol=1e-10)


def test_the_table_names_what_it_writes():
    assert len({(row.framework, row.recipe) for row in PORTS}) == len(PORTS)
    for row in PORTS:
        assert ("l2" in row.write) == row.l2 == (row.says == "λ in the gradient")
        assert ("mask=" in row.write) == bool(row.excluded)


# --- schedules --------------------------------------------------------------------


def hundredth(step):
    """A learning rate of 0.01·t, in JAX for a JAX step."""
    return 0.01 * (step.astype(float) if isinstance(step, jax.Array) else float(step))


def proportional(weight_decay, learning_rate=hundredth, peak_learning_rate=0.49):
    return rates.proportional_schedule(
        weight_decay, learning_rate=learning_rate, peak_learning_rate=peak_learning_rate
    )


def test_a_proportional_schedule_equals_a_plain_loop():
    schedule, expected = proportional(0.3), 0.3 * np.arange(50) / 49
    values = [schedule(t) for t in range(50)]
    assert {type(value) for value in values} == {float}
    np.testing.assert_allclose(values, expected, rtol=1e-12)
    traced = jax.vmap(schedule)(jnp.arange(50))
    assert traced.dtype == jnp.float32
    np.testing.assert_allclose(traced, expected, rtol=1e-5)
    jitted = [jax.jit(schedule)(t) for t in range(50)]
    np.testing.assert_allclose(jitted, traced, rtol=1e-6)


def test_a_proportional_schedule_of_numbers_arrays_and_schedules():
    constant = proportional(0.3, 0.1, 0.2)
    assert type(constant(7)) is float
    assert constant(7) == pytest.approx(0.15, rel=1e-14)
    rounded_up = proportional(0.3, np.float32(1e-3), 1e-3)  # 1 + 5e-8 of the peak
    assert rounded_up(7) == pytest.approx(0.3, rel=1e-7)
    both = proportional(lambda step: 0.1 * step)
    assert both(7) == pytest.approx(0.7 * 0.07 / 0.49, rel=1e-14)
    sweep = proportional(np.array([0.1, 0.2]), 0.1, np.array([0.2, 0.4]))(7)
    np.testing.assert_allclose(sweep, [0.05, 0.05], rtol=1e-14)


def test_the_strength_of_a_schedule_may_be_traced():
    make = functools.partial(proportional, learning_rate=0.1, peak_learning_rate=0.2)
    f = lambda decay, step: make(decay)(step)  # noqa: E731
    np.testing.assert_allclose(jax.jit(f)(0.3, 3), 0.15, rtol=1e-6)
    np.testing.assert_allclose(jax.grad(f)(0.0, 3), 0.5, rtol=1e-6)

    def update(decay):
        optimizer = dx.independent_decay(make(decay))
        return optimizer.update(jnp.zeros(2), optimizer.init(jnp.ones(2)), jnp.ones(2))

    updates, _ = jax.jit(jax.vmap(update))(jnp.array([0.1, 0.2]))
    np.testing.assert_allclose(updates, [[-0.05] * 2, [-0.1] * 2], rtol=1e-6)


@pytest.mark.parametrize(("first", "factor"), [(10, 2), (7, 1), (3, 3)])
@pytest.mark.relaxed("optax's schedules")
def test_joined_cosines_of_optax_are_the_restarts_of_adamwr(x64, first, factor):
    """The package docstring, against η_t = ½ + ½ cos(π T_cur/T_i) of AdamWR."""
    periods = first * factor ** np.arange(5)
    restarts = optax.join_schedules(
        [optax.cosine_decay_schedule(0.1, int(period)) for period in periods],
        boundaries=[int(end) for end in np.cumsum(periods)[:-1]],
    )
    since = np.concatenate([np.arange(period) / period for period in periods])
    expected = 0.1 * (0.5 + 0.5 * np.cos(np.pi * since))
    found = jax.vmap(restarts)(jnp.arange(len(expected)))
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)
    optimizer = dx.independent_decay(restarts)
    rate, _ = measured(optimizer, steps=len(expected))
    np.testing.assert_allclose(rate[:, 0], expected, rtol=1e-12, atol=1e-15)


# Name -> (a schedule with the value of the equation, the equation in NumPy).
TIMES = np.arange(60)
SCHEDULES = {
    "lr_squared": (
        lambda: rates.lr_squared_schedule(2.0, learning_rate=hundredth),
        lambda t: 2.0 * (0.01 * t) ** 2,
    ),
    "log_time": (
        lambda: rates.log_time_schedule(0.3, timescale_steps=7.5),
        lambda t: 0.3 * 7.5 / (7.5 + t),
    ),
    "cosine_ramp": (
        lambda: rates.cosine_ramp_schedule(0.04, 0.4, steps=40),
        lambda t: 0.22 - 0.18 * np.cos(np.pi * np.minimum(t, 40) / 40),
    ),
    "cosine_ramp, down": (
        lambda: rates.cosine_ramp_schedule(0.4, 0.0, steps=3),
        lambda t: 0.2 + 0.2 * np.cos(np.pi * np.minimum(t, 3) / 3),
    ),
    "inverse_step": (
        lambda: rates.inverse_step_schedule(),
        lambda t: 1.0 / (t + 2),
    ),
    "inverse_step, offset": (
        lambda: rates.inverse_step_schedule(0.4, offset=0.5),
        lambda t: 0.4 / (t + 0.5),
    ),
}


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_a_schedule_equals_its_equation(name):
    """In Python, for arrays of steps, for JAX's int32 steps, mapped and jitted."""
    make, equation = SCHEDULES[name]
    schedule, expected = make(), equation(TIMES)
    values = [schedule(int(t)) for t in TIMES]
    assert {type(value) for value in values} == {float}
    np.testing.assert_allclose(values, expected, rtol=1e-13, atol=1e-17)
    steps = jnp.asarray(TIMES, jnp.int32)
    concrete = [schedule(step) for step in steps[:5]]
    assert {value.dtype for value in concrete} == {jnp.dtype("float32")}
    for traced in (jax.vmap(schedule)(steps), jax.jit(jax.vmap(schedule))(steps)):
        assert traced.dtype == jnp.float32
        np.testing.assert_allclose(traced, expected, rtol=2e-6, atol=1e-7)
        np.testing.assert_allclose(traced[:5], jnp.stack(concrete), rtol=1e-6)


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_a_schedule_of_float64_steps(name, x64):
    make, equation = SCHEDULES[name]
    found = jax.jit(jax.vmap(make()))(jnp.asarray(TIMES, jnp.int32))
    assert found.dtype == jnp.float64
    np.testing.assert_allclose(found, equation(TIMES), rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_a_schedule_is_evaluated_at_the_count_of_the_learning_rate(name, x64):
    """The first update has step 0 for both: the rates of the first steps of a run."""
    make, equation = SCHEDULES[name]
    steps = np.arange(6)
    rate, _ = measured(dx.independent_decay(make()), steps=6)
    np.testing.assert_allclose(rate[:, 0], equation(steps), rtol=1e-12)
    rate, _ = measured(dx.sgdw(cosine, weight_decay=make()), steps=6)
    expected = GAMMA[:6] * equation(steps)
    np.testing.assert_allclose(rate[:, 0], expected, rtol=1e-12)
    chain = optax.chain(
        dx.decoupled_decay(make()), optax.scale_by_learning_rate(cosine)
    )
    rate, _ = measured(chain, steps=6)
    np.testing.assert_allclose(rate[:, 0], expected, rtol=1e-12)


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_a_schedule_says_what_a_run_retains(name, x64):
    make, _ = SCHEDULES[name]
    _, retained = measured(dx.independent_decay(make()), steps=20)
    expected = rates.retained_fraction(make(), steps=20)
    np.testing.assert_allclose(retained, expected, rtol=1e-12)


def test_the_ramp_is_exact_at_its_ends_and_beyond():
    for start, end in ((0.04, 0.4), (0.4, 0.04), (0.1, 0.3), (0.0, 0.7), (0.7, 0.0)):
        ramp = rates.cosine_ramp_schedule(start, end, steps=7)
        assert (ramp(0), ramp(7), ramp(8), ramp(10**9)) == (start, end, end, end)
        beyond = [jax.jit(ramp)(step) for step in (0, 7, 8, 2**31 - 1)]
        np.testing.assert_array_equal(beyond, np.float32([start, end, end, end]))


def test_a_ramp_from_0_keeps_its_digits_in_float32():
    """(1 - cos x)/2 would be wrong by 5 % at the first step of 10 000."""
    ramp = rates.cosine_ramp_schedule(0.0, 1.0, steps=10_000)
    exact = math.sin(math.pi / 20_000) ** 2
    np.testing.assert_allclose(jax.jit(ramp)(1), exact, rtol=1e-6)


def test_the_power_law_of_the_log_time_schedule():
    """To first order in the rate: the exponent is off by about half the rate."""
    rate = rates.log_time_schedule(1e-3, timescale_steps=1000)
    retained = rates.retained_fraction(rate, steps=9000)
    assert retained == pytest.approx((1 + 9.0) ** -1.0, rel=1e-3)


def test_the_adamc_rate_is_the_squared_learning_rate(x64):
    """λγ_t² is AdamC's γ_t²λ'/α with λ' = αλ, by a different path."""
    rate, _ = measured(
        dx.independent_decay(rates.lr_squared_schedule(3.0, learning_rate=cosine))
    )
    adamc = rates.proportional_schedule(
        3.0 * PEAK, learning_rate=cosine, peak_learning_rate=PEAK
    )
    expected, _ = measured(dx.sgdw(cosine, weight_decay=adamc))
    np.testing.assert_allclose(rate, expected, rtol=1e-12)


def twice(step):
    """A strength of 0.2·(t + 1), in JAX for a JAX step."""
    return 20.0 * hundredth(step) + 0.2


# Name -> (the maker, a value for each argument, those that may be a schedule).
MAKERS = {
    "lr_squared": (
        rates.lr_squared_schedule,
        {"weight_decay": 2.0, "learning_rate": 0.1},
        ("weight_decay", "learning_rate"),
    ),
    "log_time": (
        rates.log_time_schedule,
        {"weight_decay": 0.3, "timescale_steps": 7.0},
        ("weight_decay",),
    ),
    "cosine_ramp": (
        rates.cosine_ramp_schedule,
        {"start": 0.04, "end": 0.4, "steps": 4},
        ("start", "end"),
    ),
    "inverse_step": (
        rates.inverse_step_schedule,
        {"weight_decay": 0.6, "offset": 3.0},
        ("weight_decay",),
    ),
}


@pytest.mark.parametrize("name", list(MAKERS))
def test_every_argument_of_a_schedule_may_be_an_array_or_traced(name):
    make, options, _ = MAKERS[name]
    expected = make(**options)(3)
    assert type(expected) is float
    for argument, value in options.items():
        of = lambda x, step: make(**options | {argument: x})(step)  # noqa: B023, E731
        np.testing.assert_allclose(jax.jit(of)(value, 3), expected, rtol=1e-5)
        slope = jax.jit(jax.grad(of))(float(value), 3)
        if argument != "steps":  # a whole number
            rise = of(1.001 * value, 3) - of(0.999 * value, 3)
            np.testing.assert_allclose(slope, rise / (0.002 * value), rtol=1e-3)
        both = of(np.array([value, 2 * value]), 3)
        assert both.dtype == np.float64
        np.testing.assert_allclose(both, [expected, of(2 * value, 3)], rtol=1e-13)
        both = jax.vmap(of, in_axes=(0, None))(jnp.array([value, 2 * value]), 3)
        np.testing.assert_allclose(both, [expected, of(2 * value, 3)], rtol=1e-5)


@pytest.mark.parametrize("name", list(MAKERS))
def test_every_derivative_of_a_schedule_is_finite_at_every_step(name):
    """Also at step 0, at the end of a ramp, and with respect to the step."""
    make, options, _ = MAKERS[name]
    for step in (0.0, 1.0, 4.0, 5.0, 1e6):
        for argument, value in options.items():
            of = lambda x, t: make(**options | {argument: x})(t)  # noqa: B023, E731
            slopes = jax.grad(of, argnums=(0, 1))(float(value), step)
            assert np.isfinite(slopes).all(), (argument, step)


@pytest.mark.parametrize("name", list(MAKERS))
def test_strengths_and_rates_of_a_schedule_may_be_schedules(name):
    make, options, scheduled = MAKERS[name]
    for argument in scheduled:
        schedule = lambda t: make(**options | {argument: hundredth})(t)  # noqa: B023, E731
        for step in (0, 2, 5):
            number = make(**options | {argument: 0.01 * step})(step)
            assert schedule(step) == pytest.approx(number, rel=1e-14)
            traced = jax.jit(schedule)(step)
            np.testing.assert_allclose(traced, schedule(step), rtol=1e-5, atol=1e-9)


def test_all_arguments_of_a_schedule_may_be_schedules_at_once():
    both = rates.lr_squared_schedule(twice, learning_rate=hundredth)
    assert both(5) == pytest.approx(1.2 * 0.05**2, rel=1e-14)
    both = rates.cosine_ramp_schedule(twice, hundredth, steps=3)
    assert both(0) == 0.2
    assert both(1) == pytest.approx(0.4 + (0.01 - 0.4) * 0.25, rel=1e-14)
    assert both(9) == pytest.approx(0.09, rel=1e-14)
    adana = rates.log_time_schedule(proportional(0.3), timescale_steps=10)
    assert adana(10) == pytest.approx(0.3 * (0.1 / 0.49) / 2, rel=1e-14)
    faded = rates.inverse_step_schedule(optax.linear_schedule(1.0, 0.0, 10))
    np.testing.assert_allclose(faded(5), 0.5 / 7, rtol=1e-6)


def test_a_schedule_of_numbers_is_a_schedule():
    constant = rates.lr_squared_schedule(2.0, learning_rate=0.1)
    assert type(constant(7)) is float
    assert constant(7) == pytest.approx(0.02, rel=1e-14)
    assert jax.jit(constant)(7) == pytest.approx(0.02, rel=1e-6)


def test_a_strength_of_a_new_schedule_may_be_traced_in_a_transform():
    def update(decay):
        schedule = rates.inverse_step_schedule(decay)
        optimizer = dx.independent_decay(schedule)
        return optimizer.update(jnp.zeros(2), optimizer.init(jnp.ones(2)), jnp.ones(2))

    updates, _ = jax.jit(jax.vmap(update))(jnp.array([0.2, 0.4]))
    np.testing.assert_allclose(updates, [[-0.1] * 2, [-0.2] * 2], rtol=1e-6)


# --- errors -----------------------------------------------------------------------

from_lr_scaled = rates.rate_from_lr_scaled
ERRORS = {
    "rates.rate_from_lr_scaled: weight_decay must be finite and >= 0, got -0.1. Pass a "
    "finite number without a minus sign.": lambda: from_lr_scaled(
        -0.1, learning_rate=1.0
    ),
    "rates.rate_from_lr_scaled: learning_rate must be finite and >= 0, got nan. Pass": (
        lambda: from_lr_scaled(0.1, learning_rate=math.nan)
    ),
    "rates.rate_from_lr_scaled: weight_decay must be a number, got the boolean True.": (
        lambda: from_lr_scaled(True, learning_rate=1.0)
    ),
    "weight_decay must be a number, got '0.1' of type str. Pass a number, an array or "
    "a schedule.": lambda: from_lr_scaled("0.1", learning_rate=1.0),
    "learning_rate must be a number, got None of type NoneType. Pass a number, an": (
        lambda: from_lr_scaled(0.1, learning_rate=None)
    ),
    "weight_decay must be a number, got [0.1] of type list.": (
        lambda: from_lr_scaled([0.1], learning_rate=1.0)
    ),
    "weight_decay must be a real number, got an array of dtype complex64.": (
        lambda: from_lr_scaled(jnp.ones(2, jnp.complex64), learning_rate=1.0)
    ),
    "weight_decay must be a real number, got an array of dtype bool.": (
        lambda: from_lr_scaled(np.ones(2, bool), learning_rate=1.0)
    ),
    "weight_decay must be finite and >= 0, got -2.0 at index 1, 0.": (
        lambda: from_lr_scaled(
            jnp.array([[1.0], [-2.0]]), learning_rate=jnp.ones((2, 1))
        )
    ),
    "rates.rate_from_lr_scaled: the result must be the fraction of a weight that one "
    "step removes, in [0, 1), got 2.0. Pass a smaller weight decay, or check its "
    "convention.": lambda: from_lr_scaled(20.0, learning_rate=0.1),
    "rates.rate_from_lr_scaled: the result must be the fraction of a weight that one "
    "step removes, in [0, 1), got 1.0.": lambda: from_lr_scaled(
        10.0, learning_rate=0.1
    ),
    "rates.lr_scaled_from_rate: learning_rate must be finite and > 0, got 0.0. Pass a "
    "finite number > 0.": lambda: rates.lr_scaled_from_rate(0.1, learning_rate=0.0),
    "learning_rate must be a number, got '1' of type str. Pass a number, an array or "
    "a schedule.": lambda: rates.lr_scaled_from_rate(0.1, learning_rate="1"),
    "rates.lr_scaled_from_rate: the value of the learning_rate schedule at step 6 must "
    "be finite and >= 0, got -1.0.": lambda: rates.lr_scaled_from_rate(
        0.1, learning_rate=lambda t: 5 - t
    )(6),
    "rates.lr_scaled_from_rate: rate_per_step must be the fraction of a weight that "
    "one step removes, in [0, 1), got -0.5. Pass a number from 0 to below 1: 1 erases "
    "the weight, more flips its sign.": lambda: rates.lr_scaled_from_rate(
        -0.5, learning_rate=0.1
    ),
    "rates.independent_from_lr_scaled: peak_learning_rate must be finite and > 0, got "
    "inf.": lambda: rates.independent_from_lr_scaled(0.1, peak_learning_rate=math.inf),
    "rates.independent_from_lr_scaled: peak_learning_rate must be finite and > 0, got "
    "0.0.": lambda: rates.independent_from_lr_scaled(0.1, peak_learning_rate=0.0),
    "rates.lr_scaled_from_independent: peak_learning_rate must be a number, got {'a': "
    "1} of type dict. Pass a number or an array.": (
        lambda: rates.lr_scaled_from_independent(0.1, peak_learning_rate={"a": 1})
    ),
    "rates.lr_scaled_from_independent: peak_learning_rate must be a number, got <fu": (
        lambda: rates.lr_scaled_from_independent(0.1, peak_learning_rate=cosine)
    ),
    "rates.lr_scaled_from_independent: peak_learning_rate must be finite and > 0, got "
    "-1.0.": lambda: rates.lr_scaled_from_independent(0.1, peak_learning_rate=-1),
    "rates.normalised_from_weight_decay: the result must be a number, got nan. The "
    "arguments exceed the range": lambda: rates.normalised_from_weight_decay(
        0.0, batch_size=1e-300, samples=1e150, epochs=1
    ),
    "rates.proportional_schedule: peak_learning_rate must be the largest learning "
    "rate, got 0.1 and a learning rate of 1.0. Pass the schedule's peak.": (
        lambda: proportional(0.01, np.array([0.05, 1.0]), 0.1)
    ),
    "rates.proportional_schedule: peak_learning_rate must be the largest": (
        lambda: proportional(0.01, lambda t: 0.1 * t, 0.1)(2)
    ),
    "rates.proportional_schedule: peak_learning_rate must be finite and > 0, got 0.0": (
        lambda: proportional(0.1, cosine, 0.0)
    ),
    "rates.proportional_schedule: the value of the weight_decay schedule at step 3 "
    "must be finite and >= 0, got -3.0.": lambda: proportional(lambda t: -1.0 * t)(3),
    "rates.lr_squared_schedule: weight_decay must be finite and >= 0, got -1.0. Pass a "
    "finite number without a minus sign.": lambda: rates.lr_squared_schedule(
        -1.0, learning_rate=0.1
    ),
    "rates.lr_squared_schedule: learning_rate must be a number, got None of": (
        lambda: rates.lr_squared_schedule(0.1, learning_rate=None)
    ),
    "rates.lr_squared_schedule: the result must be the fraction of a weight that one "
    "step removes, in [0, 1), got 8.0. Pass a smaller weight decay, or check its "
    "convention.": lambda: rates.lr_squared_schedule(2.0, learning_rate=2.0),
    "rates.lr_squared_schedule: the value of the learning_rate schedule at step 6 must "
    "be finite and >= 0, got -1.0.": lambda: rates.lr_squared_schedule(
        0.1, learning_rate=lambda t: 5 - t
    )(6),
    "rates.log_time_schedule: timescale_steps must be finite and > 0, got 0.0. Pass a "
    "finite number > 0.": lambda: rates.log_time_schedule(0.1, timescale_steps=0),
    "rates.log_time_schedule: timescale_steps must be a number, got <function": (
        lambda: rates.log_time_schedule(0.1, timescale_steps=cosine)
    ),
    "rates.log_time_schedule: weight_decay must be finite and >= 0, got inf.": (
        lambda: rates.log_time_schedule(math.inf, timescale_steps=9)
    ),
    "rates.log_time_schedule: step must be finite and >= 0, got -1.0. Pass the number "
    "of updates so far: 0 in the first one.": (
        lambda: rates.log_time_schedule(0.1, timescale_steps=9)(-1)
    ),
    "rates.log_time_schedule: step must be a number, got '3' of type str. Pass a": (
        lambda: rates.log_time_schedule(0.1, timescale_steps=9)("3")
    ),
    "rates.cosine_ramp_schedule: start must be finite and >= 0, got -0.1.": (
        lambda: rates.cosine_ramp_schedule(-0.1, 0.4, steps=9)
    ),
    "rates.cosine_ramp_schedule: end must be finite and >= 0, got nan.": (
        lambda: rates.cosine_ramp_schedule(0.1, math.nan, steps=9)
    ),
    "rates.cosine_ramp_schedule: end must be a number, got [0.4] of type list. Pass a "
    "number, an array or a schedule.": (
        lambda: rates.cosine_ramp_schedule(0.1, [0.4], steps=9)
    ),
    "rates.cosine_ramp_schedule: the value of the end schedule at step 2 must be "
    "finite and >= 0, got -2.0.": (
        lambda: rates.cosine_ramp_schedule(0.1, lambda t: -1.0 * t, steps=9)(2)
    ),
    "rates.cosine_ramp_schedule: steps must be a whole number > 0, got 2.5. Pass a "
    "whole number of steps.": lambda: rates.cosine_ramp_schedule(0.1, 0.4, steps=2.5),
    "rates.cosine_ramp_schedule: steps must be a whole number > 0, got 0.0.": (
        lambda: rates.cosine_ramp_schedule(0.1, 0.4, steps=0)
    ),
    "rates.inverse_step_schedule: offset must be finite and > 0, got 0.0. Pass a ": (
        lambda: rates.inverse_step_schedule(offset=0)
    ),
    "rates.inverse_step_schedule: weight_decay must be a number, got the boolean": (
        lambda: rates.inverse_step_schedule(True)
    ),
    "rates.inverse_step_schedule: step must be finite and >= 0, got nan. Pass the": (
        lambda: rates.inverse_step_schedule()(math.nan)
    ),
    "rates.timescale_steps_from_rate: rate_per_step must be the fraction of a weight "
    "that one step removes, in [0, 1), got 1.0.": (
        lambda: rates.timescale_steps_from_rate(1)
    ),
    "rates.rate_from_timescale_steps: timescale_steps must be > 1, got 1.0. At 1 the "
    "rate is 1. Pass a longer": lambda: rates.rate_from_timescale_steps(1.0),
    "rates.half_life_steps_from_rate: rate_per_step must be the fraction of a weight "
    "that one step removes, in [0, 1), got inf.": (
        lambda: rates.half_life_steps_from_rate(math.inf)
    ),
    "rates.rate_from_half_life_steps: half_life_steps must be > 0, got 0.0.": (
        lambda: rates.rate_from_half_life_steps(0)
    ),
    "rates.rate_from_half_life_steps: half_life_steps must be > 0, got nan. Pass a "
    "number > 0, or inf for no decay.": (
        lambda: rates.rate_from_half_life_steps(math.nan)
    ),
    "rates.rate_from_half_life_steps: the result must be the fraction of a weight that "
    "one step removes, in [0, 1), got 1.0. Pass a longer half-life.": (
        lambda: rates.rate_from_half_life_steps(1e-3)
    ),
    "rates.rate_from_retained_fraction: the result must be the fraction of a weight "
    "that one step removes, in [0, 1), got 1.0. Pass a larger fraction.": (
        lambda: rates.rate_from_retained_fraction(1e-300, steps=1)
    ),
    "rates.rate_from_retained_fraction: retained_fraction must be in (0, 1], got nan": (
        lambda: rates.rate_from_retained_fraction(math.nan, steps=1)
    ),
    "rates.rate_from_retained_fraction: retained_fraction must be in (0, 1], got 0.0. "
    "Pass the fraction that is left.": (
        lambda: rates.rate_from_retained_fraction(0.0, steps=5)
    ),
    "rates.rate_from_retained_fraction: retained_fraction must be in (0, 1], got 1.5": (
        lambda: rates.rate_from_retained_fraction(1.5, steps=5)
    ),
    "rates.rate_from_retained_fraction: retained_fraction must be a number, got <fu": (
        lambda: rates.rate_from_retained_fraction(cosine, steps=5)
    ),
    "rates.retained_fraction: steps must be one number, got shape (2,). Call the "
    "function once for each": (
        lambda: rates.retained_fraction(0.1, steps=np.array([1, 2]))
    ),
    "rates.retained_fraction: steps must be a whole number > 0, got 0.0.": (
        lambda: rates.retained_fraction(0.1, steps=0)
    ),
    "rates.retained_fraction: steps must be a whole number > 0, got 2.5. Pass a whole "
    "number of steps.": lambda: rates.retained_fraction(0.1, steps=2.5),
    "rates.retained_fraction: steps must be a whole number > 0, got inf.": (
        lambda: rates.retained_fraction(0.1, steps=math.inf)
    ),
    "rates.retained_fraction: rate_per_step must be one number or one per step, got "
    "shape (3,) for 4 steps. For several runs, use jax.vmap.": (
        lambda: rates.retained_fraction(np.full(3, 0.1), steps=4)
    ),
    "rates.retained_fraction: the value of the rate_per_step schedule must be the "
    "fraction of a weight that one step removes, in [0, 1), got 1.0 at index 10.": (
        lambda: rates.retained_fraction(lambda t: 0.1 * t, steps=20)
    ),
    "rates.retained_fraction: steps must be concrete if there is a rate per step, ": (
        lambda: jax.jit(lambda n: rates.retained_fraction(cosine, steps=n))(5)
    ),
    "rates.weight_decay_from_normalised: batch_size must be finite and > 0, got 0.0.": (
        lambda: rates.weight_decay_from_normalised(
            0.1, batch_size=0, samples=1, epochs=1
        )
    ),
    "rates.normalised_from_weight_decay: samples must be finite and > 0, got 0.0.": (
        lambda: rates.normalised_from_weight_decay(
            0.1, batch_size=1, samples=0, epochs=1
        )
    ),
    "rates.weight_decay_from_prior_width: prior_width must be > 0, got 0.0.": (
        lambda: rates.weight_decay_from_prior_width(0.0, samples=1)
    ),
    "rates.prior_width_from_weight_decay: samples must be finite and > 0, got -1.0.": (
        lambda: rates.prior_width_from_weight_decay(0.1, samples=-1)
    ),
}


@pytest.mark.parametrize("text", list(ERRORS))
def test_errors_name_function_argument_value_and_hint(text):
    with pytest.raises((TypeError, ValueError), match=re.escape(text)):
        ERRORS[text]()


@pytest.mark.parametrize("name", NAMES)
def test_every_function_has_an_error_by_its_name(name):
    assert any(f"rates.{name}: " in text for text in ERRORS)


# --- types and documentation --------------------------------------------------------

TYPES = """
from typing import assert_type

import jax
import numpy as np
import optax

from decayax import rates
from decayax._core.strength import ScalarOrSchedule, Schedule


def check(n: np.ndarray, x: jax.Array, s: Schedule, either: ScalarOrSchedule) -> None:
    f = rates.rate_from_lr_scaled
    assert_type(f(0.1, learning_rate=1), float)
    assert_type(f(np.float32(0.1), learning_rate=0.1), float)
    assert_type(f(n, learning_rate=0.1), np.ndarray)
    assert_type(f(0.1, learning_rate=x), jax.Array)
    assert_type(f(x, learning_rate=x), jax.Array)
    assert_type(f(0.1, learning_rate=s), Schedule)
    assert_type(f(0.1, learning_rate=optax.constant_schedule(0.1)), Schedule)
    assert_type(f(x, learning_rate=s), Schedule)
    assert_type(f(n, learning_rate=x), ScalarOrSchedule)
    assert_type(f(either, learning_rate=either), ScalarOrSchedule)
    assert_type(rates.lr_scaled_from_rate(x, learning_rate=0.1), jax.Array)
    assert_type(rates.lr_scaled_from_rate(0.1, learning_rate=s), Schedule)
    f("0.1", learning_rate=0.1)  # pyright: ignore[reportCallIssue, reportArgumentType]

    one = rates.half_life_steps_from_rate
    assert_type(one(0.1), float)
    assert_type(one(n), np.ndarray)
    assert_type(one(x), jax.Array)
    assert_type(one(s), Schedule)
    assert_type(one(either), ScalarOrSchedule)
    assert_type(rates.rate_from_half_life_steps(7), float)
    assert_type(rates.timescale_steps_from_rate(x), jax.Array)
    assert_type(rates.rate_from_timescale_steps(n), np.ndarray)

    g = rates.independent_from_lr_scaled
    assert_type(g(0.1, peak_learning_rate=0.1), float)
    assert_type(g(n, peak_learning_rate=0.1), np.ndarray)
    assert_type(g(x, peak_learning_rate=0.1), jax.Array)
    assert_type(g(s, peak_learning_rate=0.1), Schedule)
    assert_type(g(0.1, peak_learning_rate=x), float | jax.Array)
    g(0.1, peak_learning_rate=s)  # pyright: ignore[reportArgumentType]
    assert_type(rates.lr_scaled_from_independent(x, peak_learning_rate=1), jax.Array)
    assert_type(rates.weight_decay_from_prior_width(0.5, samples=9), float)
    many = rates.weight_decay_from_prior_width(0.5, samples=n)
    assert_type(many, float | np.ndarray)
    assert_type(rates.prior_width_from_weight_decay(n, samples=9), np.ndarray)
    run = rates.weight_decay_from_normalised(x, batch_size=1, samples=9, epochs=1)
    assert_type(run, jax.Array)
    runs = rates.weight_decay_from_normalised(0.1, batch_size=n, samples=9, epochs=1)
    assert_type(runs, float | np.ndarray)
    back = rates.normalised_from_weight_decay(s, batch_size=1, samples=9, epochs=1)
    assert_type(back, Schedule)

    assert_type(rates.retained_fraction(0.1, steps=9), float)
    assert_type(rates.retained_fraction(s, steps=9), float | jax.Array)
    assert_type(rates.rate_from_retained_fraction(0.1, steps=9), float)
    assert_type(rates.rate_from_retained_fraction(x, steps=9), jax.Array)
    h = rates.proportional_schedule
    assert_type(h(0.1, learning_rate=0.1, peak_learning_rate=0.1), Schedule)
    assert_type(h(x, learning_rate=s, peak_learning_rate=0.1), Schedule)
    assert_type(rates.lr_squared_schedule(0.1, learning_rate=0.1), Schedule)
    assert_type(rates.lr_squared_schedule(s, learning_rate=s), Schedule)
    assert_type(rates.log_time_schedule(x, timescale_steps=9), Schedule)
    assert_type(rates.cosine_ramp_schedule(0.1, s, steps=x), Schedule)
    assert_type(rates.inverse_step_schedule(), Schedule)
    k = rates.log_time_schedule
    k(0.1, timescale_steps=s)  # pyright: ignore[reportArgumentType]
    optax.sgd(rates.inverse_step_schedule(n, offset=1))
"""


@pytest.mark.needs_extras
def test_a_type_checker_knows_what_comes_out(tmp_path):
    pytest.importorskip("pyright")
    root = Path(rates.__file__).parents[2]
    (tmp_path / "snippet.py").write_text(
        "# pyright: basic, reportUnnecessaryTypeIgnoreComment=true\n" + TYPES
    )
    options = {"include": ["snippet.py"], "extraPaths": [str(root)]}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(options))
    check = subprocess.run(
        [sys.executable, "-m", "pyright", "--pythonpath", sys.executable],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert "0 errors" in check.stdout, check.stdout + check.stderr


@pytest.mark.parametrize("name", NAMES)
def test_docstrings_are_complete(name):
    doc = inspect.getdoc(getattr(rates, name)) or ""
    for section in ("Args:", "Returns:", "Example:"):
        assert f"\n{section}\n" in doc, f"{name} lacks {section}"
    assert ".. math::" in doc
    parameters = inspect.signature(getattr(rates, name)).parameters.values()
    for parameter in parameters:
        assert re.search(rf"^    {parameter.name}: ", doc, re.MULTILINE)
    free = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]
    assert len(free) == 1 or free == ["start", "end"]
