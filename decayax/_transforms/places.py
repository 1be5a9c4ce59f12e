"""The three places of a decay: the formula is the same, its place decides its effect.

    g ──[g + λθ]──▶ preconditioner ──[u + λθ]──▶ × (−γ_t) ──[Δ − λθ]──▶ θ + Δ
        L2                           decoupled              independent

L2 passes through the preconditioner and the learning rate, decoupled decay through the
learning rate only, independent decay through neither. `with_decay` adds decoupled decay
to a finished optimizer: it acts in the third place, with the rate γ_tλ.
"""

from __future__ import annotations

import optax

from decayax._core.strength import ScalarOrSchedule
from decayax._transforms.geometry import ArrayLeaf, times_real
from decayax._transforms.kernel import (
    around,
    Leaf,
    Method,
    pull,
    pull_rule,
    transform,
)
from decayax._transforms.strengths import decay_rate
from decayax._transforms.trees import require_finished
from decayax.masks._resolve import MaskOrFn


def plus_l2(leaf: Leaf) -> ArrayLeaf:
    """Return g + λθ, for gradients that a preconditioner uses more than once."""
    # −(−g − λθ) is g + λθ. If several operations use it, as in RMSprop, XLA stores a
    # sum of two arrays for all parameters at once, but calculates a negation again.
    return -(-leaf.update - times_real(leaf.rate, leaf.param))


def l2(
    name: str, weight_decay: ScalarOrSchedule, mask: MaskOrFn
) -> optax.GradientTransformationExtraArgs:
    """`add_l2_to_grad` under the name of the optimizer that contains it."""
    return transform(Method(name, decay_rate(name, weight_decay), mask, plus_l2))


def add_l2_to_grad(
    weight_decay: ScalarOrSchedule, *, mask: MaskOrFn = None
) -> optax.GradientTransformationExtraArgs:
    r"""L2 regularisation: add λθ, the gradient of ½λ‖θ‖², to the gradients.

    .. math:: g_t \leftarrow g_t + \lambda_t\, m\, \theta_t

    Put it **first** in the chain, on the raw gradient. Clipping, momentum and the
    preconditioner then treat the penalty as part of the loss. Under RMSprop and Adam a
    weight shrinks by :math:`\gamma_t\lambda/(\sqrt v+\epsilon)` per step: weights with
    large gradients decay least. ``torch.optim.Adam`` and ``torch.optim.RMSprop`` call
    this ``weight_decay``.

    Args:
        weight_decay: :math:`\lambda`, as for :func:`decoupled_decay`, but in units of
            gradient per weight.
        mask: :math:`m`, as for :func:`decoupled_decay`.

    Example:
        >>> import optax, decayax as dx, jax.numpy as jnp
        >>> opt = optax.chain(dx.add_l2_to_grad(0.1), optax.scale(-0.5))
        >>> params, grads = jnp.array([2.0, -4.0]), jnp.array([0.0, 1.0])
        >>> updates, _ = opt.update(grads, opt.init(params), params)
        >>> print(updates)  # -0.5 * (g + 0.1 * params)
        [-0.1 -0.3]

    Reference:
        Hanson and Pratt, *Comparing biases for minimal network construction with
        back-propagation*, NeurIPS 1988; Loshchilov and Hutter,
        https://arxiv.org/abs/1711.05101, Algorithm 2, line 6 (the L2 form).
    """
    return l2("add_l2_to_grad", weight_decay, mask)


def decoupled_decay(
    weight_decay: ScalarOrSchedule, *, mask: MaskOrFn = None
) -> optax.GradientTransformationExtraArgs:
    r"""Decoupled weight decay, times the learning rate: the decay of torch's AdamW.

    .. math:: u_t \leftarrow u_t + \lambda_t\, m\, \theta_t

    Put it **after the preconditioner and before the learning rate**. The step becomes
    :math:`\theta \leftarrow (1-\gamma_t\lambda_t m)\,\theta - \gamma_t u_t`: all
    weights shrink by the same fraction, with any gradient.

    Args:
        weight_decay: :math:`\lambda \ge 0`. A weight loses the fraction
            :math:`\gamma_t\lambda` per step. A float, a 0-d array, a tracer, or a
            schedule (step -> value; the first step is 0).
        mask: which parameters decay, and how much: a tree (or prefix) of bools,
            multipliers :math:`m \ge 0`, or arrays of them that broadcast against the
            parameter (one for each row or layer); or a function of the parameters that
            returns one. The function sees shapes and dtypes, but no values and no
            boxes such as ``nnx.Param``. None: all parameters.

    Returns:
        A transform that keeps the dtypes of the updates. It calculates 16-bit leaves
        in float32. Its state is one counter.

    Raises:
        TypeError: a strength or multiplier is not a real number; a parameter that
            decays is not floating-point; the tree holds a model's state too.
        ValueError: a strength or multiplier is negative or not finite; a strength is
            not 0-d; the mask does not fit the parameters or selects none; ``params`` is
            missing; updates and parameters have different shapes.

    Example:
        >>> import optax, decayax as dx, jax.numpy as jnp
        >>> rmspropw = optax.chain(
        ...     dx.scale_by_rms(), dx.decoupled_decay(0.1), optax.scale(-0.01)
        ... )
        >>> params, grads = jnp.array([2.0, -4.0]), jnp.zeros(2)
        >>> updates, _ = rmspropw.update(grads, rmspropw.init(params), params)
        >>> print(updates)  # zero gradient: -0.01 * 0.1 * params
        [-0.002  0.004]

    Reference:
        Loshchilov and Hutter, https://arxiv.org/abs/1711.05101, Algorithm 2, line 12.
        The paper multiplies :math:`\lambda` by the schedule only, as in
        :func:`independent_decay`; here, in torch and in optax the learning rate does.
    """
    return pull("decoupled_decay", weight_decay, mask)


