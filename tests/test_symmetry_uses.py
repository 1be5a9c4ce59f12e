"""What follows from the scale symmetries of a model: balance, masks, statistics, audit.

The symmetries are made by hand here: these functions read `.leaves` and `.groups` only.
"""

import dataclasses
import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

import decayax as dx


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One entry of `.leaves`, as the interface of the symmetries says."""

    path: str
    parameter: str
    slice: tuple[int, int] | None
    kind: str
    axes: tuple[int, ...]
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class ScaleSymmetries:
    leaves: tuple[Leaf, ...]
    groups: tuple[dict[str, float], ...] = ()
    dimension: int = 0

    def __repr__(self):
        return "a table\nof several lines"


def symmetries(params, kinds, groups=()):
    """By hand: path -> a kind, or (axis, kinds of the slices along it)."""
    leaves = []
    for keys, leaf in jax.tree_util.tree_leaves_with_path(params):
        path = jax.tree_util.keystr(keys, simple=True, separator="/")
        path = path.removesuffix("/value")  # of an nnx.Param
        shape, kind = np.shape(leaf), kinds[path]
        if isinstance(kind, str):
            leaves.append(Leaf(path, path, None, kind, (), shape))
            continue
        axis, of_slices = kind
        rest = shape[:axis] + shape[axis + 1 :]
        for index, kind in enumerate(of_slices):
            name = f"{path}[{':,' * axis}{index}]"
            leaves.append(Leaf(name, path, (axis, index), kind, (), rest))
    return ScaleSymmetries(tuple(leaves), tuple(groups))


def normal(*shape, scale=1.0, dtype=np.float64, seed=0):
    seed = [seed, *shape, int(1000 * scale)]
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(dtype)


def squared_norms(params):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.sum(
            np.abs(np.asarray(x, np.complex128)) ** 2
        )
        for path, x in jax.tree_util.tree_leaves_with_path(params)
    }


# --- balance ----------------------------------------------------------------------


def relu_net(params, x):
    for kernel in params.values():
        x = np.maximum(x @ kernel, 0.0)
    return x


def test_a_pair_gets_equal_norms_and_the_function_stays():
    params = {"a": normal(3, 5), "b": normal(5, 2, scale=100.0)}
    balanced = dx.balance(params, {"a": 1, "b": -1})
    norms = squared_norms(balanced)
    assert norms["a"] == pytest.approx(norms["b"], rel=1e-14)
    before = squared_norms(params)
    assert norms["a"] == pytest.approx(np.sqrt(before["a"] * before["b"]), rel=1e-13)
    x = normal(7, 3)
    outputs = relu_net(params, x), relu_net(balanced, x)
    np.testing.assert_allclose(*outputs, rtol=1e-12)


# Groups, and the size of each parameter.
GROUPS = {
    "exponents 2, -1": ([{"a": 2, "b": -1}], [1e-3, 1e3]),
    "fractions": ([{"a": 0.5, "b": -1.5, "c": 1}], [1.0, 30.0, 0.1]),
    "many": ([{"a": 1, "b": 1, "c": -1, "d": -3}], [1.0, 20.0, 1e-4, 1e-2]),
    "far apart": ([{"a": 1, "b": -1}], [1e-30, 1e30]),
    "large exponents": ([{"a": 1, "b": -100}], [1e-4, 1e4]),
    "a chain": ([{"a": 1, "b": -1}, {"b": 1, "c": -1}], [1e5, 1.0, 1e-5]),
    "one that helps": ([{"a": 1, "b": -1}, {"a": -2, "b": 1, "c": 1}], [1.0, 9.0, 0.1]),
    "dependent": ([{"a": 1, "b": -1}, {"a": 2, "b": -2}], [1e-2, 1e3]),
    "independent": ([{"a": 3, "b": -1}, {"c": 1, "d": -2}], [1e-9, 1e-8, 1e9, 1e7]),
    "a zero": ([{"a": 1, "b": -1, "c": 0}], [1.0, 9.0, 5.0]),
}


@pytest.mark.parametrize("case", GROUPS)
def test_the_norms_are_balanced_in_every_group(case):
    groups, sizes = GROUPS[case]
    letters = dict(zip("abcd", sizes, strict=False))
    params = {key: normal(4, 3, scale=size) for key, size in letters.items()}
    balanced = dx.balance(params, groups)
    norms = squared_norms(balanced)
    for group in groups:
        terms = [a * norms[path] for path, a in group.items()]
        assert sum(terms) == pytest.approx(0.0, abs=1e-12 * sum(map(abs, terms)))
    # On the orbit: the logarithms of the factors are a combination of the groups.
    moved = [np.log(balanced[key] / params[key]) for key in letters]
    for factor in moved:
        np.testing.assert_allclose(factor, factor[0, 0], rtol=1e-9, atol=1e-12)
    rows = np.array([[group.get(key, 0) for key in letters] for group in groups])
    logs = np.array([factor[0, 0] for factor in moved])
    t = np.linalg.lstsq(rows.T, logs)[0]
    np.testing.assert_allclose(rows.T @ t, logs, atol=1e-9)


def test_it_is_the_smallest_sum_of_squares_on_the_orbit():
    params = {"a": normal(3, 3), "b": normal(3, scale=5.0), "c": normal(9, scale=0.1)}
    group = {"a": 1, "b": -2, "c": 1}
    balanced = dx.balance(params, group)
    least = sum(squared_norms(balanced).values())
    for t in (-0.1, -1e-3, 1e-3, 0.1):
        near = {key: x * np.exp(t * group[key]) for key, x in balanced.items()}
        assert sum(squared_norms(near).values()) > least
    again = dx.balance(balanced, group)
    for key in params:
        np.testing.assert_allclose(again[key], balanced[key], rtol=1e-12)


def test_decay_drives_the_parameters_there():
    """In a gradient flow with decay; the loss has the symmetry."""
    params = {"a": normal(3, 4), "b": normal(4, 2, scale=3.0)}
    group = {"a": 1, "b": -1}

    def difference(params):
        return sum(group[key] * x for key, x in squared_norms(params).items())

    start, rate, steps = difference(params), 1e-4, 5000
    x, y = normal(8, 3), normal(8, 2)
    for _ in range(steps):
        error = (x @ params["a"] @ params["b"] - y) / 80
        grads = {
            "a": x.T @ error @ params["b"].T,
            "b": (x @ params["a"]).T @ error,
        }
        for key in params:
            params[key] = params[key] * (1 - rate) - 0.001 * grads[key]
    assert difference(params) / start == pytest.approx(
        (1 - rate) ** (2 * steps), rel=0.02
    )


def test_slices_are_scaled_alone():
    w, qkv, other = normal(3, 4, 4), normal(5, 3, 2), normal(4)
    params = {"blocks": {"w": w, "o": other}, "qkv": qkv}
    group = {"blocks/w[2]": 1, "qkv[:,1]": -1}
    balanced = dx.balance(params, group)
    np.testing.assert_array_equal(balanced["blocks"]["w"][:2], w[:2])
    np.testing.assert_array_equal(balanced["qkv"][:, [0, 2]], qkv[:, [0, 2]])
    np.testing.assert_array_equal(balanced["blocks"]["o"], other)
    a, b = balanced["blocks"]["w"][2], balanced["qkv"][:, 1]
    assert np.sum(a**2) == pytest.approx(np.sum(b**2), rel=1e-14)
    np.testing.assert_allclose(a * b[0, 0], w[2] * qkv[0, 1, 0], rtol=1e-12)


def test_a_parameter_slices_along_two_axes_and_the_whole():
    """Exponents add up where slices overlap."""
    params = {"w": normal(2, 3, 4), "b": normal(4)}
    group = {"w": 1, "w[0]": 1, "w[:,2]": -1, "b": -2}
    balanced = dx.balance(params, group)
    exponents = np.array([[2, 2, 1], [1, 1, 0]])
    squares = np.sum(balanced["w"] ** 2, axis=2)
    rest = 2 * np.sum(balanced["b"] ** 2)
    assert np.sum(exponents * squares) == pytest.approx(rest, rel=1e-13)
    t = np.log(balanced["w"] / params["w"])[1, 0, 0]
    expected = params["w"] * np.exp(t * exponents)[..., None]
    np.testing.assert_allclose(balanced["w"], expected, rtol=1e-12)


def test_a_path_that_looks_like_a_slice_comes_first():
    params = {"w": normal(2, 3), "w[0]": normal(3), "b": normal(3, scale=4.0)}
    balanced = dx.balance(params, {"w[0]": 1, "b": -1})
    np.testing.assert_array_equal(balanced["w"], params["w"])
    norms = squared_norms(balanced)
    assert norms["w[0]"] == pytest.approx(norms["b"], rel=1e-14)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "complex64"])
def test_dtypes_are_kept(dtype):
    params = {
        "a": jnp.asarray(normal(4, 3), dtype),
        "b": jnp.asarray(normal(3, scale=8.0), dtype),
        "rest": jnp.arange(3),
        "none": None,
        "masked": optax.MaskedNode(),
    }
    balanced = dx.balance(params, {"a": 1, "b": -1})
    assert jax.tree.structure(balanced) == jax.tree.structure(params)
    assert [x.dtype for x in jax.tree.leaves(balanced)] == [
        x.dtype for x in jax.tree.leaves(params)
    ]
    assert balanced["rest"] is params["rest"]
    norms = squared_norms(balanced)
    assert norms["a"] == pytest.approx(norms["b"], rel=1e-2 if "16" in dtype else 1e-6)


def test_numpy_and_python_numbers_keep_their_types(x64):
    params = {
        "a": 3.0,
        "b": np.float32(5.0),
        "c": normal(2, dtype=np.float32),
        "d": jnp.ones(3, jnp.float64),
    }
    balanced = dx.balance(params, [{"a": 1, "b": -1}, {"c": 1, "d": -1}])
    assert type(balanced["a"]) is float
    assert type(balanced["b"]) is np.float32
    assert type(balanced["c"]) is np.ndarray
    assert balanced["c"].dtype == np.float32
    assert balanced["d"].dtype == jnp.float64
    assert balanced["a"] == pytest.approx(float(balanced["b"]), rel=1e-6)
    assert balanced["a"] == pytest.approx(np.sqrt(15.0), rel=1e-14)


def test_squares_may_be_out_of_range():
    params = {"a": np.full(2, 1e-200), "b": np.full(2, 1e200)}
    balanced = dx.balance(params, {"a": 1, "b": -1})
    np.testing.assert_allclose(balanced["a"], 1.0, rtol=1e-10)
    np.testing.assert_allclose(balanced["b"], 1.0, rtol=1e-10)


def test_shardings_are_kept():
    mesh = jax.make_mesh((2,), ("x",))
    spec = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    params = {
        "a": jax.device_put(jnp.ones((4, 2)), spec),
        "b": jax.device_put(jnp.full((2, 3), 7.0, jnp.bfloat16), spec),
    }
    balanced = dx.balance(params, {"a[1]": 1, "b": -1})
    for key in params:
        assert balanced[key].sharding.is_equivalent_to(spec, 2)
    row, b = np.asarray(balanced["a"])[1], np.asarray(balanced["b"], np.float32)
    assert np.sum(row**2) == pytest.approx(np.sum(b**2), rel=1e-2)


def test_no_group_changes_nothing():
    params = {"a": jnp.ones(2)}
    assert dx.balance(params, ()) is params
    assert dx.balance(params, {"a": 0}) is params


ONES = {"a": np.ones(2), "b": np.ones(2), "c": np.ones((2, 3)), "n": np.arange(3)}
PAIR = {"a": 1, "b": -1}
NO_BALANCE = {
    "one parameter": ({"a": 1}, "no balance exists. a can"),
    "one sign": ({"a": 1, "b": 2}, "a, b can shrink to 0"),
    "negative": ({"a": -1, "b": -2}, "a, b can shrink to 0"),
    "one of two": ([PAIR, {"c": 1}], "exists. c can shrink to 0"),
    "a slice": ([PAIR, {"c[:,1]": 1}], r"exists. c\[:,1\] can shrink to 0"),
    "a combination": ([PAIR, {"a": 1, "b": -1, "c": 1}], "exists. c can shrink"),
    "three": (
        [{"a": 1, "b": -1}, {"b": 1, "c": -1}, {"a": 2, "c": -1}],
        "exists. a, b, c can shrink",
    ),
}


@pytest.mark.parametrize("case", NO_BALANCE)
def test_exponents_of_one_sign_have_no_balance(case):
    group, match = NO_BALANCE[case]
    with pytest.raises(ValueError, match=match):
        dx.balance(ONES, group)


@pytest.mark.slow
def test_a_balance_exists_if_a_linear_program_has_a_solution():
    """By Stiemke's lemma: if positive squares exist with sum a x = 0 in each group."""
    rng = np.random.default_rng(0)
    balanced = 0
    for _ in range(200):
        n, k = rng.integers(2, 7), rng.integers(1, 4)
        rows = rng.integers(-2, 3, (n, k)) * (rng.random((n, k)) < 0.7)
        rows[0] = np.where(rows.any(axis=0), rows[0], 1)  # no empty group
        params = {f"p{i}": np.exp(4 * rng.normal()) * normal(3) for i in range(n)}
        groups = [{f"p{i}": rows[i, j] for i in range(n)} for j in range(k)]
        program = scipy.optimize.linprog(
            np.ones(n), A_eq=rows.T, b_eq=np.zeros(k), bounds=(1, None)
        )
        if program.status != 0:
            with pytest.raises(ValueError, match="no balance exists"):
                dx.balance(params, groups)
            continue
        balanced += 1
        norms = squared_norms(dx.balance(params, groups))
        for group in groups:
            terms = [a * norms[path] for path, a in group.items()]
            assert sum(terms) == pytest.approx(0.0, abs=1e-11 * sum(map(abs, terms)))
    assert 20 < balanced < 180


