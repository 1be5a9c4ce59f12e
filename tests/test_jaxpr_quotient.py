"""The quotient of an optimizer gives the same updates as the optimizer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import decayax as dx
from decayax._jaxpr.quotient import quotient
from decayax._jaxpr.trace import trace_optimizer


SHAPES = {
    "embed": (8, 4),
    "h0": {"kernel": (6, 4), "bias": (4,)},
    "h1": {"kernel": (6, 4), "bias": (4,)},
    "h2": {"kernel": (6, 4), "bias": (4,)},
    "head": (6, 4),
}
PARAMS = jax.tree.map(
    lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
    SHAPES,
    is_leaf=lambda x: isinstance(x, tuple),
)
BF16 = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), PARAMS)
NUM_LEAVES = 8
STEPS = 5


def is_matrix(params):
    return jax.tree.map(lambda x: x.ndim > 1, params)


def is_head(params):
    return jax.tree.map_with_path(lambda path, x: "head" in str(path), params)


def labels(params):
    return jax.tree.map(lambda x: "matrix" if x.ndim > 1 else "vector", params)


def of_leaves(rule):
    """An optimizer with u = rule(list of gradients, list of params), without state."""

    def update(gradients, params):
        leaves, treedef = jax.tree.flatten(gradients)
        return treedef.unflatten(rule(leaves, jax.tree.leaves(params)))

    return optax.stateless(update)


TABLE = np.linspace(0.5, 1.5, 4, dtype=np.float32)
SCHEDULE = optax.warmup_cosine_decay_schedule(0.0, 1e-2, 2, 10)


@jax.custom_jvp
def straight_through(x):
    return jnp.sign(x)


straight_through.defjvps(lambda t, out, x: t)


@jax.custom_vjp
def other_pull(x):
    return 2.0 * x


other_pull.defvjp(lambda x: (2.0 * x, None), lambda _, g: (3.0 * g,))


# name: (optimizer, number of classes). There are 3 shapes and 8 leaves.
ADAMW = optax.adamw(1e-2, weight_decay=0.1)
OPTIMIZERS = {
    "sgd": (optax.sgd(0.1), 3),
    "sgd with momentum": (optax.sgd(0.1, momentum=0.9, nesterov=True), 3),
    "adamw": (ADAMW, 3),
    "adamw with a mask by shape": (optax.adamw(1e-2, mask=is_matrix), 3),
    "adamw with a mask by path": (optax.adamw(1e-2, mask=is_head), 4),
    "dx.adamw": (dx.adamw(1e-2, weight_decay=0.1, mask=dx.masks.no_bias_or_norm), 3),
    "dx.sgd_l2": (dx.sgd_l2(1e-2, weight_decay=SCHEDULE, momentum=0.9), 3),
    "dx.rmspropw": (dx.rmspropw(1e-2, weight_decay=0.1), 3),
    "adam with L2": (dx.adam_l2(1e-2, weight_decay=0.1), 3),
    "lion": (optax.lion(1e-2), 3),
    "lamb": (optax.lamb(1e-2), 3),
    "lars": (optax.lars(1e-2, weight_decay=0.1), 3),
    "adafactor": (optax.adafactor(1e-2, min_dim_size_to_factor=4), 3),
    "muon": (optax.contrib.muon(1e-2), 3),
    "sm3": (optax.sm3(1e-2), 3),
    "novograd": (optax.novograd(1e-2), 3),
    "yogi": (optax.yogi(1e-2), 3),
    "rprop": (optax.rprop(1e-2), 3),
    "a schedule": (optax.adamw(SCHEDULE), 3),
    "clip_by_global_norm": (optax.chain(optax.clip_by_global_norm(1.0), ADAMW), 3),
    "adaptive_grad_clip": (optax.chain(optax.adaptive_grad_clip(0.1), ADAMW), 3),
    "ema": (optax.chain(ADAMW, optax.ema(0.9)), 3),
    "partition": (
        optax.partition({"matrix": ADAMW, "vector": optax.sgd(0.1)}, labels),
        3,
    ),
    "masked": (optax.masked(ADAMW, is_head), 4),
    "MultiSteps": (optax.MultiSteps(ADAMW, 2).gradient_transformation(), 3),
    "MultiSteps of a masked one": (
        optax.MultiSteps(optax.masked(ADAMW, is_head), 2).gradient_transformation(),
        4,
    ),
    "apply_if_finite": (optax.apply_if_finite(ADAMW, 3), 3),
    "inject_hyperparams": (
        optax.inject_hyperparams(optax.adamw)(SCHEDULE, weight_decay=0.1),
        3,
    ),
    "schedule_free": (optax.contrib.schedule_free_adamw(1e-2), 3),
    "sam": (optax.contrib.sam(optax.sgd(0.1), optax.sgd(0.01), sync_period=2), 3),
    "prodigy": (optax.contrib.prodigy(), 3),
    "track_decay": (dx.track_decay(dx.adamw(1e-2, weight_decay=0.1)), 3),
    "jitted": (
        optax.GradientTransformation(jax.jit(ADAMW.init), jax.jit(ADAMW.update)),
        3,
    ),
    "checkpointed": (
        optax.GradientTransformation(ADAMW.init, jax.checkpoint(ADAMW.update)),
        3,
    ),
    "an array constant": (
        of_leaves(lambda g, p: [-0.1 * a * TABLE for a in g]),
        3,
    ),
    "a constant for each leaf": (
        of_leaves(
            lambda g, p: [-0.1 * a * (TABLE + i // 5) for i, a in enumerate(g)],
        ),
        5,
    ),
    "another rule for leaf 7": (
        of_leaves(lambda g, p: [-a if i == 7 else -0.1 * a for i, a in enumerate(g)]),
        4,
    ),
    "a custom JVP": (
        of_leaves(lambda g, p: [-0.1 * straight_through(a) for a in g]),
        3,
    ),
    "a custom VJP": (
        of_leaves(lambda g, p: [-0.1 * other_pull(a) for a in g]),
        3,
    ),
    "a loop over each leaf": (
        of_leaves(
            lambda g, p: [
                jax.lax.fori_loop(0, 3, lambda i, y: 0.5 * y - 0.1, a) for a in g
            ]
        ),
        3,
    ),
    "a branch for each leaf": (
        of_leaves(
            lambda g, p: [
                jax.lax.cond(a.sum() > 0, lambda a: -a / a.sum(), lambda a: 0 * a, a)
                for a in g
            ]
        ),
        3,
    ),
    "prints": (
        of_leaves(lambda g, p: [jax.debug.print("", ordered=False) or -a for a in g]),
        3,
    ),
}


def run(optimizer, params, extra_args, one_of_each):
    """The updates of all leaves in a few steps, by the optimizer and its quotient."""
    quo = quotient(trace_optimizer(optimizer, params, extra_args), [0] * NUM_LEAVES)
    assert quo is not None
    whole = []
    of_quotient = []
    treedef = jax.tree.structure(params)

    def spread(reps):
        return treedef.unflatten([reps[c] for c in quo.class_of])

    reps = [one_of_each(0, i) for i in quo.representative]
    all_params = spread(reps)
    state, rep_state = optimizer.init(all_params), quo.init(reps)
    for step in range(STEPS):
        gradients = [one_of_each(1 + step, i) for i in quo.representative]
        args = extra_args(jnp.asarray(step, jnp.uint32))
        updates, state = optimizer.update(spread(gradients), state, all_params, **args)
        rep_updates, rep_state = quo.update(gradients, rep_state, reps, step)
        whole.append(jax.tree.leaves(updates))
        of_quotient.append([rep_updates[c] for c in quo.class_of])
        all_params = optax.apply_updates(all_params, updates)
        reps = optax.apply_updates(reps, rep_updates)
    leaves = [np.asarray(x, np.float64) for x in jax.tree.leaves(state)]
    new = [np.asarray(rep_state[c], np.float64) for c in quo.state_of]
    return quo, [*whole, leaves], [*of_quotient, new]


def draw(params):
    leaves = jax.tree.leaves(params)

    def one(step, i):
        key = jax.random.fold_in(jax.random.key(step), i)
        return jax.random.normal(key, leaves[i].shape, leaves[i].dtype)

    return one


def assert_equal(first, second):
    for xs, ys in zip(first, second, strict=True):
        for x, y in zip(xs, ys, strict=True):
            x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
            np.testing.assert_allclose(x, y, rtol=2e-6, atol=1e-7)


@pytest.mark.relaxed("several parts of optax")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_quotient_gives_the_same_updates(name):
    optimizer, num_classes = OPTIMIZERS[name]
    quo, whole, of_quotient = run(optimizer, PARAMS, lambda step: {}, draw(PARAMS))
    assert_equal(whole, of_quotient)
    assert len(quo.representative) == num_classes


IN_BF16 = {
    "adamw": (optax.adamw(1e-2), 3),
    "with_compensation": (dx.with_compensation(ADAMW), 3),
    # Each leaf has its own random numbers.
    "with_state_dtype": (
        optax.partition(
            {"vector": dx.with_state_dtype(ADAMW, jnp.bfloat16), "matrix": ADAMW},
            labels,
        ),
        5,
    ),
    "with_stochastic_rounding": (
        optax.partition(
            {"vector": dx.with_stochastic_rounding(ADAMW), "matrix": ADAMW}, labels
        ),
        5,
    ),
}


@pytest.mark.relaxed("several parts of optax")
@pytest.mark.parametrize("name", IN_BF16)
def test_the_quotient_gives_the_same_updates_in_bf16(name):
    optimizer, num_classes = IN_BF16[name]
    quo, whole, of_quotient = run(optimizer, BF16, lambda step: {}, draw(BF16))
    assert_equal(whole, of_quotient)
    assert len(quo.representative) == num_classes


def test_arguments_of_the_step_reach_the_quotient():
    def update(gradients, state, params=None, *, value):
        return jax.tree.map(lambda g: g * value, gradients), state

    optimizer = optax.GradientTransformationExtraArgs(optax.identity().init, update)
    value = lambda step: {"value": 1.0 / (1.0 + jnp.asarray(step, jnp.float32))}  # noqa: E731
    _, whole, of_quotient = run(optimizer, PARAMS, value, draw(PARAMS))
    assert_equal(whole, of_quotient)
