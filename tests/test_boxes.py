"""Boxes and wrappers around parameters, and what is not a parameter.

NNX passes its Variables to `init` and plain arrays to `update`. The decision of a mask
function that asks for types or metadata is kept; `masks.by_node` asks once, now.
"""

import dataclasses
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import decayax as dx
from decayax import masks


needs_flax = pytest.mark.needs_flax
relaxed = pytest.mark.relaxed("flax: its initialisers")


def nnx_model():
    """A model with a marked token, and with state of many kinds."""
    from flax import nnx

    class NoDecay(nnx.Param):
        pass

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.linear = nnx.Linear(4, 4, rngs=rngs)
            self.token = NoDecay(jnp.ones((1, 4)), no_decay=True)
            self.slow = nnx.Param(jnp.ones((2, 4)), strength=0.5)
            self.blocks = nnx.List([nnx.Linear(2, 2, rngs=rngs)])
            self.norm = nnx.BatchNorm(4, rngs=rngs)
            self.dropout = nnx.Dropout(0.1, rngs=rngs)
            self.cache = nnx.Cache(jnp.zeros(3))
            self.counter = nnx.Variable(jnp.ones(()))

    return Model(nnx.Rngs(0)), NoDecay


def is_variable(node):
    from flax import nnx

    return isinstance(node, nnx.Variable)


def per_variable(function):
    """A mask function in the usual style."""
    return lambda params: jax.tree.map(function, params, is_leaf=is_variable)


# --- mask functions that ask for types --------------------------------------------

# Each decides by the Variable; no_decay is the class of the marked parameter. With the
# multipliers of the token, of `slow` and of a bias.
TYPE_MASKS = {
    "isinstance": (lambda no_decay: lambda v: not isinstance(v, no_decay), (0, 1, 1)),
    "type": (lambda no_decay: lambda v: type(v) is not no_decay, (0, 1, 1)),
    "name of the type": (
        lambda no_decay: lambda v: "NoDecay" not in type(v).__name__,
        (0, 1, 1),
    ),
    "hasattr": (lambda no_decay: lambda v: not hasattr(v, "no_decay"), (0, 1, 1)),
    "getattr": (
        lambda no_decay: lambda v: not getattr(v, "no_decay", False),
        (0, 1, 1),
    ),
    "a strength": (lambda no_decay: lambda v: getattr(v, "strength", 1.0), (1, 0.5, 1)),
    "a Variable": (lambda no_decay: lambda v: is_variable(v) or 0.5, (1, 1, 1)),
    "an array": (
        lambda no_decay: lambda v: getattr(v, "no_decay", np.array([0.5])),
        (1, 0.5, 0.5),
    ),
    "only in a box": (
        lambda no_decay: lambda v: not v.get_metadata().get("no_decay", False),
        (0, 1, 1),
    ),
    "the value": (lambda no_decay: lambda v: v.get_value().ndim > 1, (1, 1, 0)),
}
WRAPPED = {
    "alone": lambda mask: dx.sgdw(1.0, weight_decay=0.25, mask=mask),
    "all_of": lambda mask: dx.sgdw(
        1.0, weight_decay=0.25, mask=masks.all_of(mask, True)
    ),
    "by_path": lambda mask: dx.sgdw(
        1.0, weight_decay=0.25, mask=masks.by_path([("slow", 1)], default=mask)
    ),
    "inject": lambda mask: optax.inject_hyperparams(dx.sgdw, static_args="mask")(
        1.0, weight_decay=0.25, mask=mask
    ),
    "with_decay": lambda mask: dx.with_decay(
        optax.sgd(1.0), 0.25, learning_rate=1.0, mask=mask
    ),
    "chain": lambda mask: optax.chain(
        optax.sgd(1.0), dx.independent_decay(0.25, mask=mask)
    ),
}


