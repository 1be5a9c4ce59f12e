"""Reading the tracker: in programs, over many runs, on demand, and as a table."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import decayax as dx


LR, WD = 0.1, 0.1
PARAMS = {
    "dense": {
        "kernel": jax.random.normal(jax.random.key(0), (4, 3)),
        "bias": jax.random.normal(jax.random.key(1), (3,)),
    },
    "norm": {"scale": jnp.array([1.0, 1.1, 0.8])},
}
GRADS = jax.tree.map(lambda p: jnp.cos(3 * p), PARAMS)
MASK = dx.masks.no_bias_or_norm
STRENGTHS = jnp.array([0.1, 0.2, 0.3])
PATHS = ("dense/kernel", "dense/bias", "norm/scale")
EQUILIBRIUM = ("equilibrium_angle", "equilibrium_norm")


def tracked(weight_decay=WD, every=1, mask=None):
    return dx.track_decay(
        dx.sgdw(LR, momentum=0.9, weight_decay=weight_decay, mask=mask), every=every
    )


def state_of(weight_decay=WD, every=1, mask=None):
    optimizer = tracked(weight_decay, every, mask)
    return optimizer.update(GRADS, optimizer.init(PARAMS), PARAMS)[1]


STATE = state_of()
STATS = dx.decay_stats(STATE)


def by_layer(path):
    return path.split("/")[0]


def close(expected):
    return pytest.approx(expected, rel=1e-4, abs=1e-5, nan_ok=True)


# --- inside programs --------------------------------------------------------------

PROGRAMS = {
    "jit": lambda state: jax.jit(dx.decay_stats)(state),
    "a jitted step": lambda _: jax.jit(lambda: dx.decay_stats(state_of()))(),
    "a nested state": lambda state: jax.jit(dx.decay_stats)(
        (optax.EmptyState(), state)
    ),
    "scan": lambda state: jax.tree.map(
        lambda x: x[-1],
        jax.lax.scan(lambda c, _: (c, dx.decay_stats(c)), state, length=2)[1],
    ),
    "cond": lambda state: jax.lax.cond(
        jnp.array(True), dx.decay_stats, lambda s: dx.decay_stats(s), state
    ),
    "fori_loop": lambda state: jax.lax.fori_loop(
        0, 2, lambda _, s: dx.decay_stats(state), jax.jit(dx.decay_stats)(state)
    ),
    "checkpoint": lambda state: jax.checkpoint(dx.decay_stats)(state),
    "eval_shape": lambda state: jax.tree.map(
        lambda x, y: y, jax.eval_shape(dx.decay_stats, state), dx.decay_stats(state)
    ),
    "lower": lambda state: jax.jit(dx.decay_stats).lower(state).compile()(state),
    "remat in scan": lambda state: jax.tree.map(
        lambda x: x[0],
        jax.lax.map(lambda _: jax.checkpoint(dx.decay_stats)(state), jnp.arange(2)),
    ),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_inside_a_program(name):
    found = PROGRAMS[name](STATE)
    assert found.keys() == STATS.keys()
    assert {key: float(x) for key, x in found.items()} == close(STATS)


def test_outside_of_jit_they_are_python_floats():
    assert all(type(value) is float for value in STATS.values())


def test_curves_of_a_run():
    """The statistics of each step, as the output of a scan."""
    optimizer = tracked()

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(GRADS, state, params)
        return (optax.apply_updates(params, updates), state), dx.decay_stats(state)

    carry = PARAMS, optimizer.init(PARAMS)
    _, curves = jax.jit(lambda c: jax.lax.scan(step, c, length=4))(carry)
    assert all(curve.shape == (4,) for curve in curves.values())
    np.testing.assert_allclose(curves["dense/kernel/decay_rate"], LR * WD, rtol=1e-4)
    norms = curves["dense/kernel/weight_norm"]
    assert norms[0] == pytest.approx(STATS["dense/kernel/weight_norm"], rel=1e-5)
    assert len(set(map(float, norms))) == 4


def test_zero_weights_without_an_update():
    zeros = {"w": jnp.zeros(3)}
    optimizer = dx.sgdw(LR, weight_decay=WD)
    stats = dx.measure_decay(optimizer, zeros, optimizer.init(zeros), zeros)
    assert stats["w/update_norm"] == stats["w/update_to_weight"] == 0.0


@pytest.mark.parametrize(
    "shape", [(1 << 21,), (2, 1 << 20), (1 << 20, 2), (1 << 11,) * 2]
)
def test_sums_over_large_parameters(shape):
    """Added one by one, 2 million float32 squares lose a percent."""
    params = {"w": jax.random.normal(jax.random.key(0), shape)}
    optimizer = dx.sgdw(LR, weight_decay=WD)
    stats = jax.jit(functools.partial(dx.measure_decay, optimizer))(
        params, optimizer.init(params), params
    )
    expected = np.linalg.norm(np.asarray(params["w"], np.float64))
    assert stats["w/weight_norm"] == pytest.approx(expected, rel=1e-5)


# --- many runs --------------------------------------------------------------------


@pytest.mark.parametrize("groups", [None, by_layer])
@pytest.mark.parametrize("read", [dx.decay_stats, jax.jit(dx.decay_stats)])
def test_many_runs_have_leading_axes(read, groups):
    states = jax.vmap(state_of)(STRENGTHS)
    if groups:
        read = functools.partial(dx.decay_stats, groups=groups)
    found = read(states)
    assert all(np.shape(value) == (3,) for value in found.values())
    for index, strength in enumerate(STRENGTHS):
        alone = dx.decay_stats(state_of(float(strength)), groups=groups)
        each = {key: float(x[index]) for key, x in found.items()}
        assert each == close(alone)


def test_two_levels_of_runs():
    states = jax.vmap(jax.vmap(state_of))(STRENGTHS[None] * jnp.ones((2, 1)))
    rates = dx.decay_stats(states)["norm/scale/decay_rate"]
    np.testing.assert_allclose(rates, LR * np.tile(STRENGTHS, (2, 1)), rtol=1e-5)


def test_a_vmapped_readout():
    states = jax.vmap(state_of)(STRENGTHS)
    rates = jax.vmap(dx.decay_stats)(states)["dense/bias/decay_rate"]
    np.testing.assert_allclose(rates, LR * STRENGTHS, rtol=1e-5)


# --- scale-invariant weights ------------------------------------------------------


@pytest.mark.parametrize(
    "chosen",
    [
        ["dense/kernel"],
        ("dense/kernel",),
        {"dense/kernel"},
        {"dense/kernel": 1},
        frozenset({"dense/kernel"}),
        lambda path: path.endswith("kernel"),
    ],
)
@pytest.mark.parametrize("jit", [False, True])
def test_the_equilibrium_of_other_weights_is_blank(chosen, jit):
    read = functools.partial(dx.decay_stats, scale_invariant=chosen)
    stats = (jax.jit(read) if jit else read)(STATE)
    assert stats.keys() == STATS.keys()
    for key, value in STATS.items():
        path, _, entry = key.rpartition("/")
        if entry in EQUILIBRIUM and path != "dense/kernel":
            assert math.isnan(stats[key])
        else:
            assert float(stats[key]) == close(value)


def test_a_group_is_scale_invariant_if_all_its_members_are():
    def norms(chosen):
        stats = dx.decay_stats(STATE, groups=by_layer, scale_invariant=chosen)
        return stats["dense/equilibrium_norm"], stats["norm/equilibrium_norm"]

    assert all(map(math.isfinite, norms(PATHS)))
    dense, norm = norms(["dense/kernel", "norm/scale"])
    assert math.isnan(dense)
    assert math.isfinite(norm)
    assert all(map(math.isnan, norms([])))


def test_errors_of_scale_invariant():
    with pytest.raises(TypeError, match=r"scale_invariant must .* Pass \['w'\]"):
        dx.decay_stats(STATE, scale_invariant="w")
    with pytest.raises(ValueError, match="names dense/w, which no tracker measures"):
        dx.decay_stats(STATE, scale_invariant=["dense/w"])


# --- on demand --------------------------------------------------------------------


OPTIMIZERS = {
    "sgdw": dx.sgdw(LR, momentum=0.9, weight_decay=WD),
    "adamw": dx.adamw(LR, weight_decay=WD),
    "adamw of optax": optax.adamw(LR, weight_decay=WD),
    "adam_l2": dx.adam_l2(LR, weight_decay=WD),
    "lion": optax.lion(LR, weight_decay=WD),
    "lamb": optax.lamb(LR, weight_decay=WD),
    "rmspropw": dx.rmspropw(LR, weight_decay=WD, mask=MASK),
    "chain": optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(LR)),
    "MultiSteps": optax.MultiSteps(dx.sgdw(LR, weight_decay=WD), 1),
    "masked": optax.masked(dx.sgdw(LR, weight_decay=WD), MASK),
    "injected": optax.inject_hyperparams(dx.sgdw)(LR, weight_decay=WD),
}


@pytest.mark.relaxed("optax.adamw, lamb, MultiSteps")
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("jit", [False, True])
def test_on_demand_it_is_the_same(name, jit):
    """As a tracker that measures this step says."""
    optimizer = OPTIMIZERS[name]
    tracker = dx.track_decay(optimizer, every=1)
    measure = functools.partial(dx.measure_decay, optimizer)
    measure = jax.jit(measure) if jit else measure
    state, params = tracker.init(PARAMS), PARAMS
    for _ in range(2):
        found = measure(params, state.inner, GRADS)
        updates, state = tracker.update(GRADS, state, params)
        params = optax.apply_updates(params, updates)
        assert found == close(dx.decay_stats(state))


@pytest.mark.relaxed("optax.contrib.reduce_on_plateau")
def test_on_demand_with_groups_and_extra_arguments():
    optimizer = optax.chain(
        dx.sgdw(LR, weight_decay=WD), optax.contrib.reduce_on_plateau()
    )
    state = optimizer.init(PARAMS)
    stats = dx.measure_decay(
        optimizer,
        PARAMS,
        state,
        GRADS,
        groups=by_layer,
        scale_invariant=["norm/scale"],
        value=jnp.float32(1.0),
    )
    assert stats["dense/decay_rate"] == pytest.approx(LR * WD)
    assert math.isnan(stats["dense/equilibrium_norm"])
    assert math.isfinite(stats["norm/equilibrium_norm"])


def test_a_step_that_only_accumulates_changes_nothing():
    optimizer = optax.MultiSteps(dx.sgdw(LR, weight_decay=WD), 3)
    with jax.numpy_dtype_promotion("standard"):
        stats = dx.measure_decay(optimizer, PARAMS, optimizer.init(PARAMS), GRADS)
    assert stats["dense/kernel/decay_rate"] == 0.0
    assert stats["dense/kernel/update_norm"] == 0.0
    assert stats["dense/kernel/update_to_weight"] == 0.0


def test_errors_of_measure_decay():
    optimizer = dx.sgdw(LR)
    state = optimizer.init(PARAMS)
    with pytest.raises(TypeError, match="measure_decay: optimizer must be an optax"):
        dx.measure_decay(3, PARAMS, state, GRADS)
    with pytest.raises(ValueError, match="measure_decay: needs the parameters"):
        dx.measure_decay(optimizer, None, state, GRADS)
    with pytest.raises(TypeError, match="measure_decay: groups must be a function"):
        dx.measure_decay(optimizer, PARAMS, state, GRADS, groups="dense")


# --- the table --------------------------------------------------------------------


PLAIN = {"w": jnp.array([3.0, 4.0]), "b": jnp.array([1.2, 1.6])}
ORTHOGONAL = {"w": jnp.array([4.0, -3.0]), "b": jnp.array([0.8, -0.6])}


def table_of(optimizer, params=PLAIN, grads=ORTHOGONAL, **options):
    optimizer = dx.track_decay(optimizer, every=1)
    _, state = optimizer.update(grads, optimizer.init(params), params)
    return dx.decay_table(state, **options)


def test_the_table():
    mask = {"w": True, "b": False}
    table = table_of(dx.sgdw(0.1, weight_decay=0.5, mask=mask))
    assert str(table) == repr(table)
    assert str(table).splitlines() == [
        "   rate/step    half-life  ‖θ‖  ‖Δ‖/‖θ‖  angle  survives",
        "b          0        never    2     0.05   0.05",
        "w       0.05  13.51 steps    5    0.112  0.105      100%",
    ]


@pytest.mark.parametrize(
    ("optimizer", "rate", "half_life"),
    [
        (optax.sgd(0.1), "0", "never"),
        (dx.sgdw(0.1, weight_decay=0.01), "0.001", "692.8 steps"),
        (dx.sgdw(1.0, weight_decay=0.5), "0.5", "1 steps"),
        (dx.sgdw(1.0, weight_decay=1.0), "1", "0 steps"),
        (dx.sgdw(1.0, weight_decay=1.5), "1.5", "0 steps"),
        (
            optax.chain(optax.add_decayed_weights(1e-3)),
            "-0.001",
            "doubles in 693.5 steps",
        ),
        (dx.adam_l2(0.1, weight_decay=0.5), "?", "?"),
        (optax.stateless(lambda u, p: jax.tree.map(jnp.multiply, u, p)), "?", "?"),
    ],
)
def test_rates_of_the_table(optimizer, rate, half_life):
    table = table_of(optimizer)
    assert [row[1:3] for row in table.rows] == [(rate, half_life)] * 2
    notes = str(table).splitlines()[3:]
    assert notes == (
        ["?: one step does not show this decay; dx.audit measures it"]
        if rate == "?"
        else []
    )


def test_integers_and_zeros_have_no_rate():
    params = {"count": jnp.arange(3), "w": jnp.ones(2), "zero": jnp.zeros(2)}
    grads = jax.tree.map(jnp.zeros_like, params)
    mask = {"count": False, "w": True, "zero": True}
    table = table_of(dx.sgdw(1.0, weight_decay=0.5, mask=mask), params, grads)
    assert [row[1] for row in table.rows] == ["", "0.5", ""]
    assert "?" not in str(table)


def test_what_16_bits_do_to_the_decay():
    params = {"w": jnp.ones(4, jnp.bfloat16), "v": jnp.ones(4)}
    still = jax.tree.map(jnp.zeros_like, params)
    table = table_of(dx.sgdw(1e-3, weight_decay=0.1), params, still)
    assert [row[-1] for row in table.rows] == ["100%", "0%"]


def test_the_table_of_groups_and_of_statistics():
    grouped = dx.decay_table(STATE, groups=by_layer)
    assert [row[0] for row in grouped.rows] == ["dense", "norm"]
    assert dx.decay_table(STATS).rows == dx.decay_table(STATE).rows
    assert dx.decay_table({"opt_state": STATE}).rows == dx.decay_table(STATE).rows


def test_the_table_in_a_notebook():
    table = dx.decay_table(STATE, groups=lambda path: "<all>")
    assert "<th>rate/step</th>" in table._repr_html_()
    assert "<td>&lt;all&gt;</td>" in table._repr_html_()
    assert "<p>?: one step" in table_of(dx.adam_l2(0.1))._repr_html_()


def test_errors_of_the_table():
    with pytest.raises(ValueError, match="decay_table: the state contains no TrackDec"):
        dx.decay_table(dx.sgdw(LR).init(PARAMS))
    with pytest.raises(ValueError, match=r"decay_table: .* many runs: .* shape \(3,\)"):
        dx.decay_table(jax.vmap(state_of)(STRENGTHS))
    with pytest.raises(TypeError, match="decay_table: groups must be a function"):
        dx.decay_table(STATE, groups="dense")
