r"""Compensated summation: the rounding error of a step is added to the next step.

    s = θ + (ρ + Δ)        θ ← ⟦s⟧        ρ ← s − ⟦s⟧

⟦·⟧ is round-to-nearest and ρ the residual. It is at most half an ulp of θ, so an int16
holds it in units of 2^{-16} ulp. Weight and residual together are as accurate as
float32, for bfloat16 and float16. (A bfloat16 residual would not change under updates
below 2^{-17} of the weight; a float16 residual would be 0 for weights below 2^{-13}.)
"""

from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int16

from decayax._core.dtypes import dtype_of
from decayax._core.paths import flatten_with_path, Path, path_str
from decayax._rounding.grid import (
    binade_of,
    Floats,
    Floats32,
    from_ulps,
    round_to_nearest,
    rounded_update,
    to_ulps,
    two_sum,
)
from decayax._rounding.leaves import (
    check_params,
    is_rounded,
    require_same_width,
    with_rounding,
)
from decayax._transforms.trees import map_leaves


Residual: TypeAlias = Int16[Array, "*shape"]

UNITS_PER_ULP = 2.0**16  # the unit of a residual is 2^-16 ulp
MAX_RESIDUAL = 2.0**15 - 1.0  # the largest int16: half an ulp, less one unit


class CompensationState(NamedTuple):
    """The state of ``compensate_rounding``."""

    # Like each parameter: int16, in 2^-16 ulp. Where the parameter is not rounded, it
    # is 0 in uint16: the dtype shows which parameters had 16 bits at init.
    residual: Any


def compensate(
    param: Floats, residual: Residual, update: Floats
) -> tuple[Floats32, Residual]:
    """The update that lands on the nearest number, and the new residual."""
    dtype = param.dtype
    theta = jnp.asarray(param, jnp.float32)
    step = jnp.asarray(update, jnp.float32)

    ulps = residual.astype(jnp.float32) / UNITS_PER_ULP
    rho = from_ulps(ulps, binade_of(theta, dtype), dtype)
    # An infinite weight has an infinite ulp: rho would be NaN or infinite, so use 0.
    total = two_sum(theta, jnp.where(jnp.isfinite(theta), rho, 0.0) + step)
    target = round_to_nearest(total, dtype)

    error = (total.rounded - target) + total.error
    units = to_ulps(error, binade_of(target, dtype), dtype) * UNITS_PER_ULP
    bounded = jnp.clip(jnp.round(units), -MAX_RESIDUAL, MAX_RESIDUAL)
    new_residual = jnp.where(jnp.isfinite(units), bounded, 0.0).astype(jnp.int16)
    return rounded_update(target, theta, step), new_residual


def compensate_rounding() -> "optax.GradientTransformationExtraArgs":
    r"""Last stage of a chain for 16-bit parameters: round to nearest, keep the error.

    .. math:: s = \theta + (\rho + \Delta), \qquad
        \Delta \leftarrow \llbracket s\rrbracket - \theta, \qquad
        \rho \leftarrow s - \llbracket s\rrbracket

    Its place and its gradients: as for :func:`round_stochastically`. To wrap a finished
    optimizer, use :func:`with_compensation`.

    Returns:
        A transform, as for :func:`round_stochastically`. Its state is the residual, an
        int16 per weight in units of 2^-16 ulp. If anything else changes the parameters
        between two steps, they are wrong by at most half an ulp.

    Raises:
        TypeError: as for :func:`round_stochastically`.
        ValueError: the state belongs to other parameters.

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
        16-bit weights Zamirai et al., https://arxiv.org/abs/2010.06192, Algorithm 3,
        with a bfloat16 residual.
    """
    name = "compensate_rounding"
    return check_params(name, _compensate_rounding(name))


def _compensate_rounding(name: str) -> optax.GradientTransformationExtraArgs:
    def init(params: optax.Params) -> CompensationState:
        def zero(param: Any) -> Any:
            return jnp.zeros_like(param, jnp.int16 if is_rounded(param) else jnp.uint16)

        return CompensationState(jax.tree.map(zero, params))

    def update(updates, state, params: Any = None, **extra_args):
        # By path, because map_leaves walks the updates and the parameters only.
        flat, treedef = flatten_with_path(state.residual)
        residuals = dict(flat)
        rounded = {path for path, x in flat if dtype_of(x) == jnp.int16}
        require_same_width(name, rounded, params)

        def compensate_leaf(path: Path, update: Any, param: Any) -> Any:
            if not is_rounded(param):
                return update
            residual = residuals[path] if path in rounded else None
            if residual is None or jnp.shape(residual) != jnp.shape(param):
                raise ValueError(
                    f"{name}: the state has no residual for {path_str(path)} of shape "
                    f"{jnp.shape(param)}: it belongs to other parameters, or to wider "
                    "ones. Call init on these."
                )
            update, residuals[path] = compensate(param, residual, update)
            return update

        updates = map_leaves(name, compensate_leaf, updates, params)
        return updates, CompensationState(treedef.unflatten(residuals.values()))

    return optax.GradientTransformationExtraArgs(init, update)


def with_compensation(
    optimizer: "optax.GradientTransformation",
) -> "optax.GradientTransformationExtraArgs":
    r"""An optimizer for 16-bit weights: it adds each rounding error to the next step.

    It is the optimizer in float32, then :func:`compensate_rounding`. Two more bytes per
    weight make the sum of all updates as accurate as in float32, without random
    numbers. Its place: as for :func:`with_stochastic_rounding`. Inside
    ``optax.partition`` or ``masked`` frozen weights need no residual; outside, each
    needs two bytes.

    Args:
        optimizer: any finished optimizer.

    Returns:
        An optimizer, as for :func:`with_stochastic_rounding`.

    Example:
        >>> import decayax as dx, jax.numpy as jnp, optax
        >>> optimizer = dx.with_compensation(optax.adamw(0.01, weight_decay=0.1))
        >>> params = jnp.ones(1, jnp.bfloat16)
        >>> state = optimizer.init(params)
        >>> for _ in range(20):  # AdamW alone would leave the weight at 1
        ...     updates, state = optimizer.update(0 * params, state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> print(params)  # exact: 0.98019
        [0.980469]

    Reference:
        Zamirai et al., https://arxiv.org/abs/2010.06192, Algorithm 3.
    """
    name = "with_compensation"
    return with_rounding(name, optimizer, _compensate_rounding(name))
