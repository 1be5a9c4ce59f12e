"""The user's objects: imported by name, and called if they are functions.

A mistake in the command line is one line of text. An error in the user's own code is
shown with its traceback, from the user's first line on.
"""

import functools
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import jax

from decayax._cli.traces import users_traceback
from decayax._core.strength import short_repr
from decayax._transforms.trees import is_optimizer


FORM = "package.module:name or path/to/file.py:name"


class CommandError(Exception):
    """What is wrong with the command line or the user's code, and a traceback."""

    def __init__(self, message: str, traceback: str = "") -> None:
        super().__init__(message)
        self.traceback = traceback


def load(option: str, target: str) -> Any:
    """The object that ``package.module:name`` or ``path/to/file.py:name`` names."""
    module_name, _, name = target.rpartition(":")
    if not module_name or not name:
        raise CommandError(f"{option} must be {FORM}, got {target!r}.")
    is_file = module_name.endswith(".py")
    module = _from_file(option, module_name) if is_file else _module(option, target)
    try:
        return functools.reduce(getattr, name.split("."), module)
    except AttributeError:
        own = vars(module).items()
        public = [
            key
            for key, value in own
            if key[0] != "_" and not isinstance(value, ModuleType)
        ]
        raise CommandError(
            f"{option}: {module_name} has no {name!r}. It has {', '.join(public)}."
        ) from None


def _module(option: str, target: str) -> ModuleType:
    _add_to_path(Path.cwd())
    name = target.rpartition(":")[0]
    try:
        return _run(option, f"the import of {name}", importlib.import_module, name)
    except ModuleNotFoundError as error:
        raise CommandError(
            f"{option}: there is no module {error.name!r}, neither in "
            f"{Path.cwd()} nor among the installed packages. Go to the folder of the "
            f"module, or write path/to/file.py:name."
        ) from None


def _from_file(option: str, name: str) -> ModuleType:
    """The module of a file. A file that is named twice runs once."""
    path = Path(name).resolve()
    if not path.is_file():
        raise CommandError(f"{option}: there is no file {path}.")
    loaded = sys.modules.get(path.stem)
    if loaded is not None:
        if getattr(loaded, "__file__", None) == str(path):
            return loaded
        raise CommandError(
            f"{option}: {path} has the name of a module that is already imported, "
            f"{path.stem}. Rename the file."
        )
    _add_to_path(path.parent)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None  # the name ends with ".py"
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # as an import does: dataclasses look it up
    _run(option, f"the import of {path}", spec.loader.exec_module, module)
    return module


def _add_to_path(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def load_optimizer(target: str, learning_rate: float | None) -> Any:
    """An optimizer, or a function learning_rate -> optimizer."""
    found = load("OPTIMIZER", target)
    if inspect.isclass(found):
        raise CommandError(
            f"OPTIMIZER: {target} is a class. Name an optimizer, or a function that "
            "returns one."
        )
    is_factory = callable(found) and not is_optimizer(found)
    if is_factory and learning_rate is None and _needs_no_arguments(found):
        return _run("OPTIMIZER", f"{target}()", found)
    if learning_rate is not None and not (is_factory and _accepts_one(found)):
        raise CommandError(
            "--learning-rate needs a function learning_rate -> optimizer, but "
            f"{target} is {short_repr(found)}. Leave --learning-rate out."
        )
    return _showing_errors(target, found) if is_factory else found


def load_params(target: str) -> Any:
    """A tree of parameters, perhaps from a function without arguments."""
    found = load("--params", target)
    if not callable(found) or not jax.tree_util.all_leaves([found]):
        return found  # also an Equinox model, which is a tree that can be called
    if _needs_no_arguments(found):
        return _run("--params", f"{target}()", found)
    if inspect.isroutine(found):
        raise CommandError(
            f"--params: {target} needs arguments, {inspect.signature(found)}. Write a "
            "function without arguments that calls it, and name this function."
        )
    return found


def _needs_no_arguments(function: Callable) -> bool:
    return _binds(function)


def _accepts_one(function: Callable) -> bool:
    return _binds(function, 1e-3)


def _binds(function: Callable, *args: Any) -> bool:
    try:
        inspect.signature(function).bind(*args)
    except (TypeError, ValueError):  # other arguments; a builtin without signature
        return False
    return True


def _showing_errors(target: str, factory: Callable) -> Callable:
    """The factory; an error in it is shown with its traceback."""

    def build(learning_rate: float) -> Any:
        call = f"{target}({learning_rate})"
        return _run("OPTIMIZER", call, factory, learning_rate)

    return build


def _run(option: str, what: str, function: Callable, *args: Any) -> Any:
    """Call the user's code. A module that does not exist is not an error of it."""
    try:
        return function(*args)
    except SystemExit as stop:
        raise CommandError(
            f"{option}: {what} ended the program (exit status {stop.code}). Put what "
            'a script runs below `if __name__ == "__main__":`.'
        ) from None
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and _is_part_of(error.name, args):
            raise
        message = f"{option}: {what} raised this error."
        raise CommandError(message, users_traceback(error)) from None


def _is_part_of(name: str | None, args: tuple[Any, ...]) -> bool:
    """Whether the missing module is the requested one, or a package of it."""
    wanted = args[0] if args and isinstance(args[0], str) else ""
    return bool(name) and f"{wanted}.".startswith(f"{name}.")
