"""The report and its figures, made from the files of a run and from nothing else."""

from pathlib import Path
from typing import Any

from experiments import cells, files
from experiments.engine.store import read_manifest, read_pieces
from experiments.reports import demo_figures as figures
from experiments.reports.demo_analysis import (
    analyse,
    Analysis,
    DECOUPLED,
    L2,
    SHRINK_ARMS,
    TUNING,
)
from experiments.reports.drawing import save
from experiments.reports.markdown import (
    accuracy_and_sizes,
    arm_cells,
    comparison_cells,
    table,
)
from experiments.reports.opening import closing, INTERVALS, listed, opening
from experiments.reports.shrink import NO_GRADIENT, shrink_line, TINY


def write_report(folder: Path) -> str:
    """Figures first, then report.md, from the files of a run; returns the verdict."""
    runs = cells.read(folder / "cells.csv")
    manifest, arrays = read_manifest(folder), stored_arrays(folder)
    analysis = analyse(runs)
    save(figures.accuracy(runs, analysis), folder / "accuracy.png")
    save(figures.mechanism(arrays), folder / "mechanism.png")
    save(figures.heatmaps(runs, analysis), folder / "heatmaps.png")
    save(figures.weights(arrays, analysis), folder / "weights.png")
    text = "\n\n".join(
        [
            _opening(analysis, manifest),
            _protocol(manifest),
            _results(analysis),
            _mechanism(arrays, analysis),
            _maps(),
            _limits(manifest),
        ]
    )
    files.write_text(folder / "report.md", text + "\n")
    return f"{_summary(analysis)}\n\nVerdict. {conclusion(analysis)}"


def stored_arrays(folder: Path) -> figures.Arrays:
    """Weights by arm and stage, and the measured shrinks."""
    arrays, runs = {}, cells.read(folder / "cells.csv")
    for arm, stage in dict.fromkeys(zip(runs["arm"], runs["stage"], strict=True)):
        if stage != TUNING:
            kept = cells.kept(folder, arm=arm, stage=stage)
            arrays[f"{arm}/{stage} weights"] = kept["weights"]
    for arm in SHRINK_ARMS:
        (piece,) = read_pieces(folder, f"shrink-{arm}")
        arrays |= {f"{arm}/{name}": array for name, array in piece.items()}
    return arrays


def _summary(analysis: Analysis) -> str:
    """Each arm in a line, for a terminal."""
    lines = [
        f"{'arm':12}{'best lr':>9}{'best λ':>9}{'val %':>8}{'test % [95 % CI]':>24}"
    ]
    for arm in analysis.arms:
        strength = f"{arm.choice.weight_decay:g}" if arm.choice.weight_decay else "-"
        edge = "*" if arm.choice.edges else ""
        test = f"{arm.test.mean:.1f} [{arm.test.low:.1f}, {arm.test.high:.1f}]"
        lines.append(
            f"{arm.arm:12}{arm.choice.learning_rate:>9g}{strength + edge:>9}"
            f"{100 * arm.choice.score:>8.1f}{test:>24}"
        )
    if any(arm.choice.edges for arm in analysis.arms):
        lines.append("* on the edge of the grid")
    return "\n".join(lines)


def conclusion(analysis: Analysis) -> str:
    """The answer to the question, derived from the numbers."""
    told = [
        f"Tuned equally, {pair.larger} is better than its twin by "
        f"{abs(pair.difference.mean):.1f} points of test accuracy."
        for pair in analysis.pairs
        if pair.larger
    ]
    open_pairs = [pair for pair in analysis.pairs if not pair.larger]
    if open_pairs:
        reach = max(max(-p.difference.low, p.difference.high) for p in open_pairs)
        nulls = all(p.difference.low <= 0 <= p.difference.high for p in open_pairs)
        told.append(
            f"Tuned equally, no {'' if nulls else 'clear '}difference in test accuracy "
            "is shown between "
            f"{'; '.join(f'{p.first} and {p.second}' for p in open_pairs)}: their "
            f"95 % intervals reach no further than {reach:.1f} points from 0."
        )
    ratios = [f"{ratio:g} ({base})" for base, ratio in strength_ratios(analysis)]
    told.append(f"The best decoupled λ is {listed(ratios)} times the best λ of L2.")
    largest = {arm.arm: f"{arm.arm} ({arm.max_abs_w:.2f})" for arm in analysis.arms}
    sizes = [
        f"larger with {largest[size.larger]} than with {largest[size.smaller]}"
        for size in analysis.sizes
        if size.larger and size.smaller
    ]
    if sizes:
        told.append(f"The largest weight is clearly {listed(sizes)}.")
    same = [f"{each.max_abs_w:.2f} ({each.arm})" for each in analysis.matched]
    told.append(
        "At the learning rate of the decoupled chain the largest weight without decay "
        f"is {listed(same)}."
    )
    helped = [pair.first for pair in analysis.decays if pair.larger == pair.first]
    harmed = [pair.first for pair in analysis.decays if pair.larger == pair.second]
    told.append(
        f"Against no decay, {len(helped)} of the {len(analysis.decays)} chains are "
        f"clearly better and {len(harmed)} clearly worse."
    )
    return " ".join(told)


