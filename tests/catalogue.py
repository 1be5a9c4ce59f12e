"""One row per public transform and option set: how to build it, and its reference.

Every property in test_contract.py and test_trajectories.py runs over all rows, so a
new transform is tested in full by adding its row here.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import optax
import pytest
import reference

import decayax as dx


class Row(NamedTuple):
    name: str  # the public name it stands for
    options: str  # what sets it apart from other rows of that name
    part: Callable[..., Any]  # (weight_decay, mask=None) -> the public transform
    optimizer: Callable[..., Any]  # (learning_rate, weight_decay, mask=None) -> whole
    reference: Callable[..., Any]  # NumPy float64: the trajectory of that optimizer
    decays: bool = True  # False: weight_decay and mask mean nothing to it
    schedules: bool = True  # whether weight_decay may be a schedule
    lands: bool = False  # emits float32 for 16-bit parameters, and stands outermost
    relaxed: str | None = None  # the part of optax in it that is not strict-clean


def gradient_of_penalty(weight_decay, mask=None):
    """l2_penalty as a transform, the way a loss would use it: g + ∇penalty."""

    def update(updates, state, params=None):
        slope = jax.grad(lambda p: dx.l2_penalty(p, weight_decay, mask=mask))(params)
        added = jax.tree.map(lambda g, s: g + s.astype(g.dtype), updates, slope)
        return added, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def in_chain(before, transform, after):
    """(learning_rate, weight_decay, mask) -> before, the transform, γ, after."""

    def optimizer(learning_rate, weight_decay, mask=None):
        return optax.chain(
            *before,
            *([] if after else [transform(weight_decay, mask=mask)]),
            optax.scale_by_learning_rate(learning_rate),
            *([transform(weight_decay, mask=mask)] if after else []),
        )

    return optimizer


def place(transform, before, after, ref, options="", **flags) -> Row:
    return Row(
        name=flags.pop("name", transform.__name__),
        options=options,
        part=lambda weight_decay, mask=None: transform(weight_decay, mask=mask),
        optimizer=in_chain(before, transform, after),
        reference=ref,
        **flags,
    )


def rms(**options) -> Row:
    def part(weight_decay=None, mask=None):
        return dx.scale_by_rms(**options)

    def optimizer(learning_rate, weight_decay=None, mask=None):
        return optax.chain(part(), optax.scale_by_learning_rate(learning_rate))

    def ref(theta0, grads, *, learning_rate, weight_decay=0.0, multiplier=1.0):
        return reference.rmspropw(
            theta0, grads, learning_rate=learning_rate, weight_decay=0.0, **options
        )

    label = ",".join(f"{key}={value}" for key, value in options.items())
    return Row("scale_by_rms", label, part, optimizer, ref, decays=False)


def around(inner, ref, options, coupled=True, relaxed=None) -> Row:
    """with_decay around a finished optimizer, told its learning rate or not."""

    def optimizer(learning_rate, weight_decay, mask=None):
        told = {"learning_rate": learning_rate} if coupled else {}
        return dx.with_decay(inner(learning_rate), weight_decay, mask=mask, **told)

    part = partial(optimizer, 0.5)
    return Row("with_decay", options, part, optimizer, ref, relaxed=relaxed)


def tracked(inner, ref, options, **flags) -> Row:
    """track_decay around an optimizer, which it must not change."""

    def optimizer(learning_rate, weight_decay, mask=None):
        made = inner(learning_rate, weight_decay=weight_decay, mask=mask)
        return dx.track_decay(made, every=2)

    part = partial(optimizer, 0.5)
    return Row("track_decay", options, part, optimizer, ref, **flags)


def rounded(wrap, inner, ref, options, **flags) -> Row:
    """A rounding wrapper, which must not change an optimizer of 32-bit parameters."""

    def optimizer(learning_rate, weight_decay, mask=None):
        return wrap(inner(learning_rate, weight_decay=weight_decay, mask=mask))

    part = partial(optimizer, 0.5)
    return Row(wrap.__name__, options, part, optimizer, ref, **flags)


def in_sixteen_bits(optimizer):
    return dx.with_state_dtype(optimizer, "bfloat16")


in_sixteen_bits.__name__ = "with_state_dtype"


def last(transform, ref) -> Row:
    """A rounding transform at the end of a chain."""

    def part(weight_decay, mask=None):
        return optax.chain(dx.decoupled_decay(weight_decay, mask=mask), transform())

    def optimizer(learning_rate, weight_decay, mask=None):
        made = dx.sgdw(learning_rate, weight_decay=weight_decay, mask=mask)
        return optax.chain(made, transform())

    return Row(transform.__name__, "", part, optimizer, ref, lands=True)


def pair(make, ref, relaxed=None, **options) -> Row:
    def optimizer(learning_rate, weight_decay, mask=None):
        return make(learning_rate, weight_decay=weight_decay, mask=mask, **options)

    label = ",".join(f"{key}={value}" for key, value in options.items())
    return Row(
        name=make.__name__,
        options=label,
        part=partial(optimizer, 0.5),
        optimizer=optimizer,
        reference=partial(ref, **options),
        relaxed=relaxed,
    )


ADAM = "optax.scale_by_adam"
STDDEV = "optax.scale_by_stddev"

ROWS = [
    place(dx.add_l2_to_grad, [], False, reference.sgd_l2),
    place(
        gradient_of_penalty,
        [],
        False,
        reference.sgd_l2,
        name="l2_penalty",
        schedules=False,
    ),
    place(dx.decoupled_decay, [], False, reference.sgdw),
    place(
        dx.decoupled_decay,
        [dx.scale_by_rms(0.95)],
        False,
        partial(reference.rmspropw, decay=0.95),
        "after scale_by_rms",
    ),
    place(dx.independent_decay, [], True, reference.sgd_independent),
    rms(),
    rms(decay=0.99, eps=1e-3, initial_scale=0.5),
    rms(eps=1e-3, eps_in_sqrt=True),
    rms(decay=0.999, bias_correction=True),
    around(optax.sgd, reference.sgdw, "sgd, told γ"),
    around(optax.sgd, reference.sgd_independent, "sgd", coupled=False),
    around(optax.adam, reference.adamw, "adam, told γ", relaxed=ADAM),
    around(optax.adam, reference.adam_independent, "adam", coupled=False, relaxed=ADAM),
    tracked(dx.sgdw, reference.sgdw, "sgdw"),
    tracked(dx.adam_l2, reference.adam_l2, "adam_l2", relaxed=ADAM),
    last(dx.round_stochastically, reference.sgdw),
    last(dx.compensate_rounding, reference.sgdw),
    rounded(dx.with_stochastic_rounding, dx.sgdw, reference.sgdw, "sgdw", lands=True),
    rounded(
        dx.with_compensation,
        dx.adamw,
        reference.adamw,
        "adamw",
        lands=True,
        relaxed=ADAM,
    ),
    rounded(in_sixteen_bits, dx.sgdw, reference.sgdw, "sgdw without moments"),
    *(
        pair(make, ref, **options)
        for make, ref in (
            (dx.sgd_l2, reference.sgd_l2),
            (dx.sgdw, reference.sgdw),
        )
        for options in ({}, {"momentum": 0.9}, {"momentum": 0.8, "nesterov": True})
    ),
    *(
        pair(make, ref, **options)
        for make, ref in (
            (dx.rmsprop_l2, reference.rmsprop_l2),
            (dx.rmspropw, reference.rmspropw),
        )
        for options in (
            {},
            {"momentum": 0.9, "decay": 0.95},
            {"momentum": 0.8, "nesterov": True, "initial_scale": 1.0, "eps": 1e-3},
            {"eps_in_sqrt": True, "eps": 1e-3, "bias_correction": True},
            {"centered": True, "eps": 1e-2, "relaxed": STDDEV},
        )
    ),
    *(
        pair(make, ref, relaxed=ADAM, **options)
        for make, ref in (
            (dx.adam_l2, reference.adam_l2),
            (dx.adamw, reference.adamw),
        )
        for options in (
            {},
            {"b1": 0.8, "b2": 0.95, "eps": 1e-3, "eps_root": 1e-3},
            {"nesterov": True},
        )
    ),
]


def parametrize(rows=ROWS):
    """`@parametrize()`: the test once per row, strict unless the row names a part."""
    return pytest.mark.parametrize(
        "row",
        [
            pytest.param(
                row,
                id=f"{row.name}({row.options})",
                marks=[pytest.mark.relaxed(row.relaxed)] if row.relaxed else [],
            )
            for row in rows
        ],
    )


def first_of_each(rows=ROWS) -> list[Row]:
    """One row per public name, for properties that options cannot change."""
    return list({row.name: row for row in reversed(rows)}.values())[::-1]


DECAYS = [row for row in ROWS if row.decays]
