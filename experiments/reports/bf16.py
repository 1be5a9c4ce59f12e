"""The report of `bf16` and its figures, made from the files of a run only."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from experiments import cells
from experiments.engine.store import read_manifest, read_measurements
from experiments.reports import markdown
from experiments.reports.figures import BLUE, GREEN, new_panels, ORANGE, save
from experiments.reports.template import save_report
from experiments.statistics import Estimate, estimate


EXACT, PLAIN, INSIDE = "float32", "bf16", "bf16, float32 inside"
LOOKS = {  # colour, line, marker
    EXACT: ("black", "-", "o"),
    PLAIN: (ORANGE, "-", "s"),
    INSIDE: ("#E69F00", "--", "^"),
    "stochastic": (BLUE, "-", "D"),
    "compensated": (GREEN, "-", "v"),
    "stochastic, moments too": ("#56B4E9", "--", "D"),
    "compensated, moments too": ("#66C2A5", "--", "v"),
}
FIXES = tuple(name for name in LOOKS if name not in (EXACT, PLAIN, INSIDE))
# Without gradients all moments are 0, so their dtype does not matter.
DECAYED = tuple(name for name in LOOKS if "moments" not in name)
NO_DECAY = 0.01  # a smaller fraction of the decay counts as no decay
SIZE, LOSS, ACCURACY = "weight norm, %", "training loss", "test accuracy, points"
DIGITS = {SIZE: 2, LOSS: 4, ACCURACY: 2}
Arrays = dict[str, np.ndarray]


class Bf16Results(NamedTuple):
    """The files of a run."""

    retained: dict[str, Arrays]  # of each arm, by rate: see `applied`
    runs: cells.Table
    memory: Arrays  # bytes per weight by arm, of weights and state
    manifest: dict[str, Any]


class Gap(NamedTuple):
    """The difference between an arm and float32 at one strength, paired by seed."""

    arm: str
    weight_decay: float
    rms_w: float  # mean over the seeds
    differences: dict[str, Estimate]  # by measure


def read_results(folder: Path) -> Bf16Results:
    """Read the files of a run."""
    measured = read_measurements(folder, "retained-")
    retained = {arrays["arm"].item(): arrays for arrays in measured}
    (memory,) = read_measurements(folder, "memory")
    runs = cells.read_csv(folder / "cells.csv")
    return Bf16Results(retained, runs, memory, read_manifest(folder))


def applied(arrays: Arrays, name: str = "with_residual") -> np.ndarray:
    """The fraction of the decay that is applied, by rate: log remaining / log exact.

    The fraction of the weights that remains is `exact` in exact arithmetic, `weights`
    in the arm, and `with_residual` if the residual of the arm is added to its weights.
    """
    return np.log(arrays[name]) / np.log(arrays["exact"]) + 0.0  # 0.0 instead of -0.0


def gaps(results: Bf16Results) -> list[Gap]:
    """Every arm against float32, for every strength."""
    found = []
    for strength in strengths_of(results):
        exact = runs_of(results, EXACT, strength)
        for arm in cells.unique(results.runs, "arm"):
            runs = runs_of(results, arm, strength)
            loss, right = (
                runs[name] - exact[name] for name in ("train_loss", "test_accuracy")
            )
            ratio = 100 * (runs["rms_w"] / exact["rms_w"] - 1)
            differences = {SIZE: ratio, LOSS: loss, ACCURACY: 100 * right}
            estimates = {name: estimate(x) for name, x in differences.items()}
            found.append(Gap(arm, strength, float(runs["rms_w"].mean()), estimates))
    return found


def strengths_of(results: Bf16Results) -> list[float]:
    """All λ, the smallest first."""
    return np.unique(results.runs["weight_decay"]).tolist()


def runs_of(results: Bf16Results, arm: str, strength: float) -> cells.Table:
    """The runs of an arm at one strength, ordered by seed."""
    return cells.where(results.runs, arm=arm, weight_decay=strength)


def seed_std(results: Bf16Results, strength: float) -> float:
    """The standard deviation over seeds of float32's training loss."""
    return float(np.std(runs_of(results, EXACT, strength)["train_loss"], ddof=1))


