"""The files of a study: cells that all its plans share, and a directory for each plan.

    OUT/STUDY/chunks/0123456789ab.npz   cells of one program: measures, provenance
    OUT/STUDY/HASH/manifest.json        the plan, its hash and its provenance
    OUT/STUDY/HASH/shrink-adamw.npz     a measurement, which trains no cell
    OUT/STUDY/HASH/cells.csv            a row for each run, made from the cells
    OUT/STUDY/HASH/extracted.npz        arrays that a study extracts from its runs
    OUT/STUDY/HASH/curves.npz           measures after each segment
    OUT/STUDY/HASH/report.md, *.png     made from the files of HASH only

A file is written under a temporary name and then renamed, so every file is complete. A
killed process loses only the file that it was writing. Processes on many machines may
share the directories without any other communication. All stored files are read once,
before any training.
"""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import files
from experiments.cells import CURVES, EXTRACTED
from experiments.engine import manifest as manifests
from experiments.engine.assignment import cell_digest, chunk_digest
from experiments.engine.config import HParams
from experiments.engine.manifest import FORMAT, read_manifest as read_manifest
from experiments.engine.training import Measurement
from experiments.errors import UserError


CHUNKS = "chunks"  # the folder of the cells, next to the folders of the plans
CHUNK_FILE = re.compile(r"[0-9a-f]{12}\.npz")
DERIVED = (EXTRACTED, CURVES)  # made from the cells; they are not measurements
Arrays = dict[str, np.ndarray]


class Store(NamedTuple):
    """The stored files that have been read so far."""

    folder: Path  # of the plan
    chunk_folder: Path  # of the study
    plan_hash: str
    chunks: dict[str, Arrays]  # by file name
    locations: dict[str, tuple[str, int]]  # by hash of a cell: its file and row
    measurements: dict[str, Arrays]  # by name


def open_store(
    folder: Path, manifest: dict[str, Any], resume: bool, mix_revisions: bool = False
) -> Store:
    """Start or resume the directory of a plan, and read the stored files.

    Raises:
        UserError: the directory belongs to another plan or to no study; it was started
            already and `resume` is false; or it was started with other code, versions,
            devices or data and `mix_revisions` is false.
    """
    store = Store(
        folder,
        chunk_folder=folder.parent / CHUNKS,
        plan_hash=manifest["hash"],
        chunks={},
        locations={},
        measurements={},
    )
    # Checked before the manifest is read, because another shard may write it now.
    started = manifests.is_started(folder)
    found = manifests.read_if_valid(folder)
    if found is not None and found["hash"] != manifest["hash"]:
        raise UserError(
            f"{folder} belongs to another plan ({found['study']} {found['hash']}, not "
            f"{manifest['hash']}). Give another directory with --out."
        )
    if started and not resume:
        raise UserError(
            f"{folder} already has a run. Give another directory with --out, or resume "
            f"the run with: {manifest['command']} --resume"
        )
    if found is None:
        path = folder / "manifest.json"
        if started:
            print(f"{path} is missing or damaged. It is written again.", flush=True)
        files.write_json(path, manifest)
    elif not mix_revisions:
        other = manifests.differences(found, manifest)
        if other:
            raise manifests.mixing_error(f"{folder} was started", other)
    for each in (folder, store.chunk_folder):
        files.remove_abandoned(each)
    read_new_files(store)
    return store


# --- Reading ----------------------------------------------------------------------


def read_new_files(store: Store) -> None:
    """Read the files that are new. Remove damaged ones and print a message.

    Raises:
        UserError: no study wrote one of the files.
    """
    for path in sorted(store.chunk_folder.glob("[!.]*")):
        if not CHUNK_FILE.fullmatch(path.name):
            raise UserError(
                f"{path} is not a file of a study. Move it elsewhere, or give another "
                "directory with --out."
            )
        if path.name not in store.chunks:
            arrays = _read_or_remove(path)
            if arrays is not None:
                _index(store, path.name, arrays)
    for path in sorted(store.folder.glob("[!.]*.npz")):
        if path.name not in DERIVED and path.stem not in store.measurements:
            arrays = _read_or_remove(path, store.plan_hash)
            if arrays is not None:
                store.measurements[path.stem] = arrays


def stored_cells(chunk_folder: Path) -> set[str]:
    """Return the hashes of the stored cells, for a preview. Nothing is removed."""
    found: set[str] = set()
    for path in chunk_folder.glob("[!.]*.npz"):
        try:
            arrays = files.read_arrays(path)
        except ValueError:
            continue
        if _find_fault(path, arrays, None) is None:
            found.update(_cells(arrays))
    return found


def _read_or_remove(path: Path, plan_hash: str | None = None) -> Arrays | None:
    """Read a chunk, or a measurement of the plan. Remove it if it is not valid.

    Returns:
        The arrays; None if the file was removed.
    """
    try:
        before = path.stat()
    except FileNotFoundError:
        return None  # another process has removed it
    try:
        arrays = files.read_arrays(path)
        fault = _find_fault(path, arrays, plan_hash)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        arrays, fault = None, f"is damaged ({_one_line(error)})"
    if fault is None:
        return arrays
    _remove(path, fault, before)
    return None


