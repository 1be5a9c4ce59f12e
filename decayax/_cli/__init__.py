"""The command ``python -m decayax``.

`arguments` reads the command line, `load` imports the user's objects, `plain` makes
data for JSON, and `command` runs all of it.
"""
