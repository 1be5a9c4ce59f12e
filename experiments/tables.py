"""Results as the cells of Markdown tables."""

from experiments.analysis import Matched, Summary
from experiments.statistics import Comparison, verdict


def table(header: str, left: int, lines: list[list[str]]) -> str:
    """Markdown; the columns after the first `left` are set to the right."""
    names = header.split(", ")
    rule = ["---"] * left + ["--:"] * (len(names) - left)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [names, rule, *lines])


def arm_cells(arm: Summary) -> list[str]:
    strength = f"{arm.choice.weight_decay:g}" if arm.choice.weight_decay else "–"
    return [
        *(f"`{arm.arm}`", arm.base, arm.place, f"{arm.choice.learning_rate:g}"),
        *(strength, f"{100 * arm.choice.val_accuracy:.2f}"),
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
