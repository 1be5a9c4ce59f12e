"""The report of `same`: a weight without gradients, and the distance of two runs."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from experiments.engine.store import read_manifest, read_measurements
from experiments.reports.figures import save
from experiments.reports.markdown import listed, table
from experiments.reports.template import save_report


CANCELLED = 0.01  # of the first value: two ends that are nearer are the same
LARGEST = 2.0**10  # ratio that is drawn: beyond, decoupled decay overshoots 0 under SGD
ROUNDING = 1e-5  # of the weights, after a hundred float32 steps: a hundred gaps
FAR = 0.05  # of the distance to no decay: two runs beyond this are not one
QUESTION = """\
(a) Of a weight that gets no gradient, what do steps leave, and does λ matter? (b) A
network trained twice from the same start on the same batches, with λθ in the gradient
and with λθ behind the preconditioner: how far apart do the two runs get, and is there
another λ with which they would agree?"""
COLOURS = {"constant": "#0072B2", "cosine": "#D55E00"}
WIDTHS = (5.0, 2.6, 1.0)  # one line within the other, where they are the same


class Pair(NamedTuple):
    """How far two runs part, by base and schedule; medians over seeds."""

    base: str
    schedule: str
    same: float  # with the same λ
    closest: float  # with the best other λ
    ratio: float  # which is so many times that of L2
    none: float  # without any decoupled decay


def pairs(folder: Path, manifest: dict[str, Any]) -> list[Pair]:
    """Read and reduced."""
    found = []
    for base in manifest["plan"]["learning_rates"]:
        for schedule in manifest["plan"]["schedules"]:
            (stored,) = read_measurements(folder, f"apart-{base}-{schedule}")
            ratios = stored["ratio"]
            median = np.median(stored["distance"], axis=1)
            best = int(np.argmin(median))
            same, none = (median[ratios == x].item() for x in (1, 0))
            pair = Pair(
                base,
                schedule,
                same=same,
                closest=median[best].item(),
                ratio=ratios[best].item(),
                none=none,
            )
            found.append(pair)
    return found


def conclusion(still: dict[str, np.ndarray], found: list[Pair]) -> str:
    """The verdict, derived from the numbers."""
    cancels = [name for name, left in still.items() if _spread(left) < CANCELLED]
    matters = [name for name, left in still.items() if _spread(left) >= CANCELLED]
    ends = [
        f"{_optimizer_name(name)} (it ends at {still[name][-1, -1]:.2f})"
        for name in cancels
    ]
    same = [p for p in found if p.same < ROUNDING]
    parted = [p for p in found if p.same >= ROUNDING]
    sentences = [
        "A weight without gradients ends at the same value for every λ under "
        f"{listed(ends) or 'no optimizer'}; λ matters under "
        f"{listed(list(map(_optimizer_name, matters))) or 'no optimizer'}.",
        "Two runs with the same λ stay together up to rounding under "
        f"{listed(_base_names(same)) or 'no optimizer'} and part under "
        f"{listed(_base_names(parted)) or 'no optimizer'}.",
    ]
    closest = [
        f"{100 * min(p.closest / p.none for p in parted if p.base == base):.0f} % "
        f"({base})"
        for base in dict.fromkeys(p.base for p in parted)
    ]
    if closest:
        sentences.append(
            "With the best other λ the two runs are still apart by "
            f"{listed(closest)} of the distance between L2 and no decay."
        )
    return " ".join(sentences)


def claims(folder: Path) -> dict[str, str]:
    """Claims of the pairs of runs in words, to compare with those of other seeds."""
    found = {}
    for pair in pairs(folder, read_manifest(folder)):
        at = f"{pair.base}, {pair.schedule} rate"
        together = pair.same < ROUNDING
        found[f"{at}: with the same λ"] = (
            "one run up to rounding" if together else "two runs"
        )
        if not together:
            left = pair.closest / pair.none
            found[f"{at}: with the best other λ"] = (
                f"{'more than' if left > FAR else 'within'} {100 * FAR:.0f} % "
                "of the distance to no decay"
            )
    return found


def write_report(folder: Path) -> str:
    """Write the figures, then report.md; returns the verdict."""
    manifest = read_manifest(folder)
    (stored,) = read_measurements(folder, "still")
    still = {name: array for name, array in stored.items() if "/" in name}
    found, plan = pairs(folder, manifest), manifest["plan"]
    save(cancelling(still, plan), folder / "cancels.png")
    save(parting(folder, plan), folder / "parting.png")
    title = "Are L2 and weight decay the same thing?"
    return save_report(
        folder,
        title,
        QUESTION,
        conclusion(still, found),
        _without_gradients(still, plan),
        _two_runs(found, plan),
        stored="`still.npz`, `apart-*.npz`",
    )


def _without_gradients(still: dict[str, np.ndarray], plan: dict[str, Any]) -> str:
    lines = [
        [*name.split("/"), *(f"{value:.4f}" for value in left[:, -1])]
        for name, left in still.items()
    ]
    header = ["base", "place", *(f"λ = {x:g}" for x in plan["still_decays"])]
    return f"""\
## A weight without gradients

![A weight without gradients under L2 and decoupled decay, three strengths](cancels.png)

*A dead unit, an embedding row that is not seen: {plan["still_steps"]} steps from 1 at
learning rate {plan["still_rate"]:g}. Where the three lines lie on one another, λ has
cancelled.*

{table(header, 2, lines)}

