"""Identities of the subject that tie the methods to each other and to closed forms.

The tests of single methods are in test_catalogue_laws.py, those of the places of L2 in
test_laws.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from test_laws import cosine, descend

import decayax as dx


pytestmark = pytest.mark.usefixtures("x64")

GAMMA, LAMBDA = 0.1, 0.5


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def recorded(grads):
    """Gradients that do not depend on the weights."""
    return lambda theta, t: jnp.asarray(grads)[t]


def across(theta, t):
    """Noise that is orthogonal to each column, with entries of the mean square 1."""
    g = jax.random.normal(jax.random.fold_in(jax.random.key(0), t), theta.shape)
    product = lambda x, y: jnp.sum(x * y, 0, keepdims=True)  # noqa: E731
    g = g - theta * product(g, theta) / product(theta, theta)
    return g * jnp.sqrt(len(theta) / product(g, g))


def sgd(*stages, last=(), gamma=GAMMA):
    return optax.chain(*stages, optax.scale_by_learning_rate(gamma), *last)


def norms(path, axis=None):
    axis = tuple(range(1, path.ndim)) if axis is None else axis
    return np.sqrt((np.abs(path) ** 2).sum(axis))


def gamma_of(t):
    return 0.3 / (1.0 + jnp.asarray(t, float) / 7.0)


def lambda_of(t):
    return 0.2 + 0.02 * jnp.asarray(t, float)


# --- decoupled decay --------------------------------------------------------------


def test_decoupled_decay_is_an_average_of_the_directions():
    """θ_t = (1 − 1/τ) θ_{t−1} + (1/τ)(−u_t/λ) with τ = 1/γλ."""
    grads, start, kept = normal(40, 5), normal(5, seed=1), 1 - GAMMA * LAMBDA
    path = descend(dx.adamw(GAMMA, weight_decay=LAMBDA), start, 40, recorded(grads))
    u = reference.adam_directions(grads)
    weights = (1 - kept) * kept ** np.arange(39, -1, -1.0)
    average = weights @ (-u / LAMBDA)
    np.testing.assert_allclose(path[-1], kept**40 * start + average, rtol=1e-9)


def test_under_a_fixed_preconditioner_it_is_a_different_l2_for_each_weight():
    """Loshchilov and Hutter, propositions 2 and 3: L2 of the strength λs under 1/s."""
    scales, start, grads = np.array([0.1, 1.0, 30.0]), normal(3), normal(20, 3, seed=1)
    divide = optax.stateless(lambda g, params: g / scales)
    decoupled = sgd(divide, dx.decoupled_decay(LAMBDA))
    path = descend(decoupled, start, 20, recorded(grads))
    l2 = sgd(dx.add_l2_to_grad(LAMBDA, mask=scales), divide)
    np.testing.assert_allclose(
        descend(l2, start, 20, recorded(grads)), path, rtol=1e-11
    )
    for strength in LAMBDA * scales:
        single = sgd(dx.add_l2_to_grad(strength), divide)
        gap = np.abs(descend(single, start, 20, recorded(grads)) - path).max()
        assert gap > 0.05


ADAM = dx.adamw(GAMMA, eps=0.0, weight_decay=0.0)
RATE = {"learning_rate": GAMMA}


@pytest.mark.parametrize(
    ("optimizer", "scale_free"),
    [
        (dx.adamw(GAMMA, eps=0.0, weight_decay=LAMBDA), True),
        (optax.chain(ADAM, dx.proximal_decay(LAMBDA, **RATE)), True),
        (optax.chain(ADAM, dx.soft_threshold(LAMBDA, **RATE)), True),
        (optax.chain(ADAM, dx.cautious_decay(LAMBDA, **RATE)), True),
        (optax.chain(ADAM, dx.decay_to_init(LAMBDA, **RATE)), True),
        (dx.adam_l2(GAMMA, eps=0.0, weight_decay=LAMBDA), False),
    ],
    ids=["decoupled", "proximal", "soft threshold", "cautious", "to init", "L2"],
)
def test_decay_behind_adam_does_not_see_the_scale_of_gradients(optimizer, scale_free):
    """Zhuang et al., https://arxiv.org/abs/2202.00089."""
    grads, scales, start = normal(30, 4), 10.0 ** np.arange(-2, 2), normal(4, seed=1)
    path, scaled = (
        descend(optimizer, start, 30, recorded(c * grads)) for c in (1.0, scales)
    )
    assert np.allclose(path, scaled, rtol=1e-9, atol=1e-12) == scale_free


