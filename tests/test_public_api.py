"""Every public name is documented, in the README, in the table of properties."""

import importlib.metadata
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
from catalogue import ROWS

import decayax as dx


ROOT = Path(__file__).parent.parent
STATES = {name for name in vars(dx) if name.endswith("State")}
QUESTIONS = {"audit", "decay_stats"}  # public functions that are no transforms
PUBLIC = sorted(name for name in vars(dx) if not name.startswith("_"))
NAMES = [
    name
    for name in PUBLIC
    if not inspect.ismodule(getattr(dx, name)) and name not in STATES
]


MODULES = {
    f"{module}.{name}": getattr(getattr(dx, module), name)
    for module in ("masks", "rates")
    if hasattr(dx, module)
    for name in sorted(vars(getattr(dx, module)))
    if not name.startswith("_")
    and not inspect.ismodule(getattr(getattr(dx, module), name))
}
RECORDS = {name: x for name, x in MODULES.items() if inspect.isclass(x)}
HELPERS = {name: x for name, x in MODULES.items() if inspect.isfunction(x)}


@pytest.mark.parametrize("name", HELPERS)
def test_docstrings_of_the_modules_are_complete(name):
    doc = inspect.getdoc(HELPERS[name])
    for section in ("Args:", "Returns:", "Raises:", "Example:", "Reference:"):
        assert f"\n{section}\n" in doc, f"{name} lacks {section}"
    assert ".. math::" in doc
    assert ">>>" in doc
    for argument in inspect.signature(HELPERS[name]).parameters:
        assert re.search(rf"^    {argument}: ", doc, re.MULTILINE), (name, argument)


@pytest.mark.parametrize("name", RECORDS)
def test_records_of_the_modules_are_documented(name):
    assert inspect.getdoc(RECORDS[name])


@pytest.mark.parametrize("name", [*HELPERS, "masks.no_bias_or_norm"])
def test_the_librarys_readme_tables_the_modules(name):
    rows = (ROOT / "decayax" / "README.md").read_text().splitlines()
    assert any(row.startswith("|") and f"`{name}" in row for row in rows)


def test_every_transform_is_a_row_of_the_table():
    assert {row.name for row in ROWS} == set(NAMES) - QUESTIONS


@pytest.mark.parametrize("name", NAMES)
def test_docstrings_are_complete(name):
    doc = inspect.getdoc(getattr(dx, name))
    arguments = inspect.signature(getattr(dx, name)).parameters
    sections = ["Args:"] if arguments else []
    for section in (*sections, "Returns:", "Raises:", "Example:", "Reference:"):
        assert f"\n{section}\n" in doc, f"{name} lacks {section}"
    assert ".. math::" in doc
    assert ">>>" in doc
    for argument in arguments:
        assert re.search(rf"^    {argument}: ", doc, re.MULTILINE), (name, argument)


@pytest.mark.parametrize("name", sorted(STATES))
def test_states_are_documented(name):
    assert inspect.getdoc(getattr(dx, name))


@pytest.mark.parametrize("document", ["README.md", "decayax/README.md"])
@pytest.mark.parametrize("name", NAMES)
def test_the_readmes_table_every_name(name, document):
    rows = [
        line
        for line in (ROOT / document).read_text().splitlines()
        if line.startswith("|")
    ]
    assert any(f"`{name}" in row for row in rows)


def test_init_is_short_explicit_re_exports():
    lines = Path(dx.__file__).read_text().splitlines()
    assert len(lines) <= 80
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


@pytest.mark.parametrize(
    "path", sorted((ROOT / "decayax").rglob("*.py")), ids=lambda path: path.name
)
def test_house_style(path):
    """A module opens with its one idea; files stay under 300, functions under 40."""
    source = path.read_text()
    assert source.startswith(('"""', 'r"""'))
    assert len(source.splitlines()) <= 300