def _find_fault(path: Path, arrays: Arrays, plan_hash: str | None) -> str | None:
    """Return what is wrong with a file whose bytes are undamaged, or None."""
    if plan_hash is not None:
        is_ours = arrays.get("plan") == np.array(plan_hash) and "provenance" in arrays
        return None if is_ours else "belongs to another plan"
    if not {"format", "config", "provenance", "diverged_at"} <= set(arrays):
        return "is not a chunk of cells"
    if arrays["format"] != FORMAT:
        raise UserError(
            f"{path} has format {arrays['format']}, but this program reads format "
            f"{FORMAT}. Give another directory with --out."
        )
    if path.name != _file_name(_cells(arrays)):
        return "has a name that does not match its cells"
    return None


def _remove(path: Path, fault: str, before: os.stat_result) -> None:
    """Remove a file, unless another process has just replaced it."""
    print(f"{path} {fault}. It is removed and made again.", flush=True)
    try:
        now = path.stat()
    except FileNotFoundError:
        return
    if (now.st_ino, now.st_mtime_ns) == (before.st_ino, before.st_mtime_ns):
        path.unlink(missing_ok=True)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _cells(arrays: Arrays) -> list[str]:
    """Return the hashes of the cells of a chunk, by row."""
    numbers = {
        name.removeprefix("cell/"): array.tolist()
        for name, array in arrays.items()
        if name.startswith("cell/")
    }
    rows = zip(*numbers.values(), strict=True)
    config = arrays["config"].item()
    return [cell_digest(config, dict(zip(numbers, row, strict=True))) for row in rows]


def _file_name(cells: Sequence[str]) -> str:
    return f"{chunk_digest(cells)}.npz"


def _index(store: Store, name: str, arrays: Arrays) -> None:
    """Add a chunk. If two files have the same cell, the smaller file name wins.

    The last digits of the two differ if different numbers of cells were trained in
    parallel. So all processes must use the same file, whatever the order in which they
    read the files.
    """
    store.chunks[name] = arrays
    for row, cell in enumerate(_cells(arrays)):
        location = (name, row)
        store.locations[cell] = min(store.locations.get(cell, location), location)


# --- Writing ----------------------------------------------------------------------


def save(path: Path, arrays: Arrays, provenance: dict[str, Any]) -> Arrays:
    """Write arrays and their provenance to a file. Return what was written."""
    stored = arrays | {"provenance": np.array(json.dumps(provenance))}
    files.write_arrays(path, stored)
    return stored


def save_cells(
    store: Store,
    config: str,
    cells: dict[str, HParams],
    arrays: Arrays,
    provenance: dict[str, Any],
) -> None:
    """Write trained cells of a configuration, for all plans of the study.

    Args:
        store: the store.
        config: the hash that the cells have in common, see `config_digest`.
        cells: hyper-parameters by hash, in the order of the arrays' rows.
        arrays: the arrays of `train_chunk`.
        provenance: their provenance.
    """
    numbers = list(cells.values())
    columns = {f"cell/{n}": np.array([c[n] for c in numbers]) for n in numbers[0]}
    head = {"format": np.array(FORMAT), "config": np.array(config)}
    name = _file_name(list(cells))
    chunk = save(store.chunk_folder / name, head | columns | arrays, provenance)
    _index(store, name, chunk)


def save_measurement(
    store: Store, measurement: Measurement, arrays: Arrays, provenance: dict[str, Any]
) -> None:
    """Write a measurement. It belongs to this plan only."""
    with_plan = arrays | {"plan": np.array(store.plan_hash)}
    path = store.folder / f"{measurement.name}.npz"
    store.measurements[measurement.name] = save(path, with_plan, provenance)


# --- Use --------------------------------------------------------------------------


def stored_provenance(arrays: Arrays) -> dict[str, Any]:
    """Return the code, versions, devices and data that made a file."""
    return json.loads(arrays["provenance"].item())


def read_measurements(folder: Path, prefix: str) -> list[Arrays]:
    """Read the measurements whose names start with `prefix`, sorted, for a report.

    Raises:
        UserError: there is no such measurement, or one is damaged.
    """
    paths = sorted(folder.glob(f"{prefix}*.npz"))
    if not paths:
        raise UserError(
            f"{folder} has no {prefix}*.npz, which the report needs. Delete report.md "
            "and run the study with --resume."
        )
    return [_read_for_report(path) for path in paths]


def _read_for_report(path: Path) -> Arrays:
    try:
        return files.read_arrays(path)
    except ValueError as error:
        raise UserError(
            f"{path} is damaged ({error}). Delete it and report.md, then run the study "
            "with --resume."
        ) from None
