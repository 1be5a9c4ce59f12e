"""The report of `same`: what a weight without gradients becomes, how far runs part."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from experiments import files
from experiments.engine.store import read_manifest, read_pieces
from experiments.reports.drawing import save
from experiments.reports.markdown import table
from experiments.reports.opening import closing, listed, opening


ROUNDING = 1e-5  # of the weights, after a hundred float32 steps: a hundred gaps
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


def schedules_of(manifest: dict[str, Any]) -> list[str]:
    """Those of the plan; plans that do not name them had both."""
    return manifest["plan"].get("schedules", list(COLOURS))


def pairs(folder: Path, manifest: dict[str, Any]) -> list[Pair]:
    """Read and reduced."""
    found = []
    for base in manifest["plan"]["learning_rates"]:
        for schedule in schedules_of(manifest):
            (stored,) = read_pieces(folder, f"apart-{base}-{schedule}")
            ratios = stored["ratio"]
            median = np.median(stored["distance"], axis=1)
            best = int(np.argmin(median))
            same, none = (median[ratios == x].item() for x in (1, 0))
            closest = median[best].item(), ratios[best].item()
            found.append(Pair(base, schedule, same, *closest, none))
    return found


def conclusion(still: dict[str, np.ndarray], found: list[Pair]) -> str:
    """The answer, derived from the numbers."""
    cancels = [name for name, left in still.items() if _spread(left) < 0.01]
    matters = [name for name, left in still.items() if _spread(left) >= 0.01]
    ends = [f"{_said(name)} (it ends at {still[name][-1, -1]:.2f})" for name in cancels]
    same = [p for p in found if p.same < ROUNDING]
    parted = [p for p in found if p.same >= ROUNDING]
    told = [
        f"Without gradients λ cancels under {listed(ends) or 'none'}, whatever λ, and "
        f"matters under {listed(list(map(_said, matters))) or 'none'}.",
        "Two runs with the same λ stay together up to rounding under "
        f"{listed(_named(same)) or 'none'} and part under "
        f"{listed(_named(parted)) or 'none'}.",
    ]
    for base in dict.fromkeys(p.base for p in parted):
        closer = min(p.closest / p.none for p in parted if p.base == base)
        told.append(
            f"Under {base} the best other λ still leaves them {closer:.0%} as far "
            "apart as L2 is from no decay at all."
        )
    return " ".join(told)


def write_report(folder: Path) -> str:
    """Figure first, then report.md; returns the verdict."""
    manifest = read_manifest(folder)
    (stored,) = read_pieces(folder, "still")
    still = {name: array for name, array in stored.items() if "/" in name}
    found = pairs(folder, manifest)
    plan = manifest["plan"]
    save(figure(still, plan), folder / "cancels.png")
    save(parting(folder, manifest), folder / "parting.png")
    verdict = conclusion(still, found)
    question = """\
(a) Of a weight that gets no gradient, what do steps leave, and does λ matter? (b) A
network trained twice from the same start on the same batches, with λθ in the gradient
and with λθ behind the preconditioner: how far apart do the two runs get, and is there
another λ with which they would agree?"""
    text = f"""\
{opening("Are L2 and weight decay the same thing?", question, verdict, manifest)}

## A weight without gradients

![A weight without gradients under L2 and decoupled decay, three strengths](cancels.png)

*A dead unit, an embedding row that is not seen: {plan["still_steps"]} steps from 1 at
learning rate {plan["still_rate"]:g}. Where the three lines lie on one another, λ has
cancelled.*

{_still_table(still, plan)}

With L2 under RMSprop the step is γλθ/(√(average of λ²θ²) + ε), and Adam's alike: λ
divides out. What is left is a step of about γ, whatever λ: such a weight goes to 0 in
about 1/γ steps.

## Two runs of one network

![How far two runs part, against the ratio of their λ](parting.png)

