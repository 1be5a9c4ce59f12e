"""Where in the user's model an operation is."""

import os
import sys
from typing import Any

from jax.extend import core


# Frames of these packages are not the user's code.
LIBRARIES = ("jax", "flax", "equinox", "haiku", "decayax")


def place_of(eqn: core.JaxprEqn, scope: str) -> str:
    """The scopes around an operation, or else its line in the user's code.

    Flax adds the names of its modules to the scopes.
    """
    full = join_scopes(scope, eqn)
    return f"{eqn.primitive.name} in {full or _line(eqn) or 'the function'}"


def join_scopes(scope: str, eqn: core.JaxprEqn) -> str:
    own = str(eqn.source_info.name_stack)
    return "/".join(filter(None, [scope, own]))


def _line(eqn: core.JaxprEqn) -> str:
    traceback: Any = eqn.source_info.traceback
    modules = [sys.modules[name] for name in LIBRARIES if name in sys.modules]
    folders = tuple(os.path.dirname(m.__file__ or "") + os.sep for m in modules)
    for frame in traceback.frames if traceback else ():
        if not frame.file_name.startswith(folders):
            return f"{os.path.basename(frame.file_name)}:{frame.line_num}"
    return ""
