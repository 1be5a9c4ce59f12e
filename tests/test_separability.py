"""The slope of a ridge: that of the surface, with intervals that hold what they say."""

import numpy as np
import pytest


pytestmark = pytest.mark.needs_extras
STEPS = range(-2, 3)


def errors(slope, rng=None, seeds=10, noise=0.7, steps=STEPS, bend=0.4):
    """By point (λ, γ), errors of a valley whose best λ moves with γ by this slope."""
    rng = rng or np.random.default_rng(0)
    common = rng.normal(0, 1, seeds)
    return {
        (2.0 ** (y + slope * x + 3), 2.0 ** (x - 5)): 10
        + bend * y**2
        + 0.1 * x**2
        + common
        + rng.normal(0, noise, seeds)
        for x in steps
        for y in steps
    }


@pytest.mark.parametrize("slope", [-1.0, -0.5, 0.0, 0.4, 1.0])
def test_the_slope_is_that_of_the_valley(slope):
    from experiments.separability import fit

    exact = fit(errors(slope, noise=0))
    assert exact.slope == pytest.approx(slope, abs=1e-9)
    assert exact.offset == pytest.approx(3 + 5 * slope)
    assert exact.low == pytest.approx(slope, abs=1e-4)
    assert exact.high == pytest.approx(slope, abs=1e-4)
    assert exact.separable == (abs(slope) < 0.25)
    assert exact.coupled == (abs(slope) > 0.25)
    assert exact.rates == pytest.approx((-7, -3))
    noisy = fit(errors(slope))
    assert noisy.low < slope < noisy.high


def test_the_interval_holds_the_slope_as_often_as_it_says():
    from experiments.separability import fit

    rng = np.random.default_rng(1)
    fits = [fit(errors(0.3, rng, noise=1.5)) for _ in range(400)]
    held = [found.low <= 0.3 <= found.high for found in fits if found]
    assert len(held) > 380
    assert 0.925 <= np.mean(held) <= 0.975


@pytest.mark.parametrize("slope", [0.25, -0.25])
def test_a_slope_at_the_bound_is_rarely_called_separable(slope):
    from experiments.separability import fit

    rng = np.random.default_rng(2)
    fits = [fit(errors(slope, rng, noise=0.5)) for _ in range(300)]
    assert np.mean([found.separable for found in fits if found]) <= 0.08
    inside = [fit(errors(0.6 * slope, rng, noise=0.5)) for _ in range(50)]
    assert np.mean([found.separable for found in inside if found]) > 0.5


def test_few_seeds_or_much_noise_decide_nothing():
    from experiments.separability import fit

    found = fit(errors(0.1, seeds=3, noise=1.5, bend=1.0))
    assert found is None or not (found.separable or found.coupled)


def test_there_is_no_ridge_where_lambda_does_nothing_or_points_are_too_few():
    from experiments.separability import fit

    assert fit(errors(0.0, bend=0.0)) is None
    assert fit(errors(0.0, bend=-0.3)) is None  # a hill along λ
    assert fit(errors(0.0, steps=(-1, 0))) is None
    flat = {point: e for point, e in errors(0.0).items() if point[1] == 2.0**-5}
    assert fit(flat) is None


def test_only_points_near_the_best_are_fitted():
    from experiments.separability import fit, GOOD

    near = errors(0.5, noise=0)
    spoilt = near | {(2.0**9, 2.0**-6): np.full(10, 12 + 10 * GOOD)}
    assert fit(spoilt).slope == pytest.approx(fit(near).slope)


def test_regret_and_sensitivity_by_hand():
    from experiments.separability import gain, regret, sensitivity

    table = np.array([[5.0, 1.0], [2.0, 4.0]])
    # From λ₀: γ₁ (2), then λ₀: 2. From λ₁: γ₀, then λ₁: 1. From γ₀: λ₁, γ₀: 1. From γ₁:
    # λ₀, γ₁: 2. The optimum is 1.
    assert regret(table) == pytest.approx((2 + 1 + 1 + 2) / 4 - 1)
    assert sensitivity(table, retuned=False) == pytest.approx((1 + 4) / 2 - 1)
    assert sensitivity(table, retuned=True) == pytest.approx((1 + 2) / 2 - 1)
    assert gain(table) == 4
