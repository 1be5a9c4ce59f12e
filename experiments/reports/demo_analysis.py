"""From the table of runs to numbers: selection on validation, estimates on test."""

from typing import Any, NamedTuple

import numpy as np

from experiments import cells
from experiments.cells import Table
from experiments.selection import Choice, choose, FINAL, TUNING
from experiments.statistics import compare, Comparison, Estimate, estimate


MATCHED = "same rate"  # no decay at the learning rate of the decoupled chain
NONE, L2, DECOUPLED = "none", "L2", "decoupled"  # the places
SHRINK_ARMS = ("rmsprop_l2", "rmspropw")  # whose mechanism is measured


class Summary(NamedTuple):
    """One arm's line of the report; accuracies in percent."""

    arm: str
    base: str
    place: str
    choice: Choice
    test: Estimate
    max_abs_w: float  # mean over the final seeds
    rms_w: float
    diverged: tuple[int, int]  # in tuning, in the final runs


class Matched(NamedTuple):
    """A base without decay, trained at the learning rate of its decoupled chain."""

    arm: str
    learning_rate: float
    test: Estimate
    max_abs_w: float  # mean over the final seeds
    rms_w: float


class Analysis(NamedTuple):
    arms: list[Summary]
    matched: list[Matched]  # one per base
    pairs: list[Comparison]  # decoupled minus L2, one per base
    decays: list[Comparison]  # each chain minus its base without decay
    sizes: list[Comparison]  # the pairs again, of the largest weight


def choices(table: Table) -> dict[str, Choice]:
    """What the tuning of each arm picked."""
    tuning = cells.where(table, stage=TUNING)
    arms = cells.unique(tuning, "arm")
    return {arm: choose(cells.where(tuning, arm=arm)) for arm in arms}


def analyse(table: Table) -> Analysis:
    """All numbers of the report."""
    chosen = choices(table)
    final = {arm: of_stage(table, FINAL, arm) for arm in chosen}
    summaries = [_summary(choice, final[arm], table) for arm, choice in chosen.items()]
    matched = [of_stage(table, MATCHED, arm) for arm in chosen]
    accuracy = {arm: 100 * runs["test_accuracy"] for arm, runs in final.items()}
    largest = {arm: runs["max_abs_w"] for arm, runs in final.items()}
    arm_at = {(each.base, each.place): each.arm for each in summaries}
    bases = list(dict.fromkeys(each.base for each in summaries))
    pairs = [(arm_at[base, DECOUPLED], arm_at[base, L2]) for base in bases]
    decays = [
        (arm_at[base, place], arm_at[base, NONE])
        for base in bases
        for place in (L2, DECOUPLED)
    ]
    compared = compare(pairs + decays, accuracy)
    return Analysis(
        summaries,
        matched=[_matched(runs) for runs in matched if len(runs["seed"])],
        pairs=compared[: len(pairs)],
        decays=compared[len(pairs) :],
        sizes=compare(pairs, largest),
    )


def of_stage(table: Table, stage: str, arm: str) -> Table:
    """The runs of an arm in a stage, by seed."""
    runs = cells.where(table, stage=stage, arm=arm)
    order = np.argsort(runs["seed"], kind="stable")
    return {name: column[order] for name, column in runs.items()}


def _summary(choice: Choice, final: Table, table: Table) -> Summary:
    arm, base, place = (final[name][0] for name in ("arm", "base", "place"))
    tuning = cells.where(table, stage=TUNING, arm=arm)
    diverged = int(tuning["diverged"].sum()), int(final["diverged"].sum())
    return Summary(arm, base, place, choice, **_means(final), diverged=diverged)


def _matched(runs: Table) -> Matched:
    return Matched(runs["arm"][0], float(runs["learning_rate"][0]), **_means(runs))


def _means(runs: Table) -> dict[str, Any]:
    return {
        "test": estimate(100 * runs["test_accuracy"]),
        "max_abs_w": float(np.mean(runs["max_abs_w"])),
        "rms_w": float(np.mean(runs["rms_w"])),
    }
