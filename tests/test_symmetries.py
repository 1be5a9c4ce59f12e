"""Scale symmetries: every model of the truth table, random networks, wrong use."""

import html

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import enable_x64
from symmetric import ROWS
from symmetric.checking import Probe
from symmetric.comparison import differences, same_span
from symmetric.random_networks import random_network

import decayax as dx
from decayax._symmetries.basis import sparse_basis


pytestmark = pytest.mark.relaxed("the models")
X = jax.random.normal(jax.random.key(7), (16, 6))


def draw(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed + sum(shape)), shape)


def rms_norm(x, eps=1e-5):
    return x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + eps)


def kinds(symmetries):
    return {leaf.path: leaf.kind for leaf in symmetries.leaves}


# --- known answers ----------------------------------------------------------------


# The degrees of the program are those of whole values. They do not know that flags
# choose a layer, that a batch axis keeps the slices of a parameter apart, that a batch
# norm reads each channel on its own, or that a constant is never chosen.
PROBES_ONLY = {"scan_with_flags", "ensemble", "mean_of_ensemble", "fused_qkv"}
PROBES_ONLY |= {"dense_net", "square_root"}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_known_answer(row):
    function, params = row.make()
    found = dx.scale_symmetries(function, params)
    paths = Probe(row, function, params).paths
    assert differences(row, paths, found.leaves, found.groups) == []
    assert found.dimension == row.dimension or row.optional
    assert not any("undecided" in note for note in found.notes)
    for leaf in found.leaves:
        assert np.isnan(leaf.deviation) == (leaf.kind in ("dead", "seen"))
        assert not leaf.deviation > 0.1
        assert leaf.kind != "invariant" or leaf.sensitivity < 1e-10
        if leaf.kind in ("invariant", "joint") and row.name not in PROBES_ONLY:
            assert leaf.confirmed == "probes and program"


@pytest.mark.slow
@hypothesis.given(st.integers(0, 2**31))
@hypothesis.settings(max_examples=15, deadline=None, derandomize=True)
def test_random_network(seed):
    row = random_network(seed)
    function, params = row.make()
    found = dx.scale_symmetries(function, params)
    paths = Probe(row, function, params).paths
    assert differences(row, paths, found.leaves, found.groups) == []
    assert not any("undecided" in note for note in found.notes)


# --- the answer depends on the function only ----------------------------------------


def two_layers(p):
    h = rms_norm(X.astype(p["a"].dtype) @ p["a"]) * p["gain"]
    return jax.nn.relu(h @ p["b"] + p["bias"]) @ p["c"]


TWO_LAYERS = {
    "a": draw(6, 8),
    "gain": jnp.ones(8),
    "b": draw(8, 5),
    "bias": jnp.zeros(5),
    "c": draw(5, 3),
}
GROUPS = (
    {"b": 1.0, "bias": 1.0, "c": -1.0},
    {"b": 1.0, "gain": -1.0},
)


def check_two_layers(found):
    assert kinds(found) == {
        "a": "invariant",
        "gain": "joint",
        "b": "joint",
        "bias": "joint",
        "c": "joint",
    }
    assert same_span(GROUPS, found.groups, list(TWO_LAYERS))
    assert found.dimension == 3


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_any_dtype(dtype):
    params = jax.tree.map(lambda x: x.astype(dtype), TWO_LAYERS)
    check_two_layers(dx.scale_symmetries(two_layers, params))


def test_strict_promotion_of_the_caller():
    def function(p):
        h = X @ p["w"]
        size = jnp.sqrt(jnp.mean(h**2, -1, keepdims=True) + jnp.float32(1e-6))
        return jax.nn.relu(h / size) @ p["head"]

    params = {"w": draw(6, 4), "head": draw(4, 3)}
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        found = dx.scale_symmetries(function, params)
    assert kinds(found) == {"head": "seen", "w": "invariant"}


def test_x64_of_the_caller():
    with enable_x64():
        params = jax.tree.map(lambda x: np.asarray(x, np.float64), TWO_LAYERS)
        check_two_layers(dx.scale_symmetries(two_layers, params))
        assert jnp.ones(()).dtype == jnp.float64
    assert jnp.ones(()).dtype == jnp.float32


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_any_seed_and_size_of_the_parameters(seed):
    params = jax.tree.map(lambda x: 30.0 ** (seed - 2) * x, TWO_LAYERS)
    check_two_layers(dx.scale_symmetries(two_layers, params, seed=seed))


def test_shapes_instead_of_values():
    shapes = jax.eval_shape(lambda: TWO_LAYERS)
    check_two_layers(dx.scale_symmetries(two_layers, shapes))


