"""The studies except bf16: end to end, fair arms, numbers that follow."""

import dataclasses
import functools
import re
import shutil
from pathlib import Path

import numpy as np
import pytest


ROOT = Path(__file__).parents[1]
PUBLISHED = ROOT / "experiments" / "results"
FIGURES = {
    "demo": {"gap.png", "mechanism.png", "heatmaps.png"},
    "same": {"without_gradients.png", "distances.png"},
    "symmetry": {"angles.png", "norms.png", "scaling.png", "training.png"},
    "why": {"gap.png", "spread.png", "mechanism.png"},
    "tuning": {"advantage.png", "heatmaps-teacher.png", "ridges.png"},
    "strength": {"curves.png", "exponents.png", "regret.png"},
    "transformer": {"losses.png", "heatmaps.png", "telemetry.png"},
    "which_parameters": {"errors.png"},
    "grokking": {"heatmaps.png", "ranks.png", "survival.png"},
    "end_of_training": {"ratios.png", "chosen.png", "errors.png"},
    "leaderboard": {"forest.png", "regret.png"},
}
# `symmetry` chooses nothing, and its seeds were not used before.
UNREPLICATED = {"symmetry"}
WITHOUT_PROTOCOL = {"same", "symmetry", "strength"}
SLOW = pytest.mark.slow
LONGER = (
    "why",
    "tuning",
    "strength",
    "symmetry",
    "transformer",
    "which_parameters",
    "grokking",
    "end_of_training",
    "leaderboard",
)
pytestmark = [
    pytest.mark.needs_extras,
    pytest.mark.relaxed("scale_by_adam; the experiments run under JAX's defaults"),
]


def module_of(name):
    from experiments.study_files import study_module

    return study_module(name)


# --- End to end -------------------------------------------------------------------


def run_smoke(name: str, out: Path) -> tuple[Path, str]:
    """Run the smoke plan of a study in this process: its folder and its verdict."""
    from experiments.engine import study as engine
    from experiments.terminal import SILENT

    module = module_of(name)
    study = module.study(module.SMOKE)
    folder, missing = engine.run(study, out, "made up", SILENT)
    assert missing is None
    return folder, study.report(folder)


# `test_demo.py` runs the demo by its command, in a process of its own.
# The smoke runs compile for up to 45 s; `make test` runs the quickest.
@pytest.mark.parametrize(
    "name",
    [
        "same",
        *(pytest.param(name, marks=SLOW) for name in LONGER),
    ],
)
def test_smoke_run_end_to_end(name, tmp_path):
    folder, verdict = run_smoke(name, tmp_path)
    check_results(name, folder, verdict)


def check_results(name, folder, verdict):
    """The figures, the verdict and the runs are those of the study."""
    assert {path.name for path in folder.glob("*.png")} == FIGURES[name]
    report = (folder / "report.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\((\S+\.png)\)", report)) == FIGURES[name]
    assert verdict.partition("Verdict. ")[2] in report
    if name not in WITHOUT_PROTOCOL:
        check_protocol(name, folder, report)


def check_protocol(name, folder, report):
    """The runs are those of the stages, and few seeds are called no finding."""
    from experiments import cells
    from experiments.joint import protocols

    plan, *others = protocols(module_of(name).SMOKE)  # all of the same sizes
    runs = cells.read_csv(folder / "cells.csv")
    assert not runs["diverged"].any()
    stages = {stage: cells.where(runs, stage=stage) for stage in set(runs["stage"])}
    assert {"tuning", "validation", "final"} <= set(stages)
    for stage in ("tuning", "validation", "final"):
        assert set(stages[stage]["seed"]) == set(plan.seeds(stage))
    count = sum(len(each.entries) for each in (plan, *others))
    assert len(stages["final"]["seed"]) == count * plan.final_seeds
    validated = count * plan.candidates * plan.validation_seeds
    assert len(stages["validation"]["seed"]) == validated
    assert "no finding" in report
    tables = [line for line in report.splitlines() if line.startswith("| `")]
    assert tables
    assert not any(re.search(r"\d \[", line) for line in tables)


