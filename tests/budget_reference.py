"""The budget, the published rules and the noise model, as plain NumPy float64.

Nothing here imports decayax. Symbols: d rate per step, gamma learning rate, T steps, M
steps per epoch, E epochs, TPP tokens per parameter, tau = 1/d steps, tau_hat = tau/T.
"""

import math

import numpy as np


# --- the budget of a run ----------------------------------------------------------


def coefficients(rates):
    """C_0 and C_1 ... C_T: theta <- (1 - d) theta + d q with unit vectors q_t."""
    steps = len(rates)
    theta = np.zeros(steps + 1)
    theta[0] = 1.0
    for t, d in enumerate(np.asarray(rates, np.float64)):
        theta *= 1 - d
        theta[t + 1] += d
    return theta[0], theta[1:]


def left(rates):
    """left_t = product of (1 - d_s) over s >= t; left_T = 1."""
    out = [1.0]
    for d in reversed(np.asarray(rates, np.float64)):
        out.append(out[-1] * (1 - float(d)))
    return np.array(out[::-1])


def e_folds(rates):
    """- sum of log(1 - d_t)."""
    return -math.fsum(math.log1p(-float(d)) for d in rates)


def share(rates, first, stop):
    """The part of the final weights from the steps first ... stop - 1."""
    kept = left(rates)
    return kept[stop] - kept[first]


def updates_left(rates, learning_rates, first, stop):
    """The mean of left_{t+1} over some steps, weighted by gamma_t."""
    kept, weights = left(rates)[1:][first:stop], learning_rates[first:stop]
    return float(np.sum(weights * kept) / np.sum(weights))


def auto_phases(values):
    """Cuts where the values rise above and fall below 90 % of their largest."""
    above = [t for t, value in enumerate(values) if value > 0.9 * max(values)]
    cuts = (0, above[0], above[-1] + 1, len(values))
    names = ("warm-up", "plateau", "cool-down")
    pieces = zip(names, cuts[:-1], cuts[1:], strict=True)
    return [piece for piece in pieces if piece[2] > piece[1]]


def half_age(rates):
    """The fewest last steps that give half of what is not initial."""
    kept = left(rates)
    half = 0.5 * (1 - kept[0])
    return next(k for k in range(1, len(kept)) if 1 - kept[-1 - k] >= half)


# --- schedules --------------------------------------------------------------------


def trapezoid(steps, rise, fall, peak=1.0):
    """A linear rise to the peak, a plateau, and a linear fall to 0 at the end."""
    t = np.arange(steps)
    return peak * np.minimum(1, np.minimum((t + 1) / rise, (steps - t) / fall))


def cosine(steps, peak=1.0, end=0.0):
    """From the peak to end * peak at T."""
    shape = 0.5 * (1 + np.cos(np.pi * np.arange(steps) / steps))
    return peak * (end + (1 - end) * shape)


# --- published rules --------------------------------------------------------------


def loshchilov_hutter_rate(steps, normalised):
    """Rate = lambda_norm sqrt(b/(B E)) = lambda_norm/sqrt(T)."""
    return normalised / math.sqrt(steps)


def wang_aitchison_rates(steps, epochs):
    """Timescales between one epoch and the run: rates 1/T ... 1/M."""
    return 1 / steps, epochs / steps


def power_lines(tokens_per_parameter, c):
    """tau_hat = c TPP^-0.527."""
    return c * tokens_per_parameter**-0.527


def celerity(tokens_per_parameter):
    """tau_hat = 0.175 (TPP/20)^-0.5."""
    return 0.175 * math.sqrt(20 / tokens_per_parameter)


def tau_hat(learning_rate, weight_decay, batch, tokens):
    """B/(gamma lambda D) of eq. (2) in 2509.25087; batch and data in tokens."""
    return batch / (learning_rate * weight_decay * tokens)


def nanochat(depth, batch, *, width_per_layer=64, vocabulary=32768):
    """lambda = 0.28 sqrt(B/B_ref) D_ref/D, and T, for 8 tokens per parameter.

    Parameters: the matrices of the blocks and the output layer. The reference is the
    model of 12 layers with 2^19 tokens per step.
    """

    def parameters(layers):
        width = width_per_layer * layers
        return 12 * layers * width**2 + vocabulary * width

    data = parameters(depth) / parameters(12)
    factor = batch / 2**19
    return 0.28 * math.sqrt(factor) / data, 8 * parameters(depth) / batch, data, factor


# --- transfer: the factor of the rate ---------------------------------------------

# Exponents of (batch, data, epochs, width, learning rate) in the factor of the rate.
# The steps are T ~ data epochs/batch.
EXPONENTS = {
    "timescale": (1, -1, 0, 0, 0),
    "angle": (0, 0, 0, 0, 0),
    "gain": (0, 0, 0, 1.5, 2),
    "sqrt": (0.5, -0.5, -0.5, 0, 0),
}


def rate_factor(rule, batch, data, epochs, width, learning_rate):
    """The new rate divided by the old one."""
    factors = (batch, data, epochs, width, learning_rate)
    return math.prod(
        f**power for f, power in zip(factors, EXPONENTS[rule], strict=True)
    )


def learning_rate_factor(rule, batch, width):
    """The new learning rate divided by the old one."""
    return {"same": 1.0, "sqrt": batch**0.5, "linear": batch, "mup": 1 / width}[rule]


# --- the noise model --------------------------------------------------------------


def equilibrium_rms(learning_rate, weight_decay):
    """sqrt(gamma/(2 lambda)) for updates of RMS 1."""
    return math.sqrt(learning_rate / (2 * weight_decay))


def steady_angle(rate, b1):
    """sqrt(2 rate (1 - b1)/(1 + b1)) per step."""
    return math.sqrt(2 * rate * (1 - b1) / (1 + b1))


def implicit_warm_up(t, rate, factor):
    """s_t = (1 + (m^2 - 1) a^(2t))^(-1/2) with a = 1 - rate: Kosson 2510.19093."""
    return (1 + (factor**2 - 1) * (1 - rate) ** (2 * np.asarray(t))) ** -0.5


def noisy_quadratic(fraction, tau_hat, theta_0, sigma):
    """E theta^2 at a fraction of a run with constant rate: 2509.25087, B.3."""
    forgotten = np.exp(-2 * fraction / tau_hat)
    return forgotten * theta_0**2 + sigma**2 / (2 * tau_hat) * (1 - forgotten)


# Values that are not a finite number > 0, and how an error shows them.
NOT_POSITIVE = [
    ("x", "'x' of type str"),
    (math.nan, "nan of type float"),
    (math.inf, "inf of type float"),
    (-1.0, "-1.0 of type float"),
    (0, "0 of type int"),
    (True, "True of type bool"),
    (1j, "1j of type complex"),
    (np.ones(3), "array([1., 1., 1.]) of type ndarray"),
]
