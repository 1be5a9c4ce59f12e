"""The command line: what a person is told, and what is left when something ends it.

`call` runs a command in this process, which is what `python -m experiments` does after
its imports. What needs a process of its own runs the small study of `test_store.py` in
the place of the demo.
"""

import errno
import functools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import test_store as small
from test_store import (
    assert_same,
    assert_whole,
    cache as cache,
    finished as finished,
    shop as shop,
    start,
)


pytestmark = [
    pytest.mark.needs_extras,
    pytest.mark.relaxed("scale_by_adam; the experiments run under JAX's defaults"),
]
TESTS = Path(__file__).parent


# --- The small study as the demo --------------------------------------------------


def command(*arguments: str, wait: float = 0.0, largest: int | None = None) -> None:
    """`python -m experiments`; waits after each piece, writes no larger files."""
    from experiments import __main__, cli
    from experiments.engine import store as stores

    save = stores.save

    def slow(*rest):
        save(*rest)
        time.sleep(wait)

    stores.save = slow
    cli.study_module = lambda name: small
    if largest is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    sys.argv = ["experiments", *arguments]
    __main__.main()


def process(cache: Path | None, *arguments: str, **options):
    """A command in a process of its own."""
    call = f"*{list(arguments)!r}, **{options!r}"
    return start(f"import test_commands as t; t.command({call})", cache)


