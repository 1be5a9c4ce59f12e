"""The sweep engine: one program per configuration, independent cells, statistics.

The tests of random numbers and of the update rules use digits and an MLP. All others
use the linear regression of `test_store.py`, which compiles in a second.
"""

import dataclasses
import enum
import functools
import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_store as small


pytestmark = [
    pytest.mark.needs_extras,
    pytest.mark.relaxed("scale_by_adam; the experiments run under JAX's defaults"),
]
PARALLEL = 4
INF = math.inf


# --- Training cells ---------------------------------------------------------------


@pytest.fixture(scope="module")
def cache():
    from experiments.engine import compilation_cache

    return compilation_cache.new_cache()


@functools.cache
def digits_recipe():
    from experiments import tasks
    from experiments.data import digits
    from experiments.models.mlp import mlp

    return tasks.Classification(
        data=digits.load,
        model=functools.partial(mlp, (64, 8, 10)),
        classes=10,
        train_size=100,
        batch=50,
        label_noise=0.4,
    )


def config_of(setup, make_optimizer, **changes):
    from experiments.engine.config import cosine, StaticConfig

    return StaticConfig(setup, make_optimizer, 2, 1, cosine, curves=True)._replace(
        **changes
    )


def leaves(params):
    """Return all parameters, named by their shape."""
    return {str(leaf.shape): leaf for leaf in jax.tree.leaves(params)}


def cells_of(*numbers):
    names = ("learning_rate", "weight_decay", "seed")
    return tuple(dict(zip(names, each, strict=True)) for each in numbers)


def train(cache, config, cells, extract=None, size=PARALLEL):
    """Train cells in chunks of `size`: the arrays of all chunks, concatenated."""
    from experiments.engine.assignment import split_in_chunks
    from experiments.engine.config import SweepGroup
    from experiments.engine.training import train_chunk
    from experiments.terminal import SILENT

    group = SweepGroup({}, config, cells, extract)
    made = [
        train_chunk(cache, group, chunk, size, SILENT)
        for chunk in split_in_chunks(cells, size)
    ]
    assert all(m["parallel"].shape == () for m in made)
    return {
        name: np.concatenate([np.atleast_1d(m[name]) for m in made]) for name in made[0]
    }


def assert_rows_equal(one, rows, other, others):
    """Assert that rows are equal in every bit; NaN equals NaN."""
    assert set(one) == set(other)
    for name in set(one) - {"parallel"}:
        assert one[name].dtype == other[name].dtype
        np.testing.assert_array_equal(one[name][rows], other[name][others], name)


def arms_named(name):
    from experiments import arms

    return getattr(arms, name)


# --- One program ------------------------------------------------------------------

CALLS = []


def counted(hparams, eta, mask):
    CALLS.append(sorted(hparams))
    return arms_named("sgdw")(hparams, eta, mask)


def test_any_number_of_cells_is_one_trace(cache, caplog):
    config = config_of(small.Line(), counted)
    train(cache, config, cells_of((0.1, 0.0, 0)))
    before, compiled = len(CALLS), len(cache.compile_seconds)
    assert before == 2  # init and segment
    with jax.log_compiles():
        for count in (1, 4, 11):
            cells = cells_of(*((0.1 / (i + 1), 0.01 * i, i) for i in range(count)))
            found = train(cache, config, cells)
            assert found["measure/train_loss"].shape == (count, 2)
    assert (len(CALLS), len(cache.compile_seconds)) == (before, compiled)
    assert not [r for r in caplog.records if "compil" in r.getMessage().lower()]


@pytest.mark.slow
def test_cells_are_spread_over_the_devices_without_collectives(cache):
    from experiments.engine import program
    from experiments.engine.compilation_cache import get_batches, get_program
    from experiments.engine.config import columns

    config = config_of(digits_recipe(), arms_named("sgd_l2"))
    numbers = columns(cells_of(*((0.1, 0.1, seed) for seed in range(PARALLEL))))
    made = get_program(cache, config, numbers, PARALLEL)
    hparams, run_data, carry = program.start(made, numbers)
    batches = get_batches(cache, made, numbers["seed"], 0)
    after = made.segment(
        carry, hparams, run_data, np.int32(0), batches, made.compiled_task.data
    )
    for tree in (hparams, run_data, batches, after):
        for leaf in jax.tree.leaves(tree):
            shapes = [shard.data.shape[0] for shard in leaf.addressable_shards]
            assert shapes == [2, 2]
    programs = (
        made.init,
        made.segment,
        made.compiled_task.prepare,
        made.compiled_task.measure,
    )
    for text in (each.as_text() for each in programs):
        for word in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
            assert word not in text


@pytest.mark.parametrize(
    ("parallel", "devices"), [(1, 1), (2, 2), (3, 1), (4, 2), (7, 1), (62, 2)]
)
def test_cells_use_the_most_devices_that_divide_their_number(parallel, devices):
    from experiments.engine.devices import spread_over_devices

    spread, copied = spread_over_devices(parallel)
    assert spread.mesh.size == devices
    assert copied.is_fully_replicated


def test_an_odd_number_of_cells_uses_one_device(cache):
    config = config_of(small.Line(), small.sgdw)
    cells = cells_of(*((0.1, 0.1, seed) for seed in range(7)))
    odd, even = (train(cache, config, cells, size=n) for n in (3, 4))
    assert odd["parallel"].tolist() == [3, 3, 3]
    np.testing.assert_allclose(
        odd["measure/train_loss"], even["measure/train_loss"], rtol=1e-5
    )


# --- Cells are independent --------------------------------------------------------

GOOD = cells_of((0.1, 0.01, 3), (0.03, 0.1, 4), (0.1, 0.0, 5), (0.3, 0.01, 3))


def test_a_run_does_not_depend_on_its_position(cache):
    config = config_of(digits_recipe(), arms_named("sgd_l2"))
    one = train(cache, config, GOOD, leaves)
    order = [2, 0, 3, 1]
    other = train(cache, config, tuple(GOOD[i] for i in order), leaves)
    assert_rows_equal(one, order, other, [0, 1, 2, 3])


