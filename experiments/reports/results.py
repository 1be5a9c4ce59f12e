"""Results of a study with the protocol: choices and contrasts, as tables and text."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import cells, outcomes, protocol
from experiments.engine.store import read_manifest
from experiments.errors import UserError
from experiments.outcomes import Comparison, Outcome
from experiments.protocol import Entry, Measure
from experiments.reports.markdown import bounds, interval, listed, power, table
from experiments.search import Point
from experiments.statistics import Estimate, MIN_VALUES


LUCKY_MARK = "†"
AXES = {"learning_rate": "learning rate", "weight_decay": "λ"}  # others: their name


class Results(NamedTuple):
    """The files of a run, read and reduced."""

    folder: Path
    manifest: dict[str, Any]
    plan: protocol.ProtocolPlan
    table: cells.Table
    outcomes: dict[str, Outcome]  # by entry
    compared: dict[str, Comparison]  # by the contrast's name


def read_results(folder: Path) -> Results:
    """From cells.csv and manifest.json."""
    manifest = read_manifest(folder)
    runs = read_table(folder, manifest)
    plan = outcomes.plan_from_manifest(manifest["plan"])
    found = outcomes.outcomes(plan, runs)
    compared = {
        c.contrast.name: c for c in outcomes.compare_contrasts(plan, runs, found)
    }
    return Results(folder, manifest, plan, runs, found, compared)


def read_table(folder: Path, manifest: dict[str, Any]) -> cells.Table:
    """cells.csv, with a row for each run.

    Raises:
        UserError: rows are missing, or there are too many.
    """
    path = folder / "cells.csv"
    table = cells.read_csv(path)
    rows = len(next(iter(table.values()), ()))
    if rows != manifest["runs"]:
        raise UserError(
            f"{path} has {rows} rows, but manifest.json says {manifest['runs']} runs: "
            "delete it and report.md, and run the study again with --resume."
        )
    return table


def errors(results: Results, entry: Entry, stage: str) -> dict[Point, np.ndarray]:
    """Validation errors in the unit of `error_unit`, by point and seed."""
    measure = results.plan.measure
    found = protocol.values(entry, results.table, stage, measure.score)
    return {p: measure.perfect - measure.scale * x for p, x in found.items()}


def error_unit(measure: Measure) -> str:
    """An error is a percentage where differences of scores are points."""
    return "%" if measure.unit == "points" else measure.unit


def test_error(outcome: Outcome, measure: Measure) -> Estimate:
    """What a perfect score exceeds; an interval ends where no error can lie."""
    mean, low, high, p = outcome.test
    if np.isfinite(low):
        high = min(high, measure.perfect)
        if measure.count is not None:  # a share is not below 0
            low = max(low, 0.0)
    perfect = measure.perfect
    return Estimate(perfect - mean, perfect - high, perfect - low, p)


def axes_of(entries: Iterable[Entry]) -> list[str]:
    """What these entries tune: learning rate and λ first."""
    found = [axis.name for entry in entries for axis in entry.axes]
    first = [name for name in AXES if name in found]
    return list(dict.fromkeys([*first, *found]))


def choices(results: Results, title: str, names: list[str]) -> str:
    """A line for each of these entries: what was chosen, how, and its errors."""
    measure = results.plan.measure
    unit = error_unit(measure)
    found = [results.outcomes[name] for name in names]
    axes = axes_of(outcome.entry for outcome in found)
    header = [
        title,
        *(AXES.get(name, name) for name in axes),
        "not bracketed",
        "points (runs)",
        f"tuning {unit}",
        f"validation {unit}",
        f"fresh seeds {unit}",
        f"test error {unit} [95 %]",
        "diverged",
    ]
    lines = [_choice(outcome, axes, measure) for outcome in found]
    return table(header, 2 + len(axes), lines)


def _choice(outcome: Outcome, axes: list[str], measure: Measure) -> list[str]:
    errors = [f"{measure.perfect - score:.2f}" for score in outcome.scores]
    tuning, validation, fresh = errors
    chosen = {name: power(value) for name, value in outcome.choice.items()}
    return [
        f"`{outcome.entry.name}`",
        *(chosen.get(name, "–") for name in axes),
        _sides(outcome) or "–",
        f"{outcome.tried} ({outcome.runs})",
        tuning,
        validation,
        fresh + (f" {LUCKY_MARK}" if outcome.lucky else ""),
        interval(test_error(outcome, measure)),
        str(outcome.diverged),
    ]


CHOICES = f"""\
The columns before "not bracketed" are the chosen point. Then errors of the validation
part at this point: in tuning, in validation and on the fresh seeds of the final runs.
{LUCKY_MARK} marks a choice that is more than 2 standard errors worse on fresh seeds: it
was lucky.
Diverged runs are those of all stages; they count as a random guess."""


def _sides(outcome: Outcome) -> str:
    names = {"weight_decay": "λ", "learning_rate": "rate"}
    sides = [side.split() for side in outcome.open]
    return listed([f"{names.get(axis, axis)} {side}" for axis, side in sides])


def contrasts(results: Results, names: list[str] | None = None) -> str:
    """A line for each contrast, with both of its intervals."""
    unit = results.plan.measure.unit
    header = (
        "difference",
        f"{unit} [95 %]",
        "[95 %] with the choice",
        "p (Holm)",
        "in words",
    )
    lines = [
        [
            each.contrast.name,
            interval(each.difference, sign=True),
            _with_choice(each) or "–",
            f"{each.p_holm:.2g}" if np.isfinite(each.difference.low) else "–",
            each.verdict,
        ]
        for name, each in results.compared.items()
        if names is None or name in names
    ]
    return table(header, 1, lines)


def numbers(
    results: Results, title: str, names: list[str], pairs: list[str] | None = None
) -> str:
    """Both tables, with what their columns mean."""
    chosen = choices(results, title, names)
    return f"{chosen}\n\n{CHOICES}\n\n{contrasts(results, pairs)}"


def _with_choice(compared: Comparison) -> str:
    if not np.isfinite(compared.difference.low):
        return ""
    return bounds(*compared.with_choice, sign=True)


def amount(compared: Comparison) -> str:
    """The difference with the interval that contains the choice, for a sentence."""
    mean = f"{compared.difference.mean:+z.2f}"
    return f"{mean} {_with_choice(compared)}".rstrip()


def caveats(results: Results) -> str:
    """Which choices may not be the best, and which were lucky."""
    found = results.outcomes.values()
    unsure = [f"`{x.entry.name}` ({_sides(x)})" for x in found if x.open]
    lucky = [f"`{x.entry.name}`" for x in found if x.lucky]
    sentences = [
        f"Not bracketed, so perhaps not at their best: {listed(unsure)}."
        if unsure
        else "Every choice is bracketed.",
        f"Worse on fresh seeds by more than 2 standard errors: {listed(lucky)}."
        if lucky
        else "No choice is worse on fresh seeds by more than 2 standard errors.",
    ]
    if results.plan.final_seeds < MIN_VALUES:
        sentences.append(
            f"Only {results.plan.final_seeds} final seeds: means without intervals, "
            "and no finding."
        )
    return " ".join(sentences)
