"""The report of `same`: a weight without gradients, and the distance of two runs."""

import itertools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from experiments.engine.store import read_manifest, read_measurements
from experiments.reports import figures, markdown
from experiments.reports.figures import BLUE, GREEN, ORANGE, save
from experiments.reports.template import save_report


CANCELLED = 0.01  # λ has cancelled if the final weights differ by less
LARGEST = 2.0**10  # ratio in the figure: beyond, decoupled decay overshoots 0 under SGD
ROUNDING = 1e-5  # of the weights, after a hundred float32 steps: about a hundred ulp
FAR = 0.05  # of the distance to no decay: two runs that are further apart differ
NO_BASE = "no optimizer"


class Pair(NamedTuple):
    """The distance of two runs, by base and schedule; medians over seeds."""

    base: str
    schedule: str
    same: float  # with the same λ
    closest: float  # with the best other λ
    ratio: float  # of the best λ to the λ of L2
    none: float  # between L2 and no decay


def read_pairs(folder: Path, plan: dict[str, Any]) -> list[Pair]:
    """Read and reduce the distances."""
    pairs = []
    for base, schedule in itertools.product(plan["learning_rates"], plan["schedules"]):
        (stored,) = read_measurements(folder, f"distance-{base}-{schedule}")
        ratios, median = stored["ratio"], np.median(stored["distance"], axis=1)
        best = int(np.argmin(median))
        same, none = (float(median[ratios == ratio].item()) for ratio in (1, 0))
        closest, ratio = median[best].item(), ratios[best].item()
        pairs.append(Pair(base, schedule, same, closest, ratio, none))
    return pairs


def conclusion(weights: dict[str, np.ndarray], pairs: list[Pair]) -> str:
    """The verdict, derived from the numbers.

    `weights` holds float[λ, steps + 1] by optimizer, such as "Adam/L2".
    """
    cancelled, matters = [], []
    for name, weight in weights.items():
        optimizer = name.replace("/", " with ")
        if np.ptp(weight[:, -1]) < CANCELLED:
            cancelled.append(f"{optimizer} (at {weight[-1, -1]:.2f})")
        else:
            matters.append(optimizer)
    equal = [pair for pair in pairs if pair.same < ROUNDING]
    different = [pair for pair in pairs if pair.same >= ROUNDING]
    text = (
        "A weight without gradients ends at the same value for every λ under "
        f"{markdown.join(cancelled) or NO_BASE}. λ changes the value under "
        f"{markdown.join(matters) or NO_BASE}. Two runs with the same λ are equal up "
        f"to rounding under {_bases(equal) or NO_BASE}. They differ under "
        f"{_bases(different) or NO_BASE}."
    )
    # For each base, the schedule with the smaller share.
    closest: dict[str, float] = {}
    for pair in different:
        share = pair.closest / pair.none
        closest[pair.base] = min(share, closest.get(pair.base, share))
    if closest:
        shares = [f"{100 * share:.0f} % ({base})" for base, share in closest.items()]
        text += (
            " Even with the best other λ, the two runs differ by "
            f"{markdown.join(shares)} of the distance between L2 and no decay."
        )
    return text


def _bases(pairs: list[Pair]) -> str:
    """The bases; with the schedule if the list has only one of the two."""
    schedules: dict[str, list[str]] = {}
    for pair in pairs:
        schedules.setdefault(pair.base, []).append(pair.schedule)
    return markdown.join(
        [
            base if len(names) == 2 else f"{base} ({names[0]} rate)"
            for base, names in schedules.items()
        ]
    )


def claims(folder: Path) -> dict[str, str]:
    """Claims about the pairs of runs in words, to compare with other seeds."""
    found = {}
    for pair in read_pairs(folder, read_manifest(folder)["plan"]):
        name = f"{pair.base}, {pair.schedule} rate: with the"
        equal = pair.same < ROUNDING
        found[f"{name} same λ"] = "equal up to rounding" if equal else "different runs"
        if not equal:
            far = "more than" if pair.closest / pair.none > FAR else "within"
            distance = f"{100 * FAR:.0f} % of the distance to no decay"
            found[f"{name} best other λ"] = f"{far} {distance}"
    return found


