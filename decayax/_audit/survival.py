"""How much of the decay of 16-bit weights remains after rounding."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from decayax._audit.by_step import BURN_IN
from decayax._audit.estimates import is_finite, rates_of
from decayax._audit.follow import Begin, follow, Runner
from decayax._audit.measure import Bench
from decayax._audit.paired import paired_probe, rounds_by_itself
from decayax._audit.plan import initial_weights
from decayax._audit.readings import Setting


# Seeds over which the effect of rounding is averaged. Their spread gives the error.
SEEDS = 4
# A surviving fraction with a larger standard error is not reported. The finding "lost
# in rounding" starts below 0.5, which is 2.5 of these errors away from 0 and from 1.
MAX_STANDARD_ERROR = 0.2
RATE_RTOL = 0.5  # a rate that differs by more is not that of the decay


def is_narrow(dtype: Any) -> bool:
    """Whether rounding to the dtype can remove a decay."""
    return jnp.dtype(dtype).itemsize < 4


class Survival(NamedTuple):
    """How much of the decay of each leaf remains in the leaf's own dtype."""

    rates: Float[np.ndarray, " leaves"]  # in float32
    fractions: Float[np.ndarray, " leaves"]
    errors: Float[np.ndarray, " leaves"]
    finite: np.ndarray  # whether the weights of each leaf are finite in every step


def survival(
    bench: Bench, own: Bench, main: Setting, begin: Begin, rates: Sequence[float]
) -> Survival:
    """Compare the rates in float32 with those in the leaves' own dtypes.

    The rates are those of `paired_probe`, or of the difference if the optimizer rounds
    by itself. If they are far from the measured ``rates`` of the leaves, the fraction
    is unknown: the update at weights of 0 is not that without a decay, or a leaf was
    measured at another step.
    """
    compare = functools.partial(
        _compare, setting=main, steps=bench.plan.steps, begin=_with_moments(begin)
    )
    program = own.difference.program
    alone = rounds_by_itself(program, main)
    by_itself = np.array(program.for_each_leaf([alone[i] for _, i in program.units]))
    ways = []
    if by_itself.any():
        ways.append(compare(bench.difference, own.difference))
    if not by_itself.all():
        ways.append(compare(_paired(bench), _paired(own)))
    both = zip(ways[0], ways[-1], strict=True)
    found = Survival(*(np.where(by_itself, x, y) for x, y in both))
    # Also where a rate is NaN.
    shown = np.abs(found.rates - rates) <= RATE_RTOL * np.abs(rates)
    return found._replace(errors=np.where(shown, found.errors, np.inf))


def _with_moments(begin: Begin) -> Begin:
    """Follow the moments up to a later step: the size of the steps depends on them."""
    return begin._replace(burn_in=BURN_IN) if begin.at_step else begin


def _paired(bench: Bench) -> Runner:
    program = bench.difference.program
    return bench.difference._replace(probe=paired_probe(program.probed, program.lanes))


def _compare(
    wide: Runner, own: Runner, setting: Setting, steps: int, begin: Begin
) -> Survival:
    """Compare the rates that one way to measure gives."""
    exact, _ = _rates_by_seed(wide, setting, steps, begin)
    rounded, finite = _rates_by_seed(own, setting, steps, begin)
    rate = exact.mean(0)
    decays = rate != 0.0
    divisor = np.where(decays, rate, 1.0)
    errors = rounded.std(0, ddof=1) / np.sqrt(SEEDS) / np.abs(divisor)
    return Survival(
        rate,
        np.where(decays, rounded.mean(0) / divisor, 0.0),
        np.where(decays, errors, np.inf),
        finite,
    )


def _rates_by_seed(
    runner: Runner, main: Setting, steps: int, begin: Begin
) -> tuple[Float[np.ndarray, "seeds leaves"], np.ndarray]:
    """The rates of each leaf, with weights and gradients of several seeds."""
    rates, finite, program = [], [], runner.program
    for seed in range(SEEDS):
        setting = main._replace(seed=seed)
        params = initial_weights(program, setting, seed)
        run = follow(runner, params, setting, steps, begin)
        of_units = [rates_of(trace.change) for trace in run.traces]
        rates.append(program.for_each_leaf(of_units))
        of_units = [is_finite(trace) for trace in run.traces]
        finite.append(program.for_each_leaf(of_units))
    return np.array(rates), np.all(finite, 0)
