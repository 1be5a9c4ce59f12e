"""The demo: fair arms, honest selection, words that follow the numbers, whole files."""

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
MEASURES = (
    *("val_accuracy", "val_loss", "test_accuracy", "test_loss"),
    *("train_loss", "max_abs_w", "rms_w"),
)
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
    from experiments.studies.demo import SMOKE, study

    arms = [arm.name for arm in SMOKE.arms()]
    process = start("-m", "experiments", "demo", "--smoke", "--out", str(tmp_path))
    stdout, stderr = process.communicate(timeout=600)
    assert process.returncode == 0, stderr
    assert stderr == ""
    assert "Verdict." in stdout
    assert len(stdout.splitlines()) < 60  # no progress bar where there is no terminal

    (folder,) = tmp_path.glob("demo/*")
    assert str(folder) in stdout
    assert {path.name for path in folder.iterdir()} == {
        *("cells.csv", "manifest.json", "report.md"),
        *("accuracy.png", "mechanism.png", "heatmaps.png", "weights.png"),
        *(f"tuning-{number:04d}.npz" for number in range(len(arms))),
        *(f"final-{number:04d}.npz" for number in range(len(arms) + 1)),
        *("shrink-rmsprop_l2.npz", "shrink-rmspropw.npz"),
    }
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["stages"] == {s.name: s.runs for s in study(SMOKE).stages}
    assert manifest["plan"]["weight_decays"] == list(SMOKE.weight_decays)
    assert {"jax", "optax", "flax", "numpy", "decayax", "python"} <= set(
        manifest["versions"]
    )
    assert set(manifest["seconds"]) == {"compile", "run"}
    report = (folder / "report.md").read_text(encoding="utf-8")
    assert arms == ["rmsprop", "rmsprop_l2", "rmspropw"]
    assert all(f"`{arm}`" in report for arm in arms)
    assert set(re.findall(r"\((\w+\.png)\)", report)) == {
        path.name for path in folder.glob("*.png")
    }
    check_runs(folder, manifest["runs"])
    check_words(folder, stdout)
    check_measured_shrinks(folder)


def check_runs(folder: Path, count: int):
    """Every run once, finite, on fresh seeds at the setting that tuning picked."""
    from experiments.reports.demo_analysis import choices, FINAL, MATCHED, TUNING

    from experiments import cells

    runs = cells.read(folder / "cells.csv")
    assert len(runs["seed"]) == count == (4 + 8 + 8) + (3 + 1) * 4
    for name in MEASURES:
        assert np.isfinite(runs[name]).all(), name
    assert not runs["diverged"].any()
    assert set(runs["diverged_at"]) == {-1}
    seeds = {
        stage: cells.where(runs, stage=stage)["seed"] for stage in set(runs["stage"])
    }
    assert set(seeds) == {TUNING, FINAL, MATCHED}
    assert set(seeds[FINAL]) == set(seeds[MATCHED])
    assert set(seeds[FINAL]).isdisjoint(seeds[TUNING])
    for arm, choice in choices(runs).items():
        final = cells.where(runs, stage=FINAL, arm=arm)
        assert set(final["learning_rate"]) == {choice.learning_rate}
        assert set(final["weight_decay"]) == {choice.weight_decay}


def check_words(folder: Path, stdout: str):
    """The verdict follows from the table, in the report and on the terminal."""
    from experiments.reports.demo_analysis import analyse

    from experiments import cells
    from experiments.reports.demo import conclusion

    verdict = conclusion(analyse(cells.read(folder / "cells.csv")))
    assert verdict in stdout
    assert verdict in (folder / "report.md").read_text(encoding="utf-8")


def check_measured_shrinks(folder: Path):
    from experiments.reports.demo_figures import shrink_of
    from experiments.reports.shrink import shrink_line

    from experiments.reports.demo import stored_arrays

    arrays = stored_arrays(folder)
    l2, decoupled = (
        shrink_line(shrink_of(arrays, arm)) for arm in ("rmsprop_l2", "rmspropw")
    )
    assert l2.slope == pytest.approx(-1, abs=0.1)
    assert decoupled.slope == pytest.approx(0, abs=0.01)
    ratio = arrays["rmspropw/shrink"][decoupled.used] / arrays["rmspropw/rate"]
    assert np.median(ratio) == pytest.approx(1, rel=0.01)