@needs_flax
@relaxed
@pytest.mark.parametrize("wrapper", WRAPPED)
@pytest.mark.parametrize("kind", TYPE_MASKS)
def test_a_mask_function_that_asks_for_types_gets_them(kind, wrapper):
    """nnx.Optimizer passes Variables to init, but plain arrays to update."""
    from flax import nnx

    if (kind, wrapper) == ("the value", "by_path"):
        pytest.skip("a default sees a MaskedNode where another rule decides")
    if kind == "the value" and not hasattr(nnx.Variable, "get_value"):
        pytest.skip("a method that flax has since version 0.12.1")
    model, no_decay = nnx_model()
    make, (token, slow, bias) = TYPE_MASKS[kind]
    if wrapper == "by_path":
        slow = 1.0
    optimizer = WRAPPED[wrapper](per_variable(make(no_decay)))
    optimizer = nnx.Optimizer(model, optimizer, wrt=nnx.Param)
    model.linear.bias[...] = jnp.ones(4)
    step = nnx.jit(lambda model, optimizer, grads: optimizer.update(model, grads))
    for _ in range(2):
        step(
            model, optimizer, jax.tree.map(jnp.zeros_like, nnx.state(model, nnx.Param))
        )
    leaves = (model.token, model.slow, model.linear.bias)
    for leaf, multiplier in zip(leaves, (token, slow, bias), strict=True):
        expected = (1 - 0.25 * multiplier) ** 2
        np.testing.assert_allclose(leaf[...], expected, rtol=1e-6)


@needs_flax
@relaxed
def test_a_decision_by_types_is_shown_and_used_by_the_penalty():
    from flax import nnx

    model, no_decay = nnx_model()
    state = nnx.state(model, nnx.Param)
    mask = per_variable(lambda v: not isinstance(v, no_decay))
    rows = {row.path: row.multiplier for row in masks.describe(mask, state).rows}
    assert (rows["token"], rows["slow"]) == (0.0, 1.0)
    with_token = dx.l2_penalty(state, 0.1)
    assert with_token - dx.l2_penalty(state, 0.1, mask=mask) == pytest.approx(0.2)


class WithoutHash:
    def __eq__(self, other):  # so Python sets no hash
        return self is other

    def __call__(self, params):
        return per_variable(lambda v: not hasattr(v, "no_decay"))(params)


@needs_flax
@relaxed
def test_a_decision_by_types_that_cannot_be_kept_is_refused():
    from flax import nnx

    model, _ = nnx_model()
    state = nnx.state(model, nnx.Param)
    with pytest.raises(ValueError, match=r"no hash .* mask=masks.by_node\(lambda"):
        dx.decoupled_decay(0.1, mask=WithoutHash()).init(state)

    @jax.jit
    def traced(strength):
        mask = per_variable(lambda v: getattr(v, "no_decay", strength))
        return dx.decoupled_decay(0.1, mask=mask).init(state).step

    with pytest.raises(ValueError, match=r"decoupled_decay: .*types or metadata.*trac"):
        traced(jnp.float32(0.5))

    mask = per_variable(lambda v: not hasattr(v, "no_decay"))
    part = dx.decoupled_decay(0.1, mask=mask)
    part.init(state)
    model.slow = nnx.Param(jnp.ones((2, 4)), no_decay=True)
    with pytest.raises(
        ValueError, match=r"decided otherwise for slow of another model"
    ):
        part.init(nnx.state(model, nnx.Param))


@pytest.mark.slow
@needs_flax
@relaxed
def test_a_kept_decision_does_not_outlive_its_function():
    import gc

    from flax import nnx

    from decayax.masks import _resolve

    state = nnx.state(nnx_model()[0], nnx.Param)
    gc.collect()
    before = len(_resolve._KEPT)
    part = dx.decoupled_decay(0.1, mask=per_variable(lambda v: hasattr(v, "no_decay")))
    part.init(state)
    assert len(_resolve._KEPT) == before + 1
    del part
    gc.collect()
    assert len(_resolve._KEPT) == before


# Each decides by path, shape or dtype: the same with and without boxes.
PLAIN_MASKS = {
    "ndim": lambda p: jax.tree.map(lambda x: x.ndim > 1, p),
    "ndim of Variables": lambda p: jax.tree.map(
        lambda x: x.ndim > 1, p, is_leaf=is_variable
    ),
    "shape": lambda p: jax.tree.map(lambda x: len(x.shape) > 1, p),
    "dtype": lambda p: jax.tree.map(lambda x: x.dtype == jnp.float32, p),
    "path": lambda p: jax.tree_util.tree_map_with_path(
        lambda path, x: "bias" not in jax.tree_util.keystr(path), p
    ),
    "prefix": lambda p: {key: key == "linear" for key in p},
    "array": lambda p: jax.tree.map(lambda x: np.ones(x.shape[-1:]) / 2, p),
    "type of the leaf": lambda p: jax.tree.map(
        lambda x: isinstance(x, jax.ShapeDtypeStruct), p
    ),
    "a mask": lambda p: masks.no_bias_or_norm(p),
    "map_state": lambda p: __import__("flax").nnx.map_state(lambda _, x: x.ndim > 1, p),
}