def strength_ratios(analysis: Analysis) -> list[tuple[str, float]]:
    """By base: the best decoupled λ over the best λ of L2."""
    best = {(a.base, a.place): a.choice.weight_decay for a in analysis.arms}
    bases = dict.fromkeys(arm.base for arm in analysis.arms)
    return [(b, round(best[b, DECOUPLED] / best[b, L2], 6)) for b in bases]


def _opening(analysis: Analysis, manifest: dict[str, Any]) -> str:
    question = """\
Add λθ to the gradient (L2), or to the direction that SGD, RMSprop or Adam
made of it (decoupled). If each is tuned equally well: does the network predict better,
and do the weights differ?"""
    title = "The same λθ at two places of the chain"
    return f"""\
{opening(title, question, conclusion(analysis), manifest)}

![Test accuracy by arm](accuracy.png)

*Test accuracy on the fresh seeds. Dots: seeds; diamond and bar: mean and 95 % interval
over seeds. Seeds are shared by all arms, so differences are known better than the
bars suggest: see the paired table.*"""


def _protocol(manifest: dict[str, Any]) -> str:
    plan = manifest["plan"]
    rates = "; ".join(
        f"{base} {', '.join(map(str, values))}"
        for base, values in plan["learning_rates"].items()
    )
    return f"""\
## Protocol

- **Data.** scikit-learn's `load_digits`: 1797 images of 8 × 8, divided by 16. 597 are
  the test part, the same for every run, which no choice sees. Each seed splits the
  other 1200 into {plan["train_size"]} for training and {1200 - plan["train_size"]} for
  validation; {plan["label_noise"]:.0%} of the training labels are redrawn uniformly,
  those of validation and test are left right.
- **Model.** Flax NNX, 64-{plan["hidden"]}-10 with rectified units. Cross-entropy,
  {plan["epochs"]} epochs of batches of {plan["batch"]}, cosine learning rate to 0,
  float32. Kernels decay, biases do not.
- **Arms.** SGD (momentum 0.9), RMSprop and Adam: without decay, with L2 and with
  decoupled decay. Inside a pair only the function differs.
- **Stage 1, tuning.** Every cell of the grid on {plan["tuning_seeds"]} seeds; the cell
  with the best mean validation accuracy wins (between equals the smaller λ, then the
  smaller learning rate). Peak learning rates: {rates}. λ, for all six chains:
  {", ".join(map(str, plan["weight_decays"]))}.
- **Stage 2.** The winner of each arm on {plan["final_seeds"]} fresh seeds. A seed
  decides split, label noise, initial weights and batch order, the same for all arms.
- **Equal rates.** For the sizes of the weights each base also runs without decay at the
  learning rate of its decoupled chain: tuned against tuned would compare the rates.
{INTERVALS}"""


