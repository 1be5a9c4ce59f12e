"""Conversions: one formula over checked values, in float64 NumPy or in JAX."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from decayax._core.dtypes import compute_dtype, is_inexact
from decayax._core.strength import is_concrete, require_real, ScalarOrSchedule, Schedule


# The result has the type of an argument if all other arguments are numbers. The last
# constraint is for unions: a type checker takes the first constraint that fits.
Value = TypeVar("Value", float, np.ndarray, jax.Array, Schedule, ScalarOrSchedule)
Real: TypeAlias = float | np.number
# The type of the other arguments that are arrays: the result may be an array then.
A = TypeVar("A", bound=np.ndarray | jax.Array)


class Domain(NamedTuple):
    """The values that an argument or a result may have."""

    contains: Callable[[np.ndarray], Any]  # elementwise; False for NaN
    words: str  # "must be {words}"
    hint: str  # what to pass instead
    schedule: bool = False  # whether the argument may be a schedule


NONNEGATIVE = Domain(
    lambda x: (x >= 0) & np.isfinite(x),
    "finite and >= 0",
    "Pass a finite number without a minus sign.",
    schedule=True,
)
POSITIVE = Domain(
    lambda x: (x > 0) & np.isfinite(x), "finite and > 0", "Pass a finite number > 0."
)
RATE = Domain(
    lambda x: (x >= 0) & (x < 1),
    "the fraction of a weight that one step removes, in [0, 1)",
    "Pass a number from 0 to below 1: 1 erases the weight, more flips its sign.",
    schedule=True,
)
WHOLE = Domain(
    lambda x: (x > 0) & np.isfinite(x) & (x == np.floor(x)),
    "a whole number > 0",
    "Pass a whole number of steps.",
)
COUNT = Domain(
    lambda x: (x >= 0) & np.isfinite(x),
    "finite and >= 0",
    "Pass the number of updates so far: 0 in the first one.",
)
DURATION = Domain(
    lambda x: x > 0, "> 0", "Pass a number > 0, or inf for no decay.", schedule=True
)
NUMBER = Domain(
    lambda x: ~np.isnan(x), "a number", "The arguments exceed the range of float64."
)


def require(name: str, argument: str, value: Any, domain: Domain) -> Any:
    """Check one value, if it is concrete; return float64 NumPy or the JAX array."""
    must = f"{name}: {argument} must be"
    kinds = ", an array or a schedule" if domain.schedule else " or an array"
    require_real(must, value, f"Pass a number{kinds}.")
    if not is_concrete(value):
        return value
    known = np.asarray(value, np.float64)
    inside = np.asarray(domain.contains(known))
    if not inside.all():
        index = tuple(np.argwhere(~inside)[0])
        where = f" at index {', '.join(map(str, index))}" if index else ""
        got = f"{float(known[index])}{where}"
        raise ValueError(f"{must} {domain.words}, got {got}. {domain.hint}")
    return value if isinstance(value, jax.Array) else known


def convert(
    name: str,
    formula: Callable[..., Any],
    *,
    result: Domain = NUMBER,
    of_step: bool = False,
    **given: tuple[Any, Domain],
) -> Any:
    """``formula(xp, **values)`` of checked values; a schedule if a value is one.

    ``given`` holds the value and the domain of each argument. With ``of_step``, the
    formula also takes the step, and the result is always a schedule.
    """
    scheduled = [k for k, (x, d) in given.items() if d.schedule and callable(x)]
    values = {k: require(name, k, *given[k]) for k in given if k not in scheduled}

    def at(step: Any) -> Any:
        when = f" at step {step}" if is_concrete(step) else ""
        now = dict(values)
        if of_step:
            now["step"] = require(name, "step", step, COUNT)
        for k in scheduled:
            schedule, domain = given[k]
            argument = f"the value of the {k} schedule{when}"
            now[k] = require(name, argument, schedule(step), domain)
        out = compute(formula, **now)
        require(name, "the result", out, result)
        return out

    return at if scheduled or of_step else at(None)


def as_schedule(result: Any) -> Any:
    """A result of ``convert`` as a schedule, which is constant if no value was one."""
    return result if callable(result) else lambda step: result


def compute(formula: Callable[..., Any], **values: Any) -> Any:
    """``formula(xp, **values)``, in JAX if a value is a JAX array, else in NumPy."""
    arrays = [x for x in values.values() if isinstance(x, jax.Array)]
    if not arrays:
        with np.errstate(all="ignore"):  # 1/0 is inf: a weight that never decays
            known = {k: np.asarray(x, np.float64) for k, x in values.items()}
            result = formula(np, **known)
        return result if np.ndim(result) else float(result)
    # An integer array, such as the step, counts as JAX's default float.
    default = jnp.result_type(float)
    dtype = compute_dtype(*(x if is_inexact(x) else x.astype(default) for x in arrays))
    return formula(jnp, **{k: jnp.asarray(x, dtype) for k, x in values.items()})
