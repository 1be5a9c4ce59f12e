"""Numbers, lists and tables in words. An interval never looks narrower than it is."""

import math
from collections.abc import Iterable, Sequence

from experiments.statistics import Estimate


RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def table(header: Sequence[str], left: int, lines: Iterable[Sequence[str]]) -> str:
    """Markdown; the columns after the first `left` are set to the right."""
    rule = ["---"] * left + ["--:"] * (len(header) - left)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, rule, *lines])


def listed(parts: Sequence[str]) -> str:
    """a, b and c."""
    return ", ".join([*parts[:-2], " and ".join(parts[-2:])])


def grouped(words: Iterable[tuple[str, str]], joint: str = "on") -> str:
    """From (place, words): "words on a and b; other words on c"."""
    found: dict[str, list[str]] = {}
    for place, text in words:
        found.setdefault(text, []).append(place)
    return "; ".join(
        f"{text} {joint} {listed(places)}" for text, places in found.items()
    )


def power(value: float) -> str:
    """2⁻⁷ for a power of two, digits for another number."""
    exponent = math.log2(value) if value > 0 else 0.5
    if exponent == round(exponent):
        return "2" + f"{exponent:.0f}".translate(RAISED)
    return f"{value:.3g}"


def bounds(low: float, high: float, digits: int = 2, sign: bool = False) -> str:
    """[low, high], rounded outwards; empty where there is no interval."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    form, unit = f"{'+' if sign else ''}z.{digits}f", 10.0**digits
    # Rounded first: 0.1 + 0.2 is not above 0.3.
    down = math.floor(round(low * unit, 6)) / unit
    up = math.ceil(round(high * unit, 6)) / unit
    return f"[{down:{form}}, {up:{form}}]"


def interval(estimate: Estimate, digits: int = 2, sign: bool = False) -> str:
    """mean [low, high]; the mean alone where there is no interval."""
    if not math.isfinite(estimate.mean):
        return "–"
    mean = f"{estimate.mean:{'+' if sign else ''}z.{digits}f}"
    return f"{mean} {bounds(estimate.low, estimate.high, digits, sign)}".rstrip()
