"""Imports go up only: every contract of pyproject.toml holds, and can fail."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.needs_extras
# One import that each contract forbids.
FORBIDDEN = {
    "imports go up only": ("decayax/_core/paths.py", "decayax._optimizers"),
    "the library needs jax, optax and jaxtyping only": (
        "decayax/_core/table.py",
        "flax",
    ),
    "experiments import only decayax's public names": (
        "experiments/data/digits.py",
        "decayax._core.paths",
    ),
    "studies import the engine": (
        "experiments/engine/study.py",
        "experiments.studies.demo",
    ),
    "layers of the engine": (
        "experiments/engine/describe.py",
        "experiments.engine.study",
    ),
}


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


def test_imports_go_up_only():
    result = lint(ROOT)
    assert result.returncode == 0, result.stdout
    assert "5 kept, 0 broken" in result.stdout


def test_every_contract_can_fail(tmp_path):
    for name in ("decayax", "experiments"):
        shutil.copytree(
            ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("results")
        )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for file, module in FORBIDDEN.values():
        path = tmp_path / file
        path.write_text(f"{path.read_text()}\nimport {module}\n")
    result = lint(tmp_path)
    broken = [row for row in result.stdout.splitlines() if "BROKEN" in row]
    assert result.returncode != 0
    for contract in FORBIDDEN:
        assert any(row.startswith(contract) for row in broken), result.stdout
