"""The studies e01, e02, e03: end to end, fair arms, and numbers that follow."""

import functools
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import TWO_DEVICES


ROOT = Path(__file__).parents[1]
PUBLISHED = ROOT / "experiments" / "results"
FIGURES = {
    "same": {"cancels.png", "parting.png"},
    "why": {"gap.png", "mechanism.png"},
    "tuning": {"heatmaps-teacher.png", "ridges.png"},
}
pytestmark = [
    pytest.mark.needs_extras,
    pytest.mark.relaxed("scale_by_adam; the experiments run under JAX's defaults"),
]


def module_of(name):
    from experiments.cli import study_module

    return study_module(name)


# --- End to end -------------------------------------------------------------------


@pytest.mark.parametrize("name", FIGURES)
def test_smoke_run_end_to_end(name, tmp_path):
    from experiments import cells

    arguments = ["-m", "experiments", name, "--smoke", "--out", str(tmp_path)]
    # The command itself makes every core a device.
    flags = os.environ["XLA_FLAGS"].replace(TWO_DEVICES, "")
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "Verdict. " in done.stdout
    (folder,) = (path.parent for path in tmp_path.glob(f"{name}/*/manifest.json"))
    assert {path.name for path in folder.glob("*.png")} == FIGURES[name]
    report = (folder / "report.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\((\S+\.png)\)", report)) == FIGURES[name]
    module = module_of(name)
    study = module.study(module.SMOKE)
    if name != "same":
        runs = cells.read(folder / "cells.csv")
        trained = [s for s in study.stages if s.name in ("tuning", "final")]
        assert len(runs["seed"]) == sum(stage.runs for stage in trained)
        assert not runs["diverged"].any()
    assert module.write_report(folder) in done.stdout
    assert (folder / "report.md").read_text(encoding="utf-8") == report


@pytest.mark.parametrize("name", FIGURES)
def test_what_is_published_is_the_plan_and_follows_from_its_files(name, tmp_path):
    from experiments.engine.store import read_manifest
    from experiments.engine.study import hash_of

    module = module_of(name)
    stored = PUBLISHED / name
    manifest = read_manifest(stored)
    assert manifest["hash"] == hash_of(module.study(module.FULL))
    assert not any(origin["git_changed"] for origin in manifest["made by"])
    shutil.copytree(stored, tmp_path / name)
    verdict = module.write_report(tmp_path / name)
    report = (stored / "report.md").read_text(encoding="utf-8")
    assert (tmp_path / name / "report.md").read_text(encoding="utf-8") == report
    assert verdict.removeprefix("Verdict. ") in report
    for path in stored.glob("*.png"):
        assert (tmp_path / name / path.name).stat().st_size > 10_000


def test_the_three_studies_together_take_less_than_twenty_minutes():
    """Measured when they were published, and never in a test."""
    from experiments.engine.store import read_manifest

    seconds = [read_manifest(PUBLISHED / name)["seconds"] for name in FIGURES]
    assert sum(each["run"] + each["compile"] for each in seconds) < 20 * 60


# --- Fair arms --------------------------------------------------------------------


def blocks_of(name):
    from experiments.engine.plan import Block

    module = module_of(name)
    found = module.study(module.FULL).stages[0].make({})
    return [item for item in found if isinstance(item, Block)]


@pytest.mark.parametrize("name", ["why", "tuning"])
def test_arms_of_a_task_differ_in_the_chain_and_the_place_of_the_grid(name):
    from experiments.engine.describe import describe

    by_task = {}
    for block in blocks_of(name):
        by_task.setdefault(block.labels["task"], []).append(block)
    for blocks in by_task.values():
        rest = [{**describe(b.static), "chain": None} for b in blocks]
        assert rest == rest[:1] * len(rest)
        chains = [str(describe(block.static.chain)) for block in blocks]
        assert len(set(chains)) == len(blocks)
        for base in {block.labels.get("base") for block in blocks}:
            mine = [b for b in blocks if b.labels.get("base") == base]
            axes = [
                [len({c[x] for c in b.cells} - {0}) for x in ("weight_decay", "seed")]
                for b in mine
            ]
            assert axes == axes[:1] * len(axes)
            rates = [{cell["learning_rate"] for cell in b.cells} for b in mine]
            assert rates == rates[:1] * len(rates)


