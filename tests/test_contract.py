"""Transforms × properties: what every public transform promises, in one table."""

import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from catalogue import DECAYS, first_of_each, parametrize, Row, ROWS
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import decayax as dx


MASK = {"dense": {"kernel": True, "bias": False}, "scale": 0.5}
STRENGTHS = {
    "float": 0.1,
    "int": 1,
    "np.float32": np.float32(0.1),
    "np.float64": np.float64(0.1),
    "np 0-d": np.array(0.1),
    "jnp weak": jnp.array(0.1),
    "jnp float32": jnp.float32(0.1),
    "jnp bfloat16": jnp.bfloat16(0.1),
    "linear": optax.linear_schedule(0.1, 0.0, 10),
    "np schedule": lambda step: np.float32(0.1),
}
NAMED = first_of_each()
TRANSFORMS = [row for row in NAMED if row.name != "l2_penalty"]
SEEDED = ("round_stochastically", "with_stochastic_rounding", "with_state_dtype")
DECAYING = first_of_each(DECAYS)
SCHEDULABLE = [row for row in DECAYING if row.schedules]
OPTIMIZERS = [r for r in NAMED if r.name.startswith(("sgd", "rms", "adam"))]
PLACES = ("add_l2_to_grad", "decoupled_decay", "independent_decay")
INT32_MAX = 2**31 - 1


def example(dtype=jnp.float32, seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), dtype)  # noqa: E731
    # Two shapes only, because eager JAX compiles each operation for each shape.
    return {"dense": {"kernel": draw(4, 3), "bias": draw(5)}, "scale": draw(5)}


def steps(transform, params, grads, n=3, update=None):
    """The n-th update and state, at unchanged parameters.

    Without jit: it would take longer to compile.
    """
    state = transform.init(params)
    update = update or transform.update
    for _ in range(n):
        updates, state = update(grads, state, params)
    return updates, state


def traced_step(transform, params, grads):
    """Types of the first update and state; nothing is compiled or run."""
    return jax.eval_shape(lambda p, g: steps(transform, p, g, n=1), params, grads)


def assert_close(got, expected, rtol=1e-6, atol=1e-7):
    chex.assert_trees_all_close(got, expected, rtol=rtol, atol=atol)


# --- dtypes -----------------------------------------------------------------------


def kinds_of_strength():
    """All kinds for the three places, which read them; two for what contains these."""
    for row in DECAYING:
        for kind, strength in STRENGTHS.items():
            everywhere = kind in ("jnp float32", "np schedule")
            if (row.name in PLACES or everywhere) and (
                row.schedules or not callable(strength)
            ):
                yield pytest.param(row, strength, id=f"{row.name}-{kind}")


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize(("row", "strength"), [*kinds_of_strength()])
def test_output_dtype_is_that_of_the_updates_for_any_strength(
    row: Row, strength, dtype
):
    part = row.part(strength, MASK)
    updates, _ = traced_step(part, example(dtype), example(dtype, 1))
    expected = jnp.dtype("float32" if row.emits_float32 else dtype)
    assert {u.dtype for u in jax.tree.leaves(updates)} == {expected}


@pytest.mark.parametrize("rate", STRENGTHS)
@parametrize(OPTIMIZERS)
def test_output_dtype_is_that_of_the_updates_for_any_learning_rate(row: Row, rate):
    optimizer = row.optimizer(STRENGTHS[rate], 0.1)
    grads = example(jnp.bfloat16, 1)
    updates, _ = traced_step(optimizer, example(jnp.bfloat16), grads)
    chex.assert_trees_all_equal_dtypes(updates, grads)


@pytest.mark.parametrize(
    ("param", "grad"),
    [("bfloat16", "float32"), ("float32", "bfloat16"), ("float16", "float16")],
)
@parametrize()
def test_dtypes_never_change_between_steps(row: Row, param, grad):
    params, grads = example(param), example(grad, 1)
    part = row.part(np.float32(0.1), MASK)

    def step(state, _):
        updates, state = part.update(grads, state, params)
        return state, updates

    def run():
        return jax.lax.scan(step, part.init(params), length=3)

    # scan refuses a carry whose type changes, while it is traced
    _, updates = jax.eval_shape(run)
    if not row.emits_float32:
        chex.assert_trees_all_equal_dtypes(updates, grads)