@pytest.mark.parametrize("name", sorted(FIGURES))
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
    assert verdict.partition("Verdict. ")[2] in report
    for path in stored.glob("*.png"):
        assert (tmp_path / name / path.name).stat().st_size > 6_000


@pytest.mark.parametrize("name", [*sorted(FIGURES.keys() - UNREPLICATED), "bf16"])
def test_what_replicates_is_published_and_follows_from_its_files(name, tmp_path):
    from experiments.engine.store import read_manifest
    from experiments.reports import replication

    before, now = tmp_path / name, tmp_path / name / "replication"
    shutil.copytree(PUBLISHED / name, before)
    manifest = read_manifest(now)
    assert manifest["study"] == f"{name}-replication"
    assert not any(origin["git_changed"] for origin in manifest["made by"])
    if "points" in manifest["plan"]:
        assert manifest["plan"]["of"] == read_manifest(before)["hash"]
        assert manifest["plan"]["seeds"] == [1000, 1030]
        verdict = replication.write_contrasts(before, now)
    else:
        claims, plan = module_of(name).claims, manifest["plan"]
        # A run of `strength` takes seconds, so it has fewer seeds.
        seeds = (1000, 1012 if name == "strength" else 1030)
        assert (plan["first_seed"], plan["seeds"]) == (1000, seeds[1] - 1000)
        verdict = replication.write_claims(claims, before, seeds, now)
    published = (PUBLISHED / name / "replication" / "report.md").read_text("utf-8")
    assert (now / "report.md").read_text("utf-8") == published
    assert verdict.partition("Verdict. ")[2] in published


# --- Fair arms --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["why", "tuning"])
def test_arms_of_a_setting_differ_in_the_chain_and_the_place_of_the_grid(name):
    from experiments.engine.describe import describe
    from experiments.search import coarse_grid

    settings = {}
    for entry in module_of(name).FULL.entries:
        numbers = {x: v for x, v in entry.fixed.items() if x != "weight_decay"}
        base = entry.labels.get("base")
        key = entry.labels["task"], base, tuple(numbers.items())
        settings.setdefault(key, []).append(entry)
    for entries in settings.values():
        rest = [{**describe(e.config), "make_optimizer": None} for e in entries]
        assert rest == rest[:1] * len(entries)
        decayed = [e for e in entries if len(e.axes) == 2]
        optimizers = [str(describe(e.config.make_optimizer)) for e in decayed]
        assert len(set(optimizers)) == len(decayed)
        assert len({len(coarse_grid(e.axes)) for e in decayed}) == 1
        assert len({entry.axes[-1] for entry in entries}) == 1  # learning rates
        ranges = {axis.high / axis.low for axis, _ in (e.axes for e in decayed)}
        assert name == "why" or len(ranges) == 1


def test_why_compares_the_places_at_every_spread():
    from experiments.studies.why import FULL

    names = {contrast.name for contrast in FULL.contrasts}
    for task, spreads in {
        "teacher": (0, 0.5, 1, 1.5),
        "digits": (0, 0.5, 1, 1.5),
        "fashion": (0, 1),
    }.items():
        for spread in spreads:
            for pair in ("adamw − adam_l2", "adam_l2 − adam", "adamw − adam"):
                assert f"{task}, s = {spread:g}: {pair}" in names
        assert f"{task}: slope of the gap on s" in names
    assert len(names) == 10 * 3 + 3
    assert FULL.shrinks == ("teacher 0.5 adam_l2", "teacher 0.5 adamw")


def test_the_slope_of_the_gap_is_that_of_a_straight_line():
    from experiments.studies.why import contrasts, name_of

    spreads = (0.0, 0.5, 1.5)
    (slope,) = [c for c in contrasts("digits", spreads) if "slope" in c.name]
    ahead = {name_of("digits", s, "adamw"): 70 + 3 * s for s in spreads}
    scores = ahead | {name_of("digits", s, "adam_l2"): 70 - s for s in spreads}
    found = sum(weight * scores[name] for name, weight in slope.terms)
    assert found == pytest.approx(4)


