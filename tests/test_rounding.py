"""Rounding of 16-bit weights, against the definitions and in training."""

import functools
import pickle
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import rounding_reference as reference
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import decayax as dx
from decayax._rounding.grid import round_to_nearest, stochastic_round, Sum, two_sum
from decayax._rounding.random_bits import (
    key_from_seed,
    random_bits,
    STATE,
    step_key,
    WEIGHTS,
)


DTYPES = ["bfloat16", "float16"]
# Mixed 16- and 32-bit arithmetic, which strict promotion refuses, is that of
# optax.apply_updates; the optimizers inside are optax's too.
pytestmark = pytest.mark.relaxed("optax.apply_updates, adamw")


def every_pattern(dtype):
    """All 65 536 numbers of a format, as JAX has them and in float64."""
    bits = np.arange(2**16, dtype=np.uint16)
    return jnp.asarray(bits).view(dtype), reference.decode(bits, dtype)


def as_float64(x, dtype="float32"):
    """As float64; what is too large for ``dtype`` as infinity."""
    with np.errstate(invalid="ignore"):
        x = np.asarray(jnp.asarray(x, jnp.float32)).astype(np.float64)
    largest = reference.FORMATS[dtype].max
    return np.where(np.abs(x) > largest, np.copysign(np.inf, x), x)


def flushed(x):
    """The value where the hardware takes float32 subnormals for 0, as XLA on CPU."""
    return np.where(np.abs(x) < np.finfo(np.float32).tiny, 0.0, x)


def sums(dtype, n=200_000, seed=0):
    """Weights of all sizes, and updates of all relative sizes: (float32, float32)."""
    rng = np.random.default_rng(seed)
    largest = reference.FORMATS[dtype].max / 4
    small = 1e-20 if dtype == "bfloat16" else 2.0**-24
    theta = np.exp(rng.uniform(np.log(small), np.log(largest), n)) * rng.choice(
        [-1, 1], n
    )
    theta = reference.nearest_even(theta, dtype)
    theta[::7] = np.exp2(np.rint(np.log2(np.abs(theta[::7]))))  # where the ulp changes
    steps = theta * np.exp2(rng.uniform(-40, 1, n)) * rng.choice([-1, 1], n)
    steps = steps.astype(np.float32)
    fine = np.abs(steps) > 1e-30  # of which float32 keeps all digits
    return theta[fine].astype(np.float32), steps[fine]


# --- the grid ---------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_reference_is_that_of_numpy_and_ml_dtypes(dtype):
    theta, steps = sums(dtype)
    total = theta.astype(np.float64) + steps
    expected = np.asarray(jnp.asarray(total.astype(np.float32)).astype(dtype))
    got = reference.nearest_even(total.astype(np.float32), dtype)
    np.testing.assert_array_equal(got, expected.astype(np.float64))


