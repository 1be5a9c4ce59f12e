r"""The decay part of one update, and the sums that describe it.

The decay part is the derivative of the update in the direction of the parameters. The
optimizer's state is held fixed:

    D = dΔ(θ)[θ]        rate = −⟨D, θ⟩/‖θ‖²        r = Δ − D

`exactness` decides from the jaxpr for which updates D is the decay that the step
applies: places 2 and 3, where Δ = −γu − rate·θ and u does not depend on θ. For the
other updates, the sums that contain D are NaN.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Inexact

from decayax._core.dtypes import compute_dtype, dtype_of, is_inexact
from decayax._core.paths import is_masked_leaf
from decayax._jaxpr.partition import partition
from decayax._telemetry.exactness import (
    decay_part,
    even_part,
    Exactness,
    exactness,
    Step,
)


# D counts as independent of the gradients if other gradients change no element by more
# than this fraction of the largest one. Rounding in bfloat16 changes it by 2^-8.
MAX_CHANGE = 2.0**-6
# The mean over g and −g may differ from a linear pull by this fraction.
MAX_CURVATURE = 1e-4
LONG_ROW = 2**17  # the sum of so many numbers, one by one, has an error below 1e-4
WITHOUT_DECAY = ("weight_sq", "update_sq", "weight_dot_update")  # sums without D


class Sums(NamedTuple):
    """The inner products of a parameter. Those of a group are added up."""

    weight_sq: Any  # ‖θ‖²
    update_sq: Any  # ‖Δ‖²
    decay_sq: Any  # ‖D‖²
    other_sq: Any  # ‖r‖²
    weight_dot_update: Any  # ⟨θ, Δ⟩
    weight_dot_decay: Any  # ⟨θ, D⟩
    weight_dot_other: Any  # ⟨θ, r⟩
    # ⟨θ, ⟦θ + Δ⟧ − ⟦(θ + Δ) − D⟧⟩, where ⟦⟧ rounds to the parameter's dtype
    weight_dot_rounded_decay: Any
    # The means of ‖r‖² and ⟨θ, r⟩ over two steps: with the gradient g, and with −g.
    noise_sq: Any
    weight_dot_noise: Any


def zero_sums(params: optax.Params) -> Any:
    """The sums before the first measurement, in the tree of the params."""
    # One array for each leaf and not one for all: a jitted step may donate them.
    return jax.tree.map(lambda _: jnp.zeros((len(Sums._fields),), jnp.float32), params)


def measure_step(
    init: Any, step: Step, grads: optax.Updates, state: optax.OptState, params: Any
) -> Any:
    """The sums of ``step(grads, state, params)``, in the tree of the params."""
    known, has_seen = exactness(init, step, grads, state, params)
    opposite = step(_scaled(grads, -1.0), state, params)[0]
    if any(each.forgets for each in known):
        theta = partition(params).inexact
        updates, decay = decay_part(step, grads, state, params, theta)

        def other_state(factor):
            # Arrays of the state come from earlier gradients; integers count or decide.
            arrays, treedef = jax.tree.flatten(state)
            pairs = zip(arrays, has_seen, strict=True)
            return treedef.unflatten(
                [_scaled(x, factor) if seen else x for x, seen in pairs]
            )

        def other_decay():
            # Another sign and another size: M may be odd in the gradients, or even.
            others = _scaled(grads, -2.0), other_state(-2.0)
            return decay_part(step, *others, params, theta)[1]

        is_exact = _is_exact(known, decay, other_decay)
        if not all(each.affine and each.gradient_free for each in known):
            means = even_part(step, grads, state, params)
            others = _scaled(grads, 3.0), other_state(4.0), _scaled(params, 2.0)
            elsewhere = even_part(step, *others)[1]
            is_exact, decay = _with_even_parts(known, is_exact, decay, means, elsewhere)
    else:
        # There is no D, and perhaps no derivative. The sums with D will be NaN.
        updates = decay = step(grads, state, params)[0]
        is_exact = [jnp.array(False)] * len(known)

    def sums(param: Any, update: Any, *others: Any) -> Any:
        if is_masked_leaf(param):
            return param
        if is_masked_leaf(update):  # this parameter is frozen: its update is 0
            return _sums_of_leaf(param, 0.0, 0.0, 0.0, jnp.array(True))
        return _sums_of_leaf(param, update, *others)

    exact_tree = jax.tree.unflatten(jax.tree.structure(updates), is_exact)
    trees = updates, decay, opposite, exact_tree
    return jax.tree.map(sums, params, *trees, is_leaf=is_masked_leaf)


def _is_exact(
    known: list[Exactness], decay: Any, other_decay: Callable[[], Any]
) -> list[Bool[Array, ""]]:
    """Whether D is the decay, for each update.

    If the jaxpr shows that the update is affine, but not that M is independent of the
    gradients, then D at other gradients decides. The jaxpr cannot show it if, for
    example, a branch depends on whether all gradients are finite.
    """
    exact = [jnp.array(each.affine) for each in known]
    if all(each.gradient_free for each in known if each.affine):
        return exact
    pairs = zip(jax.tree.leaves(decay), jax.tree.leaves(other_decay()), strict=True)
    return [
        is_exact if each.gradient_free or not each.affine else _is_close(*pair)
        for is_exact, each, pair in zip(exact, known, pairs, strict=True)
    ]


def _with_even_parts(
    known: list[Exactness],
    is_exact: list[Bool[Array, ""]],
    decay: Any,
    means: tuple[list[Array], list[Array]],
    elsewhere: list[Array],
) -> tuple[list[Bool[Array, ""]], Any]:
    """Where D is not the decay, take its mean over g and −g, if that is the decay.

    It is if it is linear in the weights, Δ = D at θ and D(2θ) = 2 D(θ), and has nothing
    to do with the gradients. ``elsewhere`` is D at 2θ and at other gradients. A gate
    that is open for one of g and −g has the mean ½D, and a step in proportion to the
    weights, such as −γ g|θ|, has the mean 0.
    """
    leaves, treedef = jax.tree.flatten(decay)
    for i, (update, mean, other) in enumerate(zip(*means, elsewhere, strict=True)):
        if not known[i].forgets or not is_inexact(leaves[i]):
            continue
        tolerance = MAX_CHANGE if mean.dtype.itemsize < 4 else MAX_CURVATURE
        is_linear = _is_close(mean, update, tolerance)
        is_linear &= _is_close(mean, 0.5 * other, tolerance)
        gap, size = jnp.abs(leaves[i] - mean), jnp.abs(mean)
        is_gate = jnp.mean(jnp.abs(gap - size) <= MAX_CHANGE * size) > 0.5
        is_mean = ~is_exact[i] & is_linear & ~is_gate & jnp.any(size > 0.0)
        leaves[i] = jnp.where(is_mean, mean, leaves[i])
        is_exact[i] = is_exact[i] | is_mean
    return is_exact, treedef.unflatten(leaves)


def _is_close(
    a: Inexact[Array, "*n"], b: Inexact[Array, "*n"], tolerance: float = MAX_CHANGE
) -> Bool[Array, ""]:
    """Whether two decays of a leaf are equal up to rounding."""
    dtype = compute_dtype(a, b)
    a, b = a.astype(dtype), b.astype(dtype)
    # Not the norms: the squares of tiny numbers underflow to 0.
    change, largest = (jnp.max(jnp.abs(x), initial=0.0) for x in (a - b, a))
    return change <= tolerance * largest


def _scaled(grads: optax.Updates, factor: float) -> optax.Updates:
    """The gradients times a factor. Integers and float0 have no gradient: they pass."""
    return jax.tree.map(
        lambda g: g * jnp.asarray(factor, dtype_of(g)) if is_inexact(g) else g, grads
    )


def _sums_of_leaf(
    param: Any, update: Any, decay: Any, opposite: Any, is_exact: Bool[Array, ""]
) -> Float[Array, "sums=10"]:
    """The `Sums` of one leaf θ, from Δ, D and the Δ of −g; 0 for an integer leaf."""
    if not is_inexact(param):
        return jnp.zeros((len(Sums._fields),), jnp.float32)
    dtype = compute_dtype(param, update)
    theta, delta, d, delta_of_opposite = (
        jnp.broadcast_to(jnp.asarray(x, dtype), jnp.shape(param))
        for x in (param, update, decay, opposite)
    )
    r, r_of_opposite = delta - d, delta_of_opposite - d
    new_theta = theta + delta
    rounded_decay = _round_to(param, new_theta) - _round_to(param, new_theta - d)
    weight_dot_r, r_sq = _product(theta, r), _product(r, r)
    sums = Sums(
        weight_sq=_product(theta, theta),
        update_sq=_product(delta, delta),
        decay_sq=_product(d, d),
        other_sq=r_sq,
        weight_dot_update=_product(theta, delta),
        weight_dot_decay=_product(theta, d),
        weight_dot_other=weight_dot_r,
        weight_dot_rounded_decay=_product(theta, rounded_decay),
        noise_sq=(r_sq + _product(r_of_opposite, r_of_opposite)) / 2,
        weight_dot_noise=(weight_dot_r + _product(theta, r_of_opposite)) / 2,
    )
    contains_decay = jnp.array([name not in WITHOUT_DECAY for name in Sums._fields])
    unknown = contains_decay & ~is_exact
    return sum_over_shards(jnp.where(unknown, jnp.nan, _totals(sums)))


def _product(a: Inexact[Array, "*n"], b: Inexact[Array, "*n"]) -> Float[Array, "*n"]:
    """The real part of conj(a)·b for each element; ⟨a, b⟩ is its sum."""
    return (a.conj() * b).real


def _totals(products: Sums) -> Float[Array, "sums=10"]:
    """The sums of arrays of one shape, in float32.

    The rows of all arrays are summed in one pass: XLA on CPU then stores none of the
    arrays, and is three times as fast as with a pass for each. But one pass adds the
    numbers of a row in their order, which loses digits in a long row.
    """
    shape = products.weight_sq.shape
    terms: Any = tuple(products)
    if shape and shape[-1] <= LONG_ROW:
        zeros = (jnp.zeros((), terms[0].dtype),) * len(terms)
        last = (len(shape) - 1,)
        terms = jax.lax.reduce(terms, zeros, _add, last)
    return jnp.stack([jnp.sum(x) for x in terms]).astype(jnp.float32)


def _add(a: tuple[Array, ...], b: tuple[Array, ...]) -> tuple[Array, ...]:
    return tuple(x + y for x, y in zip(a, b, strict=True))


def sum_over_shards(x: Array) -> Array:
    """Inside `shard_map`, the sum over the mesh axes on which ``x`` depends.

    A replicated leaf gives the same ``x`` on all devices, which is not added up.
    """
    aval = getattr(x, "aval", None)
    kind = getattr(aval, "manual_axis_type", None)  # jax 0.10; before: aval.vma
    axes = getattr(kind, "varying", getattr(aval, "vma", frozenset()))
    return jax.lax.psum(x, tuple(axes)) if axes else x


def _round_to(param: Any, x: Inexact[Array, "*n"]) -> Inexact[Array, "*n"]:
    """Round to the dtype of ``param``, but keep the wider dtype of ``x``."""
    info = jnp.finfo(dtype_of(param))
    if info.bits >= 32:
        return x  # the addition itself has rounded
    # Not a cast to 16 bits and back: XLA may remove both casts.
    return jax.lax.reduce_precision(x, info.nexp, info.nmant)
