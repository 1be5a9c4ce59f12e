"""The figures of `symmetry`."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.reports import figures
from experiments.reports.figures import BLUE, GREEN, GREY, ORANGE, PINK
from experiments.reports.symmetry_numbers import classes, GROUP, ratios, read, shown
from experiments.reports.symmetry_rows import (
    INVARIANT,
    KINDS,
    LEAST_WEIGHTS,
    OTHER,
    SHARE,
    Training,
)


COLOURS = dict(zip(KINDS, (BLUE, GREEN, ORANGE, GREY), strict=True))
LOWEST = 1e-8  # of a change that is drawn; a change of 0 has no logarithm
# Lines of the second figure, by class of directions: colour, style, label.
LINES = {
    "seen": (ORANGE, "-", "a seen leaf"),
    "joint": (GREEN, "-", "a joint leaf, alone"),
    GROUP: (GREEN, "--", "a joint group"),
    "all invariant leaves": (PINK, "-", "all invariant leaves"),
    INVARIANT: (BLUE, "-", "an invariant leaf"),
    "dead": (GREY, "-", "a dead leaf"),
    "all leaves": ("black", ":", "all leaves"),
}


def plot_angles(folder: Path, plan: dict[str, Any]) -> Figure:
    """Measured / predicted angle of each leaf: median, lowest and highest run."""
    networks, optimizers = list(plan["networks"]), list(plan["points"])
    figure, panels = figures.new_panels(
        len(networks), len(optimizers), (9, 4.8), sharey=True, sharex="row"
    )
    for row, network in zip(panels, networks, strict=True):
        for axes, optimizer in zip(row, optimizers, strict=True):
            stored = read(folder, f"equilibrium-{network}-{optimizer}")
            found = ratios(stored, plan["points"][optimizer], plan["betas"][optimizer])[
                "angle"
            ]
            order = np.array([KINDS.index(x) for x in stored["kinds"].tolist()])
            leaves = np.lexsort((-stored["sizes"], order))
            for kind in KINDS:
                x = np.flatnonzero(stored["kinds"][leaves] == kind)
                if len(x):
                    chosen = found[..., leaves[x]].reshape(-1, len(x))
                    median = np.median(chosen, 0)
                    errors = median - chosen.min(0), chosen.max(0) - median
                    sizes = stored["sizes"][leaves[x]]
                    axes.errorbar(x, median, errors, fmt="none", ecolor=COLOURS[kind])
                    filled = [
                        COLOURS[kind] if n >= LEAST_WEIGHTS else "w" for n in sizes
                    ]
                    axes.scatter(x, median, s=18, c=filled, ec=COLOURS[kind], zorder=3)
            axes.axhline(1, color="black", lw=1)
            axes.set(title=f"{network}, {shown(optimizer)}", yscale="log", xticks=[])
    figures.label_edges(
        panels, "leaves by kind, largest first", "measured / predicted angle"
    )
    handles = [
        panels[0, 0].scatter([], [], s=18, c=COLOURS[kind], label=kind)
        for kind in KINDS
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=4, frameon=False)
    return figure


def plot_norms(folder: Path, plan: dict[str, Any]) -> Figure:
    """The norm of each large leaf over its predicted norm, from both starts.

    Only the first network is drawn, because all networks would make a large file.
    """
    network, optimizers = next(iter(plan["networks"])), list(plan["points"])
    figure, panels = figures.new_panels(1, len(optimizers), (9, 3.4), sharey=True)
    for axes, optimizer in zip(panels[0], optimizers, strict=True):
        stored = read(folder, f"equilibrium-{network}-{optimizer}")
        large = stored["sizes"] >= LEAST_WEIGHTS
        # The first point; medians over seeds, [starts, times, leaves].
        curves = stored["curves"] / np.nanmedian(stored["equilibrium_norm"][0], (0, 1))
        x = np.linspace(0, plan["timescales"], curves.shape[1])
        # Invariant leaves first, so that the others are drawn above them.
        for kind in (INVARIANT, "joint", "seen"):
            for leaf in np.flatnonzero(large & (stored["kinds"] == kind)):
                axes.plot(x, curves[..., leaf].T, color=COLOURS[kind], lw=0.8)
            axes.plot([], [], color=COLOURS[kind], label=kind)
        axes.axhline(1, color="black", lw=1)
        axes.set(title=f"{network}, {shown(optimizer)}", yscale="log")
    figures.label_edges(panels, "steps · γλ", "norm / predicted norm")
    figures.add_legend(figure, panels[0, 0])
    return figure


def plot_scaling(folder: Path, plan: dict[str, Any]) -> Figure:
    """The change of the logits against c, by class of leaves."""
    networks = list(plan["networks"])
    figure, panels = figures.new_panels(1, len(networks), (9, 3.4), sharey=True)
    for axes, network in zip(panels[0], networks, strict=True):
        stored = read(folder, f"scaling-{network}")
        found = classes(stored)
        for name, (colour, style, label) in LINES.items():
            if name in found:
                # Most groups change nothing, so the largest change is drawn.
                over_leaves = np.max if name == GROUP else np.median
                change = np.median(over_leaves(stored["logits"][:, found[name]], 1), 0)
                axes.plot(
                    stored["factors"][1:],
                    np.maximum(change[1:], LOWEST),
                    color=colour,
                    ls=style,
                    marker=".",
                    label=label,
                )
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.invert_xaxis()
        axes.set_title(network)
    handles = {}
    for axes in panels[0]:
        found, labels = axes.get_legend_handles_labels()
        handles |= dict(zip(labels, found, strict=True))
    figure.legend(
        handles.values(), handles.keys(), loc="outside right upper", frameon=False
    )
    figures.label_edges(
        panels, "c = (1 − γλ)ᵏ, after k steps of decay", "relative change of the logits"
    )
    return figure


def plot_training(rows: list[Training]) -> Figure:
    """The gap of each compensated arm, as a share of the effect of decay, by seed."""
    networks = list(dict.fromkeys(row.network for row in rows))
    figure, panels = figures.new_panels(1, len(networks), (9, 3.4), sharey=True)
    for axes, network in zip(panels[0], networks, strict=True):
        chosen = [row for row in rows if row.network == network and row.matched]
        chosen.sort(key=lambda row: row.leaves == OTHER)
        for x, row in enumerate(chosen):
            colour = BLUE if row.leaves == INVARIANT else ORANGE
            shares = row.shares[np.isfinite(row.shares)]
            axes.plot(np.full(len(shares), x), shares, ".", color=colour)
            axes.plot(x, np.median(shares), "_", ms=20, color=colour)
        labels = [
            f"{row.base}\n{row.arm.replace(' and ', chr(10) + 'and ')}"
            for row in chosen
        ]
        axes.set_xticks(range(len(chosen)), labels, rotation=90, fontsize=8)
        axes.axhline(1, color="black", lw=1)
        axes.axhline(SHARE, color="black", lw=1, ls=":")
        axes.set(title=network, yscale="log")
    panels[0, 0].set_ylabel("gap to decay / effect of decay")
    handles = [
        panels[0, 0].plot([], [], ".", color=colour, label=label)[0]
        for colour, label in ((BLUE, "invariant leaves"), (ORANGE, "all other leaves"))
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False)
    return figure
