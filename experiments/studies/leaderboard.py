"""Is any published method of weight decay better than AdamW at equal tuning?

Question    Each method is one entry: a file of at most 30 lines in
            `experiments/leaderboard/entries`. All entries get the same tuning budget
            and the same seeds on four boards: text by loss, LayerNorm digits and a
            teacher with unlike scales by accuracy, grokking by steps. Which differences
            to AdamW are clear? What does a wrong learning rate or strength cost?
Command     python -m experiments leaderboard        (--smoke for a run of seconds)
            python -m experiments leaderboard --entry my_decay.py
            `make data` first, for the text
Cost        60 to 90 minutes on 2 CPU cores (129 minutes of CPU time), ten minutes
            for an entry
Expected    From a pilot with five methods on digits: no decay is 3.5 points worse than
            AdamW; corrected decay and a fixed norm differ from it by less than 0.3.
            Cautious decay was 1.2 points worse, at the edge of its grid. On grokking,
            from a pilot at one learning rate: without decay no run arrives, and L2
            arrives sooner than AdamW.
Falsified   "Ties on text, digits and teacher", if a method is clearly better than AdamW
            on one of them, bracketed and not lucky, and again on the seeds 1000 to
            1029. "L2 is sooner on grokking", if the same test does not show it.
Reference   Schmidt, Schneider and Hennig, *Descending through a Crowded Valley*, ICML
            2021, https://arxiv.org/abs/2007.01547
            Dahl et al., *Benchmarking Neural Network Training Algorithms* (AlgoPerf),
            2023, https://arxiv.org/abs/2306.07179

The rules are in `experiments/leaderboard/RULES.md`. A new entry trains only its own
runs; its report compares them with the stored runs of the board.
"""

from types import ModuleType

from experiments import joint, protocol, replication
from experiments.engine.study import hash_of, Study
from experiments.errors import UserError
from experiments.leaderboard import boards, loading
from experiments.leaderboard.boards import LeaderboardPlan
from experiments.reports.leaderboard import (
    find_board as find_board,
    write_report as write_report,
)
from experiments.reports.leaderboard_numbers import REPLICATED


NAMES = tuple(board.name for board in boards.BOARDS)
ENTRIES = loading.stored_entries(NAMES)
SMOKE_ENTRIES = ("none", "adamw")

FULL = boards.plan_of(boards.BOARDS, ENTRIES)
# One board with a score in points, and one with the number of steps.
SMOKE_BOARDS = tuple(
    boards.shortened(board)
    for board in boards.BOARDS
    if board.name in ("digits", "grokking")
)
SMOKE = boards.plan_of(
    SMOKE_BOARDS,
    [entry for entry in ENTRIES if entry.name in SMOKE_ENTRIES],
    protocol.SMOKE,
)


def study(plan: LeaderboardPlan) -> Study:
    """The protocol on every board; a single entry also replicates its choices."""
    stages = joint.stages(plan)
    if plan.replicated is not None:
        stages += (replication.stage(plan, range(*plan.replicated)),)
    return Study("leaderboard", plan, stages, write_report)


def with_entry(module: ModuleType, smoke: bool) -> LeaderboardPlan:
    """Return the plan that runs only the entry of a module.

    Args:
        module: the module of the entry's file.
        smoke: whether the entry is compared with the smoke plan.

    Raises:
        UserError: the file breaks a rule, or the board has an entry of that name.
    """
    entry = loading.entry_of(module, NAMES)
    if entry.name in [each.name for each in ENTRIES]:
        raise UserError(
            f"{entry.name}.py: the board has an entry {entry.name!r}. Rename the file."
        )
    loading.try_chain(module, [(x.setup, x.fixed) for x in boards.BOARDS])
    if smoke:
        against = hash_of(study(SMOKE))
        return boards.plan_of(SMOKE_BOARDS, [entry], protocol.SMOKE, against=against)
    return boards.plan_of(
        boards.BOARDS, [entry], against=hash_of(study(FULL)), replicated=REPLICATED
    )