def test_e03_is_what_it_was_asked_to_be():
    from experiments.studies.tuning import FULL, study

    blocks = blocks_of("tuning")
    assert len(blocks) == 9 * 3
    assert {len(block.cells) for block in blocks} == {11 * 11 * 3}
    assert {b.labels["base"] for b in blocks} == {"SGD", "RMSprop", "Adam"}
    assert {b.labels["place"] for b in blocks} == {"L2", "lr-coupled", "independent"}
    for block in blocks:
        for axis in ("learning_rate", "weight_decay"):
            values = sorted({cell[axis] for cell in block.cells})
            assert all(math.log2(value).is_integer() for value in values)
            assert np.allclose(np.diff(np.log2(values)), 1)
    assert FULL.final_seeds >= 10
    assert study(FULL).runs == 27 * (363 + FULL.final_seeds)


@pytest.fixture
def table():
    """Runs of e03's smoke plan that no training made."""
    from experiments import cells
    from experiments.studies.tuning import SMOKE, tuning

    columns = []
    for block in tuning(SMOKE):
        runs = {key: np.array([c[key] for c in block.cells]) for key in block.cells[0]}
        far = np.log2(runs["learning_rate"] / 2**-8) ** 2
        far += np.log2(runs["weight_decay"] / np.median(runs["weight_decay"])) ** 2
        runs |= {"val_accuracy": 0.9 - far / 100, "test_accuracy": 0.1 + far / 100}
        runs |= {"diverged": np.zeros(len(far), bool)}
        labels = {n: np.full(len(far), x, object) for n, x in block.labels.items()}
        columns.append(labels | runs)
    return cells.concatenate(columns)


def test_winners_are_chosen_on_validation_and_run_on_fresh_seeds(table):
    from experiments.studies.tuning import fresh, SMOKE

    for block in fresh(SMOKE, table):
        middle = {"adam_l2": 2**-8, "adamw": 1.0, "adam_independent": 2**-8}
        assert {cell["learning_rate"] for cell in block.cells} == {2**-8}
        decays = {cell["weight_decay"] for cell in block.cells}
        assert decays == {middle[block.labels["arm"]]}
        seeds = [cell["seed"] for cell in block.cells]
        assert seeds == list(range(2, 2 + SMOKE.final_seeds))
        assert {cell["spread"] for cell in block.cells} == {0.5}


def test_no_decay_is_a_candidate_of_every_arm():
    from experiments.studies.why import candidates, SMOKE

    at = SMOKE.tuning_cells(SMOKE.questions[0], "adam_l2")
    rows = [(c, "adam_l2") for c in at]
    rows += [(c, "adamw") for c in SMOKE.tuning_cells(SMOKE.questions[0], "adamw")]
    table = {key: np.array([c[key] for c, _ in rows]) for key in at[0]}
    table["arm"] = np.array([arm for _, arm in rows], object)
    for name, value in (("stage", "tuning"), ("task", "teacher")):
        table[name] = np.full(len(rows), value, object)
    decays = {
        arm: set(candidates(table, "teacher", 1.0, arm)["weight_decay"].tolist())
        for arm in ("adam", "adam_l2", "adamw")
    }
    assert decays == {"adam": {0.0}, "adam_l2": {0.0, 4.0**-4}, "adamw": {0.0, 4.0}}
    assert set(candidates(table, "teacher", 1.0, "adam")["spread"]) == {1.0}


# --- Numbers from made-up grids ---------------------------------------------------


LOGS = np.arange(-5.0, 6.0)


def valley(slope):
    """Errors whose best λ moves with the learning rate by this slope."""
    rates, decays = np.meshgrid(LOGS, LOGS, indexing="ij")
    return 10 + (decays - slope * rates) ** 2 + 0.05 * rates**2


@pytest.mark.parametrize("slope", [-1.0, 0.0, 1.0])
def test_the_ridge_slope_is_that_of_the_valley(slope):
    from experiments.separability import regret, ridge_slope

    errors = valley(slope)
    assert ridge_slope(errors, LOGS, LOGS) == pytest.approx(slope)
    # Tuning one after the other finds the optimum only where the two are separate.
    assert (regret(errors) == 0) == (slope == 0)


