r"""Stochastic rounding: a step that lands on a neighbour at random, right on average.

    θ ← ⌈θ + Δ⌉ with probability (θ + Δ − ⌊θ + Δ⌋)/gap, else ⌊θ + Δ⌋        E θ = θ + Δ

Rounded to the nearest, a step of less than half a gap is none: in bfloat16, whose gap
is a 128th to a 256th of the weight, that is every step of a usual decay.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from decayax._core.paths import leaves_with_path, Path
from decayax._rounding.grid import at_random, landing, two_sum
from decayax._rounding.leaves import around, checked, is_rounded
from decayax._rounding.noise import (
    key_of,
    key_of_step,
    random_bits,
    require_seed,
    WEIGHTS,
)
from decayax._transforms.kernel import increment, map_leaves


class StochasticRoundingState(NamedTuple):
    """The state of ``round_stochastically``."""

    count: jax.Array  # int32 (), calls of update
    key: jax.Array  # uint32 (2,), of the seed; it never changes


def round_stochastically(
    *, seed: jax.typing.ArrayLike = 0
) -> optax.GradientTransformationExtraArgs:
    r"""The last stage of a chain for 16-bit parameters: steps are right on average.

    .. math:: \Delta \leftarrow q - \theta, \qquad
        q \in \{\lfloor\theta+\Delta\rfloor, \lceil\theta+\Delta\rceil\},
        \qquad \mathrm E\,q = \theta + \Delta

    It emits float32, so that ``optax.apply_updates`` lands on q exactly; nothing may
    come after it. The stages before it see what they are given: for steps with all
    their digits give float32 gradients, or write :func:`with_stochastic_rounding`.

    Args:
        seed: of the random numbers, a whole number in [0, 2^64). The same seed gives
            the same steps, however jit cuts arrays over devices; replicas under
            ``vmap`` or ``shard_map`` need seeds of their own.

    Returns:
        A transform of updates of any shape and dtype: float32 for bfloat16 and float16
        parameters; for others as they came. Its state is a counter and a key.

    Raises:
        TypeError: complex or 8-bit parameters; a seed that is no whole number.
        ValueError: no params; other shapes; a seed out of its range.

    Example:
        >>> import decayax as dx, jax, jax.numpy as jnp, optax
        >>> params = jnp.ones(100_000, jnp.bfloat16)
        >>> optimizer = optax.chain(
        ...     optax.scale(-1.0), dx.independent_decay(1e-4), dx.round_stochastically()
        ... )
        >>> grads = jnp.zeros(100_000, jnp.float32)
        >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
        >>> landed = optax.apply_updates(params, updates)
        >>> print(landed.dtype, f"{1 - landed.astype(jnp.float32).mean():.0e}")
        bfloat16 1e-04

    Reference:
        Forsythe, *Round-off errors in numerical integration on automatic machinery*,
        1950; for 16-bit weights Zamirai et al., https://arxiv.org/abs/2010.06192,
        Algorithm 2.
    """
    name = "round_stochastically"
    return checked(name, _rounded_at_random(name, seed))


def _rounded_at_random(
    name: str, seed: jax.typing.ArrayLike
) -> optax.GradientTransformationExtraArgs:
    require_seed(name, seed)

    def init(params: Any) -> StochasticRoundingState:
        return StochasticRoundingState(jnp.zeros((), jnp.int32), key_of(seed))

    def update(updates, state, params=None, **extra_args):
        del extra_args
        number = {path: i for i, (path, _) in enumerate(leaves_with_path(params))}
        key = key_of_step(state.key, WEIGHTS, state.count)

        def rounded(path: Path, update: Any, param: Any) -> Any:
            if not is_rounded(param):
                return update
            bits = random_bits(key, number[path], jnp.shape(param))
            theta, step = (jnp.asarray(x, jnp.float32) for x in (param, update))
            target = at_random(two_sum(theta, step), bits, param.dtype)
            return landing(target, theta, step)

        updates = map_leaves(name, rounded, updates, params)
        return updates, state._replace(count=increment(state.count))

    return optax.GradientTransformationExtraArgs(init, update)


def with_stochastic_rounding(
    optimizer: optax.GradientTransformation, *, seed: jax.typing.ArrayLike = 0
) -> optax.GradientTransformationExtraArgs:
    r"""An optimizer whose steps, and decay, survive 16-bit parameters, on average.

    .. math:: \Delta \leftarrow q - \theta, \qquad
        q \in \{\lfloor\theta+\Delta\rfloor, \lceil\theta+\Delta\rceil\},
        \qquad \mathrm E\,q = \theta + \Delta

    The optimizer is shown gradients and parameters in float32 and keeps its state in
    float32 (for 16 bits see :func:`with_state_dtype`); the step is then rounded at
    random. No further memory is needed; a weight makes a random walk of the size of
    its gap. Stands **outermost**: around ``optax.apply_if_finite``, ``MultiSteps`` and
    the like, and around :func:`track_decay`, which it would blind.

    Args:
        optimizer: any finished optimizer, ours or not.
        seed: of the random numbers, a whole number in [0, 2^64). The same seed gives
            the same steps, however jit cuts arrays over devices; replicas under
            ``vmap`` or ``shard_map`` need seeds of their own.

    Returns:
        An optimizer whose updates are float32 where the parameters have 16 bits, so
        that ``optax.apply_updates`` lands on numbers of their dtype exactly. Leaves of
        32 bits and more get the optimizer's own updates.

    Raises:
        TypeError: no finished optimizer; complex or 8-bit parameters; a seed that is
            no whole number.
        ValueError: no params; other shapes; a seed out of its range.

    Example:
        >>> import decayax as dx, jax, jax.numpy as jnp, optax
        >>> def kept(optimizer, steps=100):
        ...     def step(_, carry):
        ...         params, state = carry
        ...         updates, state = optimizer.update(0 * params, state, params)
        ...         return optax.apply_updates(params, updates), state
        ...     params = jnp.ones(100_000, jnp.bfloat16)
        ...     carry = params, optimizer.init(params)
        ...     params, _ = jax.lax.fori_loop(0, steps, step, carry)
        ...     return f"{params.astype(jnp.float32).mean():.3f}"
        >>> adamw = optax.adamw(1e-3, weight_decay=0.1)
        >>> print(kept(adamw), kept(dx.with_stochastic_rounding(adamw)))  # 0.99005
        1.000 0.990

    Reference:
        Zamirai et al., *Revisiting bfloat16 training*,
        https://arxiv.org/abs/2010.06192, Algorithm 2.
    """
    name = "with_stochastic_rounding"
    return around(name, optimizer, _rounded_at_random(name, seed))
