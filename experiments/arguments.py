"""Options of the commands: each is a field of a dataclass."""

import argparse
import dataclasses
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from experiments.errors import UserError


PROGRAM = "python -m experiments"


def option(default: Any, help: str, **kwargs: Any) -> Any:
    """A field and its option; `kwargs` go to `ArgumentParser.add_argument`."""
    return dataclasses.field(default=default, metadata={"help": help, **kwargs})


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of every study."""

    smoke: bool = option(False, "A tiny plan of seconds; its numbers show nothing.")
    dry_run: bool = option(
        False, "Print what would run and where its results would go, and run nothing."
    )
    resume: bool = option(False, "Go on with a results directory that was begun.")
    mix_revisions: bool = option(
        False,
        "Use runs that other code, versions, devices or data have made; the manifest "
        "and the report say so.",
    )
    shard: str = option(
        "0/1",
        "Train the cells of shard I of N, counted from 0; all share one directory.",
        metavar="I/N",
    )
    wait: int = option(
        7 * 24 * 60,
        "How long a shard waits for the cells of other shards, in each stage.",
        metavar="MINUTES",
        type=int,
    )
    out: Path = option(
        Path("results"), "Where results go: in OUT/STUDY/HASH.", type=Path
    )
    data: Path | None = option(
        None, "A folder with data sets of your own, searched first.", type=Path
    )
    seeds: int | None = option(
        None,
        "Fresh seeds of the final runs, instead of the plan's number.",
        metavar="INT",
        type=int,
    )
    chunk: int | None = option(
        None,
        "Cells in parallel, instead of the plan's number; more for a GPU.",
        metavar="INT",
        type=int,
    )


DEFAULTS = Options()


@dataclasses.dataclass(frozen=True)
class JobOptions:
    """Additional options of `launch`."""

    shards: int = option(2, "How many jobs share the cells.", metavar="INT", type=int)
    cluster: str = option(
        "slurm",
        "local for processes on this machine, slurm for the queue of a cluster.",
        metavar="local|slurm",
    )
    partition: str | None = option(
        None, "Partition of the cluster, instead of its default.", metavar="NAME"
    )
    minutes: int = option(
        60, "Time limit of a job; the queue starts it again.", metavar="INT", type=int
    )
    gpus: int | None = option(None, "GPUs of each job.", metavar="INT", type=int)
    cpus: int | None = option(None, "CPUs of each job.", metavar="INT", type=int)
    gigabytes: int | None = option(None, "Memory of each job.", metavar="INT", type=int)
    retries: int = option(
        2, "How often a shard that failed is started again.", metavar="INT", type=int
    )


def make_parser(
    command: str, description: str, *kinds: type[Any], without: Sequence[str] = ()
) -> argparse.ArgumentParser:
    """A parser with the options of some dataclasses; it raises `UserError`."""
    parser = argparse.ArgumentParser(
        f"{PROGRAM} {command}", description=description, allow_abbrev=False
    )

    def refuse(message: str) -> NoReturn:
        raise UserError(f"{message}. See {parser.prog} --help.")

    parser.error = refuse  # argparse would print its usage in many lines
    fields = [field for kind in kinds for field in dataclasses.fields(kind)]
    for field in (field for field in fields if field.name not in without):
        kwargs = dict(field.metadata)
        if field.default is False:
            kwargs["action"] = "store_true"
        elif field.default is not None:
            kwargs["help"] += f" (default: {field.default})"
        flag = f"--{field.name.replace('_', '-')}"
        parser.add_argument(flag, default=field.default, **kwargs)
    return parser


def parse(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """Parse the words of a command line.

    Raises:
        UserError: a word is unknown, missing or not of its type.
    """
    given, unknown = parser.parse_known_args(words)
    if unknown:
        names = [f"--{name.replace('_', '-')}" for name in vars(given)]
        similar = difflib.get_close_matches(unknown[0].partition("=")[0], names, 1)
        hint = f" Do you mean {similar[0]}?" if similar else ""
        raise UserError(
            f"{parser.prog} does not take {unknown[0]}.{hint} See {parser.prog} --help."
        )
    return given


def from_namespace(kind: type[Any], given: argparse.Namespace) -> Any:
    """A dataclass whose fields are the parsed options."""
    names = {field.name for field in dataclasses.fields(kind)}
    return kind(**{name: x for name, x in vars(given).items() if name in names})


def to_words(options: Options) -> list[str]:
    """The options that are not the defaults, as words of a command line."""
    words = []
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if value == getattr(DEFAULTS, field.name):
            continue
        words.append(f"--{field.name.replace('_', '-')}")
        words += [] if value is True else [str(value)]
    return words
