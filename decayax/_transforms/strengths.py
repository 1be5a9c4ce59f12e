"""The strength of a method at a step, and the rate of each parameter.

The audit reads the variable `weight_decay` of `rate_at`: see `_audit/declared.py`.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import numpy as np
import optax

from decayax._core.paths import leaves_with_path, Path, path_str
from decayax._core.strength import (
    as_strength,
    is_known,
    is_zero,
    NUMBER_HINT,
    ScalarOrSchedule,
    Strength,
    strength_at,
    times,
)
from decayax._transforms.trees import require_inexact
from decayax.masks._mask import Mask, resolve_nonzero_mask
from decayax.masks._resolve import MaskOrFn


# step -> strength; None instead of a step, at init, replaces the values of schedules,
# which are not known yet, with 1: 0 would accept every parameter.
RateAt: TypeAlias = Callable[[jax.Array | None], Strength]


def decay_rate(
    name: str,
    weight_decay: ScalarOrSchedule,
    learning_rate: ScalarOrSchedule | None = None,
    argument: str = "weight_decay",
) -> RateAt:
    """The function step -> λ_t, or γ_tλ_t behind the learning rate, checked.

    None instead of a step replaces the values of schedules, unknown at init, with 1:
    0 would accept every parameter.
    """
    weight_decay = checked(name, argument, weight_decay)
    if learning_rate is not None:
        learning_rate = checked(name, "learning_rate", learning_rate, NUMBER_HINT)

    def rate_at(step: jax.Array | None) -> Strength:
        rate = _value_at(name, argument, weight_decay, step)
        if learning_rate is None:
            return rate
        gamma = _value_at(name, "learning_rate", learning_rate, step, NUMBER_HINT)
        return times(gamma, rate)

    return rate_at


def strength_rate(
    name: str, argument: str, strength: ScalarOrSchedule, hint: str | None = None
) -> RateAt:
    """The function step -> strength, for what is not a decay: `decay_rate`."""
    strength = checked(name, argument, strength, hint)
    return lambda step: _value_at(name, argument, strength, step, hint)


def whole_rule(step: jax.Array | None) -> Strength:
    """The rate of a rule without a strength: the multiplier of the mask."""
    return 1.0


def require_parts(name: str, rates: dict[Path, Strength]) -> None:
    """Raise for a multiplier above 1: a projection has no strength to multiply."""
    for path, rate in rates.items():
        if is_known(rate) and np.max(rate, initial=0.0) > 1:
            raise ValueError(
                f"{name}: the mask's multiplier of {path_str(path)} must be <= 1, got "
                f"{np.max(rate):g}. A multiplier below 1 applies that part of the rule."
            )


def checked(
    name: str, argument: str, value: ScalarOrSchedule, hint: str | None = None
) -> ScalarOrSchedule:
    """A strength that is checked now, or a schedule, which is checked at each step."""
    if isinstance(value, Mask):
        raise TypeError(
            f"{name}: {argument} must be a number or a schedule, got the mask "
            f"{value!r}. Pass it as mask=."
        )
    return value if callable(value) else as_strength(name, argument, value, hint)


def _value_at(
    name: str,
    argument: str,
    value: ScalarOrSchedule,
    step: jax.Array | None,
    hint: str | None = None,
) -> Strength:
    if step is None and callable(value):
        return 1.0
    return strength_at(name, argument, value, step, hint)


def rate_by_path(
    name: str, strength: Strength, mask: MaskOrFn, params: optax.Params
) -> dict[Path, Strength]:
    """λ·multiplier by path, for the parameters that decay: a concrete 0 is left out."""
    multipliers = resolve_nonzero_mask(name, mask, params)
    # Most parameters share a multiplier: one product, not one operation for each.
    products: dict[Any, Strength] = {}
    rates: dict[Path, Strength] = {}
    for path, factor in multipliers.items():
        if is_zero(factor):  # a traced strength times 0 would be a traced 0
            continue
        key = factor if isinstance(factor, float) else (id(factor),)
        if key not in products:
            products[key] = times(strength, factor)
        if not is_zero(products[key]):
            rates[path] = products[key]
    for path, param in leaves_with_path(params):
        if path in rates:
            require_inexact(name, "parameter", path, param)
    return rates
