"""What is trained: data, model and loss put together for the engine.

A recipe is a frozen dataclass of numbers and named functions, so it has a description;
`task` builds from it what the engine runs. Weights decay, biases and norms do not.
Models may have a state; it begins with the seed, as the parameters do.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import decayax as dx
from experiments.average import averaged
from experiments.data import corpus, labelled
from experiments.data.corpus import Corpus
from experiments.data.labelled import Labelled
from experiments.engine.plan import Cell, Task
from experiments.models.model import AnyModel, StatefulModel, with_state
from experiments.problem import Problem
from experiments.seeds import key_for, Purpose


ROWS_AT_ONCE, WINDOWS_AT_ONCE = 2048, 16  # evaluated: they bound a cell's memory
mask = dx.masks.no_bias_or_norm


class Part(NamedTuple):
    """What a cell trains on."""

    split: labelled.Split
    scales: jax.Array | None  # float32[inputs]: what each input is multiplied by


class Tokens(NamedTuple):
    """The three parts of a text, as numbers of symbols."""

    train: Any  # int32[N]
    val: Any
    test: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classification:
    """Any labelled data, any model: cross-entropy, with wrong training labels.

    Where a cell has a `spread` s, input i is multiplied by 10^U(-s, s), drawn by seed:
    the gradients of the first layer then differ in scale, and the labels do not change.
    """

    data: Callable[[], Labelled]
    model: Callable[[], AnyModel]
    classes: int
    train_size: int
    batch: int
    label_noise: float = 0.0
    dtype: str = "float32"  # of parameters, activations and gradients; losses float32
    ema: float = (
        0.0  # decay per step of the averaged weights that are measured; 0: none
    )

    def load(self) -> Labelled:
        if not 0 <= self.ema < 1:
            raise Problem(f"ema={self.ema}: write 0 (none) or a decay, such as 0.999.")
        data = self.data()
        if not self.batch <= self.train_size < len(data.pool_y):
            raise Problem(
                f"train_size={self.train_size}: write at least batch={self.batch} and "
                f"less than the pool's {len(data.pool_y)}, as the rest validates."
            )
        return data

    def task(self) -> Task:
        model = with_state(self.model())
        guess = {"accuracy": 1 / self.classes, "loss": math.log(self.classes)}
        task = Task(
            init=functools.partial(_init, model, self.dtype),
            part=self._part,
            batches=lambda seed, epoch, data: labelled.batches(
                seed, epoch, self.train_size, self.batch
            ),
            loss=functools.partial(self._loss, model),
            measure=functools.partial(self._measure, model),
            mask=mask,
            steps_per_epoch=self.train_size // self.batch,
            chance={f"{on}_{x}": guess[x] for on in ("val", "test") for x in guess},
            state=functools.partial(_state, model),
        )
        return averaged(task, self.ema) if self.ema else task

    def _part(self, cell: Cell, data: Labelled) -> Part:
        halves = labelled.split(
            *(cell["seed"], data.pool_y, self.train_size),
            *(self.label_noise, self.classes),
        )
        return Part(halves, _scales(cell, data.pool_x[0].size))

    def _inputs(self, part: Part, x: jax.Array) -> jax.Array:
        """As the model takes them."""
        if part.scales is not None:
            x = x * part.scales.reshape(x.shape[1:])
        if jnp.issubdtype(x.dtype, jnp.floating):  # and not numbers of symbols
            x = x.astype(self.dtype)
        return x

    def _loss(
        self,
        model: StatefulModel,
        params: Any,
        state: Any,
        batch: Any,
        key: jax.Array,
        part: Part,
        data: Labelled,
    ) -> tuple[jax.Array, Any]:
        rows, y = part.split.train_rows[batch], part.split.train_y[batch]
        x = self._inputs(part, data.pool_x[rows])
        logits, state = model.train(params, state, x, key)
        return _cross_entropy(_of_the_last(logits), y).mean(), state

    def _measure(
        self, model: StatefulModel, params: Any, state: Any, part: Part, data: Labelled
    ) -> dict[str, jax.Array]:
        def logits_of(x: jax.Array) -> jax.Array:
            return _of_the_last(model.logits(params, state, self._inputs(part, x)))

        split, on = part.split, functools.partial(_evaluate, logits_of)
        train = on(data.pool_x, split.train_y, split.train_rows)
        val = on(data.pool_x, data.pool_y[split.val_rows], split.val_rows)
        test = on(data.test_x, data.test_y)
        return {
            "train_loss": train["loss"],
            "val_accuracy": val["accuracy"],
            "val_count": jnp.int32(len(split.val_rows)),
            "val_loss": val["loss"],
            "test_accuracy": test["accuracy"],
            "test_loss": test["loss"],
        } | sizes(params)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Language:
    """Any text, a model of sequences that predicts the next symbol."""

    data: Callable[[], Corpus]
    model: Callable[[], AnyModel]
    symbols: int  # at least as many as the text has
    length: int
    batch: int
    steps_per_epoch: int
    evaluated: int = 64  # windows, evenly spaced, of each part
    dtype: str = "float32"

    def load(self) -> Tokens:
        text = self.data()
        if len(text.symbols) > self.symbols:
            raise Problem(
                f"the text has {len(text.symbols)} symbols, the model {self.symbols}: "
                "raise symbols= and the model's vocabulary."
            )
        return Tokens(text.train, text.val, text.test)

    def task(self) -> Task:
        model = with_state(self.model())
        return Task(
            init=functools.partial(_init, model, self.dtype),
            part=lambda cell, data: None,
            batches=lambda seed, epoch, data: corpus.windows(
                *(seed, epoch, data.train),
                *(self.length, self.batch, self.steps_per_epoch),
            ),
            loss=functools.partial(_next_symbol, model),
            measure=functools.partial(self._measure, model),
            mask=mask,
            steps_per_epoch=self.steps_per_epoch,
            chance={f"{on}_loss": math.log(self.symbols) for on in ("val", "test")},
            state=functools.partial(_state, model),
        )

    def _measure(
        self, model: StatefulModel, params: Any, state: Any, part: None, data: Tokens
    ) -> dict[str, jax.Array]:
        def loss_of(window: jax.Array) -> jax.Array:
            logits = model.logits(params, state, window[None, :-1]).astype(jnp.float32)
            return _cross_entropy(logits, window[None, 1:]).mean()

        def mean_loss(tokens: jax.Array) -> jax.Array:
            windows = self._evenly(tokens)
            return jax.lax.map(loss_of, windows, batch_size=WINDOWS_AT_ONCE).mean()

        losses = {f"{name}_loss": mean_loss(x) for name, x in data._asdict().items()}
        return losses | sizes(params)

    def _evenly(self, tokens: jax.Array) -> jax.Array:
        """Windows to evaluate on, from all over a part of the text."""
        last = len(tokens) - self.length - 1
        starts = np.linspace(0, last, self.evaluated, dtype=np.int32)
        return tokens[starts[:, None] + np.arange(self.length + 1)]


def decayed_vector(params: Any) -> jax.Array:
    """All decayed parameters as one vector, in the order of the tree."""
    leaves, decays = jax.tree.leaves(params), jax.tree.leaves(mask(params))
    return jnp.concatenate(
        [leaf.ravel() for leaf, yes in zip(leaves, decays, strict=True) if yes]
    )


def sizes(params: Any) -> dict[str, jax.Array]:
    """How large the decayed weights are."""
    weights = decayed_vector(params).astype(jnp.float32)
    return {
        "max_abs_w": jnp.max(jnp.abs(weights)),
        "rms_w": jnp.sqrt(jnp.mean(weights**2)),
    }


def _init(model: StatefulModel, dtype: str, cell: Cell) -> Any:
    params = model.init(key_for(cell["seed"], Purpose.INIT))
    return jax.tree.map(lambda leaf: leaf.astype(dtype), params)


def _state(model: StatefulModel, cell: Cell, params: Any) -> Any:
    return model.state(key_for(cell["seed"], Purpose.INIT))


def _next_symbol(
    model: StatefulModel,
    params: Any,
    state: Any,
    windows: jax.Array,
    key: jax.Array,
    *_: Any,
) -> tuple[jax.Array, Any]:
    """The loss over all places of the windows, and the model's state."""
    logits, state = model.train(params, state, windows[:, :-1], key)
    losses = _cross_entropy(logits.astype(jnp.float32), windows[:, 1:])
    return losses.mean(), state


def _of_the_last(logits: jax.Array) -> jax.Array:
    """In float32; of a sequence, the logits of its last symbol."""
    logits = logits.astype(jnp.float32)
    return logits if logits.ndim == 2 else logits[:, -1]


def _scales(cell: Cell, inputs: int) -> jax.Array | None:
    if "spread" not in cell:
        return None
    key = key_for(cell["seed"], Purpose.SCALES)
    return 10 ** (cell["spread"] * jax.random.uniform(key, (inputs,), minval=-1))


def _cross_entropy(logits: jax.Array, y: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, y)


def _evaluate(
    logits_of: Callable[[jax.Array], jax.Array],
    x: jax.Array,
    y: jax.Array,
    rows: jax.Array | None = None,
) -> dict[str, jax.Array]:
    """Mean loss and accuracy on all rows of x, or on these."""

    def of(row: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        index, label = row
        logits = logits_of(x[index][None])[0]
        return _cross_entropy(logits, label), jnp.argmax(logits) == label

    rows = jnp.arange(len(y)) if rows is None else rows
    loss, right = jax.lax.map(of, (rows, y), batch_size=ROWS_AT_ONCE)
    return {"loss": loss.mean(), "accuracy": right.mean()}
