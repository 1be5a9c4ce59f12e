"""The code of a cell: a hash of every module that can change its numbers.

A description contains the name of a function, and two versions of a function have the
same name. So this module follows the imports of everything that trains a cell (the
optimizer, the setup, `extract`, the engine), without importing anything, and hashes
each module. Docstrings, comments and formatting do not change a hash. There is no hash
of Python's library, of installed packages (the manifest has their versions), and of
modules that only show results or move files.
"""

import ast
import dataclasses
import functools
import hashlib
import importlib.util
import inspect
import sys
import types
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple


OURS = ("decayax", "experiments")  # followed even if they are installed
INSTALLED = ("site-packages", "dist-packages")
TRAINING = "experiments.engine.training"  # it imports everything that trains
NOT_TRAINING = (
    "experiments.__main__",
    "experiments.benchmarks",
    "experiments.cli",
    "experiments.reports",
    "experiments.terminal",
    *(
        f"experiments.engine.{name}"
        for name in ("assignment", "code", "launch", "manifest", "persistent_cache")
        + ("preview", "rows", "session", "store", "study")
    ),
)
PLANS = ("FULL", "SMOKE")  # the numbers of a cell are part of its identity instead


class ModuleSource(NamedTuple):
    """A module, which is read once in a run."""

    digest: str
    imports: tuple[str, ...]  # names that may be modules

    @property
    def makes_figures(self) -> bool:
        """Whether it imports matplotlib."""
        return any(_top(name) == "matplotlib" for name in self.imports)


Sources = dict[str, ModuleSource | None]  # None: not a module to follow


def code_hashes(values: Iterable[Any], study: str, sources: Sources) -> dict[str, str]:
    """By module, twelve hex digits of its program: all modules that `values` reach.

    Args:
        values: what trains a cell: functions, and data that hold functions.
        study: the module of the study, which is reached only if it holds one of the
            functions. Its hash leaves out `FULL` and `SMOKE`, so a larger grid can use
            the stored cells.
        sources: the modules that this run has read; more are added.
    """
    found: dict[str, str] = {}
    roots = {TRAINING}
    for function in _functions(list(values)):
        module = getattr(function, "__module__", None) or ""
        if _is_interactive(module):
            roots |= _hash_without_source(function, found)
        else:
            roots.add(module)
    seen: set[str] = set()
    ahead = sorted(roots)
    while ahead:
        name = ahead.pop()
        if name in seen:
            continue
        seen.add(name)
        if name not in sources:
            sources[name] = _read_module(name, PLANS if name == study else ())
        source = sources[name]
        if source is None or (
            name not in roots and (_only_shows(name) or source.makes_figures)
        ):
            continue
        found[name] = source.digest
        ahead += [*source.imports, name.rpartition(".")[0]]
    return dict(sorted(found.items()))


def _functions(value: Any) -> Iterator[Any]:
    """The functions and classes that a value holds."""
    if isinstance(value, functools.partial):
        yield from _functions([value.func, value.args, value.keywords])
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield type(value)
        for field in dataclasses.fields(value):
            yield from _functions(getattr(value, field.name))
    elif isinstance(value, dict):
        yield from _functions(list(value.values()))
    elif isinstance(value, list | tuple):
        if hasattr(value, "_fields"):
            yield type(value)
        for item in value:
            yield from _functions(item)
    elif callable(value):
        yield inspect.unwrap(value)


def _only_shows(name: str) -> bool:
    return any(name == each or name.startswith(f"{each}.") for each in NOT_TRAINING)


def _top(name: str) -> str:
    return name.partition(".")[0]


# --- Modules that are files -------------------------------------------------------


def _read_module(name: str, without: tuple[str, ...]) -> ModuleSource | None:
    path = _path(name)
    if path is None:
        return None
    content = path.read_bytes()
    if path.suffix != ".py":
        return ModuleSource(_digest(content), ())
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    return _parse(content, package, without)


@functools.cache
def _parse(content: bytes, package: str, without: tuple[str, ...]) -> ModuleSource:
    try:
        tree = ast.parse(content)
    except SyntaxError:  # no program can have imported this module
        return ModuleSource(_digest(content), ())
    imports = tuple(dict.fromkeys(_imports(tree, package)))
    tree.body = [node for node in tree.body if not _assigns_only(node, without)]
    return ModuleSource(_digest(_program(tree).encode()), imports)


