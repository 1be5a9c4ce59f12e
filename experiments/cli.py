"""The commands: one for each study, and list, report, replicate, launch."""

import dataclasses
import functools
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from experiments import endings, study_files
from experiments.arguments import instance, Jobs, Options, parse, parser_of, PROGRAM
from experiments.problem import Problem
from experiments.running import (
    build,
    DONE,
    replicate,
    run_study,
    show_files,
    write_report,
)
from experiments.study_files import STUDIES


MINUTES_IN_A_JOB = 3  # that a job of `launch` waits for the others
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


def launch(study: str, options: Options, jobs: Jobs) -> int:
    """Run a study's shards as jobs until all pieces are there, then make the report."""
    from experiments.engine.launch import launch_shards, Queue
    from experiments.engine.study import folder_of

    if jobs.shards < 1:
        raise Problem(f"--shards {jobs.shards}: at least one job.")
    if options.dry_run:
        return run_study(study, options)
    asked = dataclasses.asdict(jobs)
    shards, retries = asked.pop("shards"), asked.pop("retries")
    built = build(study, options)  # before any job: bad options end here
    # Short waits: in a queue with few places, a shard must not keep one from those that
    # it waits for. It is started again for the next stage.
    wait = min(options.wait, MINUTES_IN_A_JOB)
    go_on = dataclasses.replace(options, resume=True, wait=wait)
    work = [
        functools.partial(
            run_study, study, dataclasses.replace(go_on, shard=f"{i}/{shards}")
        )
        for i in range(shards)
    ]
    logs = options.out / built.name / "jobs"
    launch_shards(work, logs, Queue(**asked), retries, DONE)
    # Not run_study: this machine's devices may be others than the jobs'.
    folder = folder_of(built, options.out)
    print(built.report(folder))
    show_files(folder)
    return DONE


def main(file: str | None = None) -> NoReturn:
    """Run the command line, and end with its status or with one line.

    The file of a study of your own ends in

        if __name__ == "__main__":
            cli.main(__file__)

    The file is imported under its own name then. So its functions have the names that
    they have under `python -m experiments FILE`, and its results the same place.
    """
    study = [] if file is None else [os.path.relpath(file)]
    endings.end_with(functools.partial(_run, [*study, *sys.argv[1:]]))


def _run(words: Sequence[str]) -> int:
    """Run the command that the words are; returns the exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # λ where it cannot be shown
    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help")):
        raise Problem(
            f"name a study first: {', '.join(STUDIES)}, or path/to/study.py. See "
            f"{PROGRAM} --help."
        )
    command, *rest = words
    if command in ("-h", "--help"):
        print(HELP.format(studies=study_files.studies_listed()))
        return DONE
    if command in COMMANDS:
        return {
            "list": _list,
            "report": _report,
            "launch": _launch,
            "replicate": _replicate,
        }[command](rest)
    question = study_files.first_line(study_files.file_of(command, COMMANDS))
    given = parse(parser_of(command, question, Options), rest)
    return run_study(command, instance(Options, given))


def _list(words: Sequence[str]) -> int:
    parse(parser_of("list", "Print the studies and the benchmarks."), words)
    print(f"Studies, run by {PROGRAM} NAME:\n{study_files.studies_listed()}")
    print(f"Benchmarks, run by {PROGRAM}.benchmarks.NAME:")
    print(study_files.benchmarks_listed())
    return DONE


def _report(words: Sequence[str]) -> int:
    what = "Make figures and report again, from the stored files alone."
    parser = parser_of("report", what)
    where = "a results directory, such as results/demo/0123456789ab"
    parser.add_argument("folder", metavar="DIR", type=Path, help=where)
    moved = "The file of a study of your own, if it was moved."
    parser.add_argument("--study", metavar="FILE", help=moved)
    given = parse(parser, words)
    return write_report(given.folder, given.study)


def _launch(words: Sequence[str]) -> int:
    what = "Run the shards of a study as jobs, until all pieces are there."
    parser = parser_of("launch", what, Options, Jobs, without=("shard",))
    which = "its name, as `list` prints it, or the path of its file"
    parser.add_argument("study", metavar="STUDY", help=which)
    given = parse(parser, words)
    return launch(given.study, instance(Options, given), instance(Jobs, given))


def _replicate(words: Sequence[str]) -> int:
    what = (
        "Run the choices of a finished study and their runners-up on seeds that nobody "
        "has used, and say of each verdict whether it holds."
    )
    without = ("smoke", "dry_run", "shard", "wait", "seeds", "chunk")
    parser = parser_of("replicate", what, Options, without=without)
    which = "the name of a study, or a results directory"
    parser.add_argument("study", metavar="STUDY|DIR", help=which)
    seeds = "the first seed, and the one after the last (default: 1000:1030)"
    parser.add_argument(
        "--seeds", dest="span", default="1000:1030", metavar="A:B", help=seeds
    )
    given = parse(parser, words)
    return replicate(given.study, seeds_of(given.span), instance(Options, given))


def seeds_of(text: str) -> tuple[int, int]:
    """From "1000:1030" to the first seed and the one after the last.

    Raises:
        Problem: it is something else, or fewer than ten seeds.
    """
    first, _, last = text.partition(":")
    if first.isdecimal() and last.isdecimal() and int(last) - int(first) >= 10:
        return int(first), int(last)
    raise Problem(
        f"--seeds {text}: write A:B with ten seeds or more, such as 1000:1030."
    )
