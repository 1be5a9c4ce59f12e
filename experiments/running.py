"""What the commands do: run a study, replicate it, make its report again."""

import dataclasses
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from experiments import study_files
from experiments.arguments import Options, PROGRAM, words_of
from experiments.problem import Problem
from experiments.study_files import study_module


DONE, UNFINISHED = 0, 3  # exit status; 3: other shards have cells to train


def build(name: str, options: Options) -> Any:
    """The study with the plan that the options ask for."""
    from experiments import statistics
    from experiments.engine.study import folder_of

    if options.data is not None:
        os.environ["DECAYAX_DATA"] = str(options.data.expanduser().resolve())
    module = study_module(name)
    plan = module.SMOKE if options.smoke else module.FULL
    if options.seeds is not None:
        if not hasattr(plan, "final_seeds"):
            raise Problem(f"{name} has no final runs: leave --seeds out.")
        contrasts = len(getattr(plan, "contrasts", ())) or 1
        if options.seeds < (fewest := statistics.fewest(contrasts)):
            raise Problem(
                f"--seeds {options.seeds}: take {fewest} or more, as on fewer none of "
                f"{contrasts} differences can be clear."
            )
        plan = dataclasses.replace(plan, final_seeds=options.seeds)
    if options.chunk is not None:
        if options.chunk < 1:
            raise Problem(f"--chunk {options.chunk}: at least one cell at a time.")
        plan = dataclasses.replace(plan, chunk=options.chunk)
    study = module.study(plan)
    folder = folder_of(study, options.out)
    return study._replace(file=study_files.place_in_manifest(name, folder))


def run_study(name: str, options: Options) -> int:
    """Run what is missing, then make the report; returns the exit status."""
    from experiments.engine import devices

    devices.use_all_cores()
    from experiments.engine import preview, study as engine

    shard = engine.parse_shard(options.shard)
    study = build(name, options)
    if options.dry_run:
        print(preview.preview(study, options.out))
        return DONE
    words = [name, *words_of(options)]
    return run_built(study, options, words, again(name, options), shard)


def run_built(
    study: Any, options: Options, words: Sequence[str], go_on: str, shard: Any
) -> int:
    """Run a study; `words` are its command, and `go_on` is what resumes it."""
    from experiments.engine import manifest as manifests, study as engine

    folder = engine.folder_of(study, options.out)
    if manifests.is_finished(folder):
        return show_finished(study, folder)
    if manifests.is_begun(folder) and not options.resume and shard == engine.WHOLE:
        raise Problem(
            f"{folder} has been begun and is not finished: go on with: {go_on}"
        )
    print(f"{study.name}: {study.size} into {folder}", flush=True)
    if options.resume and (told := about_going_on(folder)):
        print(told, flush=True)
    if missing := _train(study, options, words, go_on, shard):
        print(
            f"Shard {options.shard} has trained its cells. Of {missing.stage}, "
            f"{missing.cells} cells of other shards are missing: once they are "
            f"there, go on with: {go_on}"
        )
        return UNFINISHED
    print(study.report(folder))
    show_files(folder)
    return DONE


