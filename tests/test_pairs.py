"""The matched pairs: one argument list, one difference, and adamw as a drop-in."""

import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import decayax as dx


PAIRS = [
    (dx.sgd_l2, dx.sgdw),
    (dx.rmsprop_l2, dx.rmspropw),
    (dx.adam_l2, dx.adamw),
]


def arguments(function):
    """Names, kinds and defaults, in order."""
    parameters = inspect.signature(function).parameters.values()
    return [(p.name, p.kind, p.default) for p in parameters]


def trajectory(optimizer, params, grads, steps=50):
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    path = []
    for t in range(steps):
        updates, state = update(jax.tree.map(lambda g, t=t: g[t], grads), state, params)
        params = optax.apply_updates(params, updates)
        path.append(params)
    return path


def problem(seed=0, steps=50):
    rng = np.random.default_rng(seed)
    params = {"w": rng.standard_normal((4, 3)), "b": rng.standard_normal(3)}
    grads = {key: rng.standard_normal((steps, *x.shape)) for key, x in params.items()}
    as_float32 = lambda x: jnp.asarray(x, jnp.float32)  # noqa: E731
    return jax.tree.map(as_float32, params), jax.tree.map(as_float32, grads)


@pytest.mark.parametrize(("l2", "decoupled"), PAIRS)
def test_a_pair_has_the_same_arguments_and_defaults(l2, decoupled):
    assert arguments(l2) == arguments(decoupled)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (dx.sgdw, optax.sgd),
        (dx.rmspropw, optax.rmsprop),
        (dx.adamw, optax.adam),
    ],
)
def test_the_arguments_are_optax_plus_weight_decay_and_mask(ours, theirs):
    added = {"weight_decay": 1e-4, "mask": None}
    rest = [a for a in arguments(ours) if a[0] not in added]
    if theirs is optax.rmsprop:  # the one changed default: ε outside the root
        changed = [
            (n, k, False if n == "eps_in_sqrt" else d) for n, k, d in arguments(theirs)
        ]
        assert rest == changed
    else:
        assert rest == arguments(theirs)
    assert {n: d for n, _, d in arguments(ours) if n in added} == added


def test_adamw_has_the_signature_of_the_installed_optax():
    assert arguments(dx.adamw) == arguments(optax.adamw)


OPTIONS = {
    "defaults": {},
    "strong decay": {"weight_decay": 0.1},
    "schedules": {
        "learning_rate": optax.linear_schedule(1e-2, 0.0, 50),
        "weight_decay": 0.1,
    },
    "mask": {"weight_decay": 0.1, "mask": {"w": True, "b": False}},
    "mask function": {
        "weight_decay": 0.1,
        "mask": lambda params: jax.tree.map(lambda p: p.ndim > 1, params),
    },
    "nesterov": {"weight_decay": 0.1, "nesterov": True},
    "moments": {"b1": 0.8, "b2": 0.95, "eps": 1e-4, "eps_root": 1e-5},
    "no decay": {"weight_decay": 0.0},
}


@pytest.mark.relaxed("optax.scale_by_adam")
@pytest.mark.parametrize("name", OPTIONS)
def test_adamw_has_the_trajectory_of_the_installed_optax(name):
    options = {"learning_rate": 1e-2, **OPTIONS[name]}
    params, grads = problem()
    ours = trajectory(dx.adamw(**options), params, grads)
    theirs = trajectory(optax.adamw(**options), params, grads)
    chex.assert_trees_all_equal(ours, theirs)  # to the bit


