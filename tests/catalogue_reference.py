"""The equations of the catalogue as plain NumPy float64 loops, one leaf at a time.

Each function has the name of the public method and returns theta_0 .. theta_T, shape
[T+1, *leaf]. The base optimizer is SGD (u = g), or u is Adam's. The keywords of all:

    learning_rate    gamma_t: a float, or a function of the 0-based step t
    weight_decay     the first argument of the method, a float or a function of t:
                     lambda, a strength or a rotation. Unused if the method has none.
    multiplier=1.0   m: a number (0: excluded) or an array that broadcasts to the leaf
    place            "decoupled": the pull joins u before the learning rate.
                     "finished": the pull joins the finished step, at the same rate.
                     Only a pull (see `pull`) accepts "finished".
    adam=False       whether u comes from Adam, which gets the raw gradient

Norms and inner products are taken over `axis` (None: the whole leaf), axes kept.
"""

from typing import Any, NamedTuple

import numpy as np
from reference import abs2, adam_directions, at, wide


class Now(NamedTuple):
    """What a rule sees at the step t."""

    t: int
    theta0: np.ndarray
    theta: np.ndarray
    g: np.ndarray  # the raw gradient
    u: np.ndarray  # the direction of the base optimizer
    gamma: float
    strength: float
    m: np.ndarray

    @property
    def moved(self):
        """theta after the step of the base optimizer."""
        return self.theta - self.gamma * self.u


def trajectory(
    rule,
    theta0,
    grads,
    *,
    learning_rate,
    weight_decay=0.0,
    multiplier=1.0,
    place="decoupled",
    adam=False,
    state: Any = None,
) -> np.ndarray:
    """theta_{t+1}, state <- rule(now, state)."""
    assert place == "decoupled", place
    theta0, grads = wide(theta0), wide(grads)
    path = np.empty((len(grads) + 1, *theta0.shape), np.result_type(theta0, grads))
    path[0] = theta0
    m = wide(multiplier)
    directions = adam_directions(grads) if adam else grads
    for t, (g, u) in enumerate(zip(grads, directions, strict=True)):
        gamma, strength = at(learning_rate, t), at(weight_decay, t)
        now = Now(t, path[0], path[t], g, u, gamma, strength, m)
        path[t + 1], state = rule(now, state)
    return path


def pull(
    direction, theta0, grads, *, place="decoupled", rate=None, state=None, **chain
):
    """With the gated direction f, state <- direction(now, u, state):

    decoupled   theta <- theta - gamma (u + lambda m f(u))
    finished    D = -gamma u;  theta <- theta + D - rate lambda m f(-D)

    The rate is that of the pull itself; None: gamma.
    """

    def rule(now, state):
        if place == "decoupled":
            f, state = direction(now, now.u, state)
            u = now.u + now.strength * now.m * f
            return now.theta - now.gamma * u, state
        assert place == "finished", place
        delta = -now.gamma * now.u
        f, state = direction(now, -delta, state)
        own = now.gamma if rate is None else at(rate, now.t)
        delta = delta - own * now.strength * now.m * f
        return now.theta + delta, state

    return trajectory(rule, theta0, grads, state=state, **chain)


# --- Norms. ---


def inner(x, y, axis=None):
    """Re <x, y> over axis."""
    return np.real(np.sum(np.conj(x) * y, axis=axis, keepdims=True))


def norm2(x, axis=None):
    return np.sum(abs2(x), axis=axis, keepdims=True)


def norm(x, axis=None):
    return np.sqrt(norm2(x, axis))


def ratio(x, y):
    """x / y, and 0 where y = 0."""
    x, y = np.broadcast_arrays(x, y)
    return np.divide(x, y, out=np.zeros(x.shape, np.result_type(x, y)), where=y != 0)


def matrices(x):
    """x as matrices on the last two axes: a vector is one column, a scalar is 1x1."""
    return x.reshape(-1, 1) if x.ndim < 2 else x


