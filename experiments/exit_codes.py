"""How a command ends: with an exit status, or with one line about the error."""

import errno
import importlib.util
import sys
from collections.abc import Callable
from typing import NoReturn

from experiments import interrupts
from experiments.errors import UserError


DONE = 0
UNFINISHED = 3  # cells of other shards are missing
# From module to package. The experiments need them, the library does not.
EXTRAS = {
    "flax": "flax",
    "sklearn": "scikit-learn",
    "matplotlib": "matplotlib",
    "rich": "rich",
}
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
SIGNAL_BASE = 128  # a shell's exit status for a signal is 128 + its number


def run_and_exit(command: Callable[[], int]) -> NoReturn:
    """Run a command and end the process with its exit status."""
    interrupts.install_handlers()
    try:
        _require_extras()  # before any work
        sys.exit(command())
    except UserError as error:
        sys.exit(f"experiments: {error}")
    except OSError as error:
        file = error.filename or "writing"
        message = f"experiments: {error.strerror or error}: {file}."
        if error.errno in DISK_FULL:
            message += " Files written before are complete; --resume uses them."
        sys.exit(message)
    except interrupts.Interrupted as stop:
        # The notes say how far the run came and which command resumes it.
        notes = "; ".join(getattr(stop, "__notes__", ()))
        message = f"interrupted {notes}".strip()
        print(f"experiments: {message}. No file is left half-written.", file=sys.stderr)
        sys.exit(SIGNAL_BASE + stop.args[0])


def _require_extras() -> None:
    """Exit with one line if a package is missing."""
    for module, package in EXTRAS.items():
        if importlib.util.find_spec(module) is None:
            sys.exit(
                f"experiments: {package} is not installed. Install the packages of "
                "the experiments, in a checkout, with: pip install -e . --group "
                "experiments (pip 25.1 or newer)"
            )
