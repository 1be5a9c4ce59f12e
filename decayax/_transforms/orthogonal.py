r"""Remove the radial part: from the gradient, or from the step if it is small.

gradient  g⊥ = g − (⟨θ, g⟩/‖θ‖²)θ, rescaled to ‖g‖ (OrthoGrad)
update    u − (⟨u, θ⟩/‖θ‖²)θ where |cos(g, θ)| is small (AdamP)
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import optax

from decayax._core.strength import (
    as_strength,
    is_zero,
    NUMBER_HINT,
    Scalar,
    ScalarOrSchedule,
    Strength,
)
from decayax._transforms.geometry import ArrayLeaf, Axes, inner, norm, ratio, times_real
from decayax._transforms.kernel import around, Leaf, Method, transform
from decayax._transforms.per_leaf import axes_of, AxisTree, require_flag
from decayax._transforms.strengths import decay_rate, whole_rule
from decayax._transforms.trees import require_optimizer, UNFINISHED
from decayax.masks._resolve import MaskOrFn


def without_radial_part(x: ArrayLeaf, param: ArrayLeaf, axes: Axes) -> ArrayLeaf:
    """x − (⟨θ, x⟩/‖θ‖²)θ."""
    square = inner(param, param, axes)
    return x - times_real(ratio(inner(param, x, axes), square), param)


def with_norm_of(x: ArrayLeaf, projected: ArrayLeaf, axes: Axes) -> ArrayLeaf:
    """The projected gradient with the norm of the gradient; 0 if it is rounding."""
    old, new = norm(x, axes), norm(projected, axes)
    is_rounding = new <= 4 * jnp.finfo(old.dtype).eps * old
    return times_real(jnp.where(is_rounding, 0, ratio(old, new)), projected)


def project_radial_gradient(
    *, axis: AxisTree = None, rescale: bool = True, mask: MaskOrFn = None
) -> optax.GradientTransformationExtraArgs:
    r"""OrthoGrad: train only the direction of the weights, not their size.

    .. math:: g_\perp = g - \frac{\langle\theta, g\rangle}{\|\theta\|^2}\,\theta,
        \qquad g \leftarrow g_\perp\frac{\|g\|}{\|g_\perp\|}

    Put it **first** in the chain, on the raw gradient. A loss without regularisation
    can be lowered by scaling the weights up; this removes that direction.

    Args:
        axis: the axes of the norm, as for :func:`fixed_norm`.
        rescale: give the projected gradient the norm of the gradient. If the gradient
            is radial up to 4 ulp of float32, only rounding errors are left of it, and
            the result is 0; the official code enlarges them.
        mask: as for :func:`fixed_norm`.

    Returns:
        A transform, as for :func:`decoupled_decay`.

    Example:
        >>> import optax, decayax as dx, jax.numpy as jnp
        >>> opt = optax.chain(dx.project_radial_gradient(), optax.scale(-0.1))
        >>> params, grads = jnp.array([2.0, 0.0]), jnp.array([3.0, -4.0])
        >>> updates, _ = opt.update(grads, opt.init(params), params)
        >>> print(updates)
        [-0.   0.5]

    Reference:
        Prieto et al., https://arxiv.org/abs/2501.04697 (⊥Grad).
    """
    require_flag("project_radial_gradient", "rescale", rescale)
    axes = axes_of("project_radial_gradient", axis)

    def rule(leaf: Leaf) -> ArrayLeaf:
        over = axes(leaf.path, leaf.param)
        projected = without_radial_part(leaf.update, leaf.param, over)
        if rescale:
            projected = with_norm_of(leaf.update, projected, over)
        return leaf.update + times_real(leaf.rate, projected - leaf.update)

    return transform(Method("project_radial_gradient", whole_rule, mask, rule))


def project_radial_update(
    preconditioner: optax.GradientTransformation,
    weight_decay: ScalarOrSchedule = 0.0,
    *,
    threshold: Scalar = 0.1,
    decay_factor: Scalar = 0.1,
    axis: AxisTree = None,
    mask: MaskOrFn = None,
) -> optax.GradientTransformationExtraArgs:
    r"""AdamP: remove the radial part of steps on weights whose size is not seen.

    .. math:: \max|\cos(g, \theta)| < \frac{\delta}{\sqrt d} \;\Rightarrow\;
        u \leftarrow u - \frac{\langle u, \theta\rangle}{\|\theta\|^2}\theta, \quad
        \lambda \leftarrow \rho\lambda; \qquad u \leftarrow u + \lambda m\theta

    It wraps a preconditioner, because it compares the weights with the raw gradient,
    and stands **before the learning rate**. The gradient is orthogonal to weights whose
    size the model does not see; momentum is not, and makes them grow. The test runs for
    each output (the last axis of a kernel; :math:`d` inputs), then for the whole layer.
    Parameters with fewer than two axes only decay.

    Args:
        preconditioner: a transform without a learning rate: ``optax.scale_by_adam()``,
            ``optax.trace(0.9)``.
        weight_decay: :math:`\lambda`, as for :func:`decoupled_decay`. (The official
            SGDP divides it by 1 - momentum.)
        threshold: :math:`\delta`; 0: never project.
        decay_factor: :math:`\rho`: what is left of the decay where it projects.
        axis: the axes of one layer, as for :func:`fixed_norm`; the last of them has the
            outputs. ``(-2, -1)`` for stacks of matrices.
        mask: :math:`m`, as for :func:`decoupled_decay`. A parameter that it excludes is
            not projected.

    Returns:
        A transform, as for :func:`with_decay`.

    Example:
        >>> import optax, decayax as dx, jax.numpy as jnp
        >>> adamp = optax.chain(
        ...     dx.project_radial_update(optax.trace(0.9), 0.1), optax.scale(-0.5)
        ... )
        >>> params, grads = jnp.array([[3.0], [4.0]]), jnp.array([[0.4], [-0.3]])
        >>> updates, _ = adamp.update(grads, adamp.init(params), params)
        >>> for update in updates[:, 0]:  # -0.5 * (grads + 0.1 * 0.1 * params)
        ...     print(f"{update:.3f}")
        -0.215
        0.130

    Reference:
        Heo et al., https://arxiv.org/abs/2006.08217, and the official code.
    """
    name = "project_radial_update"
    require_optimizer(name, preconditioner, "preconditioner", UNFINISHED)
    threshold = as_strength(name, "threshold", threshold, NUMBER_HINT)
    decay_factor = as_strength(name, "decay_factor", decay_factor, NUMBER_HINT)
    lambda_at, axes = decay_rate(name, weight_decay), axes_of(name, axis)

    def rule(leaf: Leaf) -> ArrayLeaf:
        layer = axes(leaf.path, leaf.param) or tuple(range(leaf.param.ndim))
        projected, is_projected = project_where_small(leaf, layer, threshold)
        decay = lambda_at(leaf.step)
        if is_zero(decay):
            return projected
        strength = leaf.rate * jnp.asarray(decay, leaf.rate.dtype)
        factor = jnp.asarray(decay_factor, leaf.rate.dtype)
        strength = strength * jnp.where(is_projected, factor, 1)
        return projected + times_real(strength, leaf.param)

    return around(Method(name, whole_rule, mask, rule), preconditioner)


def project_where_small(
    leaf: Leaf, layer: tuple[int, ...], threshold: Strength
) -> tuple[ArrayLeaf, jax.Array]:
    """The projected update, and for each layer whether it is projected."""
    update, done = leaf.update, jnp.zeros((1,) * leaf.param.ndim, bool)
    views = (layer[:-1], layer) if len(layer) > 1 else ()
    for axes in views:
        dot = jnp.abs(inner(leaf.grad, leaf.param, axes))
        cosine = ratio(dot, norm(leaf.grad, axes) * norm(leaf.param, axes))
        size = math.prod(leaf.param.shape[axis] for axis in axes)
        bound = jnp.asarray(threshold, dot.dtype) / math.sqrt(size)
        is_small = jnp.max(cosine, layer, keepdims=True) < bound
        projected = without_radial_part(leaf.update, leaf.param, axes)
        update = jnp.where(is_small & ~done, projected, update)
        done = done | is_small
    return update, done