# --- Fair arms --------------------------------------------------------------------


def test_pairs_share_their_grid_and_the_seeds_of_the_stages_are_disjoint():
    from experiments.reports.demo_analysis import FINAL, NONE, TUNING

    from experiments.studies.demo import ARMS, FULL, SMOKE

    assert set(FULL.learning_rates) == {"SGD", "RMSprop", "Adam"}
    for plan in (FULL, SMOKE):
        assert set(plan.seeds(TUNING)).isdisjoint(plan.seeds(FINAL))
        for base in plan.learning_rates:
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


def test_arms_differ_in_nothing_but_the_chain():
    from experiments.reports.demo_analysis import FINAL, MATCHED

    from experiments.studies.demo import ARMS, fresh, FULL, study, tuning

    blocks = [
        *tuning(FULL),
        *fresh(FULL, made_up_runs(FULL, lambda arm, cell: (0.9, 0.9))),
    ]
    (same,) = {repr(block.static._replace(chain=None)) for block in blocks}
    assert "chain=None" in same
    chains = {arm.name: arm.chain for arm in ARMS}
    assert all(b.static.chain is chains[b.labels["arm"]] for b in blocks)
    (seeds,) = {
        tuple(cell["seed"] for cell in block.cells)
        for block in blocks
        if block.labels["stage"] in (FINAL, MATCHED)
    }
    assert seeds == tuple(FULL.seeds(FINAL))
    planned = sum(stage.runs for stage in study(FULL).stages[:2])
    assert sum(len(block.cells) for block in blocks) == planned


def test_data_and_weights_hang_on_the_seed_and_only_training_labels_are_wrong():
    import jax

    from experiments.studies.demo import FULL

    recipe = FULL.recipe()
    task, data = recipe.task(), recipe.load()

    @jax.jit
    def drawn(cell, data):
        batches = task.batches(cell["seed"], 3, data)
        return task.part(cell, data).split, task.init(cell), batches

    def made(seed, rate):
        cell = {"learning_rate": rate, "weight_decay": rate, "seed": seed}
        return jax.device_get(drawn(cell, data))

    a, again, b = (made(*cell) for cell in ((5, 0.1), (5, 0.3), (6, 0.1)))
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


def test_measures_take_wrong_labels_for_training_and_right_ones_else():
    import jax

    from experiments.studies.demo import FULL

    recipe = FULL.recipe()
    task, data = recipe.task(), recipe.load()

    @jax.jit
    def untrained(cell, data):
        part, params = task.part(cell, data), task.init(cell)
        return part, params, task.measure(params, part, data)

    part, params, measured = jax.device_get(untrained({"seed": 5}, data))
    hidden, output = params["hidden"][0], params["output"]

    def score(x, y):
        kernels = (np.float64(layer["kernel"][...]) for layer in (hidden, output))
        first, second = kernels
        logits = np.maximum(x @ first, 0) @ second  # biases begin at 0
        right = logits[np.arange(len(y)), y]
        loss = np.mean(np.log(np.exp(logits).sum(1)) - right)
        return loss, np.mean(logits.argmax(1) == y)

    train, labels, val = (np.asarray(rows) for rows in part.split)
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


def test_a_seed_is_the_same_run_in_every_arm():
    from experiments.engine.chunks import train
    from experiments.engine.plan import Block, grid
    from experiments.engine.workshop import workshop
    from experiments.studies.demo import ARMS, SMOKE
    from experiments.terminal import SILENT

    # With λ = 0 both places are plain SGD: init, data, noise and order must agree.
    small = dataclasses.replace(SMOKE, hidden=8, epochs=2, epochs_per_segment=2)
    shop = workshop()
    runs = grid(learning_rate=[0.1], weight_decay=[0.0], seed=range(3, 6))
    losses = {}
    for arm in ARMS[:3]:
        block = Block({"arm": arm.name}, small.static(arm.chain), runs)
        arrays = train(shop, block, block.cells, 3, SILENT)
        losses[arm.name] = arrays["measure/train_loss"][:, -1]
    for other in ("sgd_l2", "sgdw"):
        np.testing.assert_allclose(losses[other], losses["sgd"], rtol=1e-4)
    assert len(set(losses["sgd"].tolist())) == 3


