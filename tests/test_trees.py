"""Masks and parameters in the trees people really use."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import decayax as dx


class Layer(NamedTuple):
    kernel: Any
    bias: Any


@jax.tree_util.register_pytree_with_keys_class
class Module:
    """Like an Equinox module: attributes as children, and callable."""

    def __init__(self, weight, bias):
        self.weight, self.bias = weight, bias

    def __call__(self, x):
        raise AssertionError("a tree of parameters or a mask is not a mask function")

    def tree_flatten_with_keys(self):
        key = jax.tree_util.GetAttrKey
        return ((key("weight"), self.weight), (key("bias"), self.bias)), None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


def decayed(params, mask, grads=None):
    """Which leaves of the flattened parameters a decay of 1 moves, and how much."""
    part = dx.decoupled_decay(1.0, mask=mask)
    grads = jax.tree.map(jnp.zeros_like, params) if grads is None else grads
    updates, _ = jax.jit(part.update)(grads, part.init(params), params)
    return [float(jnp.mean(u)) for u in jax.tree.leaves(updates)]


ones = jnp.ones


@pytest.mark.parametrize(
    ("params", "mask"),
    [
        ({"l": {"kernel": ones((2, 3)), "bias": ones(3)}}, {"l": Layer(1.0, False)}),
        ({"l": Layer(ones((2, 3)), ones(3))}, {"l": {"kernel": 1, "bias": 0}}),
        ([ones((2, 3)), ones(3)], (True, False)),
        ((ones((2, 3)), {"b": ones(3)}), {"0": True, "1": False}),
        (Module(ones((2, 3)), ones(3)), {"weight": True, "bias": False}),
        (Module(ones((2, 3)), ones(3)), Module(True, False)),
        ([Module(ones((2, 3)), ones(3))], lambda p: [Module(True, False)]),
    ],
    ids=["dict", "NamedTuple", "list", "mixed", "attributes", "callable tree", "fn"],
)
def test_a_mask_fits_by_path_whatever_the_containers(params, mask):
    moved = dict(
        zip(
            [x.ndim for x in jax.tree.leaves(params)],
            decayed(params, mask),
            strict=True,
        )
    )
    assert moved == {2: 1.0, 1: 0.0}


@pytest.mark.parametrize("partial", [functools.partial, jax.tree_util.Partial])
def test_a_mask_function_may_be_partial(partial):
    def mask(least, params):
        return jax.tree.map(lambda p: p.ndim >= least, params)

    assert decayed({"a": ones(3), "b": ones((2, 3))}, partial(mask, 2)) == [0.0, 1.0]


def test_none_and_masked_nodes_of_a_mask_are_not_entries():
    params = {"w": jnp.ones(2), "b": None, "c": optax.MaskedNode()}
    mask = {"w": True, "b": None, "c": optax.MaskedNode()}
    assert decayed(params, mask, grads={**params, "w": jnp.zeros(2)}) == [1.0]


def test_a_path_below_a_masked_node_counts_as_matchable():
    """Inside partition one mask serves all groups, also one that it excludes."""
    params = {"a": optax.MaskedNode(), "b": jnp.ones(2)}
    mask = {"a": {"kernel": True, "bias": False}, "b": False}
    assert decayed(params, mask, grads=params) == [1.0]  # the update itself
    with pytest.raises(ValueError, match="matches no parameter"):
        dx.decoupled_decay(1.0, mask={"b": False}).init({"b": jnp.ones(2)})


def test_an_empty_tree_needs_no_mask():
    part = dx.decoupled_decay(1.0, mask={"w": True})
    assert part.update({}, part.init({}), {})[0] == {}


def test_a_leaf_named_value_is_not_a_box():
    class Attention(NamedTuple):
        query: Any
        value: Any

    mask = {"attention": {"query": True, "value": False}}
    for query in (jnp.ones(2), {"kernel": jnp.ones(2)}):
        params = {"attention": Attention(query, jnp.ones(3))}
        assert decayed(params, mask) == [1.0, 0.0]


def test_a_box_next_to_a_tree_keeps_its_path():
    class Node(NamedTuple):
        value: Any
        child: Any

    params = Node(jnp.ones(2), {"w": jnp.ones(3)})
    assert decayed(params, Node(False, True)) == [0.0, 1.0]
    with pytest.raises(ValueError, match="says nothing about child/w"):
        decayed(params, Node(True, {"w": None}))
    grads = Node(jnp.zeros(2), None)
    assert decayed(params, None, grads) == [1.0]


def test_numpy_and_python_scalars_are_leaves():
    part = dx.decoupled_decay(0.5)
    params, grads = {"a": 2.0, "b": np.ones(2, np.float32)}, {"a": 1.0, "b": np.ones(2)}
    updates, _ = part.update(grads, part.init(params), params)
    assert float(updates["a"]) == 2.0
    np.testing.assert_allclose(updates["b"], 1.5)


# --- Flax -------------------------------------------------------------------------


@pytest.mark.needs_flax
@pytest.mark.relaxed("flax")
def test_linen_dict_and_frozen_dict():
    from flax.core import freeze

    params = {"dense": {"kernel": ones((2, 3)), "bias": ones(3)}}
    mask = {"dense": {"kernel": True, "bias": False}}
    for p in (params, freeze(params)):
        for m in (mask, freeze(mask)):
            assert decayed(p, m) == [0.0, 1.0]


@pytest.mark.needs_flax
@pytest.mark.relaxed("flax")
@pytest.mark.parametrize("pure_mask", [True, False])
def test_nnx_state_and_optimizer(pure_mask):
    from flax import nnx
    from pure_nnx import as_pure

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.linear = nnx.Linear(2, 3, rngs=rngs)
            self.norm = nnx.LayerNorm(3, rngs=rngs)

        def __call__(self, x):
            return self.norm(self.linear(x))

    def mask(params):
        return jax.tree.map(lambda p: p.ndim > 1, params)

    model = Net(nnx.Rngs(0))
    state = nnx.state(model, nnx.Param)
    tree = mask(as_pure(state) if pure_mask else state)
    zeros = jax.tree.map(jnp.zeros_like, state)
    before = np.asarray(model.linear.kernel[...])
    for given in (tree, mask):
        for params, grads in (
            (state, zeros),
            (as_pure(state), as_pure(zeros)),
        ):
            part = dx.decoupled_decay(1.0, mask=given)
            updates, _ = part.update(grads, part.init(state), params)
            moved = [bool(jnp.any(u != 0)) for u in jax.tree.leaves(updates)]
            assert moved == [False, True, False, False]  # linear: bias, kernel; norm

        optimizer = nnx.Optimizer(
            model, dx.sgdw(0.5, weight_decay=0.2, mask=given), wrt=nnx.Param
        )
        nnx.jit(lambda m, o, g: o.update(m, g))(model, optimizer, zeros)
    np.testing.assert_allclose(model.linear.kernel[...], 0.81 * before, rtol=1e-6)
    np.testing.assert_allclose(model.norm.scale[...], 1.0)
