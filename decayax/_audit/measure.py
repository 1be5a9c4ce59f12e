"""Readings of all leaves under all settings."""

import time
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from decayax._audit.plan import Plan, weights
from decayax._audit.probe import derivative, difference, follow, Probe, Trace
from decayax._audit.readings import read, Reading, Setting


LONG = 10.0  # seconds that are worth a warning
ROUNDS = 4  # seeds over which rounding is averaged
UNSURE = 0.2  # standard error of a share that says nothing
Readings = dict[Setting, list[Reading]]  # by setting, one for each leaf


class Probes(NamedTuple):
    """Both ways to follow the optimizer, compiled at most once for each dtype."""

    derivative: Probe
    difference: Probe


def probes_of(plan: Plan) -> Probes:
    """The two probes."""
    return Probes(derivative(plan.run), difference(plan.run))


def measure(plan: Plan, probes: Probes, settings: Sequence[Setting]) -> Readings:
    """Follow both probes under g and −g of every setting."""
    readings: Readings = {}
    for done, setting in enumerate(settings, start=1):
        begun = time.monotonic()
        params = weights(plan, plan.wide, setting)
        try:
            first = mirrored(plan, probes.derivative, params, setting)
        except Exception:  # no derivative; if it is worse, the difference says so too
            first = None
        second = mirrored(plan, probes.difference, params, setting)
        readings[setting] = [
            read(first[i] if first else None, second[i], count)
            for i, count in enumerate(plan.counts())
        ]
        # The first setting also compiled; the second tells how long the others take.
        if done == 2 and not plan.sampled:
            _tell(plan, (time.monotonic() - begun) * (len(settings) - done))
    return readings


def _tell(plan: Plan, seconds: float) -> None:
    if seconds > LONG:
        warnings.warn(
            f"audit: about {seconds:.0f} s to go, as all weights are followed"
            f"{'' if plan.elementwise else ': the optimizer mixes them'}. Write "
            "sample=True for a part of each leaf, or fewer steps.",
            stacklevel=4,
        )


def mirrored(
    plan: Plan, probe: Probe, params: object, setting: Setting
) -> list[list[Trace]]:
    """For every leaf the traces under g and under −g."""
    key = jax.random.key(setting.seed)
    sides = [
        follow(probe, params, key, sign * setting.gradient_scale, plan.steps)
        for sign in (1.0, -1.0)
    ]
    return [list(pair) for pair in zip(*sides, strict=True)]


def survival(
    plan: Plan, probe: Probe, main: Setting, decaying: Sequence[bool]
) -> list[float | None]:
    """The share of each rate that is left in the leaf's own dtype.

    None where that has 32 bits, nothing decays, or rounding hides the share.
    """
    narrow = [plan.given[path].dtype.itemsize < 4 for path in plan.paths]
    asked = [a and b for a, b in zip(narrow, decaying, strict=True)]
    if not any(asked):
        return [None] * len(asked)
    full, own = (_rates(plan, probe, main, x) for x in (plan.wide, plan.narrow))
    shares = own.mean(0) / full.mean(0)
    errors = own.std(0, ddof=1) / np.sqrt(ROUNDS) / np.abs(full.mean(0))
    return [
        float(share) if wanted and not error > UNSURE else None
        for wanted, share, error in zip(asked, shares, errors, strict=True)
    ]


def _rates(plan: Plan, probe: Probe, main: Setting, shapes: object) -> np.ndarray:
    """The realised rates in some rounds: (ROUNDS, leaves)."""
    rates = []
    for seed in range(ROUNDS):
        setting = main._replace(seed=seed)
        traces = mirrored(plan, probe, weights(plan, shapes, main, seed), setting)
        rates.append([read(None, pair, count=1).realised for pair in traces])
    return np.array(rates)
