"""dx.adopt_state: a running job moves to another optimizer, with moments and counters.

The reference for a moved job is the job that used the new optimizer from its start.
"""

import functools
import pickle
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import decayax as dx


eqx = pytest.importorskip("equinox")


pytestmark = pytest.mark.relaxed("optax.scale_by_adam and other stages of optax")

PARAMS = {"w": jnp.linspace(-1.0, 1.0, 6).reshape(2, 3), "b": jnp.array([0.5, -0.2])}
SCHEDULE = optax.linear_schedule(0.1, 0.0, 20)
MASK = {"w": True, "b": False}
LABELS = {"w": "one", "b": "two"}


def gradients(params, step):
    def gradient(p, phase):
        wave = jnp.cos(jnp.arange(p.size) + step + phase).reshape(p.shape)
        return (wave + 0.1 * p).astype(p.dtype)

    flat, treedef = jax.tree.flatten(params)
    return treedef.unflatten([gradient(p, 0.3 * n) for n, p in enumerate(flat)])


def train(optimizer, params, state, start, steps):
    def step(carry, n):
        params, state = carry
        updates, state = optimizer.update(gradients(params, n), state, params)
        return (dx.apply_updates(params, updates), state), None

    run = jax.jit(lambda carry, n: jax.lax.scan(step, carry, n)[0])
    return run((params, state), jnp.arange(start, start + steps))


def assert_equal(got, expected, rtol=0.0):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert (x.dtype, x.shape) == (y.dtype, y.shape)
        x, y = (np.asarray(a.astype(jnp.float32) if a.dtype == jnp.bfloat16 else a)
                for a in (x, y))  # fmt: skip
        np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol)


def counters(state):
    """(field, value) of the step counters in the order of the state."""
    flat, _ = jax.tree_util.tree_flatten_with_path(state)
    return [
        (path[-1].name, int(value))
        for path, value in flat
        if getattr(path[-1], "name", "") in ("count", "step", "gradient_step")
    ]


# --- moved jobs -------------------------------------------------------------------


def around(inner):
    """Any finished optimizer inside with_decay, with λ = 0: the same trajectory."""
    return dx.with_decay(inner, 0.0, learning_rate=SCHEDULE)


def in_groups(one, two):
    return optax.partition({"one": one, "two": two}, LABELS)


def multi(optimizer):
    return optax.MultiSteps(optimizer, 3)


NO_DECAY = {"weight_decay": 0.0}
RMS = {"eps_in_sqrt": False}
clip = optax.clip_by_global_norm(1.0)

