"""RMSprop with L2, which √V divides, and with decoupled decay, which it does not."""

from __future__ import annotations

import optax

from decayax._core.strength import Scalar, ScalarOrSchedule
from decayax._optimizers.stages import (
    chain_in_float32,
    decay_stage,
    l2_stage,
    lr_stage,
    momentum_stage,
    rms_stage,
)
from decayax.masks._resolve import MaskOrFn


def rmsprop_l2(
    learning_rate: ScalarOrSchedule,
    decay: Scalar = 0.9,
    eps: Scalar = 1e-8,
    initial_scale: Scalar = 0.0,
    eps_in_sqrt: bool = False,
    centered: bool = False,
    momentum: Scalar | None = None,
    nesterov: bool = False,
    bias_correction: bool = False,
    weight_decay: ScalarOrSchedule = 1e-4,
    mask: MaskOrFn = None,
) -> optax.GradientTransformationExtraArgs:
    r"""RMSprop with L2 in the gradient: torch's ``RMSprop(weight_decay)``.

    .. math::
        d_t = g_t + \lambda_t\theta_t, \qquad
        V_t = \beta V_{t-1} + (1-\beta)\,|d_t|^2, \qquad
        \theta_{t+1} = \theta_t - \gamma_t \frac{d_t}{\sqrt{V_t} + \epsilon}

    Each weight shrinks by its own :math:`\gamma_t\lambda_t/(\sqrt{V_t}+\epsilon)`.
    Weights with large gradients decay least; a weight with zero gradient decays at a
    rate that does not depend on :math:`\lambda`.

    Args:
        learning_rate: as for :func:`sgd_l2`.
        decay, eps, initial_scale, eps_in_sqrt, bias_correction: as for
            :func:`scale_by_rms`.
        centered: divide by the standard deviation of the gradients, as
            :func:`scale_by_stddev`.
        momentum: :math:`\mu` in [0, 1) on the divided gradient, or None. The learning
            rate is applied after it, as in torch; ``optax.rmsprop`` applies it before.
        nesterov: Nesterov's momentum.
        weight_decay, mask: as for :func:`add_l2_to_grad`.

    Returns:
        An optimizer, as for :func:`sgd_l2`.

    Example:
        >>> import optax, decayax as dx, jax.numpy as jnp
        >>> opt, params = dx.rmsprop_l2(0.01, weight_decay=0.01), jnp.ones(2)
        >>> state, grads = opt.init(params), jnp.array([0.1, 10.0])
        >>> for t in range(200):  # gradients +-0.1 and +-10, with alternating sign
        ...     updates, state = opt.update((-1) ** t * grads, state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> print([f"{x:.3f}" for x in params])  # large gradients: hardly any decay
        ['0.814', '0.984']

    Reference:
        Tieleman and Hinton, *Lecture 6.5, RMSprop*, Coursera 2012, with the L2 term of
        Loshchilov and Hutter, https://arxiv.org/abs/1711.05101, Algorithm 2, line 6.
    """
    name = "rmsprop_l2"
    return chain_in_float32(
        name,
        l2_stage(name, weight_decay, mask),
        rms_stage(
            name, decay, eps, initial_scale, eps_in_sqrt, centered, bias_correction
        ),
        momentum_stage(name, momentum, nesterov),
        lr_stage(name, learning_rate),
    )


def rmspropw(
    learning_rate: ScalarOrSchedule,
    decay: Scalar = 0.9,
    eps: Scalar = 1e-8,
    initial_scale: Scalar = 0.0,
    eps_in_sqrt: bool = False,
    centered: bool = False,
    momentum: Scalar | None = None,
    nesterov: bool = False,
    bias_correction: bool = False,
    weight_decay: ScalarOrSchedule = 1e-4,
    mask: MaskOrFn = None,
) -> optax.GradientTransformationExtraArgs:
    r"""RMSprop with decoupled weight decay: all weights decay at the same rate.

    .. math::
        V_t = \beta V_{t-1} + (1-\beta)\,|g_t|^2, \qquad
        \theta_{t+1} = (1 - \gamma_t\lambda_t)\,\theta_t
            - \gamma_t \frac{g_t}{\sqrt{V_t} + \epsilon}

    The decay enters neither :math:`V` nor the momentum.

    Args:
        learning_rate: as for :func:`sgd_l2`.
        decay, eps, initial_scale, eps_in_sqrt, bias_correction: as for
            :func:`scale_by_rms`.
        centered, momentum, nesterov: as for :func:`rmsprop_l2`.
        weight_decay, mask: as for :func:`decoupled_decay`.

    Example:
        >>> import optax, decayax as dx, jax.numpy as jnp
        >>> opt, params = dx.rmspropw(0.01, weight_decay=0.01), jnp.ones(2)
        >>> state, grads = opt.init(params), jnp.array([0.1, 10.0])
        >>> for t in range(200):  # gradients +-0.1 and +-10, with alternating sign
        ...     updates, state = opt.update((-1) ** t * grads, state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> print([f"{x:.3f}" for x in params])  # the same decay for both
        ['0.967', '0.967']

    Reference:
        Loshchilov and Hutter, https://arxiv.org/abs/1711.05101, Algorithm 2, line 12,
        with RMSprop's preconditioner in place of Adam's.
    """
    name = "rmspropw"
    return chain_in_float32(
        name,
        rms_stage(
            name, decay, eps, initial_scale, eps_in_sqrt, centered, bias_correction
        ),
        momentum_stage(name, momentum, nesterov),
        decay_stage(name, weight_decay, mask),
        lr_stage(name, learning_rate),
    )
