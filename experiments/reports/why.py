"""The report of `why`: the gap against s and against the measured spread."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from experiments.protocol import Entry
from experiments.reports import mechanism, results as protocols
from experiments.reports.figures import band, COLOURS, save
from experiments.reports.markdown import grouped
from experiments.reports.mechanism import DECOUPLED, L2, Spread
from experiments.reports.results import amount, Results
from experiments.reports.template import protocol_section, save_report


NONE = "adam"
ARMS = {NONE: "none", L2: "L2", DECOUPLED: "decoupled"}
QUESTION = """\
Inputs are multiplied, each by its own factor 10^U(−s, s), so that the gradients of the
first layer differ in scale and the labels do not change. Does the gap between Adam with
L2 and AdamW grow with the spread s?"""


def setting_name(entry: Entry) -> str:
    """The name of an entry's task and spread in the contrasts."""
    return f"{entry.labels['task']}, s = {entry.fixed['spread']:g}"


def write_report(folder: Path) -> str:
    """Write the figures, then report.md; returns the verdict."""
    results = protocols.read_results(folder)
    shrinks = mechanism.shrinks(folder)
    spreads = mechanism.spreads(results, setting_name)
    save(gap_figure(results), folder / "gap.png")
    save(mechanism.spread_figure(spreads), folder / "spread.png")
    save(mechanism.shrink_figure(shrinks), folder / "mechanism.png")
    measured = shrinks[L2]
    where = f"{measured['task'].item()} at s = {float(measured['spread']):g}"
    return save_report(
        folder,
        "Why would decoupled decay be better?",
        QUESTION,
        conclusion(results),
        _gaps(results, spreads),
        "## The mechanism",
        mechanism.shrink_caption(shrinks, where),
        "## Numbers",
        protocols.numbers(results, "task, s and arm", list(results.outcomes)),
        protocol_section(results),
        LIMITS,
        stored=mechanism.FILES,
    )


def conclusion(results: Results) -> str:
    """The answer, derived from the numbers: a paragraph for each task."""
    places: dict[str, list[str]] = {}
    for entry in results.plan.entries:
        mine = places.setdefault(entry.labels["task"], [])
        mine += [] if setting_name(entry) in mine else [setting_name(entry)]
    slopes = {
        task: results.compared[f"{task}: slope of the gap on s"]
        for task, mine in places.items()
        if len(mine) > 1
    }
    every = [each for mine in places.values() for each in mine]
    wins = {
        arm: sum(results.compared[f"{each}: {arm} − {NONE}"].sign > 0 for each in every)
        for arm in (L2, DECOUPLED)
    }
    lead = (
        "Slope of the gap between AdamW and Adam with L2 on s: "
        f"{grouped((task, slope.verdict) for task, slope in slopes.items())}. "
    )
    if any(wins.values()):
        lead += (
            f"L2 is clearly better than no decay in {wins[L2]} of {len(every)} "
            f"settings, AdamW in {wins[DECOUPLED]}."
        )
    else:
        lead += "Neither is clearly better than no decay in any setting."
    texts = [_task(results, task, mine) for task, mine in places.items()]
    return "\n\n".join([lead, *texts, protocols.caveats(results)])


def _task(results: Results, task: str, places: list[str]) -> str:
    """The gap of a task by s, where it is largest, and what decay gains."""
    spreads = [each.removeprefix(f"{task}, ") for each in places]

    def words(one: str, other: str) -> list[tuple[str, str]]:
        found = [results.compared[f"{each}: {one} − {other}"] for each in places]
        return [(s, c.verdict) for s, c in zip(spreads, found, strict=True)]

    gaps = [results.compared[f"{each}: {DECOUPLED} − {L2}"] for each in places]
    means = [gap.difference.mean for gap in gaps]
    at_spreads = [
        f"{amount(gap)} at {s}, {gap.verdict}"
        for s, gap in zip(spreads, gaps, strict=True)
    ]
    text = (
        f"**{task}**: points of test accuracy, AdamW − Adam with L2: "
        f"{'; '.join(at_spreads)}."
    )
    slope = results.compared.get(f"{task}: slope of the gap on s")
    if slope is not None:
        text += f" The slope is {amount(slope)} points per unit of s."
        if slope.sign and np.any(np.sign(np.diff(means)) == -slope.sign):
            top = spreads[int(np.argmax(means))]
            text += f" The mean gap is largest at {top}."
    return (
        f"{text} L2 against no decay: {grouped(words(L2, NONE), 'at')}. AdamW against "
        f"no decay: {grouped(words(DECOUPLED, NONE), 'at')}."
    )


