"""The demo: its plan, its data, interrupts, whole files and missing packages."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import TWO_DEVICES


ROOT = Path(__file__).parents[1]
EXTRAS = ("flax", "sklearn", "matplotlib", "rich")
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


# --- The plan ---------------------------------------------------------------------


def entries_of(task):
    from experiments.studies.demo import FULL

    return {e.labels["arm"]: e for e in FULL.entries if e.labels["task"] == task}


@pytest.mark.parametrize("task", ["unlike scales", "LayerNorm", "plain"])
def test_arms_differ_in_the_chain_and_the_place_of_the_grid(task):
    from experiments.arms import adam_l2, adamw

    arms = entries_of(task)
    optimizers = {name: entry.config.make_optimizer for name, entry in arms.items()}
    assert optimizers == {"adam": adam_l2, "adam_l2": adam_l2, "adamw": adamw}
    (same,) = {
        repr(entry.config._replace(make_optimizer=None)) for entry in arms.values()
    }
    assert "make_optimizer=None" in same
    assert arms["adam"].fixed == arms["adamw"].fixed | {"weight_decay": 0.0}
    assert arms["adam_l2"].fixed == arms["adamw"].fixed
    (l2, rates), (decoupled, others) = (arms[x].axes for x in ("adam_l2", "adamw"))
    assert rates == others == arms["adam"].axes[0]
    assert len(l2.values) == len(decoupled.values)
    assert np.ptp(np.log2([l2.high / l2.low, decoupled.high / decoupled.low])) == 0


def test_every_place_is_compared_on_every_task():
    from experiments.studies.demo import FULL

    assert {contrast.name: contrast.terms for contrast in FULL.contrasts} == {
        f"{task}: {one} − {other}": ((f"{task} {one}", 1.0), (f"{task} {other}", -1.0))
        for task in ("unlike scales", "LayerNorm", "plain")
        for one, other in (("adamw", "adam_l2"), ("adam_l2", "adam"), ("adamw", "adam"))
    }
    assert FULL.final_seeds >= 20
    assert FULL.validation_seeds >= 10
    assert FULL.shrinks == ("unlike scales adam_l2", "unlike scales adamw")
    assert FULL.spreads == ("unlike scales adam", "LayerNorm adam", "plain adam")


# --- Its data ---------------------------------------------------------------------


def test_data_and_weights_depend_on_the_seed_and_only_training_labels_are_wrong():
    import jax

    from experiments.training_setups import DIGITS

    task, data = DIGITS.task(), DIGITS.load()

    @jax.jit
    def drawn(hparams, data):
        batches = task.batches(hparams["seed"], 3, data)
        return task.run_data(hparams, data).split, task.init(hparams), batches

    def made(seed, rate):
        hparams = {"learning_rate": rate, "weight_decay": rate, "seed": seed}
        return jax.device_get(drawn(hparams, data))

    a, again, b = (made(*hparams) for hparams in ((5, 0.1), (5, 0.3), (6, 0.1)))
    jax.tree.map(np.testing.assert_array_equal, a, again)
    for one, other in zip(a, b, strict=True):
        pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
        assert not all(np.array_equal(x, y) for x, y in pairs)

    train, labels, val = a[0]
    assert (len(labels), len(val), len(data.test_y)) == (900, 300, 597)
    assert sorted([*train, *val]) == list(range(1200))
    wrong = np.mean(labels != data.pool_y[train])
    assert wrong == pytest.approx(0.4 * 0.9, abs=0.05)
    pool = {row.tobytes() for row in data.pool_x}
    assert {row.tobytes() for row in data.test_x}.isdisjoint(pool)


def test_the_scales_of_inputs_reach_from_minus_s_to_s():
    import jax

    from experiments.training_setups import STUDENT

    task, data = STUDENT.task(), STUDENT.load()

    def exponents(seed, spread):
        hparams = {"seed": seed, "spread": spread}
        return np.log10(jax.jit(task.run_data)(hparams, data).scales)

    found = exponents(0, 1.5)
    assert found.shape == (64,)
    assert np.abs(found).max() <= 1.5
    assert found.min() < -1.2
    assert found.max() > 1.2
    assert np.abs(found.mean()) < 0.3  # three standard errors of U(-1.5, 1.5)
    np.testing.assert_allclose(exponents(0, 0.5), found / 3, atol=1e-5)
    assert np.abs(exponents(1, 1.5) - found).max() > 1


def test_measures_take_wrong_labels_for_training_and_right_ones_else():
    import jax

    from experiments.training_setups import DIGITS

    task, data = DIGITS.task(), DIGITS.load()

    @jax.jit
    def untrained(hparams, data):
        run_data, params = task.run_data(hparams, data), task.init(hparams)
        state = task.state(hparams, params)
        return run_data, params, task.measure(params, state, run_data, data)

    run_data, params, measured = jax.device_get(untrained({"seed": 5}, data))
    hidden, output = params["hidden"][0], params["output"]

    def score(x, y):
        kernels = (np.float64(layer["kernel"][...]) for layer in (hidden, output))
        first, second = kernels
        logits = np.maximum(x @ first, 0) @ second  # biases begin at 0
        right = logits[np.arange(len(y)), y]
        loss = np.mean(np.log(np.exp(logits).sum(1)) - right)
        return loss, np.mean(logits.argmax(1) == y)

    train, labels, val = (np.asarray(rows) for rows in run_data.split)
    expected = {
        "train": score(data.pool_x[train], labels),
        "val": score(data.pool_x[val], data.pool_y[val]),
        "test": score(data.test_x, data.test_y),
    }
    for name, (loss, accuracy) in expected.items():
        assert float(measured[f"{name}_loss"]) == pytest.approx(loss, rel=1e-4)
        if name != "train":
            assert float(measured[f"{name}_accuracy"]) == pytest.approx(accuracy)
    truly, _ = score(data.pool_x[train], data.pool_y[train])
    assert abs(truly - expected["train"][0]) > 1e-3


@pytest.mark.slow
def test_a_seed_is_the_same_run_in_every_arm():
    from experiments.engine.compilation_cache import new_cache
    from experiments.engine.config import grid, SweepGroup
    from experiments.engine.training import train_chunk
    from experiments.terminal import SILENT

    # With λ = 0 all arms are plain Adam: init, data, noise and order must agree.
    cache = new_cache()
    runs = grid(learning_rate=[0.01], weight_decay=[0.0], seed=range(3, 6))
    losses = {}
    for arm, entry in entries_of("plain").items():
        config = entry.config._replace(epochs=2, epochs_per_segment=2)
        group = SweepGroup({"arm": arm}, config, runs)
        arrays = train_chunk(cache, group, runs, 3, SILENT)
        losses[arm] = arrays["measure/train_loss"][:, -1]
    for other in ("adam_l2", "adamw"):
        np.testing.assert_allclose(losses[other], losses["adam"], rtol=1e-4)
    assert len(set(losses["adam"].tolist())) == 3


# --- Interrupts and missing packages ----------------------------------------------


@pytest.mark.slow
def test_an_interrupted_run_leaves_whole_files_and_goes_on(tmp_path):
    from test_studies import check_results

    from experiments.studies.demo import SMOKE, study

    runs = study(SMOKE).runs
    older = tmp_path / "demo" / "0123456789ab" / "cells.csv"
    older.parent.mkdir(parents=True)
    older.write_text("an older run")
    # The command makes every core a device.
    flags = os.environ["XLA_FLAGS"].replace(TWO_DEVICES, "")
    environment = {**os.environ, "XLA_FLAGS": flags}
    arguments = ("-m", "experiments", "demo", "--smoke", "--out", str(tmp_path))
    process = start(*arguments, env=environment)
    assert process.stdout is not None
    assert process.stdout.readline().startswith(f"demo: at most {runs} runs into ")
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM
    (line,) = stderr.splitlines()
    assert re.search(r"interrupted while .*, after \d+ of \d+ runs", line)
    assert f"demo --resume --smoke --out {tmp_path}" in line
    assert older.read_text() == "an older run"
    assert list(older.parent.iterdir()) == [older]
    for folder in set(tmp_path.glob("demo/*")) - {older.parent}:
        names = {path.name for path in folder.iterdir()}
        assert not names & {"cells.csv", "report.md"}
        assert not [each for each in names if each.endswith(".part")]
        json.loads((folder / "manifest.json").read_text())
        for path in folder.glob("*.npz"):
            with np.load(path) as arrays:
                assert all(arrays[each].ndim >= 0 for each in arrays.files)

    process = start(*arguments, "--resume", env=environment)
    stdout, stderr = process.communicate(timeout=600)
    assert process.returncode == 0, stderr
    assert stderr == ""
    (report,) = tmp_path.glob("demo/*/report.md")
    verdict = stdout.partition("Verdict. ")[2].partition("\n")[0]
    assert verdict != ""
    check_results("demo", report.parent, f"Verdict. {verdict}")


def test_a_file_is_whole_or_not_there(tmp_path):
    from experiments import files

    def interrupted_write():
        with files.atomic_write(path) as temporary:
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
    from experiments import files

    path = tmp_path / "cells.csv"
    path.write_text("old")
    script = f"""
