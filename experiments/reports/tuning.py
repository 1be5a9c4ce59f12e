"""The report of `tuning`: heatmaps, separability in numbers, winners on fresh seeds."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import cells, files, separability
from experiments.cells import Table
from experiments.engine.store import read_manifest
from experiments.reports.drawing import save
from experiments.reports.markdown import interval, table
from experiments.reports.opening import (
    closing,
    INTERVALS,
    listed,
    opening,
    trained,
)
from experiments.reports.tuning_figures import heatmaps, ridges
from experiments.selection import Choice, choose, FINAL, TUNING
from experiments.statistics import (
    compare,
    Comparison,
    Estimate,
    estimate,
    over_seeds,
    verdict,
)


RIDGE = "ridge"
PLACES = ("L2", "lr-coupled", "independent")
SEPARATE = 0.25  # a ridge slope smaller than this is called separable


class Measured(NamedTuple):
    """One arm on one task; errors in percent."""

    task: str
    arm: str
    base: str
    place: str
    choice: Choice
    test: Estimate  # error on the fresh seeds
    slope: Estimate  # nan where λ gains less than the noise
    gain: float  # of λ, in points
    regret: Estimate
    fixed: Estimate  # sensitivity to the learning rate, λ fixed
    retuned: Estimate  # the same, λ tuned anew for each learning rate
    diverged: int  # of the runs of the grid


class Analysis(NamedTuple):
    """All numbers of the report."""

    arms: list[Measured]
    pairs: dict[str, list[Comparison]]  # by task: test accuracy, paired by seed


def analyse(runs: Table) -> Analysis:
    """From the table of runs."""
    names = dict.fromkeys(zip(runs["task"].tolist(), runs["arm"].tolist(), strict=True))
    measured = [_measure(runs, task, arm) for task, arm in names]
    pairs = {}
    for task in cells.unique(runs, "task"):
        mine = [each for each in measured if each.task == task]
        accuracy = {each.arm: _final_accuracy(runs, task, each.arm) for each in mine}
        arm_at = {(each.base, each.place): each.arm for each in mine}
        wanted = [
            (arm_at[base, first], arm_at[base, second])
            for base in dict.fromkeys(each.base for each in mine)
            for first, second in (
                ("lr-coupled", "L2"),
                ("independent", "L2"),
                ("independent", "lr-coupled"),
            )
        ]
        pairs[task] = compare(wanted, accuracy)
    return Analysis(measured, pairs)


def grid_of(runs: Table, task: str, arm: str) -> Table:
    """The tuning runs of an arm."""
    return cells.where(runs, stage=TUNING, task=task, arm=arm)


def _final_accuracy(runs: Table, task: str, arm: str) -> np.ndarray:
    found = cells.where(runs, stage=FINAL, task=task, arm=arm)
    return 100 * found["test_accuracy"][np.argsort(found["seed"], kind="stable")]


def _measure(runs: Table, task: str, arm: str) -> Measured:
    grid = grid_of(runs, task, arm)
    axes = "learning_rate", "weight_decay"
    errors = 100 * (1 - cells.pivot(grid, "val_accuracy", *axes, "seed"))
    rates, decays = (np.log2(np.unique(grid[axis])) for axis in axes)
    noise = _noise(errors)
    return Measured(
        *(task, arm, grid["base"][0], grid["place"][0], choose(grid)),
        test=estimate(100 - _final_accuracy(runs, task, arm)),
        slope=over_seeds(
            lambda e: separability.ridge_slope(e, rates, decays, noise), errors
        ),
        gain=separability.gain(errors.mean(-1)),
        regret=over_seeds(separability.regret, errors),
        fixed=over_seeds(lambda e: separability.sensitivity(e, False), errors),
        retuned=over_seeds(lambda e: separability.sensitivity(e, True), errors),
        diverged=int(grid["diverged"].sum()),
    )


def _noise(errors: np.ndarray) -> float:
    """The standard error over seeds of the difference of two cells, near the best."""
    count = errors.shape[-1]
    if count < 2:
        return 0.0
    best = np.argsort(errors.mean(-1), axis=None)[:10]
    deviations = errors.std(-1, ddof=1).ravel()[best]
    return float(np.sqrt(2 / count * np.mean(deviations**2)))


def separable(measured: Measured) -> bool:
    """Whether the whole interval of the slope is near 0."""
    low, high = measured.slope.low, measured.slope.high
    return bool(low > -SEPARATE and high < SEPARATE)  # not where it is nan


def conclusion(analysis: Analysis) -> str:
    """The answer, derived from the numbers."""
    told = []
    for task, pairs in analysis.pairs.items():
        mine = [each for each in analysis.arms if each.task == task]
        slopes = "; ".join(
            f"{place} {', '.join(_slope(m) for m in mine if m.place == place)}"
            for place in PLACES
        )
        clear = [f"{p.larger} over {p.smaller}" for p in pairs if p.clear]
        told.append(
            f"**{task}**: ridge slopes ({', '.join(m.base for m in mine[::3])}): "
            f"{slopes}. On test, each arm tuned, clearly better are: "
            f"{listed(clear) or 'none over another'}."
        )
    at_edge = [f"{m.arm} on {m.task}" for m in analysis.arms if m.choice.edges]
    without = sum(not np.isfinite(m.slope.mean) for m in analysis.arms)
    edges = f"On the edge of its grid: {listed(at_edge)}."
    told.append(
        f"Of {len(analysis.arms)} grids {sum(map(separable, analysis.arms))} are shown "
        f"to be separable (the slope's interval within {SEPARATE} of 0): "
        f"{_by_place([m for m in analysis.arms if separable(m)])}; {without} have no "
        "slope, as λ gains less than the noise there or the ridge is too short. "
        + (edges if at_edge else "No best cell lies on an edge of its grid.")
    )
    return "\n\n".join(told)


def _slope(measured: Measured) -> str:
    mean, low, high, _ = measured.slope
    if not np.isfinite(mean):
        return "none"
    if not np.isfinite(low):
        return f"{mean:+z.1f}"
    return f"{mean:+z.1f} [{low:+z.1f}, {high:+z.1f}]"


def _by_place(measured: list[Measured]) -> str:
    counts = {place: sum(m.place == place for m in measured) for place in PLACES}
    return listed([f"{count} with {place}" for place, count in counts.items()])


def write_report(folder: Path) -> str:
    """Figures first, then report.md, from cells.csv and manifest.json."""
    runs, manifest = cells.read(folder / "cells.csv"), read_manifest(folder)
    analysis = analyse(runs)
    questions = {each["name"]: each for each in manifest["plan"]["questions"]}
    for task in questions:
        mine = [each for each in analysis.arms if each.task == task]
        grids = {each.arm: grid_of(runs, task, each.arm) for each in mine}
        choices = {each.arm: each.choice for each in mine}
        save(heatmaps(grids, choices), folder / f"heatmaps-{task}.png")
    save(ridges(runs, list(questions)), folder / "ridges.png")
    verdict_text = conclusion(analysis)
    question = """\
