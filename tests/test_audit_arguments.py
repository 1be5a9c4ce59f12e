"""What `optimizer.update` needs: bound axes, keyword arguments, example gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from audit_cases import (
    KEY,
    kinds,
    L2_ADAM,
    leaf_of,
    LR,
    no_warning as no_warning,
    ONE,
    rule,
    WD,
)
from optax import contrib

import decayax as dx


ADAMW = optax.adamw(LR, weight_decay=WD)


# --- axis names ---------------------------------------------------------------------


def over_axis(function):
    """The gradients through a collective operation, then AdamW."""
    return optax.chain(rule(lambda u, p: function(u)), ADAMW)


COLLECTIVES = {
    "pmean": (lambda u: jax.lax.pmean(u, "batch"), ("batch",)),
    "psum": (lambda u: jax.lax.psum(u, "devices"), ("devices",)),
    "pmax": (lambda u: u + 0 * jax.lax.pmax(u, "i"), ("i",)),
    "axis_index": (lambda u: u + 0 * jax.lax.axis_index("batch"), ("batch",)),
    "two axes": (lambda u: jax.lax.pmean(u, ("data", "model")), ("data", "model")),
    "two operations": (
        lambda u: jax.lax.pmean(jax.lax.psum(u, "data"), "model"),
        ["model", "data"],
    ),
}


@pytest.mark.parametrize("name", COLLECTIVES)
def test_axes_can_be_bound(name):
    function, axes = COLLECTIVES[name]
    optimizer = over_axis(function)
    leaf = leaf_of(optimizer, axis_names=axes, steps=25)
    assert (leaf.mode, leaf.rate) == ("uniform", pytest.approx(1e-4, rel=1e-4))
    (finding,) = dx.audit(optimizer, ONE).findings
    assert (finding.kind, finding.serious) == ("not auditable", True)
    first = finding.hint.partition("axis_names=(")[2].partition(",)")[0]
    assert first.strip("'") in axes
    if len(axes) == 1:
        assert f"Pass axis_names=('{axes[0]}',)." in finding.hint


def test_an_axis_of_the_state_is_bound_too():
    def init(params):
        return jax.lax.pmean(jnp.zeros(()), "batch")

    optimizer = optax.chain(
        optax.GradientTransformation(init, lambda u, s, p=None: (u, s)), ADAMW
    )
    leaf = leaf_of(optimizer, axis_names=("batch",), steps=25)
    assert (leaf.mode, leaf.rate) == ("uniform", pytest.approx(1e-4, rel=1e-4))


def test_an_axis_that_nothing_uses_changes_nothing():
    plain = leaf_of(ADAMW, steps=25)
    assert leaf_of(ADAMW, steps=25, axis_names=("batch",)).rate == plain.rate


def test_at_later_steps_and_for_a_factory_the_axis_is_bound():
    make = lambda lr: optax.chain(  # noqa: E731
        rule(lambda u, p: jax.lax.pmean(u, "batch")), dx.adamw(lr, weight_decay=WD)
    )
    leaf = leaf_of(make, axis_names=("batch",), at_steps=(0, 100), steps=25)
    assert leaf.follows_learning_rate is True
    assert [rate for _, rate in leaf.by_step] == pytest.approx([1e-4] * 2, rel=1e-3)


# --- keyword arguments --------------------------------------------------------------


def reading(name):
    """An optimizer that reads extra_args[name]."""

    def update(updates, state, params=None, **extra_args):
        scale = 1.0 + 0.0 * extra_args[name]
        return jax.tree.map(lambda u: scale * u, updates), state

    nothing = optax.GradientTransformationExtraArgs(
        lambda params: optax.EmptyState(), update
    )
    return optax.chain(nothing, ADAMW)


def needing_grad_fn(updates, state, params=None, *, grad_fn):
    return updates, state


NEEDY = {
    "grad_fn": contrib.sam(ADAMW, optax.sgd(0.05), opaque_mode=True),
    "loss": reading("loss"),
    "'grad_fn'": optax.GradientTransformationExtraArgs(
        lambda params: optax.EmptyState(), needing_grad_fn
    ),
    "batch_size": reading("batch_size"),
}


@pytest.mark.parametrize("name", NEEDY)
def test_the_finding_names_the_argument_that_is_needed(name):
    audit = dx.audit(NEEDY[name], ONE)
    (finding,) = audit.findings
    assert (finding.kind, finding.serious, audit.leaves) == ("not auditable", True, ())
    assert name in finding.text
    assert finding.hint == "Pass it in extra_args=."


@pytest.mark.parametrize("name", ["loss", "batch_size"])
def test_an_argument_may_be_given(name):
    leaf = leaf_of(reading(name), extra_args={name: 2.0}, steps=25)
    assert (leaf.mode, leaf.rate) == ("uniform", pytest.approx(1e-4, rel=1e-4))


def test_the_value_is_made_up_for_a_key_too():
    assert leaf_of(reading("value"), steps=25).rate == pytest.approx(1e-4, rel=1e-4)


def test_a_key_error_about_a_leaf_is_raised():
    with pytest.raises(KeyError, match="kernel"):
        dx.audit(reading("kernel"), ONE)


def test_other_errors_are_raised_unchanged():
    def update(updates, state, params=None):
        raise ValueError("a mistake")

    optimizer = optax.GradientTransformation(lambda params: (), update)
    with pytest.raises(ValueError, match="a mistake"):
        dx.audit(optimizer, ONE)

    def name_error(updates, state, params=None):
        raise NameError("name 'undefined_name' is not defined")

    optimizer = optax.GradientTransformation(lambda params: (), name_error)
    with pytest.raises(NameError, match="undefined_name"):
        dx.audit(optimizer, ONE)


# --- zeros in the example gradients -------------------------------------------------

TABLE = {"embedding": jax.random.normal(KEY, (64, 16))}
LARGE = {"embedding": jax.random.normal(KEY, (2048, 32))}


def rows(every, shape=(64, 16)):
    """Example gradients of every k-th row."""
    return np.ones(shape) * (np.arange(shape[0]) % every == 0)[:, None]


def spread(part, shape=(64, 16)):
    """Example gradients of a random part of the weights."""
    return (np.random.default_rng(0).random(shape) < part).astype(np.float32)


LAZY = {
    "by row": rule(
        lambda g, p: (
            -LR * g - jnp.where(jnp.any(g != 0, axis=-1, keepdims=True), 1e-3, 0.0) * p
        )
    ),
    "by weight": rule(lambda g, p: -LR * g - jnp.where(g != 0, 1e-3, 0.0) * p),
    "without gradient": rule(lambda g, p: -LR * g - jnp.where(g == 0, 1e-3, 0.0) * p),
}
PATTERNS = {
    "half of the rows": ("by row", TABLE, rows(2), 1 / 2),
    "an eighth of the rows": ("by row", TABLE, rows(8), 1 / 8),
    "rows of a large table": ("by row", LARGE, rows(2, (2048, 32)), 1 / 2),
    "rows of a large table by weight": ("by weight", LARGE, rows(4, (2048, 32)), 1 / 4),
    "a third of the weights": ("by weight", TABLE, spread(1 / 3), 1 / 3),
    "a third of a large table": (
        "by weight",
        LARGE,
        spread(1 / 3, (2048, 32)),
        1 / 3,
    ),
    "without gradient": ("without gradient", TABLE, rows(4), 3 / 4),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_zeros_of_the_gradients_show_a_lazy_decay(name):
    rule_name, params, gradients, part = PATTERNS[name]
    options = {"steps": 25, "seeds": 1}
    audit = dx.audit(
        LAZY[rule_name], params, gradients={"embedding": gradients}, **options
    )
    (leaf,) = audit.leaves
    assert leaf.mode == "gated"
    assert leaf.rate == pytest.approx(part * 1e-3, rel=0.3)
    (finding,) = audit.findings
    more_or_less = "more" if rule_name == "without gradient" else "less"
    assert (
        f"weights without a gradient decay {more_or_less} than those with one"
        in finding.text
    )
    assert audit.sampled == (params is LARGE)
    audit.check()
    plain = dx.audit(ADAMW, params, gradients={"embedding": gradients}, **options)
    assert plain.leaves[0].mode == "uniform"
    assert plain.leaves[0].rate == pytest.approx(1e-4, rel=1e-3)


def test_few_rows_with_or_without_gradients_of_a_large_table():
    """The sample keeps at least one row with gradients, and one without."""
    for row in (slice(0, 1), slice(64, None)):
        gradients = np.zeros((2048, 32), np.float32)
        gradients[row] = 1.0
        audit = dx.audit(
            LAZY["by row"], LARGE, gradients={"embedding": gradients}, steps=25, seeds=1
        )
        assert kinds(audit) == ["gated"]
        assert "The rates are 0 to 0.001." in audit.findings[0].text


def test_one_zero_or_one_gradient_that_the_sample_misses():
    """The audit looks at 256 of the 4096 weights one by one."""
    params = {"embedding": jax.random.normal(KEY, (64, 64))}
    for unlike, others in ((0.0, 1.0), (1.0, 0.0)):
        gradients = np.full((64, 64), others, np.float32)
        gradients[0, 1] = unlike
        audit = dx.audit(
            ADAMW, params, gradients={"embedding": gradients}, steps=25, seeds=1
        )
        assert kinds(audit) == []


def test_zeros_do_not_freeze_a_leaf():
    audit = dx.audit(ADAMW, TABLE, gradients={"embedding": rows(32)}, steps=25)
    assert audit.leaves[0].depends_on_gradient
    assert kinds(audit) == []
    none = {"embedding": np.zeros((64, 16))}
    audit = dx.audit(ADAMW, TABLE, gradients=none, steps=25)
    assert not audit.leaves[0].depends_on_gradient
    assert kinds(audit) == ["decay without gradient"]


def test_leaves_of_a_class_with_unlike_gradients():
    params = {name: jax.random.normal(KEY, (16, 8)) for name in "abcd"}
    gradients = {
        "a": np.ones((16, 8)),
        "b": np.zeros((16, 8)),
        "c": rows(2, (16, 8)),
        "d": None,
    }
    audit = dx.audit(LAZY["by weight"], params, gradients=gradients, steps=25)
    modes = {leaf.path: (leaf.mode, leaf.depends_on_gradient) for leaf in audit.leaves}
    assert modes == {
        "a": ("uniform", True),
        "b": ("none", False),
        "c": ("gated", True),
        "d": ("none", False),
    }


def test_only_the_zeros_of_example_gradients_count():
    """Their values are random normal numbers of each scale."""
    options = {"steps": 25, "seeds": 1}
    plain = leaf_of(L2_ADAM, TABLE, **options)
    values = {"embedding": 1e6 * np.ones((64, 16))}
    assert leaf_of(L2_ADAM, TABLE, gradients=values, **options) == plain
