"""Adam with each of the two decays: divided by √v̂, or not."""

from typing import Any

import jax
import optax

from decayax._core.strength import ScalarOrSchedule
from decayax._optimizers.stages import adam_moments, learning_rate_stage
from decayax._transforms.places import add_l2_to_grad, decoupled_decay
from decayax._transforms.precision import in_float32
from decayax.masks._resolve import MaskOrFn


def adam_l2(
    learning_rate: ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    eps_root: jax.typing.ArrayLike = 0.0,
    mu_dtype: Any | None = None,
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

    Both moments see the penalty. Weights with large gradients hardly decay, and where
    there is no gradient :math:`\lambda` cancels altogether. It is here to compare with
    :func:`adamw` and to port recipes that used it.

    Args:
        learning_rate: :math:`\gamma_t \ge 0`, a value or a schedule (step -> value).
        b1: :math:`\beta_1` in [0, 1), per step.
        b2: :math:`\beta_2` in [0, 1), per step.
        eps: :math:`\epsilon \ge 0`, in units of a gradient, outside the root.
        eps_root: added to :math:`\hat v` inside the root; >= 0.
        mu_dtype: dtype of :math:`m`; None: that of the parameters.
        weight_decay: :math:`\lambda \ge 0`, as for :func:`add_l2_to_grad`.
        mask: which parameters decay, as for :func:`add_l2_to_grad`.
        nesterov: Nesterov's momentum (NAdam).

    Returns:
        An optimizer for parameters of any shape. Updates keep the gradients' dtypes
        and the state its own; 16-bit leaves are calculated in float32.

    Raises:
        TypeError, ValueError: as for :func:`add_l2_to_grad`.

    Example:
        >>> import optax, decayax as dx, jax.numpy as jnp
        >>> for weight_decay in (1e-4, 1e-2, 1.0):  # a weight without gradient
        ...     opt, params = dx.adam_l2(1e-3, weight_decay=weight_decay), jnp.ones(1)
        ...     state = opt.init(params)
        ...     for _ in range(100):
        ...         updates, state = opt.update(jnp.zeros(1), state, params)
        ...         params = optax.apply_updates(params, updates)
        ...     print(f"{params[0]:.3f}")
        0.902
        0.902
        0.902

    Reference:
        Loshchilov and Hutter, https://arxiv.org/abs/1711.05101, Algorithm 2 with the
        decay of line 6; Kingma and Ba, https://arxiv.org/abs/1412.6980, Algorithm 1.
    """
    return in_float32(
        optax.chain(
            add_l2_to_grad(weight_decay, mask=mask),
            adam_moments("adam_l2", b1, b2, eps, eps_root, mu_dtype, nesterov),
            learning_rate_stage("adam_l2", learning_rate),
        )
    )


def adamw(
    learning_rate: ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    eps_root: jax.typing.ArrayLike = 0.0,
    mu_dtype: Any | None = None,
    weight_decay: ScalarOrSchedule = 1e-4,
    mask: MaskOrFn = None,
    *,
    nesterov: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam with decoupled weight decay: a drop-in for ``optax.adamw``.

    .. math::
        \theta_{t+1} = (1 - \gamma_t\lambda_t)\,\theta_t
            - \gamma_t \frac{\hat m_t(g)}{\sqrt{\hat v_t(g)} + \epsilon}

    Signature and defaults are those of ``optax.adamw``, and on float32 parameters with
    the default ``mu_dtype`` the trajectory is, to the bit. What it adds: masks with
    multipliers, fitted by path and refused when they match nothing; strengths that are
    checked; dtypes that stay; a state tree that does not depend on the type of
    strength, learning rate or mask. So the state is not optax's: it has three counters
    (Adam's is ``state[0].count``), and a checkpoint of one does not load into the
    other. The twin of :func:`adam_l2`.

    Args:
        learning_rate: :math:`\gamma_t \ge 0`, a value or a schedule (step -> value).
        b1: :math:`\beta_1` in [0, 1), per step.
        b2: :math:`\beta_2` in [0, 1), per step.
        eps: :math:`\epsilon \ge 0`, in units of a gradient, outside the root.
        eps_root: added to :math:`\hat v` inside the root; >= 0.
        mu_dtype: dtype of :math:`m`; None: that of the parameters.
        weight_decay: :math:`\lambda \ge 0`, as for :func:`decoupled_decay`. The paper's
            is not multiplied by :math:`\gamma`; this one is, as in torch.
        mask: which parameters decay, as for :func:`decoupled_decay`. Where optax reads
            0.5 as True, here it is a multiplier.
        nesterov: Nesterov's momentum (NAdam).

    Returns:
        An optimizer for parameters of any shape. Updates keep the gradients' dtypes
        and the state its own; 16-bit leaves are calculated in float32.

    Raises:
        TypeError, ValueError: as for :func:`decoupled_decay`.

    Example:
        >>> import optax, decayax as dx, jax.numpy as jnp
        >>> for weight_decay in (1e-4, 1e-2, 1.0):  # a weight without gradient
        ...     opt, params = dx.adamw(1e-3, weight_decay=weight_decay), jnp.ones(1)
        ...     state = opt.init(params)
        ...     for _ in range(100):
        ...         updates, state = opt.update(jnp.zeros(1), state, params)
        ...         params = optax.apply_updates(params, updates)
        ...     print(f"{params[0]:.3f}")
        1.000
        0.999
        0.905

    Reference:
        Loshchilov and Hutter, https://arxiv.org/abs/1711.05101, Algorithm 2 (AdamW).
    """
    return in_float32(
        optax.chain(
            adam_moments("adamw", b1, b2, eps, eps_root, mu_dtype, nesterov),
            decoupled_decay(weight_decay, mask=mask),
            learning_rate_stage("adamw", learning_rate),
        )
    )
