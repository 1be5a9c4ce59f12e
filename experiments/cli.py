"""The command line: a command for each study, and list, report, replicate, launch."""

import dataclasses
import functools
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from experiments import exit_codes, study_files
from experiments.arguments import (
    from_namespace,
    JobOptions,
    make_parser,
    Options,
    parse,
    PROGRAM,
)
from experiments.errors import UserError
from experiments.exit_codes import DONE
from experiments.running import (
    build_study,
    print_files,
    replicate,
    run_study,
    write_report,
)
from experiments.study_files import STUDIES


JOB_WAIT_MINUTES = 3  # how long a job of `launch` waits for the other shards
COMMANDS = ("list", "report", "launch", "replicate")  # for the hint "Do you mean"
HELP = f"""\
usage: {PROGRAM} STUDY [options]
       {PROGRAM} path/to/study.py [options]
       {PROGRAM} list
       {PROGRAM} report DIR
       {PROGRAM} replicate STUDY|DIR [--seeds A:B]
       {PROGRAM} launch STUDY [options]

Experiments with decayax: one study, one question.

{{studies}}

Each command has its own --help. `list` also prints the benchmarks."""


def launch(study: str, options: Options, jobs: JobOptions) -> int:
    """Run the shards of a study as jobs, then write the report. Return the status."""
    from experiments.engine.launch import launch_shards, Queue
    from experiments.engine.study import folder_of

    if jobs.shards < 1:
        raise UserError(f"--shards {jobs.shards}: must be at least 1.")
    if options.dry_run:
        return run_study(study, options)
    queue = dataclasses.asdict(jobs)
    shards, retries = queue.pop("shards"), queue.pop("retries")
    built = build_study(study, options)  # raises before any job starts
    # A shard waits only for a short time, because in a queue with few slots it would
    # block the shards that it waits for. It is started again for the next stage.
    wait = min(options.wait, JOB_WAIT_MINUTES)
    resumed = dataclasses.replace(options, resume=True, wait=wait)
    work = [
        functools.partial(
            run_study, study, dataclasses.replace(resumed, shard=f"{i}/{shards}")
        )
        for i in range(shards)
    ]
    logs = options.out / built.name / "jobs"
    launch_shards(work, logs, Queue(**queue), retries, DONE)
    # run_study would compare the provenance, but this machine may have other devices
    # than the jobs. So only the report is written here.
    folder = folder_of(built, options.out)
    print(built.report(folder))
    print_files(folder)
    return DONE


def main(file: str | None = None) -> NoReturn:
    """Run the command line and exit with its status, or with one line for an error.

    End the file of your own study with

        if __name__ == "__main__":
            cli.main(__file__)

    The file is then imported as a module with the file's name and not as `__main__`. So
    its functions have the same names as under `python -m experiments FILE`, and its
    results go to the same directory.
    """
    study = [] if file is None else [os.path.relpath(file)]
    exit_codes.run_and_exit(functools.partial(_run, [*study, *sys.argv[1:]]))


def _run(words: Sequence[str]) -> int:
    """Run a command, given as words, and return the exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # The terminal's encoding may have no λ.
        sys.stdout.reconfigure(errors="replace")
    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help")):
        raise UserError(
            f"name a study first: {', '.join(STUDIES)}, or path/to/study.py. See "
            f"{PROGRAM} --help."
        )
    command, *rest = words
    if command in ("-h", "--help"):
        print(HELP.format(studies=study_files.list_studies()))
        return DONE
    match command:
        case "list":
            return _list(rest)
        case "report":
            return _report(rest)
        case "launch":
            return _launch(rest)
        case "replicate":
            return _replicate(rest)
    question = study_files.question_of(study_files.file_of(command, COMMANDS))
    # Only the leaderboard has entries.
    without = () if command == "leaderboard" else ("entry",)
    given = parse(make_parser(command, question, Options, without=without), rest)
    return run_study(command, from_namespace(Options, given))


def _list(words: Sequence[str]) -> int:
    parse(make_parser("list", "Print the studies and the benchmarks."), words)
    print(f"Studies (run with {PROGRAM} NAME):")
    print(study_files.list_studies())
    print(f"Benchmarks (run with {PROGRAM}.benchmarks.NAME):")
    print(study_files.list_benchmarks())
    return DONE


def _report(words: Sequence[str]) -> int:
    description = "Write the figures and the report again, from the stored files only."
    parser = make_parser("report", description)
    parser.add_argument(
        "folder",
        metavar="DIR",
        type=Path,
        help="A results directory, such as results/demo/0123456789ab.",
    )
    parser.add_argument(
        "--study", metavar="FILE", help="The file of your own study, if it was moved."
    )
    given = parse(parser, words)
    return write_report(given.folder, given.study)


def _launch(words: Sequence[str]) -> int:
    description = "Run the shards of a study as jobs until all cells are stored."
    parser = make_parser(
        "launch", description, Options, JobOptions, without=("shard", "entry")
    )
    parser.add_argument(
        "study",
        metavar="STUDY",
        help="The name of a study, see `list`, or the path of its file.",
    )
    given = parse(parser, words)
    return launch(
        given.study, from_namespace(Options, given), from_namespace(JobOptions, given)
    )


def _replicate(words: Sequence[str]) -> int:
    description = (
        "Run the choices of a finished study and their runners-up on unused seeds. The "
        "report says for each verdict whether it holds."
    )
    without = ("smoke", "dry_run", "shard", "wait", "seeds", "chunk", "entry")
    parser = make_parser("replicate", description, Options, without=without)
    parser.add_argument(
        "study",
        metavar="STUDY|DIR",
        help="The name of a study, or a results directory.",
    )
    parser.add_argument(
        "--seeds",
        dest="span",
        default="1000:1030",
        metavar="A:B",
        help="Use the seeds A, ..., B - 1 (default: 1000:1030).",
    )
    given = parse(parser, words)
    return replicate(
        given.study, parse_seeds(given.span), from_namespace(Options, given)
    )


def parse_seeds(text: str) -> tuple[int, int]:
    """Parse "1000:1030" into the first seed and the one after the last.

    Raises:
        UserError: the text has another form, or has fewer than ten seeds.
    """
    first, _, last = text.partition(":")
    if first.isdecimal() and last.isdecimal() and int(last) - int(first) >= 10:
        return int(first), int(last)
    raise UserError(
        f"--seeds {text}: write A:B with ten seeds or more, such as 1000:1030."
    )
