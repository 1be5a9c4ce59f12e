"""The manifest of a results directory, and the provenance of its numbers.

The manifest is a JSON file that describes the run. The provenance of a number is the
code, the versions, the devices and the data that made it.
"""

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
# Two runs give the same bits only if all of these are equal.
PROVENANCE = ("versions", "device", "data", "code")
WITHOUT_DATA = ("versions", "device", "code")  # known before the data are loaded
OUR_FILES = re.compile(r"manifest\.json|cells\.csv(\.gz)?|report\.md|.*\.png|.*\.npz")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a results directory.

    Raises:
        UserError: there is no manifest, it is damaged, or it is not that of a study.
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
            f"{path} is damaged ({error}). Run the study with --resume, which writes "
            "it again."
        ) from None


def read_if_valid(folder: Path) -> dict[str, Any] | None:
    """Read the manifest. None if it is missing or damaged and must be written.

    Raises:
        UserError: the folder has files that no study wrote, or the manifest is not that
            of a study.
    """
    # Read first: another process may write the manifest and more files at any time.
    names = [each.name for each in sorted(folder.glob("[!.]*"))]
    try:
        return _parse(folder / "manifest.json")
    except (FileNotFoundError, ValueError):
        pass
    foreign = [name for name in names if not OUR_FILES.fullmatch(name)]
    if foreign:
        raise UserError(
            f"{folder} has the file {foreign[0]} and no valid manifest.json, so it is "
            "not a results directory. Give another directory with --out."
        )
    return None


def is_started(folder: Path) -> bool:
    """Whether a directory has files, except for hidden ones."""
    return any(folder.glob("[!.]*"))


def is_finished(folder: Path) -> bool:
    """Whether a directory has its table and its report."""
    try:
        manifest = read_manifest(folder)
    except UserError:
        return False
    has_table = any(folder.glob("cells.csv*"))  # or cells.csv.gz
    has_report = (folder / "report.md").exists()
    # "made by" is written after the last run.
    return "made by" in manifest and has_table and has_report


def _parse(path: Path) -> dict[str, Any]:
    manifest = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(manifest, dict):
        raise ValueError(f"it is a {type(manifest).__name__} and not an object")
    missing = {"format", "study", "hash"} - set(manifest)
    if missing:
        raise UserError(
            f"{path} is not the manifest of a study: it has no "
            f"{', '.join(sorted(missing))}."
        )
    if manifest["format"] != FORMAT:
        raise UserError(
            f"{path} has format {manifest['format']}, but this program reads format "
            f"{FORMAT}. Run the study again with another --out."
        )
    return manifest


# --- Provenance -------------------------------------------------------------------


def data_name(setup: TrainingSetup) -> str:
    """Return the description of a setup's data loader, as text."""
    loader = describe(setup.data)
    return loader if isinstance(loader, str) else json.dumps(loader)


def current_provenance(
    cache: CompilationCache,
    study: str,
    values: Sequence[Any],
    setups: Iterable[TrainingSetup],
    sources: Sources,
) -> dict[str, Any]:
    """Return the code, versions, devices and data of numbers that are made now.

    Args:
        cache: has the loaded data.
        study: the module of the study.
        values: the functions that make the numbers, or values that contain them.
        setups: the setups whose data are listed.
        sources: the modules that have been read already.
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
    """Describe each difference between two provenances. For code, list the modules."""
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
    """Return the error for files with another provenance.

    `what` is the beginning of the sentence, such as "DIR was started".
    """
    return UserError(
        f"{what} with other {' and other '.join(other)}. Start again with another "
        "--out, or use the stored files anyway with --mix-revisions."
    )
