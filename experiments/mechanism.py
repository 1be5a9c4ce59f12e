"""How much one step shrinks each weight, measured from outside the optimizer.

In a real run, at every step of one epoch, the optimizer is asked twice from the same
state, parameters and gradient: once with λ, once with λ = 0. The difference is what
the decay did in this step, whatever its place in the chain. The shrink of a weight is
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
from experiments.engine.chunks import Bar, Piece
from experiments.engine.plan import (
    Cell,
    columns,
    Data,
    multiplier,
    Part,
    Static,
    Task,
)
from experiments.engine.study import Stage
from experiments.engine.workshop import batches_for, program_for, Workshop
from experiments.tasks import decayed_vector


ADAM_BETA_2 = 0.999  # of all chains that a study's mechanism stage measures
NO_GRADIENT = 1e-6  # 100 times the optimizers' ε, which must not matter to v


def measure_shrink(
    shop: Workshop, static: Static, cell: Cell, width: int
) -> dict[str, np.ndarray]:
    """Train one cell for half its segments, then measure over the next epoch.

    Returns:
        For every decayed weight, over the epoch: `shrink` per step, the mean `root_v`
        of √V, the root mean squares `rms_w` and `rms_g` of weight and gradient, each
        float32[weights]; and `rate`, the mean of γ_t λ, float32[].
    """
    made = program_for(shop, static, columns((cell,)), width)
    bench = made.bench
    numbers = columns((cell,) * bench.width)
    copies, part, carry = program.start(made, numbers)
    half = static.segments // 2 * static.epochs_per_segment
    for first in range(0, half, static.epochs_per_segment):
        batches = batches_for(shop, made, numbers["seed"], first)
        carry = made.segment(carry, copies, part, np.int32(first), batches, bench.data)
    batches = batches_for(shop, made, numbers["seed"], half)
    one = jax.tree.map(lambda x: np.asarray(x)[0], (copies, part, carry, batches))
    measure = jax.jit(functools.partial(_one_epoch, static, bench.task))
    sums = jax.device_get(measure(*one, half, jax.device_get(bench.data)))
    steps = bench.task.steps_per_epoch
    return {
        "shrink": sums["pull"] / np.maximum(sums["square"], np.finfo("f4").tiny),
        "root_v": sums["root_v"] / steps,
        "rms_w": np.sqrt(sums["square"] / steps),
        "rms_g": np.sqrt(sums["grad_square"] / steps),
        "rate": sums["rate"] / steps,
    }


def _one_epoch(
    static: Static,
    task: Task,
    cell: Cell,
    part: Part,
    carry: program.Carry,
    batches: Any,
    number: Any,
    data: Data,
) -> Any:
    """Sums over the steps of one epoch, each weight by itself."""
    decayed = program.optimizer(static, task, cell)
    without_decay = {**cell, "weight_decay": 0 * cell["weight_decay"]}
    plain = program.optimizer(static, task, without_decay)
    eta = multiplier(static, task.steps_per_epoch, cell)
    grads_and_state = jax.grad(task.loss, has_aux=True)

    def step(carry: Any, batch: Any) -> Any:
        index, params, model_state, state = carry
        grads, model_state = grads_and_state(
            params, model_state, batch, program.step_key(cell, index), part, data
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
            "rate": cell["learning_rate"] * eta(index) * cell["weight_decay"],
        }
        params = optax.apply_updates(params, updates)
        return (index + 1, params, model_state, state), terms

    index = number * task.steps_per_epoch
    start = (index, carry.params, carry.model_state, carry.opt_state)
    _, terms = jax.lax.scan(step, start, _first(task.steps_per_epoch, batches))
    return jax.tree.map(lambda term: jnp.sum(term, axis=0), terms)


def _first(steps: int, batches: Any) -> Any:
    return jax.tree.map(lambda x: x[:steps], batches)


# --- As pieces of a study ---------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan(protocol.Plan):
    """What the protocol runs, and in whose runs the mechanism is measured."""

    shrinks: tuple[str, ...]  # entries; the shrink of every weight is kept
    spreads: tuple[str, ...]  # entries; quantiles of √v are kept


def stage(plan: Plan) -> Stage:
    """Measured in the run of each entry's choice on the first final seed."""

    def make(table: Table) -> list[Piece]:
        kinds = {"shrink": (plan.shrinks, dict), "spread": (plan.spreads, _quantiles)}
        return [
            _piece(plan, entry, table, kind, reduce)
            for kind, (names, reduce) in kinds.items()
            for entry in plan.entries
            if entry.name in names
        ]

    return Stage("mechanism", len(plan.shrinks) + len(plan.spreads), make)


def _piece(
    plan: Plan,
    entry: protocol.Entry,
    table: Table,
    kind: str,
    reduce: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]],
) -> Piece:
    def make(shop: Workshop, bar: Bar) -> dict[str, np.ndarray]:
        bar.say(f"measuring {entry.name}")
        seed = plan.seeds(protocol.FINAL)[:1]
        point = protocol.candidates(plan, entry, table)[:1]
        (cell,) = protocol.block(entry, protocol.FINAL, point, seed).cells
        found = measure_shrink(shop, entry.static, cell, plan.chunk)
        found["root_v"] = found["root_v"] / _bias(entry.static)
        bar.advance(1)
        labels = {**cell, **entry.labels, "entry": entry.name}
        return reduce(found) | {name: np.array(x) for name, x in labels.items()}

    return Piece(f"{kind}-{entry.name.replace(' ', '-')}", make)


def _bias(static: Static) -> np.float32:
    """√(1 - β₂^t) in the middle of the epoch measured: Adam divides by √v̂."""
    recipe: Any = static.recipe
    half = static.segments // 2 * static.epochs_per_segment
    t = (half + 0.5) * (recipe.train_size // recipe.batch)
    return np.float32((1 - ADAM_BETA_2**t) ** 0.5)


def _quantiles(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Percentiles of √v, over the weights that had a gradient in the epoch."""
    seen = found["root_v"][found["rms_g"] > NO_GRADIENT]
    return {"root_v_percentiles": np.quantile(seen, np.linspace(0, 1, 101))}
