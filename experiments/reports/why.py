"""The report of `why`: error and gap against the spread, and the mechanism."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import cells, files
from experiments.cells import Table
from experiments.engine.store import read_manifest, read_pieces
from experiments.reports.drawing import save
from experiments.reports.markdown import interval, table
from experiments.reports.opening import (
    closing,
    INTERVALS,
    listed,
    opening,
    trained,
)
from experiments.reports.shrink import Shrink, shrink_line
from experiments.reports.why_figures import ARMS, dose_response, mechanism
from experiments.selection import at_edge
from experiments.statistics import compare, Comparison, Estimate, estimate, verdict


PAIRS = (("adamw", "adam_l2"), ("adam_l2", "adam"), ("adamw", "adam"))
BETA_1 = 0.9  # Adam's, as every chain here has it


class Final(NamedTuple):
    """An arm at one spread, on fresh seeds."""

    task: str
    spread: float
    arm: str
    learning_rate: float
    weight_decay: float
    edges: tuple[str, ...]
    error: Estimate  # test, percent


class Analysis(NamedTuple):
    """All numbers of the report."""

    finals: list[Final]
    pairs: dict[tuple[str, float], list[Comparison]]  # by task and spread; accuracy
    growth: list[Comparison]  # by task: the gap at the largest spread − at the least
    slopes: dict[str, float]  # of log shrink on log √v


def analyse(runs: Table, shrinks: dict[str, Shrink]) -> Analysis:
    """From the table of runs and the measured shrinks."""
    finals: list[Final] = []
    accuracy: dict[str, np.ndarray] = {}
    wanted: list[tuple[str, str]] = []
    final = cells.where(runs, stage="final")
    order = cells.unique(final, "task")
    settings = zip(final["task"].tolist(), final["spread"].tolist(), strict=True)
    places = sorted(set(settings), key=lambda place: (order.index(place[0]), place[1]))
    for task, spread in places:
        for arm in ARMS:
            mine = cells.where(final, task=task, spread=spread, arm=arm)
            right = 100 * mine["test_accuracy"][np.argsort(mine["seed"], kind="stable")]
            accuracy[f"{task} {spread:g} {arm}"] = right
            rate, decay = (float(mine[x][0]) for x in ("learning_rate", "weight_decay"))
            edges = _edges(runs, task, arm, rate, decay)
            error = estimate(100 - right)
            finals.append(Final(task, spread, arm, rate, decay, edges, error))
        wanted += [
            (f"{task} {spread:g} {first}", f"{task} {spread:g} {second}")
            for first, second in PAIRS
        ]
    compared = compare(wanted, accuracy)
    count = len(PAIRS)
    pairs = {
        place: compared[count * i : count * (i + 1)] for i, place in enumerate(places)
    }
    slopes = {arm: shrink_line(arrays).slope for arm, arrays in shrinks.items()}
    return Analysis(finals, pairs, _growth(places, accuracy), slopes)


def _growth(
    places: list[tuple[str, float]], accuracy: dict[str, np.ndarray]
) -> list[Comparison]:
    """Whether the gap grows with the spread: seeds are the same at every spread."""

    def named(task: str, spread: float) -> str:
        return f"the gap on {task} at {spread:g}"

    gaps = {
        named(task, spread): accuracy[f"{task} {spread:g} adamw"]
        - accuracy[f"{task} {spread:g} adam_l2"]
        for task, spread in places
    }
    spreads: dict[str, list[float]] = {}
    for task, spread in places:
        spreads.setdefault(task, []).append(spread)
    wanted = [
        (named(task, max(mine)), named(task, min(mine)))
        for task, mine in spreads.items()
        if len(mine) > 1
    ]
    return compare(wanted, gaps)


def _edges(
    runs: Table, task: str, arm: str, rate: float, decay: float
) -> tuple[str, ...]:
    """Axes of the arm's grid on whose edge the choice lies; λ = 0 is none."""
    grid = cells.where(runs, stage="tuning", task=task)
    rates, mine = np.unique(grid["learning_rate"]), cells.where(grid, arm=arm)
    found = ["learning rate"] if at_edge(rate, rates.tolist()) else []
    if decay > 0:
        decays = np.unique(mine["weight_decay"])
        found += ["λ"] if decay == decays.max() else []
    return tuple(found)


