"""Read out what `track_decay` measured: sums in, statistics for a logger out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from decayax._core.paths import (
    is_masked_leaf,
    leaves_with_path,
    path_str,
    summarize_paths,
)
from decayax._core.strength import is_concrete, short_repr
from decayax._core.symmetry import by_parameter, INVARIANT, require_paths, Symmetries
from decayax._telemetry.measure import measure_step, Sums
from decayax._telemetry.track import TrackDecayState
from decayax._transforms.trees import require_optimizer, require_params


Groups: TypeAlias = Callable[[str], str] | None
Paths: TypeAlias = Collection[str] | Callable[[str], bool] | Symmetries | None
SumsByPath: TypeAlias = dict[str, Any]


def decay_stats(
    state: optax.OptState, *, groups: Groups = None, scale_invariant: Paths = None
) -> dict[str, Any]:
    r"""The last measurement of `track_decay`, as a flat dict for any logger.

    With the decay D, the step without it r = Δ − D and a = 1 − rate, a step is
    θ ← aθ + r, and

    .. math:: \|\theta\|^2 \leftarrow a^2\|\theta\|^2 + \mathbb E\,\bigl[\|r\|^2
        + 2a\langle\theta, r\rangle\bigr], \qquad
        \text{equilibrium norm}^2 =
        \frac{\mathbb E\,[\|r\|^2 + 2a\langle\theta, r\rangle]}{1 - a^2}

    At this norm, decay and steps balance, and a step turns the weights by the
    equilibrium angle, arcsin(‖r⊥‖/norm), where r⊥ is the part of r orthogonal to θ. The
    mean E is taken over the gradients g and −g: it is exact for gradients that are
    noise. ⟨θ, r⟩ is not 0, because momentum is correlated with the weights that it
    moved. The norm of momentum fluctuates; with n weights the relative standard
    deviation is about 0.2/√(2n·rate) at β = 0.9. Average over groups or measurements.

    Args:
        state: a state that contains the state of ``track_decay``, at any depth, also
            inside ``jit`` and ``scan``, and of many runs (``vmap``).
        groups: path of a parameter -> name of its group. None: each parameter is its
            own group.
        scale_invariant: the parameters for which the equilibrium has a meaning: the
            result of ``dx.scale_symmetries``, a collection of their paths, or path ->
            bool. The loss must not depend on their scale, as before a normalisation;
            otherwise the gradients also determine the norm. The equilibrium of other
            parameters (of a stack: if one of its slices is not invariant), and of
            groups that contain one, is NaN. None: it is calculated for all.

    Returns:
        Entries with the key ``group/entry``: Python floats; inside ``jit`` JAX arrays;
        NumPy arrays with the leading axes of the state if it has any. The entries of
        each group are

        - ``decay_rate``: the decay per step, −⟨D, θ⟩/‖θ‖²; the mean rate, weighted by
          θ², if the weights have different rates
        - ``decay_realised``: the part of it that remains after rounding to the
          parameters' dtype
        - ``decay_to_update``: ‖D‖/‖Δ‖
        - ``weight_norm``: ‖θ‖
        - ``update_norm``: ‖Δ‖
        - ``update_to_weight``: ‖Δ‖/‖θ‖; 0 if Δ = 0
        - ``angle``: between θ and θ + Δ, in radians
        - ``cosine``: between θ and −r, the negative step without decay
        - ``equilibrium_angle`` and ``equilibrium_norm``: see above

        The decay, ``cosine`` and the equilibrium are NaN if the derivative D is not
        the decay of the step: it passes through the state (L2 with momentum), it is
        towards a copy of the initial weights, or it depends on the gradients.

    Example:
        >>> import decayax as dx, jax.numpy as jnp
        >>> optimizer = dx.track_decay(dx.sgdw(1.0, weight_decay=0.5), every=1)
        >>> params = {"kernel": jnp.ones(4)}
        >>> _, state = optimizer.update(params, optimizer.init(params), params)
        >>> stats = dx.decay_stats(state)
        >>> stats["kernel/decay_rate"], stats["kernel/weight_norm"]
        (0.5, 2.0)

    Reference:
        The equilibrium without ⟨θ, r⟩, and AdamW's in closed form: Kosson, Messmer and
        Jaggi, https://arxiv.org/abs/2305.17212, section 3.
    """
    return stats_of_sums("decay_stats", tracked_sums(state), groups, scale_invariant)


def measure_decay(
    optimizer: optax.GradientTransformation,
    params: optax.Params,
    state: optax.OptState,
    grads: optax.Updates,
    *,
    groups: Groups = None,
    scale_invariant: Paths = None,
    **extra_args: Any,
) -> dict[str, Any]:
    r"""The decay of one step of any optimizer, without a wrapper.

    .. math:: D = \mathrm d\Delta(\theta)[\theta], \qquad
        \mathrm{rate} = -\langle D, \theta\rangle / \|\theta\|^2

    A pure function for any training loop: call it every so many steps, jitted by
    itself or inside the jitted step. It describes the step ``optimizer.update(grads,
    state, params)`` exactly, and takes about as long as ten of them.

    Args:
        optimizer: any Optax optimizer.
        params: the parameters before the step.
        state: the state of the optimizer before the step.
        grads: the gradients of the step.
        groups, scale_invariant: as for :func:`decay_stats`.
        extra_args: further arguments of ``optimizer.update``, such as ``value``.

    Returns:
        The entries of :func:`decay_stats`. All changes are 0 in a step that changes no
        weight, such as an accumulating step of ``MultiSteps``.

    Example:
        >>> import decayax as dx, jax.numpy as jnp, optax
        >>> optimizer = optax.adamw(1e-3, weight_decay=0.1)
        >>> params = {"kernel": jnp.ones(4)}
        >>> state = optimizer.init(params)
        >>> stats = dx.measure_decay(optimizer, params, state, params)
        >>> print(f"{stats['kernel/decay_rate']:.6f}")
        0.000100
    """
    name = "measure_decay"
    require_optimizer(name, optimizer)
    require_params(name, params)
    update: Any = optimizer.update

    def step(grads: Any, state: Any, params: Any) -> Any:
        return update(grads, state, params, **extra_args)

    tree = measure_step(optimizer.init, step, grads, state, params)
    return stats_of_sums(name, _by_path(tree), groups, scale_invariant)


def tracked_sums(state: optax.OptState, name: str = "decay_stats") -> SumsByPath:
    """The sums of all trackers in a state, by the path of the parameter."""
    nodes = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, TrackDecayState))
    trackers = [node for node in nodes if isinstance(node, TrackDecayState)]
    if not trackers:
        raise ValueError(
            f"{name}: the state contains no TrackDecayState. Wrap the optimizer in "
            "dx.track_decay and pass the state of the wrapped optimizer."
        )
    found: SumsByPath = {}
    for tracker in trackers:
        new = _by_path(tracker.sums)
        if twice := sorted(found.keys() & new.keys()):
            raise ValueError(
                f"{name}: two trackers in this state measure {twice[0]}. Use one "
                "track_decay, around the whole optimizer."
            )
        found |= new
    return found


def _by_path(tree: Any) -> SumsByPath:
    leaves = leaves_with_path(tree)
    return {path_str(path): x for path, x in leaves if not is_masked_leaf(x)}


def stats_of_sums(
    name: str, sums: SumsByPath, groups: Groups, scale_invariant: Paths
) -> dict[str, Any]:
    """The statistics of each group."""
    if not (groups is None or callable(groups)):
        raise TypeError(
            f"{name}: groups must be a function path -> name of the group, got "
            f"{short_repr(groups)}. Pass, for example, lambda path: path.split('/')[0]."
        )
    is_invariant = _predicate(name, scale_invariant, sums)
    traced = not all(map(is_concrete, sums.values()))
    # Outside of jit in float64: differences of the sums keep more digits.
    xp, dtype = (jnp, jnp.float32) if traced else (np, np.float64)
    totals: dict[str, Any] = {}
    invariant: dict[str, bool] = {}
    for path, x in sums.items():
        group = groups(path) if groups else path
        totals[group] = totals.get(group, 0.0) + xp.asarray(x, dtype)
        invariant[group] = invariant.get(group, True) and is_invariant(path)
    stats = {}
    for group, total in totals.items():
        # The fields are on the last axis; the axes before it are those of `vmap`.
        fields = Sums(*(total[..., i] for i in range(len(Sums._fields))))
        for entry, value in _statistics(fields, xp, invariant[group]).items():
            is_scalar = not traced and np.ndim(value) == 0
            stats[f"{group}/{entry}"] = float(value) if is_scalar else value
    return stats


def _predicate(name: str, paths: Paths, known: SumsByPath) -> Callable[[str], bool]:
    """Whether a path is among ``paths``."""
    if paths is None:
        return lambda path: True
    if isinstance(paths, Symmetries):
        slices = by_parameter(paths)
        require_paths(name, slices, known)
        return lambda path: all(each.kind == INVARIANT for each in slices[path])
    if callable(paths):
        return paths
    if isinstance(paths, Mapping):  # path -> bool
        flags = [x for x in paths.values() if not isinstance(x, int | float | np.bool_)]
        if flags:
            raise TypeError(
                f"{name}: a dict for scale_invariant must be path -> bool, got the "
                f"value {short_repr(flags[0])}. Pass the result of dx.scale_symmetries."
            )
        _require_measured(name, paths, known)
        return lambda path: bool(paths.get(path, False))
    if isinstance(paths, str) or not isinstance(paths, Collection):
        hint = f"[{paths!r}]" if isinstance(paths, str) else "['kernel'], for example"
        raise TypeError(
            f"{name}: scale_invariant must be a result of dx.scale_symmetries, a "
            f"collection of paths or a function path -> bool, got {short_repr(paths)}. "
            f"Pass {hint}."
        )
    _require_measured(name, paths, known)
    return frozenset(paths).__contains__


def _require_measured(name: str, paths: Collection[str], known: SumsByPath) -> None:
    if unknown := sorted(set(paths) - known.keys()):
        raise ValueError(
            f"{name}: scale_invariant names {summarize_paths(unknown)}, which no "
            f"tracker measures. The parameters are {summarize_paths(known)}. (Slices "
            "of a stack are measured together: pass the result of "
            "dx.scale_symmetries.)"
        )


def _statistics(s: Sums, xp: Any, is_invariant: bool) -> dict[str, Any]:
    """The statistics of one group from its sums; ``xp`` is NumPy or jax.numpy."""
    with np.errstate(all="ignore"):  # 0/0 and √ of a negative rate give NaN
        weight_norm, update_norm = xp.sqrt(s.weight_sq), xp.sqrt(s.update_sq)
        # 0.0 − x instead of −x: a rate of 0 is then 0.0 and not −0.0.
        rate = 0.0 - s.weight_dot_decay / s.weight_sq
        # The part of Δ that is orthogonal to θ. Rounding can make its square negative.
        across_sq = s.update_sq - s.weight_dot_update**2 / s.weight_sq
        angle, norm = _equilibrium(s, xp, rate)
        unknown = xp.full_like(norm, xp.nan)
        return {
            "decay_rate": rate,
            "decay_realised": 0.0 - s.weight_dot_rounded_decay / s.weight_sq,
            "decay_to_update": xp.sqrt(s.decay_sq / s.update_sq),
            "weight_norm": weight_norm,
            "update_norm": update_norm,
            "update_to_weight": xp.where(
                s.update_sq == 0.0, 0.0, update_norm / weight_norm
            ),
            # arctan2 instead of arccos, which loses the digits of small angles.
            "angle": xp.arctan2(
                xp.sqrt(xp.maximum(across_sq, 0.0)),
                weight_norm + s.weight_dot_update / weight_norm,
            ),
            "cosine": -s.weight_dot_other / xp.sqrt(s.weight_sq * s.other_sq),
            "equilibrium_angle": angle if is_invariant else unknown,
            "equilibrium_norm": norm if is_invariant else unknown,
        }


def _equilibrium(s: Sums, xp: Any, rate: Any) -> tuple[Any, Any]:
    """The angle and the norm at which decay and steps balance; see `decay_stats`."""
    growth = s.noise_sq + 2.0 * (1.0 - rate) * s.weight_dot_noise
    # 1 − a² = rate(2 − rate), without the rounding error of 1 − a.
    norm = xp.sqrt(growth / (rate * (2.0 - rate)))
    across_sq = xp.maximum(s.noise_sq - s.weight_dot_noise**2 / s.weight_sq, 0.0)
    return xp.arcsin(xp.minimum(xp.sqrt(across_sq) / norm, 1.0)), norm
