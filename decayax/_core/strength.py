"""How strongly: one number λ ≥ 0, as a float, a 0-d array, a tracer or a schedule.

What is known while the program is being built is checked and becomes a Python float;
what is known only on the device passes through untouched and is never branched on.
"""

import math
import numbers
import reprlib
from collections.abc import Callable
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from decayax._core.dtypes import compute_dtype


Strength = float | jax.Array
ScalarOrSchedule = jax.typing.ArrayLike | Callable[[Any], jax.typing.ArrayLike]


SHRINK = "Write a number >= 0, such as 0.01, or 0.0 for none."
NUMBER = "Write one number >= 0."


def as_strength(name: str, argument: str, value: Any, cure: str = SHRINK) -> Strength:
    """Check one strength: a float where its value is known, else the array itself.

    Args:
        name: public name of the transform, for the error.
        argument: the argument's name, for the error.
        value: what the user gave.
        cure: what to write instead, for the error.

    Returns:
        A Python float for every value known now, the 0-d array for a tracer or an
        array spread over several processes.

    Raises:
        TypeError: not a real number (booleans, strings, None, containers).
        ValueError: not 0-d, negative, NaN or infinite.
    """
    must = f"{name}: {argument} must be"
    require_real(must, value, cure)
    shape = getattr(value, "shape", ())
    if shape != ():
        if cure is SHRINK:
            cure = "For a strength per parameter, give a tree of multipliers as mask=."
        raise ValueError(f"{must} one number, got an array of shape {shape}. {cure}")
    if isinstance(value, jax.Array) and not is_known(value):
        return value
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{must} finite, got {number}. {cure}")
    if number < 0:
        if cure is SHRINK:
            cure = (
                f"Write {-number}: where a minus sign belongs, the transform puts it."
            )
        raise ValueError(f"{must} >= 0, got {number}. {cure}")
    return number


def require_real(must: str, value: Any, cure: str) -> None:
    """Raise a TypeError, ``must`` what and its ``cure``, for all but real numbers."""
    if isinstance(value, bool | np.bool_):
        raise TypeError(f"{must} a number, got the boolean {value}. {cure}")
    if not isinstance(value, numbers.Real | np.generic | np.ndarray | jax.Array):
        raise TypeError(f"{must} a number, got {brief(value)}. {cure}")
    dtype = getattr(value, "dtype", np.dtype(float))
    if not any(jnp.issubdtype(dtype, kind) for kind in (jnp.floating, jnp.integer)):
        raise TypeError(f"{must} a real number, got an array of dtype {dtype}. {cure}")


def as_average_rate(name: str, argument: str, value: Any) -> Strength:
    """Check the decay rate β of a moving average: as a strength, and below 1."""
    cure = "Write a number in [0, 1), such as 0.9."
    rate = as_strength(name, argument, value, cure)
    if isinstance(rate, float) and rate >= 1.0:
        raise ValueError(
            f"{name}: {argument} must be < 1, got {rate}. {cure} "
            "(optax.inject_hyperparams rounds 0.999 to 1 where the parameters are "
            "bfloat16: give it hyperparam_dtype=jnp.float32.)"
        )
    return rate


def strength_at(
    name: str, argument: str, value: ScalarOrSchedule, step: jax.Array | None
) -> Strength:
    """The strength at a step: the value itself, or what the schedule says there."""
    cure = SHRINK if argument == "weight_decay" else NUMBER
    if callable(value):
        argument, value = f"the value of the {argument} schedule", value(step)
    return as_strength(name, argument, value, cure)


def product(name: str, **factors: ScalarOrSchedule) -> ScalarOrSchedule:
    """The product of two strengths, each checked under its own name, per step."""

    def at(step: jax.Array | None) -> Strength:
        return times(*(strength_at(name, k, v, step) for k, v in factors.items()))

    return at if any(map(callable, factors.values())) else at(None)


def times(a: Strength, b: Strength) -> Strength:
    """The product of two strengths, a float if both are known."""
    if isinstance(a, float) and isinstance(b, float):
        return a * b
    dtype = compute_dtype(*(x for x in (a, b) if not isinstance(x, float)))
    return jnp.asarray(a, dtype) * jnp.asarray(b, dtype)


def is_zero(strength: Strength) -> bool:
    """Whether the strength is known, and 0."""
    return isinstance(strength, float) and strength == 0.0


def is_known(value: Any) -> bool:
    """Whether the value can be read now: no tracer, nothing on another process."""
    if isinstance(value, jax.core.Tracer):
        return False
    return not isinstance(value, jax.Array) or value.is_fully_addressable


def brief(value: Any) -> str:
    """A value and its type in a few words, for an error."""
    return f"{reprlib.repr(value)} of type {type(value).__name__}"
