"""What decays: masks by role, path, node or symmetry, and what they decide.

A mask gives every parameter a multiplier m of the decay: True, False, a number ≥ 0, or
an array of them that broadcasts against the parameter (one for each row or layer).
A mask of this module is a function of the parameters, for ``mask=`` of any decayax
transform and for ``optax.masked``. It raises an error for a rule that matches no
parameter, and ``describe`` shows the reason for each decision:

    optimizer = dx.adamw(1e-3, weight_decay=0.1, mask=dx.masks.no_bias_or_norm)
    print(dx.masks.describe(dx.masks.no_bias_or_norm, params))
"""

from decayax.masks._by_node import by_node
from decayax.masks._by_path import by_path
from decayax.masks._by_role import (
    by_role,
    no_bias_norm_or_token,
    no_bias_or_norm,
)
from decayax.masks._by_symmetry import by_symmetry, scale_invariant
from decayax.masks._combine import (
    all_of,
    any_of,
    invert,
    scale,
)
from decayax.masks._describe import (
    describe,
    Description,
    Row,
)
from decayax.masks._mask import Decision, Mask


__all__ = [
    "by_node",
    "by_path",
    "by_role",
    "no_bias_or_norm",
    "no_bias_norm_or_token",
    "by_symmetry",
    "scale_invariant",
    "all_of",
    "any_of",
    "invert",
    "scale",
    "describe",
    "Description",
    "Row",
    "Decision",
    "Mask",
]


def __dir__() -> list[str]:
    return sorted(__all__)
