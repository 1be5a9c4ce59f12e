"""Means and paired differences over seeds, with Student's t; verdicts from them alone.

A difference is called clear only if its 95 % interval excludes 0 and its p-value stays
below 0.05 after Holm's correction for all comparisons of the table.

Reference:
    Holm, *A simple sequentially rejective multiple test procedure*, Scand. J. Statist.
    6 (1979), 65-70.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtr, stdtrit


LEVEL = 0.05


class Estimate(NamedTuple):
    """A mean over seeds with its 95 % interval and the p-value of mean = 0."""

    mean: float
    low: float
    high: float
    p: float


class Comparison(NamedTuple):
    """One arm against another on the same seeds: first minus second."""

    first: str
    second: str
    difference: Estimate  # in the unit of the values
    p_holm: float  # corrected for all comparisons made together

    @property
    def clear(self) -> bool:
        excludes_zero = self.difference.low > 0 or self.difference.high < 0
        return excludes_zero and self.p_holm < LEVEL

    @property
    def larger(self) -> str | None:
        """The arm whose values are clearly larger, if one's are."""
        if not self.clear:
            return None
        return self.first if self.difference.mean > 0 else self.second

    @property
    def smaller(self) -> str | None:
        """The other one."""
        if not self.clear:
            return None
        return self.second if self.difference.mean > 0 else self.first


def estimate(values: Sequence[float] | np.ndarray) -> Estimate:
    """Student's t interval of the mean over independent values."""
    values = np.asarray(values, np.float64)
    count, mean = len(values), float(np.mean(values))
    error = float(np.std(values, ddof=1)) / count**0.5 if count > 1 else np.inf
    if error == 0:
        return Estimate(mean, mean, mean, p=1.0 if mean == 0 else 0.0)
    freedom = max(count - 1, 1)
    margin = float(stdtrit(freedom, 1 - LEVEL / 2)) * error
    p = 2 * float(stdtr(freedom, -abs(mean) / error))
    return Estimate(mean, mean - margin, mean + margin, p)


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


def compare(
    pairs: Sequence[tuple[str, str]], values: dict[str, np.ndarray]
) -> list[Comparison]:
    """Paired comparisons: `values[arm][i]` belongs to the same seed for every arm."""
    estimates = [estimate(values[first] - values[second]) for first, second in pairs]
    corrected = holm([each.p for each in estimates])
    return [
        Comparison(*pair, difference, p)
        for pair, difference, p in zip(pairs, estimates, corrected, strict=True)
    ]


def verdict(comparison: Comparison, adjective: str = "better") -> str:
    """The comparison in words, derived from its numbers; larger values are `better`."""
    low, high = comparison.difference.low, comparison.difference.high
    if comparison.larger:
        return f"{comparison.larger} clearly {adjective}"
    if low > 0 or high < 0:
        return "not clear after correction"
    return "no difference shown"
