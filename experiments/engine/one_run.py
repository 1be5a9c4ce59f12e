"""One run as pure functions: build the optimizer, train some epochs, measure.

`program` compiles these functions for many runs in parallel. Hyper-parameters may be
traced. Every random number depends on the seed only.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.engine.config import (
    Data,
    HParams,
    Measures,
    multiplier,
    Params,
    RunData,
    State,
    StaticConfig,
    Task,
)
from experiments.seeds import key_for, Purpose


NEVER = -1  # diverged_at of a run that has not diverged


class Carry(NamedTuple):
    """The values that a run passes from step to step."""

    params: Params
    model_state: State
    opt_state: Any
    diverged_at: Any  # int32: the first step whose loss was not finite, or NEVER


def build_optimizer(config: StaticConfig, task: Task, hparams: HParams) -> Any:
    """Build the optimizer with these hyper-parameters, which may be traced."""
    eta = multiplier(config, task.steps_per_epoch, hparams)
    return config.make_optimizer(hparams, eta, task.mask)


def step_key(hparams: HParams, step: jax.typing.ArrayLike) -> jax.Array:
    """Return the random key of a step, for the loss."""
    return jax.random.fold_in(key_for(hparams["seed"], Purpose.DROPOUT), step)


def draw_epochs(
    task: Task, epochs: int, seed: Any, first_epoch: Any, data: Data
) -> Any:
    """Draw the batches of a seed for some epochs, concatenated: [steps, ...]."""
    numbers = first_epoch + jnp.arange(epochs, dtype=jnp.int32)
    drawn = jax.vmap(lambda epoch: task.batches(seed, epoch, data))(numbers)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), drawn)


def train_epochs(
    config: StaticConfig,
    task: Task,
    carry: Carry,
    hparams: HParams,
    run_data: RunData,
    first_epoch: Any,
    batches: Any,
    data: Data,
) -> Carry:
    """Train one run on the batches of some epochs, [steps, ...]."""
    update = build_optimizer(config, task, hparams).update
    loss_and_grads = jax.value_and_grad(task.loss, has_aux=True)

    def step(carry: Carry, indexed: tuple[jax.Array, Any]) -> tuple[Carry, None]:
        index, batch = indexed
        params, state, opt_state, diverged_at = carry
        key = step_key(hparams, index)
        (loss, state), grads = loss_and_grads(params, state, batch, key, run_data, data)
        updates, opt_state = update(grads, opt_state, params)
        # A diverged run continues, because `vmap` trains all cells together. Only its
        # first step with a loss that is not finite is recorded.
        diverges = (diverged_at == NEVER) & ~jnp.isfinite(loss)
        diverged_at = jnp.where(diverges, index, diverged_at)
        params = optax.apply_updates(params, updates)
        return Carry(params, state, opt_state, diverged_at), None

    count = len(jax.tree.leaves(batches)[0])
    indices = first_epoch * task.steps_per_epoch + jnp.arange(count, dtype=jnp.int32)
    carry, _ = jax.lax.scan(step, carry, (indices, batches))
    return carry


def measure_run(
    task: Task,
    params: Params,
    state: State,
    diverged_at: Any,
    run_data: RunData,
    data: Data,
) -> Measures:
    """Measure one run. A diverged run gets the scores of chance."""
    finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(params)]
    diverged = (diverged_at != NEVER) | ~jnp.all(jnp.stack(finite))
    measures = task.measure(params, state, run_data, data)
    for name, value in task.chance.items():
        measures[name] = jnp.where(diverged, value, measures[name])
    return measures | {"diverged": diverged}
