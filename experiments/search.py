"""Which points of a grid to try next, and whether a point is bracketed.

A point is a tuple of numbers, one for each axis. It is bracketed if on every axis one
and two steps on either side were tried, and none of them is better by more than the
standard error. The best point that was tried is an optimum only if it is bracketed. At
the edge of a grid, or next to a gap, an untried point may be better.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np


NOISE_POINTS = 10  # number of the best points that give the standard error
ROUNDING = 0.001  # relative tolerance when a value is compared with a bound

Point = tuple[float, ...]
Scores = Mapping[Point, np.ndarray]  # by point: a score for each seed; larger is better


class Axis(NamedTuple):
    """A hyper-parameter to tune: its coarse values, and how far the grid may grow.

    With a `ratio`, neighbours differ by that factor, and points may be added between
    and beyond the values. Without a ratio the list of values is fixed. If 0 is one of
    the values, it is the neighbour below `low`.
    """

    name: str
    values: tuple[float, ...]
    low: float = 0.0
    high: float = math.inf
    ratio: float | None = 2.0


def powers(first: int, last: int, step: int = 1) -> tuple[float, ...]:
    """Return the powers of two from 2^first to 2^last, every `step`-th."""
    return tuple(2.0**exponent for exponent in range(first, last + 1, step))


def octaves(name: str, first: int, last: int, step: int = 1, *, growth: int) -> Axis:
    """Return the axis of `powers` that may grow by `growth` octaves at either end."""
    low, high = 2.0 ** (first - growth), 2.0 ** (last + growth)
    return Axis(name, powers(first, last, step), low, high)


def coarse_grid(axes: Sequence[Axis]) -> list[Point]:
    """Return every combination of the axes' values.

    Raises:
        ValueError: neighbours of an axis are more than two steps apart. A narrow
            optimum between them would show at neither.
    """
    for axis in axes:
        positive = [value for value in axis.values if value > 0]
        for value, following in itertools.pairwise(positive):
            if axis.ratio is None:
                continue
            if following > (1 + ROUNDING) * value * axis.ratio**2:
                raise ValueError(
                    f"axis {axis.name}: {value:g} and {following:g} are more than two "
                    f"steps of {axis.ratio:g} apart. Add the values between them."
                )
    return list(itertools.product(*(axis.values for axis in axes)))


def rank(scores: Scores) -> list[Point]:
    """Sort points by their sum of scores, the best first.

    Between equal sums the smaller values come first, compared axis by axis.
    """
    # Sums of counts are exact in floating point, means are not.
    return sorted(scores, key=lambda point: (-float(scores[point].sum()), point))


def standard_error(scores: Scores) -> float:
    """Return the standard error of the difference between two points' means.

    It uses the mean variance over seeds of the best points.
    """
    best = rank(scores)[:NOISE_POINTS]
    count = len(scores[best[0]])
    if count < 2:
        return 0.0
    variance = np.mean([np.var(scores[point], ddof=1) for point in best])
    return float(np.sqrt(2 / count * variance))


def points_to_add(scores: Scores, axes: Sequence[Axis], count: int) -> list[Point]:
    """Return the next points to try, the most urgent first.

    First come the points that bracket the points within a standard error of the best.
    Then come the gaps on the lines through the best point, where a narrow optimum may
    be. Then come the neighbours of all points, so that every grid gets `count` points.
    There are fewer only if the bounds of the axes allow no more.
    """
    order = rank(scores)
    threshold = float(scores[order[0]].mean()) - standard_error(scores)
    near = [point for point in order if scores[point].mean() >= threshold]
    urgent = itertools.chain(
        (new for point in near for new in _bracket(point, axes)),
        _lines_through(order[0], axes),
        (new for point in order for new in _neighbours(point, axes)),
    )
    # A dictionary keeps the order and drops duplicates.
    new = dict.fromkeys(point for point in urgent if point not in scores)
    return list(itertools.islice(new, count))


def open_sides(
    point: Point, scores: Scores, axes: Sequence[Axis], decided: Scores
) -> list[str]:
    """Return the sides on which a point is not bracketed, such as "weight_decay above".

    An axis without a ratio has no sides, and there is no side below 0.

    Args:
        point: the point.
        scores: the scores of all points that were tried.
        axes: the axes of the points.
        decided: the scores of points that ran on more seeds. Between two such points,
            these scores count.
    """
    threshold = float(scores[point].mean()) + standard_error(scores)

    def is_worse(other: Point) -> bool:
        if other in decided and point in decided:
            return bool(decided[other].sum() <= decided[point].sum())
        return other in scores and bool(scores[other].mean() <= threshold)

    found = []
    for index, axis in enumerate(axes):
        for side, steps in (("below", (-1, -2)), ("above", (1, 2))):
            shifted = [_shift(point, index, axis, step) for step in steps]
            if not all(other is None or is_worse(other) for other in shifted):
                found.append(f"{axis.name} {side}")
    return found


def _shift(point: Point, index: int, axis: Axis, steps: int) -> Point | None:
    """Move a point some steps along one axis; None if the axis has no steps."""
    if axis.ratio is None or point[index] == 0:
        return None
    base = next(value for value in axis.values if value > 0)
    # Rounded, because the logarithm of a power of the ratio is not exact.
    count = round(math.log(point[index] / base, axis.ratio)) + steps
    return _replace(point, index, _axis_value(axis, base, count))


def _axis_value(axis: Axis, base: float, count: int) -> float:
    """Return the value `count` steps from `base`.

    Values are compared with ==, so it is always the same float: a value of the axis if
    one is close, else a power of the ratio.
    """
    value = base * axis.ratio**count if axis.ratio is not None else base
    if value < (1 - ROUNDING) * axis.low and 0.0 in axis.values:
        return 0.0
    close = [given for given in axis.values if math.isclose(given, value)]
    return close[0] if close else value


def _replace(point: Point, index: int, value: float) -> Point:
    return (*point[:index], value, *point[index + 1 :])


def _shift_within_bounds(
    point: Point, index: int, axis: Axis, steps: int
) -> Point | None:
    """Move a point some steps along one axis; None if that is out of its bounds."""
    shifted = _shift(point, index, axis, steps)
    if shifted is None:
        return None
    value = shifted[index]
    low, high = (1 - ROUNDING) * axis.low, (1 + ROUNDING) * axis.high
    return shifted if low <= value <= high or value in axis.values else None


def _bracket(point: Point, axes: Sequence[Axis]) -> Iterator[Point]:
    """Yield the points one step away on every axis, then those two steps away."""
    for steps in (1, 2):
        for index, axis in enumerate(axes):
            for sign in (-1, 1):
                shifted = _shift_within_bounds(point, index, axis, sign * steps)
                if shifted is not None:
                    yield shifted


def _lines_through(point: Point, axes: Sequence[Axis]) -> Iterator[Point]:
    """Yield all steps of the coarse grid on the lines through a point."""
    for index, axis in enumerate(axes):
        if axis.ratio is None:
            continue
        positive = [value for value in axis.values if value > 0]
        steps = round(math.log(positive[-1] / positive[0], axis.ratio))
        for count in range(steps + 1):
            yield _replace(point, index, _axis_value(axis, positive[0], count))


def _neighbours(point: Point, axes: Sequence[Axis]) -> Iterator[Point]:
    """Yield the points at most one step away on every axis, diagonals included."""
    for steps in itertools.product((0, -1, 1), repeat=len(axes)):
        shifted: Point | None = point
        for index, (axis, step) in enumerate(zip(axes, steps, strict=True)):
            if step != 0 and shifted is not None:
                shifted = _shift_within_bounds(shifted, index, axis, step)
        if shifted is not None:
            yield shifted