def test_polar_steps_with_decay_stay_in_a_spectral_ball():
    """‖W‖₂ ≤ max(‖W₀‖₂, 1/λ) for steps with singular values of 1, as in Muon."""

    def polar(updates, params):
        left, _, right = jnp.linalg.svd(updates, full_matrices=False)
        return left @ right

    optimizer = sgd(optax.stateless(polar), dx.decoupled_decay(2.0))
    push = lambda theta, t: -jnp.eye(4, 3) + 0.1 * across(theta, t)  # noqa: E731
    path = descend(optimizer, 0.1 * normal(4, 3), 100, push)
    sizes = np.linalg.norm(path, ord=2, axis=(1, 2))
    assert sizes.max() <= max(sizes[0], 0.5) + 1e-12
    assert sizes[-1] > 0.45


@pytest.mark.parametrize(
    ("decay", "remaining"),
    [
        (sgd(dx.decoupled_decay(lambda_of), gamma=gamma_of), lambda d, peak: 1 - d),
        (sgd(dx.cautious_decay(lambda_of), gamma=gamma_of), lambda d, peak: 1 - d),
        (sgd(dx.cautious_decay(lambda_of, strict=True), gamma=gamma_of), None),
        (sgd(dx.decay_to(lambda_of, 0.0), gamma=gamma_of), lambda d, peak: 1 - d),
        (
            sgd(
                dx.corrected_decay(
                    lambda_of, learning_rate=gamma_of, peak_learning_rate=0.3
                ),
                gamma=gamma_of,
            ),
            lambda d, peak: 1 - d * peak,
        ),
        (
            dx.proximal_decay(lambda_of, learning_rate=gamma_of),
            lambda d, peak: 1 / (1 + d),
        ),
        (
            sgd(dx.norm_control(lambda_of, target_ratio=0.0), gamma=gamma_of),
            lambda d, peak: 1 - d,
        ),
        (dx.touched_decay(optax.sgd(0.1), lambda_of, learning_rate=gamma_of), None),
    ],
    ids=[
        "decoupled",
        "cautious",
        "strictly cautious",
        "to 0",
        "corrected",
        "proximal",
        "norm control",
        "touched",
    ],
)
def test_without_gradients_the_factors_of_the_steps_multiply(decay, remaining):
    """θ_T = θ₀ Π (1 − γ_t λ_t), under schedules; None: nothing decays."""
    start, t = normal(2, 3), np.arange(25.0)
    gamma = np.asarray(gamma_of(t))
    d = gamma * np.asarray(lambda_of(t))
    factors = remaining(d, gamma / 0.3) if remaining else np.ones(25)
    left = np.concatenate([[1.0], np.cumprod(factors)])[:, None, None]
    np.testing.assert_allclose(descend(decay, start, 25), left * start, rtol=1e-12)


# --- what a quadratic loss converges to -------------------------------------------


def to_average(H, b, a):
    return np.linalg.solve(H, b)


def to_anchor(H, b, a):
    return np.linalg.solve(H + LAMBDA * np.eye(len(b)), b + LAMBDA * a)


def to_zero(H, b, a):
    return to_anchor(H, b, 0 * a)


