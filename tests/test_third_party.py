"""The audit of optimizers from other packages: `make test-third-party` installs them.

The truth of each was read from its code: γλ, decoupled. Magma multiplies the whole step
of a block by a random 0 or 1 and by a factor below 1.
"""

import importlib
import importlib.util

import jax
import jax.numpy as jnp
import pytest

import decayax as dx


pytestmark = pytest.mark.relaxed("other packages")
PARAMS = {
    "kernel": jax.random.normal(jax.random.key(0), (16, 16)),
    "bias": jnp.ones(16),
}
DECOUPLED = [
    ("psgdax", "kron"),
    ("rollfast", "adamw"),
    ("rollfast", "prism"),
    ("rollfast", "kron"),
    ("aura_optax", "adam_aura"),
    ("aura_optax", "muon_aura"),
]


def optimizer_of(package, name, **options):
    module = pytest.importorskip(package)
    return getattr(module, name)(1e-3, **options)


@pytest.mark.parametrize(("package", "name"), DECOUPLED)
def test_a_decoupled_decay_of_another_package(package, name):
    audit = dx.audit(optimizer_of(package, name, weight_decay=0.1), PARAMS)
    assert {leaf.mode for leaf in audit.leaves} == {"uniform"}
    for leaf in audit.leaves:
        assert leaf.rate == pytest.approx(1e-4, rel=1e-3)
    assert [finding.kind for finding in audit.findings] == ["biases or norms decay"]


@pytest.mark.parametrize(("package", "name"), DECOUPLED)
def test_no_decay_of_another_package(package, name):
    audit = dx.audit(optimizer_of(package, name, weight_decay=0.0), PARAMS)
    assert {leaf.mode for leaf in audit.leaves} == {"none"}
    assert not audit.findings


def test_a_decay_in_a_random_half_of_the_steps():
    optimizer = optimizer_of("rollfast", "adamw", weight_decay=0.1, use_magma=True)
    audit = dx.audit(optimizer, PARAMS)
    (finding,) = [f for f in audit.findings if f.kind == "not in every step"]
    share = int(finding.text.split("in ")[1].split("%")[0])
    assert 40 <= share <= 60
    for leaf in audit.leaves:
        assert leaf.mode == "uniform"
        assert leaf.rate < 0.6e-4


def test_the_packages_are_named_correctly():
    """A misspelt name would skip every test."""
    missing = [
        name
        for package, name in DECOUPLED
        if importlib.util.find_spec(package)
        and not hasattr(importlib.import_module(package), name)
    ]
    assert not missing