*Digits with {plan["label_noise"]:.0%} wrong labels, an MLP 64-{plan["hidden"]}-10,
λ = {plan["weight_decay"]:g} in the gradient, {plan["steps"]} steps. Lines: medians over
{plan["seeds"]} seeds; bands from the least to the largest. Dashed: L2 against no
decay.*

{_pairs_table(found)}

Largest distance over the steps, ‖θ_L2 − θ_decoupled‖/‖θ_L2‖, median over seeds. Under
plain SGD the two are one formula (proposition 1), and what is left is rounding. With
momentum an L2 term is added up with the gradients, so that about λ/(1 − μ) decoupled
comes close after some steps, and not to the same run. Under RMSprop and Adam no other λ
is the same (proposition 2): every weight would need its own.

## Limits

- One network, {plan["steps"]} steps, one λ; learning rates
  {", ".join(f"{k} {v:g}" for k, v in plan["learning_rates"].items())}.
- A small distance is no statement about accuracy: for that see `why` and `tuning`.

{closing(manifest, "`still.npz`, `apart-*.npz`")}
"""
    files.write_text(folder / "report.md", text)
    return f"Verdict. {verdict}"


def _spread(left: np.ndarray) -> float:
    """How much the last values differ over the strengths, against the first value."""
    return float(np.ptp(left[:, -1]))


def _said(name: str) -> str:
    base, place = name.split("/")
    return f"{base} with {place}"


def _named(found: list[Pair]) -> list[str]:
    """Bases, each once; with the schedule where only one belongs here."""
    by_base: dict[str, list[str]] = {}
    for pair in found:
        by_base.setdefault(pair.base, []).append(pair.schedule)
    return [b if len(s) == 2 else f"{b} ({s[0]} rate)" for b, s in by_base.items()]


def _still_table(still: dict[str, np.ndarray], plan: dict[str, Any]) -> str:
    lines = [
        [*name.split("/"), *(f"{value:.4f}" for value in left[:, -1])]
        for name, left in still.items()
    ]
    header = "base, place, " + ", ".join(f"λ = {x:g}" for x in plan["still_decays"])
    return table(header, left=2, lines=lines)


def _pairs_table(found: list[Pair]) -> str:
    lines = [
        [
            *(p.base, p.schedule, f"{p.same:.1e}", f"{p.closest:.1e}"),
            f"{p.ratio:g}" if p.same >= ROUNDING else "1",
            f"{p.none:.1e}",
        ]
        for p in found
    ]
    header = "base, rate, same λ, best other λ, which is × λ, no decay"
    return table(header, left=2, lines=lines)


def figure(still: dict[str, np.ndarray], plan: dict[str, Any]) -> Figure:
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
    drawn.legend(
        *grid[0, 0].get_legend_handles_labels(),
        loc="outside upper center",
        ncols=3,
        frameon=False,
    )
    return drawn


def parting(folder: Path, manifest: dict[str, Any]) -> Figure:
    """Distance of two runs against the ratio of their strengths."""
    bases = list(manifest["plan"]["learning_rates"])
    drawn = Figure(figsize=(11, 3.4), layout="constrained")
    grid = drawn.subplots(1, len(bases), sharey=True)
    for axes, base in zip(grid, bases, strict=True):
        for schedule in schedules_of(manifest):
            colour = COLOURS[schedule]
            (stored,) = read_pieces(folder, f"apart-{base}-{schedule}")
            some = stored["ratio"] > 0
            ratios, distance = stored["ratio"][some], stored["distance"][some]
            axes.fill_between(
                ratios, distance.min(1), distance.max(1), color=colour, alpha=0.2, lw=0
            )
            label = f"{schedule} rate"
            axes.plot(ratios, np.median(distance, 1), color=colour, label=label)
            none = np.median(stored["distance"][~some])
            axes.axhline(none, color=colour, ls="--", lw=1)
        axes.set(xscale="log", yscale="log", title=base, xlabel="decoupled λ / λ of L2")
        axes.grid(alpha=0.3)
    grid[0].set_ylabel("distance / size of the weights")
    grid[0].legend(frameon=False, fontsize=8)
    return drawn
