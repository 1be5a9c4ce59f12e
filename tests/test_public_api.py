"""Every public name is documented, on its page, and in the table of properties.

After a deliberate change of a signature:

    python tests/test_public_api.py > tests/data/signatures.txt
"""

import ast
import importlib.metadata
import inspect
import io
import re
import subprocess
import sys
import tokenize
import typing
from pathlib import Path

import pytest

import decayax as dx


ROOT = Path(__file__).parent.parent
SIGNATURES = Path(__file__).parent / "data" / "signatures.txt"
MODULES = {"": dx, "masks.": dx.masks, "rates.": dx.rates}
# Public functions without a catalogue row.
NOT_TRANSFORMS = {
    *("adopt_state", "apply_updates", "audit", "balance"),
    *("advise", "budget", "transfer"),
    *("decay_stats", "decay_table", "measure_decay"),
    *("equinox_function", "linen_function", "nnx_function", "scale_symmetries"),
    "shrink_and_perturb",
}


def public_names(module) -> list[str]:
    names = getattr(module, "__all__", vars(module))
    return sorted(
        name
        for name in names
        if not name.startswith("_") and not inspect.ismodule(getattr(module, name))
    )


PUBLIC = {
    prefix + name: getattr(module, name)
    for prefix, module in MODULES.items()
    for name in public_names(module)
}
FUNCTIONS = {name: x for name, x in PUBLIC.items() if inspect.isfunction(x)}
CLASSES = {name: x for name, x in PUBLIC.items() if inspect.isclass(x)}
MASKS = [name for name, x in PUBLIC.items() if isinstance(x, dx.masks.Mask)]
TOP_LEVEL = [name for name in FUNCTIONS if "." not in name]


# --- names ------------------------------------------------------------------------


@pytest.mark.parametrize("module", MODULES.values(), ids=lambda m: m.__name__)
def test_dir_shows_the_public_names_only(module):
    assert dir(module) == sorted(module.__all__)
    assert not any(name.startswith("_") for name in dir(module))
    assert all(hasattr(module, name) for name in module.__all__)
    assert len(set(module.__all__)) == len(module.__all__)


def test_nothing_public_is_left_out():
    for module in MODULES.values():
        own = {
            name
            for name, value in vars(module).items()
            if getattr(value, "__module__", "").startswith("decayax") and name[0] != "_"
        }
        assert own <= set(dir(module))
    assert {"masks", "rates", "Audit", "LeafAudit", "Finding"} <= set(dir(dx))


@pytest.mark.parametrize("name", [*FUNCTIONS, *CLASSES])
def test_a_public_name_is_found_where_it_says(name):
    """So that a pickle, which stores module and name, does not know private files."""
    module = sys.modules[PUBLIC[name].__module__]
    assert module in MODULES.values()
    assert getattr(module, PUBLIC[name].__qualname__) is PUBLIC[name]


@pytest.mark.parametrize("name", [*FUNCTIONS, *CLASSES])
def test_type_hints_can_be_read(name):
    """Also of methods. A class is said to be public, so its hints hold real types."""
    value = PUBLIC[name]
    methods = vars(value).values() if inspect.isclass(value) else ()
    # optax.Params is a union that names `ArrayTree`, which only optax can resolve.
    names = {"ArrayTree": typing.Any}
    for each in [value, *filter(inspect.isfunction, methods)]:
        typing.get_type_hints(each, localns=names)
    if inspect.isfunction(value):
        assert typing.get_type_hints(value, localns=names)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_help_shows_short_types(name):
    """The names of unions, and not their members."""
    shown = str(inspect.signature(FUNCTIONS[name]))
    assert "._src" not in shown
    assert "Union" not in shown
    assert "ForwardRef" not in shown


def test_every_transform_is_a_row_of_the_table():
    from catalogue import ROWS

    assert {row.name for row in ROWS} == set(TOP_LEVEL) - NOT_TRANSFORMS


def signature(name: str) -> str:
    """Names, kinds and defaults of the arguments, without types."""
    full = inspect.signature(PUBLIC[name])
    plain = [p.replace(annotation=p.empty) for p in full.parameters.values()]
    return name + str(full.replace(parameters=plain, return_annotation=full.empty))


def signatures() -> list[str]:
    states = [name for name in CLASSES if name.endswith("State")]
    return [signature(name) for name in sorted([*FUNCTIONS, *states])]


def test_signatures_are_those_on_record():
    assert signatures() == SIGNATURES.read_text().splitlines()


# --- documentation ----------------------------------------------------------------