def test_all_zeros():
    params = jax.tree.map(jnp.zeros_like, TWO_LAYERS)
    check_two_layers(dx.scale_symmetries(two_layers, params))


@pytest.mark.parametrize(
    "wrap",
    [
        jax.jit,
        jax.checkpoint,
        lambda f: lambda p: jnp.mean(f(p)[:, 0] ** 2),
        lambda f: lambda p: {"logits": f(p), "class": jnp.argmax(f(p), -1)},
        lambda f: lambda p: jax.lax.cond(p["a"][0, 0] > 0, f, f, p),
        lambda f: lambda p: jax.lax.map(lambda _: f(p), jnp.arange(2)),
        lambda f: lambda p: jax.vmap(lambda _: f(p))(jnp.arange(2)),
        lambda f: lambda p: jax.lax.stop_gradient(f(p)),
    ],
    ids=["jit", "checkpoint", "loss", "dict", "cond", "map", "vmap", "stop_gradient"],
)
def test_any_form_of_the_function(wrap):
    check_two_layers(dx.scale_symmetries(wrap(two_layers), TWO_LAYERS))


def test_custom_derivatives_are_ignored():
    @jax.custom_vjp
    def scaled(x):
        return 2.0 * x

    # A wrong rule: with it, the function would not depend on anything.
    scaled.defvjp(lambda x: (scaled(x), None), lambda _, g: (jnp.zeros_like(g),))
    found = dx.scale_symmetries(lambda p: scaled(two_layers(p)), TWO_LAYERS)
    check_two_layers(found)


@pytest.mark.parametrize("name", ["set", "add", "min", "max"])
def test_scatters(name):
    segments = jnp.array([0, 2, 2, 1, 0, 3, 3, 1, 2, 0, 0, 1, 2, 3, 3, 1])

    def function(p):
        place = jnp.zeros((4, 5)).at[segments]
        return getattr(place, name)(X @ p["a"]) @ p["b"]

    found = dx.scale_symmetries(function, {"a": draw(6, 5), "b": draw(5, 2)})
    assert found.groups == ({"a": 1.0, "b": -1.0},)
    assert found.leaves[0].confirmed == "probes and program"
    assert not any("not in float64" in note for note in found.notes)


def test_a_narrow_domain():
    """Most parameters that are far away give NaN."""

    def function(p):
        return jnp.sqrt(1.1 - p["w"]) * rms_norm(X @ p["v"])

    found = dx.scale_symmetries(function, {"w": jnp.ones(40), "v": draw(6, 40)})
    assert kinds(found) == {"v": "invariant", "w": "seen"}


def test_parameters_where_nothing_matters_are_not_counted():
    """With the gate closed, every group is a symmetry."""

    def function(p):
        gate = jax.nn.relu(p["gate"] - 1.4)
        return gate * sum(jax.nn.gelu(X @ p[name]) for name in "abcde")

    params = {name: draw(6, 3, seed=i) for i, name in enumerate("abcde")}
    found = dx.scale_symmetries(function, params | {"gate": jnp.float32(1.0)})
    assert set(kinds(found).values()) == {"seen"}
    assert found.groups == ()


def test_a_large_output_does_not_hide_a_small_one():
    def function(p):
        h = X @ p["w"]
        return 1e15 * rms_norm(h), jax.nn.gelu(h)

    found = dx.scale_symmetries(function, {"w": draw(6, 3)})
    assert kinds(found) == {"w": "seen"}
    assert not any("undecided" in note for note in found.notes)


def test_other_leaves_of_the_tree_have_no_scale():
    params = {
        "a": draw(6, 3),
        "count": jnp.zeros((), jnp.int32),
        "key": jax.random.key(0),
        "none": None,
        "masked": optax.MaskedNode(),
    }
    found = dx.scale_symmetries(lambda p: rms_norm(X @ p["a"]), params)
    assert kinds(found) == {"a": "invariant"}


def test_one_array_as_params():
    (leaf,) = dx.scale_symmetries(lambda w: rms_norm(X @ w), draw(6, 3)).leaves
    assert (leaf.path, leaf.kind, leaf.axes) == ("(root)", "invariant", ())


# --- what is nearly a symmetry -------------------------------------------------------


