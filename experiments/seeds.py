"""Every random number is a function of the seed and its purpose only.

It does not depend on the learning rate, the weight decay, the arm or the position of a
run in the grid. So every arm gets the same initial weights, labels and batches for one
seed, and a grid can grow without a change of its runs.
"""

import enum

import jax


class Purpose(enum.IntEnum):
    """What random numbers are used for. Each purpose has its own key."""

    INIT = 0  # initial weights
    SPLIT = 1  # which rows train, validate and test
    LABELS = 2  # label noise
    ORDER = 3  # batches of an epoch
    SCALES = 4  # scales of the input features
    DROPOUT = 5


def key_for(seed: jax.typing.ArrayLike, purpose: Purpose) -> jax.Array:
    """Return the random key of a seed for a purpose."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(0), seed), purpose)
