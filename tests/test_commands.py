"""The command line: what it prints, and which files it leaves when it ends early.

`call` runs a command in this process. Tests that need a subprocess replace the demo by
the small study of `test_store.py`.
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
import simulated
import test_store as small
from test_store import (
    assert_complete,
    assert_same,
    cache as cache,
    contents,
    files_of,
    finished as finished,
    start,
    temporary_files,
)


pytestmark = [
    pytest.mark.needs_extras,
    pytest.mark.relaxed("scale_by_adam; the experiments run under JAX's defaults"),
]
TESTS = Path(__file__).parent


# --- The small study instead of the demo ------------------------------------------


def command(arguments: list[str], wait: float) -> None:
    """Run `python -m experiments` with the small study; wait after each file."""
    from experiments import __main__, running
    from experiments.engine import store as stores

    save = stores.save

    def save_and_wait(*rest):
        arrays = save(*rest)
        time.sleep(wait)
        return arrays

    stores.save = save_and_wait
    running.study_module = lambda name: small
    sys.argv = ["experiments", *arguments]
    __main__.main()


def process(*arguments: str, wait: float = 0.0):
    """Start a command in a subprocess, with the compilation cache of its study."""
    call = f"{list(arguments)!r}, {wait!r}"
    return start(f"import test_commands as t; t.command({call})", None)


@pytest.fixture
def call(monkeypatch, capsys):
    """Run a command here. Return its exit status, its output and its error lines."""

    def run(*arguments):
        from experiments.__main__ import main

        monkeypatch.setattr("experiments.interrupts.install_handlers", lambda: None)
        # JAX's cache belongs to the process, so it would change other tests.
        monkeypatch.setattr(
            "experiments.engine.persistent_cache.use_persistent_cache",
            lambda folder: None,
        )
        monkeypatch.setattr(sys, "argv", ["experiments", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        code, printed = end.value.code, capsys.readouterr()
        errors = printed.err.splitlines()
        if isinstance(code, str):
            code, errors = 1, [*errors, *code.splitlines()]
        return code or 0, printed.out, errors

    return run


@pytest.fixture
def as_demo(monkeypatch, cache, finished):
    """The small study instead of the demo, with programs that are compiled already."""
    monkeypatch.setattr("experiments.running.study_module", lambda name: small)
    monkeypatch.setattr("experiments.engine.compilation_cache.new_cache", lambda: cache)


def refused(answer, *words):
    """Assert that a command ended with one line and no output; return the line."""
    status, out, lines = answer
    assert status == 1, (status, lines)
    assert out == ""
    (line,) = lines
    assert line.startswith("experiments: ")
    for word in words:
        assert word in line
    return line


# --- Output -----------------------------------------------------------------------


def test_list_prints_the_question_of_each_study(call):
    from experiments.study_files import STUDIES

    status, out, errors = call("list")
    assert (status, errors) == (0, [])
    lines = out.splitlines()
    first = lines.index("Benchmarks (run with python -m experiments.benchmarks.NAME):")
    assert lines[0] == "Studies (run with python -m experiments NAME):"
    assert [line.split()[0] for line in lines[1:first]] == list(STUDIES)
    names = [line.split()[0] for line in lines[first + 1 :]]
    assert names == ["aliases", "audit", "catalogue", "rules", "sweep", "wrappers"]
    entries = [*lines[1:first], *lines[first + 1 :]]
    assert {re.match(r"  \w+ +", line).end() for line in entries} == {19}
    assert all(len(line) > 40 for line in entries)


@pytest.mark.parametrize(
    "name",
    [
        "demo",
        "bf16",
        "same",
        "why",
        "tuning",
        "symmetry",
        "strength",
        "transformer",
        "which_parameters",
        "grokking",
        "end_of_training",
        "leaderboard",
    ],
)
def test_every_study_has_help(name, call):
    from experiments.study_files import STUDIES

    assert name in STUDIES
    status, out, errors = call(name, "--help")
    assert (status, errors) == (0, [])
    text = " ".join(out.split())
    for option in ("smoke", "dry-run", "resume", "shard", "out", "seeds", "chunk"):
        assert f"--{option}" in text
    assert "--wait" in text
    assert "--mix-revisions" in text
    assert "Run a tiny plan" in text


def test_every_other_command_has_help(call):
    for name, option in (("launch", "--retries"), ("report", "DIR")):
        status, out, errors = call(name, "--help")
        assert (status, errors) == (0, [])
        assert option.lower() in out.lower()
    status, out, _ = call("--help")
    assert status == 0
    assert all(word in out for word in ("demo", "launch", "report", "list"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("demo", "--smok"), ("--smok", "Do you mean --smoke?")),
        (("demo", "--chunk", "many"), ("--chunk", "many", "--help")),
        (("demo", "--chunk", "0"), ("--chunk 0: must be at least 1.",)),
        (("demo", "--chunk", "-3"), ("--chunk -3: must be at least 1.",)),
        (("demo", "--seeds", "3"), ("--seeds 3", "10 or more")),
        (("demo", "--seeds", "some"), ("--seeds", "some")),
        (("same", "--seeds", "8"), ("same has no final runs. Leave out --seeds.",)),
        (("demo", "--shard", "2/2"), ("--shard 2/2", "such as 0/4 or 3/4")),
        (("demo", "--shard", "first"), ("--shard first", "write I/N")),
        (("demos",), ("no study 'demos'", "mean demo?", "demo, why, tuning")),
        (("lunch", "demo"), ("no study 'lunch'", "Do you mean launch?")),
        (("nosuch",), ("no study 'nosuch'. Give one of demo, why", "path/to/study.py")),
        (("--smoke",), ("name a study first: demo, why", "--help")),
        (("demo", "why"), ("demo: unknown argument why. See", "demo --help")),
        (("list", "all"), ("list: unknown argument all.",)),
        (
            ("launch", "demo", "--shard", "0/2"),
            ("unknown argument --shard.", "mean --shards?"),
        ),
        ((), ("name a study first: demo, why", "--help")),
        (("launch", "demos"), ("no study 'demos'", "mean demo?", "demo, why")),
        (("launch", "demo", "--cluster", "moon"), ("--cluster moon", "local or slurm")),
        (("launch", "demo", "--shards", "0"), ("--shards 0: must be at least 1.",)),
        (("launch", "demo", "--chunk", "0"), ("--chunk 0",)),
        (("report",), ("required: DIR", "report --help")),
        (
            ("replicate", "results/demo/xyz"),
            ("replicate results/demo/xyz: this folder does not exist. Give a",),
        ),
        (("replicate", "/"), ("replicate /: this folder has no manifest.json.",)),
        (("replicate", "no/such.py"), ("there is no Python file no/such.py",)),
    ],
)
def test_an_error_is_one_line(arguments, words, call, tmp_path, monkeypatch):
    def nothing(*_):
        raise AssertionError("jobs were started")

    if "moon" not in arguments:
        monkeypatch.setattr("experiments.engine.launch.launch_shards", nothing)
    if "demo" in arguments:
        arguments = (*arguments, "--out", tmp_path)
    refused(call(*arguments), *words)
    assert list(tmp_path.iterdir()) in ([], [tmp_path / "demo"])
    assert list(tmp_path.rglob("*.npz")) == []


def test_a_study_with_many_contrasts_needs_more_seeds():
    from experiments.arguments import Options
    from experiments.errors import UserError
    from experiments.running import build_study

    words = "--seeds 10: use 11 or more.*the study has 27"
    with pytest.raises(UserError, match=words):
        build_study("tuning", Options(seeds=10))


def test_an_error_without_slurm_is_one_line(call, tmp_path):
    if shutil.which("srun") or not _has_submitit():
        pytest.skip("needs submitit, and no SLURM")
    arguments = ("launch", "demo", "--smoke", "--out", tmp_path)
    refused(call(*arguments), "--cluster slurm")


def test_launch_without_submitit_names_the_group(call, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    arguments = ("launch", "demo", "--smoke", "--cluster", "local", "--out", tmp_path)
    refused(call(*arguments), "pip install --group cluster")


def test_a_report_needs_a_results_directory(call, tmp_path):
    missing = tmp_path / "nowhere"
    refused(call("report", missing), str(missing), "is not a results directory")
    refused(call("report", tmp_path), str(tmp_path), "it has no manifest.json")
    (tmp_path / "manifest.json").write_text('{"format": 2')
    refused(call("report", tmp_path), "manifest.json is damaged")
    (tmp_path / "manifest.json").write_text('{"start_url": "/"}')
    refused(call("report", tmp_path), "is not the manifest of a study")


def test_a_report_of_an_unfinished_run_prints_the_resume_command(
    call, as_demo, finished, tmp_path
):
    folder = tmp_path / "started"
    shutil.copytree(finished, folder)
    (folder / "cells.csv").unlink()
    refused(
        call("report", folder),
        str(folder),
        "is not finished. Resume it with: ",
        "--resume",
    )


def test_a_report_is_written_again(call, as_demo, finished, tmp_path):
    folder = tmp_path / "whole"
    shutil.copytree(finished, folder)
    status, out, errors = call("report", folder)
    assert (status, errors) == (0, [])
    assert out == f"Verdict. None, so far.\n\n  {folder / 'report.md'}\n"
    assert "23 runs\n" in (folder / "report.md").read_text()


# --- Runs -------------------------------------------------------------------------


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_dry_run_writes_nothing(call, as_demo, finished, tmp_path):
    arguments = ("demo", "--smoke", "--dry-run", "--out", tmp_path)
    status, out, errors = call(*arguments)
    assert (status, errors) == (0, [])
    assert list(tmp_path.iterdir()) == []
    folder = tmp_path / "small" / finished.name
    for words in (
        f"small, plan {finished.name}: at most 23 runs, 4 in parallel on 2 x",
        "stage tuning: at most 18 runs",
        "stage measured: measurements",
        "2 programs to compile for the stage tuning; 0 of its 18 different cells",
        "data test_store.points: found",
        f"results in {folder}: does not exist yet",
    ):
        assert words in out
    shutil.copytree(finished.parent, folder.parent)
    damaged = files_of(folder)[0]
    damaged.write_bytes(damaged.read_bytes()[:100])
    before = times(tmp_path)
    out = call(*arguments)[1]
    assert "14 of its 18 different cells are stored" in out
    assert out.endswith(f"{folder}: not finished\n")
    assert times(tmp_path) == before
    (folder / "report.md").write_text("")
    assert call(*arguments)[1].endswith(f"{folder}: finished\n")
    grown = call(*arguments, "--seeds", "20")[1]
    assert "38 runs" in grown
    assert "14 of its 18" in grown
    assert "does not exist yet" in grown


def test_a_finished_run_prints_its_verdict_again(call, as_demo, finished, tmp_path):
    arguments = ("demo", "--smoke", "--out", tmp_path)
    folder = tmp_path / "small" / finished.name
    status, out, errors = call(*arguments)
    assert (status, errors) == (0, [])
    assert out.startswith(
        f"small: at most 23 runs into {folder}\nloading the data: 0 of 23 "
    )
    assert "\ntuning sgd_l2: 0 of 23 runs, 0 diverged\nfinal sgdw: 18 of" in out
    assert "runs, 0 diverged\nVerdict. None, so far.\n" in out
    assert_same(folder, finished)
    before = times(tmp_path)
    for options in ([], ["--resume"], ["--shard", "1/2"]):
        status, out, errors = call(*arguments, *options)
        assert (status, errors) == (0, [])
        assert out == f"Verdict. None, so far.\n\n  {folder / 'report.md'}\n"
    assert times(tmp_path) == before


@pytest.mark.parametrize(
    ("key", "name"),
    [("versions", "jax"), ("device", "count"), ("code", "experiments.arms")],
)
def test_a_finished_run_with_another_provenance_is_reported(
    key, name, call, as_demo, finished, tmp_path
):
    shutil.copytree(finished.parent, tmp_path / "small")
    folder = tmp_path / "small" / finished.name
    (folder / "report.md").write_text("**Verdict.** None.")
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"data": {"moved": "0"}}))
    arguments = ("demo", "--smoke", "--out", tmp_path)
    assert call(*arguments)[1].startswith("Verdict.")  # the data are not compared
    path.write_text(json.dumps(manifest | {key: {**manifest[key], name: "0"}}))
    status, out, _ = call(*arguments)
    assert status == 0
    assert out.startswith(f"These results were made with other {key} ({name}")
    assert "pass another folder: --out DIR.\nVerdict." in out


def test_an_unfinished_run_prints_the_resume_command(call, as_demo, finished, tmp_path):
    arguments = ("demo", "--smoke", "--out", tmp_path)
    folder = tmp_path / "small" / finished.name
    shutil.copytree(finished.parent, folder.parent)
    for name in ("report.md", "cells.csv", "manifest.json"):
        (folder / name).unlink(missing_ok=True)
        status, out, (line,) = call(*arguments)
        assert status == 1
        assert out == ""
        assert f"{folder} has a run that is not finished. Resume it with: " in line
        words = shlex.split(line.rpartition("Resume it with: ")[2])
        options = ["--resume", "--smoke", "--out", str(tmp_path)]
        assert words[1:] == ["-m", "experiments", "demo", *options]
        assert call(*words[3:])[0] == 0
        assert_same(folder, finished)


def test_other_code_is_refused_without_mix_revisions(call, as_demo, finished, tmp_path):
    arguments = ("demo", "--smoke", "--out", tmp_path, "--resume")
    shutil.copytree(finished.parent, tmp_path / "small")
    folder = tmp_path / "small" / finished.name
    small.change_provenance(files_of(folder)[7], "code", **{"experiments.arms": "0"})
    status, _, (line,) = call(*arguments)
    assert status == 1
    assert "with other code (experiments.arms)" in line
    assert call(*arguments, "--mix-revisions")[0] == 0
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["mixed"] == ["code (experiments.arms)"]


def test_resuming_at_another_revision_prints_both(call, as_demo, finished, tmp_path):
    arguments = ("demo", "--smoke", "--out", tmp_path, "--resume")
    assert "There is no run to resume. A new run begins." in call(*arguments)[1]
    folder = tmp_path / "small" / finished.name
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    for started, revision in {
        ("0123456789", False): "0123456789",
        ("0123456789", True): "0123456789 with local changes",
        (None, False): "not in a git checkout",
    }.items():
        there = dict(zip(("git_revision", "git_changed"), started, strict=True))
        path.write_text(json.dumps(manifest | there))
        (folder / "cells.csv").unlink()
        status, out, errors = call(*arguments)
        assert (status, errors) == (0, [])
        words = f"Git revision when the run began: {revision}. Current revision: "
        assert words in out
    path.write_text("{")
    status, out, errors = call(*arguments)
    assert (status, errors) == (0, [])
    assert "Git revision" not in out
    assert "A new run begins" not in out
    assert "is missing or damaged. It is written again." in out


def test_a_shard_prints_the_missing_cells_and_the_resume_command(
    call, as_demo, finished, tmp_path
):
    arguments = ("demo", "--smoke", "--out", tmp_path, "--wait", "0")
    status, out, errors = call(*arguments, "--shard", "1/2")
    assert (status, errors) == (3, [])
    assert "9 cells of the stage tuning belong to other shards" in out
    words = shlex.split(out.rpartition("resume with: ")[2])
    assert words[1:4] == ["-m", "experiments", "demo"]
    shard = ["--shard", "1/2", "--wait", "0"]
    assert words[4:] == ["--resume", "--smoke", *shard, "--out", str(tmp_path)]
    assert call(*arguments, "--shard", "0/2")[0] == 3  # a chunk of the second stage
    assert call(*words[3:])[0] == 3
    assert call(*arguments, "--shard", "0/2")[0] == 0
    assert_same(tmp_path / "small" / finished.name, finished)


def test_shards_wait_a_week_and_jobs_three_minutes(
    call, as_demo, tmp_path, monkeypatch
):
    from experiments.engine import study as engine

    waited = []

    def run(study, out, command, progress, *, wait, **options):
        waited.append(wait)
        return engine.folder_of(study, out), engine.MissingCells("tuning", 1)

    def launch(work, *rest):
        for each in work:
            each()

    monkeypatch.setattr("experiments.engine.study.run", run)
    monkeypatch.setattr("experiments.engine.launch.launch_shards", launch)
    call("demo", "--smoke", "--out", tmp_path)
    call("demo", "--smoke", "--out", tmp_path, "--wait", "2")
    call("launch", "demo", "--smoke", "--out", tmp_path)
    call("launch", "demo", "--smoke", "--out", tmp_path, "--wait", "1")
    assert waited == [7 * 24 * 3600, 120, 180, 180, 60, 60]


# --- Compiled programs ------------------------------------------------------------


@pytest.fixture
def jax_options(monkeypatch):
    """The options that a test sets in JAX. They are recorded and not set."""
    import jax

    options, update = {}, jax.config.update
    update("jax_compilation_cache_dir", None)
    monkeypatch.setattr(jax.config, "update", options.__setitem__)
    monkeypatch.setattr("warnings.filterwarnings", lambda _, message: ignore(message))
    ignore = functools.partial(options.__setitem__, "ignored")
    yield options
    update("jax_compilation_cache_dir", None)


def test_a_compilation_cache_of_the_user_is_used(jax_options, tmp_path):
    import jax

    from experiments.engine import persistent_cache

    type(jax.config).update(jax.config, "jax_compilation_cache_dir", str(tmp_path))
    persistent_cache.use_persistent_cache(tmp_path / "compiled")
    assert jax_options == {}


def test_compiled_programs_are_stored_by_type_of_processor(
    jax_options, tmp_path, monkeypatch
):
    from experiments.engine import persistent_cache

    info, keys = tmp_path / "cpuinfo", []
    monkeypatch.setattr(persistent_cache, "CPU_INFO", info)
    for text in (
        "processor : 0\nflags : fpu sse avx\n\nprocessor : 1\nflags : fpu\n",
        "processor : 0\nflags : avx fpu sse\nmhz : 17\n",
        "processor : 0\nflags : fpu sse\n",
        "Features : asimd fp\n",
        "nothing known\n",
    ):
        info.write_text(text)
        keys.append(persistent_cache.processor_digest())
    info.unlink()
    keys.append(persistent_cache.processor_digest())
    assert keys[0] == keys[1]
    assert keys[-1] == keys[-2]
    assert len(set(keys)) == 4
    monkeypatch.chdir(tmp_path)
    persistent_cache.use_persistent_cache(Path("compiled"))
    place = str(tmp_path / "compiled" / keys[-1])
    assert jax_options["jax_compilation_cache_dir"] == place
    for word in ("reading", "writing"):
        message = f"Error {word} persistent compilation cache entry for 'jit_f': no"
        assert re.match(jax_options["ignored"], message)


def test_out_is_a_file(call, as_demo, tmp_path):
    path = tmp_path / "results"
    path.write_text("a file")
    status, _, (line,) = call("demo", "--smoke", "--out", path)
    assert status == 1
    assert str(path) in line
    assert path.read_text() == "a file"


def test_the_resume_command_has_the_options():
    from pathlib import PurePosixPath

    from experiments.arguments import Options
    from experiments.running import resume_command

    words = shlex.split(resume_command("demo", Options()))
    assert words[1:] == ["-m", "experiments", "demo", "--resume"]
    options = Options(smoke=True, shard="1/3", out=PurePosixPath("a b"), seeds=9)
    words = shlex.split(resume_command("tuning", options))
    shard, out, seeds = ["--shard", "1/3"], ["--out", "a b"], ["--seeds", "9"]
    assert words[4:] == ["--resume", "--smoke", *shard, *out, *seeds]


@pytest.mark.slow
def test_ctrl_c_prints_the_resume_command(call, as_demo, finished, tmp_path):
    arguments = ("demo", "--smoke", "--out", str(tmp_path))
    running = process(*arguments, wait=0.3)
    folder = tmp_path / "small" / finished.name
    deadline = time.monotonic() + 120
    while not contents(folder):
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    _, stderr = running.communicate(timeout=60)
    assert running.returncode == 128 + signal.SIGINT
    (line,) = stderr.splitlines()
    assert re.search(
        r"interrupted while tuning \w+, after \d+ of 23 runs ?; resume", line
    )
    assert 1 <= assert_complete(folder, finished) < 11
    assert temporary_files(folder) == []
    found = re.search(r"resume with: (.*)\. No file is left half-written\.$", line)
    assert found is not None
    words = shlex.split(found[1])
    assert Path(words[0]).resolve() == Path(sys.executable).resolve()
    assert words[1:4] == ["-m", "experiments", "demo"]
    # Two shards resume at the same time. A process compiles damaged programs again,
    # without a message.
    entries = list((tmp_path / "compiled").glob("*/*-cache"))
    assert [path for path in entries if path.name.startswith("jit_segment")]
    for path in entries:
        path.write_bytes(path.read_bytes()[:500])
    other = process(*words[3:], "--shard", "0/2", "--wait", "2")
    assert call(*words[3:], "--shard", "1/2", "--wait", "2")[0] == 0
    stdout, stderr = other.communicate(timeout=120)
    assert (other.returncode, stderr) == (0, "")
    assert_same(folder, finished)


@pytest.fixture
def limit_file_size():
    """Set the size of the largest file that this process can write."""
    import resource

    kind = resource.RLIMIT_FSIZE
    soft, hard = resource.getrlimit(kind)
    yield lambda size: resource.setrlimit(kind, (size, hard))
    resource.setrlimit(kind, (soft, hard))


def test_a_full_disk_is_one_line(call, as_demo, finished, tmp_path, limit_file_size):
    sizes = [path.stat().st_size for path in files_of(finished)]
    others = max(*sizes[:6], (finished / "manifest.json").stat().st_size)
    assert others < sizes[6]
    limit_file_size((others + sizes[6]) // 2)
    status, _, errors = call("demo", "--smoke", "--out", tmp_path)
    assert status == 1
    (line,) = errors
    assert os.strerror(errno.EFBIG) in line
    assert "--resume uses them" in line
    folder = tmp_path / "small" / finished.name
    assert assert_complete(folder, finished) == 6
    assert temporary_files(folder) == []


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_an_error_in_a_subprocess(encoding):
    answer = subprocess.run(
        [sys.executable, "-W", "error", "-m", "experiments", "demo", "--smok"],
        cwd=small.ROOT,
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        text=True,
        timeout=120,
    )
    errors = answer.stderr.splitlines()
    line = refused((answer.returncode, answer.stdout, errors), "--smok")
    assert line == (
        "experiments: python -m experiments demo: unknown argument --smok. Do you mean "
        "--smoke? See python -m experiments demo --help."
    )


# --- Jobs -------------------------------------------------------------------------


def _has_submitit() -> bool:
    try:
        import submitit  # noqa: F401
    except ModuleNotFoundError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.skipif(not _has_submitit(), reason="needs submitit")
def test_a_job_that_is_killed_is_started_again(tmp_path, monkeypatch, capsys):
    """The jobs of submitit train nothing: their shards are tested without submitit."""
    from experiments.engine import launch
    from experiments.exit_codes import DONE, UNFINISHED

    monkeypatch.setenv("PYTHONPATH", f"{TESTS}{os.pathsep}{small.ROOT}")
    monkeypatch.setattr(launch, "POLL_SECONDS", 0.05)
    # How long submitit waits for the result of a job that was killed.
    monkeypatch.setattr("submitit.core.core.Job._results_timeout_s", 0.2)
    # Shard 0 is killed in the first stage. It finds all cells in the second one.
    endings = [["kill", UNFINISHED, DONE], [UNFINISHED, UNFINISHED]]
    work = [
        functools.partial(simulated.run_shard, tmp_path / str(index), tuple(each))
        for index, each in enumerate(endings)
    ]
    queue = launch.Queue("local", None, 5)
    launch.launch_shards(work, tmp_path / "jobs", queue, retries=1, done=DONE)
    assert [(tmp_path / str(index)).read_text() for index in (0, 1)] == ["xxx", "xx"]
    printed = capsys.readouterr().out
    assert printed.count("Shard 0 failed (") == 1
    assert "Shard 1" not in printed


class FakeExecutor:
    """An executor whose jobs end with the given error, or never."""

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
        assert self.looks < 20, "polled too often"
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
        monkeypatch.setattr(launch, "POLL_SECONDS", 0)
        queue = launch.Queue("local", None, 1)
        launch.launch_shards([lambda: 0], Path("jobs"), queue, retries, 0)

    return run


def test_a_job_that_fails_too_often_ends_the_launch(launched):
    from experiments.errors import UserError

    executor = FakeExecutor(RuntimeError("Traceback\n\nValueError: no such thing"))
    with pytest.raises(UserError, match=r"shard 0 failed 3 times.*no such.*7\.err"):
        launched(executor, retries=2)
    assert executor.started == 3


def test_ctrl_c_ends_a_launch(launched, monkeypatch):
    from experiments import interrupts

    monkeypatch.setattr(interrupts, "_received", [signal.SIGINT])
    executor = FakeExecutor(finished=False)
    with pytest.raises(interrupts.Interrupted):
        launched(executor, retries=2)
    assert executor.cancelled
