"""Find the module of a study: in the package by name, or in any file by path.

The first line of its docstring is the question of the study. The module has the plans
`FULL` and `SMOKE`, `study(plan)` and `write_report(folder)`.
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

from experiments.errors import UserError


STUDIES = ("demo", "why", "tuning", "same", "bf16")  # in the order to read them
REQUIRED_NAMES = ("FULL", "SMOKE", "study", "write_report")
PACKAGE = Path(__file__).parent


def is_path(name: str) -> bool:
    """Whether this is a file outside the package and not the name of a study."""
    return name.endswith(".py") or os.sep in name


def study_module(name: str) -> ModuleType:
    """The module of a study, from its name or the path of its file.

    Raises:
        UserError: there is no such study, or the file does not hold one.
    """
    path = file_of(name)
    if _in_package(path):
        return importlib.import_module(f"experiments.studies.{path.stem}")
    module = _import_file(path)
    if missing := _missing(module):
        raise UserError(f"{name} is not a study: it has no {', no '.join(missing)}.")
    return module


def file_of(name: str, others: Iterable[str] = ()) -> Path:
    """The file of a study; `others` are words for the hint "Do you mean".

    Raises:
        UserError: there is no such study.
    """
    if name in STUDIES:
        return PACKAGE / "studies" / f"{name}.py"
    path = Path(os.path.abspath(name))
    if is_path(name) and path.suffix == ".py" and path.is_file():
        return path
    if is_path(name):
        raise UserError(f"there is no Python file {name}: give the path of a study.")
    similar = difflib.get_close_matches(name, [*STUDIES, *others], 1)
    if Path(f"{name}.py").is_file():
        similar = [f"{name}.py"]
    hint = f" Do you mean {similar[0]}?" if similar else ""
    raise UserError(
        f"there is no study {name!r}.{hint} There are {', '.join(STUDIES)}, and files "
        "of your own, such as path/to/study.py."
    )


def _in_package(path: Path) -> bool:
    return path.stem in STUDIES and path.parent.samefile(PACKAGE / "studies")


def _import_file(path: Path) -> ModuleType:
    """The module in a file, under the file's name: functions keep their full names."""
    name = path.stem
    if not name.isidentifier() or name.startswith("__"):
        raise UserError(
            f"{path.name}: the file of a study needs a name that Python can import, "
            "such as my_study.py."
        )
    if (hidden := _importable(name)) and not _same_file(hidden, path):
        raise UserError(
            f"{path.name} has the name of another module, {name} ({hidden}): give the "
            "file another name."
        )
    if name in sys.modules:
        return sys.modules[name]
    spec: Any = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    # Before it runs: dataclasses and the description of a plan look modules up there.
    sys.modules[name] = module
    if (
        str(path.parent) not in sys.path
    ):  # for modules next to it; last, so it hides none
        sys.path.append(str(path.parent))
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _importable(name: str) -> str | None:
    """The file, or the kind, of the module that `import name` finds."""
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:  # a module that was made without a file
        return "made without a file"
    return spec and spec.origin  # a folder without __init__.py has no origin


def _same_file(origin: str, path: Path) -> bool:
    return os.path.exists(origin) and path.samefile(origin)


def _missing(module: ModuleType) -> list[str]:
    """The names that a module lacks to be a study."""
    missing = [] if (module.__doc__ or "").strip() else ["docstring with its question"]
    missing += [name for name in REQUIRED_NAMES if not hasattr(module, name)]
    plans = [name for name in ("FULL", "SMOKE") if hasattr(module, name)]
    missing += [f"{p}.chunk" for p in plans if not hasattr(getattr(module, p), "chunk")]
    return missing


def question_of(path: Path) -> str:
    """The first line of a file's docstring, read without an import."""
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return (ast.get_docstring(tree) or "").partition("\n")[0]


def list_studies() -> str:
    """A line for each study: its name and its question."""
    return _list({name: file_of(name) for name in STUDIES})


def list_benchmarks() -> str:
    """A line for each benchmark."""
    paths = sorted((PACKAGE / "benchmarks").glob("[!_]*.py"))
    return _list({path.stem: path for path in paths})


def _list(paths: dict[str, Path]) -> str:
    return "\n".join(f"  {name:9} {question_of(path)}" for name, path in paths.items())


def relative_file(name: str, folder: Path) -> str | None:
    """The file of a study outside the package, relative to its results directory."""
    path = file_of(name)
    if _in_package(path):
        return None
    return os.path.relpath(path.parent.resolve() / path.name, folder.resolve())


def study_of_manifest(manifest: dict[str, Any], folder: Path) -> str:
    """The name or file of the study that made a results directory."""
    if file := manifest.get("file"):
        return os.path.normpath(folder.resolve() / file)
    return manifest["study"]
