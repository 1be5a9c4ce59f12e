"""How fast is the engine, compared with three loops that a user can write?

Question    How much wall time and CPU time do 64 runs of the digits network take (64
            inputs, 128 hidden units, AdamW, 20 epochs), relative to the engine?
Command     python -m experiments.benchmarks.sweep
Cost        about three minutes on 2 CPU cores
Expected    The engine needs the CPU time of a compiled scan over each whole run, and
            the wall time of one such process per core: it adds chunks and files, not
            speed. The loop of steps needs nearly 4 times the CPU time, because of one
            Python call per step, and on one core 8 times the wall time.

The contestants:

    engine, 16 parallel; engine, 64 parallel    the sweep engine on all cores
    loop of steps       one jitted step at a time, on one core
    scan of each run    each whole run is one jitted scan, on one core
    scan, all cores     the same with one process per core, which share the runs

The comparison is fair: learning rate and strength are traced, so each contestant
compiles once; the batches are drawn in advance; nothing measures accuracy. Every
contestant has its own processes, which wait while others run. The contestants take
turns, and the table shows ratios of medians.
"""

import functools
import itertools
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import arms, training_setups
from experiments.engine import compilation_cache, devices, one_run, program
from experiments.engine.assignment import split_in_chunks
from experiments.engine.config import columns, cosine, grid, HParams, StaticConfig


RUNS, EPOCHS, ROUNDS = 64, 20, 7
IDLE = 0.95  # share of the CPU that a program on one core gets on an idle machine


class Contestant(NamedTuple):
    """A way to train all runs, and its processes."""

    name: str
    prepare: Callable[..., Any]  # config, cells -> a function that trains them
    cores: list[set[int]]  # of each process


class Cost(NamedTuple):
    """Seconds of one round."""

    wall: float
    cpu: float


def main() -> None:
    """Print the ratios."""
    cores = sorted(os.sched_getaffinity(0))
    contestants = all_contestants(cores)
    started = [_start(contestant) for contestant in contestants]
    compiling = [_run_round(processes) for processes in started]
    taken: list[list[Cost]] = [[] for _ in started]
    for _ in range(ROUNDS):
        for costs, processes in zip(taken, started, strict=True):
            costs.append(_run_round(processes))
    for pipe, process in itertools.chain(*started):
        pipe.send(None)
        process.join()
    medians = [Cost(*map(statistics.median, zip(*c, strict=True))) for c in taken]
    print(f"{RUNS} runs, {EPOCHS} epochs, {len(cores)} cores; medians of {ROUNDS}")
    show(contestants, medians, compiling)


def show(
    contestants: list[Contestant], runs: list[Cost], compiling: list[Cost]
) -> None:
    """Print the table, and a warning if its wall times are not reliable."""
    print(f"{'relative to engine, 16':28}{'wall':>8}{'CPU':>8}", end="")
    print(f"{'with compilation: wall':>26}{'CPU':>8}")
    totals = [
        (*run, run.wall + once.wall, run.cpu + once.cpu)
        for run, once in zip(runs, compiling, strict=True)
    ]
    for contestant, total in zip(contestants, totals, strict=True):
        ratios = [mine / first for mine, first in zip(total, totals[0], strict=True)]
        wall, cpu, total_wall, total_cpu = (f"{ratio:.2f}" for ratio in ratios)
        print(f"{contestant.name:28}{wall:>8}{cpu:>8}{total_wall:>26}{total_cpu:>8}")
    shares = {
        c.name: run.cpu / run.wall for c, run in zip(contestants, runs, strict=True)
    }
    if (share := shares["scan of each run"]) < IDLE:
        print(f"Other programs ran: the scan on one core had {share:.0%} of its core.")
        print("Compare CPU times, or measure again on an idle machine.")


def all_contestants(cores: list[int]) -> list[Contestant]:
    """All contestants; the others are compared with the first one."""
    one, each = [{cores[0]}], [{core} for core in cores]
    steps, scan = (functools.partial(_one_by_one, f) for f in (_steps, _scan))
    narrow, wide = (functools.partial(_engine, parallel) for parallel in (16, 64))
    return [
        Contestant("engine, 16 parallel", narrow, [set(cores)]),
        Contestant("engine, 64 parallel", wide, [set(cores)]),
        Contestant("loop of steps", steps, one),
        Contestant("scan of each run", scan, one),
        Contestant("scan, all cores", scan, each),
    ]


def _start(contestant: Contestant) -> list[tuple[Any, Any]]:
    """The processes, ready to compile, and the pipes to them."""
    context, count = multiprocessing.get_context("spawn"), len(contestant.cores)
    processes = []
    for index, cores in enumerate(contestant.cores):
        pipe, child_pipe = context.Pipe()
        arguments = contestant.prepare, cores, index, count, child_pipe
        process = context.Process(target=_work, args=arguments, daemon=True)
        process.start()
        processes.append((pipe, process))
    for pipe, _ in processes:
        pipe.recv()
    return processes


