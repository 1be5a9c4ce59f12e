"""Read out what `track_decay` measured: sums in, statistics for a logger out."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np
import optax

from decayax._core.paths import is_masked_leaf, leaves_with_path, path_str
from decayax._core.strength import short_repr
from decayax._telemetry.measure import Sums
from decayax._telemetry.track import TrackDecayState


def decay_stats(
    state: optax.OptState, *, groups: Callable[[str], str] | None = None
) -> dict[str, float]:
    r"""The last measurement of `track_decay`, as a flat dict for any logger.

    .. math:: \text{equilibrium angle} = \sqrt{2\,\mathrm{rate}}, \qquad
        \text{equilibrium norm} = \|\Delta - D\|/\sqrt{2\,\mathrm{rate}}

    Args:
        state: a state that contains the state of ``track_decay``, at any depth.
        groups: path of a parameter -> name of its group. None: each parameter is its
            own group.

    Returns:
        Entries with the key ``group/entry``. The entries of each group are

        - ``decay_rate``: the decay per step, −⟨D, θ⟩/‖θ‖²
        - ``decay_realised``: the part of it that remains after rounding to the
          parameters' dtype
        - ``decay_to_update``: ‖D‖/‖Δ‖
        - ``weight_norm``: ‖θ‖
        - ``angle``: between θ and θ + Δ, in radians
        - ``cosine``: between θ and −(Δ − D), the negative step without decay
        - ``equilibrium_angle`` and ``equilibrium_norm``: see above

        All except ``weight_norm`` and ``angle`` are NaN if the decay passes through
        the optimizer's state, or if it does not shrink all weights alike.

    Example:
        >>> import decayax as dx, jax.numpy as jnp
        >>> optimizer = dx.track_decay(dx.sgdw(1.0, weight_decay=0.5))
        >>> params = {"kernel": jnp.ones(4)}
        >>> _, state = optimizer.update(params, optimizer.init(params), params)
        >>> stats = dx.decay_stats(state)
        >>> stats["kernel/decay_rate"], stats["kernel/weight_norm"]
        (0.5, 2.0)

    Reference:
        Rotation per step and its equilibrium: Kosson, Messmer and Jaggi,
        https://arxiv.org/abs/2305.17212, section 3.
    """
    if not (groups is None or callable(groups)):
        raise TypeError(
            "decay_stats: groups must be a function path -> name of the group, got "
            f"{short_repr(groups)}. Pass, for example, lambda path: path.split('/')[0]."
        )
    nodes = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, TrackDecayState))
    trackers = [node for node in nodes if isinstance(node, TrackDecayState)]
    if not trackers:
        raise ValueError(
            "decay_stats: the state contains no TrackDecayState. Wrap the optimizer in "
            "dx.track_decay and pass the state of the wrapped optimizer."
        )
    totals: dict[str, np.ndarray] = {}
    seen: set[str] = set()
    leaves = [leaf for tracker in trackers for leaf in leaves_with_path(tracker.sums)]
    for path, sums in leaves:
        if is_masked_leaf(sums):
            continue
        parameter = path_str(path)
        if parameter in seen:
            raise ValueError(
                f"decay_stats: two trackers in this state measure {parameter}. Use one "
                "track_decay, around the whole optimizer."
            )
        seen.add(parameter)
        group = groups(parameter) if groups else parameter
        totals[group] = totals.get(group, 0.0) + np.asarray(sums, float)
    return {
        f"{group}/{entry}": value
        for group, total in totals.items()
        for entry, value in statistics(Sums(*total)).items()
    }


def statistics(s: Sums) -> dict[str, float]:
    """The statistics of one group from its sums."""
    with np.errstate(all="ignore"):  # 0/0 and √ of a negative rate give NaN
        weight_norm = np.sqrt(s.weight_sq)
        # 0.0 − x instead of −x: a rate of 0 is then 0.0 and not −0.0.
        rate = 0.0 - s.weight_dot_decay / s.weight_sq
        # The part of Δ that is orthogonal to θ. Rounding can make its square negative.
        orthogonal_sq = s.update_sq - s.weight_dot_update**2 / s.weight_sq
        stats = {
            "decay_rate": rate,
            "decay_realised": 0.0 - s.weight_dot_rounded_decay / s.weight_sq,
            "decay_to_update": np.sqrt(s.decay_sq / s.update_sq),
            "weight_norm": weight_norm,
            # arctan2 instead of arccos, which loses the digits of small angles.
            "angle": np.arctan2(
                np.sqrt(np.maximum(orthogonal_sq, 0.0)),
                weight_norm + s.weight_dot_update / weight_norm,
            ),
            "cosine": -s.weight_dot_other / np.sqrt(s.weight_sq * s.other_sq),
            "equilibrium_angle": np.sqrt(2.0 * rate),
            "equilibrium_norm": np.sqrt(s.other_sq / (2.0 * rate)),
        }
    return {entry: float(value) for entry, value in stats.items()}
