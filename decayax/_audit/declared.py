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
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from decayax._core.paths import leaves_with_path
from decayax._core.strength import is_concrete
from decayax._transforms.trees import is_optimizer
from decayax.masks._mask import decide


# What the arguments for a weight decay are called in Optax.
STRENGTHS = ("weight_decay", "weight_decay_rate", "adam_weight_decay")


class DeclaredDecay(NamedTuple):
    """The weight decays that an optimizer was given."""

    strengths: tuple[float, ...]  # those that are not 0; nan for a schedule
    max_per_parameter: int  # how many of them can act on one weight
    masked: bool  # a mask is not known here, so they may never meet


class Place(NamedTuple):
    """Where a decay acts."""

    group: str = ""  # the path of labels through optax.partition
    masks: tuple[Any, ...] = ()  # that are around it, outermost first


def declared_decay(optimizer: Any, params: optax.Params) -> DeclaredDecay:
    """The weight decays that an optimizer or an ``optax.MultiSteps`` was given."""
    # The cell of a variable -> strength, place. Init and update share the cell.
    found: dict[int, tuple[float, Place]] = {}
    for function, place in _library_functions(optimizer, set(), Place()):
        if _is_of_mechanize(function):  # a decay of its scale, not of the weights
            continue
        for cell_id, name, value in _closure_variables(function):
            if name in STRENGTHS and (strength := _strength(value)):
                found[cell_id] = strength, place
    places = [place for _, place in found.values()]
    try:
        selected = [_selected(place.masks, params) for place in places]
        masked = False
    except Exception:  # a function of the user, or for other parameters than these
        selected = [_selected((), params)] * len(places)
        masked = any(place.masks for place in places)
    return DeclaredDecay(
        strengths=tuple(sorted(strength for strength, _ in found.values())),
        max_per_parameter=_most_on_one_weight(places, selected),
        masked=masked,
    )


def _selected(masks: tuple[Any, ...], params: optax.Params) -> dict[Any, Any]:
    """By path: whether all masks select the parameter, or which of its weights."""
    selected = {path: np.ones((), bool) for path, _ in leaves_with_path(params)}
    for mask in masks:
        for path, decision in decide("audit", mask, params).items():
            selected[path] = selected[path] & (np.asarray(decision.multiplier) != 0)
    return selected


def _most_on_one_weight(places: list[Place], selected: list[dict[Any, Any]]) -> int:
    """How many decays of one group meet at a weight."""
    most = 0
    for group in {place.group for place in places}:
        meeting = [
            own
            for place, own in zip(places, selected, strict=True)
            if place.group in ("", group)
        ]
        for path in meeting[0]:
            count = sum(own[path].astype(int) for own in meeting)
            most = max(most, int(np.max(count, initial=0)))
    return most


def _strength(value: Any) -> float | None:
    """A strength as a float, nan for a schedule; None if the value is unknown."""
    if callable(value):
        return float("nan")
    if isinstance(value, np.ndarray | jax.Array):
        return float(value) if is_concrete(value) and value.shape == () else None
    return float(value) if isinstance(value, numbers.Real) else None


def _library_functions(
    node: Any, seen: set[int], place: Place
) -> Iterator[tuple[types.FunctionType, Place]]:
    """The functions of Optax and decayax inside ``node``, each with its place.

    Functions of the user are not read: their closures may hold anything, such as a
    whole configuration with an entry ``weight_decay``.
    """
    if id(node) in seen:  # init and update share variables; objects may form cycles
        return
    seen.add(id(node))
    inner: list[Any] = []
    if isinstance(node, tuple | list):  # a GradientTransformation, or those of a chain
        inner = list(node)
        place = _inside(place, getattr(node, "mask", None))  # of a decayax method
    elif isinstance(node, dict):  # `transforms` of optax.partition: label -> optimizer
        for label, value in node.items():
            if is_optimizer(value):
                own = place._replace(group=f"{place.group}/{label}")
                yield from _library_functions(value, seen, own)
    elif not _is_library_code(node):
        return
    elif isinstance(node, types.FunctionType):  # init or update
        variables = {name: value for _, name, value in _closure_variables(node)}
        place = _inside(place, variables.get("mask"))  # of optax.masked
        yield node, place
        inner = list(variables.values())
    elif isinstance(node, types.MethodType):  # MultiSteps.update
        inner = [node.__func__, node.__self__]
    elif hasattr(node, "__dict__"):  # MultiSteps
        inner = list(vars(node).values())
    for value in inner:
        yield from _library_functions(value, seen, place)


def _inside(place: Place, mask: Any) -> Place:
    return place if mask is None else place._replace(masks=(*place.masks, mask))


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