@parametrize([r for r in NAMED if r.name != "with_decay" and not r.emits_float32])
def test_eight_bit_leaves_are_calculated_in_float32(row: Row):
    dtype = jnp.float8_e4m3fn
    params, grads = example(dtype), example(dtype, 1)
    wide = [jax.tree.map(lambda x: x.astype(jnp.float32), t) for t in (params, grads)]
    if row.name == "l2_penalty":
        penalty = dx.l2_penalty(params, 0.1), dx.l2_penalty(wide[0], 0.1)
        assert_close(*penalty)
        return
    got, _ = steps(row.part(0.1), params, grads, n=1)
    expected, _ = steps(row.part(0.1), *wide, n=1)
    expected = jax.tree.map(lambda x: x.astype(dtype), expected)
    chex.assert_trees_all_equal(got, expected)


def calculates_by_itself(row: Row) -> bool:
    """Whether the arithmetic is ours; with_decay leaves it to the optimizer inside."""
    return not (row.name == "with_decay" and row.built_on)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@parametrize([r for r in ROWS if calculates_by_itself(r) and not r.emits_float32])
def test_sixteen_bit_leaves_are_calculated_in_float32(row: Row, dtype):
    params, grads = example(dtype), example(dtype, 1)
    wide = [jax.tree.map(lambda x: x.astype(jnp.float32), t) for t in (params, grads)]
    part = row.part(0.1)
    got, _ = steps(part, params, grads, n=1)
    expected, _ = steps(part, *wide, n=1)
    if row.name == "l2_penalty":  # two roundings: the slope's, then the sum's
        slope = jax.tree.map(lambda e, g: (e - g).astype(dtype), expected, wide[1])
        expected = jax.tree.map(jnp.add, grads, slope)
    expected = jax.tree.map(lambda x: x.astype(dtype), expected)
    chex.assert_trees_all_equal(got, expected)


@parametrize([row for row in ROWS if row.name.startswith(("sgd", "rms", "adam"))])
def test_a_sixteen_bit_state_is_calculated_in_float32(row: Row):
    params, grads = example("bfloat16"), example("bfloat16", 1)
    part = row.part(0.1)
    _, state = steps(part, params, grads, n=1)

    def wide(tree):
        dtypes = {jnp.dtype("bfloat16"): jnp.float32}
        return jax.tree.map(lambda x: x.astype(dtypes.get(x.dtype, x.dtype)), tree)

    got = part.update(grads, state, params)
    expected = part.update(wide(grads), wide(state), wide(params))
    expected = jax.tree.map(lambda e, g: e.astype(g.dtype), expected, got)
    chex.assert_trees_all_equal(got, expected)


@parametrize([row for row in NAMED if calculates_by_itself(row)])
def test_float16_without_gradients_stays_finite(row: Row):
    """Adam's eps is 0 in float16: 0/0, or with L2 a tiny number over 0."""
    params = example(jnp.float16)
    zeros = jax.tree.map(jnp.zeros_like, params)
    part = row.part(0.1)
    if row.name != "decay_to":  # zero is not its anchor
        still, _ = steps(part, zeros, zeros)
        chex.assert_trees_all_equal(still, zeros)
    moving, _ = steps(part, params, zeros)
    for update in jax.tree.leaves(moving):
        assert jnp.all(jnp.isfinite(update))
        assert (row.decays and row.pulls) == bool(jnp.any(update != 0.0))


def test_the_arithmetic_is_as_wide_as_the_parameters(x64):
    """A float32 gradient of a float64 parameter, as under mixed precision."""
    rng = np.random.default_rng(0)
    param, grad = rng.standard_normal(1000), rng.standard_normal(1000)
    grad = grad.astype(np.float32)
    part = dx.decoupled_decay(0.1)
    updates, _ = part.update(grad, part.init(param), param)
    expected = (grad.astype(np.float64) + 0.1 * param).astype(np.float32)
    np.testing.assert_array_equal(updates, expected)


# --- one trace --------------------------------------------------------------------


