"""Chains for the engine: a decayax or Optax optimizer with a cell's traced numbers.

A chain takes a cell, the schedule's multiplier η (step -> [0, 1]) and a mask. The
learning rate of step t is γ_t = α η_t with α the cell's `learning_rate`.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import optax

import decayax as dx
from experiments.engine.plan import Cell, Chain, Multiplier


Optimizer = optax.GradientTransformation


class Arm(NamedTuple):
    """A chain, what it is built on, and where its decay stands."""

    name: str
    base: str
    place: str
    chain: Chain


def scheduled(
    make: Callable[..., Optimizer], cell: Cell, eta: Multiplier, mask: Any
) -> Optimizer:
    """An optimizer of (learning rate, weight_decay=, mask=), such as `dx.adamw`."""
    return make(
        lambda step: cell["learning_rate"] * eta(step),
        weight_decay=cell["weight_decay"],
        mask=mask,
    )


def independent(
    precondition: Callable[[], Optimizer], cell: Cell, eta: Multiplier, mask: Any
) -> Optimizer:
    """Decay behind the learning rate: Δ - λ η_t θ, whatever α is."""
    return optax.chain(
        precondition(),
        optax.scale_by_learning_rate(lambda step: cell["learning_rate"] * eta(step)),
        dx.independent_decay(lambda step: cell["weight_decay"] * eta(step), mask=mask),
    )


sgd_l2 = functools.partial(scheduled, functools.partial(dx.sgd_l2, momentum=0.9))
sgdw = functools.partial(scheduled, functools.partial(dx.sgdw, momentum=0.9))
rmsprop_l2 = functools.partial(scheduled, dx.rmsprop_l2)
rmspropw = functools.partial(scheduled, dx.rmspropw)
adam_l2 = functools.partial(scheduled, dx.adam_l2)
adamw = functools.partial(scheduled, dx.adamw)
sgd_independent = functools.partial(
    independent, functools.partial(optax.trace, decay=0.9)
)
rmsprop_independent = functools.partial(independent, dx.scale_by_rms)
adam_independent = functools.partial(independent, optax.scale_by_adam)
