"""One static configuration, compiled for many cells in parallel.

The programs start the cells, train a segment, and measure. They are `vmap`s of the
functions of `one_run` over the cells. The cells are independent, so the compiled
programs have no collectives.
"""

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.engine import devices
from experiments.engine.config import (
    Data,
    HParams,
    Measures,
    Params,
    RunData,
    State,
    StaticConfig,
    Task,
)
from experiments.engine.one_run import (
    build_optimizer,
    Carry,
    draw_epochs,
    measure_run,
    NEVER,
    train_epochs,
)
from experiments.errors import UserError


# For programs that run once or rarely. At XLA's default level, 3, random numbers take
# three times as long to compile and do not run faster.
FAST_COMPILE: dict[str, str | bool] = {"xla_backend_optimization_level": "2"}


class CompiledTask(NamedTuple):
    """The parts that all optimizers of a setup share: data and three programs.

    Random numbers take long to compile and to draw. So batches are drawn once for all
    optimizers, and once for all cells with the same seed.
    """

    task: Task
    data: Data  # on the devices
    parallel: int  # number of cells
    prepare: Callable[..., tuple[RunData, Params, State]]  # hparams, data
    measure: jax.stages.Compiled  # params, state, diverged_at, run_data, data
    draw: Callable[..., Any]  # seed, first epoch, data -> batches [steps, ...]
    # Shapes of the run data, parameters, state and batches of all cells.
    shapes: tuple[RunData, Params, State, Any]


class Program(NamedTuple):
    """One optimizer on a compiled task. Its functions take and return all cells."""

    compiled_task: CompiledTask
    config: StaticConfig
    init: Callable[..., Any]  # hparams, params -> the optimizer's state
    # carry, hparams, run_data, first epoch, batches, data
    segment: Callable[..., Carry]
    record: Callable[..., Measures] | None  # the optimizer's state, params


def compile_task(
    task: Task, data: Data, epochs: int, numbers: HParams, parallel: int
) -> CompiledTask:
    """Put the data on the devices and compile the programs of a task.

    Args:
        task: what is trained.
        data: its data.
        epochs: the epochs of a segment.
        numbers: hyper-parameters; only their names and dtypes are used.
        parallel: the number of cells.
    """
    sharded, replicated = devices.spread_over_devices(parallel)
    data = jax.device_put(data, replicated)
    prepare = jax.jit(
        functools.partial(_prepare, task),
        in_shardings=(sharded, replicated),
        out_shardings=sharded,
    )
    measure = jax.jit(
        jax.vmap(functools.partial(measure_run, task), (0, 0, 0, 0, None)),
        in_shardings=(sharded, sharded, sharded, sharded, replicated),
        out_shardings=sharded,
    )
    draw = jax.jit(functools.partial(draw_epochs, task, epochs))
    lowered_prepare = prepare.lower(_hparam_shapes(numbers, parallel), data)
    run_data, params, state = _shapes(lowered_prepare.out_info)
    diverged_at = jax.ShapeDtypeStruct((parallel,), jnp.int32)
    lowered_measure = measure.lower(params, state, diverged_at, run_data, data)
    scalar = jax.ShapeDtypeStruct((), jnp.int32)  # a seed or an epoch
    lowered_draw = draw.lower(scalar, scalar, data)
    with ThreadPoolExecutor() as threads:  # XLA compiles without the GIL
        compiled_prepare, compiled_measure, compiled_draw = threads.map(
            lambda lowered: lowered.compile(FAST_COMPILE),
            (lowered_prepare, lowered_measure, lowered_draw),
        )
    batches = _shapes(lowered_draw.out_info, parallel)
    return CompiledTask(
        task,
        data,
        parallel,
        prepare=compiled_prepare,
        measure=compiled_measure,
        draw=compiled_draw,
        shapes=(run_data, params, state, batches),
    )