def _train(
    study: Any, options: Options, words: Sequence[str], go_on: str, shard: Any
) -> Any:
    """What other shards have still to make, once this one has made its part."""
    from experiments import interrupts, terminal
    from experiments.engine import compiled, study as engine

    compiled.keep_compiled(options.out / "compiled")
    try:
        with terminal.progress(-(-study.runs // shard.count)) as bar:
            _, missing = engine.run(
                study,
                options.out,
                shlex.join([*PROGRAM.split(), *words]),
                bar,
                resume=options.resume,
                shard=shard,
                wait=60 * options.wait,
                mix_revisions=options.mix_revisions,
            )
    except interrupts.Interrupted as stop:
        stop.add_note(f"go on with: {go_on}")
        raise
    return missing


def replicate(what: str, seeds: tuple[int, int], options: Options) -> int:
    """Run the choices of a finished study on other seeds; which verdicts hold?"""
    from experiments.engine import devices

    devices.use_all_cores()
    from experiments.engine.manifest import is_finished
    from experiments.engine.store import read_manifest
    from experiments.engine.study import folder_of, WHOLE
    from experiments.reports import replication

    folder = results_of(what, options.out)
    module = _study_of(folder, read_manifest(folder), None)
    study, other = replication.study_of(module, folder, seeds)
    finished = is_finished(folder_of(study, options.out))
    if other and not finished and not options.mix_revisions:
        raise Problem(
            f"{folder} was made with other {' and other '.join(other)}: run the study "
            "anew first, or compare all the same with --mix-revisions."
        )
    span = f"{seeds[0]}:{seeds[1]}"
    words = ["replicate", what, "--seeds", span, *words_of(options)]
    go_on = shlex.join([*PROGRAM.split(), *words, "--resume"])
    return run_built(study, options, words, go_on, WHOLE)


def results_of(what: str, out: Path) -> Path:
    """A results directory, or that of a study: one's own if finished, else published.

    Raises:
        Problem: there are no results.
    """
    from experiments.engine import manifest as manifests
    from experiments.engine.study import folder_of

    folder = Path(what)
    if (folder / "manifest.json").is_file():
        return folder
    if study_files.is_path(what) and folder.suffix != ".py":
        found = "has no manifest.json" if folder.exists() else "does not exist"
        raise Problem(
            f"replicate {what}: this folder {found}. Give a results directory, such as "
            "results/demo/0123456789ab, or the name of a study."
        )
    module = study_module(what)
    own = folder_of(module.study(module.FULL), out)
    if manifests.is_finished(own):
        return own
    published = Path(__file__).parent / "results" / what
    if (published / "manifest.json").is_file():
        return published
    raise Problem(
        f"replicate {what}: {own} is not finished, and there are no published results: "
        f"run {PROGRAM} {what} first, or give the results directory."
    )


def show_finished(study: Any, folder: Path) -> int:
    """The verdict that the report of a finished run has, and where it is."""
    from experiments.engine.code import code_of
    from experiments.engine.manifest import differences, PROCESS, read_manifest
    from experiments.engine.study import made_with
    from experiments.files import provenance

    code = code_of(made_with(study), type(study.plan).__module__, {})
    now = provenance() | {"code": code}
    if other := differences(read_manifest(folder), now, PROCESS):
        print(
            f"Finished with other {' and other '.join(other)}. To run the study as it "
            "is now, give another directory with --out."
        )
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
    go_on = dataclasses.replace(options, resume=False)
    program = [os.path.relpath(sys.executable), *PROGRAM.split()[1:]]
    return shlex.join([*program, name, "--resume", *words_of(go_on)])


def write_report(folder: Path, study: str | None = None) -> int:
    """Make the report of a finished directory from its files alone.

    `study` is the file of the study, where the manifest does not lead to it.
    """
    from experiments.engine.store import read_manifest

    manifest = read_manifest(folder)
    if not any(folder.glob("cells.csv*")):
        raise Problem(
            f"{folder} is not finished: go on with {manifest['command']} --resume."
        )
    print(_study_of(folder, manifest, study).write_report(folder))
    show_files(folder)
    return DONE


def _study_of(folder: Path, manifest: dict[str, Any], given: str | None) -> ModuleType:
    """The module of the study that made a directory."""
    if given is None:
        try:
            return study_module(study_files.name_in(manifest, folder))
        except Problem as problem:
            cure = "To make this report, name the file of the study with --study FILE."
            raise Problem(f"{problem} {cure}") from None
    module = study_module(given)
    if (name := module.study(module.FULL).name) != manifest["study"]:
        raise Problem(
            f"--study {given} is the study {name!r}, but {folder} holds results of "
            f"{manifest['study']!r}: give the file of that one."
        )
    return module


def show_files(folder: Path) -> None:
    """What a person would open."""
    print()
    for path in [folder / "report.md", *sorted(folder.glob("*.png"))]:
        print(f"  {path}")