def test_tuning_is_what_it_was_asked_to_be():
    from experiments.search import coarse_grid
    from experiments.studies.tuning import FULL

    assert len(FULL.entries) == 9 * 3
    assert {e.labels["base"] for e in FULL.entries} == {"SGD", "RMSprop", "Adam"}
    places = {e.labels["place"] for e in FULL.entries}
    assert places == {"L2", "lr-scaled", "independent"}
    for entry in FULL.entries:
        assert len(coarse_grid(entry.axes)) == 11 * 11
        for axis in entry.axes:
            np.testing.assert_allclose(np.diff(np.log2(axis.values)), 1)
    assert len(FULL.contrasts) == 3 * 3 * 3


def test_the_points_of_a_ridge_run_on_the_seeds_of_validation():
    import simulated

    from experiments.separability import points_for_slope
    from experiments.studies import tuning

    arms = [arm for arm in tuning.ARMS if arm.base == "Adam"]
    task = tuning.TEACHER._replace(
        first_rate={"Adam": -9},
        first_decay={"adam_l2": -7, "adamw": -4, "adam_independent": -7},
    )
    plan = tuning.plan_of([task], arms, 9, rounds=0)
    score = simulated.valley({a: 0.8 for a in simulated.ARMS}, {"adamw": (0, -5)})
    table = simulated.table_of(tuning.study(plan), score)
    groups = {b.labels["arm"]: b for b in tuning.ridges(plan, table)}
    assert "adamw" in groups
    for entry in plan.entries:
        shares = protocol_values(entry, table)
        points = points_for_slope({p: 100 - 100 * x for p, x in shares.items()})
        group = groups.get(entry.labels["arm"])
        assert (group is None) == (points == [])
        if group is not None:
            cells = {(c["weight_decay"], c["learning_rate"]) for c in group.cells}
            assert cells == set(points)
            assert group.labels["stage"] == "ridge"
            seeds = [c["seed"] for c in group.cells]
            assert seeds == list(plan.seeds("validation")) * len(points)


def protocol_values(entry, table):
    from experiments.protocol import values

    return values(entry, table, "tuning", "val_accuracy")


# --- same against its formulas ----------------------------------------------------


@functools.cache
def idle():
    from experiments import terminal
    from experiments.engine.compilation_cache import new_cache
    from experiments.studies.same import FULL, idle_weights

    return idle_weights(FULL, new_cache(), terminal.SILENT)


@pytest.mark.parametrize("base", ["SGD", "momentum", "RMSprop", "Adam"])
def test_decoupled_decay_of_a_weight_without_gradients_is_a_power(base):
    from experiments.studies.same import FULL

    weights = idle()[f"{base}/decoupled"]
    steps = np.arange(FULL.idle_steps + 1)
    for row, strength in zip(weights, FULL.idle_decays, strict=True):
        exact = (1 - FULL.idle_learning_rate * strength) ** steps
        np.testing.assert_allclose(row, exact, rtol=1e-4)


def test_lambda_cancels_under_adam_and_rmsprop_with_l2():
    adam, rmsprop = idle()["Adam/L2"], idle()["RMSprop/L2"]
    # Measured elsewhere with λ = 1: 0.9017, 0.8085, 0.6378 after 100, 200, 400 steps.
    np.testing.assert_allclose(
        adam[-1, [100, 200, 400]], [0.9017, 0.8085, 0.6378], atol=2e-4
    )
    for weights in (adam, rmsprop):
        np.testing.assert_allclose(weights[0], weights[-1], atol=1e-3)
    sgd = idle()["SGD/L2"]
    assert sgd[0, -1] - sgd[-1, -1] > 0.3
    np.testing.assert_array_equal(sgd, idle()["SGD/decoupled"])


