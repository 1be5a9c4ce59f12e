"""A clip of the finished step: what it leaves of the decay."""

import math
from collections.abc import Sequence

import numpy as np

from decayax._audit.follow import Begin
from decayax._audit.measure import Bench, measure_once, weight_counts
from decayax._audit.readings import Reading, Setting


# Without gradients, and with small weights, no step reaches a clip.
REST = {"gradient_scale": 0.0, "weight_scale": 0.01}


def are_clipped(bench: Bench, readings: Sequence[Reading]) -> list[bool]:
    """Whether a clip limits the steps of each unit."""
    program = bench.jvp.program
    # The norm of the weights of all leaves of each unit.
    sizes = [
        program.sizes[lane, index] * math.sqrt(count * program.unit_of.count(unit))
        for unit, ((lane, index), count) in enumerate(
            zip(program.units, weight_counts(bench), strict=True)
        )
    ]
    return [
        saturates and reading.depends_on_gradient
        for reading, saturates in zip(readings, _saturate(readings, sizes), strict=True)
    ]


def clipped_to(
    bench: Bench,
    main: Setting,
    begin: Begin,
    readings: Sequence[Reading],
    clipped: Sequence[bool],
) -> list[float]:
    """The fraction of each unit's decay that a clip of the finished step leaves."""
    if not any(clipped):
        return [1.0] * len(readings)
    rest = measure_once(bench, main._replace(**REST), bench.plan.steps, begin)
    return [
        reading.best.rate / free.best.rate
        if is_clipped and free.best.significant and free.best.rate > 0.0
        else 1.0
        for reading, free, is_clipped in zip(readings, rest, clipped, strict=True)
    ]


def _saturate(readings: Sequence[Reading], sizes: Sequence[float]) -> list[bool]:
    """Whether a clip limits the steps of each leaf.

    Then all steps have the same norm, that of all leaves together, or many elements of
    the leaf's steps have the same size. ``sizes`` are the norms of the leaves' weights.
    """
    steps = [r.difference_trace.step_size for r in readings]
    norms = np.sqrt(sum((size * s) ** 2 for size, s in zip(sizes, steps, strict=True)))
    late = norms[:, 5:]
    mean = np.mean(late) if late.size else 0.0
    if 0.0 < mean < np.inf and np.std(late) < 1e-3 * mean:
        return [True] * len(readings)
    return list(map(_elements_saturate, readings))


def _elements_saturate(reading: Reading) -> bool:
    weights = reading.difference_trace.weights
    steps = np.abs(np.diff(weights, axis=1))
    largest = steps.max(initial=0.0)
    # The weights are rounded to float32, and the step is their difference.
    rounding = 1e-3 * largest + 2.4e-7 * np.abs(weights).max(initial=0.0)
    return bool(largest > 0.0 and np.mean(steps > largest - rounding) > 0.05)
