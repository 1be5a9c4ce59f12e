"""Train many cells at once: one compiled program per optimizer, whatever the grid.

A cell is one run. Its learning rate, strength and seed are traced numbers, so that all
cells of an optimizer share one executable: `vmap` over the cells of a chunk, `scan`
over the steps of a segment, a Python loop over segments and chunks. The cell axis is
spread over the devices; on CPU every core is one.

    bench = prepare_bench(task, schedule, data, chunk)
    program = compile_program(bench, chain)
    results = train(program, cells, advance)
"""

import functools
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec


Chain = Callable[..., optax.GradientTransformationExtraArgs]
Params = Any
Data = Any


class Cell(NamedTuple):
    """What tells one run from another; with a leading axis, many runs."""

    learning_rate: Any  # float32: the peak
    weight_decay: Any  # float32
    seed: Any  # int32


class Task(NamedTuple):
    """What is trained, as pure functions of one seed."""

    init: Callable[[Any], Params]  # seed -> params
    part: Callable[[Any, Data], Any]  # seed, data -> what this seed trains on
    batches: Callable[..., Any]  # seed, epoch, part -> (x[steps, B, D], y[steps, B])
    loss: Callable[..., jax.Array]  # params, x, y -> scalar
    measure: Callable[..., dict[str, jax.Array]]  # params, part, data -> scalars
    mask: Callable[[Params], Any]  # params -> which of them decay


class Schedule(NamedTuple):
    """How long a run is: static, the same for all cells of a program."""

    epochs: int
    epochs_per_segment: int
    steps_per_epoch: int

    def multiplier(self, step: jax.typing.ArrayLike) -> jax.Array:
        """Cosine from 1 to 0 over the run."""
        done = jnp.asarray(step, jnp.float32) / (self.epochs * self.steps_per_epoch)
        return 0.5 * (1 + jnp.cos(jnp.pi * done))


class Bench(NamedTuple):
    """What all optimizers share: task, data in place, and two compiled functions."""

    task: Task
    schedule: Schedule
    data: Data
    chunk: int
    spread: NamedSharding  # the cell axis over the devices
    init: Callable[..., Params]  # seed[chunk] -> params
    measure: Callable[..., dict[str, jax.Array]]  # params, seed[chunk], data


class Program(NamedTuple):
    """One optimizer on the bench, compiled for chunks of cells."""

    bench: Bench
    init: Callable[..., Any]  # cell, params -> optimizer state
    segment: Callable[..., Any]  # (params, state), cell, first epoch, data -> the same


class Results(NamedTuple):
    """What is known of the cells after their runs; cells lead every axis."""

    measures: dict[str, np.ndarray]
    params: Params


def use_all_cores() -> None:
    """Make every CPU core a device; without effect once JAX is in use."""
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        cores = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))
        jax.config.update("jax_num_cpu_devices", len(cores(0)))


def optimizer(
    chain: Chain, task: Task, schedule: Schedule, cell: Cell
) -> optax.GradientTransformationExtraArgs:
    """The chain with the cell's numbers, which may be traced."""
    return chain(
        lambda step: cell.learning_rate * schedule.multiplier(step),
        weight_decay=cell.weight_decay,
        mask=task.mask,
    )


def run_epochs(
    chain: Chain,
    task: Task,
    schedule: Schedule,
    carry: Any,
    cell: Cell,
    epochs: jax.Array,
    data: Data,
) -> Any:
    """Train one cell for the given epochs: pure, for `jit`, `vmap` and `scan`."""
    update = optimizer(chain, task, schedule, cell).update
    part = task.part(cell.seed, data)

    def step(carry, batch):
        params, state = carry
        updates, state = update(jax.grad(task.loss)(params, *batch), state, params)
        return (optax.apply_updates(params, updates), state), None

    def epoch(carry, number):
        return jax.lax.scan(step, carry, task.batches(cell.seed, number, part))

    return jax.lax.scan(epoch, carry, epochs)[0]