def compile_program(
    compiled_task: CompiledTask, config: StaticConfig, numbers: HParams
) -> Program:
    """Compile one optimizer. No run compiles anything afterwards."""
    task, parallel = compiled_task.task, compiled_task.parallel
    sharded, _ = devices.spread_over_devices(parallel)

    @functools.partial(jax.jit, in_shardings=sharded, out_shardings=sharded)
    @jax.vmap
    def init(hparams: HParams, params: Params) -> Any:
        return build_optimizer(config, task, hparams).init(params)

    hparams = _hparam_shapes(numbers, parallel)
    run_data, params, state, batches = compiled_task.shapes
    lowered_init = init.lower(hparams, params)
    opt_state = _shapes(lowered_init.out_info)
    diverged_at = jax.ShapeDtypeStruct((parallel,), jnp.int32)
    carry = Carry(params, state, opt_state, diverged_at)
    first_epoch = jax.ShapeDtypeStruct((), jnp.int32)
    lowered_segment = _jit_segment(config, task, parallel).lower(
        carry, hparams, run_data, first_epoch, batches, compiled_task.data
    )
    return Program(
        compiled_task,
        config,
        init=lowered_init.compile(FAST_COMPILE),
        segment=lowered_segment.compile(),
        record=_compile_record(compiled_task, config, opt_state),
    )


def _jit_segment(config: StaticConfig, task: Task, parallel: int) -> Any:
    """Return the jitted function that trains a segment of all cells."""
    sharded, replicated = devices.spread_over_devices(parallel)

    @functools.partial(
        jax.jit,
        in_shardings=(sharded, sharded, sharded, replicated, sharded, replicated),
        out_shardings=sharded,
        donate_argnums=0,  # the new carry takes the memory of the old one
    )
    @functools.partial(jax.vmap, in_axes=(0, 0, 0, None, 0, None))
    def segment(*arguments: Any) -> Carry:  # as listed at `Program.segment`
        return train_epochs(config, task, *arguments)

    return segment


def _compile_record(
    compiled_task: CompiledTask, config: StaticConfig, opt_state: Any
) -> Callable[..., Measures] | None:
    """Compile `config.record` for all cells; None if the configuration has none.

    Raises:
        UserError: a record has the name of a measure.
    """
    if config.record is None:
        return None
    sharded, _ = devices.spread_over_devices(compiled_task.parallel)
    record = jax.jit(
        jax.vmap(config.record), in_shardings=sharded, out_shardings=sharded
    )
    _, params, _, _ = compiled_task.shapes
    lowered = record.lower(opt_state, params)
    taken = set(lowered.out_info) & set(compiled_task.measure.out_info)
    if taken:
        raise UserError(
            f"StaticConfig.record: the task already has measures with the names "
            f"{', '.join(sorted(taken))}. Return other names."
        )
    return lowered.compile(FAST_COMPILE)


def start(program: Program, hparams: HParams) -> tuple[HParams, RunData, Carry]:
    """Put cells on their devices and return them, their data and their first carry."""
    task = program.compiled_task
    sharded, _ = devices.spread_over_devices(task.parallel)
    hparams = jax.device_put(hparams, sharded)
    run_data, params, state = task.prepare(hparams, task.data)
    opt_state = program.init(hparams, params)
    diverged_at = jax.device_put(np.full(task.parallel, NEVER, np.int32), sharded)
    carry = Carry(params, state, opt_state, diverged_at)
    return hparams, run_data, carry


def evaluate(
    program: Program, carry: Carry, run_data: RunData
) -> dict[str, np.ndarray]:
    """Return the measures and the optimizer's records of all cells, [cells] each."""
    params, state, opt_state, diverged_at = carry
    task = program.compiled_task
    measures = task.measure(params, state, diverged_at, run_data, task.data)
    if program.record is not None:
        measures = measures | program.record(opt_state, params)
    return jax.device_get(measures)


def _prepare(task: Task, hparams: HParams, data: Data) -> tuple[RunData, Params, State]:
    """Prepare many runs: their data, initial parameters and initial states."""
    params = jax.vmap(task.init)(hparams)
    state = jax.vmap(task.state)(hparams, params)
    return jax.vmap(task.run_data, (0, None))(hparams, data), params, state


def _shapes(arrays: Any, *leading: int) -> Any:
    """Return the shapes and dtypes of arrays, with `leading` axes in front."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((*leading, *x.shape), x.dtype), arrays
    )


def _hparam_shapes(numbers: HParams, parallel: int) -> HParams:
    return {
        name: jax.ShapeDtypeStruct((parallel,), array.dtype)
        for name, array in numbers.items()
    }
