"""The quotient of an optimizer: one representative for each class of equal leaves.

Give all leaves of a class the same parameters, gradients and state. If the optimizer
then calculates the same update for each of them, it is enough to calculate one.

The classes come from partition refinement. At first, leaves with the same shape, dtype
and key are one class, and so are state leaves that `init` makes alike. A step of
refinement numbers the values of `init` and of `update`, and splits the classes whose
members get different values. The classes are final if no class splits: equal leaves
then stay equal in all steps.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from decayax._jaxpr.flat import flatten, Program, Unsupported
from decayax._jaxpr.numbering import as_arrays, evaluate, number, Numbering
from decayax._jaxpr.owners import entangled
from decayax._jaxpr.trace import OptimizerProgram


class Quotient(NamedTuple):
    """An optimizer of one leaf per class. Its trees are lists, one entry per class."""

    # parameters -> state
    init: Callable[[list[Any]], list[Any]]
    # (gradients, state, parameters, step) -> updates, state
    update: Callable[[list[Any], list[Any], list[Any], Any], tuple[list[Any], ...]]
    representative: list[int]  # the leaf of each class, an index into all leaves
    class_of: list[int]  # the class of each leaf
    state_of: list[int]  # the class of each leaf of the state


class _Classes(NamedTuple):
    """A partition of the leaves and one of the state: the class of each leaf."""

    leaves: list[int]
    state: list[int]


def quotient(program: OptimizerProgram, keys: Sequence[Hashable]) -> Quotient | None:
    """The quotient of an optimizer by the leaves that it treats alike.

    Args:
        program: the result of `trace_optimizer`.
        keys: a key for each leaf; leaves with different keys are never alike.

    Returns:
        None if all leaves differ, or if the optimizer has effects or changes the
        structure of its state.
    """
    if not program.is_closed():
        return None
    try:
        init, update = flatten(program.init), flatten(program.update)
    except Unsupported:
        return None
    leaves = jax.tree.leaves(program.params)
    # A leaf that another one uses is a class of its own.
    own = [i if e else None for i, e in enumerate(entangled(init, update, len(leaves)))]
    classes = _Classes(
        leaves=_classes(
            (x.shape, str(x.dtype), key, i)
            for x, key, i in zip(leaves, keys, own, strict=True)
        ),
        state=_classes(
            (x.shape, str(x.dtype), getattr(x, "weak_type", False))
            for x in jax.tree.leaves(program.state)
        ),
    )
    while True:
        if len(set(classes.leaves)) == len(classes.leaves):
            return None
        of_init, of_update = _number(init, update, classes)
        refined = _refine(classes, of_init, of_update)
        # Equal partitions have equal numbers: those of the first appearances.
        if refined == classes:
            return _quotient(program, classes, of_init, of_update)
        classes = refined


def _classes(labels: Iterable[Hashable]) -> list[int]:
    """Equal labels become equal numbers, in the order of their first appearance."""
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(label, len(numbers)) for label in labels]


def _number(
    init: Program, update: Program, classes: _Classes
) -> tuple[Numbering, Numbering]:
    params = [("param", c) for c in classes.leaves]
    gradients = [("gradient", c) for c in classes.leaves]
    state = [("state", c) for c in classes.state]
    labels = [*gradients, *state, *params, ("step", 0)]
    return number(init, params), number(update, labels)


def _refine(classes: _Classes, of_init: Numbering, of_update: Numbering) -> _Classes:
    num_leaves = len(classes.leaves)
    updates, new_state = of_update.outputs[:num_leaves], of_update.outputs[num_leaves:]
    return _Classes(
        leaves=_classes(zip(classes.leaves, updates, strict=True)),
        state=_classes(zip(classes.state, of_init.outputs, new_state, strict=True)),
    )


def _quotient(
    program: OptimizerProgram,
    classes: _Classes,
    of_init: Numbering,
    of_update: Numbering,
) -> Quotient:
    leaves, state = _first_of_each(classes.leaves), _first_of_each(classes.state)
    first_state = [of_init.outputs[i] for i in state]
    num_leaves = len(classes.leaves)
    wanted = [*leaves, *(num_leaves + i for i in state)]
    outputs = [of_update.outputs[i] for i in wanted]
    first_avals = [jax.tree.leaves(program.state)[i] for i in state]
    all_avals = jax.tree.leaves((program.updates, program.new_state))
    avals = [all_avals[i] for i in wanted]

    def init_fn(params: list[Any]) -> list[Any]:
        values = evaluate(of_init, first_state, _labelled("param", params))
        return as_arrays(values, first_avals)

    def update_fn(
        gradients: list[Any], state: list[Any], params: list[Any], step: Any
    ) -> tuple[list[Any], list[Any]]:
        inputs = _labelled("gradient", gradients) | _labelled("param", params)
        inputs |= _labelled("state", state) | {("step", 0): jnp.asarray(step, "uint32")}
        values = as_arrays(evaluate(of_update, outputs, inputs), avals)
        return values[: len(leaves)], values[len(leaves) :]

    return Quotient(init_fn, update_fn, leaves, classes.leaves, classes.state)


def _labelled(label: str, values: list[Any]) -> dict[Hashable, Any]:
    return {(label, i): x for i, x in enumerate(values)}


def _first_of_each(classes: list[int]) -> list[int]:
    """The first member of each class."""
    return [classes.index(c) for c in range(len(set(classes)))]
