"""The folders that may have the files of a data set.

They are searched in this order: the folder in DECAYAX_DATA (the option --data sets it),
the folder where `make data` unpacks Debian's package, installed Python packages, and
/usr/share/datasets.
"""

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from experiments.errors import UserError


VARIABLE = "DECAYAX_DATA"
SYSTEM = Path("/usr/share/datasets")


class DataError(UserError):
    """The data cannot be loaded. The message is one line and says what to do."""


class DataNotFound(DataError):
    """None of the folders has the data."""


class DataDamaged(DataError):
    """A file with unexpected content."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(
            f"{path}: {what}. Replace this file. To fetch a file of `make data` again: "
            "`rm -f .venv/data.ready && make data`."
        )


class DataSource(NamedTuple):
    """The files of one data set and how to get them."""

    title: str
    name: str  # of its folder
    files: tuple[str, ...]  # patterns; each must match a file
    hint: str  # how to get missing files, up to "give --data DIR"
    package: tuple[str, ...] = ()  # importable name, then folders below it


def find_folder(source: DataSource) -> Path:
    """The first folder with all files of a data set.

    Raises:
        DataNotFound: no folder has them, or DECAYAX_DATA is not a folder.
    """
    searched = list(dict.fromkeys(_candidates(source)))
    for folder in searched:
        if all(
            any(path.is_file() for path in folder.glob(name)) for name in source.files
        ):
            return folder
    raise DataNotFound(
        f"{source.title} is missing (looked in {', '.join(map(str, searched))}). "
        f"{source.hint} pass --data DIR, a folder with {source.name}/ or its files."
    )


def _candidates(source: DataSource) -> Iterator[Path]:
    if own := os.environ.get(VARIABLE):
        folder = Path(os.path.expanduser(own))
        if not folder.is_dir():
            raise DataNotFound(
                f"--data {own} (or {VARIABLE}): there is no such folder. Pass a "
                "folder that exists."
            )
        yield folder / source.name
        yield folder
    yield Path(sys.prefix) / "share" / "datasets" / source.name
    if source.package:
        for root in package_folders(source.package[0]):
            yield root.joinpath(*source.package[1:])
    yield SYSTEM / source.name


def package_folders(package: str) -> list[Path]:
    """The folders of a package, without importing it."""
    try:
        spec = importlib.util.find_spec(package)
    except ValueError:  # a module of that name without a spec
        return []
    return [Path(root) for root in (spec and spec.submodule_search_locations) or ()]