def gap_figure(results: Results) -> Figure:
    """Errors and the gap against s, a column for each task."""
    tasks = list(dict.fromkeys(e.labels["task"] for e in results.plan.entries))
    measure = results.plan.measure
    figure = Figure(figsize=(11, 6), layout="constrained")
    grid = figure.subplots(2, len(tasks), squeeze=False, sharex="col")
    for (upper, lower), task in zip(grid.T, tasks, strict=True):
        mine = [x for x in results.outcomes.values() if x.entry.labels["task"] == task]
        for arm, kind in ARMS.items():
            colour = COLOURS[kind]
            by_s = {
                x.entry.fixed["spread"]: x for x in mine if x.entry.labels["arm"] == arm
            }
            band(
                upper,
                {s: protocols.test_error(x, measure) for s, x in by_s.items()},
                colour,
                arm,
            )
            unsure = [s for s, x in by_s.items() if x.open]
            at = [protocols.test_error(by_s[s], measure).mean for s in unsure]
            upper.plot(unsure, at, "o", ms=5, mec=colour, mfc="white")
        places = {x.entry.fixed["spread"]: setting_name(x.entry) for x in mine}
        gaps = {
            s: results.compared[f"{at}: {DECOUPLED} − {L2}"] for s, at in places.items()
        }
        means = {s: gap.difference for s, gap in gaps.items()}
        band(lower, means, "black", "given the choices")
        for s, gap in gaps.items():
            if np.isfinite(gap.difference.low):
                lower.vlines(s, *gap.with_choice, color="black", lw=1)
        lower.axhline(0, color="0.5", lw=0.8)
        lower.sharey(grid[1, 0])
        lower.set_xticks(list(gaps))
        upper.set_title(task)
        lower.set_xlabel("spread s of the inputs' scales (decades)")
    grid[0, 0].set_ylabel("test error (%)")
    grid[1, 0].set_ylabel("AdamW ahead of Adam with L2\n(points of test accuracy)")
    grid[0, 0].legend(frameon=False)
    return figure


def _gaps(results: Results, spreads: list[Spread]) -> str:
    names = [name for name in results.compared if "slope" in name]
    dots = [(spread.decades, spread.gap.difference.mean) for spread in spreads]
    follows = ""
    if len(dots) > 2:
        rank, _ = stats.spearmanr(dots)
        follows = f" Rank correlation over all dots: {rank:.2f}."
    return f"""\
## The gap

![Test error and gap against the spread of the gradients' scales](gap.png)

*Above: test error on the final seeds, with 95 % intervals; hollow: a choice that is not
bracketed. Below: how far AdamW is ahead, paired by seed. Band: the 95 % interval given
the choices; line: the interval that contains the choice.*

{protocols.contrasts(results, names)}

The slope is that of a straight line through the gaps of all s: points per unit of s.

![The gap against the measured spread of √v](spread.png)

*The same gaps against what an Adam optimizer can tell: the decades between the 10th and
the 90th percentile of √v over the weights, in a run without decay. Lines: intervals
that contain the choice.{follows}*"""


LIMITS = """\
## Limits

- Factors on inputs are one way to spread the scales of gradients, and a crude one:
  standardised inputs would undo it. Deep networks have spreads of their own.
- One optimizer, small networks; the gap is that of these tasks.
- All seeds share the test part: the intervals are about splits, labels, factors,
  initial weights and batch order."""
