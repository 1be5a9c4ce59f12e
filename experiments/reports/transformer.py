"""The report of `transformer`: what decay gains on text, roundings and telemetry."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from experiments import cells, statistics
from experiments.cells import Table
from experiments.protocol import Entry
from experiments.reports import figures, markdown
from experiments.reports.figures import BLUE, GREEN, GREY, ORANGE, save_palette
from experiments.reports.results import (
    caveats,
    digits_of,
    format_difference,
    read_results,
    result_tables,
    Results,
)
from experiments.reports.template import protocol_section, save_report
from experiments.statistics import Estimate, LEVEL


ROUNDING, WATCHING = "rounding", "watching"  # stages after the protocol
COLOURS = {"none": GREY, "L2": ORANGE, "lr-scaled": BLUE, "independent": GREEN}
EXACT = "float32"
SHOWN = {  # measures of the telemetry, by their label
    "weight_norm": "‖θ‖",
    "angle": "angle of a step",
    "decay_rate": "decay per step",
}


def write_report(folder: Path) -> str:
    """Write the figures, then report.md; returns the verdict."""
    results = read_results(folder)
    gains = rounding_gains(results.table)
    curves = telemetry(folder, results.table)
    save_palette(plot_losses(results), folder / "losses.png")
    names = _with_two_axes(results)
    rows = [names[start : start + 3] for start in range(0, len(names), 3)]
    heat_maps = figures.plot_heat_maps(results, rows)
    save_palette(heat_maps, folder / "heatmaps.png")
    save_palette(plot_telemetry(curves), folder / "telemetry.png")
    return save_report(
        folder,
        "transformer",
        conclusion(results, gains),
        numbers=result_tables(results, "text and arm", list(results.outcomes)),
        rounding=rounding_table(results, gains),
        telemetry=telemetry_table(curves),
        protocol=protocol_section(results),
    )


def _with_two_axes(results: Results) -> list[str]:
    """The names of the entries with decay, sorted by text."""
    entries = [entry for each in by_task(results).values() for entry in each]
    return [entry.name for entry in entries if len(entry.axes) == 2]


def by_task(results: Results) -> dict[str, list[Entry]]:
    """The entries of each text."""
    found: dict[str, list[Entry]] = {}
    for entry in results.plan.entries:
        found.setdefault(entry.labels["task"], []).append(entry)
    return found


# --- Rounding ---------------------------------------------------------------------


class Gain(NamedTuple):
    """What decay gains with a rounding: loss without λ minus loss with λ, by seed."""

    losses: tuple[Estimate, Estimate]  # without and with λ
    gain: Estimate
    lost: Estimate  # the gain in float32 minus this gain
    p_holm: float  # of `lost`, corrected over the roundings

    @property
    def verdict(self) -> str:
        """Whether the rounding loses the gain of decay."""
        if not np.isfinite(self.lost.low):
            return "too few seeds for a verdict"
        if self.p_holm < LEVEL and self.lost.low > 0:
            return "the gain of decay is clearly smaller than in float32"
        if self.p_holm < LEVEL and self.lost.high < 0:
            return "the gain of decay is clearly larger than in float32"
        return "no difference to the gain in float32 shown"


def rounding_gains(table: Table) -> dict[str, Gain]:
    """The gains by rounding, float32 first."""
    runs = cells.where(table, stage=ROUNDING)
    decays = np.unique(runs["weight_decay"].astype(float))
    losses: dict[str, list[np.ndarray]] = {}
    for name in cells.unique(runs, "arm"):
        mine = cells.where(runs, arm=name)
        # If validation chose λ = 0, both columns are the same runs.
        found = [cells.where(mine, weight_decay=λ) for λ in (decays[0], decays[-1])]
        losses[name] = [
            x["test_loss"][np.argsort(x["seed"], kind="stable")].astype(float)
            for x in found
        ]
    gains = {name: without - given for name, (without, given) in losses.items()}
    exact = next(iter(gains.values()))
    lost = {name: statistics.estimate(exact - gain) for name, gain in gains.items()}
    corrected = [1.0, *statistics.holm([each.p for each in list(lost.values())[1:]])]
    return {
        name: Gain(
            losses=(
                statistics.estimate(losses[name][0]),
                statistics.estimate(losses[name][1]),
            ),
            gain=statistics.estimate(gains[name]),
            lost=lost[name],
            p_holm=p,
        )
        for name, p in zip(gains, corrected, strict=True)
    }


def rounding_table(results: Results, gains: Mapping[str, Gain]) -> str:
    """A line for each rounding."""
    digits = digits_of(results.plan.measure)
    columns = {
        "rounding": lambda name: f"`{name}`",
        "λ = 0": lambda name: markdown.estimate(gains[name].losses[0], digits),
        "λ": lambda name: markdown.estimate(gains[name].losses[1], digits),
        "gain of decay": lambda name: markdown.estimate(gains[name].gain, digits),
        "gain lost to rounding": lambda name: (
            "–" if name == EXACT else markdown.estimate(gains[name].lost, digits, True)
        ),
        "p (Holm)": lambda name: (
            f"{gains[name].p_holm:.2g}"
            if name != EXACT and np.isfinite(gains[name].lost.low)
            else "–"
        ),
    }
    return markdown.table(list(gains), columns)


# --- Text -------------------------------------------------------------------------


def conclusion(results: Results, gains: Mapping[str, Gain]) -> str:
    """The verdict, derived from the numbers: a paragraph for each text."""
    digits, texts = digits_of(results.plan.measure), []
    for task in by_task(results):
        parts = [
            f"{name.removeprefix(f'{task}: ')} {format_difference(each, digits)}, "
            f"{each.verdict}"
            for name, each in results.comparisons.items()
            if name.startswith(f"{task}: ")
        ]
        unit = results.plan.measure.unit
        texts.append(f"**{task}**, {unit} of test loss: {'; '.join(parts)}.")
    verdicts = [(name, gain.verdict) for name, gain in gains.items() if name != EXACT]
    rounding = f"**Rounding**: {markdown.group(verdicts, 'with')}."
    return "\n\n".join([*texts, rounding, caveats(results)])


# --- Telemetry --------------------------------------------------------------------


class Curves(NamedTuple):
    """The telemetry of an arm: means over its seeds, by measure, at each epoch."""

    place: str
    epochs: np.ndarray
    means: dict[str, np.ndarray]  # GROUP/ENTRY -> [epochs]


def telemetry(folder: Path, table: Table) -> dict[str, Curves]:
    """The curves of the watched arms."""
    rows = np.flatnonzero(table["stage"] == WATCHING)
    found = {}
    for part in cells.stored_parts(folder, cells.CURVES, rows):
        first = part["row"][0]
        means = {
            name: array.mean(0)
            for name, array in part.items()
            if name.rpartition("/")[2] in SHOWN
        }
        arm, place = (str(table[name][first]) for name in ("arm", "place"))
        found[arm] = Curves(place, part["epoch"], means)
    return found


def groups_of(curves: Mapping[str, Curves]) -> list[str]:
    """The groups of parameters in the telemetry."""
    names = next(iter(curves.values())).means
    return list(dict.fromkeys(name.rpartition("/")[0] for name in names))


def telemetry_table(curves: Mapping[str, Curves]) -> str:
    """The norms at the end, and the mean angles of a step over the run."""
    rows = [(arm, group) for arm in curves for group in groups_of(curves)]

    def value(entry: str, last: bool, row: tuple[str, str]) -> str:
        series = curves[row[0]].means[f"{row[1]}/{entry}"]
        number = series[-1] if last else np.mean(series)
        return "–" if np.isnan(number) else f"{number:.2g}"

    return markdown.table(
        rows,
        {
            "arm": lambda row: f"`{row[0]}`",
            "parameters": lambda row: row[1],
            "‖θ‖ at the end": lambda row: value("weight_norm", True, row),
            "mean angle of a step": lambda row: value("angle", False, row),
            "mean decay per step": lambda row: value("decay_rate", False, row),
        },
        left=2,
    )


# --- Figures ----------------------------------------------------------------------


def plot_losses(results: Results) -> Figure:
    """The test loss of each arm, a panel for each text."""
    tasks, measure = by_task(results), results.plan.measure
    figure, panels = figures.new_panels(1, len(tasks), (4.2 * len(tasks) + 1, 3.6))
    for axes, (task, entries) in zip(panels[0], tasks.items(), strict=True):
        axes.set_title(task)
        outcomes = {x.labels["arm"]: results.outcomes[x.name] for x in entries}
        colours = [COLOURS[entry.labels["place"]] for entry in entries]
        figures.plot_test_errors(axes, outcomes, measure, colours)
    panels[0, 0].set_ylabel(f"test loss ({measure.unit})")
    return figure


def plot_telemetry(curves: Mapping[str, Curves]) -> Figure:
    """A row for each measure, a column for each group of parameters."""
    groups = groups_of(curves)
    size = 2.5 * len(groups) + 0.5, 2.2 * len(SHOWN) + 0.5
    figure, panels = figures.new_panels(len(SHOWN), len(groups), size, sharex=True)
    for row, (entry, label) in zip(panels, SHOWN.items(), strict=True):
        for axes, group in zip(row, groups, strict=True):
            for arm, each in curves.items():
                series = each.means[f"{group}/{entry}"]
                axes.plot(each.epochs, series, color=COLOURS[each.place], label=arm)
        row[0].set_ylabel(label)
    for upper, lower, group in zip(panels[0], panels[-1], groups, strict=True):
        upper.set_title(group, fontsize=10)
        lower.set_xlabel("segment")
    figures.add_legend(figure, panels[0, 0])
    return figure
