"""What a protocol's folder says: choices and contrasts, as tables and in words."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import cells, outcomes, protocol
from experiments.engine.store import read_manifest
from experiments.outcomes import Compared, Outcome
from experiments.problem import Problem
from experiments.protocol import Entry
from experiments.reports.markdown import bounds, interval, listed, power, table
from experiments.search import Point
from experiments.statistics import Estimate, FEWEST


DROPPED = "†"


class Results(NamedTuple):
    """The files of a run, read and reduced."""

    folder: Path
    manifest: dict[str, Any]
    plan: protocol.Plan
    table: cells.Table
    outcomes: dict[str, Outcome]  # by entry
    compared: dict[str, Compared]  # by the contrast's name


def read(folder: Path) -> Results:
    """From cells.csv and manifest.json."""
    manifest = read_manifest(folder)
    runs = table_of(folder, manifest)
    plan = outcomes.plan_from(manifest["plan"])
    found = outcomes.outcomes(plan, runs)
    compared = {c.contrast.name: c for c in outcomes.compared(plan, runs, found)}
    return Results(folder, manifest, plan, runs, found, compared)


def table_of(folder: Path, manifest: dict[str, Any]) -> cells.Table:
    """cells.csv, with a row for each run.

    Raises:
        Problem: rows are missing, or there are too many.
    """
    path = folder / "cells.csv"
    table = cells.read(path)
    rows = len(next(iter(table.values()), ()))
    if rows != manifest["runs"]:
        raise Problem(
            f"{path} has {rows} rows, but manifest.json says {manifest['runs']} runs: "
            "delete it and report.md, and run the study again with --resume."
        )
    return table


def errors(results: Results, entry: Entry, stage: str) -> dict[Point, np.ndarray]:
    """Validation errors in percent, by point and seed."""
    shares = protocol.values(entry, results.table, stage, results.plan.measure.score)
    return {point: 100 - 100 * values for point, values in shares.items()}


def test_error(outcome: Outcome) -> Estimate:
    """In percent; an interval ends where no error can lie."""
    mean, low, high, p = outcome.test
    if np.isfinite(low):
        low, high = max(low, 0.0), min(high, 100.0)
    return Estimate(100 - mean, 100 - high, 100 - low, p)


def choices(results: Results, title: str, names: list[str]) -> str:
    """A line for each of these entries: what was chosen, how, and its errors."""
    header = (
        *(title, "learning rate", "λ", "not bracketed"),
        *("points (runs)", "tuning %", "validation %", "fresh seeds %"),
        *("test error % [95 %]", "diverged"),
    )
    return table(header, 4, [_choice(results.outcomes[name]) for name in names])


def _choice(outcome: Outcome) -> list[str]:
    tuning, validation, fresh = (f"{100 - score:.2f}" for score in outcome.scores)
    chosen = {name: power(value) for name, value in outcome.choice.items()}
    return [
        f"`{outcome.entry.name}`",
        chosen["learning_rate"],
        chosen.get("weight_decay", "–"),
        _sides(outcome) or "–",
        f"{outcome.tried} ({outcome.runs})",
        *(tuning, validation),
        fresh + (f" {DROPPED}" if outcome.lucky else ""),
        interval(test_error(outcome)),
        str(outcome.diverged),
    ]


CHOICES = f"""\
Learning rate and λ are the chosen ones. Then errors of the validation part at this
point: in tuning, in validation and on the fresh seeds of the final runs. {DROPPED}
marks a choice that is more than 2 standard errors worse on fresh seeds: it was lucky.
Diverged runs are those of all stages; they count with chance accuracy."""


def _sides(outcome: Outcome) -> str:
    names = {"weight_decay": "λ", "learning_rate": "rate"}
    sides = [side.split() for side in outcome.open]
    return listed([f"{names.get(axis, axis)} {side}" for axis, side in sides])


def contrasts(results: Results, names: list[str] | None = None) -> str:
    """A line for each contrast, with both of its intervals."""
    unit = results.plan.measure.unit
    header = (
        *("difference", f"{unit} [95 %]", "[95 %] with the choice", "p (Holm)"),
        "in words",
    )
    lines = [
        [
            each.contrast.name,
            interval(each.difference, sign=True),
            _with_choice(each) or "–",
            f"{each.p_holm:.2g}" if np.isfinite(each.difference.low) else "–",
            each.words,
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


def _with_choice(compared: Compared) -> str:
    if not np.isfinite(compared.difference.low):
        return ""
    return bounds(*compared.with_choice, sign=True)


def amount(compared: Compared) -> str:
    """The difference with the interval that contains the choice, for a sentence."""
    mean = f"{compared.difference.mean:+z.2f}"
    return f"{mean} {_with_choice(compared)}".rstrip()


def caveats(results: Results) -> str:
    """Which choices may not be the best, and which were lucky."""
    found = results.outcomes.values()
    unsure = [f"`{x.entry.name}` ({_sides(x)})" for x in found if x.open]
    lucky = [f"`{x.entry.name}`" for x in found if x.lucky]
    said = [
        f"Not bracketed, so perhaps not at their best: {listed(unsure)}."
        if unsure
        else "Every choice is bracketed.",
        f"Worse on fresh seeds by more than 2 standard errors: {listed(lucky)}."
        if lucky
        else "No choice is worse on fresh seeds by more than 2 standard errors.",
    ]
    if results.plan.final_seeds < FEWEST:
        said.append(
            f"Only {results.plan.final_seeds} final seeds: means without intervals, "
            "and no finding."
        )
    return " ".join(said)
