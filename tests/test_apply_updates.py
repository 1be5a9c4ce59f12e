"""dx.apply_updates: θ + Δ in the dtype of θ, in the trees that people use."""

import collections
import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import rounding_reference as reference
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import decayax as dx


eqx = pytest.importorskip("equinox")


# optax.apply_updates, with which some tests compare, mixes dtypes.
relaxed = pytest.mark.relaxed("optax.apply_updates")
SIXTEEN = ["bfloat16", "float16"]


# --- the sum ----------------------------------------------------------------------


def draw(shape, dtype, scale=1.0, seed=0):
    rng = np.random.default_rng(seed)
    values = scale * rng.standard_normal(shape)
    if jnp.issubdtype(dtype, jnp.complexfloating):
        values = values + 1j * scale * rng.standard_normal(shape)
    return jnp.asarray(values, dtype)


@pytest.mark.parametrize("update", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("param", SIXTEEN)
def test_16_bits_are_added_in_float32_and_rounded_once(param, update):
    """Against NumPy: the float32 sum, rounded to the nearest number of the format."""
    theta = draw(5000, param)
    step = draw(5000, update, 1e-2, seed=1)
    got = jax.jit(dx.apply_updates)(theta, step)
    wide = np.asarray(theta.astype(jnp.float32)) + np.asarray(step.astype(jnp.float32))
    expected = reference.nearest_even(wide, param)
    assert got.dtype == param
    np.testing.assert_array_equal(np.asarray(got.astype(jnp.float32)), expected)


PAIRS = [
    (param, update)
    for param in ("bfloat16", "float16", "float32", "float64", "complex64")
    for update in ("bfloat16", "float32", "float64")
] + [("complex64", "complex64"), ("complex128", "complex64"), ("int32", "int32")]


@relaxed
@pytest.mark.parametrize(("param", "update"), PAIRS)
def test_the_result_is_that_of_optax(param, update, x64):
    make = draw if param != "int32" else lambda *a, **k: draw(*a, scale=9.0)
    params, updates = {"w": make((20, 3), param)}, {"w": make((20, 3), update, seed=1)}
    got, expected = (
        dx.apply_updates(params, updates),
        optax.apply_updates(params, updates),
    )
    assert got["w"].dtype == expected["w"].dtype == param
    # optax adds a bfloat16 update to a float16 parameter in float32 too.
    np.testing.assert_array_equal(got["w"], expected["w"])


@pytest.mark.parametrize("dtype", [jnp.float8_e4m3fn, jnp.float8_e5m2])
def test_8_bit_parameters_keep_their_dtype(dtype):
    got = dx.apply_updates(jnp.ones(3, dtype), jnp.full(3, 0.24))
    assert got.dtype == dtype
    np.testing.assert_array_equal(got.astype(jnp.float32), 1.25)


@pytest.mark.parametrize("dtype", SIXTEEN)
@pytest.mark.parametrize("transform", [dx.round_stochastically, dx.compensate_rounding])
def test_it_lands_where_the_rounding_says(transform, dtype):
    theta, step = draw(4096, dtype), draw(4096, "float32", 3e-3, seed=1)
    updates, _ = transform().update(step, transform().init(theta), theta)
    got = np.asarray(dx.apply_updates(theta, updates).astype(jnp.float32), np.float64)
    exact = np.asarray(theta.astype(jnp.float32), np.float64) + np.asarray(step)
    # Ties are those of the float32 sum.
    nearest = reference.nearest_even(exact.astype(np.float32), dtype)
    if transform is dx.compensate_rounding:
        np.testing.assert_array_equal(got, nearest)
    else:
        towards, away = reference.neighbours(exact, dtype)
        assert np.all((got == towards) | (got == away))
        assert np.mean(got != nearest) > 0.1


def test_nan_infinity_and_minus_zero():
    theta = jnp.array([1.0, 1.0, jnp.inf, -0.0, 0.0], jnp.bfloat16)
    step = jnp.array([jnp.nan, jnp.inf, 1.0, -0.0, -0.0])
    got = np.asarray(dx.apply_updates(theta, step).astype(jnp.float32))
    np.testing.assert_array_equal(got, [np.nan, np.inf, np.inf, -0.0, 0.0])
    np.testing.assert_array_equal(np.signbit(got[3:]), [True, False])


# --- trees ------------------------------------------------------------------------


class Layer(NamedTuple):
    kernel: Any
    bias: Any


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["kernel", "activation"],
    meta_fields=["name"],
)
@dataclasses.dataclass
class Block:
    kernel: Any
    activation: Any = None
    name: str = "block"


