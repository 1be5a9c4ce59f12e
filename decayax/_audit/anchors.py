r"""Pulls to an anchor that the state keeps, such as a copy of the initial weights.

An anchored pull moves with the initial weights, so that they seem to stay. If the
state's copy is held fixed, the weights move away from θ₀ at the rate of the pull. How
this rate depends on gradients and weights is judged like any other rate.

Some optimizers compute the weights again from a copy of the initial ones (COCOB,
MADGRAD). They do not forget the gradients: two runs that differ in their first
gradients stay apart. A pull brings them together.
"""

from collections.abc import Sequence

import numpy as np

from decayax._audit.follow import Begin, follow
from decayax._audit.measure import Bench, measure
from decayax._audit.plan import initial_weights
from decayax._audit.readings import Reading, Readings, Setting


BEFORE = 25  # steps before the state is held: some anchors are set in the first step
OTHER = 50  # steps with other gradients in the second of the two runs
SETTLE = 50  # steps after these in which momentum ends
MIN_RATE = 1e-6
MIN_DISTANCE = 1e-5  # of the runs, relative to the weights
MIN_EFFECT = 0.1  # of the distance of the runs; a smaller predicted effect is not seen


def readings_with_state_held(
    bench: Bench, settings: Sequence[Setting]
) -> list[Readings]:
    """The readings of all units if the state's copy of the weights is held fixed."""
    begin = Begin(at_step=BEFORE, burn_in=BEFORE, hold_state=True)
    return measure(bench, settings, begin)


def is_pulled(own: Reading, held: Reading) -> bool:
    """Whether the weights lose more if the state does not move with them."""
    # A difference is too coarse for this.
    pulled = held.best is held.jvp and 0.0 < held.known_rate < 0.5
    return pulled and own.best.rate < 0.9 * held.known_rate


def forget_gradients(
    bench: Bench, settings: Sequence[Setting], held: Sequence[Readings]
) -> list[bool]:
    """Whether each unit forgets the gradients under one of the settings."""
    forgets = [False] * len(held)
    for setting in dict.fromkeys(settings):
        if not all(forgets):
            rates = [own[setting].known_rate for own in held]
            now = _forgets_gradients(bench, setting, rates)
            forgets = [a or b for a, b in zip(forgets, now, strict=True)]
    return forgets


def _forgets_gradients(bench: Bench, main: Setting, rates: list[float]) -> list[bool]:
    """Whether two runs with other first gradients approach each other at these rates.

    True, too, if the runs are too short to see it; but then very small rates are only
    believed if the derivative reads no gradient.
    """
    gradient_free = not bench.reads().any_gradient
    steps, first = bench.plan.steps, OTHER + SETTLE
    if steps < first + 2:
        return [True] * len(rates)
    params = initial_weights(bench.difference.program, main)
    one, other = (
        follow(bench.difference, params, main, steps, Begin(other_steps=other)).traces
        for other in (0, OTHER)
    )
    results = []
    for a, b, rate in zip(one, other, rates, strict=True):
        predicted = 1.0 - (1.0 - min(rate, 1.0)) ** (steps - first)
        if predicted < MIN_EFFECT:
            results.append(gradient_free or rate > MIN_RATE)
            continue
        distance = a.weights - b.weights  # (signs, steps, n)
        begin, end = distance[:, first].ravel(), distance[:, -1].ravel()
        # Weights that do not move show nothing.
        visible = np.linalg.norm(begin) > MIN_DISTANCE * np.linalg.norm(a.weights[:, 0])
        seen = 1.0 - begin @ end / max(begin @ begin, 1e-300)
        results.append(bool(visible and abs(seen - predicted) < predicted / 2))
    return results
