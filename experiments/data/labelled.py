"""A data set for classification, and how a seed splits it.

The test part is the same for every run, and no choice depends on it. Each seed splits
the pool, which is all other data, into a training and a validation part. A fraction of
the training labels is replaced by uniform random labels.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.seeds import key_for, Purpose


class Labelled(NamedTuple):
    """Inputs with classes 0, 1, ...: NumPy arrays, or JAX arrays on a device."""

    pool_x: Any  # float32[N, ...], or int32 for tokens: training and validation
    pool_y: Any  # int32[N]
    test_x: Any  # like pool_x, [M, ...]
    test_y: Any  # int32[M]


class Split(NamedTuple):
    """The rows of one seed's training and validation parts, and its training labels."""

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
    """Split the pool by seed and replace a fraction `noise` of the training labels.

    By chance, one in `classes` of the new labels is the right one.
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
    """The indices of one epoch of `count` examples in the seed's order, [steps, size].

    Examples that do not fill a last batch are left out, different ones in each epoch.
    """
    key = jax.random.fold_in(key_for(seed, Purpose.ORDER), epoch)
    order = jax.random.permutation(key, count)[: count // size * size]
    return order.reshape(-1, size)
