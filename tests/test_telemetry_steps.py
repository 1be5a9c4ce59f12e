"""Which steps the tracker measures, and that the other steps cost nothing."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import decayax as dx


LR, WD = 0.1, 0.1
RATE = LR * WD
PARAMS = {
    "w": jax.random.normal(jax.random.key(0), (4, 3)),
    "b": jax.random.normal(jax.random.key(1), (5,)),
}
GRADS = jax.tree.map(lambda p: jnp.cos(3 * p), PARAMS)
SGDW = dx.sgdw(LR, weight_decay=WD)


def run(optimizer, grads):
    """The statistics after each call."""
    update = jax.jit(optimizer.update)
    state, params, found = optimizer.init(PARAMS), PARAMS, []
    for each in grads:
        updates, state = update(each, state, params)
        params = optax.apply_updates(params, updates)
        found.append(dx.decay_stats(state))
    assert update._cache_size() == 1
    return found


def is_measured(stats):
    return stats["w/weight_norm"] > 0


def accumulate(inner, k):
    return optax.MultiSteps(inner, k).gradient_transformation()


@pytest.mark.relaxed("optax.MultiSteps")
@pytest.mark.parametrize("every", [1, 2, 3, 4, 5, 100])
@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 8, 10])
def test_accumulated_steps_are_measured_for_every_k(k, every):
    """Each measurement is that of an emitted step."""
    found = run(dx.track_decay(accumulate(SGDW, k), every=every), [GRADS] * 2 * k)
    measured = [stats for stats in found if is_measured(stats)]
    # every = 1 measures the emitting call k − 1; otherwise the call before predicts it.
    assert len(found) - len(measured) == (k - 1 if every == 1 else max(k - 2, 0))
    for stats in measured:
        for leaf in PARAMS:
            assert stats[f"{leaf}/decay_rate"] == pytest.approx(RATE, rel=1e-4)
            assert stats[f"{leaf}/update_norm"] > 0


@pytest.mark.relaxed("optax.adamw")
@pytest.mark.parametrize("every", [1, 4, 6, 100])
@pytest.mark.parametrize(
    "inner",
    [
        dx.adamw(LR, weight_decay=WD),
        optax.adamw(LR, weight_decay=WD),
        optax.lion(LR, weight_decay=WD),
        dx.rmspropw(LR, momentum=0.9, weight_decay=WD),
        optax.chain(optax.clip_by_global_norm(1.0), SGDW),
        optax.apply_if_finite(SGDW, 3),
        optax.inject_hyperparams(dx.sgdw)(LR, weight_decay=WD),
        optax.masked(SGDW, {"w": True, "b": True}),
    ],
    ids=["adamw", "optax", "lion", "rmspropw", "clip", "finite", "injected", "masked"],
)
def test_accumulated_steps_of_other_optimizers(inner, every):
    stats = run(dx.track_decay(accumulate(inner, 4), every=every), [GRADS] * 8)[-1]
    assert stats["w/decay_rate"] == pytest.approx(RATE, rel=1e-4)


@pytest.mark.relaxed("optax.MultiSteps")
@pytest.mark.parametrize("every", [1, 2, 3])
def test_accumulation_that_varies(every):
    """1 mini-step for the first two steps, then 3."""
    optimizer = accumulate(SGDW, lambda step: jnp.where(step < 2, 1, 3))
    for stats in run(dx.track_decay(optimizer, every=every), [GRADS] * 9):
        assert stats["w/decay_rate"] == pytest.approx(RATE, rel=1e-4)


@pytest.mark.relaxed("optax.MultiSteps")
def test_inside_multisteps():
    optimizer = accumulate(dx.track_decay(SGDW, every=2), 3)
    found = run(optimizer, [GRADS] * 9)
    assert found[-1]["w/decay_rate"] == pytest.approx(RATE, rel=1e-4)


NANS = jax.tree.map(lambda g: g * jnp.nan, GRADS)


@pytest.mark.parametrize("every", [1, 2, 5])
def test_skipped_steps_are_not_measured(every):
    optimizer = dx.track_decay(optax.apply_if_finite(SGDW, 5), every=every)
    found = run(optimizer, [NANS, NANS, GRADS, NANS])
    assert [is_measured(stats) for stats in found] == [False, False, True, True]
    for stats in found[2:]:
        assert stats["w/decay_rate"] == pytest.approx(RATE, rel=1e-4)


@pytest.mark.parametrize(
    ("every", "rates"),
    [
        (1, [None, None, LR, 2 * LR, 3 * LR]),  # of this step
        (2, [None, LR, 2 * LR, 2 * LR, 4 * LR]),  # of the next step, at 1, 2 and 4
    ],
)
def test_a_warm_up_from_zero(every, rates):
    schedule = lambda step: LR * jnp.maximum(step - 1, 0)  # noqa: E731
    optimizer = dx.track_decay(dx.sgdw(schedule, weight_decay=WD), every=every)
    for stats, rate in zip(run(optimizer, [GRADS] * 5), rates, strict=True):
        assert is_measured(stats) == (rate is not None)
        if rate is not None:
            assert stats["w/decay_rate"] == pytest.approx(rate * WD, rel=1e-4)


@pytest.mark.parametrize("every", [1, 2, 3, 4])
def test_conditional_steps(every):
    """Every third call changes the weights."""
    optimizer = optax.conditionally_mask(SGDW, lambda step, **_: step % 3 == 2)
    found = run(dx.track_decay(optimizer, every=every), [GRADS] * 6)
    assert not is_measured(found[0])
    assert is_measured(found[2])
    for stats in found[2:]:
        assert stats["w/decay_rate"] == pytest.approx(RATE, rel=1e-4)


def test_a_leaf_without_decay_is_measured():
    mask = {"w": False, "b": True}
    for inner in (optax.sgd(LR), dx.sgdw(LR, weight_decay=WD, mask=mask)):
        stats = run(dx.track_decay(inner, every=1), [GRADS])[-1]
        delta = LR * np.linalg.norm(GRADS["w"])
        theta = np.linalg.norm(PARAMS["w"])
        assert stats["w/update_norm"] == pytest.approx(delta, rel=1e-5)
        assert stats["w/update_to_weight"] == pytest.approx(delta / theta, rel=1e-5)


# --- the next step ----------------------------------------------------------------


@pytest.mark.relaxed("optax.adamw")
@pytest.mark.parametrize(
    "inner",
    [
        SGDW,
        dx.sgdw(LR, momentum=0.9, weight_decay=WD),
        optax.adamw(optax.linear_schedule(LR, 0.0, 9), weight_decay=WD),
        dx.rmspropw(LR, weight_decay=WD),
        optax.lion(LR, weight_decay=WD),
    ],
)
def test_the_step_after_the_update_is_measured(inner):
    """Weights, state and schedule of the next step, and the gradient of this one."""
    state = inner.init(PARAMS)
    updates, state = inner.update(GRADS, state, PARAMS)
    params = optax.apply_updates(PARAMS, updates)
    expected = dx.measure_decay(inner, params, state, GRADS)
    (found,) = run(dx.track_decay(inner, every=2), [GRADS])
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-5, nan_ok=True)


def donated_step(optimizer, add):
    """A compiled training step that donates parameters and state."""
    shapes = {"w": (48, 40), "v": (40,)}
    keys = jax.random.split(jax.random.key(0), 2)
    params = {
        name: jax.random.normal(key, shape)
        for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }

    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return add(params, updates), state

    compiled = jax.jit(step, donate_argnums=(0, 1))
    return compiled.lower(params, optimizer.init(params), params).compile()


def copies(compiled):
    return len(re.findall(r" = f32\[48,40\]\S* copy\(", compiled.as_text()))


@pytest.mark.relaxed("optax.adamw")
@pytest.mark.parametrize("add", [optax.apply_updates, dx.apply_updates])
@pytest.mark.parametrize("every", [2, 100])
@pytest.mark.parametrize(
    "inner",
    [
        optax.adamw(LR),
        dx.adamw(LR),
        dx.adam_l2(LR),
        dx.sgdw(LR),
        dx.sgdw(LR, momentum=0.9),
        dx.rmspropw(LR),
        dx.rmsprop_l2(LR, momentum=0.9),
        optax.lion(LR),
        accumulate(dx.adamw(LR), 4),
        optax.chain(optax.clip_by_global_norm(1.0), dx.adamw(LR)),
        optax.lamb(LR),
    ],
)
def test_no_donated_array_is_copied(inner, every, add):
    plain = donated_step(inner, add)
    tracked = donated_step(dx.track_decay(inner, every=every), add)
    assert copies(tracked) == copies(plain)


def test_the_measurement_needs_little_memory():
    """Less than the parameters: the sums are calculated in one pass."""
    tracked = donated_step(dx.track_decay(dx.adamw(LR)), optax.apply_updates)
    assert tracked.memory_analysis().temp_size_in_bytes < 4 * 48 * 40


def test_copies_are_found():
    assert copies(donated_step(dx.track_decay(SGDW, every=1), optax.apply_updates)) > 0


# --- outside of jit ---------------------------------------------------------------


def resident_megabytes():
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
@pytest.mark.parametrize("every", [1, 2, 100])
@pytest.mark.parametrize("inner", [SGDW, dx.adamw(LR), dx.adam_l2(LR)])
def test_eager_steps_keep_no_memory(inner, every):
    optimizer = dx.track_decay(inner, every=every)
    state = optimizer.init(PARAMS)
    for step in range(43):
        if step == 3:
            before = resident_megabytes()
        _, state = optimizer.update(GRADS, state, PARAMS)
    # A program compiled again in each step keeps about 2 MB each time.
    assert resident_megabytes() - before < 10


def test_an_eager_measurement_is_compiled_once():
    """After the first one, the optimizer is called for the training step only."""
    calls = []
    optimizer = optax.stateless(lambda updates, params: (calls.append(1), updates)[1])
    tracked = dx.track_decay(optimizer, every=1)
    state = tracked.init(PARAMS)
    for _ in range(5):
        before = len(calls)
        _, state = tracked.update(GRADS, state, PARAMS)
    assert len(calls) - before == 1


@pytest.mark.parametrize("every", [1, 2, 3])
def test_eager_and_compiled_steps_measure_the_same(every):
    optimizer = dx.track_decay(dx.sgdw(LR, momentum=0.9, weight_decay=WD), every=every)
    eager = compiled = optimizer.init(PARAMS)
    for _ in range(4):
        _, eager = optimizer.update(GRADS, eager, PARAMS)
        _, compiled = jax.jit(optimizer.update)(GRADS, compiled, PARAMS)
        found, expected = map(dx.decay_stats, (eager, compiled))
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-5, nan_ok=True)


# --- on several devices -----------------------------------------------------------


MESH = Mesh(np.array(jax.devices()[:2]), ("x",))
SPLIT, WHOLE = PartitionSpec("x"), PartitionSpec()


@pytest.mark.skipif(not hasattr(jax, "shard_map"), reason="needs jax.shard_map")
@pytest.mark.relaxed("jax.shard_map")
@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize(
    "inner",
    [
        SGDW,
        dx.sgdw(LR, momentum=0.9, weight_decay=WD),
        dx.adamw(LR, weight_decay=WD),
        dx.rmspropw(LR, weight_decay=WD),
        optax.lion(LR, weight_decay=WD),
        dx.adam_l2(LR, weight_decay=WD),
        accumulate(SGDW, 2),
    ],
)
def test_shards_are_added_up(inner, every):
    """One leaf is sharded and the other one is not."""
    optimizer = dx.track_decay(inner, every=every)
    state = optimizer.init(PARAMS)
    of_params = {"w": SPLIT, "b": WHOLE}
    of_state = jax.tree.map(lambda x: SPLIT if x.shape == (4, 3) else WHOLE, state)
    update = jax.shard_map(
        optimizer.update,
        mesh=MESH,
        in_specs=(of_params, of_state, of_params),
        out_specs=(of_params, of_state),
    )
    whole = sharded = state
    for _ in range(2):
        _, whole = jax.jit(optimizer.update)(GRADS, whole, PARAMS)
        _, sharded = jax.jit(update)(GRADS, sharded, PARAMS)
    expected, found = dx.decay_stats(whole), dx.decay_stats(sharded)
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-5, nan_ok=True)


@pytest.mark.parametrize("spec", [SPLIT, PartitionSpec("x", None), WHOLE])
def test_automatic_sharding(spec):
    optimizer = dx.track_decay(dx.adamw(LR, weight_decay=WD), every=2)
    sharding = NamedSharding(MESH, spec)
    params, grads = ({"w": jax.device_put(t["w"], sharding)} for t in (PARAMS, GRADS))
    _, state = jax.jit(optimizer.update)(grads, optimizer.init(params), params)
    alone = {"w": PARAMS["w"]}
    _, other = jax.jit(optimizer.update)(
        {"w": GRADS["w"]}, optimizer.init(alone), alone
    )
    expected, found = dx.decay_stats(other), dx.decay_stats(state)
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-5, nan_ok=True)
