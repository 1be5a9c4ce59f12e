r"""Stochastic rounding: each weight moves to a random neighbour, and the mean is exact.

    θ ← ⌈θ + Δ⌉ with probability (θ + Δ − ⌊θ + Δ⌋)/ulp, else ⌊θ + Δ⌋        E θ = θ + Δ

With round-to-nearest, an update smaller than half an ulp leaves the weight unchanged.
The bfloat16 ulp is 1/128 to 1/256 of the weight; a usual decay is far smaller.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from decayax._core.paths import leaves_with_path, Path, path_str
from decayax._rounding.grid import (
    Floats,
    Floats32,
    rounded_update,
    stochastic_round,
    two_sum,
)
from decayax._rounding.leaves import (
    check_params,
    is_rounded,
    require_same_width,
    with_rounding,
)
from decayax._rounding.random_bits import (
    Bits,
    key_from_seed,
    random_bits,
    require_seed,
    step_key,
    WEIGHTS,
)
from decayax._transforms.trees import increment, map_leaves


class StochasticRoundingState(NamedTuple):
    """The state of ``round_stochastically``."""

    step: jax.Array  # int32 (), calls of update
    key: jax.Array  # uint32 (2,), of the seed; it never changes
    # A MaskedNode for each parameter that had 16 bits at init, by path. It holds no
    # array: a program can read it while it is traced, and it needs no memory.
    rounded: Any


def round_at_random(param: Floats, update: Floats, bits: Bits) -> Floats32:
    """The update that lands on a random neighbour of θ + Δ, with mean θ + Δ."""
    theta = jnp.asarray(param, jnp.float32)
    step = jnp.asarray(update, jnp.float32)
    target = stochastic_round(two_sum(theta, step), bits, param.dtype)
    return rounded_update(target, theta, step)


def round_stochastically(
    *, seed: "int | jax.Array" = 0
) -> "optax.GradientTransformationExtraArgs":
    r"""Last stage of a chain for 16-bit parameters: round each update at random.

    .. math:: \Delta \leftarrow q - \theta, \qquad
        q \in \{\lfloor\theta+\Delta\rfloor, \lceil\theta+\Delta\rceil\},
        \qquad \mathrm E\,q = \theta + \Delta

    The updates leave as float32, so that :func:`apply_updates` and
    ``optax.apply_updates`` land on q exactly. Nothing may follow it in the chain. The
    stages before it see the gradients as they are; pass float32 gradients for exact
    updates, or use :func:`with_stochastic_rounding`.

    Args:
        seed: an integer in [0, 2^64). The same seed gives the same updates, with any
            sharding under ``jit``. Replicas under ``vmap`` or ``shard_map`` need
            different seeds.

    Returns:
        A transform whose updates are float32 for bfloat16 and float16 parameters, and
        pass unchanged for others. Its state is a counter and a key.

    Raises:
        TypeError: a parameter has 8 bits or fewer, or it had 16 bits at ``init`` and
            now has more (``equinox.apply_updates`` does that); the seed is not an
            integer.
        ValueError: ``params`` is missing; the seed is out of its range.

    Example:
        >>> import decayax as dx, jax, jax.numpy as jnp, optax
        >>> params = jnp.ones(100_000, jnp.bfloat16)
        >>> optimizer = optax.chain(
        ...     optax.scale(-1.0), dx.independent_decay(1e-4), dx.round_stochastically()
        ... )
        >>> grads = jnp.zeros(100_000, jnp.float32)
        >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
        >>> new_params = optax.apply_updates(params, updates)
        >>> print(new_params.dtype, f"{1 - new_params.astype(jnp.float32).mean():.0e}")
        bfloat16 1e-04

    Reference:
        Forsythe, *Round-off errors in numerical integration on automatic machinery*,
        1950; for 16-bit weights Zamirai et al., https://arxiv.org/abs/2010.06192,
        Algorithm 2.
    """
    name = "round_stochastically"
    return check_params(name, _round_stochastically(name, seed))


def _round_stochastically(
    name: str, seed: int | jax.Array
) -> optax.GradientTransformationExtraArgs:
    require_seed(name, seed)

    def init(params: optax.Params) -> StochasticRoundingState:
        return StochasticRoundingState(
            jnp.zeros((), jnp.int32), key_from_seed(seed), _mark_rounded(params)
        )

    def update(updates, state, params: Any = None, **extra_args):
        leaves = leaves_with_path(params)
        rounded = {path for path, _ in leaves if path_str(path) in state.rounded}
        require_same_width(name, rounded, params)
        # Numbers in the whole tree: masking one leaf does not change another's bits.
        leaf_number = {path: i for i, (path, _) in enumerate(leaves)}
        key = step_key(state.key, WEIGHTS, state.step)

        def round_leaf(path: Path, update: Any, param: Any) -> Any:
            if not is_rounded(param):
                return update
            bits = random_bits(key, leaf_number[path], jnp.shape(param))
            return round_at_random(param, update, bits)

        updates = map_leaves(name, round_leaf, updates, params)
        return updates, state._replace(step=increment(state.step))

    return optax.GradientTransformationExtraArgs(init, update)


def _mark_rounded(params: optax.Params) -> Any:
    leaves = leaves_with_path(params)
    if not leaves:
        # optax.tree.map_params compares the state of a placeholder without leaves with
        # a real state, and a leaf fits any tree there.
        return jnp.zeros((0,), jnp.int32)
    return {path_str(path): optax.MaskedNode() for path, x in leaves if is_rounded(x)}


def with_stochastic_rounding(
    optimizer: "optax.GradientTransformation", *, seed: "int | jax.Array" = 0
) -> "optax.GradientTransformationExtraArgs":
    r"""An optimizer for 16-bit weights: it rounds each update at random.

    It is the optimizer in float32, then :func:`round_stochastically`. The optimizer
    sees float32 gradients and parameters, and its state is float32 (for a 16-bit state
    see :func:`with_state_dtype`). The rounding needs no memory. Its noise is a random
    walk with steps of one ulp.

    Put it outside the wrappers that compare or restore dtypes:
    ``optax.apply_if_finite``, ``conditionally_transform``, ``conditionally_mask``,
    :func:`with_decay`, :func:`with_state_dtype`; and outside :func:`track_decay`, which
    would report NaN for the rounded update. Inside ``partition`` and ``masked`` frozen
    weights need no state. ``MultiSteps`` may be on either side.

    Args:
        optimizer: any finished optimizer.
        seed: as for :func:`round_stochastically`.

    Returns:
        An optimizer whose updates are float32 for 16-bit parameters, as for
        :func:`round_stochastically`. Wider parameters get the optimizer's own updates.

    Example:
        >>> import decayax as dx, jax.numpy as jnp, optax
        >>> optimizer = dx.with_stochastic_rounding(optax.adamw(0.01, weight_decay=0.1))
        >>> params = jnp.ones(100_000, jnp.bfloat16)
        >>> state = optimizer.init(params)
        >>> for _ in range(20):  # AdamW alone would leave the weights at 1
        ...     updates, state = optimizer.update(0 * params, state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> print(f"{params.astype(jnp.float32).mean():.3f}")  # exact: 0.98019
        0.980

    Reference:
        Zamirai et al., https://arxiv.org/abs/2010.06192, Algorithm 2.
    """
    name = "with_stochastic_rounding"
    return with_rounding(name, optimizer, _round_stochastically(name, seed))
