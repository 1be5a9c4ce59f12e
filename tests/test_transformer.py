"""The studies on text: decay in a transformer, and on which parameters."""

import dataclasses
import functools
import re

import numpy as np
import pytest
import simulated


pytestmark = [
    pytest.mark.needs_extras,
    pytest.mark.relaxed("scale_by_adam; the experiments run under JAX's defaults"),
]
OPTIMA = {"digits": (2.0**4, 2.0**-12)}  # λ, γ
TEXT_OPTIMUM = (1.0, 2.0**-7)


def loss_of(hparams, task="text"):
    """A valley in log2 λ and log2 γ with noise by seed; without decay 0.1 more."""
    drawn = np.random.default_rng(hparams["seed"]).normal(0, 0.01)
    best_decay, best_rate = OPTIMA.get(task, TEXT_OPTIMUM)
    rate = np.log2(hparams["learning_rate"] / best_rate)
    decay = hparams["weight_decay"]
    distance = 10 if decay == 0 else np.log2(decay / best_decay) ** 2
    return 2.0 + 0.01 * (distance + rate**2) + drawn


def measures_of(group):
    """Losses, and accuracies that fall by 10 points for 0.1 nats."""
    losses = [loss_of(cell, group.labels["task"]) for cell in group.cells]
    accuracies = 3 - np.array(losses)
    return {
        "val_loss": np.array(losses),
        "test_loss": np.array(losses),
        "val_accuracy": accuracies,
        "val_count": np.full(len(losses), 10_000),
        "test_accuracy": accuracies,
    }


def table_of(stages):
    """The runs of the stages, with losses from the formula."""
    from experiments import cells

    table = {}
    for stage in stages:
        parts = [
            {
                **{n: np.full(len(g.cells), x, object) for n, x in g.labels.items()},
                **{n: np.array([c[n] for c in g.cells]) for n in g.cells[0]},
                **measures_of(g),
                "diverged": np.zeros(len(g.cells), bool),
            }
            for g in stage.make(table)
        ]
        table = cells.concatenate([table, *parts])
    return table


@functools.cache
def stages_and_table():
    from experiments.studies import transformer

    stages = transformer.study(transformer.FULL).stages
    return stages, table_of(stages)


# --- Fair arms --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["transformer", "which_parameters"])
def test_arms_of_a_task_differ_in_the_optimizer_and_the_place_of_the_grid(name):
    from experiments.engine.describe import describe
    from experiments.joint import protocols
    from experiments.search import coarse_grid
    from experiments.study_files import study_module

    tasks = {}
    for plan in protocols(study_module(name).FULL):
        for entry in plan.entries:
            tasks.setdefault(entry.labels["task"], []).append(entry)
    for entries in tasks.values():
        rest = [{**describe(e.config), "make_optimizer": None} for e in entries]
        assert rest == rest[:1] * len(entries)
        decayed = [e for e in entries if len(e.axes) == 2]
        assert len(entries) == len(decayed) + 1  # one arm without decay
        assert len({len(coarse_grid(e.axes)) for e in decayed}) == 1
        for each in entries:
            same = [
                e for e in entries if e.labels.get("base") == each.labels.get("base")
            ]
            assert len({e.axes[-1] for e in same}) == 1  # learning rates
        assert len({e.axes[0].high / e.axes[0].low for e in decayed}) == 1


def test_transformer_compares_the_places_on_re_read_text():
    from experiments.studies.transformer import FULL

    names = {contrast.name for contrast in FULL.contrasts}
    for pair in (
        "adamw − adam",
        "adam_l2 − adam",
        "adam_independent − adam",
        "adamw − adam_l2",
        "adamw − adam_independent",
        "rmspropw − rmsprop_l2",
    ):
        assert f"re-read: {pair}" in names
    assert "one pass: adamw − adam" in names
    assert FULL.final_seeds == 15
    assert FULL.measure.unit == "nats"
    assert FULL.rounded == "re-read adamw"


# --- Stages after the protocol ----------------------------------------------------


def groups_of(name):
    stages, table = stages_and_table()
    (stage,) = (each for each in stages if each.name == name)
    return stage.make(table)


def test_every_rounding_runs_the_choice_and_its_rate_without_decay():
    from experiments.studies.transformer import FULL

    groups = {group.labels["arm"]: group for group in groups_of("rounding")}
    assert list(groups) == ["float32", "bf16", "stochastic", "compensated"]
    for name, group in groups.items():
        points = {(c["weight_decay"], c["learning_rate"]) for c in group.cells}
        assert points == {(0.0, 2.0**-7), (1.0, 2.0**-7)}
        seeds = list(FULL.seeds("final"))[: FULL.rounding_seeds]
        assert [cell["seed"] for cell in group.cells] == seeds * 2
        expected = "float32" if name == "float32" else "bfloat16"
        assert group.config.setup.dtype == expected
    (entry,) = (each for each in FULL.entries if each.name == FULL.rounded)
    assert groups["float32"].config == entry.config  # so the final runs are shared


