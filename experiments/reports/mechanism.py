"""Text and figures of the studies that compare Adam with L2, AdamW and no decay.

The stored arrays are those of `experiments.mechanism`: the shrink of each weight, and
the spread of √v.
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
from experiments.reports import markdown
from experiments.reports.figures import BLUE, GREEN, new_panels, ORANGE, PINK
from experiments.reports.results import format_difference, Results


NONE, L2, DECOUPLED = "adam", "adam_l2", "adamw"  # the arms
BETA_1 = 0.9  # Adam's, in all optimizers here
TINY = 1e-3  # times the root mean square of all weights: too small for a shrink
GAP_LABEL = "AdamW ahead of Adam with L2\n(points of test accuracy)"
Shrink = Mapping[str, np.ndarray]


# --- Contrasts in words -----------------------------------------------------------


def compared(
    results: Results, setting: str, first: str = DECOUPLED, second: str = L2
) -> Comparison:
    """The comparison of two arms in a setting."""
    return results.comparisons[f"{setting}: {first} − {second}"]


def gaps_text(results: Results, settings: Mapping[str, str], preposition: str) -> str:
    """AdamW − Adam with L2 in each setting; `settings` maps settings to short names."""
    gaps = {name: compared(results, each) for each, name in settings.items()}
    return "; ".join(
        f"{preposition} {name}: {format_difference(gap)}, {gap.verdict}"
        for name, gap in gaps.items()
    )


def against_no_decay(
    results: Results, settings: Mapping[str, str], preposition: str
) -> str:
    """L2 and AdamW against no decay in each setting: two sentences."""
    sentences = []
    for decay, arm in (("L2", L2), ("AdamW", DECOUPLED)):
        verdicts = [
            (name, compared(results, setting, arm, NONE).verdict)
            for setting, name in settings.items()
        ]
        text = markdown.group(verdicts, preposition)
        sentences.append(f"{decay} against no decay: {text}.")
    return " ".join(sentences)


# --- The shrink of each weight ----------------------------------------------------


class ShrinkLine(NamedTuple):
    """log shrink = slope · log √v + constant, by least squares."""

    slope: float
    used: np.ndarray  # bool[weights]
    excluded: dict[str, int]  # the number of excluded weights, by reason


def read_shrinks(folder: Path) -> dict[str, Shrink]:
    """By arm, L2 first.

    Momentum adds the part 1 − β₁ of λθ to the current step and the other part to later
    steps. Division by 1 − β₁ turns the effect on one step into the whole effect of L2.
    """
    measured = read_measurements(folder, "shrink-")
    found = {arrays["arm"].item(): arrays for arrays in measured}
    l2 = found[L2] | {"shrink": found[L2]["shrink"] / (1 - BETA_1)}
    return {L2: l2, DECOUPLED: found[DECOUPLED]}


def fit_shrink(arrays: Shrink) -> ShrinkLine:
    """Fit log shrink to log √v, over the weights whose shrink can be measured."""
    root_v, shrink, rms_w = (arrays[name] for name in ("root_v", "shrink", "rms_w"))
    # Each excluded weight counts for one reason only, the first that applies.
    idle = arrays["rms_g"] <= NO_GRADIENT
    small = ~idle & (rms_w <= TINY * np.sqrt(np.mean(rms_w**2)))
    growing = ~idle & ~small & (shrink <= 0)
    used = ~(idle | small | growing)
    slope, _ = np.polyfit(np.log10(root_v[used]), np.log10(shrink[used]), 1)
    excluded = {
        "have no gradient in the epoch": int(idle.sum()),
        "are too near 0": int(small.sum()),
        "do not shrink": int(growing.sum()),
    }
    return ShrinkLine(float(slope), used, excluded)


def plot_shrink(shrinks: Mapping[str, Shrink]) -> Figure:
    """A dot for each weight of both arms; the formulas as lines."""
    figure, panels = new_panels(1, 1, (7, 4.8))
    axes = panels[0, 0]
    axes.set(xscale="log", yscale="log")
    for (arm, arrays), colour in zip(shrinks.items(), (ORANGE, BLUE), strict=True):
        line = fit_shrink(arrays)
        x, y = arrays["root_v"][line.used], arrays["shrink"][line.used]
        dots = {"alpha": 0.4, "ms": 4, "mew": 0, "zorder": 3, "rasterized": True}
        axes.plot(x, y, ".", color=colour, **dots)
        label = f"{arm}: fitted slope {line.slope:+z.2f}"
        # The legend shows a larger dot without transparency.
        axes.plot([], [], "o", color=colour, label=label)
    x = np.array(axes.get_xlim())
    l2, decoupled = (float(arrays["rate"]) for arrays in shrinks.values())
    axes.plot(x, l2 / x, "k--", lw=1, label=r"L2 in theory: $\gamma\lambda/\sqrt{v}$")
    label = r"decoupled in theory: $\gamma\lambda$"
    axes.plot(x, np.full(2, decoupled), "k:", lw=1.3, label=label)
    axes.set_xlabel(r"$\sqrt{v}$ of the weight: the scale of its gradients")
    axes.set_ylabel("shrink: share of the weight\nthat decay removes in a step")
    axes.legend(frameon=False)
    return figure


def shrink_caption(shrinks: Mapping[str, Shrink], where: str) -> str:
    """What the figure shows, and which weights it does not show."""
    settings, excluded, slopes = [], [], []
    for arm, arrays in shrinks.items():
        rate, decay = (
            markdown.number(float(arrays[name]))
            for name in ("learning_rate", "weight_decay")
        )
        settings.append(f"`{arm}` at learning rate {rate} and λ = {decay}")
        line = fit_shrink(arrays)
        slopes.append(f"{line.slope:+z.3f} for `{arm}`")
        reasons = [f"{n} {reason}" for reason, n in line.excluded.items() if n > 0]
        text = f"{np.sum(~line.used)} of {line.used.size} weights of `{arm}`"
        excluded.append(f"{text} ({markdown.join(reasons)})" if reasons else text)
    return f"""\
