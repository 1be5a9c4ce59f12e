"""L2 or decoupled decay: where does it matter, and how do I measure it?

Question    Adam with L2 adds λθ to the gradient; AdamW adds λθ after the
            preconditioner. Both are tuned equally well. On which tasks does the network
            predict better?
Command     python -m experiments demo        (--smoke for a run of seconds)
Cost        under two minutes on 2 CPU cores
Expected    It matters where gradients differ in scale, because Adam with L2 then decays
            some weights far less than others: about 6 points if inputs have unlike
            scales, 1 or 2 points with LayerNorm, 0 points on plain digits.
Reference   Loshchilov and Hutter, *Decoupled Weight Decay Regularization*, ICLR 2019,
            https://arxiv.org/abs/1711.05101

On each of three tasks, Adam without decay, Adam with L2 and AdamW go through the
protocol (`experiments/protocol.py`). The runs without decay measure the spread of √v
over the weights, which anyone can read from the state of an Adam optimizer. Two runs on
the first task measure how much each weight shrinks in a step.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from experiments import arms, mechanism, protocol, training_setups
from experiments.engine.config import cosine, OptimizerFactory, StaticConfig
from experiments.engine.study import Study
from experiments.protocol import Contrast, difference, Entry
from experiments.reports.demo import write_report as write_report
from experiments.search import Axis, powers
from experiments.tasks import Classification


NONE, L2, DECOUPLED = "adam", "adam_l2", "adamw"
# The arm without decay is the L2 optimizer with λ = 0, so both share a compilation.
OPTIMIZERS: dict[str, OptimizerFactory] = {
    NONE: arms.adam_l2,
    L2: arms.adam_l2,
    DECOUPLED: arms.adamw,
}
RATES = Axis("learning_rate", powers(-13, -3, 2), 2.0**-17, 2.0**1)
DECAYS = {
    L2: Axis("weight_decay", powers(-10, 0), 2.0**-16, 2.0**4),
    DECOUPLED: Axis("weight_decay", powers(-2, 8), 2.0**-8, 2.0**12),
}


class DemoTask(NamedTuple):
    """A training setup, its number of epochs, and the number that all runs share."""

    name: str
    setup: Classification
    epochs: int
    fixed: dict[str, float]  # hyper-parameters of every run


TASKS = (
    DemoTask("unlike scales", training_setups.STUDENT, 40, {"spread": 0.5}),
    DemoTask("LayerNorm", training_setups.LAYERNORM, 60, {}),
    DemoTask("plain", training_setups.DIGITS, 40, {}),
)


def entries(task: DemoTask) -> list[Entry]:
    """The three arms on a task."""
    found = []
    for arm, make_optimizer in OPTIMIZERS.items():
        # Two segments: the mechanism is measured between them.
        config = StaticConfig(
            task.setup, make_optimizer, task.epochs, task.epochs // 2, cosine
        )
        axes = (DECAYS[arm], RATES) if arm in DECAYS else (RATES,)
        fixed = task.fixed | ({} if arm in DECAYS else {"weight_decay": 0.0})
        labels = {"task": task.name, "arm": arm}
        found.append(Entry(f"{task.name} {arm}", labels, config, axes, fixed))
    return found


def contrasts(task: DemoTask) -> list[Contrast]:
    """AdamW against L2, and each of them against no decay."""
    found = []
    for one, other in ((DECOUPLED, L2), (L2, NONE), (DECOUPLED, NONE)):
        first, second = f"{task.name} {one}", f"{task.name} {other}"
        found.append(difference(first, second, one, other, task.name))
    return found


def plan_of(tasks: Sequence[DemoTask], **numbers: Any) -> mechanism.MechanismPlan:
    """The plan for some tasks. The first task measures the shrink of each weight."""
    return mechanism.MechanismPlan(
        entries=tuple(entry for task in tasks for entry in entries(task)),
        contrasts=tuple(contrast for task in tasks for contrast in contrasts(task)),
        shrinks=tuple(f"{tasks[0].name} {arm}" for arm in (L2, DECOUPLED)),
        spreads=tuple(f"{task.name} {NONE}" for task in tasks),
        **numbers,
    )


def with_two_values(entry: Entry) -> Entry:
    """The entry with two values on each axis, for a smoke run."""
    axes = tuple(axis._replace(values=axis.values[2:4]) for axis in entry.axes)
    return entry._replace(axes=axes)


FULL = plan_of(TASKS)
SMOKE = plan_of([TASKS[0]._replace(epochs=2)], **protocol.SMOKE)
SMOKE = dataclasses.replace(SMOKE, entries=tuple(map(with_two_values, SMOKE.entries)))


def study(plan: mechanism.MechanismPlan) -> Study:
    """The protocol, then measurements in runs of the chosen points."""
    stages = (*protocol.stages(plan), mechanism.stage(plan))
    return Study(name="demo", plan=plan, stages=stages, report=write_report)
