"""What is compiled once, and the cells that share it.

A cell is one run: a dict of numbers, among them `learning_rate`, `weight_decay` and
`seed`. They are traced, so all cells of a `Static` are runs of one program.
"""

import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax


Params = Any
State = Any  # what a model carries besides its parameters, such as running statistics
Data = Any
Part = Any
Measures = dict[str, jax.Array]  # scalars by name
Cell = Mapping[str, Any]  # numbers; with a leading axis, or traced, many runs
Schedule = Callable[[jax.Array, Cell], jax.Array]  # share of the run done, cell -> η
Multiplier = Callable[[jax.typing.ArrayLike], jax.Array]  # step -> η in [0, 1]
# cell, η, mask -> the optimizer, built inside the traced function
Chain = Callable[[Cell, Multiplier, Any], optax.GradientTransformation]


class Task(NamedTuple):
    """What is trained, as pure functions; random numbers hang on the cell's seed.

    A loss has the random key of its step; the compiler removes a key that is not used.
    A model without state is written with `stateless_task`.
    """

    init: Callable[[Cell], Params]
    part: Callable[[Cell, Data], Part]  # what this cell trains on: small, rows not data
    # seed, epoch, data -> [steps, ...], the places of the data that a step takes: the
    # seed alone decides the order, not the cell's other numbers
    batches: Callable[..., Any]
    # params, state, batch, key, part, data -> scalar, the state after this step
    loss: Callable[..., tuple[jax.Array, State]]
    measure: Callable[..., Measures]  # params, state, part, data -> scalars
    mask: Callable[[Params], Any]  # params -> which of them decay
    steps_per_epoch: int
    chance: Mapping[str, float]  # what a diverged cell scores, by measure
    state: Callable[[Cell, Params], State]  # with the initial parameters


def stateless_task(
    *, loss: Callable[..., jax.Array], measure: Callable[..., Measures], **rest: Any
) -> Task:
    """A task whose model is its parameters alone.

    Args:
        loss: params, batch, part, data -> scalar.
        measure: params, part, data -> scalars.
        **rest: the other fields of `Task`, without `state`.
    """

    def loss_and_state(
        params: Params, state: State, batch: Any, key: Any, part: Part, data: Data
    ) -> tuple[jax.Array, State]:
        return loss(params, batch, part, data), state

    return Task(
        loss=loss_and_state,
        measure=lambda params, state, part, data: measure(params, part, data),
        state=lambda cell, params: (),
        **rest,
    )


class Recipe(Protocol):
    """A frozen dataclass that says what is trained, and can build it."""

    @property
    def data(self) -> Callable[[], Data]:
        """Where the data come from; its description names them in the manifest."""
        ...

    def load(self) -> Data:
        """The data, as a tree of NumPy arrays."""
        ...

    def task(self) -> Task:
        """The pure functions."""
        ...


class Static(NamedTuple):
    """All that decides a compiled program."""

    recipe: Recipe
    chain: Chain
    epochs: int
    epochs_per_segment: int
    schedule: Schedule
    curves: bool = False  # measure after every segment; if not, after the last one
    # the optimizer's state, params -> scalars, which are measured with the task's
    record: Callable[[Any, Params], Measures] | None = None

    @property
    def segments(self) -> int:
        """How many there are."""
        segments, rest = divmod(self.epochs, self.epochs_per_segment)
        if rest:
            raise ValueError("epochs must be a multiple of epochs_per_segment")
        return segments


class Block(NamedTuple):
    """Cells of one static configuration; `labels` are their columns of cells.csv."""

    labels: Mapping[str, str]  # stage, arm, ...
    static: Static
    cells: tuple[Cell, ...]
    # params -> arrays to keep of the trained cell
    keep: Callable[[Params], dict[str, jax.Array]] | None = None


def cosine(done: jax.Array, cell: Cell) -> jax.Array:
    """From 1 to 0."""
    return 0.5 * (1 + jnp.cos(jnp.pi * done))


def constant(done: jax.Array, cell: Cell) -> jax.Array:
    """1 all along."""
    return jnp.ones_like(done)


def warmup(schedule: Schedule, done: jax.Array, cell: Cell) -> jax.Array:
    """From 0 to 1 in the cell's share `warmup` of the run, `schedule` in the rest.

    For a static: `functools.partial(warmup, cosine)`.
    """
    share = cell["warmup"]
    rest = schedule((done - share) / (1 - share), cell)
    return jnp.where(done < share, done / share, rest)


def grid(**axes: Any) -> tuple[Cell, ...]:
    """Every combination of the axes' values, the last axis running fastest."""
    values = itertools.product(*axes.values())
    return tuple(dict(zip(axes, combination, strict=True)) for combination in values)


def multiplier(static: Static, steps_per_epoch: int, cell: Cell) -> Multiplier:
    """η of a step, counted from 0."""
    steps = static.epochs * steps_per_epoch

    def of_step(step: jax.typing.ArrayLike) -> jax.Array:
        return static.schedule(jnp.asarray(step, jnp.float32) / steps, cell)

    return of_step


def columns(cells: tuple[Cell, ...]) -> dict[str, np.ndarray]:
    """Cells as arrays: whole numbers int32, others float32."""
    names = list(cells[0])
    if any(list(cell) != names for cell in cells):
        raise ValueError(f"cells of one block need the same numbers: {names}")
    found = {name: np.asarray([cell[name] for cell in cells]) for name in names}
    return {
        name: values.astype(np.int32 if values.dtype.kind in "iu" else np.float32)
        for name, values in found.items()
    }
