"""Every method of the catalogue in use: models, devices, stacks, 16 bits, wrappers.

Each property is one test over all rows of `methods.py`.
"""

import functools
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from methods import build, LR, matrices, METHODS

import decayax as dx


pytestmark = pytest.mark.relaxed("optax.scale_by_adam, Flax and Equinox")

every_method = pytest.mark.parametrize("name", METHODS)
# Options do not change how a method walks a tree.
every_name = pytest.mark.parametrize("name", [n for n in METHODS if "," not in n])
with_axis = [name for name, method in METHODS.items() if method.has_axis]
one_of_each = [name for name in with_axis if "," not in name]
STEPS = 3
NO_BIAS = dx.masks.no_bias_or_norm
ADAM = optax.scale_by_adam()


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


PARAMS = {"kernel": normal(0, 4, 3), "bias": 0.5 + jnp.arange(3.0)}


def gradients(params, step):
    """Gradients of a bowl that moves, of every dtype."""

    def gradient(path, p):
        wave = jnp.cos(jnp.arange(p.size) + step + len(path)).reshape(p.shape)
        return (wave + 0.1 * p).astype(p.dtype)

    return jax.tree_util.tree_map_with_path(gradient, params)


def after(optimizer, state, grads, params):
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state


def step_of(optimizer, params, state, n):
    return after(optimizer, state, gradients(params, n), params)


def train(optimizer, params, state=None, steps=STEPS):
    """The parameters and the state after some steps.

    Without `jit`, all methods share the compiled operations, which saves minutes.
    """
    state = optimizer.init(params) if state is None else state
    for n in range(steps):
        params, state = step_of(optimizer, params, state, n)
    return params, state


def assert_close(got, expected, rtol=1e-5):
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(
            as_numpy(x), as_numpy(y), rtol=rtol, atol=rtol
        ),
        got,
        expected,
    )


def assert_equal(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, got, expected)


def as_numpy(x):
    return np.asarray(x).astype(np.float64)


# --- models -----------------------------------------------------------------------


TOKENS = jnp.array([0, 2, 3])


class Job(NamedTuple):
    """A training job of a framework; its gradients are jitted, in NNX its steps too."""

    step: Callable[[], tuple[jax.Array, Any]]  # -> loss, gradients
    params: Callable[[], Any]
    save: Callable[[], Any]  # a checkpoint in NumPy arrays
    restore: Callable[[Any], None]


@functools.cache
def nnx_model():
    from flax import nnx

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.embed = nnx.Embed(5, 4, rngs=rngs)
            self.norm = nnx.LayerNorm(4, use_bias=False, rngs=rngs)
            self.out = nnx.Linear(4, 3, rngs=rngs)

        def __call__(self, tokens):
            return self.out(self.norm(self.embed(tokens)))

    slope = nnx.value_and_grad(lambda model: jnp.mean((model(TOKENS) - 1.0) ** 2))
    return *nnx.split(Model(nnx.Rngs(0))), nnx.jit(slope)


def nnx_job(optimizer):
    from flax import nnx

    graph, params, slope = nnx_model()
    model = nnx.merge(graph, params)
    trainer = nnx.Optimizer(model, optimizer, wrt=nnx.Param)
    update = nnx.jit(lambda model, trainer, grads: trainer.update(model, grads))

    def step():
        loss, grads = slope(model)
        update(model, trainer, grads)
        return loss, grads

    return Job(
        step,
        params=lambda: nnx.state(model, nnx.Param),
        save=lambda: jax.tree.map(np.array, nnx.state((model, trainer))),
        restore=lambda saved: nnx.update((model, trainer), saved),
    )


