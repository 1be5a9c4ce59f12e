"""Checks of arguments that several files need."""

import math
from typing import Any

import numpy as np

from decayax._core.strength import short_repr


def as_number(name: str, argument: str, value: Any, *, zero: bool = False) -> float:
    """A finite number > 0, or >= 0, as a float."""
    try:
        is_other = isinstance(value, bool | np.bool_ | str | bytes)
        number = math.nan if is_other else float(value)
    except (TypeError, ValueError, OverflowError):  # also of a tracer
        number = math.nan
    if not 0.0 <= number < math.inf or (number == 0.0 and not zero):
        least = ">= 0" if zero else "> 0"
        got = short_repr(value)
        raise ValueError(
            f"{name}: {argument} must be a finite number {least}, got {got}."
        )
    return number


def one_of(
    name: str, argument: str, value: Any, known: tuple[str, ...], hint: str = ""
) -> None:
    """Raise if a value is not one of the known words."""
    if not isinstance(value, str) or value not in known:
        words = ", ".join(map(repr, known))
        got = short_repr(value)
        must = f"{name}: {argument} must be one of {words}, got {got}."
        raise ValueError(f"{must} {hint}".rstrip())


def whole(name: str, argument: str, value: Any) -> int:
    """An integer >= 1; also a float that is one."""
    try:
        number = as_number(name, argument, value)
    except ValueError:
        number = math.nan
    if not number.is_integer():
        raise ValueError(
            f"{name}: {argument} must be a whole number >= 1, got {short_repr(value)}."
        )
    return int(number)
