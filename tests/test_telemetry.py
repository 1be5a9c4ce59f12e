"""Telemetry: what decay a step applied, or NaN where this cannot be known."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import decayax as dx
from decayax._jaxpr.dataflow import subjaxprs


LR, WD = 1e-2, 0.1
RNG = np.random.default_rng(0)
PARAMS = {
    "dense": {
        "kernel": jnp.asarray(RNG.standard_normal((4, 3)), jnp.float32),
        "bias": jnp.asarray(RNG.standard_normal(3), jnp.float32),
    }
}
GRADS = jax.tree.map(
    lambda p: jnp.asarray(RNG.standard_normal(p.shape), p.dtype), PARAMS
)
MASK = dx.masks.no_bias_or_norm
KERNEL = "dense/kernel"
DECAY = (
    "decay_rate",
    "decay_realised",
    "decay_to_update",
    "cosine",
    "equilibrium_angle",
    "equilibrium_norm",
)


def run(optimizer, steps=3, params=PARAMS, grads=GRADS):
    """The last state, the parameters before its step, and the step."""
    state, before, updates = optimizer.init(params), params, None
    update = jax.jit(optimizer.update)
    for _ in range(steps):
        before = params
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return state, before, updates


def test_all_statistics_of_a_step():
    optimizer = dx.track_decay(
        dx.sgdw(LR, momentum=0.9, weight_decay=WD, mask=MASK), every=1
    )
    # Small weights: the steps would not let large ones shrink to an equilibrium.
    small = jax.tree.map(lambda p: 1e-2 * p, PARAMS)
    state, before, updates = run(optimizer, params=small)
    stats = dx.decay_stats(state)
    theta = np.asarray(before["dense"]["kernel"], np.float64).ravel()
    delta = np.asarray(updates["dense"]["kernel"], np.float64).ravel()
    decay = -LR * WD * theta
    norm, after = np.linalg.norm, theta + delta
    step = delta - decay
    expected = {
        "decay_rate": LR * WD,
        "decay_realised": LR * WD,
        "decay_to_update": norm(decay) / norm(delta),
        "weight_norm": norm(theta),
        "angle": math.acos(theta @ after / norm(theta) / norm(after)),
        "cosine": -theta @ step / norm(theta) / norm(step),
        "update_norm": norm(delta),
        "update_to_weight": norm(delta) / norm(theta),
        **equilibrium(theta, step),
    }
    found = {
        key.split("/")[-1]: v for key, v in stats.items() if key.startswith(KERNEL)
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=2e-5), name
        assert type(found[name]) is float
    bias = {key: v for key, v in stats.items() if key.startswith("dense/bias")}
    assert bias["dense/bias/decay_rate"] == 0.0
    assert bias["dense/bias/equilibrium_angle"] == 0.0
    assert bias["dense/bias/equilibrium_norm"] == math.inf


def equilibrium(theta, step):
    """From the steps with the gradient and its negative: −γ(0.9 m ± g)."""
    g = np.asarray(GRADS["dense"]["kernel"], np.float64).ravel()
    opposite = step + 2 * LR * g
    retained = 1 - LR * WD
    squares = (step @ step + opposite @ opposite) / 2
    dots = (theta @ step + theta @ opposite) / 2
    norm = math.sqrt((squares + 2 * retained * dots) / (1 - retained**2))
    across = math.sqrt(squares - dots**2 / (theta @ theta))
    return {
        "equilibrium_norm": norm,
        "equilibrium_angle": math.asin(min(1.0, across / norm)),
    }


def test_small_angles_keep_their_digits():
    """In float32, acos(1 − 1e-13) would be 0."""
    optimizer = dx.track_decay(optax.sgd(1e-7), every=1)
    state, before, updates = run(optimizer, steps=1)
    theta = np.asarray(before["dense"]["kernel"], np.float64).ravel()
    delta = np.asarray(updates["dense"]["kernel"], np.float64).ravel()
    across = delta - theta * (theta @ delta) / (theta @ theta)
    expected = np.linalg.norm(across) / np.linalg.norm(theta)
    assert dx.decay_stats(state)[f"{KERNEL}/angle"] == pytest.approx(expected, rel=1e-4)


KNOWN = {
    "place 2": dx.rmspropw(LR, weight_decay=WD),
    "place 2, optax": optax.adamw(LR, weight_decay=WD),
    "place 3": optax.chain(optax.adam(LR), dx.independent_decay(LR * WD)),
    "place 1, plain SGD": dx.sgd_l2(LR, weight_decay=WD),
    "clipped": optax.chain(
        optax.clip_by_global_norm(0.1), dx.sgdw(LR, weight_decay=WD)
    ),
    "if finite": optax.apply_if_finite(dx.sgdw(LR, weight_decay=WD), 3),
    "injected": optax.inject_hyperparams(dx.sgdw)(LR, weight_decay=WD),
    "every mini-step": optax.MultiSteps(dx.sgdw(LR, weight_decay=WD), 1),
    "a schedule": dx.sgdw(lambda step: LR / 2 * step, weight_decay=WD),
}
UNKNOWN = {
    "moments": dx.adam_l2(LR, weight_decay=WD),
    "momentum": dx.sgd_l2(LR, momentum=0.9, weight_decay=WD),
    "preconditioner": dx.rmsprop_l2(LR, weight_decay=WD),
    "trust ratio": optax.lamb(LR, weight_decay=WD),
    "averages": optax.contrib.schedule_free_sgd(LR, weight_decay=WD),
    "a sign": optax.chain(optax.add_decayed_weights(WD), optax.sign_sgd(LR)),
    "a gate": optax.chain(
        optax.add_decayed_weights(WD), optax.clip(0.1), optax.sgd(LR)
    ),
    "a factor of the weights": optax.stateless(
        lambda updates, params: jax.tree.map(
            lambda u, p: -LR * u * jnp.abs(p), updates, params
        )
    ),
    "a jump in a loop": optax.stateless(
        lambda updates, params: jax.tree.map(
            lambda u, p: (
                -LR
                * jax.lax.fori_loop(
                    0, 2, lambda _, x: jnp.sign(x) + x / x.sum(), u + WD * p
                )
            ),
            updates,
            params,
        )
    ),
    "no derivative": optax.stateless(
        lambda updates, params: jax.tree.map(
            lambda u, p: -LR * u - LR * WD * jax.lax.stop_gradient(p), updates, params
        )
    ),
}


@pytest.mark.relaxed("optax.adamw, adam, lamb, schedule_free")
@pytest.mark.parametrize("name", KNOWN)
def test_the_rate_is_exact_if_the_state_is_independent_of_the_weights(name):
    state, _, _ = run(dx.track_decay(KNOWN[name], every=1))
    for leaf in ("kernel", "bias"):
        rate = dx.decay_stats(state)[f"dense/{leaf}/decay_rate"]
        assert rate == pytest.approx(LR * WD, rel=1e-4)


@jax.custom_vjp
def only_backwards(x):
    return x


only_backwards.defvjp(lambda x: (x, None), lambda _, g: (g,))


@pytest.mark.parametrize("function", [only_backwards, jax.jit(only_backwards)])
def test_without_a_jvp_the_decay_is_nan(function):
    optimizer = optax.stateless(
        lambda updates, params: jax.tree.map(
            # Other leaves have a derivative, but JAX cannot calculate it alone.
            lambda u, p: -LR * u - LR * WD * (function(p) if p.ndim > 1 else p),
            updates,
            params,
        )
    )
    state, _, _ = run(dx.track_decay(optimizer, every=1))
    stats = dx.decay_stats(state)
    assert math.isnan(stats[f"{KERNEL}/decay_rate"])
    assert stats[f"{KERNEL}/angle"] > 0


@pytest.mark.relaxed("optax.adam, lamb, schedule_free")
@pytest.mark.parametrize("name", UNKNOWN)
def test_otherwise_the_decay_is_nan_and_not_a_wrong_number(name):
    state, before, _ = run(dx.track_decay(UNKNOWN[name], every=1))
    stats = dx.decay_stats(state)
    for entry in DECAY:
        assert math.isnan(stats[f"{KERNEL}/{entry}"])
    norm = np.linalg.norm(np.asarray(before["dense"]["kernel"]))
    assert stats[f"{KERNEL}/weight_norm"] == pytest.approx(norm, rel=1e-5)
    assert stats[f"{KERNEL}/angle"] > 0


@pytest.mark.relaxed("optax.scale_by_adam")
def test_each_parameter_is_judged_on_its_own():
    labels = {"dense": {"kernel": "coupled", "bias": "decoupled"}}
    optimizer = optax.partition(
        {
            "coupled": dx.adam_l2(LR, weight_decay=WD),
            "decoupled": dx.adamw(LR, weight_decay=WD),
        },
        labels,
    )
    state, _, _ = run(dx.track_decay(optimizer, every=1))
    stats = dx.decay_stats(state)
    assert math.isnan(stats[f"{KERNEL}/decay_rate"])
    assert stats["dense/bias/decay_rate"] == pytest.approx(LR * WD, rel=1e-4)


BY_A_NORM = optax.stateless(
    lambda updates, params: jax.tree.map(
        lambda u, p: -LR * jnp.sum(p) * u, updates, params
    )
)


@pytest.mark.parametrize(
    ("optimizer", "rate"),
    [(BY_A_NORM, math.nan), (dx.sgdw(LR, weight_decay=WD), LR * WD)],
    ids=["mixed", "its own"],
)
def test_a_leaf_of_one_weight_is_always_parallel_to_its_decay(optimizer, rate):
    one = {"w": jnp.ones(1)}
    state, _, _ = run(dx.track_decay(optimizer, every=1), 1, one, one)
    found = dx.decay_stats(state)["w/decay_rate"]
    assert found == pytest.approx(rate, rel=1e-4, nan_ok=True)


def test_tiny_weights_are_judged_like_others():
    """If ‖θ‖²‖D‖² underflowed to 0, every D would count as parallel."""
    tiny = jax.tree.map(lambda p: 1e-12 * p, PARAMS)
    for optimizer, rate in (
        (BY_A_NORM, math.nan),
        (dx.sgdw(LR, weight_decay=WD), LR * WD),
    ):
        state, _, _ = run(dx.track_decay(optimizer, every=1), 1, tiny)
        found = dx.decay_stats(state)[f"{KERNEL}/decay_rate"]
        assert found == pytest.approx(rate, rel=1e-4, nan_ok=True)


def test_decay_alone_does_not_rotate():
    """‖Δ‖² − ⟨θ, Δ⟩²/‖θ‖² may round to a negative number."""
    params = {
        str(i): jnp.asarray(RNG.standard_normal(5), jnp.float32) for i in range(20)
    }
    zeros = jax.tree.map(jnp.zeros_like, params)
    state, _, _ = run(
        dx.track_decay(dx.sgdw(LR, weight_decay=WD), every=1), 1, params, zeros
    )
    stats = dx.decay_stats(state)
    assert all(0.0 <= stats[f"{path}/angle"] < 1e-5 for path in params)


def test_two_trackers_of_one_parameter_are_refused():
    twice = optax.chain(dx.track_decay(dx.sgdw(LR)), dx.track_decay(optax.identity()))
    with pytest.raises(
        ValueError, match="decay_stats: two trackers .* measure dense/bias"
    ):
        dx.decay_stats(twice.init(PARAMS))


def test_growth_has_a_negative_rate():
    chain = optax.chain(optax.sgd(LR), optax.add_decayed_weights(1e-3))
    state, _, _ = run(dx.track_decay(chain, every=1))
    stats = dx.decay_stats(state)
    assert stats[f"{KERNEL}/decay_rate"] == pytest.approx(-1e-3, rel=1e-4)
    assert math.isnan(stats[f"{KERNEL}/equilibrium_angle"])


def test_updates_and_inner_state_are_bitwise_those_of_the_optimizer():
    plain = dx.rmspropw(LR, momentum=0.9, weight_decay=WD)
    state, _, updates = run(dx.track_decay(plain, every=2), steps=5)
    expected, _, others = run(plain, steps=5)
    jax.tree.map(np.testing.assert_array_equal, updates, others)
    jax.tree.map(np.testing.assert_array_equal, state.inner, expected)


def test_every_k_th_step_is_measured():
    optimizer = dx.track_decay(dx.sgdw(LR, weight_decay=WD), every=3)
    norms = []
    state, params = optimizer.init(PARAMS), PARAMS
    update = jax.jit(optimizer.update)
    for _ in range(7):
        updates, state = update(GRADS, state, params)
        params = optax.apply_updates(params, updates)
        norms.append(dx.decay_stats(state)[f"{KERNEL}/weight_norm"])
    assert len(set(norms)) == 3
    assert norms[0] == norms[1] == norms[2] != norms[3]
    assert norms[3] == norms[4] == norms[5] != norms[6]
    assert int(state.step) == 7
    assert update._cache_size() == 1


def eqns_of(jaxpr):
    """All equations of a program, but not those inside the branches of a cond."""
    for eqn in jaxpr.eqns:
        yield eqn
        if eqn.primitive.name != "cond":
            for inner in subjaxprs(eqn):
                yield from eqns_of(inner)


def test_the_other_steps_only_pay_for_a_comparison():
    """All of the measurement is in one branch of a cond; the other one is empty."""
    optimizer = dx.sgdw(LR, weight_decay=WD)
    tracked = dx.track_decay(optimizer, every=3)
    plain, measured = (
        list(eqns_of(jax.make_jaxpr(opt.update)(GRADS, opt.init(PARAMS), PARAMS).jaxpr))
        for opt in (optimizer, tracked)
    )
    (cond,) = (eqn for eqn in measured if eqn.primitive.name == "cond")
    skip, measure = cond.params["branches"]
    assert not skip.eqns
    # Measured in another cond: only if the step changes a weight.
    (inner,) = (eqn for eqn in measure.jaxpr.eqns if eqn.primitive.name == "cond")
    skip, measure = inner.params["branches"]
    assert not skip.eqns
    assert "reduce_sum" in {eqn.primitive.name for eqn in eqns_of(measure.jaxpr)}
    # Outside the cond, the tracker adds operations on scalars only: those of the count.
    # And it adds the updates, as the training step does: XLA calculates this once.
    outside = [eqn for eqn in measured if eqn is not cond]
    assert "reduce_sum" not in {eqn.primitive.name for eqn in outside}
    leaves = len(jax.tree.leaves(PARAMS))
    assert number_of_arrays(outside) == number_of_arrays(plain) + leaves


def number_of_arrays(eqns):
    return sum(eqn.outvars[0].aval.ndim > 0 for eqn in eqns)


def test_the_state_may_be_donated():
    optimizer = dx.track_decay(dx.sgdw(LR, weight_decay=WD), every=2)
    step = jax.jit(optimizer.update, donate_argnums=1)
    state = optimizer.init(PARAMS)
    for _ in range(3):
        _, state = step(GRADS, state, PARAMS)
    assert int(state.step) == 3


def test_groups_are_sums():
    optimizer = dx.sgdw(LR, weight_decay=WD, mask=MASK)
    state, _, _ = run(dx.track_decay(optimizer, every=1), steps=1)
    stats = dx.decay_stats(state, groups=lambda path: path.split("/")[0])
    assert {key.split("/")[0] for key in stats} == {"dense"}
    weights = np.concatenate([np.ravel(p) for p in jax.tree.leaves(PARAMS)])
    kernel = np.linalg.norm(PARAMS["dense"]["kernel"]) ** 2
    assert stats["dense/weight_norm"] == pytest.approx(
        np.linalg.norm(weights), rel=1e-5
    )
    share = kernel / np.linalg.norm(weights) ** 2  # the bias does not decay
    assert stats["dense/decay_rate"] == pytest.approx(LR * WD * share, rel=1e-5)


def test_in_scan_vmap_and_a_deeper_state():
    optimizer = optax.chain(
        dx.track_decay(dx.sgdw(LR, weight_decay=WD), every=1), optax.identity()
    )

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(GRADS, state, params)
        return (optax.apply_updates(params, updates), state), None

    carry = PARAMS, optimizer.init(PARAMS)
    (_, state), _ = jax.lax.scan(step, carry, length=3)
    assert dx.decay_stats(state)[f"{KERNEL}/decay_rate"] == pytest.approx(
        LR * WD, rel=1e-4
    )

    def of_strength(strength):
        tracked = dx.track_decay(dx.sgdw(LR, weight_decay=strength), every=1)
        return tracked.update(GRADS, tracked.init(PARAMS), PARAMS)[1]

    states = jax.vmap(of_strength)(jnp.array([0.1, 0.2]))
    for index, strength in enumerate((0.1, 0.2)):
        stats = dx.decay_stats(jax.tree.map(lambda x: x[index], states))  # noqa: B023
        assert stats[f"{KERNEL}/decay_rate"] == pytest.approx(LR * strength, rel=1e-4)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.complex64])
def test_other_dtypes(dtype):
    params = jax.tree.map(lambda p: p.astype(dtype), PARAMS)
    grads = jax.tree.map(lambda p: p.astype(dtype), GRADS)
    optimizer = dx.track_decay(dx.sgdw(LR, weight_decay=WD), every=1)
    state, _, updates = run(optimizer, 2, params, grads)
    assert updates["dense"]["kernel"].dtype == dtype
    rate = dx.decay_stats(state)[f"{KERNEL}/decay_rate"]
    assert rate == pytest.approx(LR * WD, rel=1e-4 if dtype == jnp.complex64 else 1e-2)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(state.sums))


@pytest.mark.relaxed("optax.apply_updates, adamw")
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_the_decay_that_remains_after_rounding(dtype):
    params = {"w": jnp.asarray(RNG.standard_normal(100_000), dtype)}
    plain = optax.adamw(1e-3, b2=0.9, eps=1e-3, weight_decay=0.01)

    def stats(optimizer, grads):
        state, _, _ = run(optimizer, 1, params, grads)
        return dx.decay_stats(state)

    still = jax.tree.map(jnp.zeros_like, params)
    lost = stats(dx.track_decay(plain, every=1), still)
    assert lost["w/decay_rate"] == pytest.approx(1e-5, rel=1e-2)
    assert lost["w/decay_realised"] == 0.0
    # Steps of random size round up and down, so that the decay survives on average.
    noise = {"w": jnp.asarray(RNG.standard_normal(100_000), dtype)}
    larger = optax.sgd(0.1), optax.add_decayed_weights(-1e-3)
    dithered = stats(dx.track_decay(optax.chain(*larger), every=1), noise)
    assert dithered["w/decay_realised"] == pytest.approx(1e-3, rel=0.2)
    for wrapper in (dx.with_stochastic_rounding, dx.with_compensation):
        inside = stats(wrapper(dx.track_decay(plain, every=1)), still)
        assert inside["w/decay_rate"] == pytest.approx(1e-5, rel=1e-3)
        assert inside["w/decay_realised"] == pytest.approx(1e-5, rel=1e-2)
        around = stats(dx.track_decay(wrapper(plain), every=1), still)
        assert math.isnan(around["w/decay_rate"])


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.complex128])
def test_64_bits(x64, dtype):
    turn = 1.0 if dtype == jnp.float64 else 1.0 + 1.0j
    params = jax.tree.map(lambda p: p.astype(dtype) * turn, PARAMS)
    grads = jax.tree.map(lambda p: p.astype(dtype), GRADS)
    optimizer = dx.track_decay(dx.sgdw(LR, weight_decay=WD), every=1)
    state, before, _ = run(optimizer, 2, params, grads)
    stats = dx.decay_stats(state)
    assert stats[f"{KERNEL}/decay_rate"] == pytest.approx(LR * WD, rel=1e-5)
    norm = np.linalg.norm(before["dense"]["kernel"])
    assert stats[f"{KERNEL}/weight_norm"] == pytest.approx(norm, rel=1e-5)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(state.sums))


def test_masked_leaves_and_integers_are_skipped():
    kernel = PARAMS["dense"]["kernel"]
    params = {"w": kernel, "none": None, "n": jnp.int32(3), "frozen": kernel}
    grads = {
        "w": GRADS["dense"]["kernel"],
        "none": None,
        "n": jnp.int32(0),
        "frozen": None,
    }
    mask = {"w": True, "n": False, "frozen": False}
    optimizer = dx.track_decay(dx.sgdw(LR, weight_decay=WD, mask=mask), every=1)
    _, state = optimizer.update(grads, optimizer.init(params), params)
    stats = dx.decay_stats(state)
    assert {key.split("/")[0] for key in stats} == {"w", "n", "frozen"}
    assert stats["frozen/decay_rate"] == 0.0
    assert stats["frozen/weight_norm"] == stats["w/weight_norm"]
    assert stats["w/decay_rate"] == pytest.approx(LR * WD, rel=1e-4)
    assert stats["n/weight_norm"] == 0.0


def test_on_several_devices():
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))
    spread = NamedSharding(mesh, PartitionSpec("data"))
    params = {"w": jax.device_put(PARAMS["dense"]["kernel"], spread)}
    grads = {"w": jax.device_put(GRADS["dense"]["kernel"], spread)}
    optimizer = dx.track_decay(dx.sgdw(LR, weight_decay=WD), every=1)
    state, _, updates = run(optimizer, 2, params, grads)
    assert updates["w"].sharding.is_equivalent_to(spread, 2)
    assert dx.decay_stats(state)["w/decay_rate"] == pytest.approx(LR * WD, rel=1e-4)


@pytest.mark.needs_flax
@pytest.mark.relaxed("flax")
def test_in_an_nnx_optimizer():
    from flax import nnx

    model = nnx.Linear(3, 4, rngs=nnx.Rngs(0))
    tracked = dx.track_decay(dx.adamw(LR, weight_decay=WD, mask=MASK))
    optimizer = nnx.Optimizer(model, tracked, wrt=nnx.Param)
    grads = jax.tree.map(jnp.ones_like, nnx.state(model, nnx.Param))
    nnx.jit(lambda m, o, g: o.update(m, g))(model, optimizer, grads)
    stats = dx.decay_stats(optimizer.opt_state)
    assert stats["kernel/decay_rate"] == pytest.approx(LR * WD, rel=1e-4)
    assert stats["bias/decay_to_update"] == 0.0


def test_errors():
    with pytest.raises(
        TypeError, match=r"track_decay: optimizer must be an optax.Grad"
    ):
        dx.track_decay(3)
    for every in (0, -1, 2.5):
        with pytest.raises(
            ValueError, match="track_decay: every must be an integer >= 1"
        ):
            dx.track_decay(dx.sgdw(LR), every=every)
    state = dx.track_decay(dx.sgdw(LR)).init({"w": jnp.ones(2)})
    with pytest.raises(TypeError, match=r"decay_stats: groups must be a function path"):
        dx.decay_stats(state, groups="w")
    optimizer = dx.track_decay(dx.sgdw(LR))
    with pytest.raises(ValueError, match=r"track_decay: needs the parameters, got par"):
        optimizer.update(GRADS, optimizer.init(PARAMS))
    with pytest.raises(ValueError, match="decay_stats: the state contains no TrackDec"):
        dx.decay_stats(dx.sgdw(LR).init(PARAMS))