On a grid of learning rate × λ: where is the best cell for L2, for decay times the
learning rate and for independent decay, under SGD, RMSprop and Adam? Does the best λ
move with the learning rate, what does tuning one after the other cost, and how much
worse is a wrong learning rate?"""
    title = "What does tuning see: are learning rate and decay two knobs?"
    parts = [
        opening(title, question, verdict_text, manifest),
        *(_task(analysis, each, manifest["plan"]) for each in questions.values()),
        _protocol(manifest["plan"]),
        closing(manifest, "`cells.csv` (every run)"),
    ]
    files.write_text(folder / "report.md", "\n\n".join(parts) + "\n")
    return f"Verdict. {verdict_text}"


def _task(analysis: Analysis, question: dict[str, Any], plan: dict[str, Any]) -> str:
    name = question["name"]
    mine = [each for each in analysis.arms if each.task == name]
    rows = [
        [
            f"`{m.arm}`",
            f"{m.choice.learning_rate:.2g}, {m.choice.weight_decay:.2g}"
            + (f" (edge: {listed(list(m.choice.edges))})" if m.choice.edges else ""),
            f"{100 - 100 * m.choice.score:.2f}",
            interval(m.test, 2),
            f"{m.gain:.1f}",
            interval(m.slope, 2),
            interval(m.regret, 2),
            interval(m.fixed, 1),
            interval(m.retuned, 1),
            str(m.diverged),
        ]
        for m in mine
    ]
    header = (
        "arm, best lr; λ, val error %, test error % [95 % CI], λ gains, ridge slope, "
        "regret, sensitivity at one λ, re-tuned, diverged"
    )
    pairs = [
        [
            f"`{p.first}` − `{p.second}`",
            interval(p.difference, 2, sign=True),
            f"{p.p_holm:.2g}",
            verdict(p),
        ]
        for p in analysis.pairs[name]
    ]
    differences = "difference, points of test accuracy [95 % CI], p (Holm), in words"
    return f"""\
