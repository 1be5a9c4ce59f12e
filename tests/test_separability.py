"""The slope of a ridge: its value, and the coverage of its interval."""

import numpy as np
import pytest


pytestmark = pytest.mark.needs_extras
LOGS = np.arange(-5, 6)


def errors(slope, rng=None, seeds=10, noise=0.7, bend=0.4, rates=range(-2, 3)):
    """Return errors by point (λ, γ): a valley whose best λ moves with γ by `slope`."""
    rng = rng or np.random.default_rng(0)
    common = rng.normal(0, 1, seeds)
    return {
        (2.0**y, 2.0**x): 10
        + bend * (y - slope * x) ** 2
        + 0.1 * x**2
        + common
        + rng.normal(0, noise, seeds)
        for x in rates
        for y in LOGS
    }


@pytest.mark.parametrize("slope", [-1.0, -0.5, 0.0, 0.5, 1.0])
def test_the_slope_is_that_of_the_valley(slope):
    from experiments.separability import fit_ridge

    exact = fit_ridge(errors(slope, noise=0))
    assert exact.slope == pytest.approx(slope, abs=0.01)
    assert exact.offset == pytest.approx(0, abs=0.01)
    assert exact.high - exact.low < 1e-6
    assert (exact.p_separable < 1e-6) == (abs(slope) < 0.25)
    assert (exact.p_not_separable < 1e-6) == (abs(slope) > 0.25)
    assert [x for x, _ in exact.centres] == [-2, -1, 0, 1, 2]
    for x, y in exact.centres:
        assert y == pytest.approx(slope * x, abs=0.02)
    noisy = fit_ridge(errors(slope))
    assert noisy.low < slope < noisy.high


def test_the_interval_contains_the_slope_in_95_percent():
    from experiments.separability import fit_ridge

    rng = np.random.default_rng(1)
    truth = fit_ridge(errors(0.3, noise=0)).slope
    found = [fit_ridge(errors(0.3, rng, noise=1.0)) for _ in range(200)]
    held = [each.low <= truth <= each.high for each in found if each]
    assert len(held) == 200
    assert 0.91 <= np.mean(held) <= 0.985


@pytest.mark.parametrize("slope", [0.25, -0.25])
def test_a_slope_at_the_bound_is_separable_in_5_percent(slope):
    from experiments.separability import fit_ridge

    rng = np.random.default_rng(2)
    found = [fit_ridge(errors(slope, rng)) for _ in range(150)]
    separable = np.mean([each.p_separable < 0.05 for each in found])
    assert 0.02 <= separable <= 0.09
    coupled = np.mean([each.p_not_separable < 0.05 for each in found])
    assert 0.005 <= coupled <= 0.06
    inside = [fit_ridge(errors(0.4 * slope, rng)) for _ in range(40)]
    assert np.mean([each.p_separable < 0.05 for each in inside]) > 0.5


@pytest.mark.parametrize("slope", [0.1, -0.35])
def test_p_values_are_those_of_t_tests_of_the_jackknife(slope):
    from scipy import stats

    from experiments.separability import fit_ridge

    table = errors(slope, np.random.default_rng(7), noise=1.5)
    found = fit_ridge(table)
    without = [
        fit_ridge({p: np.delete(e, seed) for p, e in table.items()}).slope
        for seed in range(10)
    ]
    values = 10 * found.slope - 9 * np.array(without)
    values += found.slope - values.mean()
    inside = max(
        stats.ttest_1samp(values, 0.25, alternative="less").pvalue,
        stats.ttest_1samp(values, -0.25, alternative="greater").pvalue,
    )
    assert found.p_separable == pytest.approx(inside)
    if abs(slope) > 0.25:
        outside = stats.ttest_1samp(values, -0.25).pvalue
        assert found.p_not_separable == pytest.approx(outside)
    low, high = stats.t.interval(0.95, 9, found.slope, stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high))


def test_with_much_noise_nothing_is_significant():
    from experiments.separability import fit_ridge

    found = fit_ridge(errors(0.1, seeds=3, noise=4.0, bend=1.0))
    assert found is None or min(found.p_separable, found.p_not_separable) > 0.05


def test_there_is_no_ridge_without_an_effect_of_lambda_or_with_few_rates():
    from experiments.separability import fit_ridge

    assert fit_ridge(errors(0.0, bend=0.0, noise=0.1)) is None
    assert fit_ridge(errors(0.0, bend=-0.3)) is None  # a hill along λ
    assert fit_ridge(errors(0.0, rates=(-1, 0))) is None
    assert fit_ridge(errors(0.0, rates=(-1, 0, 1))) is not None


