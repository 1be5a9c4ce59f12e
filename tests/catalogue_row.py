"""The form of a row of the catalogue: how to build a transform, and its reference."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Row(NamedTuple):
    name: str  # the public name that it tests
    options: str  # the difference to other rows of that name
    part: Callable[..., Any]  # (weight_decay, mask=None) -> the public transform
    optimizer: Callable[..., Any]  # (learning_rate, weight_decay, mask=None) -> whole
    reference: Callable[..., Any]  # NumPy float64: the trajectory of that optimizer
    decays: bool = True  # False: it has no strength, or 0 is not the identity
    pulls: bool = True  # whether it moves weights without a gradient
    schedules: bool = True  # whether weight_decay may be a schedule
    argument: str = "weight_decay"  # what the strength is called
    elementwise: bool = True  # False: its norms make one tensor of stacked layers
    real: bool = False  # it refuses complex leaves
    emits_float32: bool = False  # for 16-bit parameters; it is the outermost wrapper
    rounds_state: bool = False  # its float32 moments are rounded, so paths differ
    built_on: str | None = None  # the part of optax whose limits it has
