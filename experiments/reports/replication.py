"""A study again on seeds that nobody has used, and what it says of each verdict."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from experiments import outcomes, protocol, replication
from experiments.engine.code import code_of
from experiments.engine.manifest import differences, PROCESS
from experiments.engine.store import read_manifest
from experiments.engine.study import hash_of, made_with, Study
from experiments.files import provenance, revision_of
from experiments.problem import Problem
from experiments.reports.markdown import interval, table
from experiments.reports.opening import write
from experiments.reports.results import table_of
from experiments.statistics import FEWEST


def study_of(
    module: ModuleType, folder: Path, seeds: tuple[int, int]
) -> tuple[Study, list[str]]:
    """What replicates the finished results in a folder.

    Returns:
        The study, and in what versions, device or code differ from those that made the
        results: the report says it.

    Raises:
        Problem: the results are of another plan than the module's, the seeds were used
            already, or the study has no verdicts that can be replicated.
    """
    manifest = read_manifest(folder)
    plan = _plan_of(module, folder, manifest)
    if isinstance(plan, protocol.Plan):
        study, report = _with_protocol(plan, folder, manifest, seeds)
    else:
        study, report = _with_claims(plan, module, folder, manifest, seeds)
    other = _differences(manifest, study, type(plan).__module__)
    name = f"{manifest['study']}-replication"
    report = functools.partial(report, other=other)
    return study._replace(name=name, report=report), other


def _with_protocol(
    plan: protocol.Plan, folder: Path, manifest: dict[str, Any], seeds: tuple[int, int]
) -> tuple[Study, Callable[..., str]]:
    """The choices and runners-up of a study with the protocol, and what reports."""
    if plan.final_seeds < FEWEST:
        raise Problem(
            f"{folder} has {plan.final_seeds} final seeds, too few for a verdict: run "
            f"the study with --seeds {FEWEST} or more first."
        )
    _require_fresh(seeds, plan.seeds(protocol.FINAL).stop)
    again = replication.plan_of(
        plan, table_of(folder, manifest), manifest["hash"], seeds
    )
    report = functools.partial(write_contrasts, folder)
    return replication.study(manifest["study"], again, plan, report), report


def _with_claims(
    plan: Any,
    module: ModuleType,
    folder: Path,
    manifest: dict[str, Any],
    seeds: tuple[int, int],
) -> tuple[Study, Callable[..., str]]:
    """A study without the protocol on other seeds, and what reports on it."""
    if not hasattr(module, "claims"):
        raise Problem(
            f"the study {manifest['study']} has no protocol and no `claims`, so "
            "nothing can be replicated: write claims(folder), which returns words by "
            "name."
        )
    fields = ("first_seed", "seeds")
    if missing := [field for field in fields if not hasattr(plan, field)]:
        raise Problem(
            f"the plan of {manifest['study']} has no {' and no '.join(missing)}, so it "
            "cannot run on other seeds: give it the fields first_seed and seeds."
        )
    _require_fresh(seeds, plan.first_seed + plan.seeds)
    again = dataclasses.replace(plan, first_seed=seeds[0], seeds=seeds[1] - seeds[0])
    report = functools.partial(_write_claims_of, module.claims, folder, seeds)
    return module.study(again), report


def _differences(manifest: dict[str, Any], study: Study, module: str) -> list[str]:
    """In what the runs of a study would be made in another way than the results.

    Code is compared in the modules that both name: tuning and replication need not
    reach the same ones. `module` is that of the source's plan, as its `FULL` and
    `SMOKE` are no code.
    """
    then, now = manifest.get("code") or {}, code_of(made_with(study), module, {})
    both = sorted(then.keys() & now.keys())
    before = manifest | {"code": {name: then[name] for name in both}}
    after = provenance() | {"code": {name: now[name] for name in both}}
    return differences(before, after, PROCESS)


def _plan_of(module: ModuleType, folder: Path, manifest: dict[str, Any]) -> Any:
    """The plan of the module that made the results, with the same options."""
    for plan in (module.FULL, module.SMOKE):
        told = {
            field: manifest["plan"][field]
            for field in ("final_seeds", "chunk")
            if field in manifest["plan"] and hasattr(plan, field)
        }
        found = dataclasses.replace(plan, **told)
        if hash_of(module.study(found)) == manifest["hash"]:
            return found
    made = ", ".join(sorted({revision_of(each) for each in manifest["made by"]}))
    raise Problem(
        f"{folder} holds results of another plan ({manifest['hash']}) than the study "
        f"{manifest['study']} has now: go back to the revision that made it, {made}."
    )


def _require_fresh(seeds: tuple[int, int], used: int) -> None:
    if seeds[0] < used:
        raise Problem(
            f"--seeds {seeds[0]}:{seeds[1]}: the study has used seeds to {used - 1}, "
            f"so begin at {used} or later."
        )


class Claim(NamedTuple):
    """What a study says, then and now, of a study that has no protocol."""

    name: str
    before: str
    now: str

    @property
    def holds(self) -> bool:
        """Whether the new seeds say the same."""
        return self.before == self.now


def write_contrasts(source: Path, folder: Path, other: Sequence[str] = ()) -> str:
    """Of a study with the protocol; `source` is its folder. Returns the verdict.

    `other` is in what the source was made in another way.
    """
    plan = outcomes.plan_from(read_manifest(source)["plan"])
    described = read_manifest(folder)["plan"]
    points = {n: tuple(map(tuple, each)) for n, each in described["points"].items()}
    tables = [table_of(each, read_manifest(each)) for each in (source, folder)]
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
        "contrast",
        "published [95 %]",
        "verdict",
        "new seeds [95 %]",
        "p (Holm)",
        "with runners-up",
        "does it hold?",
    )
    note = f"""\
