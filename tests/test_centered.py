"""The variance of the gradients keeps its digits next to a large mean."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference

import decayax as dx


STEPS = 300
NOISE = np.random.default_rng(0).standard_normal((STEPS, 8))
OPTIONS = {
    "plain": {},
    "unbiased": {"bias_correction": True, "eps": 1e-3},
    "in the root": {"eps_in_sqrt": True},
    "momentum": {"momentum": 0.9},
}
PAIR = {"rmspropw": dx.rmspropw, "rmsprop_l2": dx.rmsprop_l2}


def run(optimizer, grads):
    def step(carry, grad):
        params, state = carry
        updates, state = optimizer.update(grad, state, params)
        return (optax.apply_updates(params, updates), state), None

    params = jnp.ones(grads.shape[1])
    carry = (params, optimizer.init(params))
    return jax.jit(lambda: jax.lax.scan(step, carry, jnp.asarray(grads))[0])()


@pytest.mark.parametrize("mean", [1e-3, 1.0, 100.0])
@pytest.mark.parametrize("name", PAIR)
@pytest.mark.parametrize("kind", OPTIONS)
def test_noise_next_to_a_large_mean(kind, name, mean):
    """Noise of 10 % to 0.01 % of the mean; optax's difference is NaN or 28 % off."""
    noise = mean * np.logspace(-1, -4, 8)
    grads = np.float32(mean + noise * NOISE)
    rate = 1e-5 * noise[-1] / mean if kind == "in the root" else 1e-4
    options = {"decay": 0.99, "weight_decay": 0.1, "learning_rate": rate}
    options |= OPTIONS[kind]
    make, expected = PAIR[name], getattr(reference, name)
    got, _ = run(make(centered=True, **options), grads)
    want = expected(np.ones(8), grads, centered=True, **options)[-1]
    moved = np.abs(want - 1.0)
    assert np.all(moved > 0)
    error = np.abs(np.asarray(got, float) - want)
    np.testing.assert_array_less(error, 2e-3 * moved + 1e-6)


@pytest.mark.parametrize("value", [1e-3, 1.0, 3.0, 100.0])
@pytest.mark.parametrize("kind", OPTIONS)
def test_constant_gradients_have_no_negative_variance(kind, value):
    """The deviation falls to 0 as β^t, and then only ε is left."""
    options = {"decay": 0.9, "learning_rate": 1e-6, "weight_decay": 0.1}
    grads = np.full((STEPS, 8), value, np.float32)
    for make in PAIR.values():
        params, state = run(make(centered=True, **options | OPTIONS[kind]), grads)
        assert np.isfinite(params).all()
        (stddev,) = (x for x in state if isinstance(x, dx.ScaleByStddevState))
        assert np.all(np.asarray(stddev.variance) >= 0)


def test_the_mean_and_the_variance_are_those_of_the_gradients():
    grads = np.float32(5 + NOISE)
    for unbiased in (False, True):
        optimizer = dx.scale_by_stddev(0.9, bias_correction=unbiased)
        _, state = run(optimizer, grads)
        weights = 0.1 * 0.9 ** np.arange(STEPS)[::-1, None]
        mean = (weights * grads).sum(0)
        variance = (weights * (grads - mean) ** 2).sum(0)
        np.testing.assert_allclose(state.mean, mean, rtol=1e-5)
        np.testing.assert_allclose(state.variance, variance, rtol=1e-5)
