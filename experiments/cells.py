"""The table of all runs: columns of one length, as cells.csv holds them.

Rows are in the order of the plan; what the last measurement of a run said is in it.
"""

import csv
import gzip
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, IO

import numpy as np

from experiments import files
from experiments.problem import Problem


Table = dict[str, np.ndarray]


def from_pieces(pieces: Iterable[Mapping[str, np.ndarray]]) -> Table:
    """Labels, numbers, last measures and `diverged_at` of the cells in the pieces."""
    parts = [_columns(arrays) for arrays in pieces if "diverged_at" in arrays]
    return concatenate(parts)


def _columns(arrays: Mapping[str, np.ndarray]) -> Table:
    count = len(arrays["diverged_at"])
    found: Table = {}
    for name, array in arrays.items():
        kind, _, column = name.partition("/")
        if kind == "label":
            found[column] = np.full(count, array.item(), dtype=object)
        elif kind == "cell":
            found[column] = _shortest(array)
        elif kind == "measure":
            found[column] = _shortest(array[:, -1])
    return found | {"diverged_at": arrays["diverged_at"]}


def _shortest(array: np.ndarray) -> np.ndarray:
    """The shortest decimals that give the same float32: 0.003, not 0.00300000003."""
    return array.astype(str).astype(float) if array.dtype == np.float32 else array


def concatenate(tables: Sequence[Table]) -> Table:
    """One below the other; what a table lacks is None."""
    tables = [table for table in tables if table]
    names = list(dict.fromkeys(name for table in tables for name in table))
    return {
        name: np.concatenate([t.get(name, _nothing(t)) for t in tables])
        for name in names
    }


def _nothing(table: Table) -> np.ndarray:
    return np.full(len(next(iter(table.values()))), None, dtype=object)


def where(table: Table, **values: Any) -> Table:
    """The rows in which every named column has the value."""
    rows = np.ones(len(next(iter(table.values()))), bool)
    for name, value in values.items():
        rows &= table[name] == value
    return {name: column[rows] for name, column in table.items()}


def unique(table: Table, name: str) -> list[Any]:
    """The values of a column, each once, in the order they come."""
    return list(dict.fromkeys(table[name].tolist()))


def pivot(table: Table, value: str, *axes: str) -> np.ndarray:
    """A column as an array over the sorted values of the axes; nan where there is none.

    Raises:
        ValueError: two rows fall on one place.
    """
    places = [np.unique(table[axis], return_inverse=True) for axis in axes]
    shape = tuple(len(values) for values, _ in places)
    flat = np.ravel_multi_index(tuple(index for _, index in places), shape)
    if len(np.unique(flat)) < len(flat):
        raise ValueError(f"two runs have the same {', '.join(axes)}")
    out = np.full(shape, np.nan).ravel()
    out[flat] = table[value].astype(float)
    return out.reshape(shape)


def write(path: Path, table: Table) -> None:
    """As CSV; None is an empty field."""
    with (
        files.whole(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(table)
        writer.writerows(
            zip(*(column.tolist() for column in table.values()), strict=True)
        )


def read(path: Path) -> Table:
    """What `write` wrote: a column is numbers if all its fields are.

    Where only a compressed copy is there, as with what is published, that.

    Raises:
        Problem: the file is damaged.
    """
    try:
        with _opened(path) as file:
            names, *rows = csv.reader(file)
        columns = list(zip(*rows, strict=True)) if rows else [()] * len(names)
        return {n: _parsed(c) for n, c in zip(names, columns, strict=True)}
    except (ValueError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise Problem(
            f"{path} is damaged ({error}): delete it, and --resume makes it again from "
            "the pieces."
        ) from None


def _opened(path: Path) -> IO[str]:
    packed = path.with_name(f"{path.name}.gz")
    if packed.exists() and not path.exists():
        return gzip.open(packed, "rt", newline="", encoding="utf-8")
    return open(path, newline="", encoding="utf-8")


def _parsed(fields: Sequence[str]) -> np.ndarray:
    truths = {"True": True, "False": False, "": None}
    if {""} < {"", *fields} <= set(truths):
        return np.array([truths[field] for field in fields])
    for kind in (int, float):
        try:
            return np.array(
                [kind(field) if field else None for field in fields]
                if "" in fields
                else [kind(field) for field in fields]
            )
        except ValueError:
            continue
    return np.array([field or None for field in fields], dtype=object)
