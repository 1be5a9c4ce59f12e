"""SGD with L2 and with decoupled decay, which differ only if there is momentum."""

from __future__ import annotations

import optax
from jax.typing import DTypeLike

from decayax._core.strength import Scalar, ScalarOrSchedule
from decayax._optimizers.stages import (
    chain_in_float32,
    decay_stage,
    l2_stage,
    lr_stage,
    momentum_stage,
)
from decayax.masks._resolve import MaskOrFn


def sgd_l2(
    learning_rate: ScalarOrSchedule,
    momentum: Scalar | None = None,
    nesterov: bool = False,
    accumulator_dtype: DTypeLike | None = None,
    weight_decay: ScalarOrSchedule = 1e-4,
    mask: MaskOrFn = None,
) -> optax.GradientTransformationExtraArgs:
    r"""SGD with L2 regularisation in the gradient: torch's ``SGD(weight_decay)``.

    .. math::
        m_t = (g_t + \lambda_t\theta_t) + \mu\, m_{t-1}, \qquad
        \theta_{t+1} = \theta_t - \gamma_t m_t

    The decay passes through the momentum. In steady state a weight shrinks
    :math:`1/(1-\mu)` times faster than under :func:`sgdw`, to first order in
    :math:`\gamma\lambda`. Without momentum the two are identical.

    Args:
        learning_rate: :math:`\gamma_t \ge 0`, a number or a schedule (step -> number).
        momentum: :math:`\mu` in [0, 1), or None.
        nesterov: step along :math:`g_t + \lambda\theta_t + \mu m_t`.
        accumulator_dtype: dtype of :math:`m`; None: that of the parameters.
        weight_decay, mask: as for :func:`add_l2_to_grad`.

    Returns:
        An optimizer that keeps the dtypes of gradients and state; it calculates 16-bit
        leaves in float32.

    Example:
        >>> import optax, decayax as dx, jax.numpy as jnp
        >>> opt = dx.sgd_l2(0.1, momentum=0.9, weight_decay=0.1)
        >>> params, state = jnp.array([1.0]), opt.init(jnp.array([1.0]))
        >>> for _ in range(20):  # the penalty gives the only gradient
        ...     updates, state = opt.update(jnp.zeros(1), state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> print(params)
        [0.11782215]

    Reference:
        Loshchilov and Hutter, https://arxiv.org/abs/1711.05101, Algorithm 1 with the
        decay of line 6; the learning rate is applied after the momentum, as in torch.
    """
    name = "sgd_l2"
    return chain_in_float32(
        name,
        l2_stage(name, weight_decay, mask),
        momentum_stage(name, momentum, nesterov, accumulator_dtype),
        lr_stage(name, learning_rate),
    )


def sgdw(
    learning_rate: ScalarOrSchedule,
    momentum: Scalar | None = None,
    nesterov: bool = False,
    accumulator_dtype: DTypeLike | None = None,
    weight_decay: ScalarOrSchedule = 1e-4,
    mask: MaskOrFn = None,
) -> optax.GradientTransformationExtraArgs:
    r"""SGD with decoupled weight decay, which does not enter the momentum.

    .. math::
        m_t = g_t + \mu\, m_{t-1}, \qquad
        \theta_{t+1} = (1 - \gamma_t\lambda_t)\,\theta_t - \gamma_t m_t

    Args:
        learning_rate, momentum, accumulator_dtype: as for :func:`sgd_l2`.
        nesterov: step along :math:`g_t + \mu m_t`.
        weight_decay, mask: as for :func:`decoupled_decay`.

    Example:
        >>> import optax, decayax as dx, jax.numpy as jnp
        >>> opt = dx.sgdw(0.1, momentum=0.9, weight_decay=0.1)
        >>> params, state = jnp.array([1.0]), opt.init(jnp.array([1.0]))
        >>> for _ in range(20):  # no gradient: (1 - 0.1 * 0.1) ** 20
        ...     updates, state = opt.update(jnp.zeros(1), state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> print(params)
        [0.8179069]

    Reference:
        Loshchilov and Hutter, https://arxiv.org/abs/1711.05101, Algorithm 1 (SGDW).
    """
    name = "sgdw"
    return chain_in_float32(
        name,
        momentum_stage(name, momentum, nesterov, accumulator_dtype),
        decay_stage(name, weight_decay, mask),
        lr_stage(name, learning_rate),
    )
