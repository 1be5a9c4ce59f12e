"""The laws of the subject, each against float64 NumPy or a closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
import scipy.optimize

import decayax as dx


LAMBDAS = (1e-4, 1e-2, 1.0)


def descend(optimizer, theta, steps, grad=lambda theta, t: 0.0 * theta):
    """θ_0 … θ_T in the dtype of theta, with the gradient at each θ_t."""

    def step(carry, t):
        theta, state = carry
        updates, state = optimizer.update(grad(theta, t), state, theta)
        theta = optax.apply_updates(theta, updates)
        return (theta, state), theta

    theta = jnp.asarray(theta)
    carry = (theta, optimizer.init(theta))
    _, path = jax.jit(lambda c: jax.lax.scan(step, c, jnp.arange(steps)))(carry)
    return np.concatenate([np.asarray(theta)[None], np.asarray(path)])


def cosine(peak, steps):
    def schedule(t):
        t = jnp.asarray(t, jnp.result_type(float))
        return 0.5 * peak * (1.0 + jnp.cos(jnp.pi * t / steps))

    return schedule


# --- SGD: without momentum the three forms are identical --------------------------


@pytest.fixture
def regression(x64):
    rng = np.random.default_rng(1)
    X = rng.standard_normal((50, 4)) * np.array([0.3, 1.0, 2.0, 1.5])
    y = X @ np.array([1.0, -2.0, 0.5, 3.0]) + rng.standard_normal(50)
    return jnp.asarray(X), jnp.asarray(y)


def mean_square(X, y):
    return lambda theta: 0.5 * jnp.mean((X @ theta - y) ** 2)


@pytest.mark.parametrize("rate", [0.05, "cosine"])
def test_under_sgd_l2_penalty_and_decoupled_decay_are_identical(regression, rate):
    rate = cosine(0.05, 100) if rate == "cosine" else rate
    loss = mean_square(*regression)
    penalised = lambda theta: loss(theta) + dx.l2_penalty(theta, 0.3)  # noqa: E731
    start = np.array([1.0, 1.0, -1.0, 0.0])
    slope = lambda f: lambda theta, t: jax.grad(f)(theta)  # noqa: E731
    l2, penalty, decoupled, none = (
        descend(optimizer, start, 100, slope(f))
        for optimizer, f in (
            (dx.sgd_l2(rate, weight_decay=0.3), loss),
            (optax.sgd(rate), penalised),
            (dx.sgdw(rate, weight_decay=0.3), loss),
            (optax.sgd(rate), loss),
        )
    )
    np.testing.assert_allclose(penalty, l2, rtol=1e-12)
    np.testing.assert_allclose(decoupled, l2, rtol=1e-12)
    assert np.abs(none - l2).max() > 0.1


def test_with_momentum_l2_and_decoupled_decay_differ(regression):
    loss = mean_square(*regression)
    slope = lambda theta, t: jax.grad(loss)(theta)  # noqa: E731
    start = np.array([1.0, 1.0, -1.0, 0.0])
    l2, decoupled = (
        descend(make(0.01, momentum=0.9, weight_decay=0.3), start, 100, slope)
        for make in (dx.sgd_l2, dx.sgdw)
    )
    assert np.abs(l2 - decoupled).max() > 0.1


@pytest.mark.parametrize("momentum", [0.5, 0.9])
@pytest.mark.parametrize(("rate", "strength"), [(0.01, 0.1), (0.1, 0.01)])
def test_momentum_multiplies_the_shrink_of_l2(x64, rate, strength, momentum):
    l2, decoupled = (
        descend(make(rate, momentum=momentum, weight_decay=strength), 1.0, 400)
        for make in (dx.sgd_l2, dx.sgdw)
    )
    root = reference.steady_shrink_momentum_l2(rate, strength, momentum)
    np.testing.assert_allclose(l2[301:] / l2[300:-1], root, rtol=1e-10)
    np.testing.assert_allclose(
        decoupled, (1 - rate * strength) ** np.arange(401.0), rtol=1e-12
    )
    # 1/(1 − β) times larger to first order in x = γλ: expanding the root,
    # 1 − z = x/(1 − β)·(1 + s + (1 + 1/β)s² + …) with s = xβ/(1 − β)².
    x = rate * strength
    s = x * momentum / (1 - momentum) ** 2
    series = 1 + s + (1 + 1 / momentum) * s**2
    assert 1 - root == pytest.approx(x / (1 - momentum) * series, rel=15 * s**3)


# --- RMSprop and Adam: the preconditioner divides the decay -----------------------


@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e2])
def test_rmsprop_l2_shrinks_by_the_inverse_of_the_gradient(x64, scale):
    """Rate per step γλ/(√V + ε): with gradients ±s, √V = s and the rate is γλ/s."""
    rate, strength, eps, steps = 1e-4, 1e-3, 1e-8, 2000
    noise = lambda theta, t: jnp.where(t % 2, -scale, scale) + 0.0 * theta  # noqa: E731
    l2, w, none = (
        descend(optimizer, 1.0, steps, noise)
        for optimizer in (
            dx.rmsprop_l2(rate, eps=eps, initial_scale=scale**2, weight_decay=strength),
            dx.rmspropw(rate, eps=eps, initial_scale=scale**2, weight_decay=strength),
            dx.rmspropw(rate, eps=eps, initial_scale=scale**2, weight_decay=0.0),
        )
    )
    lost_l2, lost_w = -(l2 - none)[-1] / steps, -(w - none)[-1] / steps
    # first order in the loss itself (up to 2 % here) and in λθ/s (up to 10 %)
    assert lost_l2 == pytest.approx(rate * strength / (scale + eps), rel=0.11)
    assert lost_w == pytest.approx(rate * strength, rel=2e-4)


def test_rmsprop_l2_rate_is_the_formula_per_weight(x64):
    """With V held (β → 1) the shrink of each weight is γλ/(√V + ε), to rounding."""
    root_v = np.array([1e-3, 1e-1, 1.0, 10.0, 1e3])
    params = jnp.ones(5)
    state_of = lambda opt: opt.init(params)  # noqa: E731

    def update(optimizer):
        state = jax.tree.map(
            lambda x: jnp.asarray(root_v**2) if x.ndim else x, state_of(optimizer)
        )
        return np.asarray(optimizer.update(jnp.zeros(5), state, params)[0])

    decay = 1.0 - 1e-15
    options = {"decay": decay, "eps": 1e-2, "weight_decay": 0.3}
    np.testing.assert_allclose(
        -update(dx.rmsprop_l2(0.1, **options)), 0.1 * 0.3 / (root_v + 1e-2), rtol=1e-8
    )
    np.testing.assert_allclose(-update(dx.rmspropw(0.1, **options)), 0.03, rtol=1e-12)


def test_scale_by_rms_with_decoupled_decay_is_adamw_without_first_moment(x64):
    rng = np.random.default_rng(0)
    grads = jnp.asarray(rng.standard_normal((50, 6)) * 10.0 ** rng.uniform(-3, 3, 6))
    ours = optax.chain(
        dx.scale_by_rms(0.99, bias_correction=True),
        dx.decoupled_decay(0.2),
        optax.scale_by_learning_rate(0.01),
    )
    start = rng.standard_normal(6)
    path = descend(ours, start, 50, lambda theta, t: grads[t])
    expected = reference.adamw(
        start, np.asarray(grads), learning_rate=0.01, weight_decay=0.2, b1=0.0, b2=0.99
    )
    np.testing.assert_allclose(path, expected, rtol=1e-12)
    with jax.numpy_dtype_promotion("standard"):
        theirs = optax.adamw(0.01, b1=0.0, b2=0.99, weight_decay=0.2)
        adamw = descend(theirs, start, 50, lambda theta, t: grads[t])
    np.testing.assert_allclose(path, adamw, rtol=1e-12)


@pytest.mark.parametrize("make", [dx.scale_by_rms, dx.scale_by_stddev])
def test_a_nan_in_the_second_moment_stays_visible(make):
    """It must not become a division by ε, which is a huge finite step."""
    transform = make()
    state = transform.init(jnp.ones(2))
    for grad in (jnp.array([jnp.nan, 1.0]), jnp.ones(2)):
        update, state = transform.update(grad, state)
    assert np.isnan(update[0])
    assert np.isfinite(update[1])


def test_bias_correction_keeps_float32_for_averages_near_one():
    """The first step is g/|g| = ±1; 1 − 0.999 in float32 would be off by 6e-6."""
    grads = jnp.array([1e-3, -2.0, 5.0])
    opt = dx.scale_by_rms(0.999, eps=0.0, bias_correction=True)
    updates, _ = opt.update(grads, opt.init(grads))
    np.testing.assert_allclose(updates, jnp.sign(grads), rtol=3e-7)


def test_without_memory_the_preconditioner_is_the_sign():
    """β = 0: V = g², and 1 − βᵗ = 1, although log β is −∞."""
    grads = jnp.array([1e-3, -2.0, 5.0])
    for bias_correction in (True, False):
        opt = dx.scale_by_rms(0.0, eps=0.0, bias_correction=bias_correction)
        state = opt.init(grads)
        for scale in (1.0, 3.0):
            updates, state = opt.update(scale * grads, state)
            np.testing.assert_allclose(updates, jnp.sign(grads), rtol=3e-7)


def test_lambda_cancels_where_there_is_no_gradient(x64):
    """A weight with zero gradient, from 1.0: under L2 its path does not depend on λ."""
    adam = [descend(dx.adam_l2(1e-3, weight_decay=x), 1.0, 400) for x in LAMBDAS]
    rms = [descend(dx.rmsprop_l2(1e-3, weight_decay=x), 1.0, 400) for x in LAMBDAS]
    for path in adam:
        assert path[-1] == pytest.approx(0.6378, abs=1e-4)
        np.testing.assert_allclose(path, adam[-1], rtol=2e-4)  # ε = 1e-8 against 1e-4·θ
    for path in rms:
        assert path[-1] == pytest.approx(0.595, abs=1e-3)
        np.testing.assert_allclose(path, rms[-1], rtol=2e-4)
    for strength in LAMBDAS:
        for make in (dx.adamw, dx.rmspropw, dx.sgdw):
            path = descend(make(1e-3, weight_decay=strength), 1.0, 400)
            expected = (1 - 1e-3 * strength) ** np.arange(401.0)
            np.testing.assert_allclose(path, expected, rtol=1e-12)


# --- independent decay, and multiplying by 0.98 -----------------------------------


def test_independent_decay_is_independent_of_the_learning_rate(x64):
    for rate in (1e-3, 1.0):
        chain = optax.chain(optax.sgd(rate), dx.independent_decay(0.02))
        path = descend(chain, 1.0, 50)
        np.testing.assert_allclose(path, 0.98 ** np.arange(51.0), rtol=1e-12)


def test_multiplying_by_0_98_is_independent_decay_up_to_the_order(x64):
    """θ ← 0.98(θ + Δ) against θ ← 0.98θ + Δ: 0.02·Δ apart in every step.

    The heuristic shrinks the new step too, as if the update were 0.98 as large. With
    the update divided by 0.98 the two are the same, and so is their order swapped.
    """
    slope = lambda theta, t: jnp.cos(theta + 0.1 * t.astype(float))  # noqa: E731
    start = np.array([1.0, -2.0])

    def heuristic(rate):
        theta, path = start, [start]
        for t in range(40):
            step = -rate * np.cos(theta + 0.1 * t)
            theta = 0.98 * (theta + step)
            path.append(theta)
        return np.array(path)

    def independent(rate):
        chain = optax.chain(optax.sgd(rate), dx.independent_decay(0.02))
        return descend(chain, start, 40, slope)

    first_step = -0.1 * np.cos(start)
    gap = independent(0.1)[1] - heuristic(0.1)[1]
    np.testing.assert_allclose(gap, 0.02 * first_step, rtol=1e-10)
    assert np.abs(independent(0.1) - heuristic(0.1)).max() > 1e-3
    np.testing.assert_allclose(independent(0.1), heuristic(0.1 / 0.98), rtol=1e-12)


# --- ridge regression: what the two decays converge to ----------------------------


def test_sgd_l2_finds_the_map_estimate_and_adamw_does_not(regression):
    X, y = regression
    strength, slope = 0.5, jax.grad(mean_square(*regression))
    grad = lambda theta, t: slope(theta)  # noqa: E731
    ridge = reference.ridge(np.asarray(X), np.asarray(y), strength)
    sgd = descend(dx.sgd_l2(0.1, weight_decay=strength), np.zeros(4), 2000, grad)[-1]
    np.testing.assert_allclose(sgd, ridge, rtol=1e-10)

    rate = cosine(0.05, 100_000)
    l2, w = (
        descend(make(rate, weight_decay=strength), np.zeros(4), 100_000, grad)[-1]
        for make in (dx.adam_l2, dx.adamw)
    )
    np.testing.assert_allclose(l2, ridge, rtol=1e-3)
    # AdamW: the least-squares solution inside the box max|θ| ≤ 1/λ = 2 (Xie and Li,
    # https://arxiv.org/abs/2404.04454), not the MAP estimate.
    box = scipy.optimize.lsq_linear(np.asarray(X), np.asarray(y), (-2.0, 2.0)).x
    assert np.abs(reference.ridge(np.asarray(X), np.asarray(y), 0.0)).max() > 2.0
    assert np.abs(box - ridge).max() > 0.3
    np.testing.assert_allclose(w, box, rtol=1e-2)
