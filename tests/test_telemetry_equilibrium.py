"""The equilibrium that the tracker predicts is the one that a run comes to.

The gradients are noise, as in the theory. The norm and the angle are measured on the
weights of the run; no test uses a formula.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import decayax as dx


LR, WD = 0.02, 1.0
SHAPE = (64, 64)
EARLY, END = slice(60, 100), slice(400, 700)  # steps
RATES = {"learning_rate": LR, "weight_decay": WD}
OPTIMIZERS = {
    "AdamW, b1 = 0": dx.adamw(**RATES, b1=0.0, b2=0.99),
    "AdamW, b1 = 0.9": dx.adamw(**RATES, b1=0.9, b2=0.99),
    "AdamW, b1 = 0.95": dx.adamw(**RATES, b1=0.95, b2=0.99),
    "AdamW of optax": optax.adamw(**RATES, b1=0.9, b2=0.95),
    "AdamW, half the decay": dx.adamw(LR, weight_decay=WD / 2, b2=0.99),
    "AdamW, fast": dx.adamw(2 * LR, weight_decay=WD, b2=0.99),
    "NAdamW": optax.nadamw(**RATES, b2=0.99),
    "SGDW": dx.sgdw(**RATES),
    "SGDW, momentum 0.9": dx.sgdw(**RATES, momentum=0.9),
    "SGDW, momentum 0.95": dx.sgdw(**RATES, momentum=0.95),
    "SGDW, Nesterov": dx.sgdw(**RATES, momentum=0.9, nesterov=True),
    "L2 under SGD": dx.sgd_l2(**RATES),
    "RMSpropW": dx.rmspropw(**RATES, decay=0.99),
    "RMSpropW, momentum": dx.rmspropw(**RATES, momentum=0.9, decay=0.99),
    "Lion": optax.lion(**RATES, b1=0.9, b2=0.9),
    "Adam, independent decay": optax.chain(
        optax.adam(LR, b2=0.99), dx.independent_decay(LR * WD)
    ),
}


def run(optimizer, start, every=1):
    """Of each step: the norm and the angle of the run, and what the tracker says."""
    tracked = dx.track_decay(optimizer, every=every)

    def step(carry, key):
        params, state = carry
        grads = {"w": jax.random.normal(key, SHAPE)}
        updates, state = tracked.update(grads, state, params)
        new = optax.apply_updates(params, updates)
        a, b = (x["w"] / jnp.linalg.norm(x["w"]) for x in (params, new))
        angle = 2 * jnp.arcsin(jnp.linalg.norm(a - b) / 2)  # by the chord
        stats = dx.decay_stats(state)
        found = stats["w/equilibrium_norm"], stats["w/equilibrium_angle"]
        return (new, state), (jnp.linalg.norm(new["w"]), angle, *found)

    params = {"w": start * jax.random.normal(jax.random.key(0), SHAPE)}
    keys = jax.random.split(jax.random.key(1), END.stop)
    scan = jax.jit(lambda carry: jax.lax.scan(step, carry, keys))
    _, series = scan((params, tracked.init(params)))
    return [np.asarray(x, float) for x in series]


@pytest.mark.relaxed("optax.scale_by_adam, lion")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_norm_and_angle_of_a_run(name):
    norm, angle, norms, angles = run(OPTIMIZERS[name], start=1.0)
    assert norms[END].mean() == pytest.approx(norm[END].mean(), rel=0.03)
    assert angles[END].mean() == pytest.approx(angle[END].mean(), rel=0.03)


@pytest.mark.relaxed("optax.scale_by_adam, lion")
@pytest.mark.parametrize(
    ("name", "start", "tolerance"),
    [
        # Too small a start, and a start of 2.3 to 6 times the final norm.
        ("AdamW, b1 = 0.9", 0.01, 0.03),
        ("AdamW, b1 = 0.9", 1.0, 0.1),
        ("SGDW", 0.01, 0.03),
        ("SGDW", 1.0, 0.03),
        ("SGDW, momentum 0.9", 0.01, 0.03),
        ("SGDW, momentum 0.9", 10.0, 0.1),
        ("Lion", 0.01, 0.03),
        ("Lion", 10.0, 0.1),
    ],
)
def test_it_is_known_long_before_the_run_is_there(name, start, tolerance):
    """But ⟨θ, r⟩ of large weights fluctuates more, if there is momentum."""
    norm, _, norms, _ = run(OPTIMIZERS[name], start)
    if start > 0.01:
        assert norm[EARLY].mean() > 2 * norm[END].mean()
    early = np.sqrt(np.mean(norms[EARLY] ** 2))
    assert early == pytest.approx(norm[END].mean(), rel=tolerance)


@pytest.mark.relaxed("optax.scale_by_adam")
@pytest.mark.parametrize("every", [2, 7, 20])
@pytest.mark.parametrize("name", ["AdamW, b1 = 0.9", "SGDW, momentum 0.95"])
def test_the_step_after_the_update_has_the_same_equilibrium(name, every):
    norm, angle, norms, angles = run(OPTIMIZERS[name], start=1.0, every=every)
    assert norms[END].mean() == pytest.approx(norm[END].mean(), rel=0.03)
    assert angles[END].mean() == pytest.approx(angle[END].mean(), rel=0.03)