def test_the_error_of_a_sum_is_exact():
    """For summands of any order: also where the second is the larger one."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 10_000)) * 2.0 ** rng.integers(-20, 20, (2, 10_000))
    a, b = a.astype(np.float32), b.astype(np.float32)
    total = jax.jit(two_sum)(a, b)
    np.testing.assert_array_equal(total.rounded, a + b)
    exact = a.astype(np.float64) + b
    got = np.asarray(total.rounded, np.float64) + np.asarray(total.error)
    np.testing.assert_array_equal(got, exact)
    assert np.mean(np.asarray(total.error) != 0.0) > 0.3


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_nearest_is_that_of_the_definition(dtype):
    theta, steps = sums(dtype)
    got = jax.jit(lambda a, b: round_to_nearest(two_sum(a, b), dtype))(theta, steps)
    expected = reference.nearest_even(theta + steps, dtype)
    np.testing.assert_array_equal(as_float64(got, dtype), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_each_neighbour_has_its_probability(dtype):
    """Deterministic: bits just below and just above the probability."""
    theta, steps = sums(dtype)
    exact = theta.astype(np.float64) + steps
    towards, away = reference.neighbours(exact, dtype)
    chance = reference.probability_away(exact, dtype)
    rounded = jax.jit(lambda bits: stochastic_round(two_sum(theta, steps), bits, dtype))
    # stochastic_round moves off the nearest if the bits are small.
    nearer_away = chance > 0.5
    moves = np.where(nearer_away, 1.0 - chance, chance)
    tolerance = 2.0**-30 + 2.0**-22 * moves
    moved, stayed = (
        np.where(nearer_away, towards, away),
        np.where(nearer_away, away, towards),
    )
    # In the middle it takes the nearest of the sum rounded to float32.
    clear = np.abs(chance - 0.5) > 2.0**-13
    for shift, expected in ((-1, moved), (1, stayed)):
        at = np.floor((moves + shift * tolerance) * 2.0**32)
        use = clear & (at >= 0) & (at < 2.0**32)
        got = as_float64(rounded(np.where(use, at, 0).astype(np.uint32)), dtype)
        assert use.mean() > 0.3
        np.testing.assert_array_equal(got[use], expected[use])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", [0, 1, 2**31, 2**32 - 1])
def test_never_outside_the_two_neighbours(dtype, bits):
    theta, steps = sums(dtype, seed=1)
    exact = theta.astype(np.float64) + steps
    towards, away = reference.neighbours(exact, dtype)
    bits = np.full(theta.shape, bits, np.uint32)
    got = as_float64(stochastic_round(two_sum(theta, steps), bits, dtype), dtype)
    # An error of the sum below the smallest float32 is lost.
    assert np.all((got == towards) | (got == away))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", [0, 2**32 - 1])
def test_every_number_of_the_format_stays_what_it_is(dtype, bits):
    numbers, expected = every_pattern(dtype)
    wide = Sum(numbers.astype(jnp.float32), jnp.zeros(2**16, jnp.float32))
    for got in (
        stochastic_round(wide, jnp.full(2**16, bits, jnp.uint32), dtype),
        round_to_nearest(wide, dtype),
    ):
        got = as_float64(got)
        fits = (got == expected) | (got == flushed(expected)) | np.isnan(expected)
        assert fits.all()
        assert np.isnan(got[np.isnan(expected)]).all()
        assert (got[expected == 0] == 0).all()


@functools.cache
def a_million_bits():
    return random_bits(step_key(key_from_seed(3), WEIGHTS, 0), 0, (10**6,))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weight", [1.0, -1.0, 1.01, 0.02, -3e-3, 6.5e-5, 2e-6])
@pytest.mark.parametrize("share", [1e-6, -1e-4, 0.003, 0.4])
def test_the_mean_is_the_sum(dtype, weight, share):
    bits = a_million_bits()
    n = len(bits)
    theta = np.float32(reference.nearest_even(weight, dtype))
    step = np.float32(theta * share)
    total = two_sum(jnp.full(n, theta), jnp.full(n, step))
    got = np.asarray(stochastic_round(total, bits, dtype), np.float64)
    exact = np.float64(theta) + np.float64(step)
    low, high = sorted(float(x) for x in reference.neighbours(exact, dtype))
    assert set(np.unique(got)) <= {low, high}
    up = (exact - low) / (high - low) if high > low else 0.0
    error = (high - low) * np.sqrt(up * (1 - up) / n)
    assert abs(got.mean() - exact) <= 4 * error + 1e-9 * (high - low)


# --- the bits ---------------------------------------------------------------------


def uniform(seed=0, step=0, leaf=0, shape=(10**6,), purpose=WEIGHTS):
    bits = random_bits(step_key(key_from_seed(seed), purpose, step), leaf, shape)
    return np.asarray(bits, np.float64) / 2.0**32


def test_bits_are_uniform_and_independent():
    u = uniform()
    n = len(u)
    assert abs(u.mean() - 0.5) < 4 * np.sqrt(1 / 12 / n)
    assert abs(u.var() - 1 / 12) < 4 * np.sqrt(1 / 180 / n)
    counts = np.bincount((u * 256).astype(int), minlength=256)
    chi2 = np.sum((counts - n / 256) ** 2 / (n / 256))
    assert abs(chi2 - 255) < 4 * np.sqrt(2 * 255)
    others = {
        "next weight": np.roll(u, 1),
        "next row": np.roll(u, 1024),
        "next step": uniform(step=1),
        "next leaf": uniform(leaf=1),
        "next seed": uniform(seed=1),
        "a seed beyond 32 bits": uniform(seed=2**32),
        "moments": uniform(purpose=STATE),
    }
    for name, other in others.items():
        assert abs(np.corrcoef(u, other)[0, 1]) < 4 / np.sqrt(n), name
    digits = (np.floor(u * 2.0**32).astype(np.int64)[:, None] >> np.arange(32)) & 1
    assert np.all(np.abs(digits.mean(0) - 0.5) < 4.5 * 0.5 / np.sqrt(n))


@pytest.mark.parametrize("words", [(1, 3), (2, 2), (2, 1), (1 | 1 << 31, 2)])
def test_both_words_of_the_key_matter(words):
    n = 10**5
    one, other = (
        np.asarray(random_bits(tuple(map(jnp.uint32, key)), 0, (n,)), np.float64)
        for key in ((1, 2), words)
    )
    assert abs(np.corrcoef(one, other)[0, 1]) < 4 / np.sqrt(n)
    if words[1] != 2:  # else those of other weights of the same leaf, in turn
        assert len(np.intersect1d(one, other)) < 100


def test_the_bits_of_one_weight_over_many_steps():
    key = key_from_seed(0)
    bits = jax.jit(
        jax.vmap(lambda step: random_bits(step_key(key, WEIGHTS, step), 0, (64,)))
    )
    u = np.asarray(bits(jnp.arange(2000)), np.float64) / 2.0**32
    assert abs(u.mean() - 0.5) < 4 * np.sqrt(1 / 12 / u.size)
    assert np.all(np.abs(u.mean(0) - 0.5) < 4.5 * np.sqrt(1 / 12 / 2000))
    steps = np.corrcoef(u[:-1].ravel(), u[1:].ravel())[0, 1]
    assert abs(steps) < 4 / np.sqrt(u.size)


def test_the_bits_of_an_array_are_those_of_its_weights_in_a_row():
    flat = uniform(shape=(24,))
    np.testing.assert_array_equal(uniform(shape=(2, 3, 4)).ravel(), flat)


# --- the transforms ---------------------------------------------------------------


METHODS = {
    "stochastic": dx.with_stochastic_rounding,
    "compensated": dx.with_compensation,
}


def example(dtype, n=4096, scale=1.0):
    rng = np.random.default_rng(0)
    draw = lambda *shape: scale * rng.standard_normal(shape)  # noqa: E731
    tree = {"kernel": draw(n // 16, 16), "bias": draw(64)}
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), tree)


def run(optimizer, params, steps, noise=0.0, seed=7):
    """The parameters after some steps under normal gradients."""
    flat, tree_of = ravel_pytree(params)

    def gradient(i):
        if noise == 0.0:
            return jnp.zeros_like(flat)
        key = jax.random.fold_in(jax.random.key(seed), i)
        return (noise * jax.random.normal(key, flat.shape)).astype(flat.dtype)

    def step(carry, i):
        params, state = carry
        updates, state = optimizer.update(tree_of(gradient(i)), state, params)
        return (optax.apply_updates(params, updates), state), None

    carry = params, optimizer.init(params)
    run = jax.jit(lambda carry: jax.lax.scan(step, carry, jnp.arange(steps))[0])
    return run(carry)


def slope(after, before):
    """The regression of the weights on what they were."""
    a, b = (np.ravel(as_float64(x["kernel"])) for x in (after, before))
    return (a @ b) / (b @ b)


# The smallest shrink that each test can measure to a twentieth, and a large one.
RATES_WITHOUT_GRADIENTS = [1e-5, 1e-3]
RATES_UNDER_NOISE = [1e-4, 1e-3]


@functools.cache
def slopes(dtype, method, scale, noise):
    """The fraction of the weights after 1000 steps of AdamW, by the rate of its decay.

    All rates run in one program and under the same gradients.
    """
    params = example(dtype, 2**14, scale)

    def under(strength):
        optimizer = METHODS[method](optax.adamw(1e-3, weight_decay=strength))
        return run(optimizer, params, 1000, noise)[0]

    rates = [0.0, *(RATES_UNDER_NOISE if noise else RATES_WITHOUT_GRADIENTS)]
    after = jax.vmap(under)(jnp.array(rates) / 1e-3)
    return {
        rate: slope(jax.tree.map(lambda x, i=i: x[i], after), params)
        for i, rate in enumerate(rates)
    }


@pytest.mark.parametrize("rate", RATES_WITHOUT_GRADIENTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [1.0, 0.02])
def test_the_shrink_without_gradients_is_right(dtype, method, rate, scale):
    kept = slopes(dtype, method, scale, noise=0.0)[rate]
    shrink = np.log(kept) / (1000 * np.log1p(-rate))
    assert abs(shrink - 1) <= 0.05


@pytest.mark.parametrize("rate", RATES_UNDER_NOISE)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", METHODS)
def test_the_shrink_is_the_difference_that_the_decay_makes_under_noise(
    dtype, method, rate
):
    kept = slopes(dtype, method, scale=1.0, noise=1.0)
    shrink = np.log(kept[rate] / kept[0.0]) / (1000 * np.log1p(-rate))
    assert abs(shrink - 1) <= 0.05


def test_with_round_to_nearest_nothing_decays():
    params = example("bfloat16")
    after, _ = run(optax.adamw(1e-3, weight_decay=0.1), params, 1000)
    assert slope(after, params) == 1.0


@pytest.mark.parametrize("dtype", DTYPES)
def test_compensation_is_that_of_the_definition(dtype):
    rng = np.random.default_rng(3)
    theta = reference.nearest_even(rng.standard_normal(3000) * 0.1, dtype)
    transform = dx.compensate_rounding()
    params = jnp.asarray(theta, dtype)
    state, residual = transform.init(params), np.zeros_like(theta)
    update = jax.jit(transform.update)
    for _ in range(50):
        steps = (theta * rng.normal(0, 10.0 ** rng.integers(-6, 0), 3000)).astype(
            np.float32
        )
        updates, state = update(jnp.asarray(steps), state, params)
        params = optax.apply_updates(params, updates)
        theta, residual = reference.compensated(theta, residual, steps, dtype)
        # 2^-16 ulp is float32's rounding of the sum.
        unit = reference.ulp(theta, dtype) * 2.0**-16
        got = as_float64(params) + np.asarray(state.residual, float) * unit
        np.testing.assert_array_less(np.abs(got - (theta + residual)), 60 * unit)
        theta = as_float64(params)
        residual = np.asarray(state.residual, float) * reference.ulp(theta, dtype)
        residual *= 2.0**-16


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_sum_of_many_small_steps_is_that_of_float64(dtype):
    rng = np.random.default_rng(4)
    theta = reference.nearest_even(rng.standard_normal(3000) * 0.1, dtype)
    transform = dx.compensate_rounding()
    params, exact = jnp.asarray(theta, dtype), theta
    state, update = transform.init(params), jax.jit(transform.update)
    for _ in range(300):
        steps = (1e-5 * rng.standard_normal(3000)).astype(np.float32)
        updates, state = update(jnp.asarray(steps), state, params)
        params = optax.apply_updates(params, updates)
        exact = exact + steps
    ulp = reference.ulp(exact, dtype)
    assert np.all(np.abs(as_float64(params) - exact) <= 0.51 * ulp)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("jitted", [True, False])
@pytest.mark.parametrize(
    "transform", [dx.round_stochastically(), dx.compensate_rounding()]
)
def test_every_step_lands_on_a_neighbour(dtype, jitted, transform):
    theta, steps = sums(dtype)
    params = jnp.asarray(theta, dtype)

    def step(params, steps):
        updates, _ = transform.update(steps, transform.init(params), params)
        return updates, optax.apply_updates(params, updates)

    updates, landed = (jax.jit(step) if jitted else step)(params, steps)
    assert updates.dtype == jnp.float32
    assert landed.dtype == params.dtype
    towards, away = reference.neighbours(theta.astype(np.float64) + steps, dtype)
    got = as_float64(landed)
    assert np.all((got == towards) | (got == away))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "transform", [dx.round_stochastically(), dx.compensate_rounding()]
)
def test_every_number_is_a_target(dtype, transform):
    numbers, expected = every_pattern(dtype)
    params = jnp.zeros(2**16, dtype)
    updates, _ = transform.update(
        numbers.astype(jnp.float32), transform.init(params), params
    )
    got = as_float64(optax.apply_updates(params, updates))
    right = (got == expected) | (got == flushed(expected))
    assert np.all(right | (np.isnan(got) & np.isnan(expected)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "transform", [dx.round_stochastically(), dx.compensate_rounding()]
)
def test_every_number_stays_without_a_step(dtype, transform):
    numbers, expected = every_pattern(dtype)
    state = transform.init(numbers)
    updates, state = transform.update(jnp.zeros(2**16), state, numbers)
    got = as_float64(optax.apply_updates(numbers, updates))
    right = (got == expected) | (got == flushed(expected))
    assert np.all(right | (np.isnan(got) & np.isnan(expected)))
    if isinstance(state, dx.CompensationState):
        assert not np.any(state.residual)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", METHODS)
def test_nonfinite_parameters_and_gradients_stay_nonfinite(dtype, method):
    params = jnp.array([1.0, 1.0, 1.0, np.inf, np.nan], dtype)
    grads = jnp.array([np.inf, -np.inf, np.nan, 1.0, 1.0], dtype)
    optimizer = METHODS[method](optax.sgd(1.0))
    updates, state = optimizer.update(grads, optimizer.init(params), params)
    got = as_float64(optax.apply_updates(params, updates))
    np.testing.assert_array_equal(got, [-np.inf, np.inf, np.nan, np.inf, np.nan])
    if method == "compensated":
        assert not np.any(state[1].residual)


def test_other_leaves_pass():
    params = {
        "w": jnp.ones(3, jnp.bfloat16),
        "wide": jnp.ones(3),
        "n": jnp.arange(3),
        "none": None,
        "masked": optax.MaskedNode(),
    }
    updates = {
        "w": jnp.full(3, 1e-4),
        "wide": jnp.full(3, 1e-9),
        "n": jnp.zeros(3, jnp.int32),
        "none": None,
        "masked": optax.MaskedNode(),
    }
    for transform in (dx.round_stochastically(), dx.compensate_rounding()):
        state = transform.init(params)
        got, state = jax.jit(transform.update)(updates, state, params)
        assert jax.tree.structure(got) == jax.tree.structure(updates)
        for leaf in ("wide", "n"):
            np.testing.assert_array_equal(got[leaf], updates[leaf])
            assert got[leaf].dtype == updates[leaf].dtype
    assert not np.any(state.residual["wide"])
    assert np.any(state.residual["w"])


@pytest.mark.parametrize("method", METHODS)
def test_float32_parameters_get_the_optimizers_updates_to_the_bit(method):
    params, plain = example("float32"), optax.adamw(1e-3, weight_decay=0.1)
    expected, _ = run(plain, params, 20, noise=1.0)
    got, _ = run(METHODS[method](plain), params, 20, noise=1.0)
    jax.tree.map(np.testing.assert_array_equal, got, expected)


def test_the_same_seed_is_the_same_run_and_another_is_not():
    params, plain = example("bfloat16"), optax.adamw(1e-3)
    first, again, other = (
        run(dx.with_stochastic_rounding(plain, seed=seed), params, 20, noise=1.0)[0]
        for seed in (0, 0, 1)
    )
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert np.any(as_float64(first["kernel"]) != as_float64(other["kernel"]))


def test_equal_leaves_have_different_bits():
    params = {"a": jnp.ones(1000, jnp.bfloat16), "b": jnp.ones(1000, jnp.bfloat16)}
    transform = dx.round_stochastically()
    steps = jax.tree.map(lambda p: jnp.full(p.shape, 3e-3), params)
    updates, _ = transform.update(steps, transform.init(params), params)
    assert np.mean(updates["a"] != updates["b"]) > 0.3


def test_masking_a_leaf_does_not_change_the_bits_of_another():
    transform = dx.round_stochastically()

    def update(params):
        steps = jax.tree.map(lambda p: jnp.full(p.shape, 3e-3), params)
        return transform.update(steps, transform.init(params), params)[0]["b"]

    leaf = jnp.ones(1000, jnp.bfloat16)
    masked = update({"a": optax.MaskedNode(), "b": leaf})
    np.testing.assert_array_equal(masked, update({"a": leaf, "b": leaf}))


def test_a_checkpoint_resumes_the_run():
    params = example("bfloat16")
    optimizer = dx.with_stochastic_rounding(optax.sgd(1e-3))
    update = jax.jit(optimizer.update)

    def go(params, state, steps):
        for _ in range(steps):
            updates, state = update(params, state, params)
            params = optax.apply_updates(params, updates)
        return params, state

    whole, _ = go(params, optimizer.init(params), 6)
    half = go(params, optimizer.init(params), 3)
    stored = jax.tree.map(np.asarray, half)
    resumed, _ = go(*jax.tree.map(jnp.asarray, stored), 3)
    jax.tree.map(np.testing.assert_array_equal, whole, resumed)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_the_sharding_does_not_change_the_result(method):
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))
    optimizer = METHODS[method](dx.sgdw(1e-2, weight_decay=0.1))
    params = {"w": example("bfloat16")["kernel"]}
    update = jax.jit(optimizer.update)
    results = []
    for spec in (None, PartitionSpec("data"), PartitionSpec(None, "data")):
        placed = params
        if spec is not None:
            placed = jax.device_put(params, NamedSharding(mesh, spec))
        state = jax.jit(optimizer.init)(placed)
        for _ in range(3):
            updates, state = update(placed, state, placed)
        if spec is not None:
            sharding = NamedSharding(mesh, spec)
            assert updates["w"].sharding.is_equivalent_to(sharding, 2)
            if method == "compensated":
                residual = state[1].residual["w"]
                assert residual.sharding.is_equivalent_to(sharding, 2)
        results.append(np.asarray(updates["w"]))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_seeds_can_be_mapped():
    params = jnp.ones(1000, jnp.bfloat16)

    def landed(seed):
        transform = dx.round_stochastically(seed=seed)
        steps = jnp.full(1000, -1e-3)
        updates, _ = transform.update(steps, transform.init(params), params)
        return optax.apply_updates(params, updates)

    seeds = jnp.arange(3)
    mapped = jax.vmap(landed)(seeds)
    for index, seed in enumerate(range(3)):
        np.testing.assert_array_equal(mapped[index], landed(seed))
    assert np.any(as_float64(mapped[0]) != as_float64(mapped[1]))


# --- around and inside other things -----------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_float16_without_gradients_stays_finite(method):
    """optax.adamw itself is NaN there: 1e-8 is 0 in float16."""
    params = example("float16")
    plain, _ = run(optax.adamw(1e-3), params, 3)
    assert np.isnan(as_float64(plain["kernel"])).all()
    methodd, _ = run(METHODS[method](optax.adamw(1e-3)), params, 3)
    assert np.isfinite(as_float64(methodd["kernel"])).all()


@pytest.mark.parametrize("method", METHODS)
def test_injected_hyperparameters_keep_their_digits(method):
    """optax.inject_hyperparams stores b2 = 0.999 as 1 for bfloat16 parameters."""
    params = example("bfloat16")
    injected = optax.inject_hyperparams(optax.adamw)(1e-3, b2=0.999, weight_decay=0.1)
    plain, _ = run(injected, params, 3, noise=1.0)
    assert np.isnan(as_float64(plain["kernel"])).any()
    optimizer = METHODS[method](injected)
    methodd, (state, _) = run(optimizer, params, 20, noise=1.0)
    assert methodd["kernel"].dtype == jnp.bfloat16
    assert np.isfinite(as_float64(methodd["kernel"])).all()
    assert state.hyperparams["b2"] == np.float32(0.999)
    constant = METHODS[method](optax.adamw(1e-3, b2=0.999, weight_decay=0.1))
    expected, _ = run(constant, params, 20, noise=1.0)
    same = as_float64(methodd["kernel"]) == as_float64(expected["kernel"])
    assert same.mean() > 0.99


def test_without_rounding_hyperparam_dtype_keeps_them():
    params = example("bfloat16")
    injected = optax.inject_hyperparams(dx.adamw, hyperparam_dtype=jnp.float32)
    after, _ = run(injected(1e-3, b2=0.999), params, 3, noise=1.0)
    assert after["kernel"].dtype == jnp.bfloat16
    assert np.isfinite(as_float64(after["kernel"])).all()


# Each takes a rounding wrapper and the learning rate of two steps without it.
LABELS = {"w": "train", "frozen": "freeze"}
TRAINED = {"w": True, "frozen": False}
FROZEN = {"w": False, "frozen": True}


def adamw(rate):
    return optax.adamw(rate, weight_decay=0.1)


PLACES = {
    "partition": lambda wrap, rate: optax.partition(
        {"train": wrap(adamw(rate)), "freeze": optax.set_to_zero()}, LABELS
    ),
    "partition of an injected optimizer": lambda wrap, rate: optax.partition(
        {
            "train": wrap(optax.inject_hyperparams(adamw)(rate)),
            "freeze": optax.set_to_zero(),
        },
        LABELS,
    ),
    "masked": lambda wrap, rate: optax.chain(
        optax.masked(wrap(adamw(rate)), TRAINED),
        optax.masked(optax.set_to_zero(), FROZEN),
    ),
    "MultiSteps of 1": lambda wrap, rate: optax.MultiSteps(wrap(adamw(rate)), 1),
    "MultiSteps of 2": lambda wrap, rate: optax.MultiSteps(wrap(adamw(2 * rate)), 2),
    "MultiSteps that skips": lambda wrap, rate: optax.MultiSteps(
        wrap(adamw(rate)), 1, should_skip_update_fn=optax.skip_not_finite
    ),
    "MultiSteps in partition": lambda wrap, rate: optax.partition(
        {
            "train": optax.MultiSteps(
                wrap(adamw(2 * rate)), 2
            ).gradient_transformation(),
            "freeze": optax.set_to_zero(),
        },
        LABELS,
    ),
    "inject_hyperparams": lambda wrap, rate: optax.inject_hyperparams(
        lambda learning_rate: wrap(adamw(learning_rate))
    )(rate),
    "after clipping": lambda wrap, rate: optax.chain(
        optax.clip_by_global_norm(1.0), wrap(adamw(rate))
    ),
    "named_chain": lambda wrap, rate: optax.named_chain(
        ("clip", optax.clip(1.0)), ("adamw", wrap(adamw(rate)))
    ),
    "flatten": lambda wrap, rate: optax.flatten(wrap(adamw(rate))),
    "track_decay": lambda wrap, rate: dx.track_decay(wrap(adamw(rate))),
    # The rounding outside:
    "around apply_if_finite": lambda wrap, rate: wrap(
        optax.apply_if_finite(adamw(rate), 3)
    ),
    "around MultiSteps": lambda wrap, rate: wrap(optax.MultiSteps(adamw(2 * rate), 2)),
    "around masked": lambda wrap, rate: wrap(optax.masked(adamw(rate), TRAINED)),
    "around track_decay": lambda wrap, rate: wrap(dx.track_decay(adamw(rate))),
    "around with_decay": lambda wrap, rate: wrap(
        dx.with_decay(optax.adam(rate), 0.1, learning_rate=rate)
    ),
    "around with_state_dtype": lambda wrap, rate: wrap(
        dx.with_state_dtype(adamw(rate), jnp.bfloat16)
    ),
}
FREEZES = ("partition", "masked", "MultiSteps in")


def two_leaves(dtype=jnp.bfloat16):
    return {"w": jnp.ones(4096, dtype), "frozen": jnp.ones(1000, dtype)}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("method", METHODS)
def test_the_decay_arrives_in_every_place(method, place):
    """200 steps of AdamW without gradient: (1 - γλ)^200, to an ulp of bfloat16."""
    inside = "MultiSteps" in place and "around" not in place
    if inside and optax.__version__ == "0.2.5":
        pytest.skip("it accumulates in float32, so the state changes its dtype")
    optimizer, params = PLACES[place](METHODS[method], 0.01), two_leaves()
    zeros = jax.tree.map(jnp.zeros_like, params)

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(zeros, state, params)
        return (dx.apply_updates(params, updates), state), None

    start = params, optimizer.init(params)
    (after, _), _ = jax.jit(lambda start: jax.lax.scan(step, start, length=200))(start)
    exact = (1 - 0.01 * 0.1) ** 200
    assert after["w"].dtype == jnp.bfloat16
    assert as_float64(after["w"]).mean() == pytest.approx(exact, abs=2.0**-8)
    if place.startswith(FREEZES):
        np.testing.assert_array_equal(after["frozen"], params["frozen"])


@pytest.mark.parametrize("place", [name for name in PLACES if name.startswith(FREEZES)])
def test_frozen_weights_need_no_state(place):
    def nbytes(wrap):
        state = PLACES[place](wrap, 0.01).init(two_leaves())
        return sum(leaf.nbytes for leaf in jax.tree.leaves(state))

    in_float32 = PLACES[place](lambda optimizer: optimizer, 0.01)
    trained = {"w": jnp.ones(4096), "frozen": jnp.ones(1000, jnp.bfloat16)}
    plain = sum(x.nbytes for x in jax.tree.leaves(in_float32.init(trained)))
    assert nbytes(METHODS["compensated"]) == plain + 2 * 4096
    assert nbytes(METHODS["stochastic"]) == plain + 4 + 8  # counter and key


@pytest.mark.parametrize(
    "around",
    [
        lambda inner: optax.apply_if_finite(inner, 3),
        lambda inner: optax.conditionally_transform(inner, lambda step: step > 0),
        lambda inner: optax.conditionally_mask(inner, lambda step: step > 0),
    ],
    ids=["apply_if_finite", "conditionally_transform", "conditionally_mask"],
)
@pytest.mark.parametrize("method", METHODS)
def test_wrappers_that_compare_dtypes_go_inside(method, around):
    """docs/howto/bf16.md quotes JAX's error."""
    params = two_leaves()
    outside = around(METHODS[method](adamw(1e-3)))
    # The second text is that of jax 0.5.
    same = "cond branches must have equal output types|must have identical types"
    text = rf"(?s)({same}).*bfloat16"
    with pytest.raises(TypeError, match=text):
        outside.update(params, outside.init(params), params)
    inside = METHODS[method](around(adamw(1e-3)))
    updates, _ = inside.update(params, inside.init(params), params)
    assert dx.apply_updates(params, updates)["w"].dtype == jnp.bfloat16


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "inner",
    [
        lambda wrap: wrap(adamw(1e-3)),
        lambda wrap: optax.chain(optax.clip(1.0), wrap(adamw(1e-3))),
        lambda wrap: optax.masked(wrap(adamw(1e-3)), TRAINED),
        lambda wrap: optax.MultiSteps(wrap(adamw(1e-3)), 2),
        lambda wrap: dx.track_decay(wrap(adamw(1e-3))),
    ],
)
def test_a_rounding_wrapper_inside_with_state_dtype_is_refused(method, inner):
    narrow = dx.with_state_dtype(inner(METHODS[method]), jnp.bfloat16)
    text = r"^with_state_dtype: the optimizer inside rounds .*Exchange the two wrappers"
    with pytest.raises(TypeError, match=text):
        narrow.init(two_leaves())


