"""Optimizer factories: decayax and Optax optimizers with traced hyper-parameters.

A factory gets the hyper-parameters, the schedule's multiplier η (step -> [0, 1]) and a
mask. The learning rate of step t is γ_t = α η_t, where α is `learning_rate`.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import optax

import decayax as dx
from experiments.engine.config import HParams, Multiplier, OptimizerFactory


Optimizer = optax.GradientTransformation


class Arm(NamedTuple):
    """An optimizer factory with its base optimizer and the place of its decay."""

    name: str
    base: str
    place: str
    make_optimizer: OptimizerFactory


# The optimizers are built inside the traced function: the hyper-parameters are tracers.
def scheduled(
    make: Callable[..., Optimizer], hparams: HParams, eta: Multiplier, mask: Any
) -> Optimizer:
    """Call a function such as `dx.adamw(learning_rate, weight_decay=, mask=)`."""
    return make(
        lambda step: hparams["learning_rate"] * eta(step),
        weight_decay=hparams["weight_decay"],
        mask=mask,
    )


def independent(
    precondition: Callable[[], Optimizer], hparams: HParams, eta: Multiplier, mask: Any
) -> Optimizer:
    """Decay after the learning rate: Δ - λ η_t θ. The decay does not depend on α."""
    return optax.chain(
        precondition(),
        optax.scale_by_learning_rate(lambda step: hparams["learning_rate"] * eta(step)),
        dx.independent_decay(
            lambda step: hparams["weight_decay"] * eta(step), mask=mask
        ),
    )


# Partials of functions at the top of a module, so a plan can describe them.
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
