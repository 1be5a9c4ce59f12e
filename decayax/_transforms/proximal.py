r"""Proximal steps: the decay of the weights *after* the step, stable at every rate.

θ ← prox(θ + Δ), prox(x) = argmin_y ½‖y − x‖² + rate·penalty(y)

½‖y‖²  →  x/(1 + rate)                     proximal decay
‖y‖₁   →  sign(x)·max(|x| − rate, 0)       soft threshold: exact zeros
"""

from __future__ import annotations

import jax.numpy as jnp
import optax

from decayax._core.strength import NUMBER_HINT, ScalarOrSchedule
from decayax._transforms.geometry import ArrayLeaf, magnitude, ratio, times_real
from decayax._transforms.kernel import Leaf, Method, transform
from decayax._transforms.strengths import checked, decay_rate
from decayax.masks._resolve import MaskOrFn


def divide(leaf: Leaf) -> ArrayLeaf:
    """(θ + Δ)/(1 + rate) − θ."""
    return leaf.update - times_real(leaf.rate / (1 + leaf.rate), leaf.landed)


def threshold(leaf: Leaf) -> ArrayLeaf:
    """sign(θ̃)·max(|θ̃| − rate, 0) − θ with θ̃ = θ + Δ; complex weights keep phases."""
    size = magnitude(leaf.landed)
    lost = ratio(leaf.rate, size, otherwise=1.0)  # the fraction of θ̃
    # θ − θ is 0, but θ + (Δ − θ̃) may be a rounding error.
    shrunk = leaf.update - times_real(lost, leaf.landed)
    return jnp.where(lost >= 1, -leaf.param, shrunk)


def proximal_decay(
    weight_decay: ScalarOrSchedule,
    *,
    learning_rate: ScalarOrSchedule,
    mask: MaskOrFn = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Proximal weight decay: divide the new weights by 1 + rate, stable at every rate.

    .. math:: \theta + \Delta_t \leftarrow
        \frac{\theta + \Delta_t}{1 + \gamma_t\lambda_t m}

    Put it **last** in the chain, on the finished update. It equals decoupled decay to
    first order in :math:`\gamma\lambda`; the difference is of the order of
    :math:`(\gamma\lambda)^2`. A weight never changes its sign by decay, also if
    :math:`\gamma\lambda > 1`.

    Args:
        weight_decay: :math:`\lambda`, as for :func:`decoupled_decay`.
        learning_rate: :math:`\gamma_t`, the same value or schedule as in the optimizer;
            1.0 for a rate that does not follow it.
        mask: :math:`m`, as for :func:`decoupled_decay`.

    Returns:
        A transform, as for :func:`decoupled_decay`.

    Example:
        >>> import optax, decayax as dx, jax.numpy as jnp
        >>> decay = dx.proximal_decay(2.0, learning_rate=0.5)
        >>> opt = optax.chain(optax.sgd(0.5), decay)
        >>> params, grads = jnp.array([2.0, -4.0]), jnp.array([2.0, 0.0])
        >>> updates, _ = opt.update(grads, opt.init(params), params)
        >>> print(params + updates)  # (params - 0.5 * grads) / 2
        [ 0.5 -2. ]

    Reference:
        Zhuang et al., https://arxiv.org/abs/2202.00089 (AdamProx), with the
        learning rate in the factor, as :func:`decoupled_decay` has it.
    """
    name = "proximal_decay"
    gamma = checked(name, "learning_rate", learning_rate, NUMBER_HINT)
    return transform(Method(name, decay_rate(name, weight_decay, gamma), mask, divide))


def soft_threshold(
    strength: ScalarOrSchedule,
    *,
    learning_rate: ScalarOrSchedule,
    mask: MaskOrFn = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Proximal L1: each weight shrinks by a constant, and small ones become exactly 0.

    .. math:: \theta + \Delta_t \leftarrow \operatorname{sign}(\tilde\theta)
        \max(|\tilde\theta| - \gamma_t\lambda_t m,\, 0),
        \qquad \tilde\theta = \theta + \Delta_t

    Put it **last** in the chain, on the finished update. A gradient of
    :math:`\lambda\|\theta\|_1` in the loss makes weights small, but not 0.

    Args:
        strength: :math:`\lambda`, in units of weight per learning rate. A float, a 0-d
            array, a tracer or a schedule.
        learning_rate: :math:`\gamma_t`, as for :func:`proximal_decay`.
        mask: :math:`m`, as for :func:`decoupled_decay`.

    Returns:
        A transform, as for :func:`decoupled_decay`. A complex weight keeps its phase.

    Example:
        >>> import optax, decayax as dx, jax.numpy as jnp
        >>> decay = dx.soft_threshold(0.2, learning_rate=0.5)
        >>> opt = optax.chain(optax.sgd(0.5), decay)
        >>> params, grads = jnp.array([1.0, -0.05]), jnp.zeros(2)
        >>> updates, _ = opt.update(grads, opt.init(params), params)
        >>> print(params + updates)
        [0.9 0. ]

    Reference:
        Beck and Teboulle, *A fast iterative shrinkage-thresholding algorithm*, SIAM
        Journal on Imaging Sciences 2009 (ISTA).
    """
    name = "soft_threshold"
    gamma = checked(name, "learning_rate", learning_rate, NUMBER_HINT)
    rate_at = decay_rate(name, strength, gamma, "strength")
    return transform(Method(name, rate_at, mask, threshold))