# --- Numbers from made-up runs ----------------------------------------------------


def made_up_runs(plan, accuracy):
    """Every run of a plan, `accuracy(arm, cell)` for (validation, test)."""
    from experiments.reports.demo_analysis import FINAL, MATCHED, NONE, TUNING

    from experiments.studies.demo import ARMS

    rows = []
    for arm in ARMS:
        best = plan.tuning_cells(arm)[-1]
        final = [{**best, "seed": seed} for seed in plan.seeds(FINAL)]
        stages = {TUNING: plan.tuning_cells(arm), FINAL: final}
        if arm.place == NONE:
            stages |= {MATCHED: final}
        for stage, cells in stages.items():
            for cell in cells:
                val, test = accuracy(arm, cell)
                largest = (2.0 if stage == MATCHED else 0.5) + cell["seed"] / 10
                rows.append(
                    {"stage": stage, "arm": arm.name}
                    | {"base": arm.base, "place": arm.place, **cell}
                    | {"diverged": False, "max_abs_w": largest, "rms_w": 0.1}
                    | {"train_loss": 1.0, "val_accuracy": val, "test_accuracy": test}
                )
    words = ("stage", "arm", "base", "place")
    return {
        name: np.array([row[name] for row in rows], object if name in words else None)
        for name in rows[0]
    }


@functools.cache
def plan():
    from experiments.studies.demo import SMOKE

    return dataclasses.replace(
        SMOKE,
        learning_rates={
            "SGD": (0.03, 0.1),
            "RMSprop": (0.001, 0.003),
            "Adam": (0.003, 0.01),
        },
        weight_decays=(0.01, 0.1, 1.0),
        final_seeds=12,
    )


def prefers(rate, strength):
    """Validation accuracy with its best at one cell; the test column says otherwise."""

    def accuracy(arm, cell):
        distance = abs(math.log(cell["learning_rate"] / rate))
        if cell["weight_decay"]:
            distance += abs(math.log(cell["weight_decay"] / strength))
        return 0.9 - distance / 100, 0.5 + distance / 100 + cell["seed"] / 1000

    return accuracy


def test_no_decay_also_runs_at_the_rate_of_the_decoupled_chain():
    from experiments.reports.demo_analysis import choices, FINAL, MATCHED, NONE

    from experiments.studies.demo import ARMS, fresh

    runs = made_up_runs(plan(), prefers(0.03, 0.1))
    # The decoupled chain likes another learning rate than its base without decay.
    liked = (runs["arm"] == "sgdw") & (runs["learning_rate"] == 0.1)
    runs["val_accuracy"] = np.where(liked, 0.95, runs["val_accuracy"])
    chosen = choices(runs)
    assert chosen["sgdw"].learning_rate != chosen["sgd"].learning_rate
    blocks = fresh(plan(), runs)
    named = [(block.labels["stage"], block.labels["arm"]) for block in blocks]
    assert [arm for stage, arm in named if stage == FINAL] == [a.name for a in ARMS]
    bases = [arm.name for arm in ARMS if arm.place == NONE]
    assert [arm for stage, arm in named if stage == MATCHED] == bases
    decoupled = {"sgd": "sgdw", "rmsprop": "rmspropw", "adam": "adamw"}
    for (stage, arm), block in zip(named, blocks, strict=True):
        rate = chosen[arm if stage == FINAL else decoupled[arm]].learning_rate
        for cell, seed in zip(block.cells, plan().seeds(FINAL), strict=True):
            assert cell == {
                "learning_rate": rate,
                "weight_decay": chosen[arm].weight_decay,
                "seed": seed,
            }
    assert all(chosen[arm].weight_decay == 0 for arm in bases)


