"""A study: stages of cells that are trained, and of measurements.

A study asks one question. Its stages run one after another, because a stage may depend
on the results of earlier stages. The cells of one stage are independent.
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
    """Groups of cells, and measurements, that may run at the same time."""

    name: str
    runs: int  # the number of runs, at most; a measurement is not a run
    # the table of the earlier stages -> the items of this stage
    make: Callable[[cells.Table], Sequence[SweepGroup | Measurement]]


class Study(NamedTuple):
    """One question: the runs that answer it, and the report."""

    name: str
    plan: Any  # frozen dataclass with all numbers that decide the results, and `chunk`
    stages: tuple[Stage, ...]
    report: Callable[[Path], str]  # writes report and figures, returns the verdict
    setups: tuple[TrainingSetup, ...] = ()  # of measurements
    file: str | None = None  # of a study outside the package, relative to the results

    @property
    def runs(self) -> int:
        """The number of runs of all stages, at most."""
        return sum(stage.runs for stage in self.stages)

    @property
    def size(self) -> str:
        """The number of runs, for a message."""
        return f"at most {self.runs} runs" if self.runs else "measurements"


def hash_of(study: Study) -> str:
    """Return a hash of all numbers of the plan and all cells of the first stage."""
    first = [
        describe(item) if isinstance(item, SweepGroup) else item.name
        for item in study.stages[0].make({})
    ]
    return digest({"study": study.name, "plan": study.plan, "first stage": first})


def folder_of(study: Study, out: Path) -> Path:
    """Return the results directory of the plan."""
    return out / study.name / hash_of(study)


def setups_of(study: Study) -> list[TrainingSetup]:
    """Return the setups of the first stage, and those that the study lists."""
    groups = [g for g in study.stages[0].make({}) if isinstance(g, SweepGroup)]
    return [group.config.setup for group in groups] + list(study.setups)


def first_stage_functions(study: Study) -> list[Any]:
    """Return the functions of the first stage, or values that contain them."""
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
    """Make the manifest at the start of a run. Loads the data for their checksums."""
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
        study: the study.
        out: the directory of all studies.
        command: the command line, for the manifest.
        progress: callbacks that report progress.
        resume: use the files of a directory that has a run already.
        shard: decides which cells this process trains. It waits for the others.
        wait: the longest wait for other shards in a stage, in seconds.
        mix_revisions: use cells that other code, versions, devices or data made.

    Returns:
        The results directory, and the cells that other shards have not finished. If
        these are None, the directory has its table and its final manifest.
    """
    cache, sources = compilation_cache.new_cache(), Sources()
    folder = folder_of(study, out)
    progress.set_description("loading the data")
    manifest = new_manifest(study, cache, command, sources)
    # Another shard may have started the directory.
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
        result = run_stage(session, stage.name, items)
        if isinstance(result, MissingCells):
            return folder, result
        rows += result
    write_results(session, rows)
    return folder, None
