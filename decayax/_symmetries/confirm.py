"""Confirm a symmetry by the outputs: scale the parameters by a finite factor."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from decayax._symmetries.probes import jitter, JITTERS
from decayax._symmetries.units import Parameter


LOG_FACTOR = 0.7
POINTS = 2  # random parameters at which the outputs are compared


def deviations(
    function: Callable[[Sequence[Any], Any], list[Any]],
    leaves: Sequence[jax.Array],
    parameters: Sequence[Parameter],
    candidates: Sequence[np.ndarray],
    epsilons: Sequence[float],
    seed: int,
) -> np.ndarray:
    """[candidates, epsilons]: the largest relative change of an output.

    A candidate is a vector of exponents. NaN as an exponent replaces the unit by random
    numbers.
    """

    @jax.jit
    def run(key: Any, amounts: Any, exponents: Any, noise: Any, epsilon: Any) -> Any:
        theta = jitter(key, leaves, amounts)
        keys = jax.random.split(jax.random.fold_in(key, 1), len(leaves))
        moved = [
            x * jnp.exp(LOG_FACTOR * a) + b * jax.random.normal(k, x.shape, x.dtype)
            for x, a, b, k in zip(theta, exponents, noise, keys, strict=True)
        ]
        return function(moved, epsilon)

    def outputs(key: Any, amounts: Any, candidate: np.ndarray, epsilon: float) -> Any:
        replaced = np.isnan(candidate)
        exponents = np.where(replaced, 0.0, candidate)
        shaped = [p.select(exponents) for p in parameters]
        noise = [p.select(3.0 * replaced) for p in parameters]
        return run(key, amounts, shaped, noise, epsilon)

    units = sum(p.count() for p in parameters)
    result = np.zeros((len(candidates), len(epsilons)))
    for key in jax.random.split(jax.random.key(seed + 1), POINTS):
        amounts = next(
            (a for a in JITTERS if _is_finite(outputs(key, a, np.zeros(units), 0.0))),
            JITTERS[-1],
        )
        for j, epsilon in enumerate(epsilons):
            plain = outputs(key, amounts, np.zeros(units), epsilon)
            for i, candidate in enumerate(candidates):
                moved = outputs(key, amounts, candidate, epsilon)
                result[i, j] = max(result[i, j], _change(plain, moved))
    return result


def _is_finite(outputs: Sequence[Any]) -> bool:
    return all(bool(np.all(np.isfinite(y))) for y in outputs)


def _change(before: Sequence[Any], after: Sequence[Any]) -> float:
    """The largest change of an element, relative to the largest of its array."""
    changes = [0.0]
    for a, b in zip(before, after, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        if a.size:
            scale = np.abs(a).max() or 1.0
            changes.append(float(np.abs(a - b).max() / scale))
    return max(changes) if all(c == c for c in changes) else float("inf")
