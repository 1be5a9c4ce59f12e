"""Replication of a study on unused seeds, and a report on each verdict."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from experiments import joint, protocol, replication
from experiments.engine.code import code_hashes
from experiments.engine.manifest import differences, WITHOUT_DATA
from experiments.engine.store import read_manifest
from experiments.engine.study import first_stage_functions, hash_of, Study
from experiments.errors import UserError
from experiments.files import provenance, revision_of
from experiments.joint import Plan, protocols
from experiments.reports import markdown
from experiments.reports.results import digits_of, read_table
from experiments.reports.template import save_report
from experiments.search import Point
from experiments.statistics import MIN_VALUES


HOLDS = "holds"  # the outcome of a verdict that is the same on new seeds


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
    name, plan = manifest["study"], _plan_of(module, folder, manifest)
    if isinstance(plan, Plan):
        study, report = _with_protocol(plan, folder, manifest, seeds)
    else:
        study, report = _with_claims(plan, module, folder, name, seeds)
    other = _differences(manifest, study, type(plan).__module__)
    report = functools.partial(report, other=other)
    return study._replace(name=f"{name}-replication", report=report), other


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
        f"the results in {folder} have the plan {manifest['hash']}, but the study "
        f"{manifest['study']} has another plan now. Check out the revision that made "
        f"them: {made}."
    )


def _with_protocol(
    plan: Plan,
    folder: Path,
    manifest: dict[str, Any],
    seeds: tuple[int, int],
) -> tuple[Study, Callable[..., str]]:
    """The choices and runners-up of a study with the protocol, and the report."""
    fewest = min(each.final_seeds for each in protocols(plan))
    if fewest < MIN_VALUES:
        raise UserError(
            f"{folder} has {fewest} final seeds, too few for a verdict: run the study "
            f"with --seeds {MIN_VALUES} or more first."
        )
    used = max(each.seeds(protocol.FINAL).stop for each in protocols(plan))
    _require_fresh(seeds, used)
    table = read_table(folder, manifest)
    replicated = replication.plan_of(plan, table, manifest["hash"], seeds)
    report = functools.partial(write_contrasts, folder)
    return replication.study(manifest["study"], replicated, plan, report), report


def _with_claims(
    plan: Any, module: ModuleType, folder: Path, name: str, seeds: tuple[int, int]
) -> tuple[Study, Callable[..., str]]:
    """A study without the protocol on other seeds, and the report."""
    if not hasattr(module, "claims"):
        raise UserError(
            f"the study {name} cannot be replicated: it has no protocol and no "
            "function `claims`. Write claims(folder), which returns words by name."
        )
    missing = [field for field in ("first_seed", "seeds") if not hasattr(plan, field)]
    if missing:
        raise UserError(
            f"the plan of {name} has no {' and no '.join(missing)}, so it cannot run "
            "on other seeds: give it the fields first_seed and seeds."
        )
    _require_fresh(seeds, plan.first_seed + plan.seeds)
    first, end = seeds
    replicated = dataclasses.replace(plan, first_seed=first, seeds=end - first)
    report = functools.partial(write_claims, module.claims, folder, seeds)
    return module.study(replicated), report


def _require_fresh(seeds: tuple[int, int], end: int) -> None:
    if seeds[0] < end:
        raise UserError(
            f"--seeds {seeds[0]}:{seeds[1]}: the study has used the seeds up to "
            f"{end - 1}. Pass seeds that begin at {end} or later."
        )


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


# --- The reports ------------------------------------------------------------------


def write_contrasts(source: Path, folder: Path, other: Sequence[str] = ()) -> str:
    """Report on a study with the protocol; returns the verdict.

    `source` is the folder of the study, `other` lists differences of provenance.
    """
    plan = joint.from_manifest(read_manifest(source)["plan"])
    described = read_manifest(folder)["plan"]
    points = points_of(described)
    before, new = (read_table(each, read_manifest(each)) for each in (source, folder))
    found = replication.compare(plan, before, points, new)
    verdicts = {each.contrast.name: each.outcome for each in found}
    values = {
        "table": replicated_table(found, "published"),
        "unit": _unit(plan),
        "seeds": described["seeds"],
    }
    return _save("replication_contrasts", source, folder, verdicts, other, values)


def points_of(plan: dict[str, Any]) -> dict[str, tuple[Point, ...]]:
    """The points of each entry, from the plan in the manifest of a replication."""
    return {name: tuple(map(tuple, each)) for name, each in plan["points"].items()}


def replicated_table(found: Sequence[replication.ReplicatedContrast], then: str) -> str:
    """A line for each contrast: the difference then and now, and whether it holds.

    `then` is the name of the first difference, such as "published".
    """
    columns = {
        "contrast": lambda x: x.contrast.name,
        f"{then} [95 %]": lambda x: markdown.estimate(
            x.before.difference, digits_of(x.measure), sign=True
        ),
        "verdict": lambda x: x.before.verdict,
        "new seeds [95 %]": lambda x: markdown.estimate(
            x.now, digits_of(x.measure), sign=True
        ),
        "p (Holm)": lambda x: f"{x.p_holm:.2g}",
        "with runners-up": _reach_text,
        "does it hold?": lambda x: x.outcome,
    }
    return markdown.table(found, columns)


def _reach_text(found: replication.ReplicatedContrast) -> str:
    digits = digits_of(found.measure)
    return " to ".join(f"{mean:+.{digits}f}" for mean in found.reach)


def _unit(plan: Plan) -> str:
    """The unit of the differences, by task if the tasks have different units."""
    units = {each.measure.unit for each in protocols(plan)}
    if isinstance(plan, joint.JointPlan) and len(units) > 1:
        return markdown.group(
            [(name, x.measure.unit) for name, x in plan.plans.items()]
        )
    return markdown.join(sorted(units))


def write_claims(
    claims: Callable[[Path], dict[str, str]],
    source: Path,
    seeds: tuple[int, int],
    folder: Path,
    other: Sequence[str] = (),
) -> str:
    """Report on a study without the protocol, from its claims then and now."""
    before, now = claims(source), claims(folder)
    verdicts = {}
    for name, claim in before.items():
        new = now.get(name, "not claimed")
        verdicts[name] = HOLDS if new == claim else f"does not hold: {new}"
    columns = {
        "claim": lambda name: name,
        "published": lambda name: before[name],
        "does it hold on the new seeds?": lambda name: verdicts[name],
    }
    values = {"table": markdown.table(before, columns, left=3), "seeds": seeds}
    return _save("replication_claims", source, folder, verdicts, other, values)


def _save(
    template: str,
    source: Path,
    folder: Path,
    verdicts: dict[str, str],
    other: Sequence[str],
    values: dict[str, Any],
) -> str:
    """Write a report; `verdicts` says of each published verdict whether it holds."""
    published = read_manifest(source)
    failed = [f"`{name}` {text}" for name, text in verdicts.items() if text != HOLDS]
    verdict = f"{len(verdicts) - len(failed)} of {len(verdicts)} verdicts hold."
    if failed:
        verdict += f" The others: {'; '.join(failed)}."
    mixed = ""
    if other:
        mixed = (
            f" It was made with other {' and other '.join(other)}. So the difference "
            "between published and new numbers is not due to the seeds alone."
        )
    last = values["seeds"][1] - 1
    values |= {"published": published, "mixed": mixed, "last": last}
    return save_report(folder, template, verdict, **values)
