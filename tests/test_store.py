"""A results directory: whole files, whoever is killed; and nothing that is not its own.

The study here is a regression line, which compiles in a second. `test_engine.py` and
`test_commands.py` use it, too; processes of their own import it by this file's name.
"""

import dataclasses
import functools
import gc
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest


ROOT = Path(__file__).parents[1]
pytestmark = [
    pytest.mark.needs_extras,
    pytest.mark.relaxed("scale_by_adam; the experiments run under JAX's defaults"),
]


# --- The small study --------------------------------------------------------------


class Points(NamedTuple):
    x: Any  # float32[N, 4]
    y: Any  # float32[N]


def points(count: int = 32) -> Points:
    x = np.linspace(-1, 1, count * 4, dtype=np.float32).reshape(4, count).T
    return Points(np.sin(x * np.arange(1, 5, dtype=np.float32)), x[:, 0])


def mask(params: dict[str, Any]) -> dict[str, bool]:
    return {name: name != "bias" for name in params}


def kept(params: dict[str, Any]) -> dict[str, Any]:
    return dict(params)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """Least squares; `idle` are weights that no loss depends on."""

    data: Callable[[], Points] = points
    batch: int = 8

    def load(self) -> Points:
        return self.data()

    def task(self):
        from experiments.engine.plan import Task

        def loss(params, rows, part, data):
            y = data.x[rows] @ params["weight"] + params["bias"]
            return jnp.mean((y - data.y[rows]) ** 2)

        def init(cell):
            weight = jnp.sin(cell["seed"] + jnp.arange(4.0))
            return {"weight": weight, "bias": jnp.zeros(()), "idle": 1 + weight[:2]}

        def measure(params, part, data):
            value = loss(params, jnp.arange(len(data.y)), part, data)
            score = 1 / (1 + value)
            return {"val_accuracy": score, "test_accuracy": score, "train_loss": value}

        steps = 32 // self.batch
        return Task(
            init=init,
            part=lambda cell, data: None,
            batches=lambda seed, epoch, data: (
                (jnp.arange(32).reshape(steps, self.batch) * 5 + seed + epoch) % 32
            ),
            loss=loss,
            measure=measure,
            mask=mask,
            steps_per_epoch=steps,
            chance={"val_accuracy": 0.0, "test_accuracy": 0.0},
        )


def sgd_l2(cell, eta, mask):
    from experiments import arms

    return arms.sgd_l2(cell, eta, mask)


def sgdw(cell, eta, mask):
    from experiments import arms

    return arms.sgdw(cell, eta, mask)


ARMS = {"sgd_l2": sgd_l2, "sgdw": sgdw}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    learning_rates: tuple[float, ...] = (0.01, 0.03, 0.1)
    weight_decays: tuple[float, ...] = (0.0, 0.1, 1.0)
    final_seeds: int = 5
    chunk: int = 4
    recipe: Line = Line()


FULL = SMOKE = Plan()


def study(plan: Plan):
    """Per arm nine cells in three pieces; the winner on five seeds; a measurement."""

    from experiments import cells
    from experiments.engine.chunks import Piece
    from experiments.engine.plan import Block, cosine, grid, Static
    from experiments.engine.study import Stage, Study

    def block(stage, arm, cells, keep=None):
        static = Static(plan.recipe, ARMS[arm], 2, 1, cosine)
        return Block({"stage": stage, "arm": arm}, static, cells, keep)

    axes = {"learning_rate": plan.learning_rates, "weight_decay": plan.weight_decays}
    grids = [block("tuning", arm, grid(**axes, seed=[0])) for arm in ARMS]

    def finals(table):
        mine = cells.where(table, arm="sgdw")
        best = {name: [mine[name][mine["val_accuracy"].argmax()]] for name in axes}
        fresh = grid(**best, seed=range(1, 1 + count))
        return [block("final", "sgdw", fresh, kept)]

    def measurement(table):
        def make(shop, bar):
            bar.advance(1)
            return {"mean": np.mean(table["train_loss"])}

        return [Piece("mean", 1, make, {})]

    count = plan.final_seeds
    stages = (
        Stage("tuning", 18, lambda _: grids),
        Stage("final", count, finals),
        Stage("measured", 1, measurement),
    )
    return Study("small", plan, stages, write_report)


