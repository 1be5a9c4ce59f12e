"""Where files of data are looked for, and the one line said where they are not.

In this order: the folder named by DECAYAX_DATA (the option --data sets it), where
`make data` unpacks Debian's package, installed Python packages, /usr/share/datasets.
"""

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from experiments.problem import Problem


VARIABLE = "DECAYAX_DATA"
SYSTEM = Path("/usr/share/datasets")


class DataError(Problem):
    """Data that cannot be had; the message is one line and names the cure."""


class Missing(DataError):
    """Data that is in none of the places."""


class Damaged(DataError):
    """A file that is not what it should be."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(
            f"{path}: {what}. Replace this file; one that `make data` brought comes "
            "anew with `rm -f .venv/data.ready && make data`."
        )


class Source(NamedTuple):
    """The files of one data set and how to come by them."""

    title: str
    name: str  # of its folder
    files: tuple[str, ...]  # patterns; each must match a file
    cure: str  # what to do where they are missing, up to "give --data DIR"
    package: tuple[str, ...] = ()  # importable name, then folders below it


def find(source: Source) -> Path:
    """The first folder that holds all the files of a data set.

    Raises:
        Missing: no place holds them; or DECAYAX_DATA names no folder.
    """
    looked = list(dict.fromkeys(_places(source)))
    for folder in looked:
        if all(
            any(path.is_file() for path in folder.glob(name)) for name in source.files
        ):
            return folder
    raise Missing(
        f"{source.title} is missing (looked in {', '.join(map(str, looked))}). "
        f"{source.cure} give --data DIR, a folder with {source.name}/ or its files."
    )


def _places(source: Source) -> Iterator[Path]:
    if own := os.environ.get(VARIABLE):
        folder = Path(os.path.expanduser(own))
        if not folder.is_dir():
            raise Missing(f"--data {own} (or {VARIABLE}): there is no such folder.")
        yield folder / source.name
        yield folder
    yield Path(sys.prefix) / "share" / "datasets" / source.name
    if source.package:
        for root in package_folders(source.package[0]):
            yield root.joinpath(*source.package[1:])
    yield SYSTEM / source.name


def package_folders(package: str) -> list[Path]:
    """Where a package lies, without importing it."""
    try:
        spec = importlib.util.find_spec(package)
    except ValueError:  # a module of that name without a spec
        return []
    return [Path(root) for root in (spec and spec.submodule_search_locations) or ()]
