"""The table of all runs: columns of one length, as cells.csv holds them.

Rows are in the order of the plan, with the last measures of each run.
"""

import csv
import gzip
import importlib
import itertools
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, IO

import numpy as np

from experiments import files
from experiments.errors import UserError


Table = dict[str, np.ndarray]
EXTRACTED, CURVES = "extracted.npz", "curves.npz"


def from_chunks(chunks: Iterable[Mapping[str, np.ndarray]]) -> Table:
    """Labels, hyper-parameters, last measures and `diverged_at` of all cells."""
    parts = [_columns(arrays) for arrays in chunks if "diverged_at" in arrays]
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
    """Concatenate the rows; missing columns are None."""
    tables = [table for table in tables if table]
    names = list(dict.fromkeys(name for table in tables for name in table))
    return {
        name: np.concatenate([t.get(name, _missing_column(t)) for t in tables])
        for name in names
    }


def _missing_column(table: Table) -> np.ndarray:
    return np.full(len(next(iter(table.values()))), None, dtype=object)


def where(table: Table, **values: Any) -> Table:
    """The rows in which every named column has the value."""
    rows = _rows(table, values)
    return {name: column[rows] for name, column in table.items()}


def _rows(table: Table, values: Mapping[str, Any]) -> np.ndarray:
    rows = np.ones(len(next(iter(table.values()))), bool)
    for name, value in values.items():
        rows &= table[name] == value
    return rows


def unique(table: Table, name: str) -> list[Any]:
    """The distinct values of a column, in the order of the rows."""
    return list(dict.fromkeys(table[name].tolist()))


def write_arrays_of_runs(
    folder: Path, parts: Sequence[Mapping[str, np.ndarray]]
) -> None:
    """Write what has more than one number per run, next to cells.csv.

    extracted.npz has the arrays that groups extract, curves.npz every measure after
    each segment. Both are split into parts that share labels and shapes, with `row`,
    the row numbers in the table.
    """
    kinds: dict[str, dict[str, np.ndarray]] = {EXTRACTED: {}, CURVES: {}}
    first = 0
    for number, (_, group) in enumerate(itertools.groupby(parts, _kind)):
        alike = list(group)
        count = sum(len(part["diverged_at"]) for part in alike)
        row, first = np.arange(first, first + count), first + count
        for file, kind in ((EXTRACTED, "extract/"), (CURVES, "measure/")):
            if kind == "measure/" and len(alike[0]["epoch"]) == 1:
                continue  # they are in the table
            found = {
                f"{number}/{name.removeprefix(kind)}": np.concatenate(
                    [part[name] for part in alike]
                )
                for name in alike[0]
                if name.startswith(kind)
            }
            if found:
                kinds[file] |= found | {f"{number}/row": row}
                if kind == "measure/":
                    kinds[file][f"{number}/epoch"] = alike[0]["epoch"]
    for file, arrays in kinds.items():
        if arrays:
            files.write_arrays(folder / file, arrays)


def _kind(part: Mapping[str, np.ndarray]) -> Any:
    """A key that is equal for parts that can be concatenated."""
    labels = [(n, x.item()) for n, x in part.items() if n.startswith("label/")]
    several = [n for n in part if n.startswith(("extract/", "measure/"))]
    return labels, part["epoch"].tolist(), [(n, part[n].shape[1:]) for n in several]


def extracted(folder: Path, **labels: Any) -> dict[str, np.ndarray]:
    """The extracted arrays of runs with these labels: [runs, ...], in table order.

    Raises:
        UserError: no run has these labels, or the file is missing or damaged.
    """
    table = _read_table(folder)
    chosen = np.flatnonzero(_rows(table, labels))
    parts = [
        {name: array[np.isin(part["row"], chosen)] for name, array in part.items()}
        for part in _stored_parts(folder, EXTRACTED, chosen)
    ]
    if not parts:
        raise UserError(f"{folder / EXTRACTED} holds no run with {labels}.")
    names = [name for name in parts[0] if name != "row"]
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def to_pandas(folder: Path, curves: bool = False) -> Any:
    """The table of a results directory as a DataFrame.

    Args:
        folder: such as results/demo/0123456789ab.
        curves: a row for each run and measured segment, with a column `epoch`, instead
            of a row for each run with its last measures.

    Raises:
        UserError: pandas is not installed, or the directory is not finished.
    """
    try:
        pandas = importlib.import_module("pandas")
    except ModuleNotFoundError:
        raise UserError("to_pandas needs pandas: pip install pandas.") from None
    table = _read_table(folder)
    return pandas.DataFrame(_curves(folder, table) if curves else table)


def _curves(folder: Path, table: Table) -> Table:
    tables = []
    for part in _stored_parts(folder, CURVES, np.arange(len(table["diverged_at"]))):
        count = len(part["epoch"])
        rows = np.repeat(part["row"], count)
        found = {name: column[rows] for name, column in table.items()}
        found["epoch"] = np.tile(part["epoch"], len(part["row"]))
        measures = {n: _shortest(x.ravel()) for n, x in part.items() if x.ndim == 2}
        tables.append(found | measures)
    return concatenate(tables)


def _stored_parts(
    folder: Path, name: str, rows: np.ndarray
) -> Iterator[dict[str, np.ndarray]]:
    """The parts of extracted.npz or curves.npz that have any of the rows."""
    path = folder / name
    if not path.exists():
        raise UserError(
            f"{folder} holds no {name}: run the study again, if its groups extract "
            "arrays or have curves (`StaticConfig.curves`)."
        )
    try:
        arrays = files.read_arrays(path)
    except ValueError as error:
        raise UserError(
            f"{path} is damaged ({error}): delete it and report.md, and run the study "
            "again with --resume."
        ) from None
    for number in dict.fromkeys(each.partition("/")[0] for each in arrays):
        part = {
            each.removeprefix(f"{number}/"): array
            for each, array in arrays.items()
            if each.startswith(f"{number}/")
        }
        if np.isin(part["row"], rows).any():
            yield part


def _read_table(folder: Path) -> Table:
    try:
        return read_csv(folder / "cells.csv")
    except FileNotFoundError:
        raise UserError(
            f"{folder} is not a finished results directory: it has no cells.csv."
        ) from None


def write_csv(path: Path, table: Table) -> None:
    """Write a table as CSV; None is an empty field."""
    with (
        files.atomic_write(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(table)
        writer.writerows(
            zip(*(column.tolist() for column in table.values()), strict=True)
        )


def read_csv(path: Path) -> Table:
    """Read a table: a column is numbers if all its fields are.

    Reads cells.csv.gz if only that exists, as in the published results.

    Raises:
        UserError: the file is damaged.
    """
    try:
        with _open(path) as file:
            names, *rows = csv.reader(file)
        columns = list(zip(*rows, strict=True)) if rows else [()] * len(names)
        return {n: _parsed(c) for n, c in zip(names, columns, strict=True)}
    except (ValueError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(
            f"{path} is damaged ({error}): delete it, and --resume writes it again "
            "from the chunk files."
        ) from None


def _open(path: Path) -> IO[str]:
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
