r"""Decays that read the raw gradient, and therefore wrap an optimizer.

    touched    decay the rows that get a gradient, and no others
    selective  project the step where the gradient points back to the initial weights

Behind a preconditioner, momentum hides which rows got a gradient in this step.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from decayax._core.paths import Path
from decayax._core.strength import as_average_rate, Scalar, ScalarOrSchedule
from decayax._transforms.geometry import (
    ArrayLeaf,
    averaged,
    inner,
    norm,
    ratio,
    times_real,
)
from decayax._transforms.kernel import around, Leaf, Method, pull_rule
from decayax._transforms.memory import INITIAL
from decayax._transforms.per_leaf import axes_of, AxisTree
from decayax._transforms.strengths import decay_rate, strength_rate
from decayax._transforms.trees import FINISHED, require_finished, UNFINISHED
from decayax.masks._resolve import MaskOrFn


def touched_decay(
    optimizer: optax.GradientTransformation,
    weight_decay: ScalarOrSchedule,
    *,
    axis: AxisTree = -1,
    average_rate: Scalar | None = None,
    mask: MaskOrFn = None,
    learning_rate: ScalarOrSchedule | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Decay only the rows that get a gradient in this step: for embeddings.

    .. math:: u_t \leftarrow u_t + \lambda_t\, m\, f_i\, \theta_i, \qquad
        f_i = \mathbb 1[g_i \neq 0]

    A rare token gets a gradient in few steps, but :func:`decoupled_decay` shrinks its
    row in all of them. It wraps an optimizer, because it reads the raw gradient:
    momentum moves a row also in steps without one.

    Args:
        optimizer: a chain without its learning rate, such as ``optax.scale_by_adam()``;
            or a finished optimizer, together with ``learning_rate``.
        weight_decay: :math:`\lambda`, as for :func:`decoupled_decay`.
        axis: the axes of one row, as for :func:`fixed_norm`. -1: a vector of features,
            also in stacks of tables.
        average_rate: :math:`\beta \in [0, 1)`: :math:`f_i` is the moving average
            :math:`f_i \leftarrow \beta f_i + (1-\beta)\,\mathbb 1[g_i \neq 0]`, which
            starts at 0. A row then decays in proportion to its frequency, in all steps.
        mask: :math:`m`, as for :func:`decoupled_decay`: select the embeddings, and give
            the other parameters a decay of their own.
        learning_rate: :math:`\gamma_t` of a finished optimizer; then the decay stands
            behind it. None: the decay stands before the learning rate, and behind a
            finished optimizer the rows would grow.

    Returns:
        An optimizer, as for :func:`with_decay`. With ``average_rate`` its state holds
        one number for each row.

    Example:
        >>> import optax, decayax as dx, jax.numpy as jnp
        >>> opt = optax.chain(
        ...     dx.touched_decay(optax.identity(), 0.1), optax.scale(-1.0)
        ... )
        >>> table = jnp.ones((2, 3))
        >>> grads = jnp.zeros((2, 3)).at[0, 1].set(0.5)
        >>> updates, _ = opt.update(grads, opt.init(table), table)
        >>> print(updates)
        [[-0.1 -0.6 -0.1]
         [-0.  -0.  -0. ]]

    Reference:
        TensorFlow Addons, issue 767, and FBGEMM, pull request 2516 (touched rows);
        PyTorch, issue 60382 (frequency).
    """
    name = "touched_decay"
    such_as = UNFINISHED if learning_rate is None else FINISHED
    require_finished(name, optimizer, such_as=such_as)
    axes = axes_of(name, axis)
    # Without an average, β = 0 would be the same, but keep a state.
    has_average = average_rate is not None
    beta = as_average_rate(name, "average_rate", average_rate if has_average else 0.0)

    def is_touched(leaf: Leaf) -> jax.Array:
        over = axes(leaf.path, leaf.param)
        return jnp.any(leaf.grad != 0, over, keepdims=True).astype(leaf.rate.dtype)

    def zero(path: Path, x: ArrayLeaf) -> jax.Array:
        return jnp.zeros_like(norm(x, axes(path, x)))

    def follow(leaf: Leaf) -> dict[str, jax.Array]:
        old = leaf.memory["frequency"]
        return {"frequency": averaged(beta, old, is_touched(leaf))}

    def direction(leaf: Leaf) -> ArrayLeaf:
        factor = leaf.memory["frequency"] if has_average else is_touched(leaf)
        return times_real(factor, leaf.param)

    rate_at = decay_rate(name, weight_decay, learning_rate)
    rule = pull_rule(direction, gate=None, behind=learning_rate is not None)
    method = Method(name, rate_at, mask, rule)
    if has_average:
        method = method._replace(remember={"frequency": zero}, refresh=follow)
    return around(method, optimizer)


def selective_projection(
    optimizer: optax.GradientTransformation,
    strength: ScalarOrSchedule = 1.0,
    *,
    mask: MaskOrFn = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Fine-tuning: undo the growth of the distance where the gradient points back.

    .. math:: \langle g, \theta - \theta_0\rangle > 0 \;\Rightarrow\;
        \theta \leftarrow \tilde\theta - s\, m\, r\,(\tilde\theta - \theta_0), \quad
        r = \Big[1 - \frac{\|\theta - \theta_0\|}{\|\tilde\theta - \theta_0\|}\Big]_+

    It wraps a finished optimizer, because it reads the raw gradient;
    :math:`\tilde\theta = \theta + \Delta`. The method acts
    only if a step towards :math:`\theta_0` lowers the loss; :func:`decay_to_init`
    always pulls.

    Args:
        optimizer: a finished optimizer, whose updates are added to the parameters.
        strength: :math:`s`: 1 keeps the distance from the initial weights, more reduces
            it. A float, a 0-d array, a tracer or a schedule.
        mask: :math:`m`, as for :func:`decoupled_decay`. Exclude a new head.

    Returns:
        An optimizer, as for :func:`with_decay`. Its state holds :math:`\theta_0`, as
        that of :func:`decay_to_init`.

    Example:
        >>> import optax, decayax as dx, jax.numpy as jnp
        >>> opt = dx.selective_projection(optax.sgd(0.5, momentum=0.9))
        >>> params = jnp.array([1.0])
        >>> state = opt.init(params)
        >>> for grad in (-1.0, 0.25):  # momentum goes on, the gradient points back
        ...     updates, state = opt.update(jnp.array([grad]), state, params)
        ...     params = params + updates
        ...     print(params)
        [1.5]
        [1.5]

    Reference:
        Tian, Huang and Kira, https://arxiv.org/abs/2411.01713 (SPD).
    """
    name = "selective_projection"
    require_finished(name, optimizer)

    def rule(leaf: Leaf) -> ArrayLeaf:
        start = leaf.memory[INITIAL].astype(leaf.param.dtype)
        old, new = leaf.param - start, leaf.landed - start
        far = norm(new)
        excess = jnp.maximum(ratio(far - norm(old), far), 0)
        points_back = inner(leaf.grad, old) > 0
        part = jnp.where(points_back, leaf.rate * excess, 0)
        return leaf.update - times_real(part, new)

    remember = {INITIAL: lambda path, x: jnp.array(x)}
    rate_at = strength_rate(name, "strength", strength)
    return around(Method(name, rate_at, mask, rule, remember), optimizer)
