"""An ensemble of bfloat16 models in one program, with a rounding seed for each member.

With one seed, all members would round with the same random bits, and members that start
equal would stay equal.

    python docs/examples/ensemble.py
"""

import functools

import decayax as dx
import jax
import jax.numpy as jnp
import optax
from flax import nnx


MEMBERS, STEPS = 4, 200
ADAMW = optax.adamw(1e-3, weight_decay=0.1)


class Model(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs):
        self.first = nnx.Linear(8, 32, param_dtype=jnp.bfloat16, rngs=rngs)
        self.second = nnx.Linear(32, 1, param_dtype=jnp.bfloat16, rngs=rngs)

    def __call__(self, x):
        return self.second(jnp.tanh(self.first(x)))[:, 0]


@nnx.split_rngs(splits=MEMBERS)
@nnx.vmap
def make_members(rngs):
    return Model(rngs=rngs)


def optimizer(seed=0):
    return dx.with_stochastic_rounding(ADAMW, seed=seed)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=(1, 2))
def train_step(graph, params, state, x, y):
    def loss_fn(params):
        error = nnx.merge(graph, params)(x) - y
        return jnp.mean(error.astype(jnp.float32) ** 2)

    def member(params, state):
        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, state = optimizer().update(grads, state, params)
        return dx.apply_updates(params, updates), state, loss

    return jax.vmap(member)(params, state)


def train(graph, params, seeds, x, y):
    # The seed is in the state: each member gets its own at init.
    state = jax.vmap(lambda seed, p: optimizer(seed).init(p))(seeds, params)
    for _ in range(STEPS):
        params, state, losses = train_step(graph, params, state, x, y)
    return params, losses


def main():
    x = jax.random.normal(jax.random.key(0), (64, 8), jnp.bfloat16)
    y = jnp.sin(x).sum(axis=1)
    graph, params = nnx.split(make_members(nnx.Rngs(0)), nnx.Param)
    params, losses = train(graph, params, jnp.arange(MEMBERS), x, y)
    print("losses of the members:", *(f"{loss:.4f}" for loss in losses))
    print("dtype of the weights:", params["first"]["kernel"].dtype)

    # Members with equal initial weights: only the rounding can tell them apart.
    for seeds in ([0, 0, 0, 0], [0, 1, 2, 3]):
        graph, one = nnx.split(Model(rngs=nnx.Rngs(0)), nnx.Param)
        equal = jax.tree.map(lambda p: jnp.stack([p] * MEMBERS), one)
        params, _ = train(graph, equal, jnp.array(seeds), x, y)
        different = len(jnp.unique(params["first"]["kernel"][...], axis=0))
        print(f"equal starts, seeds {seeds}: {different} different members")


if __name__ == "__main__":
    main()