def test_a_valley_at_the_edge_of_the_grid_is_not_used():
    from experiments.separability import fit_ridge

    rng = np.random.default_rng(3)
    found = []
    for _ in range(30):
        table = errors(0.5, rng, bend=0.1)
        # The optimum is three steps from the middle of the grid.
        table = {(d / 8, r): e for (d, r), e in table.items() if d >= 2.0**-2}
        found.append(fit_ridge(table))
    assert all(each is None for each in found)


@pytest.mark.parametrize("side", [-1, 1])
def test_an_incomplete_valley_is_not_a_point_of_the_ridge(side):
    from experiments.separability import fit_ridge

    whole = errors(1.0, noise=0, bend=1.0)
    cut = {
        (decay, rate): e
        for (decay, rate), e in whole.items()
        if rate != 4.0 or side * (np.log2(decay) - 2) >= 0
    }
    assert [x for x, _ in fit_ridge(whole).centres] == [-2, -1, 0, 1, 2]
    assert [x for x, _ in fit_ridge(cut).centres] == [-2, -1, 0, 1]


def test_bad_learning_rates_are_not_used():
    from experiments.separability import fit_ridge, GOOD

    table = errors(0.5, noise=0)
    worse = {p: e + (2 * GOOD if p[1] == 4.0 else 0) for p, e in table.items()}
    assert [x for x, _ in fit_ridge(worse).centres] == [-2, -1, 0, 1]
    none = {(0.0, 1.0): np.full(10, 3.0)}  # a λ of 0 has no logarithm
    assert fit_ridge(table | none).slope == pytest.approx(fit_ridge(table).slope)


def test_the_points_for_slope_are_the_valleys():
    from experiments.separability import POINTS, points_for_slope, ROWS

    table = errors(0.5, noise=0, bend=1.0, rates=range(-5, 6))
    found = points_for_slope(table)
    by_rate = {}
    for decay, rate in found:
        by_rate.setdefault(np.log2(rate), []).append(np.log2(decay))
    assert sorted(by_rate) == list(range(-4, 5))  # the best nine of eleven
    assert len(by_rate) == ROWS
    for x, row in by_rate.items():
        # Up to the first point that is more than 4 points of error above the best.
        least = min((y - x / 2) ** 2 for y in LOGS)
        far = [y for y in LOGS if (y - x / 2) ** 2 > least + 4]
        low = max(y for y in far if y < x / 2)
        high = min(y for y in far if y > x / 2)
        assert row == list(range(low, high + 1))
    wide = points_for_slope(errors(0.0, noise=0, bend=0.15))
    assert max(np.bincount([int(np.log2(r)) + 2 for _, r in wide])) == POINTS
    assert points_for_slope(errors(0.0, bend=0.0, noise=0.1)) == []


def test_regret_and_sensitivity_by_hand():
    from experiments.separability import gain, regret, sensitivity

    table = np.array([[5.0, 1.0], [2.0, 4.0]])
    # From λ₀: γ₁ (2), then λ₀: 2. From λ₁: γ₀, then λ₁: 1. From γ₀: λ₁, γ₀: 1. From γ₁:
    # λ₀, γ₁: 2. The optimum is 1.
    assert regret(table) == pytest.approx((2 + 1 + 1 + 2) / 4 - 1)
    assert sensitivity(table, retuned=False) == pytest.approx((1 + 4) / 2 - 1)
    assert sensitivity(table, retuned=True) == pytest.approx((1 + 2) / 2 - 1)
    assert gain(table) == 4


@pytest.mark.parametrize("seed", range(4))
def test_regret_is_the_mean_over_all_starts(seed):
    from experiments.separability import regret

    table = np.random.default_rng(seed).permutation(12.0 + np.arange(12)).reshape(3, 4)
    ends = []
    for errors_of_rates in table.T:  # from each λ: its best γ, then the best λ there
        rate = int(np.argmin(errors_of_rates))
        ends.append(min(table[rate]))
    for errors_of_decays in table:  # from each γ: its best λ, then the best γ there
        decay = int(np.argmin(errors_of_decays))
        ends.append(min(table[:, decay]))
    assert regret(table) == pytest.approx(np.mean(ends) - 12)