def test_telemetry_is_that_of_three_arms_at_their_choices():
    groups = groups_of("watching")
    arms = ["adam", "adam_l2", "adamw"]
    assert [group.labels["arm"] for group in groups] == arms
    for group in groups:
        assert group.config.curves
        assert group.config.epochs_per_segment == 1
        assert len({c["learning_rate"] for c in group.cells}) == 1


def test_telemetry_of_a_step_of_adamw():
    import jax
    import jax.numpy as jnp

    from experiments import text_optimizers

    (arm,) = (each for each in text_optimizers.ARMS if each.name == "adamw")
    hparams = {"learning_rate": 0.5, "weight_decay": 0.25}
    params = {"head": {"kernel": jnp.full(4, 2.0)}, "up": {"bias": jnp.ones(3)}}
    mask = {"head": {"kernel": True}, "up": {"bias": False}}
    optimizer = text_optimizers.tracked(
        arm.make_optimizer, hparams, lambda step: 1.0, mask
    )
    grads = jax.tree.map(jnp.ones_like, params)
    _, state = optimizer.update(grads, optimizer.init(params), params)
    found = text_optimizers.telemetry(state, params)
    assert found["head/decay_rate"] == pytest.approx(0.125)
    assert found["biases and norms/decay_rate"] == 0
    assert found["head/weight_norm"] == pytest.approx(4)
    assert {name.rpartition("/")[0] for name in found} == {"head", "biases and norms"}


def rounding_table(losses):
    """Rows of the stage `rounding`; `losses` by arm and λ, [seeds]."""
    rows = [
        ("rounding", arm, decay, seed, loss)
        for (arm, decay), values in losses.items()
        for seed, loss in enumerate(values)
    ]
    stage, arm, decay, seed, loss = map(np.array, zip(*rows, strict=True))
    return {
        "stage": stage.astype(object),
        "arm": arm.astype(object),
        "weight_decay": decay,
        "seed": seed,
        "test_loss": loss,
    }


def test_a_rounding_that_loses_half_of_the_gain_is_said_to():
    from experiments.reports.transformer import rounding_gains

    noise = np.random.default_rng(0).normal(0, 0.001, (6, 20))
    losses = {
        ("float32", 0.0): 2.1 + noise[0],
        ("float32", 1.0): 2.0 + noise[1],
        ("bf16", 0.0): 2.1 + noise[2],
        ("bf16", 1.0): 2.05 + noise[3],
        ("stochastic", 0.0): 2.1 + noise[4],
        ("stochastic", 1.0): 2.0 + noise[5],
    }
    gains = rounding_gains(rounding_table(losses))
    assert gains["float32"].gain.mean == pytest.approx(0.1, abs=0.001)
    assert gains["bf16"].lost.mean == pytest.approx(0.05, abs=0.001)
    assert "clearly smaller" in gains["bf16"].verdict
    assert "no difference" in gains["stochastic"].verdict
    # Holm: the smaller of two p-values is doubled.
    assert gains["bf16"].p_holm == pytest.approx(2 * gains["bf16"].lost.p)
    few = {name: each[:9] for name, each in losses.items()}
    gains = rounding_gains(rounding_table(few))
    assert gains["bf16"].verdict == "too few seeds for a verdict"


# --- Which parameters -------------------------------------------------------------


def selection_tasks():
    from experiments.studies import which_parameters

    plans = which_parameters.FULL.plans
    chosen = {"text": which_parameters.TEXT, "digits": which_parameters.DIGITS}
    return [(chosen[task], plan.entries[0]) for task, plan in plans.items()]


@pytest.mark.slow
def test_invariant_leaves_are_those_of_scale_symmetries():
    from experiments.networks import INVARIANT, kinds_of

    for selections, entry in selection_tasks():
        patterns = {each.name: each.pattern for each in selections}
        kinds = kinds_of(entry.config.setup, 0)
        assert not kinds.is_a(INVARIANT).any()  # as the report says
        matched = {
            name: {p for p in kinds.paths if re.fullmatch(patterns[name], p)}
            for name in patterns
        }
        assert matched["invariant"] == set(kinds.shared())
        assert matched["seen"] == set(kinds.paths) - matched["invariant"]
        assert matched["all"] == set(kinds.paths)
        assert matched["none"] == set()
        assert matched["hidden matrices"] < matched["no biases or norms"]


def test_only_the_selected_leaves_decay():
    import jax
    import jax.numpy as jnp

    for selections, entry in selection_tasks():
        task = entry.config.setup.task()
        shapes = jax.eval_shape(task.init, {"seed": jnp.int32(0)})
        params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), shapes)

        @jax.jit
        def step(number, entry=entry, task=task, params=params):
            numbers = {"learning_rate": 0.5, "weight_decay": 0.5, "selection": number}
            optimizer = entry.config.make_optimizer(numbers, lambda _: 1.0, task.mask)
            zeros = jax.tree.map(jnp.zeros_like, params)
            return optimizer.update(zeros, optimizer.init(params), params)[0]

        for number, selection in enumerate(selections):
            updates = jax.tree_util.tree_leaves_with_path(step(number))
            for path, update in updates:
                name = jax.tree_util.keystr(path, simple=True, separator="/")
                name = name.removesuffix("/value")
                decays = re.fullmatch(selection.pattern, name) is not None
                np.testing.assert_allclose(update, -0.25 if decays else 0.0)


