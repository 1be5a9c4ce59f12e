"""Whether learning rate and decay are separate knobs, in three numbers.

Of a grid of errors e(γ, λ), rows by learning rate and columns by strength, both in
powers of two:

    ridge slope   d log λ*(γ) / d log γ with λ*(γ) the best λ of a row, over the rows
                  whose best is within 3 points of the optimum: 0 separable, -1 only γλ
                  matters, +1 only λ/γ matters
    regret        tune γ at some λ, then λ at that γ, or the other way round: how much
                  worse than the optimum, on average over starts and orders
    sensitivity   mean over γ of e - e*, with λ fixed at its best, or tuned for each γ

Reference:
    Wortsman et al., *Small-scale proxies for large-scale Transformer training
    instabilities*, 2023, section 2.2: sensitivity, there of the loss.
"""

import numpy as np


GOOD = 3.0  # points: rows within so many of the optimum make the ridge


def ridge_slope(
    errors: np.ndarray, log_rates: np.ndarray, log_decays: np.ndarray
) -> float:
    """By least squares; nan where fewer than three rows are good."""
    good = errors.min(1) <= errors.min() + GOOD
    if good.sum() < 3:
        return float("nan")
    best = log_decays[errors.argmin(1)]
    return float(np.polyfit(log_rates[good], best[good], 1)[0])


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