# Two optimizers with the same trajectory, and the relative error of a moved job: 0
# where both run the same float32 operations.
JOBS = {
    "adamw": (optax.adamw(0.01), dx.adamw(0.01), 0),
    "adamw, schedule": (optax.adamw(SCHEDULE), dx.adamw(SCHEDULE), 0),
    "adamw, mask": (
        optax.adamw(SCHEDULE, weight_decay=0.1, mask=MASK),
        dx.adamw(SCHEDULE, weight_decay=0.1, mask=MASK),
        0,
    ),
    "nadamw": (optax.nadamw(SCHEDULE), dx.adamw(SCHEDULE, nesterov=True), 0),
    "adam": (optax.adam(SCHEDULE), dx.adam_l2(SCHEDULE, **NO_DECAY), 0),
    "adam, bfloat16 mu": (
        optax.adam(SCHEDULE, mu_dtype=jnp.bfloat16),
        optax.chain(optax.adam(SCHEDULE, mu_dtype=jnp.bfloat16), optax.identity()),
        0,
    ),
    "adam and a decay": (
        optax.chain(optax.adam(SCHEDULE), optax.add_decayed_weights(-1e-3)),
        optax.chain(optax.adam(SCHEDULE), dx.independent_decay(1e-3)),
        1e-6,
    ),
    "sgd": (optax.sgd(0.1), dx.sgdw(0.1, **NO_DECAY), 0),
    "sgd, schedule": (optax.sgd(SCHEDULE), dx.sgd_l2(SCHEDULE, **NO_DECAY), 0),
    "sgd, momentum": (
        optax.sgd(0.1, momentum=0.9),
        dx.sgd_l2(0.1, momentum=0.9, **NO_DECAY),
        0,
    ),
    "sgd, Nesterov, schedule": (
        optax.sgd(SCHEDULE, momentum=0.9, nesterov=True),
        dx.sgdw(SCHEDULE, momentum=0.9, nesterov=True, **NO_DECAY),
        0,
    ),
    "rmsprop": (optax.rmsprop(0.01, **RMS), dx.rmspropw(0.01, **NO_DECAY), 1e-5),
    "rmsprop, schedule": (
        optax.rmsprop(SCHEDULE, **RMS),
        dx.rmsprop_l2(SCHEDULE, **NO_DECAY),
        1e-5,
    ),
    "rmsprop, bias correction": (
        optax.rmsprop(SCHEDULE, bias_correction=True, **RMS),
        dx.rmspropw(SCHEDULE, bias_correction=True, **NO_DECAY),
        1e-5,
    ),
    "rmsprop, momentum, inside with_decay": (
        optax.rmsprop(SCHEDULE, momentum=0.9),
        around(optax.rmsprop(SCHEDULE, momentum=0.9)),
        0,
    ),
    "lion": (
        optax.lion(SCHEDULE, weight_decay=0.0),
        around(optax.lion(SCHEDULE, weight_decay=0.0)),
        0,
    ),
    **{
        name: (make(SCHEDULE), around(make(SCHEDULE)), 1e-6)
        for name, make in {
            "radam": optax.radam,
            "adabelief": optax.adabelief,
            "amsgrad": optax.amsgrad,
            "yogi": optax.yogi,
            "adagrad": optax.adagrad,
            "adan": optax.adan,
            "novograd": optax.novograd,
            "adadelta": optax.adadelta,
            "lamb": optax.lamb,
            "adafactor": optax.adafactor,
        }.items()
    },
    "clipping": (
        optax.chain(clip, optax.adamw(SCHEDULE)),
        optax.chain(clip, dx.adamw(SCHEDULE)),
        0,
    ),
    "an average": (
        optax.chain(optax.adamw(SCHEDULE), optax.ema(0.9)),
        optax.chain(dx.adamw(SCHEDULE), optax.identity(), optax.ema(0.9)),
        0,
    ),
    "two momenta": (
        optax.chain(optax.trace(0.9), optax.trace(0.5), optax.scale(-0.1)),
        optax.chain(
            optax.trace(0.9),
            dx.decoupled_decay(0.0),
            optax.trace(0.5),
            optax.scale(-0.1),
        ),
        0,
    ),
    "named_chain": (
        optax.named_chain(("clip", clip), ("adamw", optax.adamw(SCHEDULE))),
        optax.chain(clip, dx.adamw(SCHEDULE)),
        0,
    ),
    "MultiSteps": (multi(optax.adamw(SCHEDULE)), multi(dx.adamw(SCHEDULE)), 0),
    "MultiSteps of sgd": (multi(optax.sgd(0.1)), multi(dx.sgdw(0.1, **NO_DECAY)), 0),
    "apply_if_finite": (
        optax.apply_if_finite(optax.adamw(SCHEDULE), 3),
        optax.apply_if_finite(dx.adamw(SCHEDULE), 3),
        0,
    ),
    "inject_hyperparams": (
        optax.inject_hyperparams(optax.adamw)(SCHEDULE),
        optax.inject_hyperparams(dx.adamw)(SCHEDULE),
        1e-6,
    ),
    "into inject_hyperparams": (
        optax.adamw(0.01),
        optax.inject_hyperparams(dx.adamw)(0.01),
        1e-6,
    ),
    "into partition": (
        optax.adamw(SCHEDULE),
        in_groups(dx.adamw(SCHEDULE), optax.adamw(SCHEDULE)),
        1e-6,
    ),
    "partition": (
        in_groups(optax.adamw(SCHEDULE), optax.sgd(0.1, momentum=0.9)),
        in_groups(dx.adamw(SCHEDULE), dx.sgdw(0.1, momentum=0.9, **NO_DECAY)),
        1e-6,
    ),
    "masked": (
        optax.masked(optax.adamw(SCHEDULE), MASK),
        optax.masked(dx.adamw(SCHEDULE), MASK),
        1e-6,
    ),
    "with_compensation": (
        optax.adamw(SCHEDULE),
        dx.with_compensation(dx.adamw(SCHEDULE)),
        0,
    ),
    "with_stochastic_rounding": (
        optax.adamw(SCHEDULE),
        dx.with_stochastic_rounding(optax.adamw(SCHEDULE)),
        0,
    ),
    "track_decay": (optax.adamw(SCHEDULE), dx.track_decay(dx.adamw(SCHEDULE)), 1e-6),
    "all wrappers": (
        optax.chain(clip, optax.adamw(SCHEDULE)),
        dx.with_compensation(dx.track_decay(optax.chain(clip, dx.adamw(SCHEDULE)))),
        0,
    ),
    "schedule-free": (
        optax.contrib.schedule_free(optax.sgd(0.1), 0.1),
        optax.contrib.schedule_free(dx.sgdw(0.1, **NO_DECAY), 0.1),
        0,
    ),
}


@functools.cache
def trained(name, side, steps):
    optimizer = JOBS[name][side]
    return train(optimizer, PARAMS, optimizer.init(PARAMS), 0, steps)


@pytest.mark.parametrize("side", [0, 1], ids=["to decayax", "back"])
@pytest.mark.parametrize("name", JOBS)
def test_a_moved_job_goes_on_as_if_it_had_always_been_there(name, side):
    """7 steps: not a multiple of the 3 that MultiSteps accumulates."""
    new, rtol = JOBS[name][1 - side], JOBS[name][2]
    params, old_state = trained(name, side, 7)
    state = dx.adopt_state(new, params, old_state)
    whole, whole_state = trained(name, 1 - side, 15)
    got, got_state = train(new, params, state, 7, 8)
    assert_equal(got, whole, rtol)
    assert any(np.any(PARAMS[leaf] != got[leaf]) for leaf in PARAMS)
    if counters(old_state):
        assert counters(got_state) == counters(whole_state)


@pytest.mark.parametrize("name", JOBS)
def test_there_and_back_is_the_same_state(name):
    old, new, _ = JOBS[name]
    params, state = trained(name, 0, 7)
    back = dx.adopt_state(old, params, dx.adopt_state(new, params, state))
    if name == "inject_hyperparams":  # these are calculated again in each step
        back = back._replace(hyperparams=state.hyperparams)
    assert_equal(back, state)


# --- 16 bits ----------------------------------------------------------------------


NARROW = jax.tree.map(lambda p: p.astype(jnp.bfloat16), PARAMS)


def as_float64(tree):
    return jax.tree.map(lambda x: np.asarray(x.astype(jnp.float32), np.float64), tree)