@pytest.fixture
def call(monkeypatch, capsys):
    """Run a command here: its exit status, and the lines it says."""

    def run(*arguments):
        from experiments.__main__ import main

        monkeypatch.setattr("experiments.interrupts.listen", lambda: None)
        monkeypatch.setattr(sys, "argv", ["experiments", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        code, said = end.value.code, capsys.readouterr()
        told = said.err.splitlines()
        if isinstance(code, str):
            code, told = 1, [*told, *code.splitlines()]
        return code or 0, said.out, told

    return run


@pytest.fixture
def as_demo(monkeypatch, shop, finished):
    """The small study in the place of the demo, compiled already."""
    monkeypatch.setattr("experiments.cli.study_module", lambda name: small)
    monkeypatch.setattr("experiments.engine.workshop.workshop", lambda: shop)


def refused(answer, *words):
    """One line that says what is wrong, and nothing done."""
    status, out, lines = answer
    assert status == 1, (status, lines)
    assert out == ""
    (line,) = lines
    assert line.startswith("experiments: ")
    for word in words:
        assert word in line
    return line


# --- What is told -----------------------------------------------------------------


def test_list_says_what_each_study_asks(call):
    from experiments.cli import STUDIES

    status, out, told = call("list")
    assert (status, told) == (0, [])
    lines = out.splitlines()
    first = lines.index("Benchmarks, run by python -m experiments.benchmarks.NAME:")
    assert lines[0] == "Studies, run by python -m experiments NAME:"
    assert [line.split()[0] for line in lines[1:first]] == list(STUDIES)
    names = [line.split()[0] for line in lines[first + 1 :]]
    assert names == ["aliases", "sweep", "wrappers"]
    entries = [*lines[1:first], *lines[first + 1 :]]
    assert {re.match(r"  \w+ +", line).end() for line in entries} == {12}
    assert all(len(line) > 40 for line in entries)


@pytest.mark.parametrize("name", ["demo", "bf16", "same", "why", "tuning"])
def test_every_study_has_help(name, call):
    from experiments.cli import STUDIES

    assert name in STUDIES
    status, out, told = call(name, "--help")
    assert (status, told) == (0, [])
    text = " ".join(out.split())
    for option in ("smoke", "dry-run", "resume", "shard", "out", "seeds", "chunk"):
        assert f"--{option}" in text
    assert "A tiny plan" in text


def test_help_of_the_other_commands(call):
    for name, option in (("launch", "--retries"), ("report", "DIR")):
        status, out, told = call(name, "--help")
        assert (status, told) == (0, [])
        assert option.lower() in out.lower()
    status, out, _ = call("--help")
    assert status == 0
    assert all(word in out for word in ("demo", "launch", "report", "list"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("demo", "--smok"), ("--smok", "Do you mean --smoke?")),
        (("demo", "--chunk", "many"), ("--chunk", "many", "--help")),
        (("demo", "--chunk", "0"), ("--chunk 0", "at least one")),
        (("demo", "--chunk", "-3"), ("--chunk -3", "at least one")),
        (("demo", "--seeds", "3"), ("--seeds 3", "10 or more")),
        (("demo", "--seeds", "some"), ("--seeds", "some")),
        (("same", "--seeds", "8"), ("same has no final runs", "leave --seeds out")),
        (("demo", "--shard", "2/2"), ("--shard 2/2", "0/4 to 3/4")),
        (("demo", "--shard", "first"), ("--shard first", "i/n")),
        (("demos",), ("no study 'demos'", "mean demo?", "demo, why, tuning")),
        (("lunch", "demo"), ("no study 'lunch'", "Do you mean launch?")),
        (("nosuch",), ("no study 'nosuch'. There are demo, why", "path/to/study.py")),
        (("--smoke",), ("name a study first: demo, why", "--help")),
        (("demo", "why"), ("demo does not take why.", "demo --help")),
        (("list", "all"), ("list does not take all",)),
        (("launch", "demo", "--shard", "0/2"), ("take --shard", "mean --shards?")),
        ((), ("name a study first: demo, why", "--help")),
        (("launch", "demos"), ("no study 'demos'", "mean demo?", "demo, why")),
        (("launch", "demo", "--cluster", "moon"), ("--cluster moon", "local or slurm")),
        (("launch", "demo", "--shards", "0"), ("--shards 0",)),
        (("launch", "demo", "--chunk", "0"), ("--chunk 0",)),
        (("report",), ("required: DIR", "report --help")),
    ],
)
def test_a_mistake_is_one_line(arguments, words, call, tmp_path, monkeypatch):
    def nothing(*_):
        raise AssertionError("begun, though there is nothing to do")

    if "moon" not in arguments:
        monkeypatch.setattr("experiments.engine.launch.launch_shards", nothing)
    if "demo" in arguments:
        arguments = (*arguments, "--out", tmp_path)
    refused(call(*arguments), *words)
    assert list(tmp_path.iterdir()) in ([], [tmp_path / "demo"])
    assert list(tmp_path.rglob("*.npz")) == []


def test_slurm_where_there_is_none_is_one_line(call, tmp_path):
    if shutil.which("srun") or not _has_submitit():
        pytest.skip("needs submitit, and no SLURM")
    arguments = ("launch", "demo", "--smoke", "--out", tmp_path)
    refused(call(*arguments), "--cluster slurm")


def test_launch_without_submitit_names_the_extra(call, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    arguments = ("launch", "demo", "--smoke", "--cluster", "local", "--out", tmp_path)
    refused(call(*arguments), "pip install 'decayax[cluster]'")


def test_a_report_of_what_is_no_results_directory(call, tmp_path):
    missing = tmp_path / "nowhere"
    refused(call("report", missing), str(missing), "is not a results directory")
    refused(call("report", tmp_path), str(tmp_path), "it has no manifest.json")
    (tmp_path / "manifest.json").write_text('{"format": 1')
    refused(call("report", tmp_path), "manifest.json is damaged")
    (tmp_path / "manifest.json").write_text('{"start_url": "/"}')
    refused(call("report", tmp_path), "is no manifest of a study")


def test_a_report_of_an_unfinished_run_says_how_to_go_on(
    call, as_demo, finished, tmp_path
):
    folder = tmp_path / "begun"
    shutil.copytree(finished, folder)
    (folder / "cells.csv").unlink()
    refused(call("report", folder), str(folder), "is not finished", "--resume")


def test_a_report_is_made_again(call, as_demo, finished, tmp_path):
    folder = tmp_path / "whole"
    shutil.copytree(finished, folder)
    status, out, told = call("report", folder)
    assert (status, told) == (0, [])
    assert out == f"Verdict. None.\n\n  {folder / 'report.md'}\n"
    assert (folder / "report.md").read_text() == "23 runs\n"


# --- Runs -------------------------------------------------------------------------


def test_a_dry_run_writes_nothing(call, as_demo, finished, tmp_path):
    arguments = ("demo", "--smoke", "--dry-run", "--out", tmp_path)
    status, out, told = call(*arguments)
    assert (status, told) == (0, [])
    assert list(tmp_path.iterdir()) == []
    folder = tmp_path / "small" / finished.name
    for words in (
        f"small, plan {finished.name}: 24 runs, 4 side by side on 2 x",
        "tuning: 18 runs",
        "2 programs to compile, 6 pieces of tuning",
        "data test_store.points: there",
        f"results in {folder}: nothing there yet",
    ):
        assert words in out
    shutil.copytree(finished, folder)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert "9 pieces there" in call(*arguments)[1]
    (folder / "report.md").write_text("")
    before |= {p: p.stat().st_mtime_ns for p in (folder, folder / "report.md")}
    assert "finished" in call(*arguments)[1]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_run_and_what_is_said_when_it_is_called_again(
    call, as_demo, finished, tmp_path
):
    arguments = ("demo", "--smoke", "--out", tmp_path)
    folder = tmp_path / "small" / finished.name
    status, out, told = call(*arguments)
    assert (status, told) == (0, [])
    assert out.startswith(f"small: 24 runs into {folder}\nloading the data: 0 of 24 ")
    assert "\ntuning sgd_l2: 0 of 24 runs, 0 diverged\nfinal sgdw: 18 of" in out
    assert "runs, 0 diverged\nVerdict. None.\n" in out
    assert_same(folder, finished)
    status, _, (line,) = call(*arguments)
    assert status == 1
    assert f"{folder} has been begun" in line
    assert "--resume" in line
    status, out, _ = call(*arguments, "--resume")
    assert status == 0
    assert "begun" not in out
    assert_same(folder, finished)


def test_going_on_at_another_revision_is_said(call, as_demo, finished, tmp_path):
    arguments = ("demo", "--smoke", "--out", tmp_path, "--resume")
    assert "Nothing is there to go on with: this begins it." in call(*arguments)[1]
    path = tmp_path / "small" / finished.name / "manifest.json"
    manifest = json.loads(path.read_text())
    for begun, words in {
        ("0123456789", False): "It was begun at 0123456789; this is ",
        ("0123456789", True): "It was begun at 0123456789 with local changes; this is ",
        (None, False): "It was begun at not in a git checkout; this is ",
    }.items():
        there = dict(zip(("git_revision", "git_changed"), begun, strict=True))
        path.write_text(json.dumps(manifest | there))
        status, out, told = call(*arguments)
        assert (status, told) == (0, [])
        assert words in out
    path.unlink()
    status, out, (line,) = call(*arguments)
    assert status == 1
    assert "begun" not in out
    assert "begins" not in out
    assert "holds files but no manifest.json" in line


def test_a_shard_says_what_is_missing_and_how_to_go_on(
    call, as_demo, finished, tmp_path
):
    arguments = ("demo", "--smoke", "--out", tmp_path)
    status, out, told = call(*arguments, "--shard", "1/2")
    assert (status, told) == (3, [])
    assert "Of tuning, 3 pieces of other shards are missing" in out
    words = shlex.split(out.rpartition("go on with: ")[2])
    assert words[1:4] == ["-m", "experiments", "demo"]
    assert words[4:] == [
        *("--resume", "--smoke", "--shard", "1/2", "--out", str(tmp_path))
    ]
    assert call(*arguments, "--shard", "0/2")[0] == 3  # a piece of the second stage
    assert call(*words[3:])[0] == 3
    assert call(*arguments, "--shard", "0/2")[0] == 0
    assert_same(tmp_path / "small" / finished.name, finished)


def test_out_is_a_file(call, as_demo, tmp_path):
    path = tmp_path / "results"
    path.write_text("a file")
    status, _, (line,) = call("demo", "--smoke", "--out", path)
    assert status == 1
    assert str(path) in line
    assert path.read_text() == "a file"


def test_the_command_that_goes_on_says_what_was_asked():
    from pathlib import PurePosixPath

    from experiments.cli import again, Options

    assert shlex.split(again("demo", Options()))[1:] == [
        *("-m", "experiments", "demo", "--resume")
    ]
    options = Options(smoke=True, shard="1/3", out=PurePosixPath("a b"), seeds=9)
    assert shlex.split(again("tuning", options))[4:] == [
        *("--resume", "--smoke", "--shard", "1/3", "--out", "a b", "--seeds", "9")
    ]


def test_ctrl_c_leaves_a_directory_and_the_command_that_goes_on(
    call, as_demo, finished, tmp_path, cache
):
    running = process(cache, "demo", "--smoke", "--out", str(tmp_path), wait=0.3)
    folder = tmp_path / "small" / finished.name
    deadline = time.monotonic() + 120
    while not (folder / "tuning-0000.npz").exists():
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    _, stderr = running.communicate(timeout=60)
    assert running.returncode == 128 + signal.SIGINT
    (line,) = stderr.splitlines()
    assert re.search(
        r"interrupted while tuning \w+, after \d+ of 24 runs ?; go on", line
    )
    assert 1 <= assert_whole(folder, finished) < len(small.PIECES)
    assert list(folder.glob(".*")) == []
    found = re.search(r"go on with: (.*)\. No file is left half-written\.$", line)
    assert found is not None
    words = shlex.split(found[1])
    assert Path(words[0]).resolve() == Path(sys.executable).resolve()
    assert words[1:4] == ["-m", "experiments", "demo"]
    status, _, told = call(*words[3:])
    assert (status, told) == (0, [])
    assert_same(folder, finished)


def test_a_full_disk_is_one_line_and_a_run_to_go_on_with(
    call, as_demo, finished, tmp_path, cache
):
    manifest, piece = (
        (finished / name).stat().st_size for name in ("manifest.json", "final-0000.npz")
    )
    others = max(p.stat().st_size for p in finished.glob("tuning*.npz"))
    largest = (others + piece) // 2
    assert manifest < others < largest < piece
    # Nothing is cached, as what is compiled is larger than that, too.
    arguments = ("demo", "--smoke", "--out", str(tmp_path))
    full = process(None, *arguments, largest=largest)
    stdout, stderr = full.communicate(timeout=120)
    assert full.returncode == 1, stderr
    (line,) = stderr.splitlines()
    assert os.strerror(errno.EFBIG) in line
    assert "--resume goes on" in line
    folder = tmp_path / "small" / finished.name
    assert assert_whole(folder, finished) == 6
    assert list(folder.glob(".*")) == []
    assert call("demo", "--smoke", "--resume", "--out", tmp_path)[0] == 0
    assert_same(folder, finished)


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_a_mistake_in_a_process_of_its_own(encoding):
    answer = subprocess.run(
        [sys.executable, "-W", "error", "-m", "experiments", "demo", "--smok"],
        cwd=small.ROOT,
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        text=True,
        timeout=120,
    )
    told = answer.stderr.splitlines()
    line = refused((answer.returncode, answer.stdout, told), "--smok")
    assert line == (
        "experiments: python -m experiments demo does not take --smok. Do you mean "
        "--smoke? See python -m experiments demo --help."
    )


# --- Jobs -------------------------------------------------------------------------


def _has_submitit() -> bool:
    try:
        import submitit  # noqa: F401
    except ModuleNotFoundError:
        return False
    return True


def job(out: Path, index: int, count: int, killed: Path | None) -> int:
    """A shard of the first stage; where `killed` is named, its first life is short."""
    from experiments.engine import store as stores, study as engine
    from experiments.terminal import SILENT

    if killed is not None and not killed.exists():
        save = stores.save

        def last(*rest):
            save(*rest)
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)

        stores.save = last
    study = small.study(small.SMOKE)
    study = study._replace(stages=study.stages[:1])
    shard = engine.Shard(index, count)
    _, missing = engine.run(study, out, "made by a job", SILENT, shard=shard)
    return 3 if missing else 0


@pytest.mark.skipif(not _has_submitit(), reason="needs submitit")
def test_a_job_that_is_killed_is_started_again(
    tmp_path, finished, cache, monkeypatch, capsys
):
    from experiments.engine import launch

    monkeypatch.setenv("PYTHONPATH", f"{TESTS}{os.pathsep}{small.ROOT}")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(cache))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    monkeypatch.setattr(launch, "SECONDS_BETWEEN_LOOKS", 0.05)
    killed = tmp_path / "killed"
    work = [
        functools.partial(job, tmp_path, 0, 2, killed),
        functools.partial(job, tmp_path, 1, 2, None),
    ]
    queue = launch.Queue("local", None, 5)
    launch.launch_shards(work, tmp_path / "jobs", queue, retries=1, done=0)
    assert killed.exists()
    assert "shard 0 failed" in capsys.readouterr().out
    folder = tmp_path / "small" / finished.name
    assert assert_whole(folder, finished) == 6
    assert list(folder.glob(".*")) == []


