"""The study on scale symmetries: its formulas, its networks and its words."""

import functools

import numpy as np
import pytest


pytestmark = [
    pytest.mark.needs_extras,
    pytest.mark.relaxed("scale_by_adam; the experiments run under JAX's defaults"),
]
RATE, DECAY_STRENGTH, STEPS = 0.02, 1.5, 40


# --- The compensation -------------------------------------------------------------


def trained(optimizer, loss):
    """The losses of some steps from one start, in float64."""
    import jax
    import jax.numpy as jnp
    import optax

    with jax.enable_x64(True):
        params = {"a": jnp.array([0.3, -1.2, 0.8]), "b": jnp.array([0.5, 0.1])}
        targets = jax.random.normal(jax.random.key(0), (STEPS, 3), jnp.float64)
        transform = optimizer(params)
        state, losses = transform.init(params), []
        step = jax.jit(jax.value_and_grad(loss))
        update = jax.jit(transform.update)
        for target in targets:
            value, grads = step(params, target)
            updates, state = update(grads, state, params)
            params = optax.apply_updates(params, updates)
            losses.append(float(value))
    return np.array(losses)


def invariant_loss(params, target):
    """It does not depend on the scale of `a`, but on that of `b`."""
    import jax.numpy as jnp

    unit = params["a"] / jnp.linalg.norm(params["a"])
    return jnp.sum((unit - target) ** 2) + jnp.sum((params["b"] * unit[:2] - 1) ** 2)


def arm(base, name, chosen=(True, False)):
    """An arm on the chosen ones of the leaves a and b."""
    from experiments import compensation as c

    pairs = zip(
        c.arm_of(name, RATE, DECAY_STRENGTH),
        c.arm_of(c.NONE, RATE, DECAY_STRENGTH),
        strict=True,
    )
    arms = c.Arm(*(np.where(chosen, treated, plain) for treated, plain in pairs))
    momentum = c.Run(base, c.INVARIANT, name).momentum
    return functools.partial(_optimizer, base, arms, momentum)


def _optimizer(base, arms, momentum, params):
    from experiments import compensation as c

    program = c.ADAM if base == c.ADAM else c.SGD
    return c.optimizer_of_leaves(program, RATE, arms, momentum, params)


@pytest.mark.parametrize("base", ["SGD", "momentum", "Adam"])
def test_decay_is_that_of_the_optimizer(base):
    import decayax as dx
    from experiments import compensation as c

    mask = {"a": True, "b": False}
    make = {
        "SGD": dx.sgdw,
        "momentum": functools.partial(dx.sgdw, momentum=c.MOMENTUM_BETA),
        "Adam": functools.partial(dx.adamw, b1=c.B1, b2=c.B2, eps=c.EPS),
    }[base]
    known = make(RATE, weight_decay=DECAY_STRENGTH, mask=mask)
    expected = trained(lambda params: known, invariant_loss)
    np.testing.assert_allclose(
        trained(arm(base, c.DECAY), invariant_loss), expected, rtol=1e-9
    )


@pytest.mark.parametrize("base", ["SGD", "momentum", "Adam"])
def test_the_exact_compensation_is_decay_on_an_invariant_leaf_only(base):
    from experiments import compensation as c

    exact = c.MATCHED if base == c.SGD else c.EXACT
    decay = trained(arm(base, c.DECAY), invariant_loss)
    none = trained(arm(base, c.NONE), invariant_loss)
    assert np.max(np.abs(none - decay)) > 1e-2
    np.testing.assert_allclose(
        trained(arm(base, exact), invariant_loss), decay, rtol=1e-10
    )
    if base != c.SGD:  # the rate alone is not enough
        matched = trained(arm(base, c.MATCHED), invariant_loss)
        assert np.max(np.abs(matched - decay)) > 1e-4
    seen = (False, True)
    decay = trained(arm(base, c.DECAY, seen), invariant_loss)
    compensated = trained(arm(base, exact, seen), invariant_loss)
    assert np.max(np.abs(compensated - decay)) > 1e-2