## {question["title"]}

![Validation error over learning rate and strength, nine arms](heatmaps-{name}.png)

*Mean validation accuracy of {plan["tuning_seeds"]} seeds, one colour scale, each arm on
its own range of λ of {plan["points"]} powers of two. Circles: the ten best cells; star:
the cell chosen; white line: within one standard deviation over seeds of it; grey: a run
diverged; red frame: the choice lies on an edge of the grid, so perhaps not at its
best.*

{table(header, left=1, lines=rows)}

### Paired by seed: test accuracy

{table(differences, left=1, lines=pairs)}"""


def _protocol(plan: dict[str, Any]) -> str:
    lines = [f"- **{each['title']}** {_recipe(each)}." for each in plan["questions"]]
    return f"""\
## The ridges

![Best strength of each learning rate, by arm and task](ridges.png)

*For each learning rate whose best is within {separability.GOOD:g} points of the
optimum: the best λ, unless it lies on an edge of the grid. Lines: least squares; their
slopes are the ridge slopes, where λ gains more than the noise.*

## Protocol

{chr(10).join(lines)}
- **Arms.** SGD (momentum 0.9), RMSprop and Adam; λθ in the gradient (L2), behind the
  preconditioner (lr-coupled: γ_t λ a step) and behind the learning rate (independent:
  η_t λ a step). Cosine to 0. Kernels decay, biases and norms do not.
- **Stage 1.** {plan["points"]} × {plan["points"]} powers of two of learning rate and λ,
  {plan["tuning_seeds"]} seeds. λ has its own range for each arm, all of one size: an L2
  term is multiplied by 1/(1 − μ) under momentum, an independent one is not multiplied
  by the learning rate. The ranges were placed by looking at the validation errors of
  coarse trials, and moved where the best cell lay on an edge. The best mean validation
  accuracy wins.
- **Stage 2.** The winner of each arm on {plan["final_seeds"]} fresh seeds; test.
- **λ gains**: how much better the best cell is than the smallest λ at its learning
  rate, in points. **Ridge slope**: d log λ* / d log γ over the learning rates whose
  best is within {separability.GOOD:g} points of the optimum and not on an edge of λ. 0:
  separable; −1: only γλ matters; +1: only λ/γ matters. None where λ gains less than the
  standard error of a difference of two cells. **Regret**: points lost by tuning one
  axis after the other, mean over starts. **Sensitivity**: mean over the learning rates
  of the error above the best, with λ fixed at its best, and re-tuned for each. Their
  intervals resample the {plan["tuning_seeds"]} seeds of the grid; of three seeds such
  an interval holds a plain mean in 76 % of cases.
{INTERVALS}

## Limits

- Small networks and data, one schedule; the slopes are statements about these tasks.
- All seeds share the test part: the intervals are about splits, labels, initial weights
  and batch order.
- The measures of separability choose and score on the same validation parts, and λ* of
  a row is a minimum among noisy neighbours: where λ does little, a slope says little.
- A regret or a sensitivity near 0 may only say that λ does nothing: read them beside
  the best error."""


def _recipe(question: dict[str, Any]) -> str:
    numbers = "".join(f", {k} {v:g}" for k, v in question["numbers"].items())
    return trained(question) + numbers
