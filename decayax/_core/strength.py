"""Strengths: one number λ ≥ 0, as a float, a 0-d array, a tracer or a schedule.

A value that is concrete while the program is traced is checked and becomes a Python
float. A traced value passes through unchanged; the code never branches on it. A
multiplier of a mask may also be an array, for one strength per row, layer or head: a
concrete one is checked and becomes a NumPy array of float64.
"""

import itertools
import math
import numbers
import reprlib
from collections.abc import Callable
from typing import Any, TypeAlias, TypeGuard

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from decayax._core.dtypes import compute_dtype


# A real number or a 0-d array of one.
Scalar: TypeAlias = float | np.number | np.ndarray | jax.Array
Schedule: TypeAlias = Callable[[Any], jax.typing.ArrayLike]  # step -> value
ScalarOrSchedule: TypeAlias = Scalar | Schedule
# A checked strength: a float or a NumPy array if it is concrete, else a JAX array.
Concrete: TypeAlias = float | np.ndarray
Strength: TypeAlias = Concrete | jax.Array

STRENGTH_HINT = "Pass a number >= 0, such as 0.01, or 0.0 for no decay."
NUMBER_HINT = "Pass one number >= 0."


def as_strength(
    name: str, argument: str, value: Any, hint: str | None = None
) -> Strength:
    """Check one strength, which must be 0-d, finite and >= 0.

    The result is a Python float if the value is concrete, and the 0-d array itself if
    it is a tracer or is distributed over several processes. An error ends with the
    hint; None gives the hints for a weight decay.
    """
    must = f"{name}: {argument} must be"
    require_real(must, value, hint or STRENGTH_HINT)
    shape = getattr(value, "shape", ())
    if shape != ():
        per_parameter = (
            "For one strength per parameter, pass mask= a tree of numbers; for one per "
            "row, layer or head, pass mask= a tree of arrays."
        )
        raise ValueError(
            f"{must} one number, got an array of shape {shape}. {hint or per_parameter}"
        )
    if isinstance(value, jax.Array) and not is_concrete(value):
        return value
    number = float(value)
    _require_in_range(must, number, hint)
    return number


def as_strengths(name: str, argument: str, value: Any, hint: str) -> Strength:
    """Check one strength or an array of them: real, finite and >= 0.

    A concrete array becomes float64, so that it has the same value in a product as a
    Python float. The rest is as for `as_strength`.
    """
    if getattr(value, "shape", ()) == ():
        return as_strength(name, argument, value, hint)
    must = f"{name}: {argument} must be"
    require_real(must, value, hint)
    if not is_concrete(value):
        return value
    numbers = np.asarray(value, np.float64)
    wrong = numbers[~(np.isfinite(numbers) & (numbers >= 0))]
    if wrong.size:
        _require_in_range(must, float(wrong[0]), hint)
    return numbers


def _require_in_range(must: str, number: float, hint: str | None) -> None:
    if not math.isfinite(number):
        raise ValueError(f"{must} finite, got {number}. {hint or STRENGTH_HINT}")
    if number < 0:
        sign = f"Pass {-number}; the transform applies the minus sign itself."
        raise ValueError(f"{must} >= 0, got {number}. {hint or sign}")


def require_real(must: str, value: Any, hint: str) -> None:
    """Raise a TypeError unless the value is a real number or an array of them.

    The error is ``must`` ("adamw: weight_decay must be"), the reason and the hint.
    """
    if isinstance(value, bool | np.bool_):
        raise TypeError(f"{must} a number, got the boolean {value}. {hint}")
    if not isinstance(value, numbers.Real | np.generic | np.ndarray | jax.Array):
        raise TypeError(f"{must} a number, got {short_repr(value)}. {hint}")
    dtype = getattr(value, "dtype", np.dtype(float))
    if not any(jnp.issubdtype(dtype, kind) for kind in (jnp.floating, jnp.integer)):
        raise TypeError(f"{must} a real number, got an array of dtype {dtype}. {hint}")


