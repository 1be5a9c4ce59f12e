r"""Shrink and perturb: once, before training goes on with new data."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from decayax._core.dtypes import cast_like, to_float32
from decayax._core.paths import Path
from decayax._core.strength import as_strength, NUMBER_HINT, Scalar, short_repr
from decayax._transforms.geometry import times_real
from decayax._transforms.strengths import rate_by_path
from decayax._transforms.trees import map_leaves
from decayax.masks._resolve import MaskOrFn


NAME = "shrink_and_perturb"


def shrink_and_perturb(
    params: optax.Params,
    key: jax.Array,
    *,
    shrink: Scalar = 0.5,
    noise: Scalar = 0.1,
    mask: MaskOrFn = None,
) -> optax.Params:
    r"""Shrink the weights once and add noise, for a warm start with new data.

    .. math:: \theta \leftarrow s\,\theta + p\,\sigma(\theta)\,\varepsilon,
        \qquad \varepsilon \sim N(0, 1)

    A network that trained on a part of the data, and then trains on all of it,
    generalises worse than a new one; after this step it does not. It is not a
    transform: call it between two runs, and start the optimizer again.

    Args:
        params: the parameters; 16-bit leaves are calculated in float32.
        key: a PRNG key, ``jax.random.key(0)``.
        shrink: :math:`s \ge 0`.
        noise: :math:`p \ge 0`, relative to the standard deviation
            :math:`\sigma(\theta)` of each parameter.
        mask: which parameters, as for :func:`decoupled_decay`; a multiplier
            :math:`m < 1` applies this part of the change.

    Returns:
        A tree like ``params``, with the same dtypes.

    Example:
        >>> import decayax as dx, jax, jax.numpy as jnp
        >>> params = {"kernel": jnp.array([[1.0, -1.0]]), "scale": jnp.ones(2)}
        >>> new = dx.shrink_and_perturb(
        ...     params, jax.random.key(0), noise=0.0, mask=dx.masks.no_bias_or_norm
        ... )
        >>> print(new["kernel"], new["scale"])
        [[ 0.5 -0.5]] [1. 1.]

    Reference:
        Ash and Adams, https://arxiv.org/abs/1910.08475.
    """
    shrink = as_strength(NAME, "shrink", shrink, NUMBER_HINT)
    noise = as_strength(NAME, "noise", noise, NUMBER_HINT)
    rates = rate_by_path(NAME, 1.0, mask, params)
    keys = dict(zip(rates, _keys(key, max(len(rates), 1)), strict=False))

    def changed(path: Path, param: Any, _: Any) -> Any:
        if path not in rates:
            return param
        theta = to_float32(jnp.asarray(param))
        real = jnp.finfo(theta.dtype).dtype
        s, p, m = (jnp.asarray(x, real) for x in (shrink, noise, rates[path]))
        epsilon = jax.random.normal(keys[path], theta.shape, theta.dtype)
        new = times_real(s, theta) + times_real(p * jnp.std(theta), epsilon)
        return cast_like(theta + times_real(m, new - theta), param)

    return map_leaves(NAME, changed, params, params)


def _keys(key: Any, count: int) -> jax.Array:
    """So many keys; raise unless the argument is one key."""
    try:
        return jax.random.split(key, count)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{NAME}: key must be one PRNG key, got {short_repr(key)}. Pass "
            "jax.random.key(0)."
        ) from error
