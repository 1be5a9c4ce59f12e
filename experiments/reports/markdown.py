"""Markdown: templates, tables, lists and numbers. Intervals are rounded outwards."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from experiments.statistics import Estimate


Row = TypeVar("Row")
TEMPLATES = Path(__file__).parent / "templates"
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def fill(template: str, **values: Any) -> str:
    """The text of templates/`template`.md with these values, as in `str.format`."""
    path = TEMPLATES / f"{template}.md"
    return path.read_text(encoding="utf-8").rstrip().format(**values)


def table(
    rows: Iterable[Row], columns: Mapping[str, Callable[[Row], str]], left: int = 1
) -> str:
    """A table with a line for each row.

    `columns` maps each heading to a function that returns the text of a row's cell. The
    first `left` columns are left-aligned, the others are right-aligned.
    """
    alignment = ["---"] * left + ["--:"] * (len(columns) - left)
    cells = [[text(row) for text in columns.values()] for row in rows]
    lines = [list(columns), alignment, *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def join(words: Sequence[str]) -> str:
    """a, b and c."""
    return ", ".join([*words[:-2], " and ".join(words[-2:])])


def group(verdicts: Iterable[tuple[str, str]], preposition: str = "on") -> str:
    """From (setting, verdict): "verdict on a and b; other verdict on c"."""
    settings: dict[str, list[str]] = {}
    for setting, verdict in verdicts:
        settings.setdefault(verdict, []).append(setting)
    return "; ".join(
        f"{verdict} {preposition} {join(names)}" for verdict, names in settings.items()
    )


def number(value: float) -> str:
    """2⁻⁷ for a power of two, decimal digits for another number."""
    if value > 0 and (exponent := math.log2(value)).is_integer():
        return "2" + f"{exponent:.0f}".translate(SUPERSCRIPTS)
    return f"{value:.3g}"


def bounds(low: float, high: float, digits: int = 2, sign: bool = False) -> str:
    """[low, high], rounded outwards; empty if there is no interval."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    form, unit = f"{'+' if sign else ''}z.{digits}f", 10.0**digits
    # Without the inner rounding, 0.1 + 0.2 = 0.30000000000000004 would become 0.31.
    down = math.floor(round(low * unit, 6)) / unit
    up = math.ceil(round(high * unit, 6)) / unit
    return f"[{down:{form}}, {up:{form}}]"


def estimate(mean: Estimate, digits: int = 2, sign: bool = False) -> str:
    """The mean and its interval; only the mean if there is no interval."""
    if not math.isfinite(mean.mean):
        return "–"
    text = f"{mean.mean:{'+' if sign else ''}z.{digits}f}"
    return f"{text} {bounds(mean.low, mean.high, digits, sign)}".rstrip()
