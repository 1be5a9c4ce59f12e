"""Errors that the user can fix. They are printed as one line, without a traceback."""

import os
import traceback
from pathlib import Path


class UserError(Exception):
    """The message says what is wrong, where, and what to write instead."""


def fault_of(path: Path, error: Exception) -> str:
    """Describe an error in a user's file, such as "a.py, line 3: NameError: ...".

    Args:
        path: the file.
        error: what it raised when it was imported or called.
    """
    frames = traceback.extract_tb(error.__traceback__)
    lines = [each.lineno for each in frames if is_same_file(each.filename, path)]
    where = f"{path.name}, line {lines[-1]}" if lines else path.name
    text = str(error)
    if isinstance(error, SyntaxError):
        text = error.msg
        where = f"{Path(error.filename or path).name}, line {error.lineno}"
    first = text.strip().partition("\n")[0].rstrip(".")
    return f"{where}: {type(error).__name__}{': ' if first else ''}{first}."


def is_same_file(name: str, path: Path) -> bool:
    """Whether a name, such as that of a frame or a module's origin, is the file."""
    return os.path.exists(name) and path.samefile(name)
