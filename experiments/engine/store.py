"""The files of a study: cells that all its plans share, and a directory for each plan.

    OUT/STUDY/pieces/0123456789ab.npz   cells of one program: measures, who made them
    OUT/STUDY/HASH/manifest.json        the plan and its hash, what it is made with
    OUT/STUDY/HASH/shrink-adamw.npz     a piece that is measured and not trained
    OUT/STUDY/HASH/cells.csv            a row for each run, made from the cells
    OUT/STUDY/HASH/kept.npz, curves.npz what has more than one number for each run
    OUT/STUDY/HASH/report.md, *.png     made from the files of HASH and nothing else

A file is written under another name and moved into place, so it is whole, and a killed
process loses only the file that it was at. Processes on many machines may share the
directories; merging is reading. Everything is read once, before anything is trained.
"""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import files
from experiments.cells import CURVES, KEPT
from experiments.engine import manifest as manifests
from experiments.engine.chunks import Piece
from experiments.engine.manifest import FORMAT, read_manifest as read_manifest
from experiments.engine.plan import Cell
from experiments.engine.wanted import cell_digest, chunk_digest
from experiments.problem import Problem


NAME = re.compile(r"[0-9a-f]{12}\.npz")
MADE = (KEPT, CURVES)  # from the cells, when all are there
Arrays = dict[str, np.ndarray]


class Store(NamedTuple):
    """What has been read so far."""

    folder: Path  # of the plan
    pieces: Path  # of all plans of the study
    plan: str  # its hash
    chunks: dict[str, Arrays]  # by file
    places: dict[str, tuple[str, int]]  # of each cell, by digest: file and row
    measured: dict[str, Arrays]  # by piece


def open_store(
    folder: Path, manifest: dict[str, Any], resume: bool, mix: bool = False
) -> Store:
    """Begin the directory of a plan or go on with it, and read what is there.

    Raises:
        Problem: the directory is another plan's or nobody's, it was begun with other
            code, versions, devices or data and `mix` is false, or it has been begun
            and `resume` is false.
    """
    store = Store(folder, folder.parent / "pieces", manifest["hash"], {}, {}, {})
    begun = manifests.is_begun(folder)  # looked at first: another may begin meanwhile
    found = manifests.found_in(folder)
    if found is not None and found["hash"] != manifest["hash"]:
        raise Problem(
            f"{folder} belongs to another plan ({found['study']} {found['hash']}, not "
            f"{manifest['hash']}): give another directory with --out."
        )
    if begun and not resume:
        raise Problem(
            f"{folder} has been begun: go on with {manifest['command']} --resume, or "
            "give another directory with --out."
        )
    if found is None:
        path = folder / "manifest.json"
        if begun:
            print(f"{path} is missing or damaged: written again.", flush=True)
        files.write_json(path, manifest)
    elif not mix and (other := manifests.differences(found, manifest)):
        raise manifests.refusal(f"{folder} was begun", other)
    for place in (folder, store.pieces):
        files.remove_abandoned(place)
    look(store)
    return store


# --- Reading ----------------------------------------------------------------------


def look(store: Store) -> None:
    """Read the files that are new; remove those that are damaged, and say so.

    Raises:
        Problem: there is a file that no study wrote.
    """
    for path in sorted(store.pieces.glob("[!.]*")):
        if not NAME.fullmatch(path.name):
            raise Problem(
                f"{path} is not a file of a study: move it elsewhere, or give another "
                "directory with --out."
            )
        if path.name not in store.chunks and (arrays := _read_or_remove(path)):
            _enter(store, path.name, arrays)
    for path in sorted(store.folder.glob("[!.]*.npz")):
        if path.name in MADE or path.stem in store.measured:
            continue
        if arrays := _read_or_remove(path, store.plan):
            store.measured[path.stem] = arrays


def cells_in(pieces: Path) -> set[str]:
    """The digests of the cells that are there, for a preview: nothing is removed."""
    found: set[str] = set()
    for path in pieces.glob("[!.]*.npz"):
        try:
            arrays = files.read_arrays(path)
        except ValueError:
            continue
        if _fault(path, arrays, None) is None:
            found.update(_cells(arrays))
    return found