PIECES = [*(f"tuning-{i:04d}" for i in range(6)), "final-0000", "final-0001", "mean"]
RUNS = 18 + 5 + 1


def write_report(folder: Path) -> str:
    from experiments import cells, files

    table = cells.read(folder / "cells.csv")
    files.write_text(folder / "report.md", f"{len(table['seed'])} runs\n")
    return "Verdict. None."


# --- Runs of it, here and in processes of their own --------------------------------


def run(out: Path, plan: Plan = SMOKE, **options):
    """The folder, and what is missing."""
    from experiments.engine import study as engine
    from experiments.terminal import SILENT

    return engine.run(study(plan), out, "made by a test", SILENT, **options)


def run_and_be_killed(out: Path, piece: int, share: float) -> None:
    """Write a share of the bytes of the file of a piece, and no more in this life."""
    written = []
    as_it_should_be = np.savez_compressed

    def write(file, **arrays):
        as_it_should_be(file, **arrays)
        written.append(file)
        if len(written) > piece:
            file.flush()
            file.truncate(int(share * file.tell()))
            os.kill(os.getpid(), signal.SIGKILL)

    np.savez_compressed = write
    run(out, resume=True)


def run_slowly(out: Path) -> None:
    """Some time at every report of progress, to be killed in."""
    from experiments.engine import study as engine
    from experiments.engine.chunks import Bar

    def wait(_):
        time.sleep(0.02)

    engine.run(study(SMOKE), out, "made by a test", Bar(wait, wait, wait))


