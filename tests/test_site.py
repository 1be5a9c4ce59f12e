"""The pages of the site: code runs, links lead somewhere, the navigation is whole."""

import posixpath
import re
import shlex
import subprocess
import sys
import types
from pathlib import Path

import jax
import pytest


ROOT = Path(__file__).parent.parent
SITE = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [path.relative_to(ROOT).as_posix() for path in SITE]
OTHERS = ["experiments/README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
README = "".join(path.read_text() for path in ROOT.glob("README.md"))  # not in a wheel
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SCRIPT = re.compile(r"^--8<--\n(docs/examples/\w+\.py)\n--8<--$", re.MULTILINE)
SECTION = re.compile(r'^--8<-- "([^":]+):(\w+)"$', re.MULTILINE)
FROM_GIT = '"decayax @ git+https://github.com/decayax/decayax"'

pytestmark = [
    pytest.mark.needs_checkout,
    pytest.mark.filterwarnings("ignore:audit. about"),  # on a busy machine
]


# --- code blocks ------------------------------------------------------------------


def check_commands(body: str):
    """`make` targets exist, and modules named on the command line answer --help."""
    for line in body.splitlines():
        command = shlex.split(line, comments=True)
        if command[:1] == ["make"]:
            subprocess.run(
                ["make", "-n", *command[1:]], cwd=ROOT, check=True, capture_output=True
            )
        elif command[:2] == ["python", "-m"]:
            help_of = [sys.executable, *command[1:4], "--help"]
            subprocess.run(help_of, cwd=ROOT, check=True, capture_output=True)
        elif command[:2] == ["pip", "install"]:
            assert command[2:] in (["-e", "."], shlex.split(FROM_GIT)), line
        else:
            assert not command, f"a command that nothing checks: {line}"


def run(body: str, session: dict):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        exec(compile(body, "page", "exec"), session)


CODE = [
    page
    for page in [*PAGES, *(each for each in OTHERS if PAGES)]
    if re.search(r"^```(python|bash)$", (ROOT / page).read_text(), re.MULTILINE)
]


@pytest.mark.needs_extras
@pytest.mark.parametrize("page", CODE)
def test_every_block_runs(page, capsys, monkeypatch):
    """In order, in one session; what a block prints is what the next one shows."""
    module = types.ModuleType("page")  # in which functions are found by their names
    monkeypatch.setitem(sys.modules, "page", module)
    for language, body in BLOCK.findall((ROOT / page).read_text()):
        if printed := capsys.readouterr().out:
            assert language == "text"
            assert body == printed
        if language == "python" and not SCRIPT.match(body):  # see test_examples.py
            run(body, module.__dict__)
        elif language == "bash":
            check_commands(body)
            capsys.readouterr()
        else:
            assert language in ("python", "text"), "say what the block is"


BLOCKS = BLOCK.findall(README)


@pytest.mark.parametrize(
    "number", [i for i, (language, _) in enumerate(BLOCKS) if language == "python"]
)
def test_each_block_of_the_readme_runs_alone(number, capsys):
    run(BLOCKS[number][1], {})
    assert BLOCKS[number + 1] == ("text", capsys.readouterr().out)


def test_the_commands_of_the_readme_exist():
    for language, body in BLOCKS:
        if language == "bash":
            check_commands(body)
    assert f"pip install {FROM_GIT}" in README


def test_the_readme_is_short():
    """With its code, its tables and its BibTeX."""
    assert len(README.split()) <= 900


def test_what_pages_include_exists():
    text = "".join((ROOT / page).read_text() for page in PAGES)
    examples = (ROOT / "docs" / "examples").glob("*.py")
    shown = [ROOT / path for path in SCRIPT.findall(text)]
    assert sorted(shown) == sorted(examples)
    for path, section in SECTION.findall(text):
        for mark in ("start", "end"):
            assert f"--8<-- [{mark}:{section}]" in (ROOT / path).read_text()
    assert text.count("--8<--") == 2 * len(shown) + len(SECTION.findall(text))


# --- links ------------------------------------------------------------------------


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", BLOCK.sub("", text))


def anchors(page: str) -> set[str]:
    """As Python-Markdown makes them of the headings."""
    headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", (ROOT / page).read_text()), re.M)
    words = (re.sub(r"[^\w\s-]", "", heading, flags=re.A) for heading in headings)
    return {re.sub(r"[-\s]+", "-", text.strip().lower()) for text in words}


@pytest.mark.parametrize("page", ["README.md", *PAGES, *OTHERS])
def test_links_lead_somewhere(page):
    text = without_code((ROOT / page).read_text())
    for path, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", text):
        if ":" in path:
            continue
        folder = posixpath.dirname(page)
        target = posixpath.normpath(posixpath.join(folder, path)) if path else page
        assert (ROOT / target).exists(), path
        if anchor:
            assert anchor in anchors(target), f"{path}#{anchor}"


def test_no_two_headings_of_a_page_have_one_anchor():
    for page in PAGES:
        text = BLOCK.sub("", (ROOT / page).read_text())
        assert len(anchors(page)) == len(re.findall(r"^#+ ", text, re.M)), page


def test_the_navigation_lists_every_page():
    nav = (ROOT / "mkdocs.yml").read_text().split("\nnav:\n")[1]
    listed = re.findall(r": (\S+\.md)$", nav, re.MULTILINE)
    assert len(listed) == len(set(listed))
    scripts = (ROOT / "docs" / "notebooks").glob("*_*.py")
    notebooks = {f"notebooks/{path.stem}.md" for path in scripts}
    assert {page.removeprefix("docs/") for page in PAGES} | notebooks <= set(listed)


# --- the reference ----------------------------------------------------------------


def test_the_reference_has_every_public_name_once():
    from test_public_api import PUBLIC

    text = "".join(path.read_text() for path in (ROOT / "docs/reference").glob("*.md"))
    shown = re.findall(r"^::: decayax\.(\S+)$", text, re.MULTILINE)
    assert len(shown) == len(set(shown))
    modules = {"masks.no_bias_or_norm", "masks.no_bias_norm_or_token"}
    recipes = {f"recipes.{x}" for x in ("all", "find", "nearest", "table", "Recipe")}
    assert set(shown) == set(PUBLIC) | modules | recipes


def test_the_roles_of_sphinx_become_markdown():
    sys.path.insert(0, str(ROOT / "docs" / "_site"))
    docstrings = pytest.importorskip("docstrings")
    text = (
        "A :math:`x\n  y`, :func:`adamw`, :func:`rates.a`.\n\n"
        ".. math::\n    a +\n    b\n"
    )
    assert docstrings.to_markdown(text, "decayax") == (
        "A $x y$, [`adamw`][decayax.adamw], [`rates.a`][decayax.rates.a].\n\n"
        "$$\na + b\n$$\n"
    )
