"""Scripts that measure speed or make a table of Optax's optimizers.

`python -m experiments list` prints their names and questions. No study needs them.
"""
