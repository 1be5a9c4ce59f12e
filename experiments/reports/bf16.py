"""The report on bfloat16 and its figures, made from the files of a run alone."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from experiments import cells, files
from experiments.engine.store import read_manifest, read_pieces
from experiments.reports.drawing import save
from experiments.reports.markdown import table
from experiments.reports.opening import closing, INTERVALS, opening
from experiments.statistics import Estimate, estimate


EXACT, PLAIN, INSIDE = "float32", "bf16", "bf16, float32 inside"
CURES = (
    "stochastic",
    "compensated",
    "stochastic, moments too",
    "compensated, moments too",
)
SHOWN = {
    EXACT: ("#000000", "-"),
    PLAIN: ("#D55E00", "-"),
    INSIDE: ("#E69F00", "--"),
    "stochastic": ("#0072B2", "-"),
    "compensated": ("#009E73", "-"),
    "stochastic, moments too": ("#56B4E9", "--"),
    "compensated, moments too": ("#66C2A5", "--"),
}


# Moments are 0 where there are no gradients.
DECAYED = tuple(name for name in SHOWN if "moments" not in name)


class Kept(NamedTuple):
    """What is left of weights without gradients."""

    arm: str
    rate: float  # γλ
    kept: float  # by regression on the initial weights
    exact: float  # (1 − γλ)^steps


class Memory(NamedTuple):
    """Bytes per weight, gradients not counted."""

    arm: str
    weights: float
    state: float


class Stored(NamedTuple):
    """What a run has left in its folder."""

    kept: list[Kept]
    runs: cells.Table
    memory: list[Memory]
    manifest: dict[str, Any]


class Gap(NamedTuple):
    """How far an arm ends from float32 at one strength, paired by seed."""

    arm: str
    weight_decay: float
    rms_w: float  # mean over the seeds
    norm: Estimate  # of the ratio of rms_w, minus 1
    loss: Estimate  # difference of the training loss
    accuracy: Estimate  # difference of the test accuracy, in points


def read(folder: Path) -> Stored:
    """The files of a run."""
    kept = [
        Kept(piece["arm"].item(), *(float(piece[x][i]) for x in Kept._fields[1:]))
        for piece in read_pieces(folder, "kept-")
        for i in range(len(piece["rate"]))
    ]
    (counted,) = read_pieces(folder, "memory")
    columns = zip(*(counted[name].tolist() for name in Memory._fields), strict=True)
    memory = [Memory(*row) for row in columns]
    runs = cells.read(folder / "cells.csv")
    return Stored(kept, runs, memory, read_manifest(folder))


def gaps(stored: Stored) -> list[Gap]:
    """Every arm against float32, for every strength."""
    found = []
    for strength in np.unique(stored.runs["weight_decay"]):
        exact = of_arm(stored, EXACT, strength)
        for arm in cells.unique(stored.runs, "arm"):
            mine = of_arm(stored, arm, strength)
            right = 100 * (mine["test_accuracy"] - exact["test_accuracy"])
            found.append(
                Gap(
                    arm,
                    float(strength),
                    float(mine["rms_w"].mean()),
                    estimate(mine["rms_w"] / exact["rms_w"] - 1.0),
                    estimate(mine["train_loss"] - exact["train_loss"]),
                    estimate(right),
                )
            )
    return found


def of_arm(stored: Stored, arm: str, strength: float) -> cells.Table:
    """The runs of an arm at a strength, by seed as the plan has them."""
    return cells.where(stored.runs, arm=arm, weight_decay=strength)


def seed_noise(stored: Stored) -> dict[float, float]:
    """By strength: the standard deviation over seeds of float32's training loss."""
    return {
        float(strength): float(
            np.std(of_arm(stored, EXACT, strength)["train_loss"], ddof=1)
        )
        for strength in np.unique(stored.runs["weight_decay"])
    }


def arrives(kept: Kept) -> float:
    """The share of the decay that is left: log kept / log exact."""
    return float(np.log(kept.kept) / np.log(kept.exact)) + 0.0  # no -0