def as_average_rate(name: str, argument: str, value: Any) -> Strength:
    """Check the decay rate β of a moving average: a number in [0, 1)."""
    hint = "Pass a number in [0, 1), such as 0.9."
    rate = as_strength(name, argument, value, hint)
    if isinstance(rate, float) and rate >= 1.0:
        raise ValueError(
            f"{name}: {argument} must be < 1, got {rate}. {hint} "
            "(optax.inject_hyperparams rounds 0.999 to 1 if the parameters are "
            "bfloat16: pass it hyperparam_dtype=jnp.float32.)"
        )
    return rate


def strength_at(
    name: str,
    argument: str,
    value: ScalarOrSchedule,
    step: jax.Array | None,
    hint: str | None = None,
) -> Strength:
    """The checked strength at a step: the value itself, or the schedule's value."""
    if callable(value):
        scheduled = f"the value of the {argument} schedule"
        return as_strength(name, scheduled, value(step), hint)
    return as_strength(name, argument, value, hint)


def times(a: Strength, b: Strength) -> Strength:
    """The product of two strengths; concrete if both are concrete."""
    if is_known(a) and is_known(b):
        return a * b
    a, b = _same_dtype(a, b)
    return a * b


def larger(a: Strength, b: Strength) -> Strength:
    """The larger of two strengths; concrete if both are concrete."""
    if isinstance(a, float) and isinstance(b, float):
        return max(a, b)
    if is_known(a) and is_known(b):
        return np.maximum(a, b)
    a, b = _same_dtype(a, b)
    return jnp.maximum(a, b)


def _same_dtype(a: Strength, b: Strength) -> tuple[jax.Array, jax.Array]:
    # A concrete strength takes the dtype of a traced one, as JAX's weak types do.
    dtype = compute_dtype(*(x for x in (a, b) if not is_known(x)))
    return jnp.asarray(a, dtype), jnp.asarray(b, dtype)


def is_known(strength: Strength) -> TypeGuard[Concrete]:
    """Whether a checked strength is concrete."""
    return isinstance(strength, float | np.ndarray)


def is_zero(strength: Strength) -> bool:
    """Whether the strength is concrete and 0; an array, if all of its numbers are."""
    if isinstance(strength, np.ndarray):
        return not strength.any()
    return isinstance(strength, float) and strength == 0.0


def equal_values(a: Any, b: Any) -> bool:
    """Whether two trees of any objects are equal; arrays, if shape and numbers are."""
    leaves, treedef = jax.tree.flatten(a)
    others, other_treedef = jax.tree.flatten(b)
    if treedef != other_treedef:
        return False
    return all(map(_equal_leaves, leaves, others))


def _equal_leaves(a: Any, b: Any) -> bool:
    arrays = [isinstance(x, np.ndarray | jax.Array) for x in (a, b)]
    if a is b or not any(arrays):
        return a is b or bool(a == b)
    # Two different tracers may have different values.
    return is_concrete(a) and is_concrete(b) and np.array_equal(a, b)


def is_concrete(value: Any) -> bool:
    """Whether this process can read the value now: not traced, fully addressable."""
    if isinstance(value, jax.core.Tracer):
        return False
    return not isinstance(value, jax.Array) or value.is_fully_addressable


def short_repr(value: Any) -> str:
    """A value and its type in a few words, for an error."""
    return f"{SHORT.repr(value)} of type {type(value).__name__}"


def _repr_dict(x: dict, level: int) -> str:
    """The first entries in their own order: `reprlib` sorts them."""
    first = itertools.islice(x.items(), SHORT.maxdict if level > 0 else 0)
    shown = [
        f"{SHORT.repr1(key, level - 1)}: {SHORT.repr1(entry, level - 1)}"
        for key, entry in first
    ]
    more = ["..."] if len(shown) < len(x) else []
    return "{" + ", ".join([*shown, *more]) + "}"


SHORT = reprlib.Repr()
SHORT.repr_dict = _repr_dict
