"""From the probes to candidates: units without a gradient, invariant units, groups."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from decayax._symmetries.basis import sparse_basis
from decayax._symmetries.probes import Probes
from decayax._symmetries.units import Parameter


# Without ε and in float64, a sensitivity of 0 is calculated as about 1e-13, and others
# are rarely below 1e-4. Some primitives cannot run in float64: then as about 1e-6.
TOLERANCE, NARROW_TOLERANCE = 1e-8, 1e-4
# A gradient that is this much smaller than all together is a rounding error, too.
FLAT = 1e-14


class Candidates(NamedTuple):
    """What the probes say, before it is confirmed."""

    flat: np.ndarray  # [units] bool: without a gradient
    invariant: np.ndarray  # [units] bool
    groups: np.ndarray  # [groups, units]: exponents
    sensitivity: np.ndarray  # [units]
    gap: tuple[float, float]  # of the singular values: the last one, the first null


def classify(probes: Probes, tolerance: float) -> Candidates:
    """Find the units and groups whose scale the function does not see."""
    size, product = _rms(probes.sizes), _rms(probes.products)
    flat = size <= max(FLAT, tolerance**2)
    sensitivity = np.where(flat, 0.0, product / np.where(flat, 1.0, size))
    invariant = ~flat & (sensitivity < tolerance)
    others = np.flatnonzero(~flat & ~invariant)
    groups, gap = _null_space(probes.products[:, others], tolerance)
    exponents = np.zeros((len(groups), len(size)))
    exponents[:, others] = groups
    # One unit alone is nearly invariant, but not to the tolerance.
    exponents = exponents[np.count_nonzero(exponents, axis=1) > 1]
    return Candidates(flat, invariant, exponents, sensitivity, gap)


def _rms(rows: np.ndarray) -> np.ndarray:
    return np.sqrt(np.mean(rows**2, axis=0))


def _null_space(
    products: np.ndarray, tolerance: float
) -> tuple[np.ndarray, tuple[float, float]]:
    """A sparse basis of {a: M a = 0}, and the singular values around the gap."""
    units = products.shape[1]
    if units < 2:
        return np.zeros((0, units)), (1.0, 0.0)
    scale = _rms(products)
    scale = np.where(scale == 0, 1.0, scale)
    rows = products / scale
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = rows / np.where(lengths == 0, 1.0, lengths)
    _, values, directions = np.linalg.svd(rows)
    values = values / (values[0] or 1.0)
    rank = int(np.sum(values > tolerance))
    null = directions[rank:] / scale
    gap = (float(values[rank - 1]), float(max(values[rank:], default=0.0)))
    if not len(null):
        return np.zeros((0, units)), gap
    return sparse_basis(null / np.abs(null).max(axis=1, keepdims=True)), gap


def invariant_axes(
    elementwise: np.ndarray, parameter: Parameter, index: int, tolerance: float
) -> tuple[int, ...]:
    """The axes along which every slice of an invariant unit is invariant.

    ``elementwise`` is g θ of the parameter, for several probes: [rows, *shape].
    """
    axes = [a for a in range(len(parameter.shape)) if a != parameter.stack]
    if parameter.stack is not None:
        elementwise = np.take(elementwise, index, axis=1 + parameter.stack)
    # Positions in `elementwise`: its first axis counts the probes.
    places = [i for i, axis in enumerate(axes, start=1) if parameter.shape[axis] > 1]
    good = [p for p in places if _slices_vanish(elementwise, [p], tolerance)]
    while good and not _slices_vanish(elementwise, good, tolerance):
        # Slices along two axes may vanish each on their own, and not jointly.
        good.remove(min(good, key=lambda p: elementwise.shape[p]))
    return tuple(axes[p - 1] for p in good)


def _slices_vanish(
    elementwise: np.ndarray, places: Sequence[int], tolerance: float
) -> bool:
    """Whether <g, θ> of every slice along some axes is 0, and the slices are not."""
    others = tuple(i for i in range(1, elementwise.ndim) if i not in places)
    if all(elementwise.shape[i] == 1 for i in others):
        return False  # single weights: their scale is invariant only if they are dead
    product = _rms(np.sum(elementwise, axis=others))
    size = np.sqrt(np.mean(np.sum(elementwise**2, axis=others), axis=0))
    return bool(np.all(product <= tolerance * size + FLAT * size.max()))