def test_adamw_keeps_a_low_precision_moment():
    params, grads = problem()
    optimizer = dx.adamw(1e-2, mu_dtype=jnp.bfloat16)
    _, state = optimizer.update(
        jax.tree.map(lambda g: g[0], grads), optimizer.init(params), params
    )
    assert {x.dtype for x in jax.tree.leaves(state[0].mu)} == {jnp.dtype("bfloat16")}
    assert {x.dtype for x in jax.tree.leaves(state[0].nu)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("wrong", ["bf16", 3, jnp.int32, bool])
@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (dx.adamw, "mu_dtype"),
        (dx.adam_l2, "mu_dtype"),
        (dx.sgdw, "accumulator_dtype"),
        (dx.sgd_l2, "accumulator_dtype"),
    ],
)
def test_a_moment_needs_a_floating_point_dtype(make, argument, wrong):
    text = rf"^{make.__name__}: {argument} must be a floating-point dtype, got .*Pass"
    with pytest.raises(TypeError, match=text):
        make(1e-2, **{argument: wrong})


@pytest.mark.parametrize("make", [dx.sgd_l2, dx.sgdw])
def test_sgd_keeps_a_low_precision_momentum(make):
    params, grads = problem()
    optimizer = make(1e-2, momentum=0.9, accumulator_dtype=jnp.bfloat16)
    path = trajectory(optimizer, params, grads, steps=2)
    state = optimizer.init(params)
    _, state = optimizer.update(jax.tree.map(lambda g: g[0], grads), state, params)
    moments = [x for x in jax.tree.leaves(state) if x.ndim]
    assert {x.dtype for x in moments} == {jnp.dtype("bfloat16")}
    assert {x.dtype for x in jax.tree.leaves(path)} == {jnp.dtype("float32")}


@pytest.mark.relaxed("optax.scale_by_adam")
@pytest.mark.parametrize(
    ("ours", "theirs", "options"),
    [
        (dx.sgdw, optax.sgd, {"momentum": 0.9, "nesterov": True}),
        (dx.rmspropw, optax.rmsprop, {"eps_in_sqrt": False, "momentum": 0.9}),
        (dx.rmspropw, optax.rmsprop, {"eps_in_sqrt": True, "centered": True}),
        (dx.adamw, optax.adam, {"nesterov": True}),
    ],
)
def test_without_decay_a_pair_is_the_optax_optimizer(ours, theirs, options):
    params, grads = problem()
    plain = trajectory(theirs(1e-2, **options), params, grads)
    for make in next(pair for pair in PAIRS if ours in pair):
        path = trajectory(make(1e-2, weight_decay=0.0, **options), params, grads)
        chex.assert_trees_all_close(path, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("l2", "decoupled"), PAIRS)
def test_a_pair_differs_with_decay(l2, decoupled):
    """Even SGD does, once it has momentum."""
    options = {"momentum": 0.9} if l2 is dx.sgd_l2 else {}
    params, grads = problem()
    one, other = (
        trajectory(make(1e-2, weight_decay=0.1, **options), params, grads)[-1]
        for make in (l2, decoupled)
    )
    assert jnp.abs(one["w"] - other["w"]).max() > 1e-3


@pytest.mark.parametrize("make", [make for pair in PAIRS for make in pair])
def test_a_negative_learning_rate_names_the_way_to_maximize(make):
    text = (
        r"got -0.1. Pass .* To maximize, put optax.scale\(-1.0\) before the optimizer"
    )
    with pytest.raises(ValueError, match=f"{make.__name__}: learning_rate .*{text}"):
        make(-0.1)


@pytest.mark.parametrize("make", [make for pair in PAIRS for make in pair])
@pytest.mark.parametrize("bad", [-0.1, float("nan"), True, "0.1", None])
def test_a_bad_learning_rate_is_refused_by_name(make, bad):
    with pytest.raises(
        (TypeError, ValueError), match=f"{make.__name__}: learning_rate"
    ):
        make(bad)


