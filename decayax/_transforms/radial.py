r"""The radial part of a step: brake it, pin the radius that it gives, bound its size.

brake  u ← u − s·min(c, 0)θ, c = ⟨u, θ⟩/‖θ‖²: less of what makes ‖θ‖ larger
pin    θ + Δ ← (θ + Δ)·R/‖θ + Δ‖, R = ‖θ‖ + ⟨Δ, θ⟩/‖θ‖: no growth of second order
floor  u ← u·f/‖u‖ if ‖u‖ < f, f = t‖θ‖
"""

from __future__ import annotations

import jax.numpy as jnp
import optax

from decayax._core.strength import NUMBER_HINT, ScalarOrSchedule
from decayax._transforms.geometry import ArrayLeaf, Axes, inner, norm, ratio, times_real
from decayax._transforms.kernel import Leaf, Method, transform
from decayax._transforms.per_leaf import axes_of, AxisTree
from decayax._transforms.strengths import strength_rate, whole_rule
from decayax.masks._resolve import MaskOrFn


def brake(leaf: Leaf, axes: Axes) -> ArrayLeaf:
    """u − s·min(c, 0)θ."""
    square = inner(leaf.param, leaf.param, axes)
    c = ratio(inner(leaf.update, leaf.param, axes), square)
    return leaf.update - times_real(leaf.rate * jnp.minimum(c, 0), leaf.param)


def pin(leaf: Leaf, axes: Axes) -> ArrayLeaf:
    """(θ + Δ)·R/‖θ + Δ‖ − θ; Δ where there is no such radius."""
    old, new = norm(leaf.param, axes), norm(leaf.landed, axes)
    radius = old + ratio(inner(leaf.update, leaf.param, axes), old)
    # Weights of norm 0 have no radius to keep.
    is_sphere = (old > 0) & (radius > 0)
    factor = jnp.where(is_sphere, ratio(radius, new, otherwise=1.0), 1)
    return leaf.update + times_real(leaf.rate * (factor - 1), leaf.landed)


def raise_to_floor(leaf: Leaf, axes: Axes) -> ArrayLeaf:
    """u·f/‖u‖ if 0 < ‖u‖ < f, f = t‖θ‖."""
    least = leaf.rate * norm(leaf.param, axes)
    factor = ratio(least, norm(leaf.update, axes), otherwise=1.0)
    return times_real(jnp.maximum(factor, 1), leaf.update)


