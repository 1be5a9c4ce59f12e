"""Read the entries: modules with a docstring, `chain` and `STRENGTH`."""

import importlib
import inspect
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from experiments.errors import UserError
from experiments.leaderboard.run import Chain


FOLDER = Path(__file__).parent / "entries"
PACKAGE = "experiments.leaderboard.entries"
RULES = "experiments/leaderboard/RULES.md"
MAX_LINES = 30
LARGEST = 30  # of an exponent of two


class BoardEntry(NamedTuple):
    """A method that competes on the board."""

    name: str
    chain: Chain
    # By board: the exponent of two in the middle of the grid. None: no strength.
    strength: Mapping[str, int] | None


def stored_entries(boards: Collection[str]) -> tuple[BoardEntry, ...]:
    """Load all entries of the package, sorted by name."""
    names = sorted(path.stem for path in FOLDER.glob("[!_]*.py"))
    modules = [importlib.import_module(f"{PACKAGE}.{name}") for name in names]
    return tuple(entry_of(module, boards) for module in modules)


def entry_of(module: ModuleType, boards: Collection[str]) -> BoardEntry:
    """Make the entry of a module.

    Args:
        module: the module of the entry's file.
        boards: the names of the boards; an entry competes on all of them.

    Raises:
        UserError: the file breaks a rule.
    """
    name = module.__name__.rpartition(".")[2]
    faults = _faults(module, boards)
    if faults:
        raise UserError(f"{name}.py is not an entry: {'; '.join(faults)}. See {RULES}.")
    return BoardEntry(name, module.chain, module.STRENGTH)


def _faults(module: ModuleType, boards: Collection[str]) -> list[str]:
    """Return the rules that a file breaks."""
    found = []
    lines = len(Path(str(module.__file__)).read_text("utf-8").splitlines())
    if lines > MAX_LINES:
        found.append(f"it has {lines} lines, at most {MAX_LINES} are allowed")
    sentence, _, reference = (inspect.getdoc(module) or "").partition("\n\n")
    if not re.match(r"\S", sentence):
        found.append("it has no docstring with a sentence about the method")
    elif not reference.strip():
        found.append("its docstring has no second paragraph with a reference")
    chain = getattr(module, "chain", None)
    if not inspect.isfunction(chain):
        found.append("it has no function chain(run)")
    elif list(inspect.signature(chain).parameters) != ["run"]:
        found.append("the only argument of chain must be run")
    return found + _faults_of_strength(module, boards)


def _faults_of_strength(module: ModuleType, boards: Collection[str]) -> list[str]:
    if not hasattr(module, "STRENGTH"):
        return ["it has no STRENGTH. Write STRENGTH = None for a method without one"]
    strength: Any = module.STRENGTH
    if strength is None:
        return []
    if not isinstance(strength, dict) or set(strength) != set(boards):
        return [f"STRENGTH must be None or a dict with the keys {', '.join(boards)}"]
    wrong = [
        value
        for value in strength.values()
        if isinstance(value, bool) or not isinstance(value, int) or abs(value) > LARGEST
    ]
    if wrong:
        return [
            f"STRENGTH has the value {wrong[0]!r}. Write exponents of two, integers "
            f"from -{LARGEST} to {LARGEST}"
        ]
    return []
