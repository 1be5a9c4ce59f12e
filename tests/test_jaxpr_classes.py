"""Which leaves the quotient of an optimizer joins."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental import io_callback

from decayax._jaxpr.quotient import quotient
from decayax._jaxpr.trace import trace_optimizer


MATRIX = jax.ShapeDtypeStruct((6, 4), jnp.float32)
VECTOR = jax.ShapeDtypeStruct((4,), jnp.float32)
SCALAR = jax.ShapeDtypeStruct((), jnp.float32)
BF16 = jax.ShapeDtypeStruct((6, 4), jnp.bfloat16)
INTEGER = jax.ShapeDtypeStruct((6, 4), jnp.int32)
FOUR = [MATRIX, MATRIX, MATRIX, MATRIX]


def classes(optimizer, params, keys=None, extra_args=lambda step: {}):
    program = trace_optimizer(optimizer, params, extra_args)
    keys = keys or [0] * program.num_leaves()
    quo = quotient(program, keys)
    return None if quo is None else quo.class_of


def of_leaves(rule):
    """An optimizer with u = rule(list of gradients, list of params), without state."""

    def update(gradients, params):
        leaves, treedef = jax.tree.flatten(gradients)
        return treedef.unflatten(rule(leaves, jax.tree.leaves(params)))

    return optax.stateless(update)


def with_state(init, update):
    """An optimizer with u, s = update(gradients, s)."""
    return optax.GradientTransformation(init, lambda g, s, p=None: update(g, s))


def scaled(*factors):
    return of_leaves(lambda g, p: [f * a for f, a in zip(factors, g, strict=True)])


def kept(rule):
    """An optimizer that keeps rule(i, parameter) in its state and adds it."""

    def update(gradients, state):
        return jax.tree.map(jnp.add, gradients, state), state

    return with_state(lambda ps: [rule(i, p) for i, p in enumerate(ps)], update)


def relu_or_leaky(x, slope):
    @jax.custom_jvp
    def same_value(x):
        return 2.0 * x

    same_value.defjvps(lambda t, out, x: slope * t)
    return same_value(x)


def shared_table(rows):
    return np.arange(24, dtype=np.float32).reshape(6, 4) * rows


ALIKE = {
    "two factors": (scaled(2.0, 2.0, 3.0, 2.0), FOUR, [0, 0, 1, 0]),
    "a zero and a negative zero": (scaled(0.0, -0.0, 0.0, 0.0), FOUR, [0, 1, 0, 0]),
    "two arrays": (
        of_leaves(lambda g, p: [a * shared_table(i // 2) for i, a in enumerate(g)]),
        FOUR,
        [0, 0, 1, 1],
    ),
    "two orders of the same operations": (
        of_leaves(
            lambda g, p: [jnp.exp(-a) if i else -jnp.exp(a) for i, a in enumerate(g)]
        ),
        FOUR,
        [0, 1, 1, 1],
    ),
    "exponents": (
        of_leaves(lambda g, p: [a ** (i // 2 + 2) for i, a in enumerate(g)]),
        FOUR,
        [0, 0, 1, 1],
    ),
    "two rules of a custom derivative": (
        of_leaves(
            lambda g, p: [relu_or_leaky(a, 1.0 + (i > 2)) for i, a in enumerate(g)]
        ),
        FOUR,
        [0, 0, 0, 1],
    ),
    "loops with different bodies": (
        of_leaves(
            lambda g, p: [
                jax.lax.fori_loop(0, 3, lambda _, y, i=i: y * (0.5 + i % 2), a)
                for i, a in enumerate(g)
            ]
        ),
        FOUR,
        [0, 1, 0, 1],
    ),
    "loops of different lengths": (
        of_leaves(
            lambda g, p: [
                jax.lax.fori_loop(0, 3 + i % 2, lambda _, y: y * 0.5, a)
                for i, a in enumerate(g)
            ]
        ),
        FOUR,
        [0, 1, 0, 1],
    ),
    "branches by different data": (
        of_leaves(
            lambda g, p: [
                jax.lax.cond(g[i // 2].sum() > 0, lambda a: a, lambda a: -a, a)
                for i, a in enumerate(g)
            ]
        ),
        FOUR,
        [0, 0, 0, 0],
    ),
    "branches by different conditions": (
        of_leaves(
            lambda g, p: [
                jax.lax.cond(g[0].sum() > i // 2, lambda a: a, lambda a: -a, a)
                for i, a in enumerate(g)
            ]
        ),
        FOUR,
        [0, 0, 1, 1],
    ),
    "branches with different bodies": (
        of_leaves(
            lambda g, p: [
                jax.lax.cond(a.sum() > 0, lambda a: a, lambda a, i=i: a * (i % 2), a)
                for i, a in enumerate(g)
            ]
        ),
        FOUR,
        [0, 1, 0, 1],
    ),
    "the norm of one leaf": (
        of_leaves(lambda g, p: [a / jnp.sum(g[0]) for a in g]),
        FOUR,
        [0, 0, 0, 0],
    ),
    "initial states": (kept(lambda i, p: p * (i // 2)), FOUR, [0, 0, 1, 1]),
    "states that differ later": (
        with_state(
            lambda ps: [jnp.zeros(p.shape) for p in ps],
            lambda g, s: (
                s,
                [x + a * (i > 2) for i, (x, a) in enumerate(zip(s, g, strict=True))],
            ),
        ),
        FOUR,
        [0, 0, 0, 1],
    ),
    "states that differ three steps later": (
        with_state(
            lambda ps: ([jnp.zeros(p.shape) for p in ps],) * 3,
            lambda g, s: (
                s[0],
                (
                    s[1],
                    s[2],
                    [
                        x + a * (i > 2)
                        for i, (x, a) in enumerate(zip(s[2], g, strict=True))
                    ],
                ),
            ),
        ),
        FOUR,
        [0, 0, 0, 1],
    ),
    "an unused state that differs": (
        with_state(
            lambda ps: [jnp.float32(i) for i, _ in enumerate(ps)], lambda g, s: (g, s)
        ),
        FOUR,
        [0, 0, 0, 0],
    ),
    "shapes": (optax.adamw(1e-2), [MATRIX, VECTOR, SCALAR, MATRIX], [0, 1, 2, 0]),
    "dtypes": (optax.adamw(1e-2), [MATRIX, BF16, MATRIX, BF16], [0, 1, 0, 1]),
    "an integer leaf": (optax.sgd(1), [MATRIX, INTEGER, MATRIX], [0, 1, 0]),
    "masked leaves": (
        optax.adamw(1e-2),
        [MATRIX, None, optax.MaskedNode(), MATRIX],
        [0, 0],
    ),
    "noise on some leaves": (
        optax.masked(optax.add_noise(0.1, 0.5, 1), [True, True, False, False]),
        FOUR,
        [0, 1, 2, 2],
    ),
    "another leaf": (
        of_leaves(lambda g, p: [g[0], g[0], g[2], g[3]]),
        FOUR,
        [0, 1, 2, 2],
    ),
    "another leaf, through the state": (
        with_state(
            lambda ps: jnp.zeros(MATRIX.shape), lambda g, s: ([g[0] + s, *g[1:]], g[1])
        ),
        FOUR,
        [0, 1, 2, 2],
    ),
    "another leaf, through the initial state": (
        with_state(lambda ps: ps[1], lambda g, s: ([g[0] + s, *g[1:]], s)),
        FOUR,
        [0, 1, 2, 2],
    ),
    "rows of another leaf": (
        of_leaves(lambda g, p: [g[0] * g[1].sum(1, keepdims=True), *g[1:]]),
        FOUR,
        [0, 1, 2, 2],
    ),
    "another leaf in a branch": (
        of_leaves(
            lambda g, p: [
                jax.lax.cond(g[0].sum() > 0, lambda: g[1], lambda: g[0]),
                *g[1:],
            ]
        ),
        FOUR,
        [0, 1, 2, 2],
    ),
}
ALL_DIFFER = {
    "one leaf": (optax.sgd(0.1), [MATRIX]),
    "as many factors as leaves": (scaled(1.0, 2.0, 3.0, 4.0), FOUR),
    "noise": (optax.add_noise(0.1, 0.5, 1), FOUR),
    "neighbours": (of_leaves(lambda g, p: [*g[1:], g[0]]), FOUR),
    "the mean of all leaves": (of_leaves(lambda g, p: [sum(g)] * 4), FOUR),
    "one long vector": (optax.flatten(optax.adam(0.1)), FOUR),
    "a state that grows": (
        with_state(lambda ps: (), lambda g, s: (g, (*s, jnp.zeros(())))),
        FOUR,
    ),
    "updates of another shape": (
        of_leaves(lambda g, p: [a[None] for a in g]),
        FOUR,
    ),
    "an effect of one leaf": (
        of_leaves(lambda g, p: [io_callback(np.negative, g[0], g[0]), *g[1:]]),
        FOUR,
    ),
    "an effect in a branch": (
        of_leaves(
            lambda g, p: [
                jax.lax.cond(
                    g[0].sum() > 0,
                    lambda a: io_callback(np.negative, a, a),
                    lambda a: a,
                    g[0],
                ),
                *g[1:],
            ]
        ),
        FOUR,
    ),
    "callbacks": (
        of_leaves(lambda g, p: [jax.pure_callback(np.negative, a, a) for a in g]),
        FOUR,
    ),
}


@pytest.mark.relaxed("add_noise and others")
@pytest.mark.parametrize("name", ALIKE)
def test_leaves_that_are_treated_alike(name):
    optimizer, params, expected = ALIKE[name]
    assert classes(optimizer, params) == expected


@pytest.mark.relaxed("add_noise and others")
@pytest.mark.parametrize("name", ALL_DIFFER)
def test_no_quotient(name):
    optimizer, params = ALL_DIFFER[name]
    assert classes(optimizer, params) is None


@pytest.mark.relaxed("scale_by_adam")
def test_leaves_with_different_keys_are_not_alike():
    assert classes(optax.adamw(1e-2), FOUR, keys=["a", "b", "a", "a"]) == [0, 1, 0, 0]


@pytest.mark.relaxed("reduce_on_plateau")
def test_arguments_that_depend_on_the_step():
    optimizer = optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau())
    value = lambda step: {"value": 1.0 / (1.0 + jnp.asarray(step, jnp.float32))}  # noqa: E731
    assert classes(optimizer, FOUR, extra_args=value) == [0, 0, 0, 0]
