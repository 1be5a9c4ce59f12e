"""Checks of arguments that several files need."""

import math
from typing import Any

from decayax._core.strength import short_repr


def as_positive(name: str, argument: str, value: Any) -> float:
    """A finite number > 0, as a float."""
    try:
        number = math.nan if isinstance(value, bool | str) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0.0 < number < math.inf:
        raise ValueError(
            f"{name}: {argument} must be a finite number > 0, got {short_repr(value)}."
        )
    return number


def one_of(
    name: str, argument: str, value: Any, known: tuple[str, ...], hint: str = ""
) -> None:
    """Raise if a value is not one of the known words."""
    if value not in known:
        words = ", ".join(map(repr, known))
        got = short_repr(value)
        must = f"{name}: {argument} must be one of {words}, got {got}."
        raise ValueError(f"{must} {hint}".rstrip())


def whole(name: str, argument: str, value: Any) -> int:
    """An integer >= 1."""
    number = as_positive(name, argument, value)
    if number != int(number):
        raise ValueError(
            f"{name}: {argument} must be a whole number, got {short_repr(value)}."
        )
    return int(number)
