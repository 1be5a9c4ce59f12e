"""The demo: fair arms, honest statistics, one program per optimizer, whole files."""

import csv
import dataclasses
import functools
import importlib.util
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest


ROOT = Path(__file__).parents[1]
EXTRAS = ("flax", "sklearn", "matplotlib", "rich", "tyro")
pytestmark = [
    pytest.mark.needs_extras,
    pytest.mark.relaxed("scale_by_adam; the experiments run under JAX's defaults"),
]


def start(*arguments: str, **options) -> subprocess.Popen:
    """A command in a process of its own; warnings are errors there, too."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


# --- End to end -------------------------------------------------------------------


def test_smoke_run_end_to_end(tmp_path):
    from experiments.demo import ARMS, SMOKE

    process = start("-m", "experiments", "demo", "--smoke", "--out", str(tmp_path))
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    assert stderr == ""
    assert "Verdict." in stdout
    assert len(stdout.splitlines()) < 60  # no progress bar where there is no terminal

    assert {path.name for path in tmp_path.iterdir()} == {
        *("cells.csv", "raw.npz", "manifest.json", "report.md"),
        *("accuracy.png", "mechanism.png", "heatmaps.png", "weights.png"),
    }
    with open(tmp_path / "cells.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == SMOKE.count_runs() == 3 * (4 + 8 + 8) + (9 + 3) * 4
    for row in rows:
        for column in ("val_accuracy", "test_accuracy", "train_loss", "max_abs_w"):
            assert math.isfinite(float(row[column])), row
        assert row["diverged"] == "False"
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert set(manifest["final_seeds"]).isdisjoint(manifest["tuning_seeds"])
    assert manifest["plan"]["weight_decays"] == list(SMOKE.weight_decays)
    assert {"jax", "optax", "flax", "numpy", "decayax", "python"} <= set(
        manifest["versions"]
    )
    assert "figures and report" in manifest["seconds"]
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert all(f"`{arm.name}`" in report for arm in ARMS)
    assert set(re.findall(r"\((\w+\.png)\)", report)) == {
        path.name for path in tmp_path.glob("*.png")
    }
    check_measured_shrinks(tmp_path / "raw.npz")


def check_measured_shrinks(path: Path):
    from experiments.figures import shrink_line

    with np.load(path) as stored:
        arrays = dict(stored)
    assert shrink_line(arrays, "rmsprop_l2").slope == pytest.approx(-1, abs=0.1)
    decoupled = shrink_line(arrays, "rmspropw")
    assert decoupled.slope == pytest.approx(0, abs=0.01)
    ratio = arrays["rmspropw/shrink"][decoupled.used] / arrays["rmspropw/rate"]
    assert np.median(ratio) == pytest.approx(1, rel=0.01)


# --- Fair arms --------------------------------------------------------------------


def test_pairs_share_their_grid_and_the_seeds_of_the_stages_are_disjoint():
    from experiments.analysis import FINAL, NONE, TUNING
    from experiments.demo import ARMS, FULL, SMOKE

    for plan in (FULL, SMOKE):
        assert set(plan.seeds(TUNING)).isdisjoint(plan.seeds(FINAL))
        for base in ("SGD", "RMSprop", "Adam"):
            l2, decoupled = (
                plan.tuning_cells(arm)
                for arm in ARMS
                if arm.base == base and arm.place != NONE
            )
            assert l2 == decoupled
    assert len(FULL.seeds(TUNING)) >= 3
    assert len(FULL.seeds(FINAL)) >= 10
    assert all(len(rates) >= 3 for rates in FULL.learning_rates.values())
    assert len(FULL.weight_decays) >= 5


def test_data_depend_on_the_seed_alone_and_only_training_labels_are_wrong():
    from experiments import data as digits

    stored = digits.load()
    a, again, b = (digits.split(seed, stored, 900, 0.4) for seed in (5, 5, 6))
    for one, other in zip(a, again, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(a.train_x, b.train_x)

    truth = {x.tobytes(): y for x, y in zip(stored.pool_x, stored.pool_y, strict=True)}

    def share_wrong(x, y):
        right = [truth[np.asarray(row).tobytes()] for row in x]
        return np.mean(np.asarray(y) != right)

    assert share_wrong(a.val_x, a.val_y) == 0
    assert share_wrong(a.train_x, a.train_y) == pytest.approx(0.4 * 0.9, abs=0.05)
    train, val = ({np.asarray(x).tobytes() for x in part} for part in (a[0], a[2]))
    test = {x.tobytes() for x in stored.test_x}
    assert (len(a.train_y), len(a.val_y), len(stored.test_y)) == (900, 300, 597)
    assert train.isdisjoint(val)
    assert test.isdisjoint(train | val)


# --- The engine -------------------------------------------------------------------


@pytest.fixture(scope="module")
def small():
    """A bench of small networks and short runs, four cells to a chunk."""
    from experiments import data as digits, engine
    from experiments.demo import SMOKE

    plan = dataclasses.replace(SMOKE, hidden=8, epochs=2, epochs_per_segment=1)
    return engine.prepare_bench(plan.task(), plan.schedule(), digits.load(), chunk=4)


@pytest.fixture(scope="module")
def program(small):
    from experiments import engine
    from experiments.demo import sgd_l2

    return engine.compile_program(small, sgd_l2)


def train(program, cells):
    from experiments import engine

    return engine.train(program, [engine.Cell(*cell) for cell in cells], lambda _: None)


def test_one_trace_and_no_compilation_however_many_cells(small, caplog):
    import jax

    import decayax as dx
    from experiments import engine

    traces = []

    def counted(*args, **kwargs):
        traces.append(1)
        return dx.sgdw(*args, momentum=0.9, **kwargs)

    program = engine.compile_program(small, counted)
    before = len(traces)
    with jax.log_compiles():
        for count in (1, 4, 11):
            cells = [(0.1 / (i + 1), 0.01 * i, i) for i in range(count)]
            assert train(program, cells).measures["val_accuracy"].shape == (count,)
    assert len(traces) == before
    assert not [r for r in caplog.records if "compil" in r.getMessage().lower()]


def test_cells_stay_apart_on_the_devices(program):
    import jax
    from jax.sharding import PartitionSpec

    assert program.bench.spread.spec == PartitionSpec("cell")
    assert program.bench.spread.mesh.size == min(jax.device_count(), 4)
    text = program.segment.as_text()
    for collective in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert collective not in text


def test_training_is_what_a_plain_loop_does(small, program):
    import jax
    import jax.numpy as jnp

    from experiments import data as digits

    # The L2 chain by hand: θ <- θ - γ_t m, m <- g + λθ + 0.9 m; no λ on biases.
    rate, strength, seed = 0.1, 0.03, 7
    part = digits.split(seed, small.data, 900, 0.4)
    state = small.task.init(seed)
    theta = {
        (layer, name): np.asarray(state[layer][name][...])
        for layer in ("hidden", "output")
        for name in ("kernel", "bias")
    }

    def loss(theta, x, y):
        hidden = jax.nn.relu(x @ theta["hidden", "kernel"] + theta["hidden", "bias"])
        logits = hidden @ theta["output", "kernel"] + theta["output", "bias"]
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(len(y)), y])

    momentum = {key: 0.0 for key in theta}
    gradient, step = jax.jit(jax.grad(loss)), 0
    for epoch in range(2):
        for x, y in zip(*digits.batches(seed, epoch, part, 50), strict=True):
            gamma = rate * (1 + math.cos(math.pi * step / 36)) / 2
            for key, g in gradient(theta, x, y).items():
                g = g + strength * theta[key] * (key[1] == "kernel")
                momentum[key] = g + 0.9 * momentum[key]
                theta[key] = theta[key] - gamma * momentum[key]
            step += 1
    trained = train(program, [(rate, strength, seed)]).measures
    expected = loss(theta, part.train_x, part.train_y)
    np.testing.assert_allclose(trained["train_loss"][0], expected, rtol=1e-4)
    largest = max(abs(theta[key]).max() for key in theta if key[1] == "kernel")
    np.testing.assert_allclose(trained["max_abs_w"][0], largest, rtol=1e-4)


def test_a_seed_is_the_same_run_in_every_arm(small, program):
    from experiments import engine
    from experiments.demo import sgdw

    # With λ = 0 both places are plain SGD: init, data, noise and order must agree.
    cells = [(0.1, 0.0, seed) for seed in (3, 4, 5)]
    l2 = train(program, cells).measures["train_loss"]
    decoupled = train(engine.compile_program(small, sgdw), cells)
    np.testing.assert_allclose(l2, decoupled.measures["train_loss"], rtol=1e-4)
    assert len(set(l2.tolist())) == 3


def test_a_run_does_not_depend_on_its_place_in_the_grid(program):
    cells = [(0.1, 0.01, 3), (0.03, 0.1, 4), (0.1, 0.0, 5), (0.3, 0.01, 3)]
    forward = train(program, cells).measures
    backward = train(program, cells[::-1] + cells[:2]).measures
    for name, values in forward.items():
        np.testing.assert_array_equal(values, backward[name][:4][::-1])
        np.testing.assert_array_equal(values[:2], backward[name][4:])


def test_a_diverged_neighbour_scores_chance_and_disturbs_nobody(program):
    cells = [(0.1, 0.01, 3), (0.1, 0.01, 4), (0.03, 0.01, 5), (0.1, 0.1, 6)]
    good = train(program, cells)
    bad = train(program, [cells[0], (math.inf, 0.01, 4), *cells[2:]])
    assert bad.measures["diverged"].tolist() == [False, True, False, False]
    assert bad.measures["val_accuracy"][1] == np.float32(0.1)
    assert bad.measures["test_accuracy"][1] == np.float32(0.1)
    for name, values in good.measures.items():
        others = [0, 2, 3]
        np.testing.assert_array_equal(values[others], bad.measures[name][others])


def test_the_schedule_is_a_cosine_from_one_to_zero():
    from experiments.engine import Schedule

    multiplier = Schedule(4, 2, steps_per_epoch=10).multiplier
    values = [float(multiplier(step)) for step in (0, 10, 20, 40)]
    assert values == pytest.approx([1, (1 + math.sqrt(0.5)) / 2, 0.5, 0], abs=1e-6)


# --- Numbers from made-up runs ----------------------------------------------------


def made_up_runs(plan, accuracy):
    """Every run of a plan, `accuracy(arm, cell)` for (validation, test)."""
    from experiments.analysis import FINAL, MATCHED, NONE, Run, TUNING
    from experiments.demo import ARMS
    from experiments.engine import Cell

    runs = []
    for arm in ARMS:
        best = plan.tuning_cells(arm)[-1]
        final = [Cell(*best[:2], seed) for seed in plan.seeds(FINAL)]
        stages = {TUNING: plan.tuning_cells(arm), FINAL: final}
        if arm.place == NONE:
            stages |= {MATCHED: final}
        for stage, cells in stages.items():
            for cell in cells:
                largest = (2.0 if stage == MATCHED else 0.5) + cell.seed / 10
                rest = (*accuracy(arm, cell), 1.0, largest, 0.1, False)
                runs.append(Run(stage, *arm[:3], *cell, *rest))
    return runs


def test_no_decay_also_runs_at_the_rate_of_the_decoupled_chain():
    from experiments.analysis import choose, FINAL, MATCHED, NONE
    from experiments.demo import ARMS, settings

    choices = choose(made_up_runs(plan(), prefers(0.03, 0.1)))
    planned = list(settings(choices))
    assert [arm.name for stage, arm, _ in planned if stage == FINAL] == [
        arm.name for arm in ARMS
    ]
    matched = {arm.name: cell for stage, arm, cell in planned if stage == MATCHED}
    assert set(matched) == {arm.name for arm in ARMS if arm.place == NONE}
    for name, decoupled in (("sgd", "sgdw"), ("adam", "adamw")):
        assert matched[name].learning_rate == choices[decoupled].learning_rate
        assert matched[name].weight_decay == 0.0


@functools.cache
def plan():
    from experiments.demo import SMOKE

    return dataclasses.replace(SMOKE, weight_decays=(0.01, 0.1, 1.0), final_seeds=5)


def prefers(rate, strength):
    """Validation accuracy with its best at one cell; the test column says otherwise."""

    def accuracy(arm, cell):
        distance = abs(math.log(cell.learning_rate / rate))
        if cell.weight_decay:
            distance += abs(math.log(cell.weight_decay / strength))
        return 0.9 - distance / 100, 0.5 + distance / 100 + cell.seed / 1000

    return accuracy


def test_selection_reads_validation_only():
    from experiments.analysis import choose

    runs = made_up_runs(plan(), prefers(0.03, 0.1))
    choice = choose(runs)["sgd_l2"]
    assert (choice.learning_rate, choice.weight_decay) == (0.03, 0.1)
    assert choice.edges == ("learning rate",)
    blind = [run._replace(test_accuracy=math.nan) for run in runs]
    assert choose(blind) == choose(runs)
    # The validation accuracy of the final runs must not matter either.
    final = [r._replace(val_accuracy=9.0) if r.stage == "final" else r for r in runs]
    assert choose(final) == choose(runs)


def test_selection_breaks_ties_towards_less():
    from experiments.analysis import choose

    choice = choose(made_up_runs(plan(), lambda arm, cell: (0.9, 0.9)))["adamw"]
    assert (choice.learning_rate, choice.weight_decay) == (0.003, 0.01)


@pytest.fixture
def stored(tmp_path):
    """A folder with raw results that no training made."""
    from experiments import files
    from experiments.analysis import FINAL, MATCHED
    from experiments.demo import ARMS
    from experiments.figures import SHRINK_ARMS

    rng = np.random.default_rng(0)
    arrays = {
        f"{arm.name}/{stage} weights": rng.normal(size=(5, 100))
        for arm in ARMS
        for stage in (FINAL, MATCHED)
    }
    for arm in SHRINK_ARMS:
        ones = np.ones(100, np.float32)
        arrays |= {f"{arm}/{name}": ones for name in ("shrink", "rms_w", "rms_g")}
        arrays |= {f"{arm}/root_v": 10.0 ** rng.uniform(-4, -1, 100)}
        arrays |= {f"{arm}/rate": np.float32(0.01)}
    files.write_arrays(tmp_path / "raw.npz", arrays)
    runs = made_up_runs(plan(), prefers(0.03, 0.1))
    runs[0] = runs[0]._replace(diverged=True, train_loss=math.nan)
    files.write_csv(tmp_path / "cells.csv", runs)
    manifest = {"command": "made up", "seconds": {"all": 1.0}, "runs": len(runs)}
    manifest |= {"plan": dataclasses.asdict(plan())} | files.provenance()
    files.write_json(tmp_path / "manifest.json", manifest)
    return tmp_path


def test_report_is_made_again_from_files_alone(stored):
    from experiments.analysis import read_runs
    from experiments.report import write_report

    runs = read_runs(stored / "cells.csv")
    assert runs[1:] == made_up_runs(plan(), prefers(0.03, 0.1))[1:]
    assert runs[0].diverged
    write_report(stored)
    names = {path.name for path in stored.iterdir()}
    report = (stored / "report.md").read_bytes()
    for path in [*stored.glob("*.png"), stored / "report.md"]:
        path.unlink()
    write_report(stored)
    assert {path.name for path in stored.iterdir()} == names
    assert (stored / "report.md").read_bytes() == report
    text = report.decode()
    assert "On the edge of the grid" in text
    assert "1 + 0 |" in text  # the diverged run is counted


def test_report_of_an_empty_folder_says_what_is_missing(tmp_path, capsys):
    from experiments.cli import report

    with pytest.raises(SystemExit, match="no cells.csv, raw.npz, manifest.json in"):
        report(tmp_path)


# --- Statistics -------------------------------------------------------------------


def test_estimate_is_students_t():
    from scipy import stats

    from experiments.statistics import estimate

    values = np.random.default_rng(1).normal(0.3, 1, 12)
    ours, theirs = estimate(values), stats.ttest_1samp(values, 0)
    interval = theirs.confidence_interval(0.95)
    assert ours.mean == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high))
    assert ours.p == pytest.approx(theirs.pvalue)
    assert estimate([2.0, 2.0]) == (2.0, 2.0, 2.0, 0.0)
    assert estimate([0.0, 0.0]).p == 1.0


def test_holm_by_hand():
    from experiments.statistics import holm

    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


NOISE = np.array([-1.0, 0.5, 0.8, -0.6, 0.3, 0.1, -0.4, 0.3])


@pytest.mark.parametrize(
    ("first", "comparisons", "words"),
    [
        (NOISE + 5, 1, "a clearly better"),
        (NOISE - 5, 1, "b clearly better"),
        (NOISE, 1, "no difference shown"),
        (NOISE + 0.6, 1, "a clearly better"),
        (NOISE + 0.6, 9, "not clear after correction"),
        (0 * NOISE, 1, "no difference shown"),
    ],
)
def test_verdicts_follow_the_numbers(first, comparisons, words):
    from experiments.statistics import compare, verdict

    values = {"a": first, "b": 0 * NOISE, "c": NOISE}
    pairs = [("a", "b")] + [("c", "b")] * (comparisons - 1)
    assert verdict(compare(pairs, values)[0]) == words


def test_the_conclusion_follows_the_numbers():
    from experiments.analysis import analyse, DECOUPLED, NONE
    from experiments.report import conclusion

    def rmspropw_wins(arm, cell):
        gain = {NONE: -0.2, DECOUPLED: 0.1 * (arm.base == "RMSprop")}.get(arm.place, 0)
        wobble = 0.01 * math.sin(7 * cell.seed + len(arm.name))  # seed against seed
        return prefers(0.01, 0.1)(arm, cell)[0], 0.8 + gain + wobble

    analysis = analyse(made_up_runs(plan(), rmspropw_wins))
    sgd, _, adam = (pair.difference for pair in analysis.pairs)
    text = conclusion(analysis)
    assert "rmspropw is better than its twin by 9" in text
    assert "no difference in test accuracy is shown between sgdw and sgd_l2; " in text
    reach = max(-sgd.low, sgd.high, -adam.low, adam.high)
    assert reach > 0.1
    assert f"reach no further than {reach:.1f} points from 0" in text
    assert "6 of the 6 chains are clearly better and 0 clearly worse" in text
    assert "largest weight is clearly" not in text  # it is the same in all of them
    assert "without decay is 2.40 (sgd), 2.40 (rmsprop) and 2.40 (adam)" in text


# --- Interrupts and missing packages ----------------------------------------------


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_an_interrupt_says_so_in_one_line_and_leaves_old_files_alone(tmp_path, name):
    (tmp_path / "cells.csv").write_text("an older run")
    process = start("-m", "experiments", "demo", "--smoke", "--out", str(tmp_path))
    assert process.stdout is not None
    assert process.stdout.readline().startswith("Digits")
    time.sleep(0.5)
    process.send_signal(getattr(signal, name))
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + getattr(signal, name)
    (line,) = stderr.splitlines()
    assert re.search(r"interrupted while .*, after \d+ of 108 runs", line)
    assert [path.name for path in tmp_path.iterdir()] == ["cells.csv"]
    assert (tmp_path / "cells.csv").read_text() == "an older run"


def test_a_file_is_whole_or_not_there(tmp_path):
    from experiments import files

    def interrupted_write():
        with files.whole(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    path = tmp_path / "new" / "report.md"
    with pytest.raises(KeyboardInterrupt):
        interrupted_write()
    assert list(path.parent.iterdir()) == []
    files.write_text(path, "old")
    with pytest.raises(KeyboardInterrupt):
        interrupted_write()
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX signals")
def test_a_killed_write_does_not_touch_the_old_file(tmp_path):
    path = tmp_path / "cells.csv"
    path.write_text("old")
    script = f"""
