"""On which parameters should weight decay act?

Question    Biases and gains of norms are often excluded from decay, and embeddings too.
            Does it matter for the loss? Arms: all parameters, no biases and norms, no
            embeddings either, matrices of hidden layers only, only the leaves whose
            common scale the network does not see, only all other leaves.
Command     python -m experiments which_parameters        (--smoke for a run of seconds)
            `make data` first, for the text
Cost        at most 12 minutes on 2 CPU cores
Expected    No prediction. Biases and norms are few and small, so to exclude them should
            not matter. OLMo and torchtitan decay all parameters.
Falsified   "Exclude biases and norms", on a task, if decay of all parameters is clearly
            better; "it does not matter", if either is.
Reference   OLMo, https://github.com/allenai/OLMo
            torchtitan, https://github.com/pytorch/torchtitan

The mask is a traced multiplier of each leaf, so all arms of a task share one compiled
program. AdamW, and λ and the learning rate are tuned for each arm, by the protocol
(`experiments/protocol.py`).
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

from experiments import arms, protocol, training_setups
from experiments.data import modular
from experiments.engine.config import (
    cosine,
    StaticConfig,
    warmup,
)
from experiments.engine.study import Study
from experiments.models.transformer import transformer
from experiments.protocol import Contrast, difference, Entry
from experiments.reports.which_parameters import write_report as write_report
from experiments.search import Axis, powers
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
    """A task with its selections and the grid of its axes, as log2."""

    name: str
    selections: tuple[Selection, ...]
    config: StaticConfig  # without its optimizer
    decays: tuple[int, int]
    rates: tuple[int, int]
    fixed: dict[str, float]


def name_of(task: str, selection: str) -> str:
    """The name of an entry."""
    return f"{task}: {selection}"


def entries(task: SelectionTask) -> list[Entry]:
    """All selections on a task."""

    def axis(name: str, first: int, last: int, step: int) -> Axis:
        low, high = 2.0 ** (first - GROWTH), 2.0 ** (last + GROWTH)
        return Axis(name, powers(first, last, step), low, high)

    patterns = tuple(each.pattern for each in task.selections)
    config = task.config._replace(make_optimizer=functools.partial(selected, patterns))
    rates = axis("learning_rate", *task.rates, 1)
    decays = axis("weight_decay", *task.decays, 2)
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


def plan_of(tasks: Sequence[SelectionTask], **numbers: Any) -> protocol.ProtocolPlan:
    """The plan for some tasks."""
    return protocol.ProtocolPlan(
        entries=tuple(entry for task in tasks for entry in entries(task)),
        contrasts=tuple(each for task in tasks for each in contrasts(task)),
        measure=protocol.LOSS,
        **numbers,
    )


# Right labels: with wrong ones the loss rewards a network that is unsure.
LAYERNORM = dataclasses.replace(training_setups.LAYERNORM, label_noise=0.0)
FULL = plan_of(
    (
        SelectionTask(
            "text",
            TEXT,
            strength.text_config(16, 1000, 20_000),
            decays=(-3, 3),
            rates=(-8, -6),
            fixed={"warmup": strength.WARMUP},
        ),
        SelectionTask(
            "digits",
            DIGITS,
            StaticConfig(LAYERNORM, arms.adamw, 60, 60, cosine),
            decays=(-2, 4),
            rates=(-9, -7),
            fixed={},
        ),
    ),
    tuning_seeds=1,
    rounds=2,
    added=4,
    screened=4,
    candidates=2,
    validation_seeds=4,
    final_seeds=15,
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
    (
        SelectionTask(
            "addition",
            TEXT[:3],
            StaticConfig(ADDITION, arms.adamw, 2, 2, functools.partial(warmup, cosine)),
            decays=(-1, 1),
            rates=(-7, -6),
            fixed={"warmup": strength.WARMUP},
        ),
    ),
    **protocol.SMOKE,
    chunk=8,
)


def study(plan: protocol.ProtocolPlan) -> Study:
    """The protocol."""
    return Study("which_parameters", plan, protocol.stages(plan), write_report)
