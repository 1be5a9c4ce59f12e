"""Where the best λ and the best learning rate are, how they move, what a rule costs.

All positions are binary logarithms. Along log λ, at one learning rate, the optimum is
the minimum of the parabola through the lowest tried point and its two neighbours. The
best learning rate is found in the same way, from the lowest tried loss of each rate:
next to a cliff, the minimum of a parabola can be lower than any possible loss. The
place of such a minimum does not jump when another point becomes the lowest one. So the
jackknife over seeds, which repeats the whole choice, gives an interval.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from experiments.statistics import Estimate, LEVEL


MIN_SEEDS = 4  # fewer seeds get no interval
INEXACT = 1e-12  # a standard error below this is rounding error

Point = tuple[float, float]  # log2 of learning rate and of λ
Losses = Mapping[Point, np.ndarray]  # by point: a loss for each seed; smaller is better
Chosen = np.ndarray  # bool[seeds]
Statistic = Callable[[Chosen], np.ndarray]  # chosen seeds -> some numbers


class Optimum(NamedTuple):
    """The best position along an axis, and the loss there."""

    place: float
    loss: float
    inside: bool  # whether points on both sides were tried


class Grid(NamedTuple):
    """The points that may be tried."""

    rate_step: float  # distance of neighbours, in powers of two
    decay_step: float
    lowest: Point
    highest: Point

    def contains(self, point: Point) -> bool:
        """Whether a point is within the bounds."""
        sides = zip(self.lowest, point, self.highest, strict=True)
        return all(low <= value <= high for low, value, high in sides)

    def regular(self, losses: Losses) -> Losses:
        """Return the points whose λ is a multiple of the step.

        The others were only tried because a rule carries λ there. A parabola through
        closer points would have more noise.
        """
        return {
            point: by_seed
            for point, by_seed in losses.items()
            if (point[1] / self.decay_step).is_integer()
        }


# --- Optima -----------------------------------------------------------------------


def along_decay(losses: Losses, rate: float, seeds: Chosen) -> Optimum:
    """Find the best log2 λ at one learning rate, for the mean loss of some seeds."""
    return _minimum(_curve(losses, rate, seeds))


def along_both(losses: Losses, seeds: Chosen) -> tuple[Optimum, float]:
    """Find the best log2 learning rate, and the best log2 λ at this rate."""
    rates = rates_of(losses)
    best = _minimum({x: min(_curve(losses, x, seeds).values()) for x in rates})
    decays = [along_decay(losses, x, seeds).place for x in rates]
    return best, float(np.interp(best.place, rates, decays))


def rates_of(losses: Losses) -> list[float]:
    """Return the learning rates that were tried, as logarithms, in order."""
    return sorted({rate for rate, _ in losses})


def _curve(losses: Losses, rate: float, seeds: Chosen) -> dict[float, float]:
    """Return the mean losses at one learning rate by log2 λ, in order."""
    found = {y: float(e[seeds].mean()) for (x, y), e in losses.items() if x == rate}
    return dict(sorted(found.items()))


def _minimum(curve: Mapping[float, float]) -> Optimum:
    """Find the minimum of the parabola through the lowest point and its neighbours.

    If the lowest point is the first or the last one, it is the result. Neighbours have
    equal distances.
    """
    x, y = np.array(list(curve)), np.array(list(curve.values()))
    best = int(np.argmin(y))
    if best in (0, len(x) - 1):
        return Optimum(float(x[best]), float(y[best]), inside=False)
    left, middle, right = y[best - 1 : best + 2]
    bend = left - 2 * middle + right
    # Three equal values are flat, and then every place is a minimum.
    shift = 0.0 if bend == 0 else (left - right) / (2 * bend)
    place = x[best] + shift * (x[best + 1] - x[best])
    return Optimum(float(place), float(middle - bend * shift**2 / 2), inside=True)


def lowest(losses: Losses, rate: float, seeds: Chosen) -> float:
    """Return the tried log2 λ with the lowest mean loss of some seeds, at one rate."""
    curve = _curve(losses, rate, seeds)
    return min(curve, key=curve.__getitem__)


def loss_at(losses: Losses, rate: float, place: float, seeds: Chosen) -> float:
    """Return the mean loss of some seeds at any log2 λ.

    Between tried points it is interpolated linearly. Outside the tried points it is the
    loss of the last one.
    """
    curve = _curve(losses, rate, seeds)
    return float(np.interp(place, list(curve), list(curve.values())))


# --- Which points to try next -----------------------------------------------------


def points_to_add(
    losses: Losses, grid: Grid, rate: float, wanted: tuple[float, ...] = ()
) -> list[Point]:
    """Return the points that bracket the optimum, for all seeds and without each one.

    Args:
        losses: the losses of all points that were tried.
        grid: which points may be tried.
        rate: a log2 learning rate whose λ is bracketed even if it is not the best rate.
        wanted: values of log2 λ that are tried at `rate`, and enclosed by points.
    """
    new: dict[Point, None] = {}  # an ordered set
    regular = grid.regular(losses)
    for seeds in subsets(len(next(iter(losses.values())))):
        rates, best = rates_of(regular), along_both(regular, seeds)
        near = min(rates, key=lambda x: abs(x - best[0].place))
        around = {rate, *(x for x in rates if abs(x - near) <= grid.rate_step)}
        for x in sorted(around):
            new |= dict.fromkeys(_next_decays(regular, x, seeds, grid.decay_step))
        if not best[0].inside:
            sign, step = (-1 if near == rates[0] else 1), grid.decay_step
            middle = lowest(regular, near, seeds)
            new |= dict.fromkeys(
                (near + sign * grid.rate_step, middle + shift)
                for shift in (-step, 0, step)
            )
    new |= dict.fromkeys(_enclosing(regular, rate, wanted, grid.decay_step))
    new |= dict.fromkeys((rate, place) for place in wanted)
    return [point for point in new if point not in losses and grid.contains(point)]


def _next_decays(
    losses: Losses, rate: float, seeds: Chosen, step: float
) -> Iterator[Point]:
    """Yield the next point along λ if the lowest one is the first or the last."""
    best = along_decay(losses, rate, seeds)
    if not best.inside:
        tried = [decay for x, decay in losses if x == rate]
        if best.place == min(tried):
            yield rate, best.place - step
        if best.place == max(tried):
            yield rate, best.place + step


def _enclosing(
    losses: Losses, rate: float, wanted: tuple[float, ...], step: float
) -> Iterator[Point]:
    """Yield the points between the tried ones and the wanted λ, and one beyond."""
    tried = [decay for x, decay in losses if x == rate]
    lowest, highest = min(tried), max(tried)
    for place in wanted:
        while lowest > place:
            lowest -= step
            yield rate, lowest
        while highest < place:
            highest += step
            yield rate, highest


def subsets(count: int) -> list[Chosen]:
    """Return all seeds, then all without each single one if there are enough seeds."""
    without_one = list(~np.eye(count, dtype=bool)) if count >= MIN_SEEDS else []
    return [np.ones(count, bool), *without_one]


# --- Over seeds -------------------------------------------------------------------


def jackknife(statistic: Statistic, count: int) -> list[Estimate]:
    """Return each number of a statistic of the seeds with its interval and p-value.

    The pseudo-values of the jackknife give the standard error, and Student's t with
    count - 1 degrees of freedom gives the 95 % interval and the p-value of the test
    that the number is 0. With few seeds the interval is infinite.
    """
    whole, *without = (np.array(statistic(x), float) for x in subsets(count))
    if not without:
        return [Estimate(float(x), -np.inf, np.inf, 1.0) for x in whole]
    pseudo_values = count * whole - (count - 1) * np.array(without)
    errors = np.std(pseudo_values, axis=0, ddof=1) / count**0.5
    return [_estimate(x, e, count) for x, e in zip(whole, errors, strict=True)]


def _estimate(mean: float, error: float, count: int) -> Estimate:
    if not (np.isfinite(mean) and np.isfinite(error)):
        return Estimate(float(mean), -np.inf, np.inf, 1.0)
    student, error = stats.t(count - 1), max(float(error), INEXACT)
    margin = float(student.ppf(1 - LEVEL / 2)) * error
    p = 2 * float(student.sf(abs(mean) / error))
    return Estimate(float(mean), float(mean) - margin, float(mean) + margin, p)


def slope(factors: Mapping[str, float], places: Mapping[str, float]) -> float:
    """Return the exponent: the slope of log2 of the optimum on log2 of the factor.

    Args:
        factors: log2 of the factor of each setting.
        places: log2 of the optimum of each setting. With one setting there is no
            slope, and the result is NaN.
    """
    if len(places) < 2:
        return float("nan")
    x = [factors[name] for name in places]
    return float(np.polyfit(x, list(places.values()), 1)[0])


def regrets(
    reference: Losses,
    target: tuple[Losses, Losses],
    rate: float,
    shifts: Sequence[float],
    seeds: Chosen,
) -> np.ndarray:
    """Return the mean regret of carried strengths, float[shifts].

    Each seed scores, and the other seeds choose: the best λ of the reference and of the
    target on their grids, on validation. The regret is the test loss at the carried λ
    minus the test loss at the best λ of the target.

    Args:
        reference: the validation losses of the setting that was tuned.
        target: the validation and the test losses of the setting that gets the λ.
        rate: the log2 learning rate of both.
        shifts: what each rule adds to log2 λ.
        seeds: the seeds that are used.
    """
    validation, test = target
    found = []
    for index in np.flatnonzero(seeds):
        seed = np.arange(len(seeds)) == index
        others = seeds & ~seed if seeds.sum() > 1 else seed
        tuned = lowest(reference, rate, others)
        best = loss_at(test, rate, lowest(validation, rate, others), seed)
        found.append(
            [loss_at(test, rate, tuned + shift, seed) - best for shift in shifts]
        )
    return np.mean(found, axis=0)
