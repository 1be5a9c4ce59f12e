"""Confirm a symmetry by the outputs: scale the parameters by a finite factor."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from decayax._symmetries.probes import jit_once, jitter, JITTERS
from decayax._symmetries.units import Parameter


LOG_FACTOR = 0.7
FAR = (3.0, 0.0)  # other parameters of the same size, for dead units
POINTS = 3  # random parameters at which the outputs are compared


def deviations(
    function: Callable[[Sequence[Any], Any], list[Any]],
    leaves: Sequence[np.ndarray],
    parameters: Sequence[Parameter],
    candidates: Sequence[np.ndarray],
    epsilons: Sequence[float],
    seed: int,
) -> np.ndarray:
    """[points, candidates, epsilons]: the largest relative change of an output.

    A candidate is a vector of exponents. NaN as an exponent replaces the unit by random
    numbers.
    """
    run = jit_once(function)
    random = np.random.default_rng(seed + 1)
    result = np.zeros((POINTS, len(candidates), len(epsilons)))
    for point in range(POINTS):
        theta, plain = [], []
        for amounts in JITTERS:
            theta = jitter(random, leaves, amounts)
            plain = [run(theta, epsilon) for epsilon in epsilons]
            if all(map(_is_finite, plain)):
                break
        others = [_other_signs(random, x) for x in jitter(random, leaves, FAR)]
        for i, candidate in enumerate(candidates):
            moved = _moved(theta, others, parameters, candidate)
            result[point, i] = [
                _change(before, run(moved, epsilon))
                for before, epsilon in zip(plain, epsilons, strict=True)
            ]
    return result


def _moved(
    theta: Sequence[np.ndarray],
    others: Sequence[np.ndarray],
    parameters: Sequence[Parameter],
    candidate: np.ndarray,
) -> list[np.ndarray]:
    moved = []
    for x, other, parameter in zip(theta, others, parameters, strict=True):
        exponents = parameter.select(candidate)
        is_replaced = np.isnan(exponents)
        factor = np.exp(LOG_FACTOR * np.where(is_replaced, 0.0, exponents))
        moved.append(np.where(is_replaced, other, x * factor))
    return moved


def _other_signs(random: np.random.Generator, x: np.ndarray) -> np.ndarray:
    """Random signs, but those of a scale or of a variance stay."""
    if np.iscomplexobj(x) or np.all(x >= 0) or np.all(x <= 0):
        return x
    return x * random.choice([-1.0, 1.0], x.shape)


def _is_finite(outputs: Sequence[Any]) -> bool:
    return all(bool(np.all(np.isfinite(y))) for y in outputs)


def _change(before: Sequence[Any], after: Sequence[Any]) -> float:
    """The largest change of an output, as a norm relative to that of the output."""
    changes = [0.0]
    for a, b in zip(before, after, strict=True):
        difference = np.linalg.norm(np.ravel(np.asarray(b) - np.asarray(a)))
        changes.append(float(difference / (np.linalg.norm(np.ravel(a)) or 1.0)))
    return max(changes) if np.all(np.isfinite(changes)) else np.inf
