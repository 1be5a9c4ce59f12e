"""Wrapped optimizers see 16-bit leaves as float32, and the dtypes outside stay.

In float16 Adam's ε = 1e-8 is 0, so that 0/(√0 + ε) is NaN; in bfloat16 β₂ = 0.999 is 1.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_with_decay import alias, WITHOUT_DECAY

import decayax as dx


RATE, STRENGTH = 2.0**-7, 0.25  # powers of two: exact in 16 bits
DTYPES = [jnp.float16, jnp.bfloat16]
ADAPTIVE = [
    "adam",
    "nadam",
    "amsgrad",
    "adabelief",
    "radam",
    "rmsprop",
    "adamax",
]
WRAPPERS = {
    "with_decay": functools.partial(
        dx.with_decay, weight_decay=STRENGTH, learning_rate=RATE
    ),
    "with_state_dtype": functools.partial(dx.with_state_dtype, dtype=jnp.bfloat16),
    "with_stochastic_rounding": dx.with_stochastic_rounding,
    "with_compensation": dx.with_compensation,
    "with_decay(with_state_dtype)": lambda optimizer: dx.with_decay(
        dx.with_state_dtype(optimizer, jnp.bfloat16), STRENGTH, learning_rate=RATE
    ),
}


def one_leaf(dtype, value=1.0):
    return {"w": jnp.full(3, value, dtype)}


def run(optimizer, params, grads, steps=5):
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for _ in range(steps):
        updates, state = update(grads, state, params)
    return updates, state


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("name", ADAPTIVE)
def test_a_zero_gradient_is_a_zero_step(name, wrapper, dtype):
    params = one_leaf(dtype)
    optimizer = WRAPPERS[wrapper](alias(name, RATE))
    updates, _ = run(optimizer, params, one_leaf(dtype, 0.0))
    expected = -RATE * STRENGTH if wrapper.startswith("with_decay") else 0.0
    np.testing.assert_array_equal(updates["w"].astype(jnp.float32), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", WITHOUT_DECAY)
def test_with_decay_calculates_in_float32(name, dtype):
    """The first step is that of float32 weights, rounded once."""
    wide = dx.with_decay(alias(name, RATE), STRENGTH, learning_rate=RATE)
    (expected, _), (got, state) = (
        run(wide, one_leaf(d), one_leaf(d, 0.5), steps=1) for d in (jnp.float32, dtype)
    )
    np.testing.assert_array_equal(got["w"], expected["w"].astype(dtype))
    assert [x.dtype for x in jax.tree.leaves(state[0])] == [
        x.dtype for x in jax.tree.leaves(alias(name, RATE).init(one_leaf(dtype)))
    ]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("wrapper", ["with_decay", "with_state_dtype"])
@pytest.mark.parametrize("name", ["adam", "rmsprop", "momentum", "lion"])
def test_updates_have_the_dtype_of_the_gradients_inside_a_condition(
    name, wrapper, dtype
):
    inner = optax.sgd(RATE, 0.9) if name == "momentum" else alias(name, RATE)
    optimizer = optax.apply_if_finite(WRAPPERS[wrapper](inner), 3)
    updates, _ = run(optimizer, one_leaf(dtype), one_leaf(dtype, 0.5))
    assert updates["w"].dtype == dtype


@pytest.mark.parametrize("grads", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("params", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("wrapper", ["with_decay", "with_state_dtype"])
def test_mixed_dtypes_stay(wrapper, params, grads):
    optimizer = WRAPPERS[wrapper](optax.adam(RATE))
    state = optimizer.init(one_leaf(params))
    updates, new = optimizer.update(one_leaf(grads, 0.5), state, one_leaf(params))
    assert updates["w"].dtype == grads
    dtypes = [[x.dtype for x in jax.tree.leaves(tree)] for tree in (state, new)]
    assert dtypes[0] == dtypes[1]


def test_a_stored_moment_is_rounded_at_random_inside_another_wrapper():
    """An outer wrapper shows the bfloat16 moments as float32; they stay on the grid."""
    size = 4096
    params = {"w": jnp.ones(size, jnp.bfloat16)}
    grads = {"w": jnp.full(size, 1.0, jnp.bfloat16)}
    stored = dx.with_state_dtype(optax.adam(RATE, b2=0.999), jnp.bfloat16)
    optimizer = dx.with_decay(stored, STRENGTH, learning_rate=RATE)
    _, state = run(optimizer, params, grads, steps=50)
    nu = state[0].inner[0].nu["w"]
    assert nu.dtype == jnp.bfloat16
    # Round-to-nearest would stop where 0.001 is less than half an ulp.
    expected = 1 - 0.999**50
    assert float(jnp.mean(nu.astype(jnp.float32))) == pytest.approx(expected, rel=0.02)
    assert len(np.unique(nu.astype(jnp.float32))) > 5
