"""scikit-learn's digits with wrong training labels: a problem where decay matters.

The test part is the same for every run and no choice ever sees it. What is left is
split anew by each seed into training and validation; a share of the training labels,
and of them only, is redrawn uniformly (so one in ten of those stays right by chance).
"""

import enum
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits


CLASSES = 10
TEST_SPLIT_SEED = 2024


class Purpose(enum.IntEnum):
    """What a seed's random numbers are for; every purpose has a key of its own."""

    INIT = 0
    SPLIT = 1
    LABELS = 2
    ORDER = 3


class Digits(NamedTuple):
    """1797 digits of 8 x 8 pixels in [0, 1]: NumPy's, or JAX's once on a device."""

    pool_x: Any  # float32[1200, 64]: training and validation
    pool_y: Any  # int32[1200]
    test_x: Any  # float32[597, 64]
    test_y: Any  # int32[597]


class Split(NamedTuple):
    """One seed's training part, with noise in the labels, and its validation part."""

    train_x: jax.Array  # float32[N, 64]
    train_y: jax.Array  # int32[N], partly wrong
    val_x: jax.Array
    val_y: jax.Array


def load(pool_size: int = 1200) -> Digits:
    """The digits, cut once into a pool and a test part."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(TEST_SPLIT_SEED).permutation(len(y))
    x = (x[order] / 16).astype(np.float32)
    y = y[order].astype(np.int32)
    return Digits(x[:pool_size], y[:pool_size], x[pool_size:], y[pool_size:])


def key_for(seed: jax.typing.ArrayLike, purpose: Purpose) -> jax.Array:
    """Random numbers hang on the seed and their purpose: all arms of a seed share them.

    Never on learning rate, strength, arm or the place of a run in the grid.
    """
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(0), seed), purpose)


def split(seed: jax.typing.ArrayLike, data: Digits, train: int, noise: float) -> Split:
    """Split the pool by seed and redraw a share `noise` of the training labels."""
    order = jax.random.permutation(key_for(seed, Purpose.SPLIT), len(data.pool_y))
    first, rest = order[:train], order[train:]
    coin, label = jax.random.split(key_for(seed, Purpose.LABELS))
    redrawn = jax.random.uniform(coin, (train,)) < noise
    labels = jax.random.randint(label, (train,), 0, CLASSES)
    return Split(
        train_x=data.pool_x[first],
        train_y=jnp.where(redrawn, labels, data.pool_y[first]),
        val_x=data.pool_x[rest],
        val_y=data.pool_y[rest],
    )


def batches(
    seed: jax.typing.ArrayLike, epoch: jax.typing.ArrayLike, part: Split, size: int
) -> tuple[jax.Array, jax.Array]:
    """One epoch of batches in the seed's order, [steps, size, ...]; no ragged last."""
    key = jax.random.fold_in(key_for(seed, Purpose.ORDER), epoch)
    count = len(part.train_y)
    order = jax.random.permutation(key, count)[: count // size * size]
    rows = order.reshape(-1, size)
    return part.train_x[rows], part.train_y[rows]
