r"""RMSprop's preconditioner: divide by the root of a moving average of g².

.. math:: V \leftarrow \beta V + (1-\beta)\,|g|^2, \qquad u = g / (\sqrt V + \epsilon)
"""

import math
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from decayax._core.dtypes import (
    cast_like,
    compute_dtype,
    dtype_of,
    is_float0,
    is_inexact,
)
from decayax._core.strength import (
    as_average_rate,
    as_strength,
    NUMBER_HINT,
    Scalar,
    Strength,
)
from decayax._transforms.geometry import ArrayLeaf
from decayax._transforms.trees import (
    increment,
    map_leaf_tuples,
    require_inexact,
    require_state,
)


Moment: TypeAlias = Float[Array, "*shape"]

GRADIENT_HINT = "Replace it with None, or exclude it with optax.masked."


class ScaleByRmsState(NamedTuple):
    """State of ``scale_by_rms``, the same for all its options."""

    count: jax.Array  # int32[]: updates so far
    nu: optax.Updates  # V: shapes and dtypes of the parameters, real for complex ones


def real_moment(param: Any, value: Strength) -> Moment:
    """A moment of one value, in the real dtype of the parameter."""
    dtype = dtype_of(param) if is_inexact(param) else jnp.float32
    # finfo of a complex dtype is that of its real part.
    return jnp.full_like(param, value, dtype=jnp.finfo(dtype).dtype)


def rms_step(
    grad: ArrayLeaf,
    nu: Moment,
    count: Int[Array, ""],
    decay: Strength,
    eps: Strength,
    eps_in_sqrt: bool,
    bias_correction: bool,
) -> tuple[ArrayLeaf, Moment]:
    """V ← βV + (1 − β)|g|² and u = g/(√V̂ + ε), where V̂ is V or V/(1 − βᵗ)."""
    dtype = compute_dtype(grad, nu)
    grad = jnp.asarray(grad, dtype)
    square = jnp.real(grad * jnp.conj(grad))
    beta = jnp.asarray(decay, square.dtype)
    # 1 − β before the cast: rounded to float32, a β near 1 loses digits of 1 − β.
    gain = jnp.asarray(1.0 - decay, square.dtype)
    nu = beta * nu.astype(square.dtype) + gain * square
    unbiased = nu / one_minus_power(decay, count, nu.dtype) if bias_correction else nu
    return divide_by_root(grad, unbiased, eps, eps_in_sqrt), nu


def divide_by_root(
    grad: ArrayLeaf, square: Moment, eps: Strength, eps_in_sqrt: bool
) -> ArrayLeaf:
    """Return g/(√V + ε), or g/√(V + ε)."""
    if eps_in_sqrt:
        scale = root(square, eps)
    else:
        scale = root(square) + jnp.asarray(eps, square.dtype)
    return grad / scale.astype(grad.dtype)


def one_minus_power(decay: Strength, count: Int[Array, ""], dtype: Any) -> jax.Array:
    """1 − βᵗ = −expm1(t·log β), without cancellation for β near 1."""
    t = count.astype(dtype)
    if isinstance(decay, float):
        return -jnp.expm1(t * math.log(decay)) if decay > 0 else (t > 0).astype(dtype)
    beta = jnp.asarray(decay, dtype)
    positive = beta > 0
    near_one = -jnp.expm1(t * jnp.log(jnp.where(positive, beta, 1)))
    # At 0 the logarithm has no derivative, but the power has.
    return jnp.where(positive, near_one, 1 - jnp.where(positive, 0, beta) ** t)


def root(x: Moment, offset: Strength = 0.0) -> Moment:
    """√(x + offset) for x >= 0, with a finite derivative at x = offset = 0.

    The smallest normal number is added. In float32 its root is 1e-19: it does not
    change √x + ε, but the chain rule multiplies 0 by 1e18 and not by infinity.
    """
    tiny = float(jnp.finfo(x.dtype).tiny)
    if not isinstance(offset, float):
        offset = jnp.asarray(offset, x.dtype)
    return jnp.sqrt(x + (offset + tiny))


def scale_by_rms(
    decay: "Scalar" = 0.9,
    eps: "Scalar" = 1e-8,
    *,
    initial_scale: "Scalar" = 0.0,
    eps_in_sqrt: bool = False,
    bias_correction: bool = False,
) -> "optax.GradientTransformationExtraArgs":
    r"""RMSprop's preconditioner, with ε outside the root as in torch.

    .. math::
        V_t = \beta V_{t-1} + (1-\beta)\,|g_t|^2, \qquad
        u_t = \frac{g_t}{\sqrt{V_t} + \epsilon}

    With :func:`add_l2_to_grad` before it, it is RMSprop with L2; with
    :func:`decoupled_decay` after it, RMSprop with decoupled decay (and with
    ``bias_correction=True``, AdamW with :math:`\beta_1 = 0`).

    Complex gradients: :math:`V` is the average of :math:`|g|^2`, as in optax. torch
    treats real and imaginary parts as two weights; wrap the optimizer in
    ``optax.contrib.split_real_and_imaginary`` for that.

    Args:
        decay: :math:`\beta` in [0, 1), per step.
        eps: :math:`\epsilon \ge 0`, in units of a gradient (of its square if
            ``eps_in_sqrt``). It bounds the step where gradients vanish.
        initial_scale: :math:`V_0 \ge 0` for every weight; torch uses 0.
        eps_in_sqrt: divide by :math:`\sqrt{V+\epsilon}` instead. False here and in
            torch; ``optax.scale_by_rms`` has True.
        bias_correction: use :math:`V_t/(1-\beta^t)`, as Adam does.

    Returns:
        A transform that treats dtypes as :func:`decoupled_decay` does. Its state is a
        counter and :math:`V` in the parameters' dtypes; the step uses :math:`V` before
        it is rounded to them. A 16-bit :math:`V` is not accurate: in bfloat16 it hardly
        falls for :math:`\beta` near 1; in float16 it overflows for gradients above 800.

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
    beta = as_average_rate(name, "decay", decay)
    epsilon = as_strength(name, "eps", eps, NUMBER_HINT)
    start = as_strength(name, "initial_scale", initial_scale, NUMBER_HINT)

    def init(params: optax.Params) -> ScaleByRmsState:
        nu = jax.tree.map(lambda param: real_moment(param, start), params)
        return ScaleByRmsState(count=jnp.zeros([], jnp.int32), nu=nu)

    def update(updates, state, params=None, **extra_args):
        require_state(name, state, ScaleByRmsState)
        count = increment(state.count)

        def step(path, grad, nu):
            if is_float0(grad):
                return grad, nu
            require_inexact(name, "gradient", path, grad, GRADIENT_HINT)
            direction, new_nu = rms_step(
                grad, nu, count, beta, epsilon, eps_in_sqrt, bias_correction
            )
            return cast_like(direction, grad), cast_like(new_nu, nu)

        updates, nu = map_leaf_tuples(name, step, updates, state.nu)
        return updates, ScaleByRmsState(count=count, nu=nu)

    return optax.GradientTransformationExtraArgs(init, update)