@functools.cache
def starts():
    """Split, parameters and batches of two seeds, by `same` and by the engine."""
    import jax

    from experiments.engine import compilation_cache, program
    from experiments.engine.config import columns, grid
    from experiments.studies.same import PAIRS, SMOKE, start_of_seed

    config = SMOKE.config(PAIRS["SGD"]["L2"])
    numbers = columns(grid(learning_rate=[0.1], weight_decay=[0.1], seed=range(2)))
    cache = compilation_cache.new_cache()
    made = compilation_cache.get_program(cache, config, numbers, 2)
    _, run_data, carry = program.start(made, numbers)
    batches = compilation_cache.get_batches(cache, made, numbers["seed"], 0)
    batches = jax.tree.map(lambda x: x[:, : SMOKE.steps], batches)
    start = jax.jit(jax.vmap(functools.partial(start_of_seed, SMOKE), (0, None)))
    mine = start(numbers["seed"], made.compiled_task.data)
    return mine, (run_data, carry.params, batches)


@pytest.mark.slow
def test_same_begins_each_seed_as_the_engine_does():
    import jax

    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), *starts())


@pytest.mark.slow
def test_the_distance_is_the_norm_of_the_difference():
    import jax
    import optax

    from experiments import terminal
    from experiments.engine.compilation_cache import new_cache
    from experiments.studies import same

    task, data = same.SMOKE.setup().task(), same.SMOKE.setup().load()
    start, _ = starts()
    run_data, params, batches = jax.tree.map(lambda x: np.asarray(x)[0], start)
    grads = jax.jit(jax.grad(lambda *x: task.loss(x[0], (), x[1], None, *x[2:])[0]))
    rate, decay, ratio, steps = 1e-3, same.SMOKE.weight_decay, 8.0, 4
    adam = optax.scale_by_adam()
    l2 = optax.chain(optax.add_decayed_weights(decay, task.mask), adam)
    decoupled = optax.chain(adam, optax.add_decayed_weights(ratio * decay, task.mask))
    trajectories = []
    for optimizer in (l2, decoupled):
        update = jax.jit(optimizer.update)
        theta, state, thetas = params, optimizer.init(params), []
        for batch in batches[:steps]:
            updates, state = update(grads(theta, batch, run_data, data), state, theta)
            theta = jax.tree.map(lambda x, u: x - np.float32(rate) * u, theta, updates)
            leaves = jax.tree.leaves(theta)
            thetas.append(np.concatenate([np.ravel(x) for x in leaves]))
        trajectories.append(np.array(thetas, np.float64))
    difference = np.linalg.norm(trajectories[0] - trajectories[1], axis=1)
    expected = max(difference / np.linalg.norm(trajectories[0], axis=1))

    plan = dataclasses.replace(same.SMOKE, ratios=(ratio,), steps=steps, seeds=1)

    def one_seed(seeds, data):
        return jax.tree.map(lambda x: x[:1], (start[0], start[1], start[2][:, :steps]))

    found = same.distances(
        plan, "Adam", "constant", one_seed, new_cache(), terminal.SILENT
    )
    np.testing.assert_allclose(found["distance"], [[expected]], rtol=1e-3)


def forth_and_back(progress, hparams):
    """Two steps forward, then two steps back: progress grows by 1/36 a step."""
    import jax.numpy as jnp

    return jnp.where(progress < 1.5 / 36, 1.0, -1.0)


def test_the_distance_is_the_largest_of_all_steps(monkeypatch):
    import jax

    from experiments import terminal
    from experiments.engine.compilation_cache import new_cache
    from experiments.studies import same

    start, _ = starts()

    def one_seed(seeds, data):
        return jax.tree.map(lambda x: x[:1], (start[0], start[1], start[2][:, :4]))

    monkeypatch.setitem(same.SCHEDULES, "forth and back", forth_and_back)
    plan = dataclasses.replace(same.SMOKE, ratios=(0.0,), seeds=1)
    found = same.distances(
        plan, "SGD", "forth and back", one_seed, new_cache(), terminal.SILENT
    )
    # Each step forward moves a decaying weight by γλ of its size away from the other
    # run; the steps back undo it.
    farthest = 2 * plan.learning_rates["SGD"] * plan.weight_decay
    np.testing.assert_allclose(found["distance"], [[farthest]], rtol=0.05)


