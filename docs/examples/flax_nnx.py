"""Flax NNX: decoupled weight decay on kernels, none on biases and norms.

It trains a classifier of two spirals with and without decay, and prints what decays.

    python docs/examples/flax_nnx.py
"""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import decayax as dx


STEPS = 400
POINTS = 256


class Classifier(nnx.Module):
    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.first = nnx.Linear(2, width, rngs=rngs)
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.second = nnx.Linear(width, width, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.head = nnx.Linear(width, 2, rngs=rngs)

    def __call__(self, x):
        x = nnx.gelu(self.norm(self.first(x)))
        return self.head(self.dropout(nnx.gelu(self.second(x))))


def spirals(key):
    """Points on two noisy spirals, and the spiral of each point."""
    label = jnp.arange(POINTS) % 2
    angle = jnp.linspace(0.5, 3, POINTS) * jnp.pi
    x = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1) * angle[:, None] / 5
    x = jnp.where(label[:, None] == 0, x, -x)
    return x + 0.1 * jax.random.normal(key, x.shape), label


@nnx.jit
def train_step(model, optimizer, x, label):
    def loss_fn(model):
        logits = model(x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()

    loss, grads = nnx.value_and_grad(loss_fn)(model)
    optimizer.update(model, grads)
    return loss


def train(weight_decay, x, label):
    model = Classifier(64, rngs=nnx.Rngs(0))
    schedule = optax.warmup_cosine_decay_schedule(0.0, 1e-2, 20, STEPS)
    tx = dx.adamw(schedule, weight_decay=weight_decay, mask=dx.masks.no_bias_or_norm)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    for _ in range(STEPS):
        train_step(model, optimizer, x, label)
    model.eval()  # no dropout
    return model


def main():
    x, label = spirals(jax.random.key(0))
    x_test, label_test = spirals(jax.random.key(1))

    # What an optimizer sees of an NNX module is nnx.state(module, nnx.Param).
    params = nnx.state(Classifier(64, rngs=nnx.Rngs(0)), nnx.Param)
    print(dx.masks.describe(dx.masks.no_bias_or_norm, params))

    for weight_decay in (0.0, 1.0):
        model = train(weight_decay, x, label)
        accuracy = jnp.mean(jnp.argmax(model(x_test), axis=1) == label_test)
        norm = jnp.linalg.norm(model.second.kernel[...])
        print(f"weight decay {weight_decay}: accuracy {accuracy:.2f}, norm {norm:.1f}")


if __name__ == "__main__":
    main()
