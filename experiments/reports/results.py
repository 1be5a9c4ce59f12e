"""Results of a study with the protocol: choices and contrasts, as tables and text."""

import functools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import cells, joint, outcomes, protocol
from experiments.cells import Table
from experiments.engine.store import read_manifest
from experiments.errors import UserError
from experiments.outcomes import Comparison, Outcome
from experiments.protocol import Entry, Measure
from experiments.reports import markdown
from experiments.search import Point
from experiments.statistics import Estimate, MIN_VALUES


LUCKY_MARK = "†"
DIGITS = {"points": 2, "nats": 3, "steps": 0}  # decimals, by the unit of a measure
AXIS_NAMES = {"learning_rate": "learning rate", "weight_decay": "λ"}


class Results(NamedTuple):
    """The files of a run, read and reduced."""

    folder: Path
    manifest: dict[str, Any]
    plan: protocol.ProtocolPlan
    table: Table
    outcomes: dict[str, Outcome]  # by entry
    comparisons: dict[str, Comparison]  # by the contrast's name


def read_results(folder: Path) -> Results:
    """Read cells.csv and manifest.json."""
    manifest = read_manifest(folder)
    plan = outcomes.plan_from_manifest(manifest["plan"])
    return results_of(folder, manifest, plan, read_table(folder, manifest))


def read_joint_results(folder: Path) -> dict[str, Results]:
    """Read the files of a joint plan: results by task, with one correction."""
    manifest = read_manifest(folder)
    plan = joint.joint_from_manifest(manifest["plan"])
    runs = read_table(folder, manifest)
    found = {
        name: results_of(folder, manifest, each, runs)
        for name, each in plan.plans.items()
    }
    return correct_together(found)


def results_of(
    folder: Path, manifest: dict[str, Any], plan: protocol.ProtocolPlan, runs: Table
) -> Results:
    """Reduce the runs of a protocol."""
    found = outcomes.outcomes(plan, runs)
    compared = outcomes.compare_contrasts(plan, runs, found)
    comparisons = {each.contrast.name: each for each in compared}
    return Results(folder, manifest, plan, runs, found, comparisons)


def correct_together(found: Mapping[str, Results]) -> dict[str, Results]:
    """Correct the p-values over the contrasts of all tasks together."""
    corrected = iter(
        joint.correct(x for each in found.values() for x in each.comparisons.values())
    )
    return {
        task: each._replace(comparisons={n: next(corrected) for n in each.comparisons})
        for task, each in found.items()
    }


def read_table(folder: Path, manifest: dict[str, Any]) -> cells.Table:
    """Read cells.csv, which has a row for each run.

    Raises:
        UserError: the number of rows is not the number of runs.
    """
    path = folder / "cells.csv"
    table = cells.read_csv(path)
    rows = len(next(iter(table.values()), ()))  # all columns have the same length
    if rows != manifest["runs"]:
        raise UserError(
            f"{path} has {rows} rows, but manifest.json says {manifest['runs']} runs: "
            "delete it and report.md, and run the study again with --resume."
        )
    return table


def errors(results: Results, entry: Entry, stage: str) -> dict[Point, np.ndarray]:
    """Validation errors in the unit of `error_unit`, by point and seed."""
    measure = results.plan.measure
    scores = protocol.values(entry, results.table, stage, measure.score)
    return {p: measure.perfect - measure.scale * x for p, x in scores.items()}


def error_unit(measure: Measure) -> str:
    """The unit of an error: % if differences of scores are in points."""
    return "%" if measure.unit == "points" else measure.unit


def digits_of(measure: Measure) -> int:
    """The number of decimals: 0.01 points, 0.001 nats, 1 step."""
    return DIGITS[measure.unit]


def test_error(outcome: Outcome, measure: Measure) -> Estimate:
    """The perfect score minus the test score; its interval has possible errors only."""
    mean, low, high, p = outcome.test
    if np.isfinite(low):
        high = min(high, measure.perfect)
        if measure.count is not None:  # the score is a share, so it is not below 0
            low = max(low, 0.0)
    perfect = measure.perfect
    return Estimate(perfect - mean, perfect - high, perfect - low, p)


def tuned_axes(entries: Iterable[Entry]) -> list[str]:
    """The names of the axes that these entries tune: learning rate and λ first."""
    names = [axis.name for entry in entries for axis in entry.axes]
    first = [name for name in AXIS_NAMES if name in names]
    return list(dict.fromkeys([*first, *names]))


