"""The boards: what is trained, how points are chosen, which entries are compared."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments import training_setups
from experiments.addition import Addition
from experiments.data import corpus, modular
from experiments.engine.config import (
    constant,
    cosine,
    StaticConfig,
    TrainingSetup,
    warmup,
)
from experiments.joint import JointPlan
from experiments.leaderboard.loading import BoardEntry
from experiments.leaderboard.run import make_optimizer
from experiments.models.pair_mlp import pair_mlp
from experiments.models.transformer import transformer
from experiments.protocol import (
    ACCURACY,
    Contrast,
    difference,
    Entry,
    LOSS,
    Measure,
    ProtocolPlan,
)
from experiments.search import octaves
from experiments.tasks import Language


BASELINE = "adamw"
RATE, STRENGTH = "learning_rate", "weight_decay"
ROUNDS = 4  # of bracketing; the stages of all boards run together
GROWTH = 6  # octaves that a grid may grow by, at either end
SEGMENT, LENGTH, SYMBOLS = 50, 32, 84
P, LOOK_EVERY, ADDITION_STEPS = 31, 10, 700
# As in the study `grokking`; a test compares them.
STEPS = Measure("penalised_steps", "steps", scale=-1.0, unit="steps", perfect=0.0)


class Board(NamedTuple):
    """A task with its measure and its numbers of runs.

    On two cores a run takes 1.2 to 2.4 s on text, about 0.2 s on grokking, 0.03 s on
    digits and 0.02 s on teacher. With these `sizes` the board takes about an hour, two
    thirds of it on text.
    """

    name: str
    measure: Measure
    setup: TrainingSetup
    schedule: Any
    epochs: int
    rates: tuple[int, int]  # exponents of two: first and last learning rate
    reach: int  # octaves from the middle of the grid of the strength to its ends
    fixed: Mapping[str, float]  # hyper-parameters of every run
    sizes: Mapping[str, int]  # fields of ProtocolPlan


TEXT = Board(
    name="text",
    measure=LOSS,
    setup=Language(
        data=functools.partial(corpus.shakespeare, train_size=20_000),
        model=functools.partial(transformer, SYMBOLS, LENGTH, 64, 4, 1),
        symbols=SYMBOLS,
        length=LENGTH,
        batch=16,
        steps_per_epoch=SEGMENT,
        evaluated=256,
    ),
    schedule=functools.partial(warmup, cosine),
    epochs=20,
    # Eight points and four rounds. In simulated valleys this brackets two choices of
    # three; 12 points and two rounds bracket two of five.
    rates=(-7, -6),
    reach=3,
    # With b2 = 0.999 a run would average the squares over its whole length.
    fixed={"b2": 0.99, "warmup": 0.1},
    # With half the steps, decay gains only 0.02 nats.
    sizes={
        "tuning_seeds": 1,
        "added": 4,
        "screened": 4,
        "candidates": 2,
        "validation_seeds": 4,
        "final_seeds": 16,
    },
)
DIGITS = Board(
    name="digits",
    measure=ACCURACY,
    setup=training_setups.LAYERNORM,
    schedule=cosine,
    epochs=60,
    rates=(-15, -11),
    reach=4,
    fixed={"b2": 0.999},
    sizes={
        "tuning_seeds": 4,
        "added": 4,
        "screened": 8,
        "candidates": 5,
        "validation_seeds": 20,
        "final_seeds": 100,  # 0.3 points take 50 to 115 seeds
    },
)
TEACHER = Board(
    name="teacher",
    measure=ACCURACY,
    setup=training_setups.STUDENT,
    schedule=cosine,
    epochs=40,
    rates=(-10, -6),
    reach=4,
    fixed={"b2": 0.999, "spread": 0.5},
    sizes={
        "tuning_seeds": 2,
        "added": 4,
        "screened": 8,
        "candidates": 4,
        "validation_seeds": 10,
        "final_seeds": 20,
    },
)
GROKKING = Board(
    name="grokking",
    measure=STEPS,
    setup=Addition(
        data=functools.partial(modular.load, P),
        model=functools.partial(pair_mlp, P + 1, P, 32, 128),
        train_size=577,  # 60 % of the pairs
        classes=P,
        steps=ADDITION_STEPS,
        look_every=LOOK_EVERY,
    ),
    schedule=functools.partial(warmup, constant),
    epochs=ADDITION_STEPS // LOOK_EVERY,
    rates=(-5, -4),
    reach=3,
    fixed={"b2": 0.98, "warmup": 10 / ADDITION_STEPS},
    sizes={
        "tuning_seeds": 1,
        "added": 4,
        "screened": 4,
        "candidates": 3,
        "validation_seeds": 4,
        "final_seeds": 16,
    },
)
BOARDS = (TEXT, DIGITS, TEACHER, GROKKING)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeaderboardPlan(JointPlan):
    """The protocol of each board."""

    # Hash of the plan that a single entry is compared with; empty: this is a board.
    against: str = ""
    # The first seed and the end of the seeds on which a single entry runs again.
    replicated: tuple[int, int] | None = None
    # The small stages of the boards have multiples of 4 runs; a chunk is padded.
    chunk: int = 4


def shortened(board: Board) -> Board:
    """The board with runs of one epoch and two learning rates, for a smoke run."""
    first, setup = board.rates[0], board.setup
    if isinstance(setup, Addition):
        setup = dataclasses.replace(setup, steps=setup.look_every)
    return board._replace(epochs=1, rates=(first, first + 1), setup=setup)


def name_of(board: str, entry: str) -> str:
    """The name of an entry on a board."""
    return f"{board} {entry}"


def protocol_entry(board: Board, entry: BoardEntry) -> Entry:
    """An entry on a board."""
    rates = octaves(RATE, *board.rates, growth=GROWTH)
    axes, fixed = (rates,), dict(board.fixed)
    if entry.strength is None:
        fixed[STRENGTH] = 0.0
    else:
        middle = entry.strength[board.name]
        low, high = middle - board.reach, middle + board.reach
        axes = (octaves(STRENGTH, low, high, 2, growth=GROWTH), rates)
    return Entry(
        name=name_of(board.name, entry.name),
        labels={"task": board.name, "arm": entry.name},
        config=StaticConfig(
            board.setup,
            functools.partial(make_optimizer, entry.chain),
            board.epochs,
            board.epochs,
            board.schedule,
        ),
        axes=axes,
        fixed=fixed,
    )


def against_baseline(board: str, entry: str) -> Contrast:
    """The contrast "entry minus AdamW" on a board."""
    return difference(
        name_of(board, entry), name_of(board, BASELINE), entry, BASELINE, board
    )


def plan_of(
    boards: Sequence[Board],
    entries: Sequence[BoardEntry],
    sizes: Mapping[str, int] | None = None,
    **numbers: Any,
) -> LeaderboardPlan:
    """The plan for some boards and entries; `sizes` replace those of the boards."""
    plans = {}
    for board in boards:
        plans[board.name] = ProtocolPlan(
            entries=tuple(protocol_entry(board, entry) for entry in entries),
            contrasts=tuple(
                against_baseline(board.name, entry.name)
                for entry in entries
                if entry.name != BASELINE
            ),
            measure=board.measure,
            **{"rounds": ROUNDS, **(board.sizes if sizes is None else sizes)},
        )
    return LeaderboardPlan(plans=plans, **numbers)
