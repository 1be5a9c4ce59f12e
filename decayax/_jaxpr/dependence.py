"""How an optimizer treats weights, read from its jaxpr without running it.

- `update_kind`: does the update of a weight depend on that weight only?
- `same_operations`: does the optimizer run the same program on smaller shapes?

`dataflow` propagates the dependencies.
"""

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
)
from decayax._jaxpr.shaped import is_shaped
from decayax._jaxpr.trace import OptimizerProgram


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