class Never:
    """An executor of jobs that end as a test says."""

    def __init__(self, error=None, finished=True):
        self.error, self.finished, self.started, self.looks = error, finished, 0, 0
        self.cancelled = False
        self.paths = self
        self.stderr = "jobs/7.err"

    def batch(self):
        import contextlib

        return contextlib.nullcontext()

    def submit(self, work):
        self.started += 1
        return self

    def cancel(self):
        self.cancelled = True

    def done(self):
        self.looks += 1
        assert self.looks < 20, "waited on"
        return self.finished

    def exception(self):
        return self.error

    def result(self):
        return 0


@pytest.fixture
def launched(monkeypatch):
    from experiments.engine import launch

    def run(executor, retries):
        monkeypatch.setattr(launch, "_executor", lambda *_: executor)
        monkeypatch.setattr(launch, "SECONDS_BETWEEN_LOOKS", 0)
        queue = launch.Queue("local", None, 1)
        launch.launch_shards([lambda: 0], Path("jobs"), queue, retries, 0)

    return run


def test_a_job_that_fails_again_and_again_ends_the_launch(launched):
    from experiments.problem import Problem

    executor = Never(RuntimeError("Traceback\n\nValueError: no such thing"))
    with pytest.raises(Problem, match=r"shard 0 failed 3 times.*no such.*7\.err"):
        launched(executor, retries=2)
    assert executor.started == 3


def test_ctrl_c_ends_a_launch(launched, monkeypatch):
    from experiments import interrupts

    monkeypatch.setattr(interrupts, "_received", [signal.SIGINT])
    executor = Never(finished=False)
    with pytest.raises(interrupts.Interrupted):
        launched(executor, retries=2)
    assert executor.cancelled
