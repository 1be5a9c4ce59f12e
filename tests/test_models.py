"""The models: what they compute, by NumPy from the equations, and how they train."""

import functools
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import decayax as dx


equinox = pytest.importorskip("equinox")
linen = pytest.importorskip("flax.linen")
nnx = pytest.importorskip("flax.nnx")
from experiments.models.mlp import mlp  # noqa: E402
from experiments.models.model import (  # noqa: E402
    from_equinox,
    from_linen,
    from_nnx,
    Model,
    StatefulModel,
    with_state,
)
from experiments.models.transformer import transformer  # noqa: E402


pytestmark = [
    pytest.mark.needs_extras,
    pytest.mark.relaxed("the experiments run under JAX's defaults"),
]
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(6, 6, 6)).astype(np.float32)
CLASSES = RNG.integers(3, size=6)
TOKENS = RNG.integers(5, size=(6, 6)).astype(np.int32)
DECODER = {"vocabulary": 5, "length": 6, "width": 8, "heads": 2}
BUILDERS = {
    "mlp": functools.partial(mlp, sizes=(36, 8, 8, 3)),
    "mlp, norm": functools.partial(mlp, sizes=(36, 8, 8, 3), norm=True),
    "transformer": functools.partial(transformer, **DECODER, layers=2),
    "transformer, no norm": functools.partial(
        transformer, **DECODER, layers=1, norm=False
    ),
    "transformer, tied": functools.partial(transformer, **DECODER, layers=1, tied=True),
}
# At its default level, 3, XLA takes ten times as long over drawing random numbers.
quick = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)
NORMED = ["mlp, norm", "transformer"]
every_model = pytest.mark.parametrize("name", BUILDERS)


class Case(NamedTuple):
    """A model, made-up parameters none of which is 0 or 1, inputs and targets."""

    model: Model
    logits: Callable[..., jax.Array]  # compiled
    params: Any  # nnx.State of NumPy arrays
    x: np.ndarray
    y: np.ndarray


@functools.cache
def case(name: str) -> Case:
    model, rng = BUILDERS[name](), np.random.default_rng(1)

    def made_up(path, leaf):
        centre = "scale" in jax.tree_util.keystr(path)
        return (centre + rng.normal(0, 0.4, leaf.shape)).astype(leaf.dtype)

    shapes = jax.eval_shape(model.init, jax.random.key(0))
    params = jax.tree_util.tree_map_with_path(made_up, shapes)
    decoder = name.startswith("transformer")
    x, y = (TOKENS, np.roll(TOKENS, -1, 1)) if decoder else (IMAGES, CLASSES)
    return Case(model, quick(model.logits), params, x, y)


def changed(params, **factors: float):
    """The parameters whose path ends in a name, multiplied by a factor."""

    def change(path, leaf):
        text = re.sub(r"\W+", "_", jax.tree_util.keystr(path))
        found = [f for name, f in factors.items() if f"_{name}_" in text]
        return leaf * found[0] if found else leaf

    return jax.tree_util.tree_map_with_path(change, params)


# --- NumPy float64, from the equations --------------------------------------------


def plain(params) -> dict:
    params = nnx.to_pure_dict(params) if isinstance(params, nnx.State) else params
    return jax.tree.map(lambda p: np.asarray(p, np.float64), params)


def linear(x, p):
    return x @ p["kernel"] + p.get("bias", 0)


def layer_norm(x, p):
    if not p:
        return x
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
    return x * p["scale"] + p["bias"]


def mlp_reference(p, x):
    x = x.reshape(len(x), -1)
    for i, layer in p["hidden"].items():
        x = np.maximum(layer_norm(linear(x, layer), p.get("norms", {}).get(i)), 0)
    return linear(x, p["output"])


def attention(x, p):
    heads = []
    for columns in np.split(np.arange(x.shape[-1]), 2):
        q, k, v = (x @ p[n]["kernel"][:, columns] for n in ("query", "key", "value"))
        scores = q @ k.swapaxes(1, 2) / np.sqrt(len(columns))
        scores = np.where(np.tri(x.shape[1]) == 1, scores, -np.inf)
        weights = np.exp(scores)
        heads.append(weights / weights.sum(-1, keepdims=True) @ v)
    return linear(np.concatenate(heads, -1), p["out"])


def blocks(x, p):
    for b in p["blocks"].values():
        x = x + attention(layer_norm(x, b.get("norm1")), b["attention"])
        h = linear(layer_norm(x, b.get("norm2")), b["up"])
        h = h / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
        x = x + linear(h, b["down"])
    return layer_norm(x, p.get("norm"))


