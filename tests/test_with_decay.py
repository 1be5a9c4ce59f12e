"""with_decay around every optax optimizer without a decay of its own."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import decayax as dx


RATE, STRENGTH = 0.01, 0.5
WITHOUT_DECAY = [
    "sgd",
    "rmsprop",
    "adam",
    "nadam",
    "adamax",
    "amsgrad",
    "radam",
    "adagrad",
    "yogi",
    "sm3",
    "signum",
    "sign_sgd",
    "rprop",
    "noisy_sgd",
    "fromage",
    "optimistic_gradient_descent",
    "optimistic_adam_v2",
    "adadelta",
    "adabelief",
    "novograd",
]
OPTIONS = {
    "optimistic_adam_v2": {"alpha": 0.1},
    "fromage": {"min_norm": 1e-6},
    "noisy_sgd": {"key": 0},
}


def alias(name: str, rate):
    if not hasattr(optax, name):
        pytest.skip(f"this optax has no {name}")
    return getattr(optax, name)(rate, **OPTIONS.get(name, {}))


def problem():
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)  # noqa: E731
    params = {"w": draw(4, 3), "b": draw(3)}
    return params, [{"w": draw(4, 3), "b": draw(3)} for _ in range(5)]


@pytest.mark.relaxed("the bare optax optimizer")
@pytest.mark.parametrize("name", WITHOUT_DECAY)
def test_adds_the_shrink_with_the_right_sign(name):
    """The difference to the bare optimizer is −rate·θ in every step."""
    params, grads = problem()
    rate = optax.linear_schedule(RATE, 0.0, 10)
    bare = alias(name, RATE if name in ("sm3", "rprop", "fromage") else rate)
    decayed = dx.with_decay(
        bare,
        STRENGTH,
        learning_rate=rate,
        mask={"w": True, "b": False},
    )
    state, inner = decayed.init(params), bare.init(params)
    for t, grad in enumerate(grads):
        updates, state = decayed.update(grad, state, params)
        plain, inner = bare.update(grad, inner, params)
        shrink = STRENGTH * float(rate(t))
        expected = {"w": plain["w"] - shrink * params["w"], "b": plain["b"]}
        chex.assert_trees_all_close(updates, expected, rtol=1e-5, atol=1e-6)
        chex.assert_trees_all_equal(updates["b"], plain["b"])
    chex.assert_trees_all_equal_structs(state[0], inner)


@pytest.mark.relaxed("optax.lbfgs")
def test_extra_arguments_of_a_line_search_pass():
    loss = lambda p: jnp.sum((p - 1.0) ** 2)  # noqa: E731
    optimizer = dx.with_decay(optax.lbfgs(), 0.1, learning_rate=1.0)
    params = jnp.array([3.0, -2.0])
    value, grad = jax.value_and_grad(loss)(params)
    bare, _ = optax.lbfgs().update(
        grad, optax.lbfgs().init(params), params, value=value, grad=grad, value_fn=loss
    )
    updates, _ = optimizer.update(
        grad, optimizer.init(params), params, value=value, grad=grad, value_fn=loss
    )
    chex.assert_trees_all_close(updates, bare - 0.1 * params, rtol=1e-5)


def test_dtypes_stay_where_the_optimizer_inside_would_change_them():
    params = {"w": jnp.ones(3, jnp.bfloat16)}
    grads = {"w": jnp.ones(3, jnp.bfloat16)}
    optimizer = dx.with_decay(optax.scale(-0.5), 0.1, learning_rate=np.float32(0.5))
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    assert updates["w"].dtype == jnp.bfloat16


@pytest.mark.parametrize(
    "accumulate",
    [
        optax.MultiSteps(optax.sgd(0.1), 4),
        optax.MultiSteps(optax.sgd(0.1), 4).gradient_transformation(),
    ],
    ids=["object", "transformation"],
)
def test_multi_steps_is_refused_by_name(accumulate):
    with pytest.raises(TypeError, match=r"MultiSteps\(with_decay\(optimizer, \.\.\."):
        dx.with_decay(accumulate, 0.1, learning_rate=0.1)


@pytest.mark.parametrize("unfinished", [optax.sgd, "sgd", 0.1, None, optax.MultiSteps])
def test_an_unfinished_optimizer_is_refused(unfinished):
    with pytest.raises(TypeError, match=r"with_decay: optimizer must be an optax"):
        dx.with_decay(unfinished, 0.1, learning_rate=0.1)


def test_the_learning_rate_is_required():
    """Without it λ would be the rate: 10 % a step instead of γλ."""
    with pytest.raises(TypeError, match="learning_rate"):
        dx.with_decay(optax.adam(1e-3), 0.1)
    with pytest.raises(
        TypeError, match=r"got None\. For a decay .* dx.independent_decay"
    ):
        dx.with_decay(optax.adam(1e-3), 0.1, learning_rate=None)


@pytest.mark.parametrize(
    ("rate", "strength", "named"),
    [
        (-0.1, 0.1, "learning_rate must be >= 0"),
        (0.1, -0.1, "weight_decay must be >= 0"),
        (lambda step: -0.1, 0.1, "learning_rate schedule must be >= 0"),
        (True, 0.1, "learning_rate must be a number, got the boolean"),
    ],
)
def test_each_factor_is_checked_under_its_own_name(rate, strength, named):
    def use():
        optimizer = dx.with_decay(optax.sgd(0.1), strength, learning_rate=rate)
        optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)), jnp.ones(2))

    with pytest.raises((TypeError, ValueError), match=f"with_decay: .*{named}"):
        use()


def updates_without_gradients(optimizer, steps=1, **extra_args):
    params = {
        "table": jnp.ones((4, 3)),
        "kernel": jnp.ones((3, 3)),
        "bias": jnp.ones(3),
    }
    zeros, state = jax.tree.map(jnp.zeros_like, params), optimizer.init(params)
    for _ in range(steps):
        updates, state = optimizer.update(zeros, state, params, **extra_args)
    return {name: float(jnp.ravel(leaf)[0]) for name, leaf in updates.items()}


@pytest.mark.relaxed("optax.contrib.muon")
def test_each_group_of_muon_has_its_own_decay():
    strengths = {"table": 0.5, "kernel": 1.0, "bias": False}
    optimizer = dx.with_decay(
        optax.contrib.muon(0.1), 0.2, learning_rate=0.1, mask=strengths
    )
    expected = {"table": -0.01, "kernel": -0.02, "bias": 0.0}
    assert updates_without_gradients(optimizer) == pytest.approx(expected)


@pytest.mark.relaxed("optax.contrib.reduce_on_plateau")
def test_a_plateau_scales_the_decay_before_it_and_not_after_it():
    plateau = optax.contrib.reduce_on_plateau(factor=0.5, patience=5)
    before = optax.chain(dx.sgdw(0.1, weight_decay=0.2), plateau)
    after = optax.chain(optax.sgd(0.1), plateau, dx.independent_decay(0.02))
    scaled = updates_without_gradients(before, steps=8, value=1.0)
    constant = updates_without_gradients(after, steps=8, value=1.0)
    np.testing.assert_allclose(list(scaled.values()), -0.01, rtol=1e-6)
    np.testing.assert_allclose(list(constant.values()), -0.02, rtol=1e-6)