def independent_decay(
    weight_decay: ScalarOrSchedule, *, mask: MaskOrFn = None
) -> optax.GradientTransformationExtraArgs:
    r"""Weight decay independent of the learning rate: the decay of the AdamW paper.

    .. math:: \Delta_t \leftarrow \Delta_t - \lambda_t\, m\, \theta_t

    Put it **last** in the chain, on the finished update. The step becomes
    :math:`\theta \leftarrow (1-\lambda_t m)\,\theta + \Delta_t`; the learning rate does
    not change the decay. To follow the paper under a learning-rate schedule
    :math:`\gamma_t = \alpha\eta_t`, pass the schedule :math:`\lambda\eta_t`.

    Args:
        weight_decay: :math:`\lambda`, as for :func:`decoupled_decay`, but a weight
            loses the fraction :math:`\lambda` per step, so it is much smaller.
        mask: :math:`m`, as for :func:`decoupled_decay`.

    Example:
        >>> import optax, decayax as dx, jax.numpy as jnp
        >>> opt = optax.chain(optax.sgd(0.5), dx.independent_decay(0.01))
        >>> params, grads = jnp.array([2.0, -4.0]), jnp.array([0.0, 1.0])
        >>> updates, _ = opt.update(grads, opt.init(params), params)
        >>> print(updates)  # -0.5 * g - 0.01 * params
        [-0.02 -0.46]

    Reference:
        Loshchilov and Hutter, https://arxiv.org/abs/1711.05101, Algorithm 2, line 12.
    """
    return pull("independent_decay", weight_decay, mask, learning_rate=1.0)


def with_decay(
    optimizer: optax.GradientTransformation,
    weight_decay: ScalarOrSchedule,
    *,
    learning_rate: ScalarOrSchedule,
    mask: MaskOrFn = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Decoupled weight decay around any finished optimizer.

    .. math:: \Delta_t \leftarrow \Delta_t - \gamma_t\lambda_t\, m\, \theta_t

    :math:`\Delta_t` is the optimizer's own update. The result is the same as
    :func:`decoupled_decay` in the right place of its chain.

    Put ``with_decay`` *inside* wrappers that skip, average or accumulate steps
    (``MultiSteps``, ``apply_if_finite``, schedule-free), so that a weight decays only
    in the steps that are applied. A ``MultiSteps`` object raises; ``with_decay`` cannot
    see one inside a chain. An optimizer with a decay of its own (``adamw``, ``lion``,
    ...) would decay twice.

    Args:
        optimizer: a finished optimizer, whose updates are added to the parameters.
        weight_decay: :math:`\lambda`, as for :func:`decoupled_decay`.
        learning_rate: :math:`\gamma_t`, the same value or schedule as in the optimizer.
            For a decay that does not depend on it, write ``optax.chain(optimizer,
            dx.independent_decay(...))``.
        mask: :math:`m`, as for :func:`decoupled_decay`.

    Returns:
        The optimizer with decay. It calculates 16-bit leaves in float32. Updates keep
        the gradients' dtypes and the state its own, also where the optimizer alone
        would change them.

    Example:
        >>> import optax, decayax as dx, jax.numpy as jnp
        >>> opt = dx.with_decay(optax.radam(0.01), 0.1, learning_rate=0.01)
        >>> params, grads = jnp.array([2.0, -4.0]), jnp.zeros(2)
        >>> updates, _ = opt.update(grads, opt.init(params), params)
        >>> print(updates)  # zero gradient: -0.01 * 0.1 * params
        [-0.002  0.004]
    """
    name = "with_decay"
    require_finished(name, optimizer)
    if learning_rate is None:
        raise TypeError(
            f"{name}: learning_rate must be that of the optimizer, got None. For a "
            "decay that does not depend on it, write optax.chain(optimizer, "
            "dx.independent_decay(...))."
        )
    rate_at = decay_rate(name, weight_decay, learning_rate)
    rule = pull_rule(lambda leaf: leaf.param, gate=None, behind=True)
    return around(Method(name, rate_at, mask, rule), optimizer)
