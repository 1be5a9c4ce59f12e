"""Jaxpr analysis: what is elementwise, and what a derivative does not show."""

import jax
import jax.numpy as jnp
import pytest

from decayax._jaxpr.dataflow import Dependency, Kind, propagate


X, S = jnp.ones(4), jnp.ones(())
CONSTANT, ALIGNED, COUPLED, REORDERED, MIXED = Kind


def repeated_sum(last, x):
    return jax.lax.while_loop(
        lambda c: c[0] < last, lambda c: (c[0] + 1, c[1] + x), (0, 0 * X)
    )[1]


CASES = {
    "arithmetic": (lambda x, s: jnp.sqrt(x * x + 1.0) / 3.0, ALIGNED),
    "a choice by itself": (lambda x, s: jnp.where(x > 0, x, -x), ALIGNED),
    "no data": (lambda x, s: jnp.arange(4.0) * 2.0, CONSTANT),
    "random numbers": (
        lambda x, s: jax.random.normal(jax.random.key(0), (4,)),
        CONSTANT,
    ),
    "a sum": (lambda x, s: x / jnp.sum(x), COUPLED),
    "a norm in a choice": (lambda x, s: jnp.where(jnp.sum(x) > 1, x, 0 * x), COUPLED),
    "a sum that goes nowhere": (lambda x, s: (jnp.sum(x), x * 2.0)[1], ALIGNED),
    "another order": (lambda x, s: x[::-1], REORDERED),
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
    "another leaf's number": (lambda x, s: x * s, COUPLED),
    "a choice by a number": (lambda x, s: jnp.where(s > 0, x, -x), COUPLED),
    "inside jit": (lambda x, s: jax.jit(lambda y: y * 2.0)(x), ALIGNED),
    "a sum inside jit": (lambda x, s: jax.jit(lambda y: y / y.sum())(x), COUPLED),
    "relu": (lambda x, s: jax.nn.relu(x), ALIGNED),
    "a loop": (lambda x, s: jax.lax.fori_loop(0, 3, lambda i, y: y * 2.0, x), ALIGNED),
    "a loop that sums": (
        lambda x, s: jax.lax.fori_loop(0, 3, lambda i, y: y / y.sum(), x),
        COUPLED,
    ),
    "a loop until": (
        lambda x, s: jax.lax.while_loop(lambda y: y.sum() < 99, lambda y: 2 * y, x),
        COUPLED,
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
        COUPLED,
    ),
    "a branch by a number": (
        lambda x, s: jax.lax.cond(s > 0, lambda: x, lambda: -x),
        COUPLED,
    ),
    "a sum in one branch": (
        lambda x, s: jax.lax.cond(S > 0, lambda: x, lambda: x / x.sum()),
        COUPLED,
    ),
    "a sum in the other branch": (
        lambda x, s: jax.lax.cond(S > 0, lambda: x / x.sum(), lambda: x),
        COUPLED,
    ),
    "what a scan ends with": (
        lambda x, s: jax.lax.scan(lambda c, y: (c + y, None), 0.0, x)[0],
        MIXED,
    ),
    "what a scan leaves behind": (
        lambda x, s: jax.lax.scan(lambda c, _: (c, c), s, length=4)[1],
        COUPLED,
    ),
    "a loop until a number": (
        lambda x, s: jax.lax.while_loop(
            lambda c: c[1] < 9, lambda c: (2 * c[0], c[1] + 1), (x, s)
        )[0],
        COUPLED,
    ),
    "a loop with constants": (lambda x, s: repeated_sum(jnp.argmax(X), x), ALIGNED),
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
    "a norm": (lambda x, s: x / jnp.linalg.norm(x), COUPLED),
    "a mean with its axes": (lambda x, s: x - x.mean(keepdims=True), COUPLED),
    "a global norm": (lambda x, s: x / jnp.sqrt(jnp.sum(x * x) + s * s), COUPLED),
    "the largest": (lambda x, s: x / jnp.max(jnp.abs(x)), COUPLED),
    "an inner product": (lambda x, s: x * jnp.vdot(x, 2.0 * x), COUPLED),
    "whether all are finite": (
        lambda x, s: jnp.where(jnp.isfinite(x).all(), x, jnp.zeros_like(x)),
        COUPLED,
    ),
    "one element": (lambda x, s: x * x[0], COUPLED),
    "several norms": (
        lambda x, s: x / jnp.linalg.norm(jnp.stack([s, x.sum(), x.max()])),
        COUPLED,
    ),
    "one of several norms": (
        lambda x, s: x / jnp.stack([s, x.sum(), x.max()])[1],
        COUPLED,
    ),
    "a norm of the last result": (
        lambda x, s: (y := x / x.sum()) / jnp.abs(y).max(),
        COUPLED,
    ),
    "a norm of a matrix product": (
        lambda x, s: x / jnp.linalg.norm(jnp.outer(x, x) @ x),
        MIXED,
    ),
    "a branch by a matrix product": (
        lambda x, s: jax.lax.cond((jnp.outer(x, x) @ x)[0] > 0, lambda: x, lambda: -x),
        MIXED,
    ),
    "sums over one axis": (
        lambda x, s: x / x.reshape(2, 2).sum(1, keepdims=True).repeat(2),
        MIXED,
    ),
    "norms in another order": (
        lambda x, s: x * jnp.stack([s, x.sum(), x.max(), x.min()])[::-1],
        REORDERED,
    ),
    "an inner product of raveled arrays": (
        lambda x, s: x * jnp.vdot(x.reshape(2, 2), x.reshape(2, 2).T),
        COUPLED,
    ),
    "a norm of reordered elements": (lambda x, s: x / (x * x[::-1]).sum(), COUPLED),
    "a sum with another order": (lambda x, s: x + x[::-1], REORDERED),
    "a choice in another order": (
        lambda x, s: jnp.where(s > 0, x[::-1], x),
        REORDERED,
    ),
    "a scan of sums": (
        lambda x, s: jax.lax.scan(lambda c, _: (c, c.sum()), x, length=4)[1],
        COUPLED,
    ),
    "a scan of arrays": (
        lambda x, s: jax.lax.scan(lambda c, _: (c, c), x, length=4)[1],
        MIXED,
    ),
}


