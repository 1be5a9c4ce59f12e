r"""Probes: the inner products of gradients and parameters, at random parameters.

.. math:: M_{pl} = \langle g_l, \theta_l \rangle, \qquad
          f(e^{t a}\theta) = f(\theta) \;\forall t, \theta \iff M a = 0

One vector-Jacobian product with a random cotangent, at random parameters, gives one row
of M. With more rows than units, the null space of M is that of all rows.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from decayax._symmetries.units import Parameter


EXTRA_ROWS = 8  # more than units, so that a null vector by chance is not possible
KEPT_ROWS = 4  # probes whose elementwise products are kept, for the axes
# How far the parameters are moved: (elementwise, the scale of each). The second pair is
# for models that are not finite far from their parameters.
JITTERS = ((0.3, 0.6), (0.03, 0.0))


class Probes(NamedTuple):
    """What the probes measured. Rows are scaled to a common size."""

    products: np.ndarray  # [rows, units]: M
    sizes: np.ndarray  # [rows, units]: the root of sum (g θ)^2, M for random signs
    elementwise: list[np.ndarray]  # [rows, *shape] of g θ, for each parameter


def jitter(
    key: jax.Array, leaves: Sequence[jax.Array], amounts: tuple[Any, Any]
) -> list[jax.Array]:
    """Random parameters around the given ones, which keep their signs.

    They leave the points where more symmetries hold: biases of 0, gains of 1.
    """
    elementwise, scale = amounts
    moved = []
    for k, x in zip(jax.random.split(key, len(leaves)), leaves, strict=True):
        for_zeros, for_factors, for_scale = jax.random.split(k, 3)
        size = jnp.sqrt(jnp.mean(jnp.abs(x) ** 2))
        size = jnp.where(size == 0, 1.0, size)
        noise = elementwise * jax.random.normal(for_zeros, x.shape, x.real.dtype)
        factor = elementwise * jax.random.normal(for_factors, x.shape, x.real.dtype)
        common = scale * jax.random.uniform(for_scale, (), x.real.dtype, -1.0, 1.0)
        moved.append(jnp.where(x == 0, noise * size, x * jnp.exp(factor + common)))
    return moved


def probe(
    function: Callable[[Sequence[Any]], list[Any]],
    leaves: Sequence[jax.Array],
    parameters: Sequence[Parameter],
    seed: int,
) -> Probes:
    """Probe a function of the parameters, which returns a list of inexact arrays."""

    @jax.jit
    def one(key: jax.Array, amounts: tuple[Any, Any]) -> Any:
        for_params, for_outputs = jax.random.split(key)
        theta = jitter(for_params, leaves, amounts)
        outputs, pull = jax.vjp(lambda x: function(x), theta)
        keys = jax.random.split(for_outputs, len(outputs))
        cotangents = [_cotangent(k, y) for k, y in zip(keys, outputs, strict=True)]
        (gradients,) = pull(cotangents)
        elementwise = [(g * x).real for g, x in zip(gradients, theta, strict=True)]
        pairs = list(zip(elementwise, parameters, strict=True))
        products = [jnp.sum(x, p.other_axes()).reshape(-1) for x, p in pairs]
        squares = [jnp.sum(x**2, p.other_axes()).reshape(-1) for x, p in pairs]
        return jnp.concatenate(products), jnp.concatenate(squares), elementwise

    units = sum(p.count() for p in parameters)
    products, squares, kept = [], [], []
    for key in jax.random.split(jax.random.key(seed), units + EXTRA_ROWS):
        for amounts in JITTERS:
            row, square, elementwise = one(key, amounts)
            if np.all(np.isfinite(row)) and np.all(np.isfinite(square)):
                break
        else:
            continue
        size = np.sqrt(np.sum(square)) or 1.0
        products.append(np.asarray(row) / size)
        squares.append(np.asarray(square) / size**2)
        if len(kept) < KEPT_ROWS:
            kept.append([np.asarray(x) / size for x in elementwise])
    if len(products) < units + EXTRA_ROWS // 2:
        raise ValueError(
            "scale_symmetries: the outputs of the function, or their derivatives, are "
            "not finite near the parameters. Pass parameters for which they are."
        )
    stacked = [np.stack(rows) for rows in zip(*kept, strict=True)]
    return Probes(np.stack(products), np.sqrt(squares), stacked)


def _cotangent(key: jax.Array, y: jax.Array) -> jax.Array:
    """Random, and such that every output has the same weight."""
    size = jnp.sqrt(jnp.mean(jnp.abs(y) ** 2))
    return jax.random.normal(key, y.shape, y.dtype) / jnp.where(size == 0, 1.0, size)