def start(code: str, cache: Path | None) -> subprocess.Popen:
    """Python code in a process of its own, with this folder's modules at hand."""
    paths = [str(ROOT), str(Path(__file__).parent)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    if cache is not None:
        environment |= {
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Where processes find what others have compiled."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def shop():
    from experiments.engine import workshop

    return workshop.workshop()


@pytest.fixture(scope="module")
def finished(tmp_path_factory, shop):
    """A finished directory, which nobody may change."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.engine.workshop.workshop", lambda: shop)
        folder, missing = run(tmp_path_factory.mktemp("finished"))
    assert missing is None
    return folder


@pytest.fixture
def quick(finished, shop, monkeypatch):
    """Runs of this test use what has been compiled before."""
    monkeypatch.setattr("experiments.engine.workshop.workshop", lambda: shop)


@pytest.fixture
def copy(finished, tmp_path, quick):
    """A finished directory of one's own, where `run(tmp_path)` looks for it."""
    folder = tmp_path / finished.parent.name / finished.name
    shutil.copytree(finished, folder)
    return folder


def contents(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """Every piece, but for what it says of its making."""
    found = {}
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as stored:
            found[path.stem] = {n: stored[n] for n in stored.files if n != "origin"}
    return found


def assert_same(folder: Path, other: Path) -> None:
    """Equal to the last bit, and the tables to the last byte."""
    ours, theirs = contents(folder), contents(other)
    assert list(ours) == list(theirs)
    for piece, arrays in theirs.items():
        assert list(ours[piece]) == list(arrays)
        for name, array in arrays.items():
            assert ours[piece][name].dtype == array.dtype
            np.testing.assert_array_equal(ours[piece][name], array, f"{piece} {name}")
    cells = "cells.csv"
    assert (folder / cells).read_bytes() == (other / cells).read_bytes()
    assert list(folder.glob(".*")) == []


# --- What a directory holds -------------------------------------------------------


def test_a_finished_directory(finished):
    from experiments import cells

    names = {path.name for path in finished.iterdir()}
    assert names == {*(f"{p}.npz" for p in PIECES), "manifest.json", "cells.csv"}
    arrays = contents(finished)
    widths = [len(arrays[p]["diverged_at"]) for p in PIECES[:-1]]
    assert widths == [4, 4, 1, 4, 4, 1, 4, 1]  # what fills a chunk up is dropped
    assert arrays["tuning-0002"]["measure/train_loss"].shape == (1, 2)
    assert arrays["final-0000"]["keep/weight"].shape == (4, 4)
    table = cells.read(finished / "cells.csv")
    assert len(table["seed"]) == 23
    assert table["arm"].tolist() == ["sgd_l2"] * 9 + ["sgdw"] * 14
    assert table["learning_rate"][:9].tolist() == [0.01] * 3 + [0.03] * 3 + [0.1] * 3
    assert table["seed"][-5:].tolist() == [1, 2, 3, 4, 5]
    last = [arrays[p]["measure/train_loss"][:, -1] for p in PIECES[:-1]]
    written = table["train_loss"].astype(np.float32)
    np.testing.assert_array_equal(written, np.concatenate(last))
    manifest = json.loads((finished / "manifest.json").read_text())
    assert manifest["hash"] == finished.name
    assert (manifest["runs"], manifest["pieces"]) == (23, 9)
    assert manifest["cells side by side"] == [4]
    assert len(manifest["made by"]) == 1
    assert set(manifest["data"]) == {"test_store.points"}


def test_progress_counts_every_run_once(tmp_path, quick):
    from experiments.engine import study as engine
    from experiments.engine.chunks import Bar

    steps = []
    bar = Bar(lambda _: None, steps.append, lambda _: None)
    for _ in range(2):  # made, then found
        steps.clear()
        engine.run(study(SMOKE), tmp_path, "", bar, resume=True)
        assert sum(steps) == study(SMOKE).runs == RUNS


# --- Going on ---------------------------------------------------------------------


@pytest.mark.parametrize("there", range(len(PIECES)))
def test_going_on_from_every_boundary_gives_the_same_bits(
    there, copy, finished, tmp_path
):
    (copy / "cells.csv").unlink()
    for piece in PIECES[there:]:
        (copy / f"{piece}.npz").unlink()
    left = {path: path.stat().st_mtime_ns for path in copy.glob("*.npz")}
    assert run(tmp_path, resume=True) == (copy, None)
    assert_same(copy, finished)
    assert {path: path.stat().st_mtime_ns for path in left} == left  # and no more


def test_going_on_fills_a_hole(copy, finished, tmp_path):
    for piece in ("tuning-0001", "tuning-0005", "final-0000"):
        (copy / f"{piece}.npz").unlink()
    run(tmp_path, resume=True)
    assert_same(copy, finished)


def test_shards_make_every_piece_once_and_the_same(tmp_path, finished, quick):
    from experiments.engine.study import Missing, Shard

    first, second = Shard(0, 2), Shard(1, 2)
    folder, missing = run(tmp_path, shard=first)
    assert missing == Missing("tuning", 3)
    assert sorted(contents(folder)) == ["tuning-0000", "tuning-0002", "tuning-0004"]
    assert run(tmp_path, shard=first)[1] == missing  # and nothing that is another's
    assert len(contents(folder)) == 3
    _, missing = run(tmp_path, shard=second)
    assert missing == Missing("final", 1)
    assert sorted(contents(folder)) == ["final-0001", *PIECES[:6]]
    assert not (folder / "cells.csv").exists()
    assert run(tmp_path, shard=first) == (folder, None)
    assert_same(folder, finished)
    assert run(tmp_path, shard=second) == (folder, None)


def test_more_shards_than_pieces(tmp_path, finished, quick):
    from experiments.engine.study import Shard

    for _ in study(SMOKE).stages:
        for index in range(7):
            folder, missing = run(tmp_path, shard=Shard(index, 7))
    assert missing is None
    assert_same(folder, finished)


@pytest.mark.parametrize("text", ["0/4", "3/4", "0/1"])
def test_a_shard(text):
    from experiments.engine.study import parse_shard

    assert "/".join(map(str, parse_shard(text))) == text


@pytest.mark.parametrize(
    "text", ["4/4", "-1/4", "1", "1/", "/2", "0/0", "a/b", "1/2/3"]
)
def test_no_shard(text):
    from experiments.engine.study import parse_shard
    from experiments.problem import Problem

    with pytest.raises(Problem, match=r"write i/n with 0 <= i < n") as error:
        parse_shard(text)
    assert f"--shard {text}:" in str(error.value)


# --- Killed -----------------------------------------------------------------------


def assert_whole(folder: Path, reference: Path) -> int:
    """Every file that has a name of its own is whole; how many there are."""
    found, whole = contents(folder), contents(reference)
    for piece, arrays in found.items():
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, whole[piece][name])
    manifest = folder / "manifest.json"
    assert not manifest.exists() or json.loads(manifest.read_text())
    return len(found)


def test_killed_amid_a_write(tmp_path, finished, quick, cache):
    code = f"import pathlib, test_store; out = pathlib.Path({str(tmp_path)!r}); "
    process = start(code + "test_store.run_and_be_killed(out, 4, 0.5)", cache)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, stderr
    folder = tmp_path / "small" / finished.name
    assert assert_whole(folder, finished) == 4
    (half,) = folder.glob(".*.part")  # what the killed one was writing
    assert half.name.startswith(".tuning-0004.npz.")
    assert half.stat().st_size > 100
    run(tmp_path, resume=True)
    assert_same(folder, finished)


def test_killed_at_any_moment(tmp_path, finished, quick, cache):
    code = f"import pathlib, test_store; out = pathlib.Path({str(tmp_path)!r}); "
    process = start(code + "test_store.run_slowly(out)", cache)
    folder = tmp_path / "small" / finished.name
    deadline = time.monotonic() + 120
    while not (folder / "tuning-0000.npz").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    moment = random.uniform(0, 0.5)
    time.sleep(moment)
    process.kill()
    process.communicate(timeout=60)
    assert assert_whole(folder, finished) >= 1, moment
    run(tmp_path, resume=True)
    assert_same(folder, finished)


def test_what_dead_processes_left_goes_and_what_the_living_write_stays(copy, tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = platform.node() or "here"
    names = {
        f".final-0000.npz.{host}-{dead.pid}.part": False,
        f".cells.csv.{host}-{dead.pid}.part": False,
        f".final-0000.npz.{host}-{os.getpid()}.part": True,
        f".final-0000.npz.other-{host}x-{dead.pid}.part": True,  # another machine's
        f".final-0000.npz.other-{dead.pid}.part": True,
        ".notes": True,
    }
    for name in names:
        (copy / name).write_text("half")
    run(tmp_path, resume=True)
    assert {name: (copy / name).exists() for name in names} == names


# --- Not its own, or damaged ------------------------------------------------------


def problem_of(out: Path, *words: str, resume: bool = True, plan: Plan = SMOKE) -> str:
    """The one line that a run ends in."""
    from experiments.problem import Problem

    with pytest.raises(Problem) as error:
        run(out, plan, resume=resume)
    text = str(error.value)
    assert "\n" not in text
    for word in words:
        assert word in text
    return text


def test_a_folder_of_something_else(tmp_path, finished, quick):
    folder = tmp_path / "small" / finished.name
    folder.mkdir(parents=True)
    (folder / "thesis.tex").write_text("years of work")
    problem_of(tmp_path, str(folder), "holds files but no manifest.json", "--out")
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]


def test_a_folder_with_hidden_files_only_is_free(tmp_path, finished, quick):
    folder = tmp_path / "small" / finished.name
    folder.mkdir(parents=True)
    (folder / ".gitignore").write_text("*")
    assert run(tmp_path) == (folder, None)


def test_a_directory_that_has_been_begun(copy, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in copy.iterdir()}
    words = (str(copy), "has been begun", "--resume", "delete it")
    problem_of(tmp_path, *words, resume=False)
    assert {path: path.stat().st_mtime_ns for path in copy.iterdir()} == before


def change_manifest(folder: Path, **values: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_another_plan_has_another_directory(copy, tmp_path):
    other = dataclasses.replace(SMOKE, learning_rates=(0.01, 0.03))
    folder, _ = run(tmp_path, other)
    assert folder.parent == copy.parent
    assert folder != copy


def test_the_directory_of_another_plan(copy, tmp_path):
    change_manifest(copy, hash="0123456789ab", study="other")
    words = ("belongs to another plan", "other 0123456789ab", copy.name, "--out")
    problem_of(tmp_path, str(copy), *words)
    assert len(contents(copy)) == 9


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"format": 1, "stu', ("is damaged", "delete the directory")),
        ("", ("is damaged", "delete the directory")),
        ("[1, 2]", ("is no manifest of a study", "format, hash, study")),
        ('["format", "study", "hash"]', ("manifest",)),
        ("null", ("is no manifest of a study", "format, hash, study")),
        ('"format study hash"', ("is no manifest of a study",)),
        ('{"format": 1}', ("is no manifest of a study", "it lacks hash, study")),
        ('{"format": 7, "study": "small", "hash": ""}', ("format 7", "reads 1")),
        ("\xff\xfe", ("is damaged", "delete the directory")),
    ],
)
def test_a_damaged_manifest(text, words, copy, tmp_path):
    (copy / "manifest.json").write_bytes(text.encode("latin1"))
    problem_of(tmp_path, str(copy / "manifest.json"), *words)
    assert len(contents(copy)) == 9


@pytest.mark.parametrize(
    ("key", "part", "value"),
    [
        ("versions", "jax", "0.0.1"),
        ("versions", "decayax", "9"),
        ("device", "count", 64),
        ("device", "kind", "abacus"),
        ("data", "test_store.points", "0" * 64),
    ],
)
def test_what_the_bits_depend_on(key, part, value, copy, tmp_path):
    stored = json.loads((copy / "manifest.json").read_text())
    now = stored[key][part]
    change_manifest(copy, **{key: {**stored[key], part: value}})
    words = (f"with other {key}", f"{part} {value}, now {now}", "--out")
    problem_of(tmp_path, str(copy), *words)


def test_a_manifest_that_does_not_say_what_the_bits_depend_on(copy, tmp_path):
    change_manifest(copy, device=None)
    problem_of(tmp_path, "with other device", "None, now")


def truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


def emptied(data: bytes) -> bytes:
    return b""


def no_archive(data: bytes) -> bytes:
    return b"\0" * len(data)


@pytest.mark.parametrize("change", [truncated, emptied, no_archive])
@pytest.mark.parametrize("piece", ["tuning-0002", "mean"])
def test_a_damaged_piece(change, piece, copy, finished, tmp_path):
    path = copy / f"{piece}.npz"
    path.write_bytes(change(path.read_bytes()))
    problem_of(tmp_path, str(path), "is damaged", "delete this file", "--resume")
    gc.collect()  # a file left open would be a warning
    path.unlink()
    run(tmp_path, resume=True)
    assert_same(copy, finished)


def test_a_flipped_byte_is_seen_or_without_effect(copy, tmp_path):
    from experiments.engine import store as stores
    from experiments.engine.chunks import Piece
    from experiments.problem import Problem

    path = copy / "tuning-0002.npz"
    whole, told = path.read_bytes(), []
    expected = contents(copy)["tuning-0002"]
    cells = {n: x for n, x in expected.items() if n.startswith(("cell/", "label/"))}
    store = stores.Store(copy, copy.name)
    piece = Piece("tuning-0002", 1, lambda shop, bar: {}, cells)
    for place in range(0, len(whole), 7):
        path.write_bytes(
            whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :]
        )
        try:
            found = stores.load(store, piece)
        except Problem as problem:
            told.append(str(problem))
        else:
            for name, array in expected.items():
                np.testing.assert_array_equal(found[name], array, f"{place} {name}")
    assert len(told) > len(whole) / 7 / 2
    assert all(str(path) in text and "\n" not in text for text in told)