@pytest.mark.parametrize("wrap", [dx.with_compensation, dx.with_stochastic_rounding])
def test_a_bfloat16_job_begins_to_decay(wrap):
    """The moments of plain AdamW are bfloat16; those of the wrapped one are float32."""
    old = optax.adamw(0.01, weight_decay=0.1)
    params, old_state = train(old, NARROW, old.init(NARROW), 0, 5)
    assert old_state[0].mu["w"].dtype == jnp.bfloat16
    new = wrap(dx.adamw(0.01, weight_decay=0.1))
    state = dx.adopt_state(new, params, old_state)
    for moment in ("mu", "nu"):
        got, expected = (getattr(s, moment) for s in (state[0][0], old_state[0]))
        assert got["w"].dtype == jnp.float32
        jax.tree.map(np.testing.assert_array_equal, *map(as_float64, (got, expected)))
    assert int(state[0][0].count) == int(state[0][1].step) == 5
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = new.update(zeros, state, params)
    assert dx.apply_updates(params, updates)["w"].dtype == jnp.bfloat16
    # And out of it: the residual is dropped, the moments are rounded to bfloat16.
    back = dx.adopt_state(old, params, state)
    assert_equal(back, old_state)


def test_a_residual_moves_with_the_job():
    inner = optax.adamw(SCHEDULE)
    old = dx.with_compensation(inner)
    params, old_state = train(old, NARROW, old.init(NARROW), 0, 5)
    new = dx.with_compensation(dx.with_state_dtype(dx.adamw(SCHEDULE), jnp.bfloat16))
    state = dx.adopt_state(new, params, old_state)
    assert_equal(state[1], old_state[1])
    assert np.any(state[1].residual["w"])
    # Its dtype says that the parameter had 16 bits. Wider parameters have none.
    wide = jax.tree.map(lambda p: p.astype(jnp.float32), params)
    state = dx.adopt_state(new, wide, old_state)
    assert_equal(state[1], new.init(wide)[1])


def test_moments_are_rounded_to_the_nearest():
    params, old_state = trained("adamw", 0, 7)
    new = dx.with_state_dtype(optax.adamw(0.01), jnp.bfloat16)
    state = dx.adopt_state(new, params, old_state)
    for moment in ("mu", "nu"):
        old = getattr(old_state[0], moment)["w"]
        got = getattr(state.inner[0], moment)["w"]
        assert got.dtype == jnp.bfloat16
        np.testing.assert_array_equal(got, old.astype(jnp.bfloat16))
    assert int(state.step) == int(state.inner[0].count) == 7


def test_the_seed_is_that_of_the_new_optimizer():
    old = dx.with_stochastic_rounding(optax.adamw(0.01), seed=1)
    new = dx.with_stochastic_rounding(dx.adamw(0.01), seed=2)
    state = dx.adopt_state(new, PARAMS, old.init(PARAMS))
    np.testing.assert_array_equal(state[1].key, new.init(PARAMS)[1].key)


# --- counters ---------------------------------------------------------------------


def set_step(state, **values):
    """Counters by field, as in `optax.tree.set`, by hand."""
    return state._replace(**{k: jnp.int32(v) for k, v in values.items()})


def bad_steps(optimizer, finite, bad):
    """A state after some steps with finite gradients and some with NaN."""
    state = optimizer.init(PARAMS)
    for value in [1.0] * finite + [jnp.nan] * bad:
        grads = jax.tree.map(lambda p, v=value: jnp.full_like(p, v), PARAMS)
        _, state = optimizer.update(grads, state, PARAMS)
    return state


class WeightDecaySchedule(NamedTuple):
    """The state of optax.add_decayed_weights with a schedule, in newer versions."""

    count: Any


def restarted():
    """Adam at step 100, while someone restarted the schedule 40 steps ago."""
    state: Any = optax.adamw(SCHEDULE).init(PARAMS)
    adam, *middle, rate = state
    return (set_step(adam, count=100), *middle, set_step(rate, count=40))


def dx_restarted():
    state: Any = dx.adamw(SCHEDULE).init(PARAMS)
    adam, decay, rate = state
    return set_step(adam, count=100), set_step(decay, step=90), set_step(rate, step=40)


def after(optimizer, steps):
    return train(optimizer, PARAMS, optimizer.init(PARAMS), 0, steps)[1]


