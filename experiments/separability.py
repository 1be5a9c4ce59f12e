"""Are learning rate and decay separate knobs? Numbers from the errors of a grid.

Near its optimum the error is a quadratic surface of x = log2 γ and y = log2 λ:

    e = c + b_x x + b_y y + b_xx x² + b_xy x y + b_yy y²,
    ridge:  the best y of each x,    ridge slope  dy/dx = -b_xy / (2 b_yy)

The slope is 0 where the two are separate, -1 where only γλ matters, +1 where only λ/γ
does. A least-squares fit is linear in the errors, so every seed has coefficients of its
own, and the slope is below s if the mean over seeds of -b_xy - 2 s b_yy is below 0. A
one-sided t-test of that for s = ±0.25 tells whether the slope is shown to lie between,
and the interval holds every slope that the two-sided test does not exclude.

    regret        tune γ at some λ, then λ at that γ, or the other way round: how much
                  worse than the optimum, on average over starts and orders
    sensitivity   mean over γ of e - e*, with λ fixed at its best, or tuned for each γ

Reference:
    Fieller, *Some problems in interval estimation*, J. R. Statist. Soc. B 16 (1954),
    175-185: the interval of a ratio of means.
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


GOOD = 3.0  # points of error: the surface is fitted to what is this near to the best
SEPARATE = 0.25  # a slope that is nearer to 0 is called separable
LEVEL = 0.05
FEWEST = 9  # points for the six coefficients


class Surface(NamedTuple):
    """The ridge of a fitted surface, y = offset + slope · x."""

    slope: float
    offset: float
    low: float  # 95 % interval of the slope
    high: float
    separable: bool  # shown to be within ±SEPARATE
    coupled: bool  # shown not to be
    rates: tuple[float, float]  # the range of x of the points


def fit(errors: Mapping[Point, np.ndarray]) -> Surface | None:
    """The surface of the errors (percent, by seed) of points (λ, γ).

    None where there is no ridge: too few points near the best, fewer than three
    learning rates or strengths among them, or no clear curvature along λ.
    """
    best = min(float(values.mean()) for values in errors.values())
    near = [point for point, e in errors.items() if e.mean() <= best + GOOD]
    y, x = np.log2(np.array(near)).T
    if len(near) < FEWEST or min(len(set(x)), len(set(y))) < 3:
        return None
    middle = x.mean(), y.mean()
    x, y = x - middle[0], y - middle[1]
    design = np.stack([np.ones_like(x), x, y, x**2, x * y, y**2], axis=1)
    if np.linalg.matrix_rank(design) < design.shape[1]:
        return None
    values = np.stack([errors[point] for point in near])  # [points, seeds]
    coefficients = np.linalg.lstsq(design, values, rcond=None)[0]
    slope, bend = -coefficients[4], 2 * coefficients[5]
    if not _below(-bend):
        return None
    low, high = _ratio(slope, bend)
    mean = slope.mean() / bend.mean()
    lift = -coefficients[2].mean() / bend.mean()
    return Surface(
        slope=float(mean),
        offset=float(middle[1] + lift - mean * middle[0]),
        low=low,
        high=high,
        separable=_below(slope - SEPARATE * bend) and _below(-slope - SEPARATE * bend),
        coupled=low > SEPARATE or high < -SEPARATE,
        rates=(float(x.min() + middle[0]), float(x.max() + middle[0])),
    )


def _below(values: np.ndarray) -> bool:
    """Whether the mean over seeds is shown to be below 0: a one-sided t-test."""
    count = len(values)
    error = np.std(values, ddof=1) / np.sqrt(count)
    return bool(values.mean() + stats.t.ppf(1 - LEVEL, count - 1) * error < 0)


def _ratio(above: np.ndarray, below: np.ndarray) -> tuple[float, float]:
    """Fieller's 95 % interval of mean(above) / mean(below), paired by seed.

    It holds the values r with (a - r b)² <= t² var(above - r below) / n, which lie
    between the roots of a quadratic in r if b is clearly not 0.
    """
    count = len(above)
    quantile = stats.t.ppf(1 - LEVEL / 2, count - 1) ** 2 / count
    (vaa, vab), (_, vbb) = np.cov(above, below) * quantile
    a, b = above.mean(), below.mean()
    square, half, rest = b * b - vbb, a * b - vab, a * a - vaa
    if square <= 0:
        return -np.inf, np.inf
    root = np.sqrt(max(half * half - square * rest, 0.0))
    return float((half - root) / square), float((half + root) / square)


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
