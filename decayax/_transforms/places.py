"""The three places of a decay: one formula, and where it stands decides what it is.

    g ──[g + λθ]──▶ preconditioner ──[u + λθ]──▶ × (−γ_t) ──[Δ − λθ]──▶ θ + Δ
        L2                           decoupled              independent

The first passes through the preconditioner, the second through the learning rate
alone, the third through nothing. `with_decay` brings the second to optimizers that
are already finished, by standing where the third stands with the rate γ_tλ.
"""

import jax
import optax

from decayax._core.strength import (
    lr_scaled_strength,
    ScalarOrSchedule,
    short_repr,
)
from decayax._transforms.kernel import is_optimizer, pull
from decayax._transforms.precision import keep_dtypes
from decayax.masks._resolve import MaskOrFn


def plus_decay(update: jax.Array, param: jax.Array, rate: jax.Array) -> jax.Array:
    """U + λθ, for updates that will be negated: gradients and directions."""
    return update + rate * param


def minus_decay(update: jax.Array, param: jax.Array, rate: jax.Array) -> jax.Array:
    """Δ − λθ, for finished updates."""
    return update - rate * param


def add_l2_to_grad(
    weight_decay: ScalarOrSchedule, *, mask: MaskOrFn = None
) -> optax.GradientTransformationExtraArgs:
    r"""L2 regularisation: add the gradient of :math:`\tfrac12\lambda\|\theta\|^2`.

    .. math:: g_t \leftarrow g_t + \lambda_t\, m\, \theta_t

    Stands **first**, on the raw gradient, so that everything after it (clipping,
    momentum, preconditioner) treats the penalty as part of the loss. Under RMSprop
    and Adam a weight then shrinks at :math:`\gamma_t\lambda/(\sqrt v+\epsilon)` per
    step: least where gradients are largest. It is what ``torch.optim.Adam`` and
    ``RMSprop`` call ``weight_decay``.

    Args:
        weight_decay: :math:`\lambda \ge 0`, in units of gradient per weight. A float,
            a 0-d array, a tracer, or a schedule (step -> value; the first step is 0).
        mask: which parameters :math:`\lambda` applies to, and how much of it: a tree
            (or prefix) of bools or multipliers :math:`m \ge 0`, or a function of the
            parameters giving one, which sees shapes and dtypes only. None: all.

    Returns:
        A transform of updates of any shape; dtypes stay, 16-bit leaves are calculated
        in float32. Its state is one counter.

    Raises:
        TypeError: a strength or multiplier that is no real number; an integer leaf
            that would decay.
        ValueError: a strength or multiplier that is negative, not finite or not 0-d;
            a mask that does not fit or matches nothing; no params; other shapes.

    Example:
        >>> import optax, decayax as dx, jax.numpy as jnp
        >>> opt = optax.chain(dx.add_l2_to_grad(0.1), optax.scale(-0.5))
        >>> params, grads = jnp.array([2.0, -4.0]), jnp.array([0.0, 1.0])
        >>> updates, _ = opt.update(grads, opt.init(params), params)
        >>> print(updates)  # -0.5 * (g + 0.1 * params)
        [-0.1 -0.3]

    Reference:
        Hanson and Pratt, *Comparing biases for minimal network construction with
        back-propagation*, NeurIPS 1988; the L2 form discussed as Algorithm 2, line 6
        (pink) in Loshchilov and Hutter, https://arxiv.org/abs/1711.05101.
    """
    return pull("add_l2_to_grad", plus_decay, weight_decay, mask)


def decoupled_decay(
    weight_decay: ScalarOrSchedule, *, mask: MaskOrFn = None
) -> optax.GradientTransformationExtraArgs:
    r"""Decoupled weight decay, times the learning rate: the decay of torch's AdamW.

    .. math:: u_t \leftarrow u_t + \lambda_t\, m\, \theta_t

    Stands **after the preconditioner and before the learning rate**, which turns it
    into :math:`\theta \leftarrow (1-\gamma_t\lambda_t m)\,\theta - \gamma_t u_t`: the
    same shrink for every weight, whatever its gradients.

    Args:
        weight_decay: :math:`\lambda \ge 0`; times the learning rate it is the share of
            a weight lost per step. A float, a 0-d array, a tracer, or a schedule
            (step -> value; the first step is 0).
        mask: which parameters :math:`\lambda` applies to, and how much of it: a tree
            (or prefix) of bools or multipliers :math:`m \ge 0`, or a function of the
            parameters giving one, which sees shapes and dtypes only. None: all.

    Returns:
        A transform of updates of any shape; dtypes stay, 16-bit leaves are calculated
        in float32. Its state is one counter.

    Raises:
        TypeError: a strength or multiplier that is no real number; an integer leaf
            that would decay.
        ValueError: a strength or multiplier that is negative, not finite or not 0-d;
            a mask that does not fit or matches nothing; no params; other shapes.

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
        Loshchilov and Hutter, *Decoupled weight decay regularization*,
        https://arxiv.org/abs/1711.05101, Algorithm 2, line 12. The paper multiplies
        :math:`\lambda` by the schedule only; here, as in torch and optax, it is
        multiplied by the learning rate. See :func:`independent_decay` for the paper's.
    """
    return pull("decoupled_decay", plus_decay, weight_decay, mask)


