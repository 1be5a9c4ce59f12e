"""Trajectories equal the independent NumPy float64 reference, leaf by leaf."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from catalogue import parametrize, Row, ROWS
from conftest import enable_x64


STEPS = 30
MULTIPLIERS = {"kernel": 1.0, "bias": 0.0, "scale": 0.25}
SHAPES = {"kernel": (4, 3), "bias": (3,), "scale": ()}


def problem(dtype):
    """Start values and gradients whose scales spread over four decades."""
    rng = np.random.default_rng(0)

    def draw(*shape):
        values = rng.standard_normal(shape)
        if np.issubdtype(dtype, np.complexfloating):
            values = values + 1j * rng.standard_normal(shape)
        return values.astype(dtype)

    params = {key: draw(*shape) for key, shape in SHAPES.items()}
    spread = {key: 10.0 ** rng.uniform(-2, 2, shape) for key, shape in SHAPES.items()}
    grads = {
        key: (draw(STEPS, *shape) * spread[key]).astype(dtype)
        for key, shape in SHAPES.items()
    }
    return params, grads


def run(optimizer, params, grads):
    """Every parameter value on the way, [STEPS + 1, ...] per leaf."""

    def step(carry, grad):
        params, state = carry
        updates, state = optimizer.update(grad, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    params = jax.tree.map(jnp.asarray, params)
    carry = (params, optimizer.init(params))
    _, path = jax.jit(lambda carry: jax.lax.scan(step, carry, grads))(carry)
    return jax.tree.map(
        lambda start, rest: np.concatenate([start[None], rest]), params, path
    )


def learning_rate(step):
    return 0.01 * (1.0 - jnp.asarray(step, jnp.result_type(float)) / 40.0)


def weight_decay(step):
    return 0.3 / (1.0 + jnp.asarray(step, jnp.result_type(float)) / 10.0)


CONSTANTS = (0.01, 0.3)
SCHEDULES = (learning_rate, weight_decay)
# float64 finds wrong formulas; the other dtypes run with schedules, which contain more.
CASES = [
    pytest.param(np.float64, CONSTANTS, id="float64-constants"),
    pytest.param(np.float64, SCHEDULES, id="float64-schedules"),
    pytest.param(np.float32, SCHEDULES, id="float32-schedules"),
    pytest.param(np.complex128, SCHEDULES, id="complex128-schedules"),
]
REAL_ONLY = "refuses complex leaves; see test_errors.py and test_rounding.py"


@pytest.mark.parametrize(("dtype", "case"), CASES)
@parametrize()
def test_equals_the_reference(row: Row, dtype, case):
    rate, strength = case
    if callable(strength) and not row.schedules:
        strength = 0.3
    is_complex = np.issubdtype(dtype, np.complexfloating)
    if is_complex and (row.name == "l2_penalty" or row.emits_float32 or row.real):
        pytest.skip(REAL_ONLY)
    if dtype == np.float32 and row.rounds_state:
        pytest.skip("float32 moments are rounded to 16 bits; see test_rounding.py")
    params, grads = problem(dtype)
    with enable_x64():
        got = run(row.optimizer(rate, strength, MULTIPLIERS), params, grads)
        expected = {
            key: row.reference(
                params[key],
                grads[key],
                learning_rate=rate,
                weight_decay=strength,
                multiplier=MULTIPLIERS[key],
            )
            for key in params
        }
    for key, path in got.items():
        assert path.dtype == dtype
        # float32: 30 steps of rounding, and optax's own 1 - β₂ᵗ in float32.
        rtol, atol = (1e-4, 1e-5) if dtype == np.float32 else (1e-11, 1e-13)
        np.testing.assert_allclose(path, expected[key], rtol=rtol, atol=atol)


@parametrize([row for row in ROWS if row.decays])
def test_the_reference_changes_with_the_strength(row: Row):
    """The tolerance above would find a decay of half the strength, or none."""
    params, grads = problem(np.float64)
    paths = [
        row.reference(
            params["kernel"], grads["kernel"], learning_rate=0.01, weight_decay=strength
        )
        for strength in (0.0, 0.15, 0.3)
    ]
    gap = np.min(np.abs(np.diff([path[-1] for path in paths], axis=0)).max(axis=(1, 2)))
    assert gap > 1e-3
