"""Does weight decay matter in a transformer on text, and which?

Question    A decoder of one layer reads 20 000 characters of Shakespeare 26 times. What
            does decay gain, as L2, lr-scaled or independent decay under Adam, and as
            L2 or lr-scaled decay under RMSprop? Does it still gain with one pass over
            more text, and in pure bfloat16?
Command     python -m experiments transformer        (--smoke for a run of seconds)
            `make data` first, for the text
Cost        about 11 minutes on 2 CPU cores
Expected    From a pilot at one learning rate, in nats of validation loss: λ = 1 gains
            0.062 ± 0.005 over no decay, and L2 is 0.034 ± 0.007 behind. With one pass
            decay gains 0.02. Where γλ is below half an ulp, plain bfloat16 loses its
            decay; stochastic rounding and compensation keep it.
Falsified   Decay matters on re-read text, if AdamW − no decay is not clearly positive.
            Decoupling matters, if AdamW − L2 is not. A rounding keeps decay, if its
            gain of decay is clearly smaller than that of float32.
Reference   Loshchilov and Hutter, *Decoupled Weight Decay Regularization*, ICLR 2019,
            https://arxiv.org/abs/1711.05101

Every arm on each text goes through the protocol (`experiments/protocol.py`); the loss
chooses. Two more stages use the choices on re-read text: AdamW and the same learning
rate without decay in pure bfloat16, and the telemetry of every Adam arm over time.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from experiments import arms, protocol, text_optimizers
from experiments.arms import Arm
from experiments.cells import Table
from experiments.data import modular
from experiments.engine.config import (
    cosine,
    OptimizerFactory,
    StaticConfig,
    SweepGroup,
    warmup,
)
from experiments.engine.study import Stage, Study
from experiments.models.transformer import transformer
from experiments.protocol import Contrast, difference, Entry
from experiments.reports.transformer import (
    ROUNDING,
    WATCHING,
    write_report as write_report,
)
from experiments.search import octaves, Point
from experiments.studies import strength
from experiments.tasks import Classification
from experiments.text_optimizers import ARMS, NONE, ROUNDINGS


GROWTH = 4  # powers of two by which the grid may grow at either end
WATCHED = ("adam", "adam_l2", "adamw")  # with telemetry
RATES = {"Adam": (-8, -6), "RMSprop": (-9, -7)}  # log2, first and last
WARMUP = {"warmup": strength.WARMUP}


# --- Plan -------------------------------------------------------------------------


class TextTask(NamedTuple):
    """A text, and where the grid of λ begins and ends by arm, as log2."""

    name: str
    # optimizer -> the configuration
    config: Callable[[OptimizerFactory], StaticConfig]
    decays: dict[str, tuple[int, int]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerPlan(protocol.ProtocolPlan):
    """The protocol, the roundings, and the entries with telemetry."""

    rounded: str  # the entry whose choice runs with every rounding
    roundings: tuple[str, ...] = tuple(each.name for each in ROUNDINGS)
    rounding_seeds: int = 10
    watched: tuple[str, ...]  # the entries with telemetry
    watched_seeds: int = 3


def name_of(task: str, arm: str) -> str:
    """The name of an entry."""
    return f"{task} {arm}"


def text_config(train_size: int | None, make: OptimizerFactory) -> StaticConfig:
    """1000 steps of batches of 16 on a text."""
    return strength.text_config(16, 1000, train_size)._replace(make_optimizer=make)


def addition_config(make: OptimizerFactory) -> StaticConfig:
    """A tiny task for a smoke run, which needs no download."""
    setup = Classification(
        data=functools.partial(modular.load, 11),
        model=functools.partial(transformer, 12, 3, 16, 2, 1),
        classes=11,
        train_size=48,
        batch=8,
    )
    return StaticConfig(setup, make, 2, 2, functools.partial(warmup, cosine))


def entry_of(task: TextTask, arm: Arm) -> Entry:
    """An arm on a text."""
    rates = octaves("learning_rate", *RATES[arm.base], growth=GROWTH)
    if arm.place == NONE:
        axes, fixed = (rates,), {"weight_decay": 0.0, **WARMUP}
    else:
        # Every second power; bracketing adds the others around the best.
        decays = octaves("weight_decay", *task.decays[arm.name], 2, growth=GROWTH)
        axes = (decays, rates)
        fixed = WARMUP
    labels = {"task": task.name, "arm": arm.name, "base": arm.base, "place": arm.place}
    config = task.config(arm.make_optimizer)
    return Entry(name_of(task.name, arm.name), labels, config, axes, fixed)


PAIRS = (
    ("adamw", "adam"),
    ("adam_l2", "adam"),
    ("adam_independent", "adam"),
    ("adamw", "adam_l2"),
    ("adamw", "adam_independent"),
    ("rmspropw", "rmsprop_l2"),
)


def contrasts(task: TextTask, names: Sequence[str]) -> Iterator[Contrast]:
    """The gain of each decay, and the places of decay against one another."""
    for one, other in PAIRS:
        if one in names and other in names:
            first, second = (name_of(task.name, arm) for arm in (one, other))
            yield difference(first, second, one, other, task.name)


def plan_of(
    tasks: Sequence[tuple[TextTask, Sequence[str]]], **numbers: Any
) -> TransformerPlan:
    """The plan for some texts, each with the names of its arms."""
    found = [
        (task, [arm for arm in ARMS if arm.name in names]) for task, names in tasks
    ]
    first, chosen = tasks[0]
    return TransformerPlan(
        entries=tuple(entry_of(task, arm) for task, each in found for arm in each),
        contrasts=tuple(c for task, names in tasks for c in contrasts(task, names)),
        measure=protocol.LOSS,
        rounded=name_of(first.name, "adamw"),
        watched=tuple(name_of(first.name, arm) for arm in WATCHED if arm in chosen),
        **numbers,
    )


REREAD = TextTask(
    "re-read",
    functools.partial(text_config, 20_000),
    {
        "adam_l2": (-14, -8),
        "adamw": (-3, 3),
        "adam_independent": (-10, -4),
        "rmsprop_l2": (-14, -8),
        "rmspropw": (-3, 3),
    },
)
ONE_PASS = TextTask(
    "one pass",
    functools.partial(text_config, None),
    {"adamw": (-5, 1)},
)
FULL = plan_of(
    (
        (REREAD, tuple(arm.name for arm in ARMS)),
        (ONE_PASS, ("adam", "adamw")),
    ),
    # A run takes more than a second, so the grids are small.
    tuning_seeds=1,
    rounds=4,
    added=4,
    screened=3,
    candidates=2,
    validation_seeds=4,
    final_seeds=15,
    chunk=4,
)
ADDITION = TextTask(
    "addition", addition_config, {"adam_l2": (-10, -8), "adamw": (-1, 1)}
)
SMOKE = plan_of(
    ((ADDITION, ("adam", "adam_l2", "adamw")),),
    **protocol.SMOKE,
    roundings=("float32", "compensated"),
    rounding_seeds=2,
    watched_seeds=2,
    chunk=8,
)


# --- Stages -----------------------------------------------------------------------


def study(plan: TransformerPlan) -> Study:
    """The protocol, then roundings and telemetry at the chosen points."""
    rounded = 2 * len(plan.roundings) * plan.rounding_seeds
    watched = len(plan.watched) * plan.watched_seeds
    stages = (
        *protocol.stages(plan),
        Stage(ROUNDING, rounded, lambda table: rounding_groups(plan, table)),
        Stage(WATCHING, watched, lambda table: watching_groups(plan, table)),
    )
    return Study("transformer", plan, stages, write_report)


def chosen(plan: TransformerPlan, name: str, table: Table) -> tuple[Entry, Point]:
    """An entry and the point that validation chose."""
    (entry,) = (each for each in plan.entries if each.name == name)
    return entry, protocol.ranked_by_validation(plan, entry, table)[0]


def rounding_groups(plan: TransformerPlan, table: Table) -> list[SweepGroup]:
    """The choice of AdamW, and its learning rate without decay, by rounding."""
    entry, point = chosen(plan, plan.rounded, table)
    seeds = plan.seeds(protocol.FINAL)[: plan.rounding_seeds]
    groups = []
    for rounding in ROUNDINGS:
        if rounding.name not in plan.roundings:
            continue
        setup: Any = entry.config.setup
        setup = dataclasses.replace(setup, dtype=rounding.dtype)
        make = entry.config.make_optimizer  # shares the final runs in float32
        if rounding.wrap is not None:
            rounded = functools.partial(text_optimizers.wrapped, rounding.wrap)
            make = functools.partial(arms.scheduled, rounded)
        config = entry.config._replace(setup=setup, make_optimizer=make)
        labels = {"task": entry.labels["task"], "arm": rounding.name}
        renamed = entry._replace(labels=labels, config=config)
        points = [(0.0, point[1]), point]
        groups.append(protocol.sweep_group(renamed, ROUNDING, points, seeds))
    return groups


def watching_groups(plan: TransformerPlan, table: Table) -> list[SweepGroup]:
    """The chosen points with telemetry, measured after every segment."""
    seeds = plan.seeds(protocol.FINAL)[: plan.watched_seeds]
    groups = []
    for name in plan.watched:
        entry, point = chosen(plan, name, table)
        make = functools.partial(text_optimizers.tracked, entry.config.make_optimizer)
        config = entry.config._replace(
            make_optimizer=make,
            epochs_per_segment=1,
            curves=True,
            record=text_optimizers.telemetry,
        )
        watched = entry._replace(config=config)
        groups.append(protocol.sweep_group(watched, WATCHING, [point], seeds))
    return groups
