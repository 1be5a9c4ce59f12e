"""What ``weight_decay`` means in each of Optax's optimizers: read and measured."""

import functools
import warnings
from pathlib import Path

import optax
import pytest
from optax import contrib

import decayax as dx


aliases = pytest.importorskip("experiments.benchmarks.aliases")
PAGE = Path(__file__).parent.parent / "docs" / "others.md"
pytestmark = pytest.mark.skipif(
    not hasattr(contrib, "galore"), reason="another Optax has other optimizers"
)


@pytest.mark.parametrize("alias", aliases.WITH, ids=lambda alias: alias.name)
def test_each_mode_is_what_the_code_says(alias, monkeypatch):
    # `row` needs the same audit again.
    monkeypatch.setattr(aliases, "audited", functools.cache(aliases.audited))
    assert aliases.audited(alias).mode == alias.mode
    assert aliases.row(alias) in PAGE.read_text().splitlines()


def names(table):
    return [(module, name) for module, row in table.items() for name in row.split()]


def modes_of(optimizers):
    """The mode of each optimizer. One audit of all compiles faster than one of each."""
    params = dict.fromkeys(optimizers, aliases.PARAMS["kernel"])
    together = optax.partition(optimizers, {name: name for name in optimizers})
    audit = dx.audit(together, params, steps=50, seeds=1)
    return {leaf.path: (leaf.mode, leaf.rate) for leaf in audit.leaves}


@pytest.mark.slow
def test_optimizers_without_decay_have_none():
    optimizers = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # optimistic_adam
        for module, name in names(aliases.WITHOUT):
            learning_rate = [] if name == "polyak_sgd" else [1e-3]
            options = {"key": 0} if name == "noisy_sgd" else {}
            optimizers[name] = getattr(module, name)(*learning_rate, **options)
    assert modes_of(optimizers) == dict.fromkeys(optimizers, ("none", 0.0))


@pytest.mark.slow
def test_strength_0_is_no_decay():
    """In the optimizers that scale their steps by the distance from the start."""
    scaling = ("cocob", "dadapt_adamw", "dog", "dowg", "prodigy")
    optimizers = {
        alias.name: alias.build(alias.learning_rate, 0.0)
        for alias in aliases.WITH
        if alias.name in scaling
    }
    assert modes_of(optimizers) == dict.fromkeys(scaling, ("none", 0.0))


@pytest.mark.parametrize(("module", "name"), names(aliases.NOT_AUDITABLE))
def test_optimizers_that_need_an_objective(module, name):
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
