"""Laws that hold for all inputs, tried on drawn ones."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from hypothesis import given, HealthCheck, settings, strategies as st

import decayax as dx


PLACES = (dx.add_l2_to_grad, dx.decoupled_decay, dx.independent_decay)
few = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
# no subnormal products, which XLA flushes to zero
strengths = st.just(0.0) | st.floats(2**-20, 10.0, width=32)
leaves = st.integers(0, 2**31).map(
    lambda seed: jnp.asarray(
        np.random.default_rng(seed).standard_normal((3, 2)), jnp.float32
    )
)
trees = st.dictionaries(st.sampled_from("abcd"), leaves, min_size=1)


def once(part, params, grads):
    return part.update(grads, part.init(params), params)[0]


def some_grads(params):
    return jax.tree.map(lambda p: jnp.sin(3.0 * p), params)


@few
@given(trees, strengths)
def test_the_three_places_say_u_plus_or_minus_lambda_theta(params, strength):
    grads = some_grads(params)
    for place, sign in zip(PLACES, (1, 1, -1), strict=True):
        expected = jax.tree.map(
            lambda g, p, sign=sign: np.float64(g) + sign * strength * np.float64(p),
            grads,
            params,
        )
        chex.assert_trees_all_close(
            jax.tree.map(np.float64, once(place(strength), params, grads)),
            expected,
            rtol=1e-5,
            atol=1e-5,
        )


@few
@given(trees, strengths, st.floats(0.0, 4.0, width=32).filter(lambda m: m > 0))
def test_a_multiplier_scales_the_strength(params, strength, multiplier):
    grads = some_grads(params)
    for place in PLACES:
        chex.assert_trees_all_close(
            once(place(strength, mask=multiplier), params, grads),
            once(place(strength * multiplier), params, grads),
            rtol=1e-6,
        )


@few
@given(trees, strengths)
def test_no_mask_is_true_everywhere_and_a_constant_is_its_schedule(params, strength):
    grads = some_grads(params)
    for place in PLACES:
        plain = once(place(strength), params, grads)
        every = once(
            place(strength, mask=jax.tree.map(lambda _: True, params)), params, grads
        )
        chex.assert_trees_all_equal(plain, every)
        scheduled = once(place(optax.constant_schedule(strength)), params, grads)
        chex.assert_trees_all_equal(plain, scheduled)


@few
@given(trees, strengths)
def test_leaves_do_not_see_each_other(params, strength):
    grads = some_grads(params)
    whole = once(dx.rmsprop_l2(0.1, weight_decay=strength), params, grads)
    for key in params:
        alone = once(
            dx.rmsprop_l2(0.1, weight_decay=strength),
            {key: params[key]},
            {key: grads[key]},
        )
        chex.assert_trees_all_equal(alone[key], whole[key])


@few
@given(leaves, st.floats(-8.0, 8.0))
def test_rms_is_free_of_the_gradients_scale(grad, exponent):
    scale = jnp.float32(2.0 ** round(exponent))
    opt = dx.scale_by_rms(eps=0.0)
    chex.assert_trees_all_close(
        once(opt, grad, grad * scale), once(opt, grad, grad), rtol=1e-6
    )


@few
@given(trees, strengths)
def test_the_penaltys_gradient_is_what_l2_adds_to_the_bit(params, strength):
    zeros = jax.tree.map(jnp.zeros_like, params)
    slope = jax.grad(lambda p: dx.l2_penalty(p, strength))(params)
    added = once(dx.add_l2_to_grad(strength), params, zeros)
    chex.assert_trees_all_equal(slope, jax.tree.map(lambda a: a + 0.0, added))
