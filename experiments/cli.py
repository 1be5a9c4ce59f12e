"""The commands: one for each study, and report, list, launch."""

import ast
import contextlib
import dataclasses
import functools
import importlib
import io
import itertools
import os
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import tyro

from experiments.problem import Problem


# Module by command; one file, one question.
STUDIES = {
    "demo": "demo",
    "bf16": "bf16",
    "same": "same",
    "why": "why",
    "tuning": "tuning",
}
PROGRAM = "python -m experiments"
DONE, UNFINISHED = 0, 3  # exit status; 3: other shards have cells to train
MINUTES_IN_A_JOB = 3  # that a job of `launch` waits for the others


@dataclasses.dataclass(frozen=True)
class Options:
    """What every study takes."""

    smoke: bool = False
    """A tiny plan: seconds, and no finding."""
    dry_run: bool = False
    """Say what would be run and where its results would go; run nothing."""
    resume: bool = False
    """Go on with a results directory that has been begun."""
    mix_revisions: bool = False
    """Use runs that other code, versions, devices or data have made; the manifest and
    the report say so."""
    shard: Annotated[str, tyro.conf.arg(metavar="I/N")] = "0/1"
    """Train the cells of shard I of N, counted from 0; all share one directory."""
    wait: Annotated[int, tyro.conf.arg(metavar="MINUTES")] = 7 * 24 * 60
    """How long a shard waits for the cells of other shards, in each stage."""
    out: Path = Path("results")
    """Where results go: in OUT/STUDY/HASH."""
    data: Path | None = None
    """A folder with data sets of your own, looked in first."""
    seeds: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Fresh seeds of the final runs, instead of the plan's number."""
    chunk: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Cells side by side, instead of the plan's number; more for a GPU."""


STANDARD = Options()
Run = Callable[[], int]


def study_module(name: str) -> ModuleType:
    """The file of a study.

    Raises:
        Problem: there is none of this name.
    """
    if name not in STUDIES:
        raise Problem(f"there is no study {name!r}; there are {', '.join(STUDIES)}.")
    return importlib.import_module(f"experiments.studies.{STUDIES[name]}")


def build(name: str, options: Options) -> Any:
    """The study with the plan that the options ask for."""
    if options.data is not None:
        os.environ["DECAYAX_DATA"] = str(options.data.expanduser().resolve())
    module = study_module(name)
    plan = module.SMOKE if options.smoke else module.FULL
    if options.seeds is not None:
        if not hasattr(plan, "final_seeds"):
            raise Problem(f"{name} has no final runs: leave --seeds out.")
        if options.seeds < 10:
            raise Problem(
                f"--seeds {options.seeds}: take 10 or more, as fewer can hardly show a "
                "difference."
            )
        plan = dataclasses.replace(plan, final_seeds=options.seeds)
    if options.chunk is not None:
        if options.chunk < 1:
            raise Problem(f"--chunk {options.chunk}: at least one cell at a time.")
        plan = dataclasses.replace(plan, chunk=options.chunk)
    return module.study(plan)


