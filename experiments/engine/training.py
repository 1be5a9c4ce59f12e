"""Train the cells of a chunk in parallel. A chunk becomes one file.

A program has a fixed number of cells. A smaller chunk is padded with copies of its last
cell, which are dropped after training, because a smaller batch would need another
compilation. If a chunk does not fit into memory, the number of parallel cells is
halved.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from experiments.engine import compilation_cache, one_run, program
from experiments.engine.compilation_cache import CompilationCache
from experiments.engine.config import columns, HParams, SweepGroup
from experiments.engine.devices import out_of_memory


class Progress(NamedTuple):
    """Callbacks that report progress. Each call may raise `Interrupted`."""

    set_description: Callable[[str], None]  # the current work
    advance: Callable[[float], None]  # number of runs, may be a fraction
    count_diverged: Callable[[int], None]  # number of new diverged runs


class Measurement(NamedTuple):
    """A measurement that trains no cell of the table: one call makes one file."""

    name: str
    measure: Callable[[CompilationCache, Progress], dict[str, np.ndarray]]


def train_chunk(
    cache: CompilationCache,
    group: SweepGroup,
    cells: tuple[HParams, ...],
    size: int,
    progress: Progress,
) -> dict[str, np.ndarray]:
    """Train the cells, `size` in parallel or as many as fit into memory.

    Returns:
        `measure/NAME` [cells, times] for every measure: after every segment with
        curves, else after the last one. `diverged_at` [cells]. `extract/NAME`
        [cells, ...] for the arrays that the group extracts. `parallel`, the number of
        cells that were trained in parallel.
    """
    parts: list[dict[str, np.ndarray]] = []
    while cells:
        parallel = compilation_cache.allowed_parallel(cache, group.config, size)
        try:
            compiled = compilation_cache.get_program(
                cache, group.config, columns(cells), size
            )
            parallel = compiled.compiled_task.parallel
            parts.append(
                _train_parallel(cache, compiled, group, cells[:parallel], progress)
            )
        except jax.errors.JaxRuntimeError as error:
            if not out_of_memory(error) or parallel == 1:
                raise
            compilation_cache.halve_parallel(cache, group.config, parallel)
        else:
            cells = cells[parallel:]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    # The number may have been halved between two parts.
    return joined | {"parallel": np.asarray(joined["parallel"].min())}


def _train_parallel(
    cache: CompilationCache,
    compiled: program.Program,
    group: SweepGroup,
    cells: tuple[HParams, ...],
    progress: Progress,
) -> dict[str, np.ndarray]:
    """Train at most as many cells as the program has."""
    task, config, count = compiled.compiled_task, compiled.config, len(cells)
    padding = (cells[-1],) * (task.parallel - count)
    padded = columns(cells + padding)
    hparams, run_data, carry = program.start(compiled, padded)
    measured: list[dict[str, np.ndarray]] = []
    for segment in range(config.segments):
        first = segment * config.epochs_per_segment
        batches = compilation_cache.get_batches(cache, compiled, padded["seed"], first)
        carry = compiled.segment(
            carry, hparams, run_data, np.int32(first), batches, task.data
        )
        if config.curves or segment == config.segments - 1:
            measured.append(program.evaluate(compiled, carry, run_data))
        progress.advance(count / config.segments)
    diverged = measured[-1]["diverged"]
    progress.count_diverged(int(diverged[:count].sum()))
    arrays = {
        f"measure/{name}": np.stack([each[name] for each in measured], 1)
        for name in measured[0]
    }
    steps = config.epochs * task.task.steps_per_epoch
    arrays["diverged_at"] = _diverged_at(carry, diverged, steps)
    if group.extract is not None:
        extract = compilation_cache.get_extractor(
            cache, group.extract, config, task.parallel
        )
        extracted = extract(carry.params)
        arrays |= {f"extract/{name}": np.asarray(x) for name, x in extracted.items()}
    arrays = {name: array[:count] for name, array in arrays.items()}  # no padding
    return arrays | {"parallel": np.array([task.parallel], np.int32)}


def _diverged_at(carry: one_run.Carry, diverged: np.ndarray, steps: int) -> np.ndarray:
    """Return the step at which each cell diverged, int32[cells]; -1 for never.

    It is `steps` if all losses were finite, but the weights after the last update are
    not.
    """
    recorded = np.asarray(carry.diverged_at)
    in_last_update = diverged & (recorded == one_run.NEVER)
    return np.where(in_last_update, steps, recorded).astype(np.int32)
