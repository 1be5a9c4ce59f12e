"""Command-line options. Each option is a field of a dataclass."""

import argparse
import dataclasses
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from experiments.errors import UserError


PROGRAM = "python -m experiments"


def option(default: Any, help: str, **kwargs: Any) -> Any:
    """Define a field and its option; `kwargs` go to `ArgumentParser.add_argument`."""
    return dataclasses.field(default=default, metadata={"help": help, **kwargs})


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of every study."""

    smoke: bool = option(
        False, "Run a tiny plan that takes seconds. Its numbers have no meaning."
    )
    dry_run: bool = option(
        False, "Print what would run and where the results would go. Run nothing."
    )
    resume: bool = option(False, "Continue a run that was interrupted.")
    mix_revisions: bool = option(
        False,
        "Use stored runs even if they were made with other code, versions, devices or "
        "data. The manifest and the report list the differences.",
    )
    shard: str = option(
        "0/1",
        "Train only the cells of shard I of N, counted from 0. All shards share one "
        "results directory.",
        metavar="I/N",
    )
    wait: int = option(
        7 * 24 * 60,
        "How many minutes a shard waits in each stage for the cells of other shards.",
        metavar="MINUTES",
        type=int,
    )
    out: Path = option(
        Path("results"), "Write the results to OUT/STUDY/HASH.", type=Path
    )
    data: Path | None = option(
        None, "A folder with your own data sets. It is searched first.", type=Path
    )
    entry: Path | None = option(
        None,
        "For leaderboard: run only this entry and compare it with the stored board. "
        "The rules are in experiments/leaderboard/RULES.md.",
        metavar="FILE",
        type=Path,
    )
    seeds: int | None = option(
        None,
        "Number of seeds of the final runs, instead of the plan's number.",
        metavar="INT",
        type=int,
    )
    chunk: int | None = option(
        None,
        "Number of cells that are trained in parallel, instead of the plan's number. "
        "Use more on a GPU.",
        metavar="INT",
        type=int,
    )


DEFAULTS = Options()


@dataclasses.dataclass(frozen=True)
class JobOptions:
    """The additional options of `launch`."""

    shards: int = option(
        2, "Number of jobs that share the cells.", metavar="INT", type=int
    )
    cluster: str = option(
        "slurm",
        "local: processes on this machine. slurm: jobs of a SLURM cluster.",
        metavar="local|slurm",
    )
    partition: str | None = option(
        None, "Partition of the cluster, if not its default.", metavar="NAME"
    )
    minutes: int = option(
        60,
        "Time limit of a job. A job that reaches it is requeued.",
        metavar="INT",
        type=int,
    )
    gpus: int | None = option(None, "GPUs of each job.", metavar="INT", type=int)
    cpus: int | None = option(None, "CPUs of each job.", metavar="INT", type=int)
    gigabytes: int | None = option(
        None, "Memory of each job (GB).", metavar="INT", type=int
    )
    retries: int = option(
        2, "How often a failed shard is started again.", metavar="INT", type=int
    )


def make_parser(
    command: str, description: str, *kinds: type[Any], without: Sequence[str] = ()
) -> argparse.ArgumentParser:
    """Make a parser with the options of some dataclasses.

    Fields named in `without` get no option. The parser raises `UserError`.
    """
    parser = argparse.ArgumentParser(
        f"{PROGRAM} {command}", description=description, allow_abbrev=False
    )

    def raise_error(message: str) -> NoReturn:
        raise UserError(f"{message}. See {parser.prog} --help.")

    parser.error = raise_error  # argparse would print its usage, which is many lines
    for field in (field for kind in kinds for field in dataclasses.fields(kind)):
        if field.name in without:
            continue
        kwargs = dict(field.metadata)
        if field.default is False:
            kwargs["action"] = "store_true"
        elif field.default is not None:
            kwargs["help"] += f" (default: {field.default})"
        parser.add_argument(_flag(field.name), default=field.default, **kwargs)
    return parser


def parse(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """Parse the words of a command line.

    Raises:
        UserError: an option is unknown, missing or has a wrong type.
    """
    given, unknown = parser.parse_known_args(words)
    if unknown:
        flags = [_flag(name) for name in vars(given)]
        similar = difflib.get_close_matches(unknown[0].partition("=")[0], flags, 1)
        hint = f" Do you mean {similar[0]}?" if similar else ""
        raise UserError(
            f"{parser.prog}: unknown argument {unknown[0]}.{hint} See {parser.prog} "
            "--help."
        )
    return given


def from_namespace(kind: type[Any], given: argparse.Namespace) -> Any:
    """Make a dataclass from the parsed options."""
    names = {field.name for field in dataclasses.fields(kind)}
    # A command may leave some options out; they keep their defaults.
    return kind(**{name: x for name, x in vars(given).items() if name in names})


def to_words(options: Options) -> list[str]:
    """Return the options that differ from the defaults, as words of a command line."""
    words = []
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if value == getattr(DEFAULTS, field.name):
            continue
        words.append(_flag(field.name))
        if value is not True:  # a switch has no value
            words.append(str(value))
    return words


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
