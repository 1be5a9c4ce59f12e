"""What is trained: data, model and loss put together for the engine."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments import data as digits, models
from experiments.engine import Task


CHANCE = 1 / digits.CLASSES


def noisy_digits(
    train_size: int,
    label_noise: float,
    batch: int,
    hidden: int,
    dtype: jax.typing.DTypeLike = jnp.float32,
) -> Task:
    """Digits with wrong training labels, an MLP, cross-entropy; kernels decay.

    Parameters, activations and gradients are of one dtype; the loss is float32.
    """
    model = models.mlp(64, hidden, digits.CLASSES)

    def init(seed):
        params = model.init(digits.key_for(seed, digits.Purpose.INIT))
        return jax.tree.map(lambda leaf: leaf.astype(dtype), params)

    def logits_of(params, x):
        return model.logits(params, x.astype(dtype)).astype(jnp.float32)

    def loss(params, x, y):
        logits = logits_of(params, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    def accuracy(params, x, y):
        right = jnp.mean(jnp.argmax(logits_of(params, x), axis=-1) == y)
        return jnp.where(is_finite(params), right, CHANCE)

    def measure(params, part, data):
        weights = models.kernel_vector(params).astype(jnp.float32)
        return {
            "val_accuracy": accuracy(params, part.val_x, part.val_y),
            "test_accuracy": accuracy(params, data.test_x, data.test_y),
            "train_loss": loss(params, part.train_x, part.train_y),
            "max_abs_w": jnp.max(jnp.abs(weights)),
            "rms_w": jnp.sqrt(jnp.mean(weights**2)),
            "diverged": ~is_finite(params),
        }

    return Task(
        init=init,
        part=lambda seed, data: digits.split(seed, data, train_size, label_noise),
        batches=lambda seed, epoch, part: digits.batches(seed, epoch, part, batch),
        loss=loss,
        measure=measure,
        mask=models.is_kernel,
    )


def is_finite(params: Any) -> jax.Array:
    """Whether no parameter has become infinite or NaN: one bool."""
    finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(params)]
    return jnp.all(jnp.stack(finite))
