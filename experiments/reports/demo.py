"""The report of `demo`: on which tasks AdamW is better, and how to predict it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.protocol import Entry
from experiments.reports import markdown, mechanism
from experiments.reports.figures import plot_heat_maps, save
from experiments.reports.mechanism import DECOUPLED, L2, Spread
from experiments.reports.results import caveats, read_results, result_tables, Results
from experiments.reports.template import protocol_section, save_report


# Code for the reader: `state` is the state of an optimizer that contains Adam.
MEASURE = """\
v = [x for x in jax.tree.leaves(optax.tree_utils.tree_get(state, "nu")) if x.ndim > 1]
log_root_v = np.log10(np.concatenate([np.sqrt(x[x > 1e-12]) for x in v]))
print(np.ptp(np.quantile(log_root_v, [0.1, 0.9])), "decades")"""


def task_name(entry: Entry) -> str:
    """The setting of an entry in the contrasts: its task."""
    return entry.labels["task"]


def write_report(folder: Path) -> str:
    """Write the figures, then report.md; returns the table and the verdict."""
    results = read_results(folder)
    spreads = mechanism.read_spreads(results, task_name)
    shrinks = mechanism.read_shrinks(folder)
    save(mechanism.plot_gap_by_spread(spreads), folder / "gap.png")
    save(mechanism.plot_shrink(shrinks), folder / "mechanism.png")
    rows = [[f"{s.task} {arm}" for s in spreads] for arm in (L2, DECOUPLED)]
    save(plot_heat_maps(results, rows), folder / "heatmaps.png")
    widest = max(spreads, key=lambda spread: spread.decades)
    saved = save_report(
        folder,
        "demo",
        conclusion(results, spreads),
        rule=spread_rule(spreads),
        widest=widest,
        ratio=10**widest.decades,
        spreads=_decades(spreads),
        measure=MEASURE,
        shrink=mechanism.shrink_caption(shrinks, f"the task `{spreads[0].task}`"),
        numbers=result_tables(results, "task and arm", list(results.outcomes)),
        protocol=protocol_section(results),
    )
    return f"{terminal_table(results)}\n\n{saved}"


def conclusion(results: Results, spreads: Sequence[Spread]) -> str:
    """The verdict, derived from the numbers; the largest gap comes first."""
    order = sorted(spreads, key=lambda spread: -spread.gap.difference.mean)
    names = {spread.setting: spread.setting for spread in order}
    return (
        "AdamW − Adam with L2, points of test accuracy: "
        f"{mechanism.gaps_text(results, names, 'on')}. {spread_rule(spreads)} "
        f"{mechanism.against_no_decay(results, names, 'on')} {caveats(results)}"
    )


def spread_rule(spreads: Sequence[Spread]) -> str:
    """Whether the spread of √v predicts where AdamW is clearly better."""
    clear = [spread for spread in spreads if spread.gap.sign > 0]
    others = [spread for spread in spreads if spread.gap.sign <= 0]
    if not any(np.isfinite(spread.gap.difference.low) for spread in spreads):
        return "There are too few seeds to say where AdamW is better."
    if not clear:
        return "AdamW is not clearly better on any of these tasks."
    text = f"AdamW is clearly better where the spread of √v is {_decades(clear)}."
    if not others:
        return text
    text += f" On the other tasks it is {_decades(others)}."
    narrowest = min(spread.decades for spread in clear)
    widest = max(spread.decades for spread in others)
    if widest > narrowest:
        return f"{text} So the spread of √v alone does not predict the better arm."
    if widest < narrowest:
        return f"{text} So AdamW is clearly better on the tasks with the wider spread."
    return text


def _decades(spreads: Sequence[Spread]) -> str:
    return markdown.join([f"{s.decades:.1f} decades ({s.setting})" for s in spreads])


def terminal_table(results: Results) -> str:
    """A line for each arm."""
    rows = [("task and arm", "rate", "λ", "test error %")]
    for outcome in results.outcomes.values():
        chosen = {name: markdown.number(x) for name, x in outcome.choice.items()}
        rate, decay = chosen["learning_rate"], chosen.get("weight_decay", "-")
        rows.append((outcome.entry.name, rate, decay, f"{100 - outcome.test.mean:.2f}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        f"{name:{widths[0]}}  {rate:>{widths[1]}}  {decay:>{widths[2]}}  "
        f"{error:>{widths[3]}}"
        for name, rate, decay, error in rows
    )
