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
from decayax._transforms.trees import is_optimizer


# What the arguments for a weight decay are called in Optax.
STRENGTHS = ("weight_decay", "weight_decay_rate", "adam_weight_decay")


class DeclaredDecay(NamedTuple):
    """The weight decays that an optimizer was given."""

    strengths: tuple[float, ...]  # those that are not 0; nan for a schedule
    max_per_parameter: int  # how many of them can act on one parameter
    masked: bool  # some act on part of the parameters only, so they may never meet


def declared_decay(optimizer: Any) -> DeclaredDecay:
    """The weight decays that an optimizer or an ``optax.MultiSteps`` was given."""
    # The cell of a variable -> strength, group. Init and update share the cell.
    found: dict[int, tuple[float, str]] = {}
    masked = False
    for function, group in _library_functions(optimizer, set(), group=""):
        for cell_id, name, value in _closure_variables(function):
            masked |= name == "mask" and value is not None
            if _is_of_mechanize(function):  # a decay of its scale, not of the weights
                continue
            if name in STRENGTHS and (strength := _strength(value)):
                found[cell_id] = strength, group
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


def _library_functions(
    node: Any, seen: set[int], group: str
) -> Iterator[tuple[types.FunctionType, str]]:
    """The functions of Optax and decayax inside ``node``, each with its group.

    The group is the path of labels through optax.partition. Functions of the user are
    not read: their closures may hold anything, such as a whole configuration with an
    entry ``weight_decay``.
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
                yield from _library_functions(value, seen, f"{group}/{label}")
    elif not _is_library_code(node):
        return
    elif isinstance(node, types.FunctionType):  # init or update
        yield node, group
        inner = [value for _, _, value in _closure_variables(node)]
    elif isinstance(node, types.MethodType):  # MultiSteps.update
        inner = [node.__func__, node.__self__]
    elif hasattr(node, "__dict__"):  # MultiSteps
        inner = list(vars(node).values())
    for value in inner:
        yield from _library_functions(value, seen, group)


def _closure_variables(function: types.FunctionType) -> Iterator[tuple[int, str, Any]]:
    """The variables in the closure of one function: id of the cell, name, value."""
    cells = function.__closure__ or ()
    for name, cell in zip(function.__code__.co_freevars, cells, strict=True):
        try:
            value = cell.cell_contents
        except ValueError:  # the variable is not assigned yet
            continue
        yield id(cell), name, value
        if name == "numeric_hps":  # optax.inject_hyperparams keeps numbers in a dict
            for key, number in value.items():
                yield id(cell), key, number


def _is_library_code(node: Any) -> bool:
    """Whether a function or an instance comes from the modules of Optax or decayax."""
    is_function = isinstance(node, types.FunctionType | types.MethodType)
    module = (node if is_function else type(node)).__module__ or ""
    return module.split(".")[0] in ("optax", "decayax")


def _is_of_mechanize(function: types.FunctionType) -> bool:
    return function.__module__.startswith("optax.contrib._mechanic")
