"""How an optimizer treats weights, read from its jaxpr without running it.

- `update_kind`: does the update of a weight depend on that weight only?
- `same_operations`: does the optimizer run the same program on smaller shapes?
- `update_dependencies`: does a derivative show how the updates depend on the params?

`dataflow` propagates the dependencies.
"""

from collections.abc import Callable
from typing import Any

import jax
import optax
from jax.extend import core

from decayax._jaxpr.compare import is_same_program
from decayax._jaxpr.dataflow import (
    Dependency,
    ELEMENTWISE_INPUT,
    fixed_point,
    INDEPENDENT,
    join,
    Kind,
    propagate,
    subjaxprs,
)
from decayax._jaxpr.shaped import is_shaped
from decayax._jaxpr.trace import ExtraArgs, OptimizerProgram


def trace_update(
    optimizer: optax.GradientTransformation, params: optax.Params, extra_args: ExtraArgs
) -> core.ClosedJaxpr:
    """The jaxpr of one update, (gradients, state, params) -> (updates, state)."""
    # Annotated, because optax's type of `update` does not admit extra arguments.
    update_fn: Callable[..., Any] = optimizer.update

    def update(gradients: Any, state: Any, params: Any) -> Any:
        return update_fn(gradients, state, params, **extra_args(0))

    state = jax.eval_shape(optimizer.init, params)
    return jax.make_jaxpr(update)(params, state, params)


def is_elementwise(
    optimizer: optax.GradientTransformation,
    params: optax.Params,
    program: core.ClosedJaxpr,
) -> bool:
    """Whether each update depends on its own weight only, in all steps.

    ``program`` is the result of `trace_update`.
    """
    init = jax.make_jaxpr(optimizer.init)(params)
    num_leaves = len(jax.tree.leaves(params))
    return _largest_kind(init.jaxpr, program.jaxpr, num_leaves) <= Kind.ALIGNED


def update_kind(program: OptimizerProgram, *, of_gradients: bool = True) -> Kind:
    """The largest kind of the updates, in all steps.

    The data are parameters, what the state has kept of them and, if ``of_gradients``,
    gradients. ALIGNED means that the update of a weight depends on that weight only,
    COUPLED that all updates also depend on common scalars, such as a global norm.
    """
    return _largest_kind(
        program.init.jaxpr, program.update.jaxpr, program.num_leaves(), of_gradients
    )


def _largest_kind(
    init: core.Jaxpr, program: core.Jaxpr, num_leaves: int, of_gradients: bool = True
) -> Kind:
    data = [ELEMENTWISE_INPUT] * num_leaves
    gradients = data if of_gradients else [INDEPENDENT] * num_leaves
    state = propagate(init, data)
    # The step is an input without data, if the program has it.
    num_others = len(program.invars) - len(state) - 2 * num_leaves
    others = [INDEPENDENT] * num_others
    num_updates = len(program.outvars) - len(state)

    def update(state: list[Dependency]) -> list[Dependency]:
        return propagate(program, [*gradients, *state, *data, *others])

    state = fixed_point(lambda state: update(state)[num_updates:], state)
    return join(update(state)[:num_updates]).kind


def same_operations(
    first: core.ClosedJaxpr, second: core.ClosedJaxpr, rtol: float = 0.0
) -> bool:
    """Whether two programs do the same to leaves of different sizes.

    They run the same operations with the same constants, up to a relative difference
    of ``rtol`` between floats. No constant is built from the size of a leaf.
    """
    return is_same_program(first, second, rtol) and not is_shaped(first, second)


def update_dependencies(
    step: Callable[[Any, Any], Any], state: optax.OptState, params: optax.Params
) -> tuple[list[Dependency], bool]:
    """How each update of ``step(state, params) -> (updates, state)`` depends on params.

    An update is also nondifferentiable if it depends on a state that was made from
    earlier params: a derivative at fixed state does not show that dependence.

    The second result is whether the step has a JVP. ``jax.custom_vjp`` has none.
    """
    program, (updates, _) = jax.make_jaxpr(step, return_shape=True)(state, params)
    data = [ELEMENTWISE_INPUT] * len(jax.tree.leaves(params))
    num_updates = len(jax.tree.leaves(updates))

    def next_state(state: list[Dependency]) -> list[Dependency]:
        new = propagate(program.jaxpr, [*state, *data])[num_updates:]
        # In the next step this state is fixed, but it may have seen the params.
        seen = [dep.nondifferentiable or dep.kind != Kind.CONSTANT for dep in new]
        return [Dependency(Kind.CONSTANT, nondifferentiable=x) for x in seen]

    old_state = fixed_point(next_state, [INDEPENDENT] * len(jax.tree.leaves(state)))
    outputs = propagate(program.jaxpr, [*old_state, *data])
    return outputs[:num_updates], _has_jvp(program.jaxpr)


def _has_jvp(jaxpr: core.Jaxpr) -> bool:
    """Whether no part of a program defines its derivative by ``jax.custom_vjp``."""
    return all(
        not eqn.primitive.name.startswith("custom_vjp_call")
        and all(map(_has_jvp, subjaxprs(eqn)))
        for eqn in jaxpr.eqns
    )
