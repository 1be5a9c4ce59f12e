"""How much one step shrinks each weight, measured from outside the optimizer.

In a real run, at every step of one epoch, the optimizer is called twice with the same
state, parameters and gradient: once with λ, once with λ = 0. The difference is the
effect of the decay in this step, for any place in the chain. The shrink of a weight is
the least-squares coefficient, over the steps of the epoch, of that difference on -θ:

    shrink = -Σ_t (Δ_t(λ) - Δ_t(0)) θ_t / Σ_t θ_t²

Decoupled decay should give γλ for every weight, RMSprop with L2 about γλ/√V: its λθ
also enters V, which is why this is measured rather than read off the formula.
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
from experiments.engine import program
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


ADAM_BETA_2 = 0.999  # of all optimizers that a mechanism stage measures
NO_GRADIENT = 1e-6  # 100 times the optimizers' ε, which must not matter to v


def measure_shrink(
    cache: CompilationCache, config: StaticConfig, hparams: HParams, parallel: int
) -> dict[str, np.ndarray]:
    """Train one cell for half its segments, then measure over the next epoch.

    Returns:
        For every decayed weight, over the epoch: `shrink` per step, the mean `root_v`
        of √V, the root mean squares `rms_w` and `rms_g` of weight and gradient, each
        float32[weights]; and `rate`, the mean of γ_t λ, float32[].
    """
    compiled = get_program(cache, config, columns((hparams,)), parallel)
    task = compiled.compiled_task
    # A program runs `parallel` cells: all of them are copies of this one.
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
        "shrink": sums["pull"] / np.maximum(sums["square"], np.finfo("f4").tiny),
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
    carry: program.Carry,
    batches: Any,
    epoch: Any,
    data: Data,
) -> Any:
    """Sums over the steps of one epoch, for each weight."""
    decayed = program.build_optimizer(config, task, hparams)
    without_decay = {**hparams, "weight_decay": 0 * hparams["weight_decay"]}
    plain = program.build_optimizer(config, task, without_decay)
    eta = multiplier(config, task.steps_per_epoch, hparams)
    grads_and_state = jax.grad(task.loss, has_aux=True)

    def step(carry: Any, batch: Any) -> Any:
        index, params, model_state, state = carry
        grads, model_state = grads_and_state(
            params, model_state, batch, program.step_key(hparams, index), run_data, data
        )
        without, _ = plain.update(grads, state, params)
        updates, state = decayed.update(grads, state, params)
        theta = decayed_vector(params)
        by_decay = decayed_vector(updates) - decayed_vector(without)
        terms = {
            "pull": -by_decay * theta,
            "square": theta**2,
            "grad_square": decayed_vector(grads) ** 2,
            "root_v": jnp.sqrt(decayed_vector(optax.tree_utils.tree_get(state, "nu"))),
            "rate": hparams["learning_rate"] * eta(index) * hparams["weight_decay"],
        }
        params = optax.apply_updates(params, updates)
        return (index + 1, params, model_state, state), terms

    index = epoch * task.steps_per_epoch
    start = (index, carry.params, carry.model_state, carry.opt_state)
    _, terms = jax.lax.scan(step, start, _first(task.steps_per_epoch, batches))
    return jax.tree.map(lambda term: jnp.sum(term, axis=0), terms)


def _first(steps: int, batches: Any) -> Any:
    return jax.tree.map(lambda x: x[:steps], batches)


# --- As measurements of a study ---------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class MechanismPlan(protocol.ProtocolPlan):
    """The plan of the protocol, and the entries whose mechanism is measured."""

    shrinks: tuple[str, ...]  # entries; stores the shrink of every weight
    spreads: tuple[str, ...]  # entries; stores quantiles of √v


def stage(plan: MechanismPlan) -> Stage:
    """Measurements in the runs of the entries' choices on the first final seed."""

    def make(table: Table) -> list[Measurement]:
        kinds = {"shrink": (plan.shrinks, dict), "spread": (plan.spreads, _quantiles)}
        return [
            _measurement(plan, entry, table, kind, reduce)
            for kind, (names, reduce) in kinds.items()
            for entry in plan.entries
            if entry.name in names
        ]

    return Stage("mechanism", len(plan.shrinks) + len(plan.spreads), make)


def _measurement(
    plan: MechanismPlan,
    entry: protocol.Entry,
    table: Table,
    kind: str,
    reduce: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]],
) -> Measurement:
    def measure(cache: CompilationCache, progress: Progress) -> dict[str, np.ndarray]:
        progress.set_description(f"measuring {entry.name}")
        seed = plan.seeds(protocol.FINAL)[:1]
        point = protocol.ranked_by_validation(plan, entry, table)[:1]
        (hparams,) = protocol.sweep_group(entry, protocol.FINAL, point, seed).cells
        found = measure_shrink(cache, entry.config, hparams, plan.chunk)
        found["root_v"] = found["root_v"] / _bias(entry.config)
        progress.advance(1)
        labels = {**hparams, **entry.labels, "entry": entry.name}
        return reduce(found) | {name: np.array(x) for name, x in labels.items()}

    return Measurement(f"{kind}-{entry.name.replace(' ', '-')}", measure)


def _bias(config: StaticConfig) -> np.float32:
    """√(1 - β₂^t) in the middle of the epoch measured: Adam divides by √v̂."""
    setup: Any = config.setup
    half = config.segments // 2 * config.epochs_per_segment
    t = (half + 0.5) * (setup.train_size // setup.batch)
    return np.float32((1 - ADAM_BETA_2**t) ** 0.5)


def _quantiles(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Percentiles of √v, over the weights that had a gradient in the epoch."""
    seen = found["root_v"][found["rms_g"] > NO_GRADIENT]
    return {"root_v_percentiles": np.quantile(seen, np.linspace(0, 1, 101))}
