"""Strengths that an optimizer was given, as far as its functions show them.

Optax builds optimizers from functions that remember their arguments. What these
remember under the name of a weight decay is a clue that somebody wanted one, where the
behaviour alone cannot tell "none" from "none wanted".
"""

import numbers
import types
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from decayax._strength import is_known


STRENGTHS = ("weight_decay", "weight_decay_rate", "adam_weight_decay")


class Clues(NamedTuple):
    """The strengths found, and whether they are for different groups of parameters."""

    strengths: tuple[float, ...]  # known and not 0; nan for a schedule
    groups: bool
    masked: bool  # some for a part of the parameters, so that they may never meet


def clues(optimizer: Any) -> Clues:
    """The decays that an optimizer remembers having been given."""
    found: dict[int, float] = {}
    groups = masked = False
    for memory in _remembered(optimizer, set()):
        groups |= "partition" in memory.owner or "multi_transform" in memory.owner
        masked |= memory.name == "mask" and memory.value is not None
        if memory.name in STRENGTHS and (strength := _strength(memory.value)):
            found[memory.place] = strength
    return Clues(tuple(sorted(found.values())), groups, masked)


def _strength(value: Any) -> float | None:
    if callable(value):
        return float("nan")
    if isinstance(value, np.ndarray | jax.Array):
        return float(value) if is_known(value) and value.shape == () else None
    return float(value) if isinstance(value, numbers.Real) else None


class Memory(NamedTuple):
    """What a function remembers."""

    owner: str  # the function
    name: str  # the variable
    value: Any
    place: int  # init and update of one transform remember in the same place


def _remembered(node: Any, seen: set[int]) -> Iterator[Memory]:
    """What the functions of Optax and decayax within remember, and no others.

    A user's schedules and masks may hold anything, a whole configuration or a module.
    """
    if id(node) in seen:
        return
    seen.add(id(node))
    inner: list[Any] = []
    if isinstance(node, tuple | list):
        inner = list(node)
    elif not _is_of_the_house(node):
        return
    elif isinstance(node, types.FunctionType):
        cells = node.__closure__ or ()
        for name, cell in zip(node.__code__.co_freevars, cells, strict=True):
            try:
                value = cell.cell_contents
            except ValueError:  # not assigned yet
                continue
            if name == "numeric_hps":  # of inject_hyperparams
                for key, number in value.items():
                    yield Memory(node.__qualname__, key, number, id(cell))
            yield Memory(node.__qualname__, name, value, id(cell))
            inner.append(value)
    elif isinstance(node, types.MethodType):
        inner = [node.__func__, node.__self__]
    elif hasattr(node, "__dict__"):
        inner = list(vars(node).values())
    for value in inner:
        yield from _remembered(value, seen)


def _is_of_the_house(node: Any) -> bool:
    """Whether Optax or decayax wrote it; not whether it is one of the two."""
    if isinstance(node, types.FunctionType | types.MethodType):
        module = node.__module__ or ""
    else:
        module = "" if isinstance(node, type) else type(node).__module__
    return module.split(".")[0] in ("optax", "decayax")
