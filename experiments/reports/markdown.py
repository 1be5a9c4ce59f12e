"""Results as the cells of Markdown tables."""

import numpy as np

from experiments.reports.demo_analysis import Matched, Summary
from experiments.statistics import Comparison, Estimate, verdict


def table(header: str, left: int, lines: list[list[str]]) -> str:
    """Markdown; the columns after the first `left` are set to the right."""
    names = header.split(", ")
    rule = ["---"] * left + ["--:"] * (len(names) - left)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [names, rule, *lines])


def arm_cells(arm: Summary) -> list[str]:
    strength = f"{arm.choice.weight_decay:g}" if arm.choice.weight_decay else "–"
    return [
        *(f"`{arm.arm}`", arm.base, arm.place, f"{arm.choice.learning_rate:g}"),
        *(strength, f"{100 * arm.choice.score:.2f}"),
        *accuracy_and_sizes(arm),
        f"{arm.diverged[0]} + {arm.diverged[1]}",
    ]


def accuracy_and_sizes(arm: Summary | Matched) -> list[str]:
    test = f"{arm.test.mean:.2f} [{arm.test.low:.2f}, {arm.test.high:.2f}]"
    return [test, f"{arm.max_abs_w:.2f}", f"{arm.rms_w:.4f}"]


def comparison_cells(pair: Comparison, adjective: str) -> list[str]:
    mean, low, high, _ = pair.difference
    return [
        f"`{pair.first}` − `{pair.second}`",
        f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]",
        f"{pair.p_holm:.2g}",
        verdict(pair, adjective),
    ]


def interval(estimate: Estimate, digits: int, sign: bool = False) -> str:
    """mean [low, high]; without an interval where there is none."""
    form = f"{'+' if sign else ''}.{digits}f"
    mean, low, high = estimate.mean, estimate.low, estimate.high
    if not np.isfinite(mean):
        return "–"
    if not np.isfinite(low) or not np.isfinite(high):
        return f"{mean:{form}}"
    return f"{mean:{form}} [{low:{form}}, {high:{form}}]"
