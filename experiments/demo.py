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
test accuracy, paired by seed. For the sizes of the weights each base also runs without
decay at the learning rate of its decoupled chain: a smaller rate keeps weights small,
too, so tuned against tuned would compare the rates.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

import decayax as dx
from experiments import data as digits, engine, files, models, tasks
from experiments.analysis import (
    Choice,
    choose,
    DECOUPLED,
    FINAL,
    L2,
    MATCHED,
    NONE,
    Run,
    TUNING,
)
from experiments.mechanism import measure_shrink
from experiments.report import write_report
from experiments.terminal import Bar, Lap, progress, show, stopwatch


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan(tasks.DigitsPlan):
    """All that decides the numbers. The grid is the same for both arms of a pair."""

    learning_rates: dict[str, tuple[float, ...]]  # of each base, the peaks
    weight_decays: tuple[float, ...]
    tuning_seeds: int = 3
    final_seeds: int = 20
    epochs: int = 60
    epochs_per_segment: int = 20
    chunk: int = 20  # cells side by side; another number, other last bits

    def seeds(self, stage: str) -> range:
        """The seeds of a stage; none is in both."""
        fresh = range(self.tuning_seeds, self.tuning_seeds + self.final_seeds)
        return range(self.tuning_seeds) if stage == TUNING else fresh

    def tuning_cells(self, arm: Arm) -> list[engine.Cell]:
        strengths = (0.0,) if arm.place == NONE else self.weight_decays
        rates, seeds = self.learning_rates[arm.base], self.seeds(TUNING)
        return [engine.Cell(*c) for c in itertools.product(rates, strengths, seeds)]

    def count_runs(self) -> int:
        tuning = sum(len(self.tuning_cells(arm)) for arm in ARMS)
        return tuning + (len(ARMS) + len(self.learning_rates)) * self.final_seeds


FULL = Plan(
    learning_rates={
        "SGD": (0.003, 0.01, 0.03, 0.1, 0.3),
        "RMSprop": (0.0003, 0.001, 0.003, 0.01, 0.03),
        "Adam": (0.0003, 0.001, 0.003, 0.01, 0.03),
    },
    weight_decays=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
)
SMOKE = Plan(
    learning_rates={
        "SGD": (0.03, 0.1),
        "RMSprop": (0.001, 0.003),
        "Adam": (0.003, 0.01),
    },
    weight_decays=(0.01, 1.0),
    tuning_seeds=2,
    final_seeds=4,
    epochs=4,
    epochs_per_segment=2,
    chunk=8,
)


def run(plan: Plan, out: Path, command: str, started: float) -> None:
    """Train and measure, write the raw results, make figures and report from them."""
    lap, seconds = stopwatch(started)
    lap("imports")
    opening = f"Digits with wrong training labels: 9 arms, {plan.count_runs()} runs."
    print(opening, flush=True)
    with progress(plan.count_runs()) as bar:
        runs, arrays = train_and_measure(plan, bar, lap)
    origin = {"command": command, **files.provenance(), "seconds": seconds}
    design = {
        "plan": dataclasses.asdict(plan),
        "tuning_seeds": list(plan.seeds(TUNING)),
        "final_seeds": list(plan.seeds(FINAL)),
        "test_split_seed": digits.TEST_SPLIT_SEED,
        "runs": plan.count_runs(),
    }
    files.write_arrays(out / "raw.npz", arrays)
    files.write_csv(out / "cells.csv", runs)
    files.write_json(out / "manifest.json", origin | design)
    analysis = write_report(out)
    lap("figures and report")
    files.write_json(out / "manifest.json", origin | design)
    show(analysis, out)
    print(f"\n{plan.count_runs()} runs, {sum(seconds.values()):.0f} seconds in all.")


def train_and_measure(
    plan: Plan, bar: Bar, lap: Lap
) -> tuple[list[Run], dict[str, np.ndarray]]:
    """All runs of both stages, and the arrays behind the figures."""
    bar.say("compiling the model")
    data = digits.load()
    bench = engine.prepare_bench(plan.task(), plan.schedule(), data, plan.chunk)
    programs: dict[engine.Chain, engine.Program] = {}
    for arm in ARMS:
        if arm.chain not in programs:
            bar.say(f"compiling {arm.name}")
            programs[arm.chain] = engine.compile_program(bench, arm.chain)
    lap("compile")
    runs: list[Run] = []
    arrays: dict[str, np.ndarray] = {}
    for arm in ARMS:
        bar.say(f"tuning {arm.name}")
        cells = plan.tuning_cells(arm)
        results = engine.train(programs[arm.chain], cells, bar.advance)
        runs += records(TUNING, arm, cells, results.measures)
    lap("tuning")
    for stage, arm, best in settings(choose(runs)):
        bar.say(f"fresh seeds {arm.name}")
        cells = [best._replace(seed=seed) for seed in plan.seeds(stage)]
        results = engine.train(programs[arm.chain], cells, bar.advance)
        runs += records(stage, arm, cells, results.measures)
        weights = jax.vmap(models.kernel_vector)(results.params)
        arrays[f"{arm.name}/{stage} weights"] = np.asarray(weights)
        if arm.base == "RMSprop" and arm.place != NONE:
            bar.say(f"measuring {arm.name}")
            shrink = measure_shrink(
                plan.task(), plan.schedule(), data, arm.chain, cells[0]
            )
            arrays |= {f"{arm.name}/{name}": array for name, array in shrink.items()}
    lap("fresh seeds")
    return runs, arrays


def settings(choices: dict[str, Choice]) -> Iterator[tuple[str, Arm, engine.Cell]]:
    """What runs on the fresh seeds: each winner, and no decay at equal rates."""
    decoupled = {arm.base: arm.name for arm in ARMS if arm.place == DECOUPLED}
    for arm in ARMS:
        choice = choices[arm.name]
        yield FINAL, arm, engine.Cell(choice.learning_rate, choice.weight_decay, None)
        if arm.place == NONE:
            rate = choices[decoupled[arm.base]].learning_rate
            yield MATCHED, arm, engine.Cell(rate, 0.0, None)


def records(
    stage: str, arm: Arm, cells: list[engine.Cell], measures: dict[str, np.ndarray]
) -> Iterator[Run]:
    """The lines of cells.csv."""
    for index, cell in enumerate(cells):
        # The shortest decimals that give the same float32; a bool stays one.
        at = {name: values[index].item() for name, values in measures.items()}
        at |= {
            name: float(str(values[index]))
            for name, values in measures.items()
            if values.dtype == np.float32
        }
        yield Run(stage, arm.name, arm.base, arm.place, *cell, **at)