def kernel(seed=0, shape=(3, 2)):
    return draw(shape, "bfloat16", seed=seed)


def equinox_model():
    return eqx.nn.MLP(2, 2, 3, 2, key=jax.random.key(0), dtype=jnp.bfloat16)


def equinox_model_with_keys():
    """Functions, strings, None, a typed key and integers next to the weights."""
    return {
        "mlp": equinox_model(),
        "dropout": eqx.nn.Dropout(0.5),
        "key": jax.random.key(0),
        "name": "model",
        "none": None,
        "steps": jnp.arange(3),
        "norm": eqx.nn.LayerNorm(3, dtype=jnp.bfloat16),
    }


TREES = {
    "array": kernel,
    "dict": lambda: {"a": {"kernel": kernel()}, "b": kernel(1)},
    "list": lambda: [kernel(), [kernel(1)]],
    "tuple": lambda: (kernel(), (kernel(1),)),
    "NamedTuple": lambda: Layer(kernel(), kernel(1)),
    "OrderedDict": lambda: collections.OrderedDict(b=kernel(), a=kernel(1)),
    "Haiku": lambda: {"mlp/~/linear_0": {"w": kernel(), "b": kernel(1, (2,))}},
    "dataclass": lambda: Block(kernel(), jnp.tanh),
    "more than ten": lambda: [kernel(n, ()) for n in range(12)],
    "masked": lambda: {"a": kernel(), "b": optax.MaskedNode(), "c": None},
    "Equinox": equinox_model,
    "Equinox in a dict": equinox_model_with_keys,
    "Equinox layer": lambda: eqx.nn.Linear(
        3, 2, key=jax.random.key(0), dtype=jnp.bfloat16
    ),
    "empty": dict,
}


def float_leaves(tree):
    return jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))


@pytest.mark.parametrize("jitted", [False, True])
@pytest.mark.parametrize("tree", TREES)
def test_trees(tree, jitted):
    """A whole tree against the updates of its floating-point arrays."""
    params = TREES[tree]()
    filtered = eqx.filter(params, eqx.is_inexact_array)
    updates = jax.tree.map(lambda p: jnp.full(p.shape, 0.5), filtered)
    update = eqx.filter_jit(dx.apply_updates) if jitted else dx.apply_updates
    got = update(params, updates)
    assert jax.tree.structure(got) == jax.tree.structure(params)
    arrays, static = eqx.partition(params, eqx.is_inexact_array)
    assert eqx.tree_equal(eqx.filter(got, eqx.is_inexact_array, inverse=True), static)
    for new, old in zip(float_leaves(got), jax.tree.leaves(arrays), strict=True):
        assert new.dtype == jnp.bfloat16
        wide = np.asarray(old.astype(jnp.float32)) + np.float32(0.5)
        expected = reference.nearest_even(wide, "bfloat16")
        np.testing.assert_array_equal(new.astype(jnp.float32), expected)


def test_one_function_trains_an_equinox_model_in_16_bits():
    """As in docs/use/equinox.md; equinox.apply_updates would return float32."""
    model = equinox_model()
    optimizer = dx.with_compensation(optax.sgd(1e-3))
    state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(model, state):
        params = eqx.filter(model, eqx.is_inexact_array)
        updates, state = optimizer.update(params, state, params)
        return dx.apply_updates(model, updates), state

    before = model
    for _ in range(100):
        model, state = step(model, state)
    for new, old in zip(float_leaves(model), float_leaves(before), strict=True):
        assert new.dtype == jnp.bfloat16
        exact = 0.999**100 * np.asarray(old, np.float64)
        np.testing.assert_allclose(np.asarray(new, np.float64), exact, rtol=2.0**-8)


