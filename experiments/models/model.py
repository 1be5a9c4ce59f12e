"""A network as pure functions of its parameters, for several libraries.

A stateless model is two functions. A model with BatchNorm or Dropout also has a state,
and differs between training and evaluation.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx


class Model(NamedTuple):
    """A model with parameters and no state."""

    init: Callable[[jax.Array], Any]  # key -> params
    logits: Callable[[Any, jax.Array], jax.Array]  # params, x[B, ...] -> [B, ..., K]


class StatefulModel(NamedTuple):
    """A model with a state, which training changes and evaluation reads."""

    init: Callable[[jax.Array], Any]  # key -> params
    state: Callable[[jax.Array], Any]  # key -> state
    # params, state, x, key -> logits, the state after this batch
    train: Callable[[Any, Any, jax.Array, jax.Array], tuple[jax.Array, Any]]
    logits: Callable[[Any, Any, jax.Array], jax.Array]  # params, state, x -> logits


AnyModel = Model | StatefulModel
STATE = nnx.Not(nnx.Any(nnx.Param, nnx.RngState))  # all other variables of a module


def with_state(model: AnyModel) -> StatefulModel:
    """A stateless model as one whose state is empty."""
    if isinstance(model, StatefulModel):
        return model
    return StatefulModel(
        init=model.init,
        state=lambda key: (),
        train=lambda params, state, x, key: (model.logits(params, x), state),
        logits=lambda params, state, x: model.logits(params, x),
    )


def from_nnx(make: Callable[[nnx.Rngs], nnx.Module]) -> AnyModel:
    """Split a module once into its static graph and its variables.

    The state is every variable that is neither `nnx.Param` nor a random stream, for
    example `nnx.BatchStat`. The key of each step seeds the random streams, for example
    those of `nnx.Dropout`. A module that has only parameters is stateless.
    """
    module = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
    streams = nnx.state(module, nnx.RngState)

    def init(key: jax.Array) -> nnx.State:
        return nnx.state(make(nnx.Rngs(key)), nnx.Param)

    if not jax.tree.leaves((streams, nnx.state(module, STATE))):
        graph = nnx.graphdef(module)
        return Model(init, lambda params, x: nnx.merge(graph, params)(x))

    module.train()
    training = nnx.graphdef(module)
    module.eval()
    evaluating = nnx.graphdef(module)

    def train(
        params: Any, state: Any, x: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, Any]:
        variables = params, _streams(streams, key), state
        # A copy, because the variables of the caller must not change.
        network = nnx.merge(training, *variables, copy=True)
        return network(x), nnx.state(network, STATE)

    def logits(params: Any, state: Any, x: jax.Array) -> jax.Array:
        # An evaluation draws no random numbers, but merging needs the streams.
        unused = _streams(streams, jax.random.key(0))
        return nnx.merge(evaluating, params, unused, state)(x)

    return StatefulModel(
        init, lambda key: nnx.state(make(nnx.Rngs(key)), STATE), train, logits
    )


def _streams(shapes: Any, key: jax.Array) -> Any:
    """New random streams, each with its own key, which is made from `key`."""

    def start(index: int, leaf: Any) -> jax.Array:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.fold_in(key, index)
        return jnp.zeros(leaf.shape, leaf.dtype)  # the number of keys drawn

    leaves, treedef = jax.tree.flatten(shapes)
    return treedef.unflatten([start(i, leaf) for i, leaf in enumerate(leaves)])


def from_linen(module: Any, example: Any) -> AnyModel:
    """A Linen module. If its call has an argument `train`, it is True in training.

    The state is all collections except `params`, for example `batch_stats`. In training
    they may change, and the stream `dropout` has a key.
    """
    modes = "train" in inspect.signature(module.__call__).parameters
    in_training = {"train": True} if modes else {}
    in_evaluation = {"train": False} if modes else {}

    def init(key: jax.Array) -> Any:
        return module.init(key, example, **in_evaluation)["params"]

    def state(key: jax.Array) -> Any:
        variables = module.init(key, example, **in_evaluation)
        return {name: x for name, x in variables.items() if name != "params"}

    def train(
        params: Any, state: Any, x: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, Any]:
        variables, rngs = {"params": params, **state}, {"dropout": key}
        return module.apply(variables, x, **in_training, rngs=rngs, mutable=list(state))

    def logits(params: Any, state: Any, x: jax.Array) -> jax.Array:
        return module.apply({"params": params, **state}, x, **in_evaluation)

    if modes or jax.eval_shape(state, jax.random.key(0)):
        return StatefulModel(init, state, train, logits)
    return Model(init, lambda params, x: logits(params, {}, x))


def from_equinox(make: Callable[[jax.Array], Any]) -> Model:
    """An Equinox module of one example, made from a key.

    Its floating-point arrays are trained.

    Raises:
        TypeError: the module has other arrays.
    """
    import equinox as eqx

    module = eqx.filter_eval_shape(make, jax.random.key(0))
    arrays, static = eqx.partition(
        module, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct)
    )
    for leaf in jax.tree.leaves(arrays):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(
                f"from_equinox: an array of {leaf.dtype} cannot be trained. Store "
                "it as a tuple in a field with eqx.field(static=True)."
            )
    return Model(
        lambda key: eqx.filter(make(key), eqx.is_inexact_array),
        lambda params, x: jax.vmap(eqx.combine(params, static))(x),
    )