import os, pathlib, signal
from experiments import files
with files.whole(pathlib.Path({str(path)!r})) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    process = start("-c", script)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert path.read_text() == "old"


@pytest.mark.parametrize("module", EXTRAS)
def test_a_missing_package_ends_in_one_line(module, monkeypatch):
    from experiments.__main__ import EXTRAS as needed, main

    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr("experiments.interrupts.listen", lambda: None)
    with pytest.raises(SystemExit) as error:
        main()
    message = str(error.value.code)
    assert f"{needed[module]} is not installed" in message
    assert "pip install 'decayax[experiments]'" in message
    assert "pip install -e '.[experiments]'" in message
    assert "\n" not in message


def test_a_missing_package_is_exit_status_one():
    block = "import sys, runpy; sys.modules['sklearn'] = None; "
    process = start(
        "-c", block + "runpy.run_module('experiments', run_name='__main__')"
    )
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert stdout == ""
    (line,) = stderr.splitlines()
    assert "scikit-learn is not installed" in line


def test_the_command_names_what_it_needs():
    from experiments.__main__ import EXTRAS as needed

    assert set(needed) == set(EXTRAS)
    assert all(importlib.util.find_spec(module) for module in needed)
    assert os.environ.get("JAX_PLATFORMS") == "cpu"
