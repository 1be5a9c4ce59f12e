"""The catalogue's equations as plain NumPy float64 loops, one leaf at a time.

As in reference.py, theta0 is the leaf, grads its T recorded gradients, and a trajectory
is theta_0 .. theta_T, shape [T+1, *leaf]. The chain is plain SGD (u = g), the method at
its place, the learning rate. Keywords of all methods:

    learning_rate     gamma_t, a float or a function of the 0-based step t
    weight_decay      lambda_t, the strength of the method, for example its rotation
    multiplier=1.0    m, a float or an array that broadcasts; 0 is plain SGD
    step, step_options    another preconditioner than SGD, such as adam_step

A pull also has place="decoupled" or "finished". Finished is behind the learning rate;
pull_rate is then the argument learning_rate of the pull (None: that of the chain).
Norms and products are over `axis` (None: the leaf), with the axes kept: |x|^2 and
Re <conj x, y> for complex leaves.
"""

from typing import Any, NamedTuple

import numpy as np
from reference import abs2, adam_step, AdamState, at, sgd_step, wide


class Now(NamedTuple):
    """What a method sees at step t."""

    t: int
    theta: np.ndarray
    g: np.ndarray  # the raw gradient
    u: np.ndarray  # the direction, to be subtracted
    gamma: float
    lam: float
    m: Any

    @property
    def moved(self):
        """theta + Delta with Delta = -gamma u, the base optimizer's step."""
        return self.theta - self.gamma * self.u


def inner(x, y, axis=None):
    return np.sum(np.real(np.conj(x) * y), axis=axis, keepdims=True)


def norm(x, axis=None):
    return np.sqrt(np.sum(abs2(x), axis=axis, keepdims=True))


def divide(x, y, otherwise=0.0):
    """x / y, and `otherwise` where y is 0."""
    x, y = np.broadcast_arrays(x, y)
    safe = np.where(y == 0, 1.0, y)
    return np.where(y == 0, otherwise, x / safe)


def trajectory(
    new,
    theta0,
    grads,
    *,
    learning_rate,
    weight_decay=0.0,
    multiplier=1.0,
    step=sgd_step,
    step_options=None,
    gradient=None,
):
    """theta_{t+1} = new(now); gradient(theta, g) replaces g in front of the step."""
    theta0, grads = wide(theta0), wide(grads)
    dtype = np.result_type(theta0, grads)
    path = np.empty((len(grads) + 1, *theta0.shape), dtype=dtype)
    path[0] = theta0
    state = AdamState() if step is adam_step else 0.0
    m = np.asarray(multiplier, float)
    for t, g in enumerate(grads):
        theta, gamma = path[t], at(learning_rate, t)
        d = g + m * (gradient(theta, g) - g) if gradient else g
        u, state = step(state, d, t, **(step_options or {}))
        now = Now(t, theta, g, u, gamma, at(weight_decay, t), m)
        path[t + 1] = new(now) if m.any() else now.moved
    return path


# --- Pulls: rate * gate * direction ---


def pull(
    direction, theta0, grads, *, gate=None, place="decoupled", pull_rate=None, **options
):
    """decoupled   theta - gamma (u + lambda m gate(u) direction)
    finished    theta + Delta - pull_rate lambda m gate(-Delta) direction
    """

    def new(now):
        rate = now.gamma
        if place == "finished" and pull_rate is not None:
            rate = at(pull_rate, now.t)
        u = now.gamma * now.u if place == "finished" else now.u
        factor = now.m if gate is None else now.m * gate(now, u)
        return now.moved - rate * now.lam * factor * direction(now)

    return trajectory(new, theta0, grads, **options)


def cautious_decay(theta0, grads, *, strict=False, projection=None, **options):
    """The gate is 1 where Re(conj(u) theta) >= 0 (strict: > 0).

    With a projection, of which there is pin_radius only, Delta -> Delta':
    theta <- (theta + Delta') (1 - rate lambda m gate), the gate of -Delta and theta.
    The multiplier is that of the decay; the projection has its own.
    """

    def gate(now, u):
        agreement = np.real(np.conj(u) * now.theta)
        return agreement > 0 if strict else agreement >= 0

    if projection is None:
        return pull(lambda now: now.theta, theta0, grads, gate=gate, **options)
    multiplier = np.asarray(options.pop("multiplier", 1.0), float)
    pull_rate = options.pop("pull_rate", None)
    if options.pop("place", "finished") != "finished":
        raise ValueError("a projection is behind the learning rate")

    def new(now):
        rate = now.gamma if pull_rate is None else at(pull_rate, now.t)
        projected = now.theta + pinned(now.theta, -now.gamma * now.u)
        shrink = rate * now.lam * multiplier * gate(now, now.gamma * now.u)
        return projected * (1 - shrink)

    return trajectory(new, theta0, grads, **options)


