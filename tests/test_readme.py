"""Every code block of the READMEs runs."""

import re
import shlex
import subprocess
import sys
import types
from pathlib import Path

import jax
import pytest


ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    "README.md",
    "decayax/README.md",
    "experiments/README.md",
    "CONTRIBUTING.md",
]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


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
            assert command[2:] in (["."], ["-e", "."], [".[experiments]"]), line
        else:
            assert not command, f"a command that nothing checks: {line}"


@pytest.mark.needs_extras
@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_block_runs(document, capsys, monkeypatch):
    """In order, in one session; what a block prints is what the next one shows."""
    module = types.ModuleType("readme")  # in which functions are found by their names
    monkeypatch.setitem(sys.modules, "readme", module)
    session = module.__dict__
    for language, body in BLOCK.findall((ROOT / document).read_text()):
        if printed := capsys.readouterr().out:
            assert language == "text"
            assert body == printed
        if language == "python":
            with (
                jax.numpy_dtype_promotion("standard"),
                jax.numpy_rank_promotion("allow"),
            ):
                exec(compile(body, document, "exec"), session)
        elif language == "bash":
            check_commands(body)
            capsys.readouterr()
        else:
            assert language == "text", "say what the block is, so it can be checked"


def test_links_and_pictures_exist():
    for document in DOCUMENTS:
        text = (ROOT / document).read_text()
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            if not target.startswith("http"):
                assert (ROOT / document).parent.joinpath(target).exists(), target


def test_the_findings_are_those_of_the_published_run():
    """The README quotes rows of the published report."""
    report = (ROOT / "experiments" / "results" / "demo" / "report.md").read_text()
    rows = (ROOT / "README.md").read_text().splitlines()
    quoted = [
        row for row in rows if row.startswith("| `") and "[" in row and "−" in row
    ]
    assert quoted
    assert all(row in report for row in quoted)


def test_the_porting_table_is_the_tested_one():
    from test_rates import PORTS

    text = (ROOT / "decayax" / "README.md").read_text()
    table = text.split("### Porting a recipe")[1].split("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert rows == [
        f"| {row.framework} `{row.recipe}` | `{row.write}` | {row.says} |"
        for row in PORTS
    ]
