"""How does the best weight decay move with batch, length, data and label noise?

Question    A tuned λ is carried to a run with another batch, more epochs or more data.
            The rules for this disagree: keep the timescale 1/(γλ) in epochs (λ grows as
            batch/data and does not depend on the epochs), keep γλ ∝ 1/√steps, or keep
            λ. By which power do the best λ and the best γλ move? What does each rule
            cost?
Command     python -m experiments strength        (--smoke for a run of seconds)
            `make data` first, for the text
Cost        about 20 minutes on 2 CPU cores
Expected    From a pilot on two other seeds: on re-read text λ* ∝ epochs, which is
            against all three rules, and λ* ∝ √batch. With one pass λ* ∝ 1/√data. So no
            rule fits all axes. With right labels the digits hardly need decay.
Falsified   A rule, for one task and axis, if its exponent is outside the 95 % interval
            of the measured one. A rule is useless on a task if its mean regret is not
            clearly below that of the same λ. The expectation, if λ* does not clearly
            grow with the epochs on the text, or if one rule fits all of its axes.
Reference   Wang and Aitchison, *How to set AdamW's weight decay as you scale model and
            dataset size*, ICML 2025, https://arxiv.org/abs/2405.13698
            Loshchilov and Hutter, *Decoupled Weight Decay Regularization*, ICLR 2019,
            appendix B.1, https://arxiv.org/abs/1711.05101

Each setting differs from the reference of its task in one thing. AdamW with lr-scaled
decay; λ and learning rate are tuned for each setting, on a grid that grows until the
optimum is bracketed. The measure is the loss where labels are right. Where 40 % of the
training labels are wrong it is the accuracy: the loss on right labels rewards a model
that is unsure, and a pilot found its best λ five octaves away from that of accuracy.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

import decayax as dx
from experiments import arms, optima
from experiments.cells import Table
from experiments.data import corpus, digits
from experiments.engine.config import cosine, HParams, StaticConfig, SweepGroup, warmup
from experiments.engine.study import Stage, Study
from experiments.models.mlp import mlp
from experiments.models.transformer import transformer
from experiments.optima import Grid, Point
from experiments.protocol import ACCURACY, LOSS
from experiments.reports.strength import (
    claims as claims,
    write_report as write_report,
)
from experiments.strengths import (
    BATCH,
    carried,
    DATA,
    EPOCHS,
    losses_of,
    REFERENCE,
    Setting,
    TunedTask,
)
from experiments.tasks import Classification, Language


STAGE = "tuning"
SEGMENT = 50  # steps: a text is drawn anew after each segment
WARMUP = 0.1
LENGTH = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class StrengthPlan:
    """All that determines the numbers."""

    tasks: tuple[TunedTask, ...]
    rounds: int = 5  # in which the grid may grow
    first_seed: int = 0
    seeds: int = 15
    chunk: int = 6  # a round adds few points, and a chunk is filled up with copies

    def seeds_of(self, task: TunedTask) -> range:
        """The seeds of a task."""
        count = max(1, self.seeds // task.seed_share)
        return range(self.first_seed, self.first_seed + count)


def name_of(axis: str, factor: float) -> str:
    """The name of a setting, such as "epochs × 2"."""
    return axis if axis == REFERENCE else f"{axis} × {factor:g}"


# --- Text -------------------------------------------------------------------------

# With b2 = 0.999 a run of 500 steps would average the squares over its whole length.
adamw_for_short_runs = functools.partial(dx.adamw, b2=0.99)


def text_config(batch: int, steps: int, train_size: int | None) -> StaticConfig:
    """A decoder of one layer that reads characters of Shakespeare."""
    setup = Language(
        data=functools.partial(corpus.shakespeare, train_size=train_size),
        model=functools.partial(transformer, 84, LENGTH, 64, 4, 1),
        symbols=84,
        length=LENGTH,
        batch=batch,
        steps_per_epoch=SEGMENT,
        evaluated=256,
    )
    make_optimizer = functools.partial(arms.scheduled, adamw_for_short_runs)
    segments, schedule = steps // SEGMENT, functools.partial(warmup, cosine)
    return StaticConfig(setup, make_optimizer, segments, segments, schedule)


def text_task(
    name: str,
    rows: Sequence[tuple[str, float, int, int, int]],
    train_size: int | None,
) -> TunedTask:
    """A task on text; rows have axis, factor, batch, steps, first log2 λ."""
    settings = tuple(
        Setting(
            name_of(axis, factor),
            axis,
            factor,
            text_config(batch, steps, train_size),
            decay,
        )
        for axis, factor, batch, steps, decay in rows
    )
    grid, fixed = Grid(1.0, 1.0, (-10.0, -8.0), (-4.0, 5.0)), {"warmup": WARMUP}
    return TunedTask(
        name, LOSS, settings, rate=-7, grid=grid, width=1, fixed=fixed, seed_share=3
    )


REREAD = text_task(
    "text, re-read",
    (
        (REFERENCE, 1, 16, 1000, 0),
        (EPOCHS, 0.5, 16, 500, -1),
        (EPOCHS, 2, 16, 2000, 1),
        # The number of tokens is that of the reference.
        (BATCH, 0.5, 8, 2000, -1),
        (BATCH, 2, 32, 500, 0),
    ),
    train_size=20_000,
)
ONE_PASS = text_task(
    "text, one pass",
    (
        (REFERENCE, 1, 16, 1000, -1),
        (DATA, 0.5, 16, 500, -1),
        (DATA, 2, 16, 2000, -2),
    ),
    train_size=None,
)


# --- Digits -----------------------------------------------------------------------


def digits_config(
    norm: bool, noise: float, batch: int, epochs: int, train_size: int
) -> StaticConfig:
    """A perceptron with two hidden layers."""
    setup = Classification(
        data=digits.load,
        model=functools.partial(mlp, (64, 64, 64, digits.CLASSES), norm),
        classes=digits.CLASSES,
        train_size=train_size,
        batch=batch,
        label_noise=noise,
    )
    return StaticConfig(setup, arms.adamw, epochs, epochs, cosine)


def digits_task(
    norm: bool,
    noise: float,
    decay: int,
    factors: Sequence[tuple[str, Sequence[float]]],
) -> TunedTask:
    """Digits with or without LayerNorm and wrong labels."""

    def setting(axis: str, factor: float) -> Setting:
        numbers = {BATCH: 64.0, EPOCHS: 40.0, DATA: 768.0}
        if axis != REFERENCE:
            numbers[axis] *= factor
        batch, epochs, size = map(round, numbers.values())
        config = digits_config(norm, noise, batch, epochs, size)
        return Setting(name_of(axis, factor), axis, factor, config, decay)

    layers = "LayerNorm" if norm else "plain"
    labels = "wrong labels" if noise else "right labels"
    settings = [setting(axis, x) for axis, values in factors for x in values]
    return TunedTask(
        f"digits, {layers}, {labels}",
        ACCURACY if noise else LOSS,
        (setting(REFERENCE, 1), *settings),
        rate=-8,
        grid=Grid(2.0, 1.0, (-16.0, -6.0), (-2.0, 14.0)),
        width=2,
        fixed={},
        seed_share=2,
    )


FACTORS = ((BATCH, (0.25, 4)), (EPOCHS, (0.25, 4)), (DATA, (0.25,)))
NOISE = 0.4

FULL = StrengthPlan(
    tasks=(
        REREAD,
        ONE_PASS,
        digits_task(False, 0.0, -2, FACTORS),
        digits_task(True, 0.0, -2, FACTORS),
        digits_task(False, NOISE, -1, FACTORS),
        digits_task(True, NOISE, 3, FACTORS),
    ),
)
SMOKE = StrengthPlan(
    tasks=(digits_task(False, NOISE, -1, ((EPOCHS, (0.25,)),)),),
    rounds=1,
    seeds=4,
)


# --- Stages -----------------------------------------------------------------------


def study(plan: StrengthPlan) -> Study:
    """A coarse grid for each setting, then rounds in which it grows."""
    settings = [(task, setting) for task in plan.tasks for setting in task.settings]

    def coarse(_: Table) -> list[SweepGroup]:
        groups = []
        for task, setting in settings:
            rates = task.rate + task.grid.rate_step * np.array([-1, 0, 1])
            values = np.arange(-task.width, task.width + 1)
            decays = setting.decay + task.grid.decay_step * values
            points = [(float(x), float(y)) for x in rates for y in decays]
            groups.append(group(plan, task, setting, points))
        return groups

    def grown(table: Table) -> list[SweepGroup]:
        found = []
        for task, setting in settings:
            losses = losses_of(table, task, setting)
            wanted = carried(table, task, setting)
            points = optima.points_to_add(losses, task.grid, float(task.rate), wanted)
            if points:
                found.append(group(plan, task, setting, points))
        return found

    first = sum(len(each.cells) for each in coarse({}))
    # A guess for the progress bar: a round adds fewer points than the first grid has.
    rounds = [
        Stage(f"growing {number}", first // 3, grown)
        for number in range(1, plan.rounds + 1)
    ]
    stages = (Stage(STAGE, first, coarse), *rounds)
    return Study("strength", plan, stages, write_report)


def group(
    plan: StrengthPlan,
    task: TunedTask,
    setting: Setting,
    points: Sequence[Point],
) -> SweepGroup:
    """Some points of a setting on the seeds of its task."""
    runs: tuple[HParams, ...] = tuple(
        {
            "learning_rate": 2.0**rate,
            "weight_decay": 2.0**decay,
            **task.fixed,
            "seed": seed,
        }
        for rate, decay in points
        for seed in plan.seeds_of(task)
    )
    labels = {"task": task.name, "setting": setting.name}
    return SweepGroup(labels, setting.config, runs)