def radial(x, theta, axis=None):
    """The part of x along theta; 0 for a zero theta."""
    return ratio(inner(x, theta, axis), norm2(theta, axis)) * theta


# --- 1-9: pulls. ---


def cautious_decay(theta0, grads, *, strict=False, projection=None, **chain):
    """gate = 1[Re(conj(u) theta) >= 0], or > 0 if strict; direction theta.

    With a projection (pin_radius): D' = pin(D);
    theta <- (theta + D') (1 - gamma lambda m gate(-D, theta)).
    """

    def gate(u, theta):
        agree = np.real(np.conj(u) * theta)
        return (agree > 0 if strict else agree >= 0).astype(float)

    def projected(now, state):
        open_ = gate(now.gamma * now.u, now.theta)
        factor = 1 - now.gamma * now.strength * now.m * open_
        return pinned(now.theta, now.moved) * factor, state

    if projection is not None:
        chain.pop("place", None)
        return trajectory(projected, theta0, grads, **chain)
    return pull(
        lambda now, u, state: (gate(u, now.theta) * now.theta, state),
        theta0,
        grads,
        **chain,
    )


def excluded(m) -> bool:
    return m.ndim == 0 and m == 0


def pinned(theta, moved, axis=None):
    """R = |theta| + <D, theta> / |theta|;  moved R / |moved|, D = moved - theta.

    moved itself where R <= 0, theta = 0 or moved = 0.
    """
    R = norm(theta, axis) + ratio(inner(moved - theta, theta, axis), norm(theta, axis))
    size = norm(moved, axis)
    valid = (R > 0) & (norm(theta, axis) > 0) & (size > 0)
    return np.where(valid, moved * ratio(R, size), moved)


def corrected_decay(theta0, grads, *, peak_learning_rate, **chain):
    """u + lambda (gamma / gamma_peak) m theta."""

    def rule(now, state):
        rate = now.strength * now.gamma / peak_learning_rate
        return now.theta - now.gamma * (now.u + rate * now.m * now.theta), state

    return trajectory(rule, theta0, grads, **chain)


def decay_to(theta0, grads, *, anchor, **chain):
    """direction theta - anchor."""
    anchor = wide(0.0 if anchor is None else anchor)
    return pull(
        lambda now, u, state: (now.theta - anchor, state), theta0, grads, **chain
    )


def decay_to_init(theta0, grads, **chain):
    """direction theta - theta_0."""
    return decay_to(theta0, grads, anchor=theta0, **chain)


def decay_to_average(theta0, grads, *, average_rate=0.999, **chain):
    """a <- beta a + (1 - beta) theta, from a = theta_0;  direction theta - a."""

    def direction(now, u, a):
        a = average_rate * a + (1 - average_rate) * now.theta
        return now.theta - a, a

    return pull(direction, theta0, grads, state=wide(theta0), **chain)


def norm_control(theta0, grads, *, target_ratio, axis=None, **chain):
    """direction (1 - r |theta_0| / |theta|) theta, and 0 where theta = 0."""

    def direction(now, u, state):
        k = target_ratio * ratio(norm(now.theta0, axis), norm(now.theta, axis))
        return (1 - k) * now.theta, state

    return pull(direction, theta0, grads, **chain)


def target_norm_decay(theta0, grads, *, target_norm, momentum=0.0, axis=None, **chain):
    """S = (1 + beta) / (1 - beta);  d = gamma |u|^2 S / (2 c^2);  u + m d theta.

    c = target_norm, or |theta_0| if "initial". d = 0 where c = 0.
    """
    S = (1 + momentum) / (1 - momentum)

    def rule(now, state):
        initial = isinstance(target_norm, str)
        c = norm(now.theta0, axis) if initial else wide(target_norm)
        d = ratio(now.gamma * norm2(now.u, axis) * S, 2 * c**2)
        return now.theta - now.gamma * (now.u + now.m * d * now.theta), state

    return trajectory(rule, theta0, grads, **chain)


