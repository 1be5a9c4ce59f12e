"""Optimizer factories: decayax and Optax optimizers with traced hyper-parameters.

A factory gets the hyper-parameters, the schedule's multiplier η (step -> [0, 1]) and a
mask. The learning rate of step t is γ_t = α η_t, where α is `learning_rate`.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
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


# --- the catalogue ----------------------------------------------------------------

# Every arm is Adam with one method, and `weight_decay` is the strength of the method.
# An arm that has no strength ignores it.
BETA = 0.9  # Adam's b1
adam = functools.partial(optax.scale_by_adam, b1=BETA)


def rate(hparams: HParams, eta: Multiplier) -> Multiplier:
    """γ_t = α η_t."""
    return lambda step: hparams["learning_rate"] * eta(step)


def before_rate(
    method: Callable[..., Optimizer], hparams: HParams, eta: Multiplier, mask: Any
) -> Optimizer:
    """Adam, the method, the learning rate."""
    step = optax.scale_by_learning_rate(rate(hparams, eta))
    return optax.chain(adam(), method(hparams["weight_decay"], mask=mask), step)


def after_rate(
    method: Callable[..., Optimizer], hparams: HParams, eta: Multiplier, mask: Any
) -> Optimizer:
    """Adam, the learning rate, the method, which also gets the learning rate."""
    gamma = rate(hparams, eta)
    decay = method(hparams["weight_decay"], learning_rate=gamma, mask=mask)
    return optax.chain(adam(), optax.scale_by_learning_rate(gamma), decay)


def around_adam(
    method: Callable[..., Optimizer], hparams: HParams, eta: Multiplier, mask: Any
) -> Optimizer:
    """The method around Adam, the learning rate."""
    decay = method(adam(), hparams["weight_decay"], mask=mask)
    return optax.chain(decay, optax.scale_by_learning_rate(rate(hparams, eta)))


def huber(x: jax.Array) -> jax.Array:
    """A penalty whose pull is at most 0.1."""
    return optax.losses.huber_loss(x, delta=0.1).sum()


def corrected(hparams: HParams, eta: Multiplier, mask: Any) -> Optimizer:
    """Corrected decay; the largest η is 1."""
    gamma, peak = rate(hparams, eta), hparams["learning_rate"]
    decay = functools.partial(
        dx.corrected_decay, learning_rate=gamma, peak_learning_rate=peak
    )
    return before_rate(decay, hparams, eta, mask)


def target_norm(hparams: HParams, eta: Multiplier, mask: Any) -> Optimizer:
    """The decay whose equilibrium is the norm at init; without a strength."""
    gamma = rate(hparams, eta)
    decay = dx.target_norm_decay(
        "initial", learning_rate=gamma, momentum=BETA, mask=mask
    )
    return optax.chain(adam(), decay, optax.scale_by_learning_rate(gamma))


def fixed_norm(hparams: HParams, eta: Multiplier, mask: Any) -> Optimizer:
    """Steps on a sphere; without a strength."""
    step = optax.scale_by_learning_rate(rate(hparams, eta))
    return optax.chain(adam(), step, dx.fixed_norm(mask=mask))


def constrain_norm(hparams: HParams, eta: Multiplier, mask: Any) -> Optimizer:
    """A bound on ‖θ‖²; the strength is its ratio to that at init."""
    bound = dx.constrain_norm(initial_factor=hparams["weight_decay"], mask=mask)
    return optax.chain(adam(), optax.scale_by_learning_rate(rate(hparams, eta)), bound)


def brake_and_pin(hparams: HParams, eta: Multiplier, mask: Any) -> Optimizer:
    """A brake in front of the learning rate, a pinned radius behind it."""
    braked = before_rate(dx.radial_brake, hparams, eta, mask)
    return optax.chain(braked, dx.pin_radius(mask=mask))


def ortho(hparams: HParams, eta: Multiplier, mask: Any) -> Optimizer:
    """Only the gradient across the weights, then AdamW."""
    return optax.chain(dx.project_radial_gradient(mask=mask), adamw(hparams, eta, mask))


def rotational(hparams: HParams, eta: Multiplier, mask: Any) -> Optimizer:
    """The angle per step is that of AdamW in its equilibrium."""
    gamma = rate(hparams, eta)

    def angle(step: jax.typing.ArrayLike) -> jax.Array:
        decay = gamma(step) * hparams["weight_decay"]
        return jnp.sqrt(2 * decay * (1 - BETA) / (1 + BETA))

    return optax.chain(adam(), dx.rotational(angle, learning_rate=gamma, mask=mask))


def selective(hparams: HParams, eta: Multiplier, mask: Any) -> Optimizer:
    """A projection of finished steps."""
    step = optax.adam(rate(hparams, eta), b1=BETA)
    return dx.selective_projection(step, hparams["weight_decay"], mask=mask)


def neighbours(params: Any) -> list[jax.Array]:
    """The products of neighbouring matrices: the tasks here have no LoRA factors."""
    matrices = [leaf for leaf in jax.tree.leaves(params) if leaf.ndim == 2]
    pairs = itertools.pairwise(matrices)
    return [a @ b for a, b in pairs if a.shape[1] == b.shape[0]]


_before = functools.partial(functools.partial, before_rate)
_after = functools.partial(functools.partial, after_rate)
_around = functools.partial(functools.partial, around_adam)
_with = functools.partial
BEFORE, AFTER, AROUND, FIRST = "before", "after", "around", "first"

CATALOGUE = {
    name: Arm(name, "Adam", place, make)
    for name, place, make in (
        ("cautious", BEFORE, _before(dx.cautious_decay)),
        ("corrected", BEFORE, corrected),
        # No weights are given here: towards 0, so a control that must equal AdamW.
        ("decay_to", BEFORE, _before(_with(dx.decay_to, anchor=0.0))),
        ("decay_to_init", BEFORE, _before(dx.decay_to_init)),
        ("average", BEFORE, _before(dx.decay_to_average)),
        ("norm_control", BEFORE, _before(_with(dx.norm_control, target_ratio=1.0))),
        ("target_norm", BEFORE, target_norm),
        ("spectral", BEFORE, _before(dx.spectral_decay)),
        ("huber", BEFORE, _before(_with(dx.decoupled_penalty, penalty=huber))),
        ("merged_lora", BEFORE, _before(_with(dx.merged_lora_decay, merge=neighbours))),
        ("floor", BEFORE, _before(dx.update_to_weight_floor)),
        ("proximal", AFTER, _after(dx.proximal_decay)),
        ("soft_threshold", AFTER, _after(dx.soft_threshold)),
        ("fixed_norm", AFTER, fixed_norm),
        ("constrain_norm", AFTER, constrain_norm),
        ("brake_and_pin", AFTER, brake_and_pin),
        ("rotational", AFTER, rotational),
        ("adamp", AROUND, _around(dx.project_radial_update)),
        ("selective", AROUND, selective),
        ("touched", AROUND, _around(dx.touched_decay)),
        ("ortho", FIRST, ortho),
    )
}
