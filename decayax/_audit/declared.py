"""The weight decays that an optimizer was given, as far as its closures show them.

Optax builds optimizers from functions that keep their arguments in closures. A closure
variable called ``weight_decay`` shows that the user asked for a decay. The behaviour of
the optimizer cannot show this: "nothing decays" may be what the user wants.

This module reads private parts of Optax and decayax. If they change, nothing breaks:
the audit then misses the findings "nothing decays" and "two decays at once", unless the
user passes ``weight_decay=``. A test fails if Optax's closures become unreadable.
"""

import numbers
import types
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from decayax._core.strength import is_concrete
from decayax._transforms.kernel import is_optimizer


# What the arguments for a weight decay are called in Optax.
STRENGTHS = ("weight_decay", "weight_decay_rate", "adam_weight_decay")


class DeclaredDecay(NamedTuple):
    """The weight decays that an optimizer was given."""

    strengths: tuple[float, ...]  # those that are not 0; nan for a schedule
    max_per_parameter: int  # how many of them can act on one parameter
    masked: bool  # some act on part of the parameters only, so they may never meet


def declared_decay(optimizer: Any) -> DeclaredDecay:
    """The weight decays that an optimizer was given.

    Args:
        optimizer: any Optax optimizer, or an ``optax.MultiSteps``.
    """
    found: dict[int, tuple[float, str]] = {}  # cell -> strength, group
    masked = False
    for variable in _closure_variables(optimizer, set(), group=""):
        masked |= variable.name == "mask" and variable.value is not None
        if variable.name in STRENGTHS and (strength := _strength(variable.value)):
            found[variable.cell_id] = strength, variable.group
    per_group = Counter(group for _, group in found.values())
    in_all_groups = per_group.pop("", 0)
    return DeclaredDecay(
        strengths=tuple(sorted(strength for strength, _ in found.values())),
        max_per_parameter=in_all_groups + max(per_group.values(), default=0),
        masked=masked,
    )


def _strength(value: Any) -> float | None:
    """A strength as a float, nan for a schedule; None if the value is unknown."""
    if callable(value):
        return float("nan")
    if isinstance(value, np.ndarray | jax.Array):
        return float(value) if is_concrete(value) and value.shape == () else None
    return float(value) if isinstance(value, numbers.Real) else None


class ClosureVariable(NamedTuple):
    """A variable in the closure of a function."""

    name: str
    value: Any
    cell_id: int  # the same for init and update of one transform
    group: str  # path of labels through optax.partition; "" outside of it


def _closure_variables(
    node: Any, seen: set[int], group: str
) -> Iterator[ClosureVariable]:
    """All closure variables of the functions of Optax and decayax inside ``node``.

    Functions of the user are not read: their closures may hold anything, such as a
    whole configuration with an entry ``weight_decay``.
    """
    if id(node) in seen:  # init and update share variables; objects may form cycles
        return
    seen.add(id(node))
    inner: list[Any] = []
    if isinstance(node, tuple | list):  # a GradientTransformation, or those of a chain
        inner = list(node)
    elif isinstance(node, dict):  # `transforms` of optax.partition: label -> optimizer
        for label, value in node.items():
            if is_optimizer(value):
                yield from _closure_variables(value, seen, f"{group}/{label}")
    elif not _is_library_code(node):
        return
    elif isinstance(node, types.FunctionType):  # init or update
        for variable in _own_variables(node, group):
            yield variable
            inner.append(variable.value)
    elif isinstance(node, types.MethodType):  # MultiSteps.update
        inner = [node.__func__, node.__self__]
    elif hasattr(node, "__dict__"):  # MultiSteps
        inner = list(vars(node).values())
    for value in inner:
        yield from _closure_variables(value, seen, group)


def _own_variables(
    function: types.FunctionType, group: str
) -> Iterator[ClosureVariable]:
    """The variables in the closure of one function."""
    cells = function.__closure__ or ()
    for name, cell in zip(function.__code__.co_freevars, cells, strict=True):
        try:
            value = cell.cell_contents
        except ValueError:  # the variable is not assigned yet
            continue
        if name == "numeric_hps":  # optax.inject_hyperparams keeps numbers in a dict
            for key, number in value.items():
                yield ClosureVariable(key, number, id(cell), group)
        yield ClosureVariable(name, value, id(cell), group)


def _is_library_code(node: Any) -> bool:
    """Whether a function or an instance comes from the modules of Optax or decayax."""
    if isinstance(node, types.FunctionType | types.MethodType):
        module = node.__module__ or ""
    else:
        module = "" if isinstance(node, type) else type(node).__module__
    return module.split(".")[0] in ("optax", "decayax")
