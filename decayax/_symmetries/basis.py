"""A sparse basis of small integers for a space of exponents.

The basis of a null space is not unique. A readable one has vectors with few entries,
which are the circuits of the space: vectors whose support contains no smaller one. Row
reduction with another order of the columns gives other circuits, so many orders give
the short ones, and the greedy choice among them is the sparsest basis.
"""

import math
from collections.abc import Iterable, Iterator
from fractions import Fraction

import numpy as np

from decayax._symmetries.constants import MAX_DENOMINATOR


ZERO = 1e-6  # entries below are rounding errors: the exponents are small fractions
SNAP = 1e-5
ORDERS = 60


def sparse_basis(space: np.ndarray, seed: int = 0) -> np.ndarray:
    """A basis of the rows of ``space`` with few entries each, small integers if it can.

    >>> sparse_basis(np.array([[1.0, 1.0, -1.0, 0.0], [1.0, 1.0, 0.0, -2.0]]))
    array([[ 1.,  1., -1.,  0.],
           [ 0.,  0.,  1., -2.]])
    """
    space = _well_reduced(space)
    basis = _shortest(_circuits(space, np.random.default_rng(seed)), len(space))
    first = [int(np.flatnonzero(v)[0]) for v in basis]
    return basis[np.argsort(first, kind="stable")]


def _well_reduced(space: np.ndarray) -> np.ndarray:
    """Gauss-Jordan elimination with the largest pivots, for small rounding errors."""
    space = np.array(space, float)
    for row in range(len(space)):
        flat = int(np.argmax(np.abs(space[row:])))
        pivot, column = row + flat // space.shape[1], flat % space.shape[1]
        space[[row, pivot]] = space[[pivot, row]]
        _eliminate(space, row, column)
    return space


def _eliminate(matrix: np.ndarray, row: int, column: int) -> None:
    """Make the entry of one row 1 and those of all others 0, in place."""
    matrix[row] /= matrix[row, column]
    others = matrix[:, column].copy()
    others[row] = 0.0
    matrix -= np.outer(others, matrix[row])


def row_reduce(matrix: np.ndarray, columns: Iterable[int]) -> np.ndarray:
    """Gauss-Jordan elimination with pivots in the given columns, if possible.

    Rows that depend on others are dropped.
    """
    matrix = np.array(matrix, float)
    row = 0
    for column in columns:
        if row == len(matrix):
            break
        pivot = row + int(np.argmax(np.abs(matrix[row:, column])))
        if abs(matrix[pivot, column]) <= ZERO:
            continue
        matrix[[row, pivot]] = matrix[[pivot, row]]
        _eliminate(matrix, row, column)
        matrix[np.abs(matrix) <= ZERO] = 0.0
        row += 1
    return matrix[:row]


def _circuits(space: np.ndarray, random: np.random.Generator) -> Iterator[np.ndarray]:
    columns = np.arange(space.shape[1])
    yield from space
    yield from row_reduce(space, columns[::-1])
    for _ in range(ORDERS):
        yield from row_reduce(space, random.permutation(columns))


def _shortest(vectors: Iterable[np.ndarray], dimension: int) -> np.ndarray:
    """Independent vectors, those with the fewest and smallest entries first."""
    by_direction = {tuple(np.round(v / v[v != 0][0], 6)): v for v in vectors}
    unique = {tuple(v): v for v in map(_integers, by_direction.values())}
    # The last key prefers early columns, so that the choice is the same everywhere.
    by_length = sorted(
        unique.items(),
        key=lambda x: (np.count_nonzero(x[1]), np.abs(x[1]).sum(), x[0][::-1]),
    )
    chosen: list[np.ndarray] = []
    orthonormal: list[np.ndarray] = []
    for _, vector in by_length:
        if len(chosen) == dimension:
            break
        rest = vector / np.linalg.norm(vector)
        for direction in orthonormal:
            rest = rest - (rest @ direction) * direction
        if np.linalg.norm(rest) > ZERO:
            chosen.append(vector)
            orthonormal.append(rest / np.linalg.norm(rest))
    return np.array(chosen)


def _integers(vector: np.ndarray) -> np.ndarray:
    """The multiple with the smallest integers, its first entry positive.

    Exponents that are not fractions with small denominators stay as they are.
    """
    entries = vector[np.abs(vector) > ZERO]
    scaled = vector / (np.sign(entries[0]) * np.abs(entries).min())
    fractions = [Fraction(float(x)).limit_denominator(MAX_DENOMINATOR) for x in scaled]
    if any(abs(float(f) - x) > SNAP for f, x in zip(fractions, scaled, strict=True)):
        return scaled
    common = math.lcm(*(f.denominator for f in fractions))
    return np.array([float(f * common) for f in fractions])
