r"""The penalty whose gradient is L2 regularisation: ½λ‖θ‖²."""

import jax
import jax.numpy as jnp
import optax

from decayax._core.dtypes import compute_dtype
from decayax._core.paths import leaves_with_path, path_str
from decayax._core.strength import as_strength
from decayax._transforms.kernel import rate_by_path
from decayax.masks._resolve import MaskOrFn


def l2_penalty(
    params: optax.Params, weight_decay: jax.typing.ArrayLike, *, mask: MaskOrFn = None
) -> jax.Array:
    r"""The L2 penalty for a loss; its gradient is what :func:`add_l2_to_grad` adds.

    .. math:: \tfrac12\,\lambda \sum_i m_i \|\theta_i\|^2

    Args:
        params: real parameters of any structure; None and ``MaskedNode`` are skipped.
        weight_decay: :math:`\lambda \ge 0`: a float, a 0-d array or a tracer.
        mask: which parameters count, and how much: a tree (or prefix) of bools or
            multipliers :math:`m \ge 0`, or a function of the parameters giving one.

    Returns:
        A 0-d array, float32 or wider.

    Raises:
        TypeError: a schedule (a loss has no step); a strength or multiplier that is no
            real number; a complex or integer parameter that would count.
        ValueError: a strength or multiplier that is negative, not finite or not 0-d;
            a mask that does not fit or matches nothing; no params.

    Example:
        >>> import jax, decayax as dx, jax.numpy as jnp
        >>> params = {"w": jnp.array([3.0, 4.0]), "b": jnp.array([1.0])}
        >>> print(dx.l2_penalty(params, 0.1, mask={"w": True, "b": False}))
        1.25
        >>> print(jax.grad(dx.l2_penalty)(params, 0.1)["w"])  # 0.1 * w
        [0.3 0.4]

    Reference:
        Krogh and Hertz, *A simple weight decay can improve generalization*, NeurIPS
        1991, equation 1.
    """
    name = "l2_penalty"
    if params is None:
        raise ValueError(f"{name}: needs the parameters, got None.")
    if callable(weight_decay):
        raise TypeError(
            f"{name}: weight_decay must be a number: a loss has no step to hand to a "
            "schedule. Write l2_penalty(params, schedule(step))."
        )
    strength = as_strength(name, "weight_decay", weight_decay)
    rates = rate_by_path(name, strength, mask, params)
    counted = [(path, leaf) for path, leaf in leaves_with_path(params) if path in rates]
    dtype = compute_dtype(*(leaf for _, leaf in counted))
    for path, leaf in counted:
        if jnp.iscomplexobj(leaf):
            raise TypeError(
                f"{name}: the parameter {path_str(path)} is complex, where this penalty "
                "has no one gradient. Give its real and imaginary parts."
            )
    return sum(
        (
            0.5 * jnp.asarray(rates[path], dtype) * jnp.sum(jnp.square(wide))
            for path, leaf in counted
            for wide in [jnp.asarray(leaf, dtype)]
        ),
        start=jnp.zeros([], dtype),
    )