@functools.cache
def linen_model():
    from flax import linen

    class Model(linen.Module):
        @linen.compact
        def __call__(self, tokens):
            x = linen.LayerNorm(use_bias=False)(linen.Embed(5, 4)(tokens))
            return linen.Dense(3)(x)

    model = Model()
    params = model.init(jax.random.key(0), TOKENS)["params"]

    def loss(params):
        return jnp.mean((model.apply({"params": params}, TOKENS) - 1.0) ** 2)

    return model, params, jax.jit(jax.value_and_grad(loss))


def functional_job(train_state, slope, update, params_of):
    """A job whose whole state is one tree."""
    now = [train_state]

    def step():
        loss, grads = slope(params_of(now[0]))
        now[0] = update(now[0], grads)
        return loss, grads

    def save():
        return list(map(np.array, jax.tree.leaves(now[0])))

    def restore(saved):
        now[0] = jax.tree.unflatten(jax.tree.structure(now[0]), saved)

    return Job(step, lambda: params_of(now[0]), save, restore)


def linen_job(optimizer):
    from flax.training.train_state import TrainState

    model, params, slope = linen_model()
    first = TrainState.create(apply_fn=model.apply, params=params, tx=optimizer)
    first = first.replace(step=jnp.zeros([], jnp.int32))
    # Not under `jit`: see `train`.
    update = lambda state, grads: state.apply_gradients(grads=grads)  # noqa: E731
    return functional_job(first, slope, update, lambda state: state.params)


@functools.cache
def equinox_model():
    eqx = pytest.importorskip("equinox")

    class Model(eqx.Module):
        embed: Any
        norm: Any
        out: Any

    keys = jax.random.split(jax.random.key(0))
    model = Model(
        eqx.nn.Embedding(5, 4, key=keys[0]),
        eqx.nn.LayerNorm(4, use_bias=False),
        eqx.nn.Linear(4, 3, key=keys[1]),
    )
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def loss(params):
        model = eqx.combine(params, static)
        x = jax.vmap(lambda token: model.out(model.norm(model.embed(token))))(TOKENS)
        return jnp.mean((x - 1.0) ** 2)

    return params, jax.jit(jax.value_and_grad(loss))


def equinox_job(optimizer):
    params, slope = equinox_model()

    def update(carry, grads):
        updates, state = optimizer.update(grads, carry[1], carry[0])
        return dx.apply_updates(carry[0], updates), state

    return functional_job(
        (params, optimizer.init(params)), slope, update, lambda carry: carry[0]
    )


JOBS = {"nnx": nnx_job, "linen": linen_job, "equinox": equinox_job}


@pytest.mark.needs_flax
@pytest.mark.parametrize(
    ("framework", "masked"),
    [("nnx", True), ("linen", True), ("equinox", True), ("linen", False)],
)
@every_name
def test_a_model_trains_and_goes_on_from_a_checkpoint(name, framework, masked):
    """The excluded parameters train as with the base optimizer alone."""
    options = {"mask": NO_BIAS} if masked else {}
    job = JOBS[framework](build(name, **options))
    selected = jax.tree.leaves(NO_BIAS(job.params()))
    expected = first = leaves(job.params())
    velocity = [0.0 * x for x in first]
    for number in range(STEPS):
        if number == STEPS - 1:
            saved = job.save()
        # The momentum of the base optimizer, from the same gradients.
        loss, grads = job.step()
        assert jnp.isfinite(loss)
        velocity = [0.5 * m + g for m, g in zip(velocity, leaves(grads), strict=True)]
        expected = [x - LR * m for x, m in zip(expected, velocity, strict=True)]
    whole = leaves(job.params())
    job.restore(saved)
    assert job.step()[0] == loss
    assert_equal(leaves(job.params()), whole)
    assert any(np.any(x != y) for x, y in zip(whole, first, strict=True))
    for x, y, chosen in zip(whole, expected, selected, strict=True):
        if masked and not chosen:
            np.testing.assert_allclose(x, y, 1e-5, 1e-6)


def leaves(tree):
    return list(map(np.asarray, jax.tree.leaves(tree)))


# --- stacks -----------------------------------------------------------------------


