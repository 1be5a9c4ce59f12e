"""Kaplan-Meier curves and log-rank tests, against SciPy and a worked example."""

import numpy as np
import pytest
from scipy import stats


pytestmark = pytest.mark.needs_extras

# Weeks of remission: Freireich et al., Blood 21 (1963), in most textbooks.
DRUG = [6, 6, 6, 7, 10, 13, 16, 22, 23, 6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35]
DRUG_EVENTS = 9  # the first ones; the others are censored
PLACEBO = [1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23]


def times(steps, arrived):
    from experiments.survival import Times

    return Times(np.array(steps, float), np.array(arrived, bool))


def remission():
    drug = times(DRUG, np.arange(len(DRUG)) < DRUG_EVENTS)
    return drug, times(PLACEBO, np.ones(len(PLACEBO)))


def draw(rng, count, scale):
    """Times on a grid, so that many are equal, censored at 10."""
    exact = np.ceil(rng.exponential(scale, count))
    return times(np.minimum(exact, 10), exact <= 10)


def censored(group):
    return stats.CensoredData(
        uncensored=group.steps[group.arrived], right=group.steps[~group.arrived]
    )


def test_the_textbook_example():
    from experiments.survival import kaplan_meier, log_rank, median

    drug, placebo = remission()
    curve = kaplan_meier(drug)
    assert curve.steps.tolist() == [6, 7, 10, 13, 16, 22, 23]
    printed = [0.857, 0.807, 0.753, 0.690, 0.627, 0.538, 0.448]
    np.testing.assert_allclose(curve.share, printed, atol=5e-4)
    assert (median(drug), median(placebo)) == (23, 8)
    found = log_rank(drug, placebo)
    assert found.z**2 == pytest.approx(16.79, abs=0.005)
    assert found.z < 0  # fewer relapses than expected


# Where no run is left, SciPy warns that there is no interval.
@pytest.mark.filterwarnings("ignore:The confidence interval is undefined")
@pytest.mark.parametrize("seed", range(20))
def test_curves_and_tests_are_those_of_scipy(seed):
    from experiments.survival import kaplan_meier, log_rank

    rng = np.random.default_rng(seed)
    first, second = draw(rng, 15, 5), draw(rng, 12, 9)
    exact = stats.ecdf(censored(first)).sf
    curve = kaplan_meier(first)
    np.testing.assert_allclose(curve.share, exact.evaluate(curve.steps), atol=1e-12)
    interval = exact.confidence_interval(0.95, method="log-log")
    below_one = curve.share > 0
    for ours, theirs in ((curve.low, interval.low), (curve.high, interval.high)):
        expected = theirs.evaluate(curve.steps)
        np.testing.assert_allclose(ours[below_one], expected[below_one], atol=1e-12)
    wanted = stats.logrank(censored(first), censored(second))
    found = log_rank(first, second)
    assert found.z == pytest.approx(wanted.statistic, abs=1e-9)
    assert found.p == pytest.approx(wanted.pvalue, abs=1e-9)


def test_groups_exchanged_change_the_sign_only():
    from experiments.survival import log_rank

    drug, placebo = remission()
    one, other = log_rank(drug, placebo), log_rank(placebo, drug)
    assert one.z == pytest.approx(-other.z)
    assert one.p == pytest.approx(other.p)


def test_without_events_there_is_no_difference_and_no_median():
    from experiments.survival import kaplan_meier, log_rank, median

    never = times([10, 10, 10], [0, 0, 0])
    assert log_rank(never, never) == (0.0, 1.0)
    assert median(never) == np.inf
    assert len(kaplan_meier(never).steps) == 0


@pytest.mark.parametrize("half", range(1, 30))
def test_a_half_of_the_runs_is_enough_for_the_median(half):
    from experiments.survival import median

    steps = np.arange(1, 2 * half + 1)  # products of fractions are not exact
    assert median(times(steps, np.ones(2 * half))) == half


def test_all_against_none():
    from experiments.survival import log_rank

    every, never = times([5] * 20, [1] * 20), times([10] * 20, [0] * 20)
    # One time: 20 events of 40 runs. Expected 10, variance 20 · ¼ · 20/39.
    assert log_rank(every, never).z == pytest.approx(10 / (5 * 20 / 39) ** 0.5)


def test_an_event_at_the_last_step_is_not_censored():
    from experiments.survival import kaplan_meier

    curve = kaplan_meier(times([10, 10], [1, 0]))
    assert curve.share.tolist() == [0.5]
