"""Errors that the user can fix: printed as one line, without a traceback."""


class UserError(Exception):
    """The message says what is wrong, where, and what to do instead."""
