"""The commands: one for each study, and list, report, replicate, launch."""

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


MINUTES_IN_A_JOB = 3  # for which a job of `launch` waits for the others
COMMANDS = ("list", "report", "launch", "replicate")
HELP = f"""\
usage: {PROGRAM} STUDY [options]
       {PROGRAM} path/to/study.py [options]
       {PROGRAM} list
       {PROGRAM} report DIR
       {PROGRAM} replicate STUDY|DIR [--seeds A:B]
       {PROGRAM} launch STUDY [options]

Experiments with decayax: one study, one question.

{{studies}}

Each command has a --help of its own. `list` prints the benchmarks, too."""


def launch(study: str, options: Options, jobs: JobOptions) -> int:
    """Run a study's shards as jobs until all cells are stored; write the report."""
    from experiments.engine.launch import launch_shards, Queue
    from experiments.engine.study import folder_of

    if jobs.shards < 1:
        raise UserError(f"--shards {jobs.shards}: at least one job.")
    if options.dry_run:
        return run_study(study, options)
    queue = dataclasses.asdict(jobs)
    shards, retries = queue.pop("shards"), queue.pop("retries")
    built = build_study(study, options)  # before any job: bad options end here
    # Short waits: in a queue with few slots, a waiting shard must not block the shards
    # that it waits for. It is started again for the next stage.
    wait = min(options.wait, MINUTES_IN_A_JOB)
    resumed = dataclasses.replace(options, resume=True, wait=wait)
    work = [
        functools.partial(
            run_study, study, dataclasses.replace(resumed, shard=f"{i}/{shards}")
        )
        for i in range(shards)
    ]
    logs = options.out / built.name / "jobs"
    launch_shards(work, logs, Queue(**queue), retries, DONE)
    # Not run_study: this machine may have other devices than the jobs.
    folder = folder_of(built, options.out)
    print(built.report(folder))
    print_files(folder)
    return DONE


def main(file: str | None = None) -> NoReturn:
    """Run the command line, and exit with its status or with one line.

    The file of a study of your own ends in

        if __name__ == "__main__":
            cli.main(__file__)

    The file is then imported under its own name. So its functions have the same names
    as under `python -m experiments FILE`, and its results go to the same directory.
    """
    study = [] if file is None else [os.path.relpath(file)]
    exit_codes.run_and_exit(functools.partial(_run, [*study, *sys.argv[1:]]))


def _run(words: Sequence[str]) -> int:
    """Run a command given as words; returns the exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # for a λ that the encoding lacks
    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help")):
        raise UserError(
            f"name a study first: {', '.join(STUDIES)}, or path/to/study.py. See "
            f"{PROGRAM} --help."
        )
    command, *rest = words
    if command in ("-h", "--help"):
        print(HELP.format(studies=study_files.list_studies()))
        return DONE
    if command in COMMANDS:
        return {
            "list": _list,
            "report": _report,
            "launch": _launch,
            "replicate": _replicate,
        }[command](rest)
    question = study_files.question_of(study_files.file_of(command, COMMANDS))
    given = parse(make_parser(command, question, Options), rest)
    return run_study(command, from_namespace(Options, given))


def _list(words: Sequence[str]) -> int:
    parse(make_parser("list", "Print the studies and the benchmarks."), words)
    print(f"Studies, run by {PROGRAM} NAME:\n{study_files.list_studies()}")
    print(f"Benchmarks, run by {PROGRAM}.benchmarks.NAME:")
    print(study_files.list_benchmarks())
    return DONE


def _report(words: Sequence[str]) -> int:
    what = "Make figures and report again, from the stored files alone."
    parser = make_parser("report", what)
    where = "a results directory, such as results/demo/0123456789ab"
    parser.add_argument("folder", metavar="DIR", type=Path, help=where)
    moved = "The file of a study of your own, if it was moved."
    parser.add_argument("--study", metavar="FILE", help=moved)
    given = parse(parser, words)
    return write_report(given.folder, given.study)


def _launch(words: Sequence[str]) -> int:
    what = "Run the shards of a study as jobs, until all cells are stored."
    parser = make_parser("launch", what, Options, JobOptions, without=("shard",))
    which = "its name, as `list` prints it, or the path of its file"
    parser.add_argument("study", metavar="STUDY", help=which)
    given = parse(parser, words)
    return launch(
        given.study, from_namespace(Options, given), from_namespace(JobOptions, given)
    )


def _replicate(words: Sequence[str]) -> int:
    what = (
        "Run the choices of a finished study and their runners-up on unused seeds, and "
        "report for each verdict whether it holds."
    )
    without = ("smoke", "dry_run", "shard", "wait", "seeds", "chunk")
    parser = make_parser("replicate", what, Options, without=without)
    which = "the name of a study, or a results directory"
    parser.add_argument("study", metavar="STUDY|DIR", help=which)
    seeds = "the first seed, and the one after the last (default: 1000:1030)"
    parser.add_argument(
        "--seeds", dest="span", default="1000:1030", metavar="A:B", help=seeds
    )
    given = parse(parser, words)
    return replicate(
        given.study, parse_seeds(given.span), from_namespace(Options, given)
    )


def parse_seeds(text: str) -> tuple[int, int]:
    """From "1000:1030" to the first seed and the one after the last.

    Raises:
        UserError: the text is something else, or has fewer than ten seeds.
    """
    first, _, last = text.partition(":")
    if first.isdecimal() and last.isdecimal() and int(last) - int(first) >= 10:
        return int(first), int(last)
    raise UserError(
        f"--seeds {text}: write A:B with ten seeds or more, such as 1000:1030."
    )