def test_the_usual_selection_is_the_mask_of_the_task():
    import jax
    import jax.numpy as jnp

    from experiments.studies.which_parameters import USUAL
    from experiments.text_optimizers import multipliers

    for selections, entry in selection_tasks():
        task = entry.config.setup.task()
        params = jax.eval_shape(task.init, {"seed": jnp.int32(0)})
        number = [each.name for each in selections].index(USUAL)
        patterns = [each.pattern for each in selections]
        found = multipliers(patterns, {"selection": number}, params)
        mask = jax.tree.leaves(task.mask(params))
        assert [float(x) for x in jax.tree.leaves(found)] == [float(x) for x in mask]


# --- Report -----------------------------------------------------------------------


def test_losses_have_three_decimals():
    from experiments.protocol import ACCURACY, LOSS
    from experiments.reports.results import digits_of

    assert (digits_of(ACCURACY), digits_of(LOSS)) == (2, 3)


def test_the_protocol_section_describes_a_text():
    from experiments.data import corpus
    from experiments.engine.describe import describe
    from experiments.reports.template import describe_setup
    from experiments.studies.transformer import FULL

    texts = [describe_setup(describe(entry.config)) for entry in FULL.entries]
    assert texts[0].startswith("20000 training characters of Shakespeare; ")
    assert texts[-1].startswith("all training characters of Shakespeare; ")
    assert all("1000 steps of 16 windows of 32 characters" in text for text in texts)
    described = describe(FULL.entries[0].config)
    own = functools.partial(corpus.text_file, "play.txt", train_size=50)
    for data, words in (
        (corpus.shakespeare, "all training characters of Shakespeare; "),
        (own, "50 training characters of Text file; "),
    ):
        described["setup"]["data"] = describe(data)
        assert describe_setup(described).startswith(words)


def test_made_up_results_make_the_contrasts_of_the_formula():
    from experiments import outcomes
    from experiments.studies.transformer import FULL

    _, table = stages_and_table()
    plan = dataclasses.replace(FULL, contrasts=FULL.contrasts[:1])
    (found,) = outcomes.compare_contrasts(plan, table)
    assert found.contrast.name == "re-read: adamw − adam"
    assert found.difference.mean == pytest.approx(0.1)


def test_the_report_on_selections_has_both_tasks_and_their_figure(tmp_path):
    from experiments.studies import which_parameters

    study = which_parameters.study(which_parameters.FULL)
    simulated.store(tmp_path, study, table_of(study.stages))
    verdict = which_parameters.write_report(tmp_path)
    assert (tmp_path / "errors.png").stat().st_size > 10_000
    # The formula gives every selection the same loss, and 0.1 more without decay.
    assert "**text**, nats: no biases or norms − none +0.100" in verdict
    assert "**digits**, points: no biases or norms − none +10.00" in verdict
    equal = "all − no biases or norms +{0} [+{0}, +{0}], no difference shown"
    assert equal.format("0.000") in verdict
    assert equal.format("0.00") in verdict
    report = (tmp_path / "report.md").read_text("utf-8")
    assert "## Protocol: digits" in report
    assert report.count("Holm's correction over all 13 contrasts") == 2


def test_the_correction_covers_both_tasks(tmp_path):
    from experiments import joint, outcomes
    from experiments.studies import which_parameters

    study = which_parameters.study(which_parameters.FULL)
    table = table_of(study.stages)
    found = joint.compare_contrasts(study.plan, table)
    alone = outcomes.compare_contrasts(study.plan.plans["digits"], table)
    assert [each.difference for each in found[-6:]] == [x.difference for x in alone]
    smallest = min(found, key=lambda each: each.difference.p)
    assert smallest.p_holm == pytest.approx(min(1, 13 * smallest.difference.p))


def test_both_tasks_are_replicated_together(tmp_path):
    from experiments import replication
    from experiments.studies import which_parameters

    study = which_parameters.study(which_parameters.FULL)
    table = table_of(study.stages)
    again = replication.plan_of(study.plan, table, "abc", (1000, 1030))
    assert len(again.points) == 13
    (stage,) = replication.study("again", again, study.plan, str).stages
    new = table_of([stage])
    found = replication.compare(study.plan, table, again.points, new)
    assert [x.measure.unit for x in found] == 7 * ["nats"] + 6 * ["points"]
    gains = [x for x in found if x.contrast.name.endswith("− none")]
    assert [x.now.mean for x in gains] == pytest.approx([0.1, 10.0], rel=0.1)
    assert all(x.outcome == "holds" for x in found)
