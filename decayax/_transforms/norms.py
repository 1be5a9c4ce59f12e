r"""Control of a norm: project onto it, or pull towards it.

fixed norm    θ + Δ ← (θ + Δ)·R/‖θ + Δ‖
norm control  u + λ(1 − r‖θ₀‖/‖θ‖)θ
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from decayax._core.paths import Path
from decayax._core.strength import NUMBER_HINT, ScalarOrSchedule
from decayax._transforms.geometry import ArrayLeaf, norm, ratio, times_real
from decayax._transforms.kernel import Leaf, Method, pull, transform
from decayax._transforms.per_leaf import (
    axes_of,
    AxisTree,
    norm_shape,
    require_flag,
    sizes_or_word,
    ValueTree,
)
from decayax._transforms.spectral import (
    matrix_norm_shape,
    norm_along,
    spectral_norm,
    start_vector,
    vector_memory,
)
from decayax._transforms.strengths import strength_rate, whole_rule
from decayax.masks._resolve import MaskOrFn


def rescale(leaf: Leaf, radius: jax.Array, size: jax.Array) -> ArrayLeaf:
    """Δ + m((θ + Δ)·R/N − (θ + Δ)); a radius or a norm of 0 changes nothing."""
    factor = jnp.where(radius == 0, 1, ratio(radius, size, otherwise=1.0))
    return leaf.update + times_real(leaf.rate * (factor - 1), leaf.landed)


def fixed_norm(
    *,
    axis: AxisTree = None,
    mask: MaskOrFn = None,
    radius: ValueTree | Literal["current", "initial"] = "current",
    spectral: bool = False,
    iterations: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Keep the norm of the weights: project each step back onto a sphere.

    .. math:: \theta + \Delta_t \leftarrow
        (\theta + \Delta_t)\,\frac{R}{N(\theta + \Delta_t)}

    Put it **last** in the chain, on the finished update. It replaces weight decay where
    the model does not see the size of the weights: there,
    decay only sets the relative size of a step, and on the sphere the learning rate
    sets it.
    The paper starts from :math:`\gamma' = \sqrt{\gamma\lambda}` of the run with decay,
    and with ``optax.scale_by_trust_ratio()`` in front of the learning rate: then
    :math:`\gamma'` is the relative size of a step. Uniform
    decay in front of it changes nothing to first order in :math:`\gamma`;
    :func:`cautious_decay` behind it does. Exclude biases and norms with a mask.

    Args:
        axis: the axes over which a norm is taken; there is one norm for each slice
            along the other axes. None: the whole parameter. ``0`` for a kernel of shape
            (in, out): one for each neuron. ``(0, 1, 2)`` for the filters of a
            convolution. ``(-2, -1)``: one for each matrix of a stack, and the same for
            a single matrix. A tree (or prefix) of these, by parameter; or the result of
            ``dx.scale_symmetries``, which knows the slices that are invariant.
        mask: which parameters. A multiplier :math:`m < 1` applies this part of the
            projection: :math:`\Delta + m(\Delta' - \Delta)`.
        radius: :math:`R`. "current": the norm before the step; "initial": the norm at
            init, which also undoes rounding errors and changes from outside; a number,
            or a tree (or prefix) of numbers or arrays that broadcast against the
            parameters.
        spectral: :math:`N` is the largest singular value of the last two axes instead
            of the Euclidean norm.
        iterations: of the power iteration for ``spectral=True``, as for
            :func:`spectral_decay`.

    Returns:
        A transform, as for :func:`decoupled_decay`. With "initial", its state holds one
        number for each norm. A slice that is 0 takes its step
        unchanged; with "initial", a slice that is 0 at init has no fixed norm.

    Example:
        >>> import optax, decayax as dx, jax.numpy as jnp
        >>> opt = optax.chain(optax.sgd(1.0), dx.fixed_norm())
        >>> params, grads = jnp.array([3.0, 4.0]), jnp.array([3.0, -4.0])
        >>> updates, _ = opt.update(grads, opt.init(params), params)
        >>> print(params + updates)  # (0, 8), on the circle of radius 5
        [0. 5.]

    Reference:
        Wen et al., https://arxiv.org/abs/2606.16899 (Hyperball; it also normalises the
        update); https://arxiv.org/abs/2601.08393 (MuonSphere, ``spectral=True``).
    """
    name = "fixed_norm"
    _require_spectral(name, spectral, axis, iterations)
    axes = axes_of(name, axis)
    shape_of = matrix_norm_shape if spectral else partial(norm_shape, axes)
    radius_of = sizes_or_word(name, "radius", radius, ("current", "initial"), shape_of)
    options = vector_memory(name, iterations, lambda leaf: leaf.landed)

    def norm_of(path: Path, x: ArrayLeaf, memory: Mapping[str, Any]) -> jax.Array:
        if not spectral:
            return norm(x, axes(path, x))
        if "vector" in memory:
            return norm_along(x, memory["vector"])
        return spectral_norm(x)

    def norm_at_init(path: Path, x: ArrayLeaf) -> jax.Array:
        memory = {} if iterations is None else {"vector": start_vector(path, x)}
        return norm_of(path, x, memory)

    def rule(leaf: Leaf) -> ArrayLeaf:
        if radius_of:
            size = radius_of(leaf.path, leaf.param)
        elif "norm" in leaf.memory:
            size = leaf.memory["norm"]
        else:
            size = norm_of(leaf.path, leaf.param, leaf.memory)
        return rescale(leaf, size, norm_of(leaf.path, leaf.landed, leaf.memory))

    if isinstance(radius, str) and radius == "initial":
        options["remember"] = {**options.get("remember", {}), "norm": norm_at_init}
    return transform(Method(name, whole_rule, mask, rule, **options))