@parametrize(NAMED)
def test_one_trace_for_all_steps_and_strengths(row: Row):
    params, grads, traces = example(), example(seed=1), []

    @jax.jit
    def step(weight_decay, state):
        traces.append(1)
        return row.part(weight_decay, MASK).update(grads, state, params)

    state = row.part(jnp.float32(0.1), MASK).init(params)
    for weight_decay in (0.0, 0.1, 0.2, 10.0):
        # traced and not compiled; types that differ are traced again
        _, state = jax.eval_shape(step, jnp.float32(weight_decay), state)
    assert len(traces) == 1


@parametrize()
def test_one_trace_for_weakly_typed_parameters(row: Row):
    """jnp.asarray(1.0) is weakly typed; a state that keeps this is traced twice."""
    params, traces = {"w": jnp.asarray(1.0)}, []
    part = row.part(0.1)

    @jax.jit
    def step(state):
        traces.append(1)
        return part.update({"w": jnp.float32(0.5)}, state, params)

    state = part.init(params)
    for _ in range(3):
        _, state = jax.eval_shape(step, state)
    assert len(traces) == 1


@parametrize(SCHEDULABLE)
def test_inject_hyperparams_sets_the_strength_without_a_trace(row: Row):
    params, grads, traces = example(), example(seed=1), []

    def factory(weight_decay):
        return row.part(weight_decay, MASK)

    injected = optax.inject_hyperparams(factory)(weight_decay=0.1)

    @jax.jit
    def step(state):
        traces.append(1)
        return injected.update(grads, state, params)

    state = injected.init(params)
    stored = state.hyperparams["weight_decay"]
    for weight_decay in (0.1, 0.2, 0.0):
        changed = {"weight_decay": jnp.asarray(weight_decay, stored.dtype)}
        updates, _ = step(state._replace(hyperparams=changed))
        expected, _ = steps(row.part(weight_decay, MASK), params, grads, n=1)
        assert_close(updates, expected, rtol=1e-5)
    assert len(traces) == 1


# --- state ------------------------------------------------------------------------


@parametrize(SCHEDULABLE)
def test_state_tree_does_not_depend_on_strength_or_mask(row: Row):
    params, grads = example(), example(seed=1)
    matrices = lambda p: jax.tree.map(lambda x: x.ndim > 1, p)  # noqa: E731
    kinds = ("float", "jnp float32", "linear", "np schedule")
    parts = [row.part(STRENGTHS[kind], MASK) for kind in kinds]
    if row.name not in MEMORY:  # an excluded parameter has none
        parts += [row.part(0.1, mask) for mask in (None, matrices)]
    states = [traced_step(part, params, grads)[1] for part in parts]
    chex.assert_trees_all_equal_structs(*states)
    chex.assert_trees_all_equal_shapes_and_dtypes(*states)


@parametrize(OPTIMIZERS)
def test_state_tree_does_not_depend_on_the_learning_rate(row: Row):
    states = [
        row.optimizer(rate, 0.1).init(example())
        for rate in (0.1, jnp.float32(0.1), optax.linear_schedule(0.1, 0.0, 10))
    ]
    chex.assert_trees_all_equal_shapes_and_dtypes(*states)


@parametrize(TRANSFORMS)
def test_state_is_arrays_and_its_counters_advance(row: Row):
    params, grads = example(), example(seed=1)
    _, state = steps(row.part(0.1, MASK), params, grads, n=3)
    for leaf in jax.tree.leaves(state):
        assert isinstance(leaf, jax.Array)
        assert not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    counts = [x for x in jax.tree.leaves(state) if x.dtype == jnp.int32]
    assert counts
    assert all(int(count) == 3 for count in counts)


@parametrize(TRANSFORMS)
def test_counters_stay_at_the_largest_int32(row: Row):
    params, grads = example(), example(seed=1)
    part = row.part(0.1, MASK)

    def saturated(leaf):
        return jnp.int32(INT32_MAX) if leaf.dtype == jnp.int32 else leaf

    _, state = part.update(grads, jax.tree.map(saturated, part.init(params)), params)
    counts = [x for x in jax.tree.leaves(state) if x.dtype == jnp.int32]
    assert counts
    assert all(int(count) == INT32_MAX for count in counts)