@pytest.mark.parametrize("eps", [0.0, 1e-12, 1e-8, 1e-5, 1e-3])
@pytest.mark.parametrize(
    "norm",
    [
        lambda x, eps: x / jnp.sqrt(jnp.sum(x**2, -1, keepdims=True) + eps),
        lambda x, eps: x / (jnp.linalg.norm(x, axis=-1, keepdims=True) + eps),
        lambda x, eps: x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), eps),
        lambda x, eps: x / jnp.clip(jnp.linalg.norm(x, axis=-1, keepdims=True), eps),
        lambda x, eps: x * (jnp.sum(x**2, -1, keepdims=True) + eps) ** -0.5,
        lambda x, eps: (
            x
            / jnp.sqrt(
                jnp.sum(x**2, -1, keepdims=True) + jnp.full((16, 1), eps, x.dtype)
            )
        ),
    ],
    ids=["root", "sum", "max", "clip", "power", "array"],
)
def test_an_epsilon_is_no_size(norm, eps):
    (leaf,) = dx.scale_symmetries(lambda w: norm(X @ w, eps), draw(6, 3)).leaves
    assert leaf.kind == "invariant"
    assert leaf.deviation <= 10 * eps + 1e-12
    assert leaf.confirmed == "probes and program"


def test_deviation_is_that_of_the_function_with_its_epsilon():
    tiny = {"w": 1e-3 * draw(6, 3)}
    (leaf,) = dx.scale_symmetries(lambda p: rms_norm(X @ p["w"], 1e-8), tiny).leaves
    assert leaf.kind == "invariant"
    assert 1e-4 < leaf.deviation < 1e-1


@pytest.mark.parametrize(
    "function",
    [
        lambda w: 50.0 * jnp.tanh(X @ w / 50.0) / jnp.linalg.norm(w),
        lambda w: jax.nn.gelu(X @ w) / jnp.linalg.norm(w),
        lambda w: jax.nn.silu(1e3 * X @ w) / jnp.linalg.norm(w),
        lambda w: jax.nn.relu(X @ w - 0.01) / jnp.linalg.norm(w),
        lambda w: (X @ w) / jnp.sqrt(jnp.sum(w**2) + 0.01),
        lambda w: (X @ w) / jnp.linalg.norm(w) ** 0.99,
        lambda w: jnp.concatenate(
            [X @ w / jnp.linalg.norm(w), 1e-4 * w.ravel()[None, :3]]
        ),
    ],
    ids=["softcap", "gelu", "silu", "shift", "constant", "power", "small_term"],
)
def test_no_symmetry_is_invented(function):
    found = dx.scale_symmetries(function, 0.1 * draw(6, 3))
    assert kinds(found) == {"(root)": "seen"}
    assert not any("undecided" in note for note in found.notes)


def test_a_small_sensitivity_is_said():
    def capped(w):
        return 1e4 * jnp.tanh(X @ w / 1e4) / jnp.linalg.norm(w)

    found = dx.scale_symmetries(capped, draw(6, 3))
    assert kinds(found) == {"(root)": "seen"}
    assert any("nearly invariant: (root)" in note for note in found.notes)


def test_an_epsilon_that_is_larger_than_the_norm():
    tiny = {"w": 1e-5 * draw(6, 3)}
    found = dx.scale_symmetries(lambda p: rms_norm(X @ p["w"], 1e-3), tiny)
    assert kinds(found) == {"w": "invariant"}
    assert found.leaves[0].deviation > 0.5
    assert any("the ε of a norm matters for w" in note for note in found.notes)


@pytest.mark.parametrize(
    "function",
    [
        lambda h: jnp.clip(h, 1e-3),
        lambda h: jnp.where(h > 0, h, 1e-3),
        jax.jit(lambda h: h + 1e-3),
        lambda h: jax.lax.scan(lambda c, _: (0.5 * c + 1e-3, None), h, length=3)[0],
        lambda h: jnp.zeros((16, 8)).at[:, :3].set(h).at[:, 3:].set(1e-3)[:, :4],
        lambda h: jnp.take(h, jnp.array([0, 1, 9]), 1, mode="fill", fill_value=1.0),
    ],
    ids=["clip", "where", "jit", "scan", "set", "fill"],
)
def test_a_small_constant_in_a_numerator(function):
    found = dx.scale_symmetries(
        lambda p: (
            function(X @ p["w"])
            @ jnp.ones((4, 2))[: function(X @ p["w"]).shape[1]]
            * p["v"]
        ),
        {"w": draw(6, 3), "v": draw(2)},
    )
    assert kinds(found) == {"v": "seen", "w": "seen"}
    assert "no symmetry either" in found.notes[-1]


@pytest.mark.parametrize(
    "divisor",
    [
        lambda v: jnp.sqrt(jnp.maximum(v + 1e-6, 0.0)),
        lambda v: 2 * (jnp.sqrt(v) + 1e-6),
        lambda v: jnp.sqrt(v) + 1e-6 + 1e-8,
        lambda v: jnp.sqrt((v + 1e-6) / 12),
        jax.jit(lambda v: jnp.sqrt(v + 1e-6)),
        lambda v: jax.jit(lambda v: v + 1e-6)(v) ** 0.5,
    ],
)
def test_an_epsilon_behind_other_operations(divisor):
    def function(w):
        h = X @ w
        return h / divisor(jnp.sum(h**2, -1, keepdims=True))

    (leaf,) = dx.scale_symmetries(function, draw(6, 3)).leaves
    assert (leaf.kind, leaf.confirmed) == ("invariant", "probes and program")