finite = functools.partial(optax.apply_if_finite, max_consecutive_errors=9)
every_third = functools.partial(
    optax.conditionally_transform, should_transform_fn=lambda step: step % 3 == 0
)
ADAMW, OURS = optax.adamw(SCHEDULE), dx.adamw(SCHEDULE)
COUNTERS = {
    # the old state, the new optimizer, its counters
    "no counter of the learning rate": (
        lambda: after(optax.adamw(0.01), 5),
        OURS,
        [("count", 5), ("step", 5), ("step", 5)],
    ),
    "a restarted schedule": (
        restarted,
        OURS,
        [("count", 100), ("step", 100), ("step", 40)],
    ),
    "a restarted schedule, back": (
        dx_restarted,
        ADAMW,
        [("count", 100), ("count", 40)],
    ),
    "a restarted schedule, ours": (
        dx_restarted,
        optax.chain(clip, OURS),
        [("count", 100), ("step", 90), ("step", 40)],
    ),
    "a schedule of λ": (
        lambda: (WeightDecaySchedule(jnp.int32(30)), ADAMW.init(PARAMS)),
        optax.chain(dx.add_l2_to_grad(SCHEDULE), OURS),
        [("step", 30), ("count", 0), ("step", 30), ("step", 0)],
    ),
    "MultiSteps counts mini-steps outside": (
        lambda: after(multi(ADAMW), 7),
        multi(OURS),
        [("gradient_step", 2), ("count", 2), ("step", 2), ("step", 2)],
    ),
    "MultiSteps without counters inside": (
        lambda: after(multi(optax.sgd(0.1)), 7),
        multi(dx.sgdw(0.1)),
        [("gradient_step", 2), ("step", 2), ("step", 2)],
    ),
    "inject_hyperparams outside MultiSteps": (
        lambda: after(
            optax.inject_hyperparams(
                lambda rate: multi(optax.sgd(rate)).gradient_transformation()
            )(0.1),
            7,
        ),
        optax.inject_hyperparams(
            lambda rate: multi(dx.sgdw(rate)).gradient_transformation()
        )(0.1),
        [("count", 7), ("gradient_step", 2), ("step", 2), ("step", 2)],
    ),
    "into MultiSteps": (
        lambda: after(ADAMW, 7),
        multi(OURS),
        [("gradient_step", 7), ("count", 7), ("step", 7), ("step", 7)],
    ),
    "skipped steps": (
        lambda: bad_steps(finite(ADAMW), 4, 3),
        finite(OURS),
        [("count", 4), ("step", 4), ("step", 4)],
    ),
    "skipped steps, counted outside": (
        lambda: bad_steps(optax.chain(finite(ADAMW), dx.independent_decay(0.0)), 4, 3),
        optax.chain(finite(OURS), dx.independent_decay(0.0)),
        [("count", 4), ("step", 4), ("step", 4), ("step", 7)],
    ),
    "a conditional transform": (
        lambda: after(every_third(optax.adamw(0.01)), 7),
        every_third(dx.adamw(0.01)),
        [("count", 3), ("step", 3), ("step", 3), ("step", 7)],
    ),
    "the random bits of rounding": (
        lambda: after(ADAMW, 7),
        dx.with_stochastic_rounding(ADAMW),
        [("count", 7), ("count", 7), ("step", 7)],
    ),
    "track_decay": (
        lambda: after(ADAMW, 7),
        dx.track_decay(ADAMW),
        [("step", 7), ("count", 7), ("count", 7)],
    ),
    "the largest int32": (
        lambda: (set_step(ADAMW.init(PARAMS)[0], count=2**31 - 1),),
        OURS,
        [("count", 2**31 - 1), ("step", 2**31 - 1), ("step", 2**31 - 1)],
    ),
    "no counter at all": (
        lambda: after(optax.sgd(0.1, momentum=0.9), 7),
        dx.sgdw(0.1, momentum=0.9),
        [("step", 0), ("step", 0)],
    ),
}


@pytest.mark.parametrize("case", COUNTERS)
def test_counters_go_on(case):
    old_state, new, expected = COUNTERS[case]
    state = dx.adopt_state(new, PARAMS, old_state())
    assert counters(state) == expected


def test_the_documented_way_to_set_a_step():
    old = optax.sgd(0.1, momentum=0.9)
    state = dx.adopt_state(dx.sgdw(SCHEDULE, momentum=0.9), PARAMS, old.init(PARAMS))
    state = optax.tree_utils.tree_set(state, step=jnp.int32(1000))
    assert counters(state) == [("step", 1000), ("step", 1000)]


def test_accumulated_gradients_and_skipped_steps_move_along():
    state = dx.adopt_state(multi(OURS), PARAMS, after(multi(ADAMW), 7))
    assert int(state.mini_step) == 1
    assert np.any(state.acc_grads["w"])
    state = dx.adopt_state(finite(OURS), PARAMS, bad_steps(finite(ADAMW), 4, 3))
    assert (int(state.notfinite_count), int(state.total_notfinite)) == (3, 3)
    assert not state.last_finite


def test_hyperparameters_are_those_of_the_new_optimizer():
    old = optax.inject_hyperparams(optax.adamw)(0.01, weight_decay=0.1)
    new = optax.inject_hyperparams(dx.adamw)(0.02, weight_decay=0.3)
    state = dx.adopt_state(new, PARAMS, after(old, 3))
    assert state.hyperparams["learning_rate"] == np.float32(0.02)
    assert state.hyperparams["weight_decay"] == np.float32(0.3)
    assert int(state.count) == 3


# --- checkpoints ------------------------------------------------------------------


def by_numpy(state, template):
    return jax.tree.map(np.asarray, state)


def by_pickle(state, template):
    return pickle.loads(pickle.dumps(state))


def by_state_dict(state, template):
    return pytest.importorskip("flax.serialization").to_state_dict(state)


def by_msgpack(state, template):
    """Without a target: nested dicts of NumPy arrays."""
    flax = pytest.importorskip("flax.serialization")
    return flax.msgpack_restore(flax.to_bytes(state))


def by_msgpack_into_a_target(state, template):
    flax = pytest.importorskip("flax.serialization")
    return flax.from_bytes(template, flax.to_bytes(state))


def by_orbax(state, template, *target):
    """Without a target: dicts and lists."""
    orbax = pytest.importorskip("orbax.checkpoint")
    import tempfile

    with tempfile.TemporaryDirectory() as folder, orbax.StandardCheckpointer() as saver:
        saver.save(f"{folder}/state", state)
        saver.wait_until_finished()
        return saver.restore(f"{folder}/state", *target)


def by_orbax_into_a_target(state, template):
    return by_orbax(state, template, template)


CHECKPOINTS = [
    by_numpy,
    by_pickle,
    by_state_dict,
    by_msgpack,
    by_msgpack_into_a_target,
    pytest.param(by_orbax, marks=pytest.mark.filterwarnings("ignore")),
    pytest.param(by_orbax_into_a_target, marks=pytest.mark.filterwarnings("ignore")),
]
STORED = [
    "adamw",
    "adamw, schedule",
    "sgd, momentum",
    "rmsprop, schedule",
    "rmsprop, momentum, inside with_decay",
    "lion",
    "an average",
    "MultiSteps",
    "apply_if_finite",
    "inject_hyperparams",
    "into partition",
    "partition",
    "masked",
    "all wrappers",
    "with_stochastic_rounding",
]


