"""Measure how much one step shrinks each weight, for any optimizer.

At every step of one epoch of a real run, the optimizer is called twice with the same
state, parameters and gradient: once with λ and once with λ = 0. The difference of the
updates Δ is the effect of the decay, wherever it is placed in the chain. The shrink of
a weight is the coefficient of a least-squares fit of this difference by -θ, over the
steps of the epoch:

    shrink = -Σ_t (Δ_t(λ) - Δ_t(0)) θ_t / Σ_t θ_t²

With decoupled decay it should be γλ for every weight. With L2 under RMSprop it should
be about γλ/√V. The formula is not exact, because λθ also enters V; so it is measured.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import protocol
from experiments.cells import Table
from experiments.engine import one_run, program
from experiments.engine.compilation_cache import (
    CompilationCache,
    get_batches,
    get_program,
)
from experiments.engine.config import (
    columns,
    Data,
    HParams,
    multiplier,
    RunData,
    StaticConfig,
    Task,
)
from experiments.engine.study import Stage
from experiments.engine.training import Measurement, Progress
from experiments.tasks import decayed_vector


ADAM_BETA_2 = 0.999  # β₂ of all optimizers that a mechanism stage measures
# A weight with a smaller root mean square gradient counts as a weight without gradient.
# The value is 100 times the optimizers' ε, so ε has no effect on the other weights.
NO_GRADIENT = 1e-6


def measure_shrink(
    cache: CompilationCache, config: StaticConfig, hparams: HParams, parallel: int
) -> dict[str, np.ndarray]:
    """Train one cell for half its segments, then measure over the next epoch.

    Returns:
        For every decayed weight, over the steps of the epoch, float32[weights] each:
        `shrink` per step, `root_v` (the mean of √V), `rms_w` and `rms_g` (the root mean
        squares of weight and gradient). And `rate`, the mean of γ_t λ, float32[].
    """
    compiled = get_program(cache, config, columns((hparams,)), parallel)
    task = compiled.compiled_task
    # A program trains `parallel` cells. Here they are copies of one cell.
    numbers = columns((hparams,) * task.parallel)
    copies, run_data, carry = program.start(compiled, numbers)
    half = config.segments // 2 * config.epochs_per_segment
    for first in range(0, half, config.epochs_per_segment):
        batches = get_batches(cache, compiled, numbers["seed"], first)
        carry = compiled.segment(
            carry, copies, run_data, np.int32(first), batches, task.data
        )
    batches = get_batches(cache, compiled, numbers["seed"], half)
    one = jax.tree.map(lambda x: np.asarray(x)[0], (copies, run_data, carry, batches))
    measure = jax.jit(functools.partial(_one_epoch, config, task.task))
    sums = jax.device_get(measure(*one, half, jax.device_get(task.data)))
    steps = task.task.steps_per_epoch
    return {
        # A weight that is always 0 has the shrink 0.
        "shrink": sums["decay"] / np.maximum(sums["square"], np.finfo("f4").tiny),
        "root_v": sums["root_v"] / steps,
        "rms_w": np.sqrt(sums["square"] / steps),
        "rms_g": np.sqrt(sums["grad_square"] / steps),
        "rate": sums["rate"] / steps,
    }


def _one_epoch(
    config: StaticConfig,
    task: Task,
    hparams: HParams,
    run_data: RunData,
    carry: one_run.Carry,
    batches: Any,
    epoch: Any,
    data: Data,
) -> Any:
    """Train one epoch; return the sums over its steps, for each weight."""
    with_decay = one_run.build_optimizer(config, task, hparams)
    no_decay = {**hparams, "weight_decay": 0 * hparams["weight_decay"]}
    without_decay = one_run.build_optimizer(config, task, no_decay)
    eta = multiplier(config, task.steps_per_epoch, hparams)

    def step(carry: Any, batch: Any) -> Any:
        index, params, model_state, state = carry
        grads, model_state = jax.grad(task.loss, has_aux=True)(
            params, model_state, batch, one_run.step_key(hparams, index), run_data, data
        )
        plain_updates, _ = without_decay.update(grads, state, params)
        updates, state = with_decay.update(grads, state, params)
        theta = decayed_vector(params)
        by_decay = decayed_vector(updates) - decayed_vector(plain_updates)
        terms = {
            "decay": -by_decay * theta,
            "square": theta**2,
            "grad_square": decayed_vector(grads) ** 2,
            "root_v": jnp.sqrt(decayed_vector(optax.tree_utils.tree_get(state, "nu"))),
            "rate": hparams["learning_rate"] * eta(index) * hparams["weight_decay"],
        }
        params = optax.apply_updates(params, updates)
        return (index + 1, params, model_state, state), terms

    index = epoch * task.steps_per_epoch
    start = (index, carry.params, carry.model_state, carry.opt_state)
    # The batches are those of a segment, which may have several epochs.
    one_epoch = jax.tree.map(lambda x: x[: task.steps_per_epoch], batches)
    _, terms = jax.lax.scan(step, start, one_epoch)
    return jax.tree.map(lambda term: jnp.sum(term, axis=0), terms)


# --- As measurements of a study ---------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class MechanismPlan(protocol.ProtocolPlan):
    """A plan of the protocol, and the entries whose mechanism is measured."""

    shrinks: tuple[str, ...]  # entries whose shrink of every weight is stored
    spreads: tuple[str, ...]  # entries whose percentiles of √v are stored


def stage(plan: MechanismPlan) -> Stage:
    """Make a stage that measures the entries' choices on the first final seed."""

    def make(table: Table) -> list[Measurement]:
        shrinks = [
            _measurement(plan, entry, table, "shrink", dict)
            for entry in plan.entries
            if entry.name in plan.shrinks
        ]
        spreads = [
            _measurement(plan, entry, table, "spread", _percentiles)
            for entry in plan.entries
            if entry.name in plan.spreads
        ]
        return shrinks + spreads

    return Stage("mechanism", 0, make)  # a measurement is not a run


def _measurement(
    plan: MechanismPlan,
    entry: protocol.Entry,
    table: Table,
    kind: str,
    reduce: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]],
) -> Measurement:
    """Measure one entry; `reduce` returns the arrays of its file."""

    def measure(cache: CompilationCache, progress: Progress) -> dict[str, np.ndarray]:
        progress.set_description(f"measuring {entry.name}")
        first_seed = plan.seeds(protocol.FINAL)[:1]
        choice = protocol.ranked_by_validation(plan, entry, table)[:1]
        group = protocol.sweep_group(entry, protocol.FINAL, choice, first_seed)
        (hparams,) = group.cells
        found = measure_shrink(cache, entry.config, hparams, plan.chunk)
        found["root_v"] = found["root_v"] / _root_bias_correction(entry.config)
        progress.advance(1)
        labels = {**hparams, **entry.labels, "entry": entry.name}
        return reduce(found) | {name: np.array(x) for name, x in labels.items()}

    return Measurement(f"{kind}-{entry.name.replace(' ', '-')}", measure)


def _root_bias_correction(config: StaticConfig) -> np.float32:
    """Return √(1 - β₂^t) in the middle of the epoch: Adam divides by √v̂, not √v."""
    setup: Any = config.setup
    half = config.segments // 2 * config.epochs_per_segment
    t = (half + 0.5) * (setup.train_size // setup.batch)
    return np.float32((1 - ADAM_BETA_2**t) ** 0.5)


def _percentiles(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the percentiles of √v̂ over the weights that had a gradient."""
    root_v = found["root_v"][found["rms_g"] > NO_GRADIENT]
    return {"root_v_percentiles": np.quantile(root_v, np.linspace(0, 1, 101))}
