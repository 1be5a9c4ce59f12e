"""The report on bfloat16 and its figures, made from the files of a run only."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from experiments import cells
from experiments.engine.store import read_manifest, read_measurements
from experiments.reports.figures import save
from experiments.reports.markdown import interval, listed, table
from experiments.reports.template import save_report
from experiments.statistics import Estimate, estimate


EXACT, PLAIN, INSIDE = "float32", "bf16", "bf16, float32 inside"
COMPENSATED = "compensated"
SHOWN = {  # colour, line, marker
    EXACT: ("#000000", "-", "o"),
    PLAIN: ("#D55E00", "-", "s"),
    INSIDE: ("#E69F00", "--", "^"),
    "stochastic": ("#0072B2", "-", "D"),
    COMPENSATED: ("#009E73", "-", "v"),
    "stochastic, moments too": ("#56B4E9", "--", "D"),
    "compensated, moments too": ("#66C2A5", "--", "v"),
}
FIXES = tuple(SHOWN)[3:]
# Without gradients all moments are 0, so their dtype does not matter.
DECAYED = tuple(name for name in SHOWN if "moments" not in name)
TESTED = "test_accuracy"
NOTHING = 0.01  # of the decay: a smaller fraction is called nothing
QUESTION = """\
Weights in bfloat16 are rounded after each step. How much of a decay is left, with and
without a cure, and does a network trained in pure bfloat16 end where the float32 run
ends?"""


class Retained(NamedTuple):
    """The fraction of weights left without gradients, by regression."""

    arm: str
    rate: float  # γλ
    kept: float  # of the weights
    carried: float  # of the weights with their residual, where the arm has one
    exact: float  # (1 − γλ)^steps


class Bf16Results(NamedTuple):
    """The files of a run."""

    kept: list[Retained]
    runs: cells.Table
    memory: dict[str, tuple[float, float]]  # bytes per weight, of weights and state
    manifest: dict[str, Any]


class Gap(NamedTuple):
    """How far an arm ends from float32 at one strength, paired by seed."""

    arm: str
    weight_decay: float
    rms_w: float  # mean over the seeds
    norm: Estimate  # of the ratio of rms_w, minus 1, in percent
    loss: Estimate  # difference of the training loss
    accuracy: Estimate  # difference of the test accuracy, in points


def read_results(folder: Path) -> Bf16Results:
    """Read the files of a run."""
    kept = [
        Retained(
            arrays["arm"].item(), *(float(arrays[x][i]) for x in Retained._fields[1:])
        )
        for arrays in read_measurements(folder, "kept-")
        for i in range(len(arrays["rate"]))
    ]
    (counted,) = read_measurements(folder, "memory")
    arms, *columns = (counted[name].tolist() for name in ("arm", "weights", "state"))
    memory = dict(zip(arms, zip(*columns, strict=True), strict=True))
    runs = cells.read_csv(folder / "cells.csv")
    return Bf16Results(kept, runs, memory, read_manifest(folder))


def gaps(stored: Bf16Results) -> list[Gap]:
    """Every arm against float32, for every strength."""
    found = []
    for strength in strengths_of(stored):
        exact = of_arm(stored, EXACT, strength)
        for arm in cells.unique(stored.runs, "arm"):
            mine = of_arm(stored, arm, strength)
            size, loss, right = (
                mine[name] - exact[name] for name in ("rms_w", "train_loss", TESTED)
            )
            off = map(estimate, (100 * size / exact["rms_w"], loss, 100 * right))
            found.append(Gap(arm, strength, float(mine["rms_w"].mean()), *off))
    return found


def strengths_of(stored: Bf16Results) -> list[float]:
    """All λ, the smallest first."""
    return np.unique(stored.runs["weight_decay"]).tolist()


def of_arm(stored: Bf16Results, arm: str, strength: float) -> cells.Table:
    """The runs of an arm at a strength, by seed as the plan has them."""
    return cells.where(stored.runs, arm=arm, weight_decay=strength)


def seed_std(stored: Bf16Results) -> dict[float, float]:
    """By strength: the standard deviation over seeds of float32's training loss."""
    losses = {s: of_arm(stored, EXACT, s)["train_loss"] for s in strengths_of(stored)}
    return {strength: float(np.std(x, ddof=1)) for strength, x in losses.items()}


def applied_fraction(kept: Retained) -> float:
    """The fraction of the decay that arrives, in weight and residual together."""
    return float(np.log(kept.carried) / np.log(kept.exact)) + 0.0  # no -0