@pytest.mark.parametrize(
    ("make", "minimum"),
    [
        (lambda a: sgd(last=[dx.proximal_decay(LAMBDA, learning_rate=GAMMA)]), to_zero),
        (lambda a: sgd(dx.decay_to(LAMBDA, a)), to_anchor),
        (lambda a: sgd(dx.decay_to_init(LAMBDA)), to_anchor),
        (lambda a: sgd(dx.decay_to_average(LAMBDA, average_rate=0.9)), to_average),
        (
            lambda a: sgd(
                dx.decoupled_penalty(LAMBDA, lambda x: 0.5 * jnp.sum((x - a) ** 2))
            ),
            to_anchor,
        ),
        (lambda a: sgd(dx.spectral_decay(LAMBDA)), to_zero),  # of a vector: itself
        (lambda a: sgd(dx.merged_lora_decay(LAMBDA, lambda x: x - a)), to_anchor),
    ],
    ids=[
        "proximal",
        "anchor",
        "init",
        "average",
        "penalty",
        "spectral",
        "merged",
    ],
)
def test_minimum_of_a_quadratic_loss(make, minimum):
    """½θᵀHθ − bᵀθ: ridge around 0 or the anchor, or the minimum without decay.

    The run starts at the anchor.
    """
    root = normal(6, 3, seed=1)
    H, b, anchor = root.T @ root / 6 + np.eye(3), normal(3), normal(3, seed=2)
    slope = lambda theta, t: H @ theta - b  # noqa: E731
    found = descend(make(jnp.asarray(anchor)), anchor, 1500, slope)[-1]
    np.testing.assert_allclose(found, minimum(H, b, anchor), rtol=1e-9)


def test_decay_of_factors_is_the_nuclear_norm_and_of_their_product_the_square():
    """½‖ABᵀ − D‖²: singular values max(σ − λ, 0), or σ/(1 + λ) (merged)."""
    values = np.array([3.0, 1.5, 0.4])
    left, right = (np.linalg.qr(normal(3, 3, seed=s))[0] for s in (1, 2))
    target = left * values @ right.T
    product = lambda theta: theta[0] @ theta[1].T  # noqa: E731
    slope = jax.grad(lambda theta: 0.5 * jnp.sum((product(theta) - target) ** 2))

    def singular_values(decay):
        path = descend(sgd(decay), normal(2, 3, 3), 3000, lambda theta, t: slope(theta))
        return np.linalg.svd(product(path[-1]), compute_uv=False)

    factors = singular_values(dx.decoupled_decay(LAMBDA))
    np.testing.assert_allclose(factors, np.maximum(values - LAMBDA, 0), atol=1e-9)
    merged = singular_values(dx.merged_lora_decay(LAMBDA, product))
    np.testing.assert_allclose(merged, values / (1 + LAMBDA), rtol=1e-9)


# --- losses that do not see the size of the weights -------------------------------


def invariant_slope(theta, t):
    direction = lambda x: x / jnp.linalg.norm(x)  # noqa: E731
    target, twist = jnp.asarray(normal(6, seed=3)), jnp.cos(t.astype(float) / 5.0)
    return jax.grad(lambda x: jnp.sum((direction(x) - twist * target) ** 4))(theta)


def test_decay_is_a_learning_rate_that_grows():
    """Li and Arora, https://arxiv.org/abs/1910.07454: γ(1 − γλ)^(−2t − 1)."""
    start, kept = normal(6), 1 - 0.02 * LAMBDA

    def growing(t):
        return 0.02 * kept ** (-2.0 * jnp.asarray(t, float) - 1)

    decayed = descend(
        sgd(dx.decoupled_decay(LAMBDA), gamma=0.02), start, 80, invariant_slope
    )
    free = descend(sgd(gamma=growing), start, 80, invariant_slope)
    shrunk = kept ** np.arange(81.0)[:, None]
    np.testing.assert_allclose(decayed, shrunk * free, rtol=1e-10)
    assert np.abs(free[-1] - start).max() > 0.1


