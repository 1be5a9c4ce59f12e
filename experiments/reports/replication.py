"""Replication of a study on unused seeds, and a report on each verdict."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from experiments import outcomes, protocol, replication
from experiments.engine.code import code_hashes
from experiments.engine.manifest import differences, WITHOUT_DATA
from experiments.engine.store import read_manifest
from experiments.engine.study import first_stage_functions, hash_of, Study
from experiments.errors import UserError
from experiments.files import provenance, revision_of
from experiments.reports.markdown import interval, table
from experiments.reports.results import read_table
from experiments.reports.template import save_report
from experiments.statistics import MIN_VALUES


def study_of(
    module: ModuleType, folder: Path, seeds: tuple[int, int]
) -> tuple[Study, list[str]]:
    """The study that replicates the finished results in a folder.

    Returns:
        The study, and which versions, devices or code differ from those that made the
        results; the report lists them.

    Raises:
        UserError: the results are of another plan than the module's, the seeds were
            used already, or the study has no verdicts that can be replicated.
    """
    manifest = read_manifest(folder)
    plan = _plan_of(module, folder, manifest)
    if isinstance(plan, protocol.ProtocolPlan):
        study, report = _with_protocol(plan, folder, manifest, seeds)
    else:
        study, report = _with_claims(plan, module, folder, manifest, seeds)
    other = _differences(manifest, study, type(plan).__module__)
    name = f"{manifest['study']}-replication"
    report = functools.partial(report, other=other)
    return study._replace(name=name, report=report), other


def _with_protocol(
    plan: protocol.ProtocolPlan,
    folder: Path,
    manifest: dict[str, Any],
    seeds: tuple[int, int],
) -> tuple[Study, Callable[..., str]]:
    """The choices and runners-up of a study with the protocol, and the report."""
    if plan.final_seeds < MIN_VALUES:
        raise UserError(
            f"{folder} has {plan.final_seeds} final seeds, too few for a verdict: run "
            f"the study with --seeds {MIN_VALUES} or more first."
        )
    _require_fresh(seeds, plan.seeds(protocol.FINAL).stop)
    replicated = replication.plan_of(
        plan, read_table(folder, manifest), manifest["hash"], seeds
    )
    report = functools.partial(write_contrasts, folder)
    return replication.study(manifest["study"], replicated, plan, report), report


def _with_claims(
    plan: Any,
    module: ModuleType,
    folder: Path,
    manifest: dict[str, Any],
    seeds: tuple[int, int],
) -> tuple[Study, Callable[..., str]]:
    """A study without the protocol on other seeds, and the report."""
    if not hasattr(module, "claims"):
        raise UserError(
            f"the study {manifest['study']} has no protocol and no `claims`, so "
            "nothing can be replicated: write claims(folder), which returns words by "
            "name."
        )
    fields = ("first_seed", "seeds")
    if missing := [field for field in fields if not hasattr(plan, field)]:
        raise UserError(
            f"the plan of {manifest['study']} has no {' and no '.join(missing)}, so it "
            "cannot run on other seeds: give it the fields first_seed and seeds."
        )
    _require_fresh(seeds, plan.first_seed + plan.seeds)
    first, end = seeds
    replicated = dataclasses.replace(plan, first_seed=first, seeds=end - first)
    report = functools.partial(write_claims, module.claims, folder, seeds)
    return module.study(replicated), report


def _differences(manifest: dict[str, Any], study: Study, module: str) -> list[str]:
    """What differs between the provenance of the results and the current one.

    Code is compared in the modules that both list: tuning and replication need not
    reach the same modules. `module` is that of the source's plan, because its `FULL`
    and `SMOKE` are not part of the code.
    """
    then = manifest.get("code") or {}
    now = code_hashes(first_stage_functions(study), module, {})
    both = sorted(then.keys() & now.keys())
    before = manifest | {"code": {name: then[name] for name in both}}
    after = provenance() | {"code": {name: now[name] for name in both}}
    return differences(before, after, WITHOUT_DATA)


def _plan_of(module: ModuleType, folder: Path, manifest: dict[str, Any]) -> Any:
    """The plan of the module that made the results, with the same options."""
    for plan in (module.FULL, module.SMOKE):
        options = {
            field: manifest["plan"][field]
            for field in ("final_seeds", "chunk")
            if field in manifest["plan"] and hasattr(plan, field)
        }
        found = dataclasses.replace(plan, **options)
        if hash_of(module.study(found)) == manifest["hash"]:
            return found
    made = ", ".join(sorted({revision_of(each) for each in manifest["made by"]}))
    raise UserError(
        f"{folder} holds results of another plan ({manifest['hash']}) than the study "
        f"{manifest['study']} has now: go back to the revision that made it, {made}."
    )


def _require_fresh(seeds: tuple[int, int], used: int) -> None:
    if seeds[0] < used:
        raise UserError(
            f"--seeds {seeds[0]}:{seeds[1]}: the study has used seeds to {used - 1}, "
            f"so begin at {used} or later."
        )


class Claim(NamedTuple):
    """A claim of a study without the protocol, published and on new seeds."""

    name: str
    before: str
    now: str

    @property
    def holds(self) -> bool:
        """Whether the claim is the same on the new seeds."""
        return self.before == self.now


def write_contrasts(source: Path, folder: Path, other: Sequence[str] = ()) -> str:
    """Report on a study with the protocol; `source` is its folder. Returns the verdict.

    `other` lists differences of provenance.
    """
    plan = outcomes.plan_from_manifest(read_manifest(source)["plan"])
    described = read_manifest(folder)["plan"]
    points = {n: tuple(map(tuple, each)) for n, each in described["points"].items()}
    tables = [read_table(each, read_manifest(each)) for each in (source, folder)]
    found = replication.compare(plan, tables[0], points, tables[1])
    lines = [
        [
            each.contrast.name,
            interval(each.before.difference, 2, sign=True),
            each.before.verdict,
            interval(each.now, 2, sign=True),
            f"{each.p_holm:.2g}",
            f"{each.reach[0]:+.2f} to {each.reach[1]:+.2f}",
            each.outcome,
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
    verdicts = [(each.contrast.name, each.outcome, each.holds) for each in found]
    shown = table(header, 1, lines)
    return _save(source, folder, described["seeds"], shown, note, verdicts, other)


def write_claims(
    claims: Callable[[Path], dict[str, str]],
    source: Path,
    seeds: tuple[int, int],
    folder: Path,
    other: Sequence[str] = (),
) -> str:
    """Report on a study without the protocol, from its claims then and now."""
    before, now = claims(source), claims(folder)
    found = [
        Claim(name, text, now.get(name, "not said")) for name, text in before.items()
    ]
    lines = [
        [each.name, each.before, each.now, "holds" if each.holds else "does not hold"]
        for each in found
    ]
    header = ("claim", "published", "new seeds", "does it hold?")
    note = "The study ran again as it is, on other seeds."
    verdicts = [(each.name, f"does not hold: {each.now}", each.holds) for each in found]
    shown = table(header, 4, lines)
    return _save(source, folder, seeds, shown, note, verdicts, other)


def _save(
    source: Path,
    folder: Path,
    seeds: Sequence[int],
    shown: str,
    note: str,
    verdicts: list[tuple[str, str, bool]],
    other: Sequence[str],
) -> str:
    before = read_manifest(source)
    others = [f"{name} {outcome}" for name, outcome, holds in verdicts if not holds]
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
    return save_report(
        folder,
        title,
        question,
        verdict,
        shown,
        note,
        of,
        stored="`cells.csv`",
        remake=None,
    )
