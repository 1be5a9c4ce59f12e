r"""The decay part of one update, and the sums that describe it.

The decay part is the derivative of the update in the direction of the parameters. The
optimizer's state is held fixed:

    D = dΔ(θ)[θ]        rate = −⟨D, θ⟩/‖θ‖²

D is exact for places 2 and 3, where Δ = −γu − rate·θ and u does not depend on θ. It is
not exact if the decay passes through the state (L2 with momentum or moments) or through
a discontinuity. The jaxpr shows which updates these are, and their sums that contain D
are NaN. They are NaN as well if D is not parallel to θ: then it does not shrink θ. For
example, a trust ratio scales the update; its derivative points along the update.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Inexact

from decayax._core.dtypes import compute_dtype, dtype_of, is_inexact
from decayax._core.paths import is_masked_leaf
from decayax._jaxpr.dataflow import Kind
from decayax._jaxpr.dependence import update_dependencies
from decayax._jaxpr.partition import combine, partition


# The smallest |cos(D, θ)| that counts as parallel. The rounding of 16-bit weights moves
# the cosine of a true decay to 1 − 1e-5 at most.
MIN_COSINE = 0.9995
WITHOUT_DECAY = ("weight_sq", "update_sq", "weight_dot_update")  # sums without D


class Sums(NamedTuple):
    """The inner products of a parameter. Those of a group are added up."""

    weight_sq: jax.Array  # ‖θ‖²
    update_sq: jax.Array  # ‖Δ‖²
    decay_sq: jax.Array  # ‖D‖²
    other_sq: jax.Array  # ‖Δ − D‖²
    weight_dot_update: jax.Array  # ⟨θ, Δ⟩
    weight_dot_decay: jax.Array  # ⟨θ, D⟩
    weight_dot_other: jax.Array  # ⟨θ, Δ − D⟩
    # ⟨θ, ⟦θ + Δ⟧ − ⟦(θ + Δ) − D⟧⟩, where ⟦⟧ rounds to the parameter's dtype
    weight_dot_rounded_decay: jax.Array


def measure_step(
    step: Callable[..., Any], state: optax.OptState, params: optax.Params
) -> Any:
    """The sums of ``step(state, params) -> (updates, state)``, in the params' tree."""
    theta, static = partition(params)

    def updates_of(inexact: list[jax.Array]) -> optax.Updates:
        return step(state, combine(params, inexact, static))[0]

    dependencies, has_jvp = update_dependencies(step, state, params)
    if has_jvp:
        updates, decay = jax.jvp(updates_of, (theta,), (theta,))
    else:
        # There is no D. `is_exact` is False for every leaf, so `decay` is not used.
        updates = decay = updates_of(theta)

    def sums(param: Any, update: Any, decay: Any, dependency: Any) -> Any:
        if is_masked_leaf(param):
            return param
        if is_masked_leaf(update):  # this parameter is frozen: its update is 0
            return _sums_of_leaf(param, 0.0, 0.0, is_exact=True)
        # A leaf of one weight is always parallel to D. So the check of the direction
        # cannot see that the update depends on other weights.
        undecidable = dependency.kind > Kind.ALIGNED and np.size(param) == 1
        is_exact = has_jvp and not (dependency.nondifferentiable or undecidable)
        return _sums_of_leaf(param, update, decay, is_exact)

    tree = jax.tree.unflatten(jax.tree.structure(updates), dependencies)
    return jax.tree.map(sums, params, updates, decay, tree, is_leaf=is_masked_leaf)


def _sums_of_leaf(param: Any, update: Any, decay: Any, is_exact: bool) -> jax.Array:
    """The `Sums` of one leaf θ as a vector, from Δ and D; 0 for an integer leaf."""
    if not is_inexact(param):
        return jnp.zeros((len(Sums._fields),), jnp.float32)
    dtype = compute_dtype(param, update)
    theta, delta, d = (jnp.asarray(x, dtype) for x in (param, update, decay))
    other = delta - d
    new_theta = theta + delta
    rounded_decay = _round_to(param, new_theta) - _round_to(param, new_theta - d)
    sums = Sums(
        weight_sq=_dot(theta, theta),
        update_sq=_dot(delta, delta),
        decay_sq=_dot(d, d),
        other_sq=_dot(other, other),
        weight_dot_update=_dot(theta, delta),
        weight_dot_decay=_dot(theta, d),
        weight_dot_other=_dot(theta, other),
        weight_dot_rounded_decay=_dot(theta, rounded_decay),
    )
    # Multiply the norms, not their squares: those of tiny weights underflow.
    norms = jnp.sqrt(sums.weight_sq) * jnp.sqrt(sums.decay_sq)
    parallel = jnp.abs(sums.weight_dot_decay) >= MIN_COSINE * norms
    known_sums = [
        x if name in WITHOUT_DECAY else jnp.where(is_exact & parallel, x, jnp.nan)
        for name, x in sums._asdict().items()
    ]
    return jnp.stack(known_sums)


def _dot(a: Inexact[Array, "*n"], b: Inexact[Array, "*n"]) -> Float[Array, ""]:
    """The real part of ⟨a, b⟩ in float32."""
    return jnp.sum((a.conj() * b).real).astype(jnp.float32)


def _round_to(param: Any, x: Inexact[Array, "*n"]) -> Inexact[Array, "*n"]:
    """Round to the dtype of ``param``, but keep the wider dtype of ``x``."""
    info = jnp.finfo(dtype_of(param))
    if info.bits >= 32:
        return x  # the addition itself has rounded
    # Not a cast to 16 bits and back: XLA may remove both casts.
    return jax.lax.reduce_precision(x, info.nexp, info.nmant)