# --- wider parameters -------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("method", METHODS)
def test_wider_parameters_get_the_optimizers_own_updates(method, dtype, x64):
    rng = np.random.default_rng(0)
    params = {
        "wide": jnp.asarray(rng.standard_normal(50), dtype),
        "narrow": jnp.asarray(rng.standard_normal(50), jnp.bfloat16),
    }
    grads = jax.tree.map(lambda p: 0.1 * jnp.roll(p, 1), params)
    if dtype.startswith("complex"):
        grads["wide"] *= 1j
    plain = dx.sgdw(1e-3, momentum=0.9, weight_decay=0.1)
    rounding = METHODS[method](plain)
    expected_state, state = plain.init(params), rounding.init(params)
    for _ in range(3):
        expected, expected_state = plain.update(grads, expected_state, params)
        updates, state = rounding.update(grads, state, params)
    np.testing.assert_array_equal(updates["wide"], expected["wide"])
    assert updates["wide"].dtype == dtype
    assert updates["narrow"].dtype == jnp.float32
    landed = dx.apply_updates(params, updates)
    assert landed["wide"].dtype == dtype
    exact = as_float64(params["narrow"]) + as_float64(expected["narrow"])
    assert np.abs(as_float64(landed["narrow"]) - exact).max() < 2.0**-6


