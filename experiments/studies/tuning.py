"""What does tuning see: are learning rate and decay two separate knobs?

Question    On a grid of learning rate × λ: where is the best cell for L2, for decay
            times the learning rate and for independent decay, under SGD, RMSprop and
            Adam? Does the best λ move with the learning rate (ridge slope), what does
            tuning one after the other cost (regret), and how much worse is a wrong
            learning rate (sensitivity)?
Command     python -m experiments tuning        (--smoke for a run of seconds)
            `make data` first, for Fashion-MNIST
Cost        about 12 minutes on 2 CPU cores
Expected    Often promised: decoupled decay separates the two. An earlier trial on one
            task found a slope near 0 for decay times the learning rate, +1 for
            independent decay and 0 for SGD with L2: so nothing is promised here.
Reference   Loshchilov and Hutter, *Decoupled Weight Decay Regularization*, ICLR 2019,
            figure 2, https://arxiv.org/abs/1711.05101
            Wortsman et al., *Small-scale proxies for large-scale Transformer training
            instabilities*, 2023, https://arxiv.org/abs/2309.14322 (sensitivity)

Nine arms on each of three tasks. Stage 1: 11 × 11 powers of two, 3 seeds, every arm its
own range of λ of the same size. Stage 2: the best cell of each arm by validation on 20
fresh seeds, test accuracy paired by seed.
"""

import dataclasses
import functools

from experiments import arms, cells, recipes, tasks
from experiments.arms import Arm
from experiments.data import digits
from experiments.engine.plan import Block, Cell, cosine, grid, Static
from experiments.engine.study import Stage, Study
from experiments.models.mlp import mlp
from experiments.reports.tuning import write_report as write_report
from experiments.selection import choose, FINAL, TUNING