@pytest.mark.needs_flax
@pytest.mark.parametrize("side", [0, 1], ids=["to decayax", "back"])
@pytest.mark.parametrize("name", STORED)
@pytest.mark.parametrize("restore", CHECKPOINTS)
def test_a_checkpoint_moves_like_the_state_itself(restore, name, side):
    old, new = JOBS[name][side], JOBS[name][1 - side]
    params, state = trained(name, side, 7)
    restored = restore(state, old.init(params))
    moved = dx.adopt_state(new, params, restored)
    assert_equal(moved, dx.adopt_state(new, params, state))
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(moved))


def test_a_moved_state_can_be_stored_and_restored():
    params, state = trained("adamw, schedule", 0, 7)
    new = dx.with_compensation(dx.adamw(SCHEDULE))
    moved = dx.adopt_state(new, params, state)
    assert_equal(by_pickle(moved, None), moved)


# --- parameters of other shapes ---------------------------------------------------


class Layer(NamedTuple):
    kernel: Any
    step: Any


def equinox_parameters():
    model = eqx.nn.MLP(2, 2, 3, 1, key=jax.random.key(0))
    return eqx.filter(model, eqx.is_inexact_array)


TREES = {
    "array": lambda: jnp.ones(3),
    "scalar": lambda: jnp.float32(2.0),
    "list": lambda: [jnp.ones(3), [jnp.ones(2)]],
    "many": lambda: [jnp.full(2, float(n)) for n in range(12)],
    "tuple": lambda: (jnp.ones(3), jnp.ones(2)),
    "NamedTuple": lambda: Layer(jnp.ones(3), jnp.ones(())),
    "NamedTuples": lambda: {"a": Layer(jnp.ones(3), jnp.ones(())), "mu": jnp.ones(2)},
    "names of fields": lambda: {
        "mu": {"w": jnp.ones(2), "mu": jnp.ones(3)},
        "w": jnp.ones(4),
        "nu": jnp.ones(5),
        "count": jnp.ones(()),
        "step": jnp.ones(()),
        "trace": jnp.ones(1),
    },
    "step": lambda: {"step": jnp.ones(())},
    "count": lambda: {"count": jnp.ones(())},
    "numbers": lambda: {"0": jnp.ones(2), "1": {"mu": jnp.ones(3)}},
    "Haiku": lambda: {"mlp/~/linear": {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}},
    "Equinox": equinox_parameters,
    "None": lambda: {"w": jnp.ones(3), "frozen": None},
    "MaskedNode": lambda: {"w": jnp.ones(3), "frozen": optax.MaskedNode()},
    "complex": lambda: {"w": jnp.ones(3, jnp.complex64), "b": jnp.ones(3)},
    "equal shapes": lambda: {"a": jnp.ones(3), "b": 2 * jnp.ones(3)},
    "empty": dict,
}
PAIRS = {
    "adamw": (optax.adamw(SCHEDULE), dx.with_compensation(dx.adamw(SCHEDULE))),
    "sgd": (
        optax.sgd(SCHEDULE, momentum=0.9),
        dx.with_stochastic_rounding(dx.sgdw(SCHEDULE, momentum=0.9)),
    ),
}


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("tree", TREES)
def test_trees(tree, pair, stored):
    """Each moment reaches its own parameter; the round trip changes nothing."""
    params, (old, new) = TREES[tree](), PAIRS[pair]
    state = old.init(params)
    # Every element of the state gets a number of its own.
    numbers = iter(range(1, 1000))
    state = jax.tree.map(lambda x: jnp.full_like(x, next(numbers)), state)
    seen = jax.tree.map(np.asarray, state) if stored else state
    moved = dx.adopt_state(new, params, seen)
    if pair == "adamw":
        assert_equal(moved[0][0], state[0])
        assert int(moved[0][2].step) == int(state[2].count)
    else:
        assert_equal(moved[0][0], state[0])
        assert int(moved[0][2].step) == int(state[1].count)
    assert_equal(dx.adopt_state(old, params, moved), state)


@pytest.mark.needs_flax
def test_the_state_of_an_nnx_optimizer():
    nnx = pytest.importorskip("flax.nnx")
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    old = nnx.Optimizer(model, optax.adamw(SCHEDULE), wrt=nnx.Param)
    grads = jax.tree.map(jnp.ones_like, nnx.state(model, nnx.Param))
    old.update(model, grads)
    new = dx.adamw(SCHEDULE)
    params = nnx.state(model, nnx.Param)
    for old_state in (old.opt_state, nnx.to_pure_dict(nnx.state(old))["opt_state"]):
        state = dx.adopt_state(new, params, old_state)
        assert counters(state) == [("count", 1), ("step", 1), ("step", 1)]
        for got, expected in zip(
            jax.tree.leaves(state[0].mu),
            jax.tree.leaves(old.opt_state[0].mu),
            strict=True,
        ):
            np.testing.assert_array_equal(got, expected)


# --- JAX --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["adamw, schedule", "MultiSteps", "all wrappers"])
def test_jit_eval_shape_and_vmap(name):
    new = JOBS[name][1]
    params, state = trained(name, 0, 7)
    adopt = functools.partial(dx.adopt_state, new)
    expected = adopt(params, state)
    assert_equal(jax.jit(adopt)(params, state), expected)
    shapes = jax.eval_shape(adopt, params, state)
    assert jax.tree.structure(shapes) == jax.tree.structure(expected)
    two = jax.tree.map(lambda x: jnp.stack([x, x]), (params, state))
    mapped = jax.vmap(adopt)(*two)
    assert_equal(jax.tree.map(lambda x: x[1], mapped), expected)