STACK = normal(1, 3, 4, 3)
AXES = {  # the axes of one matrix or row in a stack, where they are not both of it
    "touched_decay": (-1, -1),
    "touched_decay, average": (-1, -1),
    "rotational": (-2, -2),
}


@pytest.mark.parametrize("name", with_axis)
def test_a_stack_is_the_same_as_its_matrices(name):
    of_stack, of_matrix = AXES.get(name, ((-2, -1), None))
    singles = {"one": STACK[0], "three": STACK[2], "two": STACK[1]}

    def grads_of(params, n):
        grads = gradients({"one": STACK[0]}, n)["one"]
        return {key: p * (1 + 0.1 * n) - grads for key, p in params.items()}

    def run(params, axis):
        optimizer = build(name, axis=axis)
        state = optimizer.init(params)
        for n in range(STEPS):
            params, state = after(optimizer, state, grads_of(params, n), params)
        return params

    found, matrices = run({"w": STACK}, of_stack)["w"], run(singles, of_matrix)
    assert_close(found, jnp.stack([matrices[key] for key in ("one", "two", "three")]))


@functools.cache
def symmetric_model():
    """Filters before a BatchNorm, a kernel before a LayerNorm, and scanned layers."""
    params = {
        "conv": normal(2, 2, 2, 1, 3),
        "dense": normal(3, 3, 4),
        "layers": normal(4, 2, 4, 4),
        "head": normal(5, 4, 2),
    }

    def normalized(x, axes):
        x = x - x.mean(axes, keepdims=True)
        return x / jnp.sqrt((x * x).mean(axes, keepdims=True) + 1e-12)

    def model(params, images):
        x = jax.lax.conv_general_dilated(
            images,
            params["conv"],
            window_strides=(1, 1),
            padding="SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        x = jax.nn.relu(normalized(x, (0, 1, 2))).mean((1, 2))
        x = jnp.tanh(normalized(x @ params["dense"], -1))
        layer = lambda x, w: (jnp.tanh(normalized(x @ w, -1)), None)  # noqa: E731
        return jax.lax.scan(layer, x, params["layers"])[0] @ params["head"]

    images = normal(6, 4, 3, 3, 1)
    symmetries = dx.scale_symmetries(lambda params: model(params, images), params)
    axes = {"conv": (0, 1, 2), "dense": None, "layers": (-2, -1), "head": None}
    return params, symmetries, axes


@pytest.mark.parametrize("name", with_axis)
def test_symmetries_are_the_axes_of_the_slices_that_the_model_does_not_see(name):
    params, symmetries, axes = symmetric_model()

    def program(axis):
        optimizer = build(name, axis=axis)
        state = jax.eval_shape(optimizer.init, params)
        init = jax.make_jaxpr(optimizer.init)(params)
        return str(init), str(jax.make_jaxpr(optimizer.update)(params, state, params))

    assert program(symmetries) == program(axes)
    assert program(symmetries) != program(None)


# --- 16 bits ----------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [dx.with_compensation, dx.with_stochastic_rounding])
@every_method
def test_sixteen_bit_weights_follow_those_of_32_bits(name, wrap):
    """Within some ulps of bfloat16, 2^-8 of the weight; more where errors add up."""
    narrow = {"kernel": PARAMS["kernel"].astype(jnp.bfloat16)}
    wide = {"kernel": narrow["kernel"].astype(jnp.float32)}
    slopes = gradients(narrow, 0)["kernel"]
    optimizer = build(name)

    def run(optimizer, params):
        state = optimizer.init(params)
        for n in range(8):
            grads = slopes * jnp.cos(n).astype(slopes.dtype)
            grads = {"kernel": grads.astype(params["kernel"].dtype)}
            updates, state = optimizer.update(grads, state, params)
            params = dx.apply_updates(params, updates)
        return params

    found, expected = run(wrap(optimizer), narrow), run(optimizer, wide)
    assert found["kernel"].dtype == jnp.bfloat16
    ulps = 2 if wrap is dx.with_compensation else 8
    scale = jnp.maximum(jnp.abs(expected["kernel"]), 0.1)
    error = jnp.abs(found["kernel"] - expected["kernel"]) / scale
    assert jnp.max(error) < ulps * 2.0**-8


# --- many runs --------------------------------------------------------------------


@every_method
def test_many_strengths_and_seeds(name):
    """Each run of a vmapped training, init included, is that run alone."""
    strengths, seeds = jnp.array([0.1, 0.3]), jnp.arange(2)

    def run(strength, seed):
        params = {"kernel": jax.random.normal(jax.random.key(seed), (4, 3))}
        return train(build(name, strength=strength), params)[0]["kernel"]

    found = jax.vmap(run)(strengths, seeds)
    for strength, seed, kernel in zip(strengths, seeds, found, strict=True):
        params = {"kernel": jax.random.normal(jax.random.key(seed), (4, 3))}
        alone, _ = train(build(name, strength=float(strength)), params)
        assert_close(kernel, alone["kernel"])


# --- telemetry --------------------------------------------------------------------


@every_name
def test_telemetry_around_each_method(name):
    method = METHODS[name]
    optimizer = dx.track_decay(build(name), every=1)
    params = {"kernel": PARAMS["kernel"]}
    state, step = optimizer.init(params), jax.jit(functools.partial(after, optimizer))
    for n in range(STEPS):
        params, state = step(state, gradients(params, n), params)
    stats = dx.decay_stats(state)
    assert "kernel" in str(dx.decay_table(state))
    for key in ("weight_norm", "angle", "update_norm", "update_to_weight"):
        assert np.isfinite(stats[f"kernel/{key}"]), key
    expected = pytest.approx(method.rate, rel=1e-4, nan_ok=True)
    assert stats["kernel/decay_rate"] == expected


# --- wrappers ---------------------------------------------------------------------


@every_method
def test_inside_with_decay(name):
    """The decay adds −γλθ to the steps of the method."""
    inner = build(name)
    outer = dx.with_decay(inner, 0.5, learning_rate=LR)
    grads = gradients(PARAMS, 0)
    plain, state = inner.update(grads, inner.init(PARAMS), PARAMS)
    found, outer_state = outer.update(grads, outer.init(PARAMS), PARAMS)
    assert_close(
        found, jax.tree.map(lambda u, p: u - LR * 0.5 * p, plain, PARAMS), 1e-6
    )
    assert_close(jax.tree.leaves(outer_state[0]), jax.tree.leaves(state), 1e-6)


@every_method
def test_partition_and_masked(name):
    """Matrices train by the method, other parameters by Adam or not at all."""
    whole, _ = train(build(name, ADAM, mask=matrices), PARAMS)
    part = build(name, ADAM)
    parts = {"matrices": part, "other": optax.adam(LR)}
    labels = {"kernel": "matrices", "bias": "other"}
    assert_close(train(optax.partition(parts, labels), PARAMS)[0], whole)
    masked = optax.chain(
        optax.masked(part, {"kernel": True, "bias": False}),
        optax.masked(optax.set_to_zero(), {"kernel": False, "bias": True}),
    )
    found, _ = train(masked, PARAMS)
    assert_close(found, {"kernel": whole["kernel"], "bias": PARAMS["bias"]})


@every_method
def test_skipped_steps_leave_the_memory_bit_for_bit(name):
    """MultiSteps takes one step of the mean gradient; apply_if_finite skips NaN."""
    inner = build(name)
    finite = optax.apply_if_finite(inner, 5)
    steps = optax.MultiSteps(inner, 2).gradient_transformation()
    grads = gradients(PARAMS, 0)
    nan = jax.tree.map(lambda g: g.at[0].set(jnp.nan), grads)

    plain = after(inner, inner.init(PARAMS), grads, PARAMS)
    plain = after(inner, plain[1], grads, plain[0])
    step = jax.jit(functools.partial(after, finite))
    skipping = step(finite.init(PARAMS), grads, PARAMS)
    skipped = step(skipping[1], nan, skipping[0])
    resumed = step(skipped[1], grads, skipped[0])
    assert_equal(skipped[0], skipping[0])
    assert_equal(skipped[1].inner_state, skipping[1].inner_state)

    step = jax.jit(functools.partial(after, steps))
    rows = [(PARAMS, steps.init(PARAMS))]
    for _ in range(4):
        rows.append(step(rows[-1][1], grads, rows[-1][0]))
    for old, new in (rows[:2], rows[2:4]):
        assert_equal(new[0], old[0])
        assert_equal(new[1].inner_opt_state, old[1].inner_opt_state)

    for params, state in (
        (resumed[0], resumed[1].inner_state),
        (rows[4][0], rows[4][1].inner_opt_state),
    ):
        assert_close(params, plain[0])
        assert_close(jax.tree.leaves(state), jax.tree.leaves(plain[1]))


@every_method
def test_injected_strengths(name):
    def make(strength):
        return build(name, strength=strength)

    optimizer = optax.inject_hyperparams(make)(strength=0.3)
    assert_close(train(optimizer, PARAMS)[0], train(build(name), PARAMS)[0])


# --- devices ----------------------------------------------------------------------


ROOT = Path(__file__).parents[1]
DEVICES = 8
COLLECTIVE = re.compile(
    r"= (\S.*?) (all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)"
    r"(?:-start)?\("
)


def on_eight_devices():
    """For each method and placement: the error, moved arrays, and the collectives.

    It runs in a process of its own, in which the CPU is eight devices.
    """
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    mesh = Mesh(np.array(jax.devices()), ("x",))
    spec = {
        "columns": PartitionSpec(None, "x"),
        "rows": PartitionSpec("x", None),
        "whole": PartitionSpec(),
    }
    params = {key: normal(n, 16, 24) for n, key in enumerate(spec)}
    grads = gradients(params, 0)
    on_mesh = {key: NamedSharding(mesh, spec[key]) for key in params}
    placed, slopes = (jax.device_put(x, on_mesh) for x in (params, grads))
    rows = {}
    for name in METHODS:
        optimizer = build(name, optax.identity())
        step = jax.jit(functools.partial(after, optimizer))
        expected = after(optimizer, optimizer.init(params), grads, params)
        rows[name] = measured(step, optimizer.init(placed), slopes, placed, expected)
    for name in one_of_each:  # norms along the axis that no device splits
        axis = {"columns": 0, "rows": 1, "whole": 0}
        optimizer = build(name, optax.identity(), axis=axis)
        step = jax.jit(functools.partial(after, optimizer))
        expected = after(optimizer, optimizer.init(params), grads, params)
        found = measured(step, optimizer.init(placed), slopes, placed, expected)
        rows[f"{name}, axis"] = found
    print(json.dumps(rows))


def measured(step, state, grads, params, expected):
    compiled = step.lower(state, grads, params).compile()
    found = compiled(state, grads, params)
    arrays = zip(*map(jax.tree.leaves, ((params, state), found)), strict=True)
    return {
        "error": max(map(error, *map(jax.tree.leaves, (found, expected)))),
        # A counter starts on one device, as those of optax.
        "moved": [
            f"{x.shape} {x.sharding} -> {y.sharding}"
            for x, y in arrays
            if x.size > 1 and not y.sharding.is_equivalent_to(x.sharding, x.ndim)
        ],
        "collectives": COLLECTIVE.findall(compiled.as_text()),
    }


def error(x, y):
    """The largest difference, relative to the largest number."""
    x, y = as_numpy(x), as_numpy(y)
    different = np.where(x == y, 0.0, x - y)  # inf is an unknown bound
    return float(np.max(np.abs(different)) / max(1.0, np.max(np.abs(y))))


@functools.cache
def sharded():
    """What `on_eight_devices` found, in one process for all tests."""
    flags = f"--xla_force_host_platform_device_count={DEVICES} "
    environment = os.environ | {
        "XLA_FLAGS": flags + "--xla_backend_optimization_level=1",
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests"))),
    }
    code = "import test_catalogue_uses as uses; uses.on_eight_devices()"
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def require_shardings_of_states(found):
    """With jax 0.5, `init` leaves some states unsharded; the first step shards them."""
    if found["moved"] and jax.__version_info__ < (0, 7):
        pytest.skip("this jax does not shard what init calculates")
    assert not found["moved"]


@every_method
def test_sharded_parameters(name):
    """A norm is an all-reduce of one number; only an SVD gathers its matrix."""
    method, found = METHODS[name], sharded()[name]
    # A sum over devices adds up in another order.
    assert found["error"] < (1e-6 if method.kind == "elementwise" else 3e-6)
    require_shardings_of_states(found)
    largest = {"elementwise": 0, "norm": 1, "rows": 24, "svd": 16 * 24}[method.kind]
    for shapes, collective in found["collectives"]:
        assert collective == "all-reduce" or method.kind == "svd"
        for shape in re.findall(r"\w+\[([\d,]*)\]", shapes):
            assert math.prod(map(int, filter(None, shape.split(",")))) <= largest


@pytest.mark.parametrize("name", one_of_each)
def test_a_norm_along_an_axis_that_is_not_split_needs_no_collective(name):
    found = sharded()[f"{name}, axis"]
    assert found["error"] < 1e-6
    require_shardings_of_states(found)
    assert not found["collectives"]


# --- costs ------------------------------------------------------------------------


# Of a kernel of shape (4, 3).
NUMBERS = {"anchor": 12, "initial": 12, "average": 12, "frequency": 4}


@every_method
def test_the_state_of_a_method(name):
    """An anchor is a copy of the weights; a norm or a dual is one number."""
    options = {"mask": {"kernel": True, "bias": False}}
    if name == "rotational":
        options["axis"] = (-2, -1)
    state = jax.eval_shape(build(name, optax.identity(), **options).init, PARAMS)
    arrays = [x for x in jax.tree.leaves(state) if x.dtype != jnp.int32]
    is_number = name in {"decay_to", "decay_to, cautious"}  # the anchor 0.25
    numbers = {} if is_number else NUMBERS
    expected = [numbers.get(memory, 1) for memory in METHODS[name].memory]
    assert sorted(x.size for x in arrays) == sorted(expected)
    assert {x.dtype for x in arrays} <= {jnp.dtype("float32")}


def accessed(optimizer, size=64):
    """The bytes of one donated step, in arrays of the size of the leaf."""
    params = {"kernel": jax.ShapeDtypeStruct((size, size), jnp.float32)}

    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = jax.eval_shape(optimizer.init, params)
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, params)
    analysis = compiled.compile().cost_analysis()
    analysis = analysis[0] if isinstance(analysis, list) else analysis
    return analysis["bytes accessed"] / (4 * size**2)


@pytest.mark.parametrize(
    "name", [name for name, method in METHODS.items() if method.kind == "elementwise"]
)
def test_an_elementwise_method_reads_no_more_than_decoupled_decay(name):
    """Except for its anchor. Adam's quotient would be stored for a gate on the CPU."""
    # The average: XLA on CPU also copies both arrays that are updated in place.
    plain = optax.chain(dx.decoupled_decay(0.3), optax.scale_by_learning_rate(LR))
    arrays = {"decay_to": 0, "decay_to, cautious": 0, "decay_to_average": 8}
    added = arrays.get(name, len(METHODS[name].memory))
    assert accessed(build(name, optax.identity())) <= accessed(plain) + added + 0.05