@pytest.mark.parametrize(
    "transform",
    [dx.project_radial_gradient(), dx.radial_brake(1.0), dx.radial_brake(0.5)],
    ids=["orthograd", "brake", "half a brake"],
)
def test_their_gradients_have_no_radial_part(transform):
    start = normal(6)
    free = descend(sgd(), start, 30, invariant_slope)
    path = descend(sgd(transform), start, 30, invariant_slope)
    np.testing.assert_allclose(path, free, rtol=1e-11)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_brake_sees_the_degree_of_a_homogeneous_loss(sign):
    """⟨∇f, θ⟩ = kf for the degree k = 3; outwards is where f falls, f < 0."""
    first, second = (jnp.asarray(normal(4, 4, seed=s)) for s in (1, 2))

    def f(x):
        w = x.reshape(2, 4, 4)
        hidden = jax.nn.relu(w[1] @ jax.nn.relu(w[0] @ first))
        return sign * jnp.sum(hidden * jnp.abs(second)) * jnp.linalg.norm(x)

    theta = jnp.asarray(normal(32))
    g = jax.jit(jax.grad(f))(theta)
    brake = dx.radial_brake(0.5)
    got, _ = brake.update(g, brake.init(theta), theta)
    removed = 0.5 * min(3 * f(theta) / jnp.vdot(theta, theta), 0.0) * theta
    np.testing.assert_allclose(got, g - removed, rtol=1e-10)
    assert (np.abs(removed).max() > 0.1) == (sign < 0)


# --- norms ------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [0.5, 2.0])
def test_norm_control_goes_to_the_target_from_both_sides(ratio):
    """‖θ‖ − r‖θ₀‖ falls by 1 − γλ in each step; columns have their own norms."""
    start = normal(5, 3)
    decay = sgd(dx.norm_control(LAMBDA, target_ratio=ratio, axis=0))
    got, first = norms(descend(decay, start, 40), axis=1), norms(start, axis=0)
    left = (1 - GAMMA * LAMBDA) ** np.arange(41.0)[:, None]
    np.testing.assert_allclose(got, first * (ratio + left * (1 - ratio)), rtol=1e-12)


def test_corrected_decay_keeps_the_norm_under_a_cosine():
    """From the equilibrium RMS² = γ_peak/2λ on: within 1 %, until 99 % of the run."""
    gamma, start = cosine(0.01, 2000), normal(20)
    start = np.sqrt(0.01 / 2) * start / np.sqrt(np.mean(start**2))
    corrected = dx.corrected_decay(1.0, learning_rate=gamma, peak_learning_rate=0.01)
    kept, fell = (
        norms(descend(sgd(decay, gamma=gamma), start, 1980, across))
        for decay in (corrected, dx.decoupled_decay(1.0))
    )
    np.testing.assert_allclose(kept / kept[0], 1.0, atol=0.01)
    assert fell[-1] < 0.5 * fell[0]


@pytest.mark.parametrize("gamma", [0.05, 0.1])
def test_each_column_settles_at_its_own_target(gamma):
    """‖θ‖²(1 − (1 − d)²) = γ²‖u‖² and 2dc² = γ²‖u‖²: c to first order in d."""
    targets = np.array([[3.0, 5.0, 8.0]])
    decay = dx.target_norm_decay(jnp.asarray(targets), learning_rate=gamma, axis=0)
    path = descend(sgd(decay, gamma=gamma), normal(50, 3), 6000, across)
    d = gamma**2 * 50 / (2 * targets[0] ** 2)
    sizes = norms(path[-1], axis=0)
    np.testing.assert_allclose(sizes, targets[0] / np.sqrt(1 - d / 2), rtol=1e-3)
    np.testing.assert_allclose(sizes, targets[0], rtol=0.02)