def read(folder: Path) -> tuple[Table, dict[str, Shrink]]:
    """The table of runs and the measured shrinks, L2's as the whole of its effect.

    Momentum lets 1 − β₁ of λθ into a step at once and the rest into later ones, so
    what is measured at once is divided by 1 − β₁.
    """
    shrinks = {
        arm: dict(piece)
        for arm in ("adam_l2", "adamw")
        for piece in read_pieces(folder, f"shrink-{arm}")
    }
    shrinks["adam_l2"]["shrink"] = shrinks["adam_l2"]["shrink"] / (1 - BETA_1)
    return cells.read(folder / "cells.csv"), shrinks


def conclusion(analysis: Analysis) -> str:
    """The answer, derived from the numbers."""
    told = []
    tasks = list(dict.fromkeys(task for task, _ in analysis.pairs))
    for task in tasks:
        gaps = {s: pairs[0] for (t, s), pairs in analysis.pairs.items() if t == task}
        words = [
            f"{gap.difference.mean:+.1f} at {spread:g}"
            + (" (clear)" if gap.clear else "")
            for spread, gap in gaps.items()
        ]
        told.append(f"on {task} {', '.join(words)}")
    helped = [
        f"{task} at {spread:g}"
        for (task, spread), pairs in analysis.pairs.items()
        if pairs[1].clear and pairs[1].difference.mean > 0
    ]
    best_zero = [
        f"{each.task} at {each.spread:g}"
        for each in analysis.finals
        if each.arm == "adam_l2" and each.weight_decay == 0
    ]
    grows = [
        f"{pair.first.split()[3]} by {interval(pair.difference, 1, sign=True)} points"
        + (" (clear)" if pair.clear else " (not clear)")
        for pair in analysis.growth
    ]
    text = (
        f"From the least to the largest spread the gap grows on {listed(grows)}. "
        "Points of test accuracy that AdamW is ahead of Adam with L2, by spread: "
        f"{'; '.join(told)}. L2 is clearly better than no decay "
        f"{'on ' + listed(helped) if helped else 'nowhere'}; its best λ is 0 "
        f"{'on ' + listed(best_zero) if best_zero else 'nowhere'}. "
    )
    l2, decoupled = analysis.slopes["adam_l2"], analysis.slopes["adamw"]
    return text + (
        f"The shrink of a weight goes with √v to the power of {l2:+.2f} under L2 and "
        f"{decoupled:+z.2f} under AdamW."
    )


def write_report(folder: Path) -> str:
    """Figures first, then report.md; returns the verdict."""
    runs, shrinks = read(folder)
    manifest = read_manifest(folder)
    analysis = analyse(runs, shrinks)
    errors = {(x.task, x.arm, x.spread): x.error for x in analysis.finals}
    edges = {(x.task, x.arm, x.spread) for x in analysis.finals if x.edges}
    gaps = {place: pairs[0].difference for place, pairs in analysis.pairs.items()}
    save(dose_response(errors, gaps, edges), folder / "gap.png")
    save(mechanism(shrinks), folder / "mechanism.png")
    verdict_text = conclusion(analysis)
    question = """\
Inputs are multiplied, each by its own factor 10^U(−s, s), so that the gradients of the
first layer differ in scale and the labels do not change. Does the gap between Adam with
L2 and AdamW grow with the spread s?"""
    title = "Why would decoupled decay be better?"
    plan = manifest["plan"]
    parts = [
        opening(title, question, verdict_text, manifest),
        _gaps(analysis),
        _shrinks(analysis, shrinks, plan),
        _protocol(plan),
        closing(manifest, "`cells.csv` (every run), `shrink-*.npz`"),
    ]
    files.write_text(folder / "report.md", "\n\n".join(parts) + "\n")
    return f"Verdict. {verdict_text}"


