"""The scripts of docs/examples run as a user runs them, and print what they claim.

NAME.py has a test called test_NAME. The notebooks run, too.
"""

import ast
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import optax
import pytest
from conftest import TWO_DEVICES


DOCS = Path(__file__).parent.parent / "docs"
SCRIPTS = sorted((DOCS / "examples").glob("*.py"))
NUMBER = r"(-?\d[\d,]*\.?\d*(?:e[-+]\d+)?)"
LINES = 80  # of code at most: a user reads the whole script
# What a notebook says in words, as patterns of what it prints.
CLAIMS = {
    "bf16_decay": [
        "after one step of decay: 1\n",
        "! lost in rounding",
        r"bfloat16  uniform  0.0001     6931 steps  (100|99)%",
        r"bfloat16 +1.0000\n.*with_compensation +0.67",
        "step count: 3\n",
        r"0.001   0.3677  1.0000    0.36",
    ],
    "l2_or_decoupled": [
        r"Adam with L2 rates .* slope -1.0\d\nAdamW .* slope [+-]0.00\n",
        "! gradient-dependent",
        r"SGD with L2 +rates 1.00e-04 to 1.00e-04\nSGDW +rates 1.00e-04 to 1.00e-04\n",
    ],
    "which_weights_decay": [
        r"attention/key/bias: bias, \(2, 8\), decays",
        r"token/embedding +float32 +uniform +1e-05",
        r"attention/key/bias +2×8 +dead",
        r"attention/key/kernel invariant, along axes \(1,\)\n.*query/kernel invariant",
        "unseen scale decays",
    ],
}

pytestmark = [pytest.mark.needs_extras, pytest.mark.needs_checkout]


def run(path: str, *arguments: str, exit_code: int = 0) -> str:
    """What a script of the documentation prints, in a process of its own."""
    flags = os.environ["XLA_FLAGS"].replace(TWO_DEVICES, "")
    done = subprocess.run(
        [sys.executable, DOCS / path, *arguments],
        env=os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(DOCS.parent)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == exit_code, done.stdout + done.stderr
    return done.stdout + done.stderr


def numbers(pattern: str, text: str) -> list[float]:
    """The numbers at the N of the pattern, in the order of the text."""
    found = re.findall(pattern.replace("N", NUMBER), text)
    assert found, text
    return [float(number.replace(",", "")) for number in found]


# --- What each script claims -------------------------------------------------------


def test_audit_in_ci():
    assert "no problems found" in run("examples/audit_in_ci.py")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "finding"),
    [("l2", "gradient-dependent"), ("fast", "half-life too short")],
)
def test_audit_in_ci_fails(optimizer, finding):
    command = "examples/audit_in_ci.py", "--optimizer", optimizer
    printed = run(*command, exit_code=1)
    assert f"{optimizer}: the audit failed." in printed
    assert f"! {finding}" in printed


@pytest.mark.slow
def test_decoder_fsdp():
    printed = run("examples/decoder_fsdp.py")
    assert "a kernel (256, 64), on each device (32, 64)" in printed
    half, resumed, straight = numbers(r"devices, step \d+: loss N", printed)
    assert half > resumed == straight
    assert numbers("between the two runs: N", printed)[0] < 1e-5


@pytest.mark.slow
def test_dm_haiku():
    printed = run("examples/dm_haiku.py")
    assert numbers("embed/embeddings .* embedding +N", printed) == [0.1]
    assert set(numbers("kernel +N", printed)) == {1}
    assert set(numbers("(?:bias|norm_scale) +N", printed)) == {0}
    assert numbers("accuracy on new texts: N", printed)[0] > 0.9


@pytest.mark.slow
def test_ensemble():
    printed = run("examples/ensemble.py")
    assert len(set(numbers(r" N(?=\s)", printed.splitlines()[0] + "\n"))) == 4
    assert "dtype of the weights: bfloat16" in printed
    assert numbers("N distinct members", printed) == [1, 4]


@pytest.mark.slow
def test_equinox_bf16():
    printed = run("examples/equinox_bf16.py")
    exact, *left = numbers(r"\w +N", printed)
    assert re.findall(r"\w+$", printed, re.MULTILINE)[1:] == ["float32"] + 3 * [
        "bfloat16"
    ]
    assert exact == pytest.approx((1 - 1e-4) ** 500, abs=1e-4)
    single, plain, compensated, stochastic = left
    assert single == pytest.approx(exact, abs=1e-4)
    assert plain > 0.999
    assert compensated == pytest.approx(exact, abs=1e-3)
    assert stochastic == pytest.approx(exact, abs=2e-3)