def _require_spectral(
    name: str, spectral: bool, axis: AxisTree, iterations: int | None
) -> None:
    """Raise for arguments that do not go together."""
    require_flag(name, "spectral", spectral)
    if spectral and axis is not None:
        raise ValueError(
            f"{name}: spectral=True always takes the last two axes, got axis={axis}. "
            "Leave out axis=."
        )
    if iterations is not None and not spectral:
        raise ValueError(
            f"{name}: iterations= is for spectral=True. Leave it out, or pass both."
        )


def norm_control(
    weight_decay: ScalarOrSchedule,
    *,
    target_ratio: ScalarOrSchedule,
    axis: AxisTree = None,
    mask: MaskOrFn = None,
    learning_rate: ScalarOrSchedule | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Decay towards a norm instead of 0: the weights grow if they are smaller.

    .. math:: u_t \leftarrow u_t + \lambda_t\, m\left(1 -
        r_t\frac{\|\theta_0\|}{\|\theta_t\|}\right)\theta_t

    Put it **after the preconditioner and before the learning rate**. With :math:`r = 0`
    it is :func:`decoupled_decay`. With ``learning_rate=1.0`` and :math:`\lambda = 1`,
    the old weights are rescaled to the target norm.

    Args:
        weight_decay: :math:`\lambda`, as for :func:`decoupled_decay`.
        target_ratio: :math:`r \ge 0`, the target norm relative to that at init; a
            number or a schedule.
        axis: the axes of the norm, as for :func:`fixed_norm`.
        mask: :math:`m`, as for :func:`decoupled_decay`.
        learning_rate: as for :func:`cautious_decay`: with it, the decay stands behind a
            finished optimizer.

    Returns:
        A transform, as for :func:`decoupled_decay`. Its state holds one number for each
        norm. Weights of norm 0 stay 0.

    Example:
        >>> import optax, decayax as dx, jax.numpy as jnp
        >>> opt = optax.chain(dx.norm_control(0.5, target_ratio=0.8), optax.scale(-1.0))
        >>> params = jnp.array([3.0, 4.0])
        >>> updates, _ = opt.update(jnp.zeros(2), opt.init(params), params)
        >>> print(params + updates)  # norm 4.5, halfway from 5 to 4
        [2.7 3.6]

    Reference:
        Loshchilov, https://arxiv.org/abs/2311.11446, section 2 (AdamWN).
    """
    name = "norm_control"
    axes = axes_of(name, axis)
    ratio_at = strength_rate(name, "target_ratio", target_ratio, NUMBER_HINT)

    def from_sphere(leaf: Leaf) -> ArrayLeaf:
        size = norm(leaf.param, axes(leaf.path, leaf.param))
        target = jnp.asarray(ratio_at(leaf.step), size.dtype) * leaf.memory["norm"]
        return leaf.param - times_real(ratio(target, size), leaf.param)

    return pull(
        name,
        weight_decay,
        mask,
        learning_rate=learning_rate,
        direction=from_sphere,
        remember={"norm": lambda path, x: norm(x, axes(path, x))},
    )