Differences are in {plan.measure.unit}. `With runners-up`: the means that the new seeds
give if each entry may be at its choice or at one of the two points that came next in
validation. A difference is clear if its interval excludes 0, p is below 0.05 after
Holm's correction over all contrasts, and no such choice turns its sign. A verdict holds
if the new seeds give the same one. "Shown only now": the study did not claim it."""
    verdicts = [(each.contrast.name, each.words, each.holds) for each in found]
    shown = table(header, 1, lines)
    return _write(source, folder, described["seeds"], shown, note, verdicts, other)


def _write_claims_of(
    claims: Callable[[Path], dict[str, str]],
    source: Path,
    seeds: tuple[int, int],
    folder: Path,
    other: Sequence[str] = (),
) -> str:
    """Of a study without the protocol, from its claims then and now."""
    before, now = claims(source), claims(folder)
    found = [
        Claim(name, said, now.get(name, "not said")) for name, said in before.items()
    ]
    lines = [
        [each.name, each.before, each.now, "holds" if each.holds else "does not hold"]
        for each in found
    ]
    header = ("claim", "published", "new seeds", "does it hold?")
    note = "The study ran again as it is, on other seeds."
    verdicts = [(each.name, f"does not hold: {each.now}", each.holds) for each in found]
    shown = table(header, 4, lines)
    return _write(source, folder, seeds, shown, note, verdicts, other)


def _write(
    source: Path,
    folder: Path,
    seeds: Sequence[int],
    shown: str,
    note: str,
    verdicts: list[tuple[str, str, bool]],
    other: Sequence[str],
) -> str:
    before = read_manifest(source)
    others = [f"{name} {words}" for name, words, holds in verdicts if not holds]
    verdict = f"{len(verdicts) - len(others)} of {len(verdicts)} verdicts hold."
    if others:
        verdict += f" The others: {'; '.join(others)}."
    title = f"Replication of `{before['study']}` on seeds {seeds[0]} to {seeds[1] - 1}"
    question = "Do the published verdicts hold on seeds that nobody has used?"
    of = f"Published: plan {before['hash']}."
    if other:
        of += (
            f" It was made with other {' and other '.join(other)}. So a difference "
            "between published and new numbers is not due to the seeds alone."
        )
    parts = (shown, note, of)
    stored = "`cells.csv`"
    return write(folder, title, question, verdict, *parts, stored=stored, again=None)
