r"""The penalty whose gradient is L2 regularisation: ½λ‖θ‖²."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from decayax._core.dtypes import compute_dtype
from decayax._core.parameters import require_no_state
from decayax._core.paths import leaves_with_path, path_str
from decayax._core.strength import as_strength, Scalar
from decayax._transforms.strengths import rate_by_path
from decayax.masks._resolve import MaskOrFn


def l2_penalty(
    params: optax.Params, weight_decay: Scalar, *, mask: MaskOrFn = None
) -> jax.Array:
    r"""The L2 penalty for a loss; its gradient is what :func:`add_l2_to_grad` adds.

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
        if jnp.iscomplexobj(leaf):
            raise TypeError(
                f"{name}: the parameter {path_str(path)} is complex; the gradient of "
                "the penalty is not unique there. Pass its real and imaginary parts."
            )
        rate = jnp.asarray(rates[path], dtype)
        total += 0.5 * jnp.sum(rate * jnp.square(jnp.asarray(leaf, dtype)))
    return total