@needs_flax
@relaxed
@pytest.mark.parametrize("kind", PLAIN_MASKS)
def test_a_mask_function_decides_the_same_at_init_and_update(kind):
    from flax import nnx
    from pure_nnx import as_pure

    model, _ = nnx_model()
    state = nnx.state(model, nnx.Param)
    part = dx.decoupled_decay(0.25, mask=PLAIN_MASKS[kind])
    zeros = jax.tree.map(jnp.zeros_like, state)
    boxed, _ = part.update(zeros, part.init(state), state)
    pure, _ = part.update(as_pure(zeros), part.init(state), as_pure(state))
    jax.tree.map(np.testing.assert_array_equal, as_pure(boxed), pure)
    optimizer = nnx.Optimizer(
        model, dx.sgdw(1.0, weight_decay=0.25, mask=PLAIN_MASKS[kind]), wrt=nnx.Param
    )
    expected = jax.tree.map(jnp.subtract, as_pure(state), pure)
    optimizer.update(model, zeros)  # the state shares the Variables of the model
    moved = as_pure(nnx.state(model, nnx.Param))
    jax.tree.map(np.testing.assert_array_equal, moved, expected)


@needs_flax
@relaxed
def test_a_traced_multiplier_of_a_mask_function_is_not_compared():
    from flax import nnx

    state = nnx.state(nnx_model()[0], nnx.Param)

    @jax.jit
    def step(strength):
        mask = lambda p: jax.tree.map(lambda x: 2.0 * strength, p)  # noqa: E731
        return dx.decoupled_decay(0.25, mask=mask).init(state).step

    assert step(jnp.float32(0.5)) == 0


# --- masks by node ----------------------------------------------------------------


class NoDecay(NamedTuple):
    """A wrapper, as users write it for plain pytrees."""

    tree: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Block:
    """A module with metadata on a field."""

    kernel: Any
    token: Any = dataclasses.field(metadata={"no_decay": True})
    name: str = dataclasses.field(metadata={"static": True}, default="block")


def by_field(node):
    if not dataclasses.is_dataclass(node):
        return None
    fields = dataclasses.fields(node)
    return {f.name: not f.metadata.get("no_decay", False) for f in fields}


ones = jnp.ones
# tree, function, the expected mask
NODES = {
    "a wrapper of an array": (
        {"a": ones(2), "b": NoDecay(ones(3))},
        lambda node: not isinstance(node, NoDecay),
        {"a": 1.0, "b": {"tree": 0.0}},
    ),
    "a wrapper of a subtree": (
        {"a": ones(2), "b": NoDecay({"c": [ones(3), None], "d": ones(())})},
        lambda node: not isinstance(node, NoDecay),
        {"a": 1.0, "b": {"tree": {"c": {"0": 0.0}, "d": 0.0}}},
    ),
    "nothing said": (
        {"a": ones(2), "b": NoDecay(ones(3))},
        lambda node: False if isinstance(node, NoDecay) else None,
        {"a": 1.0, "b": {"tree": 0.0}},
    ),
    "nested wrappers": (
        NoDecay({"a": NoDecay(ones(2))}),
        lambda node: 0.5 if isinstance(node, NoDecay) else None,
        {"tree": {"a": {"tree": 0.25}}},
    ),
    "metadata of fields": (
        [Block(ones((2, 2)), ones(2)), Block(ones((2, 2)), None)],
        by_field,
        {"0": {"kernel": 1.0, "token": 0.0}, "1": {"kernel": 1.0}},
    ),
    "a type of module": (
        {"a": Block(ones((2, 2)), ones(2)), "b": ones(3)},
        lambda node: not isinstance(node, Block),
        {"a": {"kernel": 0.0, "token": 0.0}, "b": 1.0},
    ),
    "the arrays": (
        {"a": ones(2), "b": ones((2, 2))},
        lambda node: not isinstance(node, jax.Array) or node.ndim > 1,
        {"a": 0.0, "b": 1.0},
    ),
    "a value, decided once": (
        {"a": jnp.zeros(2), "b": ones(2)},
        lambda node: None if isinstance(node, dict) else bool((node > 0).any()),
        {"a": 0.0, "b": 1.0},
    ),
    "a haiku-like tree": (
        {"net/~/linear": {"w": ones((2, 2)), "b": ones(2)}, "net": {"token": ones(2)}},
        lambda node: {"token": False} if isinstance(node, dict) and "token" in node
        else None,
        {"net/~/linear": {"w": 1.0, "b": 1.0}, "net": {"token": 0.0}},
    ),
    "None and MaskedNode": (
        {"a": None, "b": optax.MaskedNode(), "c": NoDecay(ones(2)), "d": ones(2)},
        lambda node: not isinstance(node, NoDecay),
        {"c": {"tree": 0.0}, "d": 1.0},
    ),
    "shapes": (
        {"a": jax.ShapeDtypeStruct((2,), jnp.float32), "b": NoDecay(ones(2))},
        lambda node: not isinstance(node, NoDecay),
        {"a": 1.0, "b": {"tree": 0.0}},
    ),
    "one array": (ones(2), lambda node: 0.5, 0.5),
}  # fmt: skip


