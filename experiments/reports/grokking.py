"""The report of `grokking`: survival curves, log-rank tests and effective ranks."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from experiments import cells, statistics, survival
from experiments.protocol import FINAL
from experiments.reports import figures, markdown
from experiments.reports.figures import BLUE, GREY, ORANGE, save_palette
from experiments.reports.results import (
    caveats,
    digits_of,
    format_difference,
    read_results,
    result_tables,
    Results,
)
from experiments.reports.template import protocol_section, save_report
from experiments.statistics import Estimate, MIN_VALUES
from experiments.survival import Times


NONE, L2, DECOUPLED = "none", "L2", "AdamW"
ARMS = {NONE: GREY, L2: ORANGE, DECOUPLED: BLUE}
PAIRS = ((L2, DECOUPLED), (L2, NONE), (DECOUPLED, NONE))
RANK = "rank of "


class Test(NamedTuple):
    """A log-rank test of two arms on a network."""

    network: str
    first: str
    second: str
    z: float
    p: float
    p_holm: float

    @property
    def verdict(self) -> str:
        """Which arm is sooner, in words."""
        if self.p_holm >= statistics.LEVEL:
            return "no difference shown"
        return f"{self.first if self.z > 0 else self.second} sooner"


class Rank(NamedTuple):
    """The effective rank of one matrix at the end of the final runs, by arm."""

    network: str
    matrix: str
    by_arm: dict[str, Estimate]


class Found(NamedTuple):
    """The final runs, reduced."""

    times: dict[str, dict[str, Times]]  # by network and arm
    tests: list[Test]
    ranks: list[Rank]


# --- Numbers ----------------------------------------------------------------------


def read_found(results: Results) -> Found:
    """Times, log-rank tests with Holm's correction over all of them, and ranks."""
    networks = list(
        dict.fromkeys(entry.labels["task"] for entry in results.plan.entries)
    )
    times = {
        network: {arm: _times(results.table, network, arm) for arm in ARMS}
        for network in networks
    }
    pairs = list(itertools.product(networks, PAIRS))
    raw = [survival.log_rank(*(times[n][arm] for arm in pair)) for n, pair in pairs]
    corrected = statistics.holm([each.p for each in raw])
    tests = [
        Test(network, *pair, *each, p)
        for (network, pair), each, p in zip(pairs, raw, corrected, strict=True)
    ]
    ranks = [rank for network in networks for rank in _ranks(results.folder, network)]
    return Found(times, tests, ranks)


def _times(table: cells.Table, network: str, arm: str) -> Times:
    rows = cells.where(table, stage=FINAL, task=network, arm=arm)
    return Times(rows["steps"].astype(float), rows["arrived"].astype(bool))


def _ranks(folder: Path, network: str) -> list[Rank]:
    arrays = {
        arm: cells.extracted(folder, stage=FINAL, task=network, arm=arm) for arm in ARMS
    }
    return [
        Rank(
            network,
            name.removeprefix(RANK),
            {arm: statistics.estimate(arrays[arm][name]) for arm in ARMS},
        )
        for name in arrays[NONE]
        if name.startswith(RANK)
    ]


# --- The report -------------------------------------------------------------------


def write_report(folder: Path) -> str:
    """Write the figures, then report.md; returns the verdict."""
    results = read_results(folder)
    found = read_found(results)
    save_palette(plot_survival(found, _last_steps(results)), folder / "survival.png")
    save_palette(plot_ranks(found), folder / "ranks.png")
    rows = [[f"{network} {arm}" for arm in (L2, DECOUPLED)] for network in found.times]
    save_palette(figures.plot_heat_maps(results, rows), folder / "heatmaps.png")
    return save_report(
        folder,
        "grokking",
        conclusion(results, found),
        times=_times_table(found),
        tests=_tests_table(found),
        ranks=_ranks_table(found),
        numbers=result_tables(results, "network and arm", list(results.outcomes)),
        protocol=protocol_section(results),
    )


def _last_steps(results: Results) -> dict[str, int]:
    """The number of steps of a run, by network."""
    found = {}
    for entry in results.plan.entries:
        config: Any = entry.config  # a description, because a manifest has no objects
        found[entry.labels["task"]] = config["setup"]["steps"]
    return found


def conclusion(results: Results, found: Found) -> str:
    """The verdict, derived from the numbers: a paragraph for each network."""
    paragraphs = [_paragraph(results, found, network) for network in found.times]
    return "\n\n".join([*paragraphs, caveats(results)])


def _paragraph(results: Results, found: Found, network: str) -> str:
    times = found.times[network]
    arrivals = [f"{arm} {_count(each)}" for arm, each in times.items()]
    few = len(times[NONE].steps) < MIN_VALUES
    control = "not judged, too few seeds" if few else _control(times)
    sentences = [
        f"**{network}.** Runs that reach 99 %: {markdown.join(arrivals)}. "
        f"Positive control: {control}. {_without_decay(results.table, network)}"
    ]
    if not few:
        sentences += [
            f"{test.first} against {test.second}: {test.verdict} "
            f"(log-rank, p = {test.p_holm:.2g} after Holm's correction)."
            for test in found.tests
            if test.network == network
        ]
        compared = results.comparisons[f"{network}: {L2} − {DECOUPLED}"]
        # The score is the negative number of steps, so a positive one is "sooner".
        sentences.append(
            f"Restricted mean, steps by which {L2} is sooner than {DECOUPLED}: "
            f"{format_difference(compared, digits_of(results.plan.measure))} "
            f"({compared.verdict})."
        )
    return " ".join(sentences)


