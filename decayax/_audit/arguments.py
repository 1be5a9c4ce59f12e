"""What `optimizer.update` needs besides gradients, state and parameters."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import optax

from decayax._core.paths import leaves_with_path
from decayax._jaxpr.trace import ExtraArgs, OptimizerProgram, trace_optimizer


# What optimizers say in the error about an argument that `update` did not get.
MISSING_ARGUMENT = "missing|required|must be provided|need to pass"


class NotAuditable(Exception):
    """The optimizer needs something that the audit cannot make up: reason, hint."""


def extra_arguments(
    optimizer: Any, shapes: Any, given: dict[str, Any] | None
) -> tuple[ExtraArgs, OptimizerProgram]:
    """The keyword arguments that ``update`` needs, and its programs with them."""

    def given_only(step: Any) -> dict[str, Any]:
        return given or {}

    def with_value(step: Any) -> dict[str, Any]:
        # It falls, so that schedules that react to a plateau change nothing.
        return {"value": 1.0 / (1.0 + jnp.asarray(step, jnp.float32))} | (given or {})

    reasons = []
    for extra_args in (given_only, with_value):
        try:
            return extra_args, trace_optimizer(optimizer, shapes, extra_args)
        except Exception as error:
            refused = bool(reasons) and "'value'" in str(error)
            if not refused and not _is_missing(error, shapes):
                error.add_note(
                    "audit: the optimizer raised this error inside a jitted step."
                )
                raise
            reasons.append(error)
    raise _not_auditable(reasons[0])


def _is_missing(error: Exception, shapes: Any) -> bool:
    """Whether an error says that an argument of ``update`` is missing."""
    if isinstance(error, KeyError):
        # An optimizer reads extra_args["loss"]. A key of the params is another error.
        keys = {key for path, _ in leaves_with_path(shapes) for key in path}
        return len(error.args) == 1 and str(error.args[0]) not in keys
    unbound_axis = isinstance(error, NameError) and "axis name" in str(error)
    return unbound_axis or re.search(MISSING_ARGUMENT, str(error)) is not None


def _not_auditable(error: Exception) -> NotAuditable:
    if isinstance(error, NameError):
        axis = str(error).split(":")[-1].split()[0].strip("'\"`.")
        return NotAuditable(
            f"the optimizer communicates over an axis that is not bound ({error}).",
            f"Pass axis_names=({axis!r},).",
        )
    reason = f"it needs {error}" if isinstance(error, KeyError) else str(error)
    return NotAuditable(
        f"the audit cannot make up an argument of the optimizer ({reason}).",
        "Pass it in extra_args=.",
    )


def with_axis_names(optimizer: Any, names: tuple[str, ...]) -> Any:
    """The optimizer inside a ``vmap`` of size 1 for each name, for ``pmean``."""
    for name in names:
        optimizer = _with_axis_name(optimizer, name)
    return optimizer


def _with_axis_name(optimizer: Any, name: str) -> Any:
    def mapped(function: Any, *args: Any, **kwargs: Any) -> Any:
        one = jax.vmap(lambda _: function(*args, **kwargs), axis_name=name)
        return jax.tree.map(lambda x: x[0], one(jnp.zeros(1)))

    return optax.GradientTransformationExtraArgs(
        lambda params: mapped(optimizer.init, params),
        lambda updates, state, params=None, **extra_args: mapped(
            optimizer.update, updates, state, params, **extra_args
        ),
    )