@pytest.mark.parametrize("kind", NODES)
def test_by_node(kind):
    params, function, expected = NODES[kind]
    mask = masks.by_node(function, params)
    assert mask == expected
    if isinstance(mask, dict):  # describe needs paths
        found = [row.multiplier for row in masks.describe(mask, params).rows]
        assert sorted(found) == sorted(jax.tree.leaves(expected))


def test_by_node_takes_arrays():
    params = {"a": NoDecay(ones((3, 2))), "b": ones(2)}
    rows = np.array([[1.0], [0.0], [0.5]])
    function = lambda node: rows if isinstance(node, NoDecay) else None  # noqa: E731
    np.testing.assert_array_equal(masks.by_node(function, params)["a"]["tree"], rows)
    wrong = lambda node: rows[0] * [1, 2, 3]  # noqa: E731
    with pytest.raises(ValueError, match=r"masks.by_node: .* \(3,\), .* of a/tree"):
        masks.by_node(wrong, params)


BAD_NODES = {
    "declares nothing": (
        lambda node: not hasattr(node, "no_decai"),
        r"masks.by_node: the function declares nothing: it gives 1 or None to every",
    ),
    "a wrong child": (
        lambda node: {"c": False} if isinstance(node, dict) else None,
        r"masks.by_node: the function has an entry for c, where there is no parameter",
    ),
    "negative": (lambda node: -1.0, r"masks.by_node: .* must be >= 0, got -1.0"),
    "a word": (lambda node: "no", r"masks.by_node: .* must be a number, got 'no'"),
}


@pytest.mark.parametrize("kind", BAD_NODES)
def test_by_node_refuses_wrong_declarations(kind):
    function, text = BAD_NODES[kind]
    with pytest.raises((ValueError, TypeError), match=text):
        masks.by_node(function, {"a": ones(2), "b": ones(2)})


def test_an_error_in_the_function_names_the_node():
    with pytest.raises(AttributeError) as error:
        masks.by_node(lambda node: node.metadata, {"a": ones(2)})
    (note,) = error.value.__notes__
    assert "masks.by_node: raised at the node (root) of type dict." in note
    assert "use getattr(node, name, default)" in note


@needs_flax
@relaxed
@pytest.mark.parametrize("whole", [True, False], ids=["model", "state"])
@pytest.mark.parametrize("kind", ["isinstance", "type", "hasattr", "getattr"])
def test_by_node_on_nnx(kind, whole):
    from flax import nnx

    model, no_decay = nnx_model()
    params = model if whole else nnx.state(model, nnx.Param)
    declared = masks.by_node(TYPE_MASKS[kind][0](no_decay), params)
    assert declared["token"] == 0.0
    assert jax.tree.leaves(declared).count(0.0) == 1
    assert "cache" not in declared
    assert set(declared["norm"]) == {"bias", "scale"}  # no statistics
    state = nnx.state(model, nnx.Param)
    optimizer = nnx.Optimizer(
        model,
        dx.sgdw(0.5, weight_decay=0.5, mask=masks.all_of(declared, masks.by_role())),
        wrt=nnx.Param,
    )
    before = np.asarray(model.linear.kernel[...])
    nnx.jit(lambda m, o, g: o.update(m, g))(
        model, optimizer, jax.tree.map(jnp.zeros_like, state)
    )
    np.testing.assert_array_equal(model.token[...], 1.0)
    np.testing.assert_allclose(model.linear.kernel[...], 0.75 * before)
    np.testing.assert_array_equal(model.slow[...], 0.75)


