"""The experiment on bfloat16: end to end, and that what is published follows."""

import csv
import re
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
PUBLISHED = ROOT / "experiments" / "published" / "bf16"
pytestmark = [
    pytest.mark.needs_extras,
    pytest.mark.relaxed("optax.adamw; the experiments run under JAX's defaults"),
]


def test_smoke_run_end_to_end(tmp_path):
    from experiments.bf16 import ARMS, SMOKE

    command = ["-W", "error", "-m", "experiments", "bf16", "--smoke", "--out", tmp_path]
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "Verdict." in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {
        *("cells.csv", "kept.csv", "manifest.json", "report.md"),
        *("kept.png", "training.png"),
    }
    with open(tmp_path / "cells.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == SMOKE.count_runs() == len(ARMS) * 2 * 2
    assert {row["diverged"] for row in rows} == {"False"}
    first = (tmp_path / "report.md").read_text()
    again = subprocess.run(
        [sys.executable, "-m", "experiments", "report", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert again.returncode == 0, again.stderr
    seconds = r"\| runs, seconds \|.*"  # without those of the report itself
    assert re.sub(seconds, "", (tmp_path / "report.md").read_text()) == re.sub(
        seconds, "", first
    )


def test_the_verdict_follows_from_the_published_runs():
    from experiments.bf16_report import arrives, conclusion, CURES, gaps, PLAIN, read

    stored = read(PUBLISHED)
    assert conclusion(stored) in (PUBLISHED / "report.md").read_text()
    assert stored.manifest["plan"]["seeds"] >= 5
    for gap in gaps(stored):
        if gap.arm in CURES:
            assert abs(gap.norm.mean) < 0.02
        if gap.arm == PLAIN:
            assert abs(gap.norm.mean) > 0.02
    for kept in stored.kept:
        if kept.arm in CURES and 1e-5 <= kept.rate <= 1e-3:
            assert abs(arrives(kept) - 1) < 0.05


def test_the_readme_quotes_the_published_runs():
    from experiments.bf16_report import read

    readme = (ROOT / "README.md").read_text()
    stored = read(PUBLISHED)
    for rate in (1e-5, 1e-4, 1e-3):
        found = {kept.arm: kept for kept in stored.kept if kept.rate == rate}
        names = ("bf16", "stochastic", "compensated")
        cells = [f"{found['bf16'].exact:.4f}"]
        cells += [f"{found[name].kept:.4f}" for name in names]
        assert f"| {rate:g} | {' | '.join(cells)} |" in readme