def test_balance_leaves_a_zero_bias():
    params = {"w": np.full(4, 8.0), "bias": np.zeros(3), "out": np.full(4, 2.0)}
    balanced = dx.balance(params, {"w": 1, "bias": 1, "out": -1})
    np.testing.assert_allclose(balanced["w"], 4.0, rtol=1e-6)
    np.testing.assert_allclose(balanced["out"], 4.0, rtol=1e-6)
    assert not np.any(balanced["bias"])


def test_balance_takes_symmetries():
    """Without the groups of one sign."""
    params = {"a": np.full(4, 8.0), "b": np.full(4, 2.0), "c": np.ones(2)}
    groups = ({"a": 1.0, "b": -1.0}, {"c": 1.0})
    symmetries = dx.ScaleSymmetries((), groups)
    balanced = dx.balance(params, symmetries)
    np.testing.assert_allclose(balanced["a"], 4.0, rtol=1e-6)
    np.testing.assert_array_equal(balanced["c"], 1.0)
    assert dx.balance(params, dx.ScaleSymmetries((), groups[1:])) is params


@pytest.mark.parametrize(
    ("params", "group", "error", "match"),
    [
        (ONES, {"a": 1, "x/b": -1}, ValueError, "names x/b, which is not a parameter"),
        (ONES, {"a": 1, "x[0]": -1}, ValueError, r"names x\[0\], which is not"),
        (ONES, {"a": 1, 3: -1}, ValueError, "names 3, which is not"),
        (ONES, {"a": 1, "c[2]": -1}, ValueError, r"c\[2\], but c has the shape \(2, 3"),
        (ONES, {"a": 1, "a[:,0]": -1}, ValueError, r"a\[:,0\], but a has the shape"),
        (ONES, {"a": 1, "n": -1}, TypeError, "n must be a floating-point array"),
        (
            ONES | {"b": np.zeros(2)},
            PAIR,
            ValueError,
            "no balance exists. a can shrink to 0",
        ),
        (ONES | {"b": np.zeros(0)}, PAIR, ValueError, "no balance exists. a can"),
        (ONES | {"b": np.array([1, np.nan])}, PAIR, ValueError, "norm of b must be"),
        (ONES | {"b": np.array([1, np.inf])}, PAIR, ValueError, "norm of b must be"),
        (
            {"a": np.eye(2, 3), "b": np.ones(2)},
            {"a[:,2]": 1, "b": -1},
            ValueError,
            "no balance exists. b can shrink to 0",
        ),
        (
            ONES | {"b": jax.ShapeDtypeStruct((2,), jnp.float32)},
            PAIR,
            TypeError,
            "values of b must be known",
        ),
        (ONES, "a", TypeError, "group must be a dict path -> exponent or a sequence"),
        (ONES, ["a"], TypeError, "a group must be a dict path -> exponent with an"),
        (ONES, {}, TypeError, "a group must be a dict path -> exponent with an entry"),
        (ONES, None, TypeError, "Pass {.*or the groups of dx.scale_symmetries"),
        (ONES, {"a": 1, "b": "-1"}, TypeError, "exponent of b must be a number"),
        (ONES, {"a": 1, "b": True}, TypeError, "exponent of b must be a number"),
        (ONES, {"a": 1, "b": np.nan}, ValueError, "exponent of b must be one finite"),
        (ONES, {"a": 1, "b": np.ones(2)}, ValueError, "exponent of b must be one"),
    ],
)
def test_what_balance_refuses(params, group, error, match):
    with pytest.raises(error, match=f"^balance: .*{match}"):
        dx.balance(params, group)


