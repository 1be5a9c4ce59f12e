r"""Where the final weights of a run are from: the initial weights, or which updates."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import optax

from decayax._budget.checks import as_number, whole
from decayax._budget.measured import measured_rates
from decayax._budget.report import Budget, Phase, spread
from decayax._core.strength import is_concrete, ScalarOrSchedule, short_repr
from decayax.rates._checks import NONNEGATIVE, require
from decayax.rates._timescales import all_steps


NAME = "budget"
TOLERANCE = 0.01  # of the sum of the rates: momentum needs some steps to amplify a rate
PLATEAU = 0.9  # the plateau is where the learning rate is above this part of its peak
Phases = Mapping[str, tuple[int, int]]


def budget(
    optimizer: optax.GradientTransformation | None = None,
    params: optax.Params | None = None,
    *,
    learning_rate: ScalarOrSchedule | None = None,
    weight_decay: ScalarOrSchedule | None = None,
    rate: ScalarOrSchedule | None = None,
    steps: int,
    phases: Phases | str = "auto",
    steps_per_epoch: float | None = None,
) -> Budget:
    r"""Where the final weights of a run are from.

    .. math:: \mathrm{left}_t = \prod_{s \ge t}(1 - d_s), \qquad
        C_0 = \mathrm{left}_0, \qquad C_t = \mathrm{left}_{t+1} - \mathrm{left}_t

    The final weights are :math:`C_0\theta_0 + \sum_t C_t q_t`: a weighted average of
    the initial weights and of what each step pulled them to,
    :math:`q_t = -\gamma_t u_t/d_t`. This holds for every decoupled decay and every
    optimizer. Weights that a mask excludes keep everything.

    There are three ways to give the rates :math:`d_t`: the learning rate and the weight
    decay, which are multiplied; the rate itself, for any other convention; or an
    optimizer and its parameters, which are measured by :func:`audit`.

    Args:
        optimizer: any Optax optimizer. A decay that is not a rate, such as L2 before
            Adam, is refused.
        params: its parameters, or their ``jax.ShapeDtypeStruct``s.
        learning_rate: :math:`\gamma_t`, a number or a schedule. With ``rate`` or an
            optimizer it is optional: it finds the phases and weighs the updates.
        weight_decay: the lr-scaled :math:`\lambda_t`, a number or a schedule:
            :math:`d_t = \gamma_t\lambda_t`.
        rate: :math:`d_t` in [0, 1], a number or a schedule, such as
            ``rates.proportional_schedule(...)`` for an independent decay.
        steps: :math:`T`, the length of the run. Schedules are evaluated at the int32
            steps 0 ... T - 1, as Optax counts.
        phases: "auto" cuts the run where the learning rate (or else the rate) reaches
            90 % of its peak first and last: warm-up, plateau, cool-down. Or a dict,
            name -> (first step, last step + 1), in order and without gaps.
        steps_per_epoch: to state the timescale in epochs too.

    Returns:
        A :class:`Budget`. ``print`` it for a table.

    Example:
        >>> import decayax as dx, optax
        >>> schedule = optax.warmup_cosine_decay_schedule(0.0, 6e-4, 100, 5000)
        >>> print(dx.budget(learning_rate=schedule, weight_decay=0.1, steps=5000))
        from           steps  of the weights  updates left
        init               -          86.07%
        warm-up         0-89           0.21%        86.18%
        plateau      90-1103           5.22%        88.87%
        cool-down  1104-4999           8.50%        95.69%
        timescale at the peak 16,667 steps = 3.33 of the run; 0.15 e-folds of decay
        half of what is not init is from the last 3,577 steps

    Reference:
        Bergsma et al., https://arxiv.org/abs/2502.15938: learning rate and weight decay
        imply the coefficients of this average.
    """
    steps = whole(NAME, "steps", steps)
    if steps_per_epoch is not None:
        steps_per_epoch = as_number(NAME, "steps_per_epoch", steps_per_epoch)
    gamma = None
    if learning_rate is not None:
        gamma = _values(learning_rate, "learning_rate", steps)
    if optimizer is None:
        found = [((), _given_rates(gamma, weight_decay, rate, steps), "")]
    elif params is None or weight_decay is not None or rate is not None:
        raise TypeError(
            f"{NAME}: an optimizer needs params, and no weight_decay or rate: they are "
            "measured. Pass budget(optimizer, params, steps=...)."
        )
    else:
        found = measured_rates(optimizer, params, steps)
    found = sorted(found, key=lambda each: -each[1].max())
    bounds = _phases(phases, spread(found[0][1]) if gamma is None else gamma)
    first, *others = (
        _budget_of(rates, gamma, bounds, paths, note, steps_per_epoch)
        for paths, rates, note in found
    )
    return dataclasses.replace(first, others=tuple(others))


def _budget_of(
    rates: np.ndarray,
    gamma: np.ndarray | None,
    bounds: Phases,
    paths: tuple[str, ...],
    note: str,
    steps_per_epoch: float | None,
) -> Budget:
    """The budget of parameters with the same rates."""
    left = left_of(rates)
    return Budget(
        rates=rates,
        left=left,
        phases=_summed(bounds, left, np.ones_like(rates) if gamma is None else gamma),
        paths=paths,
        note=note,
        in_proportion=None if gamma is None else _in_proportion(spread(rates), gamma),
        steps_per_epoch=steps_per_epoch,
    )


def left_of(rates: np.ndarray) -> np.ndarray:
    """left_0 ... left_T of rates in [0, 1], in float64; products do not underflow."""
    with np.errstate(divide="ignore"):
        log_kept = np.log1p(-rates)
    return np.exp(np.append(np.cumsum(log_kept[::-1])[::-1], 0.0))


def _given_rates(gamma: Any, weight_decay: Any, rate: Any, steps: int) -> np.ndarray:
    """The rates of two schedules, or of one."""
    if (rate is None) == (weight_decay is None) or (rate is None and gamma is None):
        raise TypeError(
            f"{NAME}: pass learning_rate and weight_decay, or rate, or an optimizer "
            "and params. For example budget(learning_rate=1e-3, weight_decay=0.1, "
            "steps=10_000)."
        )
    if rate is not None:
        rates, of = _values(rate, "rate", steps), "rate"
    else:
        rates = gamma * _values(weight_decay, "weight_decay", steps)
        of = "learning_rate * weight_decay"
    if rates.max() > 1.0:
        raise ValueError(
            f"{NAME}: {of} must be <= 1, got {rates.max():.4g} at step "
            f"{rates.argmax()}. Such a decay changes the sign of the weights."
        )
    return rates


def _values(value: ScalarOrSchedule, argument: str, steps: int) -> np.ndarray:
    """The values of a number or a schedule at all steps: finite and >= 0."""
    if callable(value):
        value = all_steps(value, steps)
        argument = f"the value of the {argument} schedule"
    values = require(NAME, argument, value, NONNEGATIVE)
    if not is_concrete(values) or np.shape(values) not in ((), (steps,)):
        raise ValueError(
            f"{NAME}: {argument} must be concrete, and one number or one per step, got "
            f"{short_repr(value)}. Pass a number or a schedule."
        )
    return np.broadcast_to(np.asarray(values, np.float64), (steps,))


def _phases(phases: Phases | str, shape: np.ndarray) -> dict[str, tuple[int, int]]:
    """The steps of each phase: the first, and the last + 1."""
    steps = len(shape)
    if isinstance(phases, str) and phases == "auto":
        high = np.flatnonzero(shape >= PLATEAU * shape.max())
        cuts = [0, int(high[0]), int(high[-1]) + 1, steps]
        named = zip(("warm-up", "plateau", "cool-down"), cuts, cuts[1:], strict=False)
        return {name: (first, stop) for name, first, stop in named if first < stop}
    named = dict(phases) if isinstance(phases, Mapping) else {}
    are_phases = all(map(_is_phase, named.items()))
    if not are_phases or not _is_cut(list(named.values()), steps):
        raise ValueError(
            f"{NAME}: phases must be 'auto' or a dict that covers the steps 0 to "
            f"{steps} in order and without gaps, got {short_repr(phases)}. Pass for "
            f"example {{'all': (0, {steps})}}."
        )
    return named


def _is_phase(item: tuple[Any, Any]) -> bool:
    name, bounds = item
    is_pair = isinstance(bounds, tuple | list) and len(bounds) == 2
    whole = is_pair and all(isinstance(step, int | np.integer) for step in bounds)
    return isinstance(name, str) and whole


def _is_cut(bounds: list[tuple[int, int]], steps: int) -> bool:
    """Whether the phases follow each other from 0 to the last step."""
    starts, stops = [first for first, _ in bounds], [stop for _, stop in bounds]
    in_order = all(first < stop for first, stop in bounds)
    return in_order and [*starts, steps] == [0, *stops]


def _summed(
    bounds: Mapping[str, tuple[int, int]], left: np.ndarray, weights: np.ndarray
) -> tuple[Phase, ...]:
    """The phases with their sums. Differences of `left` do not add up errors."""
    phases = []
    for name, (first, stop) in bounds.items():
        own, kept = weights[first:stop], left[first + 1 : stop + 1]
        # A learning rate of 0 makes no updates: then the mean over the steps.
        mean = own @ kept / own.sum() if own.any() else kept.mean()
        share = float(left[stop] - left[first])
        phases.append(Phase(name, first, stop, share, float(mean)))
    return tuple(phases)


def _in_proportion(rates: np.ndarray, gamma: np.ndarray) -> bool:
    """Whether the rate is one multiple of the learning rate at nearly all steps."""
    factor = rates.sum() / (gamma.sum() or 1.0)
    return bool(np.abs(rates - factor * gamma).sum() <= TOLERANCE * rates.sum())