@parametrize(SCHEDULABLE)
def test_a_schedule_is_read_from_step_zero(row: Row):
    params, grads = example(), example(seed=1)
    table = jnp.array([0.1, 0.2, 0.4], jnp.float32)
    part = row.part(lambda step: table[step])
    state = part.init(params)
    for strength in (0.1, 0.2, 0.4):
        expected, _ = row.part(strength).update(grads, state, params)
        updates, state = part.update(grads, state, params)
        assert_close(updates, expected)


# --- transformations of JAX -------------------------------------------------------


@parametrize(NAMED)
def test_scan_equals_eager(row: Row):
    params, grads = example(), example(seed=1)
    part = row.part(0.1, MASK)
    expected, expected_state = steps(part, params, grads, update=part.update)

    def step(state, _):
        updates, state = part.update(grads, state, params)
        return state, updates

    state, updates = jax.lax.scan(step, part.init(params), length=3)
    assert_close(jax.tree.map(lambda x: x[-1], updates), expected, rtol=1e-5)
    assert_close(state, expected_state, rtol=1e-5)


@parametrize(DECAYING)
def test_vmap_over_strengths_equals_a_loop(row: Row):
    """Also where one of them is 0: a traced 0 adds 0."""
    params, grads = example(), example(seed=1)
    strengths = (0.0, 0.1, 1.0)

    def one(weight_decay):
        return steps(row.part(weight_decay, MASK), params, grads, n=2)[0]

    batched = jax.jit(jax.vmap(one))(jnp.array(strengths))
    for n, strength in enumerate(strengths):
        got = jax.tree.map(lambda x, n=n: x[n], batched)
        assert_close(got, one(strength), rtol=1e-5)


@parametrize(DECAYING)
def test_differentiable_in_the_strength_also_at_zero(row: Row):
    params, grads = example(), example(seed=1)

    @jax.jit
    @jax.value_and_grad
    def total(weight_decay):
        updates, _ = steps(row.part(weight_decay, MASK), params, grads, n=2)
        return sum(jnp.sum(u * u) for u in jax.tree.leaves(updates))

    h = 1e-3
    for at in (0.0, 0.1):
        value, slope = total(jnp.float32(at))
        shifted, _ = total(jnp.float32(at + h))
        np.testing.assert_allclose(slope, (shifted - value) / h, rtol=0.05, atol=1e-2)
        assert slope != 0.0


@parametrize([row for row in DECAYING if row.built_on != "optax.scale_by_adam"])
def test_the_derivative_is_finite_where_weight_and_gradient_vanish(row: Row):
    """A zero-initialised bias without gradient; optax's Adam needs eps_root > 0."""
    check_finite_derivative(row.part)


@pytest.mark.parametrize("make", [dx.adam_l2, dx.adamw])
def test_with_eps_root_it_is_finite_for_adam_too(make):
    check_finite_derivative(
        lambda weight_decay: make(0.5, weight_decay=weight_decay, eps_root=1e-8)
    )


def check_finite_derivative(part_of):
    params = {"w": jnp.ones(2), "b": jnp.zeros(2)}
    grads = {"w": jnp.zeros(2), "b": jnp.zeros(2)}
    slope = jax.jit(
        jax.jacobian(lambda strength: steps(part_of(strength), params, grads, n=2)[0])
    )
    for at in (0.0, 0.1):
        for leaf in jax.tree.leaves(slope(jnp.float32(at))):
            assert jnp.all(jnp.isfinite(leaf))


@parametrize(DECAYING)
def test_strengths_of_groups_can_be_traced(row: Row):
    params, grads = example(), example(seed=1)

    @jax.jit
    def traced(kernel, scale):
        mask = {"dense": {"kernel": kernel, "bias": 0.0}, "scale": scale}
        return steps(row.part(0.1, mask), params, grads, n=1)[0]

    expected, _ = steps(row.part(0.1, MASK), params, grads, n=1)
    assert_close(traced(jnp.float32(1.0), jnp.float32(0.5)), expected, rtol=1e-5)


# --- optax's combinators ----------------------------------------------------------


