"""Measurements in runs: the shrink of each weight, and the spread of √v.

The arrays are those of `experiments.mechanism`.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from experiments.engine.store import read_measurements
from experiments.mechanism import NO_GRADIENT
from experiments.outcomes import Comparison
from experiments.protocol import Entry
from experiments.reports.figures import BY_TASK, COLOURS
from experiments.reports.markdown import listed, power
from experiments.reports.results import Results


BETA_1 = 0.9  # Adam's, in all optimizers here
L2, DECOUPLED = "adam_l2", "adamw"  # the arms
TINY = 1e-3  # of the root mean square of all weights: too small to measure a shrink
FILES = "`cells.csv` (every run), `shrink-*.npz`, `spread-*.npz`"
Shrink = Mapping[str, np.ndarray]


class Line(NamedTuple):
    """log shrink = slope · log √v + constant, by least squares."""

    slope: float
    used: np.ndarray  # which weights entered
    left_out: dict[str, int]  # how many did not, by reason


class Spread(NamedTuple):
    """How unlike the scales of the gradients are, and how far AdamW is ahead."""

    name: str
    task: str
    decades: float  # of √v, between its 10th and 90th percentile
    gap: Comparison


def shrinks(folder: Path) -> dict[str, Shrink]:
    """By arm, L2 first; L2's as the whole of its effect.

    Momentum lets 1 − β₁ of λθ into a step at once and the rest into later ones, so
    what is measured at once is divided by 1 − β₁.
    """
    measured = read_measurements(folder, "shrink-")
    found = {arrays["arm"].item(): arrays for arrays in measured}
    l2 = found[L2] | {"shrink": found[L2]["shrink"] / (1 - BETA_1)}
    return {L2: l2, DECOUPLED: found[DECOUPLED]}


def spreads(results: Results, name_of: Callable[[Entry], str]) -> list[Spread]:
    """In the order of the plan; `name_of` is the name of an entry in contrasts."""
    stored = read_measurements(results.folder, "spread-")
    measured = {arrays["entry"].item(): arrays for arrays in stored}
    found = []
    for entry in results.plan.entries:
        if entry.name in measured:
            low, high = measured[entry.name]["root_v_percentiles"][[10, 90]]
            gap = results.compared[f"{name_of(entry)}: {DECOUPLED} − {L2}"]
            decades = float(np.log10(high / low))
            found.append(Spread(name_of(entry), entry.labels["task"], decades, gap))
    return found


def shrink_line(arrays: Shrink) -> Line:
    """Fit log shrink to log √v, over the weights whose shrink can be measured."""
    root_v, shrink, rms_w = (arrays[name] for name in ("root_v", "shrink", "rms_w"))
    without = arrays["rms_g"] <= NO_GRADIENT
    small = ~without & (rms_w <= TINY * np.sqrt(np.mean(rms_w**2)))
    against = ~without & ~small & (shrink <= 0)
    used = ~(without | small | against)
    slope, _ = np.polyfit(np.log10(root_v[used]), np.log10(shrink[used]), 1)
    reasons = {
        "have no gradient in the epoch": int(without.sum()),
        "are too near 0": int(small.sum()),
        "do not shrink": int(against.sum()),
    }
    return Line(float(slope), used, reasons)


def shrink_figure(measured: Mapping[str, Shrink]) -> Figure:
    """A dot for each weight of both arms; the formulas as lines."""
    figure = Figure(figsize=(7, 4.8), layout="constrained")
    axes = figure.add_subplot(xscale="log", yscale="log")
    colours = {L2: COLOURS["L2"], DECOUPLED: COLOURS["decoupled"]}
    for arm, arrays in measured.items():
        line = shrink_line(arrays)
        dots = {"color": colours[arm], "alpha": 0.4, "ms": 4, "mew": 0, "zorder": 3}
        x, y = arrays["root_v"][line.used], arrays["shrink"][line.used]
        axes.plot(x, y, ".", rasterized=True, **dots)
        label = f"{arm}: fitted slope {line.slope:+z.2f}"
        axes.plot([], [], "o", color=colours[arm], label=label)
    x = np.array(axes.get_xlim())
    l2, decoupled = (float(arrays["rate"]) for arrays in measured.values())
    axes.plot(x, l2 / x, "k--", lw=1, label=r"L2 in theory: $\gamma\lambda/\sqrt{v}$")
    label = r"decoupled in theory: $\gamma\lambda$"
    axes.plot(x, np.full(2, decoupled), "k:", lw=1.3, label=label)
    axes.set_xlabel(r"$\sqrt{v}$ of the weight: the scale of its gradients")
    axes.set_ylabel("shrink: share of the weight\nthat decay removes in a step")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure


def shrink_caption(measured: Mapping[str, Shrink], where: str) -> str:
    """What the figure shows, and which weights it does not show."""
    at, out, slopes = [], [], []
    for arm, arrays in measured.items():
        rate, decay = (float(arrays[x]) for x in ("learning_rate", "weight_decay"))
        at.append(f"`{arm}` at learning rate {power(rate)} and λ = {power(decay)}")
        line = shrink_line(arrays)
        reasons = [f"{n} {why}" for why, n in line.left_out.items() if n]
        out.append(
            f"{line.used.size - line.used.sum()} of {line.used.size} weights of `{arm}`"
            + (f" ({listed(reasons)})" if reasons else "")
        )
        slopes.append(f"{line.slope:+z.3f} for `{arm}`")
    return f"""\
![Shrink of each weight against the root of its second moment](mechanism.png)

*Each dot is a weight of a run on {where}, on the first final seed, over the epoch in
the middle of training: {listed(at)}. The optimizer is asked
twice from the same state, with λ and with λ = 0; the difference is what the decay does
in this step. Under L2 it is divided by 1 − β₁ = 0.1, as momentum brings nine tenths of
it in later steps. Fitted slopes of log shrink on log √v: {listed(slopes)}.
Left out, as no shrink can be measured there, are {listed(out)}.
A weight has no gradient if its unit never fires or its input is always 0.*"""


def spread_figure(spreads: Sequence[Spread]) -> Figure:
    """The gap against the measured spread of √v, a colour for each task."""
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axes = figure.add_subplot()
    tasks = list(dict.fromkeys(spread.task for spread in spreads))
    for task, colour in zip(tasks, BY_TASK, strict=False):
        mine = [spread for spread in spreads if spread.task == task]
        at = [(spread.decades, spread.gap.difference.mean) for spread in mine]
        axes.plot(*zip(*at, strict=True), "o-", color=colour, lw=0.8, label=task)
        for spread, point in zip(mine, at, strict=True):
            if np.isfinite(spread.gap.difference.low):
                axes.vlines(spread.decades, *spread.gap.with_choice, color=colour)
            name = spread.name.removeprefix(f"{task}, ")
            place = {"xytext": (6, -12), "textcoords": "offset points"}
            axes.annotate(name, point, fontsize=8, **place)
    axes.axhline(0, color="0.5", lw=0.8)
    axes.set_xlim(0, 1.15 * max(spread.decades for spread in spreads))
    axes.set_xlabel(
        "measured spread of √v: decades between its 10th and 90th percentile"
    )
    axes.set_ylabel("AdamW ahead of Adam with L2\n(points of test accuracy)")
    axes.grid(alpha=0.3)
    if len(tasks) < len(spreads):  # else the names at the dots say it
        axes.legend(frameon=False)
    return figure
