"""SGD with each of the two decays: the same without momentum, not with it."""

from typing import Any

import jax
import optax

from decayax._core.strength import ScalarOrSchedule
from decayax._optimizers.stages import heavy_ball, learning_rate_stage
from decayax._transforms.places import add_l2_to_grad, decoupled_decay
from decayax._transforms.precision import in_float32
from decayax.masks._resolve import MaskOrFn


def sgd_l2(
    learning_rate: ScalarOrSchedule,
    momentum: jax.typing.ArrayLike | None = None,
    nesterov: bool = False,
    accumulator_dtype: Any | None = None,
    weight_decay: ScalarOrSchedule = 1e-4,
    mask: MaskOrFn = None,
) -> optax.GradientTransformationExtraArgs:
    r"""SGD with L2 regularisation in the gradient: torch's ``SGD(weight_decay)``.

    .. math::
        m_t = (g_t + \lambda_t\theta_t) + \mu\, m_{t-1}, \qquad
        \theta_{t+1} = \theta_t - \gamma_t m_t

    The decay passes through the momentum, which makes the steady shrink
    :math:`1/(1-\mu)` times larger than that of :func:`sgdw`, to first order in
    :math:`\gamma\lambda`. Without momentum the two are the same.

    Args:
        learning_rate: :math:`\gamma_t \ge 0`, a value or a schedule (step -> value).
        momentum: :math:`\mu` in [0, 1), or None for none.
        nesterov: step along :math:`g_t + \lambda\theta_t + \mu m_t`.
        accumulator_dtype: dtype of :math:`m`; None: that of the parameters.
        weight_decay: :math:`\lambda \ge 0`, as for :func:`add_l2_to_grad`.
        mask: which parameters decay, as for :func:`add_l2_to_grad`.

    Returns:
        An optimizer for parameters of any shape. Updates keep the gradients' dtypes
        and the state its own; 16-bit leaves are calculated in float32.

    Raises:
        TypeError, ValueError: as for :func:`add_l2_to_grad`.

    Example:
        >>> import optax, decayax as dx, jax.numpy as jnp
        >>> opt = dx.sgd_l2(0.1, momentum=0.9, weight_decay=0.1)
        >>> params, state = jnp.array([1.0]), opt.init(jnp.array([1.0]))
        >>> for _ in range(20):  # no gradient but that of the penalty
        ...     updates, state = opt.update(jnp.zeros(1), state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> print(params)
        [0.11782215]

    Reference:
        Loshchilov and Hutter, https://arxiv.org/abs/1711.05101, Algorithm 1 with the
        decay of line 6; the learning rate stands outside the momentum, as in torch.
    """
    return in_float32(
        optax.chain(
            add_l2_to_grad(weight_decay, mask=mask),
            heavy_ball("sgd_l2", momentum, nesterov, accumulator_dtype),
            learning_rate_stage("sgd_l2", learning_rate),
        )
    )


def sgdw(
    learning_rate: ScalarOrSchedule,
    momentum: jax.typing.ArrayLike | None = None,
    nesterov: bool = False,
    accumulator_dtype: Any | None = None,
    weight_decay: ScalarOrSchedule = 1e-4,
    mask: MaskOrFn = None,
) -> optax.GradientTransformationExtraArgs:
    r"""SGD with decoupled weight decay, which the momentum does not see.

    .. math::
        m_t = g_t + \mu\, m_{t-1}, \qquad
        \theta_{t+1} = (1 - \gamma_t\lambda_t)\,\theta_t - \gamma_t m_t

    The twin of :func:`sgd_l2`: same arguments, same defaults.

    Args:
        learning_rate: :math:`\gamma_t \ge 0`, a value or a schedule (step -> value).
        momentum: :math:`\mu` in [0, 1), or None for none.
        nesterov: step along :math:`g_t + \mu m_t`.
        accumulator_dtype: dtype of :math:`m`; None: that of the parameters.
        weight_decay: :math:`\lambda \ge 0`, as for :func:`decoupled_decay`. The paper's
            :math:`\lambda` is not multiplied by :math:`\gamma`; this one is.
        mask: which parameters decay, as for :func:`decoupled_decay`.

    Returns:
        An optimizer for parameters of any shape. Updates keep the gradients' dtypes
        and the state its own; 16-bit leaves are calculated in float32.

    Raises:
        TypeError, ValueError: as for :func:`decoupled_decay`.

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
    return in_float32(
        optax.chain(
            heavy_ball("sgdw", momentum, nesterov, accumulator_dtype),
            decoupled_decay(weight_decay, mask=mask),
            learning_rate_stage("sgdw", learning_rate),
        )
    )
