"""Data and compiled programs of one process, in memory: each is made once."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.engine import devices, program
from experiments.engine.config import Data, HParams, StaticConfig, TrainingSetup
from experiments.engine.describe import describe, digest


MAX_CACHED_BATCHES = 256  # entries: the batches of one seed in one segment


class CompilationCache(NamedTuple):
    """Caches that live as long as a process. The keys are hashes of descriptions."""

    data: dict[str, Data]
    compiled_tasks: dict[tuple[Any, ...], program.CompiledTask]
    programs: dict[tuple[Any, ...], program.Program]
    extractors: dict[tuple[Any, ...], Callable[..., Any]]
    max_parallel: dict[str, int]  # by config: the number of cells that fit into memory
    batches: dict[tuple[Any, ...], Any]  # by setup, segment and seed
    compile_seconds: list[float]


def new_cache() -> CompilationCache:
    """Return an empty cache."""
    return CompilationCache({}, {}, {}, {}, {}, {}, [])


def load_data(cache: CompilationCache, setup: TrainingSetup) -> Data:
    """Return the data of a setup. They are loaded once."""
    key = digest(setup)
    if key not in cache.data:
        cache.data[key] = setup.load()
    return cache.data[key]


def get_program(
    cache: CompilationCache, config: StaticConfig, numbers: HParams, parallel: int
) -> program.Program:
    """Return a configuration's program, for `parallel` cells or as many as fit."""
    parallel = allowed_parallel(cache, config, parallel)
    compiled = _get_compiled(cache, config, numbers, parallel)
    while parallel > 1 and _bytes_needed(compiled) > devices.bytes_free():
        parallel = halve_parallel(cache, config, parallel)
        compiled = _get_compiled(cache, config, numbers, parallel)
    return compiled


def allowed_parallel(
    cache: CompilationCache, config: StaticConfig, parallel: int
) -> int:
    """Return `parallel`, or the smaller number that fitted into memory before."""
    return min(parallel, cache.max_parallel.get(digest(config), parallel))


def _bytes_needed(compiled: program.Program) -> int:
    """Return the memory on each device that the largest part of a program needs."""
    task = compiled.compiled_task
    parts = (compiled.segment, task.measure, task.prepare, compiled.record)
    return max(devices.bytes_needed(part) for part in parts if part is not None)


def halve_parallel(cache: CompilationCache, config: StaticConfig, parallel: int) -> int:
    """Halve the number of parallel cells of this configuration, from now on.

    The result is a multiple of the number of devices if it is large enough. Otherwise
    fewer devices would be used.
    """
    half, count = parallel // 2, jax.local_device_count()
    if half >= count:
        half = half // count * count
    cache.max_parallel[digest(config)] = half
    return half


def get_batches(
    cache: CompilationCache,
    compiled: program.Program,
    seeds: np.ndarray,
    first_epoch: int,
) -> Any:
    """Return the batches of a segment for cells with these seeds: [cells, steps, ...].

    The batches of a seed are drawn once, for all cells and all optimizers.
    """
    config, task = compiled.config, compiled.compiled_task
    segment = digest(config.setup), config.epochs_per_segment, first_epoch
    drawn = []
    for seed in seeds:
        key = (*segment, int(seed))
        if key not in cache.batches:
            if len(cache.batches) >= MAX_CACHED_BATCHES:
                cache.batches.clear()
            batches = task.draw(np.int32(seed), np.int32(first_epoch), task.data)
            cache.batches[key] = jax.device_get(batches)
        drawn.append(cache.batches[key])
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *drawn)
    sharded, _ = devices.spread_over_devices(task.parallel)
    return jax.device_put(stacked, sharded)


def get_extractor(
    cache: CompilationCache,
    extract: Callable[..., Any],
    config: StaticConfig,
    parallel: int,
) -> Callable[..., Any]:
    """Return `extract` over the parameters of many cells. It is compiled once."""
    key = (str(describe(extract)), digest(config.setup), parallel)
    return cache.extractors.setdefault(key, jax.jit(jax.vmap(extract)))


def _get_compiled(
    cache: CompilationCache, config: StaticConfig, numbers: HParams, parallel: int
) -> program.Program:
    """Return the program for exactly `parallel` cells."""
    started = time.perf_counter()
    # The values are traced, so only names and dtypes decide the program.
    dtypes = tuple(sorted((n, str(x.dtype)) for n, x in numbers.items()))
    epochs = config.epochs_per_segment
    task_key = (digest(config.setup), epochs, dtypes, parallel)
    if task_key not in cache.compiled_tasks:
        cache.compiled_tasks[task_key] = program.compile_task(
            config.setup.task(),
            load_data(cache, config.setup),
            epochs,
            numbers,
            parallel,
        )
    key = (digest(config), dtypes, parallel)
    if key not in cache.programs:
        task = cache.compiled_tasks[task_key]
        cache.programs[key] = program.compile_program(task, config, numbers)
        cache.compile_seconds.append(time.perf_counter() - started)
    return cache.programs[key]
