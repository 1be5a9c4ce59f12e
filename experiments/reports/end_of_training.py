"""The report of `end_of_training`: ratios over the run, and test errors."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from experiments.end_optimizers import NORM
from experiments.reports import end_figures, end_numbers, end_tables, markdown
from experiments.reports.end_numbers import (
    CONSTANT,
    CORRECTED,
    Followed,
    GROWTH,
    Growth,
    LR_SCALED,
    MAX_DEVIATION,
    MAX_ERROR,
    Setting,
)
from experiments.reports.figures import save_palette
from experiments.reports.results import (
    caveats,
    format_difference,
    read_results,
    result_tables,
    Results,
)
from experiments.reports.template import protocol_section, save_report
from experiments.statistics import Estimate, MIN_VALUES


def write_report(folder: Path) -> str:
    """Write the figures, then report.md; returns the verdict."""
    results = read_results(folder)
    fixed = [
        setting
        for base in results.manifest["plan"]["points"]
        for setting in end_numbers.read_settings(folder, f"fixed-{base}")
    ]
    chosen = end_numbers.read_settings(folder, "chosen-")
    found = [end_numbers.follow(setting) for setting in fixed]
    growing = [(setting, end_numbers.growth_of(setting)) for setting in chosen]
    save_palette(end_figures.plot_ratios(fixed), folder / "ratios.png")
    save_palette(end_figures.plot_chosen(chosen), folder / "chosen.png")
    save_palette(end_figures.plot_errors(results), folder / "errors.png")
    return save_report(
        folder,
        "end_of_training",
        conclusion(results, found, growing),
        kinds=end_tables.kinds_table(fixed[0]),
        points=end_tables.points_text(fixed),
        steps=fixed[0].steps,
        steady=end_tables.steady_table(found),
        growth=end_tables.growth_table(found),
        control=end_tables.control(results, fixed),
        chosen=end_tables.chosen_table(growing),
        numbers=result_tables(results, "schedule and decay", list(results.outcomes)),
        losses=end_tables.losses_table(results),
        protocol=protocol_section(results),
        begin=_share(end_numbers.BEGIN),
        domain=_share(end_numbers.DOMAIN),
        departed=_share(end_numbers.DEPARTED),
    )


# --- The verdict ------------------------------------------------------------------


def conclusion(
    results: Results,
    found: Sequence[Followed],
    chosen: Sequence[tuple[Setting, Growth]],
) -> str:
    """The verdict, derived from the numbers."""
    falling = [each for each in found if each.setting.schedule != CONSTANT]
    scaled = [each for each in falling if each.setting.arm == LR_SCALED]
    corrected = [each for each in falling if each.setting.arm == CORRECTED]
    paragraphs = [
        steady_verdict(found),
        growth_verdict(scaled),
        kept_verdict(corrected),
        end_verdict(scaled),
        _chosen_growth(chosen),
        _accuracy(results),
    ]
    seeds = len(found[0].setting.ratios[NORM])
    if seeds < MIN_VALUES:
        paragraphs.append(f"{seeds} seeds give ratios without intervals: no finding.")
    return "\n\n".join(paragraphs)


def steady_verdict(found: Sequence[Followed]) -> str:
    """(a): whether invariant matrices have the steady ratio, and the head does not."""
    known = [each for each in found if np.isfinite(each.deviation.mean)]
    if not known:
        return "(a) The runs are too short for the theory."
    mine = [100 * each.deviation.mean for each in known]
    head = [100 * each.head.mean for each in known]
    too_far = [x for x in found if not x.deviation.high <= MAX_DEVIATION]
    not_closer = [x for x in found if not x.farther.low > 0]
    return (
        "(a) Where the theory applies, the invariant matrices deviate from the steady "
        f"ratio by {min(mine):.1f} to {max(mine):.1f} % (head: {min(head):.1f} to "
        f"{max(head):.1f} %)."
        f"{_failing(f'Not below {100 * MAX_DEVIATION:.0f} %', too_far)}"
        f"{_failing('Not clearly closer than the head', not_closer)}"
    )


def growth_verdict(scaled: Sequence[Followed]) -> str:
    """(b): whether the ratio grows with lr-scaled decay."""
    failing = [x for x in scaled if any(not g.low > GROWTH for g in x.growth.ratio)]
    return (
        "(b) With lr-scaled decay and a falling learning rate, ‖g‖/‖θ‖ of the "
        "invariant matrices changes by factors of "
        f"{_range(x.growth.ratio for x in scaled)} (head: "
        f"{_range(x.growth.head for x in scaled)}), and ‖g‖ by "
        f"{_range(x.growth.norm for x in scaled)}."
        f"{_failing(f'Not clearly above {GROWTH:g}', failing)}"
    )


def kept_verdict(corrected: Sequence[Followed]) -> str:
    """(c): whether corrected decay keeps the ratio."""
    failing = [
        x
        for x in corrected
        if any(not (g.low > 1 / GROWTH and g.high < GROWTH) for g in x.growth.ratio)
    ]
    bounds = f"{1 / GROWTH:.2f} and {GROWTH:g}"
    return (
        "(c) With corrected decay ‖g‖/‖θ‖ changes by factors of "
        f"{_range(x.growth.ratio for x in corrected)}, and ‖g‖ by "
        f"{_range(x.growth.norm for x in corrected)}."
        f"{_failing(f'Not clearly between {bounds}', failing)}"
    )


def end_verdict(scaled: Sequence[Followed]) -> str:
    """(d): whether the lag of the norms explains the ratio at the end."""
    low, high = 1 - MAX_ERROR, 1 + MAX_ERROR
    failing = [
        x for x in scaled if any(not (low < r.low and r.high < high) for r in x.last)
    ]
    parts = [100 * x.departure for x in scaled]
    return (
        "(d) With lr-scaled decay the ratio leaves the steady one at "
        f"{min(parts):.0f} to {max(parts):.0f} % of the run. The last ratio is "
        f"{_range(x.last for x in scaled)} times the ratio predicted with lag."
        f"{_failing(f'Not clearly within {100 * MAX_ERROR:.0f} %', failing)}"
    )


def _chosen_growth(chosen: Sequence[tuple[Setting, Growth]]) -> str:
    """The growth at the tuned points, for which there was no expectation."""
    texts = []
    for arm in end_figures.COLOURS:
        mine = [
            growth.ratio
            for setting, growth in chosen
            if setting.arm == arm and setting.schedule != CONSTANT
        ]
        texts.append(f"{_range(mine)} ({arm})")
    return (
        "At the tuned points of Adam, ‖g‖/‖θ‖ of the invariant matrices changes by "
        f"factors of {markdown.join(texts)}."
    )


def _accuracy(results: Results) -> str:
    parts = [
        f"{name} {format_difference(each)}, {each.verdict}"
        for name, each in results.comparisons.items()
    ]
    unit = results.plan.measure.unit
    return f"**Test accuracy**, {unit}: {'; '.join(parts)}. {caveats(results)}"


def _share(value: float) -> str:
    return f"{100 * value:.0f} %"


def _failing(what: str, found: Sequence[Followed]) -> str:
    """A sentence that lists settings, if there are any."""
    names = [each.setting.name for each in found]
    return f" {what}: {'; '.join(names)}." if names else ""


def _range(groups: Iterable[Sequence[Estimate]]) -> str:
    """The smallest and the largest mean of all groups."""
    means = [each.mean for group in groups for each in group]
    return f"{min(means):.2f} to {max(means):.2f}"
