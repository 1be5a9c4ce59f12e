"""Which points of a grid to try next, and which of them is bracketed.

A point is a tuple of numbers, one for each axis. It is bracketed if one and two steps
on either side of it, on every axis, were tried. The best of the points that were tried
is an optimum only if it is bracketed: at the edge of a grid, or beside a gap, a better
one may lie where nobody looked.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np


NEAR = 10  # best points, whose spread over seeds is the noise

Point = tuple[float, ...]
Scores = Mapping[Point, np.ndarray]  # by point, a score for each seed; larger is better


class Axis(NamedTuple):
    """A number to tune: the values of the coarse pass, and how far the grid may grow.

    With a `ratio` neighbours differ by that factor, and points may be added between
    and beyond the values. Without one the values are a list that stays as it is.
    """

    name: str
    values: tuple[float, ...]
    low: float = 0.0
    high: float = math.inf
    ratio: float | None = 2.0


def powers(first: int, last: int, step: int = 1) -> tuple[float, ...]:
    """Powers of two from 2^first to 2^last, every `step`-th."""
    return tuple(2.0**exponent for exponent in range(first, last + 1, step))


def coarse(axes: Sequence[Axis]) -> list[Point]:
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


def ranked(scores: Scores) -> list[Point]:
    """The best sum first; between equal ones the smaller values, first axis first."""
    return sorted(scores, key=lambda point: (-float(scores[point].sum()), point))


def noise(scores: Scores) -> float:
    """The standard error of the difference of two points' means, near the best."""
    best = ranked(scores)[:NEAR]
    count = len(scores[best[0]])
    if count < 2:
        return 0.0
    variance = np.mean([np.var(scores[point], ddof=1) for point in best])
    return float(np.sqrt(2 / count * variance))


def additions(scores: Scores, axes: Sequence[Axis], count: int) -> list[Point]:
    """The next points to try, the most urgent first; fewer where the bounds end.

    First what brackets the points within the noise of the best, the best point first.
    Then the gaps on the lines through the best point, since a narrow optimum may lie in
    one. Then what is around the other points, so that every grid gets as many points.
    """
    order = ranked(scores)
    level = float(scores[order[0]].mean()) - noise(scores)
    near = [point for point in order if scores[point].mean() >= level]
    urgent = itertools.chain(
        (new for point in near for new in _sides(point, axes)),
        _gaps(order[0], axes),
        (new for point in order for new in _around(point, axes)),
    )
    new = dict.fromkeys(point for point in urgent if point not in scores)
    return list(itertools.islice(new, count))


def open_sides(point: Point, tried: Iterable[Point], axes: Sequence[Axis]) -> list[str]:
    """Where a point is not bracketed, such as "weight_decay above".

    An axis without a ratio has no sides, and below a value of 0 there is nothing.
    """
    tried = set(tried)
    found = []
    for place, axis in enumerate(axes):
        for side, steps in (("below", (-1, -2)), ("above", (1, 2))):
            wanted = [_shifted(point, place, axis, step) for step in steps]
            if any(each is not None and each not in tried for each in wanted):
                found.append(f"{axis.name} {side}")
    return found


def _shifted(point: Point, place: int, axis: Axis, steps: int) -> Point | None:
    """A point some steps further on one axis; None where the axis has no steps."""
    if axis.ratio is None or point[place] == 0:
        return None
    return _replaced(point, place, point[place] * axis.ratio**steps)


def _replaced(point: Point, place: int, value: float) -> Point:
    return (*point[:place], value, *point[place + 1 :])


def _moved(point: Point, place: int, axis: Axis, steps: int) -> Iterator[Point]:
    """A point some steps further, if it lies within the bounds of the axis."""
    moved = _shifted(point, place, axis, steps)
    if moved is not None and axis.low <= moved[place] <= axis.high:
        yield moved


def _sides(point: Point, axes: Sequence[Axis]) -> Iterator[Point]:
    """One step away from a point on every axis, then two steps."""
    for steps in (1, 2):
        for place, axis in enumerate(axes):
            for sign in (-1, 1):
                yield from _moved(point, place, axis, sign * steps)


def _gaps(point: Point, axes: Sequence[Axis]) -> Iterator[Point]:
    """What the coarse pass left out on the lines through a point."""
    for place, axis in enumerate(axes):
        if axis.ratio is None:
            continue
        for value, after in itertools.pairwise(v for v in axis.values if v > 0):
            steps = round(math.log(after / value, axis.ratio))
            for step in range(1, steps):
                yield _replaced(point, place, value * axis.ratio**step)


def _around(point: Point, axes: Sequence[Axis]) -> Iterator[Point]:
    """At most one step away on every axis at once."""
    for steps in itertools.product((0, -1, 1), repeat=len(axes)):
        moved = [point]
        for place, (axis, step) in enumerate(zip(axes, steps, strict=True)):
            if step:
                moved = [new for old in moved for new in _moved(old, place, axis, step)]
        yield from moved