@parametrize(TRANSFORMS)
def test_python_numbers_are_parameters(row: Row):
    updates, _ = steps(row.part(0.1), {"a": 2.0}, {"a": 0.5})
    expected, _ = steps(row.part(0.1), {"a": jnp.array(2.0)}, {"a": jnp.array(0.5)})
    assert_close(updates, expected)


@parametrize(TRANSFORMS)
def test_unknown_extra_arguments_pass(row: Row):
    """To the bare transform: optax.chain would add the support by itself."""
    params, grads = example(), example(seed=1)
    bare = {
        "round_stochastically": dx.round_stochastically(),
        "compensate_rounding": dx.compensate_rounding(),
    }
    part = bare.get(row.name, row.part(0.1, MASK))
    state = part.init(params)
    updates, _ = part.update(grads, state, params, unexpected=1, value=2.0)
    expected, _ = part.update(grads, state, params)
    chex.assert_trees_all_equal(updates, expected)


@parametrize(NAMED)
def test_masked_equals_the_part_on_the_other_leaves(row: Row):
    params, grads = example(), example(seed=1)
    which = {"dense": {"kernel": True, "bias": False}, "scale": True}
    part = optax.masked(row.part(0.1, MASK), which)
    got, _ = steps(part, params, grads)
    alone, _ = steps(row.part(0.1, MASK), params, grads)
    assert_close(got["dense"]["kernel"], alone["dense"]["kernel"])
    assert_close(got["scale"], alone["scale"])
    chex.assert_trees_all_equal(got["dense"]["bias"], grads["dense"]["bias"])


@parametrize(DECAYING)
def test_partition_gives_each_group_its_strength(row: Row):
    params, grads = example(), example(seed=1)
    labels = {"dense": "strong", "scale": "weak"}
    callable_mask = lambda p: jax.tree.map(lambda x: x.ndim > 1, p)  # noqa: E731
    part = optax.partition(
        {"strong": row.part(1.0, callable_mask), "weak": row.part(0.1, MASK)}, labels
    )
    got, _ = steps(part, params, grads, n=1)
    strong, _ = steps(row.part(1.0, MASK), params, grads, n=1)
    weak, _ = steps(row.part(0.1, MASK), params, grads, n=1)
    assert_close(got, {"dense": strong["dense"], "scale": weak["scale"]})


@pytest.mark.relaxed("optax.MultiSteps")
@parametrize(NAMED)
def test_multi_steps_decays_once_per_emitted_step(row: Row):
    params, grads = example(), example(seed=1)
    part = optax.MultiSteps(row.part(0.1, MASK), every_k_schedule=4)
    state, update = part.init(params), jax.jit(part.update)
    for n in range(8):
        updates, state = update(grads, state, params)
        if n % 4 != 3:
            chex.assert_trees_all_equal(updates, jax.tree.map(jnp.zeros_like, updates))
    expected, inner = steps(row.part(0.1, MASK), params, grads, n=2)
    assert_close(updates, expected, rtol=1e-5)
    assert_close(state.inner_opt_state, inner, rtol=1e-5)


@pytest.mark.relaxed("optax.apply_if_finite")
@parametrize(NAMED)
def test_apply_if_finite_skips_decay_and_counter(row: Row):
    params, grads = example(), example(seed=1)
    part = optax.apply_if_finite(row.part(0.1, MASK), max_consecutive_errors=3)
    state = part.init(params)
    bad = jax.tree.map(lambda g: g.at[0].set(jnp.nan), grads)
    updates, skipped = jax.jit(part.update)(bad, state, params)
    chex.assert_trees_all_equal(updates, jax.tree.map(jnp.zeros_like, updates))
    chex.assert_trees_all_equal(skipped.inner_state, state.inner_state)
    updates, _ = jax.jit(part.update)(grads, skipped, params)
    expected, _ = steps(row.part(0.1, MASK), params, grads, n=1)
    assert_close(updates, expected, rtol=1e-5)