def transformer_reference(p, tokens):
    x = p["token"]["embedding"][tokens] + p["position"]["embedding"]
    head = p.get("head", {"kernel": p["token"]["embedding"].T})
    return linear(blocks(x, p), head)


@every_model
def test_logits_are_what_numpy_makes_of_the_equations(name):
    _, logits, params, x, _ = case(name)
    reference = globals()[name.split(",")[0] + "_reference"]
    expected = reference(plain(params), np.asarray(x))
    np.testing.assert_allclose(logits(params, x), expected, rtol=1e-4, atol=1e-4)


# --- Models of each library, and their states ---------------------------------------


class NnxNetwork(nnx.Module):
    def __init__(self, dropout, *, rngs):
        self.hidden = nnx.Linear(4, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, momentum=0.9, epsilon=1e-5, rngs=rngs)
        self.drops = nnx.List([nnx.Dropout(rate, rngs=rngs) for rate in dropout])

    def __call__(self, x):
        x = self.norm(self.hidden(x))
        return jnp.stack([drop(x) for drop in self.drops] or [x])


class LinenNetwork(linen.Module):
    dropout: tuple

    @linen.compact
    def __call__(self, x, train):
        x = linen.Dense(8, name="hidden")(x)
        x = linen.BatchNorm(not train, momentum=0.9, epsilon=1e-5, name="norm")(x)
        drops = [linen.Dropout(rate, deterministic=not train) for rate in self.dropout]
        return jnp.stack([drop(x) for drop in drops] or [x])


def from_library(name, dropout=()):
    if name == "nnx":
        return from_nnx(lambda rngs: NnxNetwork(dropout, rngs=rngs))
    return from_linen(LinenNetwork(dropout), jnp.zeros((1, 4)))


def begun(model):
    return model.init(KEY), model.state(KEY)


KEY = jax.random.key(0)
ROWS = RNG.normal(1, 2, size=(64, 4)).astype(np.float32)
libraries = pytest.mark.parametrize("name", ["nnx", "linen"])


@libraries
def test_batch_norm_takes_the_batch_in_training_and_the_state_in_evaluation(name):
    model = from_library(name)
    params, state = begun(model)
    hidden = linear(np.float64(ROWS), plain(params)["hidden"])
    mean, var = np.zeros(8), np.ones(8)
    for _ in range(2):
        before = jax.tree.map(np.array, state)
        logits, new = model.train(params, state, ROWS, KEY)
        jax.tree.map(np.testing.assert_array_equal, before, state)  # a pure function
        state = new
        expected = (hidden - hidden.mean(0)) / np.sqrt(hidden.var(0) + 1e-5)
        np.testing.assert_allclose(logits[0], expected, rtol=1e-3, atol=1e-5)
        mean = 0.9 * mean + 0.1 * hidden.mean(0)
        var = 0.9 * var + 0.1 * hidden.var(0)
    stored = jax.tree.leaves(state)
    np.testing.assert_allclose(stored, [mean, var], rtol=1e-4, atol=1e-6)
    expected = (hidden - mean) / np.sqrt(var + 1e-5)
    for rows in (slice(None), slice(1)):  # one row, too, without a batch of its own
        logits = model.logits(params, state, ROWS[rows])
        np.testing.assert_allclose(logits[0], expected[rows], rtol=1e-3, atol=1e-5)


@libraries
def test_dropout_hangs_on_the_key_and_is_off_in_evaluation(name):
    model = from_library(name, (0.25, 0.25))
    params, state = begun(model)

    def dropped(seed):
        whole = from_library(name).train(params, state, ROWS, KEY)[0][0]
        both = model.train(params, state, ROWS, jax.random.key(seed))[0]
        kept = np.asarray(both) != 0
        np.testing.assert_allclose(both, kept * whole / 0.75, rtol=1e-4, atol=1e-6)
        return kept

    one, again, other = dropped(0), dropped(0), dropped(1)
    np.testing.assert_array_equal(one, again)
    assert 0.56 < (one == other).mean() < 0.69  # 0.75² + 0.25²
    assert 0.54 < (one[0] == one[1]).mean() < 0.71  # each layer its own numbers
    assert 0.7 < one.mean() < 0.8
    still = model.logits(params, state, ROWS)
    np.testing.assert_array_equal(still[0], still[1])


