"""The rows of the catalogue of methods: how to build each, and its reference.

A method that pulls to the weights at init does nothing at these weights. `displaced`
initializes it with half of them, so that the properties are not those of 0.
"""

from functools import partial

import catalogue_reference as reference
import jax
import jax.numpy as jnp
import optax
from catalogue_row import Row

import decayax as dx


def method(
    make, options=None, *, place=None, last=False, displace=False, label="", **flags
) -> Row:
    """make(strength, mask=, **options) in front of the learning rate.

    place="finished": behind it, with learning_rate=; place="last": behind it, without.
    A method with last=True always stands behind it.
    """
    options = options or {}
    name, known = make.__name__, dict(options)

    def build(learning_rate, weight_decay, mask):
        given = {"learning_rate": learning_rate} if place == "finished" else {}
        return make(weight_decay, mask=mask, **options, **given)

    def part(weight_decay, mask=None):
        alone = build(0.5, weight_decay, mask)
        return displaced(alone) if displace else alone

    def optimizer(learning_rate, weight_decay, mask=None):
        rate = optax.scale_by_learning_rate(learning_rate)
        own = build(learning_rate, weight_decay, mask)
        return optax.chain(rate, own) if place else optax.chain(own, rate)

    if place == "finished" and not last:
        known["place"] = place
    ref = partial(getattr(reference, name), **known)
    words = [f"{key}={value}" for key, value in options.items()]
    words += ["behind the learning rate"] if "place" in known else []
    return Row(name, label or ",".join(words), part, optimizer, ref, **flags)


def without_strength(make):
    """make(mask=, ...), which has no strength, as make(strength, mask=, ...)."""

    def build(weight_decay=None, **options):
        return make(**options)

    build.__name__ = make.__name__
    return build


def projection(make, options=None, **flags) -> Row:
    """A projection without a strength, at the end of the chain."""
    flags = {"decays": False, "pulls": False, "place": "last", **flags}
    return method(without_strength(make), options, **flags)


def wrapper(make, inner, options=None, **flags) -> Row:
    """make(optimizer, strength, mask=, **options) around a finished optimizer."""
    options = options or {}

    def optimizer(learning_rate, weight_decay, mask=None):
        return make(inner(learning_rate), weight_decay, mask=mask, **options)

    def part(weight_decay, mask=None):
        # The gradients of the properties point from the weights to their double, and
        # this optimizer steps against them: it goes away from the start.
        inner = make(optax.scale(0.5), weight_decay, mask=mask, **options)
        return displaced(inner, factor=2.0)

    name = make.__name__
    ref = partial(getattr(reference, name), **options)
    return Row(name, "around sgd", part, optimizer, ref, **flags)


def displaced(transform, factor=0.5):
    """The transform, initialized with a multiple of the parameters."""

    def init(params):
        return transform.init(jax.tree.map(partial(scaled, factor), params))

    return optax.GradientTransformationExtraArgs(init, transform.update)


def scaled(factor, x):
    """A multiple of a parameter; shapes, integers and placeholders stay."""
    if isinstance(x, jax.ShapeDtypeStruct):
        return x
    is_float = hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.inexact)
    return x * factor if is_float or isinstance(x, float) else x


# --- methods whose arguments have another form ------------------------------------


def knows_the_rate(make, options=None, **flags) -> Row:
    """make(strength, learning_rate=, mask=) in front of the learning rate."""

    def build(learning_rate, weight_decay, mask=None):
        given = {"learning_rate": learning_rate, **(options or {})}
        return make(weight_decay, mask=mask, **given)

    def optimizer(learning_rate, weight_decay, mask=None):
        rate = optax.scale_by_learning_rate(learning_rate)
        return optax.chain(build(learning_rate, weight_decay, mask), rate)

    name = make.__name__
    ref = partial(getattr(reference, name), **(options or {}))
    label = ",".join(f"{key}={value}" for key, value in (options or {}).items())
    return Row(name, label, partial(build, 0.5), optimizer, ref, **flags)


def touched(weight_decay, *, mask=None, **options):
    """touched_decay behind no preconditioner."""
    return dx.touched_decay(optax.identity(), weight_decay, mask=mask, **options)


touched.__name__ = "touched_decay"


