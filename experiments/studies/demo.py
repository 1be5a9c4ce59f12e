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
the weights is measured, which anyone can read from the state of an Adam optimizer; and
on the first task how much each weight shrinks in a step.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from experiments import arms, mechanism, protocol, recipes
from experiments.engine.plan import Chain, cosine, Static
from experiments.engine.study import Study
from experiments.protocol import Contrast, difference, Entry
from experiments.reports.demo import write_report as write_report
from experiments.search import Axis, powers
from experiments.tasks import Classification


NONE, L2, DECOUPLED = "adam", "adam_l2", "adamw"
# Without decay: the L2 chain with λ = 0, which adds 0·θ to the gradient.
CHAINS: dict[str, Chain] = {NONE: arms.adam_l2, L2: arms.adam_l2, DECOUPLED: arms.adamw}
RATES = Axis("learning_rate", powers(-13, -3, 2), 2.0**-17, 2.0**1)
DECAYS = {
    L2: Axis("weight_decay", powers(-10, 0), 2.0**-16, 2.0**4),
    DECOUPLED: Axis("weight_decay", powers(-2, 8), 2.0**-8, 2.0**12),
}


class Task(NamedTuple):
    """What is trained, and for how long."""

    name: str
    recipe: Classification
    epochs: int
    fixed: dict[str, float]  # numbers of every run


TASKS = (
    Task("unlike scales", recipes.STUDENT, 40, {"spread": 0.5}),
    Task("LayerNorm", recipes.LAYERNORM, 60, {}),
    Task("plain", recipes.DIGITS, 40, {}),
)


def entries(task: Task) -> list[Entry]:
    """The three arms on a task."""
    found = []
    for arm, chain in CHAINS.items():
        # Two segments: the mechanism is measured between them.
        static = Static(task.recipe, chain, task.epochs, task.epochs // 2, cosine)
        axes = (DECAYS[arm], RATES) if arm in DECAYS else (RATES,)
        fixed = task.fixed | ({} if arm in DECAYS else {"weight_decay": 0.0})
        labels = {"task": task.name, "arm": arm}
        found.append(Entry(f"{task.name} {arm}", labels, static, axes, fixed))
    return found


def contrasts(task: Task) -> list[Contrast]:
    """The places against one another, and each against no decay."""
    found = []
    for one, other in ((DECOUPLED, L2), (L2, NONE), (DECOUPLED, NONE)):
        names = f"{task.name} {one}", f"{task.name} {other}"
        found.append(difference(*names, one, other, task.name))
    return found


def plan_of(tasks: Sequence[Task], **numbers: Any) -> mechanism.Plan:
    """The plan for some tasks; shrinks are measured on the first."""
    return mechanism.Plan(
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


def study(plan: mechanism.Plan) -> Study:
    """The protocol, then what is measured in runs of its choices."""
    stages = (*protocol.stages(plan), mechanism.stage(plan))
    return Study(name="demo", plan=plan, stages=stages, report=write_report)