def test_a_module_of_dropout_alone_has_a_mode_and_no_state():
    model = from_nnx(lambda rngs: nnx.Dropout(0.5, rngs=rngs))
    params, state = begun(model)
    assert jax.tree.leaves((params, state)) == []
    np.testing.assert_array_equal(model.logits(params, state, ROWS), ROWS)
    dropped, _ = model.train(params, state, ROWS, KEY)
    assert 0.3 < (np.asarray(dropped) == 0).mean() < 0.7


def test_a_module_of_parameters_alone_is_stateless():
    dense = from_linen(linen.Dense(3), jnp.zeros((1, 4)))
    for model in (dense, mlp((4, 8, 3))):
        assert isinstance(model, Model)
        stateful = with_state(model)
        params, state = begun(stateful)
        assert jax.tree.leaves(state) == []
        logits, state = stateful.train(params, state, ROWS, KEY)
        assert jax.tree.leaves(state) == []
        for other in (stateful.logits(params, (), ROWS), model.logits(params, ROWS)):
            np.testing.assert_array_equal(logits, other)
    assert with_state(stateful) is stateful
    params = dense.init(KEY)
    expected = ROWS @ params["kernel"] + params["bias"]
    np.testing.assert_allclose(dense.logits(params, ROWS), expected, rtol=1e-5)
    for name in ("nnx", "linen"):
        for dropout in ((), (0.5,)):
            assert isinstance(from_library(name, dropout), StatefulModel)


def make_equinox(key):
    return equinox.nn.MLP(4, 3, width_size=8, depth=1, key=key)


def test_an_equinox_module_of_one_example_takes_batches():
    model = from_equinox(make_equinox)
    one, same, other = (model.init(jax.random.key(seed)) for seed in (0, 0, 1))
    first, second = one.layers
    hidden = np.maximum(ROWS @ first.weight.T + first.bias, 0)
    expected = hidden @ second.weight.T + second.bias
    found = quick(model.logits)(one, ROWS)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, one, same)
    assert not np.array_equal(first.weight, other.layers[0].weight)
    assert {leaf.dtype for leaf in jax.tree.leaves(one)} == {np.dtype(np.float32)}
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), one)
    assert model.logits(half, ROWS.astype(jnp.bfloat16)).dtype == jnp.bfloat16


class Counting(equinox.Module):
    count: jax.Array


def test_an_equinox_module_with_whole_numbers_is_refused():
    message = "an array of int32 cannot be trained. Store it as a tuple in a field"
    with pytest.raises(TypeError, match=message):
        from_equinox(lambda key: Counting(jnp.arange(3)))


# --- Training ---------------------------------------------------------------------


RATES = jnp.array([0.0, 3e-3, 1e-2])


@functools.cache
def trained(name):
    """Twelve steps of AdamW at each rate: losses [rate, step], parameters."""
    model, _, params, x, y = case(name)

    def loss(params):
        logs = jax.nn.log_softmax(model.logits(params, x))
        return -jnp.mean(jnp.take_along_axis(logs, y[..., None], -1))

    def run(rate, params):
        mask = dx.masks.no_bias_or_norm
        optimizer = dx.adamw(rate, weight_decay=0.1, mask=mask)

        def step(carry, _):
            params, state = carry
            value, gradient = jax.value_and_grad(loss)(params)
            updates, state = optimizer.update(gradient, state, params)
            params = jax.tree.map(jnp.add, params, updates)
            return (params, state), value

        carry = (params, optimizer.init(params))
        (params, _), losses = jax.lax.scan(step, carry, length=12)
        return losses, params

    program = quick(jax.vmap(run, (0, None))).lower(RATES, params).compile()
    return program(RATES, params)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*NORMED, "transformer, no norm"])
def test_every_cell_trains_at_its_own_rate(name):
    losses, params = trained(name)
    np.testing.assert_allclose(losses[0], losses[0, 0], rtol=1e-5)
    assert np.all(losses[1:, -1] < losses[1:, 0])
    assert np.all(losses[2, -1] < losses[1, -1])
    for before, after in zip(
        *map(jax.tree.leaves, (case(name).params, params)), strict=True
    ):
        np.testing.assert_array_equal(before, after[0])
        assert not np.array_equal(before, after[1])


# --- Parameters -------------------------------------------------------------------


def sizes(model) -> list[tuple[int, ...]]:
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return [leaf.shape for leaf in jax.tree.leaves(shapes)]


def count(model) -> int:
    return sum(map(math.prod, sizes(model)))


