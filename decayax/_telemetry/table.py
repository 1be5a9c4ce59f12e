"""A table of what `track_decay` measured, for people who watch a run."""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import optax

from decayax._core.table import aligned, html_table
from decayax._telemetry.stats import Groups, stats_of_sums, tracked_sums


NAME = "decay_table"
ENTRIES = (
    "decay_rate",
    "decay_realised",
    "weight_norm",
    "update_to_weight",
    "angle",
)
HEADER = ("", "rate/step", "half-life", "‖θ‖", "‖Δ‖/‖θ‖", "angle", "survives")
UNKNOWN = "?"


@dataclasses.dataclass(frozen=True, repr=False)
class DecayTable:
    """What decay the last measured step applied: the result of ``decay_table``.

    ``print`` it for a table; notebooks show it as HTML.

    Attributes:
        rows: the cells of each parameter or group, as text: its name, the rate, the
            half-life in steps, ‖θ‖, ‖Δ‖/‖θ‖, the angle in radians, and which part of
            the decay survives the rounding of the weights.
    """

    rows: tuple[tuple[str, ...], ...]

    def __str__(self) -> str:
        columns = range(1, len(HEADER))
        return "\n".join([*aligned([HEADER, *self.rows], columns), *self._notes()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self._notes())
        return html_table([HEADER, *self.rows]) + notes

    def _notes(self) -> list[str]:
        unknown = any(UNKNOWN in row for row in self.rows)
        note = f"{UNKNOWN}: one step does not show this decay; dx.audit measures it"
        return [note] if unknown else []


def decay_table(
    state: optax.OptState | dict[str, Any], *, groups: Groups = None
) -> DecayTable:
    r"""The last measurement of `track_decay` as a table for people.

    .. math:: \text{half-life} = \ln 2 / {-\ln(1 - \mathrm{rate})}

    Args:
        state: a state that contains the state of ``track_decay``, or the dict of
            :func:`measure_decay` or :func:`decay_stats`.
        groups: as for :func:`decay_stats`; only for a state.

    Example:
        >>> import decayax as dx, jax.numpy as jnp
        >>> params = {"kernel": jnp.ones(4), "bias": jnp.ones(2)}
        >>> grads = {"kernel": jnp.array([1.0, -1, 2, -2]), "bias": jnp.eye(2)[0]}
        >>> decay = dx.sgdw(0.1, weight_decay=0.5, mask=dx.masks.no_bias_or_norm)
        >>> optimizer = dx.track_decay(decay, every=1)
        >>> _, state = optimizer.update(grads, optimizer.init(params), params)
        >>> print(dx.decay_table(state))
                rate/step    half-life   ‖θ‖  ‖Δ‖/‖θ‖   angle  survives
        bias            0        never  1.41   0.0707  0.0526
        kernel       0.05  13.51 steps     2    0.166   0.165      100%
    """
    stats = _stats(state, groups)
    if any(np.ndim(value) > 0 for value in stats.values()):
        raise ValueError(
            f"{NAME}: the state holds many runs: its entries have the shape "
            f"{np.shape(next(iter(stats.values())))}. Pass the state of one run, "
            "jax.tree.map(lambda x: x[0], state)."
        )
    names = dict.fromkeys(key.rpartition("/")[0] for key in stats)
    rows = (
        (name, *_cells(*(float(stats[f"{name}/{e}"]) for e in ENTRIES)))
        for name in names
    )
    return DecayTable(tuple(rows))


def _stats(state: Any, groups: Groups) -> dict[str, Any]:
    keys = state if isinstance(state, Mapping) else ()
    if any(str(key).endswith("/decay_rate") for key in keys):
        return dict(state)
    return stats_of_sums(NAME, tracked_sums(state, NAME), groups, None)


def _cells(
    rate: float, realised: float, norm: float, change: float, angle: float
) -> tuple[str, ...]:
    if norm == 0.0:  # integers, or weights that are all 0: nothing can decay
        return "", "", "0", "", "", ""
    if math.isnan(rate):
        decay, half_life, survives = UNKNOWN, UNKNOWN, UNKNOWN
    else:
        decay, half_life = f"{rate:.3g}", _half_life(rate)
        survives = "" if rate == 0.0 else f"{realised / rate:.0%}"
    return decay, half_life, f"{norm:.3g}", f"{change:.3g}", f"{angle:.3g}", survives


def _half_life(rate: float) -> str:
    if rate == 0.0:
        return "never"
    if rate < 0.0:
        return f"doubles in {math.log(2.0) / math.log1p(-rate):.4g} steps"
    if rate >= 1.0:
        return "0 steps"
    return f"{math.log(2.0) / -math.log1p(-rate):.4g} steps"
