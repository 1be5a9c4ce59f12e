r"""Penalties: the gradient of any of them as a decay, and ½λ‖θ‖² for a loss."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from decayax._core.dtypes import compute_dtype, dtype_of
from decayax._core.parameters import require_no_state
from decayax._core.paths import leaves_with_path, Path, path_str
from decayax._core.strength import as_strength, Scalar, ScalarOrSchedule, short_repr
from decayax._transforms.geometry import ArrayLeaf
from decayax._transforms.kernel import Leaf, pull
from decayax._transforms.strengths import rate_by_path
from decayax.masks._resolve import MaskOrFn


def l2_penalty(
    params: optax.Params, weight_decay: Scalar, *, mask: MaskOrFn = None
) -> jax.Array:
    r"""The L2 penalty for a loss; its gradient is what ``add_l2_to_grad`` adds.

    .. math:: \tfrac12\,\lambda \sum_i m_i \|\theta_i\|^2

    Args:
        params: parameters of any structure; those that decay must be real. None and
            ``MaskedNode`` are skipped.
        weight_decay: :math:`\lambda`, as for :func:`add_l2_to_grad`, but not a
            schedule: a loss has no step.
        mask: :math:`m`, as for :func:`decoupled_decay`.

    Returns:
        A 0-d array, float32 or wider.

    Example:
        >>> import jax, decayax as dx, jax.numpy as jnp
        >>> params = jnp.array([3.0, 4.0])
        >>> print(dx.l2_penalty(params, 0.1), jax.grad(dx.l2_penalty)(params, 0.1))
        1.25 [0.3 0.4]

    Reference:
        Krogh and Hertz, *A simple weight decay can improve generalization*, NeurIPS
        1991, equation 1.
    """
    name = "l2_penalty"
    if params is None:
        raise ValueError(f"{name}: needs the parameters, got None.")
    if callable(weight_decay):
        raise TypeError(
            f"{name}: weight_decay must be a number, got a schedule; a loss has no "
            "step. Write l2_penalty(params, schedule(step))."
        )
    require_no_state(name, params)
    strength = as_strength(name, "weight_decay", weight_decay)
    rates = rate_by_path(name, strength, mask, params)
    decayed = [(path, leaf) for path, leaf in leaves_with_path(params) if path in rates]
    dtype = compute_dtype(*(leaf for _, leaf in decayed))
    total = jnp.zeros([], dtype)
    for path, leaf in decayed:
        _require_real(name, path, leaf)
        rate = jnp.asarray(rates[path], dtype)
        total += 0.5 * jnp.sum(rate * jnp.square(jnp.asarray(leaf, dtype)))
    return total


def decoupled_penalty(
    weight_decay: ScalarOrSchedule,
    penalty: Callable[[jax.Array], jax.Array],
    *,
    mask: MaskOrFn = None,
    learning_rate: ScalarOrSchedule | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""The gradient of any penalty as a decay: decoupled from the preconditioner.

    .. math:: u_t \leftarrow u_t + \lambda_t\, m\, \nabla p(\theta_t)

    Put it **after the preconditioner and before the learning rate**. Penalties from the
    literature, for one parameter ``x``:

    - Huber: ``optax.losses.huber_loss(x, delta=delta).sum()``: the pull is bounded.
    - :math:`L_p`: ``(x**2 + eps).__pow__(p / 2).sum() / p``.
    - Weight elimination: ``(x**2 / (w**2 + x**2)).sum()``: large weights stay.
    - Isometry: ``((x.T @ x - jnp.eye(x.shape[1])) ** 2).sum()``: orthogonal columns.

    For the penalty :math:`\tfrac12\|\theta\|^2` it is :func:`decoupled_decay`. For
    :math:`\|\theta\|_1`, use :func:`soft_threshold`, which reaches 0.

    Args:
        weight_decay: :math:`\lambda`, as for :func:`decoupled_decay`.
        penalty: :math:`p`: one parameter -> a real number, differentiable. It gets
            16-bit parameters as float32. Complex parameters are refused.
        mask: :math:`m`, as for :func:`decoupled_decay`.
        learning_rate: as for :func:`cautious_decay`: with it, the decay stands behind a
            finished optimizer.

    Returns:
        A transform, as for :func:`decoupled_decay`.

    Example:
        >>> import optax, decayax as dx, jax.numpy as jnp
        >>> huber = lambda x: optax.losses.huber_loss(x, delta=1.0).sum()
        >>> opt = optax.chain(dx.decoupled_penalty(0.1, huber), optax.scale(-1.0))
        >>> params = jnp.array([0.5, 9.0])
        >>> updates, _ = opt.update(jnp.zeros(2), opt.init(params), params)
        >>> print(updates)
        [-0.05 -0.1 ]
    """
    name = "decoupled_penalty"
    if not callable(penalty):
        raise TypeError(
            f"{name}: penalty must be a function of one parameter, got "
            f"{short_repr(penalty)}. Pass for example lambda x: 0.5 * (x**2).sum()."
        )

    def slope(leaf: Leaf) -> ArrayLeaf:
        _require_real(name, leaf.path, leaf.param)
        return jax.grad(partial(_scalar, name, penalty))(leaf.param)

    return pull(name, weight_decay, mask, learning_rate=learning_rate, direction=slope)


def _require_real(name: str, path: Path, leaf: Any) -> None:
    if jnp.iscomplexobj(leaf):
        raise TypeError(
            f"{name}: the parameter {path_str(path)} is complex; the gradient of the "
            "penalty is not unique there. Pass its real and imaginary parts."
        )


def _scalar(name: str, penalty: Callable[[jax.Array], Any], x: jax.Array) -> Any:
    """The penalty of a parameter; raise unless it is one real number."""
    value = penalty(x)
    if jnp.shape(value) != () or not jnp.issubdtype(dtype_of(value), jnp.floating):
        raise TypeError(
            f"{name}: penalty must return one real number, got {short_repr(value)} for "
            f"a parameter of shape {jnp.shape(x)}. Sum over all weights: (...).sum()."
        )
    return value