@pytest.mark.parametrize(
    "mask", [None, MASK, lambda p: MASK], ids=["none", "tree", "function"]
)
@parametrize(NAMED)
def test_tree_map_params_finds_the_parameters_in_the_state(row: Row, mask):
    params = example()
    part = row.part(0.1, mask)
    state = part.init(params)
    more = optax.tree_utils.tree_map_params(part, lambda x: x + jnp.ones_like(x), state)
    chex.assert_trees_all_equal_structs(more, state)
    for new, old in zip(jax.tree.leaves(more), jax.tree.leaves(state), strict=True):
        counts = old.dtype in (jnp.int32, jnp.uint32, jnp.bool_)
        assert jnp.all(new == (old if counts else old + jnp.ones_like(old)))


# --- masked leaves, shapes, devices -----------------------------------------------


@parametrize([row for row in ROWS if row.built_on != "optax.scale_by_stddev"])
def test_none_and_masked_nodes_pass(row: Row):
    """Optax's scale_by_stddev cannot do this."""
    params, grads = example(), example(seed=1)
    part = row.part(0.1)
    # The random bits of a leaf depend on its number, which a leaf more changes.
    n = 1 if row.rounds_state else 3
    expected, _ = steps(part, params, grads, n)
    for masked in (None, optax.MaskedNode()):
        masked_params, masked_grads = (
            {**tree, "dense": {**tree["dense"], "bias": masked}, "more": masked}
            for tree in (params, grads)
        )
        got, _ = steps(part, masked_params, masked_grads, n)
        assert got["dense"]["bias"] == masked
        assert_close(got["dense"]["kernel"], expected["dense"]["kernel"])
        assert_close(got["scale"], expected["scale"])


@parametrize([row for row in TRANSFORMS if not row.built_on])
def test_a_frozen_leaf_may_lack_its_gradient(row: Row):
    """Optax's scale_by_adam cannot do this, so the chains around it cannot either."""
    params, grads = example(), example(seed=1)
    grads["dense"]["bias"] = None
    part = row.part(0.1)
    state = part.init(params)
    updates, new_state = part.update(grads, state, params)
    assert updates["dense"]["bias"] is None
    chex.assert_trees_all_equal_structs(new_state, state)


@parametrize()
def test_init_takes_shapes(row: Row):
    params = example()
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    part = row.part(0.1, MASK)
    # A memory of values is NaN until a checkpoint restores it.
    known = jax.tree.map(
        lambda x, y: jnp.where(jnp.isnan(x), y, x), part.init(shapes), part.init(params)
    )
    chex.assert_trees_all_equal(known, part.init(params))
    abstract = jax.eval_shape(part.init, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(abstract, part.init(params))


def distinct_states() -> list[Row]:
    """One row for each name and tree of states."""
    return list(
        {
            (row.name, jax.tree.structure(row.part(0.1).init(example()))): row
            for row in ROWS
        }.values()
    )


def split_over_devices():
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))
    return NamedSharding(mesh, PartitionSpec("data"))


@parametrize(distinct_states())
def test_the_sharding_of_the_state_follows_the_parameters(row: Row):
    split = split_over_devices()
    params = {"w": jax.device_put(jnp.ones((4, 2)), split)}
    grads = {"w": jax.device_put(jnp.full((4, 2), 0.5), split)}
    part = row.part(0.1)
    state = part.init(params)
    updates, new_state = jax.jit(part.update)(grads, state, params)
    for tree in (state, new_state, updates):
        for leaf in jax.tree.leaves(tree):
            if leaf.shape == (4, 2):
                assert leaf.sharding.is_equivalent_to(split, 2)
    alone, _ = steps(part, {"w": jnp.ones((4, 2))}, {"w": jnp.full((4, 2), 0.5)}, n=1)
    assert_close(jax.device_get(updates), jax.device_get(alone))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@parametrize(TRANSFORMS)
def test_init_keeps_the_sharding_of_shapes(row: Row, dtype):
    split = split_over_devices()
    shapes = {"w": jax.ShapeDtypeStruct((4, 2), dtype, sharding=split)}
    for leaf in jax.tree.leaves(row.part(0.1).init(shapes)):
        if leaf.shape == (4, 2):
            assert leaf.sharding.is_equivalent_to(split, 2)


# --- masks ------------------------------------------------------------------------


