"""What is trained: data, model and loss put together for the engine.

A recipe is a frozen dataclass of numbers and named functions, so it has a description;
`task` builds from it what the engine runs. Weights decay, biases and norms do not.
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
from experiments.data import corpus, labelled
from experiments.data.corpus import Corpus
from experiments.data.labelled import Labelled
from experiments.engine.plan import Cell, Task
from experiments.models.model import Model
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
    model: Callable[[], Model]
    classes: int
    train_size: int
    batch: int
    label_noise: float = 0.0
    dtype: str = "float32"  # of parameters, activations and gradients; losses float32

    def load(self) -> Labelled:
        data = self.data()
        if not self.batch <= self.train_size < len(data.pool_y):
            raise Problem(
                f"train_size={self.train_size}: write at least batch={self.batch} and "
                f"less than the pool's {len(data.pool_y)}, as the rest validates."
            )
        return data

    def task(self) -> Task:
        model = self.model()
        init = functools.partial(_init, model, self.dtype)

        def logits_of(params: Any, part: Part, x: jax.Array) -> jax.Array:
            if part.scales is not None:
                x = x * part.scales.reshape(x.shape[1:])
            if jnp.issubdtype(x.dtype, jnp.floating):  # and not numbers of symbols
                x = x.astype(self.dtype)
            logits = model.logits(params, x).astype(jnp.float32)
            return logits if logits.ndim == 2 else logits[:, -1]  # of the last symbol

        def loss(params: Any, batch: Any, part: Part, data: Labelled) -> jax.Array:
            rows, y = part.split.train_rows[batch], part.split.train_y[batch]
            return _cross_entropy(logits_of(params, part, data.pool_x[rows]), y).mean()

        def part(cell: Cell, data: Labelled) -> Part:
            halves = labelled.split(
                *(cell["seed"], data.pool_y, self.train_size),
                *(self.label_noise, self.classes),
            )
            return Part(halves, _scales(cell, data.pool_x[0].size))

        def measure(params: Any, part: Part, data: Labelled) -> dict[str, jax.Array]:
            split = part.split
            on = functools.partial(
                _evaluate, functools.partial(logits_of, params, part)
            )
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

        guess = {"accuracy": 1 / self.classes, "loss": math.log(self.classes)}
        return Task(
            *(init, part),
            batches=lambda seed, epoch, data: labelled.batches(
                seed, epoch, self.train_size, self.batch
            ),
            loss=loss,
            measure=measure,
            mask=mask,
            steps_per_epoch=self.train_size // self.batch,
            chance={f"{on}_{x}": guess[x] for on in ("val", "test") for x in guess},
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Language:
    """Any text, a model of sequences: the next symbol is to be told."""

    data: Callable[[], Corpus]
    model: Callable[[], Model]
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
        model = self.model()

        def loss_of(params: Any, windows: jax.Array) -> jax.Array:
            logits = model.logits(params, windows[:, :-1]).astype(jnp.float32)
            return _cross_entropy(logits, windows[:, 1:]).mean()

        def measure(params: Any, part: None, data: Tokens) -> dict[str, jax.Array]:
            return {
                f"{name}_loss": jax.lax.map(
                    lambda window: loss_of(params, window[None]),
                    self._evenly(tokens),
                    batch_size=WINDOWS_AT_ONCE,
                ).mean()
                for name, tokens in data._asdict().items()
            } | sizes(params)

        return Task(
            init=functools.partial(_init, model, self.dtype),
            part=lambda cell, data: None,
            batches=lambda seed, epoch, data: corpus.windows(
                *(seed, epoch, data.train),
                *(self.length, self.batch, self.steps_per_epoch),
            ),
            loss=lambda params, batch, part, data: loss_of(params, batch),
            measure=measure,
            mask=mask,
            steps_per_epoch=self.steps_per_epoch,
            chance={f"{on}_loss": math.log(self.symbols) for on in ("val", "test")},
        )

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


def _init(model: Model, dtype: str, cell: Cell) -> Any:
    params = model.init(key_for(cell["seed"], Purpose.INIT))
    return jax.tree.map(lambda leaf: leaf.astype(dtype), params)


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
