"""Are learning rate and weight decay separable? Measures from the errors of a grid.

The errors are percentages by point (λ, γ), each an array over the seeds. For each
learning rate γ, the centre of the valley along λ is the weighted average of y = log2 λ.
Points with a small error e have a large weight:

    y*(γ) = Σ w y / Σ w,    w = exp(-(e - e_min) / WIDTH)
    ridge slope             slope of the least-squares line through y* over x = log2 γ

The slope is 0 if the two are separable, -1 if only γλ matters, and +1 if only λ/γ
matters. A learning rate is used if its best error is within GOOD points of the best of
all, and if the error rises by RISE points on both sides of its best λ. Otherwise λ has
little effect, or the grid does not contain the whole valley. The jackknife (the slope
without each seed in turn) gives a value for each seed. Two one-sided t-tests of these
values show that a slope lies within ±0.25; a two-sided one shows that it lies outside.
The p-values are for one grid; correct them for the number of grids.

    regret        error above the optimum after tuning γ at a fixed λ and then λ at that
                  γ, or in the other order; the mean over all starts and both orders
    sensitivity   mean over γ of e - e*, with λ fixed at its best or tuned for each γ

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


# All errors are in percentage points.
WIDTH = 1.0  # an error this far above the best has the weight 1/e
GOOD = 3.0  # a learning rate is used if its best error is this close to the best of all
RISE = 3.0  # height of both sides of a valley; points beyond have a weight below e^-3
MARGIN = 1.0  # added to GOOD and RISE for a grid with few seeds
SEPARATE = 0.25  # a slope closer to 0 is called separable
ROWS, POINTS = 9, 9  # maximum number of learning rates, and of points for each
MIN_RATES = 3  # minimum number of learning rates of a ridge

Errors = Mapping[Point, np.ndarray]
Row = dict[float, np.ndarray]  # of one learning rate: errors by y = log2 λ, ascending


class Ridge(NamedTuple):
    """The line y = offset + slope · x through the centres of the valleys."""

    slope: float
    offset: float
    low: float  # 95 % interval of the slope
    high: float
    p_separable: float  # of the hypothesis |slope| >= SEPARATE, two one-sided tests
    p_not_separable: float  # of the hypothesis |slope| <= SEPARATE, two-sided
    centres: tuple[tuple[float, float], ...]  # (x, y*)


def fit_ridge(errors: Errors) -> Ridge | None:
    """Fit the ridge; None if fewer than three learning rates have a valley."""
    rows = _valleys(errors, GOOD)
    if len(rows) < MIN_RATES:
        return None
    slope, offset = _line(rows)
    count = len(next(iter(errors.values())))
    without = [_line(rows, np.arange(count) != seed)[0] for seed in range(count)]
    # The jackknife's pseudo-values: their spread is that of the slope over seeds.
    values = count * slope - (count - 1) * np.array(without)
    error = max(float(np.std(values, ddof=1)) / np.sqrt(count), 1e-12)
    student = stats.t(count - 1)
    beyond = (abs(slope) - SEPARATE) / error
    margin = float(student.ppf(1 - LEVEL / 2)) * error
    return Ridge(
        slope=slope,
        offset=offset,
        low=slope - margin,
        high=slope + margin,
        p_separable=float(student.sf(-beyond)),
        p_not_separable=min(1.0, 2 * float(student.sf(beyond))),
        centres=tuple((x, _centre(row)) for x, row in rows.items()),
    )


def points_for_slope(errors: Errors) -> list[Point]:
    """Return the points that run again on more seeds, to fit a ridge.

    The errors are those of a grid with few seeds. The points are the valleys of the
    best learning rates, each up to where the error has risen.
    """
    rows = _valleys(errors, GOOD + MARGIN)
    best = sorted(rows, key=lambda x: _best_error(rows[x]))[:ROWS]
    return [(2.0**y, 2.0**x) for x in sorted(best) for y in _window(rows[x])]


def _window(row: Row) -> list[float]:
    """Return the y around the centre, out to the first high error on each side."""
    means = {y: float(e.mean()) for y, e in row.items()}
    centre, high_error = _centre(row), min(means.values()) + RISE + MARGIN
    below = [y for y in row if y < centre and means[y] > high_error]
    above = [y for y in row if y > centre and means[y] > high_error]
    low, high = max(below, default=min(row)), min(above, default=max(row))
    nearest = sorted(row, key=lambda y: abs(y - centre))[:POINTS]
    return [y for y in sorted(nearest) if low <= y <= high]


def _valleys(errors: Errors, good: float) -> dict[float, Row]:
    """Return, by x, the rows that are good enough and rise on both sides."""
    rows: dict[float, Row] = {}
    for decay, rate in sorted(errors):
        if decay > 0:  # λ = 0 has no logarithm
            row = rows.setdefault(float(np.log2(rate)), {})
            row[float(np.log2(decay))] = errors[decay, rate]
    if not rows:
        return {}
    best = min(_best_error(row) for row in rows.values())
    return {x: row for x, row in sorted(rows.items()) if _is_valley(row, best + good)}


def _best_error(row: Row) -> float:
    return min(float(errors.mean()) for errors in row.values())


def _is_valley(row: Row, limit: float) -> bool:
    """Whether the best error is at most `limit`, and both sides rise."""
    means = np.array([errors.mean() for errors in row.values()])
    lowest = int(means.argmin())
    below, above = means[:lowest], means[lowest + 1 :]
    risen = means[lowest] + RISE
    return bool(
        means[lowest] <= limit
        and below.max(initial=0) > risen
        and above.max(initial=0) > risen
    )


def _centre(row: Row, seeds: np.ndarray | slice = slice(None)) -> float:
    """Return y* of a row, from some of the seeds."""
    means = np.array([e[seeds].mean() for e in row.values()])
    weights = np.exp(-(means - means.min()) / WIDTH)
    return float(np.average(list(row), weights=weights))


def _line(
    rows: dict[float, Row], seeds: np.ndarray | slice = slice(None)
) -> tuple[float, float]:
    """Return slope and offset of the line through the centres."""
    centres = [_centre(row, seeds) for row in rows.values()]
    slope, offset = np.polyfit(list(rows), centres, 1)
    return float(slope), float(offset)


def gain(errors: np.ndarray) -> float:
    """Return by how many points the best λ is better than the smallest one.

    Both are at the best learning rate. Rows of `errors` are learning rates.
    """
    row = np.unravel_index(errors.argmin(), errors.shape)[0]
    return float(errors[row, 0] - errors.min())


def regret(errors: np.ndarray) -> float:
    """Return the regret of tuning one axis after the other, in points.

    Rows of `errors` are learning rates.
    """
    rate_first = errors.argmin(0)  # for each λ to start from
    decay_first = errors.argmin(1)  # for each γ to start from
    ends = [*errors[rate_first].min(1), *errors[:, decay_first].min(0)]
    return float(np.mean(ends) - errors.min())


def sensitivity(errors: np.ndarray, retuned: bool) -> float:
    """Return the sensitivity to the learning rate, in points.

    λ is at its best, or tuned again for each γ if `retuned`.
    """
    column = np.unravel_index(errors.argmin(), errors.shape)[1]
    by_rate = errors.min(1) if retuned else errors[:, column]
    return float(by_rate.mean() - errors.min())
