"""Every method of the catalogue in use: models, devices, stacks, 16 bits, wrappers.

Each property is one test over all rows of `methods.py`.
"""

import functools
from collections.abc import Callable
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
with_axis = [name for name, method in METHODS.items() if method.has_axis]
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


def step_of(optimizer, params, state, n):
    updates, state = optimizer.update(gradients(params, n), state, params)
    return dx.apply_updates(params, updates), state


def train(optimizer, params, state=None, steps=STEPS, start=0):
    """The parameters and the state after some steps in one program."""
    state = optimizer.init(params) if state is None else state

    @jax.jit
    def run(params, state):
        numbers = jnp.arange(start, start + steps)
        step = lambda carry, n: (step_of(optimizer, *carry, n), None)  # noqa: E731
        return jax.lax.scan(step, (params, state), numbers)[0]

    return run(params, state)


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
    """A training job of a framework, whose step is jitted."""

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
    update = jax.jit(lambda state, grads: state.apply_gradients(grads=grads))
    return functional_job(first, slope, update, lambda state: state.params)


@functools.cache
def equinox_model():
    eqx = pytest.importorskip("equinox")

    class Model(eqx.Module):
        embed: eqx.nn.Embedding
        norm: eqx.nn.LayerNorm
        out: eqx.nn.Linear

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

    @jax.jit
    def update(carry, grads):
        updates, state = optimizer.update(grads, carry[1], carry[0])
        return dx.apply_updates(carry[0], updates), state

    return functional_job(
        (params, optimizer.init(params)), slope, update, lambda carry: carry[0]
    )


JOBS = {"nnx": nnx_job, "linen": linen_job, "equinox": equinox_job}


@pytest.mark.needs_extras
@pytest.mark.parametrize(
    ("framework", "masked"),
    [("nnx", True), ("linen", True), ("equinox", True), ("linen", False)],
)
@every_method
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

        def step(carry, n):
            params, state = carry
            updates, state = optimizer.update(grads_of(params, n), state, params)
            return (optax.apply_updates(params, updates), state), None

        start = params, optimizer.init(params)
        return jax.lax.scan(step, start, jnp.arange(STEPS))[0][0]

    both = jax.jit(lambda: (run({"w": STACK}, of_stack), run(singles, of_matrix)))()
    expected = jnp.stack([both[1][key] for key in ("one", "two", "three")])
    assert_close(both[0]["w"], expected)


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
        def step(carry, n):
            params, state = carry
            grads = {"kernel": (slopes * jnp.cos(n)).astype(params["kernel"].dtype)}
            updates, state = optimizer.update(grads, state, params)
            return (dx.apply_updates(params, updates), state), None

        steps = jnp.arange(8, dtype=jnp.bfloat16)
        return jax.lax.scan(step, (params, optimizer.init(params)), steps)[0]

    (found, _), (expected, _) = jax.jit(
        lambda: (run(wrap(optimizer), narrow), run(optimizer, wide))
    )()
    assert found["kernel"].dtype == jnp.bfloat16
    ulps = 2 if wrap is dx.with_compensation else 8
    scale = jnp.maximum(jnp.abs(expected["kernel"]), 0.1)
    error = jnp.abs(found["kernel"] - expected["kernel"]) / scale
    assert jnp.max(error) < ulps * 2.0**-8


# --- many runs --------------------------------------------------------------------


@every_method
def test_many_strengths_and_seeds_are_one_program(name):
    """Each run of a vmapped training, init included, is that run alone."""
    strengths, seeds = jnp.array([0.1, 0.3]), jnp.arange(2)

    def run(strength, seed):
        params = {"kernel": jax.random.normal(jax.random.key(seed), (4, 3))}
        optimizer = build(name, strength=strength)

        def step(carry, n):
            return step_of(optimizer, *carry, n), None

        start = params, optimizer.init(params)
        return jax.lax.scan(step, start, jnp.arange(STEPS))[0][0]["kernel"]

    found = jax.jit(jax.vmap(run))(strengths, seeds)
    alone = jax.jit(run)
    for n in range(2):
        assert_close(found[n], alone(strengths[n], seeds[n]))


# --- telemetry --------------------------------------------------------------------


@every_method
def test_telemetry_around_each_method(name):
    method = METHODS[name]
    optimizer = dx.track_decay(build(name), every=1)
    _, state = train(optimizer, PARAMS)
    stats = dx.decay_stats(state)
    table = str(dx.decay_table(state))
    for path in ("kernel", "bias"):
        assert path in table
        for key in ("weight_norm", "angle", "update_norm", "update_to_weight"):
            assert np.isfinite(stats[f"{path}/{key}"]), (path, key)
    rate = stats["kernel/decay_rate"]
    if method.rate is None:
        assert np.isnan(rate) or 0 <= rate < 1
    else:
        assert rate == pytest.approx(method.rate, rel=1e-4)


# --- wrappers ---------------------------------------------------------------------


def one_step(optimizer, state, grads, params=PARAMS):
    return jax.jit(optimizer.update)(grads, state, params)


@every_method
def test_inside_with_decay(name):
    """The decay adds −γλθ to the steps of the method."""
    inner = build(name)
    outer = dx.with_decay(inner, 0.5, learning_rate=LR)
    grads = gradients(PARAMS, 0)
    plain, state = one_step(inner, inner.init(PARAMS), grads)
    found, outer_state = one_step(outer, outer.init(PARAMS), grads)
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

    @jax.jit
    def run(params):
        plain = after(inner, inner.init(params), grads, params)
        plain = after(inner, plain[1], grads, plain[0])
        skipping = after(finite, finite.init(params), grads, params)
        skipped = after(finite, skipping[1], nan, skipping[0])
        resumed = after(finite, skipped[1], grads, skipped[0])
        half = [params, steps.init(params)]
        rows = []
        for _ in range(4):
            half = after(steps, half[1], grads, half[0])
            rows.append(half)
        return plain, skipping, skipped, resumed, rows

    plain, skipping, skipped, resumed, rows = run(PARAMS)
    assert_equal(skipped[0], skipping[0])
    assert_equal(skipped[1].inner_state, skipping[1].inner_state)
    for found, state in ((resumed, resumed[1].inner_state), (rows[3], None)):
        assert_close(found[0], plain[0])
        state = rows[3][1].inner_opt_state if state is None else state
        assert_close(jax.tree.leaves(state), jax.tree.leaves(plain[1]))
    assert_equal(rows[0][0], PARAMS)
    assert_equal(rows[0][1].inner_opt_state, inner.init(PARAMS))
    assert_equal(rows[2][0], rows[1][0])
    assert_equal(rows[2][1].inner_opt_state, rows[1][1].inner_opt_state)


def after(optimizer, state, grads, params):
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state


@every_method
def test_injected_strengths(name):
    def make(strength):
        return build(name, strength=strength)

    optimizer = optax.inject_hyperparams(make)(strength=0.3)
    assert_close(train(optimizer, PARAMS)[0], train(build(name), PARAMS)[0])
