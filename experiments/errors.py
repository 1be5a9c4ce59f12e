"""Errors that the user can fix. They are printed as one line, without a traceback."""


class UserError(Exception):
    """The message says what is wrong, where, and what to write instead."""
