"""The rows of the catalogue of methods: how to build each, and its reference.

A method that pulls to the weights at init does nothing at these weights. `displaced`
initializes it with half of them, so that the properties are not those of 0.
"""

from functools import partial

import jax
import jax.numpy as jnp
import optax
from catalogue_row import Row


def before_rate(make, ref, options="", displace=False, **flags) -> Row:
    """A method in front of the learning rate: make(strength, mask=mask)."""

    def optimizer(learning_rate, weight_decay, mask=None):
        rate = optax.scale_by_learning_rate(learning_rate)
        return optax.chain(make(weight_decay, mask=mask), rate)

    return row(make, ref, options, optimizer, displace, **flags)


def behind_rate(make, ref, options="", displace=False, **flags) -> Row:
    """A method behind it: make(strength, learning_rate=, mask=)."""

    def optimizer(learning_rate, weight_decay, mask=None):
        rate = optax.scale_by_learning_rate(learning_rate)
        method = make(weight_decay, learning_rate=learning_rate, mask=mask)
        return optax.chain(rate, method)

    at_half = partial(make, learning_rate=0.5)
    return row(at_half, ref, options, optimizer, displace, **flags)


def row(make, ref, options, optimizer, displace, name=None, **flags) -> Row:
    def part(weight_decay, mask=None):
        method = make(weight_decay, mask=mask)
        return displaced(method) if displace else method

    return Row(name or public_name(make), options, part, optimizer, ref, **flags)


def public_name(make):
    while isinstance(make, partial):
        make = make.func
    return make.__name__


def displaced(transform):
    """The transform, initialized with half of the parameters."""

    def init(params):
        return transform.init(jax.tree.map(halved, params))

    return optax.GradientTransformationExtraArgs(init, transform.update)


def halved(x):
    """Half a parameter; shapes, integers and placeholders stay."""
    is_float = hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.inexact)
    return x * 0.5 if is_float and not isinstance(x, jax.ShapeDtypeStruct) else x


def without_strength(make, **options):
    """The method of a row that has no strength: (weight_decay, mask=) -> method."""

    def method(weight_decay=None, mask=None):
        return make(mask=mask, **options)

    method.__name__ = make.__name__
    return method


def doubled(params):
    """A merged weight for every parameter: 2θ, so that the pull is 4λθ."""
    return jax.tree.map(lambda x: 2.0 * x, params)
