"""Why would decoupled decay be better: because gradients differ in scale?

Question    Inputs are multiplied, each by its own factor 10^U(-s, s), so that the
            gradients of the first layer differ in scale and the labels do not change.
            Does the gap between Adam with L2 and AdamW grow with the spread s?
Command     python -m experiments why        (--smoke for a run of seconds)
            `make data` first, for Fashion-MNIST
Cost        about 5 minutes on 2 CPU cores
Expected    No gap at s = 0, growing with s: weights with large gradients hardly decay
            under L2. An earlier trial on the teacher task found gaps of 0.0, 3.0, 8.5
            and 6.5 points at s = 0, 0.5, 1 and 1.5, chosen and scored on one part.
Reference   Loshchilov and Hutter, *Decoupled Weight Decay Regularization*, ICLR 2019,
            proposition 3, https://arxiv.org/abs/1711.05101
            Zhuang et al., *Understanding AdamW through proximal methods and
            scale-freeness*, 2022, https://arxiv.org/abs/2202.00089

On three tasks: a teacher and its student, digits, Fashion-MNIST. Both arms are tuned on
one grid of learning rates and their own range of λ, 0 included; the winners and the
best run without decay go on fresh seeds, test accuracy paired by seed. The mechanism is
measured in runs on the teacher task: the shrink of each weight against its √v.
"""

import dataclasses
import functools

import numpy as np

from experiments import arms, cells, recipes, tasks
from experiments.data import digits
from experiments.engine.chunks import Bar, Piece
from experiments.engine.plan import Block, Cell, Chain, cosine, grid, Static
from experiments.engine.study import Stage, Study
from experiments.engine.workshop import Workshop
from experiments.mechanism import measure_shrink
from experiments.models.mlp import mlp
from experiments.reports.why import write_report as write_report
from experiments.selection import choose, FINAL, TUNING