![Shrink of each weight against the root of its second moment](mechanism.png)

*Each dot is a weight of a run on {where}, with the first final seed, in the epoch in
the middle of training: {markdown.join(settings)}. From the same state the optimizer is
called with λ and with λ = 0; the difference is the effect of the decay on this step.
For L2 it is divided by 1 − β₁ = 0.1, because momentum delays nine tenths of it to later
steps. Fitted slopes of log shrink on log √v: {markdown.join(slopes)}. These are
excluded, because their shrink cannot be measured: {markdown.join(excluded)}. A weight
has no gradient if its unit is never active or its input is always 0.*"""


# --- The spread of √v -------------------------------------------------------------


class Spread(NamedTuple):
    """How much the scales of the gradients differ, and how far AdamW is ahead."""

    setting: str
    task: str
    decades: float  # of √v, between its 10th and 90th percentile
    gap: Comparison


def read_spreads(results: Results, setting_of: Callable[[Entry], str]) -> list[Spread]:
    """In the order of the plan; `setting_of` returns the setting of an entry."""
    stored = read_measurements(results.folder, "spread-")
    measured = {arrays["entry"].item(): arrays for arrays in stored}
    spreads = []
    for entry in results.plan.entries:
        if entry.name in measured:
            # Stored are the percentiles 0 to 100.
            low, high = measured[entry.name]["root_v_percentiles"][[10, 90]]
            decades, setting = float(np.log10(high / low)), setting_of(entry)
            gap = compared(results, setting)
            spreads.append(Spread(setting, entry.labels["task"], decades, gap))
    return spreads


def plot_gap_by_spread(spreads: Sequence[Spread]) -> Figure:
    """The gap against the measured spread of √v, a colour for each task."""
    figure, panels = new_panels(1, 1, (7, 4.4))
    axes = panels[0, 0]
    tasks = list(dict.fromkeys(spread.task for spread in spreads))
    for task, colour in zip(tasks, (BLUE, ORANGE, GREEN, PINK), strict=False):
        mine = [spread for spread in spreads if spread.task == task]
        x = [spread.decades for spread in mine]
        y = [spread.gap.difference.mean for spread in mine]
        axes.plot(x, y, "o-", color=colour, lw=0.8, label=task)
        for spread, point in zip(mine, zip(x, y, strict=True), strict=True):
            if np.isfinite(spread.gap.difference.low):
                axes.vlines(spread.decades, *spread.gap.with_choice, color=colour)
            # "s = 1" if the setting is "digits, s = 1": the colour shows the task.
            name = spread.setting.removeprefix(f"{task}, ")
            offset = {"xytext": (6, -12), "textcoords": "offset points"}
            axes.annotate(name, point, fontsize=8, **offset)
    axes.axhline(0, color="0.5", lw=0.8)
    axes.set_xlim(0, 1.15 * max(spread.decades for spread in spreads))
    axes.set_xlabel("spread of √v: decades between its 10th and 90th percentile")
    axes.set_ylabel(GAP_LABEL)
    if len(tasks) < len(spreads):  # otherwise the names at the dots are the tasks
        axes.legend(frameon=False)
    return figure
