"""Find the module of a study: by name in the package, or by path in any file.

The first line of the module's docstring is the question of the study. The module
defines the plans `FULL` and `SMOKE`, `study(plan)` and `write_report(folder)`.
"""

import ast
import difflib
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from experiments.errors import fault_of, is_same_file, UserError


# In reading order.
STUDIES = (
    "demo",
    "why",
    "tuning",
    "same",
    "bf16",
    "symmetry",
    "strength",
    "transformer",
    "which_parameters",
    "grokking",
    "end_of_training",
    "leaderboard",
)
REQUIRED_NAMES = ("FULL", "SMOKE", "study", "write_report")
PACKAGE = Path(__file__).parent


def is_path(name: str) -> bool:
    """Whether a word is the path of a file and not the name of a study."""
    return name.endswith(".py") or os.sep in name


def study_module(name: str) -> ModuleType:
    """Import the module of a study, given by its name or the path of its file.

    Raises:
        UserError: there is no such study, or the file is not a study.
    """
    path = file_of(name)
    if _in_package(path):
        return importlib.import_module(f"experiments.studies.{path.stem}")
    module = import_file(path)
    missing = _missing(module)
    if missing:
        raise UserError(f"{name} is not a study: it has no {', no '.join(missing)}.")
    return module


def file_of(name: str, others: Iterable[str] = ()) -> Path:
    """Return the file of a study.

    Args:
        name: the name of a study, or the path of its file.
        others: more words that the hint "Do you mean" may suggest.

    Raises:
        UserError: there is no such study.
    """
    if name in STUDIES:
        return PACKAGE / "studies" / f"{name}.py"
    path = Path(os.path.abspath(name))
    if is_path(name) and path.suffix == ".py" and path.is_file():
        return path
    if is_path(name):
        raise UserError(
            f"there is no Python file {name}. Give the path of a study's file."
        )
    similar = difflib.get_close_matches(name, [*STUDIES, *others], 1)
    if Path(f"{name}.py").is_file():
        similar = [f"{name}.py"]
    hint = f" Do you mean {similar[0]}?" if similar else ""
    raise UserError(
        f"there is no study {name!r}.{hint} Give one of {', '.join(STUDIES)}, or the "
        "path of your own file, such as path/to/study.py."
    )


def _in_package(path: Path) -> bool:
    return path.stem in STUDIES and path.parent.samefile(PACKAGE / "studies")


def import_file(path: Path) -> ModuleType:
    """Import a file as a module with the file's name.

    The name of a function is part of the identity of a cell. It must not depend on how
    the file was started.
    """
    name = path.stem
    if not name.isidentifier() or name.startswith("__"):
        raise UserError(
            f"{path.name}: Python cannot import a file with this name. Rename it, for "
            "example to my_study.py."
        )
    other = _module_origin(name)
    if other is not None and not is_same_file(other, path):
        raise UserError(
            f"{path.name} has the same name as the module {name} ({other}). Rename the "
            "file."
        )
    if name in sys.modules:
        return sys.modules[name]
    spec: Any = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    # Before the module runs, because dataclasses look up their module there.
    sys.modules[name] = module
    # So that the study can import modules next to it. The folder is the last one, so
    # it hides no other module.
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]  # so that the next import runs the file again
        if isinstance(error, Exception) and not isinstance(error, UserError):
            raise UserError(fault_of(path, error)) from error
        raise
    return module


def entry_plan(module: ModuleType, file: Path, smoke: bool, out: Path) -> Any:
    """Return the plan that runs one entry of the leaderboard.

    Args:
        module: the leaderboard.
        file: the entry.
        smoke: whether to run the smoke plan.
        out: the directory of all studies.

    Raises:
        UserError: the file is not an entry, there is no stored board, or the runs of
            another version of the file are stored.
    """
    from experiments.engine.study import folder_of

    path = Path(os.path.abspath(file))
    if path.suffix != ".py" or not path.is_file():
        raise UserError(
            f"--entry {file}: there is no such Python file. Give the path of an entry, "
            "such as my_decay.py."
        )
    plan = module.with_entry(import_file(path), smoke)
    # These raise before any run.
    study = module.study(plan)
    module.find_board(folder_of(study, out), plan.against)
    _require_unchanged(study, path, out)
    return plan


def _require_unchanged(study: Any, path: Path, out: Path) -> None:
    """Raise a UserError if runs of another version of an entry's file are stored."""
    from experiments.engine.code import code_hashes
    from experiments.engine.manifest import read_if_valid
    from experiments.engine.study import first_stage_functions

    code = code_hashes(first_stage_functions(study), type(study.plan).__module__, {})
    for file in sorted((out / study.name).glob("*/manifest.json")):
        folder = file.parent
        stored = (read_if_valid(folder) or {}).get("code", {}).get(path.stem)
        if stored not in (None, code[path.stem]):
            raise UserError(
                f"{path.name} is not the version that made the runs in {folder}. Give "
                "the new version another file name, or pass another --out, in which "
                "the board has run."
            )


def _module_origin(name: str) -> str | None:
    """Return the origin of the module that `import name` finds: a file or "built-in".

    None if there is no such module. A folder without __init__.py does not count.
    """
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:  # the module is in sys.modules, but has no spec
        return "not from a file"
    return None if spec is None else spec.origin


def _missing(module: ModuleType) -> list[str]:
    """Return what a module lacks to be a study."""
    missing = []
    if not (module.__doc__ or "").strip():
        missing.append("docstring with its question")
    missing += [name for name in REQUIRED_NAMES if not hasattr(module, name)]
    for name in ("FULL", "SMOKE"):
        if hasattr(module, name) and not hasattr(getattr(module, name), "chunk"):
            missing.append(f"{name}.chunk")
    return missing


def question_of(path: Path) -> str:
    """Read the first line of a file's docstring, without importing the file."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    except SyntaxError as error:
        raise UserError(fault_of(path, error)) from error
    return (ast.get_docstring(tree) or "").partition("\n")[0]


def list_studies() -> str:
    """Return a line for each study: its name and its question."""
    return _list({name: file_of(name) for name in STUDIES})


def list_benchmarks() -> str:
    """Return a line for each benchmark: its name and its question."""
    paths = sorted((PACKAGE / "benchmarks").glob("[!_]*.py"))
    return _list({path.stem: path for path in paths})


def _list(paths: dict[str, Path]) -> str:
    return "\n".join(f"  {name:16} {question_of(path)}" for name, path in paths.items())


def relative_file(name: str, folder: Path) -> str | None:
    """Return the path of a study's file relative to its results directory.

    None for a study of the package.
    """
    path = file_of(name)
    if _in_package(path):
        return None
    return os.path.relpath(path.parent.resolve() / path.name, folder.resolve())


def study_of_manifest(manifest: dict[str, Any], folder: Path) -> str:
    """Return the name or the file of the study that made a results directory."""
    file = manifest.get("file")
    if file is None:  # a study of the package
        return manifest["study"]
    return os.path.normpath(folder.resolve() / file)