def test_a_ridge_needs_three_good_rows():
    from experiments.separability import GOOD, ridge_slope

    errors = valley(1.0)
    errors[:-3] += 2 * GOOD  # three are left, the best λ of the last on the edge
    assert math.isnan(ridge_slope(errors, LOGS, LOGS))
    errors[-4] -= 2 * GOOD
    assert ridge_slope(errors, LOGS, LOGS) == pytest.approx(1)


def test_a_best_strength_on_the_edge_is_no_point_of_the_ridge():
    from experiments.separability import ridge, ridge_slope

    rates, decays = ridge(valley(1.0), LOGS, LOGS)
    assert rates.tolist() == decays.tolist() == LOGS[1:-1].tolist()
    falling = np.tile(np.arange(11.0), (11, 1))  # the less λ the better, everywhere
    assert math.isnan(ridge_slope(falling, LOGS, LOGS))


def test_where_strength_gains_no_more_than_the_noise_there_is_no_slope():
    from experiments.separability import gain, ridge_slope

    errors = valley(1.0)
    assert gain(errors) == pytest.approx(25)
    assert ridge_slope(errors, LOGS, LOGS, noise=24.0) == pytest.approx(1)
    assert math.isnan(ridge_slope(errors, LOGS, LOGS, noise=26.0))


def test_regret_and_sensitivity_by_hand():
    from experiments.separability import regret, sensitivity

    errors = np.array([[5.0, 1.0], [2.0, 4.0]])
    # From λ₀: γ₁ (2), then λ₀: 2. From λ₁: γ₀, then λ₁: 1. From γ₀: λ₁, γ₀: 1. From γ₁:
    # λ₀, γ₁: 2. The optimum is 1.
    assert regret(errors) == pytest.approx((2 + 1 + 1 + 2) / 4 - 1)
    assert sensitivity(errors, retuned=False) == pytest.approx((1 + 4) / 2 - 1)
    assert sensitivity(errors, retuned=True) == pytest.approx((1 + 2) / 2 - 1)


# --- e01 against its formulas -----------------------------------------------------


@functools.cache
def still():
    from experiments import terminal
    from experiments.engine.workshop import workshop
    from experiments.studies.same import FULL, without_gradients

    return without_gradients(FULL, workshop(), terminal.SILENT)


@pytest.mark.parametrize("base", ["SGD", "momentum", "RMSprop", "Adam"])
def test_decoupled_decay_of_a_still_weight_is_a_power(base):
    from experiments.studies.same import FULL

    left = still()[f"{base}/decoupled"]
    steps = np.arange(FULL.still_steps + 1)
    for row, strength in zip(left, FULL.still_decays, strict=True):
        exact = (1 - FULL.still_rate * strength) ** steps
        np.testing.assert_allclose(row, exact, rtol=1e-4)


def test_e01_begins_each_seed_as_the_engine_does():
    import jax

    from experiments.engine import program, workshop
    from experiments.engine.plan import columns, grid
    from experiments.studies.same import beginning, PAIRS, SMOKE

    static = SMOKE.static(PAIRS["SGD"]["L2"])
    numbers = columns(grid(learning_rate=[0.1], weight_decay=[0.1], seed=range(2)))
    shop = workshop.workshop()
    made = workshop.program_for(shop, static, numbers, 2)
    _, part, carry = program.start(made, numbers)
    batches = workshop.batches_for(shop, made, numbers["seed"], 0)
    batches = jax.tree.map(lambda x: x[:, : SMOKE.steps], batches)
    begin = jax.vmap(functools.partial(beginning, SMOKE), (0, None))
    mine = jax.jit(begin)(numbers["seed"], made.bench.data)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-6),
        mine,
        (part, carry.params, batches),
    )


def test_lambda_cancels_under_adam_and_rmsprop_with_l2():
    adam, rmsprop = still()["Adam/L2"], still()["RMSprop/L2"]
    # Measured elsewhere with λ = 1: 0.9017, 0.8085, 0.6378 after 100, 200, 400 steps.
    np.testing.assert_allclose(
        adam[-1, [100, 200, 400]], [0.9017, 0.8085, 0.6378], atol=2e-4
    )
    for left in (adam, rmsprop):
        np.testing.assert_allclose(left[0], left[-1], atol=1e-3)
    sgd = still()["SGD/L2"]
    assert sgd[0, -1] - sgd[-1, -1] > 0.3
    np.testing.assert_array_equal(sgd, still()["SGD/decoupled"])