@pytest.mark.parametrize(
    "function",
    [
        lambda p: X @ p["w"] + jax.nn.relu(p["p"] - 100.0),
        lambda p: jnp.minimum(X @ p["w"], jnp.abs(p["p"]) * 1e5),
    ],
    ids=["threshold", "cap"],
)
def test_what_matters_far_away_is_not_dead(function):
    found = dx.scale_symmetries(function, {"w": draw(6, 3), "p": jnp.ones(3)})
    assert kinds(found)["p"] == "seen"


def test_a_small_layer_scale_is_not_dead():
    def function(p):
        h = X + p["scale"] * (jax.nn.gelu(X @ p["up"]) @ p["down"])
        return rms_norm(h) @ p["head"]

    params = {"up": 0.01 * draw(6, 8), "down": 0.01 * draw(8, 6), "head": draw(6, 3)}
    found = dx.scale_symmetries(function, params | {"scale": jnp.full(6, 1e-6)})
    expected = {"down": "joint", "head": "seen", "scale": "joint", "up": "seen"}
    assert kinds(found) == expected


@pytest.mark.parametrize("sign", [1, -1])
def test_a_small_constant_that_is_no_epsilon(sign):
    function = lambda p: jax.nn.relu(1e-3 * X @ p["w"] + sign * 5e-4)  # noqa: E731
    found = dx.scale_symmetries(
        lambda p: function(p) @ p["v"], {"w": draw(6, 3), "v": draw(3, 2)}
    )
    assert kinds(found) == {"v": "seen", "w": "seen"}


@pytest.mark.parametrize(
    "function",
    [
        lambda w: jnp.clip(1e-4 * X @ w, 0.0, 6.0) / jnp.linalg.norm(w),
        lambda w: jnp.tanh(1e-6 * X @ w) / jnp.linalg.norm(w),
        lambda w: jax.nn.gelu(1e4 * X @ w) / jnp.linalg.norm(w),
        lambda w: jax.nn.softmax(1e5 * X @ w),
        lambda w: w / jnp.maximum(jnp.linalg.norm(w), 1e4) * 1e4,
        lambda w: w * jnp.where(jnp.linalg.norm(w) > 30.0, 1.0, 1 / jnp.linalg.norm(w)),
    ],
    ids=["clip", "tanh", "gelu", "softmax", "max_norm", "branch"],
)
def test_a_symmetry_near_the_parameters_only(function):
    """A large factor shows it."""
    found = dx.scale_symmetries(function, draw(6, 3))
    assert kinds(found) == {"(root)": "seen"}


@pytest.mark.parametrize(
    "function",
    [
        lambda w: X @ jnp.sign(w),
        lambda w: X[jnp.argsort(jnp.abs(X @ w)[:, 0])],
        lambda w: jnp.where(X @ w > 0, X[:, :3], 0.0),
        lambda w: jax.nn.one_hot(jnp.argmax(X @ w, -1), 3),
    ],
    ids=["sign", "order", "gate", "argmax"],
)
@pytest.mark.parametrize("size", [1.0, -1e-3])
def test_only_signs_or_the_order_matter(function, size):
    found = dx.scale_symmetries(function, size * jnp.abs(draw(6, 3)))
    assert kinds(found) == {"(root)": "invariant"}


def test_one_leaf_that_is_dead():
    """Its gradient is a rounding error, and there is no other to compare it with."""

    def shifted(b):
        scores = X[:, :4] @ (X[:, 2:] + b).T
        return jax.nn.softmax(scores)

    (leaf,) = dx.scale_symmetries(shifted, draw(4)).leaves
    assert leaf.kind == "dead"


def test_a_saturated_softmax():
    """Its derivative is exactly 0, but not for parameters of a usual size."""

    def function(p):
        return jax.nn.softmax((X @ p["q"]) @ (X @ p["k"]).T) @ X

    found = dx.scale_symmetries(
        function, {"q": 1e3 * draw(6, 4), "k": 1e3 * draw(6, 4)}
    )
    assert found.groups == ({"k": 1.0, "q": -1.0},)
    assert kinds(found) == {"q": "joint", "k": "joint"}


def test_the_sign_of_one_number_is_not_dead():
    found = dx.scale_symmetries(lambda a: X * a / jnp.abs(a), jnp.float32(2.0))
    assert kinds(found) == {"(root)": "invariant"}