def _read_or_remove(path: Path, plan: str | None = None) -> Arrays | None:
    """The arrays of a chunk, or of a piece of this plan; None if they are not whole."""
    try:
        before = path.stat()
    except FileNotFoundError:
        return None  # another process has removed it
    try:
        arrays = files.read_arrays(path)
        fault = _fault(path, arrays, plan)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        arrays, fault = None, f"is damaged ({_one_line(error)})"
    if fault is None:
        return arrays
    _remove(path, fault, before)
    return None


def _fault(path: Path, arrays: Arrays, plan: str | None) -> str | None:
    """What is wrong with a file whose bytes are whole."""
    if plan is not None:
        signed = arrays.get("plan") == np.array(plan) and "origin" in arrays
        return None if signed else "belongs to another plan"
    if not {"format", "static", "origin", "diverged_at"} <= set(arrays):
        return "is not a chunk of cells"
    if arrays["format"] != FORMAT:
        raise Problem(
            f"{path} has format {arrays['format']}, this program reads {FORMAT}: give "
            "another directory with --out."
        )
    if path.name != _file_name(_cells(arrays)):
        return "holds other cells than its name says"
    return None


def _remove(path: Path, fault: str, before: os.stat_result) -> None:
    """Unless another process has just replaced it."""
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
    static = arrays["static"].item()
    return [cell_digest(static, dict(zip(numbers, row, strict=True))) for row in rows]


def _file_name(cells: Sequence[str]) -> str:
    return f"{chunk_digest(cells)}.npz"


def _enter(store: Store, name: str, arrays: Arrays) -> None:
    """Of two files with one cell the smaller name wins, in whichever order they come.

    Their last digits differ if their widths did, and all processes must take the same.
    """
    store.chunks[name] = arrays
    for row, cell in enumerate(_cells(arrays)):
        place = name, row
        store.places[cell] = min(store.places.get(cell, place), place)


# --- Writing ----------------------------------------------------------------------


def save(path: Path, arrays: Arrays, origin: dict[str, Any]) -> Arrays:
    """Write a file, whole or not at all."""
    signed = arrays | {"origin": np.array(json.dumps(origin))}
    files.write_arrays(path, signed)
    return signed


def save_cells(
    store: Store,
    static: str,
    cells: dict[str, Cell],
    arrays: Arrays,
    origin: dict[str, Any],
) -> None:
    """Write cells of a static that have been trained, for this plan and all others."""
    numbers = list(cells.values())
    columns = {f"cell/{n}": np.array([c[n] for c in numbers]) for n in numbers[0]}
    head = {"format": np.array(FORMAT), "static": np.array(static)}
    name = _file_name(list(cells))
    _enter(store, name, save(store.pieces / name, head | columns | arrays, origin))


def save_measured(
    store: Store, piece: Piece, arrays: Arrays, origin: dict[str, Any]
) -> None:
    """Write a piece that belongs to this plan alone."""
    signed = arrays | {"plan": np.array(store.plan)}
    path = store.folder / f"{piece.name}.npz"
    store.measured[piece.name] = save(path, signed, origin)


def has(store: Store, piece: Piece) -> bool:
    """Whether a piece has been measured."""
    return piece.name in store.measured


# --- Using it ---------------------------------------------------------------------


def origin_of(arrays: Arrays) -> dict[str, Any]:
    """What made a file."""
    return json.loads(arrays["origin"].item())


def read_pieces(folder: Path, name: str) -> list[Arrays]:
    """The measured pieces whose names begin so, in order, for a report.

    Raises:
        Problem: there is none, or one is damaged.
    """
    paths = sorted(folder.glob(f"{name}*.npz"))
    if not paths:
        raise Problem(
            f"{folder} holds no {name}*.npz, which this report is made from: run the "
            "study anew."
        )
    return [_read_for_report(path) for path in paths]


def _read_for_report(path: Path) -> Arrays:
    try:
        return files.read_arrays(path)
    except ValueError as error:
        raise Problem(
            f"{path} is damaged ({error}): delete it and report.md, and run the study "
            "again with --resume."
        ) from None