def conclusion(results: Bf16Results) -> str:
    """The verdict, derived from the numbers: first the weights without gradients."""
    sentences = []
    for arm, name in (
        (PLAIN, "plain bfloat16"),
        (INSIDE, "bfloat16 with float32 inside the optimizer"),
    ):
        arrays = results.retained[arm]
        lost = arrays["rate"][applied(arrays) < NO_DECAY]
        decays = f"does not decay for γλ ≤ {lost.max():g}" if len(lost) else "decays"
        sentences.append(f"{name} {decays}")
    fixed = {arm: x for arm, x in results.retained.items() if arm in FIXES}
    shares = 100 * np.concatenate([applied(arrays) for arrays in fixed.values()])
    rates = results.retained[EXACT]["rate"]
    return (
        f"Without gradients, {'; '.join(sentences)}. Stochastic rounding and "
        f"compensation apply {shares.min():.0f} to {shares.max():.0f} % of the decay, "
        f"for γλ from {rates.min():g} to {rates.max():g}. {_training_text(results)}"
    )


def _training_text(results: Bf16Results) -> str:
    """How much trained networks differ from float32, and why."""
    found = gaps(results)
    fixed = [gap for gap in found if gap.arm in FIXES]
    size = max(abs(gap.differences[SIZE].mean) for gap in fixed)
    loss = max(
        abs(gap.differences[LOSS].mean) / seed_std(results, gap.weight_decay)
        for gap in fixed
    )
    plain = [gap for gap in found if gap.arm == PLAIN]
    worst = max(plain, key=lambda gap: abs(gap.differences[SIZE].mean))
    means = {name: x.mean for name, x in worst.differences.items()}
    reason = ""
    if worst.weight_decay == 0:
        reason = " At λ = 0 nothing decays: here it loses gradient steps, not decay."
    return (
        "After training with stochastic rounding or compensation, the weight norm is "
        f"within {size:.2f} % of float32, and the training loss is within "
        f"{loss:.2f} standard deviations over seeds. Plain bfloat16 differs most at "
        f"λ = {worst.weight_decay:g}: its weight norm is {abs(means[SIZE]):.0f} % "
        f"{'smaller' if means[SIZE] < 0 else 'larger'}, its training loss differs by "
        f"{means[LOSS]:+z.2f}, and its test accuracy is {abs(means[ACCURACY]):.1f} "
        f"points {'better' if means[ACCURACY] > 0 else 'worse'}.{reason} With wrong "
        "labels, a network that learns less can generalise better."
    )


def claims(folder: Path) -> dict[str, str]:
    """Claims about the training runs in words, to compare with other seeds."""
    results = read_results(folder)
    found, every = {}, gaps(results)
    for strength in strengths_of(results):
        at = f"at λ = {strength:g}"
        mine = {gap.arm: gap for gap in every if gap.weight_decay == strength}
        sizes = [abs(mine[arm].differences[SIZE].mean) for arm in FIXES if arm in mine]
        near = "within 1 % of" if max(sizes) < 1 else "more than 1 % from"
        found[f"weight norm with rounding or compensation {at}"] = f"{near} float32"
        for name, (mean, low, high, _) in mine[PLAIN].differences.items():
            verdict = "larger than float32" if mean > 0 else "smaller than float32"
            if low <= 0 <= high:
                verdict = "no difference shown"
            found[f"{name.split(',')[0]} of plain bfloat16 {at}"] = verdict
    return found


def write_report(folder: Path) -> str:
    """Write the figures, then report.md; returns the verdict."""
    results = read_results(folder)
    save(plot_retained(results), folder / "kept.png")
    save(plot_training(results), folder / "training.png")
    plan, strengths = results.manifest["plan"], strengths_of(results)
    noise = [f"{seed_std(results, x):.4f} (λ = {x:g})" for x in strengths]
    return save_report(
        folder,
        "bf16",
        conclusion(results),
        retained=_retained_table(results.retained),
        label_noise=100 * plan["label_noise"],
        trained=_training_table(gaps(results)),
        seed_std=markdown.join(noise),
        memory=_memory_table(results.memory),
    )