@parametrize(DECAYING)
def test_masks_see_params_and_the_same_ones_at_init_and_update(row: Row):
    seen = []

    def mask(params):
        seen.append(jax.tree.map(lambda x: (type(x), x.shape, x.dtype), params))
        return MASK

    params, grads = example(jnp.bfloat16), example(jnp.float32, 1)
    part = row.part(0.1, mask)
    if row.name == "l2_penalty":
        grads = example(jnp.bfloat16, 1)
    steps(part, params, grads, n=1)
    traced_step(part, params, grads)
    assert len(seen) >= 2
    assert all(entry == seen[0] for entry in seen)
    wide = row.name in (
        "with_stochastic_rounding",
        "with_compensation",
        "with_state_dtype",
    )
    assert seen[0]["scale"][2] == (jnp.float32 if wide else jnp.bfloat16)


@pytest.mark.parametrize(
    "mask",
    [
        MASK,
        lambda p: MASK,
        {"dense": {"kernel": np.bool_(True), "bias": 0}, "scale": np.float32(0.5)},
        {"dense": {"kernel": jnp.array(True), "bias": False}, "scale": jnp.array(0.5)},
    ],
    ids=["tree", "function", "numpy", "jax"],
)
@parametrize(DECAYING)
def test_a_mask_is_one_multiplier_per_leaf(row: Row, mask):
    params, grads = example(), example(seed=1)
    got, _ = steps(row.part(0.1, mask), params, grads, n=2)
    none, full, half = (
        steps(row.part(strength), params, grads, n=2)[0]
        for strength in (0.0, 0.1, 0.05)
    )
    expected = {
        "dense": {"kernel": full["dense"]["kernel"], "bias": none["dense"]["bias"]},
        "scale": half["scale"],
    }
    assert_close(got, expected)
    chex.assert_trees_all_equal(got["dense"]["bias"], none["dense"]["bias"])
    assert not jnp.allclose(full["scale"], half["scale"])


@parametrize(DECAYING)
def test_a_prefix_applies_to_all_leaves_below_it(row: Row):
    params, grads = example(), example(seed=1)
    prefix, _ = steps(row.part(0.1, {"dense": 0.5, "scale": False}), params, grads)
    whole, _ = steps(
        row.part(0.1, {"dense": {"kernel": 0.5, "bias": 0.5}, "scale": False}),
        params,
        grads,
    )
    chex.assert_trees_all_equal(prefix, whole)


# --- zero, integers, complex ------------------------------------------------------


@parametrize(SCHEDULABLE)
def test_a_known_zero_is_the_identity_bit_for_bit(row: Row):
    """Against the transform with one leaf excluded: -0.0, inf and NaN stay."""
    params = example()
    params["scale"] = jnp.array([jnp.inf, jnp.nan, 1.0, -1.0, 0.0])
    grads = example(seed=1)
    grads["scale"] = jnp.array([-0.0, 0.0, 1e-45, 1.0, -0.0])
    mask = {"dense": True, "scale": False}
    excluded, _ = steps(row.part(0.1, mask), params, grads, n=1)
    for zero in (0.0, 0, np.float32(0.0), jnp.array(0.0), lambda step: 0.0):
        updates, _ = steps(row.part(zero), params, grads, n=1)
        np.testing.assert_array_equal(
            np.asarray(updates["scale"]).view(np.uint32),
            np.asarray(excluded["scale"]).view(np.uint32),
        )
    if row.name in PLACES:
        assert updates is not grads
        for got, sent in zip(
            jax.tree.leaves(updates), jax.tree.leaves(grads), strict=True
        ):
            assert got is sent


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.uint32, jnp.bool_])
@parametrize(NAMED)
def test_integer_leaves_pass_where_no_decay_touches_them(row: Row, dtype):
    """jax.grad(..., allow_int=True) gives them a gradient of dtype float0."""
    if row.name == "l2_penalty":
        pytest.skip("its row takes gradients of the parameters by itself")
    params = {"w": jnp.ones(2), "table": jnp.zeros((2, 3), dtype)}
    grads = {"w": jnp.ones(2), "table": np.zeros((2, 3), jax.dtypes.float0)}
    part = row.part(0.1, {"w": True, "table": False})
    updates, state = steps(part, params, grads)
    assert updates["table"].dtype == jax.dtypes.float0
    assert np.isfinite(updates["w"]).all()
    chex.assert_trees_all_equal_dtypes(state, part.init(params))
    compiled, _ = jax.jit(part.update)(grads, part.init(params), params)
    assert compiled["table"].dtype == jax.dtypes.float0
    if row.decays:
        with pytest.raises(
            TypeError, match=rf"parameter table has dtype {dtype.dtype}"
        ):
            row.part(0.1).init(params)