def test_no_two_counters_share_an_array():
    params, state = jax.tree.map(jnp.copy, trained("adamw", 0, 7))
    new = in_groups(dx.adamw(0.01), dx.adamw(0.01))
    moved = dx.adopt_state(new, params, state)
    step = jax.jit(new.update, donate_argnums=1)
    _, moved = step(gradients(params, 0), moved, params)
    assert int(moved.inner_states["one"].inner_state[2].step) == 8
    assert int(state[0].count) == 7  # the old counter is not donated


@pytest.mark.parametrize("restored", [False, True])
def test_the_moments_have_the_sharding_of_the_parameters(restored):
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    params = {"w": jax.device_put(jnp.ones((4, 2)), sharding)}
    state = optax.adamw(0.01).init(params)
    state = jax.tree.map(np.asarray, state) if restored else state
    moved = dx.adopt_state(dx.adamw(0.01), params, state)
    assert moved[0].mu["w"].sharding.is_equivalent_to(sharding, 2)


def test_the_second_step_does_not_compile_again():
    params, state = trained("adamw", 0, 7)
    new = dx.adamw(0.01)
    step = jax.jit(new.update)
    state = dx.adopt_state(new, params, state)
    for _ in range(3):
        _, state = step(gradients(params, 0), state, params)
    _, state = step(gradients(params, 0), new.init(params), params)
    assert step._cache_size() == 1


# --- what does not fit ------------------------------------------------------------


W = r"\(float32\[2, 3\]( of \w+)?\)"
REFUSED = {
    # old, new, text
    "adam to momentum": (
        optax.adamw(0.1),
        dx.sgdw(0.1, momentum=0.9),
        r"the new state has no place for 0/mu/b \(float32\[2\]( of \w+)?\), 0/mu/w "
        rf"{W}, 0/nu/b .* and 1 more; the old state has no place for 0/trace/b .*, "
        rf"0/trace/w {W}\.",
    ),
    "momentum to adam": (
        optax.sgd(0.1, momentum=0.9),
        dx.adamw(0.1),
        r"the new state has no place for 0/trace/b.*the old state has no place for 0",
    ),
    "adam to plain sgd": (
        optax.adam(0.1),
        dx.sgdw(0.1),
        r"the new state has no place for 0/mu/b .* and 1 more. Pass an optimizer w",
    ),
    "plain sgd to adam": (optax.sgd(0.1), dx.adamw(0.1), r"old state has no place for"),
    "rmsprop to adam": (
        optax.rmsprop(0.1),
        dx.adamw(0.1),
        r"the old state has no place for 0/mu/b .*, 0/nu/b ",
    ),
    "adam to rmsprop": (
        optax.adam(0.1),
        dx.rmspropw(0.1),
        r"no place for 0/mu/b.*0/nu/b",
    ),
    "lion to adam": (
        optax.lion(0.1),
        dx.adamw(0.1),
        r"no place for 0/mu/.*old.* 0/mu/b",
    ),
    "the same fields": (
        optax.adabelief(0.1),
        dx.adamw(0.1),
        r"new.* 0/mu/b.*old.* 0/mu/b",
    ),
    "centered rmsprop to adam": (
        optax.rmsprop(0.1, centered=True),
        dx.adamw(0.1),
        r"no place for 0/mu/b",
    ),
    "amsgrad to adam": (optax.amsgrad(0.1), dx.adamw(0.1), r"no place for 0/mu/b"),
    "adafactor to adam": (optax.adafactor(0.1), dx.adamw(0.1), r"no place for .*v_col"),
    "momentum is lost": (
        optax.sgd(0.1, momentum=0.9),
        dx.sgdw(0.1),
        r"new state has no place for 0/trace/b \(float32\[2\]( of \w+)?\), 0/trace/w "
        r".*rmsprop",
    ),
    "momentum with the learning rate in it": (
        optax.rmsprop(0.1, momentum=0.9),
        dx.rmspropw(0.1, momentum=0.9),
        r"new state has no place for 2/trace/b .*1/trace/.*\(the momentum of optax",
    ),
    "momentum without the learning rate in it": (
        dx.rmsprop_l2(0.1, momentum=0.9),
        optax.rmsprop(0.1, momentum=0.9),
        r"new state has no place for 2/trace/b .*2/trace/.*\(the momentum of optax",
    ),
    "one of two momenta": (
        optax.chain(optax.trace(0.9), optax.trace(0.5), optax.scale(-0.1)),
        optax.chain(optax.trace(0.9), optax.scale(-0.1)),
        r"the new state has no place for 1/trace/b",
    ),
    "a second momentum": (
        optax.chain(optax.trace(0.9), optax.scale(-0.1)),
        optax.chain(optax.trace(0.9), optax.trace(0.5), optax.scale(-0.1)),
        r"the old state has no place for 1/trace/b",
    ),
    "an average is lost": (
        optax.chain(optax.adam(0.1), optax.ema(0.9)),
        dx.adamw(0.1),
        r"the new state has no place for 1/ema/b",
    ),
    "an average starts": (
        optax.adam(0.1),
        optax.chain(dx.adamw(0.1), optax.ema(0.9)),
        r"the old state has no place for 1/ema/b",
    ),
    "a group is frozen": (
        optax.adam(0.1),
        in_groups(dx.adamw(0.1), optax.set_to_zero()),
        r"the new state has no place for 0/mu/b \(float32\[2\]( of \w+)?\), 0/nu/b",
    ),
    "a group thaws": (
        in_groups(optax.adam(0.1), optax.set_to_zero()),
        dx.adamw(0.1),
        r"the old state has no place for 0/mu/b \(float32\[2\]( of \w+)?\), 0/nu/b",
    ),
    "a plateau": (
        optax.chain(optax.adam(0.1), optax.contrib.reduce_on_plateau()),
        dx.adamw(0.1),
        r"the new state has no place for 1/(scale|best_value|avg_value) \(float32",
    ),
}


