"""Handle Ctrl-C and SIGTERM at safe points only.

A signal handler that raises can interrupt any line: a compilation, after which JAX does
not work any more, or a callback that ignores exceptions. So the handler only records
the signal, and the code calls `raise_if_interrupted` at safe points.
"""

import signal


_received: list[int] = []  # signal numbers; global, because signals are per process


class Interrupted(Exception):
    """Raised by `raise_if_interrupted`. Its argument is the signal number."""


def install_handlers() -> None:
    """Record the first signal of each kind. A second one ends the process at once."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _record)


def raise_if_interrupted() -> None:
    """Raise `Interrupted` if a signal was received."""
    if _received:
        raise Interrupted(_received[0])


def _record(number: int, _frame: object) -> None:
    _received.append(number)
    signal.signal(number, signal.SIG_DFL)
