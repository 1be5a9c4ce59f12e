"""Strengths that an optimizer was given, as far as its functions show them.

Optax builds optimizers from functions that remember their arguments. What these
remember under the name of a weight decay is a clue that somebody wanted one, where the
behaviour alone cannot tell "none" from "none wanted".
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


STRENGTHS = ("weight_decay", "weight_decay_rate", "adam_weight_decay")


class Clues(NamedTuple):
    """The strengths found, and how many of them may meet in one parameter."""

    strengths: tuple[float, ...]  # known and not 0; nan for a schedule
    together: int  # the most in any one group of optax.partition
    masked: bool  # some for a part of the parameters, so that they may never meet


def clues(optimizer: Any) -> Clues:
    """The decays that an optimizer remembers having been given."""
    found: dict[int, tuple[float, str]] = {}
    masked = False
    for memory in _remembered(optimizer, set(), ""):
        masked |= memory.name == "mask" and memory.value is not None
        if memory.name in STRENGTHS and (strength := _strength(memory.value)):
            found[memory.place] = strength, memory.group
    groups = Counter(group for _, group in found.values())
    for_all = groups.pop("", 0)
    together = for_all + max(groups.values(), default=0)
    strengths = tuple(sorted(strength for strength, _ in found.values()))
    return Clues(strengths, together, masked)


def _strength(value: Any) -> float | None:
    if callable(value):
        return float("nan")
    if isinstance(value, np.ndarray | jax.Array):
        return float(value) if is_concrete(value) and value.shape == () else None
    return float(value) if isinstance(value, numbers.Real) else None


class Memory(NamedTuple):
    """What a function remembers."""

    name: str  # the variable
    value: Any
    place: int  # init and update of one transform remember in the same place
    group: str  # of optax.partition, else ""


def _remembered(node: Any, seen: set[int], group: str) -> Iterator[Memory]:
    """What the functions of Optax and decayax within remember, and no others.

    A user's schedules and masks may hold anything, a whole configuration or a module.
    """
    if id(node) in seen:
        return
    seen.add(id(node))
    inner: list[Any] = []
    if isinstance(node, tuple | list):
        inner = list(node)
    elif isinstance(node, dict):  # the transforms of optax.partition by label
        for label, value in node.items():
            if is_optimizer(value):
                yield from _remembered(value, seen, f"{group}/{label}")
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
                    yield Memory(key, number, id(cell), group)
            yield Memory(name, value, id(cell), group)
            inner.append(value)
    elif isinstance(node, types.MethodType):
        inner = [node.__func__, node.__self__]
    elif hasattr(node, "__dict__"):
        inner = list(vars(node).values())
    for value in inner:
        yield from _remembered(value, seen, group)


def _is_of_the_house(node: Any) -> bool:
    """Whether Optax or decayax wrote it; not whether it is one of the two."""
    if isinstance(node, types.FunctionType | types.MethodType):
        module = node.__module__ or ""
    else:
        module = "" if isinstance(node, type) else type(node).__module__
    return module.split(".")[0] in ("optax", "decayax")
