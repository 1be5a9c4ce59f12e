r"""Probes: the inner products of gradients and parameters, at random parameters.

.. math:: M_{pl} = \langle g_l, \theta_l \rangle, \qquad
          f(e^{t a}\theta) = f(\theta) \;\forall t, \theta \iff M a = 0

One vector-Jacobian product with a random cotangent, at random parameters, gives one row
of M. With more rows than units, the null space of M is that of all rows.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from decayax._symmetries.units import Parameter


EXTRA_ROWS = 8  # more than units, so that a null vector by chance is not possible
SMALLEST = 1.0  # the change of the outputs with all parameters, relative to the outputs
KEPT_ROWS = 4  # probes whose elementwise products are kept, for the axes
# How far the parameters are moved: (elementwise, the scale of each). The second pair is
# for models that are not finite far from their parameters.
JITTERS = ((0.3, 0.6), (0.03, 0.0))


class Probes(NamedTuple):
    """What the probes measured. Rows are scaled to a common size."""

    products: np.ndarray  # [rows, units]: M
    sizes: np.ndarray  # [rows, units]: the root of sum (g θ)^2, M for random signs
    elementwise: list[np.ndarray]  # [rows, *shape] of g θ, for each parameter


class _Row(NamedTuple):
    products: np.ndarray
    squares: np.ndarray
    elementwise: list[np.ndarray]


def usual_size(shape: tuple[int, ...]) -> float:
    """1 / sqrt(fan-in); 1 for a vector."""
    return max(math.prod(shape[:-1]), 1) ** -0.5


def jitter(
    random: np.random.Generator,
    leaves: Sequence[np.ndarray],
    amounts: tuple[float, float],
    *,
    is_standard: bool = False,
) -> list[np.ndarray]:
    """Random parameters around the given ones, which keep their signs.

    They leave the points where more symmetries hold: biases of 0, gains of 1. With
    ``is_standard``, every leaf has a usual size, so that a layer scale of 1e-6 or a
    saturated softmax hides nothing.
    """
    elementwise, scale = amounts
    moved = []
    for x in leaves:
        size = np.sqrt(np.mean(np.abs(x) ** 2)) or 1.0
        if is_standard:
            usual = usual_size(x.shape)
            x, size = x * (usual / size), usual
        noise = elementwise * random.standard_normal(x.shape)
        factor = np.exp(noise + scale * random.uniform(-1.0, 1.0))
        moved.append(np.where(x == 0, noise * size, x * factor).astype(x.dtype))
    return moved


def probe(
    function: Callable[[Sequence[Any]], list[Any]],
    leaves: Sequence[np.ndarray],
    parameters: Sequence[Parameter],
    seed: int,
) -> Probes:
    """Probe a function of the parameters, which returns a list of inexact arrays."""
    outputs = jax.eval_shape(function, leaves)
    run = jit_once(functools.partial(_products, function))
    random = np.random.default_rng(seed)
    units = sum(p.count() for p in parameters)
    needed = units + EXTRA_ROWS
    found: list[_Row] = []
    empty: list[_Row] = []  # where no output depends on any parameter
    for attempt in range(2 * needed):
        noise = [_noise(random, y) for y in outputs]
        for amounts in JITTERS:
            theta = jitter(random, leaves, amounts, is_standard=attempt % 2 == 1)
            elementwise = run(theta, noise)
            row = _row([np.asarray(x) for x in elementwise], noise, parameters)
            if row is not None:
                if len(found) >= KEPT_ROWS:  # it is as large as the parameters
                    row = row._replace(elementwise=[])
                (found if row.squares.any() else empty).append(row)
                break
        if len(found) == needed:
            break
    rows = found if len(found) > units else found + empty
    if len(rows) <= units:
        raise ValueError(
            "scale_symmetries: the outputs of the function, or their derivatives, are "
            "not finite near the parameters. Pass parameters for which they are."
        )
    kept = [row.elementwise for row in rows[:KEPT_ROWS]]
    return Probes(
        np.stack([row.products for row in rows]),
        np.sqrt([row.squares for row in rows]),
        [np.stack(arrays) for arrays in zip(*kept, strict=True)],
    )


def _products(
    function: Callable[[Sequence[Any]], list[Any]],
    theta: Sequence[jax.Array],
    noise: Sequence[jax.Array],
) -> list[jax.Array]:
    """The elementwise products g θ, for random cotangents."""
    outputs, pull = jax.vjp(function, theta)
    cotangents = [_normalized(z, y) for z, y in zip(noise, outputs, strict=True)]
    (gradients,) = pull(cotangents)
    return [(g * x).real for g, x in zip(gradients, theta, strict=True)]


def _row(
    elementwise: list[np.ndarray],
    noise: Sequence[np.ndarray],
    parameters: Sequence[Parameter],
) -> _Row | None:
    """A row with the size 1, or less if no parameter matters; None if not finite."""
    squares = _by_unit([x**2 for x in elementwise], parameters)
    if not np.all(np.isfinite(squares)):
        return None
    # If no leaf matters, all gradients are rounding errors and stay small.
    smallest = SMALLEST * np.sqrt(sum(np.sum(np.abs(z) ** 2) for z in noise))
    size = max(np.sqrt(np.sum(squares)), smallest)
    elementwise = [x / size for x in elementwise]
    return _Row(_by_unit(elementwise, parameters), squares / size**2, elementwise)


def jit_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile fast: the program is small, and runs a few hundred times."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def _noise(random: np.random.Generator, y: jax.ShapeDtypeStruct) -> np.ndarray:
    noise = random.standard_normal(y.shape)
    if jnp.issubdtype(y.dtype, jnp.complexfloating):
        noise = noise + 1j * random.standard_normal(y.shape)
    return np.asarray(noise, y.dtype)


def _normalized(cotangent: jax.Array, y: jax.Array) -> jax.Array:
    """The cotangent, such that every output has the same weight."""
    size = jnp.sqrt(jnp.mean(jnp.abs(y) ** 2))
    return cotangent / jnp.where(size == 0, 1.0, size)


def _by_unit(
    arrays: Sequence[np.ndarray], parameters: Sequence[Parameter]
) -> np.ndarray:
    """The sums over each unit."""
    pairs = zip(arrays, parameters, strict=True)
    return np.concatenate([np.sum(x, p.other_axes()).reshape(-1) for x, p in pairs])
