"""The report of `strength`: how the best λ moves, and what each rule for it costs."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from experiments import optima
from experiments.engine.store import read_manifest
from experiments.reports import markdown, strength_figures as figures
from experiments.reports.figures import save_palette
from experiments.reports.strength_numbers import name_of, Numbers, read_numbers
from experiments.reports.template import save_report
from experiments.statistics import Estimate
from experiments.strengths import Place, Regret, RULES, SAME, Trend, TunedTask


def claims(folder: Path) -> dict[str, str]:
    """Claims about exponents and rules in words, to compare with other seeds."""
    found = read_numbers(folder)
    words = {}
    for trend in found.trends:
        name = f"{trend.task.name}, {trend.axis}"
        words[f"{name}: λ*"] = trend.verdict
        for rule in RULES:
            side = "outside" if rule in trend.excluded else "inside"
            words[f"{name}: exponent of {rule}"] = f"{side} the interval"
    for regret in found.regrets:
        if regret.setting is None and regret.rule != SAME:
            words[f"{regret.task.name}: {regret.rule}"] = _gain_verdict(regret)
    return words


def write_report(folder: Path) -> str:
    """Write the figures, then report.md; returns the verdict."""
    plan, found = read_manifest(folder)["plan"], read_numbers(folder)
    save_palette(figures.plot_exponents(found), folder / "exponents.png")
    save_palette(figures.plot_curves(found), folder / "curves.png")
    save_palette(figures.plot_regrets(found), folder / "regret.png")
    last = plan["first_seed"] + max(found.seeds.values()) - 1
    return save_report(
        folder,
        "strength",
        conclusion(found),
        exponents=_exponents_table(found),
        regrets=_regrets_table(found),
        places=_places_table(found),
        seeds=markdown.join([f"{n} ({task})" for task, n in found.seeds.items()]),
        last=last,
        few=optima.MIN_SEEDS,
    )


# --- The verdict ------------------------------------------------------------------


def conclusion(found: Numbers) -> str:
    """The verdict, derived from the numbers: a paragraph for each task."""
    paragraphs = [_paragraph(found, task) for task in found.tasks]
    if not found.has_intervals:
        paragraphs.append("Too few seeds for intervals: no finding.")
    return "\n\n".join([*paragraphs, _open(found)])


def _paragraph(found: Numbers, task: TunedTask) -> str:
    moves = [
        f"{trend.axis}: {_exponent(trend.decay)}, {trend.verdict}{_outside(trend)}"
        for trend in found.trends
        if trend.task.name == task.name
    ]
    costs = []
    for regret in found.regrets:
        if regret.task.name == task.name and regret.setting is None:
            cost = f"{regret.rule} {_cost(regret)}"
            if regret.rule != SAME and found.has_intervals:
                cost += f" ({_gain_verdict(regret)})"
            costs.append(cost)
    return (
        f"**{task.name}.** Exponent of λ* at one learning rate, for "
        f"{'; '.join(moves)}. Mean regret in {task.measure.unit}: {', '.join(costs)}."
    )


def _exponent(estimate: Estimate) -> str:
    return markdown.estimate(estimate, sign=True)


def _outside(trend: Trend) -> str:
    """Which rules the interval excludes, as a part of a sentence."""
    if not np.isfinite(trend.decay.low):
        return ""
    excluded = trend.excluded
    if len(excluded) == len(RULES):
        return " (excludes all three rules)"
    return (
        f" (excludes {markdown.join(excluded)})" if excluded else " (excludes no rule)"
    )


def _gain_verdict(regret: Regret) -> str:
    """Whether a rule is better than the same λ, in words."""
    low, high = regret.gain.low, regret.gain.high
    if low > 0:
        return f"better than {SAME}"
    return f"worse than {SAME}" if high < 0 else f"no difference to {SAME} shown"


def _cost(regret: Regret) -> str:
    digits = 2 if regret.task.measure.unit == "points" else 3
    return markdown.estimate(regret.cost, digits, sign=True)


def _open(found: Numbers) -> str:
    """Which optima are not bracketed."""
    alone = _names(found, lambda place: place.inside)
    both = _names(found, lambda place: place.both_inside)
    if not alone and not both:
        return "Every optimum is bracketed."
    texts = []
    if alone:
        texts.append(
            f"λ is not bracketed at one learning rate: {markdown.join(alone)}."
        )
    if both:
        texts.append(f"Learning rate or λ is not bracketed: {markdown.join(both)}.")
    return f"{' '.join(texts)} Exponents leave these settings out."


def _names(found: Numbers, inside: Callable[[Place], bool]) -> list[str]:
    return [
        f"{task} ({place.setting.name})"
        for task, places in found.places.items()
        for place in places
        if not inside(place)
    ]


# --- Tables -----------------------------------------------------------------------


def _exponents_table(found: Numbers) -> str:
    def power(rule: str, trend: Trend) -> str:
        return f"{RULES[rule][trend.axis]:+g}"

    columns: dict[str, Callable[[Trend], str]] = {
        "task": lambda trend: trend.task.name,
        "axis": lambda trend: trend.axis,
        "λ*, one learning rate [95 %]": lambda t: _exponent(t.decay),
        "p (Holm)": lambda t: f"{t.p_holm:.2g}" if found.has_intervals else "–",
        **{f"rule: {rule}": lambda t, rule=rule: power(rule, t) for rule in RULES},
        "γλ*, both tuned [95 %]": lambda t: _exponent(t.timescale),
        "γ*, both tuned [95 %]": lambda t: _exponent(t.best_rate),
    }
    return markdown.table(found.trends, columns, left=2)


def _regrets_table(found: Numbers) -> str:
    rows = [regret for regret in found.regrets if regret.rule == SAME]
    costs = {(r.task.name, name_of(r), r.rule): _cost(r) for r in found.regrets}
    columns: dict[str, Callable[[Regret], str]] = {
        "task": lambda r: r.task.name,
        "setting": name_of,
        "unit": lambda r: r.task.measure.unit,
    }
    for rule in RULES:
        columns[f"{rule} [95 %]"] = lambda r, rule=rule: costs[
            r.task.name, name_of(r), rule
        ]
    return markdown.table(rows, columns, left=3)


def _places_table(found: Numbers) -> str:
    rows = [(task, place) for task in found.tasks for place in found.places[task.name]]

    def at_bound(inside: bool, text: str) -> str:
        return text if inside else f"({text})"

    columns: dict[str, Callable[[tuple[TunedTask, Place]], str]] = {
        "task": lambda row: row[0].name,
        "setting": lambda row: row[1].setting.name,
        "log2 λ*, one learning rate [95 %]": lambda row: at_bound(
            row[1].inside, _exponent(row[1].decay)
        ),
        "log2 γ*, both tuned [95 %]": lambda row: at_bound(
            row[1].both_inside, _exponent(row[1].best_rate)
        ),
        "log2 λ*, both tuned [95 %]": lambda row: at_bound(
            row[1].both_inside, _exponent(row[1].best_decay)
        ),
        "validation": lambda row: f"{row[1].loss:.3f}",
        "points": lambda row: str(row[1].points),
    }
    return markdown.table(rows, columns, left=2)
