r"""Centered RMSprop's preconditioner: divide by the gradients' standard deviation.

.. math::
    d = g - m, \qquad m \leftarrow m + (1-\beta)\,d, \qquad
    S \leftarrow \beta\,(S + (1-\beta)\,|d|^2)

S is the moving average of |g|² minus |m|², but not calculated as a difference: it is
never negative, and it keeps its digits if the mean is much larger than the noise.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

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
from decayax._transforms.rms import (
    divide_by_root,
    GRADIENT_HINT,
    Moment,
    one_minus_power,
    real_moment,
)
from decayax._transforms.trees import (
    increment,
    map_leaf_tuples,
    require_inexact,
    require_state,
)


class ScaleByStddevState(NamedTuple):
    """State of ``scale_by_stddev``, the same for all its options."""

    count: jax.Array  # int32[]: updates so far
    mean: optax.Updates  # m: shapes and dtypes of the parameters
    variance: optax.Updates  # S: the same, real for complex parameters


def stddev_step(
    grad: ArrayLeaf,
    mean: ArrayLeaf,
    variance: Moment,
    count: Int[Array, ""],
    decay: Strength,
    bias_correction: bool,
) -> tuple[Moment, ArrayLeaf, Moment]:
    """The variance to divide by, m, and S.

    The weights of the first t gradients sum to 1 − βᵗ. With bias correction m is their
    mean and S/(1 − βᵗ) their variance.
    """
    dtype = compute_dtype(grad, mean)
    grad, mean = jnp.asarray(grad, dtype), jnp.asarray(mean, dtype)
    real = jnp.finfo(dtype).dtype
    beta, gain = jnp.asarray(decay, real), jnp.asarray(1.0 - decay, real)
    before = total = jnp.ones([], real)
    if bias_correction:
        before, total = (one_minus_power(decay, t, real) for t in (count - 1, count))
    mean = mean + (gain / total).astype(dtype) * (grad - mean)
    # From the new mean: it is d times βc′/c, where c and c′ are the totals now and
    # before. The old mean is not used again, so XLA can overwrite it.
    deviation = grad - mean
    square = jnp.real(deviation * jnp.conj(deviation))
    rest = beta * before  # 0 in the first step, and for β = 0: S has no new part
    weight = jnp.where(rest > 0, gain * total / jnp.where(rest > 0, rest, 1), 0)
    variance = beta * variance.astype(real) + weight * square
    return variance / total, mean, variance


def scale_by_stddev(
    decay: "Scalar" = 0.9,
    eps: "Scalar" = 1e-8,
    *,
    initial_scale: "Scalar" = 0.0,
    eps_in_sqrt: bool = False,
    bias_correction: bool = False,
) -> "optax.GradientTransformationExtraArgs":
    r"""Centered RMSprop's preconditioner, with ε outside the root as in torch.

    .. math::
        d_t = g_t - m_{t-1}, \qquad m_t = m_{t-1} + (1-\beta)\,d_t, \qquad
        S_t = \beta\,(S_{t-1} + (1-\beta)\,|d_t|^2), \qquad
        u_t = \frac{g_t}{\sqrt{S_t} + \epsilon}

    :math:`S_t` is :math:`V_t - |m_t|^2` of ``optax.scale_by_stddev``. As a difference
    it would lose its digits, or be negative, if the mean is much larger than the noise.

    Args:
        decay, eps, initial_scale, eps_in_sqrt: as for :func:`scale_by_rms`;
            :math:`S_0` is the initial scale.
        bias_correction: weights of the average that sum to 1, as in Adam. The first
            step then has no variance, and divides by :math:`\epsilon`.

    Returns:
        A transform that treats dtypes as :func:`scale_by_rms` does. Its state is a
        counter, :math:`m` and :math:`S` in the parameters' dtypes. In 16 bits the mean
        is not accurate: use :func:`with_stochastic_rounding` or
        :func:`with_compensation`, which keep the state in float32.

    Example:
        >>> import optax, decayax as dx, jax.numpy as jnp
        >>> opt = dx.scale_by_stddev(decay=0.5)
        >>> state = opt.init(jnp.zeros(1))
        >>> for grad in (99.0, 101.0, 99.0, 101.0) * 9:  # 100 ± 1
        ...     update, state = opt.update(jnp.array([grad]), state)
        >>> print(f"{update[0]:.1f}")  # 101 / (deviation of the last gradients)
        107.1

    Reference:
        Graves, https://arxiv.org/abs/1308.0850, equations 38 to 40. The recursion is
        that of West, *Updating mean and variance estimates*, Commun. ACM 22, 1979.
    """
    name = "scale_by_stddev"
    beta = as_average_rate(name, "decay", decay)
    epsilon = as_strength(name, "eps", eps, NUMBER_HINT)
    start = as_strength(name, "initial_scale", initial_scale, NUMBER_HINT)

    def init(params: optax.Params) -> ScaleByStddevState:
        mean = jax.tree.map(_zero_mean, params)
        variance = jax.tree.map(lambda param: real_moment(param, start), params)
        return ScaleByStddevState(jnp.zeros([], jnp.int32), mean, variance)

    def update(updates, state, params=None, **extra_args):
        require_state(name, state, ScaleByStddevState)
        count = increment(state.count)

        def step(path, grad, mean, variance):
            if is_float0(grad):
                return grad, mean, variance
            require_inexact(name, "gradient", path, grad, GRADIENT_HINT)
            square, new_mean, new_variance = stddev_step(
                grad, mean, variance, count, beta, bias_correction
            )
            wide = jnp.asarray(grad, new_mean.dtype)
            direction = divide_by_root(wide, square, epsilon, eps_in_sqrt)
            return (
                cast_like(direction, grad),
                cast_like(new_mean, mean),
                cast_like(new_variance, variance),
            )

        trees = map_leaf_tuples(name, step, updates, state.mean, state.variance)
        updates, mean, variance = trees
        return updates, ScaleByStddevState(count, mean, variance)

    return optax.GradientTransformationExtraArgs(init, update)


def _zero_mean(param: Any) -> ArrayLeaf:
    return jnp.zeros_like(param, dtype_of(param) if is_inexact(param) else jnp.float32)
