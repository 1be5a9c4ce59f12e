"""Does weight decay make gradients grow at the end of training?

Question    The loss does not depend on the size of some weights. With lr-scaled decay,
            does their ratio of gradient to weight follow √(2λ/γ_t), so that it grows
            while the learning rate γ_t falls? Does corrected decay, λγ_t/γ_peak, keep
            the ratio? Which of the two decays has the smaller test error?
Command     python -m experiments end_of_training        (--smoke for a run of seconds)
Cost        about two minutes on 2 CPU cores
Expected    The ratio follows √(2λ/γ_t) with a factor for momentum
            (`experiments/steady_state.py`) until the timescale 1/(γ_tλ) is longer than
            what remains of the run. Then it grows less, as the same equations predict.
            With corrected decay it stays. The head, which is not invariant, does not
            follow √(2λ/γ_t). The test errors of the two decays do not differ.
Falsified   (a) if the median deviation of the invariant matrices from the steady ratio
            is above 10 %, or not clearly smaller than that of the head. (b) if with
            lr-scaled decay and a falling rate ‖g‖/‖θ‖ does not clearly grow by a factor
            above 1.5. (c) if with corrected decay it is not clearly between 1/1.5 and
            1.5. (d) if with lr-scaled decay the last ratio is not clearly within 25 %
            of the ratio that is predicted with the lag.
Reference   Defazio, *Why Gradients Rapidly Increase Near the End of Training*, 2025,
            https://arxiv.org/abs/2506.02285

Digits with 40 % wrong labels, and a perceptron with LayerNorm after each hidden matrix.
`dx.scale_symmetries` finds the invariant matrices. The study has two parts:

1.  SGD, SGD with momentum and Adam, each at one γ and λ with γλ = 1/32. The timescale
    is 32 of 1080 steps, so the theory applies to most of the run. Nothing is tuned.
2.  Adam, tuned for each schedule and decay by the protocol (`experiments/protocol.py`),
    which compares the test errors. The chosen points are measured as in part 1.

A pilot was seen before these numbers were written, on the seeds 500 to 517, which the
plan does not use: part 1 at these and at other points, where (a) to (c) held and one
interval of (d) was too wide; and part 2 with other, small grids. All seeds share the
pool and the test part of the digits.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from experiments import end_optimizers, protocol
from experiments.cells import Table
from experiments.data import digits
from experiments.end_optimizers import (
    ADAM,
    Base,
    Decay,
    MOMENTUM,
    NORM,
    SCHEDULES,
    SGD,
)
from experiments.engine.compilation_cache import CompilationCache
from experiments.engine.config import HParams, StaticConfig, SweepGroup
from experiments.engine.study import Stage, Study
from experiments.engine.training import Measurement, Progress, train_chunk
from experiments.models.normed import normed_mlp
from experiments.networks import kinds_of
from experiments.protocol import Contrast, difference, Entry
from experiments.reports.end_of_training import write_report as write_report
from experiments.search import Axis, Point, powers
from experiments.tasks import Classification


Arrays = dict[str, np.ndarray]
NONE, LR_SCALED, CORRECTED = "none", "lr-scaled", "corrected"
DECAYS: dict[str, Decay] = {
    NONE: end_optimizers.lr_scaled,  # with λ = 0
    LR_SCALED: end_optimizers.lr_scaled,
    CORRECTED: end_optimizers.corrected,
}
BASES = {base.name: base for base in (SGD, MOMENTUM, ADAM)}
SETUP = Classification(
    data=digits.load,
    model=functools.partial(normed_mlp, (64, 64, 64, digits.CLASSES)),
    classes=digits.CLASSES,
    train_size=900,
    batch=50,
    label_noise=0.4,
)
RATES = Axis("learning_rate", powers(-14, -4, 2), 2.0**-18, 2.0**0)
STRENGTHS = Axis("weight_decay", powers(-2, 8, 2), 2.0**-8, 2.0**12)


# --- Plan -------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class EndPlan(protocol.ProtocolPlan):
    """The protocol for Adam, and the runs whose ratios are measured."""

    schedules: tuple[str, ...]
    points: dict[str, tuple[float, float]]  # by base: γ and λ of part 1
    epochs: int = 60
    segments: int = 20  # measured parts of a run
    watched_seeds: int = 10


def name_of(schedule: str, arm: str) -> str:
    """The name of an entry."""
    return f"{schedule} {arm}"


def entry_of(schedule: str, arm: str, epochs: int) -> Entry:
    """An arm with a schedule."""
    make = functools.partial(end_optimizers.with_decay, ADAM, DECAYS[arm], SETUP)
    config = StaticConfig(SETUP, make, epochs, epochs, SCHEDULES[schedule])
    axes = (RATES,) if arm == NONE else (STRENGTHS, RATES)
    fixed = {"weight_decay": 0.0} if arm == NONE else {}
    labels = {"task": schedule, "arm": arm}
    return Entry(name_of(schedule, arm), labels, config, axes, fixed)


def contrasts(schedule: str) -> Iterator[Contrast]:
    """The two decays against each other, and each against no decay."""
    for one, other in ((CORRECTED, LR_SCALED), (LR_SCALED, NONE), (CORRECTED, NONE)):
        first, second = name_of(schedule, one), name_of(schedule, other)
        yield difference(first, second, one, other, schedule)


def plan_of(schedules: Sequence[str], epochs: int, **numbers: Any) -> EndPlan:
    """The plan for some schedules."""
    return EndPlan(
        entries=tuple(entry_of(s, arm, epochs) for s in schedules for arm in DECAYS),
        contrasts=tuple(c for s in schedules for c in contrasts(s)),
        schedules=tuple(schedules),
        epochs=epochs,
        **numbers,
    )


FULL = plan_of(
    tuple(SCHEDULES),
    60,
    points={
        SGD.name: (2.0**-2, 2.0**-3),
        MOMENTUM.name: (2.0**-4, 2.0**-1),
        ADAM.name: (2.0**-8, 2.0**3),
    },
    final_seeds=40,
)
SMOKE = plan_of(
    ("linear",),
    4,
    points={ADAM.name: (2.0**-6, 2.0**3)},
    segments=4,
    watched_seeds=2,
    **protocol.SMOKE,
)


def with_two_values(entry: Entry) -> Entry:
    """The entry with two values on each axis, for a smoke run."""
    axes = tuple(axis._replace(values=axis.values[2:4]) for axis in entry.axes)
    return entry._replace(axes=axes)


SMOKE = dataclasses.replace(SMOKE, entries=tuple(map(with_two_values, SMOKE.entries)))


# --- Stages -----------------------------------------------------------------------


def study(plan: EndPlan) -> Study:
    """The protocol, then the ratios at the points of part 1 and at the choices."""

    def watching(table: Table) -> list[Measurement]:
        parts = {f"fixed-{base}": fixed_runs(plan, base) for base in plan.points}
        parts[f"chosen-{ADAM.name}"] = chosen_runs(plan, table)
        return [
            Measurement(name, functools.partial(watch, plan, base, points))
            for name, (base, points) in parts.items()
        ]

    # A measurement is not a run.
    stages = (*protocol.stages(plan), Stage("watching", 0, watching))
    return Study("end_of_training", plan, stages, write_report)


Points = Mapping[tuple[str, str], tuple[float, float]]  # schedule, arm -> γ, λ


def fixed_runs(plan: EndPlan, base: str) -> tuple[Base, Points]:
    """Both decays with every schedule, at one point."""
    settings = itertools.product(plan.schedules, (LR_SCALED, CORRECTED))
    return BASES[base], dict.fromkeys(settings, plan.points[base])


def chosen_runs(plan: EndPlan, table: Table) -> tuple[Base, Points]:
    """The point of each entry that validation chose."""
    points = {}
    for entry in plan.entries:
        chosen: Point = protocol.ranked_by_validation(plan, entry, table)[0]
        *decay, rate = chosen  # without decay only the learning rate is tuned
        key = entry.labels["task"], entry.labels["arm"]
        points[key] = rate, decay[0] if decay else 0.0
    return ADAM, points


def watch(
    plan: EndPlan,
    base: Base,
    points: Points,
    cache: CompilationCache,
    progress: Progress,
) -> Arrays:
    """The ratios of each matrix: float16[settings, seeds, segments, matrices]."""
    kinds = kinds_of(SETUP, end_optimizers.PROBE_SEED)
    seeds = plan.seeds(protocol.FINAL)[: plan.watched_seeds]
    found: dict[str, list[np.ndarray]] = {name: [] for name in base.ratios}
    is_matrix = np.zeros(len(kinds.paths), bool)
    silent = progress._replace(advance=lambda _: progress.advance(0))
    for (schedule, arm), (rate, decay) in points.items():
        progress.set_description(f"{base.name}, {schedule}, {arm}")
        config = watched_config(plan, base, schedule, arm)
        hparams = {"learning_rate": rate, "weight_decay": decay}
        cells: tuple[HParams, ...] = tuple(hparams | {"seed": seed} for seed in seeds)
        group = SweepGroup({}, config, cells)
        arrays = train_chunk(cache, group, cells, len(cells), silent)
        is_matrix = np.array([f"measure/{p}/{NORM}" in arrays for p in kinds.paths])
        for name, settings in found.items():
            matrices = np.array(kinds.paths)[is_matrix].tolist()
            columns = [arrays[f"measure/{path}/{name}"] for path in matrices]
            settings.append(np.stack(columns, -1))
    schedules, arms = zip(*points, strict=True)
    rates, decays = np.array(list(points.values())).T
    # Rounding to float16 is far below the noise, and the file is half as large.
    return {name: np.stack(x).astype(np.float16) for name, x in found.items()} | {
        "base": np.array(base.name),
        "beta": np.array(base.beta),
        "adaptive": np.array(base.adaptive),
        "schedules": np.array(schedules),
        "arms": np.array(arms),
        "rates": rates,
        "decays": decays,
        "steps": np.array(plan.epochs * SETUP.task().steps_per_epoch),
        "paths": np.array(kinds.paths)[is_matrix],
        "kinds": np.array(kinds.kinds)[is_matrix],
    }


def watched_config(plan: EndPlan, base: Base, schedule: str, arm: str) -> StaticConfig:
    """A run whose ratios are measured in every segment."""
    epochs = plan.epochs // plan.segments
    every = epochs * SETUP.task().steps_per_epoch
    return StaticConfig(
        SETUP,
        functools.partial(end_optimizers.watched, base, DECAYS[arm], every, SETUP),
        plan.epochs,
        epochs,
        SCHEDULES[schedule],
        curves=True,
        record=functools.partial(end_optimizers.ratios, every),
    )