def test_a_larger_grid_does_not_change_a_cell(cache):
    from experiments.engine.config import grid

    config = config_of(digits_recipe(), arms_named("sgd_l2"))
    small_grid = grid(learning_rate=(0.03, 0.3), weight_decay=(0.1,), seed=range(3))
    large_grid = grid(
        learning_rate=(0.01, 0.03, 0.3), weight_decay=(0.0, 0.1), seed=range(4)
    )
    one = train(cache, config, small_grid)
    other = train(cache, config, large_grid)
    assert (len(one["parallel"]), len(other["parallel"])) == (2, 6)
    places = [large_grid.index(hparams) for hparams in small_grid]
    assert places != sorted(range(6))
    assert_rows_equal(one, range(6), other, places)


def test_a_diverged_cell_scores_chance_and_changes_no_other(cache):
    config = config_of(digits_recipe(), arms_named("sgd_l2"))
    good = train(cache, config, GOOD)
    assert not good["measure/diverged"].any()
    assert (good["diverged_at"] == -1).all()
    for rate in (INF, 1e30, math.nan):
        cells = (GOOD[0], {**GOOD[1], "learning_rate": rate}, *GOOD[2:])
        bad = train(cache, config, cells)
        rest = [0, 2, 3]
        assert_rows_equal(good, rest, bad, rest)
        assert bad["measure/diverged"].tolist() == [
            [number == 1] * 2 for number in range(4)
        ]
        assert bad["diverged_at"].tolist() == [-1, 1, -1, -1]  # after one step
        for on in ("val", "test"):
            accuracy, loss = (bad[f"measure/{on}_{x}"][1] for x in ("accuracy", "loss"))
            np.testing.assert_array_equal(accuracy, np.float32([0.1, 0.1]))
            np.testing.assert_array_equal(loss, np.float32([math.log(10)] * 2))


def by_hand(rate, seed, steps=8):
    """The losses of the regression in float32: SGD with momentum, cosine, no decay."""
    data = small.points()
    params = small.Line().task().init({"seed": seed})
    w, b = np.asarray(params["weight"]), np.float32(0)
    losses, m, n = [], np.zeros(4, np.float32), np.float32(0)
    with np.errstate(all="ignore"):
        for step in range(steps):
            epoch, place = divmod(step, 4)
            rows = (np.arange(32).reshape(4, 8)[place] * 5 + seed + epoch) % 32
            error = data.x[rows] @ w + b - data.y[rows]
            losses.append(np.mean(error**2, dtype=np.float32))
            gamma = np.float32(rate * (1 + math.cos(math.pi * step / steps)) / 2)
            m = np.float32(0.9) * m + 2 * data.x[rows].T @ error / np.float32(8)
            n = np.float32(0.9) * n + 2 * error.mean(dtype=np.float32)
            w, b = w - gamma * m, b - gamma * n
    return np.array(losses), w


@pytest.mark.parametrize("rate", [1e3, 1e4, 1e6, 1e12, 0.1])
def test_diverged_at_is_the_first_step_whose_loss_is_not_finite(rate, cache):
    losses, w = by_hand(rate, 2)
    finite = np.isfinite(losses)
    first = -1 if finite.all() else int(np.argmin(finite))
    assert (first == -1) == (rate == 0.1)
    config = config_of(small.Line(), small.sgd_l2)
    found = train(
        cache, config, cells_of((0.1, 0.0, 1), (rate, 0.0, 2)), small.all_params
    )
    assert found["diverged_at"].tolist() == [-1, first]
    after = [first != -1 and first < 4, first != -1]  # the two epochs
    assert found["measure/diverged"][1].tolist() == after
    for on in ("val", "test"):
        scores = found[f"measure/{on}_accuracy"][1]
        assert [score == 0 for score in scores] == after
    if first == -1:
        np.testing.assert_allclose(found["extract/weight"][1], w, rtol=1e-4)


def in_the_last_step(progress, hparams):
    return jnp.where(progress >= 7 / 8, 1e30, 0.0)


def test_a_cell_can_diverge_in_its_last_update(cache):
    config = config_of(small.Line(), small.sgd_l2, schedule=in_the_last_step)
    found = train(cache, config, cells_of((0.0, 0.0, 1), (1e30, 0.0, 2)))
    assert found["measure/diverged"].tolist() == [[False, False], [False, True]]
    assert found["diverged_at"].tolist() == [-1, 8]  # the number of steps
    assert found["measure/val_accuracy"][1, 1] == 0


def test_the_padding_of_a_chunk_does_not_count_as_diverged(cache):
    from experiments.engine.config import SweepGroup
    from experiments.engine.training import Progress, train_chunk

    counts = []
    progress = Progress(lambda _: None, lambda _: None, counts.append)
    cells = cells_of((0.1, 0.0, 1), (1e30, 0.0, 2))  # two more are padding
    group = SweepGroup({}, config_of(small.Line(), small.sgd_l2), cells)
    train_chunk(cache, group, cells, PARALLEL, progress)
    assert counts == [1]


def two_weights(params):
    return {"two": params["weight"][:2]}


def test_each_function_extracts_its_own_arrays(cache):
    config, cells = config_of(small.Line(), small.sgd_l2), cells_of((0.1, 0.0, 1))
    everything = train(cache, config, cells, small.all_params)
    some = train(cache, config, cells, two_weights)
    assert {name for name in some if name.startswith("extract/")} == {"extract/two"}
    weight = everything["extract/weight"]
    np.testing.assert_array_equal(some["extract/two"], weight[:, :2])


# --- Random numbers depend on the seed only ---------------------------------------


