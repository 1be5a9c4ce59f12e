"""Times to an event, some of them censored: Kaplan-Meier curves, log-rank tests.

A censored run had no event until its last step. At equal times, events come before
censoring. The log-rank test compares two groups as if they were independent, so it does
not use that runs of two arms share seeds.

Reference:
    Kalbfleisch and Prentice, *The Statistical Analysis of Failure Time Data*, 2002,
    chapter 1.
    Mantel, *Evaluation of survival data and two new rank order statistics*, Cancer
    Chemotherapy Reports 50 (1966), 163-170.
"""

from typing import NamedTuple

import numpy as np
from scipy import stats

from experiments.statistics import LEVEL, ROUNDING


class Times(NamedTuple):
    """One number for each run."""

    steps: np.ndarray  # of the event, or of the end of the run
    arrived: np.ndarray  # bool: False if censored


class Curve(NamedTuple):
    """The estimated share of runs without an event, right of each time."""

    steps: np.ndarray  # distinct times of events
    share: np.ndarray
    low: np.ndarray  # 95 % interval at each time; NaN where the share is 0
    high: np.ndarray


class LogRank(NamedTuple):
    """The log-rank test of two groups."""

    z: float  # positive if the first group has more events than expected
    p: float  # two-sided; 1 if there is nothing to compare


def kaplan_meier(times: Times) -> Curve:
    """Return S(t) = Π (1 - d/n) over the events until t, with Greenwood's interval.

    The interval is that of log(-log S), so it stays within 0 and 1.
    """
    steps, events, at_risk = _counts(times)
    share = np.cumprod(1 - events / at_risk)
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = np.cumsum(events / (at_risk * (at_risk - events)))
        width = stats.norm.ppf(1 - LEVEL / 2) * np.sqrt(variance) / np.log(share)
        # log S is negative, and so is `width`: the lower bound has the larger power.
        low, high = share ** np.exp(-width), share ** np.exp(width)
    return Curve(steps, share, low, high)


def median(times: Times) -> float:
    """Return the first time at which at most half have no event, or inf.

    NumPy's median of the times would be wrong where runs are censored before it.
    """
    curve = kaplan_meier(times)
    # A product of fractions that is exactly one half can be 0.5000000000000001.
    reached = curve.steps[curve.share <= 0.5 + ROUNDING]
    return float(reached[0]) if len(reached) else np.inf


def log_rank(first: Times, second: Times) -> LogRank:
    """Compare the first group's events with those expected if all times are alike."""
    both = Times(*map(np.concatenate, zip(first, second, strict=True)))
    steps, events, at_risk = _counts(both)
    own = np.array([np.sum(np.asarray(first.steps) >= step) for step in steps])
    share = own / at_risk
    expected = np.sum(events * share)
    # Hypergeometric. With one run at risk there is no variance.
    spread = (at_risk - events) / np.maximum(at_risk - 1, 1)
    variance = np.sum(events * share * (1 - share) * spread)
    if variance == 0:
        return LogRank(0.0, 1.0)
    z = float((np.sum(first.arrived) - expected) / np.sqrt(variance))
    return LogRank(z, float(2 * stats.norm.sf(abs(z))))


def _counts(times: Times) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The distinct times of events, the events at each, and the runs before it."""
    all_steps, arrived = np.asarray(times.steps), np.asarray(times.arrived, bool)
    steps, events = np.unique(all_steps[arrived], return_counts=True)
    at_risk = np.array([np.sum(all_steps >= step) for step in steps], int)
    return steps, events, at_risk