@pytest.mark.parametrize(
    ("case", "stored"),
    [
        (case, stored)
        for case in REFUSED
        for stored in (False, True)
        # A dict does not name the class of the state.
        if not (stored and case == "the same fields")
    ],
)
def test_what_does_not_fit_is_refused_by_name(case, stored):
    old, new, text = REFUSED[case]
    state = old.init(PARAMS)
    state = as_dicts(state) if stored else state
    with pytest.raises(
        ValueError, match=rf"^adopt_state: the states do not fit: .*{text}"
    ):
        dx.adopt_state(new, PARAMS, state)


@pytest.mark.parametrize("stored", [False, True])
def test_a_job_leaves_multi_steps_after_an_update_that_was_applied(stored):
    old, new = optax.MultiSteps(optax.adam(0.1), 2), dx.adamw(0.1)
    state = old.init(PARAMS)
    for step in range(1, 5):
        _, state = old.update(jax.tree.map(jnp.ones_like, PARAMS), state, PARAMS)
        given = as_dicts(state) if stored else state
        if step % 2:
            text = r"no place for acc_grads/b .*MultiSteps has accumulated gradients"
            with pytest.raises(ValueError, match=text):
                dx.adopt_state(new, PARAMS, given)
        else:
            moved = dx.adopt_state(new, PARAMS, given)
            assert optax.tree.get(moved, "count") == step // 2
            mu = state.inner_opt_state[0].mu
            jax.tree.map(np.testing.assert_array_equal, moved[0].mu, mu)


def as_dicts(node):
    """The state as a checkpoint without a target holds it: names, and no classes."""
    if isinstance(node, tuple):
        names = getattr(node, "_fields", range(len(node)))
        return {str(k): as_dicts(v) for k, v in zip(names, node, strict=True)}
    if isinstance(node, dict):
        return {str(k): as_dicts(v) for k, v in node.items()}
    return node


def test_other_parameters():
    state = optax.adamw(0.1).init({"w": jnp.ones(3), "x": jnp.ones(2)})
    with pytest.raises(
        ValueError, match=r"place for .*x.*the parameters that it belon"
    ):
        dx.adopt_state(dx.adamw(0.1), {"w": jnp.ones(3), "y": jnp.ones(2)}, state)
    state = optax.adamw(0.1).init({"w": jnp.ones(3)})
    with pytest.raises(ValueError, match=r"old state has no place for 0/mu/y"):
        dx.adopt_state(dx.adamw(0.1), {"w": jnp.ones(3), "y": jnp.ones(2)}, state)


@pytest.mark.parametrize("shape", [(4,), (3, 1), (), (1, 3)])
def test_other_shapes(shape):
    state = optax.adamw(0.1).init({"w": jnp.ones(shape)})
    text = (
        r"old state has float32\[.*\] at 0/mu/w, the new optimizer needs float32\[3\]"
    )
    with pytest.raises(
        ValueError, match=rf"^adopt_state: the {text} at 0/mu/w. Pass the"
    ):
        dx.adopt_state(dx.adamw(0.1), {"w": jnp.ones(3)}, state)


def test_a_complex_moment_does_not_become_real():
    state = optax.adam(0.1).init({"w": jnp.ones(3, jnp.complex64)})
    with pytest.raises(ValueError, match=r"old state has complex64\[3\] at 0/mu/w"):
        dx.adopt_state(dx.adamw(0.1), {"w": jnp.ones(3)}, state)


@pytest.mark.parametrize("wrong", [optax.adamw, 1e-3, None])
def test_the_optimizer_must_be_finished(wrong):
    with pytest.raises(
        TypeError, match=r"^adopt_state: optimizer must be an optax.Grad"
    ):
        dx.adopt_state(wrong, PARAMS, optax.adamw(0.1).init(PARAMS))


# --- memories of a decay ----------------------------------------------------------


# What needs the parameters at init: no reference trajectory has the same memory.
PULLED = {
    "initial": dx.decay_to_init(0.1),
    "given anchor": dx.decay_to(0.1, 0.25),
    "average": dx.decay_to_average(0.1, average_rate=0.5),
    "norm": dx.norm_control(0.1, target_ratio=0.5),
    "target norm": dx.target_norm_decay("initial", learning_rate=SCHEDULE),
}
LAST = {
    "fixed norm": dx.fixed_norm(radius="initial", mask=MASK),
    "dual": dx.constrain_norm(initial_factor=0.5, mask=MASK),
    "bound": dx.constrain_norm(after_steps=2, mask=MASK),
    "growth": dx.constrain_norm(inflection_every=2, mask=MASK),
}


def with_memory(name):
    base = optax.scale_by_adam()
    rate = optax.scale_by_learning_rate(SCHEDULE)
    if name in LAST:
        return optax.chain(base, rate, LAST[name])
    if name == "frequency":
        return optax.chain(dx.touched_decay(base, 0.1, average_rate=0.5), rate)
    if name == "start":
        return dx.selective_projection(optax.chain(base, rate))
    if name == "rotation":
        return optax.chain(
            base, dx.rotational(0.1, learning_rate=SCHEDULE, axis=0, mask=MASK)
        )
    return optax.chain(base, PULLED[name], rate)


MEMORIES = [*PULLED, *LAST, "frequency", "start", "rotation"]


