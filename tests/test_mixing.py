"""What mixes weights, read from jaxprs."""

import jax
import jax.numpy as jnp
import pytest

from decayax._mixing import ALIGNED, CONST, kinds_of, MIXED


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
    assert kinds_of(jaxpr, [ALIGNED, ALIGNED]) == [expected]


def test_a_branch_by_the_step_is_no_mixing():
    jaxpr = jax.make_jaxpr(
        lambda x, n: jax.lax.cond(n > 3, lambda: x, lambda: 2.0 * x)
    )(X, 1).jaxpr
    assert kinds_of(jaxpr, [ALIGNED, CONST]) == [ALIGNED]
