"""The part of a state that needs no gradients, many steps later."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import decayax as dx
from decayax._jaxpr.counters import advance, counters, fast_forward
from decayax._jaxpr.quotient import quotient
from decayax._jaxpr.trace import trace, trace_optimizer


PARAMS = {"kernel": jnp.full((4, 3), 0.5), "bias": jnp.full((3,), 0.1)}
SCHEDULE = optax.warmup_cosine_decay_schedule(0.0, 1e-2, 100, 1000)
ADAMW = optax.adamw(SCHEDULE, weight_decay=0.1)


def is_matrix(params):
    return jax.tree.map(lambda x: x.ndim > 1, params)


def labels(params):
    return jax.tree.map(lambda x: "matrix" if x.ndim > 1 else "vector", params)


def multi_steps(optimizer, k, **options):
    return optax.MultiSteps(optimizer, k, **options).gradient_transformation()


def of_state(init, step):
    """An optimizer with s = step(gradients, s), and updates of its own."""

    def update(gradients, state, params=None):
        return gradients, step(gradients, state)

    return optax.GradientTransformation(lambda params: init, update)


def grouped(gradients, state):
    """A count of steps, one of steps with small gradients, and a sum of both."""
    steps, small, both = state
    is_small = jnp.sum(gradients["kernel"]) < 1e3
    return steps + 1, jnp.where(is_small, small + 1, small), both - steps - small


INT, FLOAT = jnp.zeros((), jnp.int32), jnp.zeros(())
# name: (optimizer, number of autonomous leaves)
OPTIMIZERS = {
    "adamw": (ADAMW, 2),  # the counts of Adam and of the schedule
    "dx.adamw": (dx.adamw(SCHEDULE, weight_decay=SCHEDULE), 3),
    "clip and adamw": (optax.chain(optax.clip_by_global_norm(1.0), ADAMW), 2),
    "masked": (optax.masked(ADAMW, is_matrix), 2),
    "partition": (
        optax.partition({"matrix": ADAMW, "vector": optax.sgd(SCHEDULE)}, labels),
        3,
    ),
    "inject_hyperparams": (
        optax.inject_hyperparams(optax.adamw)(SCHEDULE, weight_decay=0.1),
        9,
    ),
    "MultiSteps": (multi_steps(ADAMW, 4), 4),
    "MultiSteps by a schedule": (multi_steps(ADAMW, lambda step: 1 + step // 100), 4),
    "MultiSteps that skips": (
        multi_steps(ADAMW, 3, should_skip_update_fn=optax.skip_not_finite),
        6,
    ),
    "apply_if_finite": (optax.apply_if_finite(ADAMW, 5), 5),
    "apply_if_finite in MultiSteps": (
        multi_steps(optax.apply_if_finite(ADAMW, 5), 3),
        7,
    ),
    "nadamw": (optax.nadamw(1e-2), 1),
    "schedule_free": (optax.contrib.schedule_free_adamw(1e-2, warmup_steps=50), 6),
    "noise": (optax.chain(optax.add_noise(0.1, 0.5, 1), optax.sgd(SCHEDULE)), 3),
    "sam": (optax.contrib.sam(optax.sgd(0.1), optax.sgd(0.01), sync_period=3), 1),
    "momentum": (optax.sgd(0.1, momentum=0.9), 0),
    "reduce_on_plateau": (
        optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau(patience=5)),
        6,
    ),
    "with_stochastic_rounding": (dx.with_stochastic_rounding(ADAMW), 4),
    "counts of several kinds": (of_state((INT, INT, INT), grouped), 1),
    "steps without NaN": (
        of_state(INT, lambda g, s: s + (~jnp.isnan(g["bias"]).any()).astype(int)),
        1,
    ),
    "a table": (
        of_state((INT, jnp.arange(5.0)), lambda g, s: (s[0] + 2, jnp.roll(s[1], s[0]))),
        2,
    ),
    "a large table": (
        of_state((INT, jnp.zeros(5000)), lambda g, s: (s[0] + 1, s[1] + 1.0)),
        1,
    ),
    "a count from a large table": (
        of_state((INT, jnp.zeros(5000, int)), lambda g, s: (s[0] + s[1][0], s[1] + 1)),
        0,
    ),
    "a printed count": (
        of_state(INT, lambda g, s: jax.debug.print("") or s + 1),
        1,
    ),
    "an effect": (
        of_state(
            INT,
            lambda g, s: jax.experimental.io_callback(lambda x: x + 1, s, s),
        ),
        0,
    ),
    "a loop with data": (
        of_state(
            (INT, FLOAT),
            lambda g, s: jax.lax.fori_loop(
                0, 2, lambda i, c: (c[0] + 1, c[1] + g["bias"].sum()), s
            ),
        ),
        0,
    ),
}


def value_of(step):
    return {"value": 1.0 / (1.0 + jnp.asarray(step, jnp.float32))}


def arguments_of(name):
    return value_of if name == "reduce_on_plateau" else lambda step: {}


def stepped(optimizer, extra_args):
    """The state leaves after n real steps with random gradients."""

    @jax.jit
    def run(n):
        def body(i, carry):
            params, state = carry
            key = jax.random.fold_in(jax.random.key(1), i)
            grads = jax.tree.map(lambda p: jax.random.normal(key, p.shape), params)
            args = extra_args(i.astype(jnp.uint32))
            updates, new = optimizer.update(grads, state, params, **args)
            new = jax.tree.map(lambda x, old: x.astype(old.dtype), new, state)
            return params, new

        start = jax.tree.map(jnp.asarray, optimizer.init(PARAMS))
        start = jax.tree.map(lambda x: jax.lax.convert_element_type(x, x.dtype), start)
        return jax.lax.fori_loop(0, n, body, (PARAMS, start))[1]

    return lambda n: jax.tree.leaves(run(n))


@pytest.mark.relaxed("several parts of optax")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_autonomous_leaves_are_those_of_real_steps(name):
    optimizer, expected = OPTIMIZERS[name]
    extra_args = arguments_of(name)
    forward = fast_forward(trace_optimizer(optimizer, PARAMS, extra_args))
    assert sum(forward.autonomous) == expected
    if not expected:
        return
    real = stepped(optimizer, extra_args)
    start = jax.tree.leaves(optimizer.init(PARAMS))
    for n in (1, 7, 250, 2000):
        rows = zip(
            start, real(n), forward.run(start, n), forward.autonomous, strict=True
        )
        for before, after, leaf, is_autonomous in rows:
            truth = after if is_autonomous else before
            assert leaf.dtype == truth.dtype
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                leaf, truth = jax.random.key_data(leaf), jax.random.key_data(truth)
            np.testing.assert_allclose(leaf, truth, rtol=1e-5, atol=1e-9)


@pytest.mark.relaxed("scale_by_adam")
def test_a_state_may_start_later():
    forward = fast_forward(trace_optimizer(ADAMW, PARAMS, lambda step: {}))
    start = jax.tree.leaves(ADAMW.init(PARAMS))
    twice = forward.run(forward.run(start, 300), 400)
    for a, b in zip(twice, forward.run(start, 700), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_first_step_reaches_the_arguments():
    def update(gradients, state, params=None, *, value):
        return gradients, state + value

    optimizer = optax.GradientTransformationExtraArgs(lambda params: FLOAT, update)
    program = trace_optimizer(
        optimizer, PARAMS, lambda step: {"value": step.astype(float)}
    )
    (state,) = fast_forward(program).run([FLOAT], 3, 10)
    assert state == 10 + 11 + 12


@pytest.mark.relaxed("scale_by_adam")
def test_a_million_steps():
    forward = fast_forward(trace_optimizer(ADAMW, PARAMS, lambda step: {}))
    leaves = forward.run(jax.tree.leaves(ADAMW.init(PARAMS)), 10**6)
    counts = [x for x, yes in zip(leaves, forward.autonomous, strict=True) if yes]
    assert [int(x) for x in counts] == [10**6, 10**6]


@pytest.mark.relaxed("scale_by_adam")
def test_the_state_of_a_quotient():
    optimizer = optax.apply_if_finite(multi_steps(ADAMW, 2), 3)
    shapes = [jax.ShapeDtypeStruct((4, 3), jnp.float32)] * 5
    quo = quotient(trace_optimizer(optimizer, shapes, lambda step: {}), [0] * 5)
    program = trace(quo.init, quo.update, [shapes[0]])
    forward = fast_forward(program)
    state = forward.run(quo.init([jnp.zeros((4, 3))]), 11)
    counts = [int(x) for x, yes in zip(state, forward.autonomous, strict=True) if yes]
    # The counts of Adam and of the schedule are one leaf of the quotient.
    mini_step, steps, is_finite, not_finite = 11 % 2, 11 // 2, True, 0
    assert sorted(counts) == [
        not_finite,
        not_finite,
        mini_step,
        is_finite,
        steps,
        steps,
    ]


def test_counters_that_depend_on_data():
    optimizer = OPTIMIZERS["counts of several kinds"][0]
    state = optimizer.init(PARAMS)
    states = [jax.tree.leaves(state)]
    for _ in range(3):
        state = optimizer.update(PARAMS, state)[1]
        states.append(jax.tree.leaves(state))
    assert counters(states) == [True, True, False]
    assert [float(x) for x in advance(states[0], counters(states), 9)] == [9, 9, 0]


@pytest.mark.parametrize(
    "leaves",
    [
        (0, 1, 2, 4),
        (0, 2, 4, 6),
        (0, 1, 1, 2),
        (0, -1, -2, -3),
        (False, True, True, True),
        (np.zeros(2), np.ones(2), np.full(2, 2.0), np.full(2, 3.0)),
    ],
)
def test_other_leaves_are_not_counters(leaves):
    assert counters([[jnp.asarray(x)] for x in leaves]) == [False]