WITH_COUNT = {
    "adamw": dx.adamw(1e-3),
    "adam_l2": dx.adam_l2(optax.constant_schedule(1e-3)),
    "rmspropw": dx.rmspropw(1e-3, momentum=0.9, bias_correction=True),
    "track_decay": dx.track_decay(dx.adamw(1e-3)),
    "with_stochastic_rounding": dx.with_stochastic_rounding(dx.adamw(1e-3)),
    "with_compensation": dx.with_compensation(dx.adamw(1e-3)),
    "with_state_dtype": dx.with_state_dtype(dx.adamw(1e-3), jnp.bfloat16),
    "with_decay": dx.with_decay(optax.adam(1e-3), 0.1, learning_rate=1e-3),
    "chain": optax.chain(dx.scale_by_rms(), dx.decoupled_decay(0.1), optax.scale(-1)),
}


@pytest.mark.parametrize("name", WITH_COUNT)
def test_the_count_of_the_preconditioner_is_found(name):
    """The counters of our own stages have another name, as optax's `adamw` has one."""
    optimizer, params = WITH_COUNT[name], {"w": jnp.ones(3)}
    state = optimizer.init(params)
    assert optax.tree.get(state, "count") == 0
    _, state = optimizer.update(params, state, params)
    assert optax.tree.get(state, "count") == 1


STATED = {
    "sgd_l2": dx.sgd_l2(0.1),
    "sgdw": dx.sgdw(0.1, momentum=0.9),
    "rmspropw": dx.rmspropw(0.1, centered=True),
    "adam_l2": dx.adam_l2(0.1, nesterov=True),
    "adamw": dx.adamw(0.1),
}


@pytest.mark.parametrize("name", STATED)
def test_gradients_must_fit(name):
    """Optax's moments would broadcast them, or raise an error of JAX."""
    optimizer, params = STATED[name], {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}
    state, zeros = optimizer.init(params), jax.tree.map(jnp.zeros_like, params)
    for wrong, text in (
        (
            {"w": jnp.zeros((1, 1))},
            r"the update of w has shape \(1, 1\), its",
        ),
        ({"w": jnp.zeros((2, 2))}, r"the update of w has shape \(2, 2\)"),
        ({"x": jnp.zeros(2)}, "updates and parameters are different trees"),
        ({"w": jnp.zeros((3, 2), jnp.int32)}, "the gradient w has dtype int32"),
    ):
        with pytest.raises((TypeError, ValueError), match=f"^{name}: {text}"):
            optimizer.update(zeros | wrong, state, params)


FOREIGN = {
    **STATED,
    "with_decay": dx.with_decay(optax.adam(0.1), 0.1, learning_rate=0.1),
    "track_decay": dx.track_decay(optax.adam(0.1)),
    "with_state_dtype": dx.with_state_dtype(optax.adam(0.1), jnp.bfloat16),
    "with_compensation": dx.with_compensation(optax.adam(0.1)),
    "with_stochastic_rounding": dx.with_stochastic_rounding(optax.adam(0.1)),
    "scale_by_rms": dx.scale_by_rms(),
    "scale_by_stddev": dx.scale_by_stddev(),
    "decoupled_decay": dx.decoupled_decay(0.1),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_the_state_of_another_optimizer_is_refused_by_name(name):
    params = {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}
    state = optax.chain(optax.adamw(0.1), optax.ema(0.9)).init(params)
    text = rf"^{name}: the state .*dx.adopt_state\(optimizer, params, state\)"
    with pytest.raises(ValueError, match=text):
        FOREIGN[name].update(params, state, params)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "a number, got None"),
        (-0.1, ">= 0, got -0.1"),
        (jnp.ones(2), "one number"),
    ],
)
def test_a_learning_rate_schedule_is_checked(value, text):
    optimizer, params = dx.adamw(lambda step: value), jnp.ones(3)
    text = f"adamw: the value of the learning_rate schedule must be {text}"
    with pytest.raises((TypeError, ValueError), match=text):
        optimizer.update(params, optimizer.init(params), params)


def test_a_mask_is_not_a_strength():
    with pytest.raises(TypeError, match=r"^adamw: .*got the mask .* Pass it as mask="):
        dx.adamw(0.1, weight_decay=dx.masks.no_bias_or_norm)
