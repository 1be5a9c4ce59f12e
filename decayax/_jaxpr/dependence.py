"""How an optimizer treats weights, read from its jaxpr without running it.

- `update_kind`: does the update of a weight depend on that weight only?
- `same_operations`: does the optimizer run the same program on smaller shapes?
- `update_dependencies`: does a derivative show how the updates depend on the params?

`dataflow` propagates the dependencies.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import optax
from jax.extend import core

from decayax._core.dtypes import is_inexact
from decayax._jaxpr.dataflow import (
    closed_subjaxprs,
    Dependency,
    ELEMENTWISE_INPUT,
    fixed_point,
    INDEPENDENT,
    join,
    Kind,
    propagate,
    shape_of,
    subjaxprs,
)
from decayax._jaxpr.flat import value_key
from decayax._jaxpr.shaped import is_shaped
from decayax._jaxpr.trace import ExtraArgs, OptimizerProgram


# What may be between a sum and its division: a cast, or axes of size 1.
KEEPING_ELEMENTS = ("broadcast_in_dim", "convert_element_type", "reshape")
# Parameters of operations that are the same for leaves of all sizes: numbers of axes,
# an exponent, a dtype.
PARAMS_WITHOUT_SIZES = (
    "axes",
    "axis",
    "broadcast_dimensions",
    "dimension",
    "dimension_numbers",
    "dimensions",
    "new_dtype",
    "permutation",
    "y",
)


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
    return _same_program(first, second, rtol) and not is_shaped(first, second)


def _same_program(
    first: core.ClosedJaxpr, second: core.ClosedJaxpr, rtol: float
) -> bool:
    eqns, others = first.jaxpr.eqns, second.jaxpr.eqns
    if len(first.consts) != len(second.consts) or len(eqns) != len(others):
        return False
    consts = zip(first.consts, second.consts, strict=True)
    if not all(_same_value(a, b, rtol) for a, b in consts):
        return False
    makers, other_makers = _makers(eqns), _makers(others)
    return all(
        _same_eqn(a, b, rtol) or (_is_mean(a, makers) and _is_mean(b, other_makers))
        for a, b in zip(eqns, others, strict=True)
    )


def _makers(eqns: Sequence[core.JaxprEqn]) -> dict[Any, core.JaxprEqn]:
    """The equation that calculates each variable."""
    return {var: eqn for eqn in eqns for var in eqn.outvars}


def _is_mean(eqn: core.JaxprEqn, makers: dict[Any, core.JaxprEqn]) -> bool:
    """Whether an equation divides a sum by the number of its terms."""
    total, divisor = eqn.invars[0], eqn.invars[-1]
    if eqn.primitive.name != "div" or not isinstance(divisor, core.Literal):
        return False
    while not isinstance(total, core.Literal) and total in makers:
        maker = makers[total]
        terms, sums = (np.prod(shape_of(x)) for x in (maker.invars[0], total))
        if maker.primitive.name == "reduce_sum":
            return np.size(divisor.val) == 1 and bool(divisor.val * sums == terms)
        if maker.primitive.name not in KEEPING_ELEMENTS or terms != sums:
            return False
        total = maker.invars[0]
    return False


def _same_eqn(first: core.JaxprEqn, second: core.JaxprEqn, rtol: float) -> bool:
    if first.primitive.name != second.primitive.name:
        return False
    if any(first.params.get(x) != second.params.get(x) for x in PARAMS_WITHOUT_SIZES):
        return False
    literals, other_literals = (
        [x.val if isinstance(x, core.Literal) else None for x in eqn.invars]
        for eqn in (first, second)
    )
    inner, other_inner = list(closed_subjaxprs(first)), list(closed_subjaxprs(second))
    if len(literals) != len(other_literals) or len(inner) != len(other_inner):
        return False
    values = zip(literals, other_literals, strict=True)
    programs = zip(inner, other_inner, strict=True)
    return all(_same_value(a, b, rtol) for a, b in values) and all(
        _same_program(a, b, rtol) for a, b in programs
    )


def _same_value(first: Any, second: Any, rtol: float) -> bool:
    """Whether two constants are equal, up to ``rtol`` if they are single floats."""
    if first is None or second is None:  # not a constant
        return first is second
    if value_key(first) == value_key(second):
        return True
    are_floats = all(np.ndim(x) == 0 and is_inexact(x) for x in (first, second))
    return are_floats and abs(first - second) <= rtol * max(abs(first), abs(second))


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
