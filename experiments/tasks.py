"""What is trained: data, model and loss put together for the engine."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments import data as digits, models
from experiments.engine import Schedule, Task


CHANCE = 1 / digits.CLASSES


@dataclasses.dataclass(frozen=True, kw_only=True)
class DigitsPlan:
    """How long and on what every run of an experiment on digits trains."""

    epochs: int
    epochs_per_segment: int
    batch: int = 50
    train_size: int = 900
    label_noise: float = 0.4
    hidden: int = 128

    def __post_init__(self):
        if self.epochs % self.epochs_per_segment:
            raise ValueError("epochs must be a multiple of epochs_per_segment")

    def task(self, dtype: jax.typing.DTypeLike = jnp.float32) -> Task:
        return noisy_digits(
            self.train_size, self.label_noise, self.batch, self.hidden, dtype
        )

    def schedule(self) -> Schedule:
        steps = self.train_size // self.batch
        return Schedule(self.epochs, self.epochs_per_segment, steps)


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