def conclusion(stored: Bf16Results) -> str:
    """The verdict, derived from the numbers: first the weights without gradients."""
    plain = []
    for arm, name in ((PLAIN, "Plain bfloat16"), (INSIDE, "Float32 inside")):
        lost = [
            k.rate
            for k in stored.kept
            if k.arm == arm and applied_fraction(k) < NOTHING
        ]
        where = f"nothing up to γλ = {max(lost):g}" if lost else "at every rate tried"
        plain.append(f"{name} decays {where}.")
    cured = [applied_fraction(kept) for kept in stored.kept if kept.arm in FIXES]
    rates = [kept.rate for kept in stored.kept]
    return (
        f"Without gradients: {' '.join(plain)} With a cure {100 * min(cured):.0f} to "
        f"{100 * max(cured):.0f} % of the decay arrive, at every γλ from "
        f"{min(rates):g} to {max(rates):g}. {_training_in_words(stored)}"
    )


def _training_in_words(stored: Bf16Results) -> str:
    """How far trained networks end from float32, and why."""
    found, noise = gaps(stored), seed_std(stored)
    cured = [gap for gap in found if gap.arm in FIXES]
    norm = max(abs(gap.norm.mean) for gap in cured)
    loss = max(abs(gap.loss.mean) / noise[gap.weight_decay] for gap in cured)
    plain = [gap for gap in found if gap.arm == PLAIN]
    worst = max(plain, key=lambda gap: abs(gap.norm.mean))
    smaller = "smaller" if worst.norm.mean < 0 else "larger"
    better = "better" if worst.accuracy.mean > 0 else "worse"
    there = ": there is no decay there, so this is lost gradient steps, not lost decay"
    return (
        f"Trained with a cure, the weights end within {norm:.2f} % of float32's size, "
        f"the training loss within {loss:.2f} standard deviations over seeds. Plain "
        f"bfloat16 ends {abs(worst.norm.mean):.0f} % {smaller} at "
        f"λ = {worst.weight_decay:g}{'' if worst.weight_decay else there}. It tests "
        f"{abs(worst.accuracy.mean):.1f} points {better} there, with a training loss "
        f"{worst.loss.mean:+z.2f} off: with wrong labels, to learn less may be to "
        "generalise better."
    )


def claims(folder: Path) -> dict[str, str]:
    """Claims of the training runs in words, to compare with those of other seeds."""
    stored, found = read_results(folder), {}
    every = gaps(stored)
    for strength in strengths_of(stored):
        at = f"at λ = {strength:g}"
        cured = [g for g in every if g.arm in FIXES and g.weight_decay == strength]
        (plain,) = (g for g in every if (g.arm, g.weight_decay) == (PLAIN, strength))
        most = max(abs(gap.norm.mean) for gap in cured)
        found[f"size of the weights with a cure {at}"] = (
            "within 1 % of float32" if most < 1 else "more than 1 % from float32"
        )
        for name, gap in (
            ("size of the weights", plain.norm),
            ("training loss", plain.loss),
            ("test accuracy", plain.accuracy),
        ):
            found[f"{name} of plain bfloat16 {at}"] = _against(gap)
    return found


def _against(gap: Estimate) -> str:
    """Compared with float32, if the interval leaves out 0."""
    if gap.low <= 0 <= gap.high:
        return "no difference shown"
    return "larger than in float32" if gap.mean > 0 else "smaller than in float32"


def write_report(folder: Path) -> str:
    """Write the figures, then report.md; returns the verdict."""
    stored = read_results(folder)
    save(retained_figure(stored), folder / "kept.png")
    save(training_figure(stored), folder / "training.png")
    return save_report(
        folder,
        "Weight decay in bfloat16",
        QUESTION,
        conclusion(stored),
        _without_gradients(stored),
        _trained(stored),
        _memory_and_limits(stored),
        stored="`cells.csv`, `kept-*.npz`, `memory.npz`",
    )


def _without_gradients(stored: Bf16Results) -> str:
    plan, lines = stored.manifest["plan"], []
    for rate in sorted({kept.rate for kept in stored.kept}):
        found = {kept.arm: kept for kept in stored.kept if kept.rate == rate}
        shares = [
            f"{found[n].kept:.5f} [{applied_fraction(found[n]):.2f}]" for n in DECAYED
        ]
        lines.append([f"{rate:g}", f"{found[EXACT].exact:.5f}", *shares])
    return f"""\
## Without gradients

![Share of the decay that arrives, against its rate](kept.png)

*{plan["kept_weights"]} normal weights after {plan["kept_steps"]} steps of `optax.adamw`
at learning rate {plan["learning_rate"]:g} with gradients 0. Left: what is left of the
weights. Right: the share of the decay that arrives, log left / log exact. With
compensation what rounding cuts off waits in the residual, so the share counts weight
and residual. Dotted: the weights alone, which at the smallest rates did not move yet.*

{table(["γλ", "exact", *DECAYED], 0, lines)}

Weights left; in brackets the share of the decay that arrives, for compensation with the
residual. Exact is (1 − γλ) to the power of {plan["kept_steps"]}."""


