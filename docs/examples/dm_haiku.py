"""Haiku: a strength of decay for each role of a parameter.

Kernels decay fully, the embedding with a tenth of the strength, biases and norms not.

    python docs/examples/dm_haiku.py
"""

import functools

import haiku as hk
import jax
import jax.numpy as jnp
import optax

import decayax as dx


VOCABULARY, LENGTH, STEPS = 50, 12, 300
MASK = dx.masks.by_role(embedding=0.1)
OPTIMIZER = dx.adamw(3e-3, weight_decay=1.0, mask=MASK)


def forward(tokens):
    """Does the text contain more even than odd symbols?"""
    x = hk.Embed(VOCABULARY, 16)(tokens).mean(axis=1)
    x = jax.nn.gelu(hk.Linear(32)(x))
    x = hk.LayerNorm(axis=-1, create_scale=True, create_offset=True)(x)
    return hk.Linear(1)(x)[:, 0]


MODEL = hk.without_apply_rng(hk.transform(forward))


@functools.partial(jax.jit, donate_argnums=(0, 1))
def train_step(params, state, tokens, label):
    def loss_fn(params):
        logits = MODEL.apply(params, tokens)
        return optax.sigmoid_binary_cross_entropy(logits, label).mean()

    loss, grads = jax.value_and_grad(loss_fn)(params)
    updates, state = OPTIMIZER.update(grads, state, params)
    return optax.apply_updates(params, updates), state, loss


@jax.jit
def batch(seed):
    tokens = jax.random.randint(jax.random.key(seed), (128, LENGTH), 0, VOCABULARY)
    return tokens, (tokens % 2 == 0).mean(axis=1) > 0.5


def main():
    params = jax.jit(MODEL.init)(jax.random.key(0), batch(0)[0])
    print(dx.masks.describe(MASK, params))
    state = OPTIMIZER.init(params)
    for step in range(1, STEPS + 1):
        params, state, _ = train_step(params, state, *batch(step))
    tokens, label = batch(0)
    accuracy = jnp.mean((MODEL.apply(params, tokens) > 0) == label)
    print(f"accuracy on new texts: {accuracy:.2f}")


if __name__ == "__main__":
    main()
