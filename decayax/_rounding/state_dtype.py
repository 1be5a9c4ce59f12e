r"""Moments in 16 bits, rounded stochastically so that slow averages keep moving.

    v ← ⟦βv + (1 − β)g²⟧

With round-to-nearest, a bfloat16 average with β = 0.999 stays where it is: a change by
a thousandth is less than half an ulp.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike

from decayax._core.dtypes import cast_like, dtype_of
from decayax._core.paths import flatten_with_path
from decayax._core.strength import short_repr
from decayax._rounding.compensated import CompensationState
from decayax._rounding.grid import Floats32, stochastic_round, Sum
from decayax._rounding.random_bits import (
    Bits,
    key_from_seed,
    random_bits,
    require_seed,
    STATE,
    step_key,
    StepKey,
)
from decayax._rounding.stochastic import StochasticRoundingState
from decayax._transforms.precision import cast_around
from decayax._transforms.trees import increment, require_optimizer, require_state


class StateDtypeState(NamedTuple):
    """The state of ``with_state_dtype``."""

    step: jax.Array  # int32 (), calls of update
    key: jax.Array  # uint32 (2,), of the seed; it never changes
    inner: Any  # the optimizer's state, its float32 arrays in the chosen dtype


def with_state_dtype(
    optimizer: "optax.GradientTransformation",
    dtype: "DTypeLike",
    *,
    seed: "int | jax.Array" = 0,
) -> "optax.GradientTransformationExtraArgs":
    r"""An optimizer that stores its moments in bfloat16, rounded stochastically.

    .. math:: S_t \leftarrow q_t, \qquad
        q_t \in \{\lfloor S_t\rfloor, \lceil S_t\rceil\}, \qquad \mathrm E\,q_t = S_t

    Put it inside :func:`with_stochastic_rounding` or :func:`with_compensation`:
    ``with_compensation(with_state_dtype(optax.adamw(1e-3), jnp.bfloat16))`` needs 8
    bytes per weight. Outside of them it raises: they would see float32 weights. Put it
    inside :func:`track_decay` too; outside, it would round the measurements.

    Args:
        optimizer: any finished optimizer.
        dtype: ``jnp.bfloat16``. float16 raises: its smallest number, 6e-8, is larger
            than usual squared gradients.
        seed: as for :func:`round_stochastically`.

    Returns:
        An optimizer that sees gradients, parameters and its own state in float32. It
        stores float32 arrays with at least one axis in ``dtype``. Updates keep the
        gradients' dtypes.

    Example:
        >>> import decayax as dx, jax, jax.numpy as jnp, optax
        >>> adam = dx.with_state_dtype(optax.adam(1e-3), jnp.bfloat16)
        >>> state = adam.init(jnp.ones(3))
        >>> print(state.inner[0].nu.dtype)
        bfloat16
    """
    name = "with_state_dtype"
    require_optimizer(name, optimizer)
    require_seed(name, seed)
    if not any(dtype == known for known in (jnp.bfloat16, "bfloat16")):
        raise TypeError(
            f"{name}: dtype must be jnp.bfloat16, got {short_repr(dtype)}. (Usual "
            "squared gradients are below 6e-8, the smallest float16: their average "
            "would be 0, and Adam would divide by eps.)"
        )
    in_float32 = cast_around(name, optimizer, widen_params=True, widen_init=True)

    def init(params: optax.Params) -> StateDtypeState:
        state = in_float32.init(params)
        _refuse_rounding(name, state)
        inner = _cast_arrays(state, jnp.float32, jnp.bfloat16)
        return StateDtypeState(jnp.zeros((), jnp.int32), key_from_seed(seed), inner)

    def update(updates, state, params=None, **extra_args):
        require_state(name, state, StateDtypeState)
        inner = _cast_arrays(state.inner, jnp.bfloat16, jnp.float32)
        updates, inner = in_float32.update(updates, inner, params, **extra_args)
        key = step_key(state.key, STATE, state.step)
        inner = _round_arrays(inner, state.inner, key)
        return updates, StateDtypeState(increment(state.step), state.key, inner)

    return optax.GradientTransformationExtraArgs(init, update)


def _refuse_rounding(name: str, state: optax.OptState) -> None:
    """Raise if the optimizer inside rounds: it sees float32 weights only."""
    kinds = CompensationState, StochasticRoundingState

    def is_rounding(node: Any) -> bool:
        return isinstance(node, kinds)

    if any(map(is_rounding, jax.tree.leaves(state, is_leaf=is_rounding))):
        raise TypeError(
            f"{name}: the optimizer inside rounds its updates for 16-bit weights, but "
            "here it sees float32 weights. Exchange the two wrappers: "
            "with_compensation(with_state_dtype(optimizer, dtype))."
        )


def _cast_arrays(state: Any, old: DTypeLike, new: DTypeLike) -> Any:
    """Cast the arrays of one dtype to another."""
    return jax.tree.map(lambda x: x.astype(new) if _is_array(x, old) else x, state)


def _round_arrays(
    new_state: optax.OptState, old_state: optax.OptState, key: StepKey
) -> optax.OptState:
    """Round the arrays that the old state holds in bfloat16; others pass.

    An outer wrapper may show them as float32, for example `with_decay`.
    """
    old_leaves, treedef = flatten_with_path(old_state)
    new_leaves = list(treedef.flatten_up_to(new_state))
    for number, (_, old) in enumerate(old_leaves):
        if _is_array(old, jnp.bfloat16) or _is_array(old, jnp.float32):
            new = new_leaves[number]
            bits = random_bits(key, number, new.shape)
            new_leaves[number] = cast_like(round_moment(new, bits), old)
    return treedef.unflatten(new_leaves)


@jax.custom_jvp
def round_moment(moment: Floats32, bits: Bits) -> Floats32:
    """A random bfloat16 neighbour; the derivative is that of the exact moment."""
    exact = Sum(rounded=moment, error=jnp.zeros_like(moment))
    return stochastic_round(exact, bits, jnp.bfloat16)


@round_moment.defjvp
def _straight_through(primals, tangents):
    return round_moment(*primals), tangents[0]


def _is_array(leaf: Any, dtype: DTypeLike) -> bool:
    # Scalars are hyper-parameters and counters; their memory does not matter.
    return dtype_of(leaf) == dtype and jnp.ndim(leaf) > 0
