"""The same λθ at two places of the chain: what difference does it make?

Question    Add λθ to the gradient (L2), or to the direction that SGD, RMSprop or Adam
            made of it (decoupled). If each is tuned equally well: does the network
            predict better, and do the weights differ?
Command     python -m experiments demo        (--smoke for a run of seconds)
Cost        about a minute on 2 CPU cores
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
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from experiments import arms, cells, tasks
from experiments.arms import Arm
from experiments.digits_plan import DigitsPlan
from experiments.engine.chunks import Bar, Piece
from experiments.engine.plan import Block, Cell, grid
from experiments.engine.study import Stage, Study
from experiments.engine.workshop import Workshop
from experiments.mechanism import measure_shrink
from experiments.reports import demo as reporting
from experiments.reports.demo_analysis import (
    choices,
    DECOUPLED,
    FINAL,
    L2,
    MATCHED,
    NONE,
    SHRINK_ARMS,
    TUNING,
)


# Without decay: the L2 chain with λ = 0, which adds 0·θ to the gradient.
ARMS = (
    Arm("sgd", "SGD", NONE, arms.sgd_l2),
    Arm("sgd_l2", "SGD", L2, arms.sgd_l2),
    Arm("sgdw", "SGD", DECOUPLED, arms.sgdw),
    Arm("rmsprop", "RMSprop", NONE, arms.rmsprop_l2),
    Arm("rmsprop_l2", "RMSprop", L2, arms.rmsprop_l2),
    Arm("rmspropw", "RMSprop", DECOUPLED, arms.rmspropw),
    Arm("adam", "Adam", NONE, arms.adam_l2),
    Arm("adam_l2", "Adam", L2, arms.adam_l2),
    Arm("adamw", "Adam", DECOUPLED, arms.adamw),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan(DigitsPlan):
    """All that decides the numbers. The grid is the same for both arms of a pair."""

    learning_rates: dict[str, tuple[float, ...]]  # of each base, the peaks
    weight_decays: tuple[float, ...]
    tuning_seeds: int = 3
    final_seeds: int = 20
    epochs: int = 60
    epochs_per_segment: int = 15
    chunk: int = 20

    def arms(self) -> list[Arm]:
        """Those of the bases that have learning rates."""
        return [arm for arm in ARMS if arm.base in self.learning_rates]

    def seeds(self, stage: str) -> range:
        """The seeds of a stage; none is in both."""
        fresh = range(self.tuning_seeds, self.tuning_seeds + self.final_seeds)
        return range(self.tuning_seeds) if stage == TUNING else fresh

    def tuning_cells(self, arm: Arm) -> tuple[Cell, ...]:
        """The grid of an arm."""
        return grid(
            learning_rate=self.learning_rates[arm.base],
            weight_decay=(0.0,) if arm.place == NONE else self.weight_decays,
            seed=self.seeds(TUNING),
        )


FULL = Plan(
    learning_rates={
        "SGD": (0.003, 0.01, 0.03, 0.1, 0.3),
        "RMSprop": (0.0003, 0.001, 0.003, 0.01, 0.03),
        "Adam": (0.0003, 0.001, 0.003, 0.01, 0.03),
    },
    weight_decays=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
)
SMOKE = Plan(
    learning_rates={"RMSprop": (0.001, 0.003)},
    weight_decays=(0.01, 1.0),
    tuning_seeds=2,
    final_seeds=4,
    epochs=4,
    epochs_per_segment=2,
    chunk=8,
)


def study(plan: Plan) -> Study:
    """Tuning, fresh seeds, and the shrink of each weight under RMSprop."""
    grids = sum(len(plan.tuning_cells(arm)) for arm in plan.arms())
    finals = (len(plan.arms()) + len(plan.learning_rates)) * plan.final_seeds
    return Study(
        name="demo",
        plan=plan,
        stages=(
            Stage(TUNING, grids, lambda _: tuning(plan)),
            Stage(FINAL, finals, lambda table: fresh(plan, table)),
            Stage("mechanism", 0, lambda table: shrinks(plan, table)),
        ),
        report=write_report,
    )


write_report = reporting.write_report


def tuning(plan: Plan) -> list[Block]:
    """Every arm on its grid."""
    return [_block(plan, TUNING, arm, plan.tuning_cells(arm)) for arm in plan.arms()]


def fresh(plan: Plan, table: cells.Table) -> list[Block]:
    """Each winner on fresh seeds, and no decay at the rates of the decoupled chains."""
    chosen = choices(table)
    decoupled = {arm.base: arm.name for arm in plan.arms() if arm.place == DECOUPLED}
    blocks = []
    for arm in plan.arms():
        rates = {FINAL: chosen[arm.name].learning_rate}
        if arm.place == NONE:
            rates[MATCHED] = chosen[decoupled[arm.base]].learning_rate
        for stage, rate in rates.items():
            at = {"learning_rate": [rate], "seed": plan.seeds(FINAL)}
            settings = grid(weight_decay=[chosen[arm.name].weight_decay], **at)
            blocks.append(_block(plan, stage, arm, settings))
    return blocks


def _block(plan: Plan, stage: str, arm: Arm, settings: Sequence[Cell]) -> Block:
    labels = {"stage": stage, "arm": arm.name, "base": arm.base, "place": arm.place}
    keep = None if stage == TUNING else weights
    return Block(labels, plan.static(arm.chain), tuple(settings), keep)


def weights(params: Any) -> dict[str, jax.Array]:
    """What is kept of a final run."""
    return {"weights": tasks.decayed_vector(params)}


def shrinks(plan: Plan, table: cells.Table) -> list[Piece]:
    """Measured in the winners' runs of the first fresh seed."""

    def piece(arm: Arm) -> Piece:
        def make(shop: Workshop, bar: Bar) -> dict[str, np.ndarray]:
            bar.say(f"measuring {arm.name}")
            found = cells.where(table, stage=FINAL, arm=arm.name)
            cell = {n: found[n][0] for n in ("learning_rate", "weight_decay", "seed")}
            arrays = measure_shrink(shop, plan.static(arm.chain), cell, plan.chunk)
            bar.advance(1)
            return arrays

        return Piece(f"shrink-{arm.name}", 1, make, {})

    return [piece(arm) for arm in ARMS if arm.name in SHRINK_ARMS]