def test_balance_is_not_for_jit():
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    with pytest.raises(TypeError, match="values of a must be known.*outside of jit"):
        jax.jit(lambda params: dx.balance(params, PAIR))(params)


@pytest.mark.needs_flax
@pytest.mark.relaxed("flax: its initialisers")
def test_balance_works_in_module_trees():
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.layers = nnx.List([nnx.Linear(3, 4, rngs=rngs) for _ in range(2)])

    state = nnx.state(Net(nnx.Rngs(0)), nnx.Param)
    group = {"layers/0/kernel": 1, "layers/1/kernel[:,2]": -1}
    balanced = dx.balance(state, group)
    assert isinstance(balanced, nnx.State)
    kernels = [balanced["layers"][i]["kernel"][...] for i in range(2)]
    assert float(jnp.sum(kernels[0] ** 2)) == pytest.approx(
        float(jnp.sum(kernels[1][:, 2] ** 2)), rel=1e-5
    )
    nnx.update(Net(nnx.Rngs(1)), balanced)


def test_balance_works_in_equinox_models():
    eqx = pytest.importorskip("equinox")
    with jax.numpy_rank_promotion("allow"):
        model = eqx.nn.MLP(2, 2, 4, 1, key=jax.random.key(0))
    group = {"layers/0/weight": 1, "layers/0/bias": 1, "layers/1/weight": -1}
    for params in (model, eqx.filter(model, eqx.is_inexact_array)):
        balanced = dx.balance(params, group)
        assert isinstance(balanced, eqx.nn.MLP)
        first, second = balanced.layers
        assert float(jnp.sum(first.weight**2) + jnp.sum(first.bias**2)) == (
            pytest.approx(float(jnp.sum(second.weight**2)), rel=1e-5)
        )
        assert balanced.activation is params.activation


