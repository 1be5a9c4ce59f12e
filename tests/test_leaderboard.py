"""The leaderboard: its entries, the rules for a file, the study, a new entry."""

import importlib.util
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import decayax as dx


pytestmark = [
    pytest.mark.needs_extras,
    pytest.mark.relaxed("scale_by_adam; the experiments run under JAX's defaults"),
]
BOARDS = ("text", "digits", "teacher")
GOOD = '''"""Decay.

Reference.
"""

import optax


STRENGTH = {"text": 0, "digits": 1, "teacher": -2}


def chain(run):
    return optax.chain(run.adam(), run.step())
'''


def load(tmp_path, text, monkeypatch, name="given_entry"):
    path = tmp_path / f"{name}.py"
    path.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def names():
    from experiments.leaderboard.loading import FOLDER

    return sorted(path.stem for path in FOLDER.glob("[!_]*.py"))


def stored(name):
    from experiments.leaderboard.loading import stored_entries

    return {entry.name: entry for entry in stored_entries(BOARDS)}[name]


# --- The stored entries -----------------------------------------------------------

PARAMS = {"w": jnp.array([[1.0, -0.5], [0.25, 2.0], [0.5, 1.0]]), "b": jnp.ones(2)}
MASK = {"w": True, "b": False}


def trained(make_optimizer, steps=3):
    """Weights after some steps on fixed gradients."""

    @jax.jit
    def train(hparams):
        def eta(step):
            return 1 - jnp.asarray(step, jnp.float32) / 10

        optimizer = make_optimizer(hparams, eta, MASK)
        params, state = PARAMS, optimizer.init(PARAMS)
        for step in range(steps):
            grads = jax.tree.map(lambda x, t=step: jnp.cos(3 * x + t), params)
            updates, state = optimizer.update(grads, state, params)
            params = optax.apply_updates(params, updates)
        return params

    return train({"learning_rate": 0.01, "weight_decay": 0.5, "b2": 0.99})


def of_entry(name):
    from experiments.leaderboard.run import make_optimizer

    chain = stored(name).chain
    return lambda hparams, eta, mask: make_optimizer(chain, hparams, eta, mask)


@pytest.mark.parametrize("name", names())
def test_each_stored_entry_trains_and_only_no_decay_is_plain_adam(name):
    found = trained(of_entry(name))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    plain = trained(of_entry("none"))
    assert np.allclose(found["w"], plain["w"], rtol=0, atol=1e-6) == (name == "none")
    # The mask excludes the bias: every method gives it Adam's steps.
    np.testing.assert_allclose(found["b"], plain["b"], rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("adamw", lambda h, rate, eta: dx.adamw(rate, b2=0.99, **h)),
        ("adam_l2", lambda h, rate, eta: dx.adam_l2(rate, b2=0.99, **h)),
        ("none", lambda h, rate, eta: optax.adam(rate, b2=0.99)),
    ],
)
def test_the_baselines_are_the_optimizers_of_the_library(name, make):
    def make_optimizer(hparams, eta, mask):
        decay = {"weight_decay": hparams["weight_decay"], "mask": mask}
        return make(decay, lambda step: hparams["learning_rate"] * eta(step), eta)

    ours, theirs = trained(of_entry(name)), trained(make_optimizer)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


# --- The rules for a file ---------------------------------------------------------


def test_a_file_is_an_entry(tmp_path, monkeypatch):
    from experiments.leaderboard.loading import entry_of

    entry = entry_of(load(tmp_path, GOOD, monkeypatch), BOARDS)
    assert entry.name == "given_entry"
    assert entry.strength == {"text": 0, "digits": 1, "teacher": -2}