def test_a_piece_of_another_plan(copy, tmp_path):
    other = dataclasses.replace(SMOKE, final_seeds=6)
    foreign, _ = run(tmp_path / "other", other)
    name = "tuning-0000.npz"  # the same cells
    shutil.copy(foreign / name, copy / name)
    words = ("belongs to another plan", "delete this file", "--resume")
    problem_of(tmp_path, str(copy / name), *words)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("tuning-0001", "cell/learning_rate"),  # other numbers
        ("tuning-0003", "label/arm"),  # another arm's
        ("tuning-0002", "cell/learning_rate"),  # more of them
    ],
)
def test_a_piece_with_other_cells(path, name, copy, tmp_path):
    shutil.copy(copy / "tuning-0000.npz", copy / f"{path}.npz")
    words = (f"other cells than the plan ({name})", "delete this file", "--resume")
    problem_of(tmp_path, str(copy / f"{path}.npz"), *words)


def test_a_piece_without_the_name_of_its_plan(copy, tmp_path):
    path = copy / "tuning-0000.npz"
    with np.load(path) as stored:
        arrays = {n: stored[n] for n in stored.files if n != "plan"}
    np.savez(path, **arrays)
    problem_of(tmp_path, str(path), "belongs to another plan")


def test_a_report_of_damaged_pieces_is_one_line(copy):
    from experiments.engine.store import read_pieces
    from experiments.problem import Problem

    assert len(read_pieces(copy, "final")) == 2
    with pytest.raises(Problem, match=r"holds no shrink\*\.npz"):
        read_pieces(copy, "shrink")
    path = copy / "final-0001.npz"
    path.write_bytes(truncated(path.read_bytes()))
    with pytest.raises(Problem, match="is damaged"):
        read_pieces(copy, "final")