def corrected_decay(theta0, grads, *, peak_learning_rate, **options):
    """u + lambda (gamma_t / gamma_peak) m theta."""
    direction = lambda now: now.gamma / peak_learning_rate * now.theta  # noqa: E731
    return pull(direction, theta0, grads, **options)


def decay_to(theta0, grads, *, anchor, **options):
    return pull(lambda now: now.theta - wide(anchor), theta0, grads, **options)


def decay_to_init(theta0, grads, **options):
    return decay_to(theta0, grads, anchor=theta0, **options)


def decay_to_average(theta0, grads, *, average_rate=0.999, **options):
    """a <- beta a + (1 - beta) theta_t, then the direction theta_t - a."""
    average = wide(theta0)

    def direction(now):
        nonlocal average
        average = average_rate * average + (1 - average_rate) * now.theta
        return now.theta - average

    return pull(direction, theta0, grads, **options)


def norm_control(theta0, grads, *, target_ratio, axis=None, **options):
    """(1 - r |theta_0| / |theta|) theta; a zero theta has the direction 0."""
    size = target_ratio * norm(wide(theta0), axis)

    def direction(now):
        return (1 - divide(size, norm(now.theta, axis))) * now.theta

    return pull(direction, theta0, grads, **options)


def target_norm_decay(
    theta0, grads, *, target_norm, momentum=0.0, axis=None, **options
):
    """u + m d theta with d = gamma |u|^2 S / (2 c^2), S = (1 + beta) / (1 - beta)."""
    initial = isinstance(target_norm, str)
    c = norm(wide(theta0), axis) if initial else np.asarray(target_norm, float)
    S = (1 + momentum) / (1 - momentum)

    def new(now):
        d = divide(now.gamma * norm(now.u, axis) ** 2 * S, 2 * c**2)
        return now.moved - now.gamma * now.m * d * now.theta

    return trajectory(new, theta0, grads, **options)


def matrix(x):
    """The last two axes; a vector has one column."""
    return x if x.ndim > 1 else x.reshape(-1, 1)


def adjoint(x):
    return np.conj(np.swapaxes(x, -1, -2))


def spectral_decay(theta0, grads, *, cap=None, iterations=None, **options):
    """sigma_1 u_1 v_1^H, or U max(sigma - cap, 0) V^H, of the last two axes.

    iterations: x v v^H, with v <- x^H x v / |x^H x v| so many times in each update; v
    goes on from the update before, and from cos(0), cos(1), ... in the first. It stays
    where x v = 0.
    """
    v = np.cos(np.arange(matrix(wide(theta0)).shape[-1]))[:, None]

    def direction(now):
        nonlocal v
        x = matrix(now.theta)
        if iterations is not None:
            for _ in range(iterations):
                w = adjoint(x) @ (x @ v)
                v = divide(w, norm(w, axis=-2), otherwise=v)
            return (x @ v @ adjoint(v)).reshape(now.theta.shape)
        left, sigma, right = np.linalg.svd(x, full_matrices=False)
        if cap is None:
            part = np.where(np.arange(sigma.shape[-1]) == 0, sigma, 0.0)
        else:
            part = np.maximum(sigma - cap, 0.0)
        return ((left * part[..., None, :]) @ right).reshape(now.theta.shape)

    return pull(direction, theta0, grads, **options)


def decoupled_penalty(
    theta0, grads, *, penalty=None, penalty_gradient=lambda x: x**3, **options
):
    """The gradient of the penalty is written by hand: theta^3, of 1/4 sum theta^4."""
    return pull(lambda now: penalty_gradient(now.theta), theta0, grads, **options)


def merged_lora_decay(theta0, grads, **options):
    """The merged weight 2 theta: its gradient is 4 theta."""
    return pull(lambda now: 4 * now.theta, theta0, grads, **options)


def merged_product_decay(theta0, grads, *, base, scale, **options):
    """Leaves "a" and "b" of the merged weight W = W_0 + s a b.

    The directions are s W b^H and s a^H W, of 1/2 |W|^2.
    """
    path = {key: wide(x)[None] for key, x in theta0.items()}
    for t in range(len(grads["a"])):
        now = {
            key: at(options[key], t)
            for key in ("learning_rate", "weight_decay", "pull_rate")
            if key in options
        }
        a, b = path["a"][-1], path["b"][-1]
        merged = wide(base) + scale * a @ b
        directions = {
            "a": scale * merged @ adjoint(b),
            "b": scale * adjoint(a) @ merged,
        }
        for key in path:
            one = pull(
                lambda _, direction=directions[key]: direction,
                path[key][-1],
                wide(grads[key])[t : t + 1],
                **{**options, **now},
            )
            path[key] = np.concatenate([path[key], one[1:]])
    return path