# --- masks ------------------------------------------------------------------------

# A stack of three blocks, a fused projection whose key bias is dead, and others.
NET = {
    "blocks": {"kernel": np.ones((3, 4, 4)), "scale": np.ones((3, 4))},
    "qkv": {"kernel": np.ones((4, 3, 2)), "bias": np.ones((3, 2))},
    "head": {"kernel": np.ones((4, 5)), "bias": np.ones(5)},
    "unused": np.ones(7),
}
KINDS = {
    "blocks/kernel": (0, ["invariant", "seen", "invariant"]),
    "blocks/scale": (0, ["joint"] * 3),
    "qkv/kernel": (1, ["invariant"] * 3),
    "qkv/bias": (0, ["seen", "dead", "seen"]),
    "head/kernel": "seen",
    "head/bias": "joint",
    "unused": "dead",
}
FOUND = symmetries(NET, KINDS)
LAYERS = np.array([1.0, 0.0, 1.0]).reshape(3, 1, 1)
INVARIANT = {
    "blocks": {"kernel": LAYERS, "scale": 0.0},
    "qkv": {"kernel": 1.0, "bias": 0.0},
    "head": {"kernel": 0.0, "bias": 0.0},
    "unused": 0.0,
}


def assert_same(tree, expected):
    """The same numbers, of the same types and shapes."""
    assert jax.tree.structure(tree) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(expected), strict=True):
        assert type(a) is type(b)
        np.testing.assert_array_equal(a, b, strict=True)


def test_scale_invariant_decides_for_each_slice():
    mask = dx.masks.scale_invariant(FOUND)
    assert_same(mask(NET), INVARIANT)
    complement = jax.tree.map(lambda m: 1.0 - m, INVARIANT)
    assert_same(dx.masks.invert(mask)(NET), complement)


