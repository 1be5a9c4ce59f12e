"""A mask that can say why: for every parameter a multiplier and the rule behind it."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from decayax._core.paths import (
    flatten_with_path,
    is_masked_leaf,
    leaves_with_path,
    Path,
)
from decayax._core.strength import Strength
from decayax.masks._resolve import (
    as_multiplier,
    is_function,
    MaskOrFn,
    read_mask,
    require_tree,
)


Multiplier = bool | float | jax.Array  # as a user writes it


class Decision(NamedTuple):
    """What a mask says of one parameter."""

    multiplier: Strength
    rule: str  # why


@dataclasses.dataclass(frozen=True)
class Mask:
    """A mask that can say why: call it on the parameters for a tree of multipliers."""

    name: str  # of the function that made it, for errors
    rule: Callable[[Any], dict[Path, Decision]]

    def decide(self, params: Any) -> dict[Path, Decision]:
        """The decision for every parameter, by path."""
        require_tree(self.name, params)
        return self.rule(params)

    def __call__(self, params: Any) -> Any:
        """The tree of multipliers, in the structure of ``params``."""
        decided = self.decide(params)
        flat, treedef = flatten_with_path(params)
        return treedef.unflatten(
            leaf if is_masked_leaf(leaf) else decided[path].multiplier
            for path, leaf in flat
        )


def as_mask(name: str, mask: MaskOrFn) -> Mask:
    """Any mask (a tree, a prefix, a function, None) as one that can say why.

    Args:
        name: public name of the function that takes the mask, for errors.
        mask: what it was given.

    Raises:
        TypeError, ValueError: an entry that is no bool and no number >= 0.
    """
    if isinstance(mask, Mask):
        return mask
    kind = "none: all" if mask is None else "function" if is_function(mask) else "tree"
    if kind == "tree":
        for path, value in leaves_with_path(mask):
            if not is_masked_leaf(value):
                as_multiplier(name, path, value)

    def rule(params: Any) -> dict[Path, Decision]:
        found = read_mask(name, mask, params)
        return {path: Decision(value, f"mask {kind}") for path, value in found.items()}

    return Mask(name, rule)