def add(params, updates):
    return jax.tree.map(lambda p, u: p + u, params, updates)


def widened(dtype, *names):
    def widen(params: Any, updates):
        params = dx.apply_updates(params, updates)
        cast = {name: params[name].astype(dtype) for name in names or params}
        return params | cast

    return widen


# How 16-bit parameters become wide, and the first of them.
WAYS = {
    "p + u": (add, "a"),
    "equinox": (
        lambda *trees: pytest.importorskip("equinox").apply_updates(*trees),
        "a",
    ),
    "one leaf": (widened("float32", "b"), "b"),
    "another leaf": (widened("float32", "c"), "c"),
    "numpy": (lambda p, u: jax.tree.map(lambda x: np.array(x, np.float32), p), "a"),
    "shapes": (
        lambda p, u: jax.eval_shape(lambda: add(p, u)),
        "a",
    ),
}
PLACES_OF_16_BITS = {
    "alone": lambda wrap: wrap(optax.sgd(1e-3)),
    "in a chain": lambda wrap: optax.chain(optax.clip(1.0), wrap(optax.sgd(1e-3))),
    "in partition": lambda wrap: optax.partition(
        {"x": wrap(optax.sgd(1e-3)), "y": optax.sgd(1e-3)},
        {"a": "x", "b": "x", "c": "x", "wide": "y", "n": "y"},
    ),
    "in masked": lambda wrap: optax.masked(
        wrap(optax.sgd(1e-3)), {"a": True, "b": True, "c": True, "wide": 0, "n": 0}
    ),
    "in MultiSteps": lambda wrap: optax.MultiSteps(wrap(optax.sgd(1e-3)), 1),
    "around MultiSteps": lambda wrap: wrap(optax.MultiSteps(optax.sgd(1e-3), 1)),
}


