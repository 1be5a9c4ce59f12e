"""What mixes weights, and what a derivative does not show, read from jaxprs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from decayax._jaxpr.dataflow import ALIGNED, CONST, Flow, flows_of, MIXED
from decayax._jaxpr.dependence import dependence, mixes, outline, program_of


X, S = jnp.ones(4), jnp.ones(())


def added_up(last, x):
    return jax.lax.while_loop(
        lambda c: c[0] < last, lambda c: (c[0] + 1, c[1] + x), (0, 0 * X)
    )[1]


CASES = {
    "arithmetic": (lambda x, s: jnp.sqrt(x * x + 1.0) / 3.0, ALIGNED),
    "a choice by itself": (lambda x, s: jnp.where(x > 0, x, -x), ALIGNED),
    "no data": (lambda x, s: jnp.arange(4.0) * 2.0, CONST),
    "random numbers": (lambda x, s: jax.random.normal(jax.random.key(0), (4,)), CONST),
    "a sum": (lambda x, s: x / jnp.sum(x), MIXED),
    "a norm in a choice": (lambda x, s: jnp.where(jnp.sum(x) > 1, x, 0 * x), MIXED),
    "a sum that goes nowhere": (lambda x, s: (jnp.sum(x), x * 2.0)[1], ALIGNED),
    "another order": (lambda x, s: x[::-1], MIXED),
    "its neighbours": (lambda x, s: jnp.roll(x, 1), MIXED),
    "a running sum": (lambda x, s: jnp.cumsum(x), MIXED),
    "sorting": (lambda x, s: jnp.sort(x), MIXED),
    "windows": (
        lambda x, s: jax.lax.reduce_window(
            x, 0.0, lambda a, b: a + 2.0 * b, (3,), (1,), "SAME"
        ),
        MIXED,
    ),
    "a matrix": (lambda x, s: jnp.outer(x, x) @ x, MIXED),
    "another leaf's number": (lambda x, s: x * s, MIXED),
    "a choice by a number": (lambda x, s: jnp.where(s > 0, x, -x), MIXED),
    "inside jit": (lambda x, s: jax.jit(lambda y: y * 2.0)(x), ALIGNED),
    "a sum inside jit": (lambda x, s: jax.jit(lambda y: y / y.sum())(x), MIXED),
    "relu": (lambda x, s: jax.nn.relu(x), ALIGNED),
    "a loop": (lambda x, s: jax.lax.fori_loop(0, 3, lambda i, y: y * 2.0, x), ALIGNED),
    "a loop that sums": (
        lambda x, s: jax.lax.fori_loop(0, 3, lambda i, y: y / y.sum(), x),
        MIXED,
    ),
    "a loop until": (
        lambda x, s: jax.lax.while_loop(lambda y: y.sum() < 99, lambda y: 2 * y, x),
        MIXED,
    ),
    "a scan": (
        lambda x, s: jax.lax.scan(lambda y, _: (y * 2.0, None), x, length=3)[0],
        ALIGNED,
    ),
    "a scan along it": (
        lambda x, s: jax.lax.scan(lambda c, y: (c + y, c), 0.0, x)[1],
        MIXED,
    ),
    "a branch by data": (
        lambda x, s: jax.lax.cond(x[0] > 0, lambda: x, lambda: -x),
        MIXED,
    ),
    "a branch by a number": (
        lambda x, s: jax.lax.cond(s > 0, lambda: x, lambda: -x),
        MIXED,
    ),
    "a sum in one branch": (
        lambda x, s: jax.lax.cond(S > 0, lambda: x, lambda: x / x.sum()),
        MIXED,
    ),
    "a sum in the other branch": (
        lambda x, s: jax.lax.cond(S > 0, lambda: x / x.sum(), lambda: x),
        MIXED,
    ),
    "what a scan ends with": (
        lambda x, s: jax.lax.scan(lambda c, y: (c + y, None), 0.0, x)[0],
        MIXED,
    ),
    "what a scan leaves behind": (
        lambda x, s: jax.lax.scan(lambda c, _: (c, c), s, length=4)[1],
        MIXED,
    ),
    "a loop until a number": (
        lambda x, s: jax.lax.while_loop(
            lambda c: c[1] < 9, lambda c: (2 * c[0], c[1] + 1), (x, s)
        )[0],
        MIXED,
    ),
    "a loop with constants": (lambda x, s: added_up(jnp.argmax(X), x), ALIGNED),
    "a loop that may not begin": (
        lambda x, s: jax.lax.fori_loop(
            0, jnp.argmax(jnp.arange(4)), lambda i, y: jnp.zeros(4), x
        ),
        ALIGNED,
    ),
    "inside checkpoint": (
        lambda x, s: jax.checkpoint(lambda y: y * 2.0)(x),
        ALIGNED,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_kinds(name):
    function, expected = CASES[name]
    jaxpr = jax.make_jaxpr(function)(X, S).jaxpr
    (flow,) = flows_of(jaxpr, [Flow(ALIGNED), Flow(ALIGNED)])
    assert flow.kind == expected


def test_a_branch_by_the_step_is_no_mixing():
    jaxpr = jax.make_jaxpr(
        lambda x, n: jax.lax.cond(n > 3, lambda: x, lambda: 2.0 * x)
    )(X, 1).jaxpr
    assert flows_of(jaxpr, [Flow(ALIGNED), Flow(CONST)]) == [Flow(ALIGNED)]


@jax.custom_jvp
def straight_through(x):
    return 2.0 * x


straight_through.defjvps(lambda t, out, x: 3.0 * t)


def sign_of_a_sum(x):
    return jnp.sign(x / x.sum())


SMOOTH = {
    "arithmetic": lambda x: x * x + jnp.exp(x),
    "a sum": lambda x: x / x.sum(),
    "an order": lambda x: x[::-1],
    "a branch by the step": lambda x: jax.lax.cond(S > 0, lambda: x, lambda: 2 * x),
    "a choice by the gradient": lambda x: jnp.where(X > 0, x, 2 * x),
    "whether it is finite": lambda x: jnp.where(jnp.isfinite(x).all(), x, 0 * x),
    "a cast": lambda x: x.astype(jnp.bfloat16).astype(jnp.float32),
    "a sign of something else": lambda x: x * jnp.sign(X),
    "a sign that goes nowhere": lambda x: (jnp.sign(x), x)[1],
    "inside checkpoint": jax.checkpoint(lambda x: x * x),
}
JUMPING = {
    "a sign": jnp.sign,
    "rounding": jnp.round,
    "rounding down": jnp.floor,
    "rounding up": jnp.ceil,
    "a remainder": lambda x: jax.lax.rem(x, X),
    "the next number": lambda x: jax.lax.nextafter(x, X),
    "a whole number": lambda x: x.astype(jnp.int32).astype(jnp.float32),
    "bits": lambda x: jnp.where(jax.lax.bitcast_convert_type(x, jnp.int32) > 9, x, -x),
    "a choice": lambda x: jnp.where(x > 0, x, 2 * x),
    "a clip": lambda x: jnp.clip(x, -1, 1),
    "a clamp": lambda x: jax.lax.clamp(-1.0, x, 1.0),
    "the largest": lambda x: x / x.max(),
    "the smallest": lambda x: x / x.min(),
    "the largest so far": jax.lax.cummax,
    "the smallest so far": jax.lax.cummin,
    "sorting": jnp.sort,
    "the largest few": lambda x: jax.lax.top_k(x, 2)[0],
    "a pivot": lambda x: jax.lax.linalg.lu(x.reshape(2, 2))[1].astype(x.dtype),
    "a program that is not known": lambda x: jax.lax.reduce_window(
        x, 0.0, lambda a, b: a + 2.0 * b, (3,), (1,), "SAME"
    ),
    "which is the largest": lambda x: x * jnp.argmax(x).astype(x.dtype),
    "its rank": lambda x: x * jnp.argsort(x).astype(x.dtype),
    "a sign of a sum": sign_of_a_sum,
    "inside jit": jax.jit(jnp.sign),
    "inside jit, of a sum": lambda x: jax.jit(jnp.sign)(x / x.sum()),
    "inside a branch": lambda x: jax.lax.cond(S > 0, jnp.sign, lambda x: x, x),
    "inside a branch, of a sum": lambda x: jax.lax.cond(
        S > 0, sign_of_a_sum, lambda x: x, x
    ),
    "a branch by data": lambda x: jax.lax.cond(
        x.sum() > 0, lambda x: x, lambda x: 2 * x, x
    ),
    "inside a scan": lambda x: jax.lax.scan(
        lambda c, _: (sign_of_a_sum(c), None), x, length=2
    )[0],
    "along a scan": lambda x: jax.lax.scan(lambda c, y: (c, jnp.sign(y)), 0.0, x)[1],
    "later in a scan": lambda x: jax.lax.scan(
        lambda c, _: ((jnp.sign(c[1]), c[0]), None), (x, x), length=2
    )[0][1],
    "inside a loop": lambda x: jax.lax.fori_loop(0, 2, lambda i, y: jnp.sign(y), x),
    "a loop until": lambda x: jax.lax.while_loop(
        lambda y: y.sum() < 99, lambda y: 2 * y, x
    ),
    "no derivative": lambda x: jax.lax.stop_gradient(x),
    "a derivative of its own": straight_through,
    "a jump with a derivative": jax.nn.relu,
}


@pytest.mark.parametrize("name", SMOOTH)
def test_nothing_is_hidden(name):
    (flow,) = flows_of(jax.make_jaxpr(SMOOTH[name])(X).jaxpr, [Flow(ALIGNED)])
    assert not flow.hidden


@pytest.mark.parametrize("name", JUMPING)
def test_what_jumps_is_hidden(name):
    (flow,) = flows_of(jax.make_jaxpr(JUMPING[name])(X).jaxpr, [Flow(ALIGNED)])
    assert flow.hidden


def test_what_the_state_has_seen_is_hidden_for_those_that_it_tells():
    def step(state, params):
        updates = {"a": params["a"] + state["one"], "b": 2 * params["b"]}
        return updates, {"one": state["two"], "two": params["b"], "n": state["n"] + 1}

    both = {"a": X, "b": X}
    depends = dependence(step, {"one": X, "two": X, "n": 0}, both)
    assert depends.forward
    assert depends.updates == [Flow(ALIGNED, hidden=True), Flow(ALIGNED)]


def of_state(init, update):
    """An optimizer of one leaf: init(p) -> s, update(g, s, p) -> u, s."""
    return optax.GradientTransformation(init, lambda g, s, p: update(g, s, p))


OPTIMIZERS = {
    "its own weights": (of_state(lambda p: p, lambda g, s, p: (g + s, s)), False),
    "a norm at the start": (
        of_state(lambda p: p.sum(), lambda g, s, p: (g * s, s)),
        True,
    ),
    "a norm one step ago": (
        of_state(lambda p: jnp.zeros(()), lambda g, s, p: (g * s, p.sum())),
        True,
    ),
    "a norm of gradients two steps ago": (
        of_state(
            lambda p: (jnp.zeros(()), jnp.zeros(())),
            lambda g, s, p: (g * s[0], (s[1], g.sum())),
        ),
        True,
    ),
    "a norm that only the state knows": (
        of_state(lambda p: jnp.zeros(()), lambda g, s, p: (g - p, s + p.sum())),
        False,
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_that_mix(name):
    optimizer, expected = OPTIMIZERS[name]
    program = program_of(optimizer, X, lambda step: {})
    assert mixes(optimizer, X, program) is expected


TABLE = np.arange(8, dtype=np.float32)
UNLIKE = {
    "its size": lambda x: x / x.shape[0],
    "its size, inside jit": lambda x: jax.jit(lambda y: y / y.shape[0])(x),
    "its size, inside a branch": lambda x: jax.lax.cond(
        S > 0, lambda: x / x.shape[0], lambda: x
    ),
    "a remembered array": lambda x: x * TABLE[: x.shape[0]],
    "its rows, counted": lambda x: x * jnp.arange(x.shape[0], dtype=x.dtype),
}


@pytest.mark.parametrize("name", UNLIKE)
def test_shapes_that_a_program_does_not_treat_alike(name):
    small, large = (outline(jax.make_jaxpr(UNLIKE[name])(TABLE[:n])) for n in (4, 8))
    assert small != large


def test_shapes_that_a_program_treats_alike():
    function = lambda x: jax.jit(lambda y: jnp.sqrt(y) / y.sum())(x) + 1.0  # noqa: E731
    small, large = (outline(jax.make_jaxpr(function)(TABLE[:n])) for n in (4, 8))
    assert small == large
