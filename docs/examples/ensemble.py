"""An ensemble of bfloat16 models in one program, with a rounding seed for each member.

With one seed, all members round with the same random bits.

    python docs/examples/ensemble.py
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import decayax as dx


MEMBERS, STEPS = 4, 200
ADAMW = optax.adamw(1e-3, weight_decay=0.1)
OPTIMIZER = dx.with_stochastic_rounding(ADAMW)


def make_model(rngs):
    linear = functools.partial(nnx.Linear, param_dtype=jnp.bfloat16, rngs=rngs)
    return nnx.Sequential(linear(8, 32), jnp.tanh, linear(32, 1))


@nnx.jit
@nnx.split_rngs(splits=MEMBERS)
@nnx.vmap
def make_members(rngs):
    return make_model(rngs)


@jax.jit
@jax.vmap
def init_state(seed, params):  # the seed is kept in the state
    return dx.with_stochastic_rounding(ADAMW, seed=seed).init(params)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=(1, 2))
def train_step(graph, params, state, x, y):
    def loss_fn(params):
        error = nnx.merge(graph, params)(x) - y
        return jnp.mean(error.astype(jnp.float32) ** 2)

    def member(params, state):
        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, state = OPTIMIZER.update(grads, state, params)
        return dx.apply_updates(params, updates), state, loss

    return jax.vmap(member)(params, state)


def train(graph, params, seeds, x, y):
    state = init_state(seeds, params)
    for _ in range(STEPS):
        params, state, losses = train_step(graph, params, state, x, y)
    return params, losses


def main():
    x = jax.random.normal(jax.random.key(0), (64, 8), jnp.bfloat16)
    y = jnp.sin(x).sum(axis=1, keepdims=True)
    graph, params = nnx.split(make_members(nnx.Rngs(0)), nnx.Param)
    params, losses = train(graph, params, jnp.arange(MEMBERS), x, y)
    print("losses of the members:", *(f"{loss:.4f}" for loss in losses))
    print("dtype of the weights:", params["layers"][0]["kernel"].dtype)
    # From equal initial weights, only the rounding makes members different.
    for seeds in ([0, 0, 0, 0], [0, 1, 2, 3]):
        graph, one = nnx.split(make_model(nnx.Rngs(0)), nnx.Param)
        equal = jax.tree.map(lambda p: jnp.stack([p] * MEMBERS), one)
        params, _ = train(graph, equal, jnp.array(seeds), x, y)
        distinct = len(np.unique(np.asarray(params["layers"][0]["kernel"]), axis=0))
        print(f"equal starts, seeds {seeds}: {distinct} distinct members")


if __name__ == "__main__":
    main()
