"""The table of all runs, as in cells.csv: columns of equal length.

A row is a run with its last measures. The rows are in the order of the plan.
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
    """Make the table: labels, hyper-parameters, last measures and `diverged_at`."""
    # A measurement has no `diverged_at`; it is not a row.
    return concatenate(
        [_columns(arrays) for arrays in chunks if "diverged_at" in arrays]
    )


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
    """Convert float32 to the shortest decimals: 0.003, not 0.003000000026077032."""
    # str of a float32 is the shortest text that gives the same float32.
    return array.astype(str).astype(float) if array.dtype == np.float32 else array


def concatenate(tables: Sequence[Table]) -> Table:
    """Concatenate the rows. A column that a table lacks is None there."""
    tables = [table for table in tables if table]
    # A dictionary keeps the order and drops duplicates.
    names = list(dict.fromkeys(name for table in tables for name in table))
    return {
        name: np.concatenate([t.get(name, _missing_column(t)) for t in tables])
        for name in names
    }


def _missing_column(table: Table) -> np.ndarray:
    return np.full(len(next(iter(table.values()))), None, dtype=object)


def where(table: Table, **values: Any) -> Table:
    """Return the rows in which every named column has the given value."""
    rows = _rows(table, values)
    return {name: column[rows] for name, column in table.items()}


def _rows(table: Table, values: Mapping[str, Any]) -> np.ndarray:
    rows = np.ones(len(next(iter(table.values()))), bool)
    for name, value in values.items():
        rows &= table[name] == value
    return rows


def unique(table: Table, name: str) -> list[Any]:
    """Return the distinct values of a column, in the order of the rows."""
    return list(dict.fromkeys(table[name].tolist()))


def write_arrays_of_runs(
    folder: Path, parts: Sequence[Mapping[str, np.ndarray]]
) -> None:
    """Write the arrays with more than one number per run, next to cells.csv.

    extracted.npz has the arrays that sweep groups extract. curves.npz has every measure
    after each segment. In both files, runs with equal labels and shapes form a part;
    its arrays are `NUMBER/NAME`, and `NUMBER/row` has their rows in the table.
    """
    extracts: dict[str, np.ndarray] = {}
    curves: dict[str, np.ndarray] = {}
    first = 0
    for number, (_, group) in enumerate(itertools.groupby(parts, _part_key)):
        same = list(group)
        count = sum(len(part["diverged_at"]) for part in same)
        rows = {f"{number}/row": np.arange(first, first + count)}
        first += count
        found = _joined(same, "extract/", number)
        if found:
            extracts |= found | rows
        # A single measurement per run is already in the table.
        if len(same[0]["epoch"]) > 1:
            epoch = {f"{number}/epoch": same[0]["epoch"]}
            curves |= _joined(same, "measure/", number) | rows | epoch
    for file, arrays in ((EXTRACTED, extracts), (CURVES, curves)):
        if arrays:
            files.write_arrays(folder / file, arrays)


def _joined(
    parts: Sequence[Mapping[str, np.ndarray]], prefix: str, number: int
) -> dict[str, np.ndarray]:
    """Concatenate the arrays whose names begin with `prefix`; rename to NUMBER/NAME."""
    return {
        f"{number}/{name.removeprefix(prefix)}": np.concatenate(
            [part[name] for part in parts]
        )
        for name in parts[0]
        if name.startswith(prefix)
    }


def _part_key(part: Mapping[str, np.ndarray]) -> Any:
    """Return a key that is equal for parts that can be concatenated."""
    labels = [(n, x.item()) for n, x in part.items() if n.startswith("label/")]
    shapes = [
        (name, array.shape[1:])
        for name, array in part.items()
        if name.startswith(("extract/", "measure/"))
    ]
    return labels, part["epoch"].tolist(), shapes


def extracted(folder: Path, **labels: Any) -> dict[str, np.ndarray]:
    """Read the extracted arrays of the runs with these labels: [runs, ...].

    The runs are in the order of the table.

    Raises:
        UserError: no run has these labels, or the file is missing or damaged.
    """
    table = _read_table(folder)
    chosen = np.flatnonzero(_rows(table, labels))
    parts = [
        {name: array[np.isin(part["row"], chosen)] for name, array in part.items()}
        for part in stored_parts(folder, EXTRACTED, chosen)
    ]
    if not parts:
        raise UserError(
            f"{folder / EXTRACTED} has no run with {labels}. Use labels of runs whose "
            "group extracts arrays."
        )
    names = [name for name in parts[0] if name != "row"]
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def to_pandas(folder: Path, curves: bool = False) -> Any:
    """Read the table of a results directory as a pandas DataFrame.

    Args:
        folder: the results directory, such as results/demo/0123456789ab.
        curves: if true, there is a row for each run and measured segment, with a column
            `epoch`. If false, there is a row for each run, with its last measures.

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
    for part in stored_parts(folder, CURVES, np.arange(len(table["diverged_at"]))):
        count = len(part["epoch"])
        rows = np.repeat(part["row"], count)
        found = {name: column[rows] for name, column in table.items()}
        found["epoch"] = np.tile(part["epoch"], len(part["row"]))
        measures = {n: _shortest(x.ravel()) for n, x in part.items() if x.ndim == 2}
        tables.append(found | measures)
    return concatenate(tables)


def stored_parts(
    folder: Path, name: str, rows: np.ndarray
) -> Iterator[dict[str, np.ndarray]]:
    """Read the parts of extracted.npz or curves.npz that have any of the rows."""
    path = folder / name
    if not path.exists():
        raise UserError(
            f"{folder} has no {name}. A run writes it only if its groups extract "
            "arrays (`SweepGroup.extract`) or have curves (`StaticConfig.curves`)."
        )
    try:
        arrays = files.read_arrays(path)
    except ValueError as error:
        raise UserError(
            f"{path} is damaged ({error}). Delete it and report.md, then run the study "
            "with --resume."
        ) from None
    parts: dict[str, dict[str, np.ndarray]] = {}
    for key, array in arrays.items():
        number, _, array_name = key.partition("/")
        parts.setdefault(number, {})[array_name] = array
    for part in parts.values():
        if np.isin(part["row"], rows).any():
            yield part


def _read_table(folder: Path) -> Table:
    try:
        return read_csv(folder / "cells.csv")
    except FileNotFoundError:
        raise UserError(
            f"{folder} is not a finished results directory: it has no cells.csv. Run "
            "the study with --resume first."
        ) from None


def write_csv(path: Path, table: Table) -> None:
    """Write a table as CSV. None becomes an empty field."""
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
    """Read a table from CSV. A column has numbers if all its fields are numbers.

    The published results have cells.csv.gz, which is read if there is no cells.csv.

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
            f"{path} is damaged ({error}). Delete it and run the study with --resume, "
            "which writes it again from the chunk files."
        ) from None


def _open(path: Path) -> IO[str]:
    compressed = path.with_name(f"{path.name}.gz")
    if compressed.exists() and not path.exists():
        return gzip.open(compressed, "rt", newline="", encoding="utf-8")
    return open(path, newline="", encoding="utf-8")


def _parsed(fields: Sequence[str]) -> np.ndarray:
    """Parse a column as booleans, integers, floats or text; an empty field is None."""
    booleans = {"True": True, "False": False, "": None}
    if set(fields) <= set(booleans) and any(fields):
        return np.array([booleans[field] for field in fields])
    for parse in (int, float):  # int first, so that integers stay integers
        try:
            return np.array([parse(field) if field else None for field in fields])
        except ValueError:
            continue
    return np.array([field or None for field in fields], dtype=object)
