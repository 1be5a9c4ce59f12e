"""Cells side by side, as many as a chunk has: each chunk is a file.

A chunk with fewer cells is filled up with copies, which are dropped: a remainder would
be a program of its own. A chunk that does not fit into memory is run in halves.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from experiments.engine import program, workshop
from experiments.engine.devices import out_of_memory
from experiments.engine.plan import Block, Cell, columns


class Bar(NamedTuple):
    """What a person hears while pieces are made; each call may end the run."""

    say: Callable[[str], None]  # what is being done
    advance: Callable[[float], None]  # how many more runs are done
    count_diverged: Callable[[int], None]  # how many more of them have diverged


class Piece(NamedTuple):
    """What is measured and not trained, in one go and into one file."""

    name: str
    make: Callable[[workshop.Workshop, Bar], dict[str, np.ndarray]]


def train(
    shop: workshop.Workshop,
    block: Block,
    cells: tuple[Cell, ...],
    size: int,
    bar: Bar,
) -> dict[str, np.ndarray]:
    """Train the cells, `size` side by side or as many as fit.

    Returns:
        `measure/NAME` [cells, measured] for every measure, after every segment with
        curves and after the last without, `diverged_at` [cells],
        `keep/NAME` [cells, ...] for what the block keeps, and `width`.
    """
    parts: list[dict[str, np.ndarray]] = []
    while cells:
        width = workshop.width_for(shop, block.static, size)
        try:
            made = workshop.program_for(shop, block.static, columns(cells), size)
            width = made.bench.width
            parts.append(_train_side_by_side(shop, made, block, cells[:width], bar))
        except jax.errors.JaxRuntimeError as error:
            if not out_of_memory(error) or width == 1:
                raise
            workshop.narrow(shop, block.static, width)
        else:
            cells = cells[width:]
    joined = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    return joined | {"width": np.asarray(joined.pop("width").min())}


def _train_side_by_side(
    shop: workshop.Workshop,
    made: program.Program,
    block: Block,
    cells: tuple[Cell, ...],
    bar: Bar,
) -> dict[str, np.ndarray]:
    bench, static, real = made.bench, made.static, len(cells)
    filled = cells + cells[-1:] * (bench.width - real)
    numbers = columns(filled)
    cell, part, carry = program.start(made, numbers)
    taken: list[dict[str, np.ndarray]] = []
    for segment in range(static.segments):
        first = segment * static.epochs_per_segment
        batches = workshop.batches_for(shop, made, numbers["seed"], first)
        carry = made.segment(carry, cell, part, np.int32(first), batches, bench.data)
        if static.curves or segment == static.segments - 1:
            taken.append(program.take_measures(made, carry, part))
        bar.advance(real / static.segments)
    bar.count_diverged(int(taken[-1]["diverged"][:real].sum()))
    arrays = {f"measure/{n}": np.stack([t[n] for t in taken], 1) for n in taken[0]}
    steps = static.epochs * bench.task.steps_per_epoch
    at = np.asarray(carry.diverged_at)
    at = np.where(taken[-1]["diverged"] & (at == program.NEVER), steps, at)
    arrays["diverged_at"] = at.astype(np.int32)
    if block.keep:
        kept = workshop.keeper(shop, block.keep, static, bench.width)(carry.params)
        arrays |= {f"keep/{name}": np.asarray(x) for name, x in kept.items()}
    arrays = {name: array[:real] for name, array in arrays.items()}
    return arrays | {"width": np.array([bench.width], np.int32)}