def test_each_kind_has_its_multiplier():
    mask = dx.masks.by_symmetry(FOUND, invariant=0.25, joint=0.5, dead=False, seen=2)
    expected = {
        "blocks": {"kernel": np.array([0.25, 2, 0.25])[:, None, None], "scale": 0.5},
        "qkv": {"kernel": 0.25, "bias": np.array([2.0, 0, 2])[:, None]},
        "head": {"kernel": 2.0, "bias": 0.5},
        "unused": 0.0,
    }
    assert_same(mask(NET), expected)
    everything = dx.masks.by_symmetry(FOUND)(NET)
    assert_same(everything, jax.tree.map(lambda _: 1.0, NET))
    seen = dx.masks.by_symmetry(FOUND, invariant=False, joint=False, dead=False)
    assert_same(seen(NET)["blocks"]["kernel"], 1.0 - LAYERS)


def test_the_rules_are_shown():
    rows = dx.masks.describe(dx.masks.scale_invariant(FOUND), NET).rows
    assert {row.path: row.rule for row in rows} == {
        "blocks/kernel": "scale-invariant [0], [2]; seen [1]",
        "blocks/scale": "joint",
        "qkv/kernel": "scale-invariant",
        "qkv/bias": "seen [0], [2]; dead [1]",
        "head/kernel": "seen",
        "head/bias": "joint",
        "unused": "dead",
    }
    (row,) = (row for row in rows if row.path == "blocks/kernel")
    assert row.decayed == 32
    fused = symmetries({"w": np.ones((4, 3))}, {"w": (1, ["dead", "seen", "seen"])})
    mask = dx.masks.by_symmetry(fused, dead=False)
    (row,) = dx.masks.describe(mask, {"w": np.ones((4, 3))}).rows
    assert row.rule == "dead [:,0]; seen [:,1], [:,2]"
    np.testing.assert_array_equal(row.multiplier, np.array([[0.0, 1, 1]]), strict=True)


def larger(x, factor=2, keep=()):
    """A parameter of another width."""
    return np.ones(
        [n if axis in keep else factor * n for axis, n in enumerate(x.shape)]
    )


def test_symmetries_of_a_small_model_fit_a_large_one():
    large = {
        "blocks": jax.tree.map(lambda x: larger(x, 8, keep=[0]), NET["blocks"]),
        "qkv": {
            "kernel": larger(NET["qkv"]["kernel"], 4, keep=[1]),
            "bias": np.ones((3, 8)),
        },
        "head": jax.tree.map(larger, NET["head"]),
        "unused": np.ones(1),
    }
    assert_same(dx.masks.scale_invariant(FOUND)(large), INVARIANT)


def test_an_optimizer_may_train_a_part():
    """A subtree, `optax.partition`, `optax.masked`, None leaves."""
    mask = dx.masks.scale_invariant(FOUND)
    for gap in (None, optax.MaskedNode()):
        part = NET | {"blocks": gap, "qkv": NET["qkv"] | {"bias": gap}}
        expected = INVARIANT | {"blocks": gap, "qkv": INVARIANT["qkv"] | {"bias": gap}}
        assert_same(mask(part), expected)
    assert_same(mask({"blocks": NET["blocks"]}), {"blocks": INVARIANT["blocks"]})

    labels = {"blocks": "a", "qkv": "b", "head": "b", "unused": "a"}
    decay = dx.decoupled_decay(1.0, mask=mask)
    optimizer = optax.partition({"a": decay, "b": decay}, labels)
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), NET)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = jax.jit(optimizer.update)(zeros, optimizer.init(params), params)
    for u, m, x in zip(*map(jax.tree.leaves, (updates, INVARIANT, NET)), strict=True):
        np.testing.assert_array_equal(u, np.broadcast_to(m, x.shape))


def test_it_works_in_every_place_and_under_jit():
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), NET)
    zeros = jax.tree.map(jnp.zeros_like, params)
    mask = dx.masks.invert(dx.masks.scale_invariant(FOUND))
    optimizer = dx.adamw(1.0, weight_decay=0.5, mask=mask)
    updates, _ = jax.jit(optimizer.update)(zeros, optimizer.init(params), params)
    for u, m, x in zip(*map(jax.tree.leaves, (updates, INVARIANT, NET)), strict=True):
        np.testing.assert_array_equal(u, np.broadcast_to(-0.5 * (1 - m), x.shape))
    penalty = dx.l2_penalty(params, 2.0, mask=dx.masks.scale_invariant(FOUND))
    assert float(penalty) == 32 + 24


def test_a_traced_multiplier_stays_traced():
    @jax.jit
    def of(strength):
        return dx.masks.by_symmetry(FOUND, invariant=strength, seen=0.5)(NET)

    tree = of(jnp.float32(0.1))
    blocks = np.array([0.1, 0.5, 0.1], np.float32)[:, None, None]
    np.testing.assert_array_equal(tree["blocks"]["kernel"], blocks)
    np.testing.assert_array_equal(tree["qkv"]["kernel"], np.float32(0.1))


def test_array_multipliers_join_those_of_slices():
    net = {"w": np.ones((2, 3))}
    found = symmetries(net, {"w": (0, ["dead", "seen"])})
    mask = dx.masks.by_symmetry(found, seen=np.array([1.0, 2.0, 3.0]), dead=False)
    assert_same(mask(net), {"w": np.array([[0.0, 0, 0], [1, 2, 3]])})


