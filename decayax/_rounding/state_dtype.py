r"""Moments in 16 bits, rounded at random so that slow averages keep moving.

    v ← ⟦βv + (1 − β)g²⟧

Rounded to the nearest, an average with β = 0.999 that should fall by a thousandth in
bfloat16 stays where it is.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from decayax._core.dtypes import cast_like, dtype_of
from decayax._core.strength import short_repr
from decayax._rounding.grid import at_random, Sum
from decayax._rounding.leaves import require_optimizer
from decayax._rounding.noise import (
    key_of,
    key_of_step,
    random_bits,
    require_seed,
    STATE,
)
from decayax._transforms.kernel import increment


class StateDtypeState(NamedTuple):
    """The state of ``with_state_dtype``."""

    count: jax.Array  # int32 (), calls of update
    key: jax.Array  # uint32 (2,), of the seed; it never changes
    inner: Any  # the optimizer's state, its float32 arrays in the chosen dtype


def with_state_dtype(
    optimizer: optax.GradientTransformation,
    dtype: jax.typing.DTypeLike,
    *,
    seed: jax.typing.ArrayLike = 0,
) -> optax.GradientTransformationExtraArgs:
    r"""An optimizer that keeps its moments in 16 bits, right on average.

    .. math:: S_t \leftarrow q_t, \qquad
        q_t \in \{\lfloor S_t\rfloor, \lceil S_t\rceil\}, \qquad \mathrm E\,q_t = S_t

    Goes inside :func:`with_stochastic_rounding` or :func:`with_compensation`:
    ``with_compensation(with_state_dtype(optax.adamw(1e-3), jnp.bfloat16))`` needs 8
    bytes per weight.

    Args:
        optimizer: any finished optimizer.
        dtype: ``jnp.bfloat16``. float16 is refused: it ends at 6e-8, above usual
            squared gradients.
        seed: of the random numbers, a whole number in [0, 2^64).

    Returns:
        An optimizer that calculates with its state in float32 and stores the float32
        arrays of it (those of one axis or more) in ``dtype``, rounded at random. Around
        :func:`track_decay` it would round what that has measured: put it inside.

    Raises:
        TypeError: no finished optimizer, another dtype, a seed that is no whole number.
        ValueError: a seed out of its range.

    Example:
        >>> import decayax as dx, jax, jax.numpy as jnp, optax
        >>> adam = dx.with_state_dtype(optax.adam(1e-3), jnp.bfloat16)
        >>> state = adam.init(jnp.ones(3))
        >>> print(state.inner[0].nu.dtype)
        bfloat16

    Reference:
        The rounding of :func:`round_stochastically`.
    """
    name = "with_state_dtype"
    require_optimizer(name, optimizer)
    require_seed(name, seed)
    if not any(dtype == known for known in (jnp.bfloat16, "bfloat16")):
        raise TypeError(
            f"{name}: dtype must be jnp.bfloat16, got {short_repr(dtype)}. (float16 ends at "
            "6e-8, above usual squared gradients: their average would be 0, and Adam "
            "divide by eps.)"
        )
    narrow = jnp.dtype(jnp.bfloat16)
    inner = optax.with_extra_args_support(optimizer)

    def init(params: Any) -> StateDtypeState:
        state = jax.tree.map(
            lambda x: x.astype(narrow) if _is_array(x, jnp.float32) else x,
            inner.init(params),
        )
        return StateDtypeState(jnp.zeros((), jnp.int32), key_of(seed), state)

    def update(updates, state, params=None, **extra_args):
        stored, treedef = jax.tree.flatten(state.inner)
        wide = [x.astype(jnp.float32) if _is_array(x, narrow) else x for x in stored]
        updates, new = inner.update(
            updates, treedef.unflatten(wide), params, **extra_args
        )

        key = key_of_step(state.key, STATE, state.count)

        def narrowed(leaf: int, old: Any, new: Any) -> Any:
            if not (_is_array(old, narrow) and _is_array(new, jnp.float32)):
                return cast_like(new, old)
            bits = random_bits(key, leaf, new.shape)
            return at_random(Sum(new, jnp.zeros_like(new)), bits, narrow).astype(narrow)

        pairs = zip(stored, treedef.flatten_up_to(new), strict=True)
        kept = treedef.unflatten(
            narrowed(leaf, *pair) for leaf, pair in enumerate(pairs)
        )
        return updates, StateDtypeState(increment(state.count), state.key, kept)

    return optax.GradientTransformationExtraArgs(init, update)


def _is_array(leaf: Any, dtype: jax.typing.DTypeLike) -> bool:
    return jnp.ndim(leaf) > 0 and dtype_of(leaf) == dtype
