"""Public names say the public module that they are in, and not a private file."""

import sys
from types import FunctionType


def name_public_modules(*names: str) -> None:
    """Set ``__module__``, which pickles and documentation use: private files may move.

    If two modules have a name, it belongs to the first.
    """
    for name in names:
        for value in vars(sys.modules[name]).values():
            is_named = isinstance(value, type | FunctionType)
            if is_named and value.__module__.startswith("decayax."):
                value.__module__ = name