def test_two_that_begin_at_once(tmp_path, finished, quick, monkeypatch):
    from experiments.engine.study import Missing, Shard

    # The other shard writes the manifest after this one has looked for it.
    folder, look = tmp_path / "small" / finished.name, Path.exists
    looked = []

    def exists(path, **options):
        found = look(path, **options)
        if path == folder / "manifest.json" and not looked:
            looked.append(path)
            assert not found
            run(tmp_path, shard=Shard(0, 2))
        return found

    monkeypatch.setattr(Path, "exists", exists)
    assert run(tmp_path, shard=Shard(1, 2)) == (folder, Missing("final", 1))


# --- The hash of a plan -----------------------------------------------------------

OTHERS = {
    "learning_rates": (0.01, 0.03, 0.1 + 1e-9),
    "weight_decays": (0.0, 0.1, 2.0),
    "final_seeds": 6,
    "chunk": 5,
    "recipe": Line(batch=16),
}


@pytest.mark.parametrize("field", OTHERS)
def test_the_hash_changes_with_every_field_of_the_plan(field):
    from experiments.engine.study import hash_of

    assert set(OTHERS) == {f.name for f in dataclasses.fields(Plan)}
    other = dataclasses.replace(SMOKE, **{field: OTHERS[field]})
    assert hash_of(study(other)) != hash_of(study(SMOKE))


def test_the_hash_changes_with_what_a_block_is(monkeypatch):
    from experiments.engine import plan as plans
    from experiments.engine.study import hash_of

    blocks = study(SMOKE).stages[0].make({})
    hashes = {hash_of(study(SMOKE))}
    block, static = blocks[0], blocks[0].static
    more = functools.partial(points, 32)
    others = [
        block._replace(labels={"stage": "tuning", "arm": "another"}),
        block._replace(cells=block.cells[::-1]),
        block._replace(cells=block.cells[:-1]),
        block._replace(keep=kept),
        *(
            block._replace(static=static._replace(**{name: value}))
            for name, value in {
                "recipe": Line(data=more),
                "chain": sgdw,
                "epochs": 4,
                "epochs_per_segment": 2,
                "schedule": plans.constant,
            }.items()
        ),
    ]
    for other in others:
        first = (
            study(SMOKE)
            .stages[0]
            ._replace(make=lambda _, other=other: [other, *blocks[1:]])
        )
        changed = study(SMOKE)._replace(stages=(first, *study(SMOKE).stages[1:]))
        hashes.add(hash_of(changed))
    assert len(hashes) == 1 + len(others)
    assert hash_of(study(SMOKE)._replace(name="other")) not in hashes