def choices_table(results: Results, title: str, names: list[str]) -> str:
    """A line for each entry: the chosen point and its errors."""
    measure = results.plan.measure
    unit, digits = error_unit(measure), digits_of(measure)
    rows = [results.outcomes[name] for name in names]
    axes = tuned_axes(outcome.entry for outcome in rows)

    def chosen(axis: str, outcome: Outcome) -> str:
        value = outcome.choice.get(axis)
        return "–" if value is None else markdown.number(value)

    def error(stage: int, outcome: Outcome) -> str:
        return f"{measure.perfect - outcome.scores[stage]:.{digits}f}"

    def fresh(outcome: Outcome) -> str:
        return error(2, outcome) + (f" {LUCKY_MARK}" if outcome.lucky else "")

    columns: dict[str, Callable[[Outcome], str]] = {
        title: lambda outcome: f"`{outcome.entry.name}`",
        **{AXIS_NAMES.get(a, a): functools.partial(chosen, a) for a in axes},
        "not bracketed": lambda outcome: _open_sides(outcome) or "–",
        "points (runs)": lambda outcome: f"{outcome.tried} ({outcome.runs})",
        f"tuning {unit}": functools.partial(error, 0),
        f"validation {unit}": functools.partial(error, 1),
        f"fresh seeds {unit}": fresh,
        f"test error {unit} [95 %]": lambda x: markdown.estimate(
            test_error(x, measure), digits
        ),
        "diverged": lambda outcome: str(outcome.diverged),
    }
    return markdown.table(rows, columns, left=2 + len(axes))


def _open_sides(outcome: Outcome) -> str:
    """The sides on which a choice is not bracketed, such as "λ above"."""
    # A side is such as "weight_decay above".
    sides = [side.split() for side in outcome.open]
    return markdown.join(
        [f"{AXIS_NAMES.get(axis, axis)} {side}" for axis, side in sides]
    )


def contrasts_table(results: Results, names: list[str] | None = None) -> str:
    """A line for each contrast, with both of its intervals."""
    chosen = results.comparisons if names is None else names
    digits = digits_of(results.plan.measure)
    columns: dict[str, Callable[[Comparison], str]] = {
        "difference": lambda each: each.contrast.name,
        f"{results.plan.measure.unit} [95 %]": lambda each: markdown.estimate(
            each.difference, digits, sign=True
        ),
        "[95 %] including the choice": lambda each: _with_choice(each, digits) or "–",
        "p (Holm)": lambda each: f"{each.p_holm:.2g}" if _with_choice(each) else "–",
        "verdict": lambda each: each.verdict,
    }
    return markdown.table([results.comparisons[name] for name in chosen], columns)


def result_tables(
    results: Results, title: str, names: list[str], contrasts: list[str] | None = None
) -> str:
    """The choices and the contrasts, and what their columns mean."""
    return markdown.fill(
        "numbers",
        choices=choices_table(results, title, names),
        lucky_mark=LUCKY_MARK,
        contrasts=contrasts_table(results, contrasts),
    )


def _with_choice(compared: Comparison, digits: int = 2) -> str:
    """The interval that contains the choice; empty if there are too few seeds."""
    if not np.isfinite(compared.difference.low):
        return ""
    return markdown.bounds(*compared.with_choice, digits, sign=True)


def format_difference(compared: Comparison, digits: int = 2) -> str:
    """The difference with the interval that contains the choice, for a sentence."""
    mean = f"{compared.difference.mean:+z.{digits}f}"
    return f"{mean} {_with_choice(compared, digits)}".rstrip()


def caveats(results: Results) -> str:
    """Which choices are not bracketed or lucky, and whether there are enough seeds."""
    found = results.outcomes.values()
    unsure = [f"`{x.entry.name}` ({_open_sides(x)})" for x in found if x.open]
    lucky = [f"`{x.entry.name}`" for x in found if x.lucky]
    sentences = ["Every choice is bracketed."]
    if unsure:
        bracketed = (
            f"Not bracketed, so a better point may exist: {markdown.join(unsure)}."
        )
        sentences = [bracketed]
    if lucky:
        sentences.append(
            "Lucky choices, more than 2 standard errors worse on fresh seeds than in "
            f"tuning or in validation: {markdown.join(lucky)}."
        )
    else:
        sentences.append(
            "No choice is more than 2 standard errors worse on fresh seeds than in "
            "tuning or in validation."
        )
    return " ".join([*sentences, *few_seeds(results.plan)])


def few_seeds(plan: protocol.ProtocolPlan) -> list[str]:
    """A sentence if a plan has too few final seeds for a finding, else none."""
    if plan.final_seeds >= MIN_VALUES:
        return []
    return [
        f"With only {plan.final_seeds} final seeds there are means without intervals, "
        "and no finding."
    ]