def touched_decay(theta0, grads, *, axis=None, average_rate=None, **options):
    """Gate 1[any g != 0 over axis], or f <- beta f + (1 - beta) gate from f = 0."""
    average = 0.0

    def gate(now, u):
        nonlocal average
        touched = np.any(now.g != 0, axis=axis, keepdims=True).astype(float)
        if average_rate is None:
            return touched
        average = average_rate * average + (1 - average_rate) * touched
        return average

    return pull(lambda now: now.theta, theta0, grads, gate=gate, **options)


# --- The direction u: its radial part and its size ---


def direction_rule(rule, theta0, grads, **options):
    """theta - gamma rule(now)."""
    new = lambda now: now.theta - now.gamma * rule(now)  # noqa: E731
    return trajectory(new, theta0, grads, **options)


def radial_brake(theta0, grads, *, axis=None, **options):
    """u - strength m min(c, 0) theta with c = <u, theta> / |theta|^2."""

    def rule(now):
        c = divide(inner(now.u, now.theta, axis), norm(now.theta, axis) ** 2)
        return now.u - now.lam * now.m * np.minimum(c, 0.0) * now.theta

    return direction_rule(rule, theta0, grads, **options)


def update_to_weight_floor(theta0, grads, *, floor, axis=None, **options):
    """u f / |u| where 0 < |u| < f = floor m |theta|."""

    def rule(now):
        f = at(floor, now.t) * now.m * norm(now.theta, axis)
        size = norm(now.u, axis)
        return now.u * np.where(size < f, divide(f, size, 1.0), 1.0)

    return direction_rule(rule, theta0, grads, **options)


def project_radial_gradient(theta0, grads, *, axis=None, rescale=True, **options):
    """g - (<theta, g> / (|theta|^2 + 1e-30)) theta, of the size of g if rescale."""
    options.pop("weight_decay", None)

    def gradient(theta, g):
        c = inner(theta, g, axis) / (norm(theta, axis) ** 2 + 1e-30)
        tangent, size = g - c * theta, norm(g, axis)
        # Of a radial gradient only rounding errors are left.
        tangent = np.where(norm(tangent, axis) > 1e-12 * size, tangent, 0.0)
        if not rescale:
            return tangent
        return tangent * size / (norm(tangent, axis) + 1e-30)

    new = lambda now: now.moved  # noqa: E731
    return trajectory(new, theta0, grads, gradient=gradient, **options)


def project_radial_update(
    theta0, grads, *, threshold=0.1, decay_factor=0.1, step=adam_step, **options
):
    """AdamP: u without its radial part, and the decay times decay_factor.

    In the first view with max |cos(g, theta)| < threshold / sqrt(size of a vector), if
    there is one. A vector is an output unit (all axes but the last), or else the leaf.
    A zero vector has the cosine 0.
    """

    def rule(now):
        lam, theta = now.lam * now.m, now.theta
        units = tuple(range(theta.ndim - 1))
        for axis in (units, None) if theta.ndim > 1 else ():
            sizes = norm(now.g, axis) * norm(theta, axis)
            cosine = divide(inner(now.g, theta, axis), sizes)
            count = theta.size / cosine.size
            if np.abs(cosine).max() < threshold / np.sqrt(count):
                c = divide(inner(now.u, theta, axis), norm(theta, axis) ** 2)
                return now.u - c * theta + lam * decay_factor * theta
        return now.u + lam * theta

    return direction_rule(rule, theta0, grads, step=step, **options)


# --- The finished step: theta + Delta -> theta_new ---


def by_part(rule, theta0, grads, **options):
    """theta + Delta + m (rule(now) - theta - Delta)."""
    new = lambda now: now.moved + now.m * (rule(now) - now.moved)  # noqa: E731
    return trajectory(new, theta0, grads, **options)


def fixed_norm(
    theta0, grads, *, axis=None, spectral=False, radius="current", **options
):
    """(theta + Delta) R / N(theta + Delta); unchanged where N is 0."""

    def size(x):
        if not spectral:
            return norm(x, axis)
        values = np.linalg.svd(matrix(x), compute_uv=False)[..., :1]
        return values.reshape(x.shape[:-2] + (1, 1)[: x.ndim])

    initial = size(wide(theta0))

    def rule(now):
        named = {"current": size(now.theta), "initial": initial}
        R = named[radius] if isinstance(radius, str) else np.asarray(radius, float)
        return now.moved * divide(R, size(now.moved), 1.0)

    return by_part(rule, theta0, grads, **options)


