r"""RMSprop's preconditioner: divide by the root of a moving average of g².

.. math:: V \leftarrow \beta V + (1-\beta)\,|g|^2, \qquad u = g / (\sqrt V + \epsilon)
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from decayax._core.dtypes import (
    cast_like,
    compute_dtype,
    dtype_of,
    is_inexact,
    to_float32,
)
from decayax._core.paths import is_masked_leaf, Path
from decayax._core.strength import as_average_rate, as_strength, NUMBER_HINT, Strength
from decayax._transforms.kernel import increment, map_leaves, require_inexact


class ScaleByRmsState(NamedTuple):
    """State of :func:`scale_by_rms`, the same for all its options."""

    count: jax.Array  # int32[]: updates so far
    nu: optax.Updates  # V: shapes and dtypes of the parameters, real for complex ones


def second_moment(grad: jax.Array, nu: jax.Array, decay: Strength) -> jax.Array:
    """V ← βV + (1 − β)|g|²."""
    square = jnp.real(grad * jnp.conj(grad))
    dtype = compute_dtype(square, nu)
    gain = jnp.asarray(1.0 - decay, dtype)
    return jnp.asarray(decay, dtype) * nu.astype(dtype) + gain * square.astype(dtype)


def root(x: jax.Array) -> jax.Array:
    """√x with derivative 0 at 0, where a gradient and its λθ vanish together."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)


def direction(
    grad: jax.Array, nu: jax.Array, eps: Strength, eps_in_sqrt: bool
) -> jax.Array:
    """u = g/(√V + ε), or g/√(V + ε)."""
    dtype = compute_dtype(grad, nu)
    epsilon = jnp.asarray(eps, nu.dtype)
    scale = root(nu + epsilon) if eps_in_sqrt else root(nu) + epsilon
    return grad.astype(dtype) / scale.astype(dtype)


def unbiased(nu: jax.Array, decay: Strength, count: jax.Array) -> jax.Array:
    """V̂ = V/(1 − βᵗ), with 1 − βᵗ = −expm1(t·log β): no cancellation for β near 1."""
    if isinstance(decay, float):
        log_decay = math.log(decay) if decay > 0.0 else -math.inf
    else:
        log_decay = jnp.log(jnp.asarray(decay, nu.dtype))
    return nu / -jnp.expm1(count.astype(nu.dtype) * log_decay)


def scale_by_rms(
    decay: jax.typing.ArrayLike = 0.9,
    eps: jax.typing.ArrayLike = 1e-8,
    *,
    initial_scale: jax.typing.ArrayLike = 0.0,
    eps_in_sqrt: bool = False,
    bias_correction: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""RMSprop's preconditioner, with ε outside the root as in torch.

    .. math::
        V_t = \beta V_{t-1} + (1-\beta)\,|g_t|^2, \qquad
        u_t = \frac{g_t}{\sqrt{V_t} + \epsilon}

    Put :func:`add_l2_to_grad` before it for RMSprop with L2, and
    :func:`decoupled_decay` after it for the decoupled RMSprop that torch and optax
    lack. With ``bias_correction=True`` the chain with :func:`decoupled_decay` is AdamW
    with :math:`\beta_1 = 0`.

    Args:
        decay: :math:`\beta` in [0, 1), per step.
        eps: :math:`\epsilon \ge 0`, in units of a gradient (of its square if
            ``eps_in_sqrt``). It bounds the step where gradients vanish.
        initial_scale: :math:`V_0 \ge 0` for every weight; torch uses 0.
        eps_in_sqrt: divide by :math:`\sqrt{V+\epsilon}` instead. False here and in
            torch; ``optax.scale_by_rms`` has True.
        bias_correction: use :math:`V_t/(1-\beta^t)`, as Adam does.

    Returns:
        A transform of updates of any shape; dtypes stay, 16-bit leaves are calculated
        in float32. Its state is a counter and :math:`V` in the parameters' dtypes; the
        step uses :math:`V` before it is rounded to them. Between steps a 16-bit
        :math:`V` forgets what is small: with bfloat16 parameters it hardly decays for
        :math:`\beta` near 1, with float16 it overflows for gradients beyond 800.

    Raises:
        TypeError: an option that is no real number; integer gradients.
        ValueError: an option out of its range; gradients of another shape.

    Example:
        >>> import optax, decayax as dx, jax.numpy as jnp
        >>> opt = optax.chain(dx.scale_by_rms(decay=0.75), optax.scale(-0.1))
        >>> params, grads = jnp.zeros(2), jnp.array([1e-3, -1e3])
        >>> updates, _ = opt.update(grads, opt.init(params), params)
        >>> print(updates)  # scale-free: -0.1 * g / sqrt(0.25 * g**2)
        [-0.199996  0.2     ]

    Reference:
        Tieleman and Hinton, *Lecture 6.5, RMSprop*, Coursera 2012; bias correction:
        Kingma and Ba, https://arxiv.org/abs/1412.6980, Section 3.
    """
    name = "scale_by_rms"
    decay = as_average_rate(name, "decay", decay)
    eps = as_strength(name, "eps", eps, NUMBER_HINT)
    initial_scale = as_strength(name, "initial_scale", initial_scale, NUMBER_HINT)

    def init(params: optax.Params) -> ScaleByRmsState:
        def start(param: Any) -> jax.Array:
            dtype = dtype_of(param) if is_inexact(param) else jnp.float32
            return jnp.full_like(param, initial_scale, dtype=jnp.finfo(dtype).dtype)

        return ScaleByRmsState(jnp.zeros([], jnp.int32), jax.tree.map(start, params))

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        count = increment(state.count)

        def moment(path: Path, grad: Any, nu: jax.Array) -> jax.Array:
            hint = "Put None in its place, or leave it out with optax.masked."
            require_inexact(name, "gradient", path, grad, hint)
            return second_moment(to_float32(grad), nu, decay)

        def scaled(path: Path, grad: Any, nu: jax.Array) -> jax.Array:
            del path
            nu = unbiased(nu, decay, count) if bias_correction else nu
            return cast_like(direction(to_float32(grad), nu, eps, eps_in_sqrt), grad)

        moments = map_leaves(name, moment, updates, state.nu)
        scaled_updates = map_leaves(name, scaled, updates, moments)
        nu = jax.tree.map(
            lambda new, old: old if is_masked_leaf(new) else cast_like(new, old),
            moments,
            state.nu,
            is_leaf=is_masked_leaf,
        )
        return scaled_updates, ScaleByRmsState(count, nu)

    return optax.GradientTransformationExtraArgs(init, update)