@needs_flax
@relaxed
def test_by_node_reads_strengths_from_metadata():
    from flax import nnx

    state = nnx.state(nnx_model()[0], nnx.Param)
    mask = masks.by_node(lambda node: getattr(node, "strength", None), state)
    assert mask["slow"] == 0.5
    assert mask["token"] == 1.0


def linen_variables():
    import flax.linen as nn

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            boxed = nn.with_partitioning(nn.initializers.ones, ("embed", None))
            x = nn.Dense(3, kernel_init=boxed)(x)
            return nn.BatchNorm(use_running_average=False)(x)

    return Model().init(jax.random.key(0), jnp.ones((2, 3)))


@needs_flax
@relaxed
def test_linen_boxes_in_a_train_state():
    import flax.linen as nn
    from flax.training.train_state import TrainState

    params = linen_variables()["params"]
    by_name = lambda node: "embed" not in getattr(node, "names", ())  # noqa: E731
    declared = masks.by_node(by_name, params)
    assert declared["Dense_0"] == {"kernel": 0.0, "bias": 1.0}
    zeros = jax.tree.map(jnp.zeros_like, params)
    for mask, moved in (
        (declared, [False, True]),
        (masks.no_bias_or_norm, [True, False]),
        (masks.by_path([("Dense_0/kernel", False)], default=True), [False, True]),
        (lambda p: jax.tree.map(lambda x: x.ndim > 1, p), [True, False]),
    ):
        optimizer = dx.sgdw(0.5, weight_decay=0.5, mask=mask)
        state = TrainState.create(apply_fn=None, params=params, tx=optimizer)
        after = nn.unbox(state.apply_gradients(grads=zeros).params)["Dense_0"]
        before = nn.unbox(params)["Dense_0"]
        assert bool((after["kernel"] != before["kernel"]).any()) == moved[0]
        # Without boxes, as after nn.unbox.
        updates, _ = optimizer.update(
            nn.unbox(zeros), state.opt_state, nn.unbox(params)
        )
        assert bool((updates["Dense_0"]["kernel"] != 0).any()) == moved[0]


@pytest.mark.relaxed("equinox: its initialisers")
def test_by_node_on_equinox():
    eqx = pytest.importorskip("equinox")

    class NonTrainable(eqx.Module):
        tree: Any

    class Net(eqx.Module):
        linear: Any
        frozen: Any
        token: Any = eqx.field(metadata={"no_decay": True})
        activation: Any = jax.nn.relu

    key = jax.random.key(0)
    frozen = NonTrainable(eqx.nn.Linear(2, 2, key=key))
    net = Net(eqx.nn.Linear(2, 2, key=key), frozen, jnp.ones(2))

    def declared(node):
        return not isinstance(node, NonTrainable) and by_field(node)

    mask = masks.by_node(declared, net)
    assert mask == {
        "linear": {"weight": 1.0, "bias": 1.0},
        "frozen": {"tree": {"weight": 0.0, "bias": 0.0}},
        "token": 0.0,
    }
    params = eqx.filter(net, eqx.is_inexact_array)
    part = dx.decoupled_decay(1.0, mask=mask)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = part.update(zeros, part.init(params), params)
    np.testing.assert_array_equal(updates.linear.weight, params.linear.weight)
    np.testing.assert_array_equal(updates.frozen.tree.weight, 0.0)
    # The tree has the same modules at init and update: a function may ask for them.
    is_frozen = lambda node: isinstance(node, NonTrainable)  # noqa: E731
    function = lambda p: jax.tree.map(  # noqa: E731
        lambda x: not is_frozen(x), p, is_leaf=is_frozen
    )
    part = dx.decoupled_decay(1.0, mask=function)
    updates, _ = part.update(zeros, part.init(params), params)
    np.testing.assert_array_equal(updates.frozen.tree.weight, 0.0)


# --- what is not a parameter ------------------------------------------------------

NNX = "For an NNX model, pass nnx.state(model, nnx.Param)."
EQUINOX = "For an Equinox model, pass eqx.filter(model, eqx.is_inexact_array)."


