"""Random numbers hang on a seed and a purpose, and on nothing else.

Never on learning rate, strength, arm or the place of a run in the grid: so a seed means
the same initial weights, labels and batches for every arm, and a grid can grow.
"""

import enum

import jax


class Purpose(enum.IntEnum):
    """What random numbers are for; every purpose has a key of its own."""

    INIT = 0
    SPLIT = 1
    LABELS = 2
    ORDER = 3
    SCALES = 4
    DROPOUT = 5


def key_for(seed: jax.typing.ArrayLike, purpose: Purpose) -> jax.Array:
    """The key of one seed for one purpose."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(0), seed), purpose)