def mixed_parameters():
    return {
        "a": jnp.ones(3, jnp.bfloat16),
        "b": jnp.ones((), jnp.float16),
        "c": jnp.ones((2, 1), jnp.bfloat16),
        "wide": jnp.ones(2),
        "n": None,
    }


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("place", PLACES_OF_16_BITS)
@pytest.mark.parametrize("method", METHODS)
def test_16_bit_parameters_that_come_back_wide_are_noticed(method, place, way):
    optimizer, params = PLACES_OF_16_BITS[place](METHODS[method]), mixed_parameters()
    updates, state = optimizer.update(params, optimizer.init(params), params)
    landed = dx.apply_updates(params, updates)
    optimizer.update(landed, state, landed)  # that is right
    widen, name = WAYS[way]
    wide = widen(params, updates)
    text = rf"the parameter {name} had 16 bits at init .*dx.apply_updates\(params, upd"
    with pytest.raises(TypeError, match=text):  # while it is traced
        jax.eval_shape(lambda params: optimizer.update(params, state, params), wide)


@pytest.mark.parametrize("method", METHODS)
def test_a_whole_equinox_model_that_comes_back_wide_is_noticed(method):
    eqx = pytest.importorskip("equinox")
    model = eqx.nn.MLP(2, 2, 3, 1, key=jax.random.key(0), dtype=jnp.bfloat16)
    optimizer = METHODS[method](optax.sgd(1e-3))
    params = eqx.filter(model, eqx.is_inexact_array)
    updates, state = optimizer.update(params, optimizer.init(params), params)
    wide = eqx.filter(eqx.apply_updates(model, updates), eqx.is_inexact_array)
    with pytest.raises(TypeError, match=r"the parameter layers/0/weight had 16 bits"):
        optimizer.update(wide, state, wide)