CHAINS: dict[str, Chain] = {"adam_l2": arms.adam_l2, "adamw": arms.adamw}
BETA_2 = 0.999  # Adam's, as every chain here has it
NO_DECAY = "adam"  # the L2 chain with λ = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """One task, and the spreads tried on it."""

    name: str
    title: str
    recipe: tasks.Classification
    epochs: int
    spreads: tuple[float, ...]

    def static(self, chain: Chain) -> Static:
        """Two segments: the mechanism is measured between them."""
        return Static(self.recipe, chain, self.epochs, self.epochs // 2, cosine)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """All that decides the numbers; the grid is the same on all tasks."""

    questions: tuple[Question, ...]
    learning_rates: tuple[float, ...] = tuple(2.0**k for k in range(-11, -4))
    weight_decays: dict[str, tuple[float, ...]]  # by arm, without 0
    mechanism: tuple[str, float]  # the task and the spread of the mechanism
    tuning_seeds: int = 3
    final_seeds: int = 20
    chunk: int = 64  # cells side by side; another number, other last bits

    def tuning_cells(self, question: Question, arm: str) -> tuple[Cell, ...]:
        """The grid of an arm, all spreads; λ = 0 is run once, with L2."""
        none = (0.0,) if arm == "adam_l2" else ()
        return grid(
            spread=question.spreads,
            learning_rate=self.learning_rates,
            weight_decay=none + self.weight_decays[arm],
            seed=range(self.tuning_seeds),
        )


TEACHER = Question(
    name="teacher",
    title="Teacher and student",
    recipe=recipes.STUDENT,
    epochs=40,
    spreads=(0.0, 0.5, 1.0, 1.5),
)
DIGITS = Question(
    name="digits",
    title="Digits",
    recipe=tasks.Classification(
        data=digits.load,
        model=functools.partial(mlp, (64, 128, 10)),
        classes=digits.CLASSES,
        train_size=900,
        batch=50,
        label_noise=0.4,
    ),
    epochs=40,
    spreads=(0.0, 0.5, 1.0, 1.5),
)
FASHION = Question(
    name="fashion",
    title="Fashion-MNIST",
    recipe=recipes.FASHION,
    epochs=20,
    spreads=(0.0, 1.0),
)
FULL = Plan(
    questions=(TEACHER, DIGITS, FASHION),
    weight_decays={
        "adam_l2": tuple(4.0**k for k in range(-6, 0)),
        "adamw": tuple(4.0**k for k in range(-2, 4)),
    },
    mechanism=("teacher", 1.0),
)
SMOKE = Plan(
    questions=(dataclasses.replace(TEACHER, epochs=2, spreads=(0.0, 1.0)),),
    learning_rates=(2.0**-8, 2.0**-7),
    weight_decays={"adam_l2": (4.0**-4,), "adamw": (4.0,)},
    mechanism=("teacher", 1.0),
    tuning_seeds=2,
    final_seeds=4,
    chunk=16,
)


def study(plan: Plan) -> Study:
    """Tuning, fresh seeds, and the shrink of each weight."""
    grids = [plan.tuning_cells(q, arm) for q in plan.questions for arm in CHAINS]
    spreads = sum(len(question.spreads) for question in plan.questions)
    finals = spreads * (len(CHAINS) + 1) * plan.final_seeds
    return Study(
        name="why",
        plan=plan,
        stages=(
            Stage(TUNING, sum(map(len, grids)), lambda _: tuning(plan)),
            Stage(FINAL, finals, lambda table: fresh(plan, table)),
            Stage("mechanism", 0, lambda table: shrinks(plan, table)),
        ),
        report=write_report,
    )


def tuning(plan: Plan) -> list[Block]:
    """Both arms on their grids, on every task."""
    return [
        Block(
            {"stage": TUNING, "task": question.name, "arm": arm},
            question.static(chain),
            plan.tuning_cells(question, arm),
        )
        for question in plan.questions
        for arm, chain in CHAINS.items()
    ]


def candidates(table: cells.Table, task: str, spread: float, arm: str) -> cells.Table:
    """The tuning runs that an arm may choose from: λ = 0 belongs to all."""
    mine = cells.where(table, stage=TUNING, task=task, spread=spread)
    decays = mine["weight_decay"] > 0
    rows = ~decays if arm == NO_DECAY else ~decays | (mine["arm"] == arm)
    return {name: column[rows] for name, column in mine.items()}


def fresh(plan: Plan, table: cells.Table) -> list[Block]:
    """The best cell of each arm, and the best without decay, on fresh seeds."""
    blocks = []
    for question in plan.questions:
        for arm, chain in {NO_DECAY: arms.adam_l2, **CHAINS}.items():
            settings: tuple[Cell, ...] = ()
            for spread in question.spreads:
                best = choose(candidates(table, question.name, spread, arm))
                first = plan.tuning_seeds
                settings += grid(
                    spread=[spread],
                    learning_rate=[best.learning_rate],
                    weight_decay=[best.weight_decay],
                    seed=range(first, first + plan.final_seeds),
                )
            labels = {"stage": FINAL, "task": question.name, "arm": arm}
            blocks.append(Block(labels, question.static(chain), settings))
    return blocks


def shrinks(plan: Plan, table: cells.Table) -> list[Piece]:
    """The shrink of each weight, each arm at its best λ above 0, first fresh seed."""
    task, spread = plan.mechanism
    (question,) = (each for each in plan.questions if each.name == task)

    def piece(arm: str, chain: Chain) -> Piece:
        def make(shop: Workshop, bar: Bar) -> dict[str, np.ndarray]:
            bar.say(f"measuring {arm}")
            mine = cells.where(table, stage=TUNING, task=task, spread=spread, arm=arm)
            some = mine["weight_decay"] > 0
            best = choose({name: column[some] for name, column in mine.items()})
            cell = {
                "spread": spread,
                "learning_rate": best.learning_rate,
                "weight_decay": best.weight_decay,
                "seed": plan.tuning_seeds,
            }
            found = measure_shrink(shop, question.static(chain), cell, plan.chunk)
            # Adam divides by √v̂; t is the middle of the epoch that is measured.
            steps = question.recipe.train_size // question.recipe.batch
            t = (question.epochs // 2 + 0.5) * steps
            found["root_v"] = found["root_v"] / np.float32((1 - BETA_2**t) ** 0.5)
            bar.advance(1)
            return found | {name: np.array(value) for name, value in cell.items()}

        return Piece(f"shrink-{arm}", 1, make, {})

    return [piece(arm, chain) for arm, chain in CHAINS.items()]
