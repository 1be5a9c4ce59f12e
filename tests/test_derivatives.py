"""Derivatives in every hyper-parameter of every optimizer are those of the equations.

jax.grad in float64 is compared with difference quotients of the NumPy reference. One
weight has a gradient in every step, one never has a gradient, and one is 0.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from conftest import enable_x64

import decayax as dx


STEPS = 4
THETA = np.array([1.0, -0.5, 2.0, 0.0])
GRADS = np.random.default_rng(0).standard_normal((STEPS, 4)) * [1.0, 0.0, 0.1, 1.0]
WEIGHTS = np.array([1.0, 2.0, -1.0, 0.5])  # of the final weights in the loss

TYPICAL = {
    "learning_rate": 0.05,
    "weight_decay": 0.3,
    "momentum": 0.8,
    "decay": 0.7,
    "b1": 0.8,
    "b2": 0.9,
    "eps": 0.01,
    "eps_root": 1e-3,
    "initial_scale": 0.5,
}
COMMON = ("learning_rate", "weight_decay")
RMS = (*COMMON, "decay", "eps", "initial_scale", "momentum")
ADAM = (*COMMON, "b1", "b2", "eps", "eps_root")
OPTIMIZERS = {
    "sgd_l2": (*COMMON, "momentum"),
    "sgdw": (*COMMON, "momentum"),
    "rmsprop_l2": RMS,
    "rmspropw": RMS,
    "adam_l2": ADAM,
    "adamw": ADAM,
}
FLAGS = {
    "sgd": ({}, {"nesterov": True}),
    "rms": (
        {},
        {"centered": True},
        {"bias_correction": True},
        {"centered": True, "bias_correction": True},
        {"eps_in_sqrt": True, "nesterov": True},
    ),
    "ada": ({}, {"nesterov": True}),
}
CASES = [
    pytest.param(name, flags, hyper, id="-".join([name, hyper, *flags]))
    for name, hypers in OPTIMIZERS.items()
    for flags in FLAGS[name[:3]]
    for hyper in hypers
]


def settings(name: str, **changed: float) -> dict[str, float]:
    return {hyper: TYPICAL[hyper] for hyper in OPTIMIZERS[name]} | changed


def loss(make, options):
    """A sum of the final weights; every option is traced."""

    def step(carry, grad):
        params, state = carry
        updates, state = optimizer.update(grad, state, params)
        return (optax.apply_updates(params, updates), state), None

    dtype = jnp.result_type(float)
    theta, grads, weights = (jnp.asarray(x, dtype) for x in (THETA, GRADS, WEIGHTS))
    optimizer = make(**options)
    (params, _), _ = jax.lax.scan(step, (theta, optimizer.init(theta)), grads)
    return jnp.sum(weights * params)


@functools.cache
def gradient(name: str, *flags: str):
    """The derivatives in all hyper-parameters, compiled once for all their values."""
    make = functools.partial(getattr(dx, name), **dict.fromkeys(flags, True))
    return jax.jit(jax.grad(functools.partial(loss, make)))


def derivative(name, flags, options, hyper) -> float:
    with enable_x64():
        return float(gradient(name, *flags)(options)[hyper])


def reference_loss(name, flags, options) -> float:
    path = getattr(reference, name)(THETA, GRADS, **flags, **options)
    return float(WEIGHTS @ path[-1])


def quotient(name, flags, options, hyper, below, above) -> float:
    low, high = (options | {hyper: options[hyper] + h} for h in (-below, above))
    rise = reference_loss(name, flags, high) - reference_loss(name, flags, low)
    return rise / (below + above)


@pytest.mark.parametrize(("name", "flags", "hyper"), CASES)
def test_the_derivative_at_usual_values(name, flags, hyper):
    options = settings(name)
    expected = quotient(name, flags, options, hyper, 1e-6, 1e-6)
    assert expected != 0
    got = derivative(name, flags, options, hyper)
    assert got == pytest.approx(expected, rel=1e-6, abs=1e-8)


def infinite_at_zero(name, flags, hyper) -> bool:
    """The variance is β or V₀ times a number there, and the root of it has no slope."""
    centered = flags.get("centered", False)
    unbiased = flags.get("bias_correction", False)
    return centered and (hyper == "decay" or (hyper == "initial_scale" and unbiased))


AT_ZERO = [
    case
    for case in CASES
    if case.values[2] not in ("eps", "learning_rate")
    and not infinite_at_zero(*case.values)
]


@pytest.mark.parametrize(("name", "flags", "hyper"), AT_ZERO)
def test_the_derivative_at_zero(name, flags, hyper):
    """Here the second weight has d = g + λθ = 0, and its moments are 0."""
    others = {"eps_root": 0.0, "initial_scale": 0.0, "weight_decay": 0.0}
    zeros = {k: v for k, v in others.items() if k in OPTIMIZERS[name]}
    options = settings(name, **zeros | {hyper: 0.0})
    if hyper in ("decay", "b2"):  # without a gradient g²/√v grows without bound
        options["weight_decay"] = TYPICAL["weight_decay"]
    expected = quotient(name, flags, options, hyper, 0.0, 1e-10)
    got = derivative(name, flags, options, hyper)
    assert got == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("flags", [{}, {"nesterov": True}], ids=str)
@pytest.mark.parametrize("name", ["adam_l2", "rmsprop_l2"])
def test_the_default_eps_gives_a_large_but_finite_derivative(name, flags):
    """A weight without a gradient moves by γλθ/ε for λ far below ε."""
    options = {"learning_rate": 0.05, "weight_decay": 0.0}
    if name == "rmsprop_l2":
        options["momentum"] = 0.9
    expected = quotient(name, flags, options, "weight_decay", 0.0, 1e-15)
    assert abs(expected) > 1e6
    got = derivative(name, flags, options, "weight_decay")
    assert got == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_in_float32_too(name):
    """Finite in all hyper-parameters, with a weight that never had a gradient."""
    options = settings(name, weight_decay=0.0)
    found = gradient(name)(options)
    assert all(np.isfinite(value) for value in found.values()), found


def test_in_the_multiplier_of_a_mask():
    def of(multiplier):
        return loss(dx.adamw, settings("adamw") | {"mask": multiplier})

    with enable_x64():
        got = float(jax.jit(jax.grad(of))(0.5))
    options = settings("adamw")
    losses = [
        WEIGHTS @ reference.adamw(THETA, GRADS, multiplier=m, **options)[-1]
        for m in (0.5 - 1e-6, 0.5 + 1e-6)
    ]
    assert got == pytest.approx((losses[1] - losses[0]) / 2e-6, rel=1e-6)
