"""Multipliers that are arrays: for rows, layers, heads; they broadcast to the leaf."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from catalogue import DECAYS, first_of_each, parametrize, Row
from conftest import enable_x64
from test_trajectories import problem, run, SCHEDULES

import decayax as dx
from decayax import masks


SHAPE = (3, 4, 2)
LEAF = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
PARAMS = {"stack": {"kernel": jnp.asarray(LEAF)}}

# Each broadcasts against the leaf.
ARRAYS = {
    "layers": np.array([0.25, 0.5, 1.0])[:, None, None],
    "rows": np.array([[1.0], [0.0], [0.5], [2.0]]),
    "columns": np.array([0.5, 2.0]),
    "rows and columns": np.arange(8.0).reshape(4, 2),
    "each number": np.arange(24.0).reshape(SHAPE),
    "one number, 3 axes": np.full((1, 1, 1), 0.5),
    "one number, 1 axis": np.full(1, 0.5),
    "bools": np.array([True, False, True])[:, None, None],
    "integers": np.array([[0], [1], [2], [3]], np.uint8),
    "float16": np.array([0.5, 2.0], np.float16),
    "float32": np.array([0.1, 0.7], np.float32),
    "backwards": np.array([0.0, 1.0, 2.0])[::-1, None, None],
    "Fortran order": np.asfortranarray(np.arange(8.0).reshape(4, 2)),
    "jax": jnp.array([[0.25], [0.0], [1.0], [1.0]]),
    "jax bools": jnp.array([[True], [False], [True], [True]]),
    "jax integers": jnp.array([0, 3]),
    "bfloat16": jnp.array([0.5, 2.0], jnp.bfloat16),
    "0-d": np.float32(0.5),
    "jax 0-d": jnp.array(0.5),
}

# Each gives the leaf `stack/kernel` the multiplier.
PLACES = {
    "tree": lambda m: {"stack": {"kernel": m}},
    "prefix": lambda m: {"stack": m},
    "one array for all": lambda m: m,
    "function": lambda m: lambda params: {"stack": {"kernel": m}},
    "by_path": lambda m: masks.by_path([(".*/kernel", m)]),
    "by_path, function": lambda m: masks.by_path([(".*/kernel", lambda match: m)]),
    "by_path, default": lambda m: masks.by_path([], default=m),
    "by_role": lambda m: masks.by_role(kernel=m),
    "by_node": lambda m: masks.by_node(
        lambda node: m if isinstance(node, dict) and "kernel" in node else None, PARAMS
    ),
    "all_of": lambda m: masks.all_of(masks.no_bias_or_norm, m),
    "any_of": lambda m: masks.any_of(False, m),
    "scale": lambda m: masks.scale(masks.scale(m, 2.0), 0.5),
    "scale, factor": lambda m: masks.scale(None, m),
    "mask of a mask": lambda m: lambda params: masks.by_role(kernel=m)(params),
}

IN_PROGRAM = [place for place in PLACES if place != "by_node"]  # it decides before


def decayed(mask, params=PARAMS, strength=1.0):
    """What a decay of zero gradients adds."""
    part = dx.decoupled_decay(strength, mask=mask)
    zeros = jax.tree.map(jnp.zeros_like, params)
    return part.update(zeros, part.init(params), params)[0]


def multiplied(array):
    return np.asarray(array, np.float64) * LEAF


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", ARRAYS)
def test_an_array_multiplies_in_every_place(kind, place):
    mask = PLACES[place](ARRAYS[kind])
    got = jax.jit(lambda: decayed(mask))()["stack"]["kernel"]
    assert got.shape == SHAPE
    np.testing.assert_allclose(got, multiplied(ARRAYS[kind]), rtol=1e-6)


@parametrize(DECAYS)
def test_trajectories_equal_the_reference(row: Row):
    """The reference multiplies in NumPy, in float64."""
    params, grads = problem(np.float64)
    mask = {
        "kernel": np.array([[1.0], [0.0], [0.25], [0.5]]),
        "bias": jnp.array([True, False, True]),
        "scale": 0.25,
    }
    rate, strength = SCHEDULES if row.schedules else (SCHEDULES[0], 0.3)
    with enable_x64():
        got = run(row.optimizer(rate, strength, mask), params, grads)
        expected = {
            key: row.reference(
                params[key],
                grads[key],
                learning_rate=rate,
                weight_decay=strength,
                multiplier=np.asarray(mask[key], np.float64),
            )
            for key in params
        }
    for key, path in got.items():
        np.testing.assert_allclose(path, expected[key], rtol=1e-11, atol=1e-13)


# Rounded moments draw other random numbers for another leaf. A norm of a stack needs
# axis=: see test_catalogue_uses.py.
SEPARABLE = [
    row for row in first_of_each(DECAYS) if row.elementwise and not row.rounds_state
]


@parametrize(SEPARABLE)
def test_stacked_layers_move_as_separate_ones(row: Row):
    strengths = [0.25, 0.0, 1.0]
    rng = np.random.default_rng(1)
    values, slopes = rng.standard_normal((2, 3, 4, 2)).astype(np.float32)
    apart = {str(n): jnp.asarray(layer) for n, layer in enumerate(values)}
    stacked = {"w": jnp.asarray(values)}
    scalars = {str(n): strength for n, strength in enumerate(strengths)}
    array = {"w": jnp.array(strengths)[:, None, None]}
    for params, mask in ((apart, scalars), (stacked, array)):
        grads = dict(zip(params, slopes if len(params) == 3 else [slopes], strict=True))
        optimizer = row.optimizer(0.1, 0.3, mask)
        state = optimizer.init(params)
        for _ in range(3):
            updates, state = jax.jit(optimizer.update)(grads, state, params)
            params = {key: params[key] + updates[key] for key in params}
        if params.keys() == apart.keys():
            expected = np.stack(list(params.values()))
        else:
            np.testing.assert_allclose(params["w"], expected, rtol=2e-6, atol=1e-7)


# --- traced -----------------------------------------------------------------------


@pytest.mark.parametrize("place", IN_PROGRAM)
def test_multipliers_can_be_traced_and_differentiated(place):
    rows = jnp.array([[0.25], [0.5], [0.75], [1.0]])

    def moved(rows, strength):
        return decayed(PLACES[place](rows), strength=strength)["stack"]["kernel"]

    got = jax.jit(moved)(rows, 0.5)
    np.testing.assert_allclose(got, 0.5 * multiplied(rows), rtol=1e-6)
    total = lambda rows, strength: jnp.sum(moved(rows, strength))  # noqa: E731
    slope, in_strength = jax.jit(jax.grad(total, (0, 1)))(rows, 0.5)
    expected = 0.5 * LEAF.sum((0, 2))[:, None]
    np.testing.assert_allclose(slope, expected, rtol=1e-5)
    np.testing.assert_allclose(in_strength, multiplied(rows).sum(), rtol=1e-5)
    many = jax.vmap(moved, (0, None))(jnp.stack([rows, 2 * rows]), 0.5)
    np.testing.assert_allclose(many[1], multiplied(rows), rtol=1e-6)
    flags = jax.jit(moved)(rows > 0.6, 0.5)
    np.testing.assert_allclose(flags, 0.5 * multiplied(rows > 0.6), rtol=1e-6)


def test_a_new_multiplier_does_not_compile_again():
    traced = []

    @jax.jit
    def step(rows):
        traced.append(rows)
        return decayed(rows)

    for scale in (0.0, 0.5, 1.0):
        step(jnp.full((4, 1), scale))
    assert len(traced) == 1


def test_a_traced_array_of_zeros_keeps_its_derivative():
    total = lambda m: jnp.sum(decayed(m)["stack"]["kernel"])  # noqa: E731
    slope = jax.grad(total)(jnp.zeros((3, 1, 1)))
    np.testing.assert_allclose(slope[:, 0, 0], LEAF.sum((1, 2)), rtol=1e-5)


def test_a_traced_array_is_checked_for_its_shape():
    with pytest.raises(ValueError, match=r"has shape \(3,\), .*\(\(3, 1, 1\)\)"):
        jax.jit(decayed)(jnp.ones(3))


# --- shapes -----------------------------------------------------------------------

# multiplier, leaf, hint
WRONG_SHAPES = [
    ((4,), (4, 3), "For its first axes, write multiplier.reshape((4, 1))."),
    ((2, 3), (2, 3, 5), "For its first axes, write multiplier.reshape((2, 3, 1))."),
    ((2, 1), (2, 3, 5, 7), "write multiplier.reshape((2, 1, 1, 1))."),
    ((5,), (4, 3), "From the last axis on, each axis must have size 1 or that of"),
    ((3, 4), (4, 3), "From the last axis on"),
    ((1, 4, 3), (4, 3), "From the last axis on"),  # the product would be larger
    ((2, 4, 3), (4, 3), "From the last axis on"),
    ((4, 3), (1, 3), "From the last axis on"),
    ((4, 3), (3,), "From the last axis on"),
    ((1,), (), "From the last axis on"),
    ((3,), (), "From the last axis on"),
    ((0,), (3,), "From the last axis on"),
]


@pytest.mark.parametrize("place", IN_PROGRAM)
@pytest.mark.parametrize(("shape", "leaf", "hint"), WRONG_SHAPES)
def test_an_array_that_does_not_fit_is_refused(shape, leaf, hint, place):
    params = {"stack": {"kernel": jnp.ones(leaf)}}
    with pytest.raises(ValueError, match="does not broadcast") as error:
        masks.describe(PLACES[place](2 * np.ones(shape)), params)
    text = str(error.value)
    assert f"has shape {shape}, which does not broadcast to the shape {leaf}" in text
    assert "of stack/kernel" in text
    assert hint in text


def test_a_prefix_must_fit_every_leaf_below_it():
    params = {"block": {"kernel": jnp.ones((3, 4, 2)), "bias": jnp.ones((3, 2))}}
    depth = np.array([0.0, 0.5, 1.0])
    text = r"multiplier at block has shape \(3, 1, 1\), .* \(3, 2\) of block/bias"
    with pytest.raises(ValueError, match=text):
        decayed({"block": depth[:, None, None]}, params)
    both = {"kernel": depth[:, None, None], "bias": depth[:, None]}
    updates = decayed({"block": both}, params)
    np.testing.assert_array_equal(updates["block"]["bias"][:, 0], depth)


def test_empty_and_large_leaves():
    params = {"a": jnp.ones((0, 3)), "b": jnp.ones((2, 3))}
    updates = decayed({"a": np.ones((1, 3)), "b": np.ones((2, 1))}, params)
    assert updates["a"].shape == (0, 3)
    rows = masks.describe({"a": np.ones((0, 1)), "b": True}, params).rows
    assert rows[0].multiplier.shape == (0, 1)


# --- combinators ------------------------------------------------------------------


def test_combinators_calculate_element_by_element():
    rows = np.array([[0.25], [0.0], [1.0], [0.5]])
    columns = jnp.array([1.0, 0.5])

    def kernel(mask):
        return mask(PARAMS)["stack"]["kernel"]

    expected = (rows * np.asarray(columns))[None]
    np.testing.assert_array_equal(kernel(masks.all_of(rows, columns)), expected)
    larger = np.maximum(rows, np.asarray(columns))[None]
    np.testing.assert_array_equal(kernel(masks.any_of(rows, columns)), larger)
    np.testing.assert_array_equal(kernel(masks.any_of(rows, 0.5)).max(), 1.0)
    np.testing.assert_array_equal(kernel(masks.invert(rows)), 1.0 - rows[None])
    np.testing.assert_array_equal(kernel(masks.scale(rows, 3.0)), 3.0 * rows[None])
    with pytest.raises(ValueError, match=r"of stack/kernel must be <= 1, got 2.0"):
        masks.invert(2 * rows)(PARAMS)
    traced = jax.jit(lambda c: kernel(masks.all_of(masks.invert(rows), c)))(columns)
    np.testing.assert_allclose(traced, ((1 - rows) * np.asarray(columns))[None])


# --- zeros ------------------------------------------------------------------------


@parametrize(first_of_each(DECAYS))
def test_a_concrete_array_of_zeros_excludes_its_leaf(row: Row):
    """The update is that of the multiplier False, bit for bit."""
    params = {"a": jnp.array([[jnp.inf, 1.0]]), "b": jnp.ones(2)}
    grads = {"a": jnp.array([[-0.0, 1.0]]), "b": jnp.ones(2)}
    zeros = [np.zeros((1, 2)), jnp.zeros(1), jnp.zeros((1, 1), bool), jnp.array(False)]

    def update(zero):
        part = row.optimizer(0.1, 0.3, {"a": zero, "b": True})
        return part.update(grads, part.init(params), params)[0]["a"]

    for jit in (jax.jit, lambda f: f):
        expected = jit(lambda: update(False))()
        for zero in zeros:
            got = jit(lambda zero=zero: update(zero))()
            np.testing.assert_array_equal(got, expected)
            np.testing.assert_array_equal(np.signbit(got), np.signbit(expected))


def test_integer_leaves_pass_under_zeros_only():
    params = {"n": jnp.ones((2, 3), jnp.int32), "w": jnp.ones(2)}
    part = dx.decoupled_decay(0.1, mask={"n": np.zeros((2, 1)), "w": True})
    updates, _ = part.update(params, part.init(params), params)
    assert updates["n"] is params["n"]
    with pytest.raises(TypeError, match=r"the parameter n has dtype int32"):
        dx.decoupled_decay(0.1, mask={"n": np.eye(2)[:, :1], "w": True}).init(params)


# --- dtypes, wrappers, sharding ---------------------------------------------------


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.complex64])
def test_dtypes_of_leaves(dtype):
    params = {"w": jnp.asarray(LEAF[0], dtype)}
    rows = np.array([[0.1], [0.2], [0.3], [0.4]])
    got = decayed(rows, params, strength=0.7)["w"]
    assert got.dtype == dtype
    # The product of three numbers is calculated in float32 and rounded once.
    wide = np.asarray(params["w"]).astype(np.complex64)
    expected = (np.float32(0.7 * rows) * wide).real.astype(jnp.float32)
    np.testing.assert_allclose(
        np.real(np.asarray(got)).astype(np.float32),
        np.asarray(jnp.asarray(expected).astype(jnp.real(got).dtype), np.float32),
        rtol=1e-6,
    )


@pytest.mark.relaxed("optax.MultiSteps")
def test_inside_the_wrappers_of_optax():
    params = {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}
    rows = np.array([[0.0], [0.5], [1.0]])
    mask = {"w": rows, "b": False}
    chain = dx.sgdw(1.0, weight_decay=0.25, mask=mask)
    frozen = {"t": chain, "f": optax.set_to_zero()}
    inject = optax.inject_hyperparams(dx.sgdw, static_args="mask")
    wrapped = {
        "MultiSteps": optax.MultiSteps(chain, 1),
        "apply_if_finite": optax.apply_if_finite(chain, 3),
        "masked": optax.masked(chain, {"w": True, "b": False}),
        "partition": optax.partition(frozen, {"w": "t", "b": "f"}),
        "inject_hyperparams": inject(1.0, weight_decay=0.25, mask=mask),
        "with_decay": dx.with_decay(
            optax.sgd(1.0), lambda step: 0.25, learning_rate=1.0, mask=mask
        ),
        "with_compensation": dx.with_compensation(chain),
        "track_decay": dx.track_decay(chain),
    }
    for name, optimizer in wrapped.items():
        grads = jax.tree.map(jnp.zeros_like, params)
        state = optimizer.init(params)
        updates, _ = jax.jit(optimizer.update)(grads, state, params)
        expected = np.broadcast_to(-0.25 * rows, (3, 2))
        np.testing.assert_array_equal(updates["w"], expected, err_msg=name)


def test_the_penalty_has_the_gradient_of_l2():
    rows = jnp.array([[0.1], [0.0], [0.5], [2.0]])
    slope = jax.grad(dx.l2_penalty)(PARAMS, 0.3, mask=rows)["stack"]["kernel"]
    np.testing.assert_allclose(slope, 0.3 * multiplied(rows), rtol=1e-6)
    value = dx.l2_penalty(PARAMS, 0.3, mask=rows)
    expected = 0.15 * np.sum(multiplied(rows) * LEAF)
    np.testing.assert_allclose(value, expected, rtol=1e-6)


@pytest.mark.skipif(not hasattr(jax, "set_mesh"), reason="this jax has no set_mesh")
@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_sharded_leaves_keep_their_sharding(kind):
    axis_type = getattr(jax.sharding.AxisType, kind)
    mesh = jax.make_mesh((2,), ("x",), axis_types=(axis_type,))
    rows = np.array([[0.0], [0.5], [1.0], [0.25]], np.float32)

    def place(array, *spec):
        spec = jax.sharding.PartitionSpec(*spec)
        return jax.device_put(array, jax.sharding.NamedSharding(mesh, spec))

    with jax.set_mesh(mesh):
        params = {"w": place(jnp.ones((4, 2)), "x", None)}
        grads = jax.tree.map(jnp.zeros_like, params)
        elsewhere = jax.device_put(jnp.asarray(rows), jax.devices()[1])
        for mask in (rows, place(jnp.asarray(rows), "x", None), elsewhere):
            part = dx.decoupled_decay(1.0, mask=mask)
            state = part.init(params)
            for update in (part.update, jax.jit(part.update)):
                got = update(grads, state, params)[0]["w"]
                assert got.sharding.is_equivalent_to(params["w"].sharding, 2)
                np.testing.assert_array_equal(np.asarray(got), rows * np.ones(2))


def test_the_multiplier_is_not_enlarged():
    """XLA reads the multiplier itself, and nothing of the size of the leaf."""
    size = 512
    params = {"w": jnp.ones((size, size))}

    def cost(make, mask):
        part = make(0.1, mask)
        compiled = jax.jit(part.update, donate_argnums=0).lower(
            params, part.init(params), params
        )
        return compiled.compile().cost_analysis()["bytes accessed"]

    rows = np.linspace(0.0, 1.0, size)[:, None]
    for make, reads in (
        (lambda strength, mask: dx.decoupled_decay(strength, mask=mask), 1),
        (lambda strength, mask: dx.adamw(1e-3, weight_decay=strength, mask=mask), 1),
        # L2 goes into two moments; XLA calculates g + λθ for each.
        (lambda strength, mask: dx.adam_l2(1e-3, weight_decay=strength, mask=mask), 2),
    ):
        for mask in (rows, jnp.asarray(rows)):
            extra = cost(make, mask) - cost(make, 0.5)
            assert extra <= reads * 4 * size + 64


# --- describe, equality, pickling, repr -------------------------------------------

TABLE = {"w": jnp.ones((4, 3)), "b": jnp.ones(3), "c": jnp.ones((2, 2))}
TABLE_MASK = {
    "w": np.array([[1.0], [0.0], [0.0], [0.5]]),
    "b": np.full(3, 0.25),
    "c": np.zeros((1, 2)),
}


def test_describe_shows_the_range_and_counts_the_numbers():
    described = masks.describe(TABLE_MASK, TABLE)
    assert str(described).splitlines() == [
        "parameter  shape   dtype    role     multiplier  rule",
        "b          (3,)    float32  bias           0.25  mask tree",
        "c          (2, 2)  float32  other ?           0  mask tree",
        "w          (4, 3)  float32  kernel       0 to 1  mask tree",
        "decayed: 9 numbers in 2 parameters; excluded: 10 numbers in 2 parameters",
        "?: no name determines the role; check these decisions",
    ]
    assert (described.decayed, described.excluded) == (9, 10)
    b, c, w = described.rows
    assert (b.decayed, c.decayed, w.decayed) == (3, 0, 6)
    assert (b.excluded, c.excluded, w.excluded) == (False, True, False)
    assert isinstance(w.multiplier, np.ndarray)
    np.testing.assert_array_equal(w.multiplier, TABLE_MASK["w"])


def test_describe_shows_a_traced_array():
    seen = []

    @jax.jit
    def look(rows):
        described = masks.describe({**TABLE_MASK, "w": rows}, TABLE)
        seen.append((described.rows[2].decayed, str(described)))
        return rows

    look(jnp.ones((4, 1)))
    assert seen[0][0] == 12
    assert "traced" in seen[0][1]


def test_descriptions_and_decisions_compare():
    described = masks.describe(TABLE_MASK, TABLE)
    same = masks.describe(jax.tree.map(np.copy, TABLE_MASK), TABLE)
    other = masks.describe({**TABLE_MASK, "w": np.ones((4, 1))}, TABLE)
    assert described == same
    assert not described.rows[2] != same.rows[2]  # noqa: SIM202
    assert described.rows[2] != other.rows[2]
    assert described != other
    mask = masks.scale(TABLE_MASK, 0.5)
    assert mask.decide(TABLE) == mask.decide(TABLE)
    a, b = mask.decide(TABLE)["w",], mask.decide(TABLE)["w",]
    assert not a != b  # noqa: SIM202
    assert a != masks.Decision(a.multiplier, "another rule")
    assert mask.decide(TABLE) != masks.scale(TABLE_MASK, 0.25).decide(TABLE)


ROWS = np.array([[1.0], [0.0], [0.5]])
MADE = {
    "by_path": lambda m: masks.by_path([("w", m)], default=False),
    "by_path, default": lambda m: masks.by_path([("b", True)], default={"w": m}),
    "by_role": lambda m: masks.by_role(kernel=m),
    "all_of": lambda m: masks.all_of({"w": m, "b": True}, masks.no_bias_or_norm),
    "any_of": lambda m: masks.any_of({"w": m, "b": True}, False),
    "invert": lambda m: masks.invert({"w": m, "b": True}),
    "scale": lambda m: masks.scale({"w": m, "b": True}, 0.5),
    "nested": lambda m: masks.scale(masks.all_of(masks.by_role(kernel=m)), 0.5),
}


@pytest.mark.parametrize("kind", MADE)
@pytest.mark.parametrize("array", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_masks_with_arrays_pickle_and_compare(kind, array):
    params = {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}
    mask = MADE[kind](array(ROWS))
    for twin in (
        pickle.loads(pickle.dumps(mask)),
        copy.deepcopy(mask),
        MADE[kind](np.copy(ROWS)),
    ):
        assert twin == mask
        assert hash(twin) == hash(mask)
        assert repr(twin) == repr(mask)
        assert twin.decide(params) == mask.decide(params)
    for other in (2 * ROWS / 2 + 0.25, ROWS.T, ROWS[:, 0], 0.5, True):
        assert MADE[kind](array(other)) != mask
    assert mask != masks.by_role(bias=array(ROWS))


def test_masks_with_tracers_compare_by_identity():
    def compared(a, b):
        mask = masks.by_role(kernel=a)
        return mask == masks.by_role(kernel=a), mask == masks.by_role(kernel=b)

    seen = []
    jax.jit(lambda a, b: seen.append(compared(a, b)))(jnp.ones(2), jnp.ones(2))
    assert seen == [(True, False)]


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_the_repr_of_an_array_is_short_and_one_line(array):
    mask = masks.by_path([("w", array(ROWS))], default=False)
    shown = "masks.by_path([('w', np.array([[1. ], [0. ], [0.5]]))], default=False)"
    assert repr(mask) == shown
    assert eval(repr(mask)) == mask
    many = masks.by_path([("w", array(np.ones((1000, 1000))))])
    expected = "masks.by_path([('w', <array of shape (1000, 1000)>)], default=None)"
    assert repr(many) == expected
