"""A mask's decisions as a table to read and as plain data."""

import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np

from decayax._core.dtypes import dtype_of
from decayax._core.paths import is_masked_leaf, leaves_with_path, path_str
from decayax._core.strength import Strength
from decayax._core.table import aligned
from decayax.masks._mask import as_mask
from decayax.masks._resolve import MaskOrFn, require_parameters
from decayax.masks._roles import roles


class Row(NamedTuple):
    """One parameter and what is decided for it."""

    path: str
    shape: tuple[int, ...]
    dtype: str
    role: str
    sure: bool  # whether more than the number of axes tells the role
    multiplier: Strength
    rule: str

    @property
    def size(self) -> int:
        """How many numbers the parameter holds."""
        return math.prod(self.shape)

    @property
    def spared(self) -> bool:
        """Whether its multiplier is known to be 0."""
        return isinstance(self.multiplier, float) and self.multiplier == 0.0


@dataclasses.dataclass(frozen=True, repr=False)
class Description:
    """All parameters; prints as a table."""

    rows: tuple[Row, ...]

    @property
    def decayed(self) -> int:
        """How many numbers decay."""
        return sum(row.size for row in self.rows if not row.spared)

    @property
    def spared(self) -> int:
        """How many numbers do not."""
        return sum(row.size for row in self.rows if row.spared)

    def __str__(self) -> str:
        header = ("parameter", "shape", "dtype", "role", "multiplier", "rule")
        right = [header.index("multiplier")]
        table = aligned([header, *map(_cells, self.rows)], right)
        spared = sum(row.spared for row in self.rows)
        decayed = len(self.rows) - spared
        table.append(
            f"decayed: {self.decayed:,} numbers in {_count(decayed)}; "
            f"spared: {self.spared:,} numbers in {_count(spared)}"
        )
        if not all(row.sure for row in self.rows):
            table.append("?: no name tells the role; see that the decision is meant")
        return "\n".join(table)

    __repr__ = __str__


def describe(mask: MaskOrFn, params: Any) -> Description:
    r"""What a mask decides for every parameter, to read before training.

    .. math:: i \mapsto (\text{path}_i, \text{role}_i, m_i, \text{rule}_i)

    Args:
        mask: any mask: of this module, a tree, a prefix, a function, or None.
        params: the parameters it is for, or their shapes.

    Returns:
        A description: ``print`` it for a table; ``.rows`` is the same as plain data
        (path, shape, dtype, role, sure, multiplier, rule); ``.decayed`` and ``.spared``
        count the numbers in the parameters. A question mark stands by a role that no
        name tells: see that the decision is meant.

    Raises:
        TypeError, ValueError: a leaf that is no array (filter an Equinox model, take
            the ``nnx.state(model, nnx.Param)`` of an NNX one); what the mask refuses.

    Example:
        >>> import decayax as dx, jax.numpy as jnp
        >>> params = {"dense": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}}
        >>> print(dx.masks.describe(dx.masks.no_bias_or_norm, params))
        parameter     shape   dtype    role    multiplier  rule
        dense/bias    (3,)    float32  bias             0  role bias
        dense/kernel  (2, 3)  float32  kernel           1  role kernel
        decayed: 6 numbers in 1 parameter; spared: 3 numbers in 1 parameter

    Reference:
        Parameter tables as in CLU's ``parameter_overview``, with the decision beside.
    """
    name = "masks.describe"
    require_parameters(name, params)
    decided, role_at = as_mask(name, mask).decide(params), roles(params)
    return Description(
        tuple(
            Row(
                path=path_str(path),
                shape=tuple(np.shape(leaf)),
                dtype=str(dtype_of(leaf)),
                role=role_at[path].name,
                sure=role_at[path].sure,
                multiplier=decided[path].multiplier,
                rule=decided[path].rule,
            )
            for path, leaf in leaves_with_path(params)
            if not is_masked_leaf(leaf)
        )
    )


def _cells(row: Row) -> tuple[str, ...]:
    known = isinstance(row.multiplier, float)
    multiplier = f"{row.multiplier:g}" if known else "traced"
    role = row.role if row.sure else f"{row.role} ?"
    return (row.path, str(row.shape), row.dtype, role, multiplier, row.rule)


def _count(parameters: int) -> str:
    return f"{parameters} parameter{'' if parameters == 1 else 's'}"