def spectral_decay(theta0, grads, *, cap=None, iterations=None, **chain):
    """theta = U diag(s) V^H:  direction s_1 u_1 v_1^H, or U max(s - cap, 0) V^H.

    With iterations = k, instead of the SVD: k times v <- x^H x v / |x^H x v| on theta,
    from the last v; at init 100 times, from (cos 0, .., cos(n-1)); direction x v v^H.
    """
    assert cap is None or iterations is None

    def exact(now, u, state):
        U, s, Vh = np.linalg.svd(matrices(now.theta), full_matrices=False)
        top = np.where(np.arange(s.shape[-1]) == 0, s, 0.0)
        kept = top if cap is None else np.maximum(s - cap, 0.0)
        return ((U * kept[..., None, :]) @ Vh).reshape(now.theta.shape), state

    def iterated(now, u, v):
        x = matrices(now.theta)
        for _ in range(iterations):
            w = np.conj(np.swapaxes(x, -1, -2)) @ (x @ v)
            size = norm(w, axis=(-1, -2))
            v = np.where(size > 0, ratio(w, size), v)
        return (x @ v @ np.conj(np.swapaxes(v, -1, -2))).reshape(now.theta.shape), v

    x = matrices(wide(theta0))
    v = np.cos(np.arange(x.shape[-1], dtype=float))[:, None]
    for _ in range(100):
        w = np.conj(np.swapaxes(x, -1, -2)) @ (x @ v)
        v = np.where(norm(w, (-1, -2)) > 0, ratio(w, norm(w, (-1, -2))), v)
    direction = exact if iterations is None else iterated
    return pull(direction, theta0, grads, state=v, **chain)


def decoupled_penalty(theta0, grads, *, penalty=None, **chain):
    """direction theta^3, the gradient of 1/4 sum theta^4. `penalty` is not read."""
    return pull(lambda now, u, state: (now.theta**3, state), theta0, grads, **chain)


def merged_lora_decay(theta0, grads, *, merge=None, **chain):
    """direction 4 theta: the merged weight is 2 theta. `merge` is not read."""
    return pull(lambda now, u, state: (4 * now.theta, state), theta0, grads, **chain)


# --- 10, 19, 20, 21: rules on the gradient or the direction. ---


def redirected(direction, theta0, grads, **chain):
    """theta <- theta - gamma u, with u, state <- direction(now, state)."""

    def rule(now, state):
        u, state = direction(now, state)
        return now.theta - now.gamma * u, state

    return trajectory(rule, theta0, grads, **chain)


def radial_brake(theta0, grads, *, axis=None, **chain):
    """c = <u, theta> / |theta|^2;  u - strength m min(c, 0) theta."""

    def direction(now, state):
        c = ratio(inner(now.u, now.theta, axis), norm2(now.theta, axis))
        return now.u - now.strength * now.m * np.minimum(c, 0.0) * now.theta, state

    return redirected(direction, theta0, grads, **chain)


def project_radial_gradient(theta0, grads, *, axis=None, rescale=True, **chain):
    """g' = g - <theta, g> / (|theta|^2 + 1e-30) theta;  if rescale, to the norm of g:

    g' |g| / (|g'| + 1e-30), or 0 if g' is only the rounding error of a radial g.
    Then g + m (g' - g).
    """

    def direction(now, state):
        share = inner(now.theta, now.g, axis) / (norm2(now.theta, axis) + 1e-30)
        new = now.g - share * now.theta
        if rescale:
            old, left = norm(now.g, axis), norm(new, axis)
            new = np.where(left <= 1e-14 * old, 0.0, new * old / (left + 1e-30))
        return now.g + now.m * (new - now.g), state

    return redirected(direction, theta0, grads, **chain)