def test_a_seed_gives_the_same_start_in_every_cell_and_arm(cache):
    from experiments.engine import program
    from experiments.engine.compilation_cache import get_program
    from experiments.engine.config import columns

    cells = cells_of((0.1, 0.0, 3), (0.5, 2.0, 3), (0.1, 0.0, 4), (9.0, 1.0, 3))
    began = []
    for arm in ("sgd_l2", "sgdw"):
        config = config_of(digits_recipe(), arms_named(arm))
        made = get_program(cache, config, columns(cells), PARALLEL)
        _, run_data, carry = program.start(made, columns(cells))
        began.append(jax.tree.leaves(jax.device_get((run_data, carry.params))))
    for leaf, other in zip(*began, strict=True):
        np.testing.assert_array_equal(leaf, other)
        np.testing.assert_array_equal(leaf[0], leaf[1])
        np.testing.assert_array_equal(leaf[0], leaf[3])
    shapes = {leaf.shape[1:]: (leaf[0] == leaf[2]).all() for leaf in began[0]}
    for shape in ((100,), (1100,), (64, 8), (8, 10)):
        assert not shapes[shape]  # another seed: other rows and weights


def test_without_decay_l2_and_decoupled_decay_are_equal(cache):
    cells = cells_of(*((0.1, 0.0, seed) for seed in (3, 4, 5)))
    l2, decoupled = (
        train(cache, config_of(digits_recipe(), arms_named(arm)), cells)
        for arm in ("sgd_l2", "sgdw")
    )
    losses = l2["measure/train_loss"]
    np.testing.assert_allclose(losses, decoupled["measure/train_loss"], rtol=1e-5)
    assert len(np.unique(losses)) == losses.size


def test_batches_depend_on_seed_and_epoch_only(cache, monkeypatch):
    from experiments.data import labelled
    from experiments.engine import compilation_cache
    from experiments.engine.config import columns

    config = config_of(digits_recipe(), arms_named("sgd_l2"))
    numbers = columns(GOOD)
    made = compilation_cache.get_program(cache, config, numbers, PARALLEL)
    monkeypatch.setattr(
        compilation_cache, "MAX_CACHED_BATCHES", 2
    )  # drops the batches and draws again
    for epoch in (0, 1, 0):
        drawn = np.asarray(
            compilation_cache.get_batches(cache, made, numbers["seed"], epoch)
        )
        assert drawn.shape == (PARALLEL, 2, 50)
        for seed, rows in zip(numbers["seed"], drawn, strict=True):
            np.testing.assert_array_equal(rows, labelled.batches(seed, epoch, 100, 50))


def test_every_purpose_has_its_own_random_numbers():
    from experiments.seeds import key_for, Purpose

    keys = {
        tuple(jax.random.key_data(key_for(seed, purpose)).tolist())
        for seed in range(3)
        for purpose in Purpose
    }
    assert len(keys) == 3 * len(Purpose)


# --- The update rules -------------------------------------------------------------


