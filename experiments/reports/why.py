"""The report of `why`: the gap against s and against the measured spread."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from experiments.protocol import Entry
from experiments.reports import figures, markdown, mechanism
from experiments.reports.figures import BLUE, GREY, ORANGE, plot_estimates, save
from experiments.reports.mechanism import compared, DECOUPLED, L2, NONE
from experiments.reports.results import (
    caveats,
    contrasts_table,
    format_difference,
    read_results,
    result_tables,
    Results,
    test_error,
)
from experiments.reports.template import protocol_section, save_report


COLOURS = {NONE: GREY, L2: ORANGE, DECOUPLED: BLUE}


def setting_name(entry: Entry) -> str:
    """The setting of an entry in the contrasts: its task and s."""
    return f"{entry.labels['task']}, s = {entry.fixed['spread']:g}"


def write_report(folder: Path) -> str:
    """Write the figures, then report.md; returns the verdict."""
    results = read_results(folder)
    shrinks = mechanism.read_shrinks(folder)
    spreads = mechanism.read_spreads(results, setting_name)
    save(plot_gap(results), folder / "gap.png")
    save(mechanism.plot_gap_by_spread(spreads), folder / "spread.png")
    save(mechanism.plot_shrink(shrinks), folder / "mechanism.png")
    task, spread = (shrinks[L2][name].item() for name in ("task", "spread"))
    slopes = [name for name in results.comparisons if "slope" in name]
    dots = [(spread.decades, spread.gap.difference.mean) for spread in spreads]
    correlation = ""
    if len(dots) > 2:
        rank, _ = stats.spearmanr(dots)
        correlation = f" Rank correlation over all dots: {rank:.2f}."
    return save_report(
        folder,
        "why",
        conclusion(results),
        slopes=contrasts_table(results, slopes),
        correlation=correlation,
        shrink=mechanism.shrink_caption(shrinks, f"{task} at s = {spread:g}"),
        numbers=result_tables(results, "task, s and arm", list(results.outcomes)),
        protocol=protocol_section(results),
    )


def settings_by_task(results: Results) -> dict[str, dict[float, str]]:
    """The settings of each task, by s."""
    settings: dict[str, dict[float, str]] = {}
    for entry in results.plan.entries:
        by_spread = settings.setdefault(entry.labels["task"], {})
        by_spread[entry.fixed["spread"]] = setting_name(entry)
    return settings


def conclusion(results: Results) -> str:
    """The verdict, derived from the numbers: a paragraph for each task."""
    tasks = settings_by_task(results)
    slopes = [
        (task, results.comparisons[f"{task}: slope of the gap on s"].verdict)
        for task, settings in tasks.items()
        if len(settings) > 1
    ]
    every = [setting for settings in tasks.values() for setting in settings.values()]
    l2, decoupled = (
        sum(compared(results, setting, arm, NONE).sign > 0 for setting in every)
        for arm in (L2, DECOUPLED)
    )
    lead = (
        "Slope over s of the gap between AdamW and Adam with L2: "
        f"{markdown.group(slopes)}. L2 is clearly better than no decay in {l2} of "
        f"{len(every)} settings, AdamW in {decoupled}."
    )
    texts = [_task_text(results, task, settings) for task, settings in tasks.items()]
    return "\n\n".join([lead, *texts, caveats(results)])


def _task_text(results: Results, task: str, settings: dict[float, str]) -> str:
    """The gap of a task by s, its slope, its maximum, and what decay gains."""
    names = {setting: f"s = {s:g}" for s, setting in settings.items()}
    gaps = mechanism.gaps_text(results, names, "at")
    text = f"**{task}**: AdamW − Adam with L2, points of test accuracy: {gaps}."
    slope = results.comparisons.get(f"{task}: slope of the gap on s")
    if slope is not None:
        text += f" The slope is {format_difference(slope)} points per unit of s."
        means = [compared(results, x).difference.mean for x in settings.values()]
        if slope.sign != 0 and np.any(np.sign(np.diff(means)) == -slope.sign):
            largest = list(settings)[int(np.argmax(means))]
            text += f" The mean gap is largest at s = {largest:g}."
    return f"{text} {mechanism.against_no_decay(results, names, 'at')}"


def plot_gap(results: Results) -> Figure:
    """Errors and the gap against s, a column for each task."""
    tasks = settings_by_task(results)
    size = (11, 6)
    figure, panels = figures.new_panels(2, len(tasks), size, sharex="col")
    for (upper, lower), task in zip(panels.T, tasks, strict=True):
        upper.set_title(task)
        _plot_errors(upper, results, task)
        _plot_gap_of_task(lower, results, tasks[task])
        lower.sharey(panels[1, 0])
        lower.set_xlabel("spread s of the inputs' scales (decades)")
    panels[0, 0].set_ylabel("test error (%)")
    panels[1, 0].set_ylabel(mechanism.GAP_LABEL)
    panels[0, 0].legend(frameon=False)
    return figure


def _plot_errors(axes: Any, results: Results, task: str) -> None:
    for arm, colour in COLOURS.items():
        labels = {"task": task, "arm": arm}
        mine = [x for x in results.outcomes.values() if x.entry.labels == labels]
        errors = {
            x.entry.fixed["spread"]: test_error(x, results.plan.measure) for x in mine
        }
        plot_estimates(axes, errors, colour, arm)
        unsure = [x.entry.fixed["spread"] for x in mine if x.open]
        means = [errors[s].mean for s in unsure]
        axes.plot(unsure, means, "o", ms=5, mec=colour, mfc="white")


def _plot_gap_of_task(axes: Any, results: Results, settings: dict[float, str]) -> None:
    gaps = {s: compared(results, setting) for s, setting in settings.items()}
    means = {s: gap.difference for s, gap in gaps.items()}
    plot_estimates(axes, means, "black", "given the choices")
    for s, gap in gaps.items():
        if np.isfinite(gap.difference.low):
            axes.vlines(s, *gap.with_choice, color="black", lw=1)
    axes.axhline(0, color="0.5", lw=0.8)
    axes.set_xticks(list(gaps))