def project_radial_update(
    theta0, grads, *, threshold=0.1, decay_factor=0.1, weight_decay=0.0, **chain
):
    """u from Adam;  u + lambda m theta. Excluded: u.

    Views of a leaf with 2 or more axes: per index of the last axis, then the whole
    leaf. The first view with max |cos(g, theta)| < threshold / sqrt(size of a unit)
    removes the radial part of u in that view, and lambda <- lambda decay_factor.
    """

    def direction(now, state):
        new, lam = now.u, now.strength
        per_unit = tuple(range(now.theta.ndim - 1))
        views = (per_unit, None) if now.theta.ndim >= 2 and not excluded(now.m) else ()
        for axis in views:
            size = norm(now.g, axis) * norm(now.theta, axis)
            cosine = np.abs(ratio(inner(now.g, now.theta, axis), size))
            entries = now.theta.size / cosine.size
            if cosine.max() < threshold / np.sqrt(entries):
                new = new - radial(new, now.theta, axis)
                lam = lam * decay_factor
                break
        return new + now.m * lam * now.theta, state

    return redirected(
        direction, theta0, grads, adam=True, weight_decay=weight_decay, **chain
    )


def update_to_weight_floor(theta0, grads, *, floor, axis=None, **chain):
    """f = floor m |theta|;  u f / |u| where 0 < |u| < f."""

    def direction(now, state):
        f = at(floor, now.t) * now.m * norm(now.theta, axis)
        size = norm(now.u, axis)
        low = (size > 0) & (size < f)
        return np.where(low, now.u * ratio(f, size), now.u), state

    return redirected(direction, theta0, grads, **chain)


# --- 11: a pull gated by the raw gradient. ---


def touched_decay(theta0, grads, *, axis=-1, average_rate=None, **chain):
    """gate = any(g != 0) over axis;  direction f theta.

    f = gate, or with an average rate beta: f <- beta f + (1 - beta) gate, from 0.
    """

    def direction(now, u, f):
        gate = np.any(now.g != 0, axis=axis, keepdims=True).astype(float)
        if average_rate is None:
            f = gate
        else:
            f = average_rate * f + (1 - average_rate) * gate
        return f * now.theta, f

    return pull(direction, theta0, grads, state=0.0, **chain)


# --- 12-17: rules on the finished step. ---


def replaced(rule, theta0, grads, **chain):
    """theta + D + m (theta' - theta - D), with theta', state <- rule(now, state)."""

    def mixed(now, state):
        new, state = rule(now, state)
        return now.moved + now.m * (new - now.moved), state

    return trajectory(mixed, theta0, grads, **chain)


def fixed_norm(theta0, grads, *, axis=None, spectral=False, radius="current", **chain):
    """moved R / N(moved); moved itself where N(moved) = 0.

    N is the norm over axis, or the largest singular value. R = N(theta) if "current",
    N(theta_0) if "initial", else radius.
    """

    def N(x):
        if not spectral:
            return norm(x, axis)
        s = np.linalg.svd(matrices(x), compute_uv=False)[..., :1, None]
        return s if x.ndim >= 2 else s.reshape((1,) * x.ndim)

    def rule(now, state):
        if isinstance(radius, str):
            R = N({"current": now.theta, "initial": now.theta0}[radius])
        else:
            R = wide(radius)
        size = N(now.moved)
        return np.where(size > 0, now.moved * ratio(R, size), now.moved), state

    return replaced(rule, theta0, grads, **chain)


def proximal_decay(theta0, grads, **chain):
    """moved / (1 + gamma lambda m)."""
    return trajectory(
        lambda now, state: (now.moved / (1 + now.gamma * now.strength * now.m), state),
        theta0,
        grads,
        **chain,
    )


def soft_threshold(theta0, grads, **chain):
    """t = gamma strength m;  moved max(1 - t / |moved|, 0)."""

    def rule(now, state):
        t, size = now.gamma * now.strength * now.m, np.abs(now.moved)
        return ratio(now.moved, size) * np.maximum(size - t, 0.0), state

    return trajectory(rule, theta0, grads, **chain)


def pin_radius(theta0, grads, *, axis=None, **chain):
    """See `pinned`."""
    return replaced(
        lambda now, state: (pinned(now.theta, now.moved, axis), state),
        theta0,
        grads,
        **chain,
    )