def test_rounding_is_not_dead():
    found = dx.scale_symmetries(lambda p: X @ jnp.round(p["w"]), {"w": 5 * draw(6, 3)})
    assert kinds(found) == {"w": "seen"}
    assert any("undecided, counted as seen: w" in note for note in found.notes)


def test_infinite_outputs():
    """Masked logits."""
    mask = jnp.arange(3) < jnp.arange(16)[:, None]

    def function(p):
        return jnp.where(mask, rms_norm(X @ p["w"]) @ p["head"], -jnp.inf)

    found = dx.scale_symmetries(function, {"w": draw(6, 4), "head": draw(4, 3)})
    assert kinds(found) == {"head": "seen", "w": "invariant"}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_exponent_that_its_dtype_rounds(dtype):
    def function(w):
        h = X.astype(dtype) @ w
        return h * jnp.sum(jnp.abs(h) ** 3) ** jnp.asarray(-1 / 3, dtype)

    (leaf,) = dx.scale_symmetries(function, draw(6, 3).astype(dtype)).leaves
    assert (leaf.kind, leaf.confirmed) == ("invariant", "probes and program")


@pytest.mark.parametrize(
    "eps",
    [
        lambda: jnp.float32(1e-5) * 6,
        lambda: jnp.asarray(1e-3) ** 2,
        lambda: 1e-6 * jnp.ones((16, 1)),
        lambda: jnp.exp(jnp.float32(-14.0)),
        lambda: jnp.negative(jnp.float32(-1e-6)),
    ],
    ids=["times", "square", "ones", "exp", "minus"],
)
def test_an_epsilon_that_is_calculated(eps):
    def function(w):
        h = X @ w
        return h / jnp.sqrt(jnp.mean(h**2, -1, keepdims=True) + eps())

    (leaf,) = dx.scale_symmetries(function, draw(6, 3)).leaves
    assert (leaf.kind, leaf.confirmed) == ("invariant", "probes and program")


@pytest.mark.parametrize(
    "function",
    [
        lambda w: jnp.linalg.solve(w @ w.T, X.T) * jnp.sum(w**2),
        lambda w: jnp.linalg.inv(w) * jnp.linalg.norm(w),
        lambda w: jax.scipy.sparse.linalg.cg(w @ w.T, X[0])[0] * jnp.sum(w**2),
        lambda w: (
            jax.lax.reduce(w, 0.0, lambda a, b: a + b, (0, 1)) / jnp.linalg.norm(w)
        ),
        lambda w: w / jnp.linalg.svd(w, compute_uv=False)[0],
        lambda w: jnp.linalg.qr(w)[0],
    ],
    ids=["solve", "inv", "cg", "reduce", "svd", "qr"],
)
def test_linear_algebra(function):
    found = dx.scale_symmetries(function, jnp.eye(6) + 0.1 * draw(6, 6))
    assert kinds(found) == {"(root)": "invariant"}
    assert not any("not in float64" in note for note in found.notes)


def test_spectral_norm_with_a_loop():
    """The power iteration is under stop_gradient, so the loop needs no derivative."""

    def function(p):
        w = jax.lax.stop_gradient(p["w"])

        def step(carry):
            i, v = carry
            v = w.T @ (w @ v)
            return i + 1, v / jnp.linalg.norm(v)

        _, v = jax.lax.while_loop(lambda c: c[0] < 200, step, (0, jnp.ones(4) / 2))
        return X @ p["w"] / jnp.linalg.norm(p["w"] @ v) @ p["head"]

    found = dx.scale_symmetries(function, {"w": draw(6, 4), "head": draw(4, 3)})
    assert kinds(found) == {"head": "seen", "w": "invariant"}


def test_a_solver_with_its_own_derivative():
    """A fixed point: the loop has no derivative, but the custom rule has one."""

    @jax.custom_vjp
    def root(a):  # of x² = a, by Newton's method
        def step(carry):
            i, x = carry
            return i + 1, (x + a / x) / 2

        return jax.lax.while_loop(lambda c: c[0] < 30, step, (0, jnp.ones_like(a)))[1]

    def forward(a):
        x = root(a)
        return x, x

    root.defvjp(forward, lambda x, g: (g / (2 * x),))

    def function(p):
        h = X @ p["w"]
        return h / root(jnp.sum(h**2, -1, keepdims=True)) @ p["head"]

    found = dx.scale_symmetries(function, {"w": draw(6, 4), "head": draw(4, 3)})
    assert kinds(found) == {"head": "seen", "w": "invariant"}
    assert any("not in float64: custom_vjp_call" in note for note in found.notes)


