"""A study in the user's own file: found by its path, with one name however it is run.

`lion.py` is the study in experiments/README.md. `tiny.py` trains nothing.
"""

import json
import os
import pickle
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_commands import call as call, refused
from test_site import BLOCK, ROOT
from test_store import cache_folder as cache_folder, start


pytestmark = [
    pytest.mark.needs_extras,
    pytest.mark.relaxed("scale_by_adam; the experiments run under JAX's defaults"),
]

# The annotations are text, so a dataclass looks up its module in sys.modules.
TINY = '''\
"""Is one one?

This is not the question.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from experiments import cli, files
from experiments.engine.study import Stage, Study
from experiments.engine.training import Measurement


@dataclasses.dataclass(frozen=True)
class Plan:
    chunk: int = 1
    final_seeds: int = 20
    value: object = np.ones


def study(plan):
    both = [Measurement(name, measure) for name in ("one", "two")]
    return Study("tiny", plan, (Stage("all", 2, lambda _: both),), write_report)


def measure(cache, progress):
    progress.advance(1)
    return {"value": np.ones(1)}


def write_report(folder):
    files.write_text(folder / "report.md", "One is one.")
    return "One is one."


FULL = Plan()
SMOKE = Plan(value=measure)

if __name__ == "__main__":
    cli.main(__file__)
'''