NO_UPDATES = {
    "None": lambda p: None,
    "MaskedNode": lambda p: optax.MaskedNode(),
    "float0": lambda p: np.zeros(np.shape(p), jax.dtypes.float0),
}
LEAVES = {
    "integer": lambda: jnp.arange(3),
    "bool": lambda: jnp.array([True, False]),
    "float": lambda: jnp.ones(3),
    "bfloat16": lambda: jnp.ones(3, jnp.bfloat16),
    "complex": lambda: jnp.ones(3, jnp.complex64),
    "typed key": lambda: jax.random.key(0),
    "function": lambda: jnp.tanh,
    "string": lambda: "gelu",
    "NumPy": lambda: np.arange(3.0),
    "Python number": lambda: 2.0,
    "None": lambda: None,
    "MaskedNode": optax.MaskedNode,
}


NOT_ARRAYS = ("function", "string", "None", "MaskedNode")  # have no float0


@pytest.mark.parametrize(
    ("leaf", "no_update"),
    [
        (leaf, no_update)
        for leaf in LEAVES
        for no_update in NO_UPDATES
        if not (no_update == "float0" and leaf in NOT_ARRAYS)
    ],
)
def test_a_leaf_without_update_stays(leaf, no_update):
    param = LEAVES[leaf]()
    params = {"w": jnp.ones(2), "other": param}
    updates = {"w": jnp.ones(2), "other": NO_UPDATES[no_update](param)}
    got = dx.apply_updates(params, updates)
    assert got["other"] is param
    np.testing.assert_array_equal(got["w"], 2.0)


@pytest.mark.parametrize("nothing", [None, optax.MaskedNode()])
def test_one_none_covers_a_subtree(nothing):
    params = {"encoder": {"a": kernel(), "b": [kernel(1)]}, "head": kernel(2)}
    got = dx.apply_updates(params, {"encoder": nothing, "head": kernel(3)})
    assert got["encoder"] == params["encoder"]
    assert dx.apply_updates(params, nothing) == params


def test_gradients_of_integers():
    params = {"w": jnp.ones(3), "n": jnp.arange(3)}
    grads = jax.grad(lambda p: jnp.sum(p["w"] ** 2), allow_int=True)(params)
    got = jax.jit(dx.apply_updates)(params, {"w": -grads["w"], "n": None})
    np.testing.assert_array_equal(got["w"], -1.0)
    assert dx.apply_updates(params, grads)["n"] is params["n"]


def test_python_and_numpy_numbers():
    got = dx.apply_updates(
        {"a": 2.0, "b": np.ones(2, np.float32)}, {"a": 0.5, "b": np.zeros(2)}
    )
    assert isinstance(got["a"], jax.Array)
    np.testing.assert_array_equal(got["a"], 2.5)


# --- JAX --------------------------------------------------------------------------


@pytest.mark.parametrize("weak", [jnp.asarray(2.0), jnp.full(3, 2.0), jnp.asarray(1j)])
def test_weak_types_stay_so_nothing_compiles_twice(weak):
    assert weak.weak_type
    update = jax.jit(lambda params, updates: dx.apply_updates(params, updates))
    params = {"a": weak}
    for _ in range(3):
        params = update(params, {"a": jnp.full(weak.shape, 0.5)})
    assert params["a"].weak_type
    assert update._cache_size() == 1
    np.testing.assert_array_equal(params["a"], weak + 1.5)


def test_strong_types_stay_strong():
    got = dx.apply_updates(jnp.ones(3), jnp.full(3, 2.0))
    assert not got.weak_type


