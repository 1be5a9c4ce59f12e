"""The numbers on the pages are those of the published results."""

import re
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.needs_checkout


def published(name: str, part: str = "report.md") -> str:
    return (ROOT / "experiments" / "results" / name / part).read_text()


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


def findings() -> str:
    return page("evidence.md")


def test_the_findings_are_those_of_the_published_runs():
    """A quoted row stands in a report, and its last cell in that of the replication."""
    table = next(x for x in findings().split("\n\n") if x.startswith("| "))
    rows = table.splitlines()[2:]
    assert len(rows) >= 8
    for row in rows:
        quoted, holds = row.rstrip(" |").rsplit(" | ", 1)
        name = quoted.split(" | ")[0].removeprefix("| ")
        (study,) = (
            s for s in ("demo", "why", "tuning") if f"{quoted} |" in published(s)
        )
        lines = published(study, "replication/report.md").splitlines()
        (line,) = (each for each in lines if each.startswith(f"| {name} |"))
        assert line.endswith(f" {holds} |"), (row, line)


@pytest.mark.parametrize(
    ("study", "in_report", "in_readme"),
    [
        ("same", r"by (\d+) % \(momentum\), (\d+) % \(RMSprop\) and (\d+) %", "{} %"),
        ("demo", r"where the spread of √v is (\S+ decades)", "it is {}"),
        ("demo", r"on unlike scales: (\S+ \[\S+ \S+\]), adamw clearly better", "{}"),
        ("why", r"The slope is (\S+ \[\S+ \S+\]) points per unit of s", "{}"),
        ("why", r"better than no decay in (\d+) of 10 settings", "in {} of 10"),
        ("why", r"settings, AdamW in (\d+)\.", "AdamW in {}"),
        ("tuning", r"With decoupled decay: (\d+ of the 18 grids)", "{}"),
        ("tuning", r"With L2: (\d+ of the 9)", "{}"),
        ("symmetry", r"deviates from its prediction by (3\S+ to \S+ %)", "up to {}"),
        ("symmetry", r"3\S+ to \S+ % \(other leaves: (\S+ to \S+ %)\)", "leaves: {}"),
        ("symmetry", r"from two starts differ by (\S+ to \S+ %)", "differ by {}"),
        ("symmetry", r"changes the logits by at most (\S+ %)", "at most {}"),
        ("symmetry", r"on a seen or joint leaf by (\S+ to \S+ %)", "by {}"),
    ],
)
def test_numbers_in_the_findings_are_those_of_the_reports(study, in_report, in_readme):
    told = " ".join(findings().replace("\xa0", " ").split())
    found = [
        m
        for g in re.findall(in_report, published(study))
        for m in (g if isinstance(g, tuple) else (g,))
    ]
    assert found
    for number in found if study != "why" else found[:2]:
        assert in_readme.format(number) in told, number


def test_the_number_of_verdicts_that_hold_is_that_of_the_replications():
    words = {
        "hold": r"holds",
        "do not": r"does not hold: [^|]+",
        "only": r"shown [^|]+",
    }
    counts = {
        key: sum(
            len(re.findall(rf"\| {pattern} \|$", published(name, part), re.MULTILINE))
            for name in ("demo", "why", "tuning")
            for part in ("replication/report.md",)
        )
        for key, pattern in words.items()
    }
    told = " ".join(findings().split())
    assert f"have {sum(counts.values())} verdicts; " in told
    assert f"{counts['hold']} hold on the new seeds" in told
    assert f"{counts['do not']} do not hold: " in told
    assert f"{counts['only']} differences are clear on the new seeds only" in told


@pytest.mark.parametrize("document", ["docs/evidence.md", "experiments/README.md"])
def test_slopes_in_the_findings_are_those_of_the_report(document):
    told = " ".join((ROOT / document).read_text().split())
    row = re.compile(r"^\| `(\w+) \w+` \| ([\w-]+) \| ([+-]\d\.\d+) ", re.MULTILINE)
    slopes = {}
    for task, place, slope in row.findall(published("tuning")):
        slopes.setdefault((task, place), []).append(float(slope))
    decoupled = {key: x for key, x in slopes.items() if key[1] != "L2"}
    assert len(decoupled) == 4
    for values in decoupled.values():
        span = f"{min(values):+.1f} to {max(values):+.1f}".replace("-", "−")
        assert span in told, span


@pytest.mark.parametrize(
    ("document", "begin", "end"),
    [
        ("docs/evidence.md", "## Which method?", "\n## "),
        ("experiments/README.md", "- **leaderboard**", "\n\n"),
    ],
)
def test_differences_of_the_leaderboard_are_those_of_the_report(document, begin, end):
    """Each mean has the interval that contains the choice."""
    told = (ROOT / document).read_text().split(begin)[1].split(end)[0]
    told = " ".join(told.split()).replace("−", "-")
    quoted = re.findall(r"([+-]\d\.\d+)\D{0,9}(\[[+-][\d.]+, [+-][\d.]+\])", told)
    assert len(quoted) >= 4
    row = re.compile(r"\| ([+-]\d\.\d+) \[\S+ \S+\] \| (\[\S+ \S+\]) \|")
    # On new seeds no choice is made, so there is one interval.
    again = re.compile(r"([+-]\d\.\d+) (\[\S+ \S+\]) \| 0\.\d+ \|")
    rows = [
        *row.findall(published("leaderboard")),
        *again.findall(published("leaderboard", "replication/report.md")),
    ]
    assert set(quoted) <= set(rows)
    hold = re.findall(
        r"(\d+ of \d+) verdicts", published("leaderboard", "replication/report.md")
    )
    numbers = re.findall(r"\d+", hold[0])
    assert all(number in told for number in numbers)