def _program(node: Any) -> str:
    """A syntax tree as text, without docstrings, comments and formatting.

    Not `ast.dump` or `ast.unparse`, so that Python versions agree: of 179 files, 3.11
    and 3.13 give other dumps for all, and other sources for 44. Leaving out empty
    fields, such as the new `type_params`, made all 179 equal.
    """
    if isinstance(node, list):
        return f"[{', '.join(_program(each) for each in node if not _is_doc(each))}]"
    if not isinstance(node, ast.AST):
        return repr(node)  # of a constant: 1, 1.0 and True differ
    fields = [
        f"{name}={_program(value)}"
        for name, value in ast.iter_fields(node)
        # The `kind` of a constant only says whether it is written u"...".
        if value is not None and value != [] and name != "kind"
    ]
    return f"{type(node).__name__}({', '.join(fields)})"


def _is_doc(node: Any) -> bool:
    """Whether a statement is a docstring, or another string without effect."""
    value = node.value if isinstance(node, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _assigns_only(node: ast.stmt, names: tuple[str, ...]) -> bool:
    assigned = _assigned(node)
    return bool(assigned) and assigned <= set(names)


def _assigned(node: ast.stmt) -> set[str]:
    """The names that a statement assigns, or the text of another target."""
    targets = [node.target] if isinstance(node, ast.AnnAssign) else []
    targets = node.targets if isinstance(node, ast.Assign) else targets
    parts = [
        part
        for target in targets
        for part in (target.elts if isinstance(target, ast.Tuple) else [target])
    ]
    return {ast.unparse(part) for part in parts}


def _imports(tree: ast.AST, package: str) -> Iterator[str]:
    """All imports of a module, including those inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            above = parents[: len(parents) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _path(name: str) -> Path | None:
    """The file of a module that is followed; found without importing it."""
    top = _top(name)
    if not name or (top in sys.stdlib_module_names and top not in OURS):
        return None
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None and name == top and name not in sys.modules:
        file = getattr(importlib.util.find_spec(name), "origin", None)
    elif file is None and name != top:
        file = _submodule(_path(name.rpartition(".")[0]), name.rpartition(".")[2])
    path = Path(file) if file is not None else None
    if path is None or not path.is_file():
        return None
    return path if top in OURS or not set(INSTALLED) & set(path.parts) else None


def _submodule(package: Path | None, name: str) -> Path | None:
    if package is None or package.name != "__init__.py":
        return None
    paths = package.with_name(f"{name}.py"), package.parent / name / "__init__.py"
    return next((path for path in paths if path.is_file()), None)


# --- Functions without a file -----------------------------------------------------


def _is_interactive(module: str) -> bool:
    """Whether a module has no file: a notebook's, or that of `python -c`."""
    loaded = module in sys.modules and module not in sys.stdlib_module_names
    return loaded and getattr(sys.modules[module], "__file__", None) is None


def _hash_without_source(value: Any, found: dict[str, str]) -> set[str]:
    """Hash the code of a function or class; returns the modules that it uses."""
    name = f"{value.__module__}.{value.__qualname__}"
    if name in found:
        return set()
    found[name] = ""
    members = vars(value).values() if isinstance(value, type) else [value]
    functions = [x for x in members if isinstance(x, types.FunctionType)]
    modules: set[str] = set()
    texts = [repr(getattr(value, "__annotations__", ""))]
    for function in functions:
        texts.append(_code_text(function.__code__))
        texts += [_as_text(x) for x in function.__defaults__ or ()]
        for used in _used_names(function.__code__):
            other = function.__globals__.get(used)
            texts.append(f"{used} {_as_text(other)}")
            home = getattr(other, "__module__", None)
            if isinstance(other, types.ModuleType):
                modules.add(other.__name__)
            elif callable(other) and home == value.__module__:
                modules |= _hash_without_source(inspect.unwrap(other), found)
            elif isinstance(home, str):
                modules.add(home)
    found[name] = _digest("\n".join(texts).encode())
    return modules


def _code_text(code: types.CodeType) -> str:
    """Without file names and line numbers, which change if a cell is run again."""
    inner = [
        _code_text(x) if isinstance(x, types.CodeType) else repr(x)
        for x in code.co_consts
    ]
    return f"{code.co_code.hex()} {code.co_names} {code.co_varnames} {inner}"


def _used_names(code: types.CodeType) -> list[str]:
    inner = [_used_names(x) for x in code.co_consts if isinstance(x, types.CodeType)]
    return [*code.co_names, *(name for names in inner for name in names)]


def _as_text(value: Any) -> str:
    """A number or text as it is; the type of other values."""
    plain = value is None or isinstance(value, bool | int | float | str)
    return repr(value) if plain else type(value).__name__


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]