class Constraint(NamedTuple):
    kappa: np.ndarray  # NaN: not known yet
    dual: np.ndarray | float = 0.0
    measured: tuple = ()


def constrain_norm(
    theta0,
    grads,
    *,
    bound=None,
    initial_factor=None,
    after_steps=None,
    inflection_every=None,
    step_size=1.0,
    axis=None,
    **chain,
):
    """R(theta) = |theta|^2, n entries. One of four options gives kappa (per slice):

    bound              kappa = bound
    initial_factor     kappa = initial_factor R(theta_0)
    after_steps        kappa = R(theta_t) at t = after_steps
    inflection_every   R_j = R(theta_t) at t = j k. kappa = R_j at the first j >= 2
                       with R_j - R_{j-1} < R_{j-1} - R_{j-2}

    With kappa known: l <- max(0, l + step_size / n (R(moved) - kappa)), from 0;
    theta' = moved - 2 l moved.
    """
    options = (bound, initial_factor, after_steps, inflection_every)
    assert sum(x is not None for x in options) == 1
    start = norm2(wide(theta0), axis)
    kappa = np.full(start.shape, np.nan)
    if bound is not None:
        kappa = np.broadcast_to(wide(bound), start.shape)
    if initial_factor is not None:
        kappa = initial_factor * start

    def rule(now, state):
        kappa, dual, measured = state
        R = norm2(now.theta, axis)
        if after_steps is not None and now.t == after_steps:
            kappa = R
        if inflection_every is not None and now.t % inflection_every == 0:
            measured = (*measured, R)
            if len(measured) >= 3:
                before, last, new = measured[-3:]
                bends = np.isnan(kappa) & (new - last < last - before)
                kappa = np.where(bends, new, kappa)
        n = now.theta.size / R.size
        excess = norm2(now.moved, axis) - kappa
        stepped = np.maximum(0.0, dual + step_size / n * excess)
        dual = np.where(np.isnan(kappa), 0.0, stepped)
        return now.moved - np.minimum(2 * dual, 1.0) * now.moved, Constraint(
            kappa, dual, measured
        )

    return replaced(rule, theta0, grads, state=Constraint(kappa), **chain)


def selective_projection(theta0, grads, **chain):
    """a = |moved - theta_0|, b = |theta - theta_0|;  r = clip((a - b) / a, 0, 1).

    theta' = moved - strength r (moved - theta_0) where <g, theta - theta_0> > 0.
    """

    def rule(now, state):
        away, before = now.moved - now.theta0, now.theta - now.theta0
        r = np.clip(ratio(norm(away) - norm(before), norm(away)), 0.0, 1.0)
        r = np.where(inner(now.g, before) > 0, r, 0.0)
        return now.moved - now.strength * r * away, state

    return replaced(rule, theta0, grads, **chain)


# --- 18: instead of the learning rate. ---


def rotational(
    theta0, grads, *, axis=-2, center=True, average_rate=0.9, eps=1e-8, **chain
):
    """w = u, minus its mean over axis if center;  w' = w - its radial part.

    s2 <- beta s2 + (1 - beta) |w'|^2, from 0;  s = sqrt(s2 / (1 - beta^(t+1)))
    theta' = theta - rotation m |theta_0| w' / (s + eps);  theta' |theta_0| / |theta'|.
    Excluded: theta - gamma u.
    """

    def rule(now, s2):
        if excluded(now.m):
            return now.moved, s2
        w = now.u
        if center:
            total = np.sum(w, axis=axis, keepdims=True)
            w = w - total * total.size / w.size
        w = w - radial(w, now.theta, axis)
        s2 = average_rate * s2 + (1 - average_rate) * norm2(w, axis)
        s = np.sqrt(s2 / (1 - average_rate ** (now.t + 1)))
        radius = norm(now.theta0, axis)
        turned = now.theta - now.strength * now.m * radius * w / (s + eps)
        return turned * ratio(radius, norm(turned, axis)), s2

    return trajectory(rule, theta0, grads, state=0.0, **chain)
