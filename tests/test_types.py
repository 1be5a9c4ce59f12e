"""What type checkers find in a user's file: no error, and every error of `wrong.py`."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


pytestmark = pytest.mark.needs_extras
ROOT = Path(__file__).parent.parent
TYPED = Path(__file__).parent / "typed"
LINE = re.compile(r"(user|wrong)\.py:(\d+)(?::\d+)?:? (?:- )?error", re.MULTILINE)


def marked() -> set[tuple[str, int]]:
    """The lines of `wrong.py` that are marked as errors."""
    lines = enumerate((TYPED / "wrong.py").read_text().splitlines(), 1)
    return {("wrong", number) for number, line in lines if "# error" in line}


def found(folder: Path, *command: str) -> set[tuple[str, int]]:
    """The lines with an error, of both files."""
    for path in TYPED.glob("*.py"):
        shutil.copy(path, folder)
    ran = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ran.returncode == 1, ran.stdout + ran.stderr
    return {(file, int(line)) for file, line in LINE.findall(ran.stdout)}


def test_pyright(tmp_path):
    pytest.importorskip("pyright")
    options = {"include": ["."], "extraPaths": [str(ROOT)]}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(options))
    assert found(tmp_path, "pyright", "--pythonpath", sys.executable) == marked()


@pytest.mark.slow
def test_mypy(tmp_path, monkeypatch):
    pytest.importorskip("mypy")
    monkeypatch.setenv("MYPYPATH", str(ROOT))
    # optax has no py.typed: for mypy its names are Any.
    options = ("--follow-imports=silent", "--ignore-missing-imports")
    assert found(tmp_path, "mypy", *options, "user.py", "wrong.py") == marked()


def test_every_kind_of_wrong_call_is_there():
    assert len(marked()) == 16
