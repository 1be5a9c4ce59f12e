"""Units: the parts of the parameters that have one exponent each.

A unit is a parameter, or one slice of a parameter that holds a stack of layers.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from decayax._core.dtypes import is_inexact
from decayax._core.parameters import is_parameter
from decayax._core.paths import leaves_with_path, Path, path_str


def parameter_leaves(params: Any) -> list[tuple[Path, Any]]:
    """The leaves that have a scale: inexact arrays, or their shapes."""
    leaves = leaves_with_path(params)
    return [(path, x) for path, x in leaves if is_parameter(x) and is_inexact(x)]


class Parameter(NamedTuple):
    """A parameter of the function: an inexact leaf of its argument."""

    path: Path
    shape: tuple[int, ...]
    stack: int | None  # the axis of its slices
    first: int  # its first unit

    def count(self) -> int:
        """The number of its units."""
        return 1 if self.stack is None else self.shape[self.stack]

    def units(self) -> range:
        return range(self.first, self.first + self.count())

    def name(self, index: int) -> str:
        """The path of a unit; of a slice: ``layers/kernel[2]``, ``qkv/kernel[:,1]``."""
        path = path_str(self.path)
        return path if self.stack is None else f"{path}[{':,' * self.stack}{index}]"

    def path_str(self) -> str:
        return path_str(self.path)

    def slice(self, unit: int) -> tuple[int, int] | None:
        return None if self.stack is None else (self.stack, unit - self.first)

    def unit_shape(self) -> tuple[int, ...]:
        return tuple(self.shape[a] for a in self.other_axes())

    def select(self, values: np.ndarray) -> np.ndarray:
        """Its own of the values of all units, as an array that broadcasts to it."""
        own = np.asarray(values)[self.first : self.first + self.count()]
        if self.stack is None:
            return own.reshape(())
        return own.reshape(
            [-1 if a == self.stack else 1 for a in range(len(self.shape))]
        )

    def other_axes(self) -> tuple[int, ...]:
        return tuple(a for a in range(len(self.shape)) if a != self.stack)


def parameters_with_units(
    paths: Sequence[Path],
    shapes: Sequence[tuple[int, ...]],
    stacks: Sequence[int | None],
) -> list[Parameter]:
    """The parameters, with their units numbered from 0."""
    parameters, first = [], 0
    for path, shape, stack in zip(paths, shapes, stacks, strict=True):
        parameters.append(Parameter(path, shape, stack, first))
        first += parameters[-1].count()
    return parameters
