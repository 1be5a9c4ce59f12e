r"""Pulls to an anchor instead of 0: u + λ(θ − a).

The anchor a is a given tree, the initial weights, or an average of the weights. It is
part of the state, so a checkpoint restores it.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import optax

from decayax._core.strength import (
    as_average_rate,
    is_concrete,
    Scalar,
    ScalarOrSchedule,
)
from decayax._transforms.cautious import agrees
from decayax._transforms.geometry import ArrayLeaf, averaged
from decayax._transforms.kernel import Gate, Leaf, pull
from decayax._transforms.memory import ANCHOR, AVERAGE, INITIAL
from decayax._transforms.per_leaf import require_flag, values_of, ValueTree
from decayax.masks._resolve import MaskOrFn


def away_from(key: str, leaf: Leaf) -> ArrayLeaf:
    """θ − a, where the memory holds a under this name."""
    return leaf.param - leaf.memory[key].astype(leaf.param.dtype)


def cautious_gate(name: str, cautious: bool) -> Gate | None:
    """The gate of `cautious_decay`, for any direction; or none."""
    require_flag(name, "cautious", cautious)
    return agrees if cautious else None


def decay_to(
    weight_decay: ScalarOrSchedule,
    anchor: ValueTree,
    *,
    mask: MaskOrFn = None,
    cautious: bool = False,
    learning_rate: ScalarOrSchedule | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Decoupled decay towards given weights, such as those of a pretrained model.

    .. math:: u_t \leftarrow u_t + \lambda_t\, m\,(\theta_t - a)

    Put it **after the preconditioner and before the learning rate**.

    Args:
        weight_decay: :math:`\lambda`, as for :func:`decoupled_decay`.
        anchor: :math:`a`: a tree (or prefix) of arrays like the parameters, matched by
            path. It may hold more than the parameters. None or 0.0: decay to 0, as for
            a new head. The state holds a copy from init on, in the dtype of the
            parameters; a restored checkpoint replaces it.
        mask: :math:`m`, as for :func:`decoupled_decay`.
        cautious: decay only where the step itself moves the weight towards its anchor,
            :math:`u\odot(\theta - a) \ge 0`, as in :func:`cautious_decay`.
        learning_rate: as for :func:`cautious_decay`: with it, the decay stands behind a
            finished optimizer.

    Returns:
        A transform, as for :func:`decoupled_decay`.

    Example:
        >>> import optax, decayax as dx, jax.numpy as jnp
        >>> params = {"body": jnp.array([2.0]), "head": jnp.array([2.0])}
        >>> decay = dx.decay_to(0.1, {"body": jnp.array([1.5]), "head": None})
        >>> opt = optax.chain(decay, optax.scale(-1.0))
        >>> zeros = {"body": jnp.zeros(1), "head": jnp.zeros(1)}
        >>> updates, _ = opt.update(zeros, opt.init(params), params)
        >>> print(updates["body"], updates["head"])
        [-0.05] [-0.2]

    Reference:
        Li et al., https://arxiv.org/abs/1802.01483 (L2-SP), decoupled.
    """
    name = "decay_to"
    anchor_of = values_of(name, "anchor", anchor)
    return pull(
        name,
        weight_decay,
        mask,
        learning_rate=learning_rate,
        direction=partial(away_from, ANCHOR),
        gate=cautious_gate(name, cautious),
        remember={ANCHOR: lambda path, x: _placed_like(x, anchor_of(path, x))},
    )


def _placed_like(param: jax.Array, value: jax.Array) -> jax.Array:
    """A copy of the value, with the sharding of the parameter if it has its shape.

    A copy, because the state may be donated.
    """
    value = jnp.array(value)
    if value.shape == param.shape and is_concrete(param) and is_concrete(value):
        return jax.device_put(value, param.sharding)
    return value


