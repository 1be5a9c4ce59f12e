"""RMSprop with each of the two decays: divided by √V, or not."""

import jax
import optax

from decayax._core.strength import (
    as_average_rate,
    as_strength,
    NUMBER_HINT,
    ScalarOrSchedule,
)
from decayax._optimizers.stages import heavy_ball, learning_rate_stage
from decayax._transforms.places import add_l2_to_grad, decoupled_decay
from decayax._transforms.precision import in_float32
from decayax._transforms.rms import scale_by_rms
from decayax.masks._resolve import MaskOrFn


def rmsprop_l2(
    learning_rate: ScalarOrSchedule,
    decay: jax.typing.ArrayLike = 0.9,
    eps: jax.typing.ArrayLike = 1e-8,
    initial_scale: jax.typing.ArrayLike = 0.0,
    eps_in_sqrt: bool = False,
    centered: bool = False,
    momentum: jax.typing.ArrayLike | None = None,
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

    Each weight shrinks at its own :math:`\gamma_t\lambda_t/(\sqrt{V_t}+\epsilon)`:
    least where gradients are largest, and whatever :math:`\lambda` where there are
    none. See :func:`rmspropw` for the decay without the division.

    Args:
        learning_rate: :math:`\gamma_t \ge 0`, a value or a schedule (step -> value).
        decay: :math:`\beta` in [0, 1), per step.
        eps: :math:`\epsilon`, in units of a gradient.
        initial_scale: :math:`V_0`.
        eps_in_sqrt: divide by :math:`\sqrt{V+\epsilon}`; optax has True, torch False.
        centered: divide by the standard deviation, :math:`V` minus the squared mean
            gradient (not a number where rounding makes that negative).
        momentum: :math:`\mu` in [0, 1) on the divided gradient, or None for none. The
            learning rate stands after it, as in torch; ``optax.rmsprop`` has it before.
        nesterov: Nesterov's momentum.
        bias_correction: use :math:`V_t/(1-\beta^t)`, as Adam does.
        weight_decay: :math:`\lambda \ge 0`, as for :func:`add_l2_to_grad`.
        mask: which parameters decay, as for :func:`add_l2_to_grad`.

    Returns:
        An optimizer for parameters of any shape. Updates keep the gradients' dtypes
        and the state its own; 16-bit leaves are calculated in float32.

    Raises:
        TypeError, ValueError: as for :func:`add_l2_to_grad` and :func:`scale_by_rms`.

    Example:
        >>> import optax, decayax as dx, jax.numpy as jnp
        >>> opt, params = dx.rmsprop_l2(0.01, weight_decay=0.01), jnp.ones(2)
        >>> state, grads = opt.init(params), jnp.array([0.1, 10.0])
        >>> for t in range(200):  # noise of either sign, 0.1 and 10 large
        ...     updates, state = opt.update((-1) ** t * grads, state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> print([f"{x:.3f}" for x in params])  # the noisier weight hardly decays
        ['0.814', '0.984']

    Reference:
        Tieleman and Hinton, *Lecture 6.5, RMSprop*, Coursera 2012, with the L2 term of
        Loshchilov and Hutter, https://arxiv.org/abs/1711.05101, Algorithm 2, line 6.
    """
    return in_float32(
        optax.chain(
            add_l2_to_grad(weight_decay, mask=mask),
            _divide(
                "rmsprop_l2",
                decay,
                eps,
                initial_scale,
                eps_in_sqrt,
                centered,
                bias_correction,
            ),
            heavy_ball("rmsprop_l2", momentum, nesterov),
            learning_rate_stage("rmsprop_l2", learning_rate),
        )
    )


def rmspropw(
    learning_rate: ScalarOrSchedule,
    decay: jax.typing.ArrayLike = 0.9,
    eps: jax.typing.ArrayLike = 1e-8,
    initial_scale: jax.typing.ArrayLike = 0.0,
    eps_in_sqrt: bool = False,
    centered: bool = False,
    momentum: jax.typing.ArrayLike | None = None,
    nesterov: bool = False,
    bias_correction: bool = False,
    weight_decay: ScalarOrSchedule = 1e-4,
    mask: MaskOrFn = None,
) -> optax.GradientTransformationExtraArgs:
    r"""RMSprop with decoupled weight decay: every weight shrinks alike.

    .. math::
        V_t = \beta V_{t-1} + (1-\beta)\,|g_t|^2, \qquad
        \theta_{t+1} = (1 - \gamma_t\lambda_t)\,\theta_t
            - \gamma_t \frac{g_t}{\sqrt{V_t} + \epsilon}

    The twin of :func:`rmsprop_l2`: same arguments, same defaults. Neither :math:`V`
    nor the momentum sees the decay.

    Args:
        learning_rate: :math:`\gamma_t \ge 0`, a value or a schedule (step -> value).
        decay: :math:`\beta` in [0, 1), per step.
        eps: :math:`\epsilon`, in units of a gradient.
        initial_scale: :math:`V_0`.
        eps_in_sqrt: divide by :math:`\sqrt{V+\epsilon}`; optax has True, torch False.
        centered: divide by the standard deviation, :math:`V` minus the squared mean
            gradient (not a number where rounding makes that negative).
        momentum: :math:`\mu` in [0, 1) on the divided gradient, or None for none. The
            learning rate stands after it, as in torch; ``optax.rmsprop`` has it before.
        nesterov: Nesterov's momentum.
        bias_correction: use :math:`V_t/(1-\beta^t)`, as Adam does.
        weight_decay: :math:`\lambda \ge 0`, as for :func:`decoupled_decay`.
        mask: which parameters decay, as for :func:`decoupled_decay`.

    Returns:
        An optimizer for parameters of any shape. Updates keep the gradients' dtypes
        and the state its own; 16-bit leaves are calculated in float32.

    Raises:
        TypeError, ValueError: as for :func:`decoupled_decay` and :func:`scale_by_rms`.

    Example:
        >>> import optax, decayax as dx, jax.numpy as jnp
        >>> opt, params = dx.rmspropw(0.01, weight_decay=0.01), jnp.ones(2)
        >>> state, grads = opt.init(params), jnp.array([0.1, 10.0])
        >>> for t in range(200):  # noise of either sign, 0.1 and 10 large
        ...     updates, state = opt.update((-1) ** t * grads, state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> print([f"{x:.3f}" for x in params])  # both alike, and a step
        ['0.967', '0.967']

    Reference:
        Loshchilov and Hutter, https://arxiv.org/abs/1711.05101, Algorithm 2, line 12,
        with RMSprop's preconditioner in place of Adam's.
    """
    return in_float32(
        optax.chain(
            _divide(
                "rmspropw",
                decay,
                eps,
                initial_scale,
                eps_in_sqrt,
                centered,
                bias_correction,
            ),
            heavy_ball("rmspropw", momentum, nesterov),
            decoupled_decay(weight_decay, mask=mask),
            learning_rate_stage("rmspropw", learning_rate),
        )
    )


def _divide(
    name, decay, eps, initial_scale, eps_in_sqrt, centered, bias_correction
) -> optax.GradientTransformation:
    """u = g/(√V + ε), or by the standard deviation."""
    as_average_rate(name, "decay", decay)
    as_strength(name, "eps", eps, NUMBER_HINT)
    scale = optax.scale_by_stddev if centered else scale_by_rms
    return scale(
        decay,
        eps,
        initial_scale=initial_scale,
        eps_in_sqrt=eps_in_sqrt,
        bias_correction=bias_correction,
    )
