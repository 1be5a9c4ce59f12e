"""What the audit measures: samples, classes and sizes of leaves, and its duration."""

import jax
import jax.numpy as jnp
import optax
import pytest
from audit_cases import (
    leaf_of,
    LR,
    MASK,
    no_warning as no_warning,
    ONE,
    plan_of,
    WD,
)

import decayax as dx


def test_shapes_are_enough_and_large_models_are_sampled():
    shapes = {
        "wte": jax.ShapeDtypeStruct((1_000_000, 1000), jnp.float32),
        "bias": jax.ShapeDtypeStruct((8,), jnp.float32),
    }
    audit = dx.audit(dx.adamw(LR, weight_decay=WD, mask=MASK), shapes)
    assert audit.sampled
    assert audit.elementwise
    bias, wte = audit.leaves
    assert (wte.shape, wte.mode, bias.mode) == ((1_000_000, 1000), "uniform", "none")
    assert wte.rate == pytest.approx(1e-4, rel=1e-5)
    assert "a sample of each leaf" in str(audit)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((1000, 1000), (64, 64)),
        ((16, 16), (16, 16)),
        ((1000,), (256,)),
        ((2, 100_000), (2, 2048)),
        ((1, 100_000), (1, 4096)),
        ((100_000, 3), (1024, 3)),
        ((3, 3, 512, 512), (3, 3, 16, 16)),
        ((65, 63), (65, 63)),
        ((), ()),
    ],
    ids=str,
)
def test_the_sample_of_each_leaf(shape, expected):
    """At most 4096 weights of each matrix and 256 of each vector; 2 of each axis."""
    params = {"w": jax.ShapeDtypeStruct(shape, jnp.float32)}
    plan = plan_of(optax.sgd(LR), params)
    assert plan.measured["w"].shape == expected
    assert plan.sampled == (shape != expected)


def by_number(updates, params):
    """A rate of 0.1/fan-in: the shape is a number in the program."""
    return jax.tree.map(lambda u, p: -LR * u - 0.1 / p.shape[0] * p, updates, params)


def by_row(updates, params):
    """The rows from 300 on grow."""

    def leaf(u, p):
        grows = jnp.arange(p.shape[0])[:, None] >= 300
        return -LR * u + jnp.where(grows, 1e-3, -1e-3) * p

    return jax.tree.map(leaf, updates, params)


@pytest.mark.parametrize("rule", [by_number, by_row])
def test_a_rule_that_depends_on_the_shape_is_not_sampled(rule):
    big = {"kernel": jnp.ones((512, 64))}
    audit = dx.audit(optax.stateless(rule), big, steps=25, seeds=1)
    assert not audit.sampled
    if rule is by_number:
        assert audit.leaves[0].rate == pytest.approx(0.1 / 512, rel=1e-4)


def test_an_optimizer_that_decides_by_shape_sees_the_whole_shape():
    """On a sample, a mask by size decides differently: all weights are measured."""
    big = {"kernel": jnp.ones((128, 64)), "small": jnp.ones((8, 8))}
    mask = lambda p: jax.tree.map(lambda x: x.size > 5000, p)  # noqa: E731
    audit = dx.audit(dx.sgdw(LR, weight_decay=WD, mask=mask), big, steps=25, seeds=1)
    assert not audit.sampled
    assert [leaf.mode for leaf in audit.leaves] == ["uniform", "none"]


def test_the_weights_have_the_size_of_the_parameters():
    """The rate of lamb is proportional to it."""
    small, large = (
        leaf_of(optax.lamb(LR, weight_decay=0.01), {"kernel": s * ONE["kernel"]}).rate
        for s in (0.03, 0.3)
    )
    assert large == pytest.approx(10 * small, rel=0.2)


def test_a_long_audit_warns_how_long_it_takes(monkeypatch):
    from decayax._audit import follow

    monkeypatch.setattr(follow, "WARN_AFTER_SECONDS", 0.0)
    with pytest.warns(
        UserWarning, match=r"audit: at most \d+ s to go, because all weights are.*True"
    ):
        dx.audit(optax.lamb(LR), ONE, steps=25)
