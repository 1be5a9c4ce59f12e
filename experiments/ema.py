"""Measure an exponential moving average (EMA) of the weights instead of the weights.

    m_0 = θ_0,    m_t = decay m_(t-1) + (1 - decay) θ_t

The average is float32 or wider: in 16 bits it would not move.
"""

from typing import Any

import jax
import jax.numpy as jnp

from experiments.engine.config import HParams, Task


def with_ema(task: Task, decay: float) -> Task:
    """The task with measures of the average of the weights.

    The model's state is averaged in the same way. A loss sees the weights before its
    step, so the last weights are added when the task is measured.
    """

    def init_state(hparams: HParams, params: Any) -> Any:
        state = task.state(hparams, params)
        return state, jax.tree.map(_to_float32, (params, state))

    def add(average: Any, params: Any, state: Any) -> Any:
        def moved(m: jax.Array, x: jax.Array) -> jax.Array:
            return m + (1 - decay) * (_to_float32(x) - m) if _is_floating(x) else x

        new = jax.lax.stop_gradient((params, state))
        return jax.tree.map(moved, average, new)

    def loss(params: Any, both: Any, *rest: Any) -> tuple[jax.Array, Any]:
        state, average = both
        average = add(average, params, state)
        value, state = task.loss(params, state, *rest)
        return value, (state, average)

    def measure(params: Any, both: Any, run_data: Any, data: Any) -> Any:
        state, average = both
        last = add(average, params, state)
        params, state = jax.tree.map(
            lambda m, x: m.astype(x.dtype), last, (params, state)
        )
        return task.measure(params, state, run_data, data)

    return task._replace(state=init_state, loss=loss, measure=measure)


def _to_float32(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, "float32")) if _is_floating(x) else x


def _is_floating(x: jax.Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)