def network_by_hand(place, rate, strength, seed):
    """Four steps in float64 with explicit gradients: the weights, by shape."""
    from experiments.data import digits, labelled
    from experiments.models.mlp import mlp
    from experiments.seeds import key_for, Purpose

    stored = digits.load()
    split = labelled.split(seed, jnp.asarray(stored.pool_y), 100, 0.4, 10)
    start = mlp((64, 8, 10)).init(key_for(seed, Purpose.INIT))
    theta = {name: np.float64(leaf) for name, leaf in leaves(start).items()}
    a, p, c, q = "(64, 8)", "(8,)", "(8, 10)", "(10,)"
    momentum = dict.fromkeys(theta, 0.0)
    for step in range(4):
        order = labelled.batches(seed, step // 2, 100, 50)[step % 2]
        x = np.float64(stored.pool_x[split.train_rows[order]])
        y = np.asarray(split.train_y)[order]
        before = x @ theta[a] + theta[p]
        hidden = np.maximum(before, 0)
        scores = np.exp(hidden @ theta[c] + theta[q])
        error = (scores / scores.sum(1, keepdims=True) - np.eye(10)[y]) / 50
        back = error @ theta[c].T * (before > 0)
        gradient = {a: x.T @ back, p: back.sum(0), c: hidden.T @ error, q: error.sum(0)}
        eta = (1 + math.cos(math.pi * step / 4)) / 2
        for name, g in gradient.items():
            decays = strength * (name in (a, c))  # weights, not biases
            if place == "L2":
                g = g + decays * theta[name]
            momentum[name] = 0.9 * momentum[name] + g
            shrink = {"L2": 0, "coupled": rate * decays, "independent": decays}[place]
            theta[name] = (
                theta[name] - eta * rate * momentum[name] - eta * shrink * theta[name]
            )
    return theta


@pytest.mark.parametrize(
    ("place", "arm"),
    [("L2", "sgd_l2"), ("coupled", "sgdw"), ("independent", "sgd_independent")],
)
def test_a_cell_equals_a_loop_by_hand(place, arm, cache):
    config = config_of(digits_recipe(), arms_named(arm))
    cells = cells_of((0.2, 0.05, 7), (0.1, 0.0, 7), (0.3, 0.02, 8))
    found = train(cache, config, cells, leaves)
    for number, hparams in enumerate(cells):
        expected = network_by_hand(place, *hparams.values())
        for name, leaf in expected.items():
            ours = found[f"extract/{name}"][number]
            np.testing.assert_allclose(ours, leaf, rtol=1e-5, atol=2e-7)
    others = {"L2", "coupled", "independent"} - {place}
    for other in others:  # the tolerance separates the places
        expected = network_by_hand(other, *cells[0].values())["(64, 8)"]
        assert not np.allclose(found["extract/(64, 8)"][0], expected, rtol=1e-3)


def test_lambda_cancels_under_adam_with_l2_without_other_gradients(cache):
    cells = cells_of(*((0.01, strength, 1) for strength in (0.01, 0.1, 1.0, 10.0)))
    l2, decoupled = (
        train(cache, config_of(small.Line(), arms_named(arm)), cells, small.all_params)
        for arm in ("adam_l2", "adamw")
    )
    began = np.asarray(small.Line().task().init({"seed": 1})["idle"])
    idle = l2["extract/idle"]
    np.testing.assert_allclose(idle, np.broadcast_to(idle[3], (4, 2)), rtol=1e-5)
    assert (np.abs(idle - began) > 0.01).all()
    # Each update is γ_t, because √v equals the moment: Σ γ_t over the cosine.
    assert idle[0] == pytest.approx(began - 0.01 * 4.5, abs=0.002)
    etas = (1 + np.cos(np.pi * np.arange(8) / 8)) / 2
    for row, hparams in zip(decoupled["extract/idle"], cells, strict=True):
        shrunk = began * np.prod(1 - 0.01 * hparams["weight_decay"] * etas)
        np.testing.assert_allclose(row, shrunk, rtol=1e-5)


def plain_l2(hparams, eta, mask):
    import decayax as dx
    from experiments import arms

    return arms.scheduled(dx.sgd_l2, hparams, eta, mask)


def plain_decoupled(hparams, eta, mask):
    import decayax as dx
    from experiments import arms

    return arms.scheduled(dx.sgdw, hparams, eta, mask)


def test_l2_equals_decoupled_decay_under_plain_sgd_only(cache):
    cells = cells_of((0.1, 0.5, 1), (0.2, 1.0, 2))
    plain, other, heavy, parted = (
        train(cache, config_of(small.Line(), make_optimizer), cells, small.all_params)[
            "extract/weight"
        ]
        for make_optimizer in (plain_l2, plain_decoupled, small.sgd_l2, small.sgdw)
    )
    np.testing.assert_allclose(plain, other, rtol=1e-5)
    assert not np.allclose(heavy, parted, rtol=0.05)


# --- Schedules and segments -------------------------------------------------------


@pytest.mark.parametrize(("done", "eta"), [(0, 1), (0.25, 0.85355), (0.5, 0.5), (1, 0)])
def test_the_schedule_is_a_cosine_over_all_steps(done, eta):
    from experiments.engine.config import constant, multiplier

    config = config_of(small.Line(), small.sgdw, epochs=6)
    assert multiplier(config, 10, {})(60 * done) == pytest.approx(eta, abs=1e-5)
    flat = config._replace(schedule=constant)
    assert multiplier(flat, 10, {})(60 * done) == 1


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_a_warmup_rises_and_then_follows_the_schedule(share):
    from experiments.engine.config import cosine, multiplier, warmup

    config = config_of(small.Line(), small.sgdw, epochs=5)
    config = config._replace(schedule=functools.partial(warmup, cosine))
    eta = multiplier(config, 4, {"warmup": jnp.float32(share)})
    for step in range(20):
        done = step / 20
        expected = (
            done / share
            if done < share
            else (1 + math.cos(math.pi * (done - share) / (1 - share))) / 2
        )
        assert float(eta(step)) == pytest.approx(expected, abs=1e-6)


def test_the_fraction_of_the_warmup_is_a_hyper_parameter(cache):
    from experiments.engine.config import cosine, grid, warmup

    schedule = functools.partial(warmup, cosine)
    config = config_of(small.Line(), plain_l2, schedule=schedule, curves=False)
    shares = (0.0, 0.25, 0.6)
    axes = {"learning_rate": [0.1], "weight_decay": [0.0], "seed": [2]}
    found = train(cache, config, grid(**axes, warmup=shares), small.all_params)
    for share, weight in zip(shares, found["extract/weight"], strict=True):
        data, rows = small.points(), np.arange(32).reshape(4, 8) * 5
        w, b = np.sin(2 + np.arange(4.0)), 0.0
        for step in range(8):
            epoch, place = divmod(step, 4)
            x, y = (a[(rows[place] + 2 + epoch) % 32] for a in data)
            error = x @ w + b - y
            done = step / 8
            rising = done / share if done < share else 1
            rest = max(done - share, 0) / (1 - share)
            gamma = 0.1 * rising * (1 + math.cos(math.pi * rest)) / 2
            w, b = w - gamma * x.T @ error / 4, b - gamma * 2 * error.mean()
        np.testing.assert_allclose(weight, w, rtol=1e-5)


def test_without_curves_only_the_last_measures_are_stored(cache):
    cells = cells_of((0.1, 0.1, 1), (1e30, 0.0, 2))
    config = config_of(small.Line(), small.sgd_l2)
    curves = train(cache, config, cells)
    once = train(cache, config._replace(curves=False), cells)
    for name in [name for name in curves if name.startswith("measure/")]:
        assert curves[name].shape == (2, 2)
        np.testing.assert_array_equal(once[name], curves[name][:, 1:])
    np.testing.assert_array_equal(once["diverged_at"], curves["diverged_at"])


def test_epochs_must_be_a_multiple_of_the_segment():
    config = config_of(small.Line(), small.sgdw, epochs=5, epochs_per_segment=2)
    with pytest.raises(ValueError, match="a multiple of epochs_per_segment"):
        _ = config.segments


def test_the_number_of_segments_does_not_change_a_run(cache):
    cells = cells_of((0.1, 0.1, 1), (0.03, 1.0, 2))
    config = config_of(small.Line(), small.sgd_l2, epochs=4)
    parts = train(cache, config, cells)["measure/train_loss"]
    whole = train(cache, config._replace(epochs_per_segment=4), cells)
    assert parts.shape == (2, 4)
    np.testing.assert_allclose(
        parts[:, 3:], whole["measure/train_loss"], rtol=1e-5, atol=1e-7
    )


def test_cells_as_columns():
    from experiments.engine.config import columns, grid

    cells = grid(learning_rate=(0.1, 0.2), weight_decay=(0,), seed=range(2))
    rows = [(0.1, 0, 0), (0.1, 0, 1), (0.2, 0, 0), (0.2, 0, 1)]
    assert [tuple(hparams.values()) for hparams in cells] == rows
    found = columns(cells)
    kinds = {name: str(array.dtype) for name, array in found.items()}
    assert kinds["learning_rate"] == "float32"
    assert kinds["seed"] == "int32"
    with pytest.raises(ValueError, match="need the same hyper-parameters"):
        columns((*cells, {"seed": 1}))


# --- The state and the random numbers of a model ----------------------------------


def draws(seed, steps):
    """Return the random numbers of the steps of a seed, float64[steps, 4]."""
    from experiments.seeds import key_for, Purpose

    key = key_for(seed, Purpose.DROPOUT)
    keys = [jax.random.fold_in(key, step) for step in steps]
    return np.float64([jax.random.uniform(key, (4,)) for key in keys])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Noisy(small.Line):
    """The gradient is random, times the number of losses so far."""

    def task(self):
        task = super().task()

        def loss(params, count, batch, key, run_data, data):
            noise = count * jax.random.uniform(key, (4,))
            return noise @ params["weight"], count + 1

        def measure(params, count, run_data, data):
            return task.measure(params, (), run_data, data) | {"count": count}

        def state(hparams, params):
            return jnp.float32(1 + hparams["seed"])

        return task._replace(loss=loss, measure=measure, state=state)


def test_a_loss_gets_the_state_and_the_key_of_its_step(cache):
    cells = cells_of((0.1, 0.0, 1), (0.01, 0.0, 1), (0.1, 0.0, 2))
    config = config_of(Noisy(), plain_l2)
    found = train(cache, config, cells, small.all_params)
    np.testing.assert_array_equal(found["measure/count"], [[6, 10], [6, 10], [7, 11]])
    etas = (1 + np.cos(np.pi * np.arange(8) / 8)) / 2
    for weight, hparams in zip(found["extract/weight"], cells, strict=True):
        began = np.sin(hparams["seed"] + np.arange(4.0))
        counts = 1 + hparams["seed"] + np.arange(8)
        noise = draws(hparams["seed"], range(8))
        steps = hparams["learning_rate"] * (etas * counts)[:, None] * noise
        np.testing.assert_allclose(weight, began - steps.sum(0), rtol=1e-5)
    whole = train(cache, config._replace(epochs_per_segment=2), cells, small.all_params)
    np.testing.assert_allclose(
        found["extract/weight"], whole["extract/weight"], rtol=1e-6
    )


def test_unused_random_numbers_are_not_computed(cache):
    from experiments.engine.compilation_cache import get_program
    from experiments.engine.config import columns

    numbers = columns(cells_of((0.1, 0.0, 0)))
    configs = [config_of(setup, plain_l2) for setup in (Noisy(), small.Line())]
    made = [get_program(cache, config, numbers, PARALLEL) for config in configs]
    texts = [each.segment.as_text() for each in made]
    assert ["fold_in" in text for text in texts] == [True, False]


def test_the_mechanism_is_measured_with_the_state_and_the_keys(cache):
    from experiments.engine.config import constant
    from experiments.mechanism import measure_shrink

    config = config_of(Noisy(), arms_named("adamw"), epochs=4, schedule=constant)
    hparams = {"learning_rate": 0.01, "weight_decay": 50.0, "seed": 3}
    found = measure_shrink(cache, config, hparams, 2)
    np.testing.assert_allclose(found["shrink"], 0.01 * 50.0, rtol=1e-4)
    third_epoch = np.arange(8, 12)
    gradients = (1 + 3 + third_epoch)[:, None] * draws(3, third_epoch)
    expected = np.sqrt((gradients**2).mean(0))
    np.testing.assert_allclose(found["rms_g"], expected, rtol=1e-5)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Linear(small.Line):
    """The gradient is the mean input of the batch, whatever the weights are."""

    def task(self):
        def loss(params, state, rows, key, run_data, data):
            return data.x[rows].mean(0) @ params["weight"], state

        return super().task()._replace(loss=loss)


def test_the_mechanism_is_measured_on_the_batches_of_its_epoch(cache):
    from experiments.engine.config import constant
    from experiments.mechanism import measure_shrink

    config = config_of(Linear(), arms_named("adamw"), epochs=4, schedule=constant)
    hparams = {"learning_rate": 0.01, "weight_decay": 0.1, "seed": 3}
    found = measure_shrink(cache, config, hparams, 1)
    gradients = {}
    for epoch in range(4):
        rows = (np.arange(32).reshape(4, 8) * 5 + hparams["seed"] + epoch) % 32
        gradients[epoch] = np.float64(small.points().x)[rows].mean(1)
    rms = {epoch: np.sqrt((g**2).mean(0)) for epoch, g in gradients.items()}
    measured = found["rms_g"][found["rms_g"] > 0]  # without the idle weights
    np.testing.assert_allclose(measured, rms[2], rtol=1e-5)
    assert all(not np.allclose(rms[epoch], rms[2], rtol=1e-3) for epoch in (0, 1, 3))


# --- Records of the optimizer's state ---------------------------------------------


def tracked(hparams, eta, mask):
    import decayax as dx
    from experiments import arms

    return dx.track_decay(arms.adamw(hparams, eta, mask), every=1)


def decay_rate(opt_state, params):
    """The rate of `dx.decay_stats`, of all decayed weights together."""
    sums = [opt_state.sums[name] for name in ("weight", "idle")]
    weights, *_, weights_decay, _, _ = sums[0] + sums[1]
    return {"decay_rate": -weights_decay / weights, "count": opt_state.step}


def test_a_record_of_the_optimizer_is_a_measure(cache):
    cells = cells_of((0.1, 0.5, 1), (0.01, 2.0, 1), (0.1, 0.0, 2))
    config = config_of(small.Line(), tracked, record=decay_rate)
    found = train(cache, config, cells)
    np.testing.assert_array_equal(found["measure/count"], [[4, 8]] * 3)
    for rates, hparams in zip(found["measure/decay_rate"], cells, strict=True):
        etas = np.array([(1 + math.cos(math.pi * step / 8)) / 2 for step in (3, 7)])
        exact = hparams["learning_rate"] * hparams["weight_decay"] * etas
        np.testing.assert_allclose(rates, exact, rtol=1e-4, atol=1e-9)


def recorded_loss(opt_state, params):
    return {"train_loss": jnp.zeros(()), "diverged": jnp.zeros(())}


def test_a_record_must_not_have_the_name_of_a_measure(cache):
    from experiments.errors import UserError

    config = config_of(small.Line(), plain_l2, record=recorded_loss)
    names = r"record: .* the names diverged, train_loss\. Return other names"
    with pytest.raises(UserError, match=names):
        train(cache, config, cells_of((0.1, 0.0, 0)))


# --- Memory -----------------------------------------------------------------------

CELLS = cells_of(*((0.1 / (i + 1), 0.1 * i, i) for i in range(10)))


@pytest.fixture(scope="module")
def programs(cache):
    """One static configuration, compiled for 8, 4, 2 and 1 cells in parallel."""
    from experiments.engine import compilation_cache
    from experiments.engine.config import columns

    config, numbers = config_of(small.Line(), small.sgdw), columns(CELLS)
    return {
        w: compilation_cache.get_program(cache, config, numbers, w)
        for w in (8, 4, 2, 1)
    }


@pytest.fixture(scope="module")
def by_two(cache, programs):
    """The arrays of cells that were trained in pairs."""
    return train(cache, programs[2].config, CELLS, size=2)


@pytest.fixture
def failing(cache, programs, monkeypatch):
    """Make a cache whose segments fail if more than `fit` cells run in parallel."""

    def prepared(fit, text):
        tried = []

        def segment(made, *arguments):
            tried.append(made.compiled_task.parallel)
            assert len(tried) < 50, "tried again and again"
            if made.compiled_task.parallel > fit:
                raise jax.errors.JaxRuntimeError(text)
            return made.segment(*arguments)

        failing = {
            key: made._replace(segment=functools.partial(segment, made))
            for key, made in cache.programs.items()
        }
        return cache._replace(programs=failing, max_parallel={}), tried

    monkeypatch.setattr("experiments.engine.devices.bytes_needed", lambda _: 0)
    return prepared


FULL = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes."


def test_the_number_of_cells_is_halved_if_memory_is_full(failing, programs, by_two):
    cache, tried = failing(2, FULL)
    found = train(cache, programs[8].config, CELLS, size=8)
    assert_rows_equal(found, range(10), by_two, range(10))
    assert found["parallel"].tolist() == [2, 2]  # one number for each of the two chunks
    assert tried == [
        8,
        4,
        *[2] * 10,
    ]  # the number that fits is remembered; two segments each


def test_one_cell_that_does_not_fit_is_an_error(failing, programs):
    cache, tried = failing(0, FULL)
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
        train(cache, programs[8].config, CELLS, size=2)
    assert tried == [2, 1]


def test_other_errors_are_raised(failing, programs):
    cache, tried = failing(0, "INTERNAL: the abacus is broken")
    with pytest.raises(jax.errors.JaxRuntimeError, match="abacus"):
        train(cache, programs[8].config, CELLS, size=2)
    assert tried == [2]


def test_memory_is_checked_before_training(cache, programs, by_two, monkeypatch):
    from experiments.engine import devices, program

    enough = {w: devices.bytes_needed(made.segment) for w, made in programs.items()}
    assert 0 < enough[2] < enough[4] < enough[8]
    monkeypatch.setattr(devices, "bytes_free", lambda: enough[2])
    started, begin = [], program.start

    def start(made, numbers):
        started.append(made.compiled_task.parallel)
        return begin(made, numbers)

    monkeypatch.setattr(program, "start", start)
    fresh = cache._replace(max_parallel={})
    found = train(fresh, programs[8].config, CELLS, size=8)
    assert set(started) == {2}
    assert found["parallel"].tolist() == [2, 2]
    assert_rows_equal(found, range(10), by_two, range(10))
    monkeypatch.setattr(devices, "bytes_free", lambda: 1)
    found = train(
        cache._replace(max_parallel={}), programs[8].config, CELLS[:2], size=2
    )
    assert found["parallel"].tolist() == [1]  # one cell is always tried


def test_half_of_the_cells_still_uses_all_devices(cache, monkeypatch):
    from experiments.engine.compilation_cache import halve_parallel

    config = config_of(small.Line(), small.sgdw)
    fresh = cache._replace(max_parallel={})
    monkeypatch.setattr(jax, "local_device_count", lambda: 4)
    halves = [halve_parallel(fresh, config, parallel) for parallel in (32, 22, 9, 6)]
    assert halves == [16, 8, 4, 3]


def test_bytes_free_is_plausible():
    from experiments.engine.devices import bytes_free

    assert 2**20 < bytes_free() < 2**50


# --- Descriptions -----------------------------------------------------------------


class Colour(enum.Enum):
    RED = 1


class Loader:
    def __init__(self, count):
        self.count = count

    def load(self):
        return self.count

    def __call__(self):
        return self.count


@dataclasses.dataclass(frozen=True)
class Inner:
    numbers: tuple = (1, 2.5, None)
    names: dict = dataclasses.field(default_factory=lambda: {"a": (0.1, 0.2), "b": 1})


@dataclasses.dataclass(frozen=True)
class Alike:
    numbers: tuple = (1, 2.5, None)
    names: dict = dataclasses.field(default_factory=lambda: {"a": (0.1, 0.2), "b": 1})


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: object = Inner()
    make: object = functools.partial(small.points, count=32)
    make_optimizer: object = small.sgdw
    chunk: int = 4
    on: bool = True


def nested(**changes):
    return dataclasses.replace(Outer(), **changes)


DIFFERENT = [
    Outer(),
    nested(chunk=5),
    nested(chunk=4.0),
    nested(chunk="4"),
    nested(on=False),
    nested(on=1),
    nested(on=None),
    nested(make_optimizer=small.sgd_l2),
    nested(make=small.points),
    nested(make=functools.partial(small.points, count=33)),
    nested(make=functools.partial(small.points, 32)),
    nested(make=functools.partial(small.points, size=32)),
    nested(make=functools.partial(small.sgdw, count=32)),
    nested(inner=Alike()),
    nested(inner=Inner(numbers=(1, 2.5))),
    nested(inner=Inner(numbers=(2.5, 1, None))),
    nested(inner=Inner(numbers=(1, 2.5, 0))),
    nested(inner=Inner(numbers=(1, np.nextafter(2.5, 3), None))),
    nested(inner=Inner(names={"a": (0.1, 0.3), "b": 1})),
    nested(inner=Inner(names={"a": (0.1, 0.2), "c": 1})),
    nested(inner=Inner(names={"a": (0.1, 0.2)})),
    nested(inner=small.Points(1, 2)),
    nested(inner=small.Points(2, 1)),
    nested(inner=(1, 2)),
    nested(inner=Inner),
]


def test_a_description_changes_with_anything_in_it():
    from experiments.engine.describe import describe, digest

    digests = [digest(value) for value in DIFFERENT]
    assert len(set(digests)) == len(DIFFERENT)
    assert all(len(each) == 12 and int(each, 16) >= 0 for each in digests)
    for value in DIFFERENT:
        assert json.loads(json.dumps(describe(value))) == describe(value)
    assert describe(Outer())["make"] == {
        "call": "test_store.points",
        "with": [],
        "named": {"count": 32},
    }


def test_a_later_field_is_described_if_it_is_not_the_default():
    import dataclasses

    from experiments.engine.describe import describe
    from experiments.protocol import ProtocolPlan

    plan = ProtocolPlan(entries=(), contrasts=())
    assert "first_seed" not in describe(plan)
    assert describe(dataclasses.replace(plan, first_seed=0)) == describe(plan)
    assert describe(dataclasses.replace(plan, first_seed=4))["first_seed"] == 4
    assert describe(plan)["final_seeds"] == plan.final_seeds


def test_equal_values_have_one_description():
    from experiments.engine.describe import digest

    assert digest(Outer()) == digest(Outer(inner=Inner()))
    turned = Inner(names={"b": 1, "a": (0.1, 0.2)})
    assert digest(nested(inner=turned)) == digest(Outer())
    assert digest(np.int32(4)) == digest(np.int64(4)) == digest(4)
    assert digest(np.float64(0.1)) == digest(0.1)
    assert digest(range(3)) == digest((0, 1, 2))


def test_a_keyword_named_call_does_not_hide_the_function():
    from experiments.engine.describe import digest

    one, other = (functools.partial(f, call=1) for f in (small.points, small.sgdw))
    assert digest(one) != digest(other)


@pytest.mark.parametrize(
    "value",
    [
        lambda: 1,
        functools.partial(lambda x: x, 1),
        pytest.param(Loader(1).load, id="method"),
        pytest.param(Loader(1), id="callable"),
    ],
)
def test_a_function_without_a_unique_name_has_no_description(value):
    from experiments.engine.describe import digest

    def local():
        return value

    for each in (value, local, nested(make=value), {"a": [value]}):
        with pytest.raises(TypeError, match="a plan cannot hold") as error:
            digest(each)
        if each is not value:
            assert "\n" not in str(error.value)
    with pytest.raises(TypeError, match="at the top of a module.*functools.partial"):
        digest(local)


@pytest.mark.parametrize("value", [{1, 2}, np.ones(2), object(), b"a", Colour.RED])
def test_an_unknown_type_has_no_description(value):
    from experiments.engine.describe import digest

    with pytest.raises(TypeError, match="a plan cannot hold"):
        digest(nested(inner=value))


def test_a_description_is_the_same_in_every_process():
    from experiments.engine.describe import digest
    from experiments.engine.study import hash_of

    code = "import test_engine as t, test_store as s; "
    code += "from experiments.engine.describe import digest; "
    code += "from experiments.engine.study import hash_of; "
    code += "print(*map(digest, t.DIFFERENT), hash_of(s.study(s.SMOKE)))"
    tests = Path(__file__).parent
    paths = os.pathsep.join([str(tests), str(tests.parent)])
    answer = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "PYTHONPATH": paths, "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    here = [*map(digest, DIFFERENT), hash_of(small.study(small.SMOKE))]
    assert answer.stdout.split() == here


# --- The table of cells -----------------------------------------------------------


def test_a_table_is_the_same_after_write_and_read(tmp_path):
    from experiments import cells

    def column(*values):
        return np.array(values, dtype=object)

    table = {
        "arm": column("adam, L2", 'so-called "w"', "λ"),
        "task": column("digits", None, None),
        "seed": np.array([0, -1, 2**31 - 1], np.int32),
        "rate": np.array([0.1, 1e-30, 3.0]),
        "loss": np.array([math.nan, INF, -INF]),
        "diverged": np.array([True, False, True]),
        "spread": column(0.5, None, 2.0),
        "place": column(None, 3, 4),
        "nothing": column(None, None, None),
    }
    path = tmp_path / "cells.csv"
    cells.write_csv(path, table)
    first, *rows = path.read_text().splitlines()
    assert first == ",".join(table)
    assert rows[0] == '"adam, L2",digits,0,0.1,nan,True,0.5,,'
    assert len(rows) == 3
    again = cells.read_csv(path)
    assert list(again) == list(table)
    for name, values in table.items():
        for ours, theirs in zip(again[name].tolist(), values.tolist(), strict=True):
            same = ours == theirs or (ours != ours and theirs != theirs)
            assert same, (name, ours, theirs)
            assert type(ours) is type(theirs), name
    cells.write_csv(path, {name: values[:0] for name, values in table.items()})
    assert {n: len(x) for n, x in cells.read_csv(path).items()} == dict.fromkeys(
        table, 0
    )


def test_booleans_with_a_missing_value_are_the_same_after_write_and_read(tmp_path):
    from experiments import cells

    one, other = {"done": np.array([True, False])}, {"seed": np.array([3])}
    cells.write_csv(tmp_path / "cells.csv", cells.concatenate([one, other]))
    again = cells.read_csv(tmp_path / "cells.csv")
    assert again["done"].tolist() == [True, False, None]


def test_a_table_has_the_shortest_decimals_of_the_last_measures(tmp_path):
    from experiments import cells

    chunks = [
        {
            "label/arm": np.array("sgd"),
            "cell/learning_rate": np.array([0.003, 0.1], np.float32),
            "cell/seed": np.array([0, 1], np.int32),
            "measure/loss": np.array([[9, 1 / 3], [9, 2e-8]], np.float32),
            "measure/diverged": np.array([[True, False], [False, True]]),
            "extract/w": np.ones((2, 3)),
            "diverged_at": np.array([-1, 5], np.int32),
            "parallel": np.array(2),
        },
        {"shrink": np.ones(3)},  # a measurement has no cells
        {
            "label/arm": np.array("adam"),
            "label/task": np.array("digits"),
            "cell/seed": np.array([7], np.int32),
            "diverged_at": np.array([-1], np.int32),
        },
    ]
    table = cells.from_chunks(chunks)
    cells.write_csv(tmp_path / "cells.csv", table)
    assert (tmp_path / "cells.csv").read_text().splitlines() == [
        "arm,learning_rate,seed,loss,diverged,diverged_at,task",
        "sgd,0.003,0,0.33333334,False,-1,",
        "sgd,0.1,1,2e-08,True,5,",
        "adam,,7,,,-1,digits",
    ]
    assert cells.from_chunks([]) == {}
    few = cells.where(table, arm="sgd", seed=1)
    assert few["diverged_at"].tolist() == [5]
    assert cells.unique(table, "arm") == ["sgd", "adam"]


# --- Statistics -------------------------------------------------------------------


def test_intervals_contain_the_mean_in_95_percent(monkeypatch):
    from experiments import statistics

    monkeypatch.setattr(statistics, "RESAMPLES", 999)
    rng = np.random.default_rng(3)
    for count in (10, 15):
        held = [
            found.low <= 0.7 <= found.high
            for found in (
                statistics.estimate(rng.normal(0.7, 2, count)) for _ in range(300)
            )
        ]
        assert 0.925 <= np.mean(held) <= 0.975


def test_an_interval_by_hand(monkeypatch):
    from experiments import statistics

    monkeypatch.setattr(statistics, "RESAMPLES", 99)
    values = np.random.default_rng(5).normal(0.7, 2, 10)

    def mean_and_error(sample):
        mean = sum(sample) / 10
        return mean, math.sqrt(sum((x - mean) ** 2 for x in sample) / 9 / 10)

    mean, error = mean_and_error(values)
    ratios = []
    for places in np.random.default_rng(0).integers(0, 10, (99, 10)):
        other, error_of_other = mean_and_error(values[places])
        ratios.append((other - mean) / error_of_other)
    low, high = np.quantile(ratios, [0.025, 0.975])
    found = statistics.estimate(values)
    expected = mean - high * error, mean - low * error
    assert (found.low, found.high) == pytest.approx(expected)


def test_an_interval_is_longer_on_the_side_of_the_tail():
    from experiments.statistics import estimate

    found = estimate([0.1, 0.2, 0.1, 0.3, 0.2, 0.1, 0.4, 0.2, 0.1, 3.0])
    assert found.high - found.mean > 2 * (found.mean - found.low) > 0


@pytest.mark.parametrize(
    ("values", "as_far"),
    [
        ((1.0, 2.0, -0.5, 3.0, 0.7, 4.0, 5.0, 1.1, 2.2, 0.3), 6),
        ((-1.0, -2.0, -3.0, -4.0, -0.5, -6.0, -1.5, -2.5, -3.5, -4.5), 2),
    ],
)
def test_p_is_that_of_all_sign_flips(values, as_far):
    from experiments.statistics import estimate

    flips = itertools.product((-1, 1), repeat=10)
    means = [abs(np.mean(np.multiply(values, signs))) for signs in flips]
    p = np.mean([mean >= abs(np.mean(values)) - 1e-12 for mean in means])
    found = estimate(values)
    assert found.p == pytest.approx(p)
    assert p == as_far / 2**10
    assert found.mean == pytest.approx(np.mean(values))
    assert found.low < found.mean < found.high
    assert estimate(values) == found  # it is deterministic
    turned = estimate([-value for value in values])
    assert turned.p == pytest.approx(p)
    shifted = estimate([value + 10 for value in values])
    assert shifted.low == pytest.approx(found.low + 10)


def test_estimates_of_equal_few_or_infinite_values():
    from experiments.statistics import estimate

    assert estimate([1.0, 2.0, 3.0] * 3) == (2.0, -INF, INF, 1.0)
    assert estimate([0.0] * 10) == (0.0, 0.0, 0.0, 1.0)
    two_of_all_flips = 2 / 2**10
    assert estimate([0.5] * 10) == (0.5, 0.5, 0.5, two_of_all_flips)
    assert estimate([1.0, 2.0, np.nan, 4.0, 5.0] * 2)[1:] == (-INF, INF, 1.0)


def test_holm_by_hand():
    from experiments.statistics import holm

    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([0.02, 0.02, 0.02]) == pytest.approx([0.06] * 3)
    assert holm([0.3]) == [0.3]


# --- The catalogue ----------------------------------------------------------------


def test_an_arm_of_each_place_trains_by_name(cache):
    check_arms(cache, "corrected", "fixed_norm", "touched", "ortho")


@pytest.mark.slow
def test_every_arm_of_the_catalogue_trains_by_name(cache):
    from experiments.arms import CATALOGUE

    assert len(CATALOGUE) == 21
    check_arms(cache, *CATALOGUE)


def test_the_control_arm_of_decay_to_is_adamw(cache):
    from experiments.arms import adamw, CATALOGUE

    cells = cells_of((3e-3, 0.1, 0), (1e-2, 0.5, 1))
    control, plain = (
        train(cache, config_of(digits_recipe(), make), cells, size=2)
        for make in (CATALOGUE["decay_to"].make_optimizer, adamw)
    )
    np.testing.assert_allclose(
        control["measure/train_loss"], plain["measure/train_loss"], rtol=1e-6
    )


def check_arms(cache, *names):
    """Four steps on digits at two strengths; a plan can describe the arm."""
    from experiments.arms import CATALOGUE
    from experiments.engine.describe import digest

    cells = cells_of((3e-3, 0.1, 0), (1e-2, 0.5, 1))
    digests = set()
    for arm in map(CATALOGUE.get, names):
        config = config_of(digits_recipe(), arm.make_optimizer)
        losses = train(cache, config, cells, size=2)["measure/train_loss"]
        assert losses.shape == (2, 2)
        assert np.all(np.isfinite(losses)), arm.name
        assert np.any(losses[:, 1] < losses[:, 0]), arm.name
        digests.add(digest(config))
    assert len(digests) == len(names)
