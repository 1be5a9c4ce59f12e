"""Values with units: checked, then in float64 where they are known, else in JAX.

A conversion is one formula over quantities. Python numbers and NumPy arrays give
float64 (a Python float if 0-d), JAX arrays and tracers give JAX arrays, and where a
quantity is a schedule the conversion is one.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from decayax._core.dtypes import compute_dtype, is_inexact
from decayax._core.strength import is_concrete, require_real


Converted = Any  # a float, a NumPy or JAX array, or a schedule of these
Schedule = Callable[[Any], Any]


class Rule(NamedTuple):
    """What a known value must fulfil, in code, in words, and what to write instead."""

    holds: Callable[[np.ndarray], Any]
    words: str
    hint: str


class Quantity(NamedTuple):
    """The rules of an argument, and whether a schedule of it makes sense."""

    rules: tuple[Rule, ...]
    schedule: bool = False
    one: bool = False  # no array
    label: str = "the result"  # in errors, where it is what comes out


FINITE = Rule(np.isfinite, "finite", "Write a finite number.")
NOT_NAN = Rule(lambda x: ~np.isnan(x), "a number", "Write a number > 0, inf for never.")
IN_RANGE = Rule(
    lambda x: ~np.isnan(x), "a number", "The arguments are beyond the range of float64."
)
AT_LEAST_0 = Rule(lambda x: x >= 0, ">= 0", "Write it without the minus sign.")
ABOVE_0 = Rule(lambda x: x > 0, "> 0", "Write a number above 0.")
BELOW_1 = Rule(
    lambda x: x < 1,
    "< 1",
    "It is the share of a weight lost in one step: 1 erases the weight, more flips its "
    "sign. Write a smaller weight decay, or check its convention.",
)
SLOWER = BELOW_1._replace(
    hint="It is the share of a weight lost in one step, and 1 erases the weight. Write "
    "a longer time, or a larger share that is left."
)
ABOVE_1 = Rule(
    lambda x: x > 1,
    "> 1",
    "After one step or less the rate 1/timescale would be 1 or more, which erases the "
    "weights or flips their sign. Write a longer timescale.",
)
SHARE_LOST = Rule(lambda x: x > 0, "> 0", "Write the share that is left, in (0, 1].")
SHARE_LEFT = Rule(lambda x: x <= 1, "<= 1", "Write the share that is left, in (0, 1].")
WHOLE = Rule(lambda x: x == np.floor(x), "whole", "Write a whole number of steps.")

STRENGTH = Quantity((FINITE, AT_LEAST_0), schedule=True)
RATE = Quantity(
    (FINITE, AT_LEAST_0, BELOW_1), schedule=True, label="the resulting rate"
)
RATE_OF_TIME = RATE._replace(rules=(FINITE, AT_LEAST_0, SLOWER))
DIVISOR = Quantity((FINITE, ABOVE_0), schedule=True)
AMOUNT = Quantity((FINITE, ABOVE_0))  # steps, samples, batch, a peak
ONE_AMOUNT = AMOUNT._replace(one=True)
STEPS = Quantity((FINITE, ABOVE_0, WHOLE))
DURATION = Quantity((NOT_NAN, ABOVE_0), schedule=True)
TIMESCALE = Quantity((NOT_NAN, ABOVE_1), schedule=True)
WIDTH = DURATION
SHARE = Quantity((SHARE_LOST, SHARE_LEFT))
RESULT = Quantity((IN_RANGE,))


def checked(name: str, argument: str, value: Any, quantity: Quantity) -> Any:
    """The value: float64 NumPy if it is no JAX array; if it is known, within rules.

    Args:
        name: public name of the function, for the error.
        argument: the argument's name, for the error.
        value: what the user gave.
        quantity: what it must fulfil.

    Raises:
        TypeError: not a real number or array (booleans, strings, None, containers).
        ValueError: known, and against a rule.
    """
    must = f"rates.{name}: {argument} must be"
    hint = "Write a number, an array" + (
        " or a schedule." if quantity.schedule else ", but no schedule."
    )
    require_real(must, value, hint)
    if quantity.one and np.shape(value) != ():
        shape = np.shape(value)
        raise ValueError(f"{must} one number, got shape {shape}. Write jax.vmap.")
    if not is_concrete(value):
        return value
    known = np.asarray(value, np.float64)
    for rule in quantity.rules:
        holds = np.asarray(rule.holds(known))
        if not holds.all():
            index = tuple(int(i) for i in np.argwhere(~holds)[0])
            where = f" at index {', '.join(map(str, index))}" if index else ""
            got = f"{float(known[index])}{where}"
            raise ValueError(f"{must} {rule.words}, got {got}. {rule.hint}")
    return value if isinstance(value, jax.Array) else known


def compute(formula: Callable[..., Any], **values: Any) -> Any:
    """``formula(xp, **values)`` in float64 NumPy, or in JAX where any value is."""
    arrays = {key: x for key, x in values.items() if isinstance(x, jax.Array)}
    if not arrays:
        with np.errstate(all="ignore"):  # 1/0 is inf: never
            known = {key: np.asarray(x, np.float64) for key, x in values.items()}
            return plain(formula(np, **known))
    dtype = compute_dtype(*map(_floating, arrays.values()))
    return formula(jnp, **{key: jnp.asarray(x, dtype) for key, x in values.items()})


def plain(value: Any) -> Any:
    """A Python float for a number, an array as it is."""
    if isinstance(value, jax.Array) or np.ndim(value):
        return value
    return float(value)


def _floating(array: jax.Array) -> jax.Array:
    """Integers, such as the step, in JAX's default precision."""
    return array if is_inexact(array) else array.astype(jnp.result_type(float))