@pytest.mark.parametrize(
    ("small", "expected"), [((1, 1), COUPLED), ((4, 1), MIXED), ((1, 4), MIXED)]
)
def test_operands_with_an_axis_of_size_1(small, expected):
    args = jnp.ones((4, 4)), jnp.ones(small)
    jaxpr = jax.make_jaxpr(lambda x, y: x * y)(*args).jaxpr
    (dep,) = propagate(jaxpr, [Dependency(ALIGNED), Dependency(ALIGNED)])
    assert dep.kind == expected


@pytest.mark.parametrize("name", CASES)
def test_kinds(name):
    function, expected = CASES[name]
    jaxpr = jax.make_jaxpr(function)(X, S).jaxpr
    (dep,) = propagate(jaxpr, [Dependency(ALIGNED), Dependency(ALIGNED)])
    assert dep.kind == expected


def test_a_branch_on_the_step_is_aligned():
    jaxpr = jax.make_jaxpr(
        lambda x, n: jax.lax.cond(n > 3, lambda: x, lambda: 2.0 * x)
    )(X, 1).jaxpr
    assert propagate(jaxpr, [Dependency(ALIGNED), Dependency(CONSTANT)]) == [
        Dependency(ALIGNED)
    ]


@jax.custom_jvp
def straight_through(x):
    return 2.0 * x


straight_through.defjvps(lambda t, out, x: 3.0 * t)


def sign_of_a_sum(x):
    return jnp.sign(x / x.sum())


DIFFERENTIABLE = {
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
NONDIFFERENTIABLE = {
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


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_differentiable_values(name):
    (dep,) = propagate(
        jax.make_jaxpr(DIFFERENTIABLE[name])(X).jaxpr, [Dependency(ALIGNED)]
    )
    assert not dep.nondifferentiable


@pytest.mark.parametrize("name", NONDIFFERENTIABLE)
def test_nondifferentiable_values(name):
    jaxpr = jax.make_jaxpr(NONDIFFERENTIABLE[name])(X).jaxpr
    (dep,) = propagate(jaxpr, [Dependency(ALIGNED)])
    assert dep.nondifferentiable