def _run_round(processes: list[tuple[Any, Any]]) -> Cost:
    """Start one round in all processes, and wait for the last one."""
    started = time.perf_counter()
    for pipe, _ in processes:
        pipe.send("go")
    cpu = sum(pipe.recv() for pipe, _ in processes)
    return Cost(time.perf_counter() - started, cpu)


def _work(
    prepare: Callable[..., Any], cores: set[int], index: int, count: int, pipe: Any
) -> None:
    """A process: the first round compiles, all other rounds train its share."""
    os.sched_setaffinity(0, cores)  # before XLA counts the cores
    devices.use_all_cores()
    config, cells = sweep()
    pipe.send("ready")
    train = None
    while pipe.recv() is not None:
        started = time.process_time()
        if train is None:
            train = prepare(config, cells[index::count])
        else:
            train()
        pipe.send(time.process_time() - started)


def sweep() -> tuple[StaticConfig, tuple[HParams, ...]]:
    """The configuration and the cells that all contestants train."""
    config = StaticConfig(training_setups.DIGITS, arms.adamw, EPOCHS, EPOCHS, cosine)
    cells = grid(
        learning_rate=np.geomspace(1e-3, 3e-2, 8).tolist(),
        weight_decay=np.geomspace(1e-3, 10, 4).tolist(),
        seed=range(RUNS // 32),
    )
    return config, cells


def _engine(
    parallel: int, config: StaticConfig, cells: tuple[HParams, ...]
) -> Callable[[], None]:
    """Compile, then train all cells, `parallel` at a time."""
    cache = compilation_cache.new_cache()
    parts = [columns(tuple(part)) for part in split_in_chunks(cells, parallel)]
    compiled = compilation_cache.get_program(cache, config, parts[0], parallel)
    for numbers in parts:  # the cache holds these batches
        compilation_cache.get_batches(cache, compiled, numbers["seed"], 0)

    def train() -> None:
        for numbers in parts:
            hparams, run_data, carry = program.start(compiled, numbers)
            batches = compilation_cache.get_batches(cache, compiled, numbers["seed"], 0)
            data = compiled.compiled_task.data
            carry = compiled.segment(
                carry, hparams, run_data, np.int32(0), batches, data
            )
            jax.block_until_ready(carry)

    return train


def _one_by_one(
    many_steps: Callable[..., Any], config: StaticConfig, cells: tuple[HParams, ...]
) -> Callable[[], None]:
    """Compile, then train one cell after the other."""
    task, data = config.setup.task(), jax.device_put(config.setup.load())

    def step(carry: Any, batch: Any, hparams: Any, run_data: Any, data: Any) -> Any:
        params, state, opt_state = carry
        grads, state = jax.grad(task.loss, has_aux=True)(
            params, state, batch, one_run.step_key(hparams, 0), run_data, data
        )
        update = one_run.build_optimizer(config, task, hparams).update
        updates, opt_state = update(grads, opt_state, params)
        return optax.apply_updates(params, updates), state, opt_state

    @jax.jit
    def start(hparams: Any, data: Any) -> Any:
        params = task.init(hparams)
        opt_state = one_run.build_optimizer(config, task, hparams).init(params)
        state = task.state(hparams, params)
        return task.run_data(hparams, data), (params, state, opt_state)

    run = many_steps(step)
    draw = jax.jit(functools.partial(one_run.draw_epochs, task, EPOCHS))
    seeds = {hparams["seed"] for hparams in cells}
    batches = {seed: np.asarray(draw(np.int32(seed), 0, data)) for seed in seeds}

    def train(chosen: tuple[HParams, ...] = cells) -> None:
        for hparams in chosen:
            numbers = columns((hparams,))
            traced = {name: jnp.asarray(x[0]) for name, x in numbers.items()}
            run_data, carry = start(traced, data)
            mine = batches[hparams["seed"]]
            jax.block_until_ready(run(carry, mine, traced, run_data, data))

    train(cells[:1])
    return train


def _steps(step: Callable[..., Any]) -> Callable[..., Any]:
    """A Python loop of jitted steps."""
    jitted = jax.jit(step, donate_argnums=0)

    def run(carry: Any, batches: Any, *rest: Any) -> Any:
        for batch in batches:
            carry = jitted(carry, batch, *rest)
        return carry

    return run


def _scan(step: Callable[..., Any]) -> Callable[..., Any]:
    """All steps in one program."""

    @functools.partial(jax.jit, donate_argnums=0)
    def run(carry: Any, batches: Any, *rest: Any) -> Any:
        def next_step(carry: Any, batch: Any) -> Any:
            return step(carry, batch, *rest), None

        return jax.lax.scan(next_step, carry, batches)[0]

    return run


if __name__ == "__main__":
    main()
