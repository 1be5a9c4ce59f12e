"""Modes of JAX that users turn on: explicit sharding, and errors for NaN."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

import decayax as dx


pytestmark = pytest.mark.relaxed("scale_by_adam")
MASK = dx.masks.no_bias_or_norm
OPTIMIZERS = {
    "adamw": dx.adamw(1e-2, weight_decay=0.1, mask=MASK),
    "rmsprop_l2": dx.rmsprop_l2(1e-2, weight_decay=0.1, mask=MASK),
    "sgdw": dx.sgdw(1e-2, momentum=0.9, weight_decay=0.1, mask=MASK),
    "compensated": dx.with_compensation(dx.adamw(1e-2, weight_decay=0.1)),
}


def tree(dtype) -> dict[str, jax.Array]:
    return {"kernel": jnp.full((4, 2), 0.5, dtype), "bias": jnp.full(4, 0.5, dtype)}


def steps(optimizer, params, number=2):
    grads = jax.tree.map(lambda x: 0.1 * x, params)
    state = jax.jit(optimizer.init)(params)

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(grads, state, params)
        return dx.apply_updates(params, updates), state

    for _ in range(number):
        params, state = step(params, state)
    return params, state


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_explicit_sharding(name):
    """The parameters keep the sharding that is in their types, and their values."""
    dtype = jnp.bfloat16 if name == "compensated" else jnp.float32
    mesh = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Explicit,))
    plain, _ = steps(OPTIMIZERS[name], tree(dtype))
    use_mesh = getattr(jax, "set_mesh", None) or jax.sharding.use_mesh
    with use_mesh(mesh):
        params = jax.device_put(tree(dtype), NamedSharding(mesh, P("x")))
        moved, _ = steps(OPTIMIZERS[name], params)
        for key, array in moved.items():
            assert jax.typeof(array) == jax.typeof(params[key])
            assert "x" in str(jax.typeof(array).sharding.spec)
    for key in plain:
        np.testing.assert_array_equal(np.asarray(moved[key]), np.asarray(plain[key]))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_debug_nans(name):
    """No optimizer passes through a NaN, also where weights and gradients are 0."""
    dtype = jnp.bfloat16 if name == "compensated" else jnp.float32
    params = tree(dtype) | {"zero": jnp.zeros(3, dtype)}
    with jax.debug_nans(True):
        moved, _ = steps(OPTIMIZERS[name], params)
    assert all(bool(jnp.isfinite(x).all()) for x in moved.values())