def proximal_decay(theta0, grads, **options):
    new = lambda now: now.moved / (1 + now.gamma * now.lam * now.m)  # noqa: E731
    return trajectory(new, theta0, grads, **options)


def soft_threshold(theta0, grads, *, place="finished", **options):
    """theta~ max(1 - t / |theta~|, 0) with t = gamma strength m."""

    def new(now):
        t = now.gamma * now.lam * now.m
        return now.moved * np.maximum(1 - divide(t, np.abs(now.moved)), 0.0)

    return trajectory(new, theta0, grads, **options)


def pinned(theta, delta, axis=None):
    """Delta' of pin_radius: |theta + Delta'| = |theta| + <Delta, theta> / |theta|."""
    size, moved = norm(theta, axis), theta + delta
    R = size + divide(inner(delta, theta, axis), size)
    allowed = (R > 0) & (size > 0)
    return moved * np.where(allowed, divide(R, norm(moved, axis), 1.0), 1.0) - theta


def pin_radius(theta0, grads, *, axis=None, **options):
    def rule(now):
        return now.theta + pinned(now.theta, -now.gamma * now.u, axis)

    return by_part(rule, theta0, grads, **options)


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
    **options,
):
    """CPR: l <- max(0, l + rho / n (R - kappa)); theta~ - 2 m l theta~.

    R = |theta~|^2 of n entries. kappa is the bound; initial_factor R(theta_0); R(theta)
    at step after_steps; or, measured every k steps from step 0, R at the first
    measurement that grew less than the one before. NaN: not yet known.
    """
    R_0 = norm(wide(theta0), axis) ** 2
    n = wide(theta0).size / R_0.size
    dual, kappa, measured = np.zeros_like(R_0), np.full_like(R_0, np.nan), []
    if bound is not None:
        kappa = np.broadcast_to(np.asarray(bound, float), R_0.shape)
    if initial_factor is not None:
        kappa = initial_factor * R_0

    def new(now):
        nonlocal dual, kappa
        R = norm(now.theta, axis) ** 2
        if now.t == after_steps:
            kappa = R
        if inflection_every and now.t % inflection_every == 0:
            measured.append(R)
            if len(measured) >= 3:
                before, growth = np.diff(measured[-3:], axis=0)
                kappa = np.where(np.isnan(kappa) & (growth < before), R, kappa)
        excess = norm(now.moved, axis) ** 2 - kappa
        known = ~np.isnan(kappa)
        dual = np.where(known, np.maximum(0.0, dual + step_size / n * excess), 0.0)
        return now.moved - now.m * dual * 2 * now.moved

    return trajectory(new, theta0, grads, **options)


def selective_projection(theta0, grads, **options):
    """theta~ - strength m r (theta~ - theta_0) if <g, theta - theta_0> > 0.

    r = clip((|theta~ - theta_0| - |theta - theta_0|) / |theta~ - theta_0|, 0, 1).
    """
    start = wide(theta0)

    def new(now):
        if inner(now.g, now.theta - start).item() <= 0:
            return now.moved
        far, near = norm(now.moved - start), norm(now.theta - start)
        r = np.clip(divide(far - near, far), 0.0, 1.0)
        return now.moved - now.lam * now.m * r * (now.moved - start)

    return trajectory(new, theta0, grads, **options)


def rotational(
    theta0, grads, *, axis=None, center=True, average_rate=0.9, eps=1e-8, **options
):
    """w = u (centered), without its radial part; s^2 the corrected average of |w|^2.

    theta' = theta - rotation m |theta_0| w / (s + eps), scaled to |theta_0|.
    """
    size, square = norm(wide(theta0), axis), 0.0

    def new(now):
        nonlocal square
        w = now.u - now.u.mean(axis=axis, keepdims=True) if center else now.u
        c = divide(inner(w, now.theta, axis), norm(now.theta, axis) ** 2)
        w = w - c * now.theta
        square = average_rate * square + (1 - average_rate) * norm(w, axis) ** 2
        s = np.sqrt(square / (1 - average_rate ** (now.t + 1)))
        turned = now.theta - now.lam * now.m * size * w / (s + eps)
        return turned * divide(size, norm(turned, axis))

    return trajectory(new, theta0, grads, **options)


# --- A function ---


def shrink_and_perturb(theta, noise_of_one, *, shrink=0.5, noise=0.1, multiplier=1.0):
    """shrink theta + noise std(theta) eps, for a given standard normal eps."""
    theta = wide(theta)
    std = np.sqrt(np.mean(abs2(theta - theta.mean())))
    new = shrink * theta + noise * std * wide(noise_of_one)
    return theta + np.asarray(multiplier) * (new - theta)
