"""What the commands do: run a study, replicate it, write its report again."""

import dataclasses
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from experiments import study_files
from experiments.arguments import Options, PROGRAM, to_words
from experiments.errors import UserError
from experiments.exit_codes import DONE, UNFINISHED
from experiments.study_files import study_module


def build_study(name: str, options: Options) -> Any:
    """The study with the plan that the options ask for."""
    from experiments import statistics
    from experiments.engine.study import folder_of

    if options.data is not None:
        os.environ["DECAYAX_DATA"] = str(options.data.expanduser().resolve())
    module = study_module(name)
    plan = module.SMOKE if options.smoke else module.FULL
    if options.seeds is not None:
        if not hasattr(plan, "final_seeds"):
            raise UserError(f"{name} has no final runs: leave --seeds out.")
        contrasts = len(getattr(plan, "contrasts", ())) or 1
        if options.seeds < (least := statistics.min_seeds(contrasts)):
            raise UserError(
                f"--seeds {options.seeds}: take {least} or more, as on fewer none of "
                f"{contrasts} differences can be clear."
            )
        plan = dataclasses.replace(plan, final_seeds=options.seeds)
    if options.chunk is not None:
        if options.chunk < 1:
            raise UserError(f"--chunk {options.chunk}: at least one cell at a time.")
        plan = dataclasses.replace(plan, chunk=options.chunk)
    study = module.study(plan)
    folder = folder_of(study, options.out)
    return study._replace(file=study_files.relative_file(name, folder))


def run_study(name: str, options: Options) -> int:
    """Train the missing cells, then write the report; returns the exit status."""
    from experiments.engine import devices

    devices.use_all_cores()
    from experiments.engine import preview, study as engine

    shard = engine.parse_shard(options.shard)
    study = build_study(name, options)
    if options.dry_run:
        print(preview.preview(study, options.out))
        return DONE
    words = [name, *to_words(options)]
    return run_built(study, options, words, resume_command(name, options), shard)


def run_built(
    study: Any, options: Options, words: Sequence[str], resume: str, shard: Any
) -> int:
    """Run a study; `words` are its command, `resume` is the command that resumes it."""
    from experiments.engine import manifest as manifests, study as engine

    folder = engine.folder_of(study, options.out)
    if manifests.is_finished(folder):
        return print_finished(study, folder)
    if manifests.is_begun(folder) and not options.resume and shard == engine.ONLY_SHARD:
        raise UserError(
            f"{folder} has been begun and is not finished: go on with: {resume}"
        )
    print(f"{study.name}: {study.size} into {folder}", flush=True)
    if options.resume and (message := resume_message(folder)):
        print(message, flush=True)
    if missing := _train(study, options, words, resume, shard):
        print(
            f"Shard {options.shard} has trained its cells. Of {missing.stage}, "
            f"{missing.cells} cells of other shards are missing: once they are "
            f"there, go on with: {resume}"
        )
        return UNFINISHED
    print(study.report(folder))
    print_files(folder)
    return DONE