import os, pathlib, signal
from experiments import files
with files.atomic_write(pathlib.Path({str(path)!r})) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    process = start("-c", script)
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2
    files.remove_abandoned(tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_two_processes_do_not_share_a_temporary_file(tmp_path, monkeypatch):
    from experiments import files

    path = tmp_path / "cells.csv"
    with files.atomic_write(path) as one:
        one.write_text("one")
        monkeypatch.setattr(os, "getpid", lambda: 0)
        with files.atomic_write(path) as other:
            other.write_text("other")
        assert path.read_text() == "other"
        assert one.read_text() == "one"
    assert path.read_text() == "one"


def test_what_others_are_writing_is_not_abandoned(tmp_path):
    from experiments import files

    elsewhere = tmp_path / ".cells.csv.another-machine-1.part"
    elsewhere.write_text("half")
    with files.atomic_write(tmp_path / "cells.csv") as temporary:
        temporary.write_text("whole")
        files.remove_abandoned(tmp_path)
        assert temporary.exists()
    assert (tmp_path / "cells.csv").read_text() == "whole"
    assert elsewhere.exists()


@pytest.mark.parametrize("module", EXTRAS)
def test_a_missing_package_ends_in_one_line(module, monkeypatch):
    from experiments.cli import main
    from experiments.exit_codes import EXTRAS as needed

    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr("experiments.interrupts.install_handlers", lambda: None)
    with pytest.raises(SystemExit) as error:
        main()
    message = str(error.value.code)
    assert f"{needed[module]} is not installed" in message
    assert "pip install -e . --group experiments (pip 25.1 or newer)" in message
    assert "\n" not in message


def test_a_missing_package_is_exit_status_one():
    group = "import sys, runpy; sys.modules['sklearn'] = None; "
    process = start(
        "-c", group + "runpy.run_module('experiments', run_name='__main__')"
    )
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 1
    assert stdout == ""
    (line,) = stderr.splitlines()
    assert "scikit-learn is not installed" in line


def test_the_command_names_what_it_needs():
    from experiments.exit_codes import EXTRAS as needed

    assert set(needed) == set(EXTRAS)
    assert all(importlib.util.find_spec(module) for module in needed)
    assert os.environ.get("JAX_PLATFORMS") == "cpu"
