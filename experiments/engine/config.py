"""What is compiled once (`StaticConfig`), and the cells that share it (`SweepGroup`).

A cell is one run. It is a dict of hyper-parameters, among them `learning_rate`,
`weight_decay` and `seed`. They are traced, so one compiled program trains all cells of
a `StaticConfig`.
"""

import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax


Params = Any
State = Any  # of a model, besides its parameters; for example running statistics
Data = Any  # all runs share it
RunData = Any  # of one run: the row numbers of its split, not a copy of the data
Measures = dict[str, jax.Array]  # scalars by name
HParams = Mapping[str, Any]  # numbers of one run; arrays or tracers for many runs
Schedule = Callable[[jax.Array, HParams], jax.Array]  # progress in [0, 1], hparams -> η
Multiplier = Callable[[jax.typing.ArrayLike], jax.Array]  # step -> η in [0, 1]
# hparams, η, mask -> the optimizer, built inside the traced function
OptimizerFactory = Callable[[HParams, Multiplier, Any], optax.GradientTransformation]


class Task(NamedTuple):
    """A model, its data and its loss, as pure functions.

    Random numbers depend on the seed only. A loss gets the random key of its step; the
    compiler removes a key that is not used. Use `stateless_task` for a model without
    state.
    """

    init: Callable[[HParams], Params]
    run_data: Callable[[HParams, Data], RunData]
    # seed, epoch, data -> row numbers [steps, ...] that each step uses. The order does
    # not depend on the other hyper-parameters.
    batches: Callable[..., Any]
    # params, state, batch, key, run_data, data -> scalar, state after the step
    loss: Callable[..., tuple[jax.Array, State]]
    measure: Callable[..., Measures]  # params, state, run_data, data -> scalars
    mask: Callable[[Params], Any]  # params -> mask of the weights that decay
    steps_per_epoch: int
    chance: Mapping[str, float]  # the scores of a diverged run, by measure
    state: Callable[[HParams, Params], State]  # initial state, from initial parameters


def stateless_task(
    *, loss: Callable[..., jax.Array], measure: Callable[..., Measures], **fields: Any
) -> Task:
    """Make a task whose model has no state.

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
    """A frozen dataclass that describes a task and builds it."""

    @property
    def data(self) -> Callable[[], Data]:
        """The loader of the data. The manifest has its description."""
        ...

    def load(self) -> Data:
        """Load the data as a tree of NumPy arrays."""
        ...

    def task(self) -> Task:
        """Build the pure functions."""
        ...


class StaticConfig(NamedTuple):
    """The values that decide a compiled program."""

    setup: TrainingSetup
    make_optimizer: OptimizerFactory
    epochs: int
    epochs_per_segment: int
    schedule: Schedule
    curves: bool = False  # true: measure after every segment, not only the last one
    # optimizer state, params -> scalars that are stored with the measures of the task
    record: Callable[[Any, Params], Measures] | None = None

    @property
    def segments(self) -> int:
        """The number of segments."""
        segments, remainder = divmod(self.epochs, self.epochs_per_segment)
        if remainder:
            raise ValueError(
                "StaticConfig: epochs must be a multiple of epochs_per_segment, got "
                f"{self.epochs} and {self.epochs_per_segment}."
            )
        return segments


class SweepGroup(NamedTuple):
    """Cells of one static configuration. `labels` become columns of cells.csv."""

    labels: Mapping[str, str]  # stage, arm, ...
    config: StaticConfig
    cells: tuple[HParams, ...]
    # trained parameters -> arrays that are stored
    extract: Callable[[Params], dict[str, jax.Array]] | None = None


def cosine(progress: jax.Array, hparams: HParams) -> jax.Array:
    """Return ½ (1 + cos(π progress)): from 1 to 0."""
    return 0.5 * (1 + jnp.cos(jnp.pi * progress))


def constant(progress: jax.Array, hparams: HParams) -> jax.Array:
    """Return 1."""
    return jnp.ones_like(progress)


def warmup(schedule: Schedule, progress: jax.Array, hparams: HParams) -> jax.Array:
    """Rise from 0 to 1 in the fraction `warmup` of the run, then follow `schedule`.

    The fraction is a hyper-parameter. In a static configuration write
    `functools.partial(warmup, cosine)`.
    """
    fraction = hparams["warmup"]
    after = schedule((progress - fraction) / (1 - fraction), hparams)
    return jnp.where(progress < fraction, progress / fraction, after)


def grid(**axes: Any) -> tuple[HParams, ...]:
    """Return every combination of the axes' values. The last axis varies fastest."""
    values = itertools.product(*axes.values())
    return tuple(dict(zip(axes, combination, strict=True)) for combination in values)


def multiplier(
    config: StaticConfig, steps_per_epoch: int, hparams: HParams
) -> Multiplier:
    """Return the function from a step, counted from 0, to η."""
    steps = config.epochs * steps_per_epoch

    def of_step(step: jax.typing.ArrayLike) -> jax.Array:
        return config.schedule(jnp.asarray(step, jnp.float32) / steps, hparams)

    return of_step


def columns(cells: tuple[HParams, ...]) -> dict[str, np.ndarray]:
    """Stack cells into arrays: integers become int32, other numbers float32."""
    names = list(cells[0])
    if any(list(hparams) != names for hparams in cells):
        raise ValueError(
            "SweepGroup: all cells need the same hyper-parameters in the same order; "
            f"the first cell has {', '.join(names)}."
        )
    found = {}
    for name in names:
        values = np.asarray([hparams[name] for hparams in cells])
        is_integer = values.dtype.kind in "iu"  # signed or unsigned
        found[name] = values.astype(np.int32 if is_integer else np.float32)
    return found
