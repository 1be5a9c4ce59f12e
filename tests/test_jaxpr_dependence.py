"""What the jaxpr of an optimizer says: the kind of its updates, constants by shape."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import decayax as dx
from decayax._jaxpr.dataflow import Kind
from decayax._jaxpr.dependence import (
    same_operations,
    update_kind,
)
from decayax._jaxpr.trace import trace_optimizer


X, S = jnp.ones(4), jnp.ones(())
CONSTANT, ALIGNED, COUPLED, REORDERED, MIXED = Kind


def of_state(init, update):
    """An optimizer of one leaf: init(p) -> s, update(g, s, p) -> u, s."""
    return optax.GradientTransformation(init, lambda g, s, p: update(g, s, p))


OPTIMIZERS = {
    "its own weights": (of_state(lambda p: p, lambda g, s, p: (g + s, s)), ALIGNED),
    "a norm at the start": (
        of_state(lambda p: p.sum(), lambda g, s, p: (g * s, s)),
        COUPLED,
    ),
    "a norm one step ago": (
        of_state(lambda p: jnp.zeros(()), lambda g, s, p: (g * s, p.sum())),
        COUPLED,
    ),
    "a norm of gradients two steps ago": (
        of_state(
            lambda p: (jnp.zeros(()), jnp.zeros(())),
            lambda g, s, p: (g * s[0], (s[1], g.sum())),
        ),
        COUPLED,
    ),
    "a norm that only the state uses": (
        of_state(lambda p: jnp.zeros(()), lambda g, s, p: (g - p, s + p.sum())),
        ALIGNED,
    ),
    "a norm of the update before": (
        of_state(lambda p: p.sum(), lambda g, s, p: (g * s, (g * s).sum())),
        COUPLED,
    ),
    "a matrix product one step ago": (
        of_state(lambda p: p, lambda g, s, p: (g * s, jnp.outer(p, p) @ p)),
        MIXED,
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_kind_of_the_updates(name):
    optimizer, expected = OPTIMIZERS[name]
    assert update_kind(trace_optimizer(optimizer, X, lambda step: {})) == expected


KINDS = {
    "adamw": (optax.adamw(0.1), ALIGNED),
    "lion in MultiSteps": (
        optax.MultiSteps(optax.lion(0.1), 3).gradient_transformation(),
        ALIGNED,
    ),
    "clip_by_global_norm": (
        optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.1)),
        COUPLED,
    ),
    "apply_if_finite": (optax.apply_if_finite(optax.adamw(0.1), 3), COUPLED),
    "lamb": (optax.lamb(0.1), COUPLED),
    "lars": (optax.lars(0.1), COUPLED),
    "clip_by_block_rms": (optax.clip_by_block_rms(1.0), COUPLED),
    "novograd": (optax.novograd(0.1), COUPLED),
    "prodigy": (optax.contrib.prodigy(0.1), COUPLED),
    "adaptive_grad_clip": (optax.adaptive_grad_clip(0.1), MIXED),
    "adafactor": (optax.adafactor(0.1, min_dim_size_to_factor=2), MIXED),
    "muon": (optax.contrib.muon(0.1), MIXED),
}


@pytest.mark.relaxed("several parts of optax")
@pytest.mark.parametrize("name", KINDS)
def test_the_kinds_of_known_optimizers(name):
    optimizer, expected = KINDS[name]
    params = {"kernel": jnp.ones((6, 4)), "bias": jnp.ones(4)}
    assert update_kind(trace_optimizer(optimizer, params, lambda step: {})) == expected


TABLE = np.arange(8, dtype=np.float32)
FIXED = np.linspace(0.0, 1.0, 4, dtype=np.float32)
ROWS, COLUMNS = 8, 4


def last(n):
    """Zeros with n ones at the end, which is a usual mask of rows."""
    return lambda x: jnp.concatenate([jnp.zeros(x.shape[0] - n), jnp.ones(n)])[:, None]


def stepped(x):
    """A loop that counts rows."""
    ramp = jax.lax.fori_loop(
        0, 2, lambda _, y: y + jnp.arange(x.shape[0], dtype=x.dtype), 0 * x[:, 0]
    )
    return ramp[:, None]


# The second factor of an update. Each depends on the number of rows.
SHAPE_DEPENDENT = {
    "its size": lambda x: 1.0 / x.shape[0],
    "its size, inside jit": lambda x: jax.jit(lambda y: y / y.shape[0])(x),
    "its size, inside a branch": lambda x: jax.lax.cond(
        S > 0, lambda: x / x.shape[0], lambda: x
    ),
    "an array of its size": lambda x: TABLE[: x.shape[0], None],
    "its rows, counted": lambda x: jnp.arange(x.shape[0], dtype=x.dtype)[:, None],
    "the last rows": last(2),
    "the last rows, in a jitted function": lambda x: jax.jit(last(2))(x),
    "the last rows, in a branch": lambda x: jax.lax.cond(
        S > 0, lambda: last(2)(x), lambda: jnp.zeros((x.shape[0], 1))
    ),
    "the first rows": lambda x: jnp.ones((x.shape[0], 1)).at[:2].set(0.0),
    "the last row": lambda x: jnp.ones((x.shape[0], 1)).at[-1].set(0.0),
    "a row that is counted from the end": lambda x: jax.lax.dynamic_update_slice(
        jnp.zeros(x.shape), jnp.ones((1, 4)), (3, 0)
    ),
    "padding": lambda x: jnp.pad(jnp.ones((x.shape[0] - 2, 4)), ((0, 2), (0, 0))),
    "a diagonal": lambda x: jnp.eye(*x.shape),
    "a triangle": lambda x: jnp.tril(jnp.ones(x.shape)),
    "a ramp": lambda x: jnp.linspace(0.0, 1.0, x.shape[0])[:, None],
    "a reversed ramp": lambda x: jnp.flip(jnp.linspace(0.0, 1.0, x.shape[0]))[:, None],
    "a dynamic part of a ramp": lambda x: jax.lax.dynamic_slice(
        jnp.linspace(0.0, 1.0, 2 * x.shape[0]), (1,), (x.shape[0],)
    )[:, None],
    "a power of a ramp": lambda x: (2.0 ** -jnp.arange(x.shape[0], dtype=x.dtype))[
        :, None
    ],
    "every other row": lambda x: jnp.where(jnp.arange(x.shape[0]) % 2 == 0, 1.0, 0.0)[
        :, None
    ],
    "one row": lambda x: jax.nn.one_hot(2, x.shape[0])[:, None],
    "a tiled table": lambda x: jnp.tile(FIXED, x.shape[0] // 4)[:, None],
    "a table for each row": lambda x: jnp.broadcast_to(FIXED, x.shape),
    "how many elements": lambda x: 1.0 / jnp.ones(x.shape).sum(),
    "the largest number of a row": lambda x: (
        jnp.arange(x.shape[0]).max().astype(x.dtype)
    ),
    "a running sum": lambda x: jnp.cumsum(jnp.ones(x.shape), 0),
    "a product of constants": lambda x: jnp.ones((x.shape[0],) * 2) @ jnp.ones(x.shape),
    "a permutation": lambda x: jax.random.permutation(
        jax.random.key(0), x.shape[0]
    ).astype(x.dtype)[:, None],
    "a ramp in a loop": stepped,
    "the number of iterations": lambda x: jax.lax.fori_loop(
        0, jnp.arange(x.shape[0]).max(), lambda _, y: 0.5 * y, x
    ),
    "the first rows of the data": lambda x: x.at[:2].set(0.0),
    "some rows of the data": lambda x: jnp.concatenate([x[:2], 0.0 * x[2:]]),
    "a sum over the number of rows": lambda x: x.sum() / x.shape[0],
    "a largest number over the size": lambda x: x.max() / x.size,
    "a mean of another size": lambda x: x[:, :1].sum() / x.size,
    "a part of the data": lambda x: x[:2].sum(),
    "the longest axis": lambda x: x.sum(axis=int(np.argmax((x.shape[0], 5)))).max(),
    "the order of operands": lambda x: (
        jnp.sin(x) - x if x.shape[0] > 4 else x - jnp.sin(x)
    ),
    "the choice of a result": lambda x: (jnp.sin(x), jnp.cos(x))[x.shape[0] // 8],
    "an exponent": lambda x: x ** (x.shape[0] // 4 + 1),
}
SHAPE_INDEPENDENT = {
    "a norm": lambda x: 1.0 / jnp.linalg.norm(x),
    "a norm inside jit": lambda x: jax.jit(lambda y: jnp.sqrt(y) / y.sum())(x) + 1.0,
    "a mean": lambda x: x.mean(),
    "means of columns": lambda x: x.mean(axis=0),
    "means with their axis": lambda x: x - x.mean(axis=0, keepdims=True),
    "a mean of bfloat16": lambda x: x.astype(jnp.bfloat16).mean().astype(x.dtype),
    "a root mean square": lambda x: jnp.sqrt(jnp.sum(x * x) / x.size),
    "zeros": lambda x: jnp.zeros(x.shape),
    "ones, in another order": lambda x: jnp.ones(x.shape[::-1]).T[::-1],
    "a part of zeros": lambda x: jnp.zeros((2 * x.shape[0], 4))[: x.shape[0]],
    "noise": lambda x: jax.random.normal(jax.random.key(0), x.shape),
    "old noise": lambda x: jax.random.normal(jax.random.PRNGKey(0), x.shape),
    "noise by split keys": lambda x: jax.random.uniform(
        jax.random.split(jax.random.key(0), 3)[1], x.shape
    ),
    "a ramp that goes nowhere": lambda x: (jnp.arange(x.shape[0]), 1.0)[1],
    "a table of another size": lambda x: jnp.linspace(0.0, 1.0, 5)[3],
    "an element of a table": lambda x: jnp.full(x.shape, jnp.linspace(0.0, 1.0, 5)[3]),
    "a table along the other axis": lambda x: x @ jnp.diag(FIXED),
    "a loop": lambda x: jax.lax.fori_loop(0, 3, lambda _, y: y * 0.5, x),
    "one element": lambda x: x[0, 0],
    "a sum over rows": lambda x: x.sum(axis=0),
}


def two_sizes(function):
    return [
        jax.make_jaxpr(lambda x: x * function(x))(jnp.ones((n, COLUMNS)))
        for n in (ROWS // 2, ROWS)
    ]


@pytest.mark.relaxed("the cases are ordinary user code")
@pytest.mark.parametrize("name", SHAPE_DEPENDENT)
def test_a_program_that_depends_on_the_shape(name):
    small, large = two_sizes(SHAPE_DEPENDENT[name])
    assert not same_operations(small, large)
    assert not same_operations(large, small)


@pytest.mark.relaxed("the cases are ordinary user code")
@pytest.mark.parametrize("name", SHAPE_INDEPENDENT)
def test_a_program_that_does_not_depend_on_the_shape(name):
    small, large = two_sizes(SHAPE_INDEPENDENT[name])
    assert same_operations(small, large)
    assert same_operations(large, small)


def test_other_operations_are_another_program():
    (sine, _), (cosine, _) = two_sizes(jnp.sin), two_sizes(jnp.cos)
    assert not same_operations(sine, cosine)


WHOLE_OPTIMIZERS = {
    "adamw": optax.adamw(0.1),
    "adafactor": optax.adafactor(0.1, min_dim_size_to_factor=2),
    "clip_by_block_rms": optax.clip_by_block_rms(1.0),
    "clip_by_global_norm": optax.clip_by_global_norm(1.0),
    "lamb": optax.lamb(0.1),
    "noise": optax.add_noise(0.1, 0.5, 1),
    "with_stochastic_rounding": dx.with_stochastic_rounding(optax.adamw(0.1)),
    "muon": optax.contrib.muon(0.1),
}


@pytest.mark.relaxed("several parts of optax")
@pytest.mark.parametrize("name", WHOLE_OPTIMIZERS)
def test_known_optimizers_do_the_same_to_smaller_leaves(name):
    traces = [
        trace_optimizer(WHOLE_OPTIMIZERS[name], [jnp.ones(shape)], lambda step: {})
        for shape in ((8, 4), (4, 2))
    ]
    large, small = (trace.update for trace in traces)
    assert same_operations(small, large)


def test_a_tolerance_for_floats():
    first, second = (jax.make_jaxpr(lambda x, c=c: c * x)(X) for c in (1.0, 1.0009))
    assert same_operations(first, second, rtol=1e-3)
    assert not same_operations(first, second, rtol=5e-4)
    assert not same_operations(first, second)


def test_programs_with_other_results():
    first = jax.make_jaxpr(lambda x: (x, 1.0, jnp.sin(x)))(X)
    for other in (
        lambda x: (jnp.sin(x), 1.0, x),
        lambda x: (x, 2.0, jnp.sin(x)),
        lambda x: (x, 1.0),
        lambda x: (1.0, x, jnp.sin(x)),
    ):
        assert not same_operations(first, jax.make_jaxpr(other)(X))


def test_integers_have_no_tolerance():
    n = jnp.arange(4)
    first, second = (jax.make_jaxpr(lambda x, c=c: c * x)(n) for c in (1000, 1001))
    assert not same_operations(first, second, rtol=0.1)


def test_a_mask_that_the_state_keeps():
    """The mask is a constant of `init`, and data of `update`."""

    def init(params):
        return jnp.ones(params.shape).at[:2].set(0.0)

    small, large = (jax.make_jaxpr(init)(jnp.ones((n, COLUMNS))) for n in (4, 8))
    assert not same_operations(small, large)
