"""L2 or decoupled decay: where does it matter, and how do I see whether it does?

Question    Add λθ to the gradient (Adam with L2), or to the direction that Adam made of
            it (AdamW). Each tuned equally well: does the network predict better?
Command     python -m experiments demo        (--smoke for a run of seconds)
Cost        under two minutes on 2 CPU cores
Expected    It matters where gradients differ in scale, so that Adam decays some weights
            far less than others: by about 6 points where inputs have unlike scales, by
            one or two with LayerNorm, by nothing on plain digits.
Reference   Loshchilov and Hutter, *Decoupled Weight Decay Regularization*, ICLR 2019,
            https://arxiv.org/abs/1711.05101

Three tasks, and on each Adam without decay, with L2, and AdamW. All go through the
protocol (`experiments/protocol.py`). In the runs without decay the spread of √v over
the weights is measured, which anyone can read from the state of an Adam optimizer. On
the first task it is also measured how much each weight shrinks in a step.
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
# Without decay: the L2 optimizer with λ = 0, which adds 0·θ to the gradient.
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
    """A training setup, and the number of epochs."""

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
    """The places against one another, and each against no decay."""
    found = []
    for one, other in ((DECOUPLED, L2), (L2, NONE), (DECOUPLED, NONE)):
        first, second = f"{task.name} {one}", f"{task.name} {other}"
        found.append(difference(first, second, one, other, task.name))
    return found


def plan_of(tasks: Sequence[DemoTask], **numbers: Any) -> mechanism.MechanismPlan:
    """The plan for some tasks; shrinks are measured on the first."""
    return mechanism.MechanismPlan(
        entries=tuple(entry for task in tasks for entry in entries(task)),
        contrasts=tuple(contrast for task in tasks for contrast in contrasts(task)),
        shrinks=tuple(f"{tasks[0].name} {arm}" for arm in (L2, DECOUPLED)),
        spreads=tuple(f"{task.name} {NONE}" for task in tasks),
        **numbers,
    )


FULL = plan_of(TASKS)
SMOKE = plan_of(
    [TASKS[0]._replace(epochs=2)],
    **protocol.SMOKE,
)
SMOKE = dataclasses.replace(
    SMOKE,
    entries=tuple(
        entry._replace(axes=tuple(a._replace(values=a.values[2:4]) for a in entry.axes))
        for entry in SMOKE.entries
    ),
)


def study(plan: mechanism.MechanismPlan) -> Study:
    """The protocol, then what is measured in runs of its choices."""
    stages = (*protocol.stages(plan), mechanism.stage(plan))
    return Study(name="demo", plan=plan, stages=stages, report=write_report)
