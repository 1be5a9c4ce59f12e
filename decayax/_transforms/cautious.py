"""Decay through a gate: u + λ·1[u⊙θ ≥ 0]⊙θ, only what the step itself shrinks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from decayax._core.strength import ScalarOrSchedule
from decayax._transforms.geometry import ArrayLeaf, real_product, times_real
from decayax._transforms.kernel import around, Leaf, Method, pull
from decayax._transforms.per_leaf import require_flag
from decayax._transforms.strengths import decay_rate
from decayax._transforms.trees import require_finished
from decayax.masks._resolve import MaskOrFn


def agrees(u: ArrayLeaf, direction: ArrayLeaf) -> jax.Array:
    """1[u⊙d ≥ 0]: where −u moves the weight as the decay does, or does not move it."""
    return real_product(u, direction) >= 0


def agrees_strictly(u: ArrayLeaf, direction: ArrayLeaf) -> jax.Array:
    """1[u⊙d > 0]: where −u moves the weight as the decay does."""
    return real_product(u, direction) > 0


def cautious_decay(
    weight_decay: ScalarOrSchedule,
    *,
    mask: MaskOrFn = None,
    strict: bool = False,
    learning_rate: ScalarOrSchedule | None = None,
    projection: optax.GradientTransformation | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Cautious weight decay: a weight decays only while its own step shrinks it.

    .. math:: u_t \leftarrow u_t + \lambda_t\, m\, \mathbb 1[u_t\odot\theta_t \ge 0]
        \odot\theta_t

    Put it **after the preconditioner and before the learning rate**. Where the step and
    the decay disagree about the sign, the weight does not decay. A minimum of the loss
    without decay is therefore a fixed point; under :func:`decoupled_decay` it is not.

    Args:
        weight_decay: :math:`\lambda`, as for :func:`decoupled_decay`.
        mask: :math:`m`, as for :func:`decoupled_decay`.
        strict: decay only if :math:`u_t\odot\theta_t > 0`. Then a weight whose update
            is 0 does not decay, such as a row of an embedding without a gradient.
        learning_rate: :math:`\gamma_t` of a *finished* optimizer. Then it stands
            **behind** the learning rate: it subtracts :math:`\gamma_t\lambda_t m`
            times the gated weights from :math:`\Delta_t`, and :math:`-\Delta_t`
            replaces :math:`u_t` in the gate. 1.0: a rate that does not follow the
            learning rate. (Before the learning rate, the weights would grow.)
        projection: a transform of the finished step, such as :func:`pin_radius`, that
            acts between gate and decay: the gate compares :math:`\theta_t` with the
            step before the projection, and the projected weights decay. On a fixed norm
            uniform decay does nothing, this one does. Needs ``learning_rate``.

    Returns:
        A transform, as for :func:`decoupled_decay`.

    Example:
        >>> import optax, decayax as dx, jax.numpy as jnp
        >>> opt = optax.chain(dx.cautious_decay(0.1), optax.scale(-0.5))
        >>> params, grads = jnp.array([2.0, 2.0]), jnp.array([1.0, -1.0])
        >>> updates, _ = opt.update(grads, opt.init(params), params)
        >>> print(updates)  # only the first weight becomes smaller, and decays
        [-0.6  0.5]

    Reference:
        Chen et al., https://arxiv.org/abs/2510.12402, Algorithm 1; the projection and
        the strict gate: the records of modded-nanogpt.
    """
    name = "cautious_decay"
    require_flag(name, "strict", strict)
    gate = agrees_strictly if strict else agrees
    if projection is None:
        return pull(name, weight_decay, mask, learning_rate=learning_rate, gate=gate)
    if learning_rate is None:
        raise TypeError(
            f"{name}: projection= acts on the finished step, so it needs "
            "learning_rate=. Pass that of the optimizer, or 1.0 for a rate that does "
            "not follow it."
        )
    require_finished(name, projection, "projection", "one such as dx.pin_radius()")

    def rule(leaf: Leaf) -> ArrayLeaf:
        pulled = times_real(leaf.rate, leaf.landed)
        is_open = gate(-leaf.grad, leaf.param)  # `grad` is the step before it
        return leaf.update - jnp.where(is_open, pulled, jnp.zeros_like(pulled))

    rate_at = decay_rate(name, weight_decay, learning_rate)
    return around(Method(name, rate_at, mask, rule), projection)
