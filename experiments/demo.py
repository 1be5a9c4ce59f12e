"""The same λθ at two places of the chain: what difference does it make?

Question    Add λθ to the gradient (L2), or to the direction that SGD, RMSprop or Adam
            made of it (decoupled). If each is tuned equally well: does the network
            predict better, and do the weights differ?
Command     python -m experiments demo        (--smoke for a run of seconds)
Cost        under a minute on 2 CPU cores
Expected    Any decay helps against wrong labels. The best λ of the two places differ by
            orders of magnitude; the accuracies, once both are tuned, by little.
Reference   Loshchilov and Hutter, *Decoupled Weight Decay Regularization*, ICLR 2019,
            https://arxiv.org/abs/1711.05101

Nine arms: SGD with momentum, RMSprop and Adam, each without decay, with L2 and with
decoupled decay; inside a pair only the function differs. Stage 1 tunes every arm on
one grid by validation accuracy. Stage 2 runs the winners on fresh seeds and reports
test accuracy, paired by seed.
"""

import dataclasses
import functools
import itertools
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import decayax as dx
from experiments import data as digits, engine, files, models
from experiments.analysis import choose, DECOUPLED, FINAL, L2, NONE, Run, TUNING
from experiments.mechanism import measure_shrink
from experiments.terminal import Bar, progress


class Arm(NamedTuple):
    name: str
    base: str
    place: str
    chain: engine.Chain


sgd_l2 = functools.partial(dx.sgd_l2, momentum=0.9)
sgdw = functools.partial(dx.sgdw, momentum=0.9)

# Without decay: the L2 chain with λ = 0, which adds 0·θ to the gradient.
ARMS = (
    Arm("sgd", "SGD", NONE, sgd_l2),
    Arm("sgd_l2", "SGD", L2, sgd_l2),
    Arm("sgdw", "SGD", DECOUPLED, sgdw),
    Arm("rmsprop", "RMSprop", NONE, dx.rmsprop_l2),
    Arm("rmsprop_l2", "RMSprop", L2, dx.rmsprop_l2),
    Arm("rmspropw", "RMSprop", DECOUPLED, dx.rmspropw),
    Arm("adam", "Adam", NONE, dx.adam_l2),
    Arm("adam_l2", "Adam", L2, dx.adam_l2),
    Arm("adamw", "Adam", DECOUPLED, dx.adamw),
)


@dataclasses.dataclass(frozen=True)
class Plan:
    """All that decides the numbers. The grid is the same for both arms of a pair."""

    learning_rates: dict[str, tuple[float, ...]]  # by base
    weight_decays: tuple[float, ...]
    tuning_seeds: int = 3
    final_seeds: int = 20
    epochs: int = 60
    epochs_per_segment: int = 20
    batch: int = 50
    train_size: int = 900
    label_noise: float = 0.4
    hidden: int = 128
    chunk: int = 20  # cells trained side by side: the bits of a run depend on it

    def seeds(self, stage: str) -> range:
        """The seeds of a stage; no seed is of both."""
        fresh = range(self.tuning_seeds, self.tuning_seeds + self.final_seeds)
        return {TUNING: range(self.tuning_seeds), FINAL: fresh}[stage]

    def __post_init__(self):
        if self.epochs % self.epochs_per_segment:
            raise ValueError("epochs must be a multiple of epochs_per_segment")
        if self.final_seeds < 2:
            raise ValueError("an interval over seeds needs final_seeds >= 2")

    def tuning_cells(self, arm: Arm) -> list[engine.Cell]:
        strengths = (0.0,) if arm.place == NONE else self.weight_decays
        grid = itertools.product(
            self.learning_rates[arm.base], strengths, self.seeds(TUNING)
        )
        return [engine.Cell(*cell) for cell in grid]

    @property
    def runs(self) -> int:
        tuning = sum(len(self.tuning_cells(arm)) for arm in ARMS)
        return tuning + len(ARMS) * self.final_seeds


