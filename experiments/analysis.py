"""From the table of runs to numbers: selection on validation, estimates on test."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import files
from experiments.statistics import compare, Comparison, Estimate, estimate


TUNING, FINAL = "tuning", "final"  # the two stages of the protocol
MATCHED = "same rate"  # no decay at the learning rate of the decoupled chain
NONE, L2, DECOUPLED = "none", "L2", "decoupled"  # the places
AXES = ("λ", "learning rate")  # of the tuning grid


class Run(NamedTuple):
    """One line of cells.csv. A diverged run scores chance and stays in."""

    stage: str
    arm: str
    base: str
    place: str
    learning_rate: float  # the peak
    weight_decay: float
    seed: int
    val_accuracy: float
    test_accuracy: float
    train_loss: float  # on the noisy labels, without any penalty
    max_abs_w: float  # over the kernels
    rms_w: float  # over the kernels
    diverged: bool


class Choice(NamedTuple):
    """What an arm's tuning picked."""

    learning_rate: float
    weight_decay: float
    val_accuracy: float  # mean over the tuning seeds
    edges: tuple[str, ...]  # axes of the grid on whose edge it lies


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


def read_runs(path: Path) -> list[Run]:
    kinds: dict[str, Callable[[str], Any]] = dict(Run.__annotations__)
    kinds["diverged"] = "True".__eq__
    return [
        Run(**{name: kinds[name](text) for name, text in row.items()})
        for row in files.read_csv(path)
    ]


def choose(runs: Sequence[Run]) -> dict[str, Choice]:
    """The best cell of every arm by mean validation accuracy, and by nothing else.

    Between equals the smaller strength wins, then the smaller learning rate.
    """
    choices = {}
    for arm in dict.fromkeys(run.arm for run in runs):
        cells: dict[tuple[float, float], list[float]] = {}
        for run in runs:
            if run.arm == arm and run.stage == TUNING:
                cell = (run.weight_decay, run.learning_rate)
                cells.setdefault(cell, []).append(run.val_accuracy)
        means = {cell: round(float(np.mean(cells[cell])), 9) for cell in sorted(cells)}
        best = max(means, key=means.__getitem__)
        axes = zip(AXES, best, zip(*means, strict=True), strict=True)
        edges = tuple(name for name, value, axis in axes if _at_edge(value, axis))
        choices[arm] = Choice(best[1], best[0], means[best], edges)
    return choices


def _at_edge(value: float, axis: Sequence[float]) -> bool:
    return len(set(axis)) > 1 and value in (min(axis), max(axis))


def analyse(runs: Sequence[Run]) -> Analysis:
    choices = choose(runs)
    final = {arm: _seeds(runs, FINAL, arm) for arm in choices}
    summaries = [
        _summary(choices[arm], chosen, _seeds(runs, TUNING, arm))
        for arm, chosen in final.items()
    ]
    matched = [_seeds(runs, MATCHED, each.arm) for each in summaries]
    accuracy = {
        arm: 100 * np.array([run.test_accuracy for run in chosen])
        for arm, chosen in final.items()
    }
    largest = {
        arm: np.array([run.max_abs_w for run in chosen])
        for arm, chosen in final.items()
    }
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
        matched=[_matched(chosen) for chosen in matched if chosen],
        pairs=compared[: len(pairs)],
        decays=compared[len(pairs) :],
        sizes=compare(pairs, largest),
    )


def _seeds(runs: Sequence[Run], stage: str, arm: str) -> list[Run]:
    chosen = (run for run in runs if (run.stage, run.arm) == (stage, arm))
    return sorted(chosen, key=lambda run: run.seed)


def _summary(choice: Choice, final: list[Run], tuning: list[Run]) -> Summary:
    return Summary(
        *(final[0].arm, final[0].base, final[0].place, choice),
        **_means(final),
        diverged=(
            sum(run.diverged for run in tuning),
            sum(run.diverged for run in final),
        ),
    )


def _matched(chosen: list[Run]) -> Matched:
    return Matched(chosen[0].arm, chosen[0].learning_rate, **_means(chosen))


def _means(chosen: list[Run]) -> dict[str, Any]:
    return {
        "test": estimate([100 * run.test_accuracy for run in chosen]),
        "max_abs_w": float(np.mean([run.max_abs_w for run in chosen])),
        "rms_w": float(np.mean([run.rms_w for run in chosen])),
    }
