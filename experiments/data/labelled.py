"""What a data set for classification is, and how a seed splits it.

The test part is the same for every run and no choice ever sees it. What is left, the
pool, is split anew by each seed into training and validation; a share of the training
labels, and of them only, is redrawn uniformly.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.seeds import key_for, Purpose


class Labelled(NamedTuple):
    """Inputs with classes 0, 1, ...: NumPy's, or JAX's once on a device."""

    pool_x: Any  # float32[N, ...], or int32 for tokens: training and validation
    pool_y: Any  # int32[N]
    test_x: Any  # like pool_x, [M, ...]
    test_y: Any  # int32[M]


class Split(NamedTuple):
    """One seed's parts of the pool, as rows; the labels of training partly wrong."""

    train_rows: jax.Array  # int32[T]
    train_y: jax.Array  # int32[T]
    val_rows: jax.Array  # int32[N - T]


def split(
    seed: jax.typing.ArrayLike,
    pool_y: jax.Array,
    train: int,
    noise: float,
    classes: int,
) -> Split:
    """Split the pool by seed and redraw a share `noise` of the training labels.

    One in `classes` of the redrawn labels stays right by chance.
    """
    order = jax.random.permutation(key_for(seed, Purpose.SPLIT), len(pool_y))
    rows = order[:train]
    coin, label = jax.random.split(key_for(seed, Purpose.LABELS))
    redrawn = jax.random.uniform(coin, (train,)) < noise
    labels = jax.random.randint(label, (train,), 0, classes)
    return Split(rows, jnp.where(redrawn, labels, pool_y[rows]), order[train:])


def batches(
    seed: jax.typing.ArrayLike, epoch: jax.typing.ArrayLike, count: int, size: int
) -> jax.Array:
    """One epoch of `count` examples in the seed's order, [steps, size]: their places.

    The last ones that do not fill a batch are left out, others in each epoch.
    """
    key = jax.random.fold_in(key_for(seed, Purpose.ORDER), epoch)
    order = jax.random.permutation(key, count)[: count // size * size]
    return order.reshape(-1, size)