def test_scan_vmap_and_grad():
    params = {"w": kernel(), "n": jnp.arange(2), "b": jnp.asarray(1.0)}
    updates = {"w": jnp.full((3, 2), 2.0**-4), "n": None, "b": jnp.float32(1.0)}

    def step(params, _):
        return dx.apply_updates(params, updates), None

    scanned, _ = jax.lax.scan(step, params, length=4)
    by_hand = functools.reduce(lambda p, _: step(p, None)[0], range(4), params)
    jax.tree.map(np.testing.assert_array_equal, scanned, by_hand)

    many = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), params)
    mapped = jax.vmap(lambda p: dx.apply_updates(p, updates))(many)
    second = dx.apply_updates(jax.tree.map(lambda x: 2 * x, params), updates)
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[1], y), mapped, second)

    slope = jax.grad(lambda u: dx.apply_updates(kernel(), u).astype(jnp.float32).sum())(
        jnp.ones((3, 2))
    )
    np.testing.assert_array_equal(slope, 1.0)


@relaxed
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_it_reads_and_writes_each_leaf_once(dtype):
    """XLA's count of bytes: θ, Δ and the result, as for optax."""
    theta, step = jnp.ones((256, 256), dtype), jnp.ones((256, 256))

    def count(apply):
        compiled = jax.jit(apply, donate_argnums=0).lower(theta, step).compile()
        return compiled.cost_analysis()["bytes accessed"]

    assert count(dx.apply_updates) == 2 * theta.nbytes + step.nbytes
    assert count(dx.apply_updates) <= count(optax.apply_updates)


@pytest.mark.parametrize("jitted", [False, True])
def test_the_sharding_stays(jitted):
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    params = jax.device_put(draw((4, 2), "bfloat16"), sharding)
    updates = jax.device_put(jnp.ones((4, 2)), sharding)
    update = jax.jit(dx.apply_updates) if jitted else dx.apply_updates
    assert update(params, updates).sharding.is_equivalent_to(sharding, 2)


# --- Flax -------------------------------------------------------------------------


@pytest.mark.needs_flax
def test_nnx_states_variables_and_modules():
    nnx = pytest.importorskip("flax.nnx")
    module = nnx.Sequential(
        nnx.Linear(3, 2, rngs=nnx.Rngs(0), param_dtype=jnp.bfloat16),
        nnx.Dropout(0.1, rngs=nnx.Rngs(1)),
    )
    state = nnx.state(module, nnx.Param)
    updates = jax.tree.map(lambda x: jnp.full(x.shape, 0.5), state)
    pure = nnx.to_pure_dict(state)
    expected = jax.tree.map(lambda x: x + jnp.asarray(0.5, x.dtype), pure)
    for params, steps in (
        (state, updates),
        (state, nnx.to_pure_dict(updates)),
        (pure, updates),
        (pure, nnx.to_pure_dict(updates)),
        (module, updates),
    ):
        got = dx.apply_updates(params, steps)
        assert type(got) is type(params)
        got = nnx.state(got, nnx.Param) if params is module else got
        got = got if params is pure else nnx.to_pure_dict(got)
        jax.tree.map(np.testing.assert_array_equal, got, expected)
        assert {x.dtype for x in jax.tree.leaves(got)} == {jnp.dtype(jnp.bfloat16)}
    variable = module.layers[0].kernel
    moved = dx.apply_updates(variable, updates["layers"][0]["kernel"])
    assert isinstance(moved, nnx.Param)
    with_batch_norm = nnx.Sequential(module, nnx.BatchNorm(2, rngs=nnx.Rngs(0)))
    batch = jax.tree.map(jnp.zeros_like, nnx.state(with_batch_norm, nnx.Param))
    with pytest.raises(ValueError, match=r"nnx.state\(module, nnx.Param\)"):
        dx.apply_updates(with_batch_norm, batch)