def _retained_table(retained: dict[str, Arrays]) -> str:
    """A line for each rate; `columns` take its index."""
    exact = retained[EXACT]
    columns = {
        "γλ": lambda i: f"{exact['rate'][i]:g}",
        "exact": lambda i: f"{exact['exact'][i]:.5f}",
    }
    for arm in DECAYED:
        columns[arm] = lambda i, arrays=retained[arm]: (
            f"{arrays['weights'][i]:.5f} [{applied(arrays)[i]:.2f}]"
        )
    return markdown.table(range(len(exact["rate"])), columns, left=0)


def _training_table(found: list[Gap]) -> str:
    columns = {
        "λ": lambda gap: f"{gap.weight_decay:g}",
        "arm": lambda gap: gap.arm,
        "rms w": lambda gap: f"{gap.rms_w:.4f}",
    }
    for name, digits in DIGITS.items():
        columns[f"{name} [95 %]"] = lambda gap, name=name, digits=digits: (
            markdown.estimate(gap.differences[name], digits, sign=True)
            if gap.arm != EXACT
            else "–"
        )
    return markdown.table(found, columns, left=2)


def _memory_table(memory: Arrays) -> str:
    columns = {"arm": lambda i: str(memory["arm"][i])}
    for name in ("weights", "state"):
        columns[name] = lambda i, name=name: f"{memory[name][i]:g}"
    columns["together"] = lambda i: f"{memory['weights'][i] + memory['state'][i]:g}"
    return markdown.table(range(len(memory["arm"])), columns)


def plot_retained(results: Bf16Results) -> Figure:
    """The fractions of the weights and of the decay, against the rate."""
    figure, panels = new_panels(1, 2, (10, 4))
    left, right = panels[0]
    for index, name in enumerate(DECAYED):
        colour, style, marker = LOOKS[name]
        arrays = results.retained[name]
        # Curves coincide: smaller and smaller markers keep all of them visible.
        look = {"color": colour, "ls": style, "marker": marker, "ms": 11 - 2 * index}
        look |= {"markerfacecolor": "none"}
        left.plot(arrays["rate"], arrays["with_residual"], **look)
        right.plot(arrays["rate"], applied(arrays), label=name, **look)
        if name == "compensated":
            label = f"{name}, without residual"
            alone = applied(arrays, "weights")
            right.plot(arrays["rate"], alone, ":", color=colour, label=label)
    x = {"xscale": "log", "xlabel": "rate γλ per step"}
    left.set(ylabel="fraction of the weights that remains", **x)
    right.set(ylabel="fraction of the decay that is applied", ylim=(-0.1, 1.2), **x)
    right.legend(frameon=False, fontsize=8, loc="center")
    return figure


def plot_training(results: Bf16Results) -> Figure:
    """The size of the weights and the training loss by arm, a dot for each seed."""
    strengths, rng = strengths_of(results), np.random.default_rng(0)
    figure, panels = new_panels(2, len(strengths), (11, 5.5))
    arms = [name for name in LOOKS if name in results.runs["arm"]]
    for (row, column), axes in np.ndenumerate(panels):
        value, strength = ("rms_w", "train_loss")[row], strengths[column]
        for index, name in enumerate(arms):
            y = runs_of(results, name, strength)[value]
            x = index + rng.uniform(-0.2, 0.2, len(y))
            axes.plot(x, y, ".", color=LOOKS[name][0], alpha=0.7)
        mean = float(runs_of(results, EXACT, strength)[value].mean())
        axes.axhline(mean, color="black", lw=0.8)
        axes.grid(visible=False, axis="x")
        names = [name.replace(", ", ",\n") if row == 1 else "" for name in arms]
        axes.set_xticks(range(len(arms)), names, rotation=90, fontsize=7)
    for axes, strength in zip(panels[0], strengths, strict=True):
        note = "" if strength > 0 else ": no decay, lost gradient steps"
        axes.set_title(f"λ = {strength:g}{note}")
    panels[0, 0].set_ylabel("root mean square of the weights")
    panels[1, 0].set_ylabel("training loss")
    return figure