def test_every_arm_is_compared_with_decay_on_its_leaves():
    from experiments import compensation as c

    runs = c.runs_of(c.SGD)
    losses = np.arange(len(runs) * 8, dtype=float).reshape(len(runs), 1, 8)
    found = c.summary(runs, losses)
    rows = {run: row for row, run in enumerate(runs)}
    for run, row in rows.items():
        decay = rows[run._replace(arm=c.DECAY)]
        none = rows[c.Run(run.base, c.INVARIANT, c.NONE)]
        assert found["gap"][row, 0] == 8 * abs(row - decay)
        assert found["effect"][row, 0] == 8 * abs(none - decay)
        np.testing.assert_allclose(found["final"][row], losses[row, :, -2:].mean(-1))
    assert {run.base for run in runs} == {c.SGD, c.MOMENTUM}
    assert {run.base for run in c.runs_of(c.ADAM)} == {c.ADAM}


# --- The networks -----------------------------------------------------------------


def test_the_convolution_is_that_of_xla():
    import jax

    from experiments.models.resnet import convolve

    x = jax.random.normal(jax.random.key(0), (2, 6, 7, 3))
    kernel = jax.random.normal(jax.random.key(1), (3, 5, 3, 4))
    layout = ("NHWC", "HWIO", "NHWC")
    expected = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=layout
    )
    np.testing.assert_allclose(convolve(x, kernel), expected, atol=1e-5)


def test_the_kinds_of_the_transformer():
    from experiments.networks import kinds_of
    from experiments.studies.symmetry import ADDITION

    kinds = kinds_of(ADDITION, 0)
    found = dict(zip(kinds.paths, kinds.kinds, strict=True))
    invariant = {path for path, kind in found.items() if kind == "invariant"}
    layers = {"attention/query", "attention/key", "attention/value", "attention/out"}
    layers |= {"up", "down"}
    assert invariant == {f"blocks/0/{layer}/kernel" for layer in layers}
    assert [path for path, kind in found.items() if kind == "seen"] == ["head/kernel"]
    names = ("token/embedding", "position/embedding")
    names += ("blocks/0/after1/scale", "blocks/0/after2/scale")
    assert kinds.shared().keys() == set(names)
    assert len(set(kinds.shared().values())) == 1
    gains = {f"blocks/0/attention/{x}_norm/scale" for x in ("query", "key")}
    (pair,) = [g for g in kinds.groups if set(g) == gains]
    assert sum(pair.values()) == 0


@pytest.mark.slow
def test_the_kinds_of_the_resnet():
    from experiments.networks import kinds_of
    from experiments.studies.symmetry import DIGITS

    kinds = kinds_of(DIGITS, 0)
    rows = zip(kinds.paths, kinds.kinds, kinds.axes, strict=True)
    for path, kind, axes in rows:
        if path.endswith("conv/kernel"):
            assert (kind, axes) == ("invariant", "3")  # each filter
        else:
            assert kind == ("dead" if path.endswith("conv/bias") else "seen")


# --- Directions and reductions ----------------------------------------------------


def kinds_of_three():
    from experiments.networks import Kinds

    return Kinds(
        paths=("a", "b", "c"),
        kinds=("invariant", "joint", "joint"),
        axes=("", "", ""),
        sizes=(100, 100, 100),
        groups=({"b": 1.0, "c": -2.0},),
    )


def test_directions_are_leaves_groups_and_all():
    from experiments.scaling import directions

    found = directions(kinds_of_three())
    assert {name: x.tolist() for name, x in found.items()} == {
        "a": [1, 0, 0],
        "b": [0, 1, 0],
        "c": [0, 0, 1],
        "group 1": [0, 1, -2],
        "all invariant leaves": [1, 0, 0],
        "all leaves": [1, 1, 1],
    }
    assert kinds_of_three().shared() == {}


