"""On which parameters should weight decay act?

Question    Biases and gains of norms are often excluded from decay, and embeddings too.
            Does it matter for the loss? Arms: all parameters, no biases and norms, no
            embeddings either, matrices of hidden layers only, only the leaves whose
            common scale the network does not see, only all other leaves.
Command     python -m experiments which_parameters        (--smoke for a run of seconds)
            `make data` first, for the text
Cost        about nine minutes on 2 CPU cores
Expected    No prediction. Biases and norms are few and small, so to exclude them should
            not matter. OLMo and torchtitan decay all parameters.
Falsified   "Exclude biases and norms", on a task, if decay of all parameters is clearly
            better; "it does not matter", if one of the two is clearly better.
Reference   OLMo, https://github.com/allenai/OLMo
            torchtitan, https://github.com/pytorch/torchtitan

The mask is a traced multiplier of each leaf, so all arms of a task share one compiled
program. The optimizer is AdamW. The protocol (`experiments/protocol.py`) tunes λ and
the learning rate for each arm. Text by loss, and LayerNorm digits with wrong labels by
accuracy.
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple

from experiments import arms, joint, protocol, training_setups
from experiments.data import modular
from experiments.engine.config import (
    cosine,
    StaticConfig,
    warmup,
)
from experiments.engine.study import Study
from experiments.joint import JointPlan
from experiments.models.transformer import transformer
from experiments.protocol import Contrast, difference, Entry, ProtocolPlan
from experiments.reports.which_parameters import write_report as write_report
from experiments.search import octaves
from experiments.studies import strength
from experiments.tasks import Classification
from experiments.text_optimizers import selected


NONE, ALL, USUAL = "none", "all", "no biases or norms"
NO_EMBEDDINGS, HIDDEN = "no embeddings either", "hidden matrices"
INVARIANT, SEEN = "invariant", "seen"
GROWTH = 4  # powers of two by which the grid may grow at either end


class Selection(NamedTuple):
    """The leaves of a network that decay: a regular expression for the whole path."""

    name: str
    pattern: str


# `dx.scale_symmetries` finds no leaf that is invariant alone. The sum of a pre-norm
# network's residual stream is invariant together: its embeddings and last matrices.
RESIDUAL = r"blocks/\d+/(attention/out|down)/.*|(token|position)/embedding"
TEXT = (
    Selection(NONE, ""),
    Selection(ALL, r".*"),
    Selection(USUAL, r".*(kernel|embedding)"),
    Selection(NO_EMBEDDINGS, r".*kernel"),
    Selection(HIDDEN, r"blocks/.*kernel"),
    Selection(INVARIANT, RESIDUAL),
    Selection(SEEN, rf"(?!({RESIDUAL})$).*"),
)
# A hidden layer and its bias are invariant together, because LayerNorm follows.
DIGITS = (
    Selection(NONE, ""),
    Selection(ALL, r".*"),
    Selection(USUAL, r".*kernel"),
    Selection(HIDDEN, r"hidden/.*kernel"),
    Selection(INVARIANT, r"hidden/.*"),
    Selection(SEEN, r"(?!hidden/).*"),
)


class SelectionTask(NamedTuple):
    """A task with its selections, the grid of its axes as log2, and its measure."""

    name: str
    selections: tuple[Selection, ...]
    config: StaticConfig  # without its optimizer
    decays: tuple[int, int]
    rates: tuple[int, int]
    fixed: Mapping[str, float]
    measure: protocol.Measure
    sizes: Mapping[str, int]  # of the protocol


def name_of(task: str, selection: str) -> str:
    """The name of an entry."""
    return f"{task}: {selection}"


def entries(task: SelectionTask) -> list[Entry]:
    """All selections on a task."""
    patterns = tuple(each.pattern for each in task.selections)
    config = task.config._replace(make_optimizer=functools.partial(selected, patterns))
    rates = octaves("learning_rate", *task.rates, growth=GROWTH)
    decays = octaves("weight_decay", *task.decays, 2, growth=GROWTH)
    found = []
    for number, selection in enumerate(task.selections):
        none = selection.name == NONE
        found.append(
            Entry(
                name_of(task.name, selection.name),
                {"task": task.name, "arm": selection.name},
                config,
                (rates,) if none else (decays, rates),
                {"selection": number, **task.fixed}
                | ({"weight_decay": 0.0} if none else {}),
            )
        )
    return found


def contrasts(task: SelectionTask) -> list[Contrast]:
    """Every selection against the usual one, and invariant against seen leaves."""
    names = [each.name for each in task.selections]
    pairs = [(name, USUAL) for name in names if name not in (USUAL, NONE)]
    pairs = [(USUAL, NONE), *pairs]
    if INVARIANT in names:
        pairs.append((INVARIANT, SEEN))
    return [
        difference(
            name_of(task.name, one), name_of(task.name, other), one, other, task.name
        )
        for one, other in pairs
    ]


def protocol_of(task: SelectionTask) -> ProtocolPlan:
    """The protocol of a task."""
    return ProtocolPlan(
        entries=tuple(entries(task)),
        contrasts=tuple(contrasts(task)),
        measure=task.measure,
        **task.sizes,
    )


def plan_of(*tasks: SelectionTask, chunk: int) -> JointPlan:
    """The plan for some tasks."""
    return JointPlan(
        plans={task.name: protocol_of(task) for task in tasks}, chunk=chunk
    )


FULL = plan_of(
    SelectionTask(
        "text",
        TEXT,
        strength.text_config(16, 1000, 20_000),
        decays=(-3, 3),
        rates=(-8, -6),
        fixed={"warmup": strength.WARMUP},
        measure=protocol.LOSS,
        # A run takes more than a second, so the grids are small.
        sizes={
            "tuning_seeds": 1,
            "rounds": 4,
            "added": 4,
            "screened": 3,
            "candidates": 2,
            "validation_seeds": 6,
            "final_seeds": 15,
        },
    ),
    SelectionTask(
        "digits",
        DIGITS,
        # 40 % of the training labels are wrong, so decay matters here.
        StaticConfig(training_setups.LAYERNORM, arms.adamw, 60, 60, cosine),
        decays=(1, 7),
        rates=(-13, -11),
        fixed={},
        # With wrong labels the loss prefers a network that is unsure.
        measure=protocol.ACCURACY,
        sizes={
            "tuning_seeds": 5,
            "rounds": 4,
            "added": 4,
            "screened": 8,
            "candidates": 4,
            "validation_seeds": 20,
            "final_seeds": 60,
        },
    ),
    chunk=4,
)
ADDITION = Classification(
    data=functools.partial(modular.load, 11),
    model=functools.partial(transformer, 12, 3, 16, 2, 1),
    classes=11,
    train_size=48,
    batch=8,
)
SMOKE = plan_of(
    SelectionTask(
        "addition",
        TEXT[:3],
        StaticConfig(ADDITION, arms.adamw, 2, 2, functools.partial(warmup, cosine)),
        decays=(-1, 1),
        rates=(-7, -6),
        fixed={"warmup": strength.WARMUP},
        measure=protocol.LOSS,
        sizes=protocol.SMOKE,
    ),
    chunk=8,
)


def study(plan: JointPlan) -> Study:
    """The protocol of each task."""
    return Study("which_parameters", plan, joint.stages(plan), write_report)