@pytest.mark.parametrize("method", METHODS)
def test_a_whole_equinox_model_is_not_a_tree_of_parameters(method):
    eqx = pytest.importorskip("equinox")
    model = eqx.nn.MLP(2, 2, 3, 1, key=jax.random.key(0), dtype=jnp.bfloat16)
    with pytest.raises(TypeError, match=r"pass eqx.filter\(model, eqx.is_inexact"):
        METHODS[method](optax.sgd(1e-3)).init(model)


@pytest.mark.parametrize("method", METHODS)
def test_a_restored_state_notices_them_too(method):
    params = mixed_parameters()
    optimizer = METHODS[method](optax.sgd(1e-3))
    state = pickle.loads(pickle.dumps(optimizer.init(params)))
    wide = widened("float32", "b")(params, params)
    with pytest.raises(TypeError, match=r"the parameter b had 16 bits at init"):
        optimizer.update(wide, state, wide)


@pytest.mark.parametrize("method", METHODS)
def test_float32_at_init_may_stay_float32(method):
    eqx = pytest.importorskip("equinox")
    params = jax.tree.map(lambda x: x.astype(jnp.float32), mixed_parameters())
    optimizer = METHODS[method](optax.sgd(1e-3))
    updates, state = optimizer.update(params, optimizer.init(params), params)
    optimizer.update(params, state, eqx.apply_updates(params, updates))


@pytest.mark.parametrize("method", METHODS)
def test_the_shardings_of_mixed_parameters_fit_the_state(method):
    """optax.tree.map_params with a spec for each parameter, as FSDP programs do."""
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))
    params = {"w": jnp.ones((4, 2), jnp.bfloat16), "norm": jnp.ones(4)}
    specs = {"w": PartitionSpec("data", None), "norm": PartitionSpec("data")}
    optimizer = METHODS[method](dx.sgdw(1e-3, momentum=0.9))
    state_specs = optax.tree_utils.tree_map_params(
        optimizer,
        lambda _, spec: spec,
        optimizer.init(params),
        specs,
        transform_non_params=lambda _: PartitionSpec(),
    )
    placed = jax.tree.map(
        lambda spec: NamedSharding(mesh, spec),
        state_specs,
        is_leaf=lambda x: isinstance(x, PartitionSpec),
    )
    state = jax.jit(optimizer.init, out_shardings=placed)(params)
    assert jax.tree.structure(state) == jax.tree.structure(optimizer.init(params))
    if method == "compensated":
        expected = NamedSharding(mesh, specs["w"])
        assert state[1].residual["w"].sharding.is_equivalent_to(expected, 2)


