"""A results directory: its files are complete after a crash, and no others are used.

The study here is a linear regression, which compiles in a second. `test_engine.py` and
`test_commands.py` use it, too. Subprocesses import it by the name of this file.
"""

import dataclasses
import functools
import gc
import importlib
import itertools
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
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
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


def all_params(params: dict[str, Any]) -> dict[str, Any]:
    return dict(params)


def extract_wide(params: dict[str, Any]) -> dict[str, Any]:
    """A large array, so that a chunk of the final stage is the largest file."""
    return params | {"wide": jnp.sin(params["weight"][0] + jnp.arange(4096.0))}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """Least squares. The loss does not depend on the weights `idle`."""

    data: Callable[[], Points] = points
    batch: int = 8

    def load(self) -> Points:
        return self.data()

    def task(self):
        from experiments.engine.config import stateless_task

        def loss(params, rows, run_data, data):
            y = data.x[rows] @ params["weight"] + params["bias"]
            return jnp.mean((y - data.y[rows]) ** 2)

        def init(hparams):
            weight = jnp.sin(hparams["seed"] + jnp.arange(4.0))
            return {"weight": weight, "bias": jnp.zeros(()), "idle": 1 + weight[:2]}

        def measure(params, run_data, data):
            value = loss(params, jnp.arange(len(data.y)), run_data, data)
            score = 1 / (1 + value)
            return {"val_accuracy": score, "test_accuracy": score, "train_loss": value}

        steps = 32 // self.batch
        return stateless_task(
            init=init,
            run_data=lambda hparams, data: None,
            batches=lambda seed, epoch, data: (
                (jnp.arange(32).reshape(steps, self.batch) * 5 + seed + epoch) % 32
            ),
            loss=loss,
            measure=measure,
            mask=mask,
            steps_per_epoch=steps,
            chance={"val_accuracy": 0.0, "test_accuracy": 0.0},
        )


def sgd_l2(hparams, eta, mask):
    from experiments import arms

    return arms.sgd_l2(hparams, eta, mask)


def sgdw(hparams, eta, mask):
    from experiments import arms

    return arms.sgdw(hparams, eta, mask)


def sgd_independent(hparams, eta, mask):
    from experiments import arms

    return arms.sgd_independent(hparams, eta, mask)


ARMS = {"sgd_l2": sgd_l2, "sgdw": sgdw}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    learning_rates: tuple[float, ...] = (0.01, 0.03, 0.1)
    weight_decays: tuple[float, ...] = (0.0, 0.1, 1.0)
    final_seeds: int = 5
    chunk: int = 4
    setup: Line = Line()


FULL = SMOKE = Plan()


def study(plan: Plan):
    """Nine cells of each arm in three chunks; the best on five seeds; a measurement."""
    from experiments import cells
    from experiments.engine.config import cosine, grid, StaticConfig, SweepGroup
    from experiments.engine.study import Stage, Study
    from experiments.engine.training import Measurement

    def group(stage, arm, cells, extract=None):
        config = StaticConfig(plan.setup, ARMS[arm], 2, 1, cosine, curves=True)
        return SweepGroup({"stage": stage, "arm": arm}, config, cells, extract)

    axes = {"learning_rate": plan.learning_rates, "weight_decay": plan.weight_decays}
    grids = [group("tuning", arm, grid(**axes, seed=[0])) for arm in ARMS]

    def finals(table):
        mine = cells.where(table, arm="sgdw")
        best = {name: [mine[name][mine["val_accuracy"].argmax()]] for name in axes}
        fresh = grid(**best, seed=range(1, 1 + count))
        return [group("final", "sgdw", fresh, extract_wide)]

    def measurement(table):
        def make(cache, progress):
            progress.advance(1)
            return {"mean": np.mean(table["train_loss"])}

        return [Measurement("mean", make)]

    count = plan.final_seeds
    stages = (
        Stage("tuning", sum(len(grid.cells) for grid in grids), lambda _: grids),
        Stage("final", count, finals),
        Stage("measured", 0, measurement),
    )
    return Study("small", plan, stages, write_report)


RUNS = 18 + 5


def write_report(folder: Path) -> str:
    from experiments import cells, files

    table = cells.read_csv(folder / "cells.csv")
    text = f"# Small\n\n**Verdict.** None,\nso far.\n\n{len(table['seed'])} runs\n"
    files.write_text(folder / "report.md", text)
    return "Verdict. None, so far."


# --- Runs of the small study, here and in subprocesses -----------------------------


def run(out: Path, plan: Plan = SMOKE, **options):
    """Run the small study: the folder, and the missing cells."""
    from experiments.engine import study as engine
    from experiments.terminal import SILENT

    return engine.run(study(plan), out, "made by a test", SILENT, **options)


def run_and_be_killed(out: Path, file: int, share: float) -> None:
    """Write a fraction of the bytes of one file, and then kill this process."""
    written = []
    savez = np.savez_compressed

    def write(stream, **arrays):
        savez(stream, **arrays)
        written.append(stream)
        if len(written) > file:
            stream.flush()
            stream.truncate(int(share * stream.tell()))
            os.kill(os.getpid(), signal.SIGKILL)

    np.savez_compressed = write
    run(out, resume=True)


def run_slowly(out: Path) -> None:
    """Wait at every report of progress, so that the process can be killed there."""
    from experiments.engine import study as engine
    from experiments.engine.training import Progress

    def wait(_):
        time.sleep(0.02)

    engine.run(study(SMOKE), out, "made by a test", Progress(wait, wait, wait))


