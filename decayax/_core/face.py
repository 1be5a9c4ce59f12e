"""Public names say the public module that they are in, and not a private file."""

from types import FunctionType, ModuleType


def name_public_modules(*modules: ModuleType) -> None:
    """Set ``__module__``, which pickles and documentation use: private files may move.

    If two modules have a name, it belongs to the first.
    """
    for module in modules:
        for value in vars(module).values():
            is_named = isinstance(value, type | FunctionType)
            if is_named and value.__module__.startswith("decayax."):
                value.__module__ = module.__name__
