r"""A given rotation per step at a fixed norm: the equilibrium of decay from step 0 on.

w⊥ = w − (⟨w, θ⟩/‖θ‖²)θ,   s² ← βs² + (1 − β)‖w⊥‖²
θ ← ‖θ₀‖·θ'/‖θ'‖,   θ' = θ − η‖θ₀‖·w⊥/s
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from decayax._core.dtypes import cast_like, is_inexact, to_float32
from decayax._core.strength import (
    as_average_rate,
    as_strength,
    NUMBER_HINT,
    Scalar,
    ScalarOrSchedule,
)
from decayax._transforms.geometry import (
    ArrayLeaf,
    averaged,
    Axes,
    inner,
    norm,
    ratio,
    safe_sqrt,
    times_real,
)
from decayax._transforms.kernel import Leaf, Method, transform
from decayax._transforms.per_leaf import axes_of, AxisTree, require_flag
from decayax._transforms.strengths import RateAt, strength_rate, whole_rule
from decayax.masks._resolve import MaskOrFn


def across(leaf: Leaf, axes: Axes, center: bool) -> ArrayLeaf:
    """w⊥: the update without its mean, if centred, and without its part along θ."""
    u = leaf.update
    if center:
        u = u - jnp.mean(u, axes, keepdims=True)
    square = inner(leaf.param, leaf.param, axes)
    w = u - times_real(ratio(inner(u, leaf.param, axes), square), leaf.param)
    # Of a constant or radial update only rounding errors are left: it turns nothing.
    size = norm(w, axes)
    is_rounding = size <= 4 * jnp.finfo(size.dtype).eps * norm(leaf.update, axes)
    return jnp.where(is_rounding, 0, w)


def turn(
    leaf: Leaf, axes: Axes, sideways: ArrayLeaf, angle: jax.Array, spread: jax.Array
) -> ArrayLeaf:
    """‖θ₀‖·θ'/‖θ'‖ − θ with θ' = θ − angle·‖θ₀‖·w⊥/s."""
    start = leaf.memory["norm"]
    turned = leaf.param - times_real(angle * ratio(start, spread), sideways)
    factor = ratio(start, norm(turned, axes), otherwise=1.0)
    return times_real(factor, turned) - leaf.param


def rotational(
    rotation: ScalarOrSchedule,
    *,
    learning_rate: ScalarOrSchedule,
    axis: AxisTree = -2,
    center: bool = True,
    average_rate: Scalar = 0.9,
    eps: Scalar = 1e-8,
    mask: MaskOrFn = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Turn the weights of each neuron by a given angle per step, at a fixed norm.

    .. math:: s^2 \leftarrow \beta s^2 + (1-\beta)\|u_\perp\|^2, \qquad
        \theta' = \theta - \eta_t m\,\|\theta_0\|
        \frac{u_\perp}{\hat s + \epsilon}, \qquad
        \theta \leftarrow \|\theta_0\|\frac{\theta'}{\|\theta'\|}

    It **replaces the learning rate** at the end of a chain, and needs no decay: in the
    equilibrium of a decay each neuron turns by a constant angle per step on average,
    :math:`\sqrt{2\gamma\lambda(1-\beta_1)/(1+\beta_1)}` under AdamW, and this is that
    equilibrium from the first step on. :math:`u_\perp` is :math:`u` without its part
    along :math:`\theta`; :math:`\hat s` is corrected for its start at 0.

    Args:
        rotation: :math:`\eta` in radians per step; a number or a schedule.
        learning_rate: :math:`\gamma_t`, for the parameters that the mask excludes:
            their step is :math:`-\gamma_t u_t`. Exclude biases, gains and the head.
        axis: the axes of one neuron, as for :func:`fixed_norm`. -2: the inputs of a
            kernel of shape (in, out), also in stacks. (0, 1, 2): a convolution.
        center: first remove the mean of :math:`u` over these axes, as the paper does
            together with weights that are centred at init.
        average_rate: :math:`\beta \in [0, 1)`.
        eps: :math:`\epsilon \ge 0`, in units of the update.
        mask: which parameters; :math:`m` multiplies the rotation. A neuron that is 0 at
            init stays 0: exclude layers that start at 0.

    Returns:
        A transform, as for :func:`decoupled_decay`. Its state holds two numbers for
        each neuron, and one for each parameter.

    Example:
        >>> import optax, decayax as dx, jax.numpy as jnp
        >>> turn = dx.rotational(0.1, learning_rate=1e-3, center=False)
        >>> opt = optax.chain(optax.scale_by_adam(), turn)
        >>> params, grads = jnp.array([[3.0], [4.0]]), jnp.array([[1.0], [1.0]])
        >>> updates, _ = opt.update(grads, opt.init(params), params)
        >>> new = params + updates  # turned by arctan(0.1)
        >>> print(f"({new[0, 0]:.2f}, {new[1, 0]:.2f}), {jnp.linalg.norm(new):.2f}")
        (2.59, 4.28), 5.00

    Reference:
        Kosson, Messmer and Jaggi, https://arxiv.org/abs/2305.17212 (RV).
    """
    name = "rotational"
    require_flag(name, "center", center)
    axes = axes_of(name, axis)
    rotation_at = strength_rate(name, "rotation", rotation, NUMBER_HINT)
    gamma_at = strength_rate(name, "learning_rate", learning_rate, NUMBER_HINT)
    beta = as_average_rate(name, "average_rate", average_rate)
    eps = as_strength(name, "eps", eps, NUMBER_HINT)

    def follow(leaf: Leaf) -> dict[str, jax.Array]:
        over = axes(leaf.path, leaf.param)
        sideways = across(leaf, over, center)
        square = inner(sideways, sideways, over)
        weight = leaf.memory["weight"]
        return {
            "square": averaged(beta, leaf.memory["square"], square),
            "weight": averaged(beta, weight, jnp.ones_like(weight)),
        }

    def rule(leaf: Leaf) -> ArrayLeaf:
        over, square = axes(leaf.path, leaf.param), leaf.memory["square"]
        eps_, eta = (
            jnp.asarray(x, square.dtype) for x in (eps, rotation_at(leaf.step))
        )
        # The weight is 1 − βᵗ, counted from the first rotation and not from step 0.
        spread = safe_sqrt(square / leaf.memory["weight"]) + eps_
        return turn(leaf, over, across(leaf, over, center), leaf.rate * eta, spread)

    remember = {
        "norm": lambda path, x: norm(x, axes(path, x)),
        "square": lambda path, x: jnp.zeros_like(norm(x, axes(path, x))),
        "weight": lambda path, x: jnp.zeros_like(norm(x)),
    }
    method = Method(name, whole_rule, mask, rule, remember, follow)
    return transform(method._replace(excluded=partial(plain_step, gamma_at)))


def plain_step(gamma_at: RateAt, update: Any, step: jax.Array) -> Any:
    """−γ_t u, for a parameter that does not rotate."""
    if not is_inexact(update):  # the float0 gradient of an integer
        return update
    wide = to_float32(update)
    gamma = jnp.asarray(gamma_at(step), jnp.finfo(wide.dtype).dtype)
    return cast_like(-times_real(gamma, wide), update)