@pytest.mark.parametrize("method", METHODS)
def test_a_skipped_step_changes_no_weight(method):
    params = example("bfloat16")
    optimizer = METHODS[method](optax.apply_if_finite(optax.adamw(1e-3), 3))
    grads = jax.tree.map(lambda p: jnp.full_like(p, jnp.nan), params)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    after = optax.apply_updates(params, updates)
    jax.tree.map(np.testing.assert_array_equal, after, params)


def test_groups_may_have_different_methods():
    params = example("bfloat16")
    optimizer = optax.partition(
        {
            "one": dx.with_compensation(optax.sgd(1e-3)),
            "other": dx.with_stochastic_rounding(optax.sgd(1e-3)),
        },
        {"kernel": "one", "bias": "other"},
    )
    after, _ = run(optimizer, params, 5, noise=1.0)
    assert after["kernel"].dtype == after["bias"].dtype == jnp.bfloat16


def test_moments_in_sixteen_bits_keep_moving():
    """With round-to-nearest, v = 0.999 v would not change in bfloat16."""
    dtype = jnp.bfloat16
    adam = optax.scale_by_adam(b2=0.999)
    narrow = dx.with_state_dtype(adam, dtype)
    params = jnp.ones(10_000)
    state = narrow.init(params)
    assert state.inner.nu.dtype == dtype
    _, state = narrow.update(30.0 * params, state, params)
    before = as_float64(state.inner.nu).mean()
    update = jax.jit(narrow.update)
    for _ in range(100):
        _, state = update(0.0 * params, state, params)
    assert state.inner.nu.dtype == dtype
    assert as_float64(state.inner.nu).mean() / before == pytest.approx(
        0.999**100, rel=2e-3
    )


def test_equal_moments_have_different_bits_and_scalars_are_not_rounded():
    injected = optax.inject_hyperparams(optax.sgd)(1e-3, momentum=0.9)
    narrow = dx.with_state_dtype(injected, jnp.bfloat16)
    params = {"a": jnp.ones(1000), "b": jnp.ones(1000)}
    grads = jax.tree.map(lambda p: 1.003 * p, params)
    _, state = narrow.update(grads, narrow.init(params), params)
    first, second = (x for x in jax.tree.leaves(state.inner) if x.dtype == jnp.bfloat16)
    assert np.mean(first != second) > 0.3
    assert state.inner.hyperparams["momentum"] == np.float32(0.9)


def test_steps_below_the_digits_of_float32_add_up():
    """In float16 the residual holds what float32 cuts off the sum."""
    params = jnp.full(1, 1.5, jnp.float16)
    transform = dx.compensate_rounding()
    state, update = transform.init(params), jax.jit(transform.update)
    step = jnp.full(1, 1.5 * 2.0**-25, jnp.float32)
    for _ in range(1000):
        updates, state = update(step, state, params)
        params = optax.apply_updates(params, updates)
    moved = as_float64(params) - 1.5 + np.asarray(state.residual, float) * 2.0**-26
    np.testing.assert_allclose(moved, 1000 * 1.5 * 2.0**-25, rtol=0.4)


def test_moments_and_weights_in_sixteen_bits():
    params = example("bfloat16", 2**16)
    inside = dx.with_state_dtype(optax.adamw(1e-3, weight_decay=0.1), "bfloat16")
    optimizer = dx.with_compensation(inside)
    after, state = run(optimizer, params, 100, noise=1.0)
    held = sum(x.nbytes for x in jax.tree.leaves(state)) / (2**16 + 64)
    assert held == pytest.approx(6.0, rel=1e-3)  # two moments and the residual
    assert np.isfinite(as_float64(after["kernel"])).all()


@pytest.mark.slow
@pytest.mark.parametrize("size", [1e-2, 1e-3, 1e-4, 1e-5])
def test_moments_in_sixteen_bits_take_steps_of_the_same_size(size):
    params = jnp.ones(4096)
    adam = dx.with_state_dtype(optax.adam(1e-3), jnp.bfloat16)
    update, state, largest = jax.jit(adam.update), adam.init(params), 0.0
    for step in range(30):
        key = jax.random.fold_in(jax.random.key(5), step)
        grads = size * jax.random.normal(key, params.shape)
        updates, state = update(grads, state, params)
        largest = max(largest, float(jnp.abs(updates).max()))
    assert largest < 1.5e-3


@pytest.mark.parametrize("method", METHODS)
def test_the_state_may_be_donated_and_is_traced_once(method):
    """Two optimizers in one partition too: no two states share an array."""
    params = example("bfloat16")
    optimizer = METHODS[method](dx.with_state_dtype(dx.adamw(1e-3), jnp.bfloat16))
    step = jax.jit(optimizer.update, donate_argnums=1)
    for _ in range(2):
        state = optimizer.init(params)
        for _ in range(3):
            _, state = step(params, state, params)
    assert step._cache_size() == 1
    both = optax.partition(
        {"a": optimizer, "b": optimizer}, {"kernel": "a", "bias": "b"}
    )
    _, state = jax.jit(both.update, donate_argnums=1)(params, both.init(params), params)
    assert np.isfinite(jax.tree.leaves(state)[0]).all()


