"""The arguments of methods of the catalogue: axes, anchors, radii, bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import decayax as dx


PARAMS = {"kernel": jnp.ones((4, 3)), "bias": jnp.full(3, 2.0)}
GRADS = {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}


def use(transform, params=PARAMS, grads=GRADS):
    return transform.update(grads, transform.init(params), params)


# --- axes -------------------------------------------------------------------------


TAKES_AXES = {
    "fixed_norm": dx.fixed_norm,
    "pin_radius": dx.pin_radius,
    "project_radial_gradient": dx.project_radial_gradient,
    "radial_brake": dx.radial_brake,
    "update_to_weight_floor": lambda **o: dx.update_to_weight_floor(0.5, **o),
    "norm_control": lambda **o: dx.norm_control(0.1, target_ratio=0.5, **o),
    "target_norm_decay": lambda **o: dx.target_norm_decay(1.0, learning_rate=0.1, **o),
    "constrain_norm": lambda **o: dx.constrain_norm(1.0, **o),
    "rotational": lambda **o: dx.rotational(0.1, learning_rate=0.1, **o),
    "touched_decay": lambda **o: dx.touched_decay(optax.identity(), 0.1, **o),
    "project_radial_update": lambda **o: dx.project_radial_update(
        optax.identity(), 0.1, **o
    ),
}
BAD_AXES = {
    "a word": ("rows", TypeError, "an int or a tuple of ints, got 'rows' of type str"),
    "a float": (1.0, TypeError, "got 1.0 of type float at"),
    "a bool": (True, TypeError, "got True of type bool at"),
    "too large": (1, ValueError, "axis is 1, but the number of axes of bias is 1"),
    "too small": (-2, ValueError, "axis is -2, but the number of axes of bias is 1"),
    "twice": ((0, 0), ValueError, "names an axis of .* twice"),
    "the same axis": ({"kernel": (1, -1), "bias": 0}, ValueError, "kernel twice"),
    "no entry": ({"kernel": 0}, ValueError, "axis has no entry for bias; the nearest"),
}


@pytest.mark.parametrize("kind", BAD_AXES)
@pytest.mark.parametrize("name", TAKES_AXES)
def test_bad_axes(name, kind):
    axis, error, text = BAD_AXES[kind]
    with pytest.raises(error, match=f"{name}: .*{text}"):
        use(TAKES_AXES[name](axis=axis))


def column_norms(updates):
    return np.linalg.norm(PARAMS["kernel"] + updates["kernel"], axis=0)


@pytest.mark.parametrize(
    "axis",
    [
        {"kernel": 0, "bias": None},
        {"kernel": (0,), "bias": (-1,)},
        {"kernel": (-2,), "bias": 0},
        {"kernel": np.int64(0), "bias": None},
        0,
    ],
    ids=str,
)
def test_axes_of_all_forms(axis):
    grads = {"kernel": jnp.arange(12.0).reshape(4, 3), "bias": jnp.arange(3.0)}
    updates, _ = use(dx.fixed_norm(axis=axis), grads=grads)
    np.testing.assert_allclose(column_norms(updates), 2.0, rtol=1e-6)
    bias = np.linalg.norm(PARAMS["bias"] + updates["bias"])
    np.testing.assert_allclose(bias, np.sqrt(12.0), rtol=1e-6)


def test_axes_of_layers_in_a_list():
    """A list of tuples is a tree with one entry for each layer."""
    layers = [jnp.ones((2, 3)), jnp.ones((2, 3))]
    grads = [jnp.arange(6.0).reshape(2, 3)] * 2
    updates, _ = use(dx.fixed_norm(axis=[(0,), (1,)]), layers, grads)
    new = [x + u for x, u in zip(layers, updates, strict=True)]
    for axis, x in enumerate(new):
        norms = np.linalg.norm(x, axis=axis)
        np.testing.assert_allclose(norms, np.sqrt([2.0, 3.0][axis]), rtol=1e-6)


# --- values for each parameter ----------------------------------------------------


@pytest.mark.parametrize(
    ("anchor", "error", "text"),
    [
        ({"kernel": jnp.ones((4, 3))}, ValueError, "anchor has no entry for bias"),
        (
            {**PARAMS, "bias": jnp.ones(4)},
            ValueError,
            r"bias has shape \(4,\), its par",
        ),
        ({**PARAMS, "bias": jnp.ones((3, 3))}, ValueError, r"has shape \(3, 3\), its"),
        ("init", TypeError, "must be a number or an array, got 'init' of type str"),
        ({**PARAMS, "bias": True}, TypeError, "got True of type bool at bias"),
        ({**PARAMS, "bias": 1j}, TypeError, "anchor of bias is complex, its parameter"),
    ],
)
def test_bad_anchors(anchor, error, text):
    with pytest.raises(error, match=f"decay_to: .*{text}"):
        use(dx.decay_to(0.1, anchor))


def test_an_anchor_may_hold_more_and_have_other_containers():
    anchor = optax.EmptyState, {"bias": jnp.full(3, 1.5), "kernel": 0.0, "old": None}
    updates, state = use(dx.decay_to(1.0, anchor[1]))
    np.testing.assert_allclose(updates["bias"], 1.0 + 0.5)
    np.testing.assert_allclose(updates["kernel"], 1.0 + 1.0)
    assert state.memory["anchor"]["kernel"].shape == (1, 1)


def test_an_anchor_is_a_copy_that_may_be_donated():
    anchor = {"kernel": jnp.zeros((4, 3)), "bias": jnp.zeros(3)}
    for decay in (dx.decay_to(0.1, anchor), dx.decay_to_init(0.1)):
        state = decay.init(PARAMS)
        jax.jit(decay.update, donate_argnums=1)(GRADS, state, PARAMS)
        assert not anchor["kernel"].is_deleted()
        assert not PARAMS["kernel"].is_deleted()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: dx.fixed_norm(radius="first"),
            'must be "current" or "initial", a num',
        ),
        (lambda: dx.fixed_norm(radius=-1.0), "radius must be >= 0, got -1.0"),
        (lambda: dx.fixed_norm(radius=0.0), "radius must be > 0, got 0"),
        (lambda: dx.radial_brake(2.0), "strength must be <= 1, got 2.0"),
        (lambda: dx.decay_to(0.1, {"kernel": jnp.full(3, jnp.nan)}), "must be finite"),
        (lambda: dx.fixed_norm(radius={"kernel": np.nan}), "at kernel must be finite"),
        (
            lambda: dx.fixed_norm(spectral=True, axis=0),
            "always takes the last two axes",
        ),
        (lambda: dx.fixed_norm(iterations=2), "iterations= is for spectral=True"),
        (lambda: dx.target_norm_decay("current", learning_rate=0.1), 'be "initial", a'),
        (
            lambda: dx.spectral_decay(0.1, cap=1.0, iterations=2),
            "Leave out iterations=",
        ),
        (
            lambda: dx.spectral_decay(0.1, iterations=0),
            "must be an integer >= 1, got 0",
        ),
        (lambda: dx.constrain_norm(-1.0), "bound must be >= 0"),
        (
            lambda: dx.constrain_norm(after_steps=-1),
            "after_steps must be an integer >=",
        ),
        (
            lambda: dx.constrain_norm(inflection_every=0),
            "inflection_every must be an i",
        ),
        (
            lambda: dx.decay_to_average(0.1, average_rate=1.0),
            "average_rate must be < 1",
        ),
        (
            lambda: dx.corrected_decay(0.1, learning_rate=0.2, peak_learning_rate=0.1),
            "corrected_decay: peak_learning_rate must be the largest",
        ),
    ],
)
def test_bad_values(make, text):
    with pytest.raises(ValueError, match=text):
        make()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: dx.constrain_norm(), "exactly one of .* got none of them"),
        (lambda: dx.constrain_norm(1.0, after_steps=3), "got bound and after_steps"),
        (
            lambda: dx.cautious_decay(0.1, projection=dx.pin_radius()),
            "needs learning_r",
        ),
        (lambda: dx.decoupled_penalty(0.1, 2.0), "must be a function of one parameter"),
        (
            lambda: use(dx.decoupled_penalty(0.1, abs)),
            "return one real number, got .* f",
        ),
        (
            lambda: dx.merged_lora_decay(0.1, 2.0),
            "must be a function of the parameters",
        ),
        (lambda: dx.touched_decay(optax.sgd, 0.1), "optimizer must .* without a learn"),
        (lambda: dx.selective_projection(optax.sgd), "Pass a finished optimizer, such"),
        (
            lambda: dx.project_radial_update(optax.sgd),
            "preconditioner must be an o",
        ),
        (
            lambda: dx.selective_projection(optax.MultiSteps(optax.sgd(1.0), 2)),
            "inside",
        ),
    ],
)
def test_wrong_arguments(make, text):
    with pytest.raises(TypeError, match=text):
        make()


# --- memories ---------------------------------------------------------------------


def test_an_excluded_parameter_has_no_memory():
    state = dx.decay_to_init(0.1, mask={"kernel": True, "bias": False}).init(PARAMS)
    assert state.memory["initial"]["bias"] == optax.MaskedNode()
    np.testing.assert_array_equal(state.memory["initial"]["kernel"], PARAMS["kernel"])


def test_a_parameter_without_a_memory_is_an_error():
    state = dx.decay_to_init(0.1, mask={"kernel": True, "bias": False}).init(PARAMS)
    text = "decay_to_init: the state keeps nothing of bias, which the mask selects"
    with pytest.raises(ValueError, match=text):
        dx.decay_to_init(0.1).update(GRADS, state, PARAMS)


def test_a_state_without_a_memory_is_an_error():
    state = dx.decoupled_decay(0.1).init(PARAMS)
    with pytest.raises(ValueError, match="must be a DecayMemoryState, got DecayState"):
        dx.decay_to_init(0.1).update(GRADS, state, PARAMS)


def test_a_memory_of_values_is_nan_after_an_init_from_shapes():
    """A zero anchor would silently decay to 0."""
    shapes = jax.eval_shape(lambda: PARAMS)
    updates, _ = dx.decay_to_init(0.1).update(
        GRADS, dx.decay_to_init(0.1).init(shapes), PARAMS
    )
    assert np.isnan(updates["kernel"]).all()


def test_dtypes_of_memories():
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), PARAMS)
    anchor = dx.decay_to_init(0.1).init(params).memory["initial"]
    average = dx.decay_to_average(0.1).init(params).memory["average"]
    norm = dx.norm_control(0.1, target_ratio=1.0).init(params).memory["norm"]
    assert anchor["kernel"].dtype == jnp.bfloat16
    assert average["kernel"].dtype == norm["kernel"].dtype == jnp.float32


# A brake leaves an update that does not point outward, and touched_decay has no norm.
@pytest.mark.parametrize(
    "name", sorted(TAKES_AXES.keys() - {"touched_decay", "radial_brake"})
)
def test_nan_shows(name):
    """A norm of NaN is NaN, and not the special case of a norm of 0."""
    params = {"kernel": PARAMS["kernel"].at[0, 0].set(jnp.nan)}
    grads = {"kernel": GRADS["kernel"]}
    updates, _ = use(TAKES_AXES[name](), params, grads)
    assert np.isnan(updates["kernel"]).any()


def test_a_traced_strength_does_not_reach_an_excluded_parameter():
    params = {"kernel": jnp.ones(2), "bias": jnp.array([jnp.inf, -0.0])}
    grads = {"kernel": jnp.ones(2), "bias": jnp.array([1.0, -0.0])}
    mask = {"kernel": True, "bias": False}

    @jax.jit
    def step(strength):
        return use(dx.decoupled_decay(strength, mask=mask), params, grads)[0]["bias"]

    np.testing.assert_array_equal(
        np.asarray(step(0.1)).view(np.uint32), np.asarray(grads["bias"]).view(np.uint32)
    )


# --- shrink and perturb -----------------------------------------------------------


def test_shrink_and_perturb_adds_noise_of_the_size_of_the_weights():
    params = {"kernel": 3.0 * jax.random.normal(jax.random.key(1), (200, 200))}
    new = dx.shrink_and_perturb(params, jax.random.key(0), shrink=0.4, noise=0.1)
    noise = np.asarray(new["kernel"] - 0.4 * params["kernel"])
    np.testing.assert_allclose(noise.std(), 0.1 * params["kernel"].std(), rtol=0.02)
    assert abs(np.corrcoef(noise.ravel(), params["kernel"].ravel())[0, 1]) < 0.02


def test_shrink_and_perturb_draws_other_noise_for_other_parameters_and_keys():
    params = {"a": jnp.arange(4.0), "b": jnp.arange(4.0)}
    one, other = (dx.shrink_and_perturb(params, jax.random.key(n)) for n in (0, 1))
    assert not np.allclose(one["a"], one["b"])
    assert not np.allclose(one["a"], other["a"])


def test_shrink_and_perturb_keeps_dtypes_and_excluded_parameters():
    params = {"a": jnp.arange(4.0, dtype=jnp.bfloat16), "n": jnp.arange(3)}
    mask = {"a": True, "n": False}
    new = dx.shrink_and_perturb(params, jax.random.key(0), noise=0.0, mask=mask)
    assert new["a"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(new["a"].astype(np.float32), [0.0, 0.5, 1.0, 1.5])
    np.testing.assert_array_equal(new["n"], params["n"])
    with pytest.raises(
        TypeError, match="shrink_and_perturb: the parameter n has dtype"
    ):
        dx.shrink_and_perturb(params, jax.random.key(0))


# --- what is not accepted, and what must show -------------------------------------


@pytest.mark.parametrize("strength", [0.1, 100.0])
def test_nan_is_not_thresholded_to_zero(strength):
    decay = dx.soft_threshold(strength, learning_rate=1.0)
    grads = {**GRADS, "bias": jnp.array([jnp.nan, 1.0, 1.0])}
    updates, _ = use(decay, grads=grads)
    np.testing.assert_array_equal(np.isnan(updates["bias"]), [True, False, False])


@pytest.mark.parametrize(
    "make",
    [
        lambda value: dx.fixed_norm(radius=value),
        lambda value: dx.target_norm_decay(value, learning_rate=0.1),
        lambda value: dx.constrain_norm(value),
    ],
)
def test_a_norm_has_one_target(make):
    """An array along the axes of the norm is a forgotten axis=."""
    text = r"kernel has shape \(1, 3\), but its norms have shape \(1, 1\)"
    with pytest.raises(ValueError, match=text):
        use(make({"kernel": jnp.ones(3), "bias": 1.0}))


@pytest.mark.parametrize("make", [dx.proximal_decay, dx.soft_threshold])
def test_a_proximal_step_needs_the_learning_rate(make):
    with pytest.raises(TypeError, match="learning_rate must be a number, got None"):
        make(0.1, learning_rate=None)


@pytest.mark.parametrize(
    "make",
    [
        lambda flag: dx.cautious_decay(0.1, strict=flag),
        lambda flag: dx.decay_to(0.1, 0.0, cautious=flag),
        lambda flag: dx.decay_to_init(0.1, cautious=flag),
        lambda flag: dx.decay_to_average(0.1, cautious=flag),
        lambda flag: dx.fixed_norm(spectral=flag),
        lambda flag: dx.rotational(0.1, learning_rate=0.1, center=flag),
        lambda flag: dx.project_radial_gradient(rescale=flag),
    ],
)
def test_a_word_is_not_a_flag(make):
    with pytest.raises(TypeError, match="must be True or False, got 'no' of type str"):
        make("no")


@pytest.mark.parametrize(
    "merge",
    [lambda p: None, lambda p: {}, lambda p: 1.0, lambda p: jnp.arange(3)],
    ids=["None", "empty", "a number", "integers"],
)
def test_merge_must_return_weights(merge):
    with pytest.raises(TypeError, match="merged_lora_decay: merge must return the m"):
        use(dx.merged_lora_decay(0.1, merge))


def test_merge_with_a_base_needs_the_argument():
    decay = dx.merged_lora_decay(0.1, lambda p, base: base)
    with pytest.raises(TypeError) as raised:
        use(decay)
    assert "pass update(..., base=...)" in raised.value.__notes__[0]


@pytest.mark.parametrize("make", [dx.decay_to_init, dx.decay_to_average])
def test_a_copy_of_other_parameters_is_an_error(make):
    state = make(0.1).init({"kernel": jnp.ones((1, 3))})
    params = {"kernel": jnp.ones((4, 3))}
    text = r"copy of kernel has shape \(1, 3\), the parameter \(4, 3\)"
    with pytest.raises(ValueError, match=text):
        make(0.1).update(params, state, params)


@pytest.mark.parametrize("key", [0, None, jnp.zeros((3, 2), jnp.uint32)])
def test_shrink_and_perturb_needs_a_key(key):
    with pytest.raises(TypeError, match="shrink_and_perturb: key must be one PRNG key"):
        dx.shrink_and_perturb(PARAMS, key)


@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e15])
def test_a_power_iteration_at_every_scale(scale):
    params = {"kernel": scale * jax.random.normal(jax.random.key(0), (6, 5))}
    exact, found = (
        use(dx.spectral_decay(1.0, iterations=n), params, {"kernel": jnp.zeros((6, 5))})
        for n in (None, 2)
    )
    np.testing.assert_allclose(
        found[0]["kernel"] / scale, exact[0]["kernel"] / scale, atol=1e-4
    )


@pytest.mark.parametrize("iterations", [1, 5])
def test_the_radius_at_init_is_that_of_the_weights(iterations):
    params = {"kernel": jax.random.normal(jax.random.key(0), (64, 48))}
    ball = dx.fixed_norm(spectral=True, radius="initial", iterations=iterations)
    updates, _ = use(ball, params, {"kernel": jnp.zeros((64, 48))})
    np.testing.assert_allclose(updates["kernel"], 0.0, atol=1e-4)


@pytest.mark.parametrize("axis", [None, 0, -1])
@pytest.mark.parametrize("name", TAKES_AXES)
def test_empty_parameters(name, axis):
    params = {"kernel": jnp.zeros((0, 4))}
    updates, _ = use(TAKES_AXES[name](axis=axis), params, params)
    assert updates["kernel"].shape == (0, 4)


def test_a_dual_variable_shrinks_at_most_to_zero():
    params = {"kernel": jnp.full((4, 3), 10.0)}
    updates, _ = use(dx.constrain_norm(1.0), params, {"kernel": jnp.zeros((4, 3))})
    np.testing.assert_array_equal(updates["kernel"], -10.0)


def test_a_weight_that_starts_at_zero_trains_on_a_sphere():
    for radius in ("current", "initial"):
        optimizer = optax.chain(optax.sgd(0.1), dx.fixed_norm(axis=0, radius=radius))
        params = {"kernel": jnp.zeros((4, 3)).at[:, 0].set(1.0)}
        updates, _ = use(optimizer, params, {"kernel": jnp.ones((4, 3))})
        np.testing.assert_allclose(updates["kernel"][:, 1:], -0.1, rtol=1e-6)
        np.testing.assert_allclose(updates["kernel"][:, 0], 0.0, atol=1e-6)


def test_a_parameter_that_another_mask_excludes_descends():
    params = {"kernel": jnp.eye(4)}
    grads = {"kernel": jnp.ones((4, 4))}
    turn = dx.rotational(0.1, learning_rate=0.01, mask={"kernel": False, "b": True})
    state = dx.rotational(0.1, learning_rate=0.01).init({**params, "b": jnp.eye(4)})
    grads, params = ({**x, "b": jnp.eye(4)} for x in (grads, params))
    updates, _ = turn.update(grads, state, params)
    np.testing.assert_allclose(updates["kernel"], -0.01)


@pytest.mark.parametrize("center", [True, False])
def test_rounding_errors_turn_nothing(center):
    """A constant update, or a radial one, has no direction to turn to."""
    kernel = jax.random.normal(jax.random.key(0), (37, 4))
    grads = jnp.full((37, 4), 0.3) if center else 0.7 * kernel
    turn = dx.rotational(0.1, learning_rate=0.1, center=center)
    updates, _ = use(turn, {"kernel": kernel}, {"kernel": grads})
    np.testing.assert_allclose(updates["kernel"], 0.0, atol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        dx.fixed_norm,
        dx.pin_radius,
        dx.project_radial_gradient,
        lambda mask: dx.constrain_norm(1.0, mask=mask),
        lambda mask: dx.rotational(0.1, learning_rate=0.1, mask=mask),
    ],
)
def test_a_projection_has_no_multiplier_above_one(make):
    mask = {"kernel": True, "bias": 3.0}
    with pytest.raises(ValueError, match="multiplier of bias must be <= 1, got 3. A m"):
        make(mask=mask).init(PARAMS)


def test_a_bound_of_nan_shows():
    cpr = dx.constrain_norm(initial_factor=1.0)
    state = cpr.init(jax.eval_shape(lambda: PARAMS))
    updates, _ = cpr.update(GRADS, state, PARAMS)
    assert np.isnan(updates["kernel"]).all()


def test_an_average_follows_while_the_strength_is_zero():
    """A schedule that is 0 for a while does not stop the average, jitted or not."""
    schedule = optax.piecewise_constant_schedule(0.0, {})
    for strength in (0.0, schedule, lambda step: 0.0):
        decay = dx.decay_to_average(strength, average_rate=0.5)
        state = decay.init({"w": jnp.zeros(2)})
        updates, state = decay.update({"w": jnp.ones(2)}, state, {"w": jnp.ones(2)})
        np.testing.assert_allclose(state.memory["average"]["w"], 0.5)
        np.testing.assert_allclose(updates["w"], 1.0)


def test_strictly_cautious_decay_leaves_a_weight_without_an_update():
    grads = {**GRADS, "bias": jnp.array([0.0, 1.0, -1.0])}
    for strict, decayed in ((False, [0.2, 0.2, 0.0]), (True, [0.0, 0.2, 0.0])):
        updates, _ = use(dx.cautious_decay(0.1, strict=strict), grads=grads)
        np.testing.assert_allclose(updates["bias"] - grads["bias"], decayed, atol=1e-7)


def test_a_radial_gradient_in_float32_becomes_zero():
    params = {"kernel": jax.random.normal(jax.random.key(0), (37, 4))}
    for factor in (0.3, 0.123, 0.05):  # others are exact by chance
        grads = {"kernel": factor * params["kernel"]}
        updates, _ = use(dx.project_radial_gradient(), params, grads)
        np.testing.assert_array_equal(updates["kernel"], 0.0)


def test_layers_that_differ_have_the_norms_of_all():
    """The columns of one layer are invariant; of the other, only the whole is."""
    layers = [
        dx.LeafSymmetry(f"w[{n}]", "invariant", axes, "w", (0, n), (4, 3))
        for n, axes in enumerate([(2,), ()])
    ]
    found = dx.ScaleSymmetries(leaves=tuple(layers), groups=())
    params = {"w": jax.random.normal(jax.random.key(0), (2, 4, 3))}
    grads = {"w": jax.random.normal(jax.random.key(1), (2, 4, 3))}
    updates, _ = use(dx.fixed_norm(axis=found), params, grads)
    new = params["w"] + updates["w"]
    sizes = [np.linalg.norm(x.reshape(2, -1), axis=1) for x in (params["w"], new)]
    np.testing.assert_allclose(*sizes, rtol=1e-6)
    columns = [np.linalg.norm(x, axis=1) for x in (params["w"], new)]
    assert not np.allclose(*columns, rtol=1e-2)
