"""A study: stages of cells that are trained, and of measurements.

A study asks one question. Its stages run one after another, because a stage may need
the results of those before it; the cells of one stage are independent.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments import cells
from experiments.engine import compilation_cache, manifest as manifests, store as stores
from experiments.engine.assignment import (
    ONLY_SHARD as ONLY_SHARD,
    parse_shard as parse_shard,
    Shard as Shard,
)
from experiments.engine.code import Sources
from experiments.engine.compilation_cache import CompilationCache
from experiments.engine.config import SweepGroup, TrainingSetup
from experiments.engine.describe import describe, digest
from experiments.engine.session import (
    CurrentProvenance,
    MissingCells as MissingCells,
    run_stage,
    RunOptions,
    Session,
    write_results,
)
from experiments.engine.training import Measurement, Progress


WEEK = 7 * 24 * 3600.0  # seconds


class Stage(NamedTuple):
    """Groups of cells that are trained, and measurements."""

    name: str
    runs: int  # at most; a measurement is not a run
    # from the table of the stages before
    make: Callable[[cells.Table], Sequence[SweepGroup | Measurement]]


class Study(NamedTuple):
    """One question: what runs, and how its report is written."""

    name: str
    plan: Any  # frozen dataclass: all numbers that decide the results, and `chunk`
    stages: tuple[Stage, ...]
    report: Callable[[Path], str]  # writes report and figures; returns the verdict
    setups: tuple[TrainingSetup, ...] = ()  # of measurements
    file: str | None = None  # outside the package: its path relative to the results

    @property
    def runs(self) -> int:
        """Of all stages."""
        return sum(stage.runs for stage in self.stages)

    @property
    def size(self) -> str:
        """The number of runs, for a message."""
        return f"at most {self.runs} runs" if self.runs else "measurements"


def hash_of(study: Study) -> str:
    """A hash that changes with any number of the plan and any cell of stage one."""
    first = [
        describe(item) if isinstance(item, SweepGroup) else item.name
        for item in study.stages[0].make({})
    ]
    return digest({"study": study.name, "plan": study.plan, "first stage": first})


def folder_of(study: Study, out: Path) -> Path:
    """The results directory of this plan."""
    return out / study.name / hash_of(study)


def setups_of(study: Study) -> list[TrainingSetup]:
    """The setups of the first stage, and those that the study lists."""
    groups = [g for g in study.stages[0].make({}) if isinstance(g, SweepGroup)]
    return [group.config.setup for group in groups] + list(study.setups)


def first_stage_functions(study: Study) -> list[Any]:
    """The functions that the first stage calls, or values that hold them."""
    return [
        (item.config, item.extract) if isinstance(item, SweepGroup) else item.measure
        for item in study.stages[0].make({})
    ]


def new_manifest(
    study: Study,
    cache: CompilationCache,
    command: str,
    sources: Sources | None = None,
) -> dict[str, Any]:
    """What is known before the first run. Loads the data to add their checksums."""
    return {
        "format": manifests.FORMAT,
        "study": study.name,
        "file": study.file,
        "hash": hash_of(study),
        "command": command,
        **manifests.current_provenance(
            cache,
            type(study.plan).__module__,
            first_stage_functions(study),
            setups_of(study),
            {} if sources is None else sources,
        ),
        "plan": describe(study.plan),
        "stages": {stage.name: stage.runs for stage in study.stages},
        "runs": study.runs,
    }


def run(
    study: Study,
    out: Path,
    command: str,
    progress: Progress,
    *,
    resume: bool = False,
    shard: Shard = ONLY_SHARD,
    wait: float = WEEK,
    mix_revisions: bool = False,
) -> tuple[Path, MissingCells | None]:
    """Train the missing cells of this shard, stage by stage.

    Args:
        study: what runs; its results go to `out`.
        out: the directory of all studies.
        command: the command line, for the manifest.
        progress: called as the runs advance.
        resume: go on with a directory that has been begun.
        shard: the cells that this process trains; it waits for the others.
        wait: for how many seconds at most, in each stage.
        mix_revisions: use cells that other code, versions, devices or data made.

    Returns:
        The results directory, and what other shards have not finished. If that is
        None, the directory has its table and its final manifest.
    """
    cache, sources = compilation_cache.new_cache(), Sources()
    folder = folder_of(study, out)
    progress.set_description("loading the data")
    manifest = new_manifest(study, cache, command, sources)
    resume = resume or shard.count > 1
    store = stores.open_store(folder, manifest, resume, mix_revisions)
    session = Session(
        cache,
        store,
        progress,
        RunOptions(study.plan.chunk, shard, wait, mix_revisions),
        CurrentProvenance(
            type(study.plan).__module__, setups_of(study), sources, found={}
        ),
        differences={},
    )
    rows: list[stores.Arrays] = []
    for stage in study.stages:
        items = stage.make(cells.from_chunks(rows))
        made = run_stage(session, stage.name, items)
        if isinstance(made, MissingCells):
            return folder, made
        rows += made
    write_results(session, rows)
    return folder, None
