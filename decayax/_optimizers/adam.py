"""Adam with L2, which √v̂ divides, and with decoupled decay, which it does not."""

from __future__ import annotations

import optax
from jax.typing import DTypeLike

from decayax._core.strength import Scalar, ScalarOrSchedule
from decayax._optimizers.stages import (
    adam_stage,
    chain_in_float32,
    decay_stage,
    l2_stage,
    lr_stage,
)
from decayax.masks._resolve import MaskOrFn


def adam_l2(
    learning_rate: ScalarOrSchedule,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    eps_root: Scalar = 0.0,
    mu_dtype: DTypeLike | None = None,
    weight_decay: ScalarOrSchedule = 1e-4,
    mask: MaskOrFn = None,
    *,
    nesterov: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam with L2 in the gradient: torch's ``Adam(weight_decay)``.

    .. math::
        d_t = g_t + \lambda_t\theta_t, \qquad
        \theta_{t+1} = \theta_t
            - \gamma_t \frac{\hat m_t(d)}{\sqrt{\hat v_t(d)} + \epsilon}

    The penalty enters both moments. Weights with large gradients hardly decay; the
    decay of a weight with zero gradient does not depend on :math:`\lambda`. Use it to
    compare with :func:`adamw`, and to port recipes that used it.

    Args:
        learning_rate: as for :func:`sgd_l2`.
        b1, b2: :math:`\beta_1` and :math:`\beta_2` in [0, 1), per step.
        eps: :math:`\epsilon \ge 0`, in units of a gradient, outside the root.
        eps_root: added to :math:`\hat v` inside the root; >= 0. Derivatives are finite
            with 0 too; those of ``optax.adam`` need ``eps_root > 0``.
        mu_dtype: dtype of :math:`m`; None: that of the parameters.
        weight_decay, mask: as for :func:`add_l2_to_grad`.
        nesterov: Nesterov's momentum (NAdam).

    Returns:
        An optimizer, as for :func:`sgd_l2`; complex leaves as in :func:`scale_by_rms`.

    Example:
        >>> import decayax as dx, jax.numpy as jnp
        >>> params, grads = jnp.ones(1), jnp.zeros(1)
        >>> for weight_decay in (1e-4, 1e-2, 1.0):  # a weight without gradient
        ...     opt = dx.adam_l2(1e-3, weight_decay=weight_decay)
        ...     updates, _ = opt.update(grads, opt.init(params), params)
        ...     print(f"{updates[0]:.0e}")
        -1e-03
        -1e-03
        -1e-03

    Reference:
        Loshchilov and Hutter, https://arxiv.org/abs/1711.05101, Algorithm 2 with the
        decay of line 6; Kingma and Ba, https://arxiv.org/abs/1412.6980, Algorithm 1.
    """
    name = "adam_l2"
    return chain_in_float32(
        name,
        l2_stage(name, weight_decay, mask),
        adam_stage(name, b1, b2, eps, eps_root, mu_dtype, nesterov),
        lr_stage(name, learning_rate),
    )


def adamw(
    learning_rate: ScalarOrSchedule,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    eps_root: Scalar = 0.0,
    mu_dtype: DTypeLike | None = None,
    weight_decay: ScalarOrSchedule = 1e-4,
    mask: MaskOrFn = None,
    *,
    nesterov: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam with decoupled weight decay, with the arguments of ``optax.adamw``.

    .. math::
        \theta_{t+1} = (1 - \gamma_t\lambda_t)\,\theta_t
            - \gamma_t \frac{\hat m_t(g)}{\sqrt{\hat v_t(g)} + \epsilon}

    Signature and defaults are those of ``optax.adamw``. On float32 parameters with the
    default ``mu_dtype`` the trajectory is the same to the bit: it is a drop-in for the
    call, not for checkpoints. In addition, masks have multipliers, fit by path, and
    raise if they match nothing. Strengths are checked, and dtypes never change.

    The state tree does not depend on the type of strength, learning rate or mask:
    decay and learning rate count their own steps. So it differs from optax's;
    :func:`adopt_state` moves a state from one to the other.

    Args:
        learning_rate, b1, b2, eps, eps_root, mu_dtype, nesterov: as for
            :func:`adam_l2`.
        weight_decay, mask: as for :func:`decoupled_decay`. Optax reads 0.5 in a mask as
            True; here it is a multiplier.

    Example:
        >>> import decayax as dx, jax.numpy as jnp
        >>> params, grads = jnp.ones(1), jnp.zeros(1)
        >>> for weight_decay in (1e-4, 1e-2, 1.0):  # a weight without gradient
        ...     opt = dx.adamw(1e-3, weight_decay=weight_decay)
        ...     updates, _ = opt.update(grads, opt.init(params), params)
        ...     print(f"{updates[0]:.0e}")
        -1e-07
        -1e-05
        -1e-03

    Reference:
        Loshchilov and Hutter, https://arxiv.org/abs/1711.05101, Algorithm 2 (AdamW).
    """
    name = "adamw"
    return chain_in_float32(
        name,
        adam_stage(name, b1, b2, eps, eps_root, mu_dtype, nesterov),
        decay_stage(name, weight_decay, mask),
        lr_stage(name, learning_rate),
    )