@pytest.mark.skipif(not hasattr(jax, "shard_map"), reason="JAX before 0.7")
def test_shard_map():
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("x",))
    rows = jax.sharding.PartitionSpec("x")

    def function(w):
        def inner(x):
            return jax.lax.psum(jnp.sum(rms_norm(x @ w)), "x") * rms_norm(x @ w)

        return jax.shard_map(inner, mesh=mesh, in_specs=rows, out_specs=rows)(X)

    found = dx.scale_symmetries(function, draw(6, 4))
    assert kinds(found) == {"(root)": "invariant"}
    assert not any("not in float64" in note for note in found.notes)


# --- axes ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("summed", "expected"),
    [(0, (1, 2)), (1, (0, 2)), ((0, 1), (2,)), ((1, 2), (0,)), (None, ())],
    ids=str,
)
def test_axes_of_a_normalized_weight(summed, expected):
    """Each vector along the summed axes has its own norm."""

    def function(w):
        return w / jnp.sqrt(jnp.sum(w**2, summed, keepdims=True))

    (leaf,) = dx.scale_symmetries(function, draw(3, 4, 5)).leaves
    assert (leaf.kind, leaf.axes) == ("invariant", expected)


def test_single_weights_are_no_slices():
    """Only their signs would matter."""
    (leaf,) = dx.scale_symmetries(
        lambda w: X @ w / jnp.linalg.norm(w), draw(6, 1)
    ).leaves
    assert (leaf.kind, leaf.axes) == ("invariant", ())


@pytest.mark.slow
def test_axes_that_hold_only_one_at_a_time():
    """Rows or columns may be scaled, but not single elements."""

    def sinkhorn(w):
        w = jnp.abs(w)
        for _ in range(60):
            w = w / jnp.sum(w, 0, keepdims=True)
            w = w / jnp.sum(w, 1, keepdims=True)
        return w

    (leaf,) = dx.scale_symmetries(sinkhorn, 1.0 + draw(3, 4) ** 2).leaves
    assert (leaf.kind, leaf.axes) == ("invariant", (1,))


# --- groups --------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_a_sparse_basis_of_many_groups(seed):
    """40 groups that overlap, in a random basis with rounding errors."""
    random = np.random.default_rng(seed)
    groups = np.zeros((40, 90))
    for group in groups:
        group[random.choice(90, 3, replace=False)] = random.choice([-1, 1, 2], 3)
    space = np.linalg.qr(random.standard_normal((40, 40)))[0] @ groups
    found = sparse_basis(space + 1e-7 * random.standard_normal(space.shape))
    assert np.all(found == np.round(found))
    assert np.abs(found).max() <= 24
    assert np.linalg.matrix_rank(np.vstack([found, groups]), tol=1e-6) == 40
    assert np.count_nonzero(found) <= np.count_nonzero(groups)


# --- stacks --------------------------------------------------------------------------


STACK = {"w": draw(3, 6, 6), "head": draw(6, 2)}


def scanned(p):
    h, _ = jax.lax.scan(lambda h, w: (rms_norm(h @ w), None), X, p["w"])
    return h @ p["head"]


def unrolled(p):
    h = X
    for i in range(3):
        h = rms_norm(h @ p["w"][i])
    return h @ p["head"]


def looped(p):
    body = lambda i, h: rms_norm(h @ p["w"][i])  # noqa: E731
    return jax.lax.fori_loop(0, 3, body, X) @ p["head"]


def split(p):
    h = X
    for w in jnp.split(p["w"], 3):
        h = rms_norm(h @ w[0])
    return h @ p["head"]


@pytest.mark.parametrize("function", [scanned, unrolled, looped, split])
def test_slices_of_a_stack(function):
    found = dx.scale_symmetries(function, STACK)
    assert kinds(found) == {"head": "seen"} | dict.fromkeys(
        ["w[0]", "w[1]", "w[2]"], "invariant"
    )
    leaf = found.leaves[2]
    assert (leaf.parameter, leaf.slice, leaf.shape) == ("w", (0, 1), (6, 6))
    assert leaf.confirmed == "probes and program"


def test_a_stack_in_reverse():
    """w[0] is the last layer: no norm follows it."""

    def function(p):
        layer = lambda h, w: (rms_norm(h) @ w, None)  # noqa: E731
        return jax.lax.scan(layer, X, p["w"], reverse=True)[0]

    found = dx.scale_symmetries(function, {"w": draw(3, 6, 6)})
    assert kinds(found) == {"w[0]": "seen", "w[1]": "invariant", "w[2]": "invariant"}
    assert found.leaves[1].confirmed == "probes and program"


def test_one_slice_is_no_stack():
    """A class token reads the first row of the positions."""
    found = dx.scale_symmetries(
        lambda p: rms_norm(X[:5, :4] @ p["position"][:, :4] + p["position"][0, :4]),
        {"position": draw(4, 4)},
    )
    assert kinds(found) == {"position": "invariant"}


