"""What a results directory says of itself, and what its numbers depend on."""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from experiments import files
from experiments.data.checksum import checksum
from experiments.engine import workshop
from experiments.engine.code import code_of, Sources
from experiments.engine.describe import describe, digest
from experiments.engine.plan import Recipe
from experiments.problem import Problem


FORMAT = 2  # of the manifest and of the pieces
SAME = ("versions", "device", "data", "code")  # what must agree for the bits to agree
PROCESS = ("versions", "device", "code")  # of these what is known without the data
OURS = re.compile(r"manifest\.json|cells\.csv(\.gz)?|report\.md|.*\.png|.*\.npz")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a results directory.

    Raises:
        Problem: there is none, or it is damaged.
    """
    path = folder / "manifest.json"
    try:
        return _parsed(path)
    except FileNotFoundError:
        raise Problem(
            f"{folder} is not a results directory: it has no manifest.json."
        ) from None
    except ValueError as error:
        raise Problem(
            f"{path} is damaged ({error}): run the study with --resume, which writes "
            "it again."
        ) from None


def found_in(folder: Path) -> dict[str, Any] | None:
    """The manifest; None if it has to be written, for the first time or again.

    Raises:
        Problem: there are files of somebody else.
    """
    names = [each.name for each in sorted(folder.glob("[!.]*"))]
    try:
        return _parsed(folder / "manifest.json")
    except (FileNotFoundError, ValueError):
        pass
    if foreign := [name for name in names if not OURS.fullmatch(name)]:
        raise Problem(
            f"{folder} holds {foreign[0]} and no manifest.json that can be read, so it "
            "is not a results directory: give another one with --out."
        )
    return None


def is_begun(folder: Path) -> bool:
    """Whether a directory holds anything."""
    return any(folder.glob("[!.]*"))


def is_finished(folder: Path) -> bool:
    """Whether a directory has its table and its report."""
    try:
        manifest = read_manifest(folder)
    except Problem:
        return False
    there = any(folder.glob("cells.csv*")) and (folder / "report.md").exists()
    return "made by" in manifest and there


def _parsed(path: Path) -> dict[str, Any]:
    manifest = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(manifest, dict):
        raise ValueError(f"it holds a {type(manifest).__name__}")
    if wanted := {"format", "study", "hash"} - set(manifest):
        raise Problem(
            f"{path} is no manifest of a study: it lacks {', '.join(sorted(wanted))}."
        )
    if manifest["format"] != FORMAT:
        raise Problem(
            f"{path} has format {manifest['format']}, this program reads {FORMAT}: "
            "run the study anew, with another --out."
        )
    return manifest


# --- What numbers depend on -------------------------------------------------------


def data_name(recipe: Recipe) -> str:
    """Where a recipe's data come from."""
    source = describe(recipe.data)
    return source if isinstance(source, str) else json.dumps(source)


def origin_of(
    shop: workshop.Workshop,
    study: str,
    values: Sequence[Any],
    recipes: Iterable[Recipe],
    sources: Sources,
) -> dict[str, Any]:
    """Code, versions, devices and data behind numbers that are made now.

    Args:
        shop: where the data are.
        study: the module of the study.
        values: what the numbers are made with, such as a static.
        recipes: whose data.
        sources: the modules that have been read.
    """
    distinct = {digest(recipe): recipe for recipe in recipes}
    return {
        **files.provenance(),
        "data": {
            data_name(recipe): checksum(workshop.data_of(shop, recipe))
            for recipe in distinct.values()
        },
        "code": code_of(values, study, sources),
    }


def differences(
    then: dict[str, Any], now: dict[str, Any], keys: Sequence[str] = SAME
) -> list[str]:
    """In what two origins differ, in words: of code, the modules."""
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


def refusal(what: str, other: Sequence[str]) -> Problem:
    """It names what differs, and both ways out."""
    return Problem(
        f"{what} with other {' and other '.join(other)}: begin anew with another "
        "--out, or use what is there all the same with --mix-revisions."
    )
