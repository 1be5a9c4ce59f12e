"""One row per method of the catalogue and option set, for `test_catalogue_uses.py`."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import decayax as dx


LR = 0.1


class Method(NamedTuple):
    """How a method stands in an optimizer, and what its state keeps."""

    # (base, lr, strength, **options) -> a whole optimizer; options are mask=, axis=
    make: Callable[..., optax.GradientTransformation]
    kind: str  # "elementwise", "norm" of a leaf, of its "rows", or "svd"
    has_axis: bool = False
    matrices: bool = False  # only for parameters with two axes or more
    memory: tuple[str, ...] = ()  # the arrays of its state, by name
    rate: float = (
        math.nan
    )  # of its decay per step; NaN: it is not a pull of all weights


def before(part):
    """After the preconditioner, before the learning rate."""
    return lambda base, lr, s, **options: optax.chain(
        base, part(s, **options), optax.scale_by_learning_rate(lr)
    )


def first(part):
    """On the raw gradient."""
    return lambda base, lr, s, **options: optax.chain(
        part(s, **options), base, optax.scale_by_learning_rate(lr)
    )


def behind(part):
    """On the finished step. The part gets the learning rate."""
    return lambda base, lr, s, **options: optax.chain(
        base, optax.scale_by_learning_rate(lr), part(s, lr, **options)
    )


def around_base(part):
    """Around the preconditioner."""
    return lambda base, lr, s, **options: optax.chain(
        part(base, s, **options), optax.scale_by_learning_rate(lr)
    )


def around_all(part):
    """Around the finished optimizer."""
    return lambda base, lr, s, **options: part(
        optax.chain(base, optax.scale_by_learning_rate(lr)), s, **options
    )


def of_step(decay):
    """A pull behind the learning rate."""
    return behind(lambda s, lr, **options: decay(s, learning_rate=lr, **options))


def pinned(s, lr, **options):
    projection = dx.pin_radius(**options)
    return dx.cautious_decay(s, learning_rate=lr, projection=projection, **options)


def corrected(base, lr, s, **options):
    decay = dx.corrected_decay(s, learning_rate=lr, peak_learning_rate=LR, **options)
    return optax.chain(base, decay, optax.scale_by_learning_rate(lr))


def target_norm(base, lr, s, is_initial=False, **options):
    target = "initial" if is_initial else s
    decay = dx.target_norm_decay(target, learning_rate=lr, momentum=0.5, **options)
    return optax.chain(base, decay, optax.scale_by_learning_rate(lr))


def huber(x):
    return optax.losses.huber_loss(x, jnp.zeros_like(x), delta=0.5).sum()


def rotational(base, lr, s, **options):
    return optax.chain(base, dx.rotational(s, learning_rate=lr, **options))


def elementwise(make, **fields):
    return Method(make, "elementwise", **fields)


def of_norm(make, **fields):
    return Method(make, "norm", has_axis=True, **fields)


def constrained(**fields):
    return behind(lambda s, lr, **o: dx.constrain_norm(step_size=s, **fields, **o))


RATE = LR * 0.3  # of the decays with strength 0.3
ANCHOR, INITIAL, NORM = ("anchor",), ("initial",), ("norm",)

METHODS = {
    "cautious_decay": elementwise(before(dx.cautious_decay)),
    "cautious_decay, strict, behind": elementwise(
        of_step(partial(dx.cautious_decay, strict=True))
    ),
    "cautious_decay, pinned": Method(behind(pinned), "norm"),
    "corrected_decay": elementwise(corrected, rate=RATE),
    "touched_decay": Method(
        around_base(dx.touched_decay), "rows", has_axis=True, rate=RATE
    ),
    "touched_decay, average": Method(
        around_base(partial(dx.touched_decay, average_rate=0.5)),
        "rows",
        has_axis=True,
        memory=("frequency",),
    ),
    "decay_to": elementwise(
        before(lambda s, **o: dx.decay_to(s, 0.25, **o)), memory=ANCHOR, rate=RATE
    ),
    "decay_to, cautious": elementwise(
        before(lambda s, **o: dx.decay_to(s, 0.25, cautious=True, **o)), memory=ANCHOR
    ),
    "decay_to_init": elementwise(before(dx.decay_to_init), memory=INITIAL),
    "decay_to_init, behind": elementwise(of_step(dx.decay_to_init), memory=INITIAL),
    "decay_to_average": elementwise(
        before(partial(dx.decay_to_average, average_rate=0.5)), memory=("average",)
    ),
    "norm_control": of_norm(
        before(partial(dx.norm_control, target_ratio=0.5)), memory=NORM
    ),
    "target_norm_decay": of_norm(target_norm),
    "target_norm_decay, initial": of_norm(
        partial(target_norm, is_initial=True), memory=NORM
    ),
    "constrain_norm": of_norm(constrained(bound=0.5), memory=("dual",)),
    "constrain_norm, initial": of_norm(
        constrained(initial_factor=0.5), memory=("dual", "bound")
    ),
    "constrain_norm, after": of_norm(
        constrained(after_steps=1), memory=("dual", "bound")
    ),
    "constrain_norm, inflection": of_norm(
        constrained(inflection_every=1), memory=("dual", "bound", "square", "growth")
    ),
    "fixed_norm": of_norm(behind(lambda s, lr, **o: dx.fixed_norm(**o))),
    "fixed_norm, initial": of_norm(
        behind(lambda s, lr, **o: dx.fixed_norm(radius="initial", **o)), memory=NORM
    ),
    "fixed_norm, number": of_norm(
        behind(lambda s, lr, **o: dx.fixed_norm(radius=s, **o))
    ),
    "fixed_norm, spectral": Method(
        behind(lambda s, lr, **o: dx.fixed_norm(spectral=True, **o)),
        "svd",
        matrices=True,
    ),
    "spectral_decay": Method(before(dx.spectral_decay), "svd", matrices=True),
    "spectral_decay, cap": Method(
        before(partial(dx.spectral_decay, cap=0.5)), "svd", matrices=True
    ),
    "rotational": Method(
        rotational,
        "rows",
        has_axis=True,
        matrices=True,
        memory=("norm", "square", "weight"),
    ),
    "proximal_decay": elementwise(of_step(dx.proximal_decay), rate=RATE / (1 + RATE)),
    "soft_threshold": elementwise(of_step(dx.soft_threshold)),
    "decoupled_penalty": elementwise(
        before(lambda s, **o: dx.decoupled_penalty(s, huber, **o))
    ),
    "merged_lora_decay": elementwise(
        before(lambda s, **o: dx.merged_lora_decay(s, lambda params: params, **o)),
        rate=RATE,
    ),
    "radial_brake": of_norm(before(dx.radial_brake)),
    "pin_radius": of_norm(behind(lambda s, lr, **o: dx.pin_radius(**o))),
    "update_to_weight_floor": of_norm(before(dx.update_to_weight_floor)),
    "project_radial_gradient": of_norm(
        first(lambda s, **o: dx.project_radial_gradient(**o))
    ),
    "project_radial_update": Method(
        around_base(partial(dx.project_radial_update, threshold=1.0)),
        "rows",
        has_axis=True,
    ),
    "selective_projection": Method(
        around_all(dx.selective_projection), "norm", memory=INITIAL
    ),
}


def matrices(params: Any) -> Any:
    """The mask of the parameters with two axes or more."""
    return jax.tree.map(lambda x: len(x.shape) >= 2, params)


def build(name, base=None, lr=LR, strength=0.3, **options):
    """The optimizer of a row; a method for matrices gets their mask."""
    method = METHODS[name]
    if method.matrices:
        options = {"mask": matrices} | options
    base = optax.trace(0.5) if base is None else base
    return method.make(base, lr, strength, **options)
