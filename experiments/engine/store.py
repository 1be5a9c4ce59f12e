"""A results directory: whole files, and a manifest that says what they belong to.

    manifest.json      the plan and its hash, what it is made with, seconds
    tuning-0003.npz    a piece: the cells of a chunk, what was measured, who made it
    cells.csv          one line per cell, made from the pieces
    report.md, *.png   made from the files above and from nothing else

A directory belongs to one plan, by its hash. Pieces are written under another name and
moved into place, so what is there is whole, and whoever is killed loses the piece it
was at. Processes on many machines may share a directory; merging is reading.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import files
from experiments.engine.chunks import Piece
from experiments.problem import Problem


FORMAT = 1
SAME = ("versions", "device")  # what must agree for the bits to agree


class Store(NamedTuple):
    """An open results directory."""

    folder: Path
    digest: str  # of the plan


def open_store(folder: Path, manifest: dict[str, Any], resume: bool) -> Store:
    """Begin a results directory or go on with one.

    Raises:
        Problem: the folder is another plan's or nobody's, its manifest is damaged, it
            was begun with other versions or devices or data, or it has been begun and
            `resume` is false.
    """
    store = Store(folder, manifest["hash"])
    path = folder / "manifest.json"
    there = list(folder.glob("[!.]*"))  # looked at first: another may begin meanwhile
    if not path.exists():
        if there:
            raise Problem(
                f"{folder} holds files but no manifest.json, so it is not a results "
                "directory: give another one with --out."
            )
        files.write_json(path, manifest)
        return store
    files.remove_abandoned(folder)
    found = read_manifest(folder)
    if found["hash"] != manifest["hash"]:
        raise Problem(
            f"{folder} belongs to another plan ({found['study']} {found['hash']}, not "
            f"{manifest['hash']}): give another directory with --out."
        )
    if not resume:
        raise Problem(
            f"{folder} has been begun: go on with --resume, or delete it to begin anew."
        )
    for key in (*SAME, "data"):
        if found.get(key) != manifest[key]:
            difference = _difference(found.get(key), manifest[key])
            raise Problem(
                f"{folder} was begun with other {key} ({difference}), "
                "so its numbers would differ in their last bits: go on where it was "
                "begun, or begin anew with --out."
            )
    return store


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a results directory says of itself.

    Raises:
        Problem: there is none, or it is damaged.
    """
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        held = set(manifest) if isinstance(manifest, dict) else set()
        wanted = {"format", "study", "hash"} - held
    except FileNotFoundError:
        raise Problem(
            f"{folder} is not a results directory: it has no manifest.json."
        ) from None
    except ValueError as error:
        raise Problem(
            f"{path} is damaged: {error}. The pieces beside it are whole; "
            "delete the directory to begin anew."
        ) from None
    if wanted:
        raise Problem(
            f"{path} is no manifest of a study: it lacks {', '.join(sorted(wanted))}."
        )
    if manifest["format"] != FORMAT:
        raise Problem(
            f"{path} has format {manifest['format']}, this program reads {FORMAT}."
        )
    return manifest


def has(store: Store, piece: Piece) -> bool:
    """Whether a piece has been made."""
    return _path(store, piece).exists()


def save(
    store: Store, piece: Piece, arrays: dict[str, np.ndarray], origin: Any
) -> None:
    """Write a piece, whole or not at all."""
    signed = {"plan": np.array(store.digest), "origin": np.array(json.dumps(origin))}
    files.write_arrays(_path(store, piece), arrays | signed)


def load(store: Store, piece: Piece) -> dict[str, np.ndarray]:
    """Read a piece and see that it is this plan's.

    Raises:
        Problem: the file is damaged or another plan's.
    """
    path = _path(store, piece)
    cure = "delete this file, and --resume makes it again."
    arrays = _read(path, cure)
    if arrays.get("plan") != np.array(store.digest):
        raise Problem(f"{path} belongs to another plan: {cure}")
    for name, expected in piece.expected.items():
        if not np.array_equal(arrays.get(name, np.array(None)), expected):
            raise Problem(f"{path} holds other cells than the plan ({name}): {cure}")
    return arrays


def _read(path: Path, cure: str) -> dict[str, np.ndarray]:
    try:
        with open(path, "rb") as file, np.load(file) as stored:
            return {name: stored[name] for name in stored.files}
    except Exception as error:  # whatever zipfile, zlib and NumPy say of broken bytes
        raise Problem(f"{path} is damaged ({error}): {cure}") from None


def _path(store: Store, piece: Piece) -> Path:
    return store.folder / f"{piece.name}.npz"


def _difference(found: Any, now: Any) -> str:
    if not isinstance(found, dict) or not isinstance(now, dict):
        return f"{found}, now {now}"
    names = [name for name in {**found, **now} if found.get(name) != now.get(name)]
    return ", ".join(f"{n} {found.get(n)}, now {now.get(n)}" for n in names)


def read_pieces(folder: Path, name: str) -> list[dict[str, np.ndarray]]:
    """The pieces whose names begin so, in order, for a report.

    Raises:
        Problem: there is none; a published folder holds cells.csv instead of them.
    """
    paths = sorted(folder.glob(f"{name}*.npz"))
    if not paths:
        raise Problem(
            f"{folder} holds no {name}*.npz, which this report is made from: run the "
            "study anew."
        )
    return [_read(path, "make the study anew.") for path in paths]
