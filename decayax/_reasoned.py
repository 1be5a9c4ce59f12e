"""A mask that can say why: for every parameter a multiplier and the rule behind it."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from decayax._mask import is_function, MaskOrFn, read_mask
from decayax._strength import Strength
from decayax._tree import flatten, is_hole, Path


Multiplier = bool | float | jax.Array


class Decision(NamedTuple):
    """What a mask says of one parameter."""

    multiplier: Strength
    rule: str  # why


@dataclasses.dataclass(frozen=True)
class Mask:
    """A mask that can say why: call it on the parameters for a tree of multipliers."""

    name: str
    decide: Callable[[Any], dict[Path, Decision]]  # params -> decision by path

    def __call__(self, params: Any) -> Any:
        """The tree of multipliers, in the structure of ``params``."""
        if jax.tree_util.all_leaves([params]) and not is_hole(params):
            raise ValueError(
                f"masks.{self.name}: got one bare array without leaf paths. Inside "
                "optax.inject_hyperparams write static_args='mask'; inside "
                "optax.flatten a mask cannot work, move the decay out of it."
            )
        decided = self.decide(params)
        flat, treedef = flatten(params)
        return treedef.unflatten(
            leaf if is_hole(leaf) else decided[path].multiplier for path, leaf in flat
        )


def as_mask(mask: MaskOrFn) -> Mask:
    """Any mask (a tree, a prefix, a function, None) as one that can say why."""
    if isinstance(mask, Mask):
        return mask
    rule = "none: all" if mask is None else "function" if is_function(mask) else "tree"

    def decide(params: Any) -> dict[Path, Decision]:
        found = read_mask("masks", mask, params)
        return {path: Decision(value, f"mask {rule}") for path, value in found.items()}

    return Mask("as_mask", decide)
