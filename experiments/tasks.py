"""Training setups: data, model and loss, combined for the engine.

A setup is a frozen dataclass of numbers and named functions, so a plan can describe it.
The engine runs its `task`. Weights decay; biases and norms do not. A model may have a
state; the seed determines the initial state and the initial parameters.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import decayax as dx
from experiments.data import corpus, labelled
from experiments.data.corpus import Corpus, Part
from experiments.data.labelled import Labelled
from experiments.ema import with_ema
from experiments.engine.config import HParams, Task
from experiments.errors import UserError
from experiments.models.model import AnyModel, StatefulModel, with_state
from experiments.seeds import key_for, Purpose


# The sizes of an evaluation batch. They limit the memory of a run.
EVAL_ROWS, EVAL_WINDOWS = 2048, 16
mask = dx.masks.no_bias_or_norm


class RunData(NamedTuple):
    """The data of one run."""

    split: labelled.Split
    scales: jax.Array | None  # float32[inputs]: factors of the inputs


class Tokens(NamedTuple):
    """The three parts of a text, as numbers of symbols."""

    train: Part
    val: Part
    test: Part


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classification:
    """Classification with cross-entropy and label noise, for any data and model.

    If the hyper-parameters have a `spread` s, input i is multiplied by 10^U(-s, s),
    drawn by seed. Then the gradients of the first layer differ in scale, and the labels
    do not change.
    """

    data: Callable[[], Labelled]
    model: Callable[[], AnyModel]
    classes: int
    train_size: int
    batch: int
    label_noise: float = 0.0
    dtype: str = "float32"  # of parameters, activations and gradients; losses float32
    ema: float = 0.0  # decay per step of the weights' EMA that is measured; 0: no EMA

    def load(self) -> Labelled:
        if not 0 <= self.ema < 1:
            raise UserError(f"ema={self.ema}: pass 0, or a decay < 1 such as 0.999.")
        data = self.data()
        if not self.batch <= self.train_size < len(data.pool_y):
            raise UserError(
                f"train_size={self.train_size}: pass at least batch={self.batch} and "
                f"less than the pool's {len(data.pool_y)}. The other rows validate."
            )
        return data

    def task(self) -> Task:
        model = with_state(self.model())
        guess = {"accuracy": 1 / self.classes, "loss": math.log(self.classes)}
        task = Task(
            init=functools.partial(_init, model, self.dtype),
            run_data=self._run_data,
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
        return with_ema(task, self.ema) if self.ema else task

    def _run_data(self, hparams: HParams, data: Labelled) -> RunData:
        split = labelled.split(
            hparams["seed"],
            data.pool_y,
            train=self.train_size,
            noise=self.label_noise,
            classes=self.classes,
        )
        return RunData(split, _scales(hparams, data.pool_x[0].size))

    def _inputs(self, run_data: RunData, x: jax.Array) -> jax.Array:
        """The inputs times their scales, in the dtype of the model."""
        if run_data.scales is not None:
            x = x * run_data.scales.reshape(x.shape[1:])
        if jnp.issubdtype(x.dtype, jnp.floating):  # tokens stay integers
            x = x.astype(self.dtype)
        return x

    def _loss(
        self,
        model: StatefulModel,
        params: Any,
        state: Any,
        batch: Any,
        key: jax.Array,
        run_data: RunData,
        data: Labelled,
    ) -> tuple[jax.Array, Any]:
        split = run_data.split
        rows, y = split.train_rows[batch], split.train_y[batch]
        x = self._inputs(run_data, data.pool_x[rows])
        logits, state = model.train(params, state, x, key)
        return _cross_entropy(_class_logits(logits), y).mean(), state

    def _measure(
        self,
        model: StatefulModel,
        params: Any,
        state: Any,
        run_data: RunData,
        data: Labelled,
    ) -> dict[str, jax.Array]:
        def logits_of(x: jax.Array) -> jax.Array:
            inputs = self._inputs(run_data, x)
            return _class_logits(model.logits(params, state, inputs))

        split, on = run_data.split, functools.partial(_evaluate, logits_of)
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
        } | weight_sizes(params)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Language:
    """Prediction of the next symbol, for any text and sequence model."""

    data: Callable[[], Corpus]
    model: Callable[[], AnyModel]
    symbols: int  # at least as many as the text has
    length: int
    batch: int
    steps_per_epoch: int
    evaluated: int = 64  # number of evenly spaced windows of each part
    dtype: str = "float32"

    def load(self) -> Tokens:
        text = self.data()
        if len(text.symbols) > self.symbols:
            raise UserError(
                f"the text has {len(text.symbols)} symbols, but symbols={self.symbols}"
                ". Pass a larger symbols= and a model with this vocabulary."
            )
        parts = Tokens(text.train, text.val, text.test)
        for part in parts:
            corpus.check_length(part, self.length)
        return parts

    def task(self) -> Task:
        model = with_state(self.model())
        return Task(
            init=functools.partial(_init, model, self.dtype),
            run_data=lambda hparams, data: None,
            batches=lambda seed, epoch, data: corpus.windows(
                seed,
                epoch,
                data.train,
                length=self.length,
                batch=self.batch,
                steps=self.steps_per_epoch,
            ),
            loss=functools.partial(_next_symbol_loss, model),
            measure=functools.partial(self._measure, model),
            mask=mask,
            steps_per_epoch=self.steps_per_epoch,
            chance={f"{on}_loss": math.log(self.symbols) for on in ("val", "test")},
            state=functools.partial(_state, model),
        )

    def _measure(
        self,
        model: StatefulModel,
        params: Any,
        state: Any,
        run_data: None,
        data: Tokens,
    ) -> dict[str, jax.Array]:
        def loss_of(window: jax.Array) -> jax.Array:
            logits = model.logits(params, state, window[None, :-1]).astype(jnp.float32)
            return _cross_entropy(logits, window[None, 1:]).mean()

        def mean_loss(part: Part) -> jax.Array:
            windows = corpus.even_windows(part, self.length, self.evaluated)
            return jax.lax.map(loss_of, windows, batch_size=EVAL_WINDOWS).mean()

        losses = {f"{name}_loss": mean_loss(x) for name, x in data._asdict().items()}
        return losses | weight_sizes(params)


def decayed_vector(params: Any) -> jax.Array:
    """All decayed parameters as one vector, in the order of the tree."""
    leaves, decays = jax.tree.leaves(params), jax.tree.leaves(mask(params))
    return jnp.concatenate(
        [leaf.ravel() for leaf, yes in zip(leaves, decays, strict=True) if yes]
    )


def weight_sizes(params: Any) -> dict[str, jax.Array]:
    """The largest and the root mean square of the decayed weights."""
    weights = decayed_vector(params).astype(jnp.float32)
    return {
        "max_abs_w": jnp.max(jnp.abs(weights)),
        "rms_w": jnp.sqrt(jnp.mean(weights**2)),
    }


def _init(model: StatefulModel, dtype: str, hparams: HParams) -> Any:
    params = model.init(key_for(hparams["seed"], Purpose.INIT))
    return jax.tree.map(lambda leaf: leaf.astype(dtype), params)


def _state(model: StatefulModel, hparams: HParams, params: Any) -> Any:
    return model.state(key_for(hparams["seed"], Purpose.INIT))


def _next_symbol_loss(
    model: StatefulModel,
    params: Any,
    state: Any,
    windows: jax.Array,
    key: jax.Array,
    *_: Any,
) -> tuple[jax.Array, Any]:
    """The mean loss over all positions of the windows, and the model's state."""
    logits, state = model.train(params, state, windows[:, :-1], key)
    losses = _cross_entropy(logits.astype(jnp.float32), windows[:, 1:])
    return losses.mean(), state


def _class_logits(logits: jax.Array) -> jax.Array:
    """The logits in float32; for a sequence, those at its last position."""
    logits = logits.astype(jnp.float32)
    return logits if logits.ndim == 2 else logits[:, -1]


def _scales(hparams: HParams, inputs: int) -> jax.Array | None:
    if "spread" not in hparams:
        return None
    key = key_for(hparams["seed"], Purpose.SCALES)
    return 10 ** (hparams["spread"] * jax.random.uniform(key, (inputs,), minval=-1))


def _cross_entropy(logits: jax.Array, y: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, y)


def _evaluate(
    logits_of: Callable[[jax.Array], jax.Array],
    x: jax.Array,
    y: jax.Array,
    rows: jax.Array | None = None,
) -> dict[str, jax.Array]:
    """Mean loss and accuracy on these rows of x; None: on all rows."""

    def of_row(row: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        index, label = row
        logits = logits_of(x[index][None])[0]
        return _cross_entropy(logits, label), jnp.argmax(logits) == label

    rows = jnp.arange(len(y)) if rows is None else rows
    loss, right = jax.lax.map(of_row, (rows, y), batch_size=EVAL_ROWS)
    return {"loss": loss.mean(), "accuracy": right.mean()}
