"""Ctrl-C and SIGTERM, heeded between two pieces of work and never amid one.

An exception raised by a signal handler can strike anywhere: amid a compilation, where
JAX does not survive it, or in a callback that swallows it. So the handler only takes a
note, and whoever is at a safe point asks for it.
"""

import signal


_received: list[int] = []  # signals, which belong to the process


class Interrupted(Exception):
    """Raised by `heed`; its argument is the number of the signal."""


def listen() -> None:
    """Take note of the first signal of each kind; the second ends at once."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _note)


def heed() -> None:
    """Stop here if a signal has come."""
    if _received:
        raise Interrupted(_received[0])


def _note(number: int, _frame: object) -> None:
    _received.append(number)
    signal.signal(number, signal.SIG_DFL)