def test_masks_of_symmetries_are_joined():
    masks = dx.masks
    mask = masks.all_of(masks.scale_invariant(FOUND), masks.no_bias_or_norm)
    assert_same(mask(NET)["blocks"]["kernel"], LAYERS)
    rules = [("blocks/.*", 0.5)]
    mask = masks.by_path(rules, default=masks.scale_invariant(FOUND))
    assert_same(mask(NET), INVARIANT | {"blocks": {"kernel": 0.5, "scale": 0.5}})
    mask = masks.any_of(
        masks.scale_invariant(FOUND), {"blocks": 1.0, "qkv": 0, "head": 0, "unused": 0}
    )
    assert_same(mask(NET)["blocks"], {"kernel": np.ones((3, 1, 1)), "scale": 1.0})


def test_leaves_that_are_not_floats_do_not_decay():
    params = {"w": np.ones(3), "count": np.arange(2), "flag": np.array(True)}
    found = symmetries({"w": np.ones(3)}, {"w": "invariant"})
    assert_same(
        dx.masks.by_symmetry(found)(params), {"w": 1.0, "count": 0.0, "flag": 0.0}
    )


def test_such_a_mask_is_plain_data():
    same = symmetries(NET, KINDS)
    other = symmetries(NET, KINDS | {"unused": "seen"})
    make = dx.masks.scale_invariant
    assert make(FOUND) == make(same)
    assert hash(make(FOUND)) == hash(make(same))
    assert make(FOUND) != make(other)
    by = dx.masks.by_symmetry
    assert by(FOUND, dead=False) == by(same, dead=False) != by(same, dead=0.5)
    for mask in (make(FOUND), by(FOUND, dead=False)):
        assert pickle.loads(pickle.dumps(mask)) == mask
        assert b"_by_symmetry" not in pickle.dumps(mask)
    assert repr(make(FOUND)) == "masks.scale_invariant(<ScaleSymmetries>)"


WRONG = {
    "a path": (NET | {"extra": np.ones(2)}, "say nothing about extra. Their nearest"),
    "blocks in a list": (
        NET | {"blocks": [{"kernel": np.ones((4, 4))}]},
        "say nothing about blocks/0/kernel. Their nearest paths are blocks/kernel",
    ),
    "depth": (
        NET | {"blocks": NET["blocks"] | {"scale": np.ones((12, 4))}},
        "blocks/scale is a stack of 12 on axis 0, but of 3 in the symmetries",
    ),
    "depth on another axis": (
        NET | {"qkv": NET["qkv"] | {"kernel": np.ones((3, 4, 2))}},
        "qkv/kernel is a stack of 4 on axis 1, but of 3 in the symmetries",
    ),
    "axes": (
        NET | {"unused": np.ones((7, 7))},
        re.escape(
            "unused has the shape (7, 7), but in the symmetries its number of axes is 1"
        ),
    ),
    "axes of a stack": (
        NET | {"blocks": NET["blocks"] | {"scale": np.ones(3)}},
        r"blocks/scale has the shape \(3,\), but .* its number of axes is 2",
    ),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("make", [dx.masks.scale_invariant, dx.masks.by_symmetry])
def test_symmetries_of_another_architecture_are_refused(make, case):
    params, match = WRONG[case]
    name = f"masks.{make.__name__}"
    with pytest.raises(ValueError, match=f"^{name}: .*{match}.*Run dx.scale_symm"):
        make(FOUND)(params)


@pytest.mark.parametrize("wrong", [None, {"kernel": True}, ["kernel"], "kernel", 1.0])
def test_only_symmetries_make_such_a_mask(wrong):
    with pytest.raises(TypeError, match="^masks.scale_invariant: symmetries must be a"):
        dx.masks.scale_invariant(wrong)
    with pytest.raises(
        TypeError, match="^masks.by_symmetry: symmetries must be a resu"
    ):
        dx.masks.by_symmetry(wrong, dead=False)
    with pytest.raises(ValueError, match="^masks.by_symmetry: dead must be >= 0"):
        dx.masks.by_symmetry(FOUND, dead=-1.0)


@pytest.mark.needs_flax
@pytest.mark.relaxed("flax: its initialisers")
def test_a_mask_of_symmetries_fits_module_trees():
    import equinox as eqx
    from flax import linen, nnx

    kinds = {"kernel": "invariant", "weight": "invariant", "bias": "seen"}
    x = jnp.ones((1, 2))
    trees = [
        nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.Param),
        linen.Dense(3).init(jax.random.key(0), x)["params"],
        eqx.filter(eqx.nn.Linear(2, 3, key=jax.random.key(0)), eqx.is_inexact_array),
    ]
    for params in trees:
        plain = nnx.to_pure_dict(params) if isinstance(params, nnx.State) else params
        found = symmetries(plain, kinds)
        optimizer = dx.sgdw(1.0, weight_decay=1.0, mask=dx.masks.scale_invariant(found))
        zeros = jax.tree.map(jnp.zeros_like, params)
        updates, _ = optimizer.update(zeros, optimizer.init(params), params)
        for u, p in zip(*map(jax.tree.leaves, (updates, params)), strict=True):
            np.testing.assert_array_equal(u, -p if p.ndim == 2 else 0.0 * p)


# --- statistics -------------------------------------------------------------------


def float32(tree):
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)


def tracked():
    params = float32(NET)
    optimizer = dx.track_decay(dx.adamw(1e-2, weight_decay=0.1), every=1)
    grads = jax.tree.map(lambda x: jnp.cos(jnp.arange(x.size)).reshape(x.shape), params)
    _, state = optimizer.update(grads, optimizer.init(params), params)
    return params, grads, state