def nnx_part(select):
    """What `select(nnx, model)` takes from an NNX model."""

    def make():
        from flax import nnx

        return select(nnx, nnx_model()[0])

    return make


class TrainState(NamedTuple):
    step: Any
    params: Any
    opt_state: Any


# What a user may hand over instead of the parameters; the path and what the error says.
STATE = {
    "a module with BatchNorm": (
        nnx_part(lambda nnx, model: model.norm),
        f"mean is not a parameter, but state of type BatchStat. {NNX}",
    ),
    "a module": (
        nnx_part(lambda nnx, model: model),
        f"cache is not a parameter, but state of type Cache. {NNX}",
    ),
    "a state": (
        nnx_part(lambda nnx, model: nnx.state(model)),
        f"cache is not a parameter, but state of type Cache. {NNX}",
    ),
    "dropout": (
        nnx_part(lambda nnx, model: {"dropout": model.dropout}),
        f"dropout/rngs/count is not a parameter, but state of type RngCount. {NNX}",
    ),
    "statistics only": (
        nnx_part(lambda nnx, model: nnx.state(model, nnx.BatchStat)),
        f"norm/mean is not a parameter, but state of type BatchStat. {NNX}",
    ),
    "keys": (
        nnx_part(lambda nnx, model: nnx.state(model, nnx.RngKey)),
        f"dropout/rngs/key is not a parameter, but state of type RngKey. {NNX}",
    ),
    "a Variable of another type": (
        nnx_part(lambda nnx, model: {
            "w": nnx.Param(jnp.ones(2)), "ema": nnx.Variable(jnp.ones(2))}),
        f"ema is not a parameter, but state of type Variable. {NNX}",
    ),
    "an own type": (
        nnx_part(lambda nnx, model: {
            "w": nnx.Param(jnp.ones(2)),
            "mean": type("Mean", (nnx.BatchStat,), {})(jnp.ones(2)),
        }),
        f"mean is not a parameter, but state of type Mean. {NNX}",
    ),
    "intermediates": (
        nnx_part(lambda nnx, model: {"h": nnx.Intermediate(jnp.ones(2))}),
        f"h is not a parameter, but state of type Intermediate. {NNX}",
    ),
    "metrics": (
        nnx_part(lambda nnx, model: nnx.metrics.Average()),
        f"count is not a parameter, but state of type MetricState. {NNX}",
    ),
    "an NNX optimizer": (
        nnx_part(lambda nnx, model: nnx.Optimizer(
            model, optax.adam(1e-3), wrt=nnx.Param)),
        "opt_state/0/count is not a parameter, but state of type Opt",
    ),
    "variables of Linen": (
        linen_variables,
        "batch_stats is not a parameter, but a collection of state. For a Linen "
        "model, pass variables['params'].",
    ),
    "a cache of Linen": (
        lambda: {"params": {"w": ones(2)}, "cache": {"k": ones(2)}},
        "cache is not a parameter, but a collection of state. For a Linen",
    ),
    "statistics of spectral norms": (
        lambda: {"params": {"w": ones(2)}, "sn_stats": {"sigma": ones(())}},
        "sn_stats is not a parameter, but a collection of state. For a Linen",
    ),
    "a train state": (
        lambda: TrainState(0, {"w": ones(2)}, optax.EmptyState()),
        "got TrainState, which holds the optimizer's state, too. Pass its attribute",
    ),
}  # fmt: skip

USES = {
    "describe": lambda tree: masks.describe(masks.no_bias_or_norm, tree),
    "audit": lambda tree: dx.audit(dx.sgdw(0.1), tree),
    "init": lambda tree: dx.decoupled_decay(0.1).init(tree),
    "init with a mask": lambda tree: dx.adamw(
        0.1, mask=masks.no_bias_or_norm
    ).init(tree),
    "l2_penalty": lambda tree: dx.l2_penalty(tree, 0.1),
}  # fmt: skip


@needs_flax
@relaxed
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("kind", STATE)
def test_state_is_not_a_parameter(kind, use):
    make, text = STATE[kind]
    with pytest.raises(TypeError, match=re.escape(text)):
        USES[use](make())


