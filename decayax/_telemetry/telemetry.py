r"""What decay is applied while training: telemetry in the optimizer's state.

The decay part of an update is its derivative in the direction of the parameters, with
the optimizer's state held fixed:

    D = dΔ(θ)[θ]        rate = −⟨D, θ⟩/‖θ‖²

It is exact for places 2 and 3, where Δ = −γu − rate·θ and u does not know θ. Where the
decay passes through the state (L2 with momentum or moments) or a jump it is not: such
updates are seen beforehand, from the jaxpr, and their decay reported as nan. So is a D
that does not point along θ, and is no shrinking.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from decayax._core.dtypes import compute_dtype, dtype_of, is_inexact
from decayax._core.paths import (
    flatten_with_path,
    is_masked_leaf,
    leaves_with_path,
    path_str,
)
from decayax._core.strength import short_repr
from decayax._jaxpr.dataflow import MIXED
from decayax._jaxpr.dependence import dependence
from decayax._jaxpr.partition import combine, partition
from decayax._transforms.kernel import increment, is_optimizer, require_params


NAME = "track_decay"
PARALLEL = 0.9995  # |cos(D, θ)| of a decay; 16 bits leave 1 − 1e-5


class Sums(NamedTuple):
    """What the statistics of a parameter or a group are made of."""

    weights: jax.Array  # ‖θ‖²
    update: jax.Array  # ‖Δ‖²
    decay: jax.Array  # ‖D‖²
    rest: jax.Array  # ‖Δ − D‖²
    weights_update: jax.Array  # ⟨θ, Δ⟩
    weights_decay: jax.Array  # ⟨θ, D⟩
    weights_rest: jax.Array  # ⟨θ, Δ − D⟩
    weights_landed: jax.Array  # ⟨θ, ⟦θ + Δ⟧ − ⟦θ + Δ − D⟧⟩, ⟦⟧ in the leaf's dtype


class TrackDecayState(NamedTuple):
    """The state of ``track_decay``."""

    count: jax.Array  # int32 (), calls of update
    sums: Any  # in the structure of the params, float32 (8,): the last measured Sums
    inner: Any


def track_decay(
    optimizer: optax.GradientTransformation, *, every: int = 100
) -> optax.GradientTransformationExtraArgs:
    r"""An optimizer that also measures its own decay, every k-th step.

    .. math:: D = \mathrm d\Delta(\theta)[\theta], \qquad
        \mathrm{rate} = -\langle D, \theta\rangle / \|\theta\|^2

    The updates are those of the optimizer, to the bit. What was measured last is in the
    state; :func:`decay_stats` makes a flat dict of it.

    Args:
        optimizer: any Optax optimizer, ours or not, outermost in the chain.
        every: :math:`k \ge 1`; steps 0, k, 2k, ... are measured, the others pay a
            comparison. Under ``vmap`` every step is measured.

    Returns:
        An optimizer for the same gradients and parameters.

    Raises:
        TypeError, ValueError: no optimizer, an ``every`` below 1, params=None.

    Example:
        >>> import decayax as dx, jax.numpy as jnp
        >>> params = {"kernel": jnp.ones((2, 2))}
        >>> optimizer = dx.track_decay(dx.adamw(1e-3, weight_decay=0.1))
        >>> _, state = optimizer.update(params, optimizer.init(params), params)
        >>> print(f"{dx.decay_stats(state)['kernel/decay_rate']:.6f}")
        0.000100

    Reference:
        Rotation per step and its equilibrium: Kosson, Messmer and Jaggi,
        https://arxiv.org/abs/2305.17212, section 3.
    """
    if not is_optimizer(optimizer):
        raise TypeError(
            f"{NAME}: optimizer must be an optax.GradientTransformation, got "
            f"{short_repr(optimizer)}."
        )
    if not isinstance(every, int) or every < 1:
        raise ValueError(f"{NAME}: every must be a whole number >= 1, got {every!r}.")

    def init(params: Any) -> TrackDecayState:
        # One array for each leaf, not one for all: a step may donate its state.
        sums = jax.tree.map(
            lambda _: jnp.zeros((len(Sums._fields),), jnp.float32), params
        )
        return TrackDecayState(jnp.zeros((), jnp.int32), sums, optimizer.init(params))

    def update(
        updates: Any, state: Any, params: Any = None, **extra_args: Any
    ) -> tuple[Any, TrackDecayState]:
        require_params(NAME, params)

        def step(inner: Any, params: Any) -> tuple[Any, Any]:
            return optimizer.update(updates, inner, params, **extra_args)

        def measure() -> Any:
            # Updates of its own: those below need not be kept for it.
            return measured(step, state.inner, params)

        new_updates, new_inner = step(state.inner, params)
        due = state.count % every == 0
        sums = jax.lax.cond(due, measure, lambda: state.sums)
        return new_updates, TrackDecayState(increment(state.count), sums, new_inner)

    return optax.GradientTransformationExtraArgs(init, update)


def decay_stats(
    state: Any, *, groups: Callable[[str], str] | None = None
) -> dict[str, float]:
    r"""What `track_decay` measured last, as a flat dict for any logger.

    .. math:: \text{equilibrium angle} = \sqrt{2\,\mathrm{rate}}, \qquad
        \text{equilibrium norm} = \|\Delta - D\|/\sqrt{2\,\mathrm{rate}}

    Args:
        state: any state that holds one of ``track_decay``, however deep.
        groups: path -> name of its group; None: each parameter is one.

    Returns:
        For every group the entries ``decay_rate``, ``decay_realised`` (what of it the
        rounding to the parameters' dtype leaves), ``decay_to_update`` (‖D‖/‖Δ‖),
        ``weight_norm``, ``angle`` (between θ and θ + Δ, in radians), ``cosine`` (of θ
        and the step without decay, −Δ + D), ``equilibrium_angle`` and
        ``equilibrium_norm``, under the key ``group/entry``. Decays that pass through
        the optimizer's state, or are no decay of single weights, are nan.

    Raises:
        ValueError: no such state.

    Example:
        >>> import decayax as dx, jax.numpy as jnp
        >>> optimizer = dx.track_decay(dx.sgdw(1.0, weight_decay=0.5))
        >>> params = {"kernel": jnp.ones(4)}
        >>> _, state = optimizer.update(params, optimizer.init(params), params)
        >>> stats = dx.decay_stats(state)
        >>> stats["kernel/decay_rate"], stats["kernel/weight_norm"]
        (0.5, 2.0)

    Reference:
        Kosson, Messmer and Jaggi, https://arxiv.org/abs/2305.17212, section 3.
    """
    found = [
        node for node in jax.tree.leaves(state, is_leaf=_is_ours) if _is_ours(node)
    ]
    if not found:
        raise ValueError(
            "decay_stats: the state holds nothing of track_decay. Write "
            "dx.track_decay(optimizer) around the optimizer and give its state."
        )
    totals: dict[str, np.ndarray] = {}
    seen: set[str] = set()
    leaves = [leaf for node in found for leaf in leaves_with_path(node.sums)]
    for path, sums in leaves:
        if is_masked_leaf(sums):
            continue
        parameter = path_str(path)
        if parameter in seen:
            raise ValueError(
                f"decay_stats: {parameter} is tracked twice in this state. Write one "
                "track_decay, outermost."
            )
        seen.add(parameter)
        group = groups(parameter) if groups else parameter
        totals[group] = totals.get(group, 0.0) + np.asarray(sums, float)
    return {
        f"{group}/{entry}": value
        for group, total in totals.items()
        for entry, value in _entries(Sums(*total)).items()
    }


def measured(
    step: Callable[[Any, Any], tuple[Any, Any]], state: Any, params: Any
) -> Any:
    """The sums of all leaves of one step, in the structure of the params."""
    whole = partition(params)

    def updated(live: list[Any]) -> Any:
        return step(state, combine(params, live, whole.static))[0]

    depends = dependence(step, state, params)
    if depends.forward:
        updates, decay = jax.jvp(updated, (whole.inexact,), (whole.inexact,))
    else:
        updates = decay = updated(whole.inexact)  # not to be believed
    flows = iter(depends.updates)
    flat, treedef = flatten_with_path(params)
    sums = []
    for (_, leaf), update, d in zip(
        flat, _leaves(updates), _leaves(decay), strict=True
    ):
        if is_masked_leaf(leaf):
            sums.append(leaf)
        elif is_masked_leaf(update):
            sums.append(sums_of(leaf, 0.0, 0.0, plain=True))
        else:
            flow = next(flows)
            # One weight is always parallel to itself.
            alone = flow.kind == MIXED and np.size(leaf) == 1
            plain = depends.forward and not (flow.hidden or alone)
            sums.append(sums_of(leaf, update, d, plain))
    return treedef.unflatten(sums)


def sums_of(param: Any, update: Any, decay: Any, plain: bool) -> jax.Array:
    """The sums of one leaf, as a vector; nan where they cannot be known.

    Args:
        param: the parameter.
        update: its update.
        decay: the derivative of the update.
        plain: whether the derivative is all that the parameters do to the update. Even
            so it is a decay only if it is parallel to θ: a factor of the update's size,
            such as a trust ratio, has a derivative too, which points along the update.
    """
    if not is_inexact(param):
        return jnp.zeros((len(Sums._fields),), jnp.float32)
    dtype = compute_dtype(param, update)
    theta, delta, d = (jnp.asarray(x, dtype) for x in (param, update, decay))

    def dot(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.sum((a.conj() * b).real).astype(jnp.float32)

    def landed(x: jax.Array) -> jax.Array:
        info = jnp.finfo(dtype_of(param))
        if info.bits >= 32:
            return x  # the sum itself is rounded
        # A cast to 16 bits and back may be taken for none at all.
        return jax.lax.reduce_precision(x, info.nexp, info.nmant)

    decay_sums = {
        "decay": dot(d, d),
        "rest": dot(delta - d, delta - d),
        "weights_decay": dot(theta, d),
        "weights_rest": dot(theta, delta - d),
        "weights_landed": dot(theta, landed(theta + delta) - landed(theta + delta - d)),
    }
    weights = dot(theta, theta)
    # Not of squares, which would underflow.
    most = jnp.sqrt(weights) * jnp.sqrt(decay_sums["decay"])
    known = plain & (jnp.abs(decay_sums["weights_decay"]) >= PARALLEL * most)
    nan = jnp.full((), jnp.nan, jnp.float32)
    return jnp.stack(
        Sums(
            weights=weights,
            update=dot(delta, delta),
            weights_update=dot(theta, delta),
            **{name: jnp.where(known, x, nan) for name, x in decay_sums.items()},
        )
    )


def _is_ours(node: Any) -> bool:
    return isinstance(node, TrackDecayState)


def _entries(s: Sums) -> dict[str, float]:
    """The statistics of one group."""
    with np.errstate(all="ignore"):
        rate = 0.0 - s.weights_decay / s.weights
        across = (
            s.update - s.weights_update**2 / s.weights
        )  # ‖Δ without its part on θ‖²
        stats = {
            "decay_rate": rate,
            "decay_realised": 0.0 - s.weights_landed / s.weights,
            "decay_to_update": np.sqrt(s.decay / s.update),
            "weight_norm": np.sqrt(s.weights),
            "angle": np.arctan2(
                np.sqrt(np.maximum(across, 0.0)),
                np.sqrt(s.weights) + s.weights_update / np.sqrt(s.weights),
            ),
            "cosine": -s.weights_rest / np.sqrt(s.weights * s.rest),
            "equilibrium_angle": np.sqrt(2.0 * rate),
            "equilibrium_norm": np.sqrt(s.rest / (2.0 * rate)),
        }
    return {entry: float(value) for entry, value in stats.items()}


def _leaves(tree: Any) -> list[Any]:
    return [leaf for _, leaf in leaves_with_path(tree)]
