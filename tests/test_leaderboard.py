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
