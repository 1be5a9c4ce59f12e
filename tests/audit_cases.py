"""Parameters, helpers and planted mistakes that the tests of the audit share."""

import functools
import math

import jax
import jax.numpy as jnp
import optax
import pytest

import decayax as dx


LR, WD = 1e-3, 0.1


KEY = jax.random.key(0)


PARAMS = {
    "dense": {
        "kernel": jax.random.normal(KEY, (16, 16)),
        "bias": jnp.zeros(16),
    },
    "norm": {"scale": jnp.ones(16)},
}


ONE = {"kernel": jax.random.normal(KEY, (16, 16))}


MASK = dx.masks.no_bias_or_norm


L2_ADAM = optax.chain(optax.add_decayed_weights(WD), optax.adam(LR))


@pytest.fixture(autouse=True)
def no_warning(monkeypatch):
    """A slow machine must not warn of a long audit: warnings are errors."""
    monkeypatch.setattr("decayax._audit.follow.WARN_AFTER_SECONDS", math.inf)


def leaf_of(optimizer, params=ONE, **options):
    return dx.audit(optimizer, params, **options).leaves[0]


def rule(function):
    """An optimizer without state: function(u, p) -> the update of a leaf."""
    return optax.stateless(
        lambda updates, params: jax.tree.map(function, updates, params)
    )


def kinds(audit):
    return [finding.kind for finding in audit.findings]


@functools.cache
def of_a_factory():
    """The audit of a factory; two tests share it."""
    return dx.audit(lambda lr: dx.adamw(lr, weight_decay=WD, mask=MASK), PARAMS)


BF16 = jax.tree.map(lambda x: x.astype(jnp.bfloat16), ONE)


MISTAKES = {
    "growth": (
        optax.chain(optax.rmsprop(LR), optax.add_decayed_weights(WD * LR)),
        ONE,
        "the weights of kernel grow by a fraction of 0.0001 per step. The decay has",
    ),
    "rate of 1 or more": (
        optax.chain(optax.adam(LR), dx.independent_decay(1.5)),
        ONE,
        "the rate of kernel is 1.5 per step",
    ),
    "gradient-dependent": (
        L2_ADAM,
        ONE,
        "the decay of kernel depends on the gradients. Rates of kernel: ",
    ),
    "lost in rounding": (
        optax.adamw(LR, weight_decay=WD),
        BF16,
        "rounding to bfloat16 removes more than half of the decay of kernel",
    ),
    "decay without gradient": (
        optax.chain(
            optax.masked(optax.set_to_zero(), {"a": True, "b": False}),
            optax.adamw(LR, weight_decay=WD),
        ),
        {"a": ONE["kernel"], "b": ONE["kernel"]},
        "these parameters get no gradient, but decay: a.",
    ),
    "biases or norms decay": (
        optax.adamw(LR, weight_decay=WD),
        PARAMS,
        "these biases or norm scales decay: dense/bias, norm/scale.",
    ),
    "nothing decays": (
        optax.flatten(
            optax.adamw(
                LR,
                weight_decay=WD,
                mask=lambda p: jax.tree.map(lambda x: x.ndim > 1, p),
            )
        ),
        ONE,
        "a weight decay was given (0.1), but no parameter decays.",
    ),
    "two decays at once": (
        optax.chain(
            optax.add_decayed_weights(0.2), optax.sgd(LR), dx.independent_decay(1e-4)
        ),
        ONE,
        "the optimizer contains 2 weight decays (0.0001, 0.2)",
    ),
    "scale-dependent": (
        optax.lamb(LR, weight_decay=WD),
        ONE,
        "the decay rate of kernel depends on the size of the weights.",
    ),
}


@functools.cache
def of_mistake(kind):
    """The audit of a planted mistake; several tests share it."""
    optimizer, params, _ = MISTAKES[kind]
    return dx.audit(optimizer, params)


def plan_of(optimizer, params=ONE, **options):
    """What an audit of the optimizer measures."""
    from decayax._audit.plan import make_plan

    usual = {"gradients": None, "extra_args": None, "axis_names": ()}
    usual |= {"sample": None, "steps": 200}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return make_plan(optimizer, params, **usual | options)


def bench_of(optimizer, params=ONE, **options):
    """The programs that an audit of the optimizer runs."""
    from decayax._audit.measure import make_bench

    plan = plan_of(optimizer, params, **options)
    return make_bench(plan, plan.program(), clock=range)


def evidence_for(leaf, **fields):
    """A leaf as `find` takes it, without anything to note except ``fields``."""
    from decayax._audit.findings import Evidence

    nothing = Evidence(
        leaf=leaf,
        cause="other",
        extremes=(leaf.rate, leaf.rate),
        not_finite="",
        clipped_to=1.0,
        share_of_steps=1.0,
        still_changes=False,
        proportional=False,
        later_rate=None,
    )
    return nothing._replace(**fields)
