"""What the functions of a quotient calculate, and where they can be used."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_jaxpr_classes import FOUR, MATRIX, of_leaves, relu_or_leaky

from decayax._jaxpr.quotient import quotient
from decayax._jaxpr.trace import trace_optimizer


def quotient_of(optimizer, params=FOUR):
    program = trace_optimizer(optimizer, params, lambda step: {})
    return quotient(program, [0] * program.num_leaves())


def operations(quo, params):
    state = jax.eval_shape(quo.init, params)
    step = jax.ShapeDtypeStruct((), jnp.uint32)
    return jax.make_jaxpr(quo.update)(params, state, params, step).jaxpr.eqns


@pytest.mark.relaxed("scale_by_adam")
def test_the_quotient_calculates_what_the_representatives_need():
    counts = [
        len(operations(quotient_of(optax.adamw(1e-2), [MATRIX] * n), [MATRIX]))
        for n in (2, 20)
    ]
    assert counts[0] == counts[1]


def test_a_branch_calculates_what_only_it_needs():
    """A preconditioner has expensive operations in the branch of every k-th step."""

    def rule(gradients, params):
        step = [
            jax.lax.cond(a[0, 0] > 0, lambda a=a: jnp.tanh(jnp.sin(a)), lambda a=a: a)
            for a in gradients
        ]
        return [jnp.exp(x) for x in step]

    names = [
        e.primitive.name for e in operations(quotient_of(of_leaves(rule)), [MATRIX])
    ]
    assert names.count("cond") == 1
    assert "tanh" not in names
    assert "sin" not in names


def test_a_value_that_a_branch_and_its_surroundings_need():
    def rule(gradients, params):
        inside = [
            jax.lax.cond(a[0, 0] > 0, lambda a=a: jnp.sin(a) + 1, lambda a=a: a)
            for a in gradients
        ]
        return [x * jnp.sin(a) for x, a in zip(inside, gradients, strict=True)]

    quo = quotient_of(of_leaves(rule))
    x = jnp.full((6, 4), 0.5)
    (update,), _ = quo.update([x], [], [x], 0)
    np.testing.assert_allclose(update, (np.sin(x) + 1) * np.sin(x), rtol=1e-6)
    names = [e.primitive.name for e in operations(quo, [MATRIX])]
    assert names.count("sin") == 1


def test_a_branch_inside_a_branch():
    def rule(gradients, params):
        return [
            jax.lax.cond(
                a[0, 0] > 0,
                lambda a=a: jax.lax.cond(
                    a[0, 1] > 0, lambda: jnp.sin(a), lambda: jnp.cos(a) * 2
                ),
                lambda a=a: jnp.cos(a),
            )
            for a in gradients
        ]

    quo, optimizer = quotient_of(of_leaves(rule)), of_leaves(rule)
    for sign in (1.0, -1.0):
        x = sign * jnp.linspace(0.1, 1.0, 24).reshape(6, 4).at[0, 1].set(-1.0)
        (update,), _ = quo.update([x], [], [x], 0)
        expected = optimizer.update([x] * 4, optimizer.init(None), [x] * 4)[0][0]
        np.testing.assert_allclose(update, expected, rtol=1e-6)


def test_the_rule_of_a_custom_derivative_remains():
    quo = quotient_of(of_leaves(lambda g, p: [relu_or_leaky(a, 5.0) for a in p]))
    x = jnp.ones((6, 4))
    step = lambda x: quo.update([x], [], [x], 0)[0][0]  # noqa: E731
    value, tangent = jax.jvp(step, (x,), (x,))
    np.testing.assert_array_equal(value, 2.0 * x)
    np.testing.assert_array_equal(tangent, 5.0 * x)


@pytest.mark.relaxed("MultiSteps")
def test_the_quotient_runs_in_jit_scan_and_vmap():
    optimizer = optax.MultiSteps(optax.adamw(1e-1), 2).gradient_transformation()
    quo = quotient_of(optimizer)
    starts = jnp.stack([jnp.full((6, 4), c) for c in (1.0, -2.0)])

    @jax.jit
    @jax.vmap
    def train(start):
        def body(carry, step):
            params, state = carry
            updates, state = quo.update(params, state, params, step)
            return (optax.apply_updates(params, updates), state), None

        init = ([start], quo.init([start]))
        return jax.lax.scan(body, init, jnp.arange(4, dtype=jnp.uint32))[0][0][0]

    for start, end in zip(starts, train(starts), strict=True):
        params = [start] * 4
        state = optimizer.init(params)
        for _ in range(4):
            updates, state = optimizer.update(params, state, params)
            params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(end, params[0], rtol=1e-5)


def test_a_state_of_python_numbers_stays_in_a_scan():
    def update(gradients, state, params=None):
        count, other = state
        return [a / (count + 1.0) for a in gradients], (count + 1.0, 3)

    quo = quotient_of(optax.GradientTransformation(lambda params: (0.0, 3), update))
    x = jnp.ones((6, 4))

    def body(state, step):
        (update,), state = quo.update([x], state, [x], step)
        return state, update[0, 0]

    _, updates = jax.lax.scan(body, quo.init([x]), jnp.arange(3, dtype=jnp.uint32))
    np.testing.assert_allclose(updates, [1.0, 1 / 2, 1 / 3], rtol=1e-6)


def test_a_branch_that_prints():
    def print_and_halve(a):
        jax.debug.print("")
        return 0.5 * a

    def rule(gradients, params):
        return [
            jax.lax.cond(a.sum() > 0, print_and_halve, lambda a: a, a) if i == 0 else -a
            for i, a in enumerate(gradients)
        ]

    x = jnp.ones((6, 4))
    quo = quotient_of(of_leaves(rule))
    assert quo.class_of == [0, 1, 1, 1]
    updates, _ = quo.update([x, x], [], [x, x], 0)
    np.testing.assert_array_equal(updates, [0.5 * x, -x])
