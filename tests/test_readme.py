"""Every code block of the READMEs runs."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import jax
import pytest


ROOT = Path(__file__).parent.parent
DOCUMENTS = ["README.md", "decayax/README.md", "CONTRIBUTING.md"]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def check_commands(body: str):
    """`make` targets exist, and modules named on the command line answer --help."""
    for line in body.splitlines():
        command = shlex.split(line, comments=True)
        if command[:1] == ["make"]:
            subprocess.run(["make", "-n", *command[1:]], cwd=ROOT, check=True)
        elif command[:2] == ["python", "-m"]:
            help_of = [sys.executable, *command[1:4], "--help"]
            subprocess.run(help_of, cwd=ROOT, check=True, capture_output=True)
        elif command[:2] == ["pip", "install"]:
            assert command[2:] in (["."], ["-e", "."], [".[experiments]"]), line
        else:
            assert not command, f"a command that nothing checks: {line}"


@pytest.mark.needs_extras
@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_block_runs(document):
    """In order, in one session, as a reader would try them."""
    session = {"__name__": "readme"}
    for language, body in BLOCK.findall((ROOT / document).read_text()):
        if language == "python":
            with jax.numpy_dtype_promotion("standard"):
                exec(compile(body, document, "exec"), session)
        elif language == "bash":
            check_commands(body)
        else:
            assert language == "text", "say what the block is, so it can be checked"


def test_links_and_pictures_exist():
    for document in DOCUMENTS:
        text = (ROOT / document).read_text()
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            if not target.startswith("http"):
                assert (ROOT / document).parent.joinpath(target).exists(), target
