r"""Constrained parameter regularisation: decay only while the norm exceeds a bound.

    ℓ ← max(0, ℓ + ρ/n·(‖θ̃‖² − κ)),   θ ← θ̃ − 2ℓθ̃,   θ̃ = θ + Δ

The dual variable ℓ grows while the bound κ on ‖θ‖² is violated, and falls while it is
not: there is no strength to tune, but a bound to choose.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax

from decayax._core.paths import Path
from decayax._core.strength import as_strength, NUMBER_HINT, Scalar, short_repr
from decayax._transforms.geometry import ArrayLeaf, Axes, inner, times_real
from decayax._transforms.kernel import Leaf, Method, transform
from decayax._transforms.memory import Remember
from decayax._transforms.per_leaf import (
    axes_of,
    AxisTree,
    norm_shape,
    sizes_of,
    ValueTree,
)
from decayax._transforms.strengths import strength_rate, whole_rule
from decayax.masks._resolve import MaskOrFn


NAME = "constrain_norm"
UNKNOWN = jnp.inf  # the bound before it is chosen


def shrink(leaf: Leaf) -> ArrayLeaf:
    """Δ − 2ℓmθ̃: the gradient step on ℓ(‖θ̃‖² − κ), at most to 0."""
    rate = leaf.rate * jnp.minimum(2 * leaf.memory["dual"], 1)
    return leaf.update - times_real(rate, leaf.landed)


def ascended(
    dual: jax.Array, square: jax.Array, bound: jax.Array, step_size: jax.Array
) -> jax.Array:
    """max(0, ℓ + ρ(‖θ̃‖² − κ)); 0 while the bound is not known."""
    known = bound != UNKNOWN  # NaN must show
    excess = jnp.where(known, square - jnp.where(known, bound, 0), 0)
    return jnp.where(known, jnp.maximum(dual + step_size * excess, 0), 0)


def at_inflection(
    memory: Mapping[str, jax.Array], square: jax.Array, step: jax.Array, every: int
) -> dict[str, jax.Array]:
    """The bound at the first measurement of ‖θ‖² that grew less than the one before."""
    due = step % every == 0
    growth = square - memory["square"]
    slower = growth < memory["growth"]  # False while one of them is NaN
    chosen = due & slower & (memory["bound"] == UNKNOWN)
    return {
        "bound": jnp.where(chosen, square, memory["bound"]),
        "growth": jnp.where(due, growth, memory["growth"]),
        "square": jnp.where(due, square, memory["square"]),
    }


def constrain_norm(
    bound: ValueTree | None = None,
    *,
    initial_factor: Scalar | None = None,
    after_steps: int | None = None,
    inflection_every: int | None = None,
    step_size: Scalar = 1.0,
    axis: AxisTree = None,
    mask: MaskOrFn = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Keep the squared norm of the weights below a bound, by an augmented Lagrangian.

    .. math:: \ell \leftarrow \max\!\left(0,\ \ell + \tfrac{\rho}{n}
        (\|\tilde\theta\|^2 - \kappa)\right), \qquad
        \theta \leftarrow \tilde\theta - 2\ell\, m\,\tilde\theta, \qquad
        \tilde\theta = \theta + \Delta_t

    Put it **last** in the chain, on the finished update. While the norm stays below the
    bound, nothing decays; while the norm exceeds it, the rate :math:`2\ell` grows. Each
    parameter finds its own strength. Exactly one of the four arguments ``bound``,
    ``initial_factor``, ``after_steps`` and ``inflection_every`` chooses :math:`\kappa`.

    Args:
        bound: :math:`\kappa` on :math:`\|\theta\|^2`: a number, or a tree (or prefix)
            of numbers or arrays that broadcast against the parameters.
        initial_factor: :math:`\kappa` is this factor times :math:`\|\theta_0\|^2`.
        after_steps: :math:`\kappa` is :math:`\|\theta\|^2` after so many updates, such
            as those of the warm-up; nothing decays before.
        inflection_every: measure :math:`\|\theta\|^2` every so many updates;
            :math:`\kappa` is the first value that grew less than the one before it.
        step_size: :math:`\rho`, the step of the dual variable; :math:`n` is the number
            of weights in the norm. :math:`\ell` grows by :math:`\rho` times the mean
            excess of :math:`\theta^2`. With weights of size 1, start with 0.01: the
            default erases them. (The official code has no limit :math:`2\ell \le 1`,
            and such weights diverge.)
        axis: the axes of the norm, as for :func:`fixed_norm`.
        mask: :math:`m`, as for :func:`decoupled_decay`.

    Returns:
        A transform, as for :func:`decoupled_decay`. For each norm its state holds
        :math:`\ell` and, unless it is given, :math:`\kappa`; two more numbers for
        ``inflection_every``.

    Example:
        >>> import optax, decayax as dx, jax.numpy as jnp
        >>> opt = optax.chain(optax.sgd(0.5), dx.constrain_norm(1.0, step_size=0.125))
        >>> params = jnp.array([2.0])
        >>> state = opt.init(params)
        >>> for _ in range(2):  # l is 3/8 above the bound, then 9/32 below it
        ...     updates, state = opt.update(jnp.zeros(1), state, params)
        ...     params = params + updates
        ...     print(params)
        [0.5]
        [0.21875]

    Reference:
        Franke et al., https://arxiv.org/abs/2311.09058 (CPR), with the
        four ways of its code to choose the bound.
    """
    ways = {
        "bound": bound,
        "initial_factor": initial_factor,
        "after_steps": after_steps,
        "inflection_every": inflection_every,
    }
    _require_one(ways)
    axes = axes_of(NAME, axis)
    rho_at = strength_rate(NAME, "step_size", step_size, NUMBER_HINT)
    remember, bound_at = _bound(ways, axes)

    def zero(path: Path, x: ArrayLeaf) -> jax.Array:
        return jnp.zeros_like(inner(x, x, axes(path, x)))

    def refresh(leaf: Leaf) -> dict[str, jax.Array]:
        over = axes(leaf.path, leaf.param)
        kappa, fresh = bound_at(leaf, inner(leaf.param, leaf.param, over))
        square = inner(leaf.landed, leaf.landed, over)
        weights = max(leaf.landed.size // max(square.size, 1), 1)  # a leaf may be empty
        rho = jnp.asarray(rho_at(leaf.step), square.dtype) / weights
        dual = ascended(leaf.memory["dual"], square, kappa, rho)
        return {**fresh, "dual": dual}

    remember = {"dual": zero, **remember}
    return transform(Method(NAME, whole_rule, mask, shrink, remember, refresh))


def _require_one(ways: Mapping[str, Any]) -> None:
    """Raise unless exactly one way to choose the bound is given, and is right."""
    given = [way for way, value in ways.items() if value is not None]
    if len(given) != 1:
        raise TypeError(
            f"{NAME}: exactly one of {', '.join(ways)} chooses the bound, got "
            f"{' and '.join(given) or 'none of them'}."
        )
    for way, least in (("after_steps", 0), ("inflection_every", 1)):
        value = ways[way]
        is_count = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and not (is_count and value >= least):
            raise ValueError(
                f"{NAME}: {way} must be an integer >= {least}, got "
                f"{short_repr(value)}. Pass a number of updates."
            )


# (leaf, ‖θ‖²) -> the bound, and the new memory of it
BoundAt: TypeAlias = Callable[[Leaf, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]


def _bound(
    ways: Mapping[str, Any], axes: Callable[[Path, Any], Axes]
) -> tuple[Remember, BoundAt]:
    """What the state keeps of a bound, and the function that chooses it."""
    if ways["bound"] is not None:
        given = sizes_of(NAME, "bound", ways["bound"], partial(norm_shape, axes))
        return {}, lambda leaf, square: (given(leaf.path, leaf.param), {})

    def square_at_init(path: Path, x: ArrayLeaf) -> jax.Array:
        return inner(x, x, axes(path, x))

    def constant(value: float) -> Callable[[Path, ArrayLeaf], jax.Array]:
        return lambda path, x: jnp.full_like(square_at_init(path, x), value)

    if ways["initial_factor"] is not None:
        factor = as_strength(NAME, "initial_factor", ways["initial_factor"])

        def scaled(path: Path, x: ArrayLeaf) -> jax.Array:
            square = square_at_init(path, x)
            return jnp.asarray(factor, square.dtype) * square

        return {"bound": scaled}, lambda leaf, square: (leaf.memory["bound"], {})

    unknown: Remember = {"bound": constant(UNKNOWN)}
    if ways["after_steps"] is not None:

        def after(leaf: Leaf, square: jax.Array):
            bound = leaf.memory["bound"]
            is_now = (leaf.step >= ways["after_steps"]) & (bound == UNKNOWN)
            kappa = jnp.where(is_now, square, bound)
            return kappa, {"bound": kappa}

        return unknown, after

    def inflection(leaf: Leaf, square: jax.Array):
        every = ways["inflection_every"]
        fresh = at_inflection(leaf.memory, square, leaf.step, every)
        return fresh["bound"], fresh

    # NaN until they are measured: the counter may have started in another optimizer.
    measured = {"square": constant(jnp.nan), "growth": constant(jnp.nan)}
    return {**unknown, **measured}, inflection
