r"""The decay part of one update, and the sums that describe it.

The decay part is the derivative of the update in the direction of the parameters. The
optimizer's state is held fixed:

    D = dΔ(θ)[θ]        rate = −⟨D, θ⟩/‖θ‖²

D is exact for places 2 and 3, where Δ = −γu − rate·θ and u does not depend on θ. It is
not exact if the decay passes through the state (L2 with momentum or moments) or through
a discontinuity. The jaxpr shows which updates these are, and their sums that contain D
are NaN. They are NaN as well if D is not parallel to θ: then it does not shrink θ.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Inexact

from decayax._core.dtypes import compute_dtype, dtype_of, is_inexact
from decayax._core.paths import flatten_with_path, is_masked_leaf, leaves_with_path
from decayax._jaxpr.dataflow import Dependency, Kind
from decayax._jaxpr.dependence import update_dependencies
from decayax._jaxpr.partition import combine, partition


# The smallest |cos(D, θ)| that counts as parallel. The rounding of 16-bit weights moves
# the cosine of a true decay to 1 − 1e-5 at most.
MIN_COSINE = 0.9995


class Sums(NamedTuple):
    """The inner products that all statistics of a parameter or a group are made of.

    The sums of a group are the sums of its parameters, added up.
    """

    weight_sq: jax.Array  # ‖θ‖²
    update_sq: jax.Array  # ‖Δ‖²
    decay_sq: jax.Array  # ‖D‖²
    other_sq: jax.Array  # ‖Δ − D‖²
    weight_dot_update: jax.Array  # ⟨θ, Δ⟩
    weight_dot_decay: jax.Array  # ⟨θ, D⟩
    weight_dot_other: jax.Array  # ⟨θ, Δ − D⟩
    # ⟨θ, ⟦θ + Δ⟧ − ⟦(θ + Δ) − D⟧⟩, where ⟦⟧ rounds to the parameter's dtype
    weight_dot_rounded_decay: jax.Array


def zero_sums(params: optax.Params) -> Any:
    """The sums before the first measurement, in the structure of the params."""
    # One array for each leaf and not one for all: a jitted step may donate its state.
    return jax.tree.map(lambda _: jnp.zeros((len(Sums._fields),), jnp.float32), params)


def measure_step(
    step: Callable[[Any, Any], tuple[Any, Any]],
    state: optax.OptState,
    params: optax.Params,
) -> Any:
    """The sums of all leaves in one step, in the structure of the params.

    Args:
        step: (state, params) -> (updates, state), with the gradients held fixed.
        state: the optimizer's state before the step.
        params: the parameters before the step.
    """
    split = partition(params)

    def updates_of(inexact: list[jax.Array]) -> optax.Updates:
        return step(state, combine(params, inexact, split.static))[0]

    dependencies = update_dependencies(step, state, params)
    if dependencies.has_jvp:
        updates, decay = jax.jvp(updates_of, (split.inexact,), (split.inexact,))
    else:
        # There is no D. `is_exact` is False for every leaf, so `decay` is not used.
        updates = decay = updates_of(split.inexact)
    dependency = iter(dependencies.updates)
    flat, treedef = flatten_with_path(params)
    sums = []
    for (_, param), update, d in zip(
        flat, _leaves(updates), _leaves(decay), strict=True
    ):
        if is_masked_leaf(param):
            sums.append(param)
        elif is_masked_leaf(update):  # this parameter is frozen: its update is 0
            sums.append(leaf_sums(param, 0.0, 0.0, is_exact=True))
        else:
            is_exact = dependencies.has_jvp and _is_exact(next(dependency), param)
            sums.append(leaf_sums(param, update, d, is_exact=is_exact))
    return treedef.unflatten(sums)


def _is_exact(dependency: Dependency, param: Any) -> bool:
    """Whether D shows everything that the parameters do to the update."""
    # A leaf of one weight is always parallel to D. So the check of the direction cannot
    # see that the update depends on other weights.
    undecidable = dependency.kind == Kind.MIXED and np.size(param) == 1
    return not (dependency.nondifferentiable or undecidable)


def leaf_sums(
    param: Inexact[Array, "*shape"],
    update: Inexact[Array, "*shape"] | float,
    decay: Inexact[Array, "*shape"] | float,
    *,
    is_exact: bool,
) -> Float[Array, "8"]:
    """The `Sums` of one leaf as a vector.

    Args:
        param: θ. The sums of an integer leaf are 0.
        update: Δ.
        decay: D, the derivative of Δ in the direction of θ.
        is_exact: whether D shows everything that the parameters do to the update. If
            not, the sums that contain D are NaN. They are also NaN if D is not parallel
            to θ. For example, a trust ratio scales the update; its derivative points
            along the update.
    """
    if not is_inexact(param):
        return jnp.zeros((len(Sums._fields),), jnp.float32)
    dtype = compute_dtype(param, update)
    theta, delta, d = (jnp.asarray(x, dtype) for x in (param, update, decay))
    other = delta - d
    new_theta = theta + delta
    rounded_decay = _round_to(param, new_theta) - _round_to(param, new_theta - d)
    decay_sums = {
        "decay_sq": real_dot(d, d),
        "other_sq": real_dot(other, other),
        "weight_dot_decay": real_dot(theta, d),
        "weight_dot_other": real_dot(theta, other),
        "weight_dot_rounded_decay": real_dot(theta, rounded_decay),
    }
    weight_sq = real_dot(theta, theta)
    # Multiply the norms, not their squares: those of tiny weights underflow.
    norms = jnp.sqrt(weight_sq) * jnp.sqrt(decay_sums["decay_sq"])
    parallel = jnp.abs(decay_sums["weight_dot_decay"]) >= MIN_COSINE * norms
    known = is_exact & parallel
    sums = Sums(
        weight_sq=weight_sq,
        update_sq=real_dot(delta, delta),
        weight_dot_update=real_dot(theta, delta),
        **{name: _nan_unless(known, x) for name, x in decay_sums.items()},
    )
    return jnp.stack(sums)


def real_dot(
    a: Inexact[Array, "*shape"], b: Inexact[Array, "*shape"]
) -> Float[Array, ""]:
    """The real part of ⟨a, b⟩ in float32."""
    return jnp.sum((a.conj() * b).real).astype(jnp.float32)


def _round_to(param: Any, x: Inexact[Array, "*shape"]) -> Inexact[Array, "*shape"]:
    """Round to the dtype of ``param``, but keep the wider dtype of ``x``."""
    info = jnp.finfo(dtype_of(param))
    if info.bits >= 32:
        return x  # the addition itself has rounded
    # Not a cast to 16 bits and back: XLA may remove both casts.
    return jax.lax.reduce_precision(x, info.nexp, info.nmant)


def _nan_unless(known: Bool[Array, ""], x: Float[Array, ""]) -> Float[Array, ""]:
    return jnp.where(known, x, jnp.full((), jnp.nan, jnp.float32))


def _leaves(tree: Any) -> list[Any]:
    return [leaf for _, leaf in leaves_with_path(tree)]
