"""What a person can mend is told in one line, without a traceback."""


class Problem(Exception):
    """Its text says what is wrong, where, and what to do instead."""
