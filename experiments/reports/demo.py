"""The report of `demo`: where the place of the decay matters, and how to see it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.protocol import Entry
from experiments.reports import mechanism
from experiments.reports.figures import heat_maps, save
from experiments.reports.markdown import grouped, listed, power
from experiments.reports.mechanism import DECOUPLED, L2, Spread
from experiments.reports.results import (
    amount,
    caveats,
    numbers,
    read_results,
    Results,
)
from experiments.reports.template import protocol_section, save_report


NONE = "adam"
QUESTION = """\
Add λθ to the gradient (Adam with L2), or to the direction that Adam made of it (AdamW).
Each is tuned equally well. Where does the network predict better, and how can you see
whether this concerns your own network?"""
# What a reader can paste: `state` is that of an optimizer with Adam in it.
MEASURE = """\
v = [x for x in jax.tree.leaves(optax.tree_utils.tree_get(state, "nu")) if x.ndim > 1]
log_root_v = np.log10(np.concatenate([np.sqrt(x[x > 1e-12]) for x in v]))
print(np.ptp(np.quantile(log_root_v, [0.1, 0.9])), "decades")"""


def task_name(entry: Entry) -> str:
    """The name of an entry's task in the contrasts."""
    return entry.labels["task"]


def write_report(folder: Path) -> str:
    """Write the figures, then report.md; returns the table and the verdict."""
    results = read_results(folder)
    spreads = mechanism.spreads(results, task_name)
    shrinks = mechanism.shrinks(folder)
    save(mechanism.spread_figure(spreads), folder / "gap.png")
    save(mechanism.shrink_figure(shrinks), folder / "mechanism.png")
    rows = [[f"{s.task} {arm}" for s in spreads] for arm in (L2, DECOUPLED)]
    save(heat_maps(results, rows), folder / "heatmaps.png")
    verdict = conclusion(results, spreads)
    saved = save_report(
        folder,
        "L2 or decoupled decay: where does it matter?",
        QUESTION,
        verdict,
        _matters(spreads),
        "## Why: who shrinks, and by how much",
        mechanism.shrink_caption(shrinks, f"the task `{spreads[0].task}`"),
        "## Numbers",
        numbers(results, "task and arm", list(results.outcomes)),
        HEAT_MAPS,
        protocol_section(results),
        LIMITS,
        stored=mechanism.FILES,
    )
    return f"{summary(results)}\n\n{saved}"


def conclusion(results: Results, spreads: Sequence[Spread]) -> str:
    """The answer, derived from the numbers: where it matters most comes first."""
    order = sorted(spreads, key=lambda spread: -spread.gap.difference.mean)
    gaps = [f"on {s.name} {s.gap.verdict}, {amount(s.gap)}" for s in order]
    against = {
        arm: grouped(
            (s.name, results.compared[f"{s.name}: {arm} − {NONE}"].verdict)
            for s in order
        )
        for arm in (L2, DECOUPLED)
    }
    return (
        f"AdamW − Adam with L2, points of test accuracy: {'; '.join(gaps)}. "
        f"{_rule(spreads)} L2 against no decay: {against[L2]}. AdamW against no decay: "
        f"{against[DECOUPLED]}. {caveats(results)}"
    )


def _rule(spreads: Sequence[Spread]) -> str:
    """Where AdamW is clearly better, and whether the measured spread predicts it."""
    clear = [spread for spread in spreads if spread.gap.sign > 0]
    rest = [spread for spread in spreads if spread.gap.sign <= 0]
    if not any(np.isfinite(spread.gap.difference.low) for spread in spreads):
        return "Too few seeds to say where AdamW is better."
    if not clear:
        return "AdamW is not clearly better on any of these tasks."
    text = f"AdamW is clearly better where the spread of √v is {_decades(clear)}."
    if not rest:
        return text
    narrowest = min(spread.decades for spread in clear)
    widest = max(spread.decades for spread in rest)
    text += f" Elsewhere it is {_decades(rest)}."
    if widest > narrowest:
        return f"{text} So the spread of √v alone does not tell where it matters."
    if widest < narrowest:
        return f"{text} So AdamW is clearly better on the tasks with the wider spread."
    return text


def _decades(spreads: Sequence[Spread]) -> str:
    return listed([f"{s.decades:.1f} decades ({s.name})" for s in spreads])


def _matters(spreads: Sequence[Spread]) -> str:
    wide = max(spreads, key=lambda spread: spread.decades)
    measured = [f"{s.decades:.1f} decades on {s.name}" for s in spreads]
    return f"""\
## Where it matters

![How far AdamW is ahead of Adam with L2, against the measured spread of √v](gap.png)

*Each dot is a task. Across: how much √v differs between weights, measured in a run
without decay. Up: how far AdamW is ahead on test; the line is the 95 % interval that
contains the choice of learning rate and λ.*

Adam divides an L2 term by √v, so weights with large gradients decay least.
{_rule(spreads)} This is how you measure the spread of √v in your own run:

```python
{MEASURE}
```

`state` is the state of your Adam or AdamW, after some epochs. Here we measured
{listed(measured)}. On {wide.name} L2 decays
the weight at the 90th percentile of √v {10**wide.decades:.0f} times less than that at
the 10th. The study `why` changes the spread and leaves the rest of a task as it is."""


HEAT_MAPS = """\
![Validation error over learning rate and λ, by task and arm](heatmaps.png)

*Mean validation error of the tuning seeds, in points above the best of the task. Above
each panel: the error at the point chosen. A large square is a
point of the coarse grid, a small one was added later; white was not tried.*"""
LIMITS = """\
## Limits

- Three small tasks: no statement on others. Measure your own spread, then try both.
- The spread of √v is that of one run without decay at its best learning rate.
- All seeds share the test part: the intervals are about splits, wrong labels, initial
  weights and batch order, not about which examples are the test part."""


def summary(results: Results) -> str:
    """Each arm in a line, for a terminal."""
    rows = [("task and arm", "rate", "λ", "test error %")]
    for outcome in results.outcomes.values():
        chosen = {name: power(value) for name, value in outcome.choice.items()}
        point = chosen["learning_rate"], chosen.get("weight_decay", "-")
        rows.append((outcome.entry.name, *point, f"{100 - outcome.test.mean:.2f}"))
    first, *widths = (max(map(len, column)) for column in zip(*rows, strict=True))
    return "\n".join(
        f"{name:{first}}"
        + "".join(f"  {x:>{w}}" for x, w in zip(rest, widths, strict=True))
        for name, *rest in rows
    )
