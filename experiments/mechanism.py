"""How much one step shrinks each weight, measured from outside the optimizer.

In a real run, at every step of one epoch, the optimizer is asked twice from the same
state, parameters and gradient: once with λ, once with λ = 0. The difference is what
the decay did in this step, whatever its place in the chain. The shrink of a weight is
the least-squares coefficient, over the steps of the epoch, of that difference on -θ:

    shrink = -Σ_t (Δ_t(λ) - Δ_t(0)) θ_t / Σ_t θ_t²

Decoupled decay should give γλ for every weight, RMSprop with L2 about γλ/√V: its λθ
also enters V, which is why this is measured rather than read off the formula.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import engine
from experiments.models import kernel_vector


def measure_shrink(
    task: engine.Task,
    schedule: engine.Schedule,
    data: Any,
    chain: engine.Chain,
    cell: engine.Cell,
) -> dict[str, np.ndarray]:
    """Train one cell to half its epochs, then measure over the next epoch.

    Returns:
        For every decayed weight, over the epoch: `shrink` per step, the mean `root_v`
        of √V, the root mean squares `rms_w` and `rms_g` of weight and gradient, each
        float32[weights]; and `rate`, the mean of γ_t λ, float32[].
    """
    half = schedule.epochs // 2

    @jax.jit
    def measure(cell, data):
        params = task.init(cell.seed)
        state = engine.optimizer(chain, task, schedule, cell).init(params)
        middle = engine.run_epochs(
            chain, task, schedule, (params, state), cell, jnp.arange(half), data
        )
        return _one_epoch(task, schedule, data, chain, cell, middle, half)

    sums = jax.device_get(measure(cell, data))
    steps = schedule.steps_per_epoch
    return {
        "shrink": sums["pull"] / np.maximum(sums["square"], np.finfo("f4").tiny),
        "root_v": sums["root_v"] / steps,
        "rms_w": np.sqrt(sums["square"] / steps),
        "rms_g": np.sqrt(sums["grad_square"] / steps),
        "rate": sums["rate"] / steps,
    }


def _one_epoch(task, schedule, data, chain, cell, carry, number) -> Any:
    """Sums over the steps of one epoch, each weight by itself."""
    decayed = engine.optimizer(chain, task, schedule, cell)
    plain = engine.optimizer(
        chain, task, schedule, cell._replace(weight_decay=0 * cell.weight_decay)
    )

    def step(carry, batch):
        index, (params, state) = carry
        grads = jax.grad(task.loss)(params, *batch)
        without, _ = plain.update(grads, state, params)
        updates, state = decayed.update(grads, state, params)
        theta, by_decay = (
            kernel_vector(params),
            kernel_vector(updates) - kernel_vector(without),
        )
        terms = {
            "pull": -by_decay * theta,
            "square": theta**2,
            "grad_square": kernel_vector(grads) ** 2,
            "root_v": jnp.sqrt(kernel_vector(optax.tree_utils.tree_get(state, "nu"))),
            "rate": cell.learning_rate * schedule.multiplier(index) * cell.weight_decay,
        }
        return (index + 1, (optax.apply_updates(params, updates), state)), terms

    part = task.part(cell.seed, data)
    start = (number * schedule.steps_per_epoch, carry)
    _, terms = jax.lax.scan(step, start, task.batches(cell.seed, number, part))
    return jax.tree.map(lambda term: jnp.sum(term, axis=0), terms)
