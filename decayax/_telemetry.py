r"""What decay is applied while training: telemetry in the optimizer's state.

The decay part of an update is its derivative in the direction of the parameters, with
the optimizer's state held fixed:

    D = dΔ(θ)[θ]        rate = −⟨D, θ⟩/‖θ‖²

It is exact for places 2 and 3, where Δ = −γu − rate·θ and the state does not know θ.
Where the decay passes through the state (L2 with momentum or moments) it is not: such
an optimizer is seen beforehand, from its jaxpr, and its decay reported as nan.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from decayax._dtypes import compute_dtype, is_inexact
from decayax._kernel import advanced
from decayax._mixing import CONST, dependence, MIXED
from decayax._strength import brief
from decayax._tree import flatten, is_hole, show


NAME = "track_decay"
PARALLEL = 0.999  # cos²(D, θ) of a decay that is alike for all weights of a leaf


class Sums(NamedTuple):
    """What the statistics of a parameter or a group are made of."""

    weights: jax.Array  # ‖θ‖²
    update: jax.Array  # ‖Δ‖²
    decay: jax.Array  # ‖D‖²
    rest: jax.Array  # ‖Δ − D‖²
    weights_update: jax.Array  # ⟨θ, Δ⟩
    weights_decay: jax.Array  # ⟨θ, D⟩
    weights_rest: jax.Array  # ⟨θ, Δ − D⟩


class TrackDecayState(NamedTuple):
    """The state of ``track_decay``."""

    count: jax.Array  # int32 (), calls of update
    sums: Any  # in the structure of the params, float32 (7,): the last measured Sums
    inner: Any


def track_decay(
    optimizer: optax.GradientTransformation,
    *,
    every: int = 100,
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
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise TypeError(
            f"{NAME}: optimizer must be an optax.GradientTransformation, got "
            f"{brief(optimizer)}."
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
        if params is None:
            raise ValueError(
                f"{NAME}: needs the parameters, got params=None. Write "
                "optimizer.update(grads, state, params)."
            )

        def step(params: Any) -> tuple[Any, Any]:
            return optimizer.update(updates, state.inner, params, **extra_args)

        def measure() -> Any:
            # Updates of its own: those below need not be kept for it.
            return measured(step, params)

        new_updates, new_inner = step(params)
        due = state.count % every == 0
        sums = jax.lax.cond(due, measure, lambda: state.sums)
        return new_updates, TrackDecayState(advanced(state.count), sums, new_inner)

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
        For every group the entries ``decay_rate``, ``decay_to_update`` (‖D‖/‖Δ‖),
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
    for node in found:
        for path, sums in flatten(node.sums)[0]:
            if not is_hole(sums):
                if (id_ := show(path)) in seen:
                    raise ValueError(
                        f"decay_stats: {id_} is tracked twice in this state. Write one "
                        "track_decay, outermost."
                    )
                seen.add(id_)
                name = groups(id_) if groups else id_
                totals[name] = totals.get(name, 0.0) + np.asarray(sums, float)
    return {
        f"{group}/{entry}": value
        for group, total in totals.items()
        for entry, value in _entries(Sums(*total)).items()
    }


def derivative(update: Callable[[Any], Any], params: Any) -> Any:
    """The derivative of the updates in the direction of the inexact parameters."""
    leaves, treedef = jax.tree.flatten(params)
    live = [leaf for leaf in leaves if is_inexact(leaf)]

    def of_live(live: list[Any]) -> Any:
        moved = iter(live)
        return update(
            treedef.unflatten(next(moved) if is_inexact(x) else x for x in leaves)
        )

    return jax.jvp(of_live, (live,), (live,))[1]


def measured(step: Callable[[Any], tuple[Any, Any]], params: Any) -> Any:
    """The sums of all leaves of one step, in the structure of the params."""
    depends = dependence(step, params)
    # Where the state knows the params a part of the decay comes later.
    hidden = depends.state != CONST or depends.jumps
    updates, decay = step(params)[0], derivative(lambda p: step(p)[0], params)
    kinds = iter(depends.updates)
    flat, treedef = flatten(params)
    sums = []
    for (_, leaf), update, d in zip(
        flat, _leaves(updates), _leaves(decay), strict=True
    ):
        mixed = not is_hole(update) and next(kinds) == MIXED
        sums.append(leaf if is_hole(leaf) else sums_of(leaf, update, d, hidden, mixed))
    return treedef.unflatten(sums)


def sums_of(
    param: Any, update: Any, decay: Any, hidden: bool, mixed: bool
) -> jax.Array:
    """The sums of one leaf, as a vector; nan where they cannot be known.

    Args:
        param: the parameter.
        update: its update, or a hole.
        decay: the derivative of the update, or a hole.
        hidden: whether the derivative does not show the decay.
        mixed: whether the update mixes weights. Then D is believed only if it is
            parallel to θ: a factor of the update's size, such as a trust ratio, has a
            derivative too, which is no decay and points along the update.
    """
    if not is_inexact(param):
        return jnp.zeros((len(Sums._fields),), jnp.float32)
    update, decay = (0.0 if is_hole(x) else x for x in (update, decay))
    dtype = compute_dtype(param, update)
    theta, delta, d = (jnp.asarray(x, dtype) for x in (param, update, decay))

    def dot(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.sum((a.conj() * b).real).astype(jnp.float32)

    rest = delta - d
    sums = Sums(
        weights=dot(theta, theta),
        update=dot(delta, delta),
        decay=dot(d, d),
        rest=dot(rest, rest),
        weights_update=dot(theta, delta),
        weights_decay=dot(theta, d),
        weights_rest=dot(theta, rest),
    )
    parallel = sums.weights_decay**2 >= PARALLEL * sums.weights * sums.decay
    # One weight is always parallel to itself.
    known = jnp.asarray(not hidden) & (
        parallel & (np.size(param) > 1) if mixed else True
    )

    def if_known(x: jax.Array) -> jax.Array:
        return jnp.where(known, x, jnp.full((), jnp.nan, jnp.float32))

    sums = sums._replace(
        decay=if_known(sums.decay),
        rest=if_known(sums.rest),
        weights_decay=if_known(sums.weights_decay),
        weights_rest=if_known(sums.weights_rest),
    )
    return jnp.stack(sums)


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
    return [leaf for _, leaf in flatten(tree)[0]]