def run_study(name: str, options: Options) -> int:
    """Run what is missing, then make the report; returns the exit status."""
    from experiments.engine import devices

    devices.use_all_cores()
    from experiments import interrupts, terminal
    from experiments.engine import (
        compiled,
        manifest as manifests,
        preview,
        study as engine,
    )

    shard = engine.parse_shard(options.shard)
    study = build(name, options)
    folder = engine.folder_of(study, options.out)
    if options.dry_run:
        print(preview.preview(study, options.out))
        return DONE
    if manifests.is_finished(folder):
        return show_finished(folder)
    if manifests.is_begun(folder) and not options.resume and shard == engine.WHOLE:
        raise Problem(
            f"{folder} has been begun and is not finished: go on with: "
            f"{again(name, options)}"
        )
    compiled.keep_compiled(options.out / "compiled")
    print(f"{study.name}: {study.size} into {folder}", flush=True)
    if options.resume and (told := about_going_on(folder)):
        print(told, flush=True)
    command = shlex.join(["python", "-m", "experiments", *sys.argv[1:]])
    try:
        with terminal.progress(-(-study.runs // shard.count)) as bar:
            folder, missing = engine.run(
                study,
                options.out,
                command,
                bar,
                resume=options.resume,
                shard=shard,
                wait=60 * options.wait,
                mix_revisions=options.mix_revisions,
            )
    except interrupts.Interrupted as stop:
        stop.add_note(f"go on with: {again(name, options)}")
        raise
    if missing:
        print(
            f"Shard {options.shard} has trained its cells. Of {missing.stage}, "
            f"{missing.cells} cells of other shards are missing: once they are "
            f"there, go on with: {again(name, options)}"
        )
        return UNFINISHED
    print(study.report(folder))
    show_files(folder)
    return DONE


def show_finished(folder: Path) -> int:
    """The verdict that the report of a finished run has, and where it is."""
    report = (folder / "report.md").read_text(encoding="utf-8")
    for paragraph in report.split("\n\n"):
        if paragraph.startswith("**Verdict.**"):
            print(" ".join(paragraph.replace("**", "").split()))
    show_files(folder)
    return DONE


def about_going_on(folder: Path) -> str | None:
    """What a person should know before a run is gone on with."""
    from experiments import files
    from experiments.engine.manifest import is_begun, read_manifest

    if not is_begun(folder):
        return "Nothing is there to go on with: this begins it."
    try:
        manifest = read_manifest(folder)
    except Problem:
        return None  # which the store deals with
    then, now = map(files.revision_of, (manifest, files.provenance()))
    return None if then == now else f"It was begun at {then}; this is {now}."


def again(name: str, options: Options) -> str:
    """The command that goes on with a run."""
    words = [os.path.relpath(sys.executable), "-m", "experiments", name, "--resume"]
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if field.name == "resume" or value == getattr(STANDARD, field.name):
            continue
        words.append(f"--{field.name.replace('_', '-')}")
        words += [] if value is True else [str(value)]
    return shlex.join(words)


def report(folder: tyro.conf.Positional[Path]) -> Run:
    """Make figures and report again, from the stored files alone.

    Args:
        folder: a results directory, such as results/demo/0123456789ab.
    """
    return functools.partial(write_report, folder)


def write_report(folder: Path) -> int:
    """The report of a finished directory."""
    from experiments.engine.store import read_manifest

    manifest = read_manifest(folder)
    if not any(folder.glob("cells.csv*")):
        raise Problem(
            f"{folder} is not finished: go on with {manifest['command']} --resume."
        )
    print(study_module(manifest["study"]).write_report(folder))
    show_files(folder)
    return DONE


def list_studies() -> Run:
    """Say which studies there are, and what they ask."""

    def run() -> int:
        for name in STUDIES:
            print(f"{name:6}{first_line(name)}")
        return DONE

    return run


def first_line(name: str) -> str:
    """A study's question, read without importing it."""
    path = Path(__file__).parent / "studies" / f"{STUDIES[name]}.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return (ast.get_docstring(tree) or "").partition("\n")[0]


def launch(
    study: tyro.conf.Positional[str],
    options: Options = STANDARD,
    shards: int = 2,
    cluster: Annotated[str, tyro.conf.arg(metavar="local|slurm")] = "slurm",
    partition: str | None = None,
    minutes: int = 60,
    gpus: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None,
    cpus: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None,
    gigabytes: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None,
    retries: int = 2,
) -> Run:
    """Run a study's shards as jobs, here or on a SLURM cluster, until it is whole.

    Args:
        study: its name, as `list` tells.
        options: as for the study itself, but for --shard.
        shards: how many jobs share the pieces.
        cluster: local for processes on this machine, slurm for a cluster's queue.
        partition: of the cluster; its standard one without this.
        minutes: after which a job is ended, or put back into the queue.
        gpus: of each job.
        cpus: of each job.
        gigabytes: of each job.
        retries: how often a shard that failed is started again.
    """

    def run() -> int:
        from experiments.engine import study as engine
        from experiments.engine.launch import launch_shards, Queue

        if shards < 1:
            raise Problem(f"--shards {shards}: at least one job.")
        if options.dry_run:
            return run_study(study, options)
        queue = Queue(cluster, partition, minutes, gpus, cpus, gigabytes)
        built = build(study, options)  # before any job: bad options end here
        # Short waits: in a queue with few places, a shard must not keep one from those
        # that it waits for. It is started again for the next stage.
        wait = min(options.wait, MINUTES_IN_A_JOB)
        go_on = dataclasses.replace(options, resume=True, wait=wait)
        jobs = [
            dataclasses.replace(go_on, shard=f"{i}/{shards}") for i in range(shards)
        ]
        work = [functools.partial(run_study, study, each) for each in jobs]
        launch_shards(work, options.out / study / "jobs", queue, retries, DONE)
        # Not run_study: this machine's devices may be others than the jobs'.
        return write_report(engine.folder_of(built, options.out))

    return run


def show_files(folder: Path) -> None:
    """What a person would open."""
    print()
    for path in [folder / "report.md", *sorted(folder.glob("*.png"))]:
        print(f"  {path}")


def main() -> int:
    """Parse the command line and run; returns the exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # λ where it cannot be shown
    commands: dict[str, Callable[..., Run]] = {n: _command(n) for n in STUDIES}
    commands |= {"launch": launch, "report": report, "list": list_studies}
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            run = tyro.extras.subcommand_cli_from_dict(
                commands,
                prog=PROGRAM,
                description="Experiments with decayax: one study, one question.",
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
            )
    except SystemExit as end:
        if end.code:
            raise Problem(_one_line(told.getvalue())) from None
        raise
    return run()


def _command(name: str) -> Callable[..., Run]:
    def command(options: Options = STANDARD) -> Run:
        return functools.partial(run_study, name, options)

    command.__doc__ = first_line(name)
    return command


def _one_line(box: str) -> str:
    """What tyro says in a box, without the box and what follows the first rule."""
    lines = [line.strip("│|+ ") for line in box.splitlines()[1:]]
    words = [line if re.search(r"\w", line) else "" for line in lines]  # no rules
    said = itertools.takewhile(bool, itertools.dropwhile(lambda line: not line, words))
    hints = [b for a, b in itertools.pairwise(lines) if a == "Perhaps you meant:"]
    hint = f" Perhaps you meant {hints[0]}." if hints else ""
    return f"{' '.join(said).rstrip('.')}.{hint} See {PROGRAM} --help."
