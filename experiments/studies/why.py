"""Is decoupled decay better because gradients differ in scale?

Question    Each input is multiplied by its own factor 10^U(-s, s). The gradients of the
            first layer then differ in scale; the labels stay the same. Does the gap
            between Adam with L2 and AdamW grow with the spread s?
Command     python -m experiments why        (--smoke for a run of seconds)
            `make data` first, for Fashion-MNIST
Cost        about 5 minutes on 2 CPU cores
Expected    The gap is 0 at s = 0 and grows with s, because weights with large gradients
            hardly decay under L2. A pilot on the teacher's task found gaps of 6.5, 4.8
            and 2.7 points at s = 0.5, 1 and 1.5: the gap may rise and then fall.
Reference   Loshchilov and Hutter, *Decoupled Weight Decay Regularization*, ICLR 2019,
            proposition 3, https://arxiv.org/abs/1711.05101
            Zhuang et al., *Understanding AdamW through proximal methods and
            scale-freeness*, 2022, https://arxiv.org/abs/2202.00089

Three tasks: a teacher and its student, digits, Fashion-MNIST. At every spread, Adam
without decay, Adam with L2 and AdamW go through the protocol
(`experiments/protocol.py`). Growth is the slope of the gap over all spreads of a task.
The runs without decay measure the spread of √v. Runs with L2 and with AdamW on the
first task measure the shrink of each weight.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments import arms, mechanism, protocol, training_setups
from experiments.engine.config import cosine, OptimizerFactory, StaticConfig
from experiments.engine.study import Study
from experiments.protocol import Contrast, difference, Entry
from experiments.reports.why import write_report as write_report
from experiments.search import Axis, powers
from experiments.tasks import Classification


NONE, L2, DECOUPLED = "adam", "adam_l2", "adamw"
OPTIMIZERS: dict[str, OptimizerFactory] = {
    NONE: arms.adam_l2,
    L2: arms.adam_l2,
    DECOUPLED: arms.adamw,
}
RATES = Axis("learning_rate", powers(-11, -1, 2), 2.0**-14, 2.0**2)
DECAYS = {
    L2: Axis("weight_decay", (0.0, *powers(-14, 2)), 2.0**-14, 2.0**6),
    DECOUPLED: Axis("weight_decay", (0.0, *powers(-6, 10)), 2.0**-6, 2.0**14),
}


def name_of(task: str, spread: float, arm: str) -> str:
    """The name of an entry, from task, spread and arm."""
    return f"{task} {spread:g} {arm}"


class WhyTask(NamedTuple):
    """A training setup, its number of epochs, and the spreads of its inputs."""

    name: str
    setup: Classification
    epochs: int
    spreads: tuple[float, ...]


def entries(task: WhyTask) -> list[Entry]:
    """All arms on a task, at every spread."""
    found = []
    for spread in task.spreads:
        for arm, make_optimizer in OPTIMIZERS.items():
            # Two segments: the mechanism is measured between them.
            config = StaticConfig(
                task.setup, make_optimizer, task.epochs, task.epochs // 2, cosine
            )
            axes = (DECAYS[arm], RATES) if arm in DECAYS else (RATES,)
            fixed = {"spread": spread}
            if arm == NONE:
                fixed["weight_decay"] = 0.0
            name = name_of(task.name, spread, arm)
            labels = {"task": task.name, "arm": arm}
            found.append(Entry(name, labels, config, axes, fixed))
    return found


def contrasts(task: str, spreads: tuple[float, ...]) -> tuple[Contrast, ...]:
    """The gap and the gains of decay at every spread, and the slope of the gap."""
    found = []
    for spread in spreads:
        for one, other in ((DECOUPLED, L2), (L2, NONE), (DECOUPLED, NONE)):
            first, second = (name_of(task, spread, arm) for arm in (one, other))
            where = f"{task}, s = {spread:g}"
            found.append(difference(first, second, one, other, where))
    if len(spreads) > 1:
        # The slope of least squares, Σ (s - s̄) gap / Σ (s - s̄)², is a weighted sum.
        centred = np.array(spreads) - np.mean(spreads)
        weights = (centred / np.sum(centred**2)).tolist()
        terms = tuple(
            (name_of(task, spread, arm), sign * weight)
            for spread, weight in zip(spreads, weights, strict=True)
            for arm, sign in ((DECOUPLED, 1.0), (L2, -1.0))
        )
        name = f"{task}: slope of the gap on s"
        found.append(Contrast(name, terms, "the gap grows", "the gap shrinks"))
    return tuple(found)


TASKS = (
    WhyTask("teacher", training_setups.STUDENT, 40, (0.0, 0.5, 1.0, 1.5)),
    WhyTask("digits", training_setups.DIGITS, 40, (0.0, 0.5, 1.0, 1.5)),
    WhyTask("fashion", training_setups.FASHION, 20, (0.0, 1.0)),
)


def plan_of(tasks: Sequence[WhyTask], **numbers: Any) -> mechanism.MechanismPlan:
    """The plan for some tasks. The first task measures shrinks, at s near 0.5."""
    found = [entry for task in tasks for entry in entries(task)]
    first = tasks[0]
    spread = min(first.spreads, key=lambda spread: abs(spread - 0.5))
    return mechanism.MechanismPlan(
        entries=tuple(found),
        contrasts=tuple(
            c for task in tasks for c in contrasts(task.name, task.spreads)
        ),
        shrinks=tuple(name_of(first.name, spread, arm) for arm in (L2, DECOUPLED)),
        spreads=tuple(e.name for e in found if e.labels["arm"] == NONE),
        **numbers,
    )


def with_two_values(entry: Entry) -> Entry:
    """The entry with the two middle values of each axis, for a smoke run."""
    middle = {axis.name: len(axis.values) // 2 for axis in entry.axes}
    axes = tuple(
        axis._replace(values=axis.values[middle[axis.name] : middle[axis.name] + 2])
        for axis in entry.axes
    )
    return entry._replace(axes=axes)


FULL = plan_of(TASKS)
SMOKE = plan_of([TASKS[0]._replace(epochs=2, spreads=(0.0, 1.0))], **protocol.SMOKE)
SMOKE = dataclasses.replace(SMOKE, entries=tuple(map(with_two_values, SMOKE.entries)))


def study(plan: mechanism.MechanismPlan) -> Study:
    """The protocol, then measurements in runs of the chosen points."""
    stages = (*protocol.stages(plan), mechanism.stage(plan))
    return Study(name="why", plan=plan, stages=stages, report=write_report)