def write_report(folder: Path) -> str:
    """Write the figures, then report.md; returns the verdict."""
    plan = read_manifest(folder)["plan"]
    (stored,) = read_measurements(folder, "idle")
    weights = {name: array for name, array in stored.items() if "/" in name}
    pairs = read_pairs(folder, plan)
    save(plot_weights(weights, plan["idle_decays"]), folder / "without_gradients.png")
    save(plot_distances(folder, plan), folder / "distances.png")
    return save_report(
        folder,
        "same",
        conclusion(weights, pairs),
        weights=_weights_table(weights, plan["idle_decays"]),
        pairs=_pairs_table(pairs),
        label_noise=100 * plan["label_noise"],
        rates=", ".join(f"{base} {x:g}" for base, x in plan["learning_rates"].items()),
    )


def _weights_table(weights: dict[str, np.ndarray], decays: list[float]) -> str:
    """The final weights, by optimizer and λ."""
    columns = {
        "base": lambda name: name.split("/")[0],
        "place": lambda name: name.split("/")[1],
    }
    for i, decay in enumerate(decays):
        columns[f"λ = {decay:g}"] = lambda name, i=i: f"{weights[name][i, -1]:.4f}"
    return markdown.table(weights, columns, left=2)


def _pairs_table(pairs: list[Pair]) -> str:
    columns = {
        "base": lambda pair: pair.base,
        "rate": lambda pair: pair.schedule,
        "same λ": lambda pair: f"{pair.same:.1e}",
        "best other λ": lambda pair: f"{pair.closest:.1e}",
        # If the runs are equal, rounding errors would choose the best ratio.
        "best λ / λ of L2": lambda p: f"{p.ratio if p.same >= ROUNDING else 1:g}",
        "no decay": lambda pair: f"{pair.none:.1e}",
        "best / no decay": lambda pair: f"{100 * pair.closest / pair.none:.0f} %",
    }
    return markdown.table(pairs, columns, left=2)


def plot_weights(weights: dict[str, np.ndarray], decays: list[float]) -> Figure:
    """A column for each base, a row for each place, a line for each λ."""
    bases, shared = len(weights) // 2, {"sharex": True, "sharey": True}
    figure, panels = figures.new_panels(2, bases, (11, 5), **shared)
    # Lines that coincide stay visible, because each one is thinner than the one below.
    looks = (BLUE, 5.0), (GREEN, 2.6), (ORANGE, 1.0)
    # The places of one base follow one another, so columns are filled first.
    for axes, (name, lines) in zip(panels.T.flat, weights.items(), strict=True):
        for decay, line, (colour, width) in zip(decays, lines, looks, strict=True):
            axes.plot(line, label=f"λ = {decay:g}", color=colour, lw=width)
        axes.set_title(name.replace("/", ", "), fontsize=10)
    figures.label_edges(panels, "step", "the weight")
    figures.add_legend(figure, panels[0, 0])
    return figure


def plot_distances(folder: Path, plan: dict[str, Any]) -> Figure:
    """The distance of two runs against the ratio of their strengths."""
    bases = list(plan["learning_rates"])
    figure, panels = figures.new_panels(1, len(bases), (11, 3.4), sharey=True)
    colours = {"constant": BLUE, "cosine": ORANGE}
    for axes, base in zip(panels[0], bases, strict=True):
        for schedule in plan["schedules"]:
            (stored,) = read_measurements(folder, f"distance-{base}-{schedule}")
            ratios, distance = stored["ratio"], stored["distance"]
            drawn = (ratios > 0) & (ratios <= LARGEST)
            # The ratio 0 is no decay.
            share = (distance / np.median(distance[ratios == 0]))[drawn]
            x, median, colour = ratios[drawn], np.median(share, 1), colours[schedule]
            smallest, largest = share.min(1), share.max(1)
            axes.fill_between(x, smallest, largest, color=colour, alpha=0.2, lw=0)
            axes.plot(x, median, color=colour, label=f"{schedule} rate")
            best = median.argmin()
            axes.plot(x[best], median[best], "o", color=colour)
        axes.axhline(1, color="0.5", ls="--", lw=1)
        axes.set_xscale("log", base=2)
        axes.set(title=base, ylim=(-0.05, 2))
    ylabel = "distance, divided by\nthe distance to no decay"
    figures.label_edges(panels, "decoupled λ / λ of L2", ylabel)
    panels[0, 0].legend(frameon=False, fontsize=8)
    return figure
