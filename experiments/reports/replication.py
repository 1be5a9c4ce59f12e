"""The report of a replication: each published verdict, and whether it holds."""

import json
from pathlib import Path
from typing import NamedTuple

from experiments import cells, files, outcomes, replication
from experiments.engine.store import read_manifest
from experiments.reports.markdown import interval, table
from experiments.reports.opening import closing, opening


class Claim(NamedTuple):
    """What a study says, then and now, of a study that has no protocol."""

    name: str
    before: str
    now: str

    @property
    def holds(self) -> bool:
        """Whether the new seeds say the same."""
        return self.before == self.now


def write_contrasts(source: Path, folder: Path) -> str:
    """Of a study with the protocol; `source` is its folder. Returns the verdict."""
    plan = outcomes.plan_from(read_manifest(source)["plan"])
    described = read_manifest(folder)["plan"]
    points = {n: tuple(map(tuple, each)) for n, each in described["points"].items()}
    tables = [cells.read(each / "cells.csv") for each in (source, folder)]
    found = replication.compare(plan, tables[0], points, tables[1])
    lines = [
        [
            each.contrast.name,
            interval(each.before.difference, 2, sign=True),
            each.before.words,
            interval(each.now, 2, sign=True),
            f"{each.p_holm:.2g}",
            f"{each.reach[0]:+.2f} to {each.reach[1]:+.2f}",
            each.words,
        ]
        for each in found
    ]
    header = (
        "contrast, published [95 %], verdict, new seeds [95 %], p (Holm), with "
        "runners-up, does it hold?"
    )
    note = f"""\
Differences are in {plan.measure.unit}. `With runners-up`: the means that the new seeds
give if each arm may be at its choice or at one of the two points that came next in
validation. A verdict holds if the new seeds give the same one, with Holm's correction
over all contrasts; the new interval is given the choices."""
    return _write(
        source,
        folder,
        table(header, 1, lines),
        note,
        [(each.contrast.name, each.words, each.holds) for each in found],
    )


def write_claims(source: Path, folder: Path, found: list[Claim]) -> str:
    """Of a study without the protocol, from its claims then and now."""
    lines = [
        [each.name, each.before, each.now, "holds" if each.holds else "does not hold"]
        for each in found
    ]
    header = "claim, published, new seeds, does it hold?"
    note = "The study ran again as it is, on other seeds."
    return _write(
        source,
        folder,
        table(header, 1, lines),
        note,
        [(each.name, f"does not hold: {each.now}", each.holds) for each in found],
    )


def _write(
    source: Path,
    folder: Path,
    shown: str,
    note: str,
    verdicts: list[tuple[str, str, bool]],
) -> str:
    manifest, before = read_manifest(folder), read_manifest(source)
    failed = [f"{name} {words}" for name, words, holds in verdicts if not holds]
    verdict = f"{len(verdicts) - len(failed)} of {len(verdicts)} verdicts hold."
    if failed:
        verdict += f" These do not: {'; '.join(failed)}."
    seeds = manifest["plan"]["seeds"]
    title = f"Replication of `{before['study']}` on seeds {seeds[0]} to {seeds[1] - 1}"
    question = "Do the published verdicts hold on seeds that nobody has used?"
    text = "\n\n".join(
        [
            opening(title, question, verdict, manifest),
            shown,
            note,
            f"Published: plan {before['hash']}. "
            + closing(manifest, "`cells.csv` (every run)"),
        ]
    )
    files.write_text(folder / "report.md", text + "\n")
    summary = {name: holds for name, _, holds in verdicts}
    files.write_text(folder / "holds.json", json.dumps(summary, indent=1) + "\n")
    return f"Verdict. {verdict}"