def independent_decay(
    weight_decay: ScalarOrSchedule, *, mask: MaskOrFn = None
) -> optax.GradientTransformationExtraArgs:
    r"""Weight decay independent of the learning rate: the decay of the AdamW paper.

    .. math:: \Delta_t \leftarrow \Delta_t - \lambda_t\, m\, \theta_t

    Stands **last**, on the finished update, where
    :math:`\theta \leftarrow (1-\lambda_t m)\,\theta + \Delta_t`: changing the learning
    rate leaves the decay alone. To follow the paper under a learning-rate schedule
    :math:`\gamma_t = \alpha\eta_t`, give the schedule :math:`\lambda\eta_t`.

    Args:
        weight_decay: :math:`\lambda \ge 0`, the share of a weight lost per step, so
            far smaller than for :func:`decoupled_decay`. A float, a 0-d array, a
            tracer, or a schedule (step -> value; the first step is 0).
        mask: which parameters :math:`\lambda` applies to, and how much of it: a tree
            (or prefix) of bools or multipliers :math:`m \ge 0`, or a function of the
            parameters giving one, which sees shapes and dtypes only. None: all.

    Returns:
        A transform of updates of any shape; dtypes stay, 16-bit leaves are calculated
        in float32. Its state is one counter.

    Raises:
        TypeError: a strength or multiplier that is no real number; an integer leaf
            that would decay.
        ValueError: a strength or multiplier that is negative, not finite or not 0-d;
            a mask that does not fit or matches nothing; no params; other shapes.

    Example:
        >>> import optax, decayax as dx, jax.numpy as jnp
        >>> opt = optax.chain(optax.sgd(0.5), dx.independent_decay(0.01))
        >>> params, grads = jnp.array([2.0, -4.0]), jnp.array([0.0, 1.0])
        >>> updates, _ = opt.update(grads, opt.init(params), params)
        >>> print(updates)  # -0.5 * g - 0.01 * params
        [-0.02 -0.46]

    Reference:
        Loshchilov and Hutter, *Decoupled weight decay regularization*,
        https://arxiv.org/abs/1711.05101, Algorithm 2, line 12 (:math:`\eta_t\lambda`).
    """
    return pull("independent_decay", minus_decay, weight_decay, mask)


def with_decay(
    optimizer: optax.GradientTransformation,
    weight_decay: ScalarOrSchedule,
    *,
    learning_rate: ScalarOrSchedule | None = None,
    mask: MaskOrFn = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Decoupled weight decay for any finished optimizer, from outside.

    .. math:: \Delta_t \leftarrow \Delta_t - \gamma_t\lambda_t\, m\, \theta_t

    where :math:`\Delta_t` is the optimizer's own update. With the optimizer's learning
    rate this is :func:`decoupled_decay` in the right place of its chain; without one
    it is :func:`independent_decay` after it.

    Put it *inside* wrappers that skip, average or accumulate steps (``MultiSteps``,
    ``apply_if_finite``, schedule-free), so that decay keeps the clock of the steps. A
    bare ``MultiSteps`` is refused; one hidden in a chain cannot be seen.
    An optimizer that decays already (``adamw``, ``lion``, ...) would decay twice.

    Args:
        optimizer: a finished optimizer, whose updates are added to the parameters.
        weight_decay: :math:`\lambda \ge 0`; with a learning rate, times it, otherwise
            by itself the share of a weight lost per step. A float, a 0-d array, a
            tracer, or a schedule (step -> value; the first step is 0).
        learning_rate: :math:`\gamma_t`, the one the optimizer was built with: a value
            or the same schedule. None: 1.
        mask: which parameters :math:`\lambda` applies to, and how much of it: a tree
            (or prefix) of bools or multipliers :math:`m \ge 0`, or a function of the
            parameters giving one, which sees shapes and dtypes only. None: all.

    Returns:
        The optimizer with decay. Updates keep the gradients' dtypes and the state its
        own, also where the optimizer alone would change them.

    Raises:
        TypeError: not a finished optimizer (a ``MultiSteps`` object, a function still
            to be called); a strength that is no real number; an integer leaf that
            would decay.
        ValueError: a strength or multiplier that is negative, not finite or not 0-d;
            a mask that does not fit or matches nothing; no params; other shapes.

    Example:
        >>> import optax, decayax as dx, jax.numpy as jnp
        >>> opt = dx.with_decay(optax.radam(0.01), 0.1, learning_rate=0.01)
        >>> params, grads = jnp.array([2.0, -4.0]), jnp.zeros(2)
        >>> updates, _ = opt.update(grads, opt.init(params), params)
        >>> print(updates)  # zero gradient: -0.01 * 0.1 * params
        [-0.002  0.004]

    Reference:
        Loshchilov and Hutter, *Decoupled weight decay regularization*,
        https://arxiv.org/abs/1711.05101, Algorithm 2, line 12.
    """
    name = "with_decay"
    accumulates = getattr(getattr(optimizer, "update", None), "__self__", optimizer)
    if isinstance(accumulates, optax.MultiSteps):
        raise TypeError(
            f"{name}: got a MultiSteps object, outside which every mini-step would "
            "decay. Put the decay inside: MultiSteps(with_decay(optimizer, ...), k)."
        )
    if not is_optimizer(optimizer):
        raise TypeError(
            f"{name}: takes a finished optimizer such as optax.radam(1e-3), "
            f"got {short_repr(optimizer)}."
        )
    if learning_rate is None:
        rate = weight_decay
    else:
        rate = lr_scaled_strength(name, learning_rate, weight_decay)
    return keep_dtypes(optax.chain(optimizer, pull(name, minus_decay, rate, mask)))
