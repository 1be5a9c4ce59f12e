"""Ctrl-C and SIGTERM, handled between two pieces of work and never inside one.

An exception raised by a signal handler can strike anywhere: inside a compilation, which
JAX does not survive, or in a callback that swallows it. So the handler only records the
signal, and code at a safe point calls `raise_if_interrupted`.
"""

import signal


_received: list[int] = []  # signals; global, because they belong to the process


class Interrupted(Exception):
    """Raised by `raise_if_interrupted`; its argument is the number of the signal."""


def install_handlers() -> None:
    """Record the first signal of each kind; the second one ends the process at once."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _record)


def raise_if_interrupted() -> None:
    """Raise `Interrupted` if a signal was received."""
    if _received:
        raise Interrupted(_received[0])


def _record(number: int, _frame: object) -> None:
    _received.append(number)
    signal.signal(number, signal.SIG_DFL)
