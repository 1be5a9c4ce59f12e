"""Full-batch training on modular addition, with the step of generalisation.

A run arrives at the first look at which the accuracy on the held-out pairs is at least
`threshold`. A run that does not arrive is censored at its last step. If no run arrives,
all points have equal numbers of steps, and the search for a better point would have no
direction. So the search uses penalised steps: a run that does not arrive has up to
twice its number of steps, fewer if its accuracy at the end is higher.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.data import labelled
from experiments.data.labelled import Labelled
from experiments.engine.config import HParams, Task
from experiments.errors import UserError
from experiments.models.model import AnyModel, Model
from experiments.seeds import key_for, Purpose
from experiments.tasks import mask, weight_sizes


NOT_YET = -1


class Looks(NamedTuple):
    """How far a run is."""

    step: jax.Array  # int32: the number of updates
    arrived: jax.Array  # int32: step of the look that saw the threshold, or NOT_YET


@dataclasses.dataclass(frozen=True, kw_only=True)
class Addition:
    """Addition modulo p. Each seed splits all pairs again.

    An epoch is `look_every` steps on all training pairs.
    """

    data: Callable[[], Labelled]
    model: Callable[[], AnyModel]
    train_size: int
    classes: int
    steps: int  # of a run; a run that does not arrive gets this number
    look_every: int = 50
    threshold: float = 0.99

    def load(self) -> Labelled:
        if self.steps % self.look_every:
            raise UserError(
                f"steps={self.steps}: pass a multiple of look_every={self.look_every}."
            )
        data = self.data()
        # Each seed splits all pairs, so the parts of the loader are joined.
        x = np.concatenate([data.pool_x, data.test_x])
        y = np.concatenate([data.pool_y, data.test_y])
        if not 0 < self.train_size < len(y):
            raise UserError(
                f"train_size={self.train_size}: pass 1 to {len(y) - 1}, less than the "
                f"{len(y)} pairs. The other pairs are held out."
            )
        return Labelled(x, y, x[:0], y[:0])

    def task(self) -> Task:
        model = self.model()
        if not isinstance(model, Model):
            raise UserError("Addition needs a model without a state, such as pair_mlp.")
        guess = 1 / self.classes
        missed = {"steps": self.steps, "arrived": 0, "held_out_accuracy": guess}
        missed |= {"penalised_steps": self.steps * (2 - guess)}
        return Task(
            init=lambda hparams: model.init(key_for(hparams["seed"], Purpose.INIT)),
            run_data=self._run_data,
            # Every step uses all pairs, so there is nothing to draw.
            batches=lambda seed, epoch, data: jnp.zeros(self.look_every, jnp.int32),
            loss=functools.partial(self._loss, model),
            measure=functools.partial(self._measure, model),
            mask=mask,
            steps_per_epoch=self.look_every,
            chance=missed,
            state=lambda hparams, params: Looks(jnp.int32(0), jnp.int32(NOT_YET)),
        )

    def _run_data(self, hparams: HParams, data: Labelled) -> labelled.Split:
        return labelled.split(
            hparams["seed"],
            data.pool_y,
            train=self.train_size,
            noise=0.0,
            classes=self.classes,
        )

    def _loss(
        self,
        model: Model,
        params: Any,
        state: Looks,
        batch: jax.Array,
        key: jax.Array,
        run_data: labelled.Split,
        data: Labelled,
    ) -> tuple[jax.Array, Looks]:
        rows = run_data.train_rows
        logits = _logits(model, params, data.pool_x[rows])
        losses = optax.softmax_cross_entropy_with_integer_labels(
            logits, data.pool_y[rows]
        )
        state = self._look(model, jax.lax.stop_gradient(params), state, run_data, data)
        return losses.mean(), state._replace(step=state.step + 1)

    def _look(
        self,
        model: Model,
        params: Any,
        state: Looks,
        run_data: labelled.Split,
        data: Labelled,
    ) -> Looks:
        """Note the step if it is one of a look, and the threshold is new."""
        accuracy = _accuracy(model, params, run_data.val_rows, data)
        looks = (state.step > 0) & (state.step % self.look_every == 0)
        arrives = looks & (state.arrived == NOT_YET) & (accuracy >= self.threshold)
        arrived = jnp.where(arrives, state.step, state.arrived)
        return state._replace(arrived=arrived)

    def _measure(
        self,
        model: Model,
        params: Any,
        state: Looks,
        run_data: labelled.Split,
        data: Labelled,
    ) -> dict[str, jax.Array]:
        # The last look is after the last update, which the loss does not see.
        state = self._look(model, params, state, run_data, data)
        arrived = state.arrived != NOT_YET
        steps = jnp.where(arrived, state.arrived, self.steps)
        accuracy = _accuracy(model, params, run_data.val_rows, data)
        return {
            "steps": steps,
            "arrived": arrived.astype(jnp.int32),
            "held_out_accuracy": accuracy,
            "penalised_steps": jnp.where(arrived, steps, self.steps * (2 - accuracy)),
            "train_accuracy": _accuracy(model, params, run_data.train_rows, data),
        } | weight_sizes(params)


def _logits(model: Model, params: Any, x: jax.Array) -> jax.Array:
    """The logits; for a sequence, those at its last position."""
    logits = model.logits(params, x)
    return logits if logits.ndim == 2 else logits[:, -1]


def _accuracy(model: Model, params: Any, rows: jax.Array, data: Labelled) -> jax.Array:
    right = jnp.argmax(_logits(model, params, data.pool_x[rows]), -1)
    return (right == data.pool_y[rows]).mean()


def effective_ranks(params: Any) -> dict[str, jax.Array]:
    """The effective rank of each matrix: exp of the entropy of σ / Σσ.

    It is 1 for a matrix of rank 1, and n for an orthogonal n × n matrix. A tensor is
    reshaped to a matrix with its last axis as columns.

    Reference:
        Roy and Vetterli, *The effective rank*, EUSIPCO 2007.
    """
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if leaf.ndim < 2:
            continue
        matrix = leaf.reshape(-1, leaf.shape[-1])
        values = jnp.linalg.svd(matrix, compute_uv=False)
        shares = values / values.sum()
        # x log x is 0 at 0.
        entropy = -jax.scipy.special.xlogy(shares, shares).sum()
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        found[f"rank of {name.removesuffix('.value')}"] = jnp.exp(entropy)
    return found
