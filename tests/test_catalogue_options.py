"""The options that the rows of the catalogue lack, against the NumPy reference.

These are axes, arrays as targets, anchors and bounds, pulls with their own learning
rate, and what sees the raw gradient, behind Adam.
"""

from functools import partial

import catalogue_reference as reference
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import enable_x64
from reference import adam_step, AdamState
from test_trajectories import run

import decayax as dx


STEPS = 16
MULTIPLIERS = {
    "real": 1.0,
    "complex": 0.5,
    "excluded": 0.0,
    "some columns": np.array([1.0, 0.5, 0.0]),
}
SIZES = np.array([[1.0, 2.0, 3.0]])  # one for each column
EACH = {key: jnp.asarray(SIZES) for key in MULTIPLIERS}
ADAM = {"adam": True}


def learning_rate(t):
    return 0.1 / (1.0 + jnp.asarray(t, float) / 10.0)


def weight_decay(t):
    return 0.2 + 0.02 * jnp.asarray(t, float)


def floor(t):
    return 2.0 - 0.05 * jnp.asarray(t, float)


scale_by_adam = optax.scale_by_adam


def chain(*stages):
    """The stages; None is the learning rate."""

    def build():
        rate = optax.scale_by_learning_rate(learning_rate)
        made = (stage() if stage else rate for stage in stages)
        return optax.chain(*made)

    return build


def method(make, *positional, **options):
    return partial(make, *positional, mask=MULTIPLIERS, **options)


def wrapped(make, optimizer, *positional, **options):
    """make(optimizer(), ...) around an optimizer that is built under float64."""
    return lambda: make(optimizer(), *positional, mask=MULTIPLIERS, **options)


def before(make, *positional, **options):
    return chain(method(make, *positional, **options), None)


def behind(make, *positional, **options):
    return chain(None, method(make, *positional, **options))


# name: (the optimizer, the name in the reference, the options there)
CASES = {
    "cautious, behind Adam": (
        chain(scale_by_adam, method(dx.cautious_decay, weight_decay), None),
        "cautious_decay",
        ADAM,
    ),
    "cautious, its own rate": (
        chain(
            scale_by_adam,
            None,
            method(dx.cautious_decay, weight_decay, strict=True, learning_rate=0.2),
        ),
        "cautious_decay",
        {**ADAM, "place": "finished", "rate": 0.2, "strict": True},
    ),
    "to arrays": (
        before(dx.decay_to, weight_decay, dict.fromkeys(MULTIPLIERS, np.ones((4, 3)))),
        "decay_to",
        {"anchor": 1.0},
    ),
    "to init, rate 1": (
        behind(dx.decay_to_init, weight_decay, learning_rate=1.0),
        "decay_to_init",
        {"place": "finished", "rate": 1.0},
    ),
    "to the average, behind": (
        behind(dx.decay_to_average, weight_decay, learning_rate=learning_rate),
        "decay_to_average",
        {"place": "finished"},
    ),
    "norm control of columns": (
        before(dx.norm_control, weight_decay, target_ratio=0.5, axis=0),
        "norm_control",
        {"target_ratio": 0.5, "axis": 0},
    ),
    "targets of columns": (
        before(dx.target_norm_decay, EACH, learning_rate=learning_rate, axis=0),
        "target_norm_decay",
        {"target_norm": SIZES, "axis": 0},
    ),
    "initial rows, momentum": (
        before(
            dx.target_norm_decay,
            "initial",
            learning_rate=learning_rate,
            axis=-1,
            momentum=0.9,
        ),
        "target_norm_decay",
        {"target_norm": "initial", "axis": -1, "momentum": 0.9},
    ),
    "spectral, behind": (
        behind(dx.spectral_decay, weight_decay, cap=1.0, learning_rate=learning_rate),
        "spectral_decay",
        {"cap": 1.0, "place": "finished"},
    ),
    "touched rows": (
        chain(wrapped(dx.touched_decay, optax.identity, weight_decay), None),
        "touched_decay",
        {"axis": -1},
    ),
    "frequent rows, behind Adam": (
        chain(
            wrapped(dx.touched_decay, scale_by_adam, weight_decay, average_rate=0.7),
            None,
        ),
        "touched_decay",
        {"axis": -1, "average_rate": 0.7, **ADAM},
    ),
    "frequent rows, around Adam": (
        wrapped(
            dx.touched_decay,
            lambda: optax.adam(learning_rate),
            weight_decay,
            average_rate=0.7,
            learning_rate=0.2,
        ),
        "touched_decay",
        {
            "axis": -1,
            "average_rate": 0.7,
            "place": "finished",
            "rate": 0.2,
            **ADAM,
        },
    ),
    "brake of columns": (
        before(dx.radial_brake, weight_decay, axis=0),
        "radial_brake",
        {"axis": 0},
    ),
    "floor of columns": (
        before(dx.update_to_weight_floor, floor, axis=0),
        "update_to_weight_floor",
        {"axis": 0, "floor": floor},
    ),
    "OrthoGrad, not rescaled": (
        before(dx.project_radial_gradient, rescale=False),
        "project_radial_gradient",
        {"rescale": False},
    ),
    "AdamP, mostly the units": (
        chain(
            wrapped(
                dx.project_radial_update, scale_by_adam, weight_decay, threshold=1.0
            ),
            None,
        ),
        "project_radial_update",
        {"threshold": 1.0},
    ),
    "AdamP, a factor": (
        chain(
            wrapped(
                dx.project_radial_update,
                scale_by_adam,
                weight_decay,
                threshold=0.5,
                decay_factor=0.3,
            ),
            None,
        ),
        "project_radial_update",
        {"threshold": 0.5, "decay_factor": 0.3},
    ),
    "initial norms of columns": (
        behind(dx.fixed_norm, axis=0, radius="initial"),
        "fixed_norm",
        {"axis": 0, "radius": "initial"},
    ),
    "radii of columns": (
        behind(dx.fixed_norm, axis=0, radius=EACH),
        "fixed_norm",
        {"axis": 0, "radius": SIZES},
    ),
    "initial spectral norm": (
        behind(dx.fixed_norm, spectral=True, radius="initial"),
        "fixed_norm",
        {"spectral": True, "radius": "initial"},
    ),
    "proximal": (
        behind(dx.proximal_decay, weight_decay, learning_rate=learning_rate),
        "proximal_decay",
        {},
    ),
    "pins of columns": (behind(dx.pin_radius, axis=0), "pin_radius", {"axis": 0}),
    "bounds of columns": (
        behind(dx.constrain_norm, EACH, axis=0, step_size=0.1),
        "constrain_norm",
        {"bound": SIZES, "axis": 0, "step_size": 0.1},
    ),
    "bounds after steps": (
        behind(dx.constrain_norm, after_steps=7, axis=-1, step_size=0.1),
        "constrain_norm",
        {"after_steps": 7, "axis": -1, "step_size": 0.1},
    ),
    "bound after 0 steps": (
        behind(dx.constrain_norm, after_steps=0, step_size=0.1),
        "constrain_norm",
        {"after_steps": 0, "step_size": 0.1},
    ),
    "bounds at inflections": (
        behind(dx.constrain_norm, inflection_every=2, axis=0, step_size=0.1),
        "constrain_norm",
        {"inflection_every": 2, "axis": 0, "step_size": 0.1},
    ),
    "selective, around Adam": (
        wrapped(
            dx.selective_projection, lambda: optax.adam(learning_rate), weight_decay
        ),
        "selective_projection",
        ADAM,
    ),
    "rotational, centered neurons": (
        method(dx.rotational, weight_decay, learning_rate=learning_rate),
        "rotational",
        {"axis": -2},
    ),
    "rotational, behind Adam": (
        chain(
            scale_by_adam,
            method(
                dx.rotational,
                weight_decay,
                learning_rate=learning_rate,
                axis=-1,
                center=False,
                average_rate=0.5,
                eps=0.1,
            ),
        ),
        "rotational",
        {"axis": -1, "center": False, "average_rate": 0.5, "eps": 0.1, **ADAM},
    ),
}


