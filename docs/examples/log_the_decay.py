"""Log the decay while training: one measurement every 100 steps, for any logger.

`track_decay` measures inside the optimizer's state, `decay_stats` reads it out.

    python docs/examples/log_the_decay.py
"""

import functools
import math
from typing import Protocol

import jax
import jax.numpy as jnp
import optax

import decayax as dx


STEPS, EVERY = 300, 100
SCHEDULE = optax.cosine_decay_schedule(1e-2, STEPS)
ADAMW = dx.adamw(SCHEDULE, weight_decay=0.1, mask=dx.masks.no_bias_or_norm)
OPTIMIZER = dx.track_decay(ADAMW, every=EVERY)
# The rate of the decay, and its part of the step. `help(dx.decay_stats)` lists all.
WATCHED = ("/decay_rate", "/decay_to_update")


class TensorBoardLike(Protocol):
    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None: ...


class WandbLike(Protocol):
    def log(self, data: dict[str, float], step: int) -> None: ...


class Printer:  # in place of a SummaryWriter of TensorBoard, and of a run of wandb
    def add_scalar(self, tag, scalar_value, global_step):
        print(f"add_scalar {tag} {scalar_value:.3g} {global_step}")

    def log(self, data, step):
        print(f"log step {step}:", {name: f"{v:.3g}" for name, v in data.items()})


def measured(state):
    stats = {k: v for k, v in dx.decay_stats(state).items() if k.endswith(WATCHED)}
    # NaN: nothing is measured yet, or the decay of this step cannot be measured.
    return {f"decay/{k}": v for k, v in stats.items() if math.isfinite(v)}


def log_decay(state, step, writer: TensorBoardLike, run: WandbLike):
    for name, value in measured(state).items():
        writer.add_scalar(name, value, step)
    run.log(measured(state), step)


@functools.partial(jax.jit, donate_argnums=(0, 1))
def train_step(params, state, x, y):
    def loss_fn(params):
        return jnp.mean((jnp.tanh(x @ params["kernel"] + params["bias"]) - y) ** 2)

    grads = jax.grad(loss_fn)(params)
    updates, state = OPTIMIZER.update(grads, state, params)
    return optax.apply_updates(params, updates), state


def main():
    x = jax.random.normal(jax.random.key(0), (128, 16))
    y = jnp.sign(x[:, :4])
    params = {"kernel": jnp.eye(16, 4), "bias": jnp.zeros(4)}
    state = OPTIMIZER.init(params)
    writer = run = Printer()
    print("before the first step:", measured(state))
    for step in range(STEPS):
        params, state = train_step(params, state, x, y)
        if step % EVERY == 0:  # the steps that track_decay measures
            log_decay(state, step, writer, run)
    print(dx.decay_table(state))


if __name__ == "__main__":
    main()