def test_selection_reads_validation_only():
    from experiments.reports.demo_analysis import choices, TUNING

    runs = made_up_runs(plan(), prefers(0.03, 0.1))
    chosen = choices(runs)
    choice = chosen["sgd_l2"]
    assert (choice.learning_rate, choice.weight_decay) == (0.03, 0.1)
    assert choice.score == pytest.approx(0.9)
    for column in ("test_accuracy", "train_loss", "max_abs_w"):
        assert choices({**runs, column: runs[column] * math.nan}) == chosen
    # The validation accuracy of the final runs must not matter either.
    final = np.where(runs["stage"] == TUNING, runs["val_accuracy"], 9.0)
    assert choices({**runs, "val_accuracy": final}) == chosen


def test_selection_takes_the_mean_over_the_seeds():
    from experiments.reports.demo_analysis import choices

    # One lucky seed of a cell is no reason to take it.
    def lucky(arm, cell):
        at = (cell["learning_rate"], cell["weight_decay"])
        score = {(0.03, 0.1): 0.8, (0.1, 1.0): 0.6 + 0.3 * cell["seed"]}
        return score.get(at, 0.5), 0.5

    choice = choices(made_up_runs(plan(), lucky))["sgdw"]
    assert (choice.learning_rate, choice.weight_decay) == (0.03, 0.1)


def test_selection_breaks_ties_towards_less():
    from experiments.reports.demo_analysis import choices

    choice = choices(made_up_runs(plan(), lambda arm, cell: (0.9, 0.9)))["adamw"]
    assert (choice.learning_rate, choice.weight_decay) == (0.003, 0.01)

    # Less decay first, then the smaller learning rate.
    def two(arm, cell):
        at = (cell["learning_rate"], cell["weight_decay"])
        return 0.9 if at in {(0.01, 0.1), (0.003, 1.0)} else 0.5, 0.5

    choice = choices(made_up_runs(plan(), two))["adamw"]
    assert (choice.learning_rate, choice.weight_decay) == (0.01, 0.1)


@pytest.mark.parametrize(
    ("best", "edges"),
    [
        ((0.03, 0.1), ()),
        ((0.03, 0.0), ()),  # nothing is below no decay
        ((0.03, 1.0), ("λ",)),
        ((0.01, 0.1), ("learning rate",)),
        ((0.1, 1.0), ("λ", "learning rate")),
    ],
)
def test_a_choice_on_an_edge_is_told(best, edges):
    from experiments.selection import choose

    from experiments.engine.plan import columns, grid

    table = columns(
        grid(
            learning_rate=(0.01, 0.03, 0.1), weight_decay=(0.0, 0.1, 1.0), seed=range(2)
        )
    )
    at = (table["learning_rate"], table["weight_decay"])
    distance = sum(abs(x - np.float32(b)) for x, b in zip(at, best, strict=True))
    choice = choose({**table, "val_accuracy": 0.9 - distance / 10})
    assert choice[:2] == pytest.approx(best)
    assert choice.edges == edges


@pytest.fixture
def stored(tmp_path):
    """A folder with the results of a study that no training made."""
    from experiments.reports.demo_analysis import FINAL, MATCHED, NONE, SHRINK_ARMS

    from experiments import cells, files
    from experiments.engine.study import new_manifest
    from experiments.engine.workshop import workshop
    from experiments.studies.demo import ARMS, study

    rng = np.random.default_rng(0)
    kept = [(arm.name, FINAL) for arm in ARMS]
    kept += [(arm.name, MATCHED) for arm in ARMS if arm.place == NONE]
    for number, (arm, stage) in enumerate(kept):
        arrays = {"label/arm": np.array(arm), "label/stage": np.array(stage)}
        arrays |= {"keep/weights": rng.normal(size=(5, 100))}
        files.write_arrays(tmp_path / f"final-{number:04d}.npz", arrays)
    for arm in SHRINK_ARMS:
        ones = np.ones(100, np.float32)
        arrays = {name: ones for name in ("shrink", "rms_w", "rms_g")}
        arrays |= {"root_v": 10.0 ** rng.uniform(-4, -1, 100)}
        arrays |= {"rate": np.float32(0.01)}
        files.write_arrays(tmp_path / f"shrink-{arm}.npz", arrays)
    runs = made_up_runs(plan(), prefers(0.03, 0.1))
    runs["diverged"][0], runs["train_loss"][0] = True, math.nan
    cells.write(tmp_path / "cells.csv", runs)
    manifest = new_manifest(study(plan()), workshop(), "made up")
    manifest |= {"seconds": {"compile": 1.0, "run": 2.0}}
    manifest |= {"made by": [files.provenance()]}
    files.write_json(tmp_path / "manifest.json", manifest)
    return tmp_path