def convert(
    name: str,
    formula: Callable[..., Any],
    result: Quantity,
    **given: tuple[Any, Quantity],
) -> Converted:
    """``formula(xp, **values)`` of checked values; a schedule where one of them is.

    Args:
        name: public name of the function, for errors.
        formula: the conversion, over ``xp``, NumPy or jax.numpy.
        result: the rules of what comes out.
        given: by argument, its value and quantity.
    """
    scheduled = {k for k, (v, q) in given.items() if callable(v) and q.schedule}
    values = {k: checked(name, k, *v) for k, v in given.items() if k not in scheduled}

    def at(step: Any) -> Any:
        now = {k: value_at(name, k, *given[k], step) for k in scheduled}
        out = compute(formula, **values, **now)
        return plain(checked(name, result.label, out, result))

    return at if scheduled else at(None)


def where_positive(xp: Any, numerator: Any, denominator: Any) -> Any:
    """The quotient; 0 where the denominator is 0, as a learning rate may be."""
    positive = denominator > 0
    return xp.where(positive, numerator / xp.where(positive, denominator, 1.0), 0.0)


def schedule_multiplier(
    name: str, xp: Any, learning_rate: Any, peak_learning_rate: Any
) -> Any:
    """η_t = γ_t/α; where both are known, a peak that is none is refused."""
    multiplier = learning_rate / peak_learning_rate
    if xp is np and (multiplier > 1.0 + 1e-6).any():  # float32 schedules round
        raise ValueError(
            f"rates.{name}: peak_learning_rate must be the largest learning rate, got "
            f"{np.min(peak_learning_rate)} and a learning rate of "
            f"{np.max(learning_rate)}. Write the schedule's peak."
        )
    return multiplier


def value_at(
    name: str, argument: str, schedule: Schedule, quantity: Quantity, step: Any
) -> Any:
    """What the schedule says at a step, checked."""
    when = f" at step {step}" if is_concrete(step) else ""
    argument = f"the value of the {argument} schedule{when}"
    return checked(name, argument, schedule(step), quantity)


def per_step(
    name: str, argument: str, value: Any, quantity: Quantity, steps: int
) -> Any:
    """The values of all steps, shape (steps,): from a number, an array, a schedule.

    What is known comes as float64 NumPy.
    """
    if callable(value):
        argument = f"the value of the {argument} schedule"
        value = all_steps(value, steps)
    value = checked(name, argument, value, quantity)
    value = np.asarray(value, np.float64) if is_concrete(value) else value
    if np.shape(value) not in ((), (steps,)):
        raise ValueError(
            f"rates.{name}: {argument} must be one number or one per step, got shape "
            f"{np.shape(value)} for {steps} steps. For several runs write jax.vmap."
        )
    xp = jnp if isinstance(value, jax.Array) else np
    return xp.broadcast_to(value, (steps,))


def all_steps(schedule: Schedule, steps: int) -> Any:
    """A schedule's values at 0 ... steps - 1.

    All at once where that works, else step by step: a schedule may branch on the step.
    One that calculates in Python keeps its float64.
    """
    first = schedule(np.int32(0))
    try:
        if isinstance(first, jax.Array):
            return jax.vmap(schedule)(jnp.arange(steps, dtype=jnp.int32))
        at_once = schedule(np.arange(steps, dtype=np.int32))
        if np.shape(at_once) == (steps,):
            return at_once
    except (TypeError, ValueError):
        pass
    values = [schedule(np.int32(step)) for step in range(steps)]
    xp = jnp if any(isinstance(value, jax.Array) for value in values) else np
    return xp.stack([xp.asarray(value) for value in values])