def _gaps(analysis: Analysis) -> str:
    rows = [
        [
            each.task,
            f"{each.spread:g}",
            f"`{each.arm}`",
            f"{each.learning_rate:.2g}",
            f"{each.weight_decay:.2g}" + (" *" if each.edges else ""),
            interval(each.error, 2),
        ]
        for each in analysis.finals
    ]
    differences = [
        [
            task,
            f"{spread:g}",
            " − ".join(f"`{name.split()[-1]}`" for name in (pair.first, pair.second)),
            interval(pair.difference, 2, sign=True),
            f"{pair.p_holm:.2g}",
            _words(pair),
        ]
        for (task, spread), pairs in analysis.pairs.items()
        for pair in pairs
    ]
    growth = [
        [
            f"{pair.first} − at {pair.second.split()[-1]}",
            interval(pair.difference, 2, sign=True),
            f"{pair.p_holm:.2g}",
            "grows" if pair.larger == pair.first else "no growth shown",
        ]
        for pair in analysis.growth
    ]
    compared = "task, spread, difference, points [95 % CI], p (Holm), in words"
    edges = [
        f"`{each.arm}` on {each.task} at {each.spread:g} ({listed(list(each.edges))})"
        for each in analysis.finals
        if each.edges
    ]
    star = (
        f"\\* on the edge of its grid, so perhaps not at its best: {listed(edges)}."
        if edges
        else "No choice lies on an edge of its grid."
    )
    return f"""\
## The gap against the spread

![Test error and gap against the spread of the gradients' scales](gap.png)

*Above: test error of the tuned arms on fresh seeds, mean and 95 % interval; hollow: the
choice lies on an edge of its grid. Below: how far AdamW is ahead of Adam with L2,
paired by seed.*

{table("growth of the gap, points [95 % CI], p (Holm), in words", 1, growth)}

{table("task, spread, arm, best lr, best λ, test error % [95 % CI]", 3, rows)}

{star}

### Paired by seed: test accuracy

{table(compared, 3, differences)}"""


def _words(pair: Comparison) -> str:
    """The verdict with the arms' names alone."""
    first, second = (name.split()[-1] for name in (pair.first, pair.second))
    return verdict(pair._replace(first=first, second=second))


def _shrinks(
    analysis: Analysis, shrinks: dict[str, Shrink], plan: dict[str, Any]
) -> str:
    task, spread = plan["mechanism"]
    at = listed(
        [
            f"`{arm}` with peak learning rate {float(s['learning_rate']):.2g} and "
            f"λ = {float(s['weight_decay']):.2g}"
            for arm, s in shrinks.items()
        ]
    )
    lines = [shrink_line(arrays) for arrays in shrinks.values()]
    used = listed([f"{line.used.sum()} of {line.used.size}" for line in lines])
    slopes = listed([f"{s:+z.3f} for `{arm}`" for arm, s in analysis.slopes.items()])
    return f"""\
## The mechanism

![Shrink of each weight against the root of its second moment](mechanism.png)

*Each dot is a weight of a run on {task} at spread {spread:g}: {at}, each arm at its
best λ above 0, first fresh seed, over the epoch in the middle of training. Asked twice
from the same state, with λ and with λ = 0, the optimizer tells what the decay does in a
step; under L2 that is divided by 1 − β₁ = 0.1, as momentum lets nine tenths into later
steps. √v as Adam divides by it. Fitted slopes of log shrink on log √v: {slopes}; from
{used} weights, the others having no gradient in that epoch, hardly any size or no
positive shrink.*"""


def _protocol(plan: dict[str, Any]) -> str:
    lines = [f"- **{each['title']}.** {trained(each)}." for each in plan["questions"]]
    rates = ", ".join(f"{x:.2g}" for x in plan["learning_rates"])
    decays = "; ".join(
        f"`{arm}` 0, {', '.join(f'{x:.2g}' for x in values)}"
        for arm, values in plan["weight_decays"].items()
    )
    return f"""\
## Protocol

{chr(10).join(lines)}
- **Spread.** Factors are drawn by seed, the same for all arms; training, validation
  and test inputs have the same ones.
- **Stage 1.** Peak learning rates {rates} (cosine to 0). λ: {decays}.
  {plan["tuning_seeds"]} seeds; the best mean validation accuracy wins, λ = 0 among the
  candidates of both.
- **Stage 2.** The winners, and the best without decay, on {plan["final_seeds"]} fresh
  seeds; test.
{INTERVALS}

## Limits

- Factors on inputs are one way to spread the scales of gradients, and a crude one:
  standardised inputs would undo it. Deep networks have spreads of their own.
- One optimizer, small networks; the gap is that of these tasks.
- All seeds share the test part: the intervals are about splits, labels, factors,
  initial weights and batch order."""