def _without_decay(table: cells.Table, network: str) -> str:
    """The runs of all stages: if none arrives, the chosen learning rate is a tie."""
    rows = cells.where(table, task=network, arm=NONE)
    rates = len(cells.unique(rows, "learning_rate"))
    return (
        f"Without decay {np.sum(rows['arrived'] == 1)} of {len(rows['arrived'])} runs "
        f"of all stages arrive, at {rates} learning rates."
    )


def _count(times: Times) -> str:
    return f"{np.sum(times.arrived)} of {len(times.arrived)}"


def _control(times: dict[str, Times]) -> str:
    """Whether no run without decay arrives, and every run with decay."""
    failed = (
        [f"without decay {_count(times[NONE])}"] if times[NONE].arrived.any() else []
    )
    failed += [
        f"with {arm} only {_count(times[arm])}"
        for arm in (L2, DECOUPLED)
        if not times[arm].arrived.all()
    ]
    return f"does not hold ({markdown.join(failed)} arrive)" if failed else "holds"


# --- Tables -----------------------------------------------------------------------


def _times_table(found: Found) -> str:
    rows = [(n, arm, t) for n, arms in found.times.items() for arm, t in arms.items()]
    columns: dict[str, Callable[[tuple[str, str, Times]], str]] = {
        "network": lambda row: row[0],
        "arm": lambda row: row[1],
        "runs that arrive": lambda row: _count(row[2]),
        "median step": lambda row: _median(row[2]),
        "first": lambda row: _arrivals(row[2], np.min),
        "last that arrives": lambda row: _arrivals(row[2], np.max),
    }
    return markdown.table(rows, columns, left=2)


def _median(times: Times) -> str:
    median = survival.median(times)
    return f"{median:.0f}" if np.isfinite(median) else "not reached"


def _arrivals(times: Times, reduce: Callable[[np.ndarray], np.floating]) -> str:
    arrived = times.steps[times.arrived]
    return f"{reduce(arrived):.0f}" if len(arrived) else "–"


def _tests_table(found: Found) -> str:
    columns: dict[str, Callable[[Test], str]] = {
        "network": lambda test: test.network,
        "arms": lambda test: f"{test.first} against {test.second}",
        "z": lambda test: f"{test.z:+.2f}",
        "p": lambda test: f"{test.p:.2g}",
        "p (Holm)": lambda test: f"{test.p_holm:.2g}",
        "verdict": lambda test: test.verdict,
    }
    return markdown.table(found.tests, columns, left=2)


def _ranks_table(found: Found) -> str:
    columns: dict[str, Callable[[Rank], str]] = {
        "network": lambda rank: rank.network,
        "matrix": lambda rank: f"`{rank.matrix}`",
    }
    for arm in ARMS:
        columns[f"{arm} [95 %]"] = lambda rank, arm=arm: markdown.estimate(
            rank.by_arm[arm], 1
        )
    return markdown.table(found.ranks, columns, left=2)


# --- Figures ----------------------------------------------------------------------


def plot_survival(found: Found, last: dict[str, int]) -> Figure:
    """The share of final runs that have not arrived, with intervals."""
    figure, panels = figures.new_panels(
        1, len(found.times), (5 * len(found.times), 3.6)
    )
    for axes, (network, times) in zip(panels.flat, found.times.items(), strict=True):
        for arm, colour in ARMS.items():
            curve = survival.kaplan_meier(times[arm])
            x = [0, *curve.steps, last[network]]

            def steps(y: np.ndarray, empty: float) -> np.ndarray:
                """From the value 1 at step 0 to the end of the runs."""
                y = np.where(np.isnan(y), empty, y)
                return np.concatenate([[1], y, y[-1:] if len(y) else [1]])

            axes.step(x, steps(curve.share, 0), where="post", color=colour, label=arm)
            if len(times[arm].steps) >= MIN_VALUES:
                low, high = steps(curve.low, 0), steps(curve.high, 0)
                axes.fill_between(x, low, high, step="post", color=colour, alpha=0.15)
        axes.set(title=network, ylim=(-0.03, 1.03), xlim=(0, last[network]))
    figures.label_edges(panels, "step", "share of runs below 99 %")
    figures.add_legend(figure, panels[0, 0])
    return figure


def plot_ranks(found: Found) -> Figure:
    """The effective rank of each matrix, by arm."""
    count = len(found.ranks)
    figure, panels = figures.new_panels(1, 1, (7, 0.36 * count + 1.4))
    axes, rows = panels[0, 0], np.arange(count)
    for shift, (arm, colour) in zip((-0.2, 0.0, 0.2), ARMS.items(), strict=True):
        estimates = [rank.by_arm[arm] for rank in found.ranks]
        means = [each.mean for each in estimates]
        axes.plot(means, rows + shift, "o", color=colour, ms=4, label=arm)
        for each, row in zip(estimates, rows + shift, strict=True):
            if np.isfinite(each.low):
                axes.plot([each.low, each.high], [row, row], color=colour, lw=1.5)
    names = [f"{rank.network}: {rank.matrix}" for rank in found.ranks]
    axes.set_yticks(rows, names)
    axes.set(xlabel="effective rank", ylim=(count - 0.4, -0.6), xlim=(0, None))
    figures.add_legend(figure, axes)
    return figure