@pytest.mark.parametrize("document", ["howto/bf16.md", "howto/log.md"])
def test_the_times_of_wrappers_are_those_of_the_benchmark(document):
    ratio = r" +(\d+\.\d\d) +\d+\.\d"
    measured: dict[str, list[tuple[float, float]]] = {}
    for name, *both in re.findall(
        rf"^(\w.*?){ratio}{ratio}$",
        published("benchmarks", "wrappers.txt"),
        re.MULTILINE,
    ):
        measured.setdefault(name, []).append((float(both[0]), float(both[1])))
    row = re.compile(r"^\| (.*) \| (\d\S* to \S+) \| (\d\S* to \S+) \|$", re.MULTILINE)
    told = row.findall(page(document))
    assert len(told) == 3
    for name, *ranges in told:
        runs = measured[name.replace("`", "")]
        assert len(runs) == 3
        assert ranges == [
            f"{min(x):.2f} to {max(x):.2f}" for x in zip(*runs, strict=True)
        ]


def test_the_times_of_audits_are_those_of_the_benchmark():
    table = published("benchmarks", "audit.txt")
    assert table.count("\n") == 9
    assert f"\n\n{table}\n" in page("howto/audit_in_ci.md")


def test_the_costs_of_methods_are_those_of_the_benchmark():
    rows = re.findall(
        r"^\| `(\w+)` \| (\d\.\d\d) \|",
        published("benchmarks", "catalogue.txt"),
        re.MULTILINE,
    )
    measured = {name: float(ratio) for name, ratio in rows}
    row = re.compile(
        r"^\| `(\w+)` \| .* \| (\d\.\d+)(?: to (\d\.\d+))?;?[^|]*\| [^|]*\|$"
    )
    told = {
        m[1]: m for line in page("methods.md").splitlines() if (m := row.match(line))
    }
    assert set(told) == set(measured) - {"bare", "decoupled_decay"}
    for name, found in told.items():
        low, high = float(found[2]), float(found[3] or found[2])
        assert low - 0.05 <= measured[name] <= high + 0.05, name


def test_the_times_of_the_engine_are_those_of_the_benchmark():
    table = published("benchmarks", "sweep.txt").splitlines()
    rows = [re.findall(r"\d+\.\d\d", line) for line in table]
    told = re.findall(
        r"\| (\d\.\d\d) \| (\d\.\d\d) \| (\d\.\d\d) \|", page("evidence.md")
    )
    assert list(map(list, told)) == [row[:3] for row in rows[-3:]]
    assert "Other programs ran" not in "".join(table)


def test_the_porting_table_is_the_tested_one():
    from test_rates import PORTS

    table = page("howto/port.md")
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert rows == [
        f"| {row.framework} `{row.recipe}` | `{row.write}` | {row.says} |"
        for row in PORTS
    ]


def test_the_slopes_of_the_best_decay_are_the_published_ones():
    text = " ".join(page("howto/how_strongly.md").replace("−", "-").split())
    for arm in ("teacher adamw", "layernorm adamw"):
        row = re.findall(rf"\| `{arm}` \|.*", published("tuning"))[0]
        slope = row.split("|")[3].strip()
        assert slope in text, slope


def test_the_page_of_recipes_is_made_from_the_recipes():
    printed = subprocess.check_output([sys.executable, "docs/recipes.py"], cwd=ROOT)
    assert (ROOT / "docs" / "recipes.md").read_bytes() == printed


@pytest.mark.parametrize("document", ["docs/evidence.md", "experiments/README.md"])
def test_the_exponents_of_the_best_decay_are_the_published_ones(document):
    text = " ".join((ROOT / document).read_text().split()).replace("−", "-")
    for axis in ("re-read | epochs", "re-read | batch", "one pass | data"):
        row = re.findall(rf"\| text, {re.escape(axis)} \|.*", published("strength"))[0]
        exponent, interval = row.split("|")[3].split(" [")
        interval = interval.strip().replace("+", "")
        name = axis.split()[-1]
        assert f"{name}^{exponent.strip().lstrip('+')} [{interval}" in text, row


@pytest.mark.needs_extras
def test_what_the_rules_lose_is_what_the_benchmark_prints():
    command = [sys.executable, "-m", "experiments.benchmarks.rules"]
    printed = subprocess.check_output(command, cwd=ROOT, text=True)
    assert printed in page("howto/how_strongly.md")


@pytest.mark.needs_extras
def test_what_a_rule_loses_by_hand():
    """λ = 1 is a point of the teacher's grid, so nothing is interpolated."""
    from experiments import cells
    from experiments.benchmarks.rules import GRIDS, regrets
    from experiments.studies.tuning import TEACHER

    table = cells.read_csv(GRIDS)
    rows = [
        dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)
    ]
    errors = {}
    for row in rows:
        if (row["stage"], row["task"], row["arm"]) == ("tuning", "teacher", "adamw"):
            place = (row["learning_rate"], row["weight_decay"])
            errors.setdefault(place, []).append(100 - 100 * row["val_accuracy"])
    means = {place: sum(x) / len(x) for place, x in errors.items()}
    lr, _ = min(means, key=means.get)
    wanted = [x == "teacher" for x in table["task"]]
    chosen = [
        a and b == "adamw" and c == "tuning"
        for a, b, c in zip(wanted, table["arm"], table["stage"], strict=True)
    ]
    own = {name: column[chosen] for name, column in table.items()}
    at_best, _ = regrets(own, TEACHER)["λ = 1"]
    assert at_best == pytest.approx(means[lr, 1.0] - min(means.values()), rel=1e-9)
