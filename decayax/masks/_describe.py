"""A mask's decisions as a table and as plain data."""

import dataclasses
import html
import math
from typing import NamedTuple

import numpy as np
import optax

from decayax._core.dtypes import dtype_of
from decayax._core.parameters import require_parameters
from decayax._core.paths import leaves_with_path, path_str
from decayax._core.strength import equal_values, is_known, is_zero, Strength
from decayax._core.table import aligned, html_table
from decayax.masks._mask import check_mask, decide
from decayax.masks._resolve import MaskOrFn
from decayax.masks._roles import roles


HEADER = ("parameter", "shape", "dtype", "role", "multiplier", "rule")


class Row(NamedTuple):
    """One parameter and the decision for it."""

    path: str
    shape: tuple[int, ...]
    dtype: str
    role: str
    sure: bool  # False: the role is a guess from the number of axes, or "other"
    multiplier: Strength  # an array if it broadcasts against the parameter
    rule: str  # why the mask decides so

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Row) and equal_values(tuple(self), tuple(other))

    def __ne__(self, other: object) -> bool:  # that of a tuple compares arrays with !=
        return not self == other

    @property
    def size(self) -> int:
        """How many numbers the parameter holds."""
        return math.prod(self.shape)

    @property
    def decayed(self) -> int:
        """How many of its numbers decay. A traced multiplier counts as not 0."""
        if not isinstance(self.multiplier, np.ndarray):
            return 0 if self.excluded else self.size
        share = self.size // max(self.multiplier.size, 1)
        return int(np.count_nonzero(self.multiplier)) * share

    @property
    def excluded(self) -> bool:
        """Whether its multiplier is concrete and 0; an array, if all of it is 0."""
        return is_zero(self.multiplier)


@dataclasses.dataclass(frozen=True, repr=False)
class Description:
    """All parameters with their decisions, which print as a table."""

    rows: tuple[Row, ...]

    @property
    def decayed(self) -> int:
        """How many numbers decay."""
        return sum(row.decayed for row in self.rows)

    @property
    def excluded(self) -> int:
        """How many numbers do not decay."""
        return sum(row.size - row.decayed for row in self.rows)

    def __str__(self) -> str:
        table = aligned(self._cells(), right=[HEADER.index("multiplier")])
        return "\n".join([*table, *self._notes()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """The same for a notebook."""
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self._notes())
        return html_table(self._cells()) + notes

    def _cells(self) -> list[tuple[str, ...]]:
        return [HEADER, *map(_cells, self.rows)]

    def _notes(self) -> list[str]:
        # A parameter that decays in part counts twice.
        decayed = sum(not row.excluded for row in self.rows)
        excluded = sum(row.excluded or row.decayed < row.size for row in self.rows)
        notes = [
            f"decayed: {self.decayed:,} numbers in {_count(decayed)}; "
            f"excluded: {self.excluded:,} numbers in {_count(excluded)}"
        ]
        if not all(row.sure for row in self.rows):
            notes.append("?: no name determines the role; check these decisions")
        return notes


def describe(mask: "MaskOrFn", params: "optax.Params") -> Description:
    """What a mask decides for every parameter, to check before training.

    Args:
        mask: any mask: a mask of this module, a tree, a prefix, a function, or None.
        params: the parameters, or their shapes. For an Equinox model, pass
            ``eqx.filter(model, eqx.is_array)``; for an NNX model, pass
            ``nnx.state(model, nnx.Param)``.

    Returns:
        A description. ``print`` shows it as a table; ``.rows`` is the same as plain
        data; ``.decayed`` and ``.excluded`` count the numbers in the parameters. A
        question mark follows a role that no name determines: check these decisions.

    Example:
        >>> import decayax as dx, jax.numpy as jnp
        >>> params = {"dense": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}}
        >>> print(dx.masks.describe(dx.masks.no_bias_or_norm, params))
        parameter     shape   dtype    role    multiplier  rule
        dense/bias    (3,)    float32  bias             0  role bias
        dense/kernel  (2, 3)  float32  kernel           1  role kernel
        decayed: 6 numbers in 1 parameter; excluded: 3 numbers in 1 parameter
    """
    name = "masks.describe"
    require_parameters(name, params)
    check_mask(name, mask)
    decisions = decide(name, mask, params)
    leaves = dict(leaves_with_path(params))
    rows = [
        Row(
            path=path_str(path),
            shape=tuple(np.shape(leaves[path])),
            dtype=str(dtype_of(leaves[path])),
            role=role.name,
            sure=role.sure,
            multiplier=decisions[path].multiplier,
            rule=decisions[path].rule,
        )
        for path, role in roles(params).items()
    ]
    return Description(tuple(rows))


def _cells(row: Row) -> tuple[str, ...]:
    role = row.role if row.sure else f"{row.role} ?"
    multiplier = _multiplier_cell(row.multiplier)
    return (row.path, str(row.shape), row.dtype, role, multiplier, row.rule)


def _multiplier_cell(multiplier: Strength) -> str:
    if not is_known(multiplier):
        return "traced"
    if np.size(multiplier) == 0:
        return "none"
    smallest, largest = f"{np.min(multiplier):g}", f"{np.max(multiplier):g}"
    return smallest if smallest == largest else f"{smallest} to {largest}"


def _count(parameters: int) -> str:
    return f"{parameters} parameter{'' if parameters == 1 else 's'}"
