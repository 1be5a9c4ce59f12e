"""An optimizer that measures its own decay every k-th step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool

from decayax._core.dtypes import is_inexact
from decayax._core.strength import is_concrete
from decayax._telemetry.measure import measure_step, sum_over_shards, zero_sums
from decayax._transforms.apply import apply_updates
from decayax._transforms.trees import (
    increment,
    require_optimizer,
    require_params,
    require_state,
)


NAME = "track_decay"


class TrackDecayState(NamedTuple):
    """The state of ``track_decay``."""

    step: jax.Array  # int32[]: updates so far
    due: jax.Array  # bool[]: no step was measured since the last multiple of `every`
    sums: Any  # the params' tree with float32[10] leaves: the last measured `Sums`
    inner: optax.OptState  # of the wrapped optimizer


def track_decay(
    optimizer: "optax.GradientTransformation", *, every: int = 100
) -> "optax.GradientTransformationExtraArgs":
    r"""An optimizer that also measures its own decay, every k-th step.

    .. math:: D = \mathrm d\Delta(\theta)[\theta], \qquad
        \mathrm{rate} = -\langle D, \theta\rangle / \|\theta\|^2

    The updates are bitwise those of the optimizer. The state holds the last
    measurement; :func:`decay_stats` reads it.

    Which step is measured? If k = 1, the step itself. Otherwise the *next* step,
    predicted with the present gradient: the weights and the state after this step, and
    the learning rate :math:`\gamma_{t+1}`. XLA would copy donated weights and states
    if the measurement read them before the step. The rate :math:`\gamma_{t+1}\lambda`
    of that step is exact. Its update counts the present gradient twice if the
    optimizer has momentum: the norm of noise is then 16% too large at β = 0.9.

    A step that changes no weight is not measured: an accumulating step of
    ``MultiSteps``, a step that ``apply_if_finite`` skips, a learning rate of 0. The
    first later step that changes a weight is measured instead.

    Inside ``shard_map`` (with ``check_vma=True``, the default) the sums are added up
    over the shards of each parameter.

    Args:
        optimizer: any Optax optimizer. Make ``track_decay`` the outermost wrapper,
            except for the rounding wrappers: place it inside those. Outside, it would
            only see the rounded update and report NaN.
        every: :math:`k \ge 1`. Steps 0, k, 2k, ... are measured; the other steps only
            pay for a comparison. Under ``vmap`` every step is measured.

    Example:
        >>> import decayax as dx, jax.numpy as jnp
        >>> params = {"kernel": jnp.ones((2, 2))}
        >>> optimizer = dx.track_decay(dx.adamw(1e-3, weight_decay=0.1))
        >>> _, state = optimizer.update(params, optimizer.init(params), params)
        >>> print(f"{dx.decay_stats(state)['kernel/decay_rate']:.6f}")
        0.000100
    """
    require_optimizer(NAME, optimizer)
    if not isinstance(every, int) or every < 1:
        raise ValueError(
            f"{NAME}: every must be an integer >= 1, got {every!r}. Pass 1 to measure "
            "every step."
        )
    # Annotated, because optax's type of `update` does not admit extra arguments.
    inner_update: Any = optimizer.update
    measure = _measure(optimizer)

    def init(params: optax.Params) -> TrackDecayState:
        step, due = jnp.zeros((), jnp.int32), jnp.zeros((), bool)
        return TrackDecayState(step, due, zero_sums(params), optimizer.init(params))

    def update(updates, state, params: Any = None, **extra_args):
        require_params(NAME, params)
        require_state(NAME, state, TrackDecayState)
        new_updates, new_inner = inner_update(
            updates, state.inner, params, **extra_args
        )
        if every == 1:
            point, predicted = (state.inner, params), lambda: new_updates
        else:
            # A donated array that anything but the step reads would be copied in each
            # step. So the measurement reads what the step has written.
            point = new_inner, apply_updates(params, new_updates)
            predicted = lambda: inner_update(updates, *point, **extra_args)[0]  # noqa: E731

        def measured():
            return jnp.zeros((), bool), measure(updates, *point, extra_args)

        due = state.due | (state.step % every == 0)
        not_measured = due, state.sums
        new_due, sums = _choose(
            due,
            lambda: _choose(_is_nonzero(predicted()), measured, not_measured),
            not_measured,
        )
        new_step = increment(state.step)
        return new_updates, TrackDecayState(new_step, new_due, sums, new_inner)

    return optax.GradientTransformationExtraArgs(init, update)


def _measure(optimizer: "optax.GradientTransformation") -> Callable[..., Any]:
    """The function (gradients, state, params, extra_args) -> sums of that step."""
    update: Any = optimizer.update

    def measure(grads, state, params, extra_args):
        def step(grads, state, params):
            return update(grads, state, params, **extra_args)

        return measure_step(optimizer.init, step, grads, state, params)

    jitted_measure = jax.jit(measure)

    def choose(*arguments):
        # Outside of jit, compile all of it, once. Otherwise each `cond` of the
        # optimizer would be compiled in each call.
        leaves = jax.tree.leaves(arguments)
        arrays = all(isinstance(x, jax.Array | np.ndarray) for x in leaves)
        is_eager = arrays and all(map(is_concrete, leaves))
        return jitted_measure(*arguments) if is_eager else measure(*arguments)

    return choose


def _choose(condition: Bool[Array, ""], new: Callable[[], Any], old: Any) -> Any:
    """``new()`` if the condition holds, else ``old``.

    Outside of jit, a ``cond`` would be compiled again in each step.
    """
    if is_concrete(condition):
        return new() if condition else old
    return jax.lax.cond(condition, new, lambda: old)


def _is_nonzero(updates: optax.Updates) -> Bool[Array, ""]:
    """Whether any update is not 0, on any shard; NaN counts as not 0."""
    leaves = [jnp.asarray(x) for x in jax.tree.leaves(updates) if is_inexact(x)]
    nonzero = [jnp.any(x != jnp.zeros((), x.dtype)).astype(jnp.int32) for x in leaves]
    return sum(map(sum_over_shards, nonzero), jnp.int32(0)) > 0
