"""Confirm a symmetry by the outputs: scale the parameters by finite factors."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from decayax._symmetries.float64 import NO_EPSILON
from decayax._symmetries.probes import jit_once, jitter, JITTERS
from decayax._symmetries.units import Parameter


LOG_FACTOR = 0.7
# Also factors of a million: some functions have a symmetry near the parameters only, as
# ReLU6 with small weights.
LOG_FACTORS = (LOG_FACTOR, 14.0, -14.0)
FAR = (3.0, 0.0)  # other parameters of the same size, for dead units
STANDARD = 1  # the point where all parameters have a usual size
POINTS = 3  # random parameters at which the outputs are compared


def deviations(
    function: Callable[[Sequence[Any], Any], list[Any]],
    leaves: Sequence[np.ndarray],
    parameters: Sequence[Parameter],
    candidates: Sequence[np.ndarray],
    seed: int,
) -> np.ndarray:
    """[points, candidates, 3]: the largest relative change of the outputs.

    The first one is for the factor exp(0.7) without ε, the second one for large factors
    without ε, and the third one for exp(0.7) with the ε of the function. A candidate is
    a vector of exponents. NaN as an exponent replaces the unit by other numbers.
    """
    run = jit_once(function)
    random = np.random.default_rng(seed + 1)
    result = np.zeros((POINTS, len(candidates), 3))
    for point in range(POINTS):
        theta, plain, real = [], [], []
        for amounts in JITTERS:
            theta = jitter(random, leaves, amounts, is_standard=point == STANDARD)
            plain, real = run(theta, NO_EPSILON), run(theta, 1.0)
            if all(bool(np.all(np.isfinite(y))) for y in [*plain, *real]):
                break
        far = jitter(random, leaves, FAR)
        mixed = [x * random.choice([-1.0, 1.0], x.shape) for x in far]
        others = [far, mixed, [-x for x in far]]  # a dead unit has no sign, either
        for i, candidate in enumerate(candidates):
            moved = [
                _moved(theta, other, parameters, candidate, log_factor)
                for other, log_factor in zip(others, LOG_FACTORS, strict=True)
            ]
            exact = [_change(plain, run(x, NO_EPSILON)) for x in moved]
            # A large factor may overflow: then the others decide.
            large = [change for change in exact[1:] if np.isfinite(change)]
            # The ε matters at the size of the given parameters.
            is_given = point != STANDARD
            change = _change(real, run(moved[0], 1.0)) if is_given else 0.0
            result[point, i] = exact[0], max(large, default=0.0), change
    return result


def _moved(
    theta: Sequence[np.ndarray],
    others: Sequence[np.ndarray],
    parameters: Sequence[Parameter],
    candidate: np.ndarray,
    log_factor: float,
) -> list[np.ndarray]:
    log_factor /= max(np.nanmax(np.abs(candidate), initial=0.0), 1.0)
    moved = []
    for x, other, parameter in zip(theta, others, parameters, strict=True):
        exponents = parameter.select(candidate)
        if not exponents.any():
            moved.append(x)
            continue
        is_replaced = np.isnan(exponents)
        factor = np.exp(np.where(is_replaced, 0.0, log_factor * exponents))
        moved.append(np.where(is_replaced, other, x * factor))
    return moved


def _change(before: Sequence[Any], after: Sequence[Any]) -> float:
    """The largest change of an output, as a norm relative to that of the output."""
    changes = [0.0]
    for a, b in zip(before, after, strict=True):
        difference = np.linalg.norm(np.ravel(np.asarray(b) - np.asarray(a)))
        changes.append(float(difference / (np.linalg.norm(np.ravel(a)) or 1.0)))
    return max(changes) if np.all(np.isfinite(changes)) else np.inf
