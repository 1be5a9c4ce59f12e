"""Functions of the parameters from modules of Flax and Equinox.

The scale symmetries of a model are those of its training, so batch normalization uses
the statistics of the batch. Dropout is off: its random numbers are not parameters.
"""

import copy
import functools
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax

from decayax._core.parameters import require_no_state
from decayax._core.strength import short_repr


Function: TypeAlias = Callable[[Any], Any]  # parameters -> outputs
# The base class of each framework's modules. Frameworks are not imported: a module of a
# framework comes from an import of it, so it is in sys.modules, and decayax does not
# depend on it.
SOURCES = {
    "nnx_function": "flax.nnx",
    "linen_function": "flax.linen",
    "equinox_function": "equinox",
}


def nnx_function(module: Any, *inputs: Any, **kwargs: Any) -> tuple[Function, Any]:
    """The function of the parameters that a Flax NNX module computes, and these.

    Batch normalization uses the statistics of the batch, as in training, and dropout is
    off, whatever the flags of the module are. The module is not changed.

    Args:
        module: an instance of ``nnx.Module``.
        inputs, kwargs: the arguments of the module.

    Returns:
        The function, parameters -> outputs, and ``nnx.state(module, nnx.Param)``.

    Example:
        >>> import decayax as dx, jax.numpy as jnp
        >>> from flax import nnx
        >>> model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
        >>> function, params = dx.nnx_function(model, jnp.ones((4, 2)))
        >>> function(params).shape  # symmetries = dx.scale_symmetries(function, params)
        (4, 3)
    """
    nnx: Any = _framework("nnx_function", module)
    # A clone: modules share their Variables with the states that `split` returns.
    graph, params, others = nnx.split(nnx.clone(module), nnx.Param, ...)
    arguments = nnx.split((inputs, kwargs))

    def function(params: Any) -> Any:
        # Copies: the call advances counters, running means and streams of keys.
        model = nnx.merge(graph, params, others, copy=True)
        args, keywords = nnx.merge(*arguments, copy=True)
        for _, node in nnx.iter_graph(model):
            if isinstance(node, nnx.Module):
                _set_mode(nnx, node)
        return model(*args, **keywords)

    return function, params


def _set_mode(nnx: Any, node: Any) -> None:
    """Batch statistics and no dropout in this node, also against its call's arguments.

    An argument of a call overrides an attribute, but not a rate of 0.
    """
    if hasattr(node, "deterministic"):
        node.deterministic = True
    if hasattr(node, "use_running_average"):
        node.use_running_average = False
    if isinstance(node, nnx.Dropout):
        node.rate = 0.0
    if isinstance(node, nnx.MultiHeadAttention):
        node.dropout_rate = 0.0
    if (
        isinstance(node, nnx.BatchNorm)
        and type(node).__call__ is nnx.BatchNorm.__call__
    ):
        node.__class__ = _with_batch_statistics(type(node))


@functools.cache
def _with_batch_statistics(kind: type) -> type:
    """The class of an NNX BatchNorm, but its call ignores ``use_running_average``."""

    def call(self: Any, x: Any, use_running_average: Any = None, **kwargs: Any) -> Any:
        del use_running_average
        return kind.__call__(self, x, use_running_average=False, **kwargs)

    return type(kind.__name__, (kind,), {"__call__": call})


def linen_function(
    module: Any, variables: Any, *inputs: Any, **kwargs: Any
) -> tuple[Function, Any]:
    """The function of the parameters that a Flax Linen module computes, and these.

    Batch normalization uses the statistics of the batch, as in training, and dropout is
    off, whatever the flags of the module are. The new values of other collections,
    such as running means, are discarded.

    Args:
        module: an instance of ``nn.Module``.
        variables: what ``module.init`` returns: a dict of collections with "params".
        inputs: the arguments of the module.
        kwargs: further arguments of ``module.apply``, which passes them to the module,
            such as ``train=True``.

    Returns:
        The function, parameters -> outputs, and ``variables["params"]``.

    Example:
        >>> import decayax as dx, jax, jax.numpy as jnp
        >>> from flax import linen as nn
        >>> x = jnp.ones((4, 2))
        >>> model = nn.Dense(3)
        >>> variables = model.init(jax.random.key(0), x)
        >>> function, params = dx.linen_function(model, variables, x)
        >>> function(params).shape  # symmetries = dx.scale_symmetries(function, params)
        (4, 3)
    """
    name = "linen_function"
    nn: Any = _framework(name, module)
    if not isinstance(variables, Mapping) or "params" not in variables:
        raise TypeError(
            f"{name}: variables must be a dict of collections with 'params', got "
            f"{short_repr(variables)}. Pass variables = module.init(key, inputs), or "
            "{'params': params}."
        )
    mutable = sys.modules["flax.core"].DenyList("params")
    # For modules that draw their own dropout: the same numbers in each call.
    kwargs = {"rngs": {"dropout": jax.random.key(0)}} | kwargs

    def function(params: Any) -> Any:
        collections = {**variables, "params": params}
        with nn.intercept_methods(functools.partial(_intercept, nn)):
            outputs, _ = module.apply(collections, *inputs, mutable=mutable, **kwargs)
        return outputs

    return function, variables["params"]


