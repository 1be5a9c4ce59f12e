"""How a command ends: with a status, or with one line that says what went wrong."""

import errno
import importlib.util
import sys
from collections.abc import Callable
from typing import NoReturn

from experiments import interrupts
from experiments.problem import Problem


# Package by module: what the experiments need and the library does without.
EXTRAS = {
    "flax": "flax",
    "sklearn": "scikit-learn",
    "matplotlib": "matplotlib",
    "rich": "rich",
}
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no room for a file


def end_with(command: Callable[[], int]) -> NoReturn:
    """Run a command and end the process with its status."""
    interrupts.listen()
    try:
        _require_extras()
        sys.exit(command())
    except Problem as problem:
        sys.exit(f"experiments: {problem}")
    except OSError as error:
        said = f"experiments: {error.strerror or error}: {error.filename or 'writing'}."
        if error.errno in FULL:
            said += " Files written before are whole; --resume goes on from them."
        sys.exit(said)
    except interrupts.Interrupted as stop:
        why = f"interrupted {'; '.join(getattr(stop, '__notes__', ()))}".strip()
        print(f"experiments: {why}. No file is left half-written.", file=sys.stderr)
        sys.exit(128 + stop.args[0])


def _require_extras() -> None:
    """End with one line, before any work, where a package is missing."""
    for module, package in EXTRAS.items():
        if importlib.util.find_spec(module) is None:
            sys.exit(
                f"experiments: {package} is not installed. Install what the "
                "experiments need with: pip install 'decayax[experiments]' "
                "(in a checkout: pip install -e '.[experiments]')"
            )
