"""One static configuration as compiled programs: start, segment, measure.

`vmap` over the cells, `scan` over the steps of a segment. Cells are independent: each
draws its random numbers from its own seed, and the compiled program has no collectives.
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
from experiments.engine.config import (
    Data,
    HParams,
    Measures,
    multiplier,
    Params,
    RunData,
    State,
    StaticConfig,
    Task,
)
from experiments.errors import UserError
from experiments.seeds import key_for, Purpose


NEVER = -1  # diverged_at of a run that has not diverged
# For programs that run once or rarely. XLA takes three times as long to compile random
# numbers at its default level, 3, and they run no faster for it.
FAST_COMPILE: dict[str, str | bool] = {"xla_backend_optimization_level": "2"}


class Carry(NamedTuple):
    """What a run hands from step to step."""

    params: Params
    model_state: State
    opt_state: Any
    diverged_at: Any  # int32: the first step whose loss was not finite


class CompiledTask(NamedTuple):
    """What all optimizers of a setup share: data on the devices, three programs.

    Drawing random numbers takes long to compile and to run, so batches are drawn once
    for all optimizers, and once for all cells of a seed.
    """

    task: Task
    data: Data
    parallel: int  # number of cells
    prepare: Callable[..., tuple[RunData, Params, State]]  # hparams, data
    measure: jax.stages.Compiled  # params, state, diverged_at, run_data, data
    draw: Callable[..., Any]  # seed, first epoch, data -> batches [steps, ...]
    # of what they return; the batches are those of all cells
    shapes: tuple[RunData, Params, State, Any]


class Program(NamedTuple):
    """One optimizer on a compiled task."""

    compiled_task: CompiledTask
    config: StaticConfig
    init: Callable[..., Any]  # hparams, params -> the optimizer's state
    # carry, hparams, run_data, first epoch, batches, data
    segment: Callable[..., Carry]
    record: Callable[..., Measures] | None  # the optimizer's state, params


def build_optimizer(config: StaticConfig, task: Task, hparams: HParams) -> Any:
    """The optimizer with these hyper-parameters, which may be traced."""
    eta = multiplier(config, task.steps_per_epoch, hparams)
    return config.make_optimizer(hparams, eta, task.mask)


def step_key(hparams: HParams, step: jax.typing.ArrayLike) -> jax.Array:
    """The random key of a step, for the loss."""
    return jax.random.fold_in(key_for(hparams["seed"], Purpose.DROPOUT), step)


def train_epochs(
    config: StaticConfig,
    task: Task,
    carry: Carry,
    hparams: HParams,
    run_data: RunData,
    first_epoch: Any,
    batches: Any,
    data: Data,
) -> Carry:
    """Train one run on the batches of some epochs, [steps, ...]: pure."""
    update = build_optimizer(config, task, hparams).update
    loss_and_grads = jax.value_and_grad(task.loss, has_aux=True)

    def step(carry: Carry, indexed: tuple[jax.Array, Any]) -> tuple[Carry, None]:
        index, batch = indexed
        params, state, opt_state, diverged_at = carry
        key = step_key(hparams, index)
        (loss, state), grads = loss_and_grads(params, state, batch, key, run_data, data)
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
    """The batches of a seed for some epochs, concatenated: [steps, ...]."""
    numbers = first_epoch + jnp.arange(epochs, dtype=jnp.int32)
    drawn = jax.vmap(lambda epoch: task.batches(seed, epoch, data))(numbers)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), drawn)


def measure_run(
    task: Task,
    params: Params,
    state: State,
    diverged_at: Any,
    run_data: RunData,
    data: Data,
) -> Measures:
    """The measures of one run; those of chance if it has diverged."""
    finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(params)]
    diverged = (diverged_at != NEVER) | ~jnp.all(jnp.stack(finite))
    measures = task.measure(params, state, run_data, data)
    for name, value in task.chance.items():
        measures[name] = jnp.where(diverged, value, measures[name])
    return measures | {"diverged": diverged}


def compile_task(
    task: Task, data: Data, epochs: int, numbers: HParams, parallel: int
) -> CompiledTask:
    """Put the data on the devices and compile what all optimizers share.

    Args:
        task: what is trained.
        data: its data.
        epochs: the epochs of a segment.
        numbers: hyper-parameters, of which only names and dtypes matter.
        parallel: the number of cells.
    """
    spread, copied = devices.spread_over_devices(parallel)
    data = jax.device_put(data, copied)
    prepare = jax.jit(
        functools.partial(_prepare, task),
        in_shardings=(spread, copied),
        out_shardings=spread,
    )
    measure = jax.jit(
        jax.vmap(functools.partial(measure_run, task), (0, 0, 0, 0, None)),
        in_shardings=(spread, spread, spread, spread, copied),
        out_shardings=spread,
    )
    draw = jax.jit(functools.partial(draw_epochs, task, epochs))
    number = jax.ShapeDtypeStruct((), jnp.int32)
    at = jax.ShapeDtypeStruct((parallel,), jnp.int32)
    preparing = prepare.lower(_hparam_shapes(numbers, parallel), data)
    run_data, params, state = _shapes(preparing.out_info)
    measuring = measure.lower(params, state, at, run_data, data)
    drawing = draw.lower(number, number, data)
    with ThreadPoolExecutor() as threads:  # XLA compiles outside the GIL
        prepare, measure, draw = threads.map(
            lambda lowered: lowered.compile(FAST_COMPILE),
            (preparing, measuring, drawing),
        )
    batches = _shapes(drawing.out_info, parallel)
    return CompiledTask(
        task,
        data,
        parallel,
        prepare=prepare,
        measure=measure,
        draw=draw,
        shapes=(run_data, params, state, batches),
    )


def compile_program(
    compiled_task: CompiledTask, config: StaticConfig, numbers: HParams
) -> Program:
    """Compile one optimizer before all runs; nothing is compiled afterwards."""
    task, parallel = compiled_task.task, compiled_task.parallel
    spread, copied = devices.spread_over_devices(parallel)

    @functools.partial(jax.jit, in_shardings=spread, out_shardings=spread)
    @jax.vmap
    def init(hparams: HParams, params: Params) -> Any:
        return build_optimizer(config, task, hparams).init(params)

    @functools.partial(
        jax.jit,
        in_shardings=(spread, spread, spread, copied, spread, copied),
        out_shardings=spread,
        donate_argnums=0,
    )
    @functools.partial(jax.vmap, in_axes=(0, 0, 0, None, 0, None))
    def segment(*arguments: Any) -> Carry:  # as listed at `Program.segment`
        return train_epochs(config, task, *arguments)

    hparams = _hparam_shapes(numbers, parallel)
    run_data, params, state, batches = compiled_task.shapes
    lowered_init = init.lower(hparams, params)
    opt_state = _shapes(lowered_init.out_info)
    at = jax.ShapeDtypeStruct((parallel,), jnp.int32)
    carry = Carry(params, state, opt_state, at)
    first = jax.ShapeDtypeStruct((), jnp.int32)
    lowered_segment = segment.lower(
        carry, hparams, run_data, first, batches, compiled_task.data
    )
    return Program(
        compiled_task,
        config,
        init=lowered_init.compile(FAST_COMPILE),
        segment=lowered_segment.compile(),
        record=_compile_record(compiled_task, config, opt_state),
    )


def _compile_record(
    compiled_task: CompiledTask, config: StaticConfig, opt_state: Any
) -> Callable[..., Measures] | None:
    """`config.record` over many cells; None if the configuration records nothing.

    Raises:
        UserError: a name is a measure of the task.
    """
    if config.record is None:
        return None
    spread, _ = devices.spread_over_devices(compiled_task.parallel)
    record = jax.jit(jax.vmap(config.record), in_shardings=spread, out_shardings=spread)
    lowered = record.lower(opt_state, compiled_task.shapes[1])
    taken = set(lowered.out_info) & set(compiled_task.measure.out_info)
    if taken:
        raise UserError(
            f"record: {', '.join(sorted(taken))} are measures of the task; return "
            "other names."
        )
    return lowered.compile(FAST_COMPILE)


def start(program: Program, hparams: HParams) -> tuple[HParams, RunData, Carry]:
    """Cells on their devices, and the carry they start with."""
    task = program.compiled_task
    spread, _ = devices.spread_over_devices(task.parallel)
    hparams = jax.device_put(hparams, spread)
    run_data, params, state = task.prepare(hparams, task.data)
    never = np.full(task.parallel, NEVER, np.int32)
    opt_state = program.init(hparams, params)
    carry = Carry(params, state, opt_state, jax.device_put(never, spread))
    return hparams, run_data, carry


def evaluate(
    program: Program, carry: Carry, run_data: RunData
) -> dict[str, np.ndarray]:
    """The measures of all cells and the records of the optimizer, [cells]."""
    params, state, opt_state, diverged_at = carry
    task = program.compiled_task
    measures = task.measure(params, state, diverged_at, run_data, task.data)
    if program.record is not None:
        measures = measures | program.record(opt_state, params)
    return jax.device_get(measures)


def _prepare(task: Task, hparams: HParams, data: Data) -> tuple[RunData, Params, State]:
    """The data of many runs, and their models at the start."""
    params = jax.vmap(task.init)(hparams)
    state = jax.vmap(task.state)(hparams, params)
    return jax.vmap(task.run_data, (0, None))(hparams, data), params, state


def _shapes(arrays: Any, *leading: int) -> Any:
    """Shapes and dtypes only, with leading axes in front."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((*leading, *x.shape), x.dtype), arrays
    )


def _hparam_shapes(numbers: HParams, parallel: int) -> HParams:
    return {
        name: jax.ShapeDtypeStruct((parallel,), array.dtype)
        for name, array in numbers.items()
    }
