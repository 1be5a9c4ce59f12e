"""The tables of `end_of_training`."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from experiments import cells
from experiments.end_optimizers import DIRECTION, GRADIENT
from experiments.protocol import FINAL
from experiments.reports import markdown
from experiments.reports.end_numbers import (
    CONSTANT,
    CORRECTED,
    Followed,
    Growth,
    LR_SCALED,
    Setting,
)
from experiments.reports.results import Results
from experiments.statistics import Estimate, estimate


def kinds_table(setting: Setting) -> str:
    """The kind of each matrix."""
    return markdown.table(
        list(setting.kinds.items()),
        {"matrix": lambda row: f"`{row[0]}`", "kind": lambda row: row[1]},
        left=2,
    )


def points_text(settings: Sequence[Setting]) -> str:
    """γ and λ of each base."""
    by_base = {each.base: each for each in settings}
    return "; ".join(
        f"{name}: γ = {markdown.number(x.rate)}, λ = {markdown.number(x.decay)}"
        for name, x in by_base.items()
    )


def steady_table(found: Sequence[Followed]) -> str:
    """The measured ratios against the steady ratio and against the course."""

    def departures(each: Followed) -> str:
        pair = each.departure, each.predicted_departure
        return " / ".join("–" if x == 1 else f"{100 * x:.0f}" for x in pair)

    def other(name: str, each: Followed) -> str:
        return "; ".join(f"{x:.2f}" for x in each.others.get(name, ())) or "–"

    return markdown.table(
        found,
        {
            **_names(lambda each: each.setting),
            "deviation % [95 %]": lambda x: _percent(x.deviation),
            "head % [95 %]": lambda x: _percent(x.head),
            "‖u‖/‖θ‖": functools.partial(other, DIRECTION),
            "‖g‖/‖θ‖": functools.partial(other, GRADIENT),
            "departs at % (predicted)": departures,
            "last / predicted [95 %]": lambda x: _each(x.last),
        },
        left=3,
    )


def growth_table(found: Sequence[Followed]) -> str:
    """The growth of gradients until the end."""
    return markdown.table(
        found,
        {
            **_names(lambda each: each.setting),
            "predicted": lambda x: f"{x.predicted_growth:.2f}",
            **_growths(lambda each: each.growth),
        },
        left=3,
    )


def chosen_table(chosen: Sequence[tuple[Setting, Growth]]) -> str:
    """The tuned points, and the growth of gradients there."""
    return markdown.table(
        chosen,
        {
            "schedule": lambda row: row[0].schedule,
            "decay": lambda row: row[0].arm,
            "γ": lambda row: markdown.number(row[0].rate),
            "λ": lambda row: markdown.number(row[0].decay),
            "steps · γλ": lambda row: (
                f"{row[0].steps * row[0].rate * row[0].decay:.1f}"
            ),
            **_growths(lambda row: row[1]),
        },
        left=2,
    )


def _names(setting: Callable[[Any], Setting]) -> dict[str, Callable[[Any], str]]:
    return {
        "base": lambda row: setting(row).base,
        "schedule": lambda row: setting(row).schedule,
        "decay": lambda row: setting(row).arm,
    }


def _growths(growth: Callable[[Any], Growth]) -> dict[str, Callable[[Any], str]]:
    return {
        "growth of ‖g‖/‖θ‖ [95 %]": lambda row: _each(growth(row).ratio),
        "head": lambda row: _each(growth(row).head),
        "growth of ‖g‖ [95 %]": lambda row: _each(growth(row).norm),
    }


def _each(estimates: Sequence[Estimate]) -> str:
    return "; ".join(markdown.estimate(each) for each in estimates)


def _percent(value: Estimate) -> str:
    mean, low, high, p = value
    return markdown.estimate(Estimate(100 * mean, 100 * low, 100 * high, p), 1)


def losses_table(results: Results) -> str:
    """Test and training loss of the final runs, which no choice uses."""

    def mean(column: str, name: str) -> str:
        entry = results.outcomes[name].entry
        runs = cells.where(results.table, stage=FINAL, **entry.labels)
        return markdown.estimate(estimate(runs[column].astype(float)), 3)

    return markdown.table(
        list(results.outcomes),
        {
            "schedule and decay": lambda name: f"`{name}`",
            "test loss [95 %]": lambda name: mean("test_loss", name),
            "training loss [95 %]": lambda name: mean("train_loss", name),
        },
    )


def control(results: Results, settings: Sequence[Setting]) -> str:
    """Whether both decays are the same with a constant learning rate."""
    pairs = [
        [x for x in settings if x.schedule == CONSTANT and x.arm == arm]
        for arm in (LR_SCALED, CORRECTED)
    ]
    if not pairs[0]:
        return "This plan has no constant learning rate."
    one, two = (_losses(results, arm) for arm in (LR_SCALED, CORRECTED))
    shared = one.keys() & two.keys()
    gap = max(abs(two[key] / one[key] - 1) for key in shared)
    ratio = max(
        np.max(np.abs(second.ratios[name] / first.ratios[name] - 1))
        for first, second in zip(*pairs, strict=True)
        for name in first.ratios
    )
    return (
        "With a constant learning rate both decays are the same function. The largest "
        f"relative difference of a test loss is {gap:.2g}, over {len(shared)} pairs of "
        f"runs, and that of a measured ratio or norm is {ratio:.2g}."
    )


def _losses(results: Results, arm: str) -> dict[tuple[Any, ...], float]:
    """The test loss of each run with a constant rate, by stage, seed and point."""
    runs = cells.where(results.table, task=CONSTANT, arm=arm)
    columns = (runs[x] for x in ("stage", "seed", "learning_rate", "weight_decay"))
    return dict(zip(zip(*columns, strict=True), runs["test_loss"], strict=True))
