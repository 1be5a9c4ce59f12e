r"""Decays that follow the learning rate, in order to keep a norm.

corrected    u + λ(γ_t/γ_peak)θ: the rate γ_t²λ/γ_peak
target norm  u + d_tθ, d_t = γ_t‖u‖²S/2c²: the rate at which ‖θ‖ settles at c
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from decayax._core.strength import (
    as_average_rate,
    NUMBER_HINT,
    Scalar,
    ScalarOrSchedule,
    Strength,
    times,
)
from decayax._transforms.geometry import ArrayLeaf, inner, norm, ratio, times_real
from decayax._transforms.kernel import Leaf, Method, pull_rule, transform
from decayax._transforms.per_leaf import (
    axes_of,
    AxisTree,
    norm_shape,
    sizes_or_word,
    ValueTree,
)
from decayax._transforms.strengths import decay_rate, strength_rate
from decayax.masks._resolve import MaskOrFn
from decayax.rates._conventions import proportional


def corrected_decay(
    weight_decay: ScalarOrSchedule,
    *,
    learning_rate: ScalarOrSchedule,
    peak_learning_rate: Scalar,
    mask: MaskOrFn = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Corrected weight decay: it falls with the learning rate, as in AdamC.

    .. math:: u_t \leftarrow u_t + \lambda_t\frac{\gamma_t}{\gamma_\text{peak}}\, m\,
        \theta_t

    Put it **after the preconditioner and before the learning rate**; a weight loses
    :math:`\gamma_t^2\lambda/\gamma_\text{peak}` per step. Under a constant
    :math:`\lambda` the gradient of a weight whose size the model does not see grows
    like :math:`1/\sqrt{\gamma_t}` near the end of training; corrected, it does not.

    The derivation holds for these weights only. ``dx.scale_symmetries`` finds them, and
    ``mask=dx.masks.scale_invariant(symmetries)`` selects them. In a pre-norm
    transformer no single matrix is invariant, only groups of them: there the method is
    an approximation. Other weights keep a constant :math:`\lambda` with a second
    transform, :func:`decoupled_decay`, and the inverted mask.

    Args:
        weight_decay: :math:`\lambda`, as for :func:`decoupled_decay`.
        learning_rate: :math:`\gamma_t`, the same value or schedule as in the optimizer.
        peak_learning_rate: :math:`\gamma_\text{peak} > 0`, the largest value of the
            schedule. (Some libraries take the argument of the constructor, which
            schedulers may exceed.)
        mask: :math:`m`, as for :func:`decoupled_decay`.

    Returns:
        A transform, as for :func:`decoupled_decay`.

    Example:
        >>> import optax, decayax as dx, jax.numpy as jnp
        >>> gamma = optax.linear_schedule(0.1, 0.0, 10)
        >>> decay = dx.corrected_decay(
        ...     0.1, learning_rate=gamma, peak_learning_rate=0.1
        ... )
        >>> opt = optax.chain(decay, optax.scale_by_learning_rate(gamma))
        >>> params = jnp.ones(1)
        >>> state = opt.init(params)
        >>> for _ in range(3):  # -0.1 * 0.1 * (1, 0.9, 0.8) ** 2
        ...     updates, state = opt.update(jnp.zeros(1), state, params)
        ...     print(updates)
        [-0.01]
        [-0.0081]
        [-0.0064]

    Reference:
        Defazio, https://arxiv.org/abs/2506.02285 (AdamC).
    """
    name = "corrected_decay"
    lambda_at = decay_rate(name, weight_decay)
    eta = proportional(name, 1.0, learning_rate, peak_learning_rate)
    eta_at = strength_rate(name, "learning_rate", eta)

    def rate_at(step: jax.Array | None) -> Strength:
        return times(lambda_at(step), eta_at(step))

    rule = pull_rule(lambda leaf: leaf.param, gate=None, behind=False)
    return transform(Method(name, rate_at, mask, rule))


def target_norm_decay(
    target_norm: ValueTree | Literal["initial"],
    *,
    learning_rate: ScalarOrSchedule,
    momentum: Scalar = 0.0,
    axis: AxisTree = None,
    mask: MaskOrFn = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Decay as strong as it must be for the weights to settle at a norm.

    .. math:: u_t \leftarrow u_t + d_t\, m\, \theta_t, \qquad
        d_t = \gamma_t\frac{\|u_t\|^2}{2c^2}\cdot\frac{1+\beta}{1-\beta}

    Put it **after the preconditioner and before the learning rate**. If the directions
    are independent of the weights, as gradient noise is for weights whose size the
    model does not see, :math:`\|\theta\|` settles at :math:`c` for every learning
    rate: there is no :math:`\lambda` to tune. It settles within about
    :math:`1/\gamma_t d_t` steps, and differs from :math:`c` if the gradients depend on
    the weights.

    Args:
        target_norm: :math:`c > 0`: a number, or a tree (or prefix) of numbers or arrays
            that broadcast against the parameters; or "initial", the norm at init.
        learning_rate: :math:`\gamma_t`, the same value or schedule as in the optimizer.
        momentum: :math:`\beta` of the directions: Adam's ``b1`` or SGD's
            ``momentum``, also under an exponential average. 0 if successive directions
            are independent.
        axis: the axes of the norm, as for :func:`fixed_norm`.
        mask: :math:`m`, as for :func:`decoupled_decay`.

    Returns:
        A transform, as for :func:`decoupled_decay`. With "initial" its state holds one
        number for each norm.

    Example:
        >>> import optax, decayax as dx, jax.numpy as jnp
        >>> decay = dx.target_norm_decay(5.0, learning_rate=0.1)
        >>> opt = optax.chain(decay, optax.scale(-0.1))
        >>> params, grads = jnp.array([3.0, 4.0]), jnp.array([8.0, -6.0])
        >>> updates, _ = opt.update(grads, opt.init(params), params)
        >>> for update in updates:  # -0.1 * grads, and 2% of the weights
        ...     print(f"{update:.3f}")
        -0.860
        0.520

    Reference:
        Chou, https://arxiv.org/abs/2512.08217: the equilibrium
        :math:`E\|\theta\|^2 = \gamma^2 C_u^2 S/2d`, solved for :math:`d`.
    """
    name = "target_norm_decay"
    momentum = as_average_rate(name, "momentum", momentum)
    gamma_at = strength_rate(name, "learning_rate", learning_rate, NUMBER_HINT)
    axes = axes_of(name, axis)
    target_of = sizes_or_word(
        name, "target_norm", target_norm, ("initial",), partial(norm_shape, axes)
    )
    spread = (1 + momentum) / (1 - momentum)

    def rule(leaf: Leaf) -> ArrayLeaf:
        over = axes(leaf.path, leaf.param)
        target = target_of(leaf.path, leaf.param) if target_of else leaf.memory["norm"]
        square = inner(leaf.update, leaf.update, over)
        half = jnp.asarray(0.5 * spread, square.dtype)
        strength = ratio(half * square, target * target)
        return leaf.update + times_real(leaf.rate * strength, leaf.param)

    remember = {} if target_of else {"norm": lambda path, x: norm(x, axes(path, x))}
    return transform(Method(name, gamma_at, mask, rule, remember))
