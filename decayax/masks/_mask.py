"""Class Mask: a mask that gives every parameter a multiplier and the rule behind it."""

import dataclasses
import functools
import importlib
import reprlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np
import optax

from decayax._core.paths import (
    flatten_with_path,
    is_masked_leaf,
    leaves_with_path,
    Path,
    path_str,
    summarize_paths,
)
from decayax._core.strength import equal_values, is_concrete, is_zero, Strength
from decayax.masks._resolve import (
    is_mask_fn,
    MASK_FN_HINT,
    MaskOrFn,
    MaskTree,
    Multipliers,
    require_tree,
    resolve_mask,
    tree_multipliers,
)


ARGUMENT_REPR = reprlib.Repr()  # it shortens each argument of a mask's repr
ARGUMENT_REPR.maxother = ARGUMENT_REPR.maxstring = 100  # characters


def _repr_object(x: Any, level: int) -> str:
    """A small array or another object in one line; large ones by shape or type."""
    if isinstance(x, np.ndarray | jax.Array) and is_concrete(x):
        numbers = " ".join(np.array2string(np.asarray(x), separator=", ").split())
        is_small = len(numbers) < ARGUMENT_REPR.maxother
        return f"np.array({numbers})" if is_small else f"<array of shape {x.shape}>"
    text = reprlib.Repr.repr_instance(ARGUMENT_REPR, x, level)
    return f"<{type(x).__name__}>" if "\n" in text else text  # it prints a table


ARGUMENT_REPR.repr_instance = _repr_object


class Decision(NamedTuple):
    """What a mask decides for one parameter."""

    multiplier: Strength
    rule: str  # why: "role bias", "path block_0/.*"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Decision) and equal_values(tuple(self), tuple(other))

    def __ne__(self, other: object) -> bool:  # that of a tuple compares arrays with !=
        return not self == other


Decisions: TypeAlias = dict[Path, Decision]


@dataclasses.dataclass(frozen=True, repr=False)
class Mask:
    """A mask with reasons; called with the parameters, it returns multipliers."""

    name: str  # public name of what made it: "masks.by_path"; for errors and repr
    # Its arguments are name, params, *args, **kwargs.
    function: Callable[..., Decisions]
    args: tuple[Any, ...] = ()  # as the user passed them
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def decide(self, params: "optax.Params") -> "Decisions":
        """The decision for every parameter, by path."""
        require_tree(self.name, params)
        return self.function(self.name, params, *self.args, **self.kwargs)

    def __call__(self, params: "optax.Params") -> "MaskTree":
        """The tree of multipliers, in the structure of ``params``."""
        decided = self.decide(params)
        flat, treedef = flatten_with_path(params)
        return treedef.unflatten(
            leaf if is_masked_leaf(leaf) else decided[path].multiplier
            for path, leaf in flat
        )

    def __eq__(self, other: object) -> bool:
        """Whether both are made by the same call; arrays are compared by value."""
        if not isinstance(other, Mask):
            return NotImplemented
        calls = [(m.name, m.function, m.args, dict(m.kwargs)) for m in (self, other)]
        return equal_values(*calls)

    def __repr__(self) -> str:
        """The expression that makes the mask; long arguments are shortened."""
        shown = [ARGUMENT_REPR.repr(value) for value in self.args]
        shown += [f"{k}={ARGUMENT_REPR.repr(v)}" for k, v in self.kwargs.items()]
        return f"{self.name}({', '.join(shown)})" if shown else self.name

    def __reduce__(self) -> str | tuple[Any, ...]:
        """Pickle the call that made the mask: it names public functions only."""
        masks = importlib.import_module("decayax.masks")
        made_by = getattr(masks, self.name.removeprefix("masks."))
        if made_by is self:
            return self.name.removeprefix("masks.")
        return functools.partial(made_by, **self.kwargs), self.args

    def __hash__(self) -> int:
        # The arguments may be trees, which have no hash.
        return hash((self.name, self.function))


def check_mask(name: str, mask: MaskOrFn) -> None:
    """Raise for a wrong entry of a mask tree. A function is checked when called."""
    if mask is not None and not is_mask_fn(mask):
        tree_multipliers(name, mask)


def decide(name: str, mask: MaskOrFn, params: optax.Params) -> Decisions:
    """The decision of any mask (a Mask, a tree, a function, None), by path."""
    if isinstance(mask, Mask):
        return mask.decide(params)
    require_tree(name, params)
    kind = "function" if is_mask_fn(mask) else "tree"
    rule = "mask None: all" if mask is None else f"mask {kind}"
    multipliers = resolve_mask(name, mask, params)
    return {path: Decision(value, rule) for path, value in multipliers.items()}


def resolve_nonzero_mask(
    name: str, mask: MaskOrFn, params: optax.Params
) -> Multipliers:
    """The multiplier of every parameter; raise if the mask excludes all of them."""
    if isinstance(mask, Mask):  # as `resolve_mask`, without a tree in between
        decided = mask.decide(params)
        multipliers = {path: decision.multiplier for path, decision in decided.items()}
    else:
        multipliers = resolve_mask(name, mask, params)
    if not multipliers or not all(map(is_zero, multipliers.values())):
        return multipliers
    # A group of optax.partition may hold no parameter that decays.
    if any(isinstance(leaf, optax.MaskedNode) for _, leaf in leaves_with_path(params)):
        return multipliers
    hint = f"{MASK_FN_HINT} " if is_mask_fn(mask) else ""
    raise ValueError(
        f"{name}: the mask matches no parameter: "
        f"{summarize_paths(map(path_str, multipliers))} all get the multiplier 0. "
        f"Correct the mask. For no decay, pass weight_decay=0.0. {hint}(Inside "
        "optax.inject_hyperparams, a mask function needs static_args='mask'; without "
        "it, the function is called with the step.)"
    )