def has_equilibrium(stats):
    """Path -> whether its equilibrium is known; the angle and the norm agree."""
    ends = ("/equilibrium_norm", "/equilibrium_angle")
    norm, angle = (
        {
            k.removesuffix(end): bool(np.isfinite(v))
            for k, v in stats.items()
            if end in k
        }
        for end in ends
    )
    assert norm == angle
    return norm


# blocks/kernel is invariant in two of three slices only.
EQUILIBRIA = dict.fromkeys(KINDS, False) | {"qkv/kernel": True}


def test_equilibria_are_those_of_the_invariant_parameters():
    _, _, state = tracked()
    stats = dx.decay_stats(state, scale_invariant=FOUND)
    assert has_equilibrium(stats) == EQUILIBRIA
    everything = dx.decay_stats(state)
    assert all(has_equilibrium(everything).values())
    for key, value in stats.items():
        assert value == everything[key] or "equilibrium" in key
    chosen = ["qkv/kernel"]
    named = dx.decay_stats(state, scale_invariant=chosen)
    np.testing.assert_equal(stats, named)
    groups = dx.decay_stats(
        state, groups=lambda path: path.split("/")[0], scale_invariant=FOUND
    )
    assert not any(has_equilibrium(groups).values())


@pytest.mark.slow
def test_equilibria_in_one_step_and_under_jit():
    params, grads, state = tracked()
    optimizer = dx.adamw(1e-2, weight_decay=0.1)
    stats = dx.measure_decay(
        optimizer, params, optimizer.init(params), grads, scale_invariant=FOUND
    )
    assert has_equilibrium(stats) == EQUILIBRIA
    jitted = jax.jit(lambda state: dx.decay_stats(state, scale_invariant=FOUND))(state)
    assert has_equilibrium(jitted) == EQUILIBRIA


def test_statistics_refuse_symmetries_of_another_model():
    _, _, state = tracked()
    part = {key: x for key, x in NET.items() if key != "head"}
    match = (
        "^decay_stats: the symmetries say nothing about head/bias, head/kernel. Their "
        "nearest paths are .* Run dx.scale_symmetries"
    )
    with pytest.raises(ValueError, match=match):
        dx.decay_stats(state, scale_invariant=symmetries(part, KINDS))
    match = "scale_invariant must be a result of dx.scale_symmetries, .* got 1 of"
    with pytest.raises(TypeError, match=match):
        dx.decay_stats(state, scale_invariant=1)
    # A tracker of a part of the parameters is no error.
    part = dx.track_decay(dx.sgdw(0.1, weight_decay=0.1), every=1)
    params = float32({"qkv": NET["qkv"]})
    _, state = part.update(params, part.init(params), params)
    stats = dx.decay_stats(state, scale_invariant=FOUND)
    assert has_equilibrium(stats) == {"qkv/kernel": True, "qkv/bias": False}


# --- audit ------------------------------------------------------------------------

UNSEEN, DEAD = "unseen scale decays", "dead parameters decay"
PLAIN = dx.adamw(1e-2, weight_decay=0.1)


def found_by(optimizer, net=NET, found=FOUND, **options):
    """Pairs (kind, paths) of the findings about symmetries; the audit is consistent."""
    audit = dx.audit(optimizer, float32(net), symmetries=found, steps=50, **options)
    new = [f for f in audit.findings if f.kind in (UNSEEN, DEAD)]
    plain = dx.audit(optimizer, float32(net), steps=50, **options)
    assert [f for f in audit.findings if f not in new] == list(plain.findings)
    table = len(plain.leaves) + 2
    assert str(plain).splitlines()[:table] == str(audit).splitlines()[:table]
    assert not any(f.serious for f in new)
    assert all(f"- {f}" in str(audit) for f in new)
    return [(f.kind, f.paths) for f in new], [f.text for f in new]


def test_the_audit_says_which_decay_the_model_does_not_see():
    pairs, (unseen, dead) = found_by(PLAIN)
    assert pairs == [
        (UNSEEN, ("blocks/kernel[0]", "blocks/kernel[2]", "qkv/kernel")),
        (DEAD, ("qkv/bias[1]", "unused")),
    ]
    assert "blocks/kernel[0], blocks/kernel[2], qkv/kernel. Their decay, at" in unseen
    assert "rate of 0.001 per step" in unseen
    assert "does not depend on qkv/bias[1], unused." in dead
    audit = dx.audit(PLAIN, float32(NET), symmetries=FOUND, steps=50)
    audit.check()
    audit.check(allow=[UNSEEN, DEAD])


def test_symmetries_of_a_small_model_serve_an_audit_of_shapes():
    large = NET | {"head": jax.tree.map(larger, NET["head"])}
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32), large)
    audit = dx.audit(PLAIN, shapes, symmetries=FOUND, steps=50)
    assert [f.kind for f in audit.findings if "decay" in f.kind][-2:] == [UNSEEN, DEAD]