def test_making_an_optimizer_starts_no_backend():
    script = (
        "import jax, optax, decayax as dx; "
        "adam = dx.with_state_dtype(optax.adam(1e-3), 'bfloat16'); "
        "dx.with_stochastic_rounding(adam); "
        "from jax._src import xla_bridge; assert not xla_bridge._backends"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("method", METHODS)
def test_the_derivative_is_that_of_the_step(method):
    weight = jnp.full(8, 1.01, jnp.bfloat16)

    def loss(rate):
        optimizer = METHODS[method](optax.sgd(rate))
        updates, _ = optimizer.update(weight, optimizer.init(weight), weight)
        return optax.apply_updates(weight, updates).astype(jnp.float32).sum()

    expected = -float(weight.astype(jnp.float32).sum())
    assert jax.grad(loss)(0.1) == pytest.approx(expected, rel=1e-2)


def test_replicas_need_different_seeds():
    params = jnp.ones((2, 1000), jnp.bfloat16)

    def updates(seed, params):
        optimizer = dx.with_stochastic_rounding(optax.sgd(1e-3), seed=seed)
        return optimizer.update(params, optimizer.init(params), params)[0]

    same = jax.jit(jax.vmap(lambda p: updates(0, p)))(params)
    np.testing.assert_array_equal(same[0], same[1])
    other = jax.jit(jax.vmap(updates))(jnp.arange(2), params)
    assert np.mean(other[0] != other[1]) > 0.1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "transform", [dx.round_stochastically(), dx.compensate_rounding()]
)
def test_minus_zero_stays(dtype, transform):
    params = jnp.array([-0.0, 0.0], dtype)
    updates, _ = transform.update(
        jnp.array([-0.0, 0.0]), transform.init(params), params
    )
    after = optax.apply_updates(params, updates)
    np.testing.assert_array_equal(jnp.signbit(after), [True, False])


def test_half_an_ulp_fits_into_a_residual():
    params = jnp.array([1.0078125, 1.0], jnp.bfloat16)
    transform = dx.compensate_rounding()
    steps = jnp.array([2.0**-8, 2.0**-8])
    updates, state = transform.update(steps, transform.init(params), params)
    after = optax.apply_updates(params, updates)
    np.testing.assert_array_equal(as_float64(after), [1.015625, 1.0])  # ties to even
    np.testing.assert_array_equal(state.residual, [-32767, 32767])


# --- errors -----------------------------------------------------------------------


WRAPPERS = {
    "with_stochastic_rounding": dx.with_stochastic_rounding,
    "with_compensation": dx.with_compensation,
    "with_state_dtype": lambda inner: dx.with_state_dtype(inner, jnp.bfloat16),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_an_optimizer_must_be_finished(name):
    for wrong in (optax.adamw, 1e-3, None, optax.GradientTransformation):
        with pytest.raises(
            TypeError, match=rf"^{name}: optimizer must be an optax.Gradient"
        ):
            WRAPPERS[name](wrong)


@pytest.mark.parametrize(
    "dtype",
    [
        jnp.float8_e4m3fn,
        jnp.float8_e5m2,
        jnp.float8_e4m3b11fnuz,
        jnp.float8_e4m3fnuz,
        jnp.float8_e5m2fnuz,
    ],
)
@pytest.mark.parametrize("name", ["round_stochastically", "compensate_rounding"])
def test_8_bit_parameters_are_refused(name, dtype):
    transform = getattr(dx, name)()
    params = {"w": jnp.ones(2, dtype)}
    text = rf"^{name}: the parameter w has dtype .*; it rounds to bfloat16 and float16"
    with pytest.raises(TypeError, match=text):
        transform.init(params)
    with pytest.raises(TypeError, match=text):
        transform.update(params, transform.init({"w": jnp.ones(2)}), params)


@pytest.mark.parametrize("seed", [0.5, "one", None, True, jnp.ones(2, jnp.int32)])
def test_a_seed_is_an_integer(seed):
    with pytest.raises(
        TypeError, match=r"^round_stochastically: seed must be an integer"
    ):
        dx.round_stochastically(seed=seed)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_has_64_bits(seed):
    with pytest.raises(ValueError, match=r"^with_stochastic_rounding: seed must be in"):
        dx.with_stochastic_rounding(optax.sgd(1e-3), seed=seed)


def test_the_state_must_be_that_of_the_parameters():
    transform = dx.compensate_rounding()
    params = {"w": jnp.ones(3, jnp.bfloat16)}
    for other in ({"w": jnp.ones(1)}, {"v": jnp.ones(3)}):
        with pytest.raises(
            ValueError, match=r"^compensate_rounding: the state has no r"
        ):
            transform.update(params, transform.init(other), params)


@pytest.mark.parametrize("name", ["with_stochastic_rounding", "with_compensation"])
def test_errors_name_the_wrapper(name):
    optimizer = getattr(dx, name)(optax.sgd(1e-3))
    with pytest.raises(TypeError, match=rf"^{name}: the parameter w has dtype float8"):
        optimizer.init({"w": jnp.ones(2, jnp.float8_e5m2)})
    params = {"w": jnp.ones(2, jnp.bfloat16)}
    with pytest.raises(ValueError, match=rf"^{name}: needs the parameters"):
        optimizer.update(params, optimizer.init(params))


@pytest.mark.parametrize(
    "dtype", [jnp.float32, jnp.float16, "int16", 3, None, jnp.float8_e4m3fn]
)
def test_a_state_dtype_is_bfloat16(dtype):
    with pytest.raises(
        TypeError, match=r"^with_state_dtype: dtype must be jnp.bfloat1"
    ):
        dx.with_state_dtype(optax.adamw(1e-3), dtype)


@pytest.mark.parametrize("name", ["round_stochastically", "compensate_rounding"])
def test_parameters_must_come_along(name):
    transform = getattr(dx, name)()
    params = {"w": jnp.ones(2, jnp.bfloat16)}
    state = transform.init(params)
    with pytest.raises(
        ValueError, match=rf"^{name}: needs the parameters, got params="
    ):
        transform.update(params, state)
    with pytest.raises(ValueError, match=rf"^{name}: the update of w has shape"):
        transform.update({"w": jnp.ones(3)}, state, params)


@pytest.mark.parametrize("hyper", ["b1", "b2", "eps", "learning_rate"])
def test_the_derivative_through_stored_moments_is_that_of_exact_ones(hyper):
    usual = {"learning_rate": 0.1, "b1": 0.9, "b2": 0.9, "eps": 0.1}
    grads = jnp.array([[1.0, 2.0, -3.0, 0.5]]) * jnp.arange(1.0, 4.0)[:, None]

    def final(value, wrap):
        optimizer = wrap(dx.adamw(**usual | {hyper: value}))
        params, state = jnp.ones(4), None
        state = optimizer.init(params)
        for grad in grads:
            updates, state = optimizer.update(grad, state, params)
            params = optax.apply_updates(params, updates)
        return jnp.sum(params)

    exact, stored = (
        jax.grad(final)(usual[hyper], wrap)
        for wrap in (lambda o: o, lambda o: dx.with_state_dtype(o, jnp.bfloat16))
    )
    assert exact != 0
    assert float(stored) == pytest.approx(float(exact), rel=0.1)