def start(code: str, cache_folder: Path | None) -> subprocess.Popen:
    """Start Python code in a subprocess that can import the modules of the tests."""
    paths = [str(ROOT), str(Path(__file__).parent)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    # A compilation cache that the user has set would replace the one of the study.
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    if cache_folder is not None:
        environment |= {
            "JAX_COMPILATION_CACHE_DIR": str(cache_folder),
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
def cache_folder(tmp_path_factory):
    """The compilation cache of the subprocesses: that of the tests if there is one."""
    given = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    return Path(given) if given else tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def cache():
    from experiments.engine import compilation_cache

    return compilation_cache.new_cache()


@pytest.fixture(scope="module")
def finished(tmp_path_factory, cache):
    """A finished directory. A test must not change it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.engine.compilation_cache.new_cache", lambda: cache)
        folder, missing = run(tmp_path_factory.mktemp("finished"))
    assert missing is None
    return folder


@pytest.fixture
def quick(finished, cache, monkeypatch):
    """The runs of a test use the programs that are compiled already."""
    monkeypatch.setattr("experiments.engine.compilation_cache.new_cache", lambda: cache)


@pytest.fixture
def copy(finished, tmp_path, quick):
    """A copy of the finished study. A test may change it; `run(tmp_path)` uses it."""
    shutil.copytree(finished.parent, tmp_path / "small")
    return tmp_path / "small" / finished.name


@pytest.fixture
def trained(monkeypatch):
    """The cells that a test trains, by chunk."""
    from experiments.engine import session

    chunks, train = [], session.train_chunk

    def count(cache, group, cells, *rest):
        chunks.append(cells)
        return train(cache, group, cells, *rest)

    monkeypatch.setattr(session, "train_chunk", count)
    return chunks


def files_of(folder: Path) -> list[Path]:
    """Return the files of a finished directory, in the order in which they are made."""
    from experiments import cells
    from experiments.engine.assignment import (
        chunk_digest,
        pool_cells,
        split_in_chunks,
    )

    table = cells.where(cells.read_csv(folder / "cells.csv"), stage="tuning")
    names = [
        f"{chunk_digest(names)}.npz"
        for stage in study(SMOKE).stages[:2]
        for pool in pool_cells(stage.make(table))
        for names in split_in_chunks(list(pool.cells), SMOKE.chunk)
    ]
    return [*(folder.parent / "chunks" / n for n in names), folder / "mean.npz"]


def contents(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """Return the arrays of every file, without their provenance."""
    found = {}
    chunks = folder.parent / "chunks"
    for path in sorted([*chunks.glob("*.npz"), *folder.glob("*.npz")]):
        with np.load(path) as stored:
            found[path.stem] = {n: stored[n] for n in stored.files if n != "provenance"}
    return found


def assert_same(folder: Path, other: Path) -> None:
    """Assert that arrays are equal in every bit and tables in every byte."""
    ours, theirs = contents(folder), contents(other)
    assert list(ours) == list(theirs)
    for file, arrays in theirs.items():
        assert list(ours[file]) == list(arrays)
        for name, array in arrays.items():
            assert ours[file][name].dtype == array.dtype
            np.testing.assert_array_equal(ours[file][name], array, f"{file} {name}")
    cells = "cells.csv"
    assert (folder / cells).read_bytes() == (other / cells).read_bytes()
    assert temporary_files(folder) == []


def temporary_files(folder: Path) -> list[Path]:
    """Return the temporary files."""
    return [*folder.glob(".*"), *(folder.parent / "chunks").glob(".*")]


# --- The files of a directory -----------------------------------------------------


def test_a_finished_directory(finished):
    from experiments import cells

    names = {path.name for path in finished.iterdir()}
    arrays = {"mean.npz", "extracted.npz", "curves.npz"}
    assert names == {"manifest.json", "cells.csv"} | arrays
    *chunks, mean = files_of(finished)
    assert mean.exists()
    assert {path.name for path in chunks} == set(
        path.name for path in (finished.parent / "chunks").iterdir()
    )
    arrays = [contents(finished)[path.stem] for path in chunks]
    parallels = [len(each["diverged_at"]) for each in arrays]
    assert parallels == [4, 4, 1, 4, 4, 1, 4, 1]  # without the padding of a chunk
    assert arrays[2]["measure/train_loss"].shape == (1, 2)
    assert arrays[6]["extract/weight"].shape == (4, 4)
    table = cells.read_csv(finished / "cells.csv")
    assert len(table["seed"]) == 23
    assert table["arm"].tolist() == ["sgd_l2"] * 9 + ["sgdw"] * 14
    assert table["learning_rate"][:9].tolist() == [0.01] * 3 + [0.03] * 3 + [0.1] * 3
    assert table["seed"][-5:].tolist() == [1, 2, 3, 4, 5]
    last = [each["measure/train_loss"][:, -1] for each in arrays]
    written = table["train_loss"].astype(np.float32)
    np.testing.assert_array_equal(written, np.concatenate(last))


def test_a_finished_manifest(finished):
    manifest = json.loads((finished / "manifest.json").read_text())
    assert manifest["format"] == 2
    assert manifest["hash"] == finished.name
    assert manifest["runs"] == 23
    assert manifest["stages"] == {"tuning": 18, "final": 5, "measured": 0}
    assert manifest["cells side by side"] == [4]
    assert len(manifest["made by"]) == 1
    assert not {"other code", "seconds"} & set(manifest["made by"][0])
    assert "mixed" not in manifest
    assert set(manifest["data"]) == {"test_store.points"}
    code = manifest["code"]
    assert {"test_store", "experiments.arms", "experiments.engine.program"} <= set(code)
    assert {"experiments.engine.training", "experiments.engine.one_run"} <= set(code)
    assert [name for name in code if name.startswith("decayax.") and "sgd" in name]
    assert not [name for name in code if name.startswith("experiments.reports")]
    seconds = [
        json.loads(np.load(path)["provenance"].item())["seconds"]
        for path in files_of(finished)
    ]
    total = sum(each["run"] for each in seconds)
    assert manifest["seconds"]["run"] == pytest.approx(total, abs=0.06)


def test_progress_counts_every_run_once(tmp_path, quick):
    from experiments.engine import study as engine
    from experiments.engine.training import Progress

    steps = []
    progress = Progress(lambda _: None, steps.append, lambda _: None)
    for _ in range(2):  # trained, then read
        steps.clear()
        engine.run(study(SMOKE), tmp_path, "", progress, resume=True)
        assert sum(steps) == study(SMOKE).runs == RUNS


def test_only_the_first_chunk_of_a_program_waits_for_its_compilation(finished):
    seconds = [
        json.loads(np.load(path)["provenance"].item())["seconds"]
        for path in files_of(finished)
    ]
    # Two arms of three chunks, the final runs in two chunks, the measurement.
    compiled = [each["compile"] > 0 for each in seconds]
    assert compiled == [True, False, False, True, False, False, False, False, False]
    assert all(each["run"] >= 0 for each in seconds)


def test_the_seconds_of_a_file_count_by_the_cells_that_are_used(copy, tmp_path):
    for path in files_of(copy):
        change_provenance(path, "seconds", compile=8.0)
    folder, _ = run(tmp_path, grown(learning_rates=(0.01, 0.03)))
    manifest = json.loads((folder / "manifest.json").read_text())
    # Each arm has six cells: a file and a half. The final runs are the same: two files.
    assert manifest["seconds"]["compile"] == pytest.approx(8 * (2 * 1.5 + 2), abs=0.06)


# --- Arrays with more than one number for each run --------------------------------


def test_extracted_arrays_are_in_the_order_of_the_table(finished):
    from experiments import cells
    from experiments.errors import UserError

    first, second = [contents(finished)[path.stem] for path in files_of(finished)[6:8]]
    found = cells.extracted(finished, stage="final", arm="sgdw")
    assert set(found) == {"weight", "bias", "idle", "wide"}
    both = np.concatenate([first["extract/weight"], second["extract/weight"]])
    np.testing.assert_array_equal(found["weight"], both)
    some = cells.extracted(finished, stage="final", seed=4)["weight"]
    np.testing.assert_array_equal(some, both[3:4])
    with pytest.raises(UserError, match="has no run with .*tuning"):
        cells.extracted(finished, stage="tuning")
    with pytest.raises(UserError, match="has no run with .*sgd_l2"):
        cells.extracted(finished, stage="final", arm="sgd_l2")


def test_a_report_of_damaged_arrays_is_one_line(copy):
    from experiments import cells
    from experiments.engine.store import read_measurements
    from experiments.errors import UserError

    assert len(read_measurements(copy, "mean")) == 1
    with pytest.raises(UserError, match=r"has no shrink\*\.npz"):
        read_measurements(copy, "shrink")
    for name, read in (
        ("mean.npz", lambda: read_measurements(copy, "mean")),
        ("extracted.npz", lambda: cells.extracted(copy, stage="final")),
    ):
        path = copy / name
        path.write_bytes(truncated(path.read_bytes()))
        with pytest.raises(UserError, match=f"{name} is damaged.*--resume"):
            read()
        path.unlink()
        with pytest.raises(UserError, match="has no (mean|extracted)"):
            read()


def test_a_table_for_pandas(finished, tmp_path, monkeypatch):
    from experiments import cells
    from experiments.errors import UserError

    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=dict))
    table = cells.to_pandas(finished)
    assert len(table["seed"]) == 23
    assert "epoch" not in table
    curves = cells.to_pandas(finished, curves=True)
    assert list(curves) == [*table, "epoch"]
    assert curves["epoch"].tolist() == [1, 2] * 23
    first = [contents(finished)[path.stem] for path in files_of(finished)[:8]]
    both = np.concatenate([each["measure/train_loss"] for each in first])
    assert (both[:, 0] != both[:, 1]).all()
    ours = curves["train_loss"].reshape(23, 2).astype(np.float32)
    np.testing.assert_array_equal(ours, both)
    for name in ("learning_rate", "seed", "arm"):
        assert curves[name].tolist() == np.repeat(table[name], 2).tolist()
    with pytest.raises(
        UserError, match=r"not a finished results directory.*cells\.csv"
    ):
        cells.to_pandas(tmp_path)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match="pip install pandas"):
        cells.to_pandas(finished)


# --- A larger plan trains the new cells only --------------------------------------


def grown(**changes: Any) -> Plan:
    return dataclasses.replace(SMOKE, **changes)


@pytest.mark.parametrize(
    ("plan", "chunks"),
    [
        (grown(final_seeds=15), [4, 4, 2]),  # ten more
        (grown(final_seeds=3), []),
        # Three more cells of each arm.
        (grown(learning_rates=(0.003, 0.01, 0.03, 0.1)), [3, 3]),
        (grown(weight_decays=(0.0, 1.0)), []),
        (grown(chunk=9), []),
    ],
)
def test_a_larger_plan_trains_only_new_cells(plan, chunks, copy, tmp_path, trained):
    from experiments import cells

    before = cells.read_csv(copy / "cells.csv")
    folder, missing = run(tmp_path, plan)
    assert missing is None
    assert folder != copy
    assert [len(each) for each in trained] == chunks
    table = cells.read_csv(folder / "cells.csv")
    rows = list(zip(*table.values(), strict=True))
    shared = set(rows) & set(zip(*before.values(), strict=True))
    assert len(shared) >= min(len(rows), 23) - 3 * (len(plan.weight_decays) < 3)
    orders = [(*x[:2], *(x[2:5])) for x in rows]
    assert len(set(orders)) == len(rows)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["runs"] == len(rows)
    assert manifest["cells side by side"] == [4]


def test_a_larger_plan_has_the_same_rows_as_from_scratch(copy, tmp_path, quick):
    plan = grown(final_seeds=7, learning_rates=(0.003, 0.01, 0.03, 0.1))
    ours, _ = run(tmp_path, plan)
    theirs, _ = run(tmp_path / "scratch", plan)
    for name in ("cells.csv", "extracted.npz", "curves.npz"):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name


def test_another_arm_trains_only_its_cells(copy, tmp_path, trained, monkeypatch):
    monkeypatch.setitem(ARMS, "sgd_independent", sgd_independent)
    folder, _ = run(tmp_path)
    assert folder != copy
    assert [len(each) for each in trained] == [4, 4, 1]


def with_groups(make: Callable[[list[Any]], list[Any]]):
    """The small study with its first stage only, and with other groups."""
    whole = study(SMOKE)
    groups = make(list(whole.stages[0].make({})))
    stage = whole.stages[0]._replace(make=lambda _: groups)
    return whole._replace(stages=(stage,))


def run_study(study: Any, out: Path, **options: Any):
    from experiments.engine import study as engine
    from experiments.terminal import SILENT

    return engine.run(study, out, "made by a test", SILENT, **options)


def test_a_cell_of_two_groups_is_trained_once(tmp_path, quick, trained):
    from experiments import cells
    from experiments.engine import study as engine
    from experiments.engine.training import Progress

    def make(groups):
        again = groups[0]._replace(
            labels={"stage": "again", "arm": "other"}, cells=groups[0].cells[4:6]
        )
        return [*groups, again]

    steps = []
    progress = Progress(lambda _: None, steps.append, lambda _: None)
    folder, _ = engine.run(with_groups(make), tmp_path, "", progress)
    assert sum(map(len, trained)) == 18
    assert sum(steps) == pytest.approx(20)  # runs
    table = cells.read_csv(folder / "cells.csv")
    assert table["arm"].tolist() == ["sgd_l2"] * 9 + ["sgdw"] * 9 + ["other"] * 2
    assert table["train_loss"][18:].tolist() == table["train_loss"][4:6].tolist()
    assert json.loads((folder / "manifest.json").read_text())["runs"] == 20


def test_small_groups_share_chunks(tmp_path, quick, trained):
    from experiments import cells

    def make(groups):
        group = groups[0]
        return [
            group._replace(labels={"arm": str(i)}, cells=group.cells[i : i + 1])
            for i in (5, 3, 0, 1, 2)
        ]

    folder, _ = run_study(with_groups(make), tmp_path)
    assert [len(each) for each in trained] == [4, 1]
    table = cells.read_csv(folder / "cells.csv")
    assert table["arm"].tolist() == [5, 3, 0, 1, 2]
    assert table["weight_decay"].tolist() == [1.0, 0.0, 0.0, 0.1, 1.0]


def test_the_identity_of_a_cell():
    from experiments.engine import config as configs
    from experiments.engine.assignment import pool_cells

    group = study(SMOKE).stages[0].make({})[0]

    def identities(**changes):
        (pool,) = pool_cells([group._replace(**changes)])
        return list(pool.cells)

    first = identities()
    assert len(set(first)) == 9
    assert identities(labels={"stage": "other"}) == first
    turned = [dict(reversed(cell.items())) for cell in group.cells]
    assert identities(cells=tuple(turned)) == first
    other = [
        identities(extract=all_params),
        identities(config=group.config._replace(schedule=configs.constant)),
        identities(config=group.config._replace(setup=Line(batch=16))),
        identities(cells=tuple({**cell, "seed": 1} for cell in group.cells)),
        identities(cells=tuple({**cell, "b2": 0.9} for cell in group.cells)),
    ]
    assert len({*first, *itertools.chain(*other)}) == 6 * 9


def test_integers_in_a_float_column_are_floats():
    from experiments.engine.assignment import pool_cells

    group = study(SMOKE).stages[0].make({})[0]
    mixed = tuple({**group.cells[0], "weight_decay": x} for x in (0, 0.5))
    (pool,) = pool_cells([group._replace(cells=mixed)])
    values = [cell["weight_decay"] for cell in pool.cells.values()]
    assert [type(value) for value in values] == [float, float]
    assert {type(cell["seed"]) for cell in pool.cells.values()} == {int}
    assert pool_cells([group._replace(cells=())]) == []


def test_a_file_is_read_once(copy, monkeypatch):
    from experiments import files
    from experiments.engine import store as stores

    read, names = files.read_arrays, []

    def noted(path):
        names.append(path)
        return read(path)

    monkeypatch.setattr(files, "read_arrays", noted)
    store = stores.Store(copy, copy.parent / "chunks", copy.name, {}, {}, {})
    for _ in range(3):
        stores.read_new_files(store)
    assert sorted(names) == sorted(files_of(copy))
    assert len(store.locations) == 23


# --- Resume -----------------------------------------------------------------------


@pytest.mark.parametrize("stored", [0, 1, 2, 5, 6, 8])
def test_a_resumed_run_has_the_same_bits(stored, copy, finished, tmp_path):
    paths = files_of(copy)
    (copy / "cells.csv").unlink()
    for path in paths[stored:]:
        path.unlink()
    times = {path: path.stat().st_mtime_ns for path in paths[:stored]}
    assert run(tmp_path, resume=True) == (copy, None)
    assert_same(copy, finished)
    assert {path: path.stat().st_mtime_ns for path in times} == times  # not rewritten


def test_a_resumed_run_trains_missing_chunks(copy, finished, tmp_path, trained):
    paths = files_of(copy)
    for place in (1, 5, 6):
        paths[place].unlink()
    run(tmp_path, resume=True)
    assert_same(copy, finished)
    assert [len(each) for each in trained] == [4, 1, 4]


# --- Shards -----------------------------------------------------------------------


def test_integers_and_floats_are_trained_by_two_programs():
    from experiments.engine.assignment import pool_cells

    group = study(SMOKE).stages[0].make({})[0]
    kinds = [
        group._replace(cells=({**group.cells[0], "weight_decay": strength},))
        for strength in (1, 0.5)
    ]
    assert [len(pool.cells) for pool in pool_cells(kinds)] == [1, 1]


def test_shards_share_the_cells_and_depend_on_the_plan_only():
    from experiments.engine.assignment import (
        assign_to_shard,
        ONLY_SHARD,
        pool_cells,
        Shard,
    )

    pools = pool_cells(study(SMOKE).stages[0].make({}))
    assert assign_to_shard(pools, 4, ONLY_SHARD) == pools
    for count in (2, 3, 4, 7):
        shares = [assign_to_shard(pools, 4, Shard(i, count)) for i in range(count)]
        cells = [[c for pool in share for c in pool.cells] for share in shares]
        everything = [cell for each in cells for cell in each]
        assert sorted(everything) == sorted(c for pool in pools for c in pool.cells)
        assert max(map(len, cells)) - min(map(len, cells)) <= 4
    # If the number of chunks is even, each of two shards compiles one program only.
    assert [len(assign_to_shard(pools, 4, Shard(i, 2))) for i in (0, 1)] == [1, 1]


def test_shards_that_do_not_wait(tmp_path, finished, quick, trained):
    from experiments.engine.study import MissingCells, Shard

    first, second = Shard(0, 2), Shard(1, 2)
    folder, missing = run(tmp_path, shard=first, wait=0)
    assert missing == MissingCells("tuning", 9)
    assert len(contents(folder)) == 3
    assert run(tmp_path, shard=first, wait=0)[1] == missing
    assert len(contents(folder)) == 3  # no cells of the other shard
    _, missing = run(tmp_path, shard=second, wait=0)
    assert missing == MissingCells("final", 4)
    assert len(contents(folder)) == 7
    assert not (folder / "cells.csv").exists()
    assert run(tmp_path, shard=first, wait=0) == (folder, None)
    assert_same(folder, finished)
    assert run(tmp_path, shard=second, wait=0) == (folder, None)
    assert sum(map(len, trained)) == 23


def test_more_shards_than_chunks(tmp_path, finished, quick):
    from experiments.engine.study import Shard

    for _ in study(SMOKE).stages:
        for index in range(7):
            folder, missing = run(tmp_path, shard=Shard(index, 7), wait=0)
    assert missing is None
    assert_same(folder, finished)


def test_a_shard_waits_for_the_others(tmp_path, finished, quick, monkeypatch, trained):
    from experiments.engine import session, study as engine
    from experiments.engine.training import Progress

    slept, descriptions = [], []

    def sleep(seconds):
        slept.append(seconds)
        run(tmp_path, shard=engine.Shard(1, 2), wait=0)

    monkeypatch.setattr(session.time, "sleep", sleep)
    progress = Progress(descriptions.append, lambda _: None, lambda _: None)
    options = {"shard": engine.Shard(0, 2), "wait": 60}
    folder, missing = engine.run(study(SMOKE), tmp_path, "", progress, **options)
    assert missing is None
    assert slept == [1.0]  # the other shard has also trained its final cells
    assert "waiting for 9 cells of other shards" in descriptions
    assert_same(folder, finished)
    assert sum(map(len, trained)) == 23


def test_cells_that_arrive_during_a_wait_are_checked(
    tmp_path, finished, quick, monkeypatch
):
    from experiments.engine import session
    from experiments.engine.study import Shard

    def sleep(_):
        run(tmp_path, shard=Shard(1, 2), wait=0)
        name = files_of(finished)[3].name  # a chunk of the other shard
        path = tmp_path / "small" / "chunks" / name
        change_provenance(path, "code", **{"experiments.arms": "0123456789ab"})

    monkeypatch.setattr(session.time, "sleep", sleep)
    words = "some runs of tuning", "with other code (experiments.arms)"
    error_of(tmp_path, *words, resume=False, shard=Shard(0, 2), wait=60)


def test_shards_share_the_measurements(tmp_path):
    from experiments.engine.study import MissingCells, Shard, Stage, Study
    from experiments.engine.training import Measurement

    def make(cache, progress):
        return {"number": np.ones(1)}

    measurements = [Measurement(name, make) for name in ("a", "b", "c")]
    stage = Stage("measured", 0, lambda _: measurements)
    measured = Study("small", SMOKE, (stage,), write_report)
    folder, missing = run_study(measured, tmp_path, shard=Shard(1, 2), wait=0)
    assert {path.name for path in folder.glob("*.npz")} == {"b.npz"}
    assert missing == MissingCells("measured", 2)


def test_a_wait_has_an_end_and_can_be_interrupted(tmp_path, quick, monkeypatch):
    from experiments import interrupts
    from experiments.engine import session, study as engine
    from experiments.engine.training import Progress

    monkeypatch.setattr(session, "POLL_SECONDS", 0.01)
    shard = engine.Shard(0, 2)
    started = time.monotonic()
    _, missing = run(tmp_path, shard=shard, wait=0.1)
    assert missing == engine.MissingCells("tuning", 9)
    assert time.monotonic() - started >= 0.1

    def set_description(text):
        if text.startswith("waiting"):
            monkeypatch.setattr(interrupts, "_received", [signal.SIGINT])
        interrupts.raise_if_interrupted()

    progress = Progress(set_description, lambda _: None, lambda _: None)
    with pytest.raises(interrupts.Interrupted):
        engine.run(study(SMOKE), tmp_path, "", progress, shard=shard)


def test_two_shards_start_at_the_same_time(
    tmp_path, finished, quick, monkeypatch, capsys
):
    from experiments.engine import manifest as manifests
    from experiments.engine.study import MissingCells, Shard

    # The other shard writes the manifest after this one has searched for it.
    look, looked = manifests.read_if_valid, []

    def found_in(folder):
        found = look(folder)
        if not looked:
            looked.append(folder)
            assert found is None
            run(tmp_path, shard=Shard(0, 2), wait=0)
        return found

    monkeypatch.setattr(manifests, "read_if_valid", found_in)
    folder, missing = run(tmp_path, shard=Shard(1, 2), wait=0)
    assert missing == MissingCells("final", 4)
    assert folder == tmp_path / "small" / finished.name
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("text", ["0/4", "3/4", "0/1"])
def test_a_shard(text):
    from experiments.engine.study import parse_shard

    assert "/".join(map(str, parse_shard(text))) == text


@pytest.mark.parametrize(
    "text", ["4/4", "-1/4", "1", "1/", "/2", "0/0", "a/b", "1/2/3"]
)
def test_an_invalid_shard(text):
    from experiments.engine.study import parse_shard
    from experiments.errors import UserError

    with pytest.raises(UserError, match=r"write I/N with 0 <= I < N") as error:
        parse_shard(text)
    assert f"--shard {text}:" in str(error.value)


# --- Killed processes -------------------------------------------------------------


def assert_complete(folder: Path, reference: Path) -> int:
    """Assert that all files but temporary ones are complete; return their number."""
    found, whole = contents(folder), contents(reference)
    for file, arrays in found.items():
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, whole[file][name])
    manifest = folder / "manifest.json"
    assert not manifest.exists() or json.loads(manifest.read_text())
    return len(found)


@pytest.mark.slow
def test_killed_while_writing(tmp_path, finished, quick, cache_folder):
    code = f"import pathlib, test_store; out = pathlib.Path({str(tmp_path)!r}); "
    process = start(code + "test_store.run_and_be_killed(out, 4, 0.5)", cache_folder)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, stderr
    folder = tmp_path / "small" / finished.name
    assert assert_complete(folder, finished) == 4
    (half,) = temporary_files(folder)  # the file that the killed process was writing
    assert half.name.startswith(f".{files_of(finished)[4].name}.")
    assert half.stat().st_size > 100
    run(tmp_path, resume=True)
    assert_same(folder, finished)


def test_killed_at_any_moment(tmp_path, finished, quick, cache_folder):
    code = f"import pathlib, test_store; out = pathlib.Path({str(tmp_path)!r}); "
    process = start(code + "test_store.run_slowly(out)", cache_folder)
    folder = tmp_path / "small" / finished.name
    deadline = time.monotonic() + 120
    while not contents(folder):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    moment = random.uniform(0, 0.5)
    time.sleep(moment)
    process.kill()
    process.communicate(timeout=60)
    assert assert_complete(folder, finished) >= 1, moment
    run(tmp_path, resume=True)
    assert_same(folder, finished)


def test_temporary_files_of_killed_processes_are_removed(copy, tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = platform.node() or "here"
    names = {
        f"chunks/.0123456789ab.npz.{host}-{dead.pid}.part": False,
        f"{copy.name}/.cells.csv.{host}-{dead.pid}.part": False,
        f"chunks/.0123456789ab.npz.{host}-{os.getpid()}.part": True,
        # Of another machine.
        f"{copy.name}/.mean.npz.other-{host}x-{dead.pid}.part": True,
        f"chunks/.0123456789ab.npz.other-{dead.pid}.part": True,
        f"{copy.name}/.notes": True,
    }
    for name in names:
        (copy.parent / name).write_text("half")
    run(tmp_path, resume=True)
    assert {name: (copy.parent / name).exists() for name in names} == names


# --- Foreign and damaged files ----------------------------------------------------


def error_of(
    out: Path, *words: str, plan: Plan = SMOKE, resume: bool = True, **options: Any
) -> str:
    """Return the one-line error of a run, which must have these words."""
    from experiments.errors import UserError

    with pytest.raises(UserError) as error:
        run(out, plan, resume=resume, **options)
    text = str(error.value)
    assert "\n" not in text
    for word in words:
        assert word in text
    return text


def test_a_folder_with_foreign_files_is_refused(tmp_path, finished, quick):
    folder = tmp_path / "small" / finished.name
    folder.mkdir(parents=True)
    (folder / "thesis.tex").write_text("years of work")
    (folder / "report.md").write_text("months of work")
    words = ("has the file thesis.tex and no valid manifest.json", "--out")
    error_of(tmp_path, str(folder), *words)
    (folder / "manifest.json").write_text("{")
    error_of(tmp_path, str(folder), *words)
    assert len(list(folder.iterdir())) == 3
    assert (folder / "manifest.json").read_text() == "{"


def test_a_foreign_file_among_the_chunks_is_refused(copy, tmp_path):
    path = copy.parent / "chunks" / "thesis.npz"
    path.write_bytes(b"years of work")
    error_of(tmp_path, str(path), "is not a file of a study", "--out")
    assert path.read_bytes() == b"years of work"


def test_a_folder_with_only_hidden_files_counts_as_empty(tmp_path, finished, quick):
    for name in (finished.name, "chunks"):
        folder = tmp_path / "small" / name
        folder.mkdir(parents=True)
        (folder / ".gitignore").write_text("*")
    assert run(tmp_path)[1] is None


def test_a_started_directory_needs_resume(copy, tmp_path, trained):
    before = {path: path.stat().st_mtime_ns for path in copy.parent.rglob("*")}
    words = (str(copy), "already has a run", "made by a test --resume", "--out")
    error_of(tmp_path, *words, resume=False)
    after = {path: path.stat().st_mtime_ns for path in copy.parent.rglob("*")}
    assert after == before
    assert trained == []


def change_manifest(folder: Path, **values: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_the_directory_of_another_plan_is_refused(copy, tmp_path):
    change_manifest(copy, hash="0123456789ab", study="other")
    words = ("belongs to another plan", "other 0123456789ab", copy.name, "--out")
    error_of(tmp_path, str(copy), *words)
    assert len(contents(copy)) == 11


@pytest.mark.parametrize(
    "text", ['{"format": 2, "stu', "", "null", "[1]", "\xff\xfe", None]
)
def test_a_manifest_that_is_missing_or_damaged_is_written_again(
    text, copy, finished, tmp_path, trained, capsys
):
    path = copy / "manifest.json"
    path.unlink()
    if text is not None:
        path.write_bytes(text.encode("latin1"))
    error_of(tmp_path, "already has a run", resume=False)
    assert run(tmp_path, resume=True) == (copy, None)
    assert trained == []
    assert capsys.readouterr().out.splitlines() == [
        f"{path} is missing or damaged. It is written again."
    ]
    ours, theirs = (json.loads((f / path.name).read_text()) for f in (copy, finished))
    assert ours == theirs


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            '{"start_url": "/"}',
            ("is not the manifest of a study", "format, hash, study"),
        ),
        ('{"format": 2}', ("is not the manifest of a study", "it has no hash, study")),
        (
            '{"format": 1, "study": "small", "hash": ""}',
            ("format 1", "reads format 2", "--out"),
        ),
    ],
)
def test_a_foreign_manifest_is_refused(text, words, copy, tmp_path):
    (copy / "manifest.json").write_text(text)
    error_of(tmp_path, str(copy / "manifest.json"), *words)
    assert (copy / "manifest.json").read_text() == text
    assert len(contents(copy)) == 11


def truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


def emptied(data: bytes) -> bytes:
    return b""


def zeroed(data: bytes) -> bytes:
    return b"\0" * len(data)


@pytest.mark.parametrize("change", [truncated, emptied, zeroed])
def test_damage_is_found_before_anything_is_trained(
    change, copy, finished, tmp_path, trained, capsys, monkeypatch
):
    from experiments.engine import session

    paths = files_of(copy)
    paths[0].unlink()
    damaged = [paths[6], paths[8]]
    for path in damaged:
        path.write_bytes(change(path.read_bytes()))
    train, present = session.train_chunk, []

    def look(*arguments):
        present.append([path.exists() for path in damaged])
        return train(*arguments)

    monkeypatch.setattr(session, "train_chunk", look)
    assert run(tmp_path, resume=True) == (copy, None)
    gc.collect()  # a file left open would be a warning
    assert present[0] == [False, False]
    assert [len(each) for each in trained] == [4, 4]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    for path, line in zip(damaged, lines, strict=True):
        assert line.startswith(f"{path} is damaged (")
        assert line.endswith("). It is removed and made again.")
    assert_same(copy, finished)


def test_a_flipped_byte_is_detected_or_has_no_effect(copy, capsys):
    from experiments.engine import store as stores

    path = files_of(copy)[2]
    whole, expected = path.read_bytes(), contents(copy)[path.stem]
    shutil.rmtree(path.parent)
    path.parent.mkdir()
    seen = 0
    for place in range(0, len(whole), 7):
        path.write_bytes(
            whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :]
        )
        store = stores.Store(copy / "none", path.parent, "", {}, {}, {})
        stores.read_new_files(store)
        seen += not path.exists()
        assert bool(store.chunks) == path.exists()
        for found in store.chunks.values():
            for name, array in expected.items():
                np.testing.assert_array_equal(found[name], array, f"{place} {name}")
    assert seen > len(whole) / 7 / 2
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == seen
    assert all(line.startswith(str(path)) for line in lines)


def test_a_damaged_size_is_not_a_memory_error(tmp_path):
    from experiments import files

    path = tmp_path / "a.npz"
    np.savez(path, a=np.arange(3))
    small, large = b"(3,), }" + 13 * b" ", b"(99999999999999,), }"
    content = path.read_bytes()
    assert content.count(small) == 1
    path.write_bytes(content.replace(small, large))
    with pytest.raises(ValueError, match="bad checksum of a.npy"):
        files.read_arrays(path)


def rewrite(path: Path, **changes: Any) -> None:
    """Replace arrays in a file; None removes one."""
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files} | changes
    arrays = {n: np.asarray(x) for n, x in arrays.items() if x is not None}
    np.savez_compressed(path, allow_pickle=False, **arrays)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"config": None}, "is not a chunk of cells"),
        ({"provenance": None}, "is not a chunk of cells"),
        ({"config": "0123456789ab"}, "has a name that does not match its cells"),
        ({"cell/seed": [1, 0, 0, 0]}, "has a name that does not match its cells"),
        ({"cell/seed": [0, 0, 0]}, "is damaged (zip() argument"),
    ],
)
def test_a_foreign_chunk_is_made_again(change, words, copy, finished, tmp_path, capsys):
    path = files_of(copy)[3]
    rewrite(path, **change)
    run(tmp_path, resume=True)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{path} {words}")
    assert_same(copy, finished)


def test_a_renamed_chunk_is_not_used(copy, finished, tmp_path, trained):
    paths = files_of(copy)
    shutil.copy(paths[0], paths[3])
    run(tmp_path, resume=True)
    assert [len(each) for each in trained] == [4]
    assert_same(copy, finished)


def test_a_renamed_chunk_is_removed(copy, tmp_path, capsys):
    first, *_, other = files_of(copy)[:4]
    shutil.copy(first, other)
    run(tmp_path, resume=True)
    words = f"{other} has a name that does not match its cells. It is removed"
    assert words in capsys.readouterr().out


def test_a_measurement_of_another_plan_is_made_again(copy, finished, tmp_path, capsys):
    rewrite(copy / "mean.npz", plan="0123456789ab", mean=7.0)
    run(tmp_path, resume=True)
    assert "mean.npz belongs to another plan. It is removed" in capsys.readouterr().out
    assert_same(copy, finished)


def test_a_chunk_of_another_format_is_not_removed(copy, tmp_path):
    path = files_of(copy)[3]
    rewrite(path, format=3)
    error_of(
        tmp_path, str(path), "has format 3, but this program reads format 2", "--out"
    )
    assert path.exists()


def test_a_file_that_another_process_has_just_replaced_is_not_removed(
    copy, monkeypatch
):
    from experiments import files
    from experiments.engine import store as stores

    path = files_of(copy)[3]
    whole = path.read_bytes()
    path.write_bytes(truncated(whole))
    read = files.read_arrays

    def slowly(each):
        try:
            return read(each)
        finally:
            if each == path:
                files.write_arrays(path.with_name("new"), {})
                path.with_name("new").write_bytes(whole)
                os.replace(path.with_name("new"), path)

    monkeypatch.setattr(files, "read_arrays", slowly)
    store = stores.Store(copy, path.parent, copy.name, {}, {}, {})
    stores.read_new_files(store)
    assert path.name not in store.chunks
    assert path.read_bytes() == whole
    stores.read_new_files(store)
    assert path.name in store.chunks


def test_two_files_with_one_cell_the_smaller_name_wins(copy, tmp_path):
    from experiments.engine import store as stores

    path = files_of(copy)[0]
    here = stores.Store(copy, path.parent, copy.name, {}, {}, {})
    stores.read_new_files(here)
    arrays = here.chunks[path.name]
    cells = [cell for cell, (name, _) in here.locations.items() if name == path.name]
    numbers = {n: arrays[n].tolist() for n in arrays if n.startswith("cell/")}
    rest = {n: x for n, x in arrays.items() if n.startswith("measure/")}
    provenance = stores.stored_provenance(arrays)
    smaller = set()
    for row, cell in enumerate(cells):
        own = {n.removeprefix("cell/"): x[row] for n, x in numbers.items()}
        parts = {n: x[[row]] for n, x in rest.items()} | {"diverged_at": np.array([-1])}
        parts["parallel"] = np.array(8)
        stores.save_cells(here, arrays["config"].item(), {cell: own}, parts, provenance)
        name = stores._file_name([cell])
        smaller.add(name < path.name)
        expected = (name, 0) if name < path.name else (path.name, row)
        assert here.locations[cell] == expected
    assert smaller == {True, False}
    reread = stores.Store(copy, path.parent, copy.name, {}, {}, {})
    stores.read_new_files(reread)
    assert reread.locations == here.locations
    # The manifest lists the files that were used, as in a later process.
    folder, _ = run(tmp_path, resume=True)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["cells side by side"] == [4, 8]


def test_a_file_that_another_one_replaced_is_not_in_the_manifest(
    copy, tmp_path, monkeypatch
):
    from experiments.engine import study as engine

    write = engine.write_results

    def after_a_wait(this, rows):
        this.differences["0" * 12 + ".npz"] = ["code (gone)"]
        this.store.chunks["0" * 12 + ".npz"] = next(iter(this.store.chunks.values()))
        write(this, rows)

    before = json.loads((copy / "manifest.json").read_text())
    monkeypatch.setattr(engine, "write_results", after_a_wait)
    run(tmp_path, resume=True)
    assert json.loads((copy / "manifest.json").read_text()) == before


# --- Other code, versions, devices or data ----------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("jax_default_matmul_precision", "highest"),
        ("jax_default_prng_impl", "rbg"),
        ("jax_enable_x64", True),
        ("jax_threefry_partitionable", False),
    ],
)
def test_a_jax_setting_is_part_of_the_device(name, value):
    from experiments import files
    from experiments.engine.manifest import differences

    before = files.provenance() | {"data": {}, "code": {}}
    standard = jax.config.values[name]
    jax.config.update(name, value)
    try:
        after = files.provenance() | {"data": {}, "code": {}}
    finally:
        jax.config.update(name, standard)
    (found,) = differences(before, after)
    assert found.startswith(f"device ({name} ")
    assert found.endswith(f", now {value})")
    json.dumps(after)


def change_provenance(path: Path, key: str, **values: Any) -> None:
    with np.load(path) as stored:
        provenance = json.loads(stored["provenance"].item())
    provenance[key] = {**provenance[key], **values} if provenance[key] else values
    rewrite(path, provenance=json.dumps(provenance))


def test_a_module_that_is_gone_is_a_difference():
    from experiments.engine.manifest import differences

    then, now = {"code": {"one": "1", "gone": "2"}}, {"code": {"one": "1"}}
    assert differences(then, now, ["code"]) == ["code (gone)"]
    assert differences(now, then, ["code"]) == ["code (gone)"]


@pytest.mark.parametrize(
    ("key", "name", "value", "file"),
    [
        ("versions", "jax", "0.0.1", 7),
        ("device", "count", 64, 1),
        ("data", "test_store.points", "0" * 64, 7),
        ("code", "experiments.arms", "0123456789ab", 1),
        ("code", "experiments.arms", "0123456789ab", 8),
    ],
)
def test_cells_with_another_provenance_are_refused_or_mixed(
    key, name, value, file, copy, tmp_path, trained
):
    files_of(copy)[0].unlink()  # so that there is a cell to train
    change_provenance(files_of(copy)[file], key, **{name: value})
    words = [f"with other {key} ({name}", "--out", "--mix-revisions"]
    words += [] if key == "code" else [f"{value}, now "]
    error_of(tmp_path, *words)
    stage = 0 if file == 1 else 4  # the earlier stage is trained
    assert sum(map(len, trained)) == stage
    folder, missing = run(tmp_path, resume=True, mix_revisions=True)
    assert missing is None
    manifest = json.loads((folder / "manifest.json").read_text())
    (mixed,) = manifest["mixed"]
    assert mixed.startswith(f"{key} ({name}")
    assert len(manifest["made by"]) == (1 if key == "data" else 2)
    others = [
        each["other code"] for each in manifest["made by"] if "other code" in each
    ]
    assert others == ([{name: value}] if key == "code" else [])
    error_of(tmp_path, *words)  # mixing has changed no file


@pytest.mark.parametrize("key", ["versions", "device", "data", "code"])
def test_a_directory_started_with_another_provenance(key, copy, tmp_path, trained):
    for path in files_of(copy):
        path.unlink()
    value = json.loads((copy / "manifest.json").read_text())[key]
    name = next(iter(value))
    change_manifest(copy, **{key: {**value, name: "other"}})
    error_of(
        tmp_path, f"{copy} was started with other {key} ({name}", "--mix-revisions"
    )
    change_manifest(copy, **{key: None})
    error_of(tmp_path, f"{copy} was started with other {key} (", "--out")
    assert trained == []
    assert run(tmp_path, resume=True, mix_revisions=True) == (copy, None)


OPTIMIZERS = """
from experiments import arms

def sgdw(hparams, eta, mask):
    hparams = {**hparams, "weight_decay": FACTOR * hparams["weight_decay"]}
    return arms.sgdw(hparams, eta, mask)
"""


def test_code_that_was_edited_before_resuming(tmp_path, quick, trained, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "edited_chains.py"

    def edit(factor):
        path.write_text(OPTIMIZERS.replace("FACTOR", factor))
        importlib.invalidate_caches()
        sys.modules.pop(path.stem, None)
        monkeypatch.setitem(ARMS, "sgdw", importlib.import_module(path.stem).sgdw)

    from experiments.engine.study import Shard

    edit("2")
    folder, _ = run(tmp_path, shard=Shard(1, 2), wait=0)
    first = json.loads((folder / "manifest.json").read_text())
    count = len(trained)
    edit("55555")
    words = ("with other code (edited_chains)", "--out", "--mix-revisions")
    error_of(tmp_path, str(folder), *words)
    error_of(tmp_path, *words, plan=grown(final_seeds=6))  # it has no manifest yet
    path.write_text(path.read_text() + "\n# no comment\n")
    error_of(tmp_path, *words)
    assert len(trained) == count
    monkeypatch.delitem(sys.modules, path.stem)
    edit("55555")
    assert run(tmp_path, resume=True, mix_revisions=True) == (folder, None)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["mixed"] == ["code (edited_chains)"]
    ours, others = manifest["made by"]
    if "other code" in ours:
        ours, others = others, ours
    # The file is not in git, so the revision is the same.
    assert ours == {n: x for n, x in others.items() if n != "other code"}
    assert {n: first[n] for n in ours} == ours
    assert list(others["other code"]) == ["edited_chains"]
    error_of(tmp_path, *words)
    edit("2")  # the first version again: now the later cells have other code
    error_of(tmp_path, *words)


# --- The hash of a plan -----------------------------------------------------------

OTHERS = {
    "learning_rates": (0.01, 0.03, 0.1 + 1e-9),
    "weight_decays": (0.0, 0.1, 2.0),
    "final_seeds": 6,
    "chunk": 5,
    "setup": Line(batch=16),
}


@pytest.mark.parametrize("field", OTHERS)
def test_the_hash_changes_with_every_field_of_the_plan(field):
    from experiments.engine.study import hash_of

    assert set(OTHERS) == {f.name for f in dataclasses.fields(Plan)}
    other = dataclasses.replace(SMOKE, **{field: OTHERS[field]})
    assert hash_of(study(other)) != hash_of(study(SMOKE))


def test_the_hash_changes_with_what_a_group_is(monkeypatch):
    from experiments.engine import config as configs
    from experiments.engine.study import hash_of

    groups = study(SMOKE).stages[0].make({})
    hashes = {hash_of(study(SMOKE))}
    group, config = groups[0], groups[0].config
    more = functools.partial(points, 32)
    others = [
        group._replace(labels={"stage": "tuning", "arm": "another"}),
        group._replace(cells=group.cells[::-1]),
        group._replace(cells=group.cells[:-1]),
        group._replace(extract=all_params),
        *(
            group._replace(config=config._replace(**{name: value}))
            for name, value in {
                "setup": Line(data=more),
                "make_optimizer": sgdw,
                "epochs": 4,
                "epochs_per_segment": 2,
                "schedule": configs.constant,
                "curves": False,
                "record": all_params,
            }.items()
        ),
    ]
    for other in others:
        first = (
            study(SMOKE)
            .stages[0]
            ._replace(make=lambda _, other=other: [other, *groups[1:]])
        )
        changed = study(SMOKE)._replace(stages=(first, *study(SMOKE).stages[1:]))
        hashes.add(hash_of(changed))
    assert len(hashes) == 1 + len(others)
    assert hash_of(study(SMOKE)._replace(name="other")) not in hashes
