"""Are learning rate and decay two separate knobs?

Question    For each learning rate and λ on a grid, and for L2, lr-scaled and
            independent decay under SGD, RMSprop and Adam: does the best λ move with the
            learning rate (ridge slope)? What does it cost to tune one after the other
            (regret), or to use a wrong learning rate (sensitivity)?
Command     python -m experiments tuning        (--smoke for a run of seconds)
            `make data` first, for Fashion-MNIST
Cost        about 9 minutes on 2 CPU cores
Expected    It is often said that decoupled decay separates the two. A pilot on one task
            found slopes near 0 for lr-scaled decay, +1 for independent decay and 0 for
            SGD with L2, so no result is predicted here.
Reference   Loshchilov and Hutter, *Decoupled Weight Decay Regularization*, ICLR 2019,
            figure 2, https://arxiv.org/abs/1711.05101
            Wortsman et al., *Small-scale proxies for large-scale Transformer training
            instabilities*, 2023, https://arxiv.org/abs/2309.14322 (sensitivity)

Nine arms on each of three tasks go through the protocol (`experiments/protocol.py`),
with a coarse grid of 11 × 11 powers of two. One more stage runs the points of the ridge
that tuning found on the seeds of validation; its slope is fitted to these runs.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from experiments import arms, protocol, separability, training_setups
from experiments.arms import Arm
from experiments.cells import Table
from experiments.engine.config import cosine, StaticConfig, SweepGroup
from experiments.engine.study import Stage, Study
from experiments.protocol import Contrast, difference, Entry
from experiments.reports.tuning import RIDGE, write_report as write_report
from experiments.search import Axis, powers
from experiments.tasks import Classification


L2, LR_SCALED, INDEPENDENT = "L2", "lr-scaled", "independent"
ARMS = (
    Arm("sgd_l2", "SGD", L2, arms.sgd_l2),
    Arm("sgdw", "SGD", LR_SCALED, arms.sgdw),
    Arm("sgd_independent", "SGD", INDEPENDENT, arms.sgd_independent),
    Arm("rmsprop_l2", "RMSprop", L2, arms.rmsprop_l2),
    Arm("rmspropw", "RMSprop", LR_SCALED, arms.rmspropw),
    Arm("rmsprop_independent", "RMSprop", INDEPENDENT, arms.rmsprop_independent),
    Arm("adam_l2", "Adam", L2, arms.adam_l2),
    Arm("adamw", "Adam", LR_SCALED, arms.adamw),
    Arm("adam_independent", "Adam", INDEPENDENT, arms.adam_independent),
)
POINTS = 11  # powers of two on each axis of the coarse grid
GROWTH = 5  # how many powers of two the grid may grow by, at either end


class TuningTask(NamedTuple):
    """A training setup, its number of epochs, and where the grid of each arm begins."""

    name: str
    setup: Classification
    epochs: int
    fixed: dict[str, float]  # hyper-parameters of every run
    # The smallest exponents of two, of the learning rate by base and of λ by arm.
    first_rate: dict[str, int]
    first_decay: dict[str, int]


def axis(name: str, first: int, points: int = POINTS) -> Axis:
    """Powers of two from 2^first on."""
    last = first + points - 1
    low, high = 2.0 ** (first - GROWTH), 2.0 ** (last + GROWTH)
    return Axis(name, powers(first, last), low, high)


def entries(task: TuningTask, chosen: Sequence[Arm], points: int) -> tuple[Entry, ...]:
    """The arms on a task."""
    return tuple(
        Entry(
            name=f"{task.name} {arm.name}",
            labels={
                "task": task.name,
                "arm": arm.name,
                "base": arm.base,
                "place": arm.place,
            },
            config=StaticConfig(
                task.setup, arm.make_optimizer, task.epochs, task.epochs, cosine
            ),
            axes=(
                axis("weight_decay", task.first_decay[arm.name], points),
                axis("learning_rate", task.first_rate[arm.base], points),
            ),
            fixed=task.fixed,
        )
        for arm in chosen
    )


def contrasts(task: TuningTask, chosen: Sequence[Arm]) -> tuple[Contrast, ...]:
    """For each base, its three places of decay against one another."""
    found = []
    for base in dict.fromkeys(arm.base for arm in chosen):
        named = {arm.place: arm.name for arm in chosen if arm.base == base}
        for first, second in (
            (LR_SCALED, L2),
            (INDEPENDENT, L2),
            (INDEPENDENT, LR_SCALED),
        ):
            one, other = named[first], named[second]
            contrast = difference(
                f"{task.name} {one}", f"{task.name} {other}", one, other, task.name
            )
            found.append(contrast)
    return tuple(found)


TEACHER = TuningTask(
    name="teacher",
    setup=training_setups.STUDENT,
    epochs=40,
    fixed={"spread": 0.5},
    first_rate={"SGD": -8, "RMSprop": -11, "Adam": -11},
    first_decay={
        "sgd_l2": -11,
        "sgdw": -6,
        "sgd_independent": -12,
        "rmsprop_l2": -11,
        "rmspropw": -5,
        "rmsprop_independent": -11,
        "adam_l2": -11,
        "adamw": -5,
        "adam_independent": -11,
    },
)
LAYERNORM = TuningTask(
    name="layernorm",
    setup=training_setups.LAYERNORM,
    epochs=60,
    fixed={},
    first_rate={"SGD": -12, "RMSprop": -16, "Adam": -16},
    first_decay={
        "sgd_l2": -8,
        "sgdw": -4,
        "sgd_independent": -14,
        "rmsprop_l2": -8,
        "rmspropw": -2,
        "rmsprop_independent": -12,
        "adam_l2": -8,
        "adamw": -2,
        "adam_independent": -12,
    },
)
FASHION = TuningTask(
    name="fashion",
    setup=training_setups.FASHION,
    epochs=20,
    fixed={},
    first_rate={"SGD": -9, "RMSprop": -13, "Adam": -13},
    first_decay={
        "sgd_l2": -16,
        "sgdw": -14,
        "sgd_independent": -19,
        "rmsprop_l2": -15,
        "rmspropw": -8,
        "rmsprop_independent": -14,
        "adam_l2": -13,
        "adamw": -6,
        "adam_independent": -14,
    },
)


def plan_of(
    tasks: Sequence[TuningTask], chosen: Sequence[Arm], points: int, **numbers: Any
) -> protocol.ProtocolPlan:
    """The plan for some tasks and arms."""
    return protocol.ProtocolPlan(
        entries=tuple(e for task in tasks for e in entries(task, chosen, points)),
        contrasts=tuple(c for task in tasks for c in contrasts(task, chosen)),
        **numbers,
    )


FULL = plan_of((TEACHER, LAYERNORM, FASHION), ARMS, POINTS, rounds=2)
SMOKE = plan_of(
    (
        TEACHER._replace(
            epochs=1,
            first_rate={"Adam": -9},
            first_decay={"adam_l2": -9, "adamw": -1, "adam_independent": -9},
        ),
    ),
    [arm for arm in ARMS if arm.base == "Adam"],
    points=3,
    **protocol.SMOKE,
)


def study(plan: protocol.ProtocolPlan) -> Study:
    """The protocol, and the points of each ridge on the seeds of validation."""
    points = separability.ROWS * separability.POINTS  # of a ridge, at most
    runs = len(plan.entries) * points * plan.validation_seeds
    return Study(
        name="tuning",
        plan=plan,
        stages=(
            *protocol.stages(plan),
            Stage(RIDGE, runs, lambda table: ridges(plan, table)),
        ),
        report=write_report,
    )


def ridges(plan: protocol.ProtocolPlan, table: Table) -> list[SweepGroup]:
    """The points that the slope of each entry needs, if tuning found a ridge."""
    seeds = plan.seeds(protocol.VALIDATION)
    found = []
    for entry in plan.entries:
        shares = protocol.values(entry, table, protocol.TUNING, plan.measure.score)
        errors = {point: 100 - 100 * each for point, each in shares.items()}
        if points := separability.points_for_slope(errors):
            found.append(protocol.sweep_group(entry, RIDGE, points, seeds))
    return found
