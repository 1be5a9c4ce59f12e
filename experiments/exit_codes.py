"""How a command ends: with an exit status, or with one line that says what is wrong."""

import errno
import importlib.util
import sys
from collections.abc import Callable
from typing import NoReturn

from experiments import interrupts
from experiments.errors import UserError


DONE, UNFINISHED = 0, 3  # exit status; 3: other shards have cells to train
# Package by module: the experiments need them, the library does not.
EXTRAS = {
    "flax": "flax",
    "sklearn": "scikit-learn",
    "matplotlib": "matplotlib",
    "rich": "rich",
}
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def run_and_exit(command: Callable[[], int]) -> NoReturn:
    """Run a command and end the process with its exit status."""
    interrupts.install_handlers()
    try:
        _require_extras()
        sys.exit(command())
    except UserError as error:
        sys.exit(f"experiments: {error}")
    except OSError as error:
        file = error.filename or "writing"
        message = f"experiments: {error.strerror or error}: {file}."
        if error.errno in DISK_FULL:
            message += " Files written before are complete; --resume goes on from them."
        sys.exit(message)
    except interrupts.Interrupted as stop:
        notes = "; ".join(getattr(stop, "__notes__", ()))
        message = f"experiments: {f'interrupted {notes}'.strip()}."
        print(f"{message} No file is left half-written.", file=sys.stderr)
        sys.exit(128 + stop.args[0])


def _require_extras() -> None:
    """Exit with one line, before any work, if a package is missing."""
    for module, package in EXTRAS.items():
        if importlib.util.find_spec(module) is None:
            sys.exit(
                f"experiments: {package} is not installed. Install what the "
                "experiments need with: pip install 'decayax[experiments]' "
                "(in a checkout: pip install -e '.[experiments]')"
            )