def memories(state):
    """The memories of all decays in a state, in order."""
    found = jax.tree.leaves(state, is_leaf=lambda x: hasattr(x, "memory"))
    return [x.memory for x in found if hasattr(x, "memory")]


@pytest.mark.parametrize("name", MEMORIES)
def test_a_new_decay_starts_its_memory_as_in_init(name):
    params, old_state = train(
        optax.adamw(SCHEDULE), PARAMS, optax.adamw(SCHEDULE).init(PARAMS), 0, 5
    )
    new = with_memory(name)
    state = dx.adopt_state(new, params, old_state)
    assert memories(state)
    assert_equal(memories(state), memories(new.init(params)))
    assert {count for _, count in counters(state)} == {5}
    old_moments = optax.tree.get(old_state, "mu"), optax.tree.get(old_state, "nu")
    assert_equal(
        (optax.tree.get(state, "mu"), optax.tree.get(state, "nu")), old_moments
    )
    back = dx.adopt_state(optax.adamw(SCHEDULE), params, state)
    assert_equal(back, old_state)
    ours = dx.adamw(SCHEDULE)
    assert_equal(
        dx.adopt_state(ours, params, state), dx.adopt_state(ours, params, old_state)
    )


WRAPPED = {
    "the same": lambda optimizer: optimizer,
    "another place": lambda optimizer: optax.chain(
        optax.clip_by_global_norm(1e9), optimizer
    ),
    "MultiSteps": lambda optimizer: optax.MultiSteps(optimizer, 2),
    "apply_if_finite": lambda optimizer: optax.apply_if_finite(optimizer, 3),
    "compensation": dx.with_compensation,
    "stochastic rounding": dx.with_stochastic_rounding,
    "telemetry": dx.track_decay,
}


@pytest.mark.parametrize("plain", [False, True], ids=["state", "checkpoint of dicts"])
@pytest.mark.parametrize("name", MEMORIES)
def test_a_decay_carries_its_memory(name, plain):
    """Into wrappers and back, and from a checkpoint of plain dicts."""
    optimizer = with_memory(name)
    params, old_state = train(optimizer, PARAMS, optimizer.init(PARAMS), 0, 5)
    saved = as_dicts(old_state) if plain else old_state
    for wrap in WRAPPED.values():
        state = dx.adopt_state(wrap(optimizer), params, saved)
        assert_equal(memories(state), memories(old_state))
        assert_equal(dx.adopt_state(optimizer, params, state), old_state)
    fresh = memories(optimizer.init(params))
    assert memories(old_state)
    if name != "given anchor":
        assert any(
            np.any(np.asarray(x) != np.asarray(y))
            for x, y in zip(
                *map(jax.tree.leaves, (memories(old_state), fresh)), strict=True
            )
        )


def test_a_bfloat16_anchor_moves_into_the_rounding_wrapper_and_back():
    optimizer = optax.chain(dx.decay_to_init(0.1), optax.scale(-0.1))
    params, state = train(optimizer, NARROW, optimizer.init(NARROW), 0, 3)
    wide = dx.adopt_state(dx.with_compensation(optimizer), params, state)
    assert_equal(dx.adopt_state(optimizer, params, wide), state)
    anchor = memories(wide)[0]["initial"]["w"]
    assert anchor.dtype == jnp.float32
    np.testing.assert_array_equal(anchor, NARROW["w"].astype(jnp.float32))


def test_a_memory_of_another_shape_starts_again():
    """One norm for each column instead of one for each parameter."""
    old, new = (
        optax.chain(
            dx.norm_control(0.1, target_ratio=0.5, axis=axis), optax.scale(-0.1)
        )
        for axis in (None, 0)
    )
    params, state = train(old, PARAMS, old.init(PARAMS), 0, 3)
    moved = dx.adopt_state(new, params, state)
    (found,), (fresh,), (kept,) = map(memories, (moved, new.init(params), state))
    assert_equal(found["norm"]["w"], fresh["norm"]["w"])
    assert_equal(found["norm"]["b"], kept["norm"]["b"])


def test_moments_with_the_name_of_a_memory_are_required():
    """Only what a decay keeps may be missing, not a moment of that name."""

    class Other(NamedTuple):
        anchor: Any

    def update(updates, state, params=None):
        return updates, state

    other = optax.GradientTransformation(lambda params: Other(params), update)
    with pytest.raises(ValueError, match="anchor"):
        dx.adopt_state(optax.identity(), PARAMS, other.init(PARAMS))


def test_a_parameter_with_the_name_of_a_memory():
    params = {"memory": {"initial": jnp.ones(2)}, "norm": jnp.ones(3)}
    old = optax.adam(0.1)
    state = train(old, params, old.init(params), 0, 2)[1]
    new = optax.chain(old, dx.decay_to_init(0.1, learning_rate=0.1))
    moved = dx.adopt_state(new, params, state)
    assert_equal(moved[0], state)
    assert_equal(memories(moved)[0]["initial"], params)
    with pytest.raises(ValueError, match="mu/memory/initial"):
        dx.adopt_state(optax.sgd(0.1), params, state)


def test_an_average_is_not_an_anchor_and_a_given_anchor_stays():
    """The memory of one pull does not become that of another."""
    pulls = [
        dx.decay_to_average(0.1, average_rate=0.5),
        dx.decay_to_init(0.1),
        dx.decay_to(0.1, {"w": jnp.zeros((2, 3)), "b": 0.5}),
    ]
    for old in pulls:
        params, state = train(old, PARAMS, old.init(PARAMS), 0, 3)
        for new in pulls:
            if new is not old:
                moved = dx.adopt_state(new, params, state)
                assert_equal(moved.memory, new.init(params).memory)