@pytest.mark.slow
def test_masks_silence_the_findings():
    masks = dx.masks
    mask = masks.invert(masks.scale_invariant(FOUND))
    pairs, _ = found_by(dx.adamw(1e-2, weight_decay=0.1, mask=mask))
    assert [kind for kind, _ in pairs] == [DEAD]
    mask = masks.by_symmetry(FOUND, dead=False)
    pairs, _ = found_by(dx.adamw(1e-2, weight_decay=0.1, mask=mask))
    assert [kind for kind, _ in pairs] == [UNSEEN]
    mask = masks.by_symmetry(FOUND, dead=False, invariant=False)
    assert found_by(dx.adamw(1e-2, weight_decay=0.1, mask=mask)) == ([], [])
    assert found_by(optax.adam(1e-2)) == ([], [])


PAIR_NET = {"a": np.ones((6, 4)), "b": np.ones((4, 6)), "c": np.ones((8, 3))}
# Which optimizers decay the leaf as a whole, and which do not.
WHOLE = {
    "decoupled": (dx.adamw(1e-2, weight_decay=0.1), True),
    "L2 of SGD": (dx.sgd_l2(1e-2, momentum=0.9, weight_decay=0.1), True),
    "a trust ratio": (optax.lamb(1e-2, weight_decay=0.1), True),
    "L2 of Adam": (dx.adam_l2(1e-2, weight_decay=0.1), False),
    "a pull of constant size": (
        optax.stateless(
            lambda u, p: jax.tree.map(lambda g, x: -0.01 * (g + jnp.sign(x)), u, p)
        ),
        False,
    ),
    "growth": (
        optax.chain(optax.scale(-0.01), optax.add_decayed_weights(0.001)),
        False,
    ),
}


@pytest.mark.parametrize("case", WHOLE)
def test_only_a_decay_of_the_whole_leaf_is_unseen(case):
    optimizer, is_whole = WHOLE[case]
    found = symmetries(PAIR_NET, {"a": "invariant", "b": "seen", "c": "dead"})
    pairs, _ = found_by(optimizer, PAIR_NET, found)
    expected = [(UNSEEN, ("a",))] if is_whole else []
    assert pairs == expected + ([(DEAD, ("c",))] if case != "growth" else [])


def rates_of(**rates):
    """Decoupled decay at another rate for each leaf."""
    mask = {key: 100 * rate for key, rate in rates.items()}
    return dx.adamw(1e-2, weight_decay=1.0, mask=mask)


TOGETHER = {
    # groups, rates, whether together they do not change the function
    "one group": ([{"a": 1, "b": 1, "c": 1}], (1e-3, 1e-3, 1e-3), "abc"),
    "in proportion": ([{"a": 2, "b": 1, "c": 1}], (2e-3, 1e-3, 1e-3), "abc"),
    "not in proportion": ([{"a": 2, "b": 1, "c": 1}], (1e-3, 1e-3, 1e-3), ""),
    "one is excluded": ([{"a": 1, "b": 1, "c": 1}], (1e-3, 1e-3, 0), ""),
    "both signs": ([{"a": 1, "b": -1}], (1e-3, 1e-3, 0), ""),
    "two groups": ([{"a": 1, "b": 1}, {"b": 1, "c": 1}], (1e-3, 3e-3, 2e-3), "abc"),
    "two groups, seen": ([{"a": 1, "b": 1}, {"b": 1, "c": 1}], (1e-3,) * 3, ""),
    "a chain": ([{"a": 1, "b": -1}, {"b": 1, "c": 1}], (1e-3, 1e-3, 2e-3), "abc"),
    "only one of two": (
        [{"a": 1, "b": 1}, {"b": 1, "c": 1}],
        (1e-3, 1e-3, 0),
        "ab",
    ),
    "no other": ([{"a": 1, "b": 1}], (1e-3, 1e-3, 1e-3), "ab"),
    "no decay": ([{"a": 1, "b": 1}], (0, 0, 1e-3), ""),
}


@pytest.mark.parametrize("case", TOGETHER)
def test_joint_decays_are_unseen_if_they_fit_the_exponents(case):
    groups, rates, unseen = TOGETHER[case]
    kinds = {key: "joint" if any(key in g for g in groups) else "seen" for key in "abc"}
    found = symmetries(PAIR_NET, kinds, groups)
    optimizer = rates_of(**dict(zip("abc", rates, strict=True)))
    pairs, texts = found_by(optimizer, PAIR_NET, found)
    assert pairs == ([(UNSEEN, tuple(unseen))] if unseen else [])
    assert not unseen or "common scale of a, b" in texts[0]


@pytest.mark.slow
def test_joint_decays_of_slices():
    net = {"w": np.ones((2, 5, 5)), "v": np.ones((5, 5))}
    kinds = {"w": (0, ["joint", "seen"]), "v": "joint"}
    found = symmetries(net, kinds, [{"w[0]": 1, "v": 1}])
    pairs, _ = found_by(PLAIN, net, found)
    assert pairs == [(UNSEEN, ("v", "w[0]"))]
    pairs, _ = found_by(dx.adam_l2(1e-2, weight_decay=0.1), net, found)
    assert pairs == []
    # A part of the model: the rate of v is not known.
    pairs, _ = found_by(PLAIN, {"w": net["w"]}, found)
    assert pairs == []


def test_the_audit_refuses_other_symmetries():
    with pytest.raises(TypeError, match="^audit: symmetries must be a result of dx.sc"):
        dx.audit(PLAIN, float32(NET), symmetries={"kernel": "invariant"})
    for params, match in WRONG.values():
        with pytest.raises(ValueError, match=f"^audit: .*{match}"):
            dx.audit(PLAIN, float32(params), symmetries=FOUND)