def _train(
    study: Any, options: Options, words: Sequence[str], resume: str, shard: Any
) -> Any:
    """Train the cells of this shard; returns the missing cells of other shards."""
    from experiments import interrupts, terminal
    from experiments.engine import persistent_cache, study as engine

    persistent_cache.use_persistent_cache(options.out / "compiled")
    runs = -(-study.runs // shard.count)  # rounded up
    try:
        with terminal.progress_bar(runs) as progress:
            _, missing = engine.run(
                study,
                options.out,
                shlex.join([*PROGRAM.split(), *words]),
                progress,
                resume=options.resume,
                shard=shard,
                wait=60 * options.wait,
                mix_revisions=options.mix_revisions,
            )
    except interrupts.Interrupted as stop:
        stop.add_note(f"go on with: {resume}")
        raise
    return missing


def replicate(what: str, seeds: tuple[int, int], options: Options) -> int:
    """Run the choices of a finished study on other seeds; which verdicts hold?"""
    from experiments.engine import devices

    devices.use_all_cores()
    from experiments.engine.manifest import is_finished
    from experiments.engine.store import read_manifest
    from experiments.engine.study import folder_of, ONLY_SHARD
    from experiments.reports import replication

    folder = find_results(what, options.out)
    module = _study_of(folder, read_manifest(folder), None)
    study, other = replication.study_of(module, folder, seeds)
    finished = is_finished(folder_of(study, options.out))
    if other and not finished and not options.mix_revisions:
        raise UserError(
            f"{folder} was made with other {' and other '.join(other)}: run the study "
            "again first, or compare them with --mix-revisions."
        )
    span = f"{seeds[0]}:{seeds[1]}"
    words = ["replicate", what, "--seeds", span, *to_words(options)]
    resume = shlex.join([*PROGRAM.split(), *words, "--resume"])
    return run_built(study, options, words, resume, ONLY_SHARD)


def find_results(what: str, out: Path) -> Path:
    """A results directory, or that of a study: the user's if finished, else published.

    Raises:
        UserError: there are no results.
    """
    from experiments.engine import manifest as manifests
    from experiments.engine.study import folder_of

    folder = Path(what)
    if (folder / "manifest.json").is_file():
        return folder
    if study_files.is_path(what) and folder.suffix != ".py":
        found = "has no manifest.json" if folder.exists() else "does not exist"
        raise UserError(
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
    raise UserError(
        f"replicate {what}: {own} is not finished, and there are no published results: "
        f"run {PROGRAM} {what} first, or give the results directory."
    )


def print_finished(study: Any, folder: Path) -> int:
    """Print the verdict of a finished run, and where its report is."""
    from experiments.engine.code import code_hashes
    from experiments.engine.manifest import differences, read_manifest, WITHOUT_DATA
    from experiments.engine.study import first_stage_functions
    from experiments.files import provenance

    module = type(study.plan).__module__
    code = code_hashes(first_stage_functions(study), module, {})
    now = provenance() | {"code": code}
    if other := differences(read_manifest(folder), now, WITHOUT_DATA):
        print(
            f"Finished with other {' and other '.join(other)}. To run the study as it "
            "is now, give another directory with --out."
        )
    report = (folder / "report.md").read_text(encoding="utf-8")
    for paragraph in report.split("\n\n"):
        if paragraph.startswith("**Verdict.**"):
            print(" ".join(paragraph.replace("**", "").split()))
    print_files(folder)
    return DONE


def resume_message(folder: Path) -> str | None:
    """What the user should know before a run is resumed."""
    from experiments import files
    from experiments.engine.manifest import is_begun, read_manifest

    if not is_begun(folder):
        return "Nothing is there to go on with: this begins it."
    try:
        manifest = read_manifest(folder)
    except UserError:
        return None  # the store reports it
    then, now = map(files.revision_of, (manifest, files.provenance()))
    return None if then == now else f"It was begun at {then}; this is {now}."


def resume_command(name: str, options: Options) -> str:
    """The command that resumes a run."""
    without_resume = dataclasses.replace(options, resume=False)
    program = [os.path.relpath(sys.executable), *PROGRAM.split()[1:]]
    return shlex.join([*program, name, "--resume", *to_words(without_resume)])


def write_report(folder: Path, study: str | None = None) -> int:
    """Write the report of a finished directory from its files only.

    `study` is the file of the study, if it is not where the manifest says.
    """
    from experiments.engine.store import read_manifest

    manifest = read_manifest(folder)
    if not any(folder.glob("cells.csv*")):
        raise UserError(
            f"{folder} is not finished: go on with {manifest['command']} --resume."
        )
    print(_study_of(folder, manifest, study).write_report(folder))
    print_files(folder)
    return DONE


def _study_of(folder: Path, manifest: dict[str, Any], given: str | None) -> ModuleType:
    """The module of the study that made a directory."""
    if given is None:
        try:
            return study_module(study_files.study_of_manifest(manifest, folder))
        except UserError as error:
            hint = "To make this report, name the file of the study with --study FILE."
            raise UserError(f"{error} {hint}") from None
    module = study_module(given)
    if (name := module.study(module.FULL).name) != manifest["study"]:
        raise UserError(
            f"--study {given} is the study {name!r}, but {folder} holds results of "
            f"{manifest['study']!r}: give the file of that one."
        )
    return module


def print_files(folder: Path) -> None:
    """Print the paths of the report and its figures."""
    print()
    for path in [folder / "report.md", *sorted(folder.glob("*.png"))]:
        print(f"  {path}")
