"""The readings of all leaves under all settings."""

import time
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import Float

from decayax._audit.plan import initial_weights, ProbePlan
from decayax._audit.probe import difference_probe, follow, jvp_probe, Probe
from decayax._audit.readings import Reading, reading_of, Setting
from decayax._audit.trace import Trace


# A user who waits this long for one call wants to know why.
WARN_AFTER_SECONDS = 10.0
# Seeds over which the effect of rounding is averaged. Their spread gives the error.
ROUNDING_SEEDS = 4
# A surviving fraction with a larger standard error is not reported. The finding "lost
# in rounding" starts below 0.5, which is 2.5 of these errors away from 0 and from 1.
MAX_STANDARD_ERROR = 0.2
Readings = dict[Setting, list[Reading]]  # by setting, one for each leaf


class Probes(NamedTuple):
    """Both ways to measure, each compiled at most once for each dtype."""

    jvp: Probe
    difference: Probe


def probes_of(plan: ProbePlan) -> Probes:
    """The two probes of the plan's optimizer."""
    return Probes(jvp_probe(plan.probed), difference_probe(plan.probed))


def measure(plan: ProbePlan, probes: Probes, settings: Sequence[Setting]) -> Readings:
    """Run both probes under g and −g of every setting."""
    readings: Readings = {}
    for done, setting in enumerate(settings, start=1):
        start = time.monotonic()
        params = initial_weights(plan, plan.float32, setting)
        try:
            jvp = traces_of_both_signs(plan, probes.jvp, params, setting)
        except Exception:
            # The optimizer has no derivative. Any other error comes again below.
            jvp = None
        difference = traces_of_both_signs(plan, probes.difference, params, setting)
        readings[setting] = [
            reading_of(jvp[i] if jvp else None, difference[i], count)
            for i, count in enumerate(plan.weight_counts())
        ]
        # The first setting also compiles. The second shows how long the others take.
        if done == 2 and not plan.sampled:
            seconds = time.monotonic() - start
            _warn_if_slow(plan, seconds * (len(settings) - done))
    return readings


def _warn_if_slow(plan: ProbePlan, seconds: float) -> None:
    if seconds > WARN_AFTER_SECONDS:
        why = "" if plan.elementwise else " (this optimizer mixes weights)"
        warnings.warn(
            f"audit: about {seconds:.0f} s to go, because all weights are measured"
            f"{why}. Pass sample=True to measure a part of each leaf, or pass fewer "
            "steps.",
            stacklevel=4,
        )


def traces_of_both_signs(
    plan: ProbePlan, probe: Probe, params: optax.Params, setting: Setting
) -> list[list[Trace]]:
    """For every leaf its traces under g and under −g."""
    key = jax.random.key(setting.seed)
    both = [
        follow(probe, params, key, sign * setting.gradient_scale, plan.steps)
        for sign in (1.0, -1.0)
    ]
    return [list(pair) for pair in zip(*both, strict=True)]


def surviving_fractions(
    plan: ProbePlan, probe: Probe, main: Setting, decaying: Sequence[bool]
) -> list[float | None]:
    """The fraction of each rate that remains after rounding to the leaf's dtype.

    None if the dtype has 32 bits or more, if nothing decays, or if the noise of the
    rounding is larger than the decay.

    Args:
        plan: what to measure.
        probe: that of the difference; a derivative does not see the rounding.
        main: the setting whose rate is reported.
        decaying: for each leaf, whether it decays.
    """
    is_16_bit = [plan.shapes[path].dtype.itemsize < 4 for path in plan.paths]
    reported = [a and b for a, b in zip(is_16_bit, decaying, strict=True)]
    if not any(reported):
        return [None] * len(reported)
    exact = _rates_by_seed(plan, probe, main, plan.float32)
    rounded = _rates_by_seed(plan, probe, main, plan.own_dtypes)
    rate = exact.mean(0)
    fractions = rounded.mean(0) / rate
    errors = rounded.std(0, ddof=1) / np.sqrt(ROUNDING_SEEDS) / np.abs(rate)
    # `not error > ...`: an error of nan is an overflow, which is reported.
    return [
        float(fraction) if report and not error > MAX_STANDARD_ERROR else None
        for report, fraction, error in zip(reported, fractions, errors, strict=True)
    ]


def _rates_by_seed(
    plan: ProbePlan, probe: Probe, main: Setting, shapes: optax.Params
) -> Float[np.ndarray, "seeds leaves"]:
    """The rates from the difference, with weights and gradients of several seeds."""
    rates = []
    for seed in range(ROUNDING_SEEDS):
        params = initial_weights(plan, shapes, main, seed)
        setting = main._replace(seed=seed)
        traces = traces_of_both_signs(plan, probe, params, setting)
        readings = [reading_of(None, pair, count=1) for pair in traces]
        rates.append([reading.rate_from_difference for reading in readings])
    return np.array(rates)
