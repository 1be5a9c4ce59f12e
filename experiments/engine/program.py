"""One static configuration as compiled programs: start, segment, measure.

`vmap` over the cells, `scan` over the steps of a segment. Cells never meet: each has
its random numbers from its own seed, and the compiled text holds no collective.
"""

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.engine import devices
from experiments.engine.plan import (
    Cell,
    Data,
    multiplier,
    Params,
    Part,
    Static,
    Task,
)


NEVER = -1  # diverged_at of a cell that has not
# For what runs once or rarely. Random numbers take XLA three times as long to compile
# at its usual level, 3, and run no faster for it.
LIGHTLY: dict[str, str | bool] = {"xla_backend_optimization_level": "2"}


class Carry(NamedTuple):
    """What a cell takes from step to step."""

    params: Params
    state: Any  # the optimizer's
    diverged_at: Any  # int32: the first step whose loss was not finite


class Bench(NamedTuple):
    """What all chains of a recipe share at one width: data in place, three programs.

    Drawing random numbers takes long to compile and to run, so batches are drawn once
    for all chains, and once for all cells of a seed.
    """

    task: Task
    data: Data
    width: int  # cells side by side
    prepare: Callable[..., tuple[Part, Params]]  # cell, data
    measure: Callable[..., dict[str, jax.Array]]  # params, diverged_at, part, data
    draw: Callable[..., Any]  # seed, first epoch, data -> batches [steps, ...]
    shapes: tuple[Part, Params, Any]  # of what they make, batches of all cells


class Program(NamedTuple):
    """One chain on a bench."""

    bench: Bench
    static: Static
    init: Callable[..., Any]  # cell, params -> the optimizer's state
    segment: Callable[..., Carry]  # carry, cell, part, first epoch, batches, data


def optimizer(static: Static, task: Task, cell: Cell) -> Any:
    """The chain with the cell's numbers, which may be traced."""
    return static.chain(cell, multiplier(static, task.steps_per_epoch), task.mask)


def run_epochs(
    static: Static,
    task: Task,
    carry: Carry,
    cell: Cell,
    part: Part,
    first_epoch: Any,
    batches: Any,
    data: Data,
) -> Carry:
    """Train one cell on the batches of some epochs, [steps, ...]: pure."""
    update = optimizer(static, task, cell).update

    def step(carry: Carry, indexed: tuple[jax.Array, Any]) -> tuple[Carry, None]:
        index, batch = indexed
        params, state, diverged_at = carry
        loss, grads = jax.value_and_grad(task.loss)(params, batch, part, data)
        updates, state = update(grads, state, params)
        first = (diverged_at == NEVER) & ~jnp.isfinite(loss)
        params = optax.apply_updates(params, updates)
        return Carry(params, state, jnp.where(first, index, diverged_at)), None

    count = len(jax.tree.leaves(batches)[0])
    indices = first_epoch * task.steps_per_epoch + jnp.arange(count, dtype=jnp.int32)
    return jax.lax.scan(step, carry, (indices, batches))[0]


def draw_epochs(
    task: Task, epochs: int, seed: Any, first_epoch: Any, data: Data
) -> Any:
    """The batches of a seed for some epochs, one after another: [steps, ...]."""
    numbers = first_epoch + jnp.arange(epochs, dtype=jnp.int32)
    drawn = jax.vmap(lambda epoch: task.batches(seed, epoch, data))(numbers)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), drawn)


def score(task: Task, params: Params, diverged_at: Any, part: Part, data: Data) -> Any:
    """The measures of one cell; where it has diverged, those of chance."""
    finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(params)]
    diverged = (diverged_at != NEVER) | ~jnp.all(jnp.stack(finite))
    measures = task.measure(params, part, data)
    for name, value in task.chance.items():
        measures[name] = jnp.where(diverged, value, measures[name])
    return measures | {"diverged": diverged}