# --- The mechanism against its formula --------------------------------------------


def equal_examples():
    """All examples are equal, so all batches have the same gradient."""
    from experiments.data.labelled import Labelled

    x, y = np.tile(np.float32([1.0, 2.0, -1.0]), (20, 1)), np.zeros(20, np.int32)
    return Labelled(x, y, x, y)


@pytest.mark.slow
def test_the_scale_of_a_gradient_is_a_mean_over_the_epoch():
    from experiments import arms
    from experiments.engine.compilation_cache import new_cache
    from experiments.engine.config import constant, StaticConfig
    from experiments.mechanism import ADAM_BETA_2, measure_shrink
    from experiments.models.mlp import mlp
    from experiments.tasks import Classification

    setup = Classification(
        data=equal_examples,
        model=functools.partial(mlp, (3, 4, 2)),
        classes=2,
        train_size=12,
        batch=3,
    )
    config = StaticConfig(setup, arms.adamw, 2, 1, constant)
    # With a learning rate of 0 the gradient is the same in all steps.
    hparams = {"learning_rate": 0.0, "weight_decay": 0.0, "seed": 0}
    found = measure_shrink(new_cache(), config, hparams, 1)
    assert found["rms_g"].max() > 0.01
    steps = np.arange(5, 9)  # of the second epoch
    bias = np.sqrt(1 - ADAM_BETA_2**steps).mean()
    np.testing.assert_allclose(found["root_v"], bias * found["rms_g"], rtol=1e-4)


def test_the_bias_correction_is_that_of_the_middle_of_the_epoch():
    from experiments import mechanism
    from experiments.studies.demo import FULL

    config = FULL.entries[0].config
    steps_per_epoch = config.setup.train_size // config.setup.batch
    half = config.epochs // 2 * steps_per_epoch
    steps = half + 1 + np.arange(steps_per_epoch)
    exact = np.sqrt(1 - mechanism.ADAM_BETA_2**steps).mean()
    found = mechanism._root_bias_correction(config)
    assert found == pytest.approx(exact, rel=2e-3)


def test_the_mechanism_is_that_of_the_choice_on_the_first_final_seed(monkeypatch):
    import simulated

    from experiments import mechanism, protocol, terminal
    from experiments.studies import demo

    plan, study = demo.SMOKE, demo.study(demo.SMOKE)
    score = simulated.valley(dict.fromkeys(simulated.ARMS, 0.8))
    table = simulated.table_of(study, score)
    measured = []

    def measure_shrink(cache, config, hparams, parallel):
        measured.append(dict(hparams))
        root_v, rms_g = np.array([1.0, 4.0, 6.0]), np.array([0.0, 1.0, 1.0])
        return {"root_v": root_v, "rms_g": rms_g}

    monkeypatch.setattr(mechanism, "measure_shrink", measure_shrink)
    stage = study.stages[-1].make(table)
    files = {each.name: each.measure(None, terminal.SILENT) for each in stage}
    by_arm = {entry.labels["arm"]: entry for entry in plan.entries}
    for hparams, arm in zip(measured, ("adam_l2", "adamw", "adam"), strict=True):
        entry = by_arm[arm]
        point = protocol.ranked_by_validation(plan, entry, table)[0]
        names = [axis.name for axis in entry.axes]
        chosen = dict(zip(names, point, strict=True))
        seed = plan.seeds(protocol.FINAL)[0]
        assert hparams == {**entry.fixed, **chosen, "seed": seed}
    correction = mechanism._root_bias_correction(by_arm["adam"].config)
    root_v = files["shrink-unlike-scales-adamw"]["root_v"]
    np.testing.assert_allclose(root_v, np.array([1.0, 4.0, 6.0]) / correction)
    # A weight without gradient is not part of the spread.
    percentiles = files["spread-unlike-scales-adam"]["root_v_percentiles"]
    np.testing.assert_allclose(percentiles[[0, 50, 100]] * correction, [4.0, 5.0, 6.0])