def _results(analysis: Analysis) -> str:
    arms = table(
        "arm, base, place, best lr, best λ, validation %, test % [95 % CI], "
        "max abs w, rms w, diverged",
        left=3,
        lines=[arm_cells(arm) for arm in analysis.arms],
    )
    accuracy = table(
        "difference, points [95 % CI], p (Holm), in words",
        left=1,
        lines=[comparison_cells(p, "better") for p in analysis.pairs + analysis.decays],
    )
    sizes = table(
        "difference, max abs w [95 % CI], p (Holm), in words",
        left=1,
        lines=[comparison_cells(pair, "larger") for pair in analysis.sizes],
    )
    same_rate = table(
        "no decay, lr, test % [95 % CI], max abs w, rms w",
        left=1,
        lines=[
            [f"`{each.arm}`", f"{each.learning_rate:g}", *accuracy_and_sizes(each)]
            for each in analysis.matched
        ],
    )
    return f"""\
## Results

{arms}

{_edges(analysis)} Diverged runs (tuning + fresh seeds) count with chance accuracy.
The sizes of the weights are means over the fresh seeds, kernels only.

### Paired by seed: test accuracy

{accuracy}

### Paired by seed: the largest weight

{sizes}

### No decay at the learning rate of the decoupled chain

{same_rate}"""


def _edges(analysis: Analysis) -> str:
    arms = [
        f"`{arm.arm}` ({listed(list(arm.choice.edges))})"
        for arm in analysis.arms
        if arm.choice.edges
    ]
    if not arms:
        return "No best cell lies on an edge of its grid."
    return f"**On the edge of the grid**, so perhaps not at its best: {listed(arms)}."


def _mechanism(arrays: figures.Arrays, analysis: Analysis) -> str:
    lines = {arm: shrink_line(figures.shrink_of(arrays, arm)) for arm in SHRINK_ARMS}
    slopes = listed([f"{line.slope:+z.3f} for `{arm}`" for arm, line in lines.items()])
    used = listed([f"{line.used.sum()} of {line.used.size}" for line in lines.values()])
    best = {arm.arm: arm.choice for arm in analysis.arms}
    settings = listed(
        [
            f"`{arm}` with peak learning rate {best[arm].learning_rate:g} and "
            f"λ = {best[arm].weight_decay:g}"
            for arm in lines
        ]
    )
    return f"""\
## Why: who shrinks, and by how much

![Shrink per step against the root of the second moment](mechanism.png)

*Each dot is a weight of a real run at the winner's setting, first fresh seed:
{settings}.
At each step of the epoch in the middle of training the optimizer is called twice from
the same state, parameters and gradient, with λ and with λ = 0; the difference is the
decay's part of the step. Its least-squares coefficient on −θ over the epoch is the
shrink (above 1 the decay alone overshoots zero); √V is the mean over the epoch of what
divided the step. Lines: the formulas, with the epoch's mean γ. Under L2 the dots may
lie a tenth lower, as λθ enters V too, with 1 − β = 0.1.
Fitted slopes of log shrink on log √V: {slopes}.
Left out are weights without a gradient in that epoch (root mean square below
{NO_GRADIENT:g}, 100 ε: border pixels, units that never fire), weights below
{TINY:g} of the root mean square of all, and shrinks that are not positive;
used: {used}.*"""


def _maps() -> str:
    return f"""\
![Validation accuracy over learning rate and strength](heatmaps.png)

*Mean validation accuracy of the tuning seeds, one colour scale for all panels, which
ends {figures.HEATMAP_RANGE:g} points below the best. Star: the cell chosen. Grey: at
least one seed diverged. Red frame: the choice lies on an edge of the grid.*

![Distribution of the sizes of the weights](weights.png)

*Sizes of the kernels' weights after training, pooled over the fresh seeds, each arm at
its best setting: the share of weights smaller than the value on the axis. Dashed: no
decay at the learning rate of the decoupled chain. In the legend the largest weight of a
run, mean over the seeds.*"""


def _limits(manifest: dict[str, Any]) -> str:
    return f"""\
## Limits

- One small data set, one network, one share of wrong labels: no statement on others.
- All seeds share the test part, so the intervals are about splits, label noise,
  initial weights and batch order, not about the choice of the 597 test images.
- They hold for the settings chosen; that another tuning might choose others is not in
  them. Validation is small, near-best cells are many (see the heatmaps), and the grid
  has two strengths to a decade.
- The learning rate is tuned as well: without decay, a small one is a regulariser.
- The last bits depend on device and chunk size; `manifest.json` notes both.

{closing(manifest, "`cells.csv` (every run), `kept.npz` (weights), `shrink-*.npz`")}"""
