"""Train the cells of a chunk in parallel: one chunk is one file.

A chunk with fewer cells is padded with copies, which are dropped later: a smaller batch
would need a program of its own. If a chunk does not fit into memory, the number of
parallel cells is halved.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from experiments.engine import compilation_cache, program
from experiments.engine.compilation_cache import CompilationCache
from experiments.engine.config import columns, HParams, SweepGroup
from experiments.engine.devices import out_of_memory


class Progress(NamedTuple):
    """Callbacks that report progress; each call may raise `Interrupted`."""

    set_description: Callable[[str], None]  # what is being done
    advance: Callable[[float], None]  # by how many runs
    count_diverged: Callable[[int], None]  # how many more runs have diverged


class Measurement(NamedTuple):
    """Something that is measured and not trained, in one call and into one file."""

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
        `measure/NAME` [cells, measured] for every measure, after every segment with
        curves and after the last one without, `diverged_at` [cells],
        `extract/NAME` [cells, ...] for the arrays that the group extracts, and
        `parallel`, the number of cells that ran in parallel.
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
    joined = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    return joined | {"parallel": np.asarray(joined.pop("parallel").min())}


def _train_parallel(
    cache: CompilationCache,
    compiled: program.Program,
    group: SweepGroup,
    cells: tuple[HParams, ...],
    progress: Progress,
) -> dict[str, np.ndarray]:
    task, config, count = compiled.compiled_task, compiled.config, len(cells)
    padded = columns(cells + cells[-1:] * (task.parallel - count))
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
    at = np.asarray(carry.diverged_at)
    # The last update can break the weights after all losses were finite.
    at = np.where(diverged & (at == program.NEVER), steps, at)
    arrays["diverged_at"] = at.astype(np.int32)
    if group.extract:
        extract = compilation_cache.get_extractor(
            cache, group.extract, config, task.parallel
        )
        extracted = extract(carry.params)
        arrays |= {f"extract/{name}": np.asarray(x) for name, x in extracted.items()}
    arrays = {name: array[:count] for name, array in arrays.items()}
    return arrays | {"parallel": np.array([task.parallel], np.int32)}