def prepare_bench(task: Task, schedule: Schedule, data: Data, chunk: int) -> Bench:
    """Put the data on the devices and compile what all optimizers share.

    A chunk is spread over the largest number of devices that divides it.
    """
    devices = jax.devices()
    count = max(n for n in range(1, len(devices) + 1) if chunk % n == 0)
    mesh = jax.make_mesh(
        (count,), ("cell",), axis_types=(AxisType.Auto,), devices=devices[:count]
    )
    spread = NamedSharding(mesh, PartitionSpec("cell"))
    copied = NamedSharding(mesh, PartitionSpec())
    data = jax.device_put(data, copied)
    seed = jax.ShapeDtypeStruct((chunk,), jnp.int32)
    init = jax.jit(jax.vmap(task.init), in_shardings=spread, out_shardings=spread)

    @functools.partial(jax.jit, in_shardings=(spread, spread, copied))
    @functools.partial(jax.vmap, in_axes=(0, 0, None))
    def measure(params, seed, data):
        return task.measure(params, task.part(seed, data), data)

    return Bench(
        *(task, schedule, data, chunk, spread),
        init=init.lower(seed).compile(),
        measure=measure.lower(jax.eval_shape(init, seed), seed, data).compile(),
    )


def compile_program(bench: Bench, chain: Chain) -> Program:
    """Compile one optimizer ahead of all runs; nothing is compiled afterwards."""
    task, schedule, spread = bench.task, bench.schedule, bench.spread
    copied = NamedSharding(spread.mesh, PartitionSpec())

    @functools.partial(jax.jit, in_shardings=spread, out_shardings=spread)
    @jax.vmap
    def init(cell, params):
        return optimizer(chain, task, schedule, cell).init(params)

    @functools.partial(
        jax.jit,
        in_shardings=(spread, spread, copied, copied),
        out_shardings=spread,
        donate_argnums=0,
    )
    @functools.partial(jax.vmap, in_axes=(0, 0, None, None))
    def segment(carry, cell, first_epoch, data):
        epochs = first_epoch + jnp.arange(schedule.epochs_per_segment)
        return run_epochs(chain, task, schedule, carry, cell, epochs, data)

    number = jax.ShapeDtypeStruct((bench.chunk,), jnp.float32)
    seed = jax.ShapeDtypeStruct((bench.chunk,), jnp.int32)
    cell = Cell(number, number, seed)
    params = jax.eval_shape(jax.vmap(task.init), seed)
    carry = (params, jax.eval_shape(init, cell, params))
    epoch = jax.ShapeDtypeStruct((), jnp.int32)
    return Program(
        bench,
        init=init.lower(cell, params).compile(),
        segment=segment.lower(carry, cell, epoch, bench.data).compile(),
    )


def train(
    program: Program, cells: list[Cell], advance: Callable[[float], None]
) -> Results:
    """Train every cell; `advance` hears of each segment how many runs it was worth."""
    chunks = [
        _train_chunk(program, cell, real, advance)
        for cell, real in _chunks(cells, program.bench.chunk)
    ]
    return Results(*jax.tree.map(lambda *leaves: np.concatenate(leaves), *chunks))


def _chunks(cells: list[Cell], chunk: int) -> Iterator[tuple[Cell, int]]:
    """Chunks of one size, the last filled up with copies, and how many are real."""
    for first in range(0, len(cells), chunk):
        real = cells[first : first + chunk]
        full = real + [real[-1]] * (chunk - len(real))
        numbers = [np.asarray(column) for column in zip(*full, strict=True)]
        yield (
            Cell(
                *(column.astype(np.float32) for column in numbers[:2]),
                seed=numbers[2].astype(np.int32),
            ),
            len(real),
        )


def _train_chunk(
    program: Program, cell: Cell, real: int, advance: Callable[[float], None]
) -> Any:
    bench, schedule = program.bench, program.bench.schedule
    cell = jax.device_put(cell, bench.spread)
    params = bench.init(cell.seed)
    carry = (params, program.init(cell, params))
    segments = range(0, schedule.epochs, schedule.epochs_per_segment)
    for first in segments:
        carry = program.segment(carry, cell, np.int32(first), bench.data)
        jax.block_until_ready(carry)
        advance(real / len(segments))
    results = (bench.measure(carry[0], cell.seed, bench.data), carry[0])
    return jax.tree.map(lambda leaf: leaf[:real], jax.device_get(results))