def conclusion(stored: Stored) -> str:
    """The answer to the question, derived from the numbers."""
    lost = [k.rate for k in stored.kept if k.arm == PLAIN and arrives(k) < 0.01]
    inside = [k.rate for k in stored.kept if k.arm == INSIDE and arrives(k) < 0.01]
    told = [
        f"Without gradients plain bfloat16 decays nothing up to γλ = {max(lost):g}"
        if lost
        else "Plain bfloat16 decays at every rate tried",
        f"nor does float32 arithmetic with ordinary rounding (up to {max(inside):g})"
        if inside
        else "float32 arithmetic with ordinary rounding decays",
    ]
    cured = [
        abs(arrives(k) - 1)
        for k in stored.kept
        if k.arm in CURES[:2] and 1e-5 <= k.rate <= 1e-3
    ]
    found = gaps(stored)
    norms = {
        group: max(abs(gap.norm.mean) for gap in found if gap.arm in arms)
        for group, arms in {"cure": CURES, "plain": (PLAIN,)}.items()
    }
    plain = {gap.weight_decay: gap for gap in found if gap.arm == PLAIN}
    right = max(plain.values(), key=lambda gap: abs(gap.accuracy.mean)).accuracy.mean
    loss = max(plain.values(), key=lambda gap: abs(gap.loss.mean)).loss.mean
    noise = seed_noise(stored)
    losses = max(
        abs(gap.loss.mean) / noise[gap.weight_decay]
        for gap in found
        if gap.arm in CURES
    )
    told = [
        f"{', '.join(told)}; with a cure {1 - max(cured):.1%} of it or more arrive "
        "between γλ = 1e-5 and 1e-3.",
        "Trained in bfloat16 with a cure, the weights end within "
        f"{norms['cure']:.1%} of float32's root mean square at every strength (without "
        f"one up to {norms['plain']:.0%} off), and the training loss within "
        f"{losses:.2f} standard deviations of float32's over seeds.",
        "Plain bfloat16 loses steps of the gradient, too: its training loss is up to "
        f"{loss:+.2f} off, its test accuracy up to {right:+.1f} points (here, with "
        "wrong labels, to learn less may be to generalise better).",
    ]
    return " ".join(told)


def write_report(folder: Path) -> str:
    """Figures first, then report.md; returns the verdict."""
    stored = read(folder)
    save(kept_figure(stored), folder / "kept.png")
    save(training_figure(stored), folder / "training.png")
    plan = stored.manifest["plan"]
    question = """\
Weights in bfloat16 are rounded after each step. How much of a decay is
left, with and without a cure, and does a network trained in pure bfloat16 end where the
float32 run ends?"""
    verdict = conclusion(stored)
    title = "Weight decay in bfloat16"
    text = f"""\
{opening(title, question, verdict, stored.manifest)}

## Without gradients

![Share of the decay that arrives, against its rate](kept.png)

*{plan["kept_weights"]} normal weights after {plan["kept_steps"]} steps of
`optax.adamw` at learning rate {plan["learning_rate"]:g} with gradients 0. Left: what is
left of the weights, by regression on what they were. Right: the share of the decay that
arrives, log kept / log exact; compensated weights at the smallest rates have lost less
than half a gap, which is still in their residual.*

{_kept_table(stored)}

Kept; in brackets the share of the decay that arrives. Exact is (1 − γλ) to the power of
{plan["kept_steps"]}.

## A network trained in bfloat16

Digits with {plan["label_noise"]:.0%} of the training labels redrawn, an MLP
64-{plan["hidden"]}-10, {plan["epochs"]} epochs of batches of {plan["batch"]}, cosine
learning rate from {plan["learning_rate"]:g} to 0, {plan["seeds"]} seeds which all arms
share; nothing is tuned. In the bfloat16 arms weights, activations and gradients are
bfloat16, the loss is float32.

![Root mean square of the weights and training loss by arm](training.png)

*Dots: seeds. Lines: mean of float32.*

{_training_table(stored)}

Differences from float32 are paired by seed. The standard deviation over seeds of
float32's training loss is {_noise(stored)}.

{INTERVALS}

## Memory

{_memory_table(stored)}

Bytes per weight between steps, from the arrays; a gradient of 2 or 4 bytes comes on
top. A float32 master copy beside bfloat16 weights would take 2 + 4 + 8 = 14.

## Limits

- All runs round with the same random bits; their seeds are those of data and weights.
- One small network. Where steps are much larger than the gap, rounding is dithered by
  them, and plain bfloat16 loses less.
- Moments in 16 bits are rounded stochastically; rounded to the nearest, an average with
  β = 0.999 stands still.

{closing(stored.manifest, "`cells.csv`, `kept-*.npz`, `memory.npz`")}
"""
    files.write_text(folder / "report.md", text)
    return f"Verdict. {verdict}"