STRENGTH = 'STRENGTH = {"text": 0, "digits": 1, "teacher": -2}'


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"""Decay.\n\nReference.\n"""', "", "no docstring"),
        ("\n\nReference.", "", "no second paragraph"),
        ("def chain(run)", "def other(run)", r"no function chain\(run\)"),
        ("def chain(run)", "def chain(run, mask=None)", "only argument"),
        (STRENGTH, "", "has no STRENGTH"),
        (STRENGTH, "STRENGTH = 3", "None or a dict with the keys text, digits"),
        (STRENGTH, 'STRENGTH = {"text": 0}', "None or a dict with the keys"),
        ('"text": 0', '"text": 0.5', "the value 0.5. Write exponents of two"),
        ('"text": 0', '"text": True', "the value True"),
        ('"text": 0', '"text": 31', "the value 31"),
        ("STRENGTH", "\n" * 20 + "STRENGTH", "lines, at most 30"),
    ],
)
def test_a_file_that_breaks_a_rule_is_refused(tmp_path, monkeypatch, old, new, message):
    from experiments.errors import UserError
    from experiments.leaderboard.loading import entry_of

    assert old in GOOD
    module = load(tmp_path, GOOD.replace(old, new), monkeypatch)
    with pytest.raises(UserError, match=message) as error:
        entry_of(module, BOARDS)
    assert "given_entry.py is not an entry" in str(error.value)
    assert "RULES.md" in str(error.value)


def test_the_example_of_the_rules_is_an_entry(tmp_path, monkeypatch):
    from experiments.leaderboard.loading import entry_of, FOLDER

    rules = (FOLDER.parent / "RULES.md").read_text(encoding="utf-8")
    text = rules.partition("```python\n")[2].partition("```")[0]
    entry_of(load(tmp_path, text, monkeypatch, "my_decay"), BOARDS)


# --- The plan ---------------------------------------------------------------------


def module_of_study():
    from experiments.study_files import study_module

    return study_module("leaderboard")


def test_the_entries_of_a_board_have_the_same_budget():
    from experiments import search

    plan = module_of_study().FULL
    assert tuple(plan.boards) == BOARDS
    for board, each in plan.boards.items():
        found = [e.labels["arm"] for e in each.entries]
        assert len(found) == 10 if board == "text" else found == names()
        assert set(found) <= set(names())
        assert [e.name for e in each.entries] == [f"{board} {n}" for n in found]
        assert len(each.contrasts) == len(found) - 1
        assert all(c.terms[1] == (f"{board} adamw", -1.0) for c in each.contrasts)
        sizes = {len(search.coarse_grid(e.axes)) for e in each.entries}
        tuned = {len(e.axes) for e in each.entries}
        assert len(sizes) == len(tuned) == 2  # with and without a strength
        rates = {e.axes[-1] for e in each.entries}
        assert len(rates) == 1
    # The stages of the boards run together, so they need equal numbers of rounds.
    assert len({each.rounds for each in plan.boards.values()}) == 1


