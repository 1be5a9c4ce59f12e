"""What mixes weights, and what a derivative does not show, read from jaxprs."""

import jax
import jax.numpy as jnp
import pytest

from decayax._dataflow import ALIGNED, CONST, Flow, flows_of, MIXED
from decayax._mixing import dependence


X, S = jnp.ones(4), jnp.ones(())
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
}
JUMPING = {
    "a sign": jnp.sign,
    "rounding": jnp.round,
    "a whole number": lambda x: x.astype(jnp.int32).astype(jnp.float32),
    "bits": lambda x: jnp.where(jax.lax.bitcast_convert_type(x, jnp.int32) > 9, x, -x),
    "a choice": lambda x: jnp.where(x > 0, x, 2 * x),
    "a clip": lambda x: jnp.clip(x, -1, 1),
    "the largest": lambda x: x / x.max(),
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
    "a derivative of its own": jax.nn.relu,
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
    flows = dependence(step, {"one": X, "two": X, "n": 0}, both)
    assert flows == [Flow(ALIGNED, hidden=True), Flow(ALIGNED)]
