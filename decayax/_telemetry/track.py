"""An optimizer that measures its own decay every k-th step."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from decayax._telemetry.measure import measure_step, Sums
from decayax._transforms.kernel import (
    increment,
    require_optimizer,
    require_params,
    require_state,
)


NAME = "track_decay"


class TrackDecayState(NamedTuple):
    """The state of ``track_decay``."""

    step: jax.Array  # int32[]: updates so far
    sums: Any  # the params' tree with float32[8] leaves: the last measured `Sums`
    inner: optax.OptState  # of the wrapped optimizer


def track_decay(
    optimizer: "optax.GradientTransformation", *, every: int = 100
) -> "optax.GradientTransformationExtraArgs":
    r"""An optimizer that also measures its own decay, every k-th step.

    .. math:: D = \mathrm d\Delta(\theta)[\theta], \qquad
        \mathrm{rate} = -\langle D, \theta\rangle / \|\theta\|^2

    The updates are bitwise those of the optimizer. The state holds the last
    measurement; :func:`decay_stats` reads it.

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

    def init(params: optax.Params) -> TrackDecayState:
        # One array for each leaf and not one for all: a jitted step may donate them.
        sums = jax.tree.map(
            lambda _: jnp.zeros((len(Sums._fields),), jnp.float32), params
        )
        return TrackDecayState(jnp.zeros((), jnp.int32), sums, optimizer.init(params))

    def update(updates, state, params: Any = None, **extra_args):
        require_params(NAME, params)
        require_state(NAME, state, TrackDecayState)

        def step(inner, params):
            return inner_update(updates, inner, params, **extra_args)

        new_updates, new_inner = step(state.inner, params)
        # It computes the updates again. If it shared those above, XLA would have to
        # keep them in every step.
        measure = functools.partial(measure_step, step, state.inner, params)
        sums = jax.lax.cond(state.step % every == 0, measure, lambda: state.sums)
        return new_updates, TrackDecayState(increment(state.step), sums, new_inner)

    return optax.GradientTransformationExtraArgs(init, update)
