"""The leaderboard: its entries, the rules for a file, the study, a new entry."""

import dataclasses
import functools
import importlib
import importlib.util
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import simulated

import decayax as dx


pytestmark = [
    pytest.mark.needs_extras,
    pytest.mark.relaxed("scale_by_adam; the experiments run under JAX's defaults"),
]
SLOW = pytest.mark.slow
BOARDS = ("text", "digits", "teacher", "grokking")
GOOD = '''"""Decay.

Reference.
"""

import optax


STRENGTH = {"text": 0, "digits": 1, "teacher": -2, "grokking": 3}


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


def some(*quick):
    """All entries; those that are not named are slow."""
    return [
        name if name in quick else pytest.param(name, marks=SLOW) for name in names()
    ]


@pytest.mark.parametrize("name", some("none", "selective"))
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
        pytest.param(
            "adam_l2", lambda h, rate, eta: dx.adam_l2(rate, b2=0.99, **h), marks=SLOW
        ),
        pytest.param(
            "none", lambda h, rate, eta: optax.adam(rate, b2=0.99), marks=SLOW
        ),
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
    assert entry.strength == {"text": 0, "digits": 1, "teacher": -2, "grokking": 3}


STRENGTH = 'STRENGTH = {"text": 0, "digits": 1, "teacher": -2, "grokking": 3}'


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


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("    return", "    _ =", r"chain\(run\) returns NoneType. Return an Optax"),
        ("run.step()", "run.stop()", "line 13: AttributeError: .*'stop'. See"),
        ("    return", "    assert run.strength > 0\n    return", "13: .* are traced"),
        ("    return", "    float(run.strength)\n    return", "line 13: .* are traced"),
        ("    return", "    range(run.strength)\n    return", "line 13: TypeError"),
        ("run.step()", 'optax.masked(run.step(), {"w": True})', "Error: .* See"),
        ("    return", "    assert False\n    return", "13: AssertionError. See"),
    ],
)
def test_a_chain_that_fails_is_refused_before_any_run(
    tmp_path, monkeypatch, old, new, message
):
    from experiments.errors import UserError

    assert old in GOOD
    module = load(tmp_path, GOOD.replace(old, new), monkeypatch)
    with pytest.raises(UserError, match=message) as error:
        module_of_study().with_entry(module, smoke=True)
    assert str(error.value).startswith("given_entry.py")
    assert "RULES.md" in str(error.value)


def test_the_example_of_the_rules_is_an_entry(tmp_path, monkeypatch):
    from experiments.leaderboard.loading import entry_of, FOLDER, try_chain

    rules = (FOLDER.parent / "RULES.md").read_text(encoding="utf-8")
    text = rules.partition("```python\n")[2].partition("```")[0]
    module = load(tmp_path, text, monkeypatch, "my_decay")
    entry_of(module, BOARDS)
    boards = importlib.import_module("experiments.leaderboard.boards").BOARDS
    try_chain(module, [(board.setup, board.fixed) for board in boards])


# --- The plan ---------------------------------------------------------------------


def module_of_study():
    from experiments.study_files import study_module

    return study_module("leaderboard")


def test_the_entries_of_a_board_have_the_same_budget():
    from experiments import search

    plan = module_of_study().FULL
    assert tuple(plan.plans) == BOARDS
    for board, each in plan.plans.items():
        assert [e.name for e in each.entries] == [f"{board} {n}" for n in names()]
        assert len(each.contrasts) == len(names()) - 1
        assert all(c.terms[1] == (f"{board} adamw", -1.0) for c in each.contrasts)
        sizes = {len(search.coarse_grid(e.axes)) for e in each.entries}
        tuned = {len(e.axes) for e in each.entries}
        assert len(sizes) == len(tuned) == 2  # with and without a strength
        rates = {e.axes[-1] for e in each.entries}
        assert len(rates) == 1
    # The stages of the boards run together, so they need equal numbers of rounds.
    assert len({each.rounds for each in plan.plans.values()}) == 1


@pytest.mark.parametrize("board", BOARDS)
def test_the_exponent_of_an_entry_is_the_middle_of_its_grid(board):
    from experiments.leaderboard import boards

    (found,) = (each for each in boards.BOARDS if each.name == board)
    entry = stored("adam_l2")
    strength, _ = boards.protocol_entry(found, entry).axes
    exponents = np.log2(strength.values)
    assert exponents.mean() == entry.strength[board]
    assert (np.diff(exponents) == 2).all()
    assert len(exponents) == (4 if board in ("text", "grokking") else 5)


def test_grokking_is_that_of_the_study_in_shorter_runs():
    from experiments.engine.describe import describe
    from experiments.leaderboard import boards
    from experiments.studies import grokking

    assert boards.STEPS == grokking.STEPS
    ours = boards.GROKKING.setup
    theirs = grokking.entries(grokking.MLP)[0].config.setup
    same = {"steps": theirs.steps, "look_every": theirs.look_every}
    assert describe(dataclasses.replace(ours, **same)) == describe(theirs)
    assert ours.steps == boards.GROKKING.epochs * ours.look_every < theirs.steps
    warmup = boards.GROKKING.fixed["warmup"] * ours.steps
    assert warmup == pytest.approx(grokking.WARMUP_STEPS)


def test_no_final_seed_of_text_was_seen():
    from experiments.protocol import FINAL

    plan = module_of_study().FULL
    assert plan.plans["text"].seeds(FINAL)[0] > 5  # the last one in a timing check


def test_an_entry_does_not_change_the_code_of_another():
    """A new file costs only its own runs: the stored cells stay valid."""
    from experiments.engine.code import code_hashes

    plan = module_of_study().FULL
    for entry in plan.plans["digits"].entries:
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
    assert tuple(plan.plans) == BOARDS
    for board, each in plan.plans.items():
        (entry,) = each.entries
        assert entry.name == f"{board} given_entry"
        whole = module.FULL.plans[board]
        assert {s: each.seeds(s) for s in ("tuning", "final")} == {
            s: whole.seeds(s) for s in ("tuning", "final")
        }
        assert (each.rounds, each.added, each.candidates) == (
            whole.rounds,
            whole.added,
            whole.candidates,
        )


def test_a_new_entry_runs_again_on_the_seeds_of_the_rules(tmp_path, monkeypatch):
    module = module_of_study()
    plan = module.with_entry(load(tmp_path, GOOD, monkeypatch), smoke=False)
    assert plan.replicated == (1000, 1030)
    stages = module.study(plan).stages
    assert [stage.name for stage in stages][-1] == "replication"
    assert stages[-1].runs == len(BOARDS) * 3 * 30
    assert "replication" not in [
        stage.name for stage in module.study(module.FULL).stages
    ]


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
    from experiments.errors import UserError
    from experiments.study_files import entry_plan

    path = tmp_path / "good_entry.py"
    path.write_text(GOOD, encoding="utf-8")
    with pytest.raises(UserError, match="there is no finished board"):
        entry_plan(module_of_study(), path, smoke=True, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_runs_of_another_version_of_a_file_are_not_used(tmp_path, monkeypatch):
    import json

    from experiments.engine import code
    from experiments.errors import UserError
    from experiments.study_files import entry_plan

    module = module_of_study()
    monkeypatch.setattr(module, "find_board", lambda *_: None)
    path = tmp_path / "first_version.py"
    path.write_text(GOOD, encoding="utf-8")
    now = {"first_version": "1", "other": "2"}
    monkeypatch.setattr(code, "code_hashes", lambda *_: now)
    folder = tmp_path / "out" / "leaderboard" / "0123456789ab"
    folder.mkdir(parents=True)
    (folder.parent / "chunks").mkdir()

    def plan_after(stored):
        manifest = {"format": 2, "study": "leaderboard", "hash": "0", "code": stored}
        (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        return entry_plan(module, path, smoke=True, out=tmp_path / "out")

    for same in ({}, {"first_version": "1", "other": "3"}):
        assert set(plan_after(same).plans) == {"digits", "grokking"}
    with pytest.raises(UserError, match=r"0123456789ab\. Give the new version another"):
        plan_after({"first_version": "0", "other": "2"})


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
    assert "`my_copy` on digits: +0.00 points" in entry.stdout
    assert "`my_copy` on grokking: +0.00 steps" in entry.stdout
    assert "run with other" not in entry.stdout
    assert entry.stdout.count("intervals, and no finding") == 1
    (other,) = {p.parent for p in out.glob("leaderboard/*/report.md")} - {folder}
    # Only the entry ran.
    assert set(cells.read_csv(other / "cells.csv")["arm"]) == {"my_copy"}
    with path.open("a", encoding="utf-8") as file:
        file.write("A_CHANGE = 1\n")
    changed = run_smoke(out, "--entry", path)
    assert f"my_copy.py is not the version that made the runs in {other}" in (
        changed.stderr
    )
    taken = run_smoke(out, "--entry", FOLDER / "adamw.py")
    assert "the board has an entry 'adamw'. Rename the file." in taken.stderr


# --- The numbers of the report ----------------------------------------------------

# Skill of an arm on a board: the validation and the test score at its best point, and
# the exponents of the best strength and learning rate.
TIE = (0.8, 0.8, 4, -13)
SKILLS = {
    "adamw": TIE,
    "corrected": TIE,
    "none": (0.75, 0.75, 0, -13),
    "cautious": (0.9, 0.9, 7, -13),
    "proximal": (0.9, 0.9, 15, -13),  # beyond the grid and its bounds
}


def made_table(plan, skills):
    """The runs of all stages of a plan. `lucky` arms score worse on final seeds."""
    return made_runs(module_of_study().study(plan).stages, skills)


def made_runs(stages, skills):
    from experiments import cells

    table = {}
    for stage in stages:
        parts = [_made_rows(group, skills) for group in stage.make(table)]
        table = cells.concatenate([table, *parts])
    return table


def _made_rows(group, skills):
    validation, test, strength, rate, *again = skills[group.labels["arm"]]
    stage = group.labels["stage"]
    if stage == "replication":
        test = again[0] if again else test
    final = stage in ("final", "replication")
    count = len(group.cells)
    numbers = {n: np.array([cell[n] for cell in group.cells]) for n in group.cells[0]}
    decay = np.log2(np.where(numbers["weight_decay"] == 0, 1, numbers["weight_decay"]))
    off = (decay - strength) ** 2 + (np.log2(numbers["learning_rate"]) - rate) ** 2
    index = list(skills).index(group.labels["arm"])
    noise = [
        np.random.default_rng([seed, index]).normal(0, 0.01)
        for seed in numbers["seed"].tolist()
    ]
    score = (test if final else validation) - 0.005 * off + noise
    labels = {n: np.full(count, x, object) for n, x in group.labels.items()}
    accuracy = {
        "val_accuracy": np.round(300 * score) / 300,
        "val_count": np.full(count, 300),
        "test_accuracy": score,
    }
    # Fewer steps are better; runs that need 100 do not arrive.
    steps = np.minimum(np.round(200 * (1 - score)), 100)
    addition = {"steps": steps, "arrived": (steps < 100).astype(int)}
    addition["penalised_steps"] = np.where(steps < 100, steps, 100 * (2 - score))
    scores = addition if group.labels["task"] == "grokking" else accuracy
    return labels | numbers | scores | {"diverged": np.zeros(count, bool)}


SIZES = {
    "tuning_seeds": 2,
    "added": 8,
    "screened": 6,
    "candidates": 4,
    "validation_seeds": 10,
    "final_seeds": 20,
}


@functools.cache
def made_plan(board):
    """Five entries on one board, with numbers that give intervals."""
    from experiments.leaderboard import boards

    found = {each.name: each for each in boards.BOARDS}[board]
    return boards.plan_of([found], [stored(name) for name in SKILLS], SIZES)


@pytest.fixture
def fewer_resamples(monkeypatch):
    from experiments import outcomes, statistics

    monkeypatch.setattr(statistics, "RESAMPLES", 999)
    monkeypatch.setattr(outcomes, "RESAMPLES", 299)


def store(folder, plan, skills):
    """A results directory of a plan, with made-up runs."""
    study = module_of_study().study(plan)
    return simulated.store(folder, study, made_table(plan, skills))


def made_boards(folder, board="digits", skills=SKILLS):
    from experiments.reports.leaderboard_numbers import read_boards

    return read_boards(store(folder, made_plan(board), skills))


def test_only_a_clear_bracketed_difference_that_is_not_lucky_is_a_win(
    tmp_path, fewer_resamples
):
    from experiments.reports.leaderboard import conclusion

    text = conclusion(made_boards(tmp_path))
    assert "**digits** (4 entries against AdamW)" in text
    assert "Clearly better: `cautious`. " in text
    assert "but not a win: `proximal` (a choice is not bracketed). " in text
    assert "Clearly worse: `none`. " in text
    assert "No clear difference: 1." in text
    assert "Not bracketed: `proximal`. Lucky: none." in text
    assert "on the seeds 1000 to 1029: not yet replicated." in text


def test_a_lucky_choice_is_not_a_win(tmp_path, fewer_resamples):
    from experiments.reports.leaderboard import conclusion

    lucky = SKILLS | {"cautious": (0.95, 0.9, 7, -13)}
    text = conclusion(made_boards(tmp_path, skills=lucky))
    assert "Clearly better: none. " in text
    assert "`cautious` (a chosen point was lucky)" in text


@pytest.mark.parametrize(
    ("again", "words"),
    [
        (
            {},
            "Wins, clearly better again on the seeds 1000 to 1029: `cautious` on dig",
        ),
        (
            {"cautious": 0.8},
            "1029: none. Clearly better only on the final seeds: `cautious` on digit",
        ),
        (
            {"corrected": 0.9},
            "Clearly better only on the new seeds: `corrected` on digits.",
        ),
    ],
)
def test_only_what_is_clear_again_is_a_win(again, words, tmp_path, fewer_resamples):
    from experiments.reports.leaderboard import conclusion
    from experiments.reports.leaderboard_numbers import read_boards

    text = conclusion(read_boards(made_replicated_board(tmp_path, again)))
    assert words in text
    assert "All contrasts on the new seeds: `replication/report.md`." in text
    assert "not yet replicated" not in text


def test_the_best_cells_are_those_of_validation(tmp_path, fewer_resamples):
    from experiments import cells
    from experiments.reports.leaderboard import cell_text, cells_table
    from experiments.reports.leaderboard_numbers import best_cells

    results = made_boards(tmp_path).results["digits"]
    entry = results.outcomes["digits cautious"].entry
    first, *others = best_cells(results, entry)
    assert len(others) == 2
    assert first.point == (2.0**7, 2.0**-13)
    assert all(first.validation <= each.validation for each in others)
    rows = cells.where(
        results.table, stage="validation", arm="cautious", weight_decay=first.point[0]
    )
    rows = cells.where(rows, learning_rate=first.point[1])
    scores = 100 * rows["val_accuracy"].astype(float)
    assert first.validation == pytest.approx(100 - scores.mean())
    assert first.deviation == pytest.approx(scores.std(ddof=1))
    tests = 100 * rows["test_accuracy"].astype(float)
    assert first.test == pytest.approx(100 - tests.mean())
    text = cell_text(entry, first, 2)
    assert text.startswith(f"2⁷, 2⁻¹³: {first.validation:.2f} ± ")
    table = cells_table(results).splitlines()
    (line,) = (line for line in table if "`cautious`" in line)
    assert text in line
    assert len(table) == 2 + len(SKILLS)
    reach = [first.test, *(each.test for each in others)]
    assert line.endswith(f"| {max(reach) - min(reach):.2f} |")


def test_censored_runs_are_counted(tmp_path, fewer_resamples):
    from experiments.reports.leaderboard import cells_table, conclusion

    skills = {name: (x, y, s, -5) for name, (x, y, _, _) in SKILLS.items() for s in [0]}
    skills["none"] = (0.2, 0.2, 0, -5)
    boards = made_boards(tmp_path, "grokking", skills)
    table = cells_table(boards.results["grokking"]).splitlines()
    arrived = {line.split("`")[1]: line.split("|")[-2].strip() for line in table[2:]}
    assert arrived["none"] == "0 of 20"
    assert arrived["adamw"] == "20 of 20"
    # No run without decay arrives, but its accuracy brackets the learning rate.
    assert "Clearly worse: `none`." in conclusion(boards)


def test_the_report_has_all_tables_and_figures(tmp_path, fewer_resamples):
    from experiments.reports.leaderboard import write_report

    verdict = write_report(store(tmp_path, made_plan("digits"), SKILLS))
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert verdict.partition("Verdict. ")[2] in report
    assert "over all 4\ncontrasts" in report or "over all 4 contrasts" in report
    for heading in ("Board digits", "Best cells on digits", "wrong number on digits"):
        assert heading in report
    for name in ("forest.png", "regret.png"):
        assert (tmp_path / name).stat().st_size > 3_000


def test_the_row_of_a_new_entry(tmp_path, fewer_resamples):
    from experiments.reports.leaderboard import rows_of

    boards = made_boards(tmp_path)._replace(added=("digits cautious",))
    text = rows_of(boards)
    assert text.startswith("`cautious` on digits: +9.89 [")
    assert "cautious clearly better; place 1 of 4 (AdamW is not counted)." in text
    assert text.endswith("the board was not run there.")
    doubtful = rows_of(boards._replace(added=("digits proximal",)))
    assert "a choice is not bracketed" in doubtful
    assert "run there" not in doubtful
    tie = rows_of(boards._replace(added=("digits corrected",)))
    assert "no difference shown" in tie
    assert "run with other" not in tie
    other = rows_of(boards._replace(differences=("versions (jax 1, now 2)",)))
    assert "run with other versions (jax 1, now 2) than the board" in other


def test_differences_from_the_board_are_those_of_what_both_use():
    from experiments.reports.leaderboard_numbers import differences_from_board

    board = {
        "versions": {"jax": "1"},
        "device": {"kind": "cpu"},
        "data": {"digits": "0"},
        "code": {"run": "a", "entries.adamw": "b"},
    }
    entry = board | {"code": {"run": "a", "my_decay": "c"}}
    assert differences_from_board(board, entry) == []
    entry = entry | {"device": {"kind": "gpu"}, "code": {"run": "d", "my_decay": "c"}}
    assert differences_from_board(board, entry) == [
        "device (kind cpu, now gpu)",
        "code (run)",
    ]


def made_replicated_board(folder, again=()):
    """The directory of a board, with its replication.

    `again` are other test scores on the new seeds, by entry.
    """
    from experiments import replication
    from experiments.engine.store import read_manifest

    board, plan = folder / "leaderboard" / "0123456789ab", made_plan("digits")
    store(board, plan, SKILLS)
    (board / "report.md").write_text("")
    table, of = made_table(plan, SKILLS), read_manifest(board)["hash"]
    replicated = replication.plan_of(plan, table, of, (1000, 1030))
    study = replication.study("leaderboard-replication", replicated, plan, str)
    scores = {name: skill[1] for name, skill in SKILLS.items()} | dict(again)
    skills = {name: (*skill, scores[name]) for name, skill in SKILLS.items()}
    simulated.store(board / "replication", study, made_runs(study.stages, skills))
    (board / "replication" / "report.md").write_text("")
    return board


def made_entry(folder, skills):
    """The directory of an added entry; the board and its replication are next to it."""
    from experiments.leaderboard import boards

    plan = made_plan("digits")
    made_replicated_board(folder)
    (found,) = (each for each in boards.BOARDS if each.name == "digits")
    entry = stored("cautious")._replace(name="mine")
    sizes = {n: getattr(plan.plans["digits"], n) for n in SIZES}
    mine = boards.plan_of(
        [found], [entry], sizes, against="0123456789ab", replicated=(1000, 1030)
    )
    return store(folder / "leaderboard" / "abc", mine, {**SKILLS, **skills})


@pytest.mark.parametrize(
    ("again", "words"),
    [
        (0.9, "Again on the seeds 1000 to 1029: holds for digits: mine − adamw."),
        (0.8, "does not hold: no difference shown for digits: mine − adamw."),
    ],
)
def test_a_new_entry_is_replicated_against_the_boards_baseline(
    again, words, tmp_path, fewer_resamples, monkeypatch
):
    from experiments.reports import leaderboard_numbers
    from experiments.reports.leaderboard import rows_of
    from experiments.reports.leaderboard_numbers import read_boards

    # Made-up manifests have no code.
    monkeypatch.setattr(leaderboard_numbers, "differences_from_board", lambda *_: [])

    mine = made_entry(tmp_path, {"mine": (0.9, 0.9, 7, -13, again)})
    text = rows_of(read_boards(mine))
    assert "`mine` on digits: +9.9" in text
    assert words in text
    (tmp_path / "leaderboard/0123456789ab/replication/report.md").unlink()
    assert "the board was not run there" in rows_of(read_boards(mine))


def made_results(p_values, board="digits"):
    """Results with these p-values, and tuning errors that are known."""
    from experiments.outcomes import Comparison
    from experiments.protocol import Contrast
    from experiments.statistics import Estimate

    plan = module_of_study().FULL.plans[board]
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
    from experiments.reports.leaderboard_numbers import ranking
    from experiments.reports.results import correct_together

    found = correct_together(
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

    from experiments.reports.leaderboard_numbers import regret

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
