r"""Adam's preconditioner: optax's, to the bit, with derivatives that are finite.

.. math:: u = \hat m / (\sqrt{\hat v + \bar\epsilon} + \epsilon)

The derivative of √ at 0 is infinite. Where a weight never had a gradient, v̂ is 0, and
optax's derivatives in β₂, λ or γ are NaN. `root` mends that.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike

from decayax._core.strength import Scalar, Strength
from decayax._transforms.rms import Moment, root


def scale_by_adam(
    b1: Scalar,
    b2: Scalar,
    eps: Scalar,
    eps_root: Strength,
    mu_dtype: DTypeLike | None,
    nesterov: bool,
) -> optax.GradientTransformation:
    """`optax.scale_by_adam` with `root` as square root, and the same state."""
    init = optax.scale_by_adam(b1, b2, eps, eps_root, mu_dtype).init

    def correct(moment, decay, count):
        # Under strict promotion, β ** int32 has a value but no derivative.
        count = count.astype(jnp.result_type(decay, float))
        return optax.tree.bias_correction(moment, decay, count)

    def direction(mean: Moment | None, square: Moment) -> Any:
        return None if mean is None else mean / (root(square, eps_root) + eps)

    def update(updates, state, params=None):
        mu = optax.tree.update_moment(updates, state.mu, b1, 1)
        nu = optax.tree.update_moment_per_elem_norm(updates, state.nu, b2, 2)
        count = optax.safe_increment(state.count)
        if nesterov:
            ahead = correct(mu, b1, optax.safe_increment(count))
            now = correct(updates, b1, count)
            mean = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, ahead, now)
        else:
            mean = correct(mu, b1, count)
        square = correct(nu, b2, count)
        updates = jax.tree.map(direction, mean, square, is_leaf=lambda x: x is None)
        if mu_dtype is not None:
            mu = optax.tree.cast(mu, mu_dtype)
        return updates, optax.ScaleByAdamState(jnp.asarray(count), mu, nu)

    return optax.GradientTransformation(init, update)
