"""Flax Linen: a TrainState with masked weight decay, moved from Optax in mid-run.

The job starts with optax.adamw, whose decay also shrinks biases and norms. Then
`adopt_state` gives its moments and step count to dx.adamw with a mask.

    python docs/examples/flax_linen.py
"""

import functools

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax.training.train_state import TrainState

import decayax as dx


SCHEDULE = optax.cosine_decay_schedule(1e-2, 400)
WEIGHT_DECAY = 0.5


class Regressor(nn.Module):
    """One hidden layer with LayerNorm."""

    @nn.compact
    def __call__(self, x):
        x = nn.gelu(nn.LayerNorm()(nn.Dense(64)(x)))
        return nn.Dense(1)(x)[:, 0]


@functools.partial(jax.jit, donate_argnums=0)
def train_step(state, x, y):
    def loss_fn(params):
        return jnp.mean((state.apply_fn({"params": params}, x) - y) ** 2)

    loss, grads = jax.value_and_grad(loss_fn)(state.params)
    return state.apply_gradients(grads=grads), loss


def train(state, x, y, steps):
    for _ in range(steps):
        state, loss = train_step(state, x, y)
    print(f"step {state.step}: loss {loss:.4f}, norms {norms(state.params)}")
    return state


def norms(params):
    kernel = jnp.linalg.norm(params["Dense_0"]["kernel"])
    scale = jnp.linalg.norm(params["LayerNorm_0"]["scale"])
    return f"kernel {kernel:.2f}, LayerNorm scale {scale:.2f}"


def main():
    x = jax.random.normal(jax.random.key(0), (512, 8))
    y = jnp.sin(x).sum(axis=1)
    model = Regressor()
    params = model.init(jax.random.key(1), x)["params"]

    # 1. The job as it was.
    old = optax.adamw(SCHEDULE, weight_decay=WEIGHT_DECAY)
    state = TrainState.create(apply_fn=model.apply, params=params, tx=old)
    state = train(state, x, y, 200)

    # 2. Only kernels decay from now on. The moments and the step count stay.
    mask = dx.masks.no_bias_or_norm
    new = dx.adamw(SCHEDULE, weight_decay=WEIGHT_DECAY, mask=mask)
    opt_state = dx.adopt_state(new, state.params, state.opt_state)
    state = state.replace(tx=new, opt_state=opt_state)
    count = optax.tree.get_all_with_path(opt_state, "count")
    print("adopted step counts:", [int(c) for _, c in count])
    state = train(state, x, y, 200)


if __name__ == "__main__":
    main()