@pytest.mark.needs_flax
def test_linen_parameters():
    linen = pytest.importorskip("flax.linen")
    frozen_dict = pytest.importorskip("flax.core.frozen_dict")
    module = linen.Dense(2, param_dtype=jnp.bfloat16)
    params = module.init(jax.random.key(0), jnp.ones((1, 3), jnp.bfloat16))
    updates = jax.tree.map(lambda x: jnp.full(x.shape, 0.5), params)
    for wrap in (dict, frozen_dict.freeze):
        got = dx.apply_updates(wrap(params), updates)
        assert type(got) is type(wrap(params))
        assert {x.dtype for x in jax.tree.leaves(got)} == {jnp.dtype(jnp.bfloat16)}
        np.testing.assert_array_equal(got["params"]["bias"], 0.5)


# --- errors -----------------------------------------------------------------------


ERRORS = {
    # parameters, updates, error, text
    "shape": (
        {"a": {"b": jnp.ones(3)}},
        {"a": {"b": jnp.ones((3, 1))}},
        ValueError,
        r"the update of a/b has shape \(3, 1\), its parameter \(3,\)",
    ),
    "a scalar does not broadcast": (
        {"a": jnp.ones(3)},
        {"a": jnp.ones(())},
        ValueError,
        r"the update of a has shape \(\), its parameter \(3,\)",
    ),
    "a parameter more": (
        {"a": jnp.ones(3), "b": [jnp.ones(2)]},
        {"a": jnp.ones(3)},
        ValueError,
        r"the parameter b/0 has no update. Pass the parameters that the optimizer tra",
    ),
    "an update more": (
        {"a": jnp.ones(3)},
        {"a": jnp.ones(3), "c": jnp.ones(3)},
        ValueError,
        r"the updates of c have no parameter; the parameters are a. Pass the updates",
    ),
    "another name": (
        {"kernel": jnp.ones(3)},
        {"weight": jnp.ones(3)},
        ValueError,
        r"the updates of weight have no parameter; the parameters are kernel",
    ),
    "an array for a subtree": (
        {"a": {"b": jnp.ones(3)}},
        {"a": jnp.ones(3)},
        ValueError,
        r"the updates of a have no parameter; the parameters are a/b",
    ),
    "a subtree for an array": (
        {"a": jnp.ones(3)},
        {"a": {"b": jnp.ones(3)}},
        ValueError,
        r"the updates of a/b have no parameter",
    ),
    "a shorter list": (
        [jnp.ones(3), jnp.ones(3)],
        [jnp.ones(3)],
        ValueError,
        r"the parameter 1 has no update",
    ),
    "nothing": (jnp.ones(3), {}, ValueError, r"the parameter \(root\) has no update"),
    "complex": (
        {"a": jnp.ones(3)},
        {"a": jnp.ones(3, jnp.complex64)},
        TypeError,
        r"the update of a has dtype complex64, its parameter float32. Write None",
    ),
    "integer": (
        {"n": jnp.arange(3)},
        {"n": jnp.ones(3)},
        TypeError,
        r"the update of n has dtype float32, its parameter int32. Write None",
    ),
    "bool": (
        {"n": jnp.ones(3, bool)},
        {"n": jnp.ones(3)},
        TypeError,
        r"the update of n has dtype float32, its parameter bool",
    ),
    "function": (
        {"f": lambda x: x},
        {"f": jnp.ones(())},
        TypeError,
        r"the update of f has dtype float32, its parameter function",
    ),
    "None": (
        {"f": None},
        {"f": jnp.ones(())},
        TypeError,
        r"the update of f has dtype float32, its parameter NoneType",
    ),
    "key": (
        {"k": jax.random.key(0)},
        {"k": jnp.ones(())},
        TypeError,
        r"the update of k has dtype float32, its parameter key<fry>",
    ),
}


@pytest.mark.parametrize("jitted", [False, True])
@pytest.mark.parametrize("case", ERRORS)
def test_errors_name_the_leaf(case, jitted):
    params, updates, error, text = ERRORS[case]
    update = eqx.filter_jit(dx.apply_updates) if jitted else dx.apply_updates
    if case == "key":
        text = text.replace("key<fry>", r"(key<fry>|PRNGKeyArray|.*Tracer)")
    with pytest.raises(error, match=f"apply_updates: {text}"):
        update(params, updates)