With L2 under RMSprop the step is γλθ/(√(average of λ²θ²) + ε), and Adam's alike: λ
divides out. What is left is a step of about γ, so such a weight goes to 0 in about 1/γ
steps for every λ."""


def _two_runs(found: list[Pair], plan: dict[str, Any]) -> str:
    lines = [
        [
            p.base,
            p.schedule,
            f"{p.same:.1e}",
            f"{p.closest:.1e}",
            f"{p.ratio:g}" if p.same >= ROUNDING else "1",
            f"{p.none:.1e}",
            f"{100 * p.closest / p.none:.0f} %",
        ]
        for p in found
    ]
    header = (
        "base",
        "rate",
        "same λ",
        "best other λ",
        "which is × λ",
        "no decay",
        "best / no decay",
    )
    rates = ", ".join(f"{k} {v:g}" for k, v in plan["learning_rates"].items())
    return f"""\
## Two runs of one network

![How far two runs part, against the ratio of their λ](parting.png)

*Digits with {100 * plan["label_noise"]:.0f} % wrong labels, an MLP
64-{plan["hidden"]}-10, λ = {plan["weight_decay"]:g} in the gradient, {plan["steps"]}
steps. The distance between L2 and decoupled decay, as a share of the distance between
L2 and no decay: 0 is the same run, 1 is as far as no decay. Lines: medians over
{plan["seeds"]} seeds; bands from the smallest to the largest; dots: the best λ.*

{table(header, 2, lines)}

Largest distance over the steps, ‖θ_L2 − θ_decoupled‖/‖θ_L2‖, median over seeds. Under
plain SGD the two are one formula (proposition 1), and what is left is rounding. With
momentum an L2 term is added up with the gradients, so that about λ/(1 − μ) decoupled
comes close after some steps, and not to the same run. Under RMSprop and Adam no other λ
is the same (proposition 2): every weight would need its own.

## Limits

- One network, {plan["steps"]} steps, one λ; learning rates {rates}.
- A small distance says nothing about accuracy: for that see `why` and `tuning`."""


def _spread(left: np.ndarray) -> float:
    """How much the last values differ over the strengths, against the first value."""
    return float(np.ptp(left[:, -1]))


def _optimizer_name(name: str) -> str:
    base, place = name.split("/")
    return f"{base} with {place}"


def _base_names(found: list[Pair]) -> list[str]:
    """Bases, each once; with the schedule where only one belongs here."""
    by_base: dict[str, list[str]] = {}
    for pair in found:
        by_base.setdefault(pair.base, []).append(pair.schedule)
    return [b if len(s) == 2 else f"{b} ({s[0]} rate)" for b, s in by_base.items()]


def cancelling(still: dict[str, np.ndarray], plan: dict[str, Any]) -> Figure:
    """A column for each base, a row for each place, a line for each λ."""
    bases = list(dict.fromkeys(name.split("/")[0] for name in still))
    places = list(dict.fromkeys(name.split("/")[1] for name in still))
    drawn = Figure(figsize=(11, 5), layout="constrained")
    grid = drawn.subplots(len(places), len(bases), sharex=True, sharey=True)
    colours = ("#0072B2", "#009E73", "#D55E00")
    for row, place in enumerate(places):
        for column, base in enumerate(bases):
            axes = grid[row, column]
            for index, strength in enumerate(plan["still_decays"]):
                line = still[f"{base}/{place}"][index]
                look = {"color": colours[index], "lw": WIDTHS[index % 3]}
                axes.plot(line, label=f"λ = {strength:g}", **look)
            axes.grid(alpha=0.3)
            axes.set_title(f"{base}, {place}", fontsize=10)
        grid[row, 0].set_ylabel("the weight")
    for axes in grid[-1]:
        axes.set_xlabel("step")
    handles = grid[0, 0].get_legend_handles_labels()
    drawn.legend(*handles, loc="outside upper center", ncols=3, frameon=False)
    return drawn


def parting(folder: Path, plan: dict[str, Any]) -> Figure:
    """Distance of two runs against the ratio of their strengths."""
    bases = list(plan["learning_rates"])
    drawn = Figure(figsize=(11, 3.4), layout="constrained")
    grid = drawn.subplots(1, len(bases), sharey=True)
    for axes, base in zip(grid, bases, strict=True):
        for schedule in plan["schedules"]:
            (stored,) = read_measurements(folder, f"apart-{base}-{schedule}")
            ratios, distance = stored["ratio"], stored["distance"]
            shown = (ratios > 0) & (ratios <= LARGEST)
            share = (distance / np.median(distance[ratios == 0]))[shown]
            colour, median = COLOURS[schedule], np.median(share, 1)
            band = {"color": colour, "alpha": 0.2, "lw": 0}
            axes.fill_between(ratios[shown], share.min(1), share.max(1), **band)
            axes.plot(ratios[shown], median, color=colour, label=f"{schedule} rate")
            best = median.argmin()
            axes.plot(ratios[shown][best], median[best], "o", color=colour)
        axes.axhline(1, color="0.5", ls="--", lw=1)
        axes.set_xscale("log", base=2)
        axes.set(title=base, xlabel="decoupled λ / λ of L2", ylim=(-0.05, 2))
        axes.grid(alpha=0.3)
    grid[0].set_ylabel("distance, as a share of\nthe distance to no decay")
    grid[0].legend(frameon=False, fontsize=8)
    return drawn