def _kept_table(stored: Stored) -> str:
    lines = []
    for rate in sorted({kept.rate for kept in stored.kept}):
        found = {kept.arm: kept for kept in stored.kept if kept.rate == rate}
        cells = [f"{found[n].kept:.5f} [{arrives(found[n]):.2f}]" for n in DECAYED]
        lines.append([f"{rate:g}", f"{found[EXACT].exact:.5f}", *cells])
    header = "γλ, exact, " + ", ".join(name.replace(",", " and") for name in DECAYED)
    return table(header, left=0, lines=lines)


def _training_table(stored: Stored) -> str:
    def interval(x: Estimate, unit: float, digits: int) -> str:
        mean, low, high = (unit * v for v in (x.mean, x.low, x.high))
        return f"{mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"

    lines = [
        [
            f"{gap.weight_decay:g}",
            gap.arm,
            f"{gap.rms_w:.4f}",
            *(
                ["", "", ""]
                if gap.arm == EXACT
                else [
                    interval(gap.norm, 100, 2),
                    interval(gap.loss, 1, 4),
                    interval(gap.accuracy, 1, 2),
                ]
            ),
        ]
        for gap in gaps(stored)
    ]
    header = "λ, arm, rms w, rms w against float32 %, training loss −, test accuracy −"
    return table(header, left=2, lines=lines)


def _noise(stored: Stored) -> str:
    noise = seed_noise(stored)
    return ", ".join(f"{value:.4f} (λ = {x:g})" for x, value in noise.items())


def _memory_table(stored: Stored) -> str:
    lines = [
        [m.arm, f"{m.weights:g}", f"{m.state:g}", f"{m.weights + m.state:g}"]
        for m in stored.memory
    ]
    return table("arm, weights, state, together", left=1, lines=lines)


def kept_figure(stored: Stored) -> Figure:
    """What is left of the weights, and of the decay, against its rate."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for place, name in enumerate(DECAYED):
        colour, style = SHOWN[name]
        mine = [kept for kept in stored.kept if kept.arm == name]
        rates = [kept.rate for kept in mine]
        # Curves lie on one another: markers of falling size, one in the next.
        look = {
            "color": colour,
            "linestyle": style,
            "lw": 1.5,
            "marker": "os^Dv"[place],
        }
        look |= {"ms": 11 - 2 * place, "markerfacecolor": "none"}
        left.plot(rates, [kept.kept for kept in mine], label=name, **look)
        right.plot(rates, [arrives(kept) for kept in mine], label=name, **look)
    left.set_ylabel("weights left")
    right.set_ylabel("share of the decay that arrives")
    right.set_ylim(-0.1, 1.2)
    for axes in (left, right):
        axes.set(xscale="log", xlabel="rate γλ per step")
        axes.grid(alpha=0.3)
    left.legend(frameon=False, fontsize=8)
    return figure


def training_figure(stored: Stored) -> Figure:
    """Sizes of the weights and training losses, seeds as dots."""
    strengths = np.unique(stored.runs["weight_decay"]).tolist()
    figure = Figure(figsize=(11, 5.5), layout="constrained")
    grid = figure.subplots(2, len(strengths), squeeze=False)
    rng = np.random.default_rng(0)
    for column, strength in enumerate(strengths):
        for row, value in enumerate(("rms_w", "train_loss")):
            axes = grid[row, column]
            for place, (name, (colour, _)) in enumerate(SHOWN.items()):
                mine = of_arm(stored, name, strength)[value]
                x = place + rng.uniform(-0.2, 0.2, len(mine))
                axes.plot(x, mine, ".", color=colour, alpha=0.7)
                if name == EXACT:
                    axes.axhline(float(np.mean(mine)), color="black", lw=0.8)
            axes.grid(axis="y", alpha=0.3)
            names = [name.replace(", ", ",\n") for name in SHOWN] if row else []
            axes.set_xticks(range(len(SHOWN)), names or [""] * len(SHOWN))
            axes.tick_params(axis="x", rotation=90, labelsize=7)
        grid[0, column].set_title(f"λ = {strength:g}")
    grid[0, 0].set_ylabel("root mean square of the weights")
    grid[1, 0].set_ylabel("training loss")
    return figure
