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
    Measures,
    multiplier,
    Params,
    Part,
    State,
    Static,
    Task,
)
from experiments.problem import Problem
from experiments.seeds import key_for, Purpose


NEVER = -1  # diverged_at of a cell that has not
# For what runs once or rarely. Random numbers take XLA three times as long to compile
# at its usual level, 3, and run no faster for it.
LIGHTLY: dict[str, str | bool] = {"xla_backend_optimization_level": "2"}


class Carry(NamedTuple):
    """What a cell takes from step to step."""

    params: Params
    model_state: State
    opt_state: Any
    diverged_at: Any  # int32: the first step whose loss was not finite


class Bench(NamedTuple):
    """What all chains of a recipe share at one width: data in place, three programs.

    Drawing random numbers takes long to compile and to run, so batches are drawn once
    for all chains, and once for all cells of a seed.
    """

    task: Task
    data: Data
    width: int  # cells side by side
    prepare: Callable[..., tuple[Part, Params, State]]  # cell, data
    measure: jax.stages.Compiled  # params, state, diverged_at, part, data -> Measures
    draw: Callable[..., Any]  # seed, first epoch, data -> batches [steps, ...]
    # of what they make; the batches are those of all cells
    shapes: tuple[Part, Params, State, Any]


class Program(NamedTuple):
    """One chain on a bench."""

    bench: Bench
    static: Static
    init: Callable[..., Any]  # cell, params -> the optimizer's state
    segment: Callable[..., Carry]  # carry, cell, part, first epoch, batches, data
    record: Callable[..., Measures] | None  # the optimizer's state, params


def optimizer(static: Static, task: Task, cell: Cell) -> Any:
    """The chain with the cell's numbers, which may be traced."""
    eta = multiplier(static, task.steps_per_epoch, cell)
    return static.chain(cell, eta, task.mask)


def step_key(cell: Cell, step: jax.typing.ArrayLike) -> jax.Array:
    """The random key of a step, for the loss."""
    return jax.random.fold_in(key_for(cell["seed"], Purpose.DROPOUT), step)


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
    loss_and_grads = jax.value_and_grad(task.loss, has_aux=True)

    def step(carry: Carry, indexed: tuple[jax.Array, Any]) -> tuple[Carry, None]:
        index, batch = indexed
        params, state, opt_state, diverged_at = carry
        (loss, state), grads = loss_and_grads(
            params, state, batch, step_key(cell, index), part, data
        )
        updates, opt_state = update(grads, opt_state, params)
        first = (diverged_at == NEVER) & ~jnp.isfinite(loss)
        diverged_at = jnp.where(first, index, diverged_at)
        params = optax.apply_updates(params, updates)
        return Carry(params, state, opt_state, diverged_at), None

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


def score(
    task: Task, params: Params, state: State, diverged_at: Any, part: Part, data: Data
) -> Measures:
    """The measures of one cell; where it has diverged, those of chance."""
    finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(params)]
    diverged = (diverged_at != NEVER) | ~jnp.all(jnp.stack(finite))
    measures = task.measure(params, state, part, data)
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
    prepare = jax.jit(
        functools.partial(_prepare, task),
        in_shardings=(spread, copied),
        out_shardings=spread,
    )
    measure = jax.jit(
        jax.vmap(functools.partial(score, task), (0, 0, 0, 0, None)),
        in_shardings=(spread, spread, spread, spread, copied),
        out_shardings=spread,
    )
    draw = jax.jit(functools.partial(draw_epochs, task, epochs))
    number = jax.ShapeDtypeStruct((), jnp.int32)
    at = jax.ShapeDtypeStruct((width,), jnp.int32)
    preparing = prepare.lower(_widened(shapes, width), data)
    part, params, state = _shapes(preparing.out_info)
    measuring = measure.lower(params, state, at, part, data)
    drawing = draw.lower(number, number, data)
    with ThreadPoolExecutor() as threads:
        three = preparing, measuring, drawing
        made = threads.map(lambda lowered: lowered.compile(LIGHTLY), three)
    batches = _shapes(drawing.out_info, width)
    return Bench(task, data, width, *made, shapes=(part, params, state, batches))


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
    part, params, state, batches = bench.shapes
    beginning = init.lower(cell, params)
    opt_state = _shapes(beginning.out_info)
    at = jax.ShapeDtypeStruct((bench.width,), jnp.int32)
    carry = Carry(params, state, opt_state, at)
    first = jax.ShapeDtypeStruct((), jnp.int32)
    return Program(
        bench,
        static,
        init=beginning.compile(LIGHTLY),
        segment=segment.lower(carry, cell, part, first, batches, bench.data).compile(),
        record=_compile_record(bench, static, opt_state),
    )


def _compile_record(
    bench: Bench, static: Static, opt_state: Any
) -> Callable[..., Measures] | None:
    """What the static records of many cells, if anything.

    Raises:
        Problem: a name is a measure of the task.
    """
    if static.record is None:
        return None
    spread, _ = devices.spread_over_devices(bench.width)
    record = jax.jit(jax.vmap(static.record), in_shardings=spread, out_shardings=spread)
    lowered = record.lower(opt_state, bench.shapes[1])
    taken = set(lowered.out_info) & set(bench.measure.out_info)
    if taken:
        raise Problem(
            f"record: {', '.join(sorted(taken))} are measures of the task; return "
            "other names."
        )
    return lowered.compile(LIGHTLY)


def start(program: Program, cell: Cell) -> tuple[Cell, Part, Carry]:
    """Cells on their devices, and what they begin with."""
    spread, _ = devices.spread_over_devices(program.bench.width)
    cell = jax.device_put(cell, spread)
    part, params, state = program.bench.prepare(cell, program.bench.data)
    never = np.full(program.bench.width, NEVER, np.int32)
    opt_state = program.init(cell, params)
    return cell, part, Carry(params, state, opt_state, jax.device_put(never, spread))


def take_measures(program: Program, carry: Carry, part: Part) -> dict[str, np.ndarray]:
    """The measures of all cells and what is recorded of the optimizer, [cells]."""
    params, state, opt_state, diverged_at = carry
    bench = program.bench
    measures = bench.measure(params, state, diverged_at, part, bench.data)
    if program.record is not None:
        measures = measures | program.record(opt_state, params)
    return jax.device_get(measures)


def _prepare(task: Task, cell: Cell, data: Data) -> tuple[Part, Params, State]:
    """What many cells train on, and their models at the start."""
    params = jax.vmap(task.init)(cell)
    state = jax.vmap(task.state)(cell, params)
    return jax.vmap(task.part, (0, None))(cell, data), params, state


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
