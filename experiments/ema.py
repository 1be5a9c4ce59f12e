"""Measure the exponential moving average (EMA) of the weights instead of the weights.

    m_0 = θ_0,    m_t = decay m_(t-1) + (1 - decay) θ_t

The average is float32 or wider. In 16 bits its small updates would round to 0.
"""

from typing import Any

import jax
import jax.numpy as jnp

from experiments.engine.config import HParams, Task


def with_ema(task: Task, decay: float) -> Task:
    """Return the task with measures of the averaged weights.

    The average is part of the model's state, and the state itself is averaged, too. The
    loss of step t sees the weights before the step, so the weights after the last step
    are added to the average when the task is measured.
    """

    def init_state(hparams: HParams, params: Any) -> Any:
        state = task.state(hparams, params)
        return state, jax.tree.map(_to_float32, (params, state))

    def update_average(average: Any, params: Any, state: Any) -> Any:
        def update_leaf(m: jax.Array, x: jax.Array) -> jax.Array:
            # Integers, such as counters, are not averaged.
            return m + (1 - decay) * (_to_float32(x) - m) if _is_floating(x) else x

        new = jax.lax.stop_gradient((params, state))
        return jax.tree.map(update_leaf, average, new)

    def loss(
        params: Any,
        state_and_average: Any,
        batch: Any,
        key: Any,
        run_data: Any,
        data: Any,
    ) -> tuple[jax.Array, Any]:
        state, average = state_and_average
        average = update_average(average, params, state)
        value, state = task.loss(params, state, batch, key, run_data, data)
        return value, (state, average)

    def measure(params: Any, state_and_average: Any, run_data: Any, data: Any) -> Any:
        state, average = state_and_average
        final = update_average(average, params, state)
        params, state = jax.tree.map(
            lambda m, x: m.astype(x.dtype), final, (params, state)
        )
        return task.measure(params, state, run_data, data)

    return task._replace(state=init_state, loss=loss, measure=measure)


def _to_float32(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, "float32")) if _is_floating(x) else x


def _is_floating(x: jax.Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)
