"""What a value is, as plain data: a plan has a hash, and a reader can read it."""

import dataclasses
import functools
import hashlib
import json
import sys
from typing import Any

import numpy as np


def describe(value: Any) -> Any:
    """Dataclasses, tuples, functions and their `partial`s as JSON-able data.

    Raises:
        TypeError: for what has no name of its own, such as a lambda or a function
            made inside another: two of them would look alike.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return {"is": _name(type(value))} | _described(fields)
    if isinstance(value, functools.partial):
        call = {"call": describe(value.func), "with": describe(list(value.args))}
        return call | {"named": _described(value.keywords)}
    if isinstance(value, tuple) and (fields := getattr(value, "_fields", None)):
        named = dict(zip(fields, value, strict=True))
        return {"is": _name(type(value))} | _described(named)
    if isinstance(value, dict):
        return _described(value)
    if isinstance(value, list | tuple | range):
        return [describe(item) for item in value]
    if callable(value):
        return _name(value)
    raise TypeError(f"a plan cannot hold {value!r}: it has no description")


def digest(value: Any) -> str:
    """Twelve hex digits that change with anything in the description."""
    text = json.dumps(describe(value), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _described(items: dict[Any, Any]) -> dict[str, Any]:
    return {str(key): describe(item) for key, item in items.items()}


def _name(value: Any) -> str:
    """Where a function or class is found: what is not found there has no name."""
    module, name = (getattr(value, x, "") for x in ("__module__", "__qualname__"))
    found = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is not value:
        raise TypeError(
            f"a plan cannot hold {name or value!r}: give it a name at the top of a "
            "module, and its numbers with functools.partial"
        )
    return f"{module}.{name}"
