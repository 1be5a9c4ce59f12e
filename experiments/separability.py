"""Are learning rate and decay separate knobs? Numbers from the errors of a grid.

Errors are percentages by point (λ, γ), an array over the seeds. For each learning rate
the centre of the valley along λ is an average of y = log2 λ over its points, weighted
by how near to the best each of them is:

    y*(γ) = Σ w y / Σ w,    w = exp(-(e - e_min) / WIDTH)
    ridge slope             of the line through y* against x = log2 γ, by least squares

The slope is 0 where the two are separate, -1 where only γλ matters, +1 where only λ/γ
does. A learning rate is used if its best error is within GOOD points of the best of
all, and if the error rises by RISE points on both sides: otherwise λ has little effect,
or the grid does not contain the whole valley. The jackknife (the slope without each
seed in turn) gives a value for each seed; two one-sided t-tests of these values show
that a slope lies within ±0.25, or outside. The p-values are for one grid: correct them
for the number of grids.

    regret        tune γ at some λ, then λ at that γ, or the other way round: how much
                  worse than the optimum, on average over starts and orders
    sensitivity   mean over γ of e - e*, with λ fixed at its best, or tuned for each γ

Reference:
    Efron and Tibshirani, *An Introduction to the Bootstrap*, 1993, chapter 11.
    Schuirmann, *A comparison of the two one-sided tests procedure*, J. Pharmacokinet.
    Biopharm. 15 (1987), 657-680.
    Wortsman et al., *Small-scale proxies for large-scale Transformer training
    instabilities*, 2023, section 2.2: sensitivity, there of the loss.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy import stats

from experiments.search import Point
from experiments.statistics import LEVEL


WIDTH = 1.0  # points of error by which a weight falls to 1/e
GOOD = 3.0  # points: learning rates that are this near to the best make the ridge
RISE = 3.0  # points on both sides of a valley: what is cut off weighs e^-3 at most
MARGIN = 1.0  # points by which a grid of few seeds may be wrong
SEPARATE = 0.25  # a slope that is nearer to 0 is called separable
ROWS, POINTS = 9, 9  # at most: learning rates of a ridge, and points of each
MIN_RATES = 3  # learning rates of a ridge

Errors = Mapping[Point, np.ndarray]
Row = dict[float, np.ndarray]  # of one learning rate: errors by y = log2 λ, rising


class Ridge(NamedTuple):
    """The line y = offset + slope · x through the valley, and its points."""

    slope: float
    offset: float
    low: float  # 95 % interval of the slope
    high: float
    p_separable: float  # of |slope| >= SEPARATE, by two one-sided tests
    p_coupled: float  # of |slope| <= SEPARATE, two-sided
    centres: tuple[tuple[float, float], ...]  # (x, y*)


def fit_ridge(errors: Errors) -> Ridge | None:
    """The ridge of a grid; None if fewer than three learning rates have a valley."""
    rows = _valleys(errors, GOOD)
    if len(rows) < MIN_RATES:
        return None
    slope, offset = _line(rows)
    count = len(next(iter(errors.values())))
    without = [_line(rows, np.arange(count) != seed)[0] for seed in range(count)]
    values = count * slope - (count - 1) * np.array(without)
    error = max(float(np.std(values, ddof=1)) / np.sqrt(count), 1e-12)
    student = stats.t(count - 1)
    margin = float(student.ppf(1 - LEVEL / 2)) * error
    return Ridge(
        slope=slope,
        offset=offset,
        low=slope - margin,
        high=slope + margin,
        p_separable=float(student.sf((SEPARATE - abs(slope)) / error)),
        p_coupled=min(1.0, 2 * float(student.sf((abs(slope) - SEPARATE) / error))),
        centres=tuple((x, _centre(row)) for x, row in rows.items()),
    )


def points_for_slope(errors: Errors) -> list[Point]:
    """Of a grid on few seeds: the points that a slope on more seeds needs.

    The valleys of the best learning rates, each up to where the error has risen.
    """
    rows = _valleys(errors, GOOD + MARGIN)
    best = sorted(rows, key=lambda x: min(e.mean() for e in rows[x].values()))[:ROWS]
    return [(2.0**y, 2.0**x) for x in sorted(best) for y in _window(rows[x])]


def _window(row: Row) -> list[float]:
    """The y around the centre, out to the first on each side that is far above it."""
    means = {y: float(e.mean()) for y, e in row.items()}
    centre, far = _centre(row), min(means.values()) + RISE + MARGIN
    below = [y for y in row if y < centre and means[y] > far]
    above = [y for y in row if y > centre and means[y] > far]
    low, high = max(below, default=min(row)), min(above, default=max(row))
    near = sorted(row, key=lambda y: abs(y - centre))[:POINTS]
    return [y for y in sorted(near) if low <= y <= high]


def _valleys(errors: Errors, good: float) -> dict[float, Row]:
    """By x, the rows that are good enough and rise on both sides."""
    rows: dict[float, Row] = {}
    for decay, rate in sorted(errors):
        if decay > 0:
            row = rows.setdefault(float(np.log2(rate)), {})
            row[float(np.log2(decay))] = errors[decay, rate]
    if not rows:
        return {}
    best = min(e.mean() for row in rows.values() for e in row.values())
    return {x: row for x, row in sorted(rows.items()) if _is_valley(row, best + good)}


def _is_valley(row: Row, limit: float) -> bool:
    means = np.array([e.mean() for e in row.values()])
    place = int(means.argmin())
    below, above = means[:place], means[place + 1 :]
    risen = means[place] + RISE
    return bool(
        means[place] <= limit and below.max(initial=0) > risen < above.max(initial=0)
    )


def _centre(row: Row, seeds: np.ndarray | slice = slice(None)) -> float:
    """y* of a row, on some of the seeds."""
    means = np.array([e[seeds].mean() for e in row.values()])
    weights = np.exp(-(means - means.min()) / WIDTH)
    return float(np.average(list(row), weights=weights))


def _line(
    rows: dict[float, Row], seeds: np.ndarray | slice = slice(None)
) -> tuple[float, float]:
    """Slope and offset of the line through the centres."""
    centres = [_centre(row, seeds) for row in rows.values()]
    slope, offset = np.polyfit(list(rows), centres, 1)
    return float(slope), float(offset)


def gain(errors: np.ndarray) -> float:
    """Of λ at the best learning rate, against the smallest λ of the grid, in points."""
    row = np.unravel_index(errors.argmin(), errors.shape)[0]
    return float(errors[row, 0] - errors.min())


def regret(errors: np.ndarray) -> float:
    """Of tuning one axis after the other, in points; rows are learning rates."""
    rate_first = errors.argmin(0)  # for each λ to start from
    decay_first = errors.argmin(1)  # for each γ to start from
    ends = [*errors[rate_first].min(1), *errors[:, decay_first].min(0)]
    return float(np.mean(ends) - errors.min())


def sensitivity(errors: np.ndarray, retuned: bool) -> float:
    """To the learning rate, in points; λ at its best, or `retuned` for each γ."""
    column = np.unravel_index(errors.argmin(), errors.shape)[1]
    by_rate = errors.min(1) if retuned else errors[:, column]
    return float(by_rate.mean() - errors.min())