def adamp(weight_decay, *, mask=None, **options):
    """project_radial_update of Adam's steps."""
    adam = optax.scale_by_adam()
    return dx.project_radial_update(adam, weight_decay, mask=mask, **options)


adamp.__name__ = "project_radial_update"


def merged(weight_decay, *, mask=None):
    """merged_lora_decay where every parameter has the merged weight 2θ."""
    return dx.merged_lora_decay(
        weight_decay, lambda p: jax.tree.map(lambda x: x + x, p), mask=mask
    )


merged.__name__ = "merged_lora_decay"


def quartic(x):
    return 0.25 * jnp.sum(x**4)


def rotation() -> Row:
    """rotational, which replaces the learning rate. Its strength is an angle."""

    def optimizer(learning_rate, weight_decay, mask=None):
        return dx.rotational(
            weight_decay, learning_rate=learning_rate, mask=mask, **WHOLE
        )

    ref = partial(reference.rotational, **WHOLE)
    part = partial(optimizer, 0.5)
    return Row("rotational", "", part, optimizer, ref, decays=False, pulls=False)


PINNED = {"projection": dx.pin_radius()}
QUARTIC = {"penalty": quartic}
SLOWLY = {"step_size": 0.01}  # the dual of large weights would diverge
WHOLE = {"axis": None}  # one of the parameters has no axis

METHODS = [
    # gates and rates
    method(dx.cautious_decay),
    method(dx.cautious_decay, {"strict": True}),
    method(dx.cautious_decay, place="finished"),
    method(dx.cautious_decay, PINNED, place="finished", label="behind pin_radius"),
    knows_the_rate(dx.corrected_decay, {"peak_learning_rate": 0.5}),
    method(touched, WHOLE, pulls=False),
    method(touched, {"average_rate": 0.8, **WHOLE}, pulls=False),
    # anchors
    method(dx.decay_to, {"anchor": 0.25}),
    method(dx.decay_to, {"anchor": 0.25}, place="finished"),
    method(dx.decay_to_init, displace=True),
    method(dx.decay_to_init, displace=True, place="finished"),
    method(dx.decay_to_average, {"average_rate": 0.9}, displace=True),
    # norms
    method(dx.norm_control, {"target_ratio": 0.5}, elementwise=False),
    method(dx.norm_control, {"target_ratio": 2.0}, place="finished"),
    knows_the_rate(
        without_strength(dx.target_norm_decay),
        {"target_norm": 2.0, "momentum": 0.5},
        decays=False,
        pulls=False,
    ),
    knows_the_rate(
        without_strength(dx.target_norm_decay),
        {"target_norm": "initial"},
        decays=False,
        pulls=False,
    ),
    projection(dx.constrain_norm, {"initial_factor": 1.0, **SLOWLY}),
    projection(dx.constrain_norm, {"bound": 0.5, "step_size": 0.1}),
    projection(dx.constrain_norm, {"after_steps": 2, **SLOWLY}),
    projection(dx.constrain_norm, {"inflection_every": 2, **SLOWLY}),
    projection(dx.fixed_norm),
    projection(dx.fixed_norm, {"radius": "initial"}, displace=True),
    projection(dx.fixed_norm, {"radius": 3.0}),
    method(dx.spectral_decay, elementwise=False),
    method(dx.spectral_decay, {"cap": 0.5}),
    method(dx.spectral_decay, {"iterations": 2}, place="finished"),
    projection(dx.fixed_norm, {"spectral": True}),
    rotation(),
    # proximal steps and penalties
    method(dx.proximal_decay, place="finished", last=True),
    method(dx.soft_threshold, place="finished", last=True, argument="strength"),
    method(dx.decoupled_penalty, QUARTIC, label="quartic", real=True),
    method(merged),
    # the radial part
    method(dx.radial_brake, pulls=False, argument="strength", elementwise=False),
    projection(dx.pin_radius),
    method(
        without_strength(dx.update_to_weight_floor),
        {"floor": 2.0},
        decays=False,
        pulls=False,
    ),
    method(without_strength(dx.project_radial_gradient), decays=False, pulls=False),
    method(adamp, built_on="optax.scale_by_adam", elementwise=False),
    wrapper(
        dx.selective_projection,
        optax.sgd,
        pulls=False,
        argument="strength",
        elementwise=False,
    ),
]