L2, COUPLED, INDEPENDENT = "L2", "lr-coupled", "independent"
ARMS = (
    Arm("sgd_l2", "SGD", L2, arms.sgd_l2),
    Arm("sgdw", "SGD", COUPLED, arms.sgdw),
    Arm("sgd_independent", "SGD", INDEPENDENT, arms.sgd_independent),
    Arm("rmsprop_l2", "RMSprop", L2, arms.rmsprop_l2),
    Arm("rmspropw", "RMSprop", COUPLED, arms.rmspropw),
    Arm("rmsprop_independent", "RMSprop", INDEPENDENT, arms.rmsprop_independent),
    Arm("adam_l2", "Adam", L2, arms.adam_l2),
    Arm("adamw", "Adam", COUPLED, arms.adamw),
    Arm("adam_independent", "Adam", INDEPENDENT, arms.adam_independent),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """One task: what is trained, how long, and where each arm's grid begins."""

    name: str
    title: str
    recipe: tasks.Classification
    epochs: int
    numbers: dict[str, float]  # of every cell, besides the grid's and the seed
    # The smallest exponents of two, of the learning rate by base and of λ by arm.
    first_rate: dict[str, int]
    first_decay: dict[str, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """All that decides the numbers."""

    questions: tuple[Question, ...]
    bases: tuple[str, ...] = ("SGD", "RMSprop", "Adam")
    points: int = 11  # powers of two along each axis
    tuning_seeds: int = 3
    final_seeds: int = 20
    chunk: int = 64  # cells side by side; another number, other last bits

    def arms(self) -> list[Arm]:
        """Those of the bases."""
        return [arm for arm in ARMS if arm.base in self.bases]

    def tuning_cells(self, question: Question, arm: Arm) -> tuple[Cell, ...]:
        """The grid of an arm."""
        return grid(
            learning_rate=powers(question.first_rate[arm.base], self.points),
            weight_decay=powers(question.first_decay[arm.name], self.points),
            seed=range(self.tuning_seeds),
            **{name: (value,) for name, value in question.numbers.items()},
        )


def powers(first: int, count: int) -> tuple[float, ...]:
    """Powers of two from 2^first on."""
    return tuple(2.0**exponent for exponent in range(first, first + count))


TEACHER = Question(
    name="teacher",
    title="Teacher and student, inputs of unlike scales.",
    recipe=recipes.STUDENT,
    epochs=40,
    numbers={"spread": 0.5},
    first_rate={"SGD": -8, "RMSprop": -11, "Adam": -11},
    first_decay={
        **{"sgd_l2": -11, "sgdw": -6, "sgd_independent": -12},
        **{"rmsprop_l2": -11, "rmspropw": -5, "rmsprop_independent": -11},
        **{"adam_l2": -11, "adamw": -5, "adam_independent": -11},
    },
)
NORMALISED = Question(
    name="normalised",
    title="Digits, LayerNorm, a long horizon.",
    recipe=tasks.Classification(
        data=digits.load,
        model=functools.partial(mlp, (64, 64, 64, 10), True),
        classes=digits.CLASSES,
        train_size=900,
        batch=50,
        label_noise=0.4,
    ),
    epochs=60,
    numbers={},
    first_rate={"SGD": -12, "RMSprop": -16, "Adam": -16},
    first_decay={
        **{"sgd_l2": -8, "sgdw": -4, "sgd_independent": -14},
        **{"rmsprop_l2": -8, "rmspropw": -2, "rmsprop_independent": -12},
        **{"adam_l2": -8, "adamw": -2, "adam_independent": -12},
    },
)
FASHION = Question(
    name="fashion",
    title="Fashion-MNIST.",
    recipe=recipes.FASHION,
    epochs=20,
    numbers={},
    first_rate={"SGD": -9, "RMSprop": -13, "Adam": -13},
    first_decay={
        **{"sgd_l2": -16, "sgdw": -14, "sgd_independent": -19},
        **{"rmsprop_l2": -15, "rmspropw": -6, "rmsprop_independent": -14},
        **{"adam_l2": -13, "adamw": -6, "adam_independent": -14},
    },
)
FULL = Plan(questions=(TEACHER, NORMALISED, FASHION))
SMOKE = Plan(
    questions=(
        dataclasses.replace(
            TEACHER,
            epochs=1,
            first_rate={"Adam": -9},
            first_decay={"adam_l2": -9, "adamw": -1, "adam_independent": -9},
        ),
    ),
    bases=("Adam",),
    points=3,
    tuning_seeds=2,
    final_seeds=4,
    chunk=18,
)


def study(plan: Plan) -> Study:
    """Every arm on its grid, then the best cells on fresh seeds."""
    arms_in_all = len(plan.arms()) * len(plan.questions)
    return Study(
        name="tuning",
        plan=plan,
        stages=(
            Stage(
                TUNING,
                arms_in_all * plan.points**2 * plan.tuning_seeds,
                lambda _: tuning(plan),
            ),
            Stage(FINAL, arms_in_all * plan.final_seeds, lambda t: fresh(plan, t)),
        ),
        report=write_report,
    )


def tuning(plan: Plan) -> list[Block]:
    """Every arm on its grid."""
    return [
        _block(question, TUNING, arm, plan.tuning_cells(question, arm))
        for question in plan.questions
        for arm in plan.arms()
    ]


def fresh(plan: Plan, table: cells.Table) -> list[Block]:
    """Each winner on seeds that no choice has seen."""
    blocks = []
    for question in plan.questions:
        for arm in plan.arms():
            best = choose(cells.where(table, task=question.name, arm=arm.name))
            first = plan.tuning_seeds
            settings = grid(
                learning_rate=[best.learning_rate],
                weight_decay=[best.weight_decay],
                seed=range(first, first + plan.final_seeds),
                **{name: (value,) for name, value in question.numbers.items()},
            )
            blocks.append(_block(question, FINAL, arm, settings))
    return blocks


def _block(
    question: Question, stage: str, arm: Arm, settings: tuple[Cell, ...]
) -> Block:
    labels = {"stage": stage, "task": question.name, "arm": arm.name}
    labels |= {"base": arm.base, "place": arm.place}
    static = Static(
        question.recipe, arm.chain, question.epochs, question.epochs, cosine
    )
    return Block(labels, static, settings)
