"""Which points of a grid to try next, and which of them is bracketed.

A point is a tuple of numbers, one for each axis. It is bracketed if one and two steps
on either side of it, on every axis, were tried, and none of them is better by more than
the standard error. The best tried point is an optimum only if it is bracketed: at the
edge of a grid, or next to a gap, a better point may be one that was not tried.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np


NEAR = 10  # best points, whose variance over seeds gives the standard error

Point = tuple[float, ...]
Scores = Mapping[Point, np.ndarray]  # by point, a score for each seed; larger is better


class Axis(NamedTuple):
    """A number to tune: the values of the coarse pass, and how far the grid may grow.

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
    """Powers of two from 2^first to 2^last, every `step`-th."""
    return tuple(2.0**exponent for exponent in range(first, last + 1, step))


def coarse_grid(axes: Sequence[Axis]) -> list[Point]:
    """Every combination of the axes' values.

    Raises:
        ValueError: neighbours of an axis are more than two steps apart. An optimum that
            is one step wide could lie between them and show at neither.
    """
    for axis in axes:
        for value, after in itertools.pairwise(v for v in axis.values if v > 0):
            if axis.ratio and after > 1.001 * value * axis.ratio**2:
                raise ValueError(
                    f"axis {axis.name}: {value:g} and {after:g} are more than two "
                    f"steps of {axis.ratio:g} apart. Write the values between them."
                )
    return list(itertools.product(*(axis.values for axis in axes)))


def rank(scores: Scores) -> list[Point]:
    """The best sum first; ties: the smaller values first, first axis first."""
    return sorted(scores, key=lambda point: (-float(scores[point].sum()), point))


def standard_error(scores: Scores) -> float:
    """Of the difference between the means of two points, near the best point."""
    best = rank(scores)[:NEAR]
    count = len(scores[best[0]])
    if count < 2:
        return 0.0
    variance = np.mean([np.var(scores[point], ddof=1) for point in best])
    return float(np.sqrt(2 / count * variance))


def points_to_add(scores: Scores, axes: Sequence[Axis], count: int) -> list[Point]:
    """The next points to try, the most urgent first; fewer than `count` at the bounds.

    First the points that bracket those within a standard error of the best, the best
    one first. Then the gaps on the lines through the best point, since a narrow optimum
    may lie in one. Then the neighbours of all points, so every grid gets as many.
    """
    order = rank(scores)
    level = float(scores[order[0]].mean()) - standard_error(scores)
    near = [point for point in order if scores[point].mean() >= level]
    urgent = itertools.chain(
        (new for point in near for new in _sides(point, axes)),
        _gaps(order[0], axes),
        (new for point in order for new in _around(point, axes)),
    )
    new = dict.fromkeys(point for point in urgent if point not in scores)
    return list(itertools.islice(new, count))


def open_sides(
    point: Point, scores: Scores, axes: Sequence[Axis], decided: Scores
) -> list[str]:
    """Where a point is not bracketed, such as "weight_decay above".

    `scores` are those of all tried points. `decided` are those of points that ran on
    more seeds; they take precedence. An axis without a ratio has no sides, and there is
    no value below 0.
    """
    level = float(scores[point].mean()) + standard_error(scores)

    def closes(other: Point | None) -> bool:
        if other is None:
            return True
        if other in decided and point in decided:
            return bool(decided[other].sum() <= decided[point].sum())
        return other in scores and bool(scores[other].mean() <= level)

    return [
        f"{axis.name} {side}"
        for place, axis in enumerate(axes)
        for side, steps in (("below", (-1, -2)), ("above", (1, 2)))
        if not all(closes(_shifted(point, place, axis, step)) for step in steps)
    ]


def _shifted(point: Point, place: int, axis: Axis, steps: int) -> Point | None:
    """A point some steps further on one axis; None if the axis has no steps."""
    if axis.ratio is None or point[place] == 0:
        return None
    base = next(value for value in axis.values if value > 0)
    count = round(math.log(point[place] / base, axis.ratio)) + steps
    return _replaced(point, place, _of_axis(axis, base, count))


def _of_axis(axis: Axis, base: float, count: int) -> float:
    """The value some steps from the first one: always the same float."""
    value = base * axis.ratio**count if axis.ratio else base
    if value < 0.999 * axis.low and 0.0 in axis.values:
        return 0.0
    near = [given for given in axis.values if math.isclose(given, value)]
    return near[0] if near else value


def _replaced(point: Point, place: int, value: float) -> Point:
    return (*point[:place], value, *point[place + 1 :])


def _moved(point: Point, place: int, axis: Axis, steps: int) -> Iterator[Point]:
    """A point some steps further, if it lies within the bounds of the axis."""
    moved = _shifted(point, place, axis, steps)
    if moved is not None and (
        0.999 * axis.low <= moved[place] <= 1.001 * axis.high
        or moved[place] in axis.values
    ):
        yield moved


def _sides(point: Point, axes: Sequence[Axis]) -> Iterator[Point]:
    """One step away from a point on every axis, then two steps."""
    for steps in (1, 2):
        for place, axis in enumerate(axes):
            for sign in (-1, 1):
                yield from _moved(point, place, axis, sign * steps)


def _gaps(point: Point, axes: Sequence[Axis]) -> Iterator[Point]:
    """The points that the coarse grid left out on the lines through a point."""
    for place, axis in enumerate(axes):
        if axis.ratio is None:
            continue
        positive = [value for value in axis.values if value > 0]
        steps = round(math.log(positive[-1] / positive[0], axis.ratio))
        for count in range(steps + 1):
            yield _replaced(point, place, _of_axis(axis, positive[0], count))


def _around(point: Point, axes: Sequence[Axis]) -> Iterator[Point]:
    """At most one step away on every axis at once."""
    for steps in itertools.product((0, -1, 1), repeat=len(axes)):
        moved = [point]
        for place, (axis, step) in enumerate(zip(axes, steps, strict=True)):
            if step:
                moved = [new for old in moved for new in _moved(old, place, axis, step)]
        yield from moved
