"""One row per public transform and option set: how to build it, and its reference.

Every property in test_contract.py and test_trajectories.py runs over all rows, so a
new transform is tested in full by adding its row here.
"""

from functools import partial

import jax
import optax
import pytest
import reference
from catalogue_methods import METHODS
from catalogue_row import Row

import decayax as dx


def gradient_of_penalty(weight_decay, mask=None):
    """l2_penalty as a transform, the way a loss would use it: g + ∇penalty."""

    def update(updates, state, params=None):
        slope = jax.grad(lambda p: dx.l2_penalty(p, weight_decay, mask=mask))(params)
        added = jax.tree.map(lambda g, s: g + s.astype(g.dtype), updates, slope)
        return added, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def before_rate(transform, ref, options="", before=(), name=None, **flags) -> Row:
    """A decay in front of the learning rate, after the stages `before`."""

    def optimizer(learning_rate, weight_decay, mask=None):
        decay = transform(weight_decay, mask=mask)
        rate = optax.scale_by_learning_rate(learning_rate)
        return optax.chain(*before, decay, rate)

    name = name or transform.__name__
    return Row(name, options, decay_alone(transform), optimizer, ref, **flags)


def after_rate(transform, ref) -> Row:
    """A decay behind the learning rate."""

    def optimizer(learning_rate, weight_decay, mask=None):
        rate = optax.scale_by_learning_rate(learning_rate)
        return optax.chain(rate, transform(weight_decay, mask=mask))

    return Row(transform.__name__, "", decay_alone(transform), optimizer, ref)


def decay_alone(transform):
    return lambda weight_decay, mask=None: transform(weight_decay, mask=mask)


def preconditioner(make, centered=False, **options) -> Row:
    def part(weight_decay=None, mask=None):
        return make(**options)

    def optimizer(learning_rate, weight_decay=None, mask=None):
        return optax.chain(part(), optax.scale_by_learning_rate(learning_rate))

    def ref(theta0, grads, *, learning_rate, weight_decay=0.0, multiplier=1.0):
        return reference.rmspropw(
            theta0,
            grads,
            learning_rate=learning_rate,
            weight_decay=0.0,
            centered=centered,
            **options,
        )

    label = ",".join(f"{key}={value}" for key, value in options.items())
    return Row(make.__name__, label, part, optimizer, ref, decays=False)


rms = partial(preconditioner, dx.scale_by_rms)
stddev = partial(preconditioner, dx.scale_by_stddev, centered=True)


def around(inner, ref, options, built_on=None) -> Row:
    """with_decay around a finished optimizer."""

    def optimizer(learning_rate, weight_decay, mask=None):
        return dx.with_decay(
            inner(learning_rate), weight_decay, learning_rate=learning_rate, mask=mask
        )

    part = partial(optimizer, 0.5)
    return Row("with_decay", options, part, optimizer, ref, built_on=built_on)


def wrapped(wrap, inner, ref, options, name=None, **flags) -> Row:
    """A wrapper that must not change the trajectory of the optimizer inside."""

    def optimizer(learning_rate, weight_decay, mask=None):
        return wrap(inner(learning_rate, weight_decay=weight_decay, mask=mask))

    part = partial(optimizer, 0.5)
    return Row(name or wrap.__name__, options, part, optimizer, ref, **flags)


track_every_second_step = partial(dx.track_decay, every=2)
store_in_bfloat16 = partial(dx.with_state_dtype, dtype="bfloat16")


def adam_of_optax(learning_rate, weight_decay, mask=None):
    """Adam without decayax's wrapper, which would restore dtypes by itself."""
    return optax.chain(
        optax.scale_by_adam(),
        dx.decoupled_decay(weight_decay, mask=mask),
        optax.scale_by_learning_rate(learning_rate),
    )


def last_stage(transform, ref) -> Row:
    """A rounding transform at the end of a chain."""

    def part(weight_decay, mask=None):
        return optax.chain(dx.decoupled_decay(weight_decay, mask=mask), transform())

    def optimizer(learning_rate, weight_decay, mask=None):
        sgdw = dx.sgdw(learning_rate, weight_decay=weight_decay, mask=mask)
        return optax.chain(sgdw, transform())

    return Row(transform.__name__, "", part, optimizer, ref, emits_float32=True)


