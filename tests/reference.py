"""The subject's equations as plain NumPy float64 loops, one leaf at a time.

theta0 is the leaf, grads its T recorded gradients. A trajectory is the array
theta_0 .. theta_T, shape [T+1, *leaf]; complex leaves give complex128. Its keywords are

    learning_rate, weight_decay    floats, or functions of the 0-based step t
    multiplier=1.0                 scales this leaf's weight decay

and, passed on to the step, the keywords of sgd_step, rmsprop_step or adam_step.
"""

from math import copysign, sqrt
from typing import NamedTuple

import numpy as np


def wide(x):
    """x as float64, or complex128 if it is complex."""
    x = np.asarray(x)
    return x.astype(np.result_type(x, np.float64))


def abs2(x):
    """|x|^2, real."""
    return np.real(x) ** 2 + np.imag(x) ** 2


def at(value, t: int) -> float:
    """The value at step t of a constant or a schedule."""
    return float(value(t) if callable(value) else value)


# --- Steps: (state, d, t) -> (direction, new state). A state of 0.0 is all zeros. ---


def sgd_step(m, d, t: int, *, momentum=None, nesterov=False):
    """m <- d + mu m;  direction = m, or d + mu m if nesterov, or d without momentum."""
    if momentum is None:
        return d, m
    m = d + momentum * m
    return (d + momentum * m if nesterov else m), m


class RMSState(NamedTuple):
    V_0: float  # the initial scale
    m: np.ndarray | float = 0.0
    seen: tuple = ()  # d_0 .. d_t


def rmsprop_step(
    state: RMSState,
    d,
    t: int,
    *,
    decay=0.9,
    eps=1e-8,
    eps_in_sqrt=False,
    centered=False,
    bias_correction=False,
    momentum=None,
    nesterov=False,
):
    """V <- beta V + (1 - beta) |d|^2 and M <- beta M + (1 - beta) d, as sums.

    d_i has the weight w_i = (1 - beta) beta^(t-i); V_0, with the mean 0, has the weight
    r = beta^(t+1). With c = sum of w_i if bias_correction, else 1:

    S = (r V_0 + sum w_i |d_i|^2) / c
    M = sum w_i d_i / c
    S = S - |M|^2 if centered. Without a difference this is
        (r V_0 + sum w_i |d_i - M|^2) / c, plus r |M|^2 without bias_correction
    u = d / sqrt(S + eps) if eps_in_sqrt, else d / (sqrt(S) + eps)
    direction = u after momentum, as in sgd_step
    """
    seen = (*state.seen, d)
    weights = [(1 - decay) * decay ** (t - i) for i in range(t + 1)]
    r = decay ** (t + 1)
    c = 1 - r if bias_correction else 1.0
    M = sum(w * x for w, x in zip(weights, seen, strict=True)) / c if centered else 0.0
    S = r * state.V_0 + sum(w * abs2(x - M) for w, x in zip(weights, seen, strict=True))
    if centered and not bias_correction:
        S = S + r * abs2(M)
    S = S / c
    u = d / np.sqrt(S + eps) if eps_in_sqrt else d / (np.sqrt(S) + eps)
    direction, m = sgd_step(state.m, u, t, momentum=momentum, nesterov=nesterov)
    return direction, RMSState(state.V_0, m, seen)


class AdamState(NamedTuple):
    m: np.ndarray | float = 0.0
    v: np.ndarray | float = 0.0


def adam_step(
    state: AdamState,
    d,
    t: int,
    *,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    eps_root=0.0,
    nesterov=False,
):
    """m <- b1 m + (1 - b1) d;  v <- b2 v + (1 - b2) |d|^2;  k = t + 1

    m_hat = m / (1 - b1^k), or if nesterov
            b1 m / (1 - b1^(k+1)) + (1 - b1) d / (1 - b1^k)
    v_hat = v / (1 - b2^k)
    u = m_hat / (sqrt(v_hat + eps_root) + eps)
    """
    k = t + 1
    m = b1 * state.m + (1 - b1) * d
    v = b2 * state.v + (1 - b2) * abs2(d)
    if nesterov:
        m_hat = b1 * m / (1 - b1 ** (k + 1)) + (1 - b1) * d / (1 - b1**k)
    else:
        m_hat = m / (1 - b1**k)
    v_hat = v / (1 - b2**k)
    return m_hat / (np.sqrt(v_hat + eps_root) + eps), AdamState(m, v)


# --- Trajectories: a step, and one of three places for the decay. ---


def trajectory(
    place: str,
    step,
    state,
    theta0,
    grads,
    *,
    learning_rate,
    weight_decay,
    multiplier=1.0,
    **options,
) -> np.ndarray:
    """With gamma_t the learning rate, lambda_t the weight decay times the multiplier:

    l2           u from d = g_t + lambda_t theta;  theta <- theta - gamma_t u
    decoupled    u from d = g_t;  theta <- theta - gamma_t (u + lambda_t theta)
    independent  u from d = g_t;  theta <- theta - gamma_t u - lambda_t theta
    """
    theta0, grads = wide(theta0), wide(grads)
    path = np.empty(
        (len(grads) + 1, *theta0.shape), dtype=np.result_type(theta0, grads)
    )
    path[0] = theta0
    for t, g in enumerate(grads):
        theta = path[t]
        gamma = at(learning_rate, t)
        lam = at(weight_decay, t) * multiplier
        d = g + lam * theta if place == "l2" else g
        u, state = step(state, d, t, **options)
        path[t + 1] = {
            "l2": theta - gamma * u,
            "decoupled": theta - gamma * (u + lam * theta),
            "independent": theta - gamma * u - lam * theta,
        }[place]
    return path


