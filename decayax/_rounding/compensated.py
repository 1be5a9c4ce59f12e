r"""Compensated summation: what rounding cuts off a step is kept, and added to the next.

    s = θ + (ρ + Δ)        θ ← ⟦s⟧        ρ ← s − ⟦s⟧

The residual ρ is at most half a gap of θ, so that 16 bits hold it as a whole number of
65536ths of the gap: together with θ as many digits as float32, for bfloat16 and float16
alike. (In bfloat16 itself ρ would stop taking up steps below 2^{-17} of the weight, in
float16 it would be 0 for weights below 2^{-13}.)
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from decayax._core.paths import flatten_with_path, Path, path_str
from decayax._rounding.grid import (
    binade_of,
    in_gaps,
    in_numbers,
    landing,
    nearest,
    two_sum,
)
from decayax._rounding.leaves import around, checked, is_rounded
from decayax._transforms.kernel import map_leaves


PARTS = 2.0**16  # of a gap
MOST = 2.0**15 - 1.0  # half a gap, as far as an int16 goes


class CompensationState(NamedTuple):
    """The state of ``compensate_rounding``."""

    residual: Any  # int16 like each parameter, in 2^-16 gaps; 0 where it is not rounded


def compensated(
    param: jax.Array, residual: jax.Array, step: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The update that lands on the nearest number, and the new residual."""
    dtype = param.dtype
    theta, step = (jnp.asarray(x, jnp.float32) for x in (param, step))
    gaps = residual.astype(jnp.float32) / PARTS
    held = in_numbers(gaps, binade_of(theta, dtype), dtype)
    total = two_sum(theta, jnp.where(jnp.isfinite(theta), held, 0.0) + step)
    target = nearest(total, dtype)
    off = (total.rounded - target) + total.rest
    parts = in_gaps(off, binade_of(target, dtype), dtype) * PARTS
    kept = jnp.where(jnp.isfinite(parts), jnp.clip(jnp.round(parts), -MOST, MOST), 0.0)
    return landing(target, theta, step), kept.astype(jnp.int16)


def compensate_rounding() -> optax.GradientTransformationExtraArgs:
    r"""The last stage of a chain for 16-bit parameters: nothing of a step is lost.

    .. math:: s = \theta + (\rho + \Delta), \qquad
        \Delta \leftarrow \llbracket s\rrbracket - \theta, \qquad
        \rho \leftarrow s - \llbracket s\rrbracket

    It emits float32, so that ``optax.apply_updates`` lands on the nearest 16-bit number
    exactly; nothing may come after it. The stages before it see what they are given:
    for steps with all their digits give float32 gradients, or write
    :func:`with_compensation`.

    Returns:
        A transform of updates of any shape and dtype: float32 for bfloat16 and float16
        parameters; for others as they came. Its state is the residual, an int16 for
        each weight, in 65536ths of the gap (0 where nothing is rounded). Parameters
        that anything else changes meanwhile are off by half a gap at most.

    Raises:
        TypeError: complex or 8-bit parameters.
        ValueError: no params; other shapes; the state of other parameters.

    Example:
        >>> import decayax as dx, jax.numpy as jnp, optax
        >>> decay = dx.independent_decay(1e-3)
        >>> optimizer = optax.chain(decay, dx.compensate_rounding())
        >>> params = jnp.ones(1, jnp.bfloat16)
        >>> state = optimizer.init(params)
        >>> for _ in range(3):
        ...     updates, state = optimizer.update(jnp.zeros(1), state, params)
        ...     params = optax.apply_updates(params, updates)
        ...     print(params, state[1].residual)
        [1] [-8389]
        [0.996094] [31981]
        [0.996094] [15269]

    Reference:
        Kahan, *Further remarks on reducing truncation errors*, CACM 8 (1965); for
        16-bit weights Zamirai et al., https://arxiv.org/abs/2010.06192, Algorithm 3.
        There the residual is a bfloat16.
    """
    name = "compensate_rounding"
    return checked(name, _compensated(name))


def _compensated(name: str) -> optax.GradientTransformationExtraArgs:
    def init(params: Any) -> CompensationState:
        residual = jax.tree.map(lambda p: jnp.zeros_like(p, jnp.int16), params)
        return CompensationState(residual)

    def update(updates, state, params=None, **extra_args):
        del extra_args
        flat, treedef = flatten_with_path(state.residual)
        residuals = dict(flat)

        def rounded(path: Path, update: Any, param: Any) -> Any:
            if not is_rounded(param):
                return update
            residual = residuals.get(path)
            if residual is None or jnp.shape(residual) != jnp.shape(param):
                raise ValueError(
                    f"{name}: the state holds no residual for {path_str(path)} of shape "
                    f"{jnp.shape(param)}: it is that of other parameters. Call init on "
                    "these."
                )
            update, residuals[path] = compensated(param, residual, update)
            return update

        updates = map_leaves(name, rounded, updates, params)
        return updates, CompensationState(treedef.unflatten(residuals.values()))

    return optax.GradientTransformationExtraArgs(init, update)


def with_compensation(
    optimizer: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    r"""An optimizer of whose steps, and decay, nothing is lost in 16-bit parameters.

    .. math:: s = \theta + (\rho + \Delta), \qquad
        \Delta \leftarrow \llbracket s\rrbracket - \theta, \qquad
        \rho \leftarrow s - \llbracket s\rrbracket

    The optimizer is shown gradients and parameters in float32 and keeps its state in
    float32 (for 16 bits see :func:`with_state_dtype`). Two further bytes per weight
    make the sum of all steps as exact as in float32, without randomness. Stands
    **outermost**: around ``optax.apply_if_finite``, ``MultiSteps`` and the like, and
    around :func:`track_decay`, which it would blind.

    Args:
        optimizer: any finished optimizer, ours or not.

    Returns:
        An optimizer whose updates are float32 where the parameters have 16 bits, so
        that ``optax.apply_updates`` lands on numbers of their dtype exactly. Leaves of
        32 bits and more get the optimizer's own updates.

    Raises:
        TypeError: no finished optimizer; complex or 8-bit parameters.
        ValueError: no params; other shapes; the state of other parameters.

    Example:
        >>> import decayax as dx, jax, jax.numpy as jnp, optax
        >>> def kept(optimizer, steps=100):
        ...     def step(_, carry):
        ...         params, state = carry
        ...         updates, state = optimizer.update(0 * params, state, params)
        ...         return optax.apply_updates(params, updates), state
        ...     params = jnp.ones(1, jnp.bfloat16)
        ...     carry = params, optimizer.init(params)
        ...     params, _ = jax.lax.fori_loop(0, steps, step, carry)
        ...     return params
        >>> adamw = optax.adamw(1e-3, weight_decay=0.1)
        >>> print(kept(adamw), kept(dx.with_compensation(adamw)))  # 0.99005
        [1] [0.988281]

    Reference:
        Zamirai et al., *Revisiting bfloat16 training*,
        https://arxiv.org/abs/2010.06192, Algorithm 3.
    """
    name = "with_compensation"
    return around(name, optimizer, _compensated(name))