@pytest.mark.parametrize("name", FUNCTIONS)
def test_docstrings_are_complete(name):
    """A summary line, each argument once, and an example, which the doctests run.

    An entry may describe several arguments: "b1, b2: in [0, 1)."
    """
    doc = inspect.getdoc(FUNCTIONS[name])
    summary, blank, *_ = doc.splitlines()
    assert summary.endswith(".")
    assert not blank
    assert "\nExample:\n    >>> " in doc
    arguments = inspect.signature(FUNCTIONS[name]).parameters
    assert ("\nArgs:\n" in doc) == bool(arguments)
    section = doc.partition("\nArgs:\n")[2].partition("\n\n")[0]
    entries = re.findall(r"^    (\w[\w, ]*): \S", section, re.MULTILINE)
    documented = [argument for entry in entries for argument in entry.split(", ")]
    assert sorted(documented) == sorted(arguments)


@pytest.mark.parametrize("name", [*FUNCTIONS, *CLASSES, *MASKS])
def test_a_hover_begins_with_one_plain_sentence(name):
    """Editors show the docstring as it is: no markup of Sphinx or LaTeX, two lines."""
    first = inspect.getdoc(PUBLIC[name]).split("\n\n")[0]
    assert len(first.splitlines()) <= 2
    assert len(re.findall(r"\.(?=\s|$)", first)) == 1
    assert first.endswith(".")
    assert not re.search(r"\\[a-z]|:\w+:`|\$|\.\. ", first)


@pytest.mark.parametrize("name", CLASSES)
def test_classes_are_documented(name):
    assert inspect.getdoc(CLASSES[name])


def table_rows(document: str) -> list[str]:
    lines = (ROOT / document).read_text().splitlines()
    return [line for line in lines if line.startswith("|")]


@pytest.mark.needs_checkout
@pytest.mark.parametrize("name", TOP_LEVEL)
def test_the_page_of_names_has_every_name(name):
    assert any(f"`{name}" in row for row in table_rows("docs/reference/names.md"))


@pytest.mark.needs_checkout
@pytest.mark.parametrize("name", TOP_LEVEL)
def test_a_page_has_the_rule_of_every_name(name):
    rows = table_rows("docs/reference/rules.md") + table_rows("docs/methods.md")
    assert any(f"`{name}" in row for row in rows)


@pytest.mark.needs_checkout
@pytest.mark.parametrize(
    "name", [name for name in FUNCTIONS if "." in name] + ["masks.no_bias_or_norm"]
)
def test_a_page_has_a_table_of_each_module(name):
    page = f"docs/howto/{'what' if name.startswith('masks') else 'how_strongly'}.md"
    assert any(f"`{name}" in row for row in table_rows(page))


# --- the package ------------------------------------------------------------------


def test_the_version_is_that_of_the_installed_package():
    assert dx.__version__ == importlib.metadata.version("decayax")


def test_importing_it_brings_jax_and_optax_only():
    script = (
        "import sys, decayax; heavy = {'flax', 'matplotlib', 'sklearn', 'torch', "
        "'rich', 'pandas'} & set(sys.modules); sys.exit(repr(heavy) if heavy "
        "else 0)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_it_is_typed():
    assert (Path(dx.__file__).parent / "py.typed").exists()


def test_the_face_is_short():
    assert len(Path(dx.__file__).read_text().splitlines()) <= 100


# --- house style ------------------------------------------------------------------


def code_lines(source: str) -> set[int]:
    """Numbers of the lines with code: no blank lines, comments or docstrings."""
    layout = ["COMMENT", "NL", "NEWLINE", "INDENT", "DEDENT", "ENDMARKER"]
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if tokenize.tok_name[token.type] not in layout:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            lines -= set(range(node.lineno, node.end_lineno + 1))
    return lines


@pytest.mark.needs_checkout
@pytest.mark.parametrize(
    "path",
    sorted((ROOT / "decayax").rglob("*.py")),
    ids=lambda path: "/".join(path.parts[-2:]),
)
def test_house_style(path):
    """A module opens with a docstring; 300 lines a file, 40 of code a function."""
    source = path.read_text()
    assert source.startswith(('"""', 'r"""', "#"))
    assert ast.get_docstring(ast.parse(source))
    assert len(source.splitlines()) <= 300
    code = code_lines(source)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            lines = code & set(range(node.lineno, node.end_lineno + 1))
            assert len(lines) <= 40, f"{node.name} has {len(lines)} lines"


def test_the_longest_function_is_found():
    body = "".join(f"    x = {n}  # a comment\n\n" for n in range(40))
    source = f'def f():\n    """Two\n    lines."""\n    # why\n{body}'
    assert len(code_lines(source)) == 41  # `def` and 40 assignments


if __name__ == "__main__":
    print("\n".join(signatures()))
