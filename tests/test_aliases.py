"""What ``weight_decay`` means in each of Optax's optimizers: read, and measured."""

import functools
import warnings
from pathlib import Path

import optax
import pytest
from optax import contrib

import decayax as dx


aliases = pytest.importorskip("experiments.benchmarks.aliases")
README = Path(dx.__file__).parent / "README.md"
pytestmark = pytest.mark.skipif(
    not hasattr(contrib, "galore"), reason="another Optax has other optimizers"
)


@pytest.mark.parametrize("alias", aliases.WITH, ids=lambda alias: alias.name)
def test_each_mode_is_what_the_code_says(alias, monkeypatch):
    """`row` asks again what is asked here: it is measured once."""
    monkeypatch.setattr(aliases, "audited", functools.cache(aliases.audited))
    assert aliases.audited(alias).mode == alias.mode
    assert aliases.row(alias) in README.read_text().splitlines()


def names(table):
    return [(module, name) for module, row in table.items() for name in row.split()]


@pytest.mark.parametrize(("module", "name"), names(aliases.WITHOUT))
def test_no_decay_is_found_where_there_is_none(module, name):
    options = {"key": 0} if name == "noisy_sgd" else {}
    given = [] if name == "polyak_sgd" else [1e-3]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # optimistic_adam
        optimizer = getattr(module, name)(*given, **options)
    (leaf,) = dx.audit(optimizer, aliases.PARAMS, steps=50, seeds=1).leaves
    assert (leaf.mode, leaf.rate) == ("none", 0.0)


@pytest.mark.parametrize(
    "alias",
    [a for a in aliases.WITH if a.strength and a.name != "mechanize"],
    ids=lambda alias: alias.name,
)
def test_nor_where_the_strength_is_0(alias):
    optimizer = alias.build(alias.learning_rate, 0.0)
    (leaf,) = dx.audit(optimizer, aliases.PARAMS, steps=50, seeds=1).leaves
    assert (leaf.mode, leaf.rate) == ("none", 0.0)


@pytest.mark.parametrize(("module", "name"), names(aliases.NOT_AUDITABLE))
def test_what_needs_an_objective(module, name):
    options = [] if name == "lbfgs" else [1e-3]
    audit = dx.audit(getattr(module, name)(*options), aliases.PARAMS)
    assert [finding.kind for finding in audit.findings] == ["not auditable"]


def test_every_optimizer_of_optax_is_here():
    listed = {alias.name for alias in aliases.WITH}
    for others in (aliases.WITHOUT, aliases.NOT_AUDITABLE):
        listed |= {name for _, name in names(others)}
    for name in optax._src.alias.__dict__:
        made = getattr(optax, name, None)
        if callable(made) and name.islower() and not name.startswith("_"):
            assert name in listed, name
