"""What the engine gains over a Python loop, as ratios in one process.

Question    How many runs of the digits network a second with cells side by side and
            cores as devices, against a Python loop over cells and jitted steps?
Command     python -m experiments.benchmarks.sweep [CELLS]     (64 without a number)
Cost        about two minutes on 2 CPU cores
Expected    2.5 times as many or more on 2 cores; on a GPU with 256 cells 30 times.
            One compilation for each static configuration, however many cells.

The loop is a fair one: learning rate and λ are traced, so it compiles once, too; its
state is donated; the batches are drawn beforehand, the same for both. Neither measures
accuracy. Compilation is told apart. Medians of runs in turn; no times, as they are the
machine's.
"""

import dataclasses
import functools
import statistics
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import arms
from experiments.engine import devices, program, workshop
from experiments.engine.plan import columns, grid
from experiments.studies.demo import SMOKE


ROUNDS = 7
EPOCHS = 20


def main() -> None:
    """Print the ratios."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 64
    devices.use_all_cores()
    plan = dataclasses.replace(SMOKE, epochs=EPOCHS, epochs_per_segment=EPOCHS)
    static = plan.static(arms.adamw)
    rates = np.geomspace(1e-3, 3e-2, 8).tolist()
    cells = grid(
        learning_rate=rates,
        weight_decay=np.geomspace(1e-3, 10, 4).tolist(),
        seed=range(-(-count // 32)),
    )[:count]
    shop = workshop.workshop()
    begun = time.perf_counter()
    made = workshop.program_for(shop, static, columns(cells), count)
    compiled = {"engine": time.perf_counter() - begun}
    begun = time.perf_counter()
    loop = _loop(made, static)
    loop(cells[:1])
    compiled["loop"] = time.perf_counter() - begun
    sweep = functools.partial(_sweep, shop, made)
    taken: dict[str, list[float]] = {"engine": [], "loop": []}
    sweep(cells)
    for _ in range(ROUNDS):
        for name, run in (("engine", sweep), ("loop", loop)):
            begun = time.perf_counter()
            run(cells)
            taken[name].append(time.perf_counter() - begun)
    medians = {name: statistics.median(times) for name, times in taken.items()}
    ratio = medians["loop"] / medians["engine"]
    both = {name: medians[name] + compiled[name] for name in medians}
    print(f"{count} cells, {EPOCHS} epochs, {jax.device_count()} x ", end="")
    print(jax.devices()[0].device_kind)
    print(f"runs a second, engine / loop: {ratio:.2f}")
    print(f"with compilation: {both['loop'] / both['engine']:.2f}")
    print(f"programs compiled for the configuration: {len(shop.programs)}")


def _sweep(shop: workshop.Workshop, made: program.Program, cells: Any) -> None:
    """All cells side by side."""
    numbers = columns(cells)
    cell, part, carry = program.start(made, numbers)
    batches = workshop.batches_for(shop, made, numbers["seed"], 0)
    first = np.int32(0)
    jax.block_until_ready(
        made.segment(carry, cell, part, first, batches, made.bench.data)
    )


def _loop(made: program.Program, static: Any) -> Any:
    """One cell after the other, one jitted step after the other."""
    task, data = made.bench.task, jax.device_get(made.bench.data)
    data = jax.device_put(data)

    @jax.jit
    def start(cell: Any, data: Any) -> Any:
        params = task.init(cell)
        state = program.optimizer(static, task, cell).init(params)
        return task.part(cell, data), (params, state)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(carry: Any, cell: Any, batch: Any, part: Any, data: Any) -> Any:
        params, state = carry
        grads = jax.grad(task.loss)(params, batch, part, data)
        updates, state = program.optimizer(static, task, cell).update(
            grads, state, params
        )
        return optax.apply_updates(params, updates), state

    @functools.cache
    def batches(seed: int) -> np.ndarray:
        return np.asarray(made.bench.draw(np.int32(seed), np.int32(0), data))

    def run(cells: Any) -> None:
        for cell in cells:
            traced = {n: jnp.asarray(x[0]) for n, x in columns((cell,)).items()}
            part, carry = start(traced, data)
            for batch in batches(cell["seed"]):
                carry = step(carry, traced, batch, part, data)
            jax.block_until_ready(carry)

    return run


if __name__ == "__main__":
    main()
