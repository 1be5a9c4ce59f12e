"""The work of the commands: run a study, replicate it, write its report again.

JAX is imported inside the functions, after `use_all_cores`, and not by `--help`.
"""

import dataclasses
import math
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
    """Build the study with the plan that the options select."""
    from experiments import statistics
    from experiments.engine.study import folder_of

    if options.data is not None:
        # The loaders of the data read this variable.
        os.environ["DECAYAX_DATA"] = str(options.data.expanduser().resolve())
    module = study_module(name)
    plan = module.SMOKE if options.smoke else module.FULL
    if options.entry is not None:
        plan = study_files.entry_plan(module, options.entry, options.smoke, options.out)
    if options.seeds is not None:
        if not hasattr(plan, "final_seeds"):
            raise UserError(f"{name} has no final runs. Leave out --seeds.")
        contrasts = max(1, len(getattr(plan, "contrasts", ())))
        minimum = statistics.min_seeds(contrasts)
        if options.seeds < minimum:
            raise UserError(
                f"--seeds {options.seeds}: use {minimum} or more. With fewer seeds no "
                f"contrast can be clear (the study has {contrasts})."
            )
        plan = dataclasses.replace(plan, final_seeds=options.seeds)
    if options.chunk is not None:
        if options.chunk < 1:
            raise UserError(f"--chunk {options.chunk}: must be at least 1.")
        plan = dataclasses.replace(plan, chunk=options.chunk)
    study = module.study(plan)
    folder = folder_of(study, options.out)
    return study._replace(file=study_files.relative_file(name, folder))


def run_study(name: str, options: Options) -> int:
    """Train the missing cells, then write the report. Return the exit status."""
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
    """Run a study and write its report. Return the exit status.

    Args:
        study: the study.
        options: the options of the command.
        words: the words of the command, for the manifest.
        resume: the command that resumes the run, for messages.
        shard: the shard that this process trains.
    """
    from experiments.engine import manifest as manifests, study as engine

    folder = engine.folder_of(study, options.out)
    if manifests.is_finished(folder):
        return print_finished(study, folder)
    if (
        manifests.is_started(folder)
        and not options.resume
        and shard == engine.ONLY_SHARD
    ):
        raise UserError(
            f"{folder} has a run that is not finished. Resume it with: {resume}"
        )
    print(f"{study.name}: {study.size} into {folder}", flush=True)
    message = resume_message(folder) if options.resume else None
    if message is not None:
        print(message, flush=True)
    missing = _train(study, options, words, resume, shard)
    if missing is not None:
        print(
            f"Shard {options.shard} has trained its cells. {missing.cells} cells of "
            f"the stage {missing.stage} belong to other shards and are not stored yet. "
            f"When they are, resume with: {resume}"
        )
        return UNFINISHED
    print(study.report(folder))
    print_files(folder)
    return DONE


def _train(
    study: Any, options: Options, words: Sequence[str], resume: str, shard: Any
) -> Any:
    """Train the cells of this shard. Return the missing cells of other shards."""
    from experiments import interrupts, terminal
    from experiments.engine import persistent_cache, study as engine

    persistent_cache.use_persistent_cache(options.out / "compiled")
    runs = math.ceil(study.runs / shard.count)  # of this shard, about
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
        stop.add_note(f"resume with: {resume}")
        raise
    return missing


def replicate(what: str, seeds: tuple[int, int], options: Options) -> int:
    """Run the choices of a finished study on other seeds. Return the exit status.

    The report says which verdicts hold.
    """
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
            f"{folder} was made with other {' and other '.join(other)}. Run the study "
            "again first, or compare the results anyway with --mix-revisions."
        )
    span = f"{seeds[0]}:{seeds[1]}"
    words = ["replicate", what, "--seeds", span, *to_words(options)]
    resume = shlex.join([*PROGRAM.split(), *words, "--resume"])
    return run_built(study, options, words, resume, ONLY_SHARD)


def find_results(what: str, out: Path) -> Path:
    """Return a results directory, given by its path or by the name of a study.

    For the name of a study, it is the finished directory of the user, or else the
    published one.

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
    # The results that are part of the package.
    published = Path(__file__).parent / "results" / what
    if (published / "manifest.json").is_file():
        return published
    raise UserError(
        f"replicate {what}: {own} is not finished, and there are no published results. "
        f"Run {PROGRAM} {what} first, or give the results directory."
    )


def print_finished(study: Any, folder: Path) -> int:
    """Print the verdict of a finished run and the paths of its report and figures."""
    from experiments.engine.code import code_hashes
    from experiments.engine.manifest import differences, read_manifest, WITHOUT_DATA
    from experiments.engine.study import first_stage_functions
    from experiments.files import provenance

    module = type(study.plan).__module__
    code = code_hashes(first_stage_functions(study), module, {})
    now = provenance() | {"code": code}
    other = differences(read_manifest(folder), now, WITHOUT_DATA)
    if other:
        print(
            f"These results were made with other {' and other '.join(other)}. To run "
            "the study as it is now, pass another folder: --out DIR."
        )
    # The report is not written again, so the verdict is read from it.
    report = (folder / "report.md").read_text(encoding="utf-8")
    for paragraph in report.split("\n\n"):
        if paragraph.startswith("**Verdict.**"):
            print(" ".join(paragraph.replace("**", "").split()))
    print_files(folder)
    return DONE


def resume_message(folder: Path) -> str | None:
    """Return what the user should know before a run is resumed, or None."""
    from experiments import files
    from experiments.engine.manifest import is_started, read_manifest

    if not is_started(folder):
        return "There is no run to resume. A new run begins."
    try:
        manifest = read_manifest(folder)
    except UserError:
        return None  # the store reports the damaged manifest
    then = files.revision_of(manifest)
    now = files.revision_of(files.provenance())
    if then == now:
        return None
    return f"Git revision when the run began: {then}. Current revision: {now}."


def resume_command(name: str, options: Options) -> str:
    """Return the command that resumes a run."""
    without_resume = dataclasses.replace(options, resume=False)
    program = [os.path.relpath(sys.executable), *PROGRAM.split()[1:]]
    return shlex.join([*program, name, "--resume", *to_words(without_resume)])


def write_report(folder: Path, study: str | None = None) -> int:
    """Write the report of a finished directory from its files only.

    Args:
        folder: the results directory.
        study: the file of the study, if it is not where the manifest says.

    Returns:
        The exit status.
    """
    from experiments.engine.store import read_manifest

    manifest = read_manifest(folder)
    if not any(folder.glob("cells.csv*")):
        raise UserError(
            f"{folder} is not finished. Resume it with: {manifest['command']} --resume"
        )
    print(_study_of(folder, manifest, study).write_report(folder))
    print_files(folder)
    return DONE


def _study_of(folder: Path, manifest: dict[str, Any], given: str | None) -> ModuleType:
    """Import the module of the study that made a directory."""
    if given is None:
        try:
            return study_module(study_files.study_of_manifest(manifest, folder))
        except UserError as error:
            hint = "For this report, pass the file of the study with --study FILE."
            raise UserError(f"{error} {hint}") from None
    module = study_module(given)
    if (name := module.study(module.FULL).name) != manifest["study"]:
        raise UserError(
            f"--study {given} is the study {name!r}, but {folder} has the results of "
            f"{manifest['study']!r}. Pass the file of that study."
        )
    return module


def print_files(folder: Path) -> None:
    """Print the paths of the report and its figures."""
    print()
    for path in [folder / "report.md", *sorted(folder.glob("*.png"))]:
        print(f"  {path}")