FULL = Plan(
    learning_rates={
        "SGD": (0.003, 0.01, 0.03, 0.1, 0.3),
        "RMSprop": (3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
        "Adam": (3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
    },
    weight_decays=(1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 0.3, 1.0, 3.0, 10.0),
)
SMOKE = Plan(
    learning_rates={"SGD": (0.03, 0.1), "RMSprop": (1e-3, 3e-3), "Adam": (3e-3, 1e-2)},
    weight_decays=(1e-2, 1.0),
    tuning_seeds=2,
    final_seeds=4,
    epochs=4,
    epochs_per_segment=2,
    chunk=8,
)


def make_task(plan: Plan) -> engine.Task:
    """Digits with noisy labels, an MLP, cross-entropy; kernels decay."""
    model = models.mlp(64, plan.hidden, digits.CLASSES)

    def loss(params, x, y):
        logits = model.logits(params, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    def accuracy(params, x, y):
        return jnp.mean(jnp.argmax(model.logits(params, x), axis=-1) == y)

    def measure(params, part, data):
        leaves = jax.tree.leaves(params)
        diverged = ~jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in leaves]))
        val = accuracy(params, part.val_x, part.val_y)
        test = accuracy(params, data.test_x, data.test_y)
        weights = models.kernel_vector(params)
        return {
            "val_accuracy": jnp.where(diverged, 1 / digits.CLASSES, val),
            "test_accuracy": jnp.where(diverged, 1 / digits.CLASSES, test),
            "train_loss": loss(params, part.train_x, part.train_y),
            "max_abs_w": jnp.max(jnp.abs(weights)),
            "rms_w": jnp.sqrt(jnp.mean(weights**2)),
            "diverged": diverged,
        }

    return engine.Task(
        init=lambda seed: model.init(digits.key_for(seed, digits.Purpose.INIT)),
        part=lambda seed, data: digits.split(
            seed, data, plan.train_size, plan.label_noise
        ),
        batches=lambda seed, epoch, part: digits.batches(seed, epoch, part, plan.batch),
        loss=loss,
        measure=measure,
        mask=models.is_kernel,
    )


def run_demo(plan: Plan, out: Path, command: str, started: float) -> None:
    """Tune, run the winners on fresh seeds, measure; then write the raw results."""
    clock = Clock({}, started)
    clock.lap("import")
    runs: list[Run] = []
    arrays: dict[str, np.ndarray] = {}
    with progress(plan.runs) as bar:
        bar.say("compiling")
        data = digits.load()
        bench = engine.prepare_bench(make_task(plan), schedule(plan), data, plan.chunk)
        chains = dict.fromkeys(arm.chain for arm in ARMS)
        programs = {chain: engine.compile_program(bench, chain) for chain in chains}
        clock.lap("compile")
        for arm in ARMS:
            bar.say(f"tuning {arm.name}")
            cells = plan.tuning_cells(arm)
            results = engine.train(programs[arm.chain], cells, bar.advance)
            runs += as_runs(TUNING, arm, cells, results)
        clock.lap("tuning")
        for arm, cell in winners(runs).items():
            bar.say(f"fresh seeds {arm.name}")
            cells = [cell._replace(seed=seed) for seed in plan.seeds(FINAL)]
            results = engine.train(programs[arm.chain], cells, bar.advance)
            runs += as_runs(FINAL, arm, cells, results)
            weights = jax.vmap(models.kernel_vector)(results.params)
            arrays[f"weights/{arm.name}"] = np.asarray(weights)
        clock.lap("fresh seeds")
        bar.say("measuring the shrink")
        arrays |= measured_shrinks(plan, runs, data)
        clock.lap("mechanism")
    files.write_arrays(out / "raw.npz", arrays)
    files.write_csv(out / "cells.csv", runs)
    files.write_json(out / "manifest.json", manifest(plan, command, clock.seconds))