@pytest.mark.relaxed("equinox: its initialisers")
@pytest.mark.parametrize("use", USES)
def test_state_of_equinox_is_not_a_parameter(use):
    eqx = pytest.importorskip("equinox")
    text = "is not a parameter, but state of type State.*eqx.nn.make_with_state"
    norm = eqx.nn.BatchNorm(4, "batch", mode="ema")
    kernel = {"kernel": jnp.ones((2, 2))}
    with pytest.raises(TypeError, match=text):
        USES[use]([kernel, eqx.filter(norm, eqx.is_array)])
    model, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(4, "batch", mode="ema")
    with pytest.raises(TypeError, match=text):
        USES[use](state)
    if use != "audit":
        USES[use]([kernel, eqx.filter(model, eqx.is_inexact_array)])


LEAVES = {
    "a typed key": lambda: jax.random.key(0),
    "typed keys": lambda: jax.random.split(jax.random.key(0)),
    "an activation": lambda: jax.nn.relu,
    "a string": lambda: "same",
    "a dtype": lambda: jnp.float32,
    "a module": lambda: object(),
}


@pytest.mark.parametrize("kind", LEAVES)
def test_leaves_that_are_not_parameters(kind):
    params = {"w": ones(2), "x": LEAVES[kind]()}
    text = re.escape("x is not a parameter, but ") + ".*" + re.escape(EQUINOX)
    with pytest.raises(TypeError, match=f"masks.describe: {text}"):
        masks.describe(None, params)
    with pytest.raises(TypeError, match=f"audit: {text}"):
        dx.audit(optax.sgd(0.1), params)
    with pytest.raises(TypeError, match="the parameter x has dtype .* replace it with"):
        dx.decoupled_decay(0.1).init(params)


# Each is a tree of parameters, in spite of its names and types.
PARAMETERS = {
    "params of NNX": nnx_part(lambda nnx, model: nnx.state(model, nnx.Param)),
    "a module of Params": nnx_part(lambda nnx, model: model.linear),
    "LoRA": nnx_part(lambda nnx, model: nnx.state(
        nnx.LoRA(2, 2, 2, rngs=nnx.Rngs(0)), nnx.LoRAParam)),
    "Variables of one type": nnx_part(lambda nnx, model: {
        "w": type("Weight", (nnx.Variable,), {})(jnp.ones((2, 2)))}),
    "a Param called Cache": nnx_part(lambda nnx, model: {
        "w": type("Cache", (nnx.Param,), {})(jnp.ones((2, 2)))}),
    "masked state": nnx_part(lambda nnx, model: {
        "w": model.linear.kernel,
        "mean": nnx.BatchStat(optax.MaskedNode()),
        "var": nnx.BatchStat(None)}),
    "params of Linen": lambda: linen_variables()["params"],
    "variables with params only": lambda: {"params": linen_variables()["params"]},
    "masked statistics": lambda: {
        "params": {"w": ones((2, 2))}, "batch_stats": {"mean": optax.MaskedNode()}},
    "a module called cache": lambda: {"cache": {"w": ones((2, 2))}},
    "params next to a module": lambda: {"params": ones((2, 2)), "head": ones((2, 2))},
}  # fmt: skip


@needs_flax
@relaxed
@pytest.mark.parametrize("use", [use for use in USES if use != "audit"])
@pytest.mark.parametrize("kind", PARAMETERS)
def test_parameters_pass(kind, use):
    USES[use](PARAMETERS[kind]())


def test_numbers_and_shapes_are_parameters():
    params = {"a": 1.0, "b": np.ones(2), "c": jax.ShapeDtypeStruct((2,), jnp.float32)}
    assert len(masks.describe(None, params).rows) == 3


# --- versions of flax -------------------------------------------------------------


def deprecated(self):
    raise DeprecationWarning("'.type' is deprecated, use 'type(variable)' instead.")


def box(kind):
    """A stand-in for a box of NNX around one array, whose class has this `type`."""
    made = type("BatchStat", (), {"type": kind, "add_axis": None})
    children = [(jax.tree_util.DictKey("value"), ones(2))]
    jax.tree_util.register_pytree_with_keys(
        made, lambda _: (children, None), lambda *_: made()
    )
    return made()


@pytest.mark.parametrize("kind", [property(deprecated), type("BatchStat", (), {})])
def test_the_type_of_a_box_before_and_since_flax_0_12(kind):
    """A VariableState names the type; a Variable is of this type, and `type` warns."""
    with pytest.raises(TypeError, match="a is not a parameter, but state of"):
        masks.describe(masks.no_bias_or_norm, {"a": box(kind)})