@pytest.mark.slow
def test_flax_linen():
    printed = run("examples/flax_linen.py")
    assert "adopted step counts: [200]" in printed
    assert numbers("^step N", printed) == [200]
    first, last = numbers("loss N", printed)
    assert last < first
    kernels, scales = numbers("kernel N", printed), numbers("scale N", printed)
    assert kernels[1] < kernels[0]
    assert scales[1] > scales[0]  # it decays in the first half only


@pytest.mark.slow
def test_flax_nnx():
    printed = run("examples/flax_nnx.py")
    assert set(numbers("kernel +N", printed)) == {1}
    assert set(numbers("(?:bias|norm_scale) +N", printed)) == {0}
    assert min(numbers("accuracy N", printed)) > 0.95
    without, decayed = numbers("norm N", printed)
    assert decayed < 0.7 * without


def test_log_the_decay():
    printed = run("examples/log_the_decay.py")
    assert "before the first step: {}" in printed
    assert "nan" not in printed.lower()
    assert numbers("log step N", printed) == [0, 100, 200]
    rates = numbers(r"add_scalar decay/kernel/decay_rate N \d+", printed)
    schedule = optax.cosine_decay_schedule(1e-2, 300)
    # With every=100, the step after the present one is measured.
    assert rates == pytest.approx(
        [0.1 * float(schedule(step + 1)) for step in (0, 100, 200)], rel=5e-3
    )


def test_lora_bf16():
    printed = run("examples/lora_bf16.py")
    inside, outside = numbers("N bytes", printed)
    assert outside - inside == 2 * 2 * 128**2  # 2 bytes for each frozen weight
    first, last = numbers("loss N", printed)
    assert last < 0.7 * first
    assert "base unchanged: True, adapters bfloat16" in printed


def test_plain_tree():
    printed = run("examples/plain_tree.py")
    rows = [line.split() for line in printed.splitlines()[1:]]
    norms = {row[0]: [float(n) for n in row[2:]] for row in rows if row[1] == "norm"}
    for each in norms.values():
        assert each == sorted(each, reverse=True)
    assert norms["l2"][0] == norms["decoupled"][0]  # without decay
    assert norms["l2"][1] < norms["decoupled"][1]


@pytest.mark.slow
def test_two_processes():
    printed = run("examples/two_processes.py")
    lines = re.findall(r"process (\d) of 2: loss (\S+), (\w{16})", printed)
    assert sorted(process for process, _, _ in lines) == ["0", "1"]
    assert lines[0][1:] == lines[1][1:]


# --- What all scripts have in common -----------------------------------------------


def test_each_script_has_a_test():
    assert len(SCRIPTS) >= 11
    for script in SCRIPTS:
        assert f"test_{script.stem}" in globals(), f"{script.name} has no test"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_script_is_short_and_says_how_to_run_it(script):
    text = script.read_text()
    docstring = ast.get_docstring(ast.parse(text)) or ""
    code = text.replace(docstring, "").splitlines()
    assert sum(bool(line.strip(' "')) for line in code) <= LINES
    commands = [
        shlex.split(line) for line in docstring.splitlines() if line.startswith("    ")
    ]
    assert commands
    for command in commands:
        assert command[:2] == ["python", f"docs/examples/{script.name}"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_script_uses_public_names_only(script):
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [getattr(node, "module", None), *(n.name for n in node.names)]
            assert not any(re.search(r"(^|\.)_", name or "") for name in names), names
        elif isinstance(node, ast.Attribute):
            assert not re.match("_[^_]", node.attr), node.attr


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["bf16_decay", "l2_or_decoupled", "which_weights_decay"]
)
def test_a_notebook_runs(name, tmp_path):
    run("notebooks/build.py", str(tmp_path), name)
    page = (tmp_path / f"{name}.md").read_text()
    for claim in CLAIMS[name]:
        assert re.search(claim, page), claim
    for figure in re.findall(r"!\[.+\]\((.+)\)", page):
        assert (tmp_path / figure).read_bytes().startswith(b"\x89PNG")