@pytest.mark.parametrize("step", [-1.0, 0.5, 3.0])
def test_a_step_along_the_weights_changes_nothing_on_a_sphere(step):
    start = normal(7)
    path = descend(sgd(last=[dx.fixed_norm()]), start, 5, lambda theta, t: step * theta)
    np.testing.assert_allclose(path, np.broadcast_to(start, (6, 7)), rtol=1e-13)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_a_rotation_does_not_see_the_size_of_the_directions(scale):
    grads, start = normal(30, 5, 3), normal(5, 3, seed=1)
    turn = dx.rotational(0.05, learning_rate=GAMMA, eps=0.0)
    path = descend(turn, start, 30, recorded(grads))
    np.testing.assert_allclose(
        descend(turn, start, 30, recorded(scale * grads)), path, rtol=1e-9
    )


def test_a_pull_to_the_average_divides_a_drift_and_has_no_origin():
    """For a constant u: v = −γu/(1 + γλβ/(1 − β)), as θ − a = βv/(1 − β)."""
    u, beta = normal(3), 0.8
    decay = sgd(dx.decay_to_average(LAMBDA, average_rate=beta))
    path = descend(decay, normal(3, seed=1), 300, lambda theta, t: jnp.asarray(u))
    drift = -GAMMA * u / (1 + GAMMA * LAMBDA * beta / (1 - beta))
    np.testing.assert_allclose(path[-1] - path[-2], drift, rtol=1e-9)
    moved = descend(decay, normal(3, seed=1) + 9, 300, lambda theta, t: jnp.asarray(u))
    np.testing.assert_allclose(moved - 9, path, rtol=1e-9)


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_selective_projection_holds_a_part_of_the_growth(strength):
    """‖θ − θ₀‖ grows by (1 − strength) of the growth of the optimizer's own step."""
    start, g = normal(6), normal(6, seed=1)
    here = start + g  # the gradient points back, the step goes further away
    away = optax.stateless(lambda updates, params: 4.0 * updates)
    held = dx.selective_projection(away, strength)
    updates, _ = held.update(jnp.asarray(g), held.init(jnp.asarray(start)), here)
    near, far = np.linalg.norm(g), np.linalg.norm(5 * g)
    got = np.linalg.norm(here + updates - start)
    np.testing.assert_allclose(got, far - strength * (far - near), rtol=1e-12)


# --- chains and wrappers of others, as NumPy loops --------------------------------


def floored_braked_pinned(w, g, gamma, strength, floor):
    """A step of modded-nanogpt's record: the brake, the floor, the pin, the decay.

    The floor is for each output unit, here a column. The pin is for the whole matrix.
    """
    c = (g * w).sum() / (w**2).sum()
    u = g - 0.5 * min(c, 0.0) * w
    units = np.linalg.norm(w, axis=0) / np.linalg.norm(u, axis=0)
    u = u * np.maximum(floor * units, 1.0)
    size = np.linalg.norm(w)
    radius = size - gamma * (u * w).sum() / size
    moved = w - gamma * u
    moved = moved * radius / np.linalg.norm(moved)
    return moved * (1 - gamma * strength * (u * w > 0))


def test_the_record_brakes_before_it_applies_the_floor():
    gamma, strength, floor = 0.2, 0.3, 0.4
    pinned = dx.cautious_decay(
        strength, learning_rate=gamma, strict=True, projection=dx.pin_radius()
    )
    stages = dx.radial_brake(0.5), dx.update_to_weight_floor(floor, axis=0)
    grads, w = 0.3 * normal(15, 5, 4), normal(5, 4, seed=1)
    path = descend(sgd(*stages, last=[pinned], gamma=gamma), w, 15, recorded(grads))
    for got, g in zip(path[1:], grads, strict=True):
        w = floored_braked_pinned(w, g, gamma, strength, floor)
        np.testing.assert_allclose(got, w, rtol=1e-11)


