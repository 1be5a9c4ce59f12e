"""The manifest of a results directory, and the provenance of its numbers."""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from experiments import files
from experiments.data.checksum import checksum
from experiments.engine.code import code_hashes, Sources
from experiments.engine.compilation_cache import CompilationCache, load_data
from experiments.engine.config import TrainingSetup
from experiments.engine.describe import describe, digest
from experiments.errors import UserError


FORMAT = 2  # of the manifest and of the chunk files
PROVENANCE = ("versions", "device", "data", "code")  # equal bits need all of them equal
WITHOUT_DATA = ("versions", "device", "code")  # known before the data are loaded
OUR_FILES = re.compile(r"manifest\.json|cells\.csv(\.gz)?|report\.md|.*\.png|.*\.npz")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a results directory.

    Raises:
        UserError: there is no manifest, or it is damaged.
    """
    path = folder / "manifest.json"
    try:
        return _parse(path)
    except FileNotFoundError:
        raise UserError(
            f"{folder} is not a results directory: it has no manifest.json."
        ) from None
    except ValueError as error:
        raise UserError(
            f"{path} is damaged ({error}): run the study with --resume, which writes "
            "it again."
        ) from None


def read_if_valid(folder: Path) -> dict[str, Any] | None:
    """The manifest; None if it is missing or damaged and has to be written.

    Raises:
        UserError: there are files that no study wrote.
    """
    names = [each.name for each in sorted(folder.glob("[!.]*"))]
    try:
        return _parse(folder / "manifest.json")
    except (FileNotFoundError, ValueError):
        pass
    if foreign := [name for name in names if not OUR_FILES.fullmatch(name)]:
        raise UserError(
            f"{folder} holds {foreign[0]} and no manifest.json that can be read, so it "
            "is not a results directory: give another one with --out."
        )
    return None


def is_begun(folder: Path) -> bool:
    """Whether a directory has any files."""
    return any(folder.glob("[!.]*"))


def is_finished(folder: Path) -> bool:
    """Whether a directory has its table and its report."""
    try:
        manifest = read_manifest(folder)
    except UserError:
        return False
    there = any(folder.glob("cells.csv*")) and (folder / "report.md").exists()
    return "made by" in manifest and there


def _parse(path: Path) -> dict[str, Any]:
    manifest = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(manifest, dict):
        raise ValueError(f"it holds a {type(manifest).__name__}")
    if lacking := {"format", "study", "hash"} - set(manifest):
        raise UserError(
            f"{path} is not the manifest of a study: it lacks "
            f"{', '.join(sorted(lacking))}."
        )
    if manifest["format"] != FORMAT:
        raise UserError(
            f"{path} has format {manifest['format']}, this program reads {FORMAT}: "
            "run the study again, with another --out."
        )
    return manifest


# --- Provenance -------------------------------------------------------------------


def data_name(setup: TrainingSetup) -> str:
    """The loader of a setup's data, as text."""
    loader = describe(setup.data)
    return loader if isinstance(loader, str) else json.dumps(loader)


def current_provenance(
    cache: CompilationCache,
    study: str,
    values: Sequence[Any],
    setups: Iterable[TrainingSetup],
    sources: Sources,
) -> dict[str, Any]:
    """Code, versions, devices and data of numbers that are made now.

    Args:
        cache: holds the loaded data.
        study: the module of the study.
        values: what makes the numbers, such as a static configuration.
        setups: their data are listed.
        sources: the modules that have been read.
    """
    distinct = {digest(setup): setup for setup in setups}
    return {
        **files.provenance(),
        "data": {
            data_name(setup): checksum(load_data(cache, setup))
            for setup in distinct.values()
        },
        "code": code_hashes(values, study, sources),
    }


def differences(
    then: dict[str, Any], now: dict[str, Any], keys: Sequence[str] = PROVENANCE
) -> list[str]:
    """What differs between two provenances, in words; of code, the modules."""
    found = []
    for key in keys:
        old, new = then.get(key) or {}, now[key]
        names = [n for n in sorted({**old, **new}) if old.get(n) != new.get(n)]
        if names and key == "code":
            found.append(f"code ({', '.join(names)})")
        elif names:
            pairs = [f"{name} {old.get(name)}, now {new.get(name)}" for name in names]
            found.append(f"{key} ({', '.join(pairs)})")
    return found


def mixing_error(what: str, other: Sequence[str]) -> UserError:
    """An error that names what differs, and what to do about it."""
    return UserError(
        f"{what} with other {' and other '.join(other)}: start again with another "
        "--out, or use the stored files with --mix-revisions."
    )