def _intercept(nn: Any, call: Any, args: Any, kwargs: Any, context: Any) -> Any:
    """Call a method of a Linen module with batch statistics and without dropout."""
    module = context.module
    if context.method_name != "__call__":
        return call(*args, **kwargs)
    if isinstance(module, nn.Dropout):
        return args[0] if args else kwargs["inputs"]
    changed: dict[str, Any] = {}
    if isinstance(module, nn.BatchNorm):
        # Linen refuses an argument of the call if the attribute is set, too.
        changed = {"use_running_average": None}
        args, kwargs = args[:1], kwargs | {"use_running_average": False}
    if isinstance(module, nn.MultiHeadDotProductAttention):
        changed = {"dropout_rate": 0.0}
    before = {key: getattr(module, key) for key in changed}
    try:
        for key, value in changed.items():
            object.__setattr__(module, key, value)  # a module is a frozen dataclass
        return call(*args, **kwargs)
    finally:
        for key, value in before.items():
            object.__setattr__(module, key, value)


def equinox_function(
    model: Any,
    *inputs: Any,
    call: Callable[..., Any] | None = None,
    **kwargs: Any,
) -> tuple[Function, Any]:
    """The function of the parameters that an Equinox model computes, and these.

    Batch normalization uses the statistics of the batch, as in training, and dropout is
    off, whatever the flags of the model are. The model is not changed. An
    ``eqx.nn.State`` among the outputs is replaced by None.

    Args:
        model: an instance of ``eqx.Module``.
        inputs, kwargs: the arguments of the model, or of ``call`` after the model.
        call: (model, ``*inputs``, ``**kwargs``) -> outputs. Use it for a batch:
            ``lambda model, x: jax.vmap(model)(x)``. A model with batch normalization
            takes its state, too: ``lambda model, x, state: jax.vmap(model,
            axis_name="batch", in_axes=(0, None), out_axes=(0, None))(x, state)``.
            None: call the model.

    Returns:
        The function, parameters -> outputs, and ``eqx.filter(model,
        eqx.is_inexact_array)``.

    Example:
        >>> import decayax as dx, equinox as eqx, jax, jax.numpy as jnp
        >>> model = eqx.nn.Linear(2, 3, key=jax.random.key(0))
        >>> function, params = dx.equinox_function(
        ...     model, jnp.ones((4, 2)), call=lambda model, x: jax.vmap(model)(x)
        ... )
        >>> function(params).shape  # symmetries = dx.scale_symmetries(function, params)
        (4, 3)
    """
    name = "equinox_function"
    eqx: Any = _framework(name, model)
    if not (call is None or callable(call)):
        raise TypeError(
            f"{name}: call must be a function of the model and its inputs, got "
            f"{short_repr(call)}. Pass lambda model, x: jax.vmap(model)(x), for "
            "example."
        )
    params, static = eqx.partition(model, eqx.is_inexact_array)
    require_no_state(name, params)

    def function(params: Any) -> Any:
        # Copies: an eqx.nn.State can be used only once.
        args, keywords = jax.tree.map(lambda x: x, (inputs, kwargs))
        whole = _in_training(eqx, eqx.combine(params, static))
        outputs = (call or type(model).__call__)(whole, *args, **keywords)
        return jax.tree.map(
            lambda x: None if _is_state(eqx, x) else x,
            outputs,
            is_leaf=functools.partial(_is_state, eqx),
        )

    return function, params


def _is_state(eqx: Any, node: Any) -> bool:
    return isinstance(node, eqx.nn.State)


def _in_training(eqx: Any, model: Any) -> Any:
    """A copy of an Equinox model with batch statistics and without dropout."""
    kinds = eqx.nn.BatchNorm, eqx.nn.Dropout

    def changed(node: Any) -> Any:
        if not isinstance(node, kinds):
            return node
        node = copy.copy(node)
        if isinstance(node, eqx.nn.Dropout):
            fields = {"p": 0.0}
        else:
            # In the mode "ema", the norm uses running means. Without momentum these are
            # the statistics of the batch.
            fields = {"inference": False, "momentum": 0.0}
        for key, value in fields.items():
            object.__setattr__(node, key, value)  # a module is a frozen dataclass
        return node

    # Other modules with the flag: it switches their dropout off.
    model = eqx.nn.inference_mode(model)
    return jax.tree.map(changed, model, is_leaf=lambda node: isinstance(node, kinds))


def _framework(name: str, module: Any) -> Any:
    """The framework of a module; raise for a module of another one, and for a class."""
    bases = {
        function: sys.modules[source].Module
        for function, source in SOURCES.items()
        if source in sys.modules
    }
    expected = f"{name}: it must get an instance of {SOURCES[name]}.Module, got "
    if isinstance(module, type):
        raise TypeError(
            f"{expected}the class {module.__name__}. Pass {module.__name__}(...)."
        )
    for function, base in bases.items():
        if isinstance(module, base):
            if function == name:
                return sys.modules[SOURCES[name]]
            raise TypeError(
                f"{expected}the {SOURCES[function]} module {type(module).__name__}. "
                f"Call dx.{function}."
            )
    raise TypeError(
        f"{expected}{short_repr(module)}. For any other model, pass a function of the "
        "parameters to dx.scale_symmetries."
    )