def test_report_is_made_again_from_files_alone(stored):
    from experiments import cells
    from experiments.studies.demo import write_report

    runs = cells.read(stored / "cells.csv")
    expected = made_up_runs(plan(), prefers(0.03, 0.1))
    assert list(runs) == list(expected)
    for name, column in expected.items():
        np.testing.assert_array_equal(runs[name][1:], column[1:])
    assert runs["diverged"][0]
    verdict = write_report(stored)
    before = {path.name: path.read_bytes() for path in stored.iterdir()}
    for path in [*stored.glob("*.png"), stored / "report.md"]:
        path.unlink()
    assert write_report(stored) == verdict
    assert {path.name: path.read_bytes() for path in stored.iterdir()} == before
    text = before["report.md"].decode()
    assert "On the edge of the grid" in text
    assert "1 + 0 |" in text  # the diverged run is counted
    assert verdict.partition("Verdict. ")[2] in text


def test_a_report_without_its_pieces_says_which(stored):
    from experiments.problem import Problem
    from experiments.studies.demo import write_report

    for path in stored.glob("final-*.npz"):
        path.unlink()
    with pytest.raises(Problem, match=r"holds no final\*\.npz"):
        write_report(stored)
    assert not list(stored.glob("*.png"))


# --- Words ------------------------------------------------------------------------


NOISE = np.array([-1.0, 0.5, 0.8, -0.6, 0.3, 0.1, -0.4, 0.3])


@pytest.mark.parametrize(
    ("first", "comparisons", "words"),
    [
        (NOISE + 5, 1, "a clearly better"),
        (NOISE - 5, 1, "b clearly better"),
        (NOISE, 1, "no difference shown"),
        (NOISE + 0.8, 1, "a clearly better"),
        (NOISE + 0.8, 9, "not clear after correction"),
        (NOISE + 0.6, 1, "no difference shown"),  # p < 0.05, the interval holds 0
        (0 * NOISE, 1, "no difference shown"),
    ],
)
def test_verdicts_follow_the_numbers(first, comparisons, words):
    from experiments.statistics import compare, verdict

    values = {"a": first, "b": 0 * NOISE, "c": NOISE}
    pairs = [("a", "b")] + [("c", "b")] * (comparisons - 1)
    compared = compare(pairs, values)[0]
    assert verdict(compared) == words
    larger, smaller = {"a": ("a", "b"), "b": ("b", "a")}.get(words[0], (None, None))
    assert (compared.larger, compared.smaller) == (larger, smaller)
    assert compared.clear == (larger is not None)