def test_decay_to_init_with_the_inverse_steps_is_the_wrapper_of_soda():
    """x ← (1 − 1/(k + 2)) x + (z₀ + (k + 2) Δ)/(k + 2), around SGD with momentum."""
    grads, start = normal(20, 4), normal(4, seed=1)
    pull = dx.decay_to_init(dx.rates.inverse_step_schedule(), learning_rate=1.0)
    soda = optax.chain(optax.sgd(GAMMA, momentum=0.9), pull)
    path = descend(soda, start, 20, recorded(grads))
    x, trace = start, 0.0
    for k, g in enumerate(grads):
        trace = g + 0.9 * trace
        z = start + (k + 2) * (-GAMMA * trace)
        x = x * (1 - 1 / (k + 2)) + z / (k + 2)
        np.testing.assert_allclose(path[k + 1], x, rtol=1e-12)


@pytest.mark.parametrize("is_complex", [False, True], ids=["real", "complex"])
def test_merged_lora_decay_has_the_gradients_of_the_product(is_complex):
    """sW Bᴴ and sAᴴ W of ½‖W‖², W = W₀ + sAB, by hand; W₀ as the argument base."""

    def draw(*shape, seed):
        return normal(*shape, seed=seed) + is_complex * 1j * normal(*shape, seed=9)

    base = draw(4, 3, seed=0)
    params = {"a": draw(4, 2, seed=1), "b": draw(2, 3, seed=2)}
    grads = {"a": draw(20, 4, 2, seed=3), "b": draw(20, 2, 3, seed=4)}
    merge = lambda p, base: base + 0.3 * p["a"] @ p["b"]  # noqa: E731
    chain = sgd(dx.merged_lora_decay(LAMBDA, merge))

    def step(carry, g):
        params, state = carry
        updates, state = chain.update(g, state, params, base=jnp.asarray(base))
        params = optax.apply_updates(params, updates)
        return (params, state), params

    carry = params, chain.init(params)
    _, path = jax.jit(lambda carry: jax.lax.scan(step, carry, grads))(carry)
    a, b = params["a"], params["b"]
    for t in range(20):
        merged = base + 0.3 * a @ b
        pull_a, pull_b = 0.3 * merged @ b.conj().T, 0.3 * a.conj().T @ merged
        a = a - GAMMA * (grads["a"][t] + LAMBDA * pull_a)
        b = b - GAMMA * (grads["b"][t] + LAMBDA * pull_b)
        np.testing.assert_allclose(path["a"][t], a, rtol=1e-11)
        np.testing.assert_allclose(path["b"][t], b, rtol=1e-11)


def test_merged_lora_decay_of_narrow_factors_in_a_wide_program():
    """Float32 factors where float64 is enabled, under strict promotion."""
    params = {"a": np.ones((2, 1), np.float32), "b": np.ones((1, 2), np.float32)}
    decay = dx.merged_lora_decay(0.1, lambda p: p["a"] @ p["b"])
    updates, _ = decay.update(params, decay.init(params), params)
    assert updates["a"].dtype == np.float32
    np.testing.assert_allclose(updates["a"], 1.2)


@pytest.mark.parametrize(
    "transform",
    [
        dx.spectral_decay(5.0, iterations=2, learning_rate=GAMMA),
        dx.fixed_norm(spectral=True, iterations=2, radius=1.0),
    ],
    ids=["spectral_decay", "fixed_norm"],
)
def test_a_power_iteration_starts_when_a_matrix_of_zeros_has_its_first_step(transform):
    """As in LoRA's second factor, and in layers that start as the identity."""
    target = np.array([[3.0, 0.0], [0.0, 1.0]])
    slope = lambda theta, t: (t > 3).astype(float) * (theta - target)  # noqa: E731
    path = descend(sgd(last=[transform]), np.zeros((2, 2)), 300, slope)
    assert np.linalg.norm(path[-1], ord=2) < 2.0