def test_the_predicted_angle_is_that_of_noise():
    import jax
    import jax.numpy as jnp
    import optax

    import decayax as dx
    from experiments.reports.symmetry_numbers import predicted_angles

    rate, decay, beta = 0.1, 0.05, 0.9
    optimizer = dx.track_decay(
        dx.sgdw(rate, momentum=beta, weight_decay=decay), every=1
    )
    params = jnp.ones(4000)

    def step(carry, key):
        params, state = carry
        noise = jax.random.normal(key, params.shape)
        updates, state = optimizer.update(noise, state, params)
        return (optax.apply_updates(params, updates), state), state.sums

    keys = jax.random.split(jax.random.key(0), 1500)
    (_, state), sums = jax.lax.scan(step, (params, optimizer.init(params)), keys)
    averaged = state._replace(sums=sums[-300:].mean(0))
    stats = dx.decay_stats(averaged)
    (angle,) = predicted_angles([[rate, decay]], beta)
    assert stats["(root)/angle"] == pytest.approx(angle, rel=0.02)


def made_up(angles, kinds, sizes):
    """Stored arrays with these measured angles [seeds, leaves]; norms are 1."""
    angles = np.array(angles)[None, None]
    ones = np.ones((1, 2, *angles.shape[2:]))
    return {
        "angle": np.repeat(angles, 2, 1),
        "weight_norm": ones,
        "equilibrium_norm": ones,
        "kinds": np.array(kinds),
        "sizes": np.array(sizes),
    }


def test_small_and_dead_leaves_are_not_compared():
    from experiments.reports.symmetry_numbers import groups_of_leaves

    kinds = ["invariant", "invariant", "seen", "joint", "dead"]
    stored = made_up(np.ones((2, 5)), kinds, [64, 63, 64, 64, 64])
    invariant, other = groups_of_leaves(stored)
    assert invariant.tolist() == [True, False, False, False, False]
    assert other.tolist() == [False, False, True, True, False]


def test_a_norm_that_is_not_predicted_deviates_without_limit():
    from experiments.reports.symmetry_numbers import ratios

    stored = made_up(np.ones((1, 1)), ["seen"], [64])
    stored["equilibrium_norm"] = np.full((1, 2, 1, 1), np.nan)
    assert np.isinf(ratios(stored, [[0.1, 0.1]], 0.0)["norm"]).all()


# --- Words ------------------------------------------------------------------------


def row(shares):
    from experiments.reports.symmetry_rows import Training
    from experiments.statistics import estimate

    shares = np.array(shares)
    return Training("net", "SGD", "invariant", "matched rate", estimate(shares), shares)


@pytest.mark.parametrize(
    ("share", "verdict"), [(0.01, "equal"), (0.5, "not equal"), (0.1, "unclear")]
)
def test_runs_are_equal_if_the_gap_is_below_a_tenth_of_the_effect(share, verdict):
    noise = np.exp(0.2 * np.sin(np.arange(12)))
    assert row(share * noise).verdict == verdict


def test_few_seeds_and_diverged_runs_have_no_equality():
    assert row([0.001] * 5).verdict == "unclear"
    assert row([0.001] * 11 + [np.inf]).verdict == "not equal (some runs diverge)"


def test_a_claim_holds_within_the_bound_of_the_header():
    from experiments.reports.symmetry_rows import Equilibrium
    from experiments.statistics import Estimate

    span, clear = (1.0, 1.0), Estimate(0.1, 0.05, 0.2, 0.001)
    found = Equilibrium("net", "norm", 0.049, span, 0.2, span, clear, 0.04)
    assert found.holds
    assert found.is_clear
    assert not found._replace(invariant=0.051).holds
    assert found._replace(measure="angle", invariant=0.051).holds
    assert not found._replace(p_holm=0.06).is_clear
    assert not found._replace(difference=clear._replace(low=-0.01)).is_clear
    assert not found.is_reversed
    assert found._replace(difference=Estimate(-0.1, -0.2, -0.05, 0.001)).is_reversed


def test_steps_follow_the_prediction_within_one_percent():
    from experiments.reports.symmetry_rows import Scaled

    def found(sgd, adam):
        steps = (4.0, 4.0, sgd), (2.0, adam, 2.0)
        return Scaled("net", "invariant", 0.0, 0.0, 0.0, 0.0, steps)

    assert found(4.03, 1.99).follows
    assert not found(4.05, 1.99).follows
    assert not found(4.03, 1.97).follows