def _trained(stored: Bf16Results) -> str:
    plan, lines = stored.manifest["plan"], []
    for gap in gaps(stored):
        off = [
            interval(each, digits, sign=True) if gap.arm != EXACT else "–"
            for each, digits in ((gap.norm, 2), (gap.loss, 4), (gap.accuracy, 2))
        ]
        lines.append([f"{gap.weight_decay:g}", gap.arm, f"{gap.rms_w:.4f}", *off])
    header = (
        "λ",
        "arm",
        "rms w",
        "rms w against float32, % [95 %]",
        "training loss − float32's [95 %]",
        "test accuracy − float32's [95 %]",
    )
    noise = [f"{x:.4f} (λ = {y:g})" for y, x in seed_std(stored).items()]
    return f"""\
## A network trained in bfloat16

Digits with {100 * plan["label_noise"]:.0f} % of the training labels redrawn, an MLP
64-{plan["hidden"]}-10, {plan["epochs"]} epochs of batches of {plan["batch"]}, cosine
learning rate from {plan["learning_rate"]:g} to 0, {plan["seeds"]} seeds which all arms
share; nothing is tuned. In the bfloat16 arms weights, activations and gradients are
bfloat16, the loss is float32.

![Root mean square of the weights and training loss by arm](training.png)

*Dots: seeds. Lines: mean of float32. At λ = 0 there is no decay: what plain bfloat16
loses there are steps of the gradient.*

{table(header, 2, lines)}

Differences are paired by seed. Intervals are bootstrap-t over seeds, each by itself,
and given for 10 seeds or more. The standard deviation over seeds of float32's training
loss is {listed(noise)}."""


def _memory_and_limits(stored: Bf16Results) -> str:
    lines = [
        [arm, f"{weights:g}", f"{state:g}", f"{weights + state:g}"]
        for arm, (weights, state) in stored.memory.items()
    ]
    return f"""\
## Memory

{table(["arm", "weights", "state", "together"], 1, lines)}

Bytes per weight between steps, from the arrays; a gradient of 2 or 4 bytes comes on
top. A float32 master copy beside bfloat16 weights would take 2 + 4 + 8 = 14.

## Limits

- All runs round with the same random bits; their seeds are those of data and weights.
- One small network. Where steps are much larger than the gap, rounding is dithered by
  them, and plain bfloat16 loses less.
- Moments in 16 bits are rounded stochastically; rounded to the nearest, an average with
  β = 0.999 stands still."""


def retained_figure(stored: Bf16Results) -> Figure:
    """What is left of the weights, and of the decay, against its rate."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for place, name in enumerate(DECAYED):
        colour, style, marker = SHOWN[name]
        mine = [kept for kept in stored.kept if kept.arm == name]
        rates = [kept.rate for kept in mine]
        # Curves lie on one another: markers of falling size, one in the next.
        look = {"color": colour, "ls": style, "marker": marker, "ms": 11 - 2 * place}
        look |= {"markerfacecolor": "none"}
        label = f"{name}, with residual" if name == COMPENSATED else name
        left.plot(rates, [kept.carried for kept in mine], **look)
        right.plot(
            rates, [applied_fraction(kept) for kept in mine], label=label, **look
        )
        if name == COMPENSATED:
            alone = [
                applied_fraction(kept._replace(carried=kept.kept)) for kept in mine
            ]
            right.plot(rates, alone, ":", color=colour, label=f"{name}, weights alone")
    left.set_ylabel("share of the weights that is left")
    right.set_ylabel("share of the decay that arrives")
    right.set_ylim(-0.1, 1.2)
    for axes in (left, right):
        axes.set(xscale="log", xlabel="rate γλ per step")
        axes.grid(alpha=0.3)
    right.legend(frameon=False, fontsize=8, loc="center")
    return figure


def training_figure(stored: Bf16Results) -> Figure:
    """Sizes of the weights and training losses, seeds as dots."""
    strengths, rng = strengths_of(stored), np.random.default_rng(0)
    figure = Figure(figsize=(11, 5.5), layout="constrained")
    grid = figure.subplots(2, len(strengths), squeeze=False)
    arms = [name for name in SHOWN if name in stored.runs["arm"]]
    for column, strength in zip(grid.T, strengths, strict=True):
        for axes, value in zip(column, ("rms_w", "train_loss"), strict=True):
            for place, name in enumerate(arms):
                mine = of_arm(stored, name, strength)[value]
                x = place + rng.uniform(-0.2, 0.2, len(mine))
                axes.plot(x, mine, ".", color=SHOWN[name][0], alpha=0.7)
                if name == EXACT:
                    axes.axhline(float(np.mean(mine)), color="black", lw=0.8)
            axes.grid(axis="y", alpha=0.3)
            axes.set_xticks(range(len(arms)), [""] * len(arms))
        names = [name.replace(", ", ",\n") for name in arms]
        column[1].set_xticks(range(len(arms)), names, rotation=90, fontsize=7)
        lost = "" if strength else ": no decay, lost gradient steps"
        column[0].set_title(f"λ = {strength:g}{lost}")
    grid[0, 0].set_ylabel("root mean square of the weights")
    grid[1, 0].set_ylabel("training loss")
    return figure
