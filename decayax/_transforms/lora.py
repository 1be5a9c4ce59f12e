r"""Decay of what low-rank factors make, not of the factors: −d·∇½‖W₀ + sBA‖².

Decay of A and B alone pulls the product to 0, and so the weights to the base model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from decayax._core.dtypes import compute_dtype, is_inexact, to_float32
from decayax._core.strength import ScalarOrSchedule, short_repr
from decayax._transforms.geometry import real_product
from decayax._transforms.kernel import pull
from decayax.masks._resolve import MaskOrFn


NAME = "merged_lora_decay"


def merged_lora_decay(
    weight_decay: ScalarOrSchedule,
    merge: Callable[..., Any],
    *,
    mask: MaskOrFn = None,
    learning_rate: ScalarOrSchedule | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Decay of the merged weights of LoRA, through the factors that train.

    .. math:: u_t \leftarrow u_t + \lambda_t\, m\,\nabla_{A, B}\,
        \tfrac12\|W_0 + sBA\|^2

    Put it **after the preconditioner and before the learning rate**. The model uses
    :math:`W_0 + sBA`. Decay of the factors pulls it to the pretrained :math:`W_0`;
    this pulls it to 0, as decay in full fine-tuning does.

    Args:
        weight_decay: :math:`\lambda`, as for :func:`decoupled_decay`.
        merge: the parameters -> a tree (or one array) of merged weights. Gradients
            reach all parameters that it uses, so exclude frozen ones with the mask. If
            the call ``optimizer.update(..., base=...)`` has the keyword ``base``, it is
            the second argument: large base weights do not become constants of the
            compiled program.
        mask: :math:`m`, as for :func:`decoupled_decay`.
        learning_rate: as for :func:`cautious_decay`: with it, the decay stands behind a
            finished optimizer.

    Returns:
        A transform, as for :func:`decoupled_decay`.

    Example:
        >>> import optax, decayax as dx, jax.numpy as jnp
        >>> merge = lambda p, base: base + 2.0 * p["a"] @ p["b"]
        >>> opt = optax.chain(dx.merged_lora_decay(0.1, merge), optax.scale(-1.0))
        >>> params = {"a": jnp.ones((2, 1)), "b": jnp.zeros((1, 2))}
        >>> zeros = {"a": jnp.zeros((2, 1)), "b": jnp.zeros((1, 2))}
        >>> updates, _ = opt.update(zeros, opt.init(params), params, base=jnp.eye(2))
        >>> print(updates["b"])  # -0.1 * 2 * a.T @ base
        [[-0.2 -0.2]]

    Reference:
        Hu et al., https://arxiv.org/abs/2106.09685 (LoRA); unsloth, issue 5747.
    """
    if not callable(merge):
        raise TypeError(
            f"{NAME}: merge must be a function of the parameters, got "
            f"{short_repr(merge)}. Pass for example lambda params, base: base + "
            'params["a"] @ params["b"].'
        )

    def slopes(params: optax.Params, extra_args: Mapping[str, Any]) -> Any:
        base = [extra_args["base"]] if "base" in extra_args else []
        # Integers have no gradient; 16-bit factors are multiplied in float32.
        floats = jax.tree.map(_wide_float, params)

        def half_square(floats: Any) -> jax.Array:
            whole = jax.tree.map(_first, floats, params, is_leaf=_is_none)
            merged = _floats(_merged(merge, whole, base))
            real = jnp.finfo(compute_dtype(*merged)).dtype
            squares = [_half_square(x).astype(real) for x in merged]
            return sum(squares, jnp.zeros((), real))

        # JAX's gradient of a real function of complex numbers is the conjugate.
        return jax.tree.map(jnp.conj, jax.grad(half_square)(floats))

    return pull(
        NAME,
        weight_decay,
        mask,
        learning_rate=learning_rate,
        direction=lambda leaf: leaf.extra.astype(leaf.param.dtype),
        whole=slopes,
    )


def _merged(merge: Callable[..., Any], params: Any, base: list[Any]) -> Any:
    try:
        return merge(params, *base)
    except TypeError as error:
        hint = "" if base else " For a second argument, pass update(..., base=...)."
        error.add_note(f"{NAME}: raised by merge.{hint}")
        raise


def _floats(merged: Any) -> list[jax.Array]:
    """The floating-point arrays of a tree; raise if there are none."""
    arrays = [x for x in jax.tree.leaves(merged) if isinstance(x, jax.Array)]
    floats = list(filter(is_inexact, arrays))
    if not floats:
        raise TypeError(
            f"{NAME}: merge must return the merged weights, got {short_repr(merged)}. "
            "Return a floating-point array, or a tree of them."
        )
    return floats


def _half_square(x: Any) -> jax.Array:
    wide = to_float32(x)
    return 0.5 * jnp.sum(real_product(wide, wide))


def _wide_float(x: Any) -> Any:
    return to_float32(x) if is_inexact(x) else None


def _first(x: Any, otherwise: Any) -> Any:
    return otherwise if x is None else x


def _is_none(x: Any) -> bool:
    return x is None
