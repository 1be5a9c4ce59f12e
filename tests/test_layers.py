"""Imports go up only: the contracts of pyproject.toml hold, and they can fail."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.needs_extras


def lint(folder: Path) -> subprocess.CompletedProcess:
    """What import-linter says of the packages in a folder."""
    command = "from importlinter.cli import lint_imports_command as run; run()"
    return subprocess.run(
        [sys.executable, "-c", command, "--no-cache"],
        cwd=folder,
        env={"PYTHONPATH": str(folder), "PATH": ""},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def copy(tmp_path):
    for name in ("decayax", "experiments"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_imports_go_up_only():
    result = lint(ROOT)
    assert result.returncode == 0, result.stdout
    assert "5 kept, 0 broken" in result.stdout


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("_tree.py", "import decayax._mask", "imports go up only"),
        ("_rms.py", "import decayax._decay", "imports go up only"),
        ("_rms.py", "import flax", "the library needs jax and optax only"),
        (
            "../experiments/data/digits.py",
            "import decayax._kernel",
            "experiments import only",
        ),
        (
            "../experiments/engine/study.py",
            "import experiments.studies.demo",
            "studies stand on the engine",
        ),
        (
            "../experiments/engine/describe.py",
            "import experiments.engine.study",
            "the engine's own floors",
        ),
    ],
)
def test_a_planted_import_is_caught(copy, file, line, contract):
    path = copy / "decayax" / file
    path.write_text(path.read_text() + f"\n{line}\n")
    result = lint(copy)
    assert result.returncode != 0
    broken = [row for row in result.stdout.splitlines() if "BROKEN" in row]
    assert any(row.startswith(contract) for row in broken), result.stdout