def optimizers(pair, options, built_on=None) -> list[Row]:
    """Both optimizers of a pair with the same options."""
    rows = []
    for make, ref in pair:
        whole = partial(build, make, options)
        rows.append(
            Row(
                name=make.__name__,
                options=",".join(f"{key}={value}" for key, value in options.items()),
                part=partial(whole, 0.5),
                optimizer=whole,
                reference=partial(ref, **options),
                built_on=built_on,
            )
        )
    return rows


def build(make, options, learning_rate, weight_decay, mask=None):
    return make(learning_rate, weight_decay=weight_decay, mask=mask, **options)


ADAM = "optax.scale_by_adam"
SGDS = ((dx.sgd_l2, reference.sgd_l2), (dx.sgdw, reference.sgdw))
RMSPROPS = ((dx.rmsprop_l2, reference.rmsprop_l2), (dx.rmspropw, reference.rmspropw))
ADAMS = ((dx.adam_l2, reference.adam_l2), (dx.adamw, reference.adamw))

ROWS = [
    # the places
    before_rate(dx.add_l2_to_grad, reference.sgd_l2),
    before_rate(
        gradient_of_penalty, reference.sgd_l2, name="l2_penalty", schedules=False
    ),
    before_rate(dx.decoupled_decay, reference.sgdw),
    before_rate(
        dx.decoupled_decay,
        partial(reference.rmspropw, decay=0.95),
        "after scale_by_rms",
        before=[dx.scale_by_rms(0.95)],
    ),
    after_rate(dx.independent_decay, reference.sgd_independent),
    # the preconditioner
    rms(),
    rms(decay=0.99, eps=1e-3, initial_scale=0.5),
    rms(eps=1e-3, eps_in_sqrt=True),
    rms(decay=0.999, bias_correction=True),
    stddev(eps=1e-2),
    stddev(decay=0.99, eps=1e-3, initial_scale=0.5),
    stddev(eps=1e-3, eps_in_sqrt=True),
    stddev(decay=0.999, eps=0.1, bias_correction=True),
    # wrappers
    around(optax.sgd, reference.sgdw, "sgd"),
    around(optax.adam, reference.adamw, "adam", built_on=ADAM),
    wrapped(track_every_second_step, dx.sgdw, reference.sgdw, "sgdw", "track_decay"),
    wrapped(
        track_every_second_step,
        dx.adam_l2,
        reference.adam_l2,
        "adam_l2",
        "track_decay",
        built_on=ADAM,
    ),
    # rounding
    last_stage(dx.round_stochastically, reference.sgdw),
    last_stage(dx.compensate_rounding, reference.sgdw),
    wrapped(
        dx.with_stochastic_rounding,
        dx.sgdw,
        reference.sgdw,
        "sgdw",
        emits_float32=True,
    ),
    wrapped(
        dx.with_compensation,
        dx.adamw,
        reference.adamw,
        "adamw",
        emits_float32=True,
        built_on=ADAM,
    ),
    wrapped(
        store_in_bfloat16,
        adam_of_optax,
        reference.adamw,
        "adam",
        "with_state_dtype",
        rounds_state=True,
        built_on=ADAM,
    ),
    # the pairs
    *optimizers(SGDS, {}),
    *optimizers(SGDS, {"momentum": 0.9}),
    *optimizers(SGDS, {"momentum": 0.8, "nesterov": True}),
    *optimizers(RMSPROPS, {}),
    *optimizers(RMSPROPS, {"momentum": 0.9, "decay": 0.95}),
    *optimizers(
        RMSPROPS,
        {"momentum": 0.8, "nesterov": True, "initial_scale": 1.0, "eps": 1e-3},
    ),
    *optimizers(RMSPROPS, {"eps_in_sqrt": True, "eps": 1e-3, "bias_correction": True}),
    *optimizers(RMSPROPS, {"centered": True, "eps": 1e-2}),
    *optimizers(ADAMS, {}, built_on=ADAM),
    *optimizers(
        ADAMS, {"b1": 0.8, "b2": 0.95, "eps": 1e-3, "eps_root": 1e-3}, built_on=ADAM
    ),
    *optimizers(ADAMS, {"nesterov": True}, built_on=ADAM),
    # the catalogue of methods
    *METHODS,
]


def parametrize(rows=ROWS):
    """`@parametrize()`: the test once per row."""
    ids = [f"{row.name}({row.options})" for row in rows]
    return pytest.mark.parametrize("row", rows, ids=ids)


def first_of_each(rows=ROWS) -> list[Row]:
    """One row per public name, for properties that options cannot change."""
    return list({row.name: row for row in reversed(rows)}.values())[::-1]


DECAYS = [row for row in ROWS if row.decays]