def radial_brake(
    strength: ScalarOrSchedule = 0.5,
    *,
    axis: AxisTree = None,
    mask: MaskOrFn = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Brake the part of the step that makes the weights larger.

    .. math:: u_t \leftarrow u_t - s\, m\,\min(c, 0)\,\theta_t, \qquad
        c = \frac{\langle u_t, \theta_t\rangle}{\|\theta_t\|^2}

    Put it **after the preconditioner and before the learning rate**. The radial part
    :math:`c\,\theta` of a step makes the weights larger if :math:`c < 0`; the fraction
    :math:`s` of it is removed. A radial part that makes them smaller stays.

    Args:
        strength: :math:`s`: 0 changes nothing, 0.5 halves the outward part, 1 removes
            it. A float, a 0-d array, a tracer or a schedule.
        axis: the axes of the norm, as for :func:`fixed_norm`.
        mask: :math:`m`, as for :func:`decoupled_decay`.

    Returns:
        A transform, as for :func:`decoupled_decay`.

    Example:
        >>> import optax, decayax as dx, jax.numpy as jnp
        >>> opt = optax.chain(dx.radial_brake(), optax.scale(-0.1))
        >>> params, grads = jnp.array([1.0, 0.0]), jnp.array([-2.0, 3.0])
        >>> updates, _ = opt.update(grads, opt.init(params), params)
        >>> print(updates)
        [ 0.1 -0.3]

    Reference:
        Keller Jordan et al., *modded-nanogpt*, track 3, pull request 294.
    """
    name = "radial_brake"
    axes, rate_at = axes_of(name, axis), strength_rate(name, "strength", strength)
    known = rate_at(None)
    if isinstance(known, float) and known > 1:
        raise ValueError(
            f"{name}: strength must be <= 1, got {known}: 1 removes the outward part, "
            "and more would turn it inward. Pass a number in [0, 1]."
        )

    def rule(leaf: Leaf) -> ArrayLeaf:
        return brake(leaf, axes(leaf.path, leaf.param))

    return transform(Method(name, rate_at, mask, rule))


def pin_radius(
    *, axis: AxisTree = None, mask: MaskOrFn = None
) -> optax.GradientTransformationExtraArgs:
    r"""Give the new weights the norm that the radial part of their step alone gives.

    .. math:: \theta + \Delta_t \leftarrow (\theta + \Delta_t)
        \frac{R}{\|\theta + \Delta_t\|}, \qquad R = \|\theta\| +
        \frac{\langle\Delta_t, \theta\rangle}{\|\theta\|}

    Put it **behind the learning rate**. A step across the weights makes them longer, by
    :math:`\|\Delta\|^2/2\|\theta\|`, although the gradient has no radial part; decay
    balances this growth in the equilibrium. Here it does not arise, and the gradient
    alone moves the norm.

    Args:
        axis: the axes of the norm, as for :func:`fixed_norm`.
        mask: as for :func:`fixed_norm`.

    Returns:
        A transform, as for :func:`decoupled_decay`. Weights of norm 0, and steps that
        point back beyond 0, stay as they are.

    Example:
        >>> import optax, decayax as dx, jax.numpy as jnp
        >>> opt = optax.chain(optax.sgd(1.0), dx.pin_radius())
        >>> params, grads = jnp.array([4.0, 0.0]), jnp.array([-1.0, -12.0])
        >>> updates, _ = opt.update(grads, opt.init(params), params)
        >>> print((params + updates).round(2))  # (5, 12) * (4 + 1) / 13
        [1.92 4.62]

    Reference:
        Keller Jordan et al., *modded-nanogpt*, track 3, pull request 294.
    """
    axes = axes_of("pin_radius", axis)

    def rule(leaf: Leaf) -> ArrayLeaf:
        return pin(leaf, axes(leaf.path, leaf.param))

    return transform(Method("pin_radius", whole_rule, mask, rule))


def update_to_weight_floor(
    floor: ScalarOrSchedule,
    *,
    axis: AxisTree = None,
    mask: MaskOrFn = None,
) -> optax.GradientTransformationExtraArgs:
    r"""A smallest size of the step, relative to the weights.

    .. math:: \|u_t\| < t\, m\,\|\theta_t\| \;\Rightarrow\; u_t \leftarrow
        u_t\,\frac{t\, m\,\|\theta_t\|}{\|u_t\|}

    Put it **after the preconditioner and before the learning rate**. Without decay,
    weights grow and their steps become relatively smaller; at the floor this stops. The
    relative step then stays constant, as in the equilibrium of a decay.

    Args:
        floor: :math:`t \ge 0`; the relative step is at least :math:`\gamma t`. A float,
            a 0-d array, a tracer or a schedule.
        axis: the axes of the norms, as for :func:`fixed_norm`. None: one for each
            parameter; the records use one for each row, too.
        mask: :math:`m`, as for :func:`decoupled_decay`.

    Returns:
        A transform, as for :func:`decoupled_decay`. An update of 0 stays 0.

    Example:
        >>> import optax, decayax as dx, jax.numpy as jnp
        >>> opt = optax.chain(dx.update_to_weight_floor(0.5), optax.scale(-0.1))
        >>> params, grads = jnp.array([3.0, 4.0]), jnp.array([0.0, 1.0])
        >>> updates, _ = opt.update(grads, opt.init(params), params)
        >>> print(updates)  # length 0.1 * 0.5 * 5
        [-0.   -0.25]

    Reference:
        Keller Jordan et al., *modded-nanogpt*, track 3, pull requests 274 (for each
        tensor) and 328 (for each row).
    """
    name = "update_to_weight_floor"
    axes = axes_of(name, axis)
    rate_at = strength_rate(name, "floor", floor, NUMBER_HINT)

    def rule(leaf: Leaf) -> ArrayLeaf:
        return raise_to_floor(leaf, axes(leaf.path, leaf.param))

    return transform(Method(name, rate_at, mask, rule))
