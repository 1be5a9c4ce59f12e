"""Parity with PyTorch: 100 steps of each optimizer equal ours, step for step.

The trajectories were recorded with torch 2.13.0 by record_torch.py and are committed;
where torch is installed (`make test-torch`) they are made again and compared live.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import record_torch

import decayax as dx


def ours(optimizer: str, kwargs: dict, rate):
    """The chain with the meaning of torch's arguments."""
    decay = kwargs["weight_decay"]
    if optimizer == "SGD":
        momentum, nesterov = kwargs.get("momentum"), kwargs.get("nesterov", False)
        return dx.sgd_l2(rate, momentum, nesterov, weight_decay=decay)
    if optimizer == "RMSprop":
        return dx.rmsprop_l2(
            rate,
            decay=kwargs["alpha"],
            eps=kwargs["eps"],
            centered=kwargs.get("centered", False),
            momentum=kwargs.get("momentum"),
            weight_decay=decay,
        )
    b1, b2 = kwargs["betas"]
    if b1 == 0.0:  # AdamW(betas=(0, β₂)) is bias-corrected RMSprop with decay
        return optax.chain(
            dx.scale_by_rms(b2, kwargs["eps"], bias_correction=True),
            dx.decoupled_decay(decay),
            optax.scale_by_learning_rate(rate),
        )
    decoupled = optimizer == "AdamW" or kwargs.get("decoupled_weight_decay", False)
    make = dx.adamw if decoupled else dx.adam_l2
    return make(rate, b1, b2, kwargs["eps"], weight_decay=decay)


def compare(case: str, record: dict):
    """Our float64 trajectory along the recorded gradients, and the recorded one."""
    rates = jnp.asarray(record["lr"])
    optimizer = ours(*record_torch.CASES[case], lambda step: rates[step])
    params = {key: jnp.asarray(record[key][0]) for key in ("w", "b")}
    grads = {key: jnp.asarray(record[f"grad_{key}"]) for key in ("w", "b")}

    def step(carry, grad):
        params, state = carry
        updates, state = optimizer.update(grad, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    carry = (params, optimizer.init(params))
    _, path = jax.jit(lambda c, g: jax.lax.scan(step, c, g))(carry, grads)
    for key in ("w", "b"):
        assert path[key].dtype == jnp.float64
        np.testing.assert_allclose(
            path[key], record[key][1:], rtol=1e-11, atol=1e-13, err_msg=f"{case}/{key}"
        )


def recorded(case: str) -> dict:
    with np.load(record_torch.OUTPUT) as file:
        prefix = f"{case}/"
        return {
            key.removeprefix(prefix): file[key]
            for key in file.files
            if key.startswith(prefix)
        }


@pytest.mark.parametrize("case", record_torch.CASES)
def test_equals_the_recorded_trajectory(case, x64):
    compare(case, recorded(case))


@pytest.mark.parametrize("case", record_torch.CASES)
def test_equals_torch_live(case, x64):
    pytest.importorskip("torch", reason="torch is not installed: make test-torch")
    live = record_torch.record(case)
    compare(case, live)
    for key in ("w", "b"):
        np.testing.assert_allclose(live[key], recorded(case)[key], rtol=1e-9)


@pytest.mark.parametrize("case", record_torch.CASES)
def test_the_recording_is_of_the_cases(case):
    optimizer, kwargs = record_torch.CASES[case]
    record = recorded(case)
    assert str(record["optimizer"]) == optimizer
    assert json.loads(str(record["kwargs"])) == json.loads(json.dumps(kwargs))


def test_the_two_decays_differ_in_the_recording():
    l2, decoupled = recorded("adam"), recorded("adam_decoupled")
    assert np.abs(l2["w"] - decoupled["w"]).max() > 0.1
    with np.load(record_torch.OUTPUT) as file:
        assert str(file["torch_version"]).startswith("2.13.0")