def decay_to_init(
    weight_decay: ScalarOrSchedule,
    *,
    mask: MaskOrFn = None,
    cautious: bool = False,
    learning_rate: ScalarOrSchedule | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Decoupled decay towards the weights at init: L2-SP, L2-Init.

    .. math:: u_t \leftarrow u_t + \lambda_t\, m\,(\theta_t - \theta_0)

    Put it **after the preconditioner and before the learning rate**. For fine-tuning:
    the body decays to the pretrained weights, and a new head to 0, with a second
    transform: ``optax.chain(dx.decay_to_init(0.1, mask=body), dx.decoupled_decay(0.1,
    mask=head))``.

    With ``rates.inverse_step_schedule()`` and ``learning_rate=1.0`` it is the pull of
    SODA, which has no strength to tune.

    Args:
        weight_decay: :math:`\lambda`, as for :func:`decoupled_decay`.
        mask: :math:`m`, as for :func:`decoupled_decay`.
        cautious, learning_rate: as for :func:`decay_to`.

    Returns:
        A transform, as for :func:`decoupled_decay`. Its state holds
        :math:`\theta_0`, a copy of the parameters that decay. After an init from
        shapes it is NaN until a checkpoint restores it.

    Example:
        >>> import optax, decayax as dx, jax.numpy as jnp
        >>> opt = optax.chain(dx.decay_to_init(0.1), optax.scale(-1.0))
        >>> state = opt.init(jnp.array([2.0, -1.0]))
        >>> updates, _ = opt.update(jnp.zeros(2), state, jnp.array([3.0, -1.0]))
        >>> print(updates)
        [-0.1 -0. ]

    Reference:
        Li et al., https://arxiv.org/abs/1802.01483 (L2-SP); Kumar et al.,
        https://arxiv.org/abs/2308.11958 (L2-Init); both as a penalty in the gradient.
        SODA: https://arxiv.org/abs/2605.11172.
    """
    return pull(
        "decay_to_init",
        weight_decay,
        mask,
        learning_rate=learning_rate,
        direction=partial(away_from, INITIAL),
        gate=cautious_gate("decay_to_init", cautious),
        remember={INITIAL: lambda path, x: jnp.array(x)},  # the params may be donated
    )


def decay_to_average(
    weight_decay: ScalarOrSchedule,
    *,
    average_rate: Scalar = 0.999,
    mask: MaskOrFn = None,
    cautious: bool = False,
    learning_rate: ScalarOrSchedule | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Decoupled decay towards an exponential moving average of the weights.

    .. math:: a_t = \beta a_{t-1} + (1-\beta)\,\theta_t, \qquad
        u_t \leftarrow u_t + \lambda_t\, m\,(\theta_t - a_t)

    Put it **after the preconditioner and before the learning rate**. The average starts
    at the weights at init. It slows the weights down and does not shrink them.

    Args:
        weight_decay: :math:`\lambda`, as for :func:`decoupled_decay`.
        average_rate: :math:`\beta \in [0, 1)`.
        mask: :math:`m`, as for :func:`decoupled_decay`.
        cautious, learning_rate: as for :func:`decay_to`.

    Returns:
        A transform, as for :func:`decoupled_decay`. Its state holds the average of the
        parameters that decay, in float32 or wider.

    Example:
        >>> import optax, decayax as dx, jax.numpy as jnp
        >>> decay = dx.decay_to_average(0.1, average_rate=0.5)
        >>> opt = optax.chain(decay, optax.scale(-1.0))
        >>> state = opt.init(jnp.array([2.0]))
        >>> updates, state = opt.update(jnp.zeros(1), state, jnp.array([4.0]))
        >>> print(updates, state[0].memory["average"])  # -0.1 * (4 - 3)
        [-0.1] [3.]
    """
    name = "decay_to_average"
    beta = as_average_rate(name, "average_rate", average_rate)

    def follow(leaf: Leaf) -> dict[str, jax.Array]:
        return {AVERAGE: averaged(beta, leaf.memory[AVERAGE], leaf.param)}

    return pull(
        name,
        weight_decay,
        mask,
        learning_rate=learning_rate,
        direction=partial(away_from, AVERAGE),
        gate=cautious_gate(name, cautious),
        remember={AVERAGE: lambda path, x: jnp.array(x)},
        refresh=follow,
    )
