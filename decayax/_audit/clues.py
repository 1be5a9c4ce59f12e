"""Strengths that an optimizer was given, as far as its functions show them.

Optax builds optimizers from functions that remember their arguments. What these
remember under the name of a weight decay is a clue that somebody wanted one, where the
behaviour alone cannot tell "none" from "none wanted".
"""

import functools
import numbers
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


def clues(optimizer: Any) -> Clues:
    """The decays that an optimizer remembers having been given."""
    found: dict[int, float] = {}
    groups = False
    for memory in _remembered(optimizer, set()):
        groups |= "partition" in memory.owner or "multi_transform" in memory.owner
        if memory.name in STRENGTHS and (strength := _strength(memory.value)):
            found[memory.place] = strength
    return Clues(tuple(found.values()), groups)


def _strength(value: Any) -> float | None:
    if callable(value):
        return float("nan")
    if isinstance(value, numbers.Real | np.ndarray | jax.Array) and is_known(value):
        return float(value) if np.shape(value) == () else None
    return None


class Memory(NamedTuple):
    """What a function remembers."""

    owner: str  # the function
    name: str  # the variable
    value: Any
    place: int  # init and update of one transform remember in the same place


def _remembered(node: Any, seen: set[int]) -> Iterator[Memory]:
    """What the functions within remember."""
    if id(node) in seen:
        return
    seen.add(id(node))
    inner: list[Any] = []
    if isinstance(node, functools.partial):
        inner = [node.func, *node.args, *node.keywords.values()]
        for name, value in node.keywords.items():
            owner = getattr(node.func, "__qualname__", "")
            yield Memory(owner, name, value, id(node))
    elif isinstance(node, tuple | list):
        inner = list(node)
    elif isinstance(node, dict):
        inner = list(node.values())
        for name, value in node.items():
            yield Memory("dict", name, value, id(node))
    elif getattr(node, "__closure__", None):
        names = node.__code__.co_freevars
        for name, cell in zip(names, node.__closure__, strict=True):
            try:
                value = cell.cell_contents
            except ValueError:  # not assigned yet
                continue
            yield Memory(node.__qualname__, name, value, id(cell))
            inner.append(value)
    elif hasattr(node, "__func__"):
        inner = [node.__func__, node.__self__]
    elif hasattr(node, "__dict__") and not isinstance(node, type | jax.Array):
        inner = list(vars(node).values())
    for value in inner:
        yield from _remembered(value, seen)