@pytest.fixture(autouse=True)
def forget_modules(monkeypatch):
    """Remove the modules that a test has imported."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    forget()


def forget():
    """Forget the modules of the studies, as in a new process."""
    for name in ("lion", "tiny", "other", "neighbour"):
        if module := sys.modules.pop(name, None):
            folder = str(Path(module.__file__).parent)
            sys.path[:] = [path for path in sys.path if path != folder]


@pytest.fixture
def lion(tmp_path):
    """The study in experiments/README.md, as a file."""
    text = (ROOT / "experiments" / "README.md").read_text()
    (body,) = [body for _, body in BLOCK.findall(text) if "cli.main(__file__)" in body]
    path = tmp_path / "lion.py"
    path.write_text(body)
    return path


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.py"
    path.write_text(TINY)
    return path


def run_as_main(path, monkeypatch, capsys, *arguments):
    """Run `python PATH ARGUMENTS`. Return its exit status and output."""
    monkeypatch.setattr("experiments.interrupts.install_handlers", lambda: None)
    use_cache = "experiments.engine.persistent_cache.use_persistent_cache"
    monkeypatch.setattr(use_cache, lambda folder: None)
    monkeypatch.setattr(sys, "argv", [str(path), *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(path), run_name="__main__")
    return end.value.code, capsys.readouterr().out


def results(out):
    (manifest,) = out.glob("*/*/manifest.json")
    return manifest.parent


# --- The study of the README ------------------------------------------------------


@pytest.mark.slow
def test_a_killed_job_resumes(lion, tmp_path, call, cache_folder, monkeypatch):
    """The job of `launch` is killed in a subprocess, and then finished here."""
    out, statuses = tmp_path / "out", []

    def launch_shards(work, logs, queue, retries, done):
        assert logs == out / "lion" / "jobs"
        (job,) = work
        load = f"import pickle; pickle.loads({pickle.dumps(job)!r})()"
        process = start(load, cache_folder)
        deadline = time.monotonic() + 120
        stored = []
        while not stored:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.002)
            stored = list(out.rglob("[!.]*.npz"))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not list(out.rglob("report.md"))
        times = {path: path.stat().st_mtime_ns for path in stored}
        statuses.append(job())
        assert {path: path.stat().st_mtime_ns for path in stored} == times

    monkeypatch.setattr("experiments.engine.launch.launch_shards", launch_shards)
    shards = ("--cluster", "local", "--shards", "1")
    status, printed, errors = call("launch", lion, "--smoke", *shards, "--out", out)
    assert (status, errors, statuses) == (0, [], [0])
    folder = results(out)
    report = (folder / "report.md").read_text()
    assert report.startswith("# lion\n\n")
    verdict = report.splitlines()[4].replace("**", "")
    assert verdict.startswith("Verdict. lion − lion_l2: ")
    assert printed.count(f"{verdict}\n\n  {folder / 'report.md'}\n") == 2  # job, launch
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["runs"] == 150
    assert '"lion.lion_l2"' in json.dumps(manifest["plan"])
    assert manifest["file"] == os.path.relpath(lion, folder)
    (folder / "report.md").unlink()
    forget()
    assert call("report", folder)[0] == 0
    assert (folder / "report.md").read_text() == report


def test_a_file_and_a_script_have_the_same_plan(
    lion, tmp_path, call, monkeypatch, capsys
):
    arguments = ("--smoke", "--dry-run", "--out", tmp_path / "out")
    status, by_path, errors = call(lion, *arguments)
    assert (status, errors) == (0, [])
    assert by_path.startswith("lion, plan ")
    forget()
    assert run_as_main(lion, monkeypatch, capsys, *arguments) == (0, by_path)
    forget()
    monkeypatch.chdir(tmp_path)
    assert call("lion.py", *arguments)[1] == by_path
    assert call("./lion.py", *arguments)[1] == by_path
    assert call(lion, "--dry-run", "--out", tmp_path)[1] != by_path


# --- Runs and reports -------------------------------------------------------------


def test_all_options_of_a_study(tiny, tmp_path, call):
    out = tmp_path / "out"
    status, printed, errors = call(tiny, "--help")
    assert (status, errors) == (0, [])
    assert "\nIs one one?\n" in printed
    assert "This is not" not in printed
    status, printed, _ = call(tiny, "--shard", "0/2", "--wait", "0", "--out", out)
    assert status == 3
    assert (
        f"resume with: {os.path.relpath(sys.executable)} -m experiments {tiny}"
        in printed
    )
    status, printed, _ = call(tiny, "--resume", "--out", out)
    assert status == 0
    assert "One is one.\n" in printed
    refused(call(tiny, "--seeds", "3", "--out", out), "--seeds 3")
    plans = [call(tiny, "--dry-run", *more)[1] for more in ([], ["--seeds", "30"])]
    assert plans[0].split()[2] != plans[1].split()[2]


def test_the_manifest_has_command_and_file(tiny, tmp_path, monkeypatch, capsys, call):
    monkeypatch.chdir(tmp_path)
    for run in (
        lambda *words: run_as_main(tiny, monkeypatch, capsys, *words),
        lambda *words: call("tiny.py", *words),
    ):
        assert run("--smoke", "--chunk", "3", "--out", "out")[0] == 0
        manifest = json.loads((results(Path("out")) / "manifest.json").read_text())
        command = "python -m experiments tiny.py --smoke --out out --chunk 3"
        assert manifest["command"] == command
        assert manifest["file"] == "../../../tiny.py"
        assert manifest["plan"]["value"] == "tiny.measure"
        shutil.rmtree("out")


def test_a_report_finds_the_file(tiny, tmp_path, call, monkeypatch):
    assert call(tiny, "--out", tmp_path / "out")[0] == 0
    moved = shutil.copytree(tmp_path, tmp_path.with_name("moved"))
    for place in (tmp_path, moved):  # the file is moved with its results
        folder = results(place / "out")
        (folder / "report.md").unlink()
        forget()
        status, printed, errors = call("report", folder)
        assert (status, errors) == (0, [])
        assert printed.startswith("One is one.\n")
        assert Path(sys.modules["tiny"].__file__) == place / "tiny.py"
        assert (folder / "report.md").read_text() == "One is one."
    monkeypatch.chdir(folder)
    assert call("report", ".")[0] == 0


def test_a_report_without_the_file_needs_study(tiny, tmp_path, call):
    out = tmp_path / "out"
    assert call(tiny, "--out", out)[0] == 0
    folder = results(out)
    forget()
    other = tiny.rename(tmp_path / "other.py")
    refused(call("report", folder), f"no Python file {tiny}", "--study FILE")
    assert call("report", folder, "--study", other)[0] == 0
    forget()
    other.write_text(TINY.replace('Study("tiny"', 'Study("huge"'))
    before = (folder / "report.md").stat().st_mtime_ns
    words = ("is the study 'huge'", "results of 'tiny'")
    refused(call("report", folder, "--study", other), *words)
    refused(call("report", folder, "--study", "demo"), "the study 'demo'")
    assert (folder / "report.md").stat().st_mtime_ns == before
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest.pop("file")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    refused(call("report", folder), "no study 'tiny'", "--study FILE")


def test_a_study_of_the_package_by_its_path(call, tmp_path):
    from experiments import study_files

    path = ROOT / "experiments" / "studies" / "bf16.py"
    options = ("--smoke", "--dry-run", "--out", tmp_path)
    assert call(path, *options)[1] == call("bf16", *options)[1] != ""
    assert "bf16" not in sys.modules
    assert study_files.relative_file(str(path), tmp_path) is None


def test_a_study_can_import_modules_next_to_it(tiny, tmp_path, call, monkeypatch):
    (tmp_path / "neighbour.py").write_text('TEXT = "One is neighbour."\n')
    (tmp_path / "colorsys.py").write_text("raise AssertionError('hides Python's')\n")
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    (tmp_path / "elsewhere" / "tiny").mkdir(parents=True)  # such as results
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    text = TINY.replace('"One is one."', "neighbour.TEXT")
    tiny.write_text(
        text.replace("import numpy", "import neighbour, colorsys\nimport numpy")
    )
    status, printed, _ = call(tiny, "--out", tmp_path)
    assert status == 0
    assert "One is neighbour.\n" in printed


# --- Files that are not a study ---------------------------------------------------


@pytest.mark.parametrize(
    ("text", "change", "missing"),
    [
        ("FULL = ", "FULLER = ", "no FULL."),
        ("SMOKE = ", "SMOKER = ", "no SMOKE."),
        ("def study(", "def studying(", "no study."),
        ("write_report", "report", "no write_report."),
        ('"""Is one', 'text = """Is one', "no docstring with its question."),
        ("chunk: int", "chunks: int", "no FULL.chunk, no SMOKE.chunk."),
    ],
)
def test_a_module_that_is_not_a_study(text, change, missing, tiny, call, tmp_path):
    assert text in TINY
    body = TINY.replace("from __future__ import annotations\n", "")
    tiny.write_text(body.replace(text, change))
    line = refused(call(tiny, "--out", tmp_path / "out"), f"{tiny} is not a study")
    assert line.endswith(missing)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "numpy.py",
            ("numpy.py has the same name as the module numpy", "Rename the file"),
        ),
        ("sys.py", ("sys.py has the same name as the module sys (built-in)",)),
        (
            "this.py",
            ("this.py has the same name as the module this",),
        ),  # not imported yet
        ("by_hand.py", ("by_hand.py has the same name", "(not from a file)")),
        ("my-study.py", ("my-study.py: ", "for example to my_study.py")),
        ("my.study.py", ("my.study.py: ", "for example to my_study.py")),
        ("__main__.py", ("__main__.py: ", "for example to my_study.py")),
    ],
)
def test_an_invalid_file_name(name, words, tiny, call, monkeypatch):
    monkeypatch.setitem(sys.modules, "by_hand", type(sys)("by_hand"))
    before = dict(sys.modules)
    refused(call(tiny.rename(tiny.with_name(name)), "--dry-run"), *words)
    assert {n: m for n, m in sys.modules.items() if n in before} == before


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def study(plan)\n", "line 1: SyntaxError: expected ':'."),
        ("x = 1\n  y = 2\n", "line 2: IndentationError: unexpected indent."),
        ("\nimport no_such_module\n", "line 2: ModuleNotFoundError: No module named"),
    ],
)
def test_a_file_that_does_not_run(text, words, tiny, tmp_path, call):
    tiny.write_text(text)
    refused(call(tiny, "--out", tmp_path), f"{tiny.name}, {words}")


def test_a_fault_in_a_helper_is_that_of_the_helper(tiny, tmp_path, call):
    tiny.with_name("its_helper.py").write_text("\nx = (\n")
    tiny.write_text("import its_helper\n")
    line = refused(call(tiny, "--out", tmp_path), "its_helper.py, line 2: SyntaxError")
    assert "never closed" in line


def test_a_path_without_a_python_file(tiny, tmp_path, call, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.py").mkdir()
    for name in ("nosuch.py", "no/such", "folder.py", "./tiny"):
        refused(call(name, "--smoke"), f"there is no Python file {name}")
        refused(call("launch", name), f"there is no Python file {name}")
    refused(call("tiny"), "no study 'tiny'. Do you mean tiny.py?")


def test_a_file_that_uses_jax_during_its_import(tiny, tmp_path):
    """A script imports the file before the cores can become devices."""
    tiny.write_text(TINY.replace("\nFULL", "\nimport jax\njax.devices()\nFULL"))
    flags = {"XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
    answer = subprocess.run(
        [sys.executable, "-W", "error", tiny, "--out", tmp_path / "out"],
        env=os.environ | flags,
        capture_output=True,
        text=True,
    )
    (line,) = answer.stderr.splitlines()
    assert line.startswith("experiments: JAX was used before the study started")
    assert answer.returncode == 1
    assert not (tmp_path / "out").exists()


def test_a_file_that_failed_is_imported_again(tiny, tmp_path, call):
    tiny.write_text(f"{TINY}\n1 / 0\n")
    line = len(TINY.splitlines()) + 2
    refused(
        call(tiny, "--out", tmp_path),
        f"{tiny.name}, line {line}: ZeroDivisionError: division by zero.",
    )
    assert "tiny" not in sys.modules
    tiny.write_text(TINY)
    os.utime(tiny, (0, 0))  # so that Python does not use the old bytecode
    assert call(tiny, "--out", tmp_path)[0] == 0
