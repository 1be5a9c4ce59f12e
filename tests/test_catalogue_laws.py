"""What the methods of the catalogue are for: fixed points, equilibria, exact limits.

A run is compared with a prediction that was derived without the code.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import decayax as dx


pytestmark = pytest.mark.usefixtures("x64")


def run(optimizer, params, grads_of, steps, seed=0):
    """The weights on the way: grads_of(params, key) -> gradients; [steps, ...]."""

    def step(carry, key):
        params, state = carry
        updates, state = optimizer.update(grads_of(params, key), state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    keys = jax.random.split(jax.random.key(seed), steps)
    carry = params, optimizer.init(params)
    return jax.jit(lambda carry: jax.lax.scan(step, carry, keys)[1])(carry)


def normal(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def noise(params, key):
    """Pure noise: a gradient that does not depend on the weights."""
    return jax.random.normal(key, params.shape)


def across(params, key):
    """Noise that is orthogonal to the weights, and inversely proportional to them."""
    g = jax.random.normal(key, params.shape)
    g = g - params * jnp.vdot(g, params) / jnp.vdot(params, params)
    return g / jnp.linalg.norm(params)


def nothing(params, key):
    return jnp.zeros_like(params)


def norms(path):
    return np.linalg.norm(np.asarray(path).reshape(len(path), -1), axis=1)


def sgd(gamma, *stages, last=()):
    return optax.chain(*stages, optax.scale_by_learning_rate(gamma), *last)


# --- fixed points -----------------------------------------------------------------


@pytest.mark.relaxed("optax's schedules and scale_by_adam")
@pytest.mark.parametrize("strength", [0.3, 1.0, 3.0])
def test_cautious_decay_reaches_the_minimum_without_decay(strength):
    """Least squares: AdamW stops on the box |θ| ≤ 1/λ, cautious decay does not."""
    design = normal(30, 4)
    solution = jnp.array([2.0, -1.5, 0.8, -0.2])
    slope = lambda w, key: design.T @ (design @ (w - solution)) / 30.0  # noqa: E731
    gamma = optax.cosine_decay_schedule(0.02, 4000)

    def final(decay):
        optimizer = optax.chain(
            optax.scale_by_adam(), decay, optax.scale_by_learning_rate(gamma)
        )
        return run(optimizer, jnp.zeros(4), slope, 4000)[-1]

    np.testing.assert_allclose(final(dx.cautious_decay(strength)), solution, atol=1e-3)
    box = final(dx.decoupled_decay(strength))
    assert np.abs(box).max() <= 1 / strength * 1.01
    if 1 / strength < 2.0:
        np.testing.assert_allclose(np.abs(box).max(), 1 / strength, rtol=0.05)


def test_decoupled_decay_keeps_sign_steps_in_the_box():
    """Outside of |θ| ≤ 1/λ, a weight shrinks in each step."""
    optimizer = sgd(0.1, optax.scale_by_sign(), dx.decoupled_decay(2.0))
    path = run(optimizer, 0.4 * normal(50), noise, 300)
    assert np.abs(path).max() <= max(0.4 * np.abs(normal(50)).max(), 0.5) + 1e-12


def test_soft_threshold_solves_the_lasso_on_an_orthogonal_design():
    """argmin ½‖θ − b‖² + λ‖θ‖₁ = sign(b)·max(|b| − λ, 0)."""
    b = jnp.array([2.0, -1.0, 0.3, -0.2, 0.5])
    optimizer = sgd(0.1, last=[dx.soft_threshold(0.5, learning_rate=0.1)])
    path = run(optimizer, normal(5), lambda w, key: w - b, 600)
    expected = np.sign(b) * np.maximum(np.abs(b) - 0.5, 0.0)
    np.testing.assert_allclose(path[-1], expected, atol=1e-12)
    np.testing.assert_array_equal(path[-1][2:4], 0.0)


def test_decay_to_an_anchor_is_geometric_and_moves_with_it():
    start, anchor = normal(6), normal(6, seed=1)
    decay = dx.decay_to(0.2, anchor, learning_rate=0.5)
    path = run(decay, start, nothing, 30)
    away = np.asarray(start - anchor) * 0.9 ** np.arange(1, 31)[:, None]
    expected = np.asarray(anchor) + away
    np.testing.assert_allclose(path, expected, rtol=1e-12)
    shifted = run(
        dx.decay_to(0.2, anchor + 5.0, learning_rate=0.5), start + 5.0, nothing, 30
    )
    np.testing.assert_allclose(shifted, path + 5.0, rtol=1e-12)


def test_an_average_follows_the_weights_and_nothing_shrinks():
    """Constant weights are their own average: no pull at all."""
    path = run(dx.decay_to_average(0.3, average_rate=0.9), normal(5), nothing, 20)
    np.testing.assert_allclose(path, np.broadcast_to(normal(5), (20, 5)))


def test_merged_lora_decay_shrinks_the_merged_weights():
    """Decay of the factors goes to the base weights, this one to 0."""
    base = normal(6, 6)
    params = {"a": normal(6, 6, seed=1), "b": jnp.zeros((6, 6))}

    def merge(p):
        return base + 2.0 * p["a"] @ p["b"]

    def final(decay):
        grads = lambda p, key: optax.tree.zeros_like(p)  # noqa: E731
        path = run(sgd(0.003, decay), params, grads, 5000)
        return merge(jax.tree.map(lambda x: x[-1], path))

    size = np.linalg.norm(base)
    assert np.linalg.norm(final(dx.merged_lora_decay(1.0, merge))) < 0.1 * size
    np.testing.assert_allclose(final(dx.decoupled_decay(1.0)), base, atol=1e-5)


# --- limits -----------------------------------------------------------------------


def test_norm_control_has_the_limits_of_the_paper():
    start = normal(4, 3)
    zero = run(sgd(0.1, dx.norm_control(0.5, target_ratio=0.0)), start, noise, 20)
    plain = run(sgd(0.1, dx.decoupled_decay(0.5)), start, noise, 20)
    np.testing.assert_allclose(zero, plain, rtol=1e-12)
    at_once = dx.norm_control(1.0, target_ratio=0.7, learning_rate=1.0)
    path = run(at_once, start, nothing, 3)
    np.testing.assert_allclose(norms(path), 0.7 * np.linalg.norm(start), rtol=1e-12)


def test_proximal_decay_is_decoupled_decay_to_first_order():
    start = normal(20)

    def gap(gamma):
        prox = sgd(gamma, last=[dx.proximal_decay(1.0, learning_rate=gamma)])
        plain = sgd(gamma, dx.decoupled_decay(1.0))
        one, other = (run(opt, start, noise, 1)[0] for opt in (prox, plain))
        return np.linalg.norm(one - other)

    np.testing.assert_allclose(gap(0.02) / gap(0.01), 4.0, rtol=0.05)


@pytest.mark.parametrize("strength", [1.0, 10.0, 1e6])
def test_proximal_decay_never_flips_a_sign(strength):
    path = run(dx.proximal_decay(strength, learning_rate=1.0), normal(9), nothing, 3)
    assert (np.sign(path) == np.sign(normal(9))).all()
    np.testing.assert_allclose(path[0], normal(9) / (1 + strength))


def test_spectral_decay_changes_the_largest_singular_value_only():
    start = normal(5, 7)
    before = np.linalg.svd(start, compute_uv=False)
    new = run(sgd(1.0, dx.spectral_decay(0.1)), start, nothing, 1)[0]
    expected = np.sort([0.9 * before[0], *before[1:]])[::-1]
    np.testing.assert_allclose(np.linalg.svd(new, compute_uv=False), expected)
    capped = run(sgd(1.0, dx.spectral_decay(1.0, cap=2.0)), start, nothing, 1)[0]
    values = np.linalg.svd(capped, compute_uv=False)
    np.testing.assert_allclose(values, np.minimum(before, 2.0), rtol=1e-12)


def test_a_power_iteration_that_goes_on_finds_the_same():
    start = normal(5, 7)
    exact = sgd(0.1, dx.spectral_decay(0.01))
    cheap = sgd(0.1, dx.spectral_decay(0.01, iterations=2))
    path = run(cheap, start, nothing, 60)
    np.testing.assert_allclose(path[-1], run(exact, start, nothing, 60)[-1], atol=2e-3)
    ball = dx.fixed_norm(spectral=True, iterations=2, radius=3.0)
    path = run(sgd(0.01, last=[ball]), start, noise, 60)
    np.testing.assert_allclose(np.linalg.norm(path[-1], ord=2), 3.0, rtol=5e-3)


# --- a fixed norm -----------------------------------------------------------------


@pytest.mark.parametrize("axis", [None, 0, -1])
@pytest.mark.parametrize("radius", ["current", "initial"])
def test_a_fixed_norm_stays(axis, radius):
    start = normal(6, 4)
    optimizer = sgd(0.3, last=[dx.fixed_norm(axis=axis, radius=radius)])
    path = np.asarray(run(optimizer, start, noise, 40))
    if axis is None:
        got, expected = norms(path), np.linalg.norm(start)
    else:
        got = np.linalg.norm(path, axis=axis % 2 + 1)
        expected = np.broadcast_to(np.linalg.norm(start, axis=axis), got.shape)
    np.testing.assert_allclose(got, expected, rtol=1e-12)


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_hyperball_turns_by_the_learning_rate(size):
    """A step across the weights of relative size γ turns them by arctan γ."""
    hyperball = optax.chain(
        optax.scale_by_trust_ratio(),
        optax.scale_by_learning_rate(0.1),
        dx.fixed_norm(),
    )
    start = normal(30)
    grads = lambda w, key: size * across(w, key)  # noqa: E731
    path = np.concatenate([[start], run(hyperball, start, grads, 20)])
    cosine = (path[1:] * path[:-1]).sum(1) / (norms(path[1:]) * norms(path[:-1]))
    np.testing.assert_allclose(np.arccos(cosine), np.arctan(0.1), rtol=1e-6)


def test_uniform_decay_on_a_sphere_changes_the_step_to_second_order_only():
    start = normal(30)

    def gap(gamma):
        ball = [dx.fixed_norm()]
        decayed = sgd(gamma, dx.decoupled_decay(1.0), last=ball)
        one, other = (
            run(o, start, noise, 1)[0] for o in (decayed, sgd(gamma, last=ball))
        )
        return np.linalg.norm(one - other)

    np.testing.assert_allclose(gap(2e-3) / gap(1e-3), 4.0, rtol=0.02)


def test_cautious_decay_behind_a_fixed_norm_changes_it_to_first_order():
    start = normal(30)

    def gap(gamma):
        ball = dx.fixed_norm()
        decay = dx.cautious_decay(1.0, learning_rate=gamma, projection=ball)
        one = run(
            optax.chain(optax.scale(-gamma), decay, dx.fixed_norm()), start, noise, 1
        )
        other = run(sgd(gamma, last=[ball]), start, noise, 1)
        return np.linalg.norm(one[0] - other[0])

    np.testing.assert_allclose(gap(2e-3) / gap(1e-3), 2.0, rtol=0.02)


def test_rotational_turns_by_the_angle_on_average():
    """With arctan η for each step; the spread of the angle is that of the noise."""
    optimizer = dx.rotational(0.01, learning_rate=0.1, center=False)
    start = normal(400, 3)
    path = np.concatenate([[start], run(optimizer, start, noise, 200)])
    sizes = np.linalg.norm(path, axis=1)
    np.testing.assert_allclose(
        sizes, np.broadcast_to(sizes[0], sizes.shape), rtol=1e-12
    )
    cosine = (path[1:] * path[:-1]).sum(1) / sizes[1:] ** 2
    np.testing.assert_allclose(np.arccos(cosine).mean(), np.arctan(0.01), rtol=0.01)


# --- equilibria -------------------------------------------------------------------


@pytest.mark.relaxed("optax's schedules")
def test_corrected_decay_keeps_the_norm_while_the_learning_rate_falls():
    """RMS² = γ/2λ under noise: it falls with γ; with λγ/γ_peak it does not."""
    gamma = optax.cosine_decay_schedule(0.005, 3000)
    corrected = dx.corrected_decay(1.0, learning_rate=gamma, peak_learning_rate=0.005)
    sizes = {}
    for decay in (dx.decoupled_decay(1.0), corrected):
        path = run(sgd(gamma, decay), 0.05 * normal(2500), noise, 3000)
        sizes[decay] = norms(path)[[900, 2900]] / 50
    np.testing.assert_allclose(sizes[corrected], np.sqrt(0.005 / 2), rtol=0.05)
    plain = next(iter(sizes.values()))
    assert plain[1] < 0.6 * plain[0]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("gamma", [0.02, 0.05])
def test_target_norm_decay_settles_at_the_target(momentum, gamma):
    """For every learning rate, and with a momentum, to first order in γd/(1 − β)."""
    average = optax.ema(momentum, debias=False) if momentum else optax.identity()
    decay = dx.target_norm_decay(20.0, learning_rate=gamma, momentum=momentum)
    path = run(sgd(gamma, average, decay), 0.7 * normal(1000), noise, 6000)
    np.testing.assert_allclose(norms(path)[3000:].mean(), 20.0, rtol=0.03)


def test_constrain_norm_is_off_below_the_bound():
    free = run(sgd(0.1), normal(9), noise, 30)
    optimizer = sgd(0.1, last=[dx.constrain_norm(1e6)])
    np.testing.assert_allclose(run(optimizer, normal(9), noise, 30), free, rtol=1e-13)


def test_the_dual_variable_grows_with_a_violation_that_lasts():
    """At fixed weights ℓ grows by ρ(R − κ)/n in each update."""
    params = {"w": jnp.array([3.0, 4.0])}
    cpr = dx.constrain_norm(20.0, step_size=0.01)
    state = cpr.init(params)
    for n in range(1, 4):
        _, state = cpr.update({"w": jnp.zeros(2)}, state, params)
        np.testing.assert_allclose(state.memory["dual"]["w"], n * 0.01 * (25 - 20) / 2)


def test_constrain_norm_settles_at_the_bound():
    """The loss pulls to ‖θ‖ = 5; the bound on ‖θ‖² is 4."""
    b = jnp.array([3.0, 4.0])
    optimizer = sgd(0.001, last=[dx.constrain_norm(4.0, step_size=1e-4)])
    path = run(optimizer, 0.1 * b, lambda w, key: w - b, 20_000)
    # The bound holds before the decay of a step, which is of the order of γ.
    np.testing.assert_allclose(norms(path)[-1] ** 2, 4.0, rtol=4e-3)
    np.testing.assert_allclose(path[-1] / norms(path)[-1], b / 5, rtol=1e-6)


# --- the radial part --------------------------------------------------------------


def test_pin_radius_removes_the_growth_of_steps_across_the_weights():
    start = normal(50)
    free = norms(run(sgd(1.0), start, across, 100))
    pinned = norms(run(sgd(1.0, last=[dx.pin_radius()]), start, across, 100))
    assert free[-1] > 1.3 * np.linalg.norm(start)
    np.testing.assert_allclose(pinned, np.linalg.norm(start), rtol=1e-12)


def test_a_radial_step_passes_pin_and_brake_as_it_should():
    start = normal(8)
    outward = lambda w, key: -w  # noqa: E731
    pinned = run(sgd(0.1, last=[dx.pin_radius()]), start, outward, 1)[0]
    np.testing.assert_allclose(pinned, 1.1 * start, rtol=1e-12)
    braked = run(sgd(0.1, dx.radial_brake(0.5)), start, outward, 1)[0]
    np.testing.assert_allclose(braked, 1.05 * start, rtol=1e-12)
    inward = run(sgd(0.1, dx.radial_brake(0.5)), start, lambda w, key: w, 1)[0]
    np.testing.assert_allclose(inward, 0.9 * start, rtol=1e-12)


def test_the_floor_is_a_smallest_relative_step():
    optimizer = sgd(1.0, dx.update_to_weight_floor(0.2))
    start = normal(50)
    path = np.concatenate([[start], run(optimizer, start, across, 50)])
    steps = norms(path[1:] - path[:-1]) / norms(path[:-1])
    free = norms(np.asarray([across(w, jax.random.key(0)) for w in path[:1]])) / norms(
        path[:1]
    )
    assert (steps >= 0.2 - 1e-12).all()
    assert free[0] < 0.2 < 1.0


def test_orthograd_keeps_the_norm_and_the_angle():
    params, grads = normal(40), normal(40, seed=1)
    step = dx.project_radial_gradient()
    got, _ = step.update(grads, step.init(params), params)
    np.testing.assert_allclose(jnp.vdot(got, params), 0.0, atol=1e-12)
    np.testing.assert_allclose(jnp.linalg.norm(got), jnp.linalg.norm(grads))
    along, _ = step.update(3.0 * params, step.init(params), params)
    np.testing.assert_array_equal(along, 0.0)


def test_adamp_projects_where_the_gradient_does_not_see_the_size():
    params, noise_ = normal(30, 8), normal(30, 8, seed=1)
    seen = params + 0.1 * noise_
    along = (noise_ * params).sum(0, keepdims=True) / (params**2).sum(0, keepdims=True)
    unseen = noise_ - params * along
    opt = dx.project_radial_update(optax.trace(0.9), 0.5)
    state = opt.init(params)
    state = opt.update(seen, state, params)[1]
    updates, _ = opt.update(unseen, state, params)
    # The momentum has a radial part; what is left of it is 0.1 of the decay.
    radial = (updates * params).sum(0) / (params**2).sum(0)
    np.testing.assert_allclose(radial, 0.1 * 0.5, rtol=1e-9)
    plain, _ = opt.update(seen, opt.init(params), params)
    np.testing.assert_allclose(plain, seen + 0.5 * params)


def test_selective_projection_keeps_the_distance():
    """Where the gradient points back; elsewhere it is the optimizer itself."""
    start = normal(5)
    opt = dx.selective_projection(optax.sgd(0.1, momentum=0.9))
    state = opt.init(start)
    away = normal(5, seed=1)
    updates, state = opt.update(away, state, start)
    here = start + updates
    np.testing.assert_allclose(updates, -0.1 * away)
    back = 0.1 * (here - start)
    updates, _ = opt.update(back, state, here)
    distances = np.linalg.norm(here - start), np.linalg.norm(here + updates - start)
    np.testing.assert_allclose(*distances, rtol=1e-12)


def test_touched_decay_shrinks_rows_in_proportion_to_their_frequency():
    rows = jnp.array([1.0, 0.5, 0.1, 0.0])
    table = jnp.ones((4, 3))

    def grads(params, key):
        hit = jax.random.uniform(key, (4, 1)) < rows[:, None]
        return jnp.where(hit, 1e-9, 0.0) * jnp.ones((4, 3))

    for options, rate in (({}, 0.01), ({"average_rate": 0.9}, 0.01)):
        opt = dx.touched_decay(optax.sgd(1.0), 0.01, learning_rate=1.0, **options)
        left = np.asarray(run(opt, table, grads, 400))[-1].mean(1)
        np.testing.assert_allclose(
            np.log(left) / 400 / np.log1p(-rate), rows, atol=0.06
        )
        assert left[3] == 1.0


# --- chains that mean something ---------------------------------------------------


def test_soda_has_no_strength():
    """Δ + (θ₀ − θ)/(k + 2): with no gradient, 1/(t + 1) of a displacement is left."""
    soda = dx.decay_to_init(dx.rates.inverse_step_schedule(), learning_rate=1.0)
    start, params = normal(4), normal(4) + 1.0
    state = soda.init(start)
    for t in range(5):
        updates, state = soda.update(jnp.zeros(4), state, params)
        params = params + updates
        np.testing.assert_allclose(params - start, 1.0 / (t + 2))


def test_a_cautious_pull_to_the_start_never_works_against_the_step():
    params, start = jnp.array([2.0, 2.0, -1.0]), jnp.array([1.0, 1.0, 0.0])
    decay = dx.decay_to_init(0.1, cautious=True)
    grads = jnp.array([1.0, -1.0, -1.0])
    updates, _ = decay.update(grads, decay.init(start), params)
    np.testing.assert_allclose(updates - grads, [0.1, 0.0, -0.1])