def test_the_exponent_of_an_entry_is_the_middle_of_its_grid():
    from experiments.leaderboard import boards

    entry = stored("adam_l2")
    for board in boards.BOARDS:
        strength, _ = boards.protocol_entry(board, entry).axes
        middle = strength.values[len(strength.values) // 2]
        assert middle == 2.0 ** entry.strength[board.name]


def test_an_entry_does_not_change_the_code_of_another():
    """A new file costs only its own runs: the stored cells stay valid."""
    from experiments.engine.code import code_hashes

    plan = module_of_study().FULL
    for entry in plan.boards["digits"].entries:
        found = code_hashes([entry.config], module_of_study().__name__, {})
        mine = [n for n in found if n.startswith("experiments.leaderboard.entries.")]
        assert mine == [f"experiments.leaderboard.entries.{entry.labels['arm']}"]
        assert "experiments.leaderboard.loading" not in found
        assert "experiments.leaderboard.boards" not in found


def test_a_new_entry_runs_on_all_boards_with_the_sizes_of_the_plan(
    tmp_path, monkeypatch
):
    module = module_of_study()
    plan = module.with_entry(load(tmp_path, GOOD, monkeypatch), smoke=False)
    assert tuple(plan.boards) == BOARDS
    for board, each in plan.boards.items():
        (entry,) = each.entries
        assert entry.name == f"{board} given_entry"
        whole = module.FULL.boards[board]
        assert {s: each.seeds(s) for s in ("tuning", "final")} == {
            s: whole.seeds(s) for s in ("tuning", "final")
        }
        assert (each.rounds, each.added, each.candidates) == (
            whole.rounds,
            whole.added,
            whole.candidates,
        )


# --- A new entry ------------------------------------------------------------------


def run_smoke(out, *more):
    import subprocess
    from pathlib import Path

    words = ["leaderboard", "--smoke", "--out", str(out), *map(str, more)]
    return subprocess.run(
        [sys.executable, "-m", "experiments", *words],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_entry_needs_a_board(tmp_path):
    path = tmp_path / "good_entry.py"
    path.write_text(GOOD, encoding="utf-8")
    found = run_smoke(tmp_path / "out", "--entry", path)
    assert found.returncode == 1
    assert "there is no finished board" in found.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_copy_of_adamw_is_equal_to_adamw(tmp_path):
    from experiments import cells
    from experiments.leaderboard.loading import FOLDER

    out = tmp_path / "out"
    board = run_smoke(out)
    assert board.returncode == 0, board.stderr
    (folder,) = {path.parent for path in out.glob("leaderboard/*/report.md")}
    assert {x.name for x in folder.glob("*.png")} == {"forest.png", "regret.png"}
    path = tmp_path / "my_copy.py"
    path.write_text((FOLDER / "adamw.py").read_text("utf-8"), encoding="utf-8")
    entry = run_smoke(out, "--entry", path)
    assert entry.returncode == 0, entry.stderr
    for name in ("digits", "teacher"):
        assert f"`my_copy` on {name}: +0.00 points" in entry.stdout
    (other,) = {p.parent for p in out.glob("leaderboard/*/report.md")} - {folder}
    # Only the entry ran.
    assert set(cells.read_csv(other / "cells.csv")["arm"]) == {"my_copy"}
    taken = run_smoke(out, "--entry", FOLDER / "adamw.py")
    assert "the board has an entry 'adamw'. Rename the file." in taken.stderr


# --- The numbers of the report ----------------------------------------------------


def made_results(p_values, board="digits"):
    """Results with these p-values, and tuning errors that are known."""
    from experiments.outcomes import Comparison
    from experiments.protocol import Contrast
    from experiments.statistics import Estimate

    plan = module_of_study().FULL.boards[board]
    comparisons = {}
    for place, p in enumerate(p_values):
        terms = ((f"{board} cautious", 1.0), (f"{board} adamw", -1.0))
        contrast = Contrast(f"{board} {place}", terms, "better", "worse")
        given = Estimate(float(place), place - 0.5, place + 0.5, p)
        comparisons[contrast.name] = Comparison(
            contrast, given, (place - 0.5, place + 0.5), p, False, False
        )
    from experiments.reports.results import Results

    return Results(None, {}, plan, {}, {}, comparisons)


def test_holm_covers_all_boards():
    from experiments.reports.leaderboard import corrected, ranking

    found = corrected(
        {"digits": made_results([0.01, 0.5]), "teacher": made_results([0.02])}
    )
    p = [x.p_holm for x in found["digits"].comparisons.values()]
    np.testing.assert_allclose(p, [0.03, 0.5])
    (other,) = found["teacher"].comparisons.values()
    np.testing.assert_allclose(other.p_holm, 0.04)
    means = [x.difference.mean for x in ranking(found["digits"])]
    assert means == [1.0, 0.0]


def test_the_regret_is_the_mean_rise_at_a_quarter_and_four_times():
    from types import SimpleNamespace

    from experiments.reports.leaderboard import regret

    results = made_results([])
    entry = next(e for e in results.plan.entries if e.labels["arm"] == "adamw")
    points = {(16.0, 0.25): 0.9, (4.0, 0.25): 0.8, (64.0, 0.25): 0.86, (16.0, 1.0): 0.7}
    runs = [(*point, score, seed) for point, score in points.items() for seed in (0, 1)]
    decay, rate, score, seed = map(np.array, zip(*runs, strict=True))
    count = len(runs)
    table = {
        "stage": np.full(count, "tuning", object),
        "task": np.full(count, "digits", object),
        "arm": np.full(count, "adamw", object),
        "b2": np.full(count, 0.999),
        "weight_decay": decay,
        "learning_rate": rate,
        "val_accuracy": score,
        "seed": seed,
    }
    choice = {"weight_decay": 16.0, "learning_rate": 0.25}
    chosen = {entry.name: SimpleNamespace(choice=choice)}
    results = results._replace(table=table, outcomes=chosen)
    assert regret(results, entry, "weight_decay") == pytest.approx(7.0)
    # Only one of the two neighbours was tried.
    assert regret(results, entry, "learning_rate") == pytest.approx(20.0)
    fixed = next(e for e in results.plan.entries if e.labels["arm"] == "fixed_norm")
    assert np.isnan(regret(results, fixed, "weight_decay"))
