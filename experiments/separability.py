"""Whether learning rate and decay are separate knobs, in three numbers.

Of a grid of errors e(γ, λ), rows by learning rate and columns by strength, both in
powers of two:

    ridge         for each row whose best is within 3 points of the optimum: its best λ;
                  rows whose best λ lies on an edge of the grid are left out, as it may
                  lie beyond
    ridge slope   d log λ / d log γ along the ridge: 0 separable, -1 only γλ matters, +1
                  only λ/γ matters; none where λ gains less than the noise
    gain          of λ: how much better the optimum is than the smallest λ of its row
    regret        tune γ at some λ, then λ at that γ, or the other way round: how much
                  worse than the optimum, on average over starts and orders
    sensitivity   mean over γ of e - e*, with λ fixed at its best, or tuned for each γ

Reference:
    Wortsman et al., *Small-scale proxies for large-scale Transformer training
    instabilities*, 2023, section 2.2: sensitivity, there of the loss.
"""

import numpy as np


GOOD = 3.0  # points: rows within so many of the optimum make the ridge


def ridge(
    errors: np.ndarray, log_rates: np.ndarray, log_decays: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Learning rates and the best strengths of them, as logarithms."""
    best = errors.argmin(1)
    inside = (best > 0) & (best < errors.shape[1] - 1)
    good = inside & (errors.min(1) <= errors.min() + GOOD)
    return log_rates[good], log_decays[best[good]]


def ridge_slope(
    errors: np.ndarray,
    log_rates: np.ndarray,
    log_decays: np.ndarray,
    noise: float = 0.0,
) -> float:
    """By least squares; nan for fewer than three rows, or a gain within the noise."""
    rates, decays = ridge(errors, log_rates, log_decays)
    if len(rates) < 3 or gain(errors) <= noise:
        return float("nan")
    return float(np.polyfit(rates, decays, 1)[0])


def gain(errors: np.ndarray) -> float:
    """Of λ at the best learning rate, against the smallest λ of the grid, in points."""
    row = np.unravel_index(errors.argmin(), errors.shape)[0]
    return float(errors[row, 0] - errors.min())


def regret(errors: np.ndarray) -> float:
    """Of tuning one axis after the other, in points."""
    rate_first = errors.argmin(0)  # for each λ to start from
    decay_first = errors.argmin(1)  # for each γ to start from
    ends = [*errors[rate_first].min(1), *errors[:, decay_first].min(0)]
    return float(np.mean(ends) - errors.min())


def sensitivity(errors: np.ndarray, retuned: bool) -> float:
    """To the learning rate, in points; λ at its best, or `retuned` for each γ."""
    column = np.unravel_index(errors.argmin(), errors.shape)[1]
    by_rate = errors.min(1) if retuned else errors[:, column]
    return float(by_rate.mean() - errors.min())