def test_biases_of_a_stack_in_a_subtree():
    """The program slices the biases behind a reshape, which hides the axis."""

    def function(p):
        biases = p["layers"]["bias"].reshape(-1)
        h = X
        for i in range(3):
            h = rms_norm(h @ p["layers"]["kernel"][i]) + biases[6 * i : 6 * i + 6]
        return h @ p["head"]

    params = {
        "layers": {"kernel": draw(3, 6, 6), "bias": draw(3, 6)},
        "head": draw(6, 2),
    }
    found = dx.scale_symmetries(function, params)
    names = [f"layers/{name}[{i}]" for name in ("bias", "kernel") for i in range(3)]
    assert [leaf.path for leaf in found.leaves] == ["head", *names]


def test_stacked_none_joins_the_slices():
    found = dx.scale_symmetries(scanned, STACK, stacked={"w": None})
    assert kinds(found) == {"w": "invariant", "head": "seen"}


def test_stacked_axis_of_the_user():
    """Of (5, 2, 4), one matrix is divided by its norm, and the other is not."""

    def function(p):
        norms = jnp.linalg.norm(p["qk"], axis=(0, 2), keepdims=True)
        return p["qk"] / jnp.where(jnp.array([[[True], [False]]]), norms, 1.0)

    params = {"qk": draw(5, 2, 4)}
    assert kinds(dx.scale_symmetries(function, params)) == {"qk": "seen"}
    found = dx.scale_symmetries(function, params, stacked={"q.*": -2})
    assert kinds(found) == {"qk[:,0]": "invariant", "qk[:,1]": "seen"}
    assert [leaf.slice for leaf in found.leaves] == [(1, 0), (1, 1)]


# --- carrying over -------------------------------------------------------------------


def transformer(width):
    keys = iter(jax.random.split(jax.random.key(width), 20))

    def matrix(*shape):
        return jax.random.normal(next(keys), shape) / shape[0] ** 0.5

    block = {
        "q": matrix(width, width),
        "k": matrix(width, width),
        "v": matrix(width, width),
        "o": matrix(width, width),
        "up": matrix(width, 3 * width),
        "down": matrix(3 * width, width),
    }
    params = {"embedding": matrix(11, width), "block": block, "head": matrix(width, 11)}
    tokens = jax.random.randint(jax.random.key(0), (3, 5), 0, 11)

    def function(p):
        x, b = p["embedding"][tokens], p["block"]
        h = rms_norm(x)
        scores = (h @ b["q"]) @ (h @ b["k"]).mT
        x = x + jax.nn.softmax(scores) @ (h @ b["v"]) @ b["o"]
        x = x + jax.nn.gelu(rms_norm(x) @ b["up"]) @ b["down"]
        return rms_norm(x) @ p["head"]

    return function, params


@pytest.mark.slow
def test_a_small_and_a_larger_configuration_give_the_same_answer():
    (small, few), (large, many) = transformer(4), transformer(24)
    found = dx.scale_symmetries(small, few)
    other = dx.scale_symmetries(large, many)
    carried = found.carry_over(many)
    assert [leaf.shape for leaf in carried.leaves] == [
        leaf.shape for leaf in other.leaves
    ]
    assert kinds(carried) == kinds(other)
    assert [leaf.axes for leaf in carried.leaves] == [x.axes for x in other.leaves]
    assert carried.groups == other.groups
    assert {"embedding": 1.0, "block/o": 1.0, "block/down": 1.0} in [
        dict(sorted(g.items(), reverse=True)) for g in found.groups
    ]


def test_carry_over_refuses_another_depth():
    found = dx.scale_symmetries(scanned, STACK)
    with pytest.raises(ValueError, match="carry_over: w is a stack of 4 on axis 0"):
        found.carry_over(STACK | {"w": draw(4, 6, 6)})
    with pytest.raises(ValueError, match="carry_over: .*nothing about more"):
        found.carry_over(STACK | {"more": draw(4)})
    with pytest.raises(ValueError, match="carry_over: the parameters lack head"):
        found.carry_over({"w": STACK["w"]})


# --- the table -----------------------------------------------------------------------


def test_table():
    found = dx.scale_symmetries(two_layers, TWO_LAYERS)
    header, first, *_ = str(found).splitlines()
    assert header.split() == [
        "parameter",
        "shape",
        "kind",
        "axes",
        "groups",
        "deviation",
        "cause",
    ]
    assert first.split()[:4] == ["a", "6×8", "invariant", "whole"]
    assert "mul in test_symmetries.py:" in first
    assert ": b +1, bias +1, c -1\n" in str(found)
    assert "13 vector-Jacobian products" in str(found)
    page = found._repr_html_()
    assert page.count("<tr>") == 6
    assert html.escape(": b +1, bias +1, c -1") in page


