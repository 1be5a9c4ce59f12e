"""What is compiled once (`StaticConfig`), and the cells that share it (`SweepGroup`).

A cell is one run: a dict of hyper-parameters, among them `learning_rate`,
`weight_decay` and `seed`. They are traced, so all cells of a `StaticConfig` are runs of
one compiled program.
"""

import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax


Params = Any
State = Any  # what a model has besides its parameters, such as running statistics
Data = Any  # shared by all runs
RunData = Any  # of one run: row numbers of its split, never a copy of the data
Measures = dict[str, jax.Array]  # scalars by name
HParams = Mapping[str, Any]  # numbers; with a leading axis, or batch-traced: many runs
Schedule = Callable[[jax.Array, HParams], jax.Array]  # progress in [0, 1], hparams -> η
Multiplier = Callable[[jax.typing.ArrayLike], jax.Array]  # step -> η in [0, 1]
# hparams, η, mask -> the optimizer, built inside the traced function
OptimizerFactory = Callable[[HParams, Multiplier, Any], optax.GradientTransformation]


class Task(NamedTuple):
    """What is trained, as pure functions. Random numbers depend on the seed only.

    A loss gets the random key of its step; the compiler removes a key that is not used.
    Use `stateless_task` for a model without state.
    """

    init: Callable[[HParams], Params]
    run_data: Callable[[HParams, Data], RunData]
    # seed, epoch, data -> [steps, ...], the row numbers that each step uses. The order
    # depends on the seed only, not on the other hyper-parameters.
    batches: Callable[..., Any]
    # params, state, batch, key, run_data, data -> scalar, the state after this step
    loss: Callable[..., tuple[jax.Array, State]]
    measure: Callable[..., Measures]  # params, state, run_data, data -> scalars
    mask: Callable[[Params], Any]  # params -> which of them decay
    steps_per_epoch: int
    chance: Mapping[str, float]  # the score of a diverged run, by measure
    state: Callable[[HParams, Params], State]  # with the initial parameters


def stateless_task(
    *, loss: Callable[..., jax.Array], measure: Callable[..., Measures], **fields: Any
) -> Task:
    """A task whose model has parameters and no state.

    Args:
        loss: params, batch, run_data, data -> scalar.
        measure: params, run_data, data -> scalars.
        **fields: the other fields of `Task`, without `state`.
    """

    def loss_and_state(
        params: Params,
        state: State,
        batch: Any,
        key: Any,
        run_data: RunData,
        data: Data,
    ) -> tuple[jax.Array, State]:
        return loss(params, batch, run_data, data), state

    return Task(
        loss=loss_and_state,
        measure=lambda params, state, run_data, data: measure(params, run_data, data),
        state=lambda hparams, params: (),
        **fields,
    )


class TrainingSetup(Protocol):
    """A frozen dataclass that describes what is trained, and can build it."""

    @property
    def data(self) -> Callable[[], Data]:
        """The loader of the data; its description names them in the manifest."""
        ...

    def load(self) -> Data:
        """The data, as a tree of NumPy arrays."""
        ...

    def task(self) -> Task:
        """The pure functions."""
        ...


class StaticConfig(NamedTuple):
    """Everything that decides a compiled program."""

    setup: TrainingSetup
    make_optimizer: OptimizerFactory
    epochs: int
    epochs_per_segment: int
    schedule: Schedule
    curves: bool = False  # measure after every segment; if not, after the last one
    # the optimizer's state, params -> scalars, which are measured with the task's
    record: Callable[[Any, Params], Measures] | None = None

    @property
    def segments(self) -> int:
        """The number of segments."""
        segments, remainder = divmod(self.epochs, self.epochs_per_segment)
        if remainder:
            raise ValueError("epochs must be a multiple of epochs_per_segment")
        return segments


class SweepGroup(NamedTuple):
    """Cells of one static configuration; `labels` are their columns of cells.csv."""

    labels: Mapping[str, str]  # stage, arm, ...
    config: StaticConfig
    cells: tuple[HParams, ...]
    # params -> arrays of the trained run that are stored
    extract: Callable[[Params], dict[str, jax.Array]] | None = None


def cosine(progress: jax.Array, hparams: HParams) -> jax.Array:
    """From 1 to 0."""
    return 0.5 * (1 + jnp.cos(jnp.pi * progress))


def constant(progress: jax.Array, hparams: HParams) -> jax.Array:
    """Always 1."""
    return jnp.ones_like(progress)


def warmup(schedule: Schedule, progress: jax.Array, hparams: HParams) -> jax.Array:
    """From 0 to 1 in the fraction `warmup` of the run, then `schedule`.

    For a static configuration: `functools.partial(warmup, cosine)`.
    """
    fraction = hparams["warmup"]
    after = schedule((progress - fraction) / (1 - fraction), hparams)
    return jnp.where(progress < fraction, progress / fraction, after)


def grid(**axes: Any) -> tuple[HParams, ...]:
    """Every combination of the axes' values; the last axis varies fastest."""
    values = itertools.product(*axes.values())
    return tuple(dict(zip(axes, combination, strict=True)) for combination in values)


def multiplier(
    config: StaticConfig, steps_per_epoch: int, hparams: HParams
) -> Multiplier:
    """η of a step, counted from 0."""
    steps = config.epochs * steps_per_epoch

    def of_step(step: jax.typing.ArrayLike) -> jax.Array:
        return config.schedule(jnp.asarray(step, jnp.float32) / steps, hparams)

    return of_step


def columns(cells: tuple[HParams, ...]) -> dict[str, np.ndarray]:
    """Cells as arrays: integers as int32, other numbers as float32."""
    names = list(cells[0])
    if any(list(hparams) != names for hparams in cells):
        raise ValueError(f"cells of one group need the same numbers: {names}")
    found = {name: np.asarray([hparams[name] for hparams in cells]) for name in names}
    return {
        name: values.astype(np.int32 if values.dtype.kind in "iu" else np.float32)
        for name, values in found.items()
    }
