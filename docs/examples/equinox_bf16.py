"""Equinox in bfloat16: weights that decay as float32 weights do, and stay bfloat16.

Half of the inputs are always 0, so their weights get no gradient and only decay. A run
of 500 steps should keep (1 - 0.001 * 0.1)^500 of them. Plain bfloat16 keeps them all.

    python docs/examples/equinox_bf16.py
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import decayax as dx


STEPS = 500
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 0.1
INPUTS, DEAD = 32, slice(16, None)


def to_dtype(model, dtype):
    """The model with its arrays in dtype. Activation functions stay."""
    arrays, rest = eqx.partition(model, eqx.is_inexact_array)
    return eqx.combine(jax.tree.map(lambda a: a.astype(dtype), arrays), rest)


def train(optimizer, dtype, x, y):
    model = eqx.nn.MLP(INPUTS, 1, 64, 2, key=jax.random.key(0))
    model = to_dtype(model, dtype)
    x, y = x.astype(dtype), y.astype(dtype)
    state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit(donate="all-except-first")
    def train_step(data, model, state):
        def loss_fn(model):
            inputs, targets = data
            return jnp.mean((jax.vmap(model)(inputs)[:, 0] - targets) ** 2)

        grads = eqx.filter_grad(loss_fn)(model)
        params = eqx.filter(model, eqx.is_inexact_array)
        updates, state = optimizer.update(grads, state, params)
        # eqx.apply_updates would turn the weights into float32.
        return dx.apply_updates(model, updates), state

    for _ in range(STEPS):
        model, state = train_step((x, y), model, state)
    return model


def main():
    x = jax.random.normal(jax.random.key(1), (256, INPUTS)).at[:, DEAD].set(0)
    y = jnp.sin(x).sum(axis=1)
    start = eqx.nn.MLP(INPUTS, 1, 64, 2, key=jax.random.key(0)).layers[0].weight
    adamw = optax.adamw(LEARNING_RATE, weight_decay=WEIGHT_DECAY)

    print(f"exact                {(1 - LEARNING_RATE * WEIGHT_DECAY) ** STEPS:.4f}")
    for name, optimizer, dtype in (
        ("float32", adamw, jnp.float32),
        ("bfloat16", adamw, jnp.bfloat16),
        ("with_compensation", dx.with_compensation(adamw), jnp.bfloat16),
        ("stochastic rounding", dx.with_stochastic_rounding(adamw), jnp.bfloat16),
    ):
        weight = train(optimizer, dtype, x, y).layers[0].weight
        dead = weight.astype(jnp.float32)[:, DEAD]
        kept = jnp.linalg.norm(dead) / jnp.linalg.norm(start[:, DEAD])
        print(f"{name:20} {kept:.4f} {weight.dtype}")


if __name__ == "__main__":
    main()
