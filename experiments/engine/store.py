"""The files of a study: cells that all its plans share, and a directory for each plan.

    OUT/STUDY/chunks/0123456789ab.npz   cells of one program: measures, provenance
    OUT/STUDY/HASH/manifest.json        the plan and its hash, and its provenance
    OUT/STUDY/HASH/shrink-adamw.npz     a measurement, which trains no cell
    OUT/STUDY/HASH/cells.csv            a row for each run, made from the cells
    OUT/STUDY/HASH/extracted.npz        arrays that a study extracts from its runs
    OUT/STUDY/HASH/curves.npz           measures after each segment
    OUT/STUDY/HASH/report.md, *.png     made from the files of HASH only

A file is written under a temporary name and then renamed, so it is complete; a killed
process loses only the file that it was writing. Processes on many machines may share
the directories; merging is reading. All files are read once, before any training.
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


CHUNKS = "chunks"  # the folder, beside those of the plans
CHUNK_FILE = re.compile(r"[0-9a-f]{12}\.npz")
DERIVED = (EXTRACTED, CURVES)  # written from the cells at the end
Arrays = dict[str, np.ndarray]


class Store(NamedTuple):
    """What has been read so far."""

    folder: Path  # of the plan
    chunk_folder: Path  # of all plans of the study
    plan_hash: str
    chunks: dict[str, Arrays]  # by file
    locations: dict[str, tuple[str, int]]  # of each cell, by digest: file and row
    measurements: dict[str, Arrays]  # by name


def open_store(
    folder: Path, manifest: dict[str, Any], resume: bool, mix_revisions: bool = False
) -> Store:
    """Begin the directory of a plan or resume it, and read the files in it.

    Raises:
        UserError: the directory belongs to another plan or to no study, it was begun
            with other code, versions, devices or data and `mix_revisions` is false, or
            it has been begun and `resume` is false.
    """
    store = Store(folder, folder.parent / CHUNKS, manifest["hash"], {}, {}, {})
    begun = manifests.is_begun(folder)  # read first: another process may begin it now
    found = manifests.read_if_valid(folder)
    if found is not None and found["hash"] != manifest["hash"]:
        raise UserError(
            f"{folder} belongs to another plan ({found['study']} {found['hash']}, not "
            f"{manifest['hash']}): give another directory with --out."
        )
    if begun and not resume:
        raise UserError(
            f"{folder} has been begun: go on with {manifest['command']} --resume, or "
            "give another directory with --out."
        )
    if found is None:
        path = folder / "manifest.json"
        if begun:
            print(f"{path} is missing or damaged: written again.", flush=True)
        files.write_json(path, manifest)
    elif not mix_revisions and (other := manifests.differences(found, manifest)):
        raise manifests.mixing_error(f"{folder} was begun", other)
    for each in (folder, store.chunk_folder):
        files.remove_abandoned(each)
    read_new_files(store)
    return store


# --- Reading ----------------------------------------------------------------------


def read_new_files(store: Store) -> None:
    """Read the files that are new; remove damaged ones with a message.

    Raises:
        UserError: there is a file that no study wrote.
    """
    for path in sorted(store.chunk_folder.glob("[!.]*")):
        if not CHUNK_FILE.fullmatch(path.name):
            raise UserError(
                f"{path} is not a file of a study: move it elsewhere, or give another "
                "directory with --out."
            )
        if path.name not in store.chunks and (arrays := _read_or_remove(path)):
            _index(store, path.name, arrays)
    for path in sorted(store.folder.glob("[!.]*.npz")):
        if path.name in DERIVED or path.stem in store.measurements:
            continue
        if arrays := _read_or_remove(path, store.plan_hash):
            store.measurements[path.stem] = arrays


def stored_cells(chunk_folder: Path) -> set[str]:
    """The digests of the stored cells, for a preview: nothing is removed."""
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
    """The arrays of a chunk, or of a measurement of this plan; None if damaged."""
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
    """What is wrong with a file whose bytes are complete."""
    if plan_hash is not None:
        signed = arrays.get("plan") == np.array(plan_hash) and "provenance" in arrays
        return None if signed else "belongs to another plan"
    if not {"format", "config", "provenance", "diverged_at"} <= set(arrays):
        return "is not a chunk of cells"
    if arrays["format"] != FORMAT:
        raise UserError(
            f"{path} has format {arrays['format']}, this program reads {FORMAT}: give "
            "another directory with --out."
        )
    if path.name != _file_name(_cells(arrays)):
        return "holds other cells than its name says"
    return None


def _remove(path: Path, fault: str, before: os.stat_result) -> None:
    """Remove a file, unless another process has just replaced it."""
    print(f"{path} {fault}: removed, and made again.", flush=True)
    try:
        now = path.stat()
    except FileNotFoundError:
        return
    if (now.st_ino, now.st_mtime_ns) == (before.st_ino, before.st_mtime_ns):
        path.unlink(missing_ok=True)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _cells(arrays: Arrays) -> list[str]:
    """The digests of the cells of a chunk, by row."""
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
    """Add a chunk. If two files have one cell, the smaller file name wins.

    The last digits differ if the files were made with different numbers of parallel
    cells, and all processes must use the same file, in whichever order they read.
    """
    store.chunks[name] = arrays
    for row, cell in enumerate(_cells(arrays)):
        location = name, row
        store.locations[cell] = min(store.locations.get(cell, location), location)


# --- Writing ----------------------------------------------------------------------


def save(path: Path, arrays: Arrays, provenance: dict[str, Any]) -> Arrays:
    """Write a file atomically; returns its arrays."""
    signed = arrays | {"provenance": np.array(json.dumps(provenance))}
    files.write_arrays(path, signed)
    return signed


def save_cells(
    store: Store,
    config: str,
    cells: dict[str, HParams],
    arrays: Arrays,
    provenance: dict[str, Any],
) -> None:
    """Write trained cells of a configuration, for this plan and all others."""
    numbers = list(cells.values())
    columns = {f"cell/{n}": np.array([c[n] for c in numbers]) for n in numbers[0]}
    head = {"format": np.array(FORMAT), "config": np.array(config)}
    name = _file_name(list(cells))
    chunk = save(store.chunk_folder / name, head | columns | arrays, provenance)
    _index(store, name, chunk)


def save_measurement(
    store: Store, measurement: Measurement, arrays: Arrays, provenance: dict[str, Any]
) -> None:
    """Write a measurement, which belongs to this plan only."""
    signed = arrays | {"plan": np.array(store.plan_hash)}
    path = store.folder / f"{measurement.name}.npz"
    store.measurements[measurement.name] = save(path, signed, provenance)


# --- Using it ---------------------------------------------------------------------


def stored_provenance(arrays: Arrays) -> dict[str, Any]:
    """The code, versions, devices and data that made a file."""
    return json.loads(arrays["provenance"].item())


def read_measurements(folder: Path, prefix: str) -> list[Arrays]:
    """The measurements whose names start with `prefix`, in order, for a report.

    Raises:
        UserError: there are none, or one is damaged.
    """
    paths = sorted(folder.glob(f"{prefix}*.npz"))
    if not paths:
        raise UserError(
            f"{folder} holds no {prefix}*.npz, which this report is made from: run the "
            "study again."
        )
    return [_read_for_report(path) for path in paths]


def _read_for_report(path: Path) -> Arrays:
    try:
        return files.read_arrays(path)
    except ValueError as error:
        raise UserError(
            f"{path} is damaged ({error}): delete it and report.md, and run the study "
            "again with --resume."
        ) from None