def prepare_bench(
    task: Task, data: Data, epochs: int, shapes: Cell, width: int
) -> Bench:
    """Put the data on the devices and compile what all chains share.

    `epochs` are those of a segment; `shapes` holds the cells' numbers, of which only
    names and dtypes matter.
    """
    spread, copied = devices.spread_over_devices(width)
    data = jax.device_put(data, copied)
    cell = _widened(shapes, width)

    prepare = jax.jit(
        functools.partial(_prepare, task),
        in_shardings=(spread, copied),
        out_shardings=spread,
    )

    @functools.partial(
        jax.jit, in_shardings=(spread, spread, spread, copied), out_shardings=spread
    )
    @functools.partial(jax.vmap, in_axes=(0, 0, 0, None))
    def measure(params: Params, diverged_at: Any, part: Part, data: Data) -> Any:
        return score(task, params, diverged_at, part, data)

    draw = jax.jit(functools.partial(draw_epochs, task, epochs))
    number = jax.ShapeDtypeStruct((), jnp.int32)
    at = jax.ShapeDtypeStruct((width,), jnp.int32)
    preparing, drawing = prepare.lower(cell, data), draw.lower(number, number, data)
    part, params = _shapes(preparing.out_info)
    three = preparing, measure.lower(params, at, part, data), drawing
    with ThreadPoolExecutor() as threads:
        made = threads.map(lambda lowered: lowered.compile(LIGHTLY), three)
    batches = _shapes(drawing.out_info, width)
    return Bench(task, data, width, *made, shapes=(part, params, batches))


def compile_program(bench: Bench, static: Static, shapes: Cell) -> Program:
    """Compile one chain ahead of all runs; nothing is compiled afterwards."""
    task = bench.task
    spread, copied = devices.spread_over_devices(bench.width)

    @functools.partial(jax.jit, in_shardings=spread, out_shardings=spread)
    @jax.vmap
    def init(cell: Cell, params: Params) -> Any:
        return optimizer(static, task, cell).init(params)

    @functools.partial(
        jax.jit,
        in_shardings=(spread, spread, spread, copied, spread, copied),
        out_shardings=spread,
        donate_argnums=0,
    )
    @functools.partial(jax.vmap, in_axes=(0, 0, 0, None, 0, None))
    def segment(
        carry: Carry, cell: Cell, part: Part, first: Any, batches: Any, data: Data
    ) -> Carry:
        return run_epochs(static, task, carry, cell, part, first, batches, data)

    cell = _widened(shapes, bench.width)
    part, params, batches = bench.shapes
    beginning = init.lower(cell, params)
    at = jax.ShapeDtypeStruct((bench.width,), jnp.int32)
    carry = Carry(params, _shapes(beginning.out_info), at)
    first = jax.ShapeDtypeStruct((), jnp.int32)
    return Program(
        bench,
        static,
        init=beginning.compile(LIGHTLY),
        segment=segment.lower(carry, cell, part, first, batches, bench.data).compile(),
    )


def start(program: Program, cell: Cell) -> tuple[Cell, Part, Carry]:
    """Cells on their devices, and what they begin with."""
    spread, _ = devices.spread_over_devices(program.bench.width)
    cell = jax.device_put(cell, spread)
    part, params = program.bench.prepare(cell, program.bench.data)
    never = np.full(program.bench.width, NEVER, np.int32)
    state = program.init(cell, params)
    return cell, part, Carry(params, state, jax.device_put(never, spread))


def _prepare(task: Task, cell: Cell, data: Data) -> tuple[Part, Params]:
    """What many cells train on, and their initial parameters."""
    return jax.vmap(task.part, (0, None))(cell, data), jax.vmap(task.init)(cell)


def _shapes(arrays: Any, *leading: int) -> Any:
    """Shapes and dtypes alone, with leading axes before."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((*leading, *x.shape), x.dtype), arrays
    )


def _widened(shapes: Cell, width: int) -> Cell:
    return {
        name: jax.ShapeDtypeStruct((width,), array.dtype)
        for name, array in shapes.items()
    }
