"""The readings of all leaves under all settings."""

import time
import warnings
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from decayax._audit.leaf import LeafAudit
from decayax._audit.modes import NONE
from decayax._audit.plan import initial_weights, ProbePlan
from decayax._audit.probe import follow, jvp_probe, Probe
from decayax._audit.readings import rates_of, reading_of, Readings, Setting
from decayax._audit.trace import Trace


# A user who waits this long for one call wants to know why.
WARN_AFTER_SECONDS = 10.0
# Seeds over which the effect of rounding is averaged. Their spread gives the error.
ROUNDING_SEEDS = 4
# A surviving fraction with a larger standard error is not reported. The finding "lost
# in rounding" starts below 0.5, which is 2.5 of these errors away from 0 and from 1.
MAX_STANDARD_ERROR = 0.2


def measure(
    plan: ProbePlan, difference: Probe, settings: Sequence[Setting]
) -> list[Readings]:
    """For each leaf its readings under every setting.

    The plan's difference probe is an argument, because it is compiled only once.
    """
    jvp = jvp_probe(plan.probed)
    readings: list[Readings] = [{} for _ in plan.shapes]
    for done, setting in enumerate(settings, start=1):
        start = time.monotonic()
        params = initial_weights(plan, plan.float32, setting)
        try:
            of_jvp = _traces(plan, jvp, params, setting)
        except Exception:
            # The optimizer has no derivative. Any other error comes again below.
            of_jvp = [None] * len(readings)
        of_difference = _traces(plan, difference, params, setting)
        for i, count in enumerate(plan.weight_counts()):
            readings[i][setting] = reading_of(of_jvp[i], of_difference[i], count)
        # The first setting also compiles. The second shows how long the others take.
        if done == 2 and not plan.sampled:
            seconds = (time.monotonic() - start) * (len(settings) - done)
            why = "" if plan.elementwise else " (this optimizer mixes weights)"
            if seconds > WARN_AFTER_SECONDS:
                warnings.warn(
                    f"audit: about {seconds:.0f} s to go, because all weights are "
                    f"measured{why}. Pass sample=True to measure a part of each leaf, "
                    "or pass fewer steps.",
                    stacklevel=4,
                )
    return readings


def _traces(
    plan: ProbePlan, probe: Probe, params: optax.Params, setting: Setting
) -> list[Trace]:
    """The trace of each leaf under g and −g, which are the first axis of all arrays."""
    key = jax.random.key(setting.seed)
    both = [
        follow(probe, params, key, sign * setting.gradient_scale, plan.steps)
        for sign in (1.0, -1.0)
    ]
    return jax.tree.map(lambda *signs: np.stack(signs), *both)


def with_surviving_fractions(
    leaves: list[LeafAudit], plan: ProbePlan, difference: Probe, main: Setting
) -> list[LeafAudit]:
    """The leaves with `surviving_fraction` under the setting ``main``."""
    candidates = [
        leaf.mode != NONE and jnp.dtype(leaf.dtype).itemsize < 4 for leaf in leaves
    ]
    if not any(candidates):
        return leaves
    exact = _rates_by_seed(plan, difference, main, plan.float32)
    rounded = _rates_by_seed(plan, difference, main, plan.own_dtypes)
    rate = exact.mean(0)
    fractions = rounded.mean(0) / rate
    errors = rounded.std(0, ddof=1) / np.sqrt(ROUNDING_SEEDS) / np.abs(rate)
    # `~(... > ...)`: an error of nan is an overflow, which is reported.
    reported = np.array(candidates) & ~(errors > MAX_STANDARD_ERROR)
    return [
        leaf._replace(surviving_fraction=float(fraction)) if report else leaf
        for leaf, fraction, report in zip(leaves, fractions, reported, strict=True)
    ]


def _rates_by_seed(
    plan: ProbePlan, difference: Probe, main: Setting, shapes: optax.Params
) -> Float[np.ndarray, "seeds leaves"]:
    """The rates from the difference, with weights and gradients of several seeds."""
    rates = []
    for seed in range(ROUNDING_SEEDS):
        params = initial_weights(plan, shapes, main, seed)
        traces = _traces(plan, difference, params, main._replace(seed=seed))
        rates.append([rates_of(trace.change) for trace in traces])
    return np.array(rates)