def test_the_number_of_parameters():
    a, b, c = 36, 8, 3
    assert count(mlp((a, b, c))) == a * b + b + b * c + c
    assert count(mlp((a, b, c), norm=True)) == a * b + 3 * b + b * c + c
    d, length, v = 16, 7, 11
    layer = 12 * d * d + 5 * d
    same = {"width": d, "heads": 4, "layers": 3}
    bare = v * d + length * d + 3 * layer
    with_norm = bare + (3 * 2 + 1) * 2 * d
    assert count(transformer(v, length, **same)) == with_norm + d * v
    assert count(transformer(v, length, **same, norm=False)) == bare + d * v
    assert count(transformer(v, length, **same, tied=True)) == with_norm


@pytest.mark.parametrize("name", NORMED)
def test_the_key_alone_makes_the_parameters(name):
    keys = jax.vmap(jax.random.key)(np.array([0, 0, 1]))
    for leaf in jax.tree.leaves(quick(jax.vmap(BUILDERS[name]().init))(keys)):
        one, again, other = np.asarray(leaf)
        assert one.dtype == np.float32
        np.testing.assert_array_equal(one, again)
        assert np.array_equal(one, other) == (np.ptp(one) == 0)


@every_model
def test_kernels_and_embeddings_decay_and_nothing_else(name):
    rows = dx.masks.describe(dx.masks.no_bias_or_norm, case(name).params).rows
    for row in rows:
        decays = row.path.split("/")[-1] in ("kernel", "embedding")
        assert (row.multiplier, row.sure) == (float(decays), True), row
        assert decays == (len(row.shape) > 1), row
    tables = {row.path for row in rows if row.role == "embedding"}
    both = {"position/embedding", "token/embedding"}
    assert tables == (both if name.startswith("transformer") else set())
    norms = [row for row in rows if row.role == "norm_scale"]
    assert bool(norms) == (name not in ("mlp", "transformer, no norm"))


# --- What does and does not change the logits -------------------------------------


def test_the_transformer_does_not_look_ahead():
    _, logits, params, _, _ = case("transformer")
    tokens = np.tile(TOKENS[:1], (6, 1))
    other = (tokens + np.eye(6, dtype=np.int32)) % 5
    same = np.asarray(logits(params, tokens)) == np.asarray(logits(params, other))
    for place, rows in enumerate(same):
        assert np.all(rows[:place])
        assert not np.any(np.all(rows[place:], -1))
    short = logits(params, TOKENS[:, :3])
    full = logits(params, TOKENS)[:, :3]
    np.testing.assert_allclose(short, full, rtol=1e-4, atol=1e-5)


STREAM = ("position", "token", "out", "down")


@pytest.mark.parametrize(
    ("name", "parts", "invariant"),
    [
        ("mlp, norm", ("hidden",), True),
        ("mlp", ("hidden",), False),
        ("transformer", STREAM, True),
        ("transformer", ("down",), False),
        ("transformer, no norm", STREAM, False),
    ],
)
def test_a_norm_takes_the_scale_out_of_what_comes_before(name, parts, invariant):
    _, logits, params, x, _ = case(name)
    plain_logits = logits(params, x)
    scaled = logits(changed(params, **dict.fromkeys(parts, 3.0)), x)
    assert np.allclose(scaled, plain_logits, rtol=1e-3, atol=1e-3) == invariant


@every_model
def test_bfloat16_stays_bfloat16(name):
    model, logits, params, x, _ = case(name)
    half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
    inputs = x if x.dtype == np.int32 else x.astype(jnp.bfloat16)
    output = logits(half, inputs)
    assert output.dtype == jnp.bfloat16
    expected = logits(params, x)
    np.testing.assert_allclose(np.float32(output), expected, rtol=0.1, atol=0.3)
    gradient = jax.eval_shape(jax.grad(lambda p: model.logits(p, inputs).sum()), half)
    assert {g.dtype for g in jax.tree.leaves(gradient)} == {jnp.bfloat16.dtype}
    lowered = logits.lower(half, inputs)
    products = re.findall(r"dot_general.*: \((.*)\) ->", lowered.as_text())
    assert products
    assert all(types.count("bf16>") == 2 for types in products), products


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: transformer(5, 6, 9, 2, 1), "width 9 is not a multiple of 2 heads"),
        (
            lambda: case("transformer").logits(
                case("transformer").params, jnp.zeros((1, 7), int)
            ),
            "the input has 7 tokens, but the model has 6 positions",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_errors(build, message):
    with pytest.raises(ValueError, match=message):
        build()