def test_the_conclusion_follows_the_numbers():
    from experiments.reports.demo_analysis import analyse, DECOUPLED, NONE

    from experiments.reports.demo import conclusion

    def rmspropw_wins(arm, cell):
        gain = {NONE: -0.2, DECOUPLED: 0.1 * (arm.base == "RMSprop")}.get(arm.place, 0)
        wobble = 0.01 * math.sin(7 * cell["seed"] + len(arm.name))  # seed against seed
        return prefers(0.01, 0.1)(arm, cell)[0], 0.8 + gain + wobble

    runs = made_up_runs(plan(), rmspropw_wins)
    analysis = analyse(runs)
    sgd, rmsprop, adam = (pair.difference for pair in analysis.pairs)
    text = conclusion(analysis)
    assert f"rmspropw is better than its twin by {rmsprop.mean:.1f}" in text
    assert rmsprop.mean == pytest.approx(10, abs=1)
    assert "no difference in test accuracy is shown between sgdw and sgd_l2; " in text
    reach = max(-sgd.low, sgd.high, -adam.low, adam.high)
    assert reach > 0.1
    assert f"reach no further than {reach:.1f} points from 0" in text
    assert "6 of the 6 chains are clearly better and 0 clearly worse" in text
    assert "largest weight is clearly" not in text  # it is the same in all of them
    assert "without decay is 2.75 (sgd), 2.75 (rmsprop) and 2.75 (adam)" in text
    assert "λ is 1 (SGD), 1 (RMSprop) and 1 (Adam) times" in text

    harmed = np.where(runs["place"] == NONE, 0.9, runs["test_accuracy"] - 0.2)
    wide = np.where(runs["arm"] == "adam_l2", 3.0, runs["max_abs_w"])
    text = conclusion(analyse({**runs, "test_accuracy": harmed, "max_abs_w": wide}))
    assert "0 of the 6 chains are clearly better and 6 clearly worse" in text
    assert "is clearly larger with adam_l2 (3.00) than with adamw (1.25)." in text


def test_the_conclusion_knows_unclear_from_null():
    from experiments.reports.demo_analysis import analyse

    from experiments.reports.demo import conclusion

    analysis = analyse(made_up_runs(plan(), prefers(0.01, 0.1)))
    text = conclusion(analysis)
    assert "no difference in test accuracy is shown between sgdw and sgd_l2;" in text
    sgd, *others = analysis.pairs
    likely = sgd._replace(difference=sgd.difference._replace(low=0.1, high=0.7))
    text = conclusion(analysis._replace(pairs=[likely, *others]))
    assert "no clear difference in test accuracy is shown between sgdw and" in text
    assert "reach no further than 0.7 points from 0" in text


def test_the_ratio_of_the_strengths_is_that_of_the_choices():
    from experiments.reports.demo_analysis import analyse, DECOUPLED

    from experiments.reports.demo import conclusion

    def apart(arm, cell):
        strength = 1.0 if (arm.base, arm.place) == ("Adam", DECOUPLED) else 0.01
        return prefers(0.01, strength)(arm, cell)

    text = conclusion(analyse(made_up_runs(plan(), apart)))
    assert "λ is 1 (SGD), 1 (RMSprop) and 100 (Adam) times the best λ of L2" in text


# --- Interrupts and missing packages ----------------------------------------------


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_an_interrupt_says_so_in_one_line_and_leaves_whole_files(tmp_path, name):
    older = tmp_path / "demo" / "0123456789ab" / "cells.csv"
    older.parent.mkdir(parents=True)
    older.write_text("an older run")
    process = start("-m", "experiments", "demo", "--smoke", "--out", str(tmp_path))
    assert process.stdout is not None
    assert process.stdout.readline().startswith("demo: 38 runs into ")
    time.sleep(0.5)
    process.send_signal(getattr(signal, name))
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 128 + getattr(signal, name)
    (line,) = stderr.splitlines()
    assert re.search(r"interrupted while .*, after \d+ of 38 runs", line)
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
    from experiments import files

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
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2
    files.remove_abandoned(tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_what_others_are_writing_is_not_abandoned(tmp_path):
    from experiments import files

    elsewhere = tmp_path / ".cells.csv.another-machine-1.part"
    elsewhere.write_text("half")
    with files.whole(tmp_path / "cells.csv") as temporary:
        temporary.write_text("whole")
        files.remove_abandoned(tmp_path)
        assert temporary.exists()
    assert (tmp_path / "cells.csv").read_text() == "whole"
    assert elsewhere.exists()


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
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 1
    assert stdout == ""
    (line,) = stderr.splitlines()
    assert "scikit-learn is not installed" in line


def test_the_command_names_what_it_needs():
    from experiments.__main__ import EXTRAS as needed

    assert set(needed) == set(EXTRAS)
    assert all(importlib.util.find_spec(module) for module in needed)
    assert os.environ.get("JAX_PLATFORMS") == "cpu"