def problem():
    """Weights, and gradients that push them out, then in; many rows have none."""
    rng = np.random.default_rng(3)

    def draw(key, *shape):
        x = rng.standard_normal(shape)
        return x + 1j * rng.standard_normal(shape) if key == "complex" else x

    params = {key: draw(key, 4, 3) for key in MULTIPLIERS}
    push = np.where(np.arange(STEPS) < 10, -1.0, 1.0)[:, None, None]
    grads = {key: draw(key, STEPS, 4, 3) + push * params[key] for key in MULTIPLIERS}
    for g in grads.values():
        g[rng.random((STEPS, 4)) < 0.3] = 0.0
    return params, grads


@pytest.mark.relaxed("optax.scale_by_adam")
@pytest.mark.parametrize("case", CASES)
def test_equals_the_reference(case):
    build, name, options = CASES[case]
    params, grads = problem()
    with enable_x64():
        got = run(build(), params, grads)
        for key, multiplier in MULTIPLIERS.items():
            expected, free = (
                getattr(reference, name)(
                    params[key],
                    grads[key],
                    learning_rate=learning_rate,
                    weight_decay=weight_decay,
                    multiplier=m,
                    **options,
                )
                for m in (multiplier, 0.0)
            )
            np.testing.assert_allclose(got[key], expected, rtol=1e-9, atol=1e-11)
            assert (np.abs(expected - free).max() > 3e-3) == np.any(multiplier)


@pytest.mark.relaxed("optax.scale_by_adam")
def test_orthograd_of_columns_in_front_of_adam():
    params, grads = problem()
    theta, state = params["real"], AdamState()
    with enable_x64():
        project = method(dx.project_radial_gradient, axis=0)
        got = run(chain(project, scale_by_adam, None)(), params, grads)["real"]
        for t, g in enumerate(grads["real"]):
            tangent = g - (theta * g).sum(0) / (theta**2).sum(0) * theta
            sizes = np.linalg.norm(g, axis=0), np.linalg.norm(tangent, axis=0)
            tangent = tangent * sizes[0] / np.maximum(sizes[1], 1e-30)
            u, state = adam_step(state, tangent, t)
            theta = theta - float(learning_rate(t)) * u
            np.testing.assert_allclose(got[t + 1], theta, rtol=1e-9)