# --- wrong use -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "params", "error", "text"),
    [
        (lambda p: jnp.argmax(p), draw(6), TypeError, "must return floats, got int32"),
        (lambda p: None, draw(6), TypeError, "must return floats, got nothing"),
        (3.0, draw(6), TypeError, "function must be a function of the parameters"),
        (jnp.sum, jnp.arange(3), ValueError, "params must have a leaf of floats"),
        (jnp.sum, {}, ValueError, "params must have a leaf of floats"),
        (lambda p: p["w"], {"w": draw(6), "f": jax.nn.relu}, TypeError, "not an array"),
        (lambda p: jnp.log(-(p**2)), draw(6), ValueError, "not finite"),
        (jnp.sum, jnp.zeros(5_000_001), ValueError, "carry_over"),
        (
            lambda p: p["a/b"] + p["a"]["b"],
            {"a/b": draw(6), "a": {"b": draw(6)}},
            ValueError,
            "two parameters have the path a/b",
        ),
        (
            lambda p: p["a"][0] @ p["a"][1] + p["a[0]"],
            {"a": draw(2, 6, 6), "a[0]": draw(6)},
            ValueError,
            r"two parameters have the path a\[0\]",
        ),
    ],
    ids=[
        "int",
        "nothing",
        "number",
        "ints",
        "empty",
        "callable",
        "nan",
        "large",
        "twice",
        "slice",
    ],
)
def test_wrong_use(function, params, error, text):
    with pytest.raises(error, match=rf"scale_symmetries: .*{text}"):
        dx.scale_symmetries(function, params)


def test_under_jit():
    @jax.jit
    def function(p):
        return dx.scale_symmetries(two_layers, p)

    with pytest.raises(TypeError, match="scale_symmetries: a is traced"):
        function(TWO_LAYERS)


@pytest.mark.parametrize(
    ("keywords", "error", "text"),
    [
        ({"stacked": {"v": 0}}, ValueError, "no parameter .* 'v'"),
        ({"stacked": {"w": 3}}, ValueError, "the axis 3"),
        ({"stacked": {"*": 0}}, ValueError, "not a regular expression"),
        ({"stacked": {"w": 0, "w.*": 1}}, ValueError, "two patterns .* match w"),
        ({"stacked": {"w": True}}, TypeError, "an integer or None, got True"),
        ({"stacked": ["w"]}, TypeError, "a dict pattern -> axis"),
        ({"seed": -1}, TypeError, "seed must be an integer >= 0"),
        ({"seed": 1.5}, TypeError, "seed must be an integer >= 0"),
        ({"max_weights": "1"}, TypeError, "max_weights must be an integer >= 0"),
    ],
)
def test_wrong_keywords(keywords, error, text):
    with pytest.raises(error, match=f"scale_symmetries: .*{text}"):
        dx.scale_symmetries(scanned, STACK, **keywords)


def test_errors_of_the_function_say_where():
    def function(p):
        return float(jnp.sum(p))

    with pytest.raises(jax.errors.ConcretizationTypeError) as info:
        dx.scale_symmetries(function, draw(6))
    assert "scale_symmetries: raised while" in "".join(info.value.__notes__)


def test_a_loop_without_a_bound_says_what_to_do():
    def function(w):
        body = lambda c: (c[0] + 1, c[1] @ w)  # noqa: E731
        return jax.lax.while_loop(lambda c: c[0] < 3, body, (0, X))[1]

    with pytest.raises(ValueError, match="Reverse-mode") as info:
        dx.scale_symmetries(function, draw(6, 6))
    assert "scale_symmetries" in "".join(info.value.__notes__)


def test_random_numbers_are_said():
    def function(p):
        kept = jax.random.bernoulli(jax.random.key(0), 0.5, (16, 5))
        return jnp.where(kept, X @ p["a"], 0.0) @ p["b"]

    found = dx.scale_symmetries(function, {"a": draw(6, 5), "b": draw(5, 2)})
    assert found.groups == ({"a": 1.0, "b": -1.0},)
    assert any("draws random numbers" in note for note in found.notes)
    assert not any("not in float64" in note for note in found.notes)


def test_nothing_is_changed():
    before = jax.tree.map(np.array, TWO_LAYERS)
    one, two = (dx.scale_symmetries(two_layers, TWO_LAYERS) for _ in range(2))
    assert str(one) == str(two)
    jax.tree.map(np.testing.assert_array_equal, before, TWO_LAYERS)
