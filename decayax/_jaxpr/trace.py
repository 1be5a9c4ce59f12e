"""An optimizer as two jaxprs, traced once and read by the other modules."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.extend import core


ExtraArgs = Callable[[Any], dict[str, Any]]  # step -> keywords of `update`


class OptimizerProgram(NamedTuple):
    """The programs of `init` and `update`, and the trees of their results."""

    init: core.ClosedJaxpr  # params -> state
    update: core.ClosedJaxpr  # gradients, state, params, step -> updates, state
    params: Any  # trees of shapes
    state: Any
    updates: Any
    new_state: Any

    def num_leaves(self) -> int:
        """The number of parameters."""
        return len(jax.tree.leaves(self.params))

    def is_closed(self) -> bool:
        """Whether updates and state keep the structures and shapes of their inputs."""
        return _same_shapes(self.params, self.updates) and _same_shapes(
            self.state, self.new_state
        )


def trace_optimizer(
    optimizer: optax.GradientTransformation, params: optax.Params, extra_args: ExtraArgs
) -> OptimizerProgram:
    """Trace an optimizer. ``params`` are arrays or their shapes."""
    # Annotated, because optax's type of `update` does not admit extra arguments.
    update_fn: Callable[..., Any] = optimizer.update

    def update(gradients: Any, state: Any, params: Any, step: Any) -> Any:
        return update_fn(gradients, state, params, **extra_args(step))

    return trace(optimizer.init, update, params)


def trace(
    init: Callable[..., Any], update: Callable[..., Any], params: Any
) -> OptimizerProgram:
    """Trace init(params) and update(gradients, state, params, step)."""
    params = jax.eval_shape(lambda x: x, params)
    init_program, state = jax.make_jaxpr(init, return_shape=True)(params)
    step = jax.ShapeDtypeStruct((), jnp.uint32)
    traced = jax.make_jaxpr(update, return_shape=True)(params, state, params, step)
    program, (updates, new_state) = traced
    return OptimizerProgram(init_program, program, params, state, updates, new_state)


def _same_shapes(first: Any, second: Any) -> bool:
    if jax.tree.structure(first) != jax.tree.structure(second):
        return False
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    return all(a.shape == b.shape for a, b in pairs)
