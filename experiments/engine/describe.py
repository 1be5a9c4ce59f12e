"""Describe a value as plain data.

The description of a plan is stored in its manifest, and the hash of the plan is the
hash of its description.
"""

import dataclasses
import functools
import hashlib
import json
import sys
from typing import Any

import numpy as np


LATER = "later"  # in the metadata of a field


def later(default: Any) -> Any:
    """Make a field for a plan of which results are stored already.

    It is described only if it is not the default, so the hashes of stored plans do not
    change.
    """
    return dataclasses.field(default=default, metadata={LATER: True})


def describe(value: Any) -> Any:
    """Turn dataclasses, tuples, functions and `partial`s into data that JSON can store.

    Raises:
        TypeError: the value has no description. A lambda or a function inside another
            function has no unique name, so two of them would have one description.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            f.name: getattr(value, f.name)
            for f in dataclasses.fields(value)
            if LATER not in f.metadata or getattr(value, f.name) != f.default
        }
        return {"is": _name(type(value))} | _described(fields)
    if isinstance(value, functools.partial):
        call = {"call": describe(value.func), "with": describe(list(value.args))}
        return call | {"named": _described(value.keywords)}
    names = getattr(value, "_fields", ())
    if isinstance(value, tuple) and names:  # a NamedTuple
        named = dict(zip(names, value, strict=True))
        return {"is": _name(type(value))} | _described(named)
    if isinstance(value, dict):
        return _described(value)
    if isinstance(value, list | tuple | range):
        return [describe(item) for item in value]
    if callable(value):  # a function or a class
        return _name(value)
    raise TypeError(
        f"a plan cannot hold {value!r}. Use numbers, text, lists, dicts, NamedTuples, "
        "dataclasses, and functions at the top of a module."
    )


def digest(value: Any) -> str:
    """Return the hash of the description, as twelve hex digits."""
    text = json.dumps(describe(value), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _described(items: dict[Any, Any]) -> dict[str, Any]:
    return {str(key): describe(item) for key, item in items.items()}


def _name(value: Any) -> str:
    """Return the full name of a function or class.

    Raises:
        TypeError: the value is not found under its name.
    """
    module = getattr(value, "__module__", "")
    name = getattr(value, "__qualname__", "")
    found = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is not value:
        raise TypeError(
            f"a plan cannot hold {name or value!r}. Define it at the top of a module, "
            "and pass its numbers with functools.partial."
        )
    return f"{module}.{name}"