def sgd_l2(theta0, grads, **options):
    """SGD (momentum, nesterov), the decay in the gradient."""
    return trajectory("l2", sgd_step, 0.0, theta0, grads, **options)


def sgdw(theta0, grads, **options):
    """SGD (momentum, nesterov), the decay outside the momentum."""
    return trajectory("decoupled", sgd_step, 0.0, theta0, grads, **options)


def sgd_independent(theta0, grads, **options):
    """sgdw with the decay not multiplied by the learning rate."""
    return trajectory("independent", sgd_step, 0.0, theta0, grads, **options)


def rmsprop_l2(theta0, grads, *, initial_scale=0.0, **options):
    """RMSprop, the decay in the gradient."""
    state = RMSState(initial_scale)
    return trajectory("l2", rmsprop_step, state, theta0, grads, **options)


def rmspropw(theta0, grads, *, initial_scale=0.0, **options):
    """RMSprop, the decay outside the scaling and the momentum."""
    state = RMSState(initial_scale)
    return trajectory("decoupled", rmsprop_step, state, theta0, grads, **options)


def adam_l2(theta0, grads, **options):
    """Adam, the decay in the gradient."""
    return trajectory("l2", adam_step, AdamState(), theta0, grads, **options)


def adamw(theta0, grads, **options):
    """Adam, the decay outside the moments."""
    return trajectory("decoupled", adam_step, AdamState(), theta0, grads, **options)


# --- Directions: u_0 .. u_{T-1}, shape [T, *leaf], of the plain gradients. ---


def directions(step, state, grads, **options) -> np.ndarray:
    grads = wide(grads)
    u = np.empty_like(grads)
    for t, g in enumerate(grads):
        u[t], state = step(state, g, t, **options)
    return u


def rms_directions(grads, *, initial_scale=0.0, **options):
    """u_t of rmsprop_step (its momentum left out unless asked for)."""
    return directions(rmsprop_step, RMSState(initial_scale), grads, **options)


def adam_directions(grads, **options):
    """u_t of adam_step."""
    return directions(adam_step, AdamState(), grads, **options)


# --- The penalty, and closed forms. ---


def l2_penalty(leaves, weight_decay: float, multipliers) -> float:
    """sum over leaves of 1/2 lambda multiplier sum |theta|^2."""
    return float(
        sum(
            0.5 * weight_decay * multiplier * abs2(wide(theta)).sum()
            for theta, multiplier in zip(leaves, multipliers, strict=True)
        )
    )


def l2_penalty_gradient(theta, weight_decay: float, multiplier=1.0) -> np.ndarray:
    """lambda multiplier theta."""
    return weight_decay * multiplier * wide(theta)


def ridge(X, y, weight_decay: float) -> np.ndarray:
    """(X^T X / n + lambda I)^{-1} X^T y / n, the minimiser over theta of

    |X theta - y|^2 / (2 n) + 1/2 lambda |theta|^2.
    """
    X, y = wide(X), wide(y)
    n, p = X.shape
    return np.linalg.solve(X.T @ X / n + weight_decay * np.eye(p), X.T @ y / n)


def steady_shrink_momentum_l2(
    learning_rate: float, weight_decay: float, momentum: float
) -> float | complex:
    """The asymptotic factor of theta per step: heavy ball, L2, zero data gradient.

    m_{t+1} = mu m_t + lambda theta_t and theta_{t+1} = theta_t - gamma m_{t+1} give

        [theta]      [1 - gamma lambda   -gamma mu] [theta]
        [  m  ]  <-  [     lambda            mu   ] [  m  ],

    trace = 1 - gamma lambda + mu,
    determinant = (1 - gamma lambda) mu + gamma mu lambda = mu,

    so its eigenvalues solve z^2 - trace z + mu = 0:

        z = (trace +- sqrt(trace^2 - 4 mu)) / 2.

    Of two real roots, the larger in modulus takes the sign of the trace. A complex pair
    has modulus sqrt(mu) and theta rings; the root in the upper half plane is returned.
    """
    trace = 1 - learning_rate * weight_decay + momentum
    discriminant = trace**2 - 4 * momentum
    if discriminant < 0:
        return complex(trace, sqrt(-discriminant)) / 2
    return (trace + copysign(sqrt(discriminant), trace)) / 2


def steady_shrink_momentum_decoupled(learning_rate: float, weight_decay: float):
    """theta_{t+1} = theta_t - gamma lambda theta_t: the factor 1 - gamma lambda."""
    return 1 - learning_rate * weight_decay