# --- cost -------------------------------------------------------------------------


COUNTER, KEY, FLOAT = 4, 8, 4  # bytes
# What the methods with a memory keep of the parameters that MASK selects: 17 weights in
# 2 parameters.
MEMORY = {
    **dict.fromkeys(("decay_to_init", "decay_to_average", "selective_projection"), 17),
    **dict.fromkeys(("decay_to", "norm_control"), 2),  # the anchor of the row is 0.25
    "constrain_norm": 2 * 2,  # a dual and a bound
    "rotational": 3 * 2,  # a norm, a mean square and its weight
}
# The plain optimizer, and how many counters the row of that name has more than it.
PLAIN = {
    **dict.fromkeys(PLACES, (optax.identity(), 1)),
    "scale_by_rms": (optax.scale_by_rms(), 1),
    "scale_by_stddev": (optax.scale_by_stddev(), 1),
    "with_decay": (optax.sgd(0.1), 1),
    **dict.fromkeys(("sgd_l2", "sgdw"), (optax.sgd(0.1), 2)),
    **dict.fromkeys(("rmsprop_l2", "rmspropw"), (optax.rmsprop(0.1), 3)),
    **dict.fromkeys(("adam_l2", "adamw"), (optax.adam(0.1), 2)),
    "track_decay": (optax.sgd(0.1), 3),
    "round_stochastically": (optax.identity(), 2),
    "compensate_rounding": (optax.identity(), 1),
    "with_stochastic_rounding": (optax.sgd(0.1), 3),
    "with_compensation": (optax.adam(0.1), 2),
    "with_state_dtype": (optax.adam(0.1), 2),
    "project_radial_update": (optax.scale_by_adam(), 1),
}


@parametrize(TRANSFORMS)
def test_the_state_grows_by_counters_only(row: Row):
    """And by what the method itself stores: to the byte."""
    params = example()
    weights = sum(x.size for x in jax.tree.leaves(params))

    def size(transform):
        return sum(leaf.nbytes for leaf in jax.tree.leaves(transform.init(params)))

    plain, counters = PLAIN.get(row.name, (optax.identity(), 1))
    expected = size(plain) + COUNTER * counters
    expected += KEY if row.name in SEEDED else 0
    if row.name == "track_decay":  # ten sums per leaf, and whether one is due
        expected += 10 * 4 * len(jax.tree.leaves(params)) + 1
    if row.name in ("compensate_rounding", "with_compensation"):
        expected += 2 * weights
    expected += FLOAT * MEMORY.get(row.name, 0)
    if row.name == "with_state_dtype":  # two moments of 2 bytes instead of 4
        expected -= 2 * 2 * weights
    assert size(row.part(0.1, MASK)) == expected


# --- states -----------------------------------------------------------------------


@parametrize(NAMED)
def test_every_state_is_public(row: Row):
    kinds = set()
    jax.tree.leaves(
        row.part(0.1, MASK).init(example()), is_leaf=lambda x: kinds.add(type(x))
    )
    ours = {kind for kind in kinds if kind.__module__.split(".")[0] == "decayax"}
    assert ours or row.name == "l2_penalty"
    assert {kind.__name__ for kind in ours} <= set(dx.__all__)


@parametrize(TRANSFORMS)
def test_a_pickled_state_names_no_private_module(row: Row):
    _, state = steps(row.part(0.1, MASK), example(), example(seed=1), n=1)
    pickled = pickle.dumps(state)
    assert b"decayax._" not in pickled
    restored = pickle.loads(pickled)
    chex.assert_trees_all_equal_structs(restored, state)
    chex.assert_trees_all_equal(restored, state)
